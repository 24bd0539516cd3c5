//! What a change means to a rule: which actions, told of which rows.

use super::view::Side;
use crate::change::Operation;
use crate::notification::Action;

/// What is known of a change, before any template is rendered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub operation: Operation,
    pub key_changed: bool,
    /// Whether the row belonged to the rule (`where`); `None` if unknown.
    pub was_member: Option<bool>,
    pub is_member: Option<bool>,
    /// Whether the row was softly deleted; `None` if unknown. Always `false`
    /// without such a column.
    pub was_deleted: Option<bool>,
    pub is_deleted: Option<bool>,
    /// What is said of a row that was read as it stands.
    pub read_as: Action,
}

impl Facts {
    /// Whether the row stays, and is softly deleted from now on.
    pub(super) fn trashed(self) -> bool {
        matches!(self.operation, Operation::Update | Operation::Read)
            && !self.key_changed
            && self.is_deleted == Some(true)
            && self.was_deleted != Some(true)
    }
}

/// One thing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub action: Action,
    /// Whose id and data it carries.
    pub side: Side,
    /// Whose channels it goes to.
    pub rows: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Old,
    New,
    Both,
}

impl Rows {
    pub(super) fn sides(self) -> &'static [Side] {
        match self {
            Rows::Old => &[Side::Old],
            Rows::New => &[Side::New],
            Rows::Both => &[Side::Old, Side::New],
        }
    }
}

const fn created() -> Announcement {
    Announcement { action: Action::Created, side: Side::New, rows: Rows::New }
}

const fn deleted() -> Announcement {
    Announcement { action: Action::Deleted, side: Side::Old, rows: Rows::Old }
}

/// Whatever is unknown is told: too much costs one refetch, too little a page
/// that is never right again.
pub(super) fn decide(facts: Facts) -> [Option<Announcement>; 2] {
    let was = facts.was_member != Some(false);
    let is = facts.is_member != Some(false);
    match facts.operation {
        Operation::Insert => [is.then(created), None],
        Operation::Delete => [was.then(deleted), None],
        Operation::Update if facts.key_changed => [was.then(deleted), is.then(created)],
        Operation::Update => [update(facts), None],
        Operation::Read => [is.then(|| stands(facts)), None],
    }
}

/// Of a row as it stands nothing is known of before.
fn stands(facts: Facts) -> Announcement {
    let action = match facts.is_deleted {
        Some(true) => Action::Deleted,
        Some(false) | None => facts.read_as,
    };
    Announcement { action, side: Side::New, rows: Rows::New }
}

fn update(facts: Facts) -> Option<Announcement> {
    let in_place = match (facts.was_deleted, facts.is_deleted) {
        (Some(false) | None, Some(true)) => Action::Deleted,
        (Some(true), Some(false)) => Action::Restored,
        _ => Action::Updated,
    };
    let both = |action| Announcement { action, side: Side::New, rows: Rows::Both };
    match (facts.was_member, facts.is_member) {
        (Some(false), Some(false)) => None,
        (Some(false), Some(true)) if in_place != Action::Deleted => Some(created()),
        (Some(true) | None, Some(false)) => Some(both(Action::Deleted)),
        _ => Some(both(in_place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(facts: Facts) -> Vec<&'static str> {
        decide(facts).into_iter().flatten().map(|told| told.action.name()).collect()
    }

    const UPDATE: Facts = Facts {
        operation: Operation::Update,
        key_changed: false,
        was_member: Some(true),
        is_member: Some(true),
        was_deleted: Some(false),
        is_deleted: Some(false),
        read_as: Action::Updated,
    };

    #[test]
    fn membership_is_entered_left_or_kept() {
        let told = |was_member, is_member| actions(Facts { was_member, is_member, ..UPDATE });
        assert_eq!(told(Some(true), Some(true)), ["updated"]);
        assert_eq!(told(Some(false), Some(true)), ["created"]);
        assert_eq!(told(Some(true), Some(false)), ["deleted"]);
        assert!(told(Some(false), Some(false)).is_empty());
        assert_eq!(told(None, Some(true)), ["updated"]);
        assert_eq!(told(None, Some(false)), ["deleted"]);
        assert_eq!(told(Some(true), None), ["updated"]);
        assert_eq!(told(Some(false), None), ["updated"]);
        assert_eq!(told(None, None), ["updated"]);
    }

    #[test]
    fn a_soft_delete_is_deleted_and_its_end_restored() {
        let told = |was_deleted, is_deleted| actions(Facts { was_deleted, is_deleted, ..UPDATE });
        assert_eq!(told(Some(false), Some(true)), ["deleted"]);
        assert_eq!(told(Some(true), Some(false)), ["restored"]);
        assert_eq!(told(Some(true), Some(true)), ["updated"]);
        assert_eq!(told(None, Some(true)), ["deleted"]);
        assert_eq!(told(None, Some(false)), ["updated"]);
        assert_eq!(told(None, None), ["updated"]);
    }

    #[test]
    fn a_row_as_it_stands_is_told_if_it_is_a_member_and_as_deleted_if_it_is_that() {
        let told = |is_member, is_deleted| {
            let read = Facts { operation: Operation::Read, was_member: None, ..UPDATE };
            actions(Facts { is_member, is_deleted, was_deleted: None, ..read })
        };
        assert_eq!(told(Some(true), Some(false)), ["updated"]);
        assert_eq!(told(None, None), ["updated"]);
        assert_eq!(told(Some(true), Some(true)), ["deleted"]);
        assert!(told(Some(false), Some(false)).is_empty());
        assert!(told(Some(false), Some(true)).is_empty());
    }

    #[test]
    fn a_key_change_is_another_row() {
        let told = |was_member, is_member| {
            actions(Facts { key_changed: true, was_member, is_member, ..UPDATE })
        };
        assert_eq!(told(Some(true), Some(true)), ["deleted", "created"]);
        assert_eq!(told(None, Some(false)), ["deleted"]);
        assert_eq!(told(Some(false), None), ["created"]);
    }
}

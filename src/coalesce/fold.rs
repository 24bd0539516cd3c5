//! What several changes are, told as one.

use std::sync::Arc;

use crate::notification::{Action, Notification, Shape, Tells, Terms, WindowBy};

/// What two notifications of one transaction come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// Nobody could see the row.
    Nothing,
    One(Action),
    /// They stay two.
    Both,
}

/// Whether anything is folded with it.
pub(super) fn folds(notification: &Notification) -> bool {
    notification.terms.window.is_some() && notification.refusal.is_none()
}

/// Of two notifications in one transaction, of the same terms and event, about
/// the same subject.
pub(super) fn net(earlier: &Notification, later: &Notification) -> Net {
    let is_one_row = is_one_row(earlier, later);
    let is_constant = later.terms.event(later.event_index, later.action).is_some();
    // By channel, or by an event that row values name, the transaction may have
    // deleted the row elsewhere first: it was there before.
    let is_all = is_one_row
        && is_constant
        && later.terms.window_by == WindowBy::Id
        && later.terms.tells != Tells::Some;
    if is_all && (earlier.action, later.action) == (Action::Created, Action::Deleted) {
        return Net::Nothing;
    }
    let action = fold(earlier.action, later.action, is_one_row);
    // Where row values name the event, each name has its listeners.
    let is_heard = is_constant || (action == later.action && earlier.event == later.event);
    match is_heard && is_announced(earlier, later, action) {
        true => Net::One(action),
        false => Net::Both,
    }
}

/// The action of both as one, for two that are about the same subject. `None` if
/// they stay two, as those who listen for the one do not hear the other.
pub(super) fn across(earlier: &Notification, later: &Notification) -> Option<Action> {
    if earlier.event != later.event || !is_alike(earlier, later) {
        return None;
    }
    let action = fold_rules(earlier, later);
    let is_heard = action == later.action
        || later.terms.event(later.event_index, action) == Some(&later.event);
    (is_heard && is_announced(earlier, later, action)).then_some(action)
}

/// Whether the later one may tell all of the earlier one on all its channels. A
/// rule's own payload goes to none that another rule alone names: what it says
/// may not be for all who listen there.
pub(super) fn is_whole(earlier: &Notification, later: &Notification) -> bool {
    earlier.each_share().all(|(terms, _, channels)| {
        Arc::ptr_eq(terms, &later.terms)
            || terms.shape == Shape::Minimal
            || channels.iter().all(|channel| later.channels.contains(channel))
    })
}

/// Whether each of the rules might have said what the others say.
fn is_alike(earlier: &Notification, later: &Notification) -> bool {
    earlier.each_share().all(|(one, one_index, _)| {
        later.each_share().all(|(other, other_index, _)| match Arc::ptr_eq(one, other) {
            true => one_index == other_index,
            false => are_alike(one, other),
        })
    })
}

/// What two rules say of one table is no one thing, or each change would count
/// twice.
fn are_alike(one: &Terms, other: &Terms) -> bool {
    one.table != other.table
        && one.window_by == other.window_by
        && one.shape == other.shape
        && one.shape != Shape::Before
}

/// What happened to an entity is what happened to its own row, whatever happened
/// to what belongs to it.
fn fold_rules(earlier: &Notification, later: &Notification) -> Action {
    let is_own = |notification: &Notification| {
        notification.all_terms().any(|terms| terms.id_is_row) && earlier.id == later.id
    };
    match (is_own(earlier), is_own(later)) {
        (true, false) => earlier.action,
        (false, true) => later.action,
        (is_one_row, _) => fold(earlier.action, later.action, is_one_row),
    }
}

fn is_one_row(earlier: &Notification, later: &Notification) -> bool {
    later.terms.id_is_row && earlier.id == later.id
}

/// Whether the rule announces the action, as it does those of both.
fn is_announced(earlier: &Notification, later: &Notification, action: Action) -> bool {
    action == earlier.action || action == later.action || later.terms.on[action as usize]
}

/// What happened to several rows is what happened to each, or an update.
fn fold(first: Action, last: Action, is_one_row: bool) -> Action {
    use Action::{Created, Deleted, Restored, Updated};
    if !is_one_row {
        return if first == last { first } else { Updated };
    }
    match (first, last) {
        (_, Deleted) => Deleted,
        (Deleted, Created) => Updated,
        (Created, _) => Created,
        (Restored, _) | (_, Restored) => Restored,
        (Updated | Deleted, Updated) | (Updated, Created) => Updated,
    }
}

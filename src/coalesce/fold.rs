//! What several changes are, told as one.

use std::sync::Arc;

use crate::notification::{Action, ChannelName, Notification, Shape, Terms, WindowBy};

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
    let is_whole = is_one_row && is_constant && later.terms.window_by == WindowBy::Id;
    if is_whole && (earlier.action, later.action) == (Action::Created, Action::Deleted) {
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

/// The action of both as one, for two that are about the same subject, the later
/// of one rule. `None` if they stay two, as those who listen for the one do not
/// hear the other.
pub(super) fn across(earlier: &Notification, later: &Notification) -> Option<Action> {
    if earlier.event != later.event || !is_alike(earlier, later) {
        return None;
    }
    let action = fold_rules(earlier, later);
    let is_heard = action == later.action
        || later.terms.event(later.event_index, action) == Some(&later.event);
    (is_heard && is_announced(earlier, later, action)).then_some(action)
}

/// Whether each rule of the earlier one would as well have said the later.
fn is_alike(earlier: &Notification, later: &Notification) -> bool {
    if earlier.shares.is_empty() && Arc::ptr_eq(&earlier.terms, &later.terms) {
        return earlier.event_index == later.event_index;
    }
    let is_like_all = |event_index, terms: &Arc<Terms>, channels: &[ChannelName]| match Arc::ptr_eq(
        terms,
        &later.terms,
    ) {
        true => event_index == later.event_index,
        false => may_speak_for(terms, channels, later),
    };
    match &*earlier.shares {
        [] => is_like_all(earlier.event_index, &earlier.terms, &earlier.channels),
        shares => shares.iter().all(|it| is_like_all(it.event_index, &it.terms, &it.channels)),
    }
}

/// Whether a notification may tell what another rule said on these channels.
/// What two rules say of one table is no one thing, or each change would count
/// twice. A rule's own payload goes nowhere but where that rule sends it.
fn may_speak_for(terms: &Terms, channels: &[ChannelName], later: &Notification) -> bool {
    let own = &later.terms;
    terms.table != own.table
        && terms.window_by == own.window_by
        && terms.shape == own.shape
        && match own.shape {
            Shape::Minimal => true,
            Shape::Own(_) => channels.iter().all(|channel| later.channels.contains(channel)),
            Shape::Before => false,
        }
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

//! What one transaction, or several, come to.

use super::*;
use Action::{Created, Deleted, Restored, Updated};

/// What is told of a row after these changes, in one transaction and in one for
/// each while its window is closed.
fn told(terms: &Arc<Terms>, actions: &[Action]) -> [Vec<Action>; 2] {
    let tell = |stage: &mut Stage| stage.pop_all().iter().map(|popped| popped.action).collect();
    let mut at_once = Stage::new(AMPLE);
    for action in actions {
        at_once.push(notification(terms, *action, 7, 1));
    }
    at_once.reach(Position::new(1));
    let mut one_by_one = Stage::new(AMPLE);
    one_by_one.commit(notification(terms, Updated, 7, 1));
    one_by_one.pop().expect("the first one");
    for (position, action) in (2..).zip(actions) {
        one_by_one.commit(notification(terms, *action, 7, position));
    }
    one_by_one.wait(WINDOW);
    let told = [tell(&mut at_once), tell(&mut one_by_one)];
    for stage in [at_once, one_by_one] {
        let Stage { coalescer, mut frontier, .. } = stage;
        assert!(coalescer.is_empty() && coalescer.pending_bytes() == 0);
        assert!(frontier.is_idle() && frontier.advance().is_some());
    }
    told
}

fn saved(name: &str) -> Terms {
    Terms { events: vec![Some(Action::ALL.map(|_| event("Saved")))], ..terms(name) }
}

#[test]
fn changes_of_a_row_are_told_as_one() {
    let terms = Arc::new(saved("post"));
    for (actions, net, folded) in [
        (&[Created][..], &[Created][..], Created),
        (&[Created, Created], &[Created], Created),
        (&[Created, Updated], &[Created], Created),
        (&[Created, Restored], &[Created], Created),
        (&[Created, Deleted], &[], Deleted),
        (&[Updated, Created], &[Updated], Updated),
        (&[Updated, Updated], &[Updated], Updated),
        (&[Updated, Deleted], &[Deleted], Deleted),
        (&[Updated, Restored], &[Restored], Restored),
        (&[Deleted, Created], &[Updated], Updated),
        (&[Deleted, Updated], &[Updated], Updated),
        (&[Deleted, Deleted], &[Deleted], Deleted),
        (&[Deleted, Restored], &[Restored], Restored),
        (&[Restored, Created], &[Restored], Restored),
        (&[Restored, Updated], &[Restored], Restored),
        (&[Restored, Deleted], &[Deleted], Deleted),
        (&[Restored, Restored], &[Restored], Restored),
        (&[Created, Updated, Deleted], &[], Deleted),
        (&[Created, Deleted, Created], &[Created], Updated),
        (&[Deleted, Created, Deleted], &[Deleted], Deleted),
        (&[Deleted, Created, Updated], &[Updated], Updated),
    ] {
        assert_eq!(told(&terms, actions), [net.to_vec(), vec![folded]], "{actions:?}");
    }
}

#[test]
fn a_row_whose_deletion_may_be_kept_back_comes_to_no_nothing() {
    let terms = Arc::new(Terms { tells: Tells::Some, ..saved("post") });
    assert_eq!(told(&terms, &[Created, Deleted]), [[Deleted], [Deleted]]);
    let terms = Arc::new(Terms { tells: Tells::SomeUpdates, ..saved("post") });
    assert_eq!(told(&terms, &[Created, Deleted]), [vec![], vec![Deleted]]);
}

#[test]
fn an_id_of_several_rows_is_never_told_as_one_row() {
    let terms = Arc::new(Terms { id_is_row: false, ..saved("post") });
    for (actions, folded) in [
        (&[Created, Deleted][..], Updated),
        (&[Created, Created], Created),
        (&[Deleted, Deleted], Deleted),
        (&[Updated, Deleted], Updated),
        (&[Deleted, Created], Updated),
    ] {
        assert_eq!(told(&terms, actions), [vec![folded], vec![folded]], "{actions:?}");
    }
}

#[test]
fn actions_with_events_of_their_own_fold_in_a_transaction_and_not_across() {
    let terms = Arc::new(terms("post"));
    for (actions, net) in [
        (&[Created, Updated][..], &[Created][..]),
        (&[Updated, Deleted], &[Deleted]),
        (&[Deleted, Created], &[Updated]),
        (&[Created, Deleted], &[]),
    ] {
        assert_eq!(told(&terms, actions), [net.to_vec(), actions.to_vec()], "{actions:?}");
    }
    let updated = &told(&terms, &[Updated, Updated]);
    assert_eq!(updated, &[[Updated], [Updated]]);
}

#[test]
fn an_action_that_the_rule_does_not_announce_is_not_made() {
    let mut on = [true; Action::ALL.len()];
    on[Updated as usize] = false;
    let terms = Arc::new(Terms { on, ..saved("post") });
    let both = vec![Deleted, Created];
    assert_eq!(told(&terms, &both), [both.clone(), both]);
}

#[test]
fn an_event_that_row_values_name_is_not_named_anew() {
    let terms = Arc::new(Terms { events: vec![None], ..terms("post") });
    for (actions, told_of) in [
        (&[Deleted, Created][..], &[Deleted, Created][..]),
        (&[Created, Updated], &[Created, Updated]),
        (&[Updated, Updated], &[Updated]),
        (&[Updated, Deleted], &[Deleted]),
    ] {
        assert_eq!(told(&terms, actions), [told_of.to_vec(), told_of.to_vec()], "{actions:?}");
    }
    let mut stage = Stage::new(AMPLE);
    for name in ["A", "B", "A", "B"] {
        let named = Notification { event: event(name), ..notification(&terms, Updated, 7, 1) };
        stage.push(named);
    }
    stage.reach(Position::new(1));
    let told: Vec<_> = stage.pop_all().into_iter().map(|n| (n.event, n.count)).collect();
    assert_eq!(told, [(event("A"), 2), (event("B"), 2)]);
}

#[test]
fn by_channel_a_row_may_have_been_deleted_elsewhere_and_is_always_told() {
    let terms = Arc::new(Terms { window_by: WindowBy::Channel, ..saved("post") });
    assert_eq!(told(&terms, &[Created, Deleted]), [[Deleted], [Deleted]]);
}

#[test]
fn what_two_rules_say_of_one_tables_row_is_not_mixed() {
    let (one, other) = (Arc::new(saved("post")), Arc::new(saved("post")));
    let mut stage = Stage::new(AMPLE);
    for terms in [&one, &other, &one] {
        stage.push(notification(terms, Updated, 7, 1));
    }
    stage.reach(Position::new(1));
    let told = stage.pop_all();
    assert_eq!(told.iter().map(|n| n.count).collect::<Vec<_>>(), [1, 2]);
    assert!(Arc::ptr_eq(&told[0].terms, &other), "the order is that of the last change");
}

mod bounds;
mod parents;
mod schedules;
mod transactions;

use super::*;
use crate::notification::{Action, Audience, ChannelName, Demand, Payload, Refusal, Shape, Tells};

const WINDOW: Duration = Duration::from_millis(250);

/// Terms of a rule for a table of the same name, whose ids are rows.
fn terms(name: &str) -> Terms {
    let events = Action::ALL.map(|action| event(&format!("{name}{}", action.studly_name())));
    Terms {
        window: Some(WINDOW),
        may_collapse: true,
        events: vec![Some(events)],
        ..Terms::plain(name, name)
    }
}

fn event(name: &str) -> crate::notification::EventName {
    name.parse().expect("an event")
}

/// Of the terms' first event, on the channel of its name.
fn notification(terms: &Arc<Terms>, action: Action, id: u64, position: u64) -> Notification {
    Notification {
        terms: terms.clone(),
        action,
        id: id.to_string().into(),
        event: terms.event(0, action).cloned().unwrap_or_else(|| event("Named")),
        event_index: 0,
        channels: vec![terms.rule.parse().expect("a channel")],
        payload: Payload::Own("1".into()),
        count: 1,
        position: Position::new(position),
        at: Timestamp::from_unix_micros(0),
        resync: None,
        socket_id: None,
        shares: Vec::new(),
        refusal: None,
    }
}

/// A coalescer with its frontier and clock.
struct Stage {
    coalescer: Coalescer,
    frontier: Frontier,
    at: Moment,
}

impl Stage {
    fn new(limits: Limits) -> Stage {
        let at = Moment { now: Instant::now(), wall: Timestamp::from_unix_micros(0) };
        Stage { coalescer: Coalescer::new(1, limits), frontier: Frontier::default(), at }
    }

    fn push(&mut self, notification: Notification) {
        self.coalescer.push(notification, self.at, &mut self.frontier);
    }

    /// A transaction of its own.
    fn commit(&mut self, notification: Notification) {
        let position = notification.position;
        self.push(notification);
        self.reach(position);
    }

    fn reach(&mut self, position: Position) {
        self.coalescer.reach(position, self.at, &mut self.frontier);
    }

    fn wait(&mut self, time: Duration) {
        self.at.now += time;
        let micros = i64::try_from(time.as_micros()).expect("a short time");
        self.at.wall = Timestamp::from_unix_micros(self.at.wall.unix_micros() + micros);
    }

    fn pop(&mut self) -> Option<Notification> {
        let popped = self.coalescer.pop(0, self.at.now)?;
        self.frontier.leave(popped.position);
        Some(popped)
    }

    fn pop_all(&mut self) -> Vec<Notification> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    fn pop_resync(&mut self) -> Option<Resync> {
        let popped = self.coalescer.pop_resync(self.at.now, |_, _| false)?;
        if let Some(position) = popped.position {
            self.frontier.leave(position);
        }
        Some(popped)
    }
}

/// With room for all.
const AMPLE: Limits = Limits { collapse_above: 1000, max_pending_bytes: 1 << 30, max_age: None };

#[test]
fn a_first_change_is_due_at_its_commit_and_the_next_ones_at_the_windows_end() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    stage.push(notification(&terms, Action::Updated, 7, 1));
    assert!(stage.pop().is_none(), "its transaction may go on");
    stage.reach(Position::new(1));
    assert_eq!(stage.pop().expect("it is due").count, 1);
    let sent = stage.at.now;
    for position in [2, 3] {
        stage.wait(WINDOW / 4);
        stage.commit(notification(&terms, Action::Updated, 7, position));
        assert!(stage.pop().is_none(), "the window is closed");
    }
    assert_eq!(stage.coalescer.next_due(|_| true), Some(sent + WINDOW));
    assert_eq!(stage.coalescer.next_due(|_| false), None);
    stage.wait(WINDOW / 2);
    let folded = stage.pop().expect("the window has ended");
    assert_eq!((folded.count, folded.position), (2, Position::new(2)));
    assert!(stage.coalescer.is_empty());
    assert_eq!(stage.frontier.advance(), Some(Position::new(3)));
}

#[test]
fn a_push_of_a_later_position_ends_the_transaction_before() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    stage.push(notification(&terms, Action::Updated, 1, 10));
    stage.push(notification(&terms, Action::Updated, 2, 20));
    stage.reach(Position::new(10));
    assert_eq!(stage.pop_all().len(), 1, "the second one's transaction may go on");
    stage.reach(Position::new(20));
    assert_eq!(stage.pop_all().len(), 1);
}

#[test]
fn stopping_waits_for_no_window() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    stage.commit(notification(&terms, Action::Updated, 7, 1));
    stage.pop().expect("the first one");
    stage.commit(notification(&terms, Action::Updated, 7, 2));
    assert!(stage.pop().is_none());
    stage.coalescer.flush();
    assert_eq!(stage.coalescer.next_due(|_| true), Some(stage.at.now));
    assert!(stage.pop().is_some());
    assert!(stage.coalescer.is_empty());
}

#[test]
fn without_a_window_each_change_is_sent_in_order_and_nothing_is_folded() {
    let terms = Arc::new(Terms { window: None, ..terms("post") });
    let mut stage = Stage::new(AMPLE);
    use Action::{Created, Deleted, Updated};
    let actions = [Created, Deleted, Created, Updated, Updated];
    for action in actions {
        stage.push(notification(&terms, action, 7, 1));
    }
    stage.reach(Position::new(1));
    for (position, action) in (2..).zip(actions) {
        stage.commit(notification(&terms, action, 7, position));
    }
    let popped: Vec<Action> = stage.pop_all().iter().map(|popped| popped.action).collect();
    assert_eq!(popped, [actions, actions].concat());
}

#[test]
fn events_of_one_id_go_together_in_the_order_of_their_last_change() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    use Action::{Created, Deleted, Updated};
    stage.commit(notification(&terms, Updated, 7, 1));
    stage.pop().expect("the first one");
    for (position, action) in [(2, Deleted), (3, Created), (4, Updated), (5, Deleted)] {
        stage.commit(notification(&terms, action, 7, position));
    }
    stage.wait(WINDOW);
    let popped = stage.pop_all();
    let told: Vec<_> = popped.iter().map(|popped| (popped.action, popped.count)).collect();
    assert_eq!(told, [(Created, 1), (Updated, 1), (Deleted, 2)]);
    assert_eq!(popped[2].position, Position::new(2));
}

#[test]
fn what_comes_while_a_window_is_being_sent_waits_for_its_end() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    stage.commit(notification(&terms, Action::Created, 7, 1));
    stage.commit(notification(&terms, Action::Updated, 7, 2));
    assert_eq!(stage.pop().expect("it is due").action, Action::Created);
    stage.commit(notification(&terms, Action::Updated, 7, 3));
    assert_eq!(stage.pop().expect("it is frozen").count, 1);
    assert!(stage.pop().is_none());
    stage.wait(WINDOW);
    assert_eq!(stage.pop().expect("its window has ended").position, Position::new(3));
}

#[test]
fn a_window_by_channel_takes_all_ids_and_splits_what_is_on_several() {
    let terms = Arc::new(Terms {
        window_by: WindowBy::Channel,
        events: vec![Some(Action::ALL.map(|_| event("Saved")))],
        ..terms("post")
    });
    let mut stage = Stage::new(AMPLE);
    let on = |id, position, action, channels: &[&str]| Notification {
        channels: channels.iter().map(|name| name.parse().expect("a channel")).collect(),
        ..notification(&terms, action, id, position)
    };
    stage.commit(on(1, 1, Action::Updated, &["list"]));
    assert_eq!(&*stage.pop().expect("it is due").id, "1");
    stage.push(on(2, 2, Action::Created, &["list"]));
    stage.push(on(3, 2, Action::Deleted, &["list", "other"]));
    stage.reach(Position::new(2));
    let other = stage.pop().expect("the other channel has a window of its own");
    assert_eq!(
        (&*other.id, other.action, other.channels[0].as_str()),
        ("3", Action::Deleted, "other")
    );
    assert!(stage.pop().is_none());
    stage.wait(WINDOW);
    let list = stage.pop().expect("the window has ended");
    assert_eq!((&*list.id, list.action, list.count), ("null", Action::Updated, 2));
    assert!(stage.coalescer.is_empty());
}

#[test]
fn too_many_ids_become_one_resync_and_what_comes_before_it_is_taken_only_counts() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(Limits { collapse_above: 3, ..AMPLE });
    for id in 1..=3 {
        for position in [1, 2] {
            stage.commit(notification(&terms, Action::Updated, id, 10 * id + position));
        }
    }
    assert!(stage.pop_resync().is_none(), "ids are counted, not changes");
    stage.commit(notification(&terms, Action::Updated, 4, 50));
    stage.push(notification(&terms, Action::Updated, 4, 60));
    assert_eq!(stage.coalescer.pending_bytes(), 0);
    assert!(stage.pop().is_none());
    assert!(
        stage.coalescer.pop_resync(stage.at.now, |held, _| Arc::ptr_eq(held, &terms)).is_none()
    );
    assert_eq!(stage.frontier.advance(), None);
    let resync = stage.pop_resync().expect("it is complete as far as it goes");
    assert_eq!((resync.reason, resync.count), (Reason::Bulk, Some(7)));
    assert_eq!(resync.audience.names(), 1, "all are on one channel");
    assert_eq!(resync.position, Some(Position::new(11)));
    assert_eq!(stage.frontier.advance(), Some(Position::new(50)));
    stage.reach(Position::new(60));
    assert!(stage.pop_resync().is_none(), "resyncs have a window too");
    assert_eq!(stage.coalescer.next_due(|_| true), Some(stage.at.now + WINDOW));
    stage.wait(WINDOW);
    assert_eq!(stage.pop_resync().expect("of what came later").count, Some(1));
    stage.commit(notification(&terms, Action::Updated, 4, 70));
    assert_eq!(stage.pop_all().len(), 1, "and then each is told again");
    assert_eq!(stage.frontier.advance(), Some(Position::new(70)));
}

#[test]
fn a_truncated_table_is_told_by_a_resync_that_takes_what_is_unsent_with_it() {
    for may_collapse in [true, false] {
        let terms = Arc::new(Terms { may_collapse, ..terms("post") });
        let mut stage = Stage::new(AMPLE);
        let truncate = Resync {
            terms: terms.clone(),
            reason: Reason::Truncate,
            count: None,
            audience: Audience::All,
            position: Some(Position::new(2)),
            at: Timestamp::from_unix_micros(0),
        };
        stage.commit(notification(&terms, Action::Updated, 7, 1));
        stage.push(notification(&terms, Action::Created, 8, 2));
        stage.coalescer.resync(truncate, stage.at, &mut stage.frontier);
        assert!(stage.pop_resync().is_none(), "its transaction may go on");
        stage.reach(Position::new(2));
        let resync = stage.pop_resync().expect("the table was truncated");
        assert_eq!((resync.reason, resync.count), (Reason::Truncate, None));
        assert_eq!(resync.position, Some(Position::new(if may_collapse { 1 } else { 2 })));
        assert_eq!(stage.pop_all().len(), if may_collapse { 0 } else { 2 });
        assert_eq!(stage.frontier.advance(), Some(Position::new(2)));
    }
}

#[test]
fn of_what_may_not_collapse_each_change_is_wanted_whatever_its_resyncs_count() {
    let terms = Arc::new(Terms { may_collapse: false, ..terms("post") });
    let mut stage = Stage::new(Limits { collapse_above: 3, ..AMPLE });
    stage.coalescer = Coalescer::new(1, stage.coalescer.limits).demanding();
    let unknown_parents = |position| Resync {
        terms: terms.clone(),
        reason: Reason::Lookup,
        count: Some(10),
        audience: Audience::All,
        position: Some(Position::new(position)),
        at: Timestamp::from_unix_micros(0),
    };
    stage.coalescer.resync(unknown_parents(1), stage.at, &mut stage.frontier);
    stage.reach(Position::new(1));
    stage.coalescer.resync(unknown_parents(2), stage.at, &mut stage.frontier);
    stage.pop_resync().expect("the first one is complete");
    assert_eq!(terms.demanded.now(), Demand::Notification);
    stage.push(notification(&terms, Action::Updated, 7, 2));
    stage.reach(Position::new(2));
    assert_eq!(terms.demanded.now(), Demand::Notification);
    assert_eq!(stage.pop_all().len(), 1, "and is told by itself");
}

#[test]
fn what_is_older_than_anyone_needs_becomes_a_resync() {
    let terms = Arc::new(terms("post"));
    let hour = Duration::from_secs(3600);
    let mut stage = Stage::new(Limits { max_age: Some(hour), ..AMPLE });
    stage.commit(notification(&terms, Action::Updated, 7, 1));
    stage.wait(hour / 2);
    stage.commit(Notification { at: stage.at.wall, ..notification(&terms, Action::Updated, 8, 2) });
    stage.wait(hour / 2);
    stage.coalescer.age(stage.at, &mut stage.frontier);
    assert!(stage.pop_resync().is_none());
    assert_eq!(stage.pop().expect("it is young enough").position, Position::new(1));
    stage.wait(WINDOW);
    stage.coalescer.age(stage.at, &mut stage.frontier);
    assert!(stage.pop_resync().is_none(), "the old one was sent");
    stage.wait(hour / 2);
    stage.coalescer.age(stage.at, &mut stage.frontier);
    let aged = stage.pop_resync().expect("the other one has aged");
    assert_eq!((aged.reason, aged.count), (Reason::Age, Some(1)));
    stage.commit(notification(&terms, Action::Updated, 9, 3));
    stage.wait(WINDOW);
    assert_eq!(stage.pop_resync().expect("it was old when it came").reason, Reason::Age);
    assert_eq!(stage.frontier.advance(), Some(Position::new(3)));
}

#[test]
fn what_is_refused_stays_itself() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(Limits { collapse_above: 1, ..AMPLE });
    let refused = |position| Notification {
        refusal: Some(Refusal::Oversize { bytes: 2, limit: 1 }),
        ..notification(&terms, Action::Updated, 7, position)
    };
    stage.push(refused(1));
    stage.push(refused(1));
    for id in 1..=4 {
        stage.push(notification(&terms, Action::Updated, id, 2));
    }
    stage.push(refused(2));
    stage.reach(Position::new(2));
    assert_eq!(stage.pop_resync().expect("of the others").count, Some(4));
    let popped = stage.pop_all();
    assert_eq!(popped.iter().filter(|popped| popped.refusal.is_some()).count(), 3);
    assert_eq!(popped.len(), 3);
}

#[test]
fn an_owed_resync_needs_no_position_and_takes_that_of_what_it_absorbs() {
    let terms = Arc::new(terms("post"));
    let owed = |position| Resync {
        terms: terms.clone(),
        reason: Reason::Gap,
        count: None,
        audience: Audience::All,
        position,
        at: Timestamp::from_unix_micros(0),
    };
    let mut stage = Stage::new(AMPLE);
    stage.coalescer.resync(owed(None), stage.at, &mut stage.frontier);
    assert_eq!(stage.pop_resync().expect("it is owed").position, None);
    stage.commit(notification(&terms, Action::Updated, 7, 1));
    stage.coalescer.resync(owed(None), stage.at, &mut stage.frontier);
    stage.wait(WINDOW);
    assert_eq!(stage.pop_resync().expect("it is owed").position, Some(Position::new(1)));
    assert_eq!(stage.frontier.advance(), Some(Position::new(1)));
    assert!(stage.coalescer.is_empty());
}

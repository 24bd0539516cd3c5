use super::*;
use crate::notification::{Action, Payload};

#[test]
fn a_first_change_is_due_at_its_commit_and_the_next_at_the_windows_end() {
    let now = Instant::now();
    let at = Moment { now, wall: Timestamp::from_unix_micros(0) };
    let window = Duration::from_millis(250);
    let terms = Arc::new(Terms { window: Some(window), ..Terms::plain("posts", "post") });
    let limits = Limits { collapse_above: 10, max_pending_bytes: 1 << 20, max_age: None };
    let mut coalescer = Coalescer::new(1, limits);
    let mut frontier = Frontier::default();
    let mut change = |coalescer: &mut Coalescer, position: u64| {
        let notification = Notification {
            terms: terms.clone(),
            action: Action::Updated,
            id: "7".into(),
            event: "PostUpdated".parse().expect("an event"),
            event_index: 0,
            channels: vec!["posts".parse().expect("a channel")],
            payload: Payload::default(),
            count: 1,
            position: Position::new(position),
            at: Timestamp::from_unix_micros(0),
            resync: None,
            refusal: None,
        };
        coalescer.push(notification, at, &mut frontier);
        assert!(coalescer.pop(0, now).is_none());
        coalescer.reach(Position::new(position), at, &mut frontier);
    };
    change(&mut coalescer, 1);
    assert_eq!(coalescer.pop(0, now).expect("it is due").count, 1);
    change(&mut coalescer, 2);
    change(&mut coalescer, 3);
    assert!(coalescer.pop(0, now).is_none());
    assert_eq!(coalescer.next_due(|_| true), Some(now + window));
    assert_eq!(coalescer.pop(0, now + window).expect("it is due").count, 2);
    assert!(coalescer.is_empty());
    assert_eq!(coalescer.pending_bytes(), 0);
}

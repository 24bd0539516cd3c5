//! Rules of several tables that announce one entity.

use super::*;
use Action::{Created, Deleted, Restored, Updated};

/// Of hosts, of parts that announce their host, and of pieces that do.
pub(super) fn rules_of_hosts() -> [Arc<Terms>; 3] {
    let events = vec![Some(Action::ALL.map(|_| event("HostSaved")))];
    let of = |rule| Terms { entity: "host".into(), events: events.clone(), ..terms(rule) };
    [
        of("host"),
        Terms { id_is_row: false, ..of("part") },
        Terms { id_is_row: false, ..of("piece") },
    ]
    .map(Arc::new)
}

fn with(terms: &Arc<Terms>, change: impl Fn(&mut Terms)) -> Arc<Terms> {
    let [host, part, piece] = rules_of_hosts();
    let like = [host, part, piece].into_iter().find(|own| own.rule == terms.rule);
    let mut like = Arc::into_inner(like.expect("one of them")).expect("it is nobody else's");
    change(&mut like);
    like.into()
}

/// A stage on which host 7 was just announced.
fn closed() -> Stage {
    let [host, ..] = rules_of_hosts();
    let mut stage = Stage::new(AMPLE);
    stage.commit(notification(&host, Updated, 7, 1));
    stage.pop().expect("it is due");
    stage
}

/// What is told once the window has ended, of changes in a transaction each.
fn told(changes: &[(&Arc<Terms>, Action)]) -> Vec<Notification> {
    let mut stage = closed();
    for (position, (terms, action)) in (2..).zip(changes) {
        stage.commit(notification(terms, *action, 7, position));
    }
    stage.wait(WINDOW);
    let told = stage.pop_all();
    assert!(stage.coalescer.is_empty() && stage.coalescer.rules.hold_nothing());
    assert!(stage.frontier.is_idle());
    told
}

fn channels(notification: &Notification) -> Vec<&str> {
    notification.channels.iter().map(ChannelName::as_str).collect()
}

#[test]
fn a_parent_and_its_children_are_told_as_one() {
    let [host, part, piece] = rules_of_hosts();
    let mut stage = closed();
    for (position, terms) in (2..).zip([&part, &host, &part, &piece]) {
        let payload = Payload::Own(position.to_string().into());
        stage.commit(Notification { payload, ..notification(terms, Updated, 7, position) });
    }
    assert!(stage.pop().is_none(), "the window is theirs too");
    stage.wait(WINDOW);
    let told = stage.pop().expect("the window has ended");
    assert_eq!((told.count, told.position, &*told.data()), (4, Position::new(2), "5"));
    assert_eq!(channels(&told), ["part", "host", "piece"]);
    assert!(stage.coalescer.is_empty());
    assert_eq!(stage.frontier.advance(), Some(Position::new(5)));
}

#[test]
fn what_one_transaction_did_to_a_parent_and_its_children_is_one() {
    let [host, part, piece] = rules_of_hosts();
    let mut stage = Stage::new(AMPLE);
    for (terms, count) in [(&host, 1), (&part, 50), (&piece, 50)] {
        (0..count).for_each(|_| stage.push(notification(terms, Updated, 7, 1)));
    }
    stage.reach(Position::new(1));
    let told = stage.pop().expect("it is due");
    assert_eq!(told.count, 101);
    assert!(stage.coalescer.is_empty());
}

#[test]
fn what_happened_to_the_parents_own_row_is_what_is_told() {
    let [host, part, piece] = rules_of_hosts();
    for (changes, action) in [
        (&[(&host, Created), (&part, Updated)][..], Created),
        (&[(&host, Created), (&part, Deleted), (&piece, Created)], Created),
        (&[(&part, Created), (&host, Deleted), (&piece, Deleted)], Deleted),
        (&[(&host, Restored), (&part, Updated), (&host, Updated)], Restored),
        (&[(&host, Deleted), (&part, Created), (&host, Created)], Updated),
        (&[(&part, Created), (&piece, Created)], Created),
        (&[(&part, Created), (&piece, Deleted)], Updated),
    ] {
        let told = told(changes);
        assert_eq!(told.len(), 1, "{changes:?}");
        assert_eq!((told[0].action, told[0].count), (action, changes.len() as u64), "{changes:?}");
    }
}

#[test]
fn a_row_that_came_and_went_is_nothing_whatever_its_children_did() {
    let [host, part, _] = rules_of_hosts();
    let mut stage = closed();
    for (terms, action) in [(&host, Created), (&part, Updated), (&host, Deleted)] {
        stage.push(notification(terms, action, 7, 2));
    }
    stage.reach(Position::new(2));
    stage.wait(WINDOW);
    let told = stage.pop().expect("the part is told");
    assert_eq!((told.action, told.count, channels(&told)), (Updated, 1, vec!["part"]));
    assert!(stage.coalescer.is_empty());
}

#[test]
fn what_listeners_of_another_payload_event_or_window_wait_for_stays_apart() {
    let [host, part, _] = rules_of_hosts();
    let own = |keys: &str| Shape::Own(keys.into());
    let other = Some(Action::ALL.map(|_| event("PartSaved")));
    for (one, two) in [
        (Shape::Minimal, own("{}")),
        (own("{\"id\":*,}"), own("{\"host\":*,}")),
        (Shape::Before, Shape::Before),
    ] {
        let pair = [
            with(&host, |terms| terms.shape = one.clone()),
            with(&part, |terms| terms.shape = two.clone()),
        ];
        let told = told(&[(&pair[0], Updated), (&pair[1], Updated), (&pair[0], Updated)]);
        let counts: Vec<_> = told.iter().map(|told| (&*told.terms.rule, told.count)).collect();
        assert_eq!(counts, [("part", 1), ("host", 2)], "{one:?} and {two:?}");
    }
    let named = with(&part, |terms| terms.events = vec![other.clone()]);
    assert_eq!(told(&[(&host, Updated), (&named, Updated)]).len(), 2);
    let longer = with(&part, |terms| terms.window = Some(2 * WINDOW));
    assert_eq!(told(&[(&host, Updated), (&longer, Updated)]).len(), 2);
}

fn own(terms: &mut Terms) {
    terms.shape = Shape::Own("{\"id\":*,}".into());
}

fn on(terms: &Arc<Terms>, on: &[&str], position: u64) -> Notification {
    Notification {
        channels: on.iter().map(|name| name.parse().expect("a channel")).collect(),
        payload: Payload::Own(position.to_string().into()),
        ..notification(terms, Updated, 7, position)
    }
}

#[test]
fn a_rules_own_payload_goes_to_no_channel_that_it_does_not_name() {
    let [host, part, _] = rules_of_hosts();
    let (host, part) = (with(&host, own), with(&part, own));
    for (earlier, later, left) in [
        (&["a"][..], &["a"][..], &[][..]),
        (&["a"], &["b", "a"], &[]),
        (&["a", "b"], &["a"], &["b"]),
        (&["a"], &["b"], &["a"]),
    ] {
        let mut stage = closed();
        stage.commit(on(&host, earlier, 2));
        stage.commit(on(&part, later, 3));
        stage.wait(WINDOW);
        let mut popped = stage.pop_all();
        let last = popped.pop().expect("the later one is told");
        assert_eq!((&*last.data(), channels(&last).len()), ("3", later.len()));
        assert!(channels(&last).iter().all(|channel| later.contains(channel)));
        let told: Vec<_> = popped.iter().map(|it| (it.data(), channels(it))).collect();
        match left {
            [] => assert_eq!(told, []),
            left => assert_eq!(told, [("2".into(), left.to_vec())]),
        }
        assert!(stage.coalescer.is_empty() && stage.coalescer.rules.hold_nothing());
        assert_eq!(stage.frontier.advance(), Some(Position::new(3)));
    }
}

#[test]
fn each_channel_is_told_once_in_a_window_whichever_of_them_each_rule_names() {
    let rules = rules_of_hosts().map(|terms| with(&terms, own));
    let named = [&["a", "b"][..], &["a"], &["b", "c"]];
    let mut stage = closed();
    for n in 0..300_usize {
        let rule = (n * n + n / 7) % 3;
        stage.commit(on(&rules[rule], named[rule], 2 + n as u64));
    }
    stage.wait(WINDOW);
    let popped = stage.pop_all();
    let mut told: Vec<&str> = popped.iter().flat_map(channels).collect();
    told.sort_unstable();
    assert_eq!(told, ["a", "b", "c"], "{popped:#?}");
    assert_eq!(popped.iter().map(|popped| popped.count).sum::<u64>(), 300);
    assert!(stage.coalescer.is_empty() && stage.coalescer.rules.hold_nothing());
    assert_eq!(stage.frontier.advance(), Some(Position::new(301)));
}

#[test]
fn a_rule_that_collapses_leaves_to_the_others_what_is_theirs() {
    for is_last in [true, false] {
        let [host, part, piece] = rules_of_hosts();
        let mut stage = Stage::new(Limits { collapse_above: 3, ..AMPLE });
        stage.commit(notification(&host, Updated, 7, 1));
        stage.pop().expect("it is due");
        let order = if is_last { [&piece, &host, &part] } else { [&part, &host, &piece] };
        for (position, terms) in (2..).zip(order) {
            stage.commit(notification(terms, Updated, 7, position));
        }
        for id in 10..13 {
            stage.commit(notification(&part, Updated, id, id));
        }
        let resync = stage.coalescer.pop_resync(stage.at.now, |_, _| false);
        let resync = resync.expect("the parts are too many");
        assert_eq!((&*resync.terms.rule, resync.count), ("part", Some(4)));
        assert_eq!(resync.position, Some(Position::new(2)));
        assert_eq!(stage.frontier.advance(), Some(Position::new(1)));
        stage.wait(WINDOW);
        let told = stage.pop().expect("of the host and the piece");
        assert_eq!((told.count, told.shares.len()), (2, 2));
        assert!(!channels(&told).contains(&"part"));
        assert!(stage.coalescer.is_empty());
        assert_eq!(stage.frontier.advance(), None, "the resync is on its way");
        stage.frontier.leave(Position::new(2));
        assert_eq!(stage.frontier.advance(), Some(Position::new(12)));
    }
}

#[test]
fn at_the_bound_rules_that_share_collapse_one_after_the_other() {
    let [host, part, _] = rules_of_hosts();
    let limits = Limits { max_pending_bytes: 50_000, collapse_above: usize::MAX, max_age: None };
    let mut stage = Stage::new(limits);
    for id in 0..1000 {
        stage.commit(notification(&host, Updated, id, 1 + 2 * id));
        stage.commit(notification(&part, Updated, id, 2 + 2 * id));
        assert!(stage.coalescer.has_room());
    }
    let mut counts: Vec<_> = std::iter::from_fn(|| stage.pop_resync())
        .map(|resync| (resync.terms.rule.to_string(), resync.count))
        .collect();
    counts.sort();
    assert_eq!(counts, [("host".to_owned(), Some(1000)), ("part".to_owned(), Some(1000))]);
    assert!(stage.coalescer.is_empty() && stage.coalescer.rules.hold_nothing());
    assert_eq!(stage.frontier.advance(), Some(Position::new(2000)));
}

#[test]
fn a_parent_and_its_children_share_a_lane_whatever_their_rules_say() {
    const LANES: usize = 8;
    let [host, part, piece] = rules_of_hosts();
    let mut stage = Stage::new(AMPLE);
    stage.coalescer = Coalescer::new(LANES, AMPLE);
    let rules = [
        with(&part, |terms| terms.window = None),
        with(&piece, |terms| terms.window = Some(2 * WINDOW)),
        with(&part, |terms| terms.shape = Shape::Before),
        host,
        part,
    ];
    let refusal = Some(Refusal::Oversize { bytes: 2, limit: 1 });
    for id in 0..100 {
        for (position, terms) in (1..).zip(&rules) {
            stage.commit(notification(terms, Updated, id, 10 * id + position));
        }
        let refused = notification(&rules[4], Updated, id, 10 * id + 9);
        stage.commit(Notification { refusal: refusal.clone(), ..refused });
    }
    let mut lanes = std::collections::HashMap::new();
    let mut told = 0;
    for lane in 0..LANES {
        while let Some(popped) = stage.coalescer.pop(lane, stage.at.now) {
            assert_eq!(*lanes.entry(popped.id).or_insert(lane), lane);
            told += 1;
        }
    }
    assert_eq!((told, lanes.len()), (500, 100));
}

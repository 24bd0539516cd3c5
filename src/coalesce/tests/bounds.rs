//! What is kept does not grow with transactions, ids or outages.

use super::*;

#[test]
fn a_transaction_of_any_size_costs_one_resync() {
    const ROWS: u64 = 100_000;
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    let mut most = 0;
    for id in 0..ROWS {
        stage.push(notification(&terms, Action::Created, id, 1));
        most = most.max(stage.coalescer.pending_bytes());
    }
    assert!(most < 1001 * 1024, "{most}");
    assert_eq!(stage.coalescer.pending_bytes(), 0);
    assert!(stage.pop_resync().is_none(), "the transaction goes on");
    stage.reach(Position::new(1));
    assert_eq!(stage.pop_resync().expect("of all rows").count, Some(ROWS));
    assert!(stage.coalescer.is_empty());
}

#[test]
fn a_resync_is_for_the_channels_of_what_collapsed_unless_they_are_too_many() {
    let terms = Arc::new(terms("post"));
    let channel = |id: u64| format!("posts.{id}").parse::<ChannelName>().expect("a channel");
    let many = Audience::MAX_NAMES as u64 + 1;
    for (ids, is_all) in [(5000, false), (many, true)] {
        let mut stage = Stage::new(AMPLE);
        for id in 0..ids {
            let made = notification(&terms, Action::Updated, id, 1 + id / 10);
            stage.push(Notification { channels: vec![channel(id)], ..made });
        }
        stage.reach(Position::new(1 + ids / 10));
        let Resync { audience, count, .. } = stage.pop_resync().expect("of all rows");
        assert_eq!((count, audience.is_all()), (Some(ids), is_all));
        assert!((0..ids).all(|id| audience.holds(&channel(id))));
        assert_eq!(audience.holds(&channel(ids)), is_all);
        assert_eq!(audience.names() as u64, if is_all { 0 } else { ids });
    }
}

#[test]
fn the_names_of_all_resyncs_together_are_bounded() {
    let rules: Vec<_> = (0..12).map(|rule| Arc::new(terms(&format!("rule-{rule}")))).collect();
    let mut stage = Stage::new(AMPLE);
    for id in 0..30_000_u64 {
        for terms in &rules {
            let name = format!("{}.{id}", terms.rule).parse().expect("a channel");
            let made = notification(terms, Action::Updated, id, 1);
            stage.push(Notification { channels: vec![name], ..made });
        }
    }
    stage.reach(Position::new(1));
    let popped: Vec<Resync> = std::iter::from_fn(|| stage.pop_resync()).collect();
    assert_eq!(popped.len(), rules.len());
    let names = popped.iter().map(|resync| resync.audience.names());
    assert!(names.sum::<usize>() <= Audience::MAX_NAMES_TOGETHER);
    assert!(popped.iter().filter(|resync| !resync.audience.is_all()).count() >= 5);
    assert!(stage.coalescer.rules.hold_nothing());
}

#[test]
fn while_a_crowd_is_told_by_a_resync_no_notification_is_wanted() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(Limits { collapse_above: 10, ..AMPLE });
    stage.coalescer = Coalescer::new(1, stage.coalescer.limits).demanding();
    let counted = |position| Resync {
        terms: terms.clone(),
        reason: Reason::Bulk,
        count: Some(1),
        audience: Audience::of(&["posts.7".parse().expect("a channel")]),
        position: Some(Position::new(position)),
        at: Timestamp::from_unix_micros(0),
    };
    let wanted = || terms.demanded.now();
    for id in 0..10 {
        stage.push(notification(&terms, Action::Updated, id, 1));
    }
    assert_eq!(wanted(), Demand::Notification);
    stage.push(notification(&terms, Action::Updated, 10, 1));
    assert_eq!(wanted(), Demand::Channels);
    stage.reach(Position::new(1));
    assert_eq!(wanted(), Demand::Channels);
    let all = Resync { audience: Audience::All, ..counted(2) };
    stage.coalescer.resync(all, stage.at, &mut stage.frontier);
    assert_eq!(wanted(), Demand::Count);
    stage.reach(Position::new(2));
    assert_eq!(stage.pop_resync().expect("of the crowd").count, Some(12));
    assert_eq!(wanted(), Demand::Notification);

    // What was counted before that was heard is told by a resync, and is no crowd; nor
    // is a hot id.
    stage.coalescer.resync(counted(3), stage.at, &mut stage.frontier);
    for position in 4..100 {
        stage.commit(notification(&terms, Action::Updated, position % 10, position));
    }
    assert_eq!(wanted(), Demand::Notification);
    stage.commit(notification(&terms, Action::Updated, 10, 100));
    assert_eq!(wanted(), Demand::Channels);
    stage.coalescer.forget();
    assert_eq!(wanted(), Demand::Notification);
}

#[test]
fn a_flood_is_told_by_resyncs_a_window_apart_and_what_comes_after_it_by_itself() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(Limits { collapse_above: 10, ..AMPLE });
    let mut position = 0;
    let mut flood = |stage: &mut Stage, ids: u64| {
        position += 1;
        for id in 0..ids {
            stage.push(notification(&terms, Action::Updated, id, position));
        }
        stage.reach(Position::new(position));
    };
    flood(&mut stage, 11);
    for count in [11, 21, 21, 21] {
        assert_eq!(stage.pop_resync().expect("the window has ended").count, Some(count));
        stage.wait(WINDOW / 2);
        flood(&mut stage, 10);
        assert!(stage.pop().is_none(), "they may be more of the same");
        assert_eq!(stage.coalescer.next_due(|_| true), Some(stage.at.now + WINDOW / 2));
        stage.wait(WINDOW / 4);
        flood(&mut stage, 11);
        assert!(stage.pop().is_none() && stage.pop_resync().is_none());
        stage.wait(WINDOW / 4);
    }
    assert_eq!(stage.pop_resync().expect("of the last").count, Some(21));
    flood(&mut stage, 2);
    assert!(stage.pop().is_none());
    stage.wait(WINDOW);
    assert_eq!(stage.pop_all().len(), 2);
    flood(&mut stage, 3);
    let next = stage.pop().expect("of which two were just told");
    assert_eq!((&*next.id, stage.pop().is_none()), ("2", true));
}

#[test]
fn rows_of_no_effect_leave_nothing_behind() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    stage.push(notification(&terms, Action::Updated, 0, 1));
    let before = stage.coalescer.pending_bytes();
    for id in 1..20_000 {
        stage.push(notification(&terms, Action::Created, id, 1));
        stage.push(notification(&terms, Action::Updated, 0, 1));
        stage.push(notification(&terms, Action::Deleted, id, 1));
        assert_eq!(stage.coalescer.pending_bytes(), before);
        assert!(stage.coalescer.staged.len() < 256);
    }
    stage.reach(Position::new(1));
    assert_eq!(stage.pop_all().len(), 1);
    assert!(stage.pop_resync().is_none());
}

#[test]
fn a_transaction_that_may_not_collapse_goes_out_before_its_end() {
    let terms = Arc::new(Terms { may_collapse: false, ..terms("post") });
    let mut stage = Stage::new(Limits { max_pending_bytes: 10_000, ..AMPLE });
    let mut popped = 0;
    for id in 0..1000 {
        stage.push(notification(&terms, Action::Created, id, 1));
        if !stage.coalescer.has_room() {
            let sent = stage.pop_all().len();
            assert!(sent > 0, "reading would wait for ever");
            popped += sent;
            assert!(stage.coalescer.has_room());
        }
        assert!(stage.coalescer.pending_bytes() < 11_000);
    }
    assert_eq!(stage.frontier.advance(), None);
    stage.reach(Position::new(1));
    assert_eq!(popped + stage.pop_all().len(), 1000);
    assert_eq!(stage.frontier.advance(), Some(Position::new(1)));
}

#[test]
fn at_the_bound_the_largest_rule_collapses() {
    let (small, large) = (Arc::new(terms("small")), Arc::new(terms("large")));
    let limits = Limits { max_pending_bytes: 50_000, collapse_above: usize::MAX, max_age: None };
    let mut stage = Stage::new(limits);
    stage.commit(notification(&small, Action::Updated, 1, 1));
    for id in 0..1000 {
        stage.commit(notification(&large, Action::Updated, id, 2 + id));
        assert!(stage.coalescer.has_room());
    }
    let resync = stage.pop_resync().expect("of the large one");
    assert_eq!((&*resync.terms.rule, resync.reason), ("large", Reason::Backlog));
    assert_eq!(resync.count, Some(1000));
    assert_eq!(stage.pop_all().len(), 1);
    assert_eq!(stage.frontier.advance(), Some(Position::new(1001)));
}

#[test]
fn any_number_of_ids_leaves_few_windows() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(AMPLE);
    for id in 0..100_000 {
        stage.commit(notification(&terms, Action::Updated, id, 1 + id));
        stage.pop().expect("it is due");
        assert!(stage.coalescer.windows.len() <= 8192 + 1);
    }
    stage.wait(WINDOW);
    assert!(stage.pop().is_none());
    assert_eq!(stage.coalescer.windows.len(), 0);
}

#[test]
fn terms_that_nobody_uses_any_more_are_forgotten() {
    let mut stage = Stage::new(AMPLE);
    for position in 1..100 {
        let terms = Arc::new(terms("post"));
        stage.commit(notification(&terms, Action::Updated, 7, position));
        stage.wait(WINDOW);
        assert_eq!(stage.pop_all().len(), 1);
        assert!(stage.coalescer.rules.len() <= 2);
    }
}

#[test]
fn what_is_refused_does_not_make_its_rule_collapse() {
    let terms = Arc::new(terms("post"));
    let mut stage = Stage::new(Limits { collapse_above: 2, ..AMPLE });
    let refusal = Some(Refusal::Oversize { bytes: 2, limit: 1 });
    for id in 1..=3 {
        let made = notification(&terms, Action::Updated, id, 1);
        stage.push(Notification { refusal: refusal.clone(), ..made });
    }
    stage.push(notification(&terms, Action::Updated, 4, 1));
    stage.reach(Position::new(1));
    assert!(stage.pop_resync().is_none());
    assert_eq!(stage.pop_all().len(), 4);
}

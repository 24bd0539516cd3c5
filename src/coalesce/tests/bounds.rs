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

//! From notifications to what is sent.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use divan::{Bencher, counter::ItemsCount};
use rowcast::{
    acknowledge::Frontier,
    change::Timestamp,
    coalesce::{Coalescer, Limits, Moment},
    notification::{Demand, Handoff},
};

use crate::rows::{self, ROWS};

/// Each is sent.
#[divan::bench]
fn sent(bencher: Bencher) {
    fold(bencher, Demand::Notification, usize::MAX);
}

/// All are counted where they come.
#[divan::bench]
fn collapsed(bencher: Bencher) {
    fold(bencher, Demand::Notification, 1);
}

/// Routing has counted them.
#[divan::bench]
fn counted(bencher: Bencher) {
    fold(bencher, Demand::Channels, 1);
}

fn fold(bencher: Bencher, demand: Demand, collapse_above: usize) {
    let limits = Limits { collapse_above, max_pending_bytes: usize::MAX, max_age: None };
    let at = Moment { now: Instant::now(), wall: Timestamp::from_unix_micros(0) };
    let handoffs = || {
        let batches = rows::batches();
        let mut router = rows::router(&batches, demand);
        batches.iter().map(|batch| rows::route(&mut router, batch)).collect::<Vec<Handoff>>()
    };
    bencher.counter(ItemsCount::new(ROWS)).with_inputs(handoffs).bench_local_values(|handoffs| {
        let (mut coalescer, mut frontier) = (Coalescer::new(1, limits), Frontier::default());
        for handoff in handoffs {
            for notification in handoff.notifications {
                coalescer.push(notification, at, &mut frontier);
            }
            for resync in handoff.resyncs {
                coalescer.resync(resync, at, &mut frontier);
            }
            let reached = handoff.reached.expect("each transaction has an end");
            coalescer.reach(reached, at, &mut frontier);
            while let Some(notification) = coalescer.pop(0, at.now) {
                frontier.leave(black_box(notification).position);
            }
        }
        let later = at.now + Duration::from_secs(1);
        black_box(coalescer.pop_resync(later, |_, _| false));
    });
}

//! From changes to notifications, or to a count of them.

use std::hint::black_box;

use divan::{Bencher, counter::ItemsCount};
use rowcast::notification::Demand;

use crate::rows::{self, ROWS};

#[divan::bench(args = [Demand::Notification, Demand::Channels, Demand::Count])]
fn wanted(bencher: Bencher, demand: &Demand) {
    let batches = rows::batches();
    let router = || rows::router(&batches, *demand);
    bencher.counter(ItemsCount::new(ROWS)).with_inputs(router).bench_local_refs(|router| {
        for batch in &batches {
            black_box(rows::route(router, batch));
        }
    });
}

//! From the bytes of the stream to changes.

use std::hint::black_box;

use divan::{Bencher, counter::ItemsCount};
use rowcast::{
    change::{Batch, Relation},
    source::wal::read_pieces,
};

use crate::stream::{self, COLUMNS, ROWS};

/// What one read brings while a backlog is drained.
const READ: usize = 32 << 10;

/// As a rule for each row's page has it.
#[divan::bench]
fn the_key_is_wanted(bencher: Bencher) {
    decode(bencher, |column| column == 0);
}

#[divan::bench]
fn every_column_is_wanted(bencher: Bencher) {
    decode(bencher, |_| true);
}

fn decode(bencher: Bencher, wanted: fn(usize) -> bool) {
    let bytes = stream::updates();
    bencher.counter(ItemsCount::new(ROWS)).bench(|| {
        let wanted = move |_: &Relation| (0..COLUMNS).map(wanted).collect();
        let mut changes = 0;
        let pieces = bytes.chunks(READ);
        let show = |batch: &Batch| changes += black_box(batch).items().count();
        let (_, ended) = read_pieces(pieces, &stream::catalog(), Box::new(wanted), show);
        assert!(ended.is_ok() && changes > ROWS, "all of it is read");
    });
}

use std::hint::black_box;

use rowcast::change::{Batch, Item, Relation};
use rowcast::source::wal::read_pieces;

/// What reading may hold besides the bytes that came: room for a read, and columns that a message announced.
const ROOM: usize = 8 << 20;

/// Whatever the bytes are: read as a stream, in pieces of a size that the first byte says, they are taken or refused,
/// without a panic and without much more memory than came in.
pub(super) fn holds(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else { return };
    let size = match first {
        0..128 => usize::from(*first) + 1,
        _ => usize::from(*first) << 6,
    };
    // Every other column is wanted.
    let wanted = |relation: &Relation| (0..relation.columns.len()).map(|at| at % 2 == 0).collect();
    let (most, _taken_or_refused) =
        read_pieces(stream.chunks(size), &[], Box::new(wanted), look_at);
    // A column of one byte is a field of eight.
    let bound = ROOM + 64 * stream.len();
    assert!(most <= bound, "{most} bytes held for a stream of {}", stream.len());
}

/// Asks for every value, as rules do.
fn look_at(batch: &Batch) {
    for item in batch.items() {
        let change = match item {
            Item::Change(change) => change,
            Item::Broadcast { broadcast, context, .. } => {
                black_box((&broadcast.data, context));
                continue;
            }
            Item::Truncate { .. } | Item::Missed { .. } | Item::Reached(_) => continue,
        };
        black_box(change.context);
        // One more than there are: a row may be older than a column.
        for column in 0..=change.relation.columns.len() {
            black_box((change.old_value(column), change.new_value(column)));
            black_box(change.column_changed(column));
        }
    }
}

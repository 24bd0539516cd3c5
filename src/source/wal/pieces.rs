use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::super::Wanted;
use super::feedback::Feedback;
use super::inbox::{Inbox, InboxError, Next};
use crate::change::{Batch, Relation};

/// Reads a stream that is there already, in pieces as a socket might bring
/// them, and shows each batch: what [`super::Session`] does with the same bytes,
/// without a server. Tells the most memory that was held at one time, for bytes
/// not yet shown and for the batch that is, and how it ended: an error is of what
/// is no stream, and what was shown before it holds.
pub fn read_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    catalog: &[Relation],
    wanted: Wanted,
    show: impl FnMut(&Batch),
) -> (usize, Result<(), InboxError>) {
    let mut most = 0;
    let ended = read(pieces, catalog, wanted, show, &mut most);
    (most, ended)
}

fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    catalog: &[Relation],
    wanted: Wanted,
    mut show: impl FnMut(&Batch),
    most: &mut usize,
) -> Result<(), InboxError> {
    let mut inbox = Inbox::new(BytesMut::new(), catalog.to_vec(), wanted);
    let mut feedback = Feedback::new(Duration::ZERO, Duration::ZERO, Instant::now());
    for piece in pieces {
        inbox.room().extend_from_slice(piece);
        loop {
            *most = inbox.held_bytes().max(*most);
            match inbox.next(&mut feedback)? {
                Next::Batch(batch) => {
                    *most = (inbox.held_bytes() + batch.heap_bytes()).max(*most);
                    show(&batch);
                }
                Next::NeedsBytes => break,
                Next::NeedsCatalog => inbox.learn(catalog.to_vec()),
                Next::Notice(_) => {}
                Next::Error(_) | Next::Ended => return Ok(()),
            }
        }
    }
    Ok(())
}

//! Which notifications go into one request, and its body. Pure.
//!
//! What is counted is *pairs*, a notification on one of its channels: a server
//! accepts or refuses those. One notification goes to `events`, which takes up
//! to 100 of its channels; several go to `batch_events`, an entry for each pair.

use bytes::Bytes;

use crate::notification::{ChannelName, EventName, Notification};

use super::Capacity;

/// A request ready to be signed and sent.
#[derive(Clone, Debug)]
pub(in crate::deliver) struct Packed {
    pub(in crate::deliver) path: Path,
    pub(in crate::deliver) body: Bytes,
    /// How many pairs from the front it holds; at least one.
    pub(in crate::deliver) pairs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::deliver) enum Path {
    Events,
    BatchEvents,
}

impl Path {
    pub(super) fn name(self) -> &'static str {
        match self {
            Path::Events => "events",
            Path::BatchEvents => "batch_events",
        }
    }
}

/// Packs the front of a queue: at most `max_pairs`, beginning with channel
/// `first_channel` of the first notification. Never splits a notification
/// between two requests where it fits into one. A pair that does not even fit
/// alone is packed alone: whether it is too large is the server's to say.
///
/// `first_channel` is one of the first notification's, and `max_pairs` not 0.
pub(in crate::deliver) fn pack<'a>(
    first: &Notification,
    first_channel: usize,
    rest: impl Iterator<Item = &'a Notification>,
    max_pairs: usize,
    capacity: Capacity,
) -> Packed {
    let channels = &first.channels[first_channel..];
    let batch = Batch::new(max_pairs.min(capacity.batch_events), capacity.body_bytes);
    batch
        .pack(first, channels, rest)
        .unwrap_or_else(|| event(&first.event, channels, &first.data, max_pairs, capacity))
}

/// The body of `events` for as many of `channels` as fit, at least one.
pub(super) fn event(
    event: &EventName,
    channels: &[ChannelName],
    data: &str,
    max_channels: usize,
    capacity: Capacity,
) -> Packed {
    const END: &[u8] = b"]}";
    let names: usize = channels.iter().map(|channel| channel.len() + 3).sum();
    let mut body = Vec::with_capacity(data.len() * 5 / 4 + names.min(25_000) + 300);
    body.extend_from_slice(b"{\"name\":");
    write_string(&mut body, event.as_str());
    body.extend_from_slice(b",\"data\":");
    write_string(&mut body, data);
    body.extend_from_slice(b",\"channels\":[");
    let mut pairs = 0;
    for channel in channels.iter().take(max_channels.min(Capacity::CHANNELS)) {
        let mark = body.len();
        if pairs > 0 {
            body.push(b',');
        }
        write_string(&mut body, channel.as_str());
        if pairs > 0 && body.len() + END.len() > capacity.body_bytes {
            body.truncate(mark);
            break;
        }
        pairs += 1;
    }
    body.extend_from_slice(END);
    Packed { path: Path::Events, body: body.into(), pairs }
}

struct Batch {
    body: Vec<u8>,
    pairs: usize,
    max_pairs: usize,
    max_bytes: usize,
}

impl Batch {
    const END: &'static [u8] = b"]}";

    fn new(max_pairs: usize, max_bytes: usize) -> Batch {
        Batch { body: Vec::new(), pairs: 0, max_pairs, max_bytes }
    }

    /// `None` if fewer than two notifications fit: then `events` says the same
    /// in fewer bytes.
    fn pack<'a>(
        mut self,
        first: &Notification,
        channels: &[ChannelName],
        rest: impl Iterator<Item = &'a Notification>,
    ) -> Option<Packed> {
        let mut rest = rest.take_while(|notification| notification.refusal.is_none());
        let second = rest.next()?;
        if channels.len() + second.channels.len() > self.max_pairs {
            return None;
        }
        self.body.reserve(self.max_bytes.min(10_000));
        self.body.extend_from_slice(b"{\"batch\":[");
        if !self.add(first, channels) || !self.add(second, &second.channels) {
            return None;
        }
        while let Some(next) = rest.next()
            && self.add(next, &next.channels)
        {}
        self.body.extend_from_slice(Self::END);
        Some(Packed { path: Path::BatchEvents, body: self.body.into(), pairs: self.pairs })
    }

    /// Adds the notification on all of `channels`, or leaves it out.
    fn add(&mut self, notification: &Notification, channels: &[ChannelName]) -> bool {
        if self.pairs + channels.len() > self.max_pairs {
            return false;
        }
        let mark = self.body.len();
        for (index, channel) in channels.iter().enumerate() {
            if self.pairs + index > 0 {
                self.body.push(b',');
            }
            self.body.extend_from_slice(b"{\"name\":");
            write_string(&mut self.body, notification.event.as_str());
            self.body.extend_from_slice(b",\"channel\":");
            write_string(&mut self.body, channel.as_str());
            self.body.extend_from_slice(b",\"data\":");
            write_string(&mut self.body, &notification.data);
            self.body.push(b'}');
            if self.body.len() + Self::END.len() > self.max_bytes {
                self.body.truncate(mark);
                return false;
            }
        }
        self.pairs += channels.len();
        true
    }
}

fn write_string(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a string is JSON, and memory takes every write");
}

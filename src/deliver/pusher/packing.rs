//! Which notifications go into one request, and its body. Pure, but for the
//! random nonces of what is encrypted.
//!
//! What is counted is *pairs*, a notification on one of its channels: a server
//! accepts or refuses those. One notification goes to `events`, which takes up
//! to 100 of its channels; several go to `batch_events`, an entry for each pair,
//! and so does one whose channels need each their own data, being encrypted.

use std::borrow::Cow;

use bytes::Bytes;

use crate::notification::{ChannelName, EventName, Notification};

use super::{Capacity, EncryptionKey};

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

/// Packs requests for one endpoint.
#[derive(Clone, Debug)]
pub(in crate::deliver) struct Packer {
    pub(in crate::deliver) capacity: Capacity,
    /// For encrypted channels. Nothing names one without it.
    pub(in crate::deliver) key: Option<EncryptionKey>,
}

impl Packer {
    /// Packs the front of a queue: at most `max_pairs`, beginning with channel
    /// `first_channel` of the first notification. Never splits a notification
    /// between two requests where it fits into one. A pair that does not even fit
    /// alone is packed alone: whether it is too large is the server's to say.
    ///
    /// `first_channel` is one of the first notification's, and `max_pairs` not 0.
    pub(in crate::deliver) fn pack<'a>(
        &self,
        first: &Notification,
        first_channel: usize,
        rest: impl Iterator<Item = &'a Notification>,
        max_pairs: usize,
    ) -> Packed {
        let channels = &first.channels[first_channel..];
        Batch::new(self, max_pairs)
            .pack(first, channels, rest)
            .or_else(|| Batch::new(self, max_pairs).pack_channels(first, channels))
            .unwrap_or_else(|| {
                let socket_id = first.socket_id.as_deref();
                self.event(&first.event, channels, &first.data(), socket_id, max_pairs)
            })
    }

    /// The body of `events` for as many of `channels` as fit, at least one. What
    /// is encrypted for one channel says nothing on another. `socket_id` is the
    /// connection that is not told.
    pub(super) fn event(
        &self,
        event: &EventName,
        channels: &[ChannelName],
        data: &str,
        socket_id: Option<&str>,
        max_channels: usize,
    ) -> Packed {
        const END: &[u8] = b"]}";
        let names: usize = channels.iter().map(|channel| channel.len() + 3).sum();
        let mut body = Vec::with_capacity(data.len() * 5 / 4 + names.min(25_000) + 300);
        let data = self.data_on(&channels[0], data);
        let max_channels = match data {
            Cow::Borrowed(_) => max_channels.min(Capacity::CHANNELS),
            Cow::Owned(_) => 1,
        };
        body.extend_from_slice(b"{\"name\":");
        write_string(&mut body, event.as_str());
        body.extend_from_slice(b",\"data\":");
        write_string(&mut body, &data);
        write_socket_id(&mut body, socket_id);
        body.extend_from_slice(b",\"channels\":[");
        let mut pairs = 0;
        for channel in channels.iter().take(max_channels) {
            if pairs > 0 && channel.class().is_encrypted() {
                break;
            }
            let mark = body.len();
            if pairs > 0 {
                body.push(b',');
            }
            write_string(&mut body, channel.as_str());
            if pairs > 0 && body.len() + END.len() > self.capacity.body_bytes {
                body.truncate(mark);
                break;
            }
            pairs += 1;
        }
        body.extend_from_slice(END);
        Packed { path: Path::Events, body: body.into(), pairs }
    }

    /// What is sent on the channel; owned if it is encrypted. A request that is
    /// repeated is not encrypted anew: the same bytes again tell nobody more than
    /// they did before.
    fn data_on<'d>(&self, channel: &ChannelName, data: &'d str) -> Cow<'d, str> {
        if !channel.class().is_encrypted() {
            return Cow::Borrowed(data);
        }
        let key = self.key.as_ref().expect("without a key, rules with such a channel are refused");
        Cow::Owned(key.encrypt(channel, data))
    }
}

struct Batch<'p> {
    packer: &'p Packer,
    body: Vec<u8>,
    pairs: usize,
    max_pairs: usize,
}

impl Batch<'_> {
    const START: &'static [u8] = b"{\"batch\":[";
    const END: &'static [u8] = b"]}";

    fn new(packer: &Packer, max_pairs: usize) -> Batch<'_> {
        let max_pairs = max_pairs.min(packer.capacity.batch_events);
        Batch { packer, body: Vec::new(), pairs: 0, max_pairs }
    }

    /// Makes room at once for what a batch mostly takes.
    fn begin(&mut self) {
        /// Bytes of an event with a minimal payload, its quotes escaped.
        const ENTRY: usize = 250;
        let most = self.packer.capacity.body_bytes.min(10_000);
        self.body.reserve(self.max_pairs.saturating_mul(ENTRY).min(most));
        self.body.extend_from_slice(Self::START);
    }

    /// `None` if fewer than two notifications fit: then `events` mostly says the
    /// same in fewer bytes.
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
        self.begin();
        if !self.add(first, channels) || !self.add(second, &second.channels) {
            return None;
        }
        while let Some(next) = rest.next()
            && self.add(next, &next.channels)
        {}
        Some(self.end())
    }

    /// One notification on its first channels, as many as fit. `None` if fewer
    /// than two do, or if `events` takes them: none of them is encrypted.
    fn pack_channels(mut self, one: &Notification, channels: &[ChannelName]) -> Option<Packed> {
        if !channels.iter().take(self.max_pairs).any(|channel| channel.class().is_encrypted()) {
            return None;
        }
        self.begin();
        for channel in channels {
            if !self.add(one, std::slice::from_ref(channel)) {
                break;
            }
        }
        (self.pairs > 1).then(|| self.end())
    }

    fn end(mut self) -> Packed {
        self.body.extend_from_slice(Self::END);
        Packed { path: Path::BatchEvents, body: self.body.into(), pairs: self.pairs }
    }

    /// Adds the notification on all of `channels`, or leaves it out.
    fn add(&mut self, notification: &Notification, channels: &[ChannelName]) -> bool {
        if self.pairs + channels.len() > self.max_pairs {
            return false;
        }
        let mark = self.body.len();
        let data = notification.data();
        for (index, channel) in channels.iter().enumerate() {
            if self.pairs + index > 0 {
                self.body.push(b',');
            }
            self.body.extend_from_slice(b"{\"name\":");
            write_string(&mut self.body, notification.event.as_str());
            self.body.extend_from_slice(b",\"channel\":");
            write_string(&mut self.body, channel.as_str());
            self.body.extend_from_slice(b",\"data\":");
            write_string(&mut self.body, &self.packer.data_on(channel, &data));
            write_socket_id(&mut self.body, notification.socket_id.as_deref());
            self.body.push(b'}');
            if self.body.len() + Self::END.len() > self.packer.capacity.body_bytes {
                self.body.truncate(mark);
                return false;
            }
        }
        self.pairs += channels.len();
        true
    }
}

fn write_socket_id(body: &mut Vec<u8>, socket_id: Option<&str>) {
    if let Some(socket_id) = socket_id {
        body.extend_from_slice(b",\"socket_id\":");
        write_string(body, socket_id);
    }
}

/// As serde_json does, which writes piece by piece between escapes: what is sent is
/// JSON, and has a quote every few bytes.
fn write_string(body: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < b' ') {
        serde_json::to_writer(body, text).expect("a string is JSON, and memory takes every write");
        return;
    }
    body.reserve(text.len() * 5 / 4 + 2);
    body.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            body.push(b'\\');
        }
        body.push(byte);
    }
    body.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::deliver::pusher::Server;
    use crate::deliver::tests::notification;
    use crate::notification::{Payload, encrypted_len, escaped_len};

    fn packer(capacity: Capacity) -> Packer {
        Packer { capacity, key: Some(EncryptionKey::of(7)) }
    }

    fn pack<'a>(
        first: &Notification,
        first_channel: usize,
        rest: impl Iterator<Item = &'a Notification>,
        max_pairs: usize,
        capacity: Capacity,
    ) -> Packed {
        packer(capacity).pack(first, first_channel, rest, max_pairs)
    }

    /// The pairs of a request, in order: event, channel and data as it is read
    /// there.
    fn pairs(packed: &Packed) -> Vec<(String, String, String)> {
        let mut pairs = sent_pairs(packed);
        for (_, channel, data) in &mut pairs {
            let channel: ChannelName = channel.parse().expect("a channel");
            if channel.class().is_encrypted() {
                *data = EncryptionKey::of(7).decrypt(&channel, data);
            }
        }
        pairs
    }

    fn sent_pairs(packed: &Packed) -> Vec<(String, String, String)> {
        let body: Value = serde_json::from_slice(&packed.body).expect("a body is JSON");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        match packed.path {
            Path::Events => body["channels"]
                .as_array()
                .expect("channels")
                .iter()
                .map(|channel| (text(&body["name"]), text(channel), text(&body["data"])))
                .collect(),
            Path::BatchEvents => body["batch"]
                .as_array()
                .expect("a batch")
                .iter()
                .map(|e| (text(&e["name"]), text(&e["channel"]), text(&e["data"])))
                .collect(),
        }
    }

    /// Packs everything, as a lane does, and returns each request.
    fn pack_all(queue: &[Notification], max_pairs: usize, capacity: Capacity) -> Vec<Packed> {
        let mut requests = Vec::new();
        let (mut front, mut done) = (0, 0);
        while front < queue.len() {
            let rest = queue[front + 1..].iter();
            let packed = pack(&queue[front], done, rest, max_pairs, capacity);
            done += packed.pairs;
            while front < queue.len() && done >= queue[front].channels.len() {
                done -= queue[front].channels.len();
                front += 1;
            }
            requests.push(packed);
        }
        requests
    }

    fn flat(queue: &[Notification]) -> Vec<(String, String, String)> {
        let pairs = queue.iter().flat_map(|n| {
            n.channels.iter().map(|c| (n.event.to_string(), c.to_string(), n.data().into_owned()))
        });
        pairs.collect()
    }

    #[test]
    fn one_notification_is_an_event_on_all_its_channels() {
        let one = notification("post", 7, &["private-posts.7", "posts"]);
        let packed = pack(&one, 0, [].iter(), usize::MAX, Server::Any.capacity());
        assert_eq!(packed.path, Path::Events);
        assert_eq!(
            packed.body,
            r#"{"name":"PostUpdated","data":"{\"id\":7}","channels":["private-posts.7","posts"]}"#
        );
        assert_eq!(packed.pairs, 2);
    }

    #[test]
    fn a_text_is_written_as_serde_json_writes_it() {
        let every_ascii: String = (0..128_u8).map(char::from).collect();
        for text in ["", "plain", r#"{"a":"b\\\"é"}"#, &every_ascii, &every_ascii[32..]] {
            let mut body = Vec::new();
            write_string(&mut body, text);
            let expected = serde_json::to_string(text).expect("a string is JSON");
            assert_eq!(body, expected.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn a_socket_that_is_left_out_is_named_with_its_own_notification() {
        let mut one = notification("post", 7, &["a"]);
        one.socket_id = Some("1.2".into());
        let packed = pack(&one, 0, [].iter(), usize::MAX, Server::Any.capacity());
        assert_eq!(
            packed.body,
            r#"{"name":"PostUpdated","data":"{\"id\":7}","socket_id":"1.2","channels":["a"]}"#
        );
        let queue = [one, notification("post", 8, &["a"])];
        let packed = pack(&queue[0], 0, queue[1..].iter(), usize::MAX, Server::Any.capacity());
        let body: Value = serde_json::from_slice(&packed.body).expect("a body is JSON");
        assert_eq!(packed.pairs, 2);
        assert_eq!(body["batch"][0]["socket_id"], "1.2");
        assert_eq!(body["batch"][1].get("socket_id"), None);
    }

    #[test]
    fn several_notifications_are_a_batch_of_each_on_each_channel() {
        let queue = [notification("post", 7, &["a", "b"]), notification("post", 8, &["a"])];
        let packed = pack(&queue[0], 1, queue[1..].iter(), usize::MAX, Server::Any.capacity());
        assert_eq!(packed.path, Path::BatchEvents);
        assert_eq!(pairs(&packed), flat(&queue)[1..]);
    }

    #[test]
    fn reverb_takes_dozens_of_events_where_others_take_ten() {
        let queue: Vec<_> = (0..200).map(|id| notification("post", id, &["a"])).collect();
        let pairs = |server: Server| pack_all(&queue, usize::MAX, server.capacity())[0].pairs;
        assert!(pairs(Server::Reverb) > 100);
        assert_eq!(pairs(Server::Any), 10);
        assert_eq!(pairs(Server::Soketi), 10);
        assert_eq!(pairs(Server::LaravelWebsockets), 1);
    }

    #[test]
    fn more_than_a_hundred_channels_go_in_several_requests() {
        let names: Vec<String> = (0..250).map(|n| format!("private-posts.{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let queue = [notification("post", 1, &names)];
        let requests = pack_all(&queue, usize::MAX, Server::Sockudo.capacity());
        assert_eq!(requests.iter().map(|r| r.pairs).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(requests.iter().flat_map(pairs).collect::<Vec<_>>(), flat(&queue));
    }

    #[test]
    fn what_is_encrypted_has_an_event_or_an_entry_for_each_channel() {
        let names = ["private-encrypted-a", "b", "c", "private-encrypted-d"];
        let queue = [notification("post", 7, &names)];
        for (server, requests) in [
            (Server::Any, &[(Path::BatchEvents, 4)][..]),
            (Server::LaravelWebsockets, &[(Path::Events, 1), (Path::Events, 2), (Path::Events, 1)]),
        ] {
            let packed = pack_all(&queue, usize::MAX, server.capacity());
            let shapes: Vec<_> = packed.iter().map(|packed| (packed.path, packed.pairs)).collect();
            assert_eq!(shapes, requests);
            assert_eq!(packed.iter().flat_map(pairs).collect::<Vec<_>>(), flat(&queue));
        }
        let many: Vec<String> = (0..25).map(|n| format!("private-encrypted-{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let resync = [notification("post", 7, &many)];
        let packed = pack_all(&resync, usize::MAX, Server::Any.capacity());
        assert_eq!(packed.iter().map(|packed| packed.pairs).collect::<Vec<_>>(), [10, 10, 5]);
    }

    #[test]
    fn what_the_rules_refused_is_never_packed_nor_anything_behind_it() {
        let mut queue: Vec<_> = (0..4).map(|id| notification("post", id, &["a"])).collect();
        queue[2].refusal =
            Some(crate::notification::Refusal::Oversize { bytes: 20_000, limit: 8_000 });
        let packed = pack(&queue[0], 0, queue[1..].iter(), usize::MAX, Server::Any.capacity());
        assert_eq!(packed.pairs, 2);
    }

    #[test]
    fn the_longest_data_fits_even_with_the_longest_names() {
        let capacity = Server::Reverb.capacity();
        let limit = capacity.max_data_bytes();
        let encrypted = (0..limit).take_while(|len| encrypted_len(*len) <= limit).last();
        for (prefix, longest) in
            [("", limit - 2), ("private-encrypted-", encrypted.expect("some data fits"))]
        {
            let name = prefix.to_owned() + &"c".repeat(ChannelName::MAX_LEN - prefix.len());
            let mut one = notification("post", 1, &[&name]);
            one.event = r"\".repeat(EventName::MAX_LEN).parse().expect("an event");
            one.socket_id = Some("1".repeat(64).into());
            one.payload = Payload::Own("x".repeat(longest).into());
            let packed = pack(&one, 0, [].iter(), usize::MAX, capacity);
            assert!(packed.body.len() <= capacity.body_bytes, "{}", packed.body.len());
            let (_, _, data) = &sent_pairs(&packed)[0];
            assert!((limit - 6..=limit).contains(&escaped_len(data)), "{}", data.len());
        }
    }

    fn queue() -> impl Strategy<Value = Vec<Notification>> {
        let one = (1..130_usize, 0..5_000_usize, any::<bool>(), 0..170_usize, 20..130_usize);
        let few = (1..4_usize, 0..200_usize, any::<bool>(), 0..20_usize, 1..6_usize);
        let made = prop_oneof![1 => one, 6 => few].prop_map(|it| {
            let (channels, data, quotes, name, plain) = it;
            let class = |n| if n % plain == plain - 1 { "private-encrypted-" } else { "" };
            let names: Vec<String> = (0..channels)
                .map(|n| format!("{}{}-{n}", class(n), "c".repeat(name + 1)))
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut made = notification("post", 1, &names);
            let text = if quotes { "\"".repeat(data / 2) } else { "x".repeat(data) };
            made.payload =
                Payload::Own(serde_json::to_string(&text).expect("a string is JSON").into());
            made
        });
        prop::collection::vec(made, 1..40)
    }

    proptest! {
        #[test]
        fn every_request_is_within_the_limits_and_nothing_is_lost_or_reordered(
            queue in queue(),
            server in prop::sample::select(&Server::ALL[..]),
            max_pairs in prop_oneof![Just(usize::MAX), 1..20_usize],
        ) {
            let capacity = server.capacity();
            let requests = pack_all(&queue, max_pairs, capacity);
            for packed in &requests {
                let pairs = pairs(packed);
                prop_assert_eq!(packed.pairs, pairs.len());
                prop_assert!(pairs.len() <= max_pairs);
                prop_assert!(packed.body.len() <= capacity.body_bytes || pairs.len() == 1);
                match packed.path {
                    Path::Events => prop_assert!(pairs.len() <= Capacity::CHANNELS),
                    Path::BatchEvents => prop_assert!(pairs.len() <= capacity.batch_events),
                }
            }
            prop_assert_eq!(requests.iter().flat_map(pairs).collect::<Vec<_>>(), flat(&queue));
        }
    }
}

//! What is sent: an event with data on Pusher channels.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::change::{Position, Timestamp};

/// What happened to the entity, as a client is told.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Created,
    Updated,
    Deleted,
    Restored,
}

impl Action {
    pub const ALL: [Action; 4] =
        [Action::Created, Action::Updated, Action::Deleted, Action::Restored];

    /// `created`, as in payloads.
    pub fn name(self) -> &'static str {
        match self {
            Action::Created => "created",
            Action::Updated => "updated",
            Action::Deleted => "deleted",
            Action::Restored => "restored",
        }
    }

    /// `Created`, as in Laravel's event names.
    pub fn studly_name(self) -> &'static str {
        match self {
            Action::Created => "Created",
            Action::Updated => "Updated",
            Action::Deleted => "Deleted",
            Action::Restored => "Restored",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message for one or more channels, complete: only delivering is left.
#[derive(Clone, Debug)]
pub struct Notification {
    /// The rule that asked for it, as it is named in the configuration.
    pub rule: Arc<str>,
    pub entity: Arc<str>,
    pub action: Action,
    /// The payload's id as JSON: `42`, `"a4…"` or `{"order_id":7,"line":2}`.
    pub id: Box<str>,
    pub event: EventName,
    /// Without repeats, and at least one unless the notification is refused.
    pub channels: Vec<ChannelName>,
    /// The payload, a JSON text.
    pub data: Box<str>,
    /// Whether `data` is the minimal payload because the rule's own did not fit
    /// or could not be made.
    pub partial: bool,
    /// Of the commit that it stands for.
    pub position: Position,
    /// When that commit was.
    pub at: Timestamp,
    /// Why it must not be sent: it goes to the rejected file instead, in its
    /// turn, and `channels` and `data` hold what could be made.
    pub refusal: Option<Refusal>,
}

/// Why the rules refuse a notification that they had to make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the payload has {bytes} bytes, and the endpoint takes {limit}")]
    Oversize { bytes: usize, limit: usize },
    #[error("{part}: {reason}")]
    Unrenderable {
        /// The rule's option: `channels`, `event`, `id`.
        part: &'static str,
        reason: String,
    },
}

impl Notification {
    /// What it costs to keep, in bytes, near enough.
    pub fn weight(&self) -> usize {
        /// An allocator's own bytes, and those that it rounds up to.
        const ALLOCATION: usize = 16;
        /// Of an `Arc`.
        const COUNTS: usize = 16;
        let heap = |bytes: usize| bytes + ALLOCATION;
        let names = self.channels.iter().map(|channel| heap(channel.len() + COUNTS));
        let channels = heap(size_of_val(&*self.channels)) + names.sum::<usize>();
        // A queue that grows by doubling has half as much room again.
        let own = size_of::<Notification>() * 3 / 2;
        own + heap(self.id.len()) + heap(self.data.len()) + channels
    }
}

/// A Pusher channel: its class prefix and a name, for example
/// `private-posts.42`.
/// <https://pusher.com/docs/channels/using_channels/channels/#channel-naming-conventions>
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    pub const MAX_LEN: usize = 200;

    /// Whether the servers accept `byte` in a channel's name.
    pub fn allows(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-_=@,.;".contains(&byte)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn class(&self) -> ChannelClass {
        ChannelClass::of(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    #[error("the channel name is empty")]
    Empty,
    #[error("the channel name has {0} bytes, and the servers take {max}", max = ChannelName::MAX_LEN)]
    TooLong(usize),
    #[error("{0:?} may not be in a channel name")]
    Character(char),
}

impl FromStr for ChannelName {
    type Err = ChannelNameError;

    fn from_str(name: &str) -> Result<ChannelName, ChannelNameError> {
        let rest = name.strip_prefix('#').unwrap_or(name);
        if rest.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if !rest.bytes().all(Self::allows) {
            let is_refused = |c: &char| !u8::try_from(*c).is_ok_and(Self::allows);
            let character = rest.chars().find(is_refused).expect("a byte of it is refused");
            return Err(ChannelNameError::Character(character));
        }
        if name.len() > Self::MAX_LEN {
            return Err(ChannelNameError::TooLong(name.len()));
        }
        Ok(ChannelName(name.into()))
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for ChannelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Who may join a channel, and how, by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelClass {
    Public,
    Cache,
    Private,
    PrivateCache,
    Encrypted,
    EncryptedCache,
    Presence,
    PresenceCache,
}

impl ChannelClass {
    /// Longer prefixes first: each also begins with a shorter one of the list.
    const PREFIXES: [(&'static str, ChannelClass); 7] = [
        ("private-encrypted-cache-", ChannelClass::EncryptedCache),
        ("private-encrypted-", ChannelClass::Encrypted),
        ("private-cache-", ChannelClass::PrivateCache),
        ("private-", ChannelClass::Private),
        ("presence-cache-", ChannelClass::PresenceCache),
        ("presence-", ChannelClass::Presence),
        ("cache-", ChannelClass::Cache),
    ];

    /// The class that a name, or the literal beginning of one, belongs to.
    pub fn of(name: &str) -> ChannelClass {
        Self::PREFIXES
            .into_iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map_or(ChannelClass::Public, |(_, class)| class)
    }

    /// What a name of this class begins with; empty for a public channel.
    pub fn prefix(self) -> &'static str {
        Self::PREFIXES
            .into_iter()
            .find(|(_, class)| *class == self)
            .map_or("", |(prefix, _)| prefix)
    }
}

/// A Pusher event's name, for example `PostUpdated` or `App\Events\PostUpdated`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName(Arc<str>);

impl EventName {
    pub const MAX_LEN: usize = 200;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventNameError {
    #[error("the event name is empty")]
    Empty,
    #[error("the event name has {0} bytes, and the servers take {max}", max = EventName::MAX_LEN)]
    TooLong(usize),
    #[error("the event name has a control character")]
    Control,
    #[error("names that begin with pusher: or client- belong to the protocol")]
    Reserved,
}

impl FromStr for EventName {
    type Err = EventNameError;

    fn from_str(name: &str) -> Result<EventName, EventNameError> {
        if name.is_empty() {
            return Err(EventNameError::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(EventNameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(EventNameError::Control);
        }
        if ["pusher:", "pusher_internal:", "client-"].iter().any(|p| name.starts_with(p)) {
            return Err(EventNameError::Reserved);
        }
        Ok(EventName(name.into()))
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EventName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The length of `text` as a JSON string literal, quotes included: what a
/// payload takes of a request, since the protocol sends it as a string.
pub fn escaped_len(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0..0x20 => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
}

/// What one batch of changes became: its notifications in order, then how far
/// the source has come with them.
#[derive(Debug, Default)]
pub struct Handoff {
    pub notifications: Vec<Notification>,
    /// Every notification at or below this position has been handed on.
    pub reached: Option<Position>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_takes_only_what_the_servers_take() {
        for name in ["posts", "private-posts.42", "#server-to-user-42", "a=b@c,d;e_f"] {
            assert_eq!(name.parse::<ChannelName>().unwrap().as_str(), name);
        }
        assert_eq!("".parse::<ChannelName>(), Err(ChannelNameError::Empty));
        assert_eq!("#".parse::<ChannelName>(), Err(ChannelNameError::Empty));
        assert_eq!("a b".parse::<ChannelName>(), Err(ChannelNameError::Character(' ')));
        assert_eq!("a#b".parse::<ChannelName>(), Err(ChannelNameError::Character('#')));
        assert_eq!("é".parse::<ChannelName>(), Err(ChannelNameError::Character('é')));
        assert_eq!("x".repeat(201).parse::<ChannelName>(), Err(ChannelNameError::TooLong(201)));
    }

    #[test]
    fn a_class_is_told_by_the_longest_prefix() {
        for (name, class) in [
            ("posts", ChannelClass::Public),
            ("privateers", ChannelClass::Public),
            ("private-posts", ChannelClass::Private),
            ("private-encrypted-x", ChannelClass::Encrypted),
            ("private-cache-x", ChannelClass::PrivateCache),
            ("presence-room.1", ChannelClass::Presence),
            ("cache-x", ChannelClass::Cache),
        ] {
            assert_eq!(ChannelClass::of(name), class, "{name}");
            assert!(name.starts_with(class.prefix()));
        }
    }

    #[test]
    fn an_event_name_may_be_a_class_but_not_the_protocols() {
        assert!(r"App\Events\PostUpdated".parse::<EventName>().is_ok());
        assert_eq!("pusher:ping".parse::<EventName>(), Err(EventNameError::Reserved));
        assert_eq!("a\nb".parse::<EventName>(), Err(EventNameError::Control));
        assert_eq!("x".repeat(201).parse::<EventName>(), Err(EventNameError::TooLong(201)));
    }

    #[test]
    fn the_escaped_length_is_what_serde_json_writes() {
        let every_ascii: String = (0..128_u8).map(char::from).collect();
        for text in ["", "plain", r#"{"a":"b\n"}"#, "é\u{1}\t", &every_ascii] {
            let written = serde_json::to_string(text).expect("a string is JSON");
            assert_eq!(escaped_len(text), written.len(), "{text:?}");
        }
    }
}

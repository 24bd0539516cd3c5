//! Application events: which ones may be sent of those that transactions say.
//! Anyone who may log in can say one, so nothing goes without leave.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::config::OneOrMany;
use super::pattern::glob;
use super::rule::Options;
use crate::change::{Broadcast, Context, Transaction};
use crate::notification::{
    Action, ChannelClass, ChannelName, ChannelNameError, ChannelPattern, EventName, EventNameError,
    Measure, Notification, Part, Payload, Refusal, Terms, WindowBy,
};

/// `[broadcast]`: nothing is sent unless both are set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `private-admin.*`, or a list. A `*` stands for any text without a dot, as
    /// `{id}` does in Laravel's `routes/channels.php`, and never for what makes
    /// a channel one of another class: `private-*` allows no `private-encrypted-`,
    /// and `*` public channels only.
    pub channels: Option<OneOrMany<AllowedChannel>>,
    /// `'App\Events\*'`, or a list. A `*` stands for any text.
    pub events: Option<OneOrMany<AllowedEvent>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedChannel(ChannelPattern);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AllowedEvent(Box<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowedChannelError {
    #[error("{0:?} is no channel: {1}")]
    Name(String, ChannelNameError),
    #[error(
        "{text:?} allows no {class} channel, since the class must be written out; expected \
         \"{class}-*\" or such"
    )]
    Class { text: String, class: &'static str },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no event: {1}")]
pub struct AllowedEventError(String, EventNameError);

/// Why `[broadcast]` cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastsError {
    #[error("`events` is not set, so no application event is sent; for example ['App\\Events\\*']")]
    NoEvents,
    #[error("`channels` is not set, so no application event is sent; for example [\"private-*\"]")]
    NoChannels,
    #[error(
        "{0} is an encrypted channel, and `encryption_key` of [pusher] is not set; for a new one: \
         openssl rand -base64 32"
    )]
    NoKey(String),
}

/// What may be sent, and by which terms.
#[derive(Debug)]
pub struct Broadcasts {
    channels: Vec<AllowedChannel>,
    events: Vec<AllowedEvent>,
    terms: Arc<Terms>,
}

/// Why an application event is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    #[error("application events are off")]
    Off { channel: String, event: String },
    #[error("no channel of this name can be: {0}")]
    Channel(ChannelNameError),
    #[error("no event of this name can be: {0}")]
    Event(EventNameError),
    #[error("channel {0} is not allowed")]
    ChannelNotAllowed(Shown),
    #[error("event {0} is not allowed")]
    EventNotAllowed(Shown),
}

/// A name that a stranger may have chosen, cut short and without what would
/// command a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    const MAX: usize = 80;

    fn new(name: &str) -> Shown {
        let mut shown: String = name.chars().take(Shown::MAX).collect();
        shown = shown.replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
        if name.chars().nth(Shown::MAX).is_some() {
            shown.push('…');
        }
        Shown(shown)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Unsent {
    /// The same for all that are refused alike.
    pub fn reason(&self) -> &'static str {
        match self {
            Unsent::Off { .. } => "off",
            Unsent::Channel(_) => "channel_name",
            Unsent::Event(_) => "event_name",
            Unsent::ChannelNotAllowed(_) => "channel_not_allowed",
            Unsent::EventNotAllowed(_) => "event_not_allowed",
        }
    }

    /// The lines of configuration that would allow it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Unsent::Off { channel, event } => {
                format!("[broadcast]\nchannels = [\"{channel}\"]\nevents = ['{event}']")
            }
            Unsent::ChannelNotAllowed(name) => {
                format!("[broadcast]\nchannels = [\"{name}\"], beside those that are there")
            }
            Unsent::EventNotAllowed(name) => {
                format!("[broadcast]\nevents = ['{name}'], beside those that are there")
            }
            Unsent::Channel(_) | Unsent::Event(_) => return None,
        })
    }
}

impl Broadcasts {
    /// What names their resyncs, beside the rules' names.
    pub const NAME: &'static str = "broadcast";

    /// `None`: application events are off.
    ///
    /// # Errors
    /// What is wrong with which option.
    pub fn new(
        config: Config,
        options: &Options,
    ) -> Result<Option<Broadcasts>, (&'static str, BroadcastsError)> {
        let (channels, events) = match (config.channels, config.events) {
            (Some(channels), Some(events)) => (channels.0, events.0),
            (Some(_), None) => return Err(("broadcast.channels", BroadcastsError::NoEvents)),
            (None, Some(_)) => return Err(("broadcast.events", BroadcastsError::NoChannels)),
            (None, None) => return Ok(None),
        };
        let is_encrypted = |channel: &&AllowedChannel| channel.0.class().is_encrypted();
        if let Some(channel) = channels.iter().find(is_encrypted)
            && !options.encrypts
        {
            let prefix = channel.0.prefix().to_owned();
            return Err(("broadcast.channels", BroadcastsError::NoKey(prefix)));
        }
        let terms = Terms {
            // Of the channel: their order is that of each channel.
            window_by: WindowBy::Channel,
            on: [false; Action::ALL.len()],
            may_collapse: !channels.iter().any(|channel| channel.0.names_users()),
            channels: channels.iter().map(|channel| channel.0.clone()).collect(),
            ..Terms::plain(Broadcasts::NAME, Broadcasts::NAME)
        };
        Ok(Some(Broadcasts { channels, events, terms: terms.into() }))
    }

    pub(super) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// What is sent for it.
    pub(super) fn notification(
        &self,
        broadcast: &Broadcast,
        transaction: Transaction,
        context: Option<&Arc<Context>>,
        max_data_bytes: usize,
    ) -> Result<Notification, Unsent> {
        let (channel, event) = names(broadcast)?;
        if !self.channels.iter().any(|allowed| allowed.0.matches(&channel)) {
            return Err(Unsent::ChannelNotAllowed(Shown::new(channel.as_str())));
        }
        let is_allowed =
            |allowed: &AllowedEvent| glob(allowed.0.as_bytes(), event.as_str().as_bytes());
        if !self.events.iter().any(is_allowed) {
            return Err(Unsent::EventNotAllowed(Shown::new(event.as_str())));
        }
        let pattern = vec![Part::Text(channel.as_str().into())];
        let pattern = ChannelPattern::new(pattern, channel.class());
        let bytes = Measure::of(&[pattern]).bytes(&broadcast.data);
        let limit = max_data_bytes;
        Ok(Notification {
            terms: self.terms.clone(),
            action: Action::Updated,
            id: "null".into(),
            event,
            event_index: 0,
            channels: vec![channel],
            payload: Payload::Own(broadcast.data.clone()),
            socket_id: context.and_then(|context| context.socket_id().cloned()),
            count: 1,
            position: transaction.position,
            at: transaction.at,
            resync: None,
            shares: Vec::new(),
            refusal: (bytes > limit).then_some(Refusal::Oversize { bytes, limit }),
        })
    }
}

/// Those of an event that is not allowed, since none is.
pub(super) fn off(broadcast: &Broadcast) -> Unsent {
    match names(broadcast) {
        Ok((channel, event)) => Unsent::Off {
            channel: Shown::new(channel.as_str()).to_string(),
            event: Shown::new(event.as_str()).to_string(),
        },
        Err(unsent) => unsent,
    }
}

fn names(broadcast: &Broadcast) -> Result<(ChannelName, EventName), Unsent> {
    let channel = broadcast.channel.parse().map_err(Unsent::Channel)?;
    let event = broadcast.event.parse().map_err(Unsent::Event)?;
    Ok((channel, event))
}

impl TryFrom<String> for AllowedChannel {
    type Error = AllowedChannelError;

    fn try_from(text: String) -> Result<AllowedChannel, AllowedChannelError> {
        // A letter stands for what a `*` does.
        if let Err(error) = text.replace('*', "x").parse::<ChannelName>() {
            return Err(AllowedChannelError::Name(text, error));
        }
        let (head, is_open) = match text.split_once('*') {
            Some((head, _)) => (head, true),
            None => (&*text, false),
        };
        let class = ChannelClass::of(head);
        // Whoever writes `private*` or `private-cache*` means what comes with a dash.
        if is_open
            && !head.is_empty()
            && let Some(meant) = ChannelClass::after(head)
            && (class == ChannelClass::Public || meant.prefix() == format!("{head}-"))
        {
            let class = meant.prefix().trim_end_matches('-');
            return Err(AllowedChannelError::Class { text, class });
        }
        let mut parts = Vec::new();
        for (index, piece) in text.split('*').enumerate() {
            if index > 0 {
                parts.push(Part::Value { dotted: false });
            }
            if !piece.is_empty() {
                parts.push(Part::Text(piece.into()));
            }
        }
        Ok(AllowedChannel(ChannelPattern::new(parts, class)))
    }
}

impl TryFrom<String> for AllowedEvent {
    type Error = AllowedEventError;

    fn try_from(text: String) -> Result<AllowedEvent, AllowedEventError> {
        match text.parse::<EventName>() {
            Ok(_) => Ok(AllowedEvent(text.into())),
            Err(error) => Err(AllowedEventError(text, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::change::{Position, Timestamp};

    fn broadcasts(config: &str) -> Result<Option<Broadcasts>, String> {
        let config: Config = toml::from_str(config).map_err(|error| error.to_string())?;
        let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: false };
        Broadcasts::new(config, &options).map_err(|(option, error)| format!("{option}: {error}"))
    }

    fn allowing(channels: &str, events: &str) -> Broadcasts {
        let config = format!("channels = {channels}\nevents = {events}");
        broadcasts(&config).expect("it is right").expect("both are set")
    }

    fn sent(broadcasts: &Broadcasts, channel: &str, event: &str) -> Result<Notification, Unsent> {
        let broadcast =
            Broadcast { channel: channel.into(), event: event.into(), data: r#"{"a":1}"#.into() };
        let transaction =
            Transaction { xid: 7, at: Timestamp::from_unix_micros(1), position: Position::new(9) };
        let context = Context::parse(br#"{"socket_id":"1.2"}"#).expect("a context");
        broadcasts.notification(&broadcast, transaction, Some(&Arc::new(context)), 100)
    }

    #[test]
    fn what_may_go_to_users_own_channels_is_never_told_by_a_resync_instead() {
        let may_collapse = |channels| allowing(channels, "'*'").terms().may_collapse;
        assert!(may_collapse("['private-*', '#server-to-user-42']"));
        assert!(!may_collapse("['private-*', '#server-to-user-*']"), "no list has them");
    }

    #[test]
    fn what_is_allowed_is_sent_as_it_is_and_not_to_who_caused_it() {
        let broadcasts = allowing(r#"["private-admin.*", "news"]"#, r"['App\Events\*']");
        let sent = sent(&broadcasts, "private-admin.7", r"App\Events\Orders\Paid").expect("sent");
        assert_eq!(sent.data(), r#"{"a":1}"#);
        assert_eq!(sent.event.as_str(), r"App\Events\Orders\Paid");
        assert_eq!(sent.channels[0].as_str(), "private-admin.7");
        assert_eq!(sent.socket_id.as_deref(), Some("1.2"));
        assert_eq!((sent.position, sent.refusal), (Position::new(9), None));
        assert_eq!(&*sent.terms.rule, "broadcast");
    }

    #[test]
    fn a_star_is_no_dot_and_no_other_class() {
        let table = [
            ("private-admin.*", "private-admin.7", true),
            ("private-admin.*", "private-admin.7.secret", false),
            ("private-admin.*", "private-admins", false),
            ("private-admin.*", "admin.7", false),
            ("private-*", "private-users", true),
            ("private-*", "private-encrypted-users", false),
            ("private-*", "private-cache-users", false),
            ("private-*.*", "private-users.7", true),
            ("*", "news", true),
            ("*", "private-news", false),
            ("*", "presence-news", false),
            ("*", "cache-news", false),
            ("presence-*", "presence-room", true),
            ("*news", "private-news", false),
            ("news", "news", true),
            ("news", "newsletter", false),
        ];
        for (pattern, channel, is_allowed) in table {
            let broadcasts = allowing(&format!("\"{pattern}\""), "'*'");
            let sent = sent(&broadcasts, channel, "A");
            assert_eq!(sent.is_ok(), is_allowed, "{pattern} {channel}");
        }
    }

    #[test]
    fn what_is_not_allowed_names_the_line_that_would_allow_it() {
        let broadcasts = allowing("'private-admin.*'", r"'App\Events\*'");
        let unsent = sent(&broadcasts, "private-users.7", r"App\Events\Paid").unwrap_err();
        assert_eq!(unsent.to_string(), "channel private-users.7 is not allowed");
        assert!(unsent.fix().expect("a fix").contains("channels = [\"private-users.7\"]"));
        let unsent = sent(&broadcasts, "private-admin.7", r"App\Jobs\Paid").unwrap_err();
        assert_eq!(unsent.to_string(), r"event App\Jobs\Paid is not allowed");
        assert!(unsent.fix().expect("a fix").contains(r"events = ['App\Jobs\Paid']"));
        for (channel, event) in [("a b", "A"), ("", "A"), ("c", "pusher:ping"), ("c", "a\nb")] {
            assert!(sent(&broadcasts, channel, event).is_err_and(|e| e.fix().is_none()));
        }
        let long = sent(&broadcasts, &"c".repeat(190), "A").unwrap_err().to_string();
        assert!(long.len() < 120, "{long}");
        let odd = sent(&broadcasts, "private-admin.7", "a\u{202e}b").unwrap_err();
        assert_eq!(odd.to_string(), "event a?b is not allowed");
    }

    #[test]
    fn what_the_endpoint_would_not_take_is_refused_in_its_turn() {
        let broadcasts = allowing("'private-*'", "'*'");
        let transaction =
            Transaction { xid: 7, at: Timestamp::from_unix_micros(1), position: Position::new(9) };
        let data = format!("\"{}\"", "x".repeat(100)).into();
        let broadcast = Broadcast { channel: "private-a".into(), event: "A".into(), data };
        let sent = broadcasts.notification(&broadcast, transaction, None, 100).expect("in turn");
        assert_eq!(sent.refusal, Some(Refusal::Oversize { bytes: 106, limit: 100 }));
    }

    #[test]
    fn a_section_that_allows_nothing_or_by_mistake_says_so() {
        assert!(broadcasts("").expect("off").is_none());
        for (config, says) in [
            ("channels = 'private-*'", "broadcast.channels: `events` is not set"),
            ("events = '*'", "broadcast.events: `channels` is not set"),
            ("channels = 'private*'\nevents = '*'", "\"private-*\" or such"),
            ("channels = 'private-cache*'\nevents = '*'", "\"private-cache-*\" or such"),
            ("channels = 'pres*'\nevents = '*'", "\"presence-*\" or such"),
            ("channels = 'a b'\nevents = '*'", "may not be in a channel name"),
            ("channels = []\nevents = '*'", "at least one"),
            ("channels = 'private-encrypted-*'\nevents = '*'", "`encryption_key`"),
            ("channels = 'a'\nevents = 'pusher:*'", "belong to the protocol"),
        ] {
            let error = broadcasts(config).expect_err(config);
            assert!(error.contains(says), "{config}: {error}");
        }
    }
}

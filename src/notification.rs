//! What is sent: an event with data on Pusher channels.
//!
//! A [`Notification`] tells of a row, a [`Resync`] of so much that everyone who
//! looks at a rule's rows must fetch again. What both have from their rule is in
//! its [`Terms`].

mod audience;
mod channel;
mod demand;
mod event;
mod json;
mod let_go;
mod measure;
mod pattern;
mod payload;
mod resync;
mod share;
mod terms;

pub use audience::{Audience, NameHash};
pub use channel::{ChannelClass, ChannelName, ChannelNameError};
pub use demand::{Demand, Demanded};
pub use event::{EventName, EventNameError};
pub use json::{escaped_len, write_string};
pub use let_go::{LetGo, Unmet, Why};
pub use measure::{Measure, encrypted_len};
pub use pattern::{ChannelPattern, Part};
pub use payload::{Changed, Draft, Payload, Render, minimal_may_exceed};
pub use resync::{Reason, Resync};
pub use share::Share;
pub use terms::{Piece, Shape, Tells, Terms, WindowBy};

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use self::payload::Shared;
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

/// A message for one or more channels: only folding and delivering are left.
#[derive(Clone, Debug)]
pub struct Notification {
    /// What its rule says of all notifications about the table; the rule that
    /// spoke last, if it is several rules'.
    pub terms: Arc<Terms>,
    /// What each rule has in it, in the order of their last changes. Empty if it
    /// is of one rule alone.
    pub shares: Vec<Share>,
    pub action: Action,
    /// The payload's id as JSON: `42`, `"a4…"` or `{"order_id":7,"line":2}`.
    /// `null` if it stands for several.
    pub id: Box<str>,
    pub event: EventName,
    /// Which of the rule's events that is.
    pub event_index: usize,
    /// Without repeats, and at least one unless the notification is refused.
    pub channels: Vec<ChannelName>,
    pub payload: Payload,
    /// The connection that is not told, since its user made the change.
    pub socket_id: Option<Arc<str>>,
    /// How many changes it stands for.
    pub count: u64,
    /// Of the first commit that it stands for: what may not be confirmed before
    /// it is accepted.
    pub position: Position,
    /// When the last commit that it stands for was.
    pub at: Timestamp,
    /// Why it tells to fetch everything again, if it does: `action` and `id` say
    /// nothing then.
    pub resync: Option<Reason>,
    /// Why it must not be sent: it goes to the rejected file instead, in its
    /// turn, and `channels` and `payload` hold what could be made.
    pub refusal: Option<Refusal>,
}

/// Why the rules refuse a notification that they had to make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the payload has {bytes} bytes, and the endpoint takes {limit}")]
    Oversize {
        /// As it would be sent: on an encrypted channel, encrypted.
        bytes: usize,
        limit: usize,
    },
    #[error("{part}: {reason}")]
    Unrenderable {
        /// The rule's option: `channels`, `event`, `id`.
        part: &'static str,
        reason: String,
    },
}

impl Notification {
    /// What is sent, a JSON text.
    pub fn data(&self) -> Cow<'_, str> {
        match &self.payload {
            Payload::Own(text) | Payload::Drawn { text, .. } => Cow::Borrowed(text),
            Payload::Minimal { changed, partial, .. } => {
                Cow::Owned(payload::minimal(self, changed.as_ref(), *partial))
            }
        }
    }

    /// `updated`, `resync`, or `broadcast`.
    pub fn action_name(&self) -> &'static str {
        match self.resync {
            Some(_) => "resync",
            None if self.terms.is_of_broadcasts() => "broadcast",
            None => self.action.name(),
        }
    }

    /// Whether the payload is the minimal one because the rule's own did not fit
    /// or could not be made.
    pub fn is_partial(&self) -> bool {
        matches!(self.payload, Payload::Minimal { partial: true, .. })
    }

    /// Whether it can tell of another action: an event that row values name
    /// cannot be named anew.
    pub fn may_become(&self, action: Action) -> bool {
        action == self.action || self.terms.event(self.event_index, action).is_some()
    }

    /// Makes it say what both say: the channels of both; if both are by the same
    /// terms, the changed columns of both and the old row of `earlier`; the rest
    /// as it is now. `action` is one that [`may_become`](Notification::may_become)
    /// allows.
    pub fn absorb(&mut self, mut earlier: Notification, action: Action) {
        if action != self.action {
            let event = self.terms.event(self.event_index, action);
            self.event = event.expect("the caller has asked may_become").clone();
            self.action = action;
        }
        self.join_shares(&mut earlier);
        let mut channels = earlier.channels;
        channels.extend(std::mem::take(&mut self.channels));
        let mut index = 0;
        while index < channels.len() {
            match channels[..index].contains(&channels[index]) {
                true => drop(channels.remove(index)),
                false => index += 1,
            }
        }
        self.channels = channels;
        let is_one_rule = Arc::ptr_eq(&self.terms, &earlier.terms);
        let shared = match is_one_rule && self.id == earlier.id {
            true if self.terms.id_is_row => Shared::Row { gapless: self.terms.tells == Tells::All },
            true => Shared::Id,
            false => Shared::Nothing,
        };
        self.payload.absorb(earlier.payload, action, shared);
        self.count += earlier.count;
        self.position = self.position.min(earlier.position);
        self.at = self.at.max(earlier.at);
        // Who made the one change has not seen the other.
        if self.socket_id != earlier.socket_id {
            self.socket_id = None;
        }
        if self.id != earlier.id {
            self.id = "null".into();
        }
    }

    /// What it costs to keep, in bytes, near enough.
    pub fn weight(&self) -> usize {
        /// An allocator's own bytes, and those that it rounds up to.
        const ALLOCATION: usize = 16;
        /// Of an `Arc`.
        const COUNTS: usize = 16;
        let heap = |bytes: usize| bytes + ALLOCATION;
        let names = self.channels.iter().map(|channel| heap(channel.len() + COUNTS));
        let channels = heap(size_of_val(&*self.channels)) + names.sum::<usize>();
        let shares = self.shares.iter().map(|share| {
            size_of::<Share>() + heap(share.channels.len() * size_of::<ChannelName>())
        });
        // A queue that grows by doubling has half as much room again.
        let own = size_of::<Notification>() * 3 / 2;
        let socket_id = self.socket_id.as_ref().map_or(0, |id| heap(id.len() + COUNTS));
        let own = own + heap(self.id.len()) + heap(self.payload.heap_bytes());
        own + socket_id + channels + shares.sum::<usize>()
    }
}

/// What one batch of changes became: its notifications in order, then how far
/// the source has come with them.
#[derive(Debug, Default)]
pub struct Handoff {
    pub notifications: Vec<Notification>,
    /// What is not told change by change.
    pub resyncs: Vec<Resync>,
    /// What nobody is told of, where that was asked for.
    pub let_go: Vec<LetGo>,
    /// Everything at or below this position has been handed on.
    pub reached: Option<Position>,
}

impl Handoff {
    /// How far it goes, and since when what it holds was committed.
    pub fn span(&self) -> Option<(Position, Timestamp)> {
        let notifications = self.notifications.iter().map(|it| (it.position, it.at));
        let resyncs = self.resyncs.iter().filter_map(|it| Some((it.position?, it.at)));
        let join = |(position, at): (Position, Timestamp), (later, later_at)| {
            (position.max(later), at.min(later_at))
        };
        notifications.chain(resyncs).reduce(join)
    }
}

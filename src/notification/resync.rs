use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Action, Audience, ChannelName, Notification, Payload, Piece, Terms, write_string};
use crate::change::{Position, Timestamp};

/// Everyone who looks at rows of a rule must fetch them again.
#[derive(Clone, Debug)]
pub struct Resync {
    pub terms: Arc<Terms>,
    pub reason: Reason,
    /// How many changes it stands for, if that is known.
    pub count: Option<u64>,
    pub audience: Audience,
    /// Of the first commit that it stands for: what may not be confirmed before
    /// it is accepted. `None` if it is recorded as owed.
    pub position: Option<Position>,
    /// When the last commit that it stands for was.
    pub at: Timestamp,
}

/// Why changes are not told one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Too many rows changed at once. What is only counted has this reason.
    Bulk,
    /// The endpoint was away for so long that memory for changes ran out.
    Backlog,
    /// The changes are older than anyone needs to hear of one by one.
    Age,
    /// The table was emptied at once.
    Truncate,
    /// The endpoint refused the notification.
    Refused,
    /// So that the database does not fill its disk, changes were passed over.
    Shed,
    /// Changes may have been passed over while rowcast was not there.
    Gap,
    /// The slot was lost, and its changes with it.
    Slot,
    /// A row of another table, which a change was to be told by, is not known.
    Lookup,
    /// Somebody asked for it by `rowcast replay`.
    Replay,
}

impl Reason {
    pub const ALL: [Reason; 10] = [
        Reason::Bulk,
        Reason::Backlog,
        Reason::Age,
        Reason::Truncate,
        Reason::Refused,
        Reason::Shed,
        Reason::Gap,
        Reason::Slot,
        Reason::Lookup,
        Reason::Replay,
    ];

    /// As in payloads.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Bulk => "bulk",
            Reason::Backlog => "backlog",
            Reason::Age => "age",
            Reason::Truncate => "truncate",
            Reason::Refused => "refused",
            Reason::Shed => "shed",
            Reason::Gap => "gap",
            Reason::Slot => "slot",
            Reason::Lookup => "lookup",
            Reason::Replay => "replay",
        }
    }
}

impl Resync {
    /// Makes it stand for what both stand for, but for the position, which is the
    /// frontier's too. Reasons are in the order of what they say of the changes lost
    /// to sight.
    pub fn join(&mut self, other: &Resync) {
        self.reason = self.reason.max(other.reason);
        self.count = self.count.zip(other.count).map(|(one, other)| one + other);
        self.audience.join(&other.audience);
        self.at = self.at.max(other.at);
    }

    /// How many changes were counted for it that no notification was made for.
    pub fn counted(&self) -> u64 {
        self.count.filter(|_| self.reason == Reason::Bulk).unwrap_or_default()
    }

    /// Its notifications on these channels, one for each event. `position` is
    /// what they hold back.
    pub fn notifications(
        &self,
        channels: Vec<ChannelName>,
        position: Position,
    ) -> impl Iterator<Item = Notification> {
        let data: Box<str> = self.data().into();
        let Resync { terms, reason, count, at, .. } = self;
        terms.resync_events.iter().enumerate().map(move |(event_index, event)| Notification {
            terms: terms.clone(),
            shares: Vec::new(),
            action: Action::Updated,
            id: "null".into(),
            event: event.clone(),
            event_index,
            channels: channels.clone(),
            payload: Payload::Own(data.clone()),
            count: count.unwrap_or(1),
            position,
            at: *at,
            socket_id: None,
            resync: Some(*reason),
            refusal: None,
        })
    }

    /// Its payload, a JSON text.
    fn data(&self) -> String {
        let mut out = String::new();
        let count = self.count.map(|count| count.to_string());
        if let Some(pieces) = &self.terms.resync_data {
            for piece in pieces {
                out.push_str(match piece {
                    Piece::Text(text) => text,
                    Piece::Reason => self.reason.name(),
                    Piece::Count { within_text } => match &count {
                        Some(count) => count,
                        None if *within_text => "",
                        None => "null",
                    },
                });
            }
            return out;
        }
        out.push_str("{\"entity\":");
        write_string(&mut out, &self.terms.entity);
        for text in [",\"action\":\"resync\",\"reason\":\"", self.reason.name(), "\""] {
            out.push_str(text);
        }
        if let Some(count) = &count {
            out.push_str(",\"count\":");
            out.push_str(count);
        }
        out.push('}');
        out
    }
}

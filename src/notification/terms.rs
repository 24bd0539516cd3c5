use std::sync::Arc;
use std::time::Duration;

use super::{Action, ChannelPattern, Demanded, EventName};
use crate::change::TableName;

/// What a rule says of all notifications about one table, made once.
#[derive(Debug)]
pub struct Terms {
    /// As it is named in the configuration.
    pub rule: Arc<str>,
    /// Whose changes it announces.
    pub table: TableName,
    pub entity: Arc<str>,
    /// How long further changes of what was just sent are gathered. `None`: each
    /// is sent, and nothing is folded.
    pub window: Option<Duration>,
    pub window_by: WindowBy,
    /// Whether an id names one row. Not so where a child announces its parent.
    pub id_is_row: bool,
    pub tells: Tells,
    /// The actions that the rule announces; none for application events, which
    /// tell of no row.
    pub on: [bool; Action::ALL.len()],
    /// The names of each of the rule's events by action; `None` where row values
    /// name it.
    pub events: Vec<Option<[EventName; Action::ALL.len()]>>,
    pub shape: Shape,
    /// Too many changes may be told by one resync. Otherwise reading waits.
    pub may_collapse: bool,
    /// Events that a resync is told by. Without any, nothing follows what is refused.
    pub resync_events: Vec<EventName>,
    /// A resync's payload, if it is not the minimal one.
    pub resync_data: Option<Box<[Piece]>>,
    /// Every channel that the rule may name for the table.
    pub channels: Vec<ChannelPattern>,
    /// What is wanted of a change now.
    pub demanded: Demanded,
}

/// What listeners know of a rule's payloads before they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each is the minimal one.
    Minimal,
    /// Its keys, and the values that are the same for all rows.
    Own(Box<str>),
    /// It says how a row was before, which only the rule's own can say.
    Before,
}

/// Which changes of a row the rule announces. Others may lie between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    All,
    /// Not each update, but always that a row is there and that it is gone: what
    /// one transaction did to a row may come to nothing.
    SomeUpdates,
    Some,
}

/// Which notifications share a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowBy {
    /// Those about one entity and id.
    #[default]
    Id,
    /// Those on one channel, whatever their id.
    Channel,
}

/// A piece of a resync's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Of the JSON text itself.
    Text(Box<str>),
    /// The reason's word, without quotes.
    Reason,
    /// How many changes it stands for. If that is unknown: `null`, or nothing
    /// within a text.
    Count { within_text: bool },
}

impl Terms {
    /// The event of that index for the action, if no row value names it.
    pub fn event(&self, index: usize, action: Action) -> Option<&EventName> {
        Some(&self.events.get(index)?.as_ref()?[action as usize])
    }

    /// Whether they are of application events.
    pub fn is_of_broadcasts(&self) -> bool {
        !self.on.contains(&true)
    }

    /// Terms by which every change of the table that is called as the rule is
    /// sent, on channels that are told by each notification only.
    pub fn plain(rule: &str, entity: &str) -> Terms {
        Terms {
            rule: rule.into(),
            table: TableName::new("public", rule),
            entity: entity.into(),
            window: None,
            window_by: WindowBy::Id,
            id_is_row: true,
            tells: Tells::All,
            on: [true; Action::ALL.len()],
            events: Vec::new(),
            shape: Shape::Minimal,
            may_collapse: false,
            resync_events: vec!["rowcast.resync".parse().expect("a valid event name")],
            resync_data: None,
            channels: Vec::new(),
            demanded: Demanded::default(),
        }
    }
}

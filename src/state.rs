//! What must outlive the process: how far changes were delivered, of which
//! server, and which resyncs are owed. A small file for each source.

mod file;

pub use file::{Loaded, StateError, StateFile};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::Position;
use crate::notification::Reason;

/// As it is written, before the server is told to forget what lies below
/// `position`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster's identifier, as `IDENTIFY_SYSTEM` and `pg_control_system` give
    /// it.
    pub system: Box<str>,
    pub timeline: u32,
    /// Whose state it is: the file's own [name](StateFile::slot).
    pub slot: Box<str>,
    /// At or above what the server was told to be delivered.
    #[serde(with = "text")]
    pub position: Position,
    /// What decides which changes come: the publication and its tables, or the
    /// outbox and its triggers. Each part has a name of its own, and another one
    /// once it was taken out and put back.
    #[serde(alias = "publication")]
    pub parts: BTreeSet<Box<str>>,
    /// The rules whose pages must fetch everything again.
    pub owed: Owed,
}

/// Resyncs that are owed, by rule. The first reason stays: what comes later is
/// told by the same resync.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owed(BTreeMap<Arc<str>, Reason>);

impl Owed {
    pub fn all(rules: impl IntoIterator<Item = Arc<str>>, reason: Reason) -> Owed {
        Owed(rules.into_iter().map(|rule| (rule, reason)).collect())
    }

    pub fn add(&mut self, owed: Owed) {
        for (rule, reason) in owed.0 {
            self.0.entry(rule).or_insert(reason);
        }
    }

    pub fn settle<'a>(&mut self, rules: impl IntoIterator<Item = &'a Arc<str>>) {
        for rule in rules {
            self.0.remove(rule);
        }
    }

    pub fn reason(&self, rule: &str) -> Option<Reason> {
        self.0.get(rule).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Reason)> {
        self.0.iter().map(|(rule, reason)| (rule, *reason))
    }

    pub fn rules(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A position as Postgres writes one in the log.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::change::{Lsn, Position};

    pub(super) fn serialize<S: Serializer>(at: &Position, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Lsn::from(at.value()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Position, D::Error> {
        let lsn: Lsn = String::deserialize(from)?.parse().map_err(de::Error::custom)?;
        Ok(Position::new(lsn.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_of_a_rule_stays_until_it_is_settled() {
        let mut owed = Owed::all(["posts".into(), "tags".into()], Reason::Shed);
        owed.add(Owed::all(["posts".into(), "users".into()], Reason::Gap));
        assert_eq!(owed.reason("posts"), Some(Reason::Shed));
        assert_eq!(owed.reason("users"), Some(Reason::Gap));
        owed.settle([&"posts".into(), &"nobody".into()]);
        assert_eq!(owed.rules().map(|rule| &**rule).collect::<Vec<_>>(), ["tags", "users"]);
    }
}

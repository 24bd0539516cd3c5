use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use super::ChannelName;

/// Which of the channels that a rule may name a resync is for. Those that the rule
/// names itself are told in any case.
#[derive(Clone, Debug)]
pub enum Audience {
    /// All that are occupied.
    All,
    /// Those of them that have these names, by their hashes: a million names fit into
    /// no memory, and where two have one hash, a page fetches once more.
    Named(Arc<HashSet<NameHash, BuildHasherDefault<Hashed>>>),
}

/// Stands for a channel's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameHash(u64);

impl NameHash {
    /// The same in all of the process.
    pub fn of(name: &str) -> NameHash {
        // Names are strangers' choice, so their hashes must not be.
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        NameHash(KEYS.hash_one(name))
    }
}

/// Of what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a hash is a u64");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Default for Audience {
    /// Nobody.
    fn default() -> Audience {
        Audience::Named(Arc::default())
    }
}

impl Audience {
    /// More names are all: they take less than a megabyte.
    pub const MAX_NAMES: usize = 50_000;
    /// Of several audiences together: who would have more has all.
    pub const MAX_NAMES_TOGETHER: usize = 4 * Audience::MAX_NAMES;

    pub fn of(channels: &[ChannelName]) -> Audience {
        let mut audience = Audience::default();
        audience.add(channels.iter().map(|channel| NameHash::of(channel.as_str())));
        audience
    }

    pub fn add(&mut self, more: impl IntoIterator<Item = NameHash>) {
        let Audience::Named(names) = self else { return };
        let names = Arc::make_mut(names);
        names.extend(more);
        if names.len() > Audience::MAX_NAMES {
            *self = Audience::All;
        }
    }

    pub fn join(&mut self, other: &Audience) {
        match other {
            Audience::All => *self = Audience::All,
            Audience::Named(names) => self.add(names.iter().copied()),
        }
    }

    pub fn holds(&self, channel: &ChannelName) -> bool {
        match self {
            Audience::All => true,
            Audience::Named(names) => names.contains(&NameHash::of(channel.as_str())),
        }
    }

    pub fn is_all(&self) -> bool {
        matches!(self, Audience::All)
    }

    pub fn is_nobody(&self) -> bool {
        matches!(self, Audience::Named(names) if names.is_empty())
    }

    /// How many names are kept for it.
    pub fn names(&self) -> usize {
        match self {
            Audience::All => 0,
            Audience::Named(names) => names.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(ids: impl IntoIterator<Item = usize>) -> Vec<ChannelName> {
        let name = |id| format!("private-posts.{id}").parse().expect("a channel");
        ids.into_iter().map(name).collect()
    }

    #[test]
    fn an_audience_holds_the_channels_that_were_added_and_no_others() {
        let mut audience = Audience::of(&channels(0..500));
        audience.join(&Audience::of(&channels(250..1000)));
        assert_eq!(audience.names(), 1000);
        assert!(channels(0..1000).iter().all(|channel| audience.holds(channel)));
        assert!(!channels(1000..9000).iter().any(|channel| audience.holds(channel)));
        assert!(Audience::default().is_nobody());
    }

    #[test]
    fn all_wins_and_more_names_than_are_kept_are_all() {
        let (few, many) = (channels(0..2), channels(0..Audience::MAX_NAMES));
        let mut audience = Audience::All;
        audience.join(&Audience::of(&few));
        assert!(audience.is_all());
        let mut audience = Audience::of(&few);
        audience.join(&Audience::All);
        assert!(audience.is_all());
        let mut audience = Audience::of(&many);
        assert!(!audience.is_all());
        audience.join(&Audience::of(&channels([Audience::MAX_NAMES])));
        assert!(audience.is_all() && audience.names() == 0);
    }
}

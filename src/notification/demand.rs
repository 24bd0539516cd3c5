use std::sync::atomic::{AtomicU8, Ordering};

/// What is wanted of each change by some terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// All that is sent of it.
    #[default]
    Notification,
    /// On which channels it would be told: a resync tells of it.
    Channels,
    /// Only that it was: a resync tells of it on every channel of the rule.
    Count,
}

/// What is wanted now: said by the stage that tells changes, for the one that makes
/// notifications of them, so that it makes none that would only be counted.
///
/// It may be read late, and out of order with all else: neither does harm. What is
/// counted though it could be told by itself becomes a resync, and has a page fetch
/// once more; what is made though it is told by a resync is counted when it comes.
#[derive(Debug, Default)]
pub struct Demanded(AtomicU8);

impl Demanded {
    const CHANNELS: u8 = 1;
    const COUNT: u8 = 2;

    pub fn now(&self) -> Demand {
        match self.0.load(Ordering::Relaxed) {
            Demanded::CHANNELS => Demand::Channels,
            Demanded::COUNT => Demand::Count,
            _ => Demand::Notification,
        }
    }

    pub fn set(&self, demand: Demand) {
        let value = match demand {
            Demand::Notification => 0,
            Demand::Channels => Demanded::CHANNELS,
            Demand::Count => Demanded::COUNT,
        };
        self.0.store(value, Ordering::Relaxed);
    }
}

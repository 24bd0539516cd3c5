use std::sync::Arc;

use super::Rules;
use crate::change::Change;
use crate::notification::Notification;

/// The rules at work on one session's relations.
#[derive(Debug)]
pub struct Router {
    rules: Arc<Rules>,
    pub counts: Counts,
}

/// What a router left out or cut short, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Channels that a NULL left out.
    pub null_channels: u64,
    /// Payloads sent minimal because their own was too large or lacked a value.
    pub partial: u64,
}

impl Router {
    pub fn new(rules: Arc<Rules>) -> Router {
        Router { rules, counts: Counts::default() }
    }

    /// Appends what the rules say about the change.
    pub fn route(&mut self, change: &Change<'_>, out: &mut Vec<Notification>) {
        let _ = (&self.rules, change, out);
    }
}

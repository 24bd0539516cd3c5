use std::collections::BTreeMap;

use tracing::{info, warn};

use crate::route;

/// Application events that were not sent, by reason. Each name is told once, and
/// no more of them than somebody would read: whoever may log in can make up any.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    counts: BTreeMap<&'static str, u64>,
    told: Vec<String>,
}

impl Unsent {
    const TOLD: usize = 16;

    pub(super) fn add(&mut self, unsent: &route::Unsent) {
        *self.counts.entry(unsent.reason()).or_default() += 1;
        let text = unsent.to_string();
        if self.told.len() >= Self::TOLD || self.told.contains(&text) {
            return;
        }
        match unsent.fix() {
            Some(fix) => warn!(fix, "an application event is not sent: {text}"),
            None => warn!("an application event is not sent: {text}"),
        }
        self.told.push(text);
    }

    /// At the end of a session.
    pub(super) fn tell(&self) {
        for (reason, count) in &self.counts {
            info!(reason, count, "application events that were not sent");
        }
    }
}

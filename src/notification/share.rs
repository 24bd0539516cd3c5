use std::sync::Arc;

use super::{ChannelName, Notification, Reason, Resync, Terms};

/// What one rule has in a notification that those of several rules became.
#[derive(Clone, Debug)]
pub struct Share {
    pub terms: Arc<Terms>,
    /// Which of the rule's events it is.
    pub event_index: usize,
    /// Those that the rule named.
    pub channels: Vec<ChannelName>,
    /// How many of its changes.
    pub count: u64,
}

impl Notification {
    /// Whose it is: of one rule mostly, each on one table.
    pub fn all_terms(&self) -> impl Iterator<Item = &Arc<Terms>> {
        let own = self.shares.is_empty().then_some(&self.terms);
        own.into_iter().chain(self.shares.iter().map(|share| &share.terms))
    }

    /// Whether it tells of changes by these terms.
    pub fn is_of(&self, terms: &Arc<Terms>) -> bool {
        self.all_terms().any(|own| Arc::ptr_eq(own, terms))
    }

    /// What tells of the terms' changes instead, at this notification's position.
    pub fn resync(&self, terms: &Arc<Terms>, reason: Reason) -> Resync {
        let share = self.shares.iter().find(|share| Arc::ptr_eq(&share.terms, terms));
        let (event_index, count) = match share {
            Some(share) => (share.event_index, share.count),
            None => (self.event_index, self.count),
        };
        Resync {
            terms: terms.clone(),
            reason,
            // A change has a notification for each event, and is one change.
            count: Some(if event_index == 0 { count } else { 0 }),
            position: Some(self.position),
            at: self.at,
        }
    }

    /// For each rule what tells of its changes instead on these of the channels.
    pub fn resyncs_on(
        &self,
        channels: &[ChannelName],
        reason: Reason,
    ) -> Vec<(Resync, Vec<ChannelName>)> {
        let told =
            |terms: &Arc<Terms>, count| Resync { count: Some(count), ..self.resync(terms, reason) };
        if self.shares.is_empty() {
            return vec![(told(&self.terms, self.count), channels.to_vec())];
        }
        let shares = self.shares.iter().map(|Share { terms, channels: named, count, .. }| {
            let named = channels.iter().filter(|channel| named.contains(channel));
            (told(terms, *count), named.cloned().collect::<Vec<_>>())
        });
        shares.filter(|(_, channels)| !channels.is_empty()).collect()
    }

    /// Takes the terms' share out, and says whether another rule's is left.
    pub fn leave_out(&mut self, terms: &Arc<Terms>) -> bool {
        self.shares.retain(|share| !Arc::ptr_eq(&share.terms, terms));
        let Some(latest) = self.shares.last() else { return false };
        self.terms = latest.terms.clone();
        self.event_index = latest.event_index;
        self.count = self.shares.iter().map(|share| share.count).sum();
        self.channels.clear();
        for share in &self.shares {
            add(&mut self.channels, &share.channels);
        }
        if self.shares.len() == 1 {
            self.shares = Vec::new();
        }
        true
    }

    /// The shares of both, the one that comes later last.
    pub(super) fn join_shares(&mut self, earlier: &mut Notification) {
        let is_alone = self.shares.is_empty() && earlier.shares.is_empty();
        if is_alone && Arc::ptr_eq(&self.terms, &earlier.terms) {
            return;
        }
        let mut shares = earlier.take_shares();
        for mut share in self.take_shares() {
            let before = shares.iter().position(|other| Arc::ptr_eq(&other.terms, &share.terms));
            if let Some(before) = before.map(|index| shares.remove(index)) {
                share.count += before.count;
                add(&mut share.channels, &before.channels);
            }
            shares.push(share);
        }
        self.shares = shares;
    }

    fn take_shares(&mut self) -> Vec<Share> {
        if !self.shares.is_empty() {
            return std::mem::take(&mut self.shares);
        }
        let Notification { terms, event_index, channels, count, .. } = self;
        vec![Share {
            terms: terms.clone(),
            event_index: *event_index,
            channels: channels.clone(),
            count: *count,
        }]
    }
}

/// Without repeats.
fn add(channels: &mut Vec<ChannelName>, more: &[ChannelName]) {
    for channel in more {
        if !channels.contains(channel) {
            channels.push(channel.clone());
        }
    }
}

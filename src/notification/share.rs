use std::sync::Arc;

use super::{Audience, ChannelName, Notification, Payload, Reason, Resync, Terms};

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
        self.each_share().map(|(terms, ..)| terms)
    }

    /// Terms, which of their events, and the channels that they named.
    pub fn each_share(&self) -> impl Iterator<Item = (&Arc<Terms>, usize, &[ChannelName])> {
        let own = (&self.terms, self.event_index, &*self.channels);
        let shares = self.shares.iter();
        let shares = shares.map(|share| (&share.terms, share.event_index, &*share.channels));
        self.shares.is_empty().then_some(own).into_iter().chain(shares)
    }

    /// Whether it tells of changes by these terms.
    pub fn is_of(&self, terms: &Arc<Terms>) -> bool {
        self.all_terms().any(|own| Arc::ptr_eq(own, terms))
    }

    /// What tells of the terms' changes instead, at this notification's position.
    pub fn resync(&self, terms: &Arc<Terms>, reason: Reason) -> Resync {
        let share = self.shares.iter().find(|share| Arc::ptr_eq(&share.terms, terms));
        let (event_index, count, channels) = match share {
            Some(share) => (share.event_index, share.count, &share.channels),
            None => (self.event_index, self.count, &self.channels),
        };
        Resync {
            terms: terms.clone(),
            reason,
            // A change has a notification for each event, and is one change.
            count: Some(if event_index == 0 { count } else { 0 }),
            audience: Audience::of(channels),
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
        let mut shares = std::mem::take(&mut self.shares);
        shares.retain(|share| !Arc::ptr_eq(&share.terms, terms));
        let stays = !shares.is_empty();
        if stays {
            self.set_shares(shares);
        }
        stays
    }

    /// Takes out what a later one tells instead: all that is of its own rule, and
    /// of the others' what is on its channels. `None` if that is nothing; something
    /// else is left.
    pub fn part_for(&mut self, later: &Notification) -> Option<Notification> {
        let (mut goes, mut stays) = (Vec::new(), Vec::new());
        for share in self.take_shares() {
            let is_own = Arc::ptr_eq(&share.terms, &later.terms);
            let is_taken = |channel: &ChannelName| is_own || later.channels.contains(channel);
            let (taken, left): (Vec<_>, Vec<_>) =
                share.channels.iter().cloned().partition(is_taken);
            // What is told in two parts counts once.
            let count = if left.is_empty() { share.count } else { 0 };
            if !taken.is_empty() {
                goes.push(Share { channels: taken, count, ..share.clone() });
            }
            if !left.is_empty() {
                stays.push(Share { channels: left, ..share });
            }
        }
        debug_assert!(!stays.is_empty(), "all of it is told by the later one");
        self.set_shares(stays);
        if goes.is_empty() {
            return None;
        }
        let mut part = Notification { payload: Payload::default(), ..self.clone() };
        part.set_shares(goes);
        Some(part)
    }

    fn set_shares(&mut self, mut shares: Vec<Share>) {
        let latest = shares.last().expect("it is some rule's");
        if !Arc::ptr_eq(&self.terms, &latest.terms) {
            self.terms = latest.terms.clone();
            self.payload.freeze();
        }
        self.event_index = latest.event_index;
        self.count = shares.iter().map(|share| share.count).sum();
        self.channels.clear();
        for share in &shares {
            add(&mut self.channels, &share.channels);
        }
        if shares.len() == 1 {
            shares = Vec::new();
        }
        self.shares = shares;
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

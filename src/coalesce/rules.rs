use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Instant;

use crate::acknowledge::Frontier;
use crate::change::Timestamp;
use crate::notification::{Audience, Demand, Notification, Reason, Resync, Terms};

/// What each rule has pending on each table, counted, and its resyncs.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// By the address of their terms.
    rules: HashMap<usize, Rule, BuildHasherDefault<AddressHasher>>,
    pending_bytes: usize,
    /// Of the channels in the audiences of all resyncs.
    names: usize,
    /// Those with a gathered resync, and those with an owed one, in order.
    gathering: VecDeque<usize>,
    owing: VecDeque<usize>,
    /// More ids of one rule are a crowd.
    collapse_above: usize,
    /// Whether the terms are told what is wanted of their changes.
    demands: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    terms: Arc<Terms>,
    /// Ids, or channels, that have something in their windows.
    pub(super) unsent: usize,
    /// Those in the open transaction.
    pub(super) staged: usize,
    /// Notifications of both that it has a share in.
    pub(super) held: usize,
    /// Memory of those that it was the last to speak in.
    bytes: usize,
    /// At or before the oldest that is unsent.
    pub(super) oldest: Option<Timestamp>,
    /// Of the open transaction: owed at its end.
    gathered: Option<Resync>,
    owed: Option<Resync>,
    /// Of the channels in the audiences of both.
    names: usize,
    /// Hashes of ids that were counted in them, as long as they are no crowd.
    counted: HashSet<u64>,
    /// So many ids change that what is told by a resync need not be made.
    is_crowded: bool,
    /// What a lane took later may be sent after the owed one.
    owed_since: Option<Instant>,
    /// When the next resync may go: they have a window too.
    closed_until: Option<Instant>,
    /// After the resync of a crowd, what comes waits for so long: it may be more of the
    /// same, and then one resync tells of it too.
    gathers_until: Option<Instant>,
}

/// Looked for a dozen times for each notification, and no stranger's choice.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write_usize(&mut self, address: usize) {
        // Fibonacci hashing: the upper half of the product depends on all of it.
        self.0 = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("an address is a usize");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a window, and its places in maps, take besides the notification.
const WINDOW_BYTES: usize = 256;

pub(super) fn address(terms: &Arc<Terms>) -> usize {
    Arc::as_ptr(terms).addr()
}

impl Rules {
    pub(super) fn new(collapse_above: usize) -> Rules {
        Rules { collapse_above, ..Rules::default() }
    }

    /// From now on the terms are told what is wanted.
    pub(super) fn demand(&mut self) {
        self.demands = true;
    }

    /// Nothing of them any more, and all is wanted again.
    pub(super) fn forget(&self) -> Rules {
        if self.demands {
            let terms = self.rules.values().map(|rule| &rule.terms);
            terms.for_each(|terms| terms.demanded.set(Demand::Notification));
        }
        Rules { demands: self.demands, ..Rules::new(self.collapse_above) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    #[cfg(test)]
    pub(super) fn hold_nothing(&self) -> bool {
        let holds_nothing = |rule: &Rule| {
            (rule.unsent, rule.staged, rule.held, rule.bytes, rule.names) == (0, 0, 0, 0, 0)
        };
        self.names == 0 && self.rules.values().all(holds_nothing)
    }

    pub(super) fn of(&mut self, terms: &Arc<Terms>) -> &mut Rule {
        let address = address(terms);
        if !self.rules.contains_key(&address) {
            // The terms of a table as it was described before go with their last
            // notification.
            self.rules.retain(|_, rule| Arc::strong_count(&rule.terms) > 1 || !rule.is_idle());
            self.rules.insert(address, Rule::new(terms.clone()));
        }
        self.at(address)
    }

    fn at(&mut self, address: usize) -> &mut Rule {
        self.rules.get_mut(&address).expect("terms with something pending are kept")
    }

    /// Of the terms at an address that have something unsent.
    pub(super) fn uncount(&mut self, address: usize) {
        self.at(address).unsent -= 1;
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    pub(super) fn keep(&mut self, notification: &Notification) {
        let bytes = weight(notification);
        self.pending_bytes += bytes;
        for terms in told_by_resync(notification) {
            let is_last = Arc::ptr_eq(terms, &notification.terms);
            let rule = self.of(terms);
            rule.held += 1;
            rule.bytes += if is_last { bytes } else { 0 };
        }
    }

    pub(super) fn free(&mut self, notification: &Notification) {
        let bytes = weight(notification);
        self.pending_bytes -= bytes;
        for terms in told_by_resync(notification) {
            let is_last = Arc::ptr_eq(terms, &notification.terms);
            let rule = self.of(terms);
            rule.held -= 1;
            rule.bytes -= if is_last { bytes } else { 0 };
        }
    }

    pub(super) fn stage(&mut self, notification: &Notification) {
        self.of(&notification.terms).staged += ids(notification);
    }

    pub(super) fn unstage(&mut self, notification: &Notification) {
        self.of(&notification.terms).staged -= ids(notification);
    }

    /// Counts it in a resync, if it is old or the rule has collapsed, and says
    /// whether it did.
    pub(super) fn count(&mut self, notification: &Notification, is_old: bool) -> bool {
        let most = self.collapse_above.min(Audience::MAX_NAMES);
        let rule = self.of(&notification.terms);
        let reason = match (&rule.gathered, &rule.owed) {
            _ if is_old => Reason::Age,
            (Some(resync), _) | (None, Some(resync)) => resync.reason,
            (None, None) => return false,
        };
        if !rule.is_crowded {
            rule.counted.insert(super::hash(notification));
            rule.is_crowded = rule.counted.len() > most;
        }
        self.gather(notification.resync(&notification.terms, reason));
        true
    }

    /// Of the terms too many ids changed, until the next resync by them is taken.
    pub(super) fn crowd(&mut self, terms: &Arc<Terms>) {
        self.of(terms).is_crowded = true;
        self.tell_demand(address(terms));
    }

    /// Adds to what is owed at the open transaction's end.
    pub(super) fn gather(&mut self, resync: Resync) {
        let address = address(&resync.terms);
        let rule = self.of(&resync.terms);
        match &mut rule.gathered {
            Some(gathered) => gathered.join(&resync),
            None => {
                rule.gathered = Some(resync);
                self.gathering.push_back(address);
            }
        }
        self.bound_names(address);
        self.tell_demand(address);
    }

    pub(super) fn next_gathered(&mut self) -> Option<Resync> {
        let address = self.gathering.pop_front()?;
        let gathered = self.at(address).gathered.take();
        self.bound_names(address);
        gathered
    }

    /// Adds to what is owed. The resync's position is in the frontier; of two,
    /// the lower one stays there.
    pub(super) fn owe(&mut self, resync: Resync, now: Instant, frontier: &mut Frontier) {
        let address = address(&resync.terms);
        self.add_owed(address, resync, now, frontier);
        self.bound_names(address);
        self.tell_demand(address);
    }

    fn add_owed(&mut self, address: usize, resync: Resync, now: Instant, frontier: &mut Frontier) {
        let rule = self.of(&resync.terms);
        let Some(owed) = &mut rule.owed else {
            rule.owed = Some(resync);
            rule.owed_since = Some(now);
            self.owing.push_back(address);
            return;
        };
        // Else it has collapsed, and no lane has taken a change since.
        if !rule.terms.may_collapse {
            rule.owed_since = Some(now);
        }
        owed.join(&resync);
        owed.position = match (owed.position, resync.position) {
            (Some(one), Some(other)) => {
                frontier.leave(one.max(other));
                Some(one.min(other))
            }
            (one, other) => one.or(other),
        };
    }

    /// After something was added to the rule's resyncs, or one was taken.
    fn bound_names(&mut self, address: usize) {
        let most = Audience::MAX_NAMES_TOGETHER - (self.names - self.rules[&address].names);
        let rule = self.at(address);
        let before = rule.names;
        rule.names = rule.count_names();
        if rule.names > most {
            for resync in rule.gathered.iter_mut().chain(&mut rule.owed) {
                resync.audience = Audience::All;
            }
            rule.names = 0;
        }
        self.names = self.names - before + self.rules[&address].names;
    }

    fn tell_demand(&mut self, address: usize) {
        if self.demands {
            let rule = self.at(address);
            rule.terms.demanded.set(rule.demand());
        }
    }

    pub(super) fn owes_nothing(&self) -> bool {
        self.owing.is_empty()
    }

    pub(super) fn pop_resync(
        &mut self,
        now: Instant,
        is_stopping: bool,
        holds: impl Fn(&Arc<Terms>, Instant) -> bool,
    ) -> Option<Resync> {
        let may_go = |address: &usize| {
            let rule = &self.rules[address];
            let is_due = is_stopping || rule.closed_until.is_none_or(|until| until <= now);
            is_due && !holds(&rule.terms, rule.owed_since.unwrap_or(now))
        };
        let index = self.owing.iter().position(may_go)?;
        let address = self.owing.remove(index)?;
        let most = u64::try_from(self.collapse_above).unwrap_or(u64::MAX);
        let rule = self.at(address);
        rule.closed_until = rule.terms.window.map(|window| now + window);
        if rule.is_crowded {
            rule.gathers_until = rule.closed_until;
        }
        let owed = rule.owed.take();
        rule.counted = HashSet::new();
        // Else what the open transaction counts anew says whether they are a crowd.
        let gathered = rule.gathered.as_ref().and_then(|gathered| gathered.count);
        rule.is_crowded = rule.terms.may_collapse && gathered.is_some_and(|count| count > most);
        self.bound_names(address);
        self.tell_demand(address);
        owed
    }

    /// When the first resync that waits for its window's end may go. Others wait
    /// for lanes, which tell when they are free.
    pub(super) fn next_resync(&self, clock: Instant) -> Option<Instant> {
        let ends = self.owing.iter().filter_map(|address| self.rules[address].closed_until);
        ends.filter(|end| *end > clock).min()
    }

    /// Those that may collapse and may have something unsent of before.
    pub(super) fn older_than(&self, before: Timestamp) -> Vec<Arc<Terms>> {
        let is_old = |rule: &&Rule| {
            rule.terms.may_collapse && rule.oldest.is_some_and(|oldest| oldest < before)
        };
        self.rules.values().filter(is_old).map(|rule| rule.terms.clone()).collect()
    }

    /// Of those that may collapse the one that takes most memory.
    pub(super) fn largest(&self) -> Option<Arc<Terms>> {
        let may_collapse = |rule: &&Rule| rule.terms.may_collapse && rule.bytes > 0;
        let largest = self.rules.values().filter(may_collapse).max_by_key(|rule| rule.bytes)?;
        Some(largest.terms.clone())
    }
}

impl Rule {
    fn new(terms: Arc<Terms>) -> Rule {
        Rule {
            terms,
            unsent: 0,
            staged: 0,
            held: 0,
            bytes: 0,
            oldest: None,
            gathered: None,
            owed: None,
            names: 0,
            counted: HashSet::new(),
            is_crowded: false,
            owed_since: None,
            closed_until: None,
            gathers_until: None,
        }
    }

    /// From when on its changes may be sent.
    pub(super) fn due(&self, now: Instant) -> Instant {
        self.gathers_until.map_or(now, |until| until.max(now))
    }

    fn is_idle(&self) -> bool {
        self.held == 0 && self.gathered.is_none() && self.owed.is_none()
    }

    fn demand(&self) -> Demand {
        let mut resyncs = self.gathered.iter().chain(&self.owed).peekable();
        if !self.terms.may_collapse || !self.is_crowded || resyncs.peek().is_none() {
            return Demand::Notification;
        }
        match resyncs.any(|resync| resync.audience.is_all()) {
            true => Demand::Count,
            false => Demand::Channels,
        }
    }

    fn count_names(&self) -> usize {
        self.gathered.iter().chain(&self.owed).map(|resync| resync.audience.names()).sum()
    }

    /// Whether an owed resync stands for every change.
    pub(super) fn is_told_by_resync(&self) -> bool {
        self.terms.may_collapse && self.owed.is_some()
    }
}

fn weight(notification: &Notification) -> usize {
    notification.weight() + notification.id.len() + WINDOW_BYTES
}

/// What is refused stays itself.
fn told_by_resync(notification: &Notification) -> impl Iterator<Item = &Arc<Terms>> {
    notification.all_terms().filter(|_| notification.refusal.is_none())
}

/// A change has a notification for each event of its rule, and is one id. What
/// is refused does not count, since no resync tells of it.
fn ids(notification: &Notification) -> usize {
    usize::from(notification.event_index == 0 && notification.refusal.is_none())
}

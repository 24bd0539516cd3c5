//! On which channels a resync is told, and when. Pure: time and lists are told.
//!
//! Channels that a rule names itself are told at once. Of those that row values
//! name, the endpoint is asked which are occupied, after the last change that
//! the resync stands for was read: who joins later fetches later. They are told
//! in parts over some time, so that browsers do not all fetch at once. Where a list may
//! lag, a second one is asked for that much later, and those are told that it has besides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::change::Position;
use crate::notification::{
    Audience, ChannelName, ChannelPattern, NameHash, Notification, Resync, Terms,
};

use super::pusher::Capacity;

/// Failures to get a list before the operator hears of it.
const FAILURES_IN_SILENCE: u32 = 3;
/// Resyncs by the same terms that only look again.
const MAX_LOOKING_AGAIN: usize = 8;

#[derive(Debug)]
pub(super) struct Resyncs {
    spread: Duration,
    /// How long after somebody joined a channel it may be missing in a list.
    lag: Duration,
    tickets: u64,
    begun: BTreeMap<Ticket, Begun>,
    /// The one whose list is being asked for. One at a time: a list is large.
    asking: Option<Ticket>,
}

/// A resync that is being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[cfg(test)]
impl Ticket {
    pub(super) fn of(number: u64) -> Ticket {
        Ticket(number)
    }
}

/// A list to ask for now.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) ticket: Ticket,
    terms: Arc<Terms>,
    pub(super) prefix: Box<str>,
    audience: Audience,
}

impl Ask {
    /// Whether the resync is for that channel, if it is occupied.
    pub(super) fn wants(&self, name: &ChannelName) -> bool {
        self.audience.holds(name) && self.terms.channels.iter().any(|it| it.matches(name))
    }
}

#[derive(Debug)]
struct Begun {
    resync: Resync,
    /// What the channels begin with that the endpoint has not listed yet.
    prefixes: Vec<Box<str>>,
    /// The same, to be asked for once more.
    again: Vec<Box<str>>,
    is_again: bool,
    /// From when on the lists that it needs count.
    not_before: Instant,
    ask_at: Instant,
    failures: u32,
    backoff: Backoff,
    /// What was listed, until all lists are there.
    occupied: Vec<ChannelName>,
    /// What the first lists had, where there are second ones, in order.
    listed: Vec<NameHash>,
    /// Channels to tell together, and when.
    parts: VecDeque<(Instant, Vec<ChannelName>)>,
    /// Notifications of it that are on their way.
    unsettled: usize,
}

impl Resyncs {
    pub(super) fn new(spread: Duration, lag: Duration) -> Resyncs {
        Resyncs { spread, lag, tickets: 0, begun: BTreeMap::new(), asking: None }
    }

    pub(super) fn begin(&mut self, mut resync: Resync, now: Instant) {
        let names = self.begun.values().map(|begun| begun.resync.audience.names());
        if names.sum::<usize>() + resync.audience.names() > Audience::MAX_NAMES_TOGETHER {
            resync.audience = Audience::All;
        }
        let patterns = &resync.terms.channels;
        let constant: Vec<ChannelName> =
            patterns.iter().filter_map(|pattern| pattern.constant()).collect();
        let is_by_rows = |it: &&ChannelPattern| it.constant().is_none();
        let named_by_rows =
            patterns.iter().filter(is_by_rows).filter(|_| !resync.audience.is_nobody());
        let mut prefixes: Vec<Box<str>> = named_by_rows.map(|it| it.prefix().into()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut begun = Begun {
            resync,
            again: if self.lag.is_zero() { Vec::new() } else { prefixes.clone() },
            prefixes,
            is_again: false,
            not_before: now,
            ask_at: now,
            failures: 0,
            backoff: Backoff::default(),
            occupied: Vec::new(),
            listed: Vec::new(),
            parts: VecDeque::new(),
            unsettled: 0,
        };
        begun.split(constant, now, Duration::ZERO);
        self.tickets += 1;
        self.begun.insert(Ticket(self.tickets), begun);
    }

    /// Whether one by these terms is being told. A later one waits for it, and
    /// gathers meanwhile. Those that only look again are not waited for unless they are
    /// many: each keeps what it has told.
    pub(super) fn hold(&self, terms: &Arc<Terms>) -> bool {
        let mut own = self.begun.values().filter(|it| Arc::ptr_eq(&it.resync.terms, terms));
        own.clone().any(|begun| !begun.only_looks_again())
            || own.nth(MAX_LOOKING_AGAIN - 1).is_some()
    }

    /// The list to ask for now, if none is being asked for.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Ask> {
        if self.asking.is_some() {
            return None;
        }
        let waiting = self.begun.iter().filter(|(_, begun)| !begun.prefixes.is_empty());
        let (ticket, begun) = waiting.min_by_key(|(_, begun)| begun.ask_at)?;
        if begun.ask_at > now {
            return None;
        }
        self.asking = Some(*ticket);
        let prefix = begun.prefixes.last().expect("it was filtered").clone();
        let Resync { terms, audience, .. } = &begun.resync;
        Some(Ask { ticket: *ticket, terms: terms.clone(), prefix, audience: audience.clone() })
    }

    /// The endpoint has listed what was asked for.
    pub(super) fn listed(&mut self, ticket: Ticket, names: Vec<ChannelName>, now: Instant) {
        let Some(begun) = self.answered(ticket) else { return };
        begun.prefixes.pop();
        begun.failures = 0;
        begun.backoff.reset();
        begun.occupied.extend(names);
        if !begun.prefixes.is_empty() {
            return;
        }
        let mut occupied = std::mem::take(&mut begun.occupied);
        let constant: Vec<ChannelName> =
            begun.resync.terms.channels.iter().filter_map(|it| it.constant()).collect();
        occupied.retain(|name| !constant.contains(name));
        occupied.sort_unstable();
        occupied.dedup();
        let (spread, lag) = (self.spread, self.lag);
        let begun = self.begun.get_mut(&ticket).expect("it was there above");
        let listed = std::mem::take(&mut begun.listed);
        occupied.retain(|name| listed.binary_search(&NameHash::of(name.as_str())).is_err());
        if !begun.again.is_empty() {
            begun.prefixes = std::mem::take(&mut begun.again);
            begun.is_again = true;
            begun.not_before += lag;
            begun.ask_at = begun.not_before;
            begun.listed = occupied.iter().map(|name| NameHash::of(name.as_str())).collect();
            begun.listed.sort_unstable();
        }
        begun.split(occupied, now, spread);
    }

    /// There is no list. Returns the resync if the operator should hear of it.
    pub(super) fn failed(
        &mut self,
        ticket: Ticket,
        after: Option<Duration>,
        now: Instant,
    ) -> Option<&Resync> {
        let begun = self.answered(ticket)?;
        begun.ask_at = now + begun.backoff.next().max(after.unwrap_or_default());
        begun.failures += 1;
        (begun.failures == FAILURES_IN_SILENCE).then_some(&begun.resync)
    }

    fn answered(&mut self, ticket: Ticket) -> Option<&mut Begun> {
        if self.asking == Some(ticket) {
            self.asking = None;
        }
        self.begun.get_mut(&ticket)
    }

    /// The notifications of a part that is due.
    pub(super) fn part(&mut self, now: Instant) -> Option<(Ticket, Vec<Notification>)> {
        let is_due = |begun: &Begun| begun.parts.front().is_some_and(|(due, _)| *due <= now);
        let (ticket, begun) = self.begun.iter_mut().find(|(_, begun)| is_due(begun))?;
        let (_, channels) = begun.parts.pop_front()?;
        // What was owed from the start stands at no position of this session.
        let position = begun.resync.position.unwrap_or(Position::new(0));
        let notifications: Vec<_> = begun.resync.notifications(channels, position).collect();
        begun.unsettled += notifications.len();
        Some((*ticket, notifications))
    }

    /// One notification of it was accepted or recorded.
    pub(super) fn settle(&mut self, ticket: Ticket) {
        let begun = self.begun.get_mut(&ticket);
        begun.expect("it is there until all of it is settled").unsettled -= 1;
    }

    /// One that has been told on all its channels.
    pub(super) fn told(&mut self) -> Option<Resync> {
        let is_told = |begun: &Begun| {
            begun.unsettled == 0 && begun.prefixes.is_empty() && begun.parts.is_empty()
        };
        let (ticket, _) = self.begun.iter().find(|(_, begun)| is_told(begun))?;
        let ticket = *ticket;
        self.begun.remove(&ticket).map(|begun| begun.resync)
    }

    /// When the next list is to be asked for, or, if a lane is free for it, the
    /// next part is due.
    pub(super) fn next_due(&self, is_lane_free: bool) -> Option<Instant> {
        let begun = self.begun.values();
        let lists = begun.clone().filter(|it| self.asking.is_none() && !it.prefixes.is_empty());
        let parts = begun.filter(|_| is_lane_free).filter_map(|it| it.parts.front());
        lists.map(|it| it.ask_at).chain(parts.map(|(due, _)| *due)).min()
    }

    /// The endpoint is well again: who waits for a list need not wait for as long
    /// as it was away.
    pub(super) fn wake(&mut self, now: Instant) {
        for begun in self.begun.values_mut() {
            begun.backoff.reset();
            let soon = (now + begun.backoff.next()).max(begun.not_before);
            begun.ask_at = begun.ask_at.min(soon);
        }
    }

    /// Stopping: what remains is due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.spread = Duration::ZERO;
        for begun in self.begun.values_mut() {
            begun.ask_at = begun.ask_at.min(now).max(begun.not_before);
            for (due, _) in &mut begun.parts {
                *due = (*due).min(now);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// The session is over. Tickets are not used again, so an answer that is
    /// still to come is nobody's.
    pub(super) fn forget(&mut self, spread: Duration) {
        self.spread = spread;
        self.begun.clear();
        self.asking = None;
    }
}

impl Begun {
    fn only_looks_again(&self) -> bool {
        self.is_again && self.parts.is_empty() && self.unsettled == 0
    }

    fn split(&mut self, channels: Vec<ChannelName>, now: Instant, spread: Duration) {
        let parts = channels.chunks(Capacity::CHANNELS);
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX).max(1);
        for (index, part) in (0..).zip(parts) {
            self.parts.push_back((now + spread / count * index, part.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::change::Timestamp;
    use crate::notification::{ChannelClass, Part, Reason};

    fn pattern(text: &str) -> ChannelPattern {
        let (head, is_named_by_rows) = match text.strip_suffix('*') {
            Some(head) => (head, true),
            None => (text, false),
        };
        let mut parts = vec![Part::Text(head.into())];
        parts.extend(is_named_by_rows.then_some(Part::Value { dotted: false }));
        ChannelPattern::new(parts, ChannelClass::of(head))
    }

    fn resync(channels: &[&str]) -> Resync {
        let mut terms = Terms::plain("posts", "post");
        terms.channels = channels.iter().map(|text| pattern(text)).collect();
        Resync {
            terms: Arc::new(terms),
            reason: Reason::Bulk,
            count: Some(7),
            audience: Audience::All,
            position: Some(Position::new(3)),
            at: Timestamp::from_unix_micros(1),
        }
    }

    fn names(names: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<ChannelName> {
        names.into_iter().map(|name| name.as_ref().parse().expect("a channel")).collect()
    }

    fn settle_all(resyncs: &mut Resyncs, now: Instant) -> Vec<ChannelName> {
        let mut channels = Vec::new();
        while let Some((ticket, notifications)) = resyncs.part(now) {
            for notification in notifications {
                assert!(notification.channels.len() <= Capacity::CHANNELS);
                channels.extend(notification.channels);
                resyncs.settle(ticket);
            }
        }
        channels
    }

    #[test]
    fn channels_without_row_values_are_told_at_once_and_need_no_list() {
        let (mut resyncs, now) =
            (Resyncs::new(Duration::from_secs(2), Duration::ZERO), Instant::now());
        resyncs.begin(resync(&["posts", "private-posts"]), now);
        assert!(resyncs.ask(now).is_none() && resyncs.told().is_none());
        assert_eq!(settle_all(&mut resyncs, now), names(["posts", "private-posts"]));
        assert_eq!(resyncs.told().expect("all is settled").position, Some(Position::new(3)));
        assert!(resyncs.is_empty());
    }

    #[test]
    fn each_prefix_is_asked_for_once_and_each_channel_told_once() {
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        let resync = resync(&["posts.all", "posts.*", "posts.*", "users.*"]);
        let terms = resync.terms.clone();
        resyncs.begin(resync, now);
        let mut asked = BTreeSet::new();
        while let Some(ask) = resyncs.ask(now) {
            assert!(resyncs.ask(now).is_none(), "one list at a time");
            assert!(resyncs.hold(&terms));
            asked.insert(ask.prefix.clone());
            let of = |id: &str| format!("{}{id}", ask.prefix);
            resyncs.listed(ask.ticket, names([of("1"), of("2"), of("all")]), now);
        }
        assert_eq!(asked, ["posts.", "users."].map(Box::from).into());
        let mut told = settle_all(&mut resyncs, now);
        told.sort();
        let expected = ["posts.1", "posts.2", "posts.all", "users.1", "users.2", "users.all"];
        assert_eq!(told, names(expected));
        assert!(resyncs.told().is_some() && !resyncs.hold(&terms));
    }

    #[test]
    fn of_the_occupied_channels_those_are_told_whose_rows_changed() {
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        let changed = names(["posts.1", "posts.2", "others.1"]);
        let resync = Resync { audience: Audience::of(&changed), ..resync(&["posts", "posts.*"]) };
        resyncs.begin(resync, now);
        let ask = resyncs.ask(now).expect("a list is needed");
        let mut occupied = names(["posts.2", "posts.3", "others.1", "posts"]);
        occupied.retain(|name| ask.wants(name));
        resyncs.listed(ask.ticket, occupied, now);
        assert_eq!(settle_all(&mut resyncs, now), names(["posts", "posts.2"]));
    }

    #[test]
    fn what_is_for_no_channel_that_rows_name_needs_no_list() {
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        let audience = Audience::default();
        resyncs.begin(Resync { audience, ..resync(&["posts", "posts.*"]) }, now);
        assert!(resyncs.ask(now).is_none());
        assert_eq!(settle_all(&mut resyncs, now), names(["posts"]));
        assert!(resyncs.told().is_some());
    }

    #[test]
    fn names_of_more_channels_than_are_kept_together_are_all() {
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        let changed = Audience::of(&names((0..40_000).map(|id| format!("posts.{id}"))));
        for _ in 0..20 {
            resyncs.begin(Resync { audience: changed.clone(), ..resync(&["posts.*"]) }, now);
        }
        let kept = resyncs.begun.values().map(|begun| begun.resync.audience.names());
        assert!(kept.sum::<usize>() <= Audience::MAX_NAMES_TOGETHER);
        let all = resyncs.begun.values().filter(|begun| begun.resync.audience.is_all());
        assert_eq!(all.count(), 15);
    }

    #[test]
    fn occupied_channels_are_told_by_hundreds_over_the_spread_and_at_once_when_stopping() {
        let spread = Duration::from_secs(2);
        let (mut resyncs, start) = (Resyncs::new(spread, Duration::ZERO), Instant::now());
        for is_stopping in [false, true] {
            resyncs.begin(resync(&["posts.*"]), start);
            let ask = resyncs.ask(start).expect("a list is needed");
            resyncs.listed(ask.ticket, names((0..1000).map(|id| format!("posts.{id}"))), start);
            if is_stopping {
                resyncs.hurry(start);
            }
            let (mut now, mut told) = (start, 0);
            while resyncs.told().is_none() {
                told += settle_all(&mut resyncs, now).len();
                if let Some(due) = resyncs.next_due(true) {
                    assert_eq!(resyncs.next_due(false), None);
                    assert_eq!(due - now, spread / 10);
                    now = due;
                }
            }
            assert_eq!(told, 1000);
            assert_eq!(now - start, if is_stopping { Duration::ZERO } else { spread * 9 / 10 });
        }
    }

    #[test]
    fn a_list_that_fails_is_asked_for_again_and_holds_up_no_other() {
        let (mut resyncs, mut now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        resyncs.begin(resync(&["posts.*", "posts"]), now);
        resyncs.begin(resync(&["users.*"]), now);
        let (mut told, mut asked) = (0, 0);
        while resyncs.begun.len() > 1 || asked < 10 {
            let Some(ask) = resyncs.ask(now) else {
                settle_all(&mut resyncs, now);
                resyncs.told();
                now = resyncs.next_due(true).expect("a list is to be asked for");
                continue;
            };
            if &*ask.prefix == "users." {
                resyncs.listed(ask.ticket, names(["users.1"]), now);
            } else {
                asked += 1;
                told += usize::from(resyncs.failed(ask.ticket, None, now).is_some());
            }
        }
        assert_eq!(told, 1, "the operator hears of it once");
        let wait = Duration::from_secs(60);
        now = resyncs.next_due(true).expect("it is asked for again");
        let ask = resyncs.ask(now).expect("the time has come");
        resyncs.failed(ask.ticket, Some(wait), now);
        assert!(resyncs.next_due(true).expect("it is asked for again") >= now + wait);
    }

    #[test]
    fn an_endpoint_that_is_well_again_is_soon_asked_for_lists() {
        let (mut resyncs, mut now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        resyncs.begin(resync(&["posts.*"]), now);
        for _ in 0..12 {
            now = resyncs.next_due(true).expect("it is asked for again");
            let ask = resyncs.ask(now).expect("the time has come");
            resyncs.failed(ask.ticket, None, now);
        }
        let due = |resyncs: &Resyncs| resyncs.next_due(true).expect("it is asked for again");
        assert!(due(&resyncs) >= now + Duration::from_secs(10));
        resyncs.wake(now);
        assert!(due(&resyncs) <= now + Duration::from_secs(1));
    }

    #[test]
    fn where_a_list_may_lag_a_second_one_tells_those_that_the_first_lacked() {
        let lag = Duration::from_secs(5);
        let (mut resyncs, start) = (Resyncs::new(Duration::ZERO, lag), Instant::now());
        let resync = resync(&["posts", "posts.*"]);
        let terms = resync.terms.clone();
        resyncs.begin(resync.clone(), start);
        let ask = resyncs.ask(start).expect("a list is needed");
        resyncs.listed(ask.ticket, names(["posts.1", "posts.2"]), start);
        assert_eq!(settle_all(&mut resyncs, start), names(["posts", "posts.1", "posts.2"]));
        assert!(resyncs.told().is_none(), "it stays owed until the second list");
        resyncs.hurry(start);
        resyncs.wake(start);
        assert_eq!(resyncs.next_due(true), Some(start + lag), "earlier it says nothing");

        assert!(!resyncs.hold(&terms), "a later one need not wait for that");
        resyncs.begin(resync, start);
        assert!(resyncs.hold(&terms));
        let ask = resyncs.ask(start).expect("the later one needs a list");
        resyncs.listed(ask.ticket, Vec::new(), start);
        settle_all(&mut resyncs, start);

        let now = start + lag;
        let ask = resyncs.ask(now).expect("the time has come");
        resyncs.listed(ask.ticket, names(["posts.1", "posts.3"]), now);
        assert_eq!(settle_all(&mut resyncs, now), names(["posts.3"]));
        assert!(resyncs.told().is_some() && resyncs.told().is_none());
        let ask = resyncs.ask(now).expect("the later one looks again too");
        resyncs.listed(ask.ticket, names(["posts.1"]), now);
        assert_eq!(settle_all(&mut resyncs, now), names(["posts.1"]));
        assert!(resyncs.told().is_some() && resyncs.is_empty());
    }

    #[test]
    fn a_later_resync_waits_only_where_many_look_again() {
        let lag = Duration::from_secs(5);
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, lag), Instant::now());
        let resync = resync(&["posts.*"]);
        for _ in 0..MAX_LOOKING_AGAIN {
            assert!(!resyncs.hold(&resync.terms));
            resyncs.begin(resync.clone(), now);
            assert!(resyncs.hold(&resync.terms), "this one is being told");
            let ask = resyncs.ask(now).expect("a list is needed");
            resyncs.listed(ask.ticket, names(["posts.1"]), now);
            assert_eq!(settle_all(&mut resyncs, now), names(["posts.1"]));
        }
        assert!(resyncs.hold(&resync.terms));
        let ask = resyncs.ask(now + lag).expect("the first looks again");
        resyncs.listed(ask.ticket, names(["posts.1"]), now + lag);
        assert!(resyncs.told().is_some() && !resyncs.hold(&resync.terms));
    }

    #[test]
    fn an_answer_for_a_session_that_is_over_is_nobodys() {
        let (mut resyncs, now) = (Resyncs::new(Duration::ZERO, Duration::ZERO), Instant::now());
        resyncs.begin(resync(&["posts.*"]), now);
        let stale = resyncs.ask(now).expect("a list is needed").ticket;
        resyncs.forget(Duration::ZERO);
        resyncs.begin(resync(&["posts.*"]), now);
        let ask = resyncs.ask(now).expect("a list is needed");
        resyncs.listed(stale, names(["posts.1"]), now);
        resyncs.failed(stale, None, now);
        assert!(resyncs.part(now).is_none() && resyncs.ask(now).is_none());
        resyncs.listed(ask.ticket, names(["posts.2"]), now);
        assert_eq!(settle_all(&mut resyncs, now), names(["posts.2"]));
    }
}

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::acknowledge::Frontier;
use crate::deliver::tests::notification;
use crate::notification::{ChannelClass, ChannelPattern, Part};

const LAG: Duration = Duration::from_secs(5);
const ROOM: usize = 1 << 20;

fn occupied(names: &[&str]) -> Occupied {
    names.iter().map(|name| name.parse().expect("a channel")).collect()
}

fn occupancy(lag: Duration) -> (Occupancy, Instant) {
    (Occupancy::new(2, lag, ROOM), Instant::now())
}

fn ready(occupancy: &mut Occupancy) -> Vec<(u64, Vec<String>)> {
    let mut all = Vec::new();
    for lane in 0..occupancy.ready.len() {
        while let Some(Taken { notification, .. }) = occupancy.next(lane) {
            let channels = notification.channels.iter().map(ToString::to_string).collect();
            all.push((notification.position.value(), channels));
        }
    }
    all
}

fn told(position: u64, channels: &[&str]) -> (u64, Vec<String>) {
    (position, channels.iter().map(ToString::to_string).collect())
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn what_the_last_list_has_goes_at_once_and_all_else_waits_for_the_next() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    occupancy.take(0, notification("post", 1, &["posts.1"]), now);
    assert_eq!(ready(&mut occupancy), []);
    assert_eq!(occupancy.ask(now).as_deref(), Some("posts.1"));
    assert_eq!(occupancy.next_due(), None, "one list at a time");
    let decided = occupancy.listed(occupied(&["posts.1"]), now);
    assert!(decided.left.is_empty() && decided.unoccupied.is_empty());
    assert_eq!(ready(&mut occupancy), [told(1, &["posts.1"])]);

    let both = notification("post", 2, &["posts.1", "posts.2"]);
    assert_eq!(occupancy.take(0, both, now), Some(Position::new(2)));
    assert_eq!(ready(&mut occupancy), [told(2, &["posts.1"])]);
    assert!(occupancy.ask(now).is_none(), "there is a pause between lists");
    let now = occupancy.next_due().expect("something waits");
    assert_eq!(occupancy.ask(now).as_deref(), Some("posts.2"));
    let decided = occupancy.listed(occupied(&[]), now);
    assert_eq!(decided.left, [Position::new(2)]);
    assert_eq!(decided.unoccupied.iter().map(|(_, channels)| channels).sum::<u64>(), 1);
    assert!(occupancy.is_empty() && occupancy.pending_bytes() == 0);
}

#[test]
fn a_list_that_was_asked_for_before_the_change_was_read_leaves_out_nothing() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    occupancy.take(0, notification("post", 1, &["posts.1"]), now);
    occupancy.ask(now).expect("something waits");
    occupancy.take(1, notification("post", 2, &["posts.1"]), now);
    assert_eq!(occupancy.listed(occupied(&[]), now).left, [Position::new(1)]);
    let now = occupancy.next_due().expect("the second waits for a list of its own");
    occupancy.ask(now).expect("it is due");
    occupancy.listed(occupied(&["posts.1"]), now);
    assert_eq!(ready(&mut occupancy), [told(2, &["posts.1"])]);
}

#[test]
fn where_a_list_may_lag_the_first_one_sends_and_only_a_later_one_leaves_out() {
    let (mut occupancy, start) = occupancy(LAG);
    occupancy.take(0, notification("post", 1, &["posts.1", "posts.2", "posts.3"]), start);
    occupancy.ask(start).expect("it is looked for at once");
    let decided = occupancy.listed(occupied(&["posts.1"]), start);
    assert_eq!((decided.held, decided.left), (vec![Position::new(1)], vec![]));
    assert_eq!(ready(&mut occupancy), [told(1, &["posts.1"])]);
    let later = occupancy.next_due().expect("the rest waits");
    assert_eq!(later, start + LAG);
    occupancy.ask(later).expect("it is due");
    let decided = occupancy.listed(occupied(&["posts.3"]), later);
    assert_eq!((decided.held, decided.left), (vec![], vec![]));
    assert_eq!(decided.unoccupied[0].1, 1);
    assert_eq!(ready(&mut occupancy), [told(1, &["posts.3"])]);
    assert!(occupancy.is_empty());
}

#[test]
fn without_a_list_everything_is_sent_until_one_is_to_be_had_again() {
    let (mut occupancy, mut now) = occupancy(LAG);
    let mut heard = 0;
    for position in 1..=10 {
        occupancy.take(0, notification("post", position, &["posts.1"]), now);
        occupancy.ask(now).expect("it is asked for again");
        heard += usize::from(occupancy.failed(None, now));
        assert_eq!(ready(&mut occupancy), [told(position, &["posts.1"])]);
        occupancy.take(0, notification("post", 100 + position, &["posts.2"]), now);
        assert_eq!(ready(&mut occupancy), [told(100 + position, &["posts.2"])]);
        now = occupancy.not_before.expect("there is a wait after a failure");
    }
    assert_eq!(heard, 1, "the operator hears of it once");
    occupancy.take(0, notification("post", 11, &["posts.1"]), now);
    occupancy.ask(now).expect("it is asked for again");
    let wait = seconds(60);
    occupancy.failed(Some(wait), now);
    assert!(occupancy.not_before >= Some(now + wait), "the endpoint has asked for time");
    occupancy.wake();
    occupancy.take(0, notification("post", 12, &["posts.1"]), now);
    assert!(occupancy.ask(now).is_some(), "the endpoint is well again");
}

#[test]
fn what_no_list_tells_of_is_always_sent() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    for name in ["cache-a", "private-cache-a", "presence-cache-a", "#server-to-user-42"] {
        occupancy.take(0, notification("post", 1, &[name]), now);
        assert_eq!(ready(&mut occupancy), [told(1, &[name])]);
    }
}

#[test]
fn a_list_takes_longer_and_is_asked_for_less_often() {
    let (mut occupancy, mut now) = occupancy(Duration::ZERO);
    for took in [Duration::ZERO, Duration::from_millis(10), seconds(1)] {
        occupancy.take(0, notification("post", 1, &["posts.1"]), now);
        now = now.max(occupancy.next_due().expect("something waits"));
        occupancy.ask(now).expect("it is due");
        now += took;
        occupancy.listed(occupied(&[]), now);
        assert_eq!(occupancy.not_before, Some(now + PAUSE.max(took * PAUSE_TIMES)));
    }
}

#[test]
fn one_list_tells_of_all_that_waits_and_of_its_siblings() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    let pattern = |head: &str| {
        let parts = vec![Part::Text(head.into()), Part::Value { dotted: false }];
        ChannelPattern::new(parts, ChannelClass::of(head))
    };
    let mut terms = Terms::plain("posts", "post");
    terms.channels = vec![pattern("private-posts."), pattern("private-users.")];
    let terms = Arc::new(terms);
    let made = |id, channels: &[&str]| Notification {
        terms: terms.clone(),
        ..notification("post", id, channels)
    };
    occupancy.take(0, made(1, &["private-posts.1"]), now);
    assert_eq!(occupancy.wanted(), "private-posts.");
    occupancy.take(0, made(2, &["private-users.1"]), now);
    assert_eq!(occupancy.ask(now).as_deref(), Some("private-"));
    occupancy.listed(occupied(&["private-posts.3"]), now);
    occupancy.take(0, made(3, &["private-posts.3"]), now);
    assert_eq!(ready(&mut occupancy), [told(3, &["private-posts.3"])]);
}

#[test]
fn an_old_list_still_sends_at_once_and_is_asked_for_anew() {
    let (mut occupancy, start) = occupancy(Duration::ZERO);
    occupancy.take(0, notification("post", 1, &["posts.1"]), start);
    occupancy.ask(start).expect("it is due");
    occupancy.listed(occupied(&["posts.1"]), start);
    let now = start + REFRESH_AFTER;
    assert_eq!(ready(&mut occupancy).len(), 1);
    assert_eq!(occupancy.next_due(), None);
    occupancy.take(0, notification("post", 2, &["posts.1"]), now);
    assert_eq!(ready(&mut occupancy).len(), 1);
    assert_eq!(occupancy.ask(now).as_deref(), Some("posts.1"));
    occupancy.listed(occupied(&[]), now);
    occupancy.take(0, notification("post", 3, &["posts.1"]), now);
    assert_eq!(ready(&mut occupancy), [], "nobody is there any more");
}

#[test]
fn no_more_is_taken_than_there_is_room_for() {
    let mut occupancy = Occupancy::new(1, Duration::ZERO, 4096);
    let now = Instant::now();
    let mut count = 0;
    while occupancy.has_room() {
        count += 1;
        occupancy.take(0, notification("post", count, &["posts.1"]), now);
    }
    assert!((2..100).contains(&count), "{count}");
    occupancy.ask(now).expect("it is due");
    occupancy.listed(occupied(&["posts.1"]), now);
    assert!(!occupancy.has_room(), "what is to be sent takes room too");
    assert_eq!(ready(&mut occupancy).len() as u64, count);
    assert!(occupancy.has_room());
}

#[test]
fn where_there_is_no_room_each_lane_sends_what_waits_longest_for_it() {
    let mut occupancy = Occupancy::new(2, Duration::ZERO, 4096);
    let (now, mut position) = (Instant::now(), 100);
    occupancy.take(0, notification("post", 1000, &["posts.1"]), now);
    occupancy.ask(now).expect("it is due");
    occupancy.listed(occupied(&["posts.1"]), now);
    assert_eq!(ready(&mut occupancy), [told(1000, &["posts.1"])]);
    while occupancy.has_room() {
        position += 1;
        let lane = usize::from(position % 2 == 0);
        occupancy.take(lane, notification("post", position, &["posts.2"]), now);
    }
    for (lane, oldest) in [(1, 102), (0, 101)] {
        while occupancy.has_room() {
            position += 1;
            occupancy.take(0, notification("post", position, &["posts.2"]), now);
        }
        let sent = occupancy.next(lane).expect("it is sent without a list");
        assert_eq!(sent.notification.position, Position::new(oldest));
    }
    assert!(occupancy.has_room() && occupancy.next(0).is_none(), "the others wait");
    occupancy.take(1, notification("post", 1001, &["posts.1"]), now);
    assert_eq!(occupancy.next(1).expect("it is told").notification.position, Position::new(1001));
    occupancy.forget();
    assert_eq!(occupancy.pending_bytes(), 0);
}

#[test]
fn a_list_for_a_session_that_is_over_leaves_out_nothing_of_the_next() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    occupancy.take(0, notification("post", 1, &["posts.1"]), now);
    occupancy.ask(now).expect("it is due");
    occupancy.forget();
    occupancy.take(0, notification("post", 1, &["posts.1"]), now);
    assert!(occupancy.listed(occupied(&[]), now).left.is_empty());
    assert_eq!(occupancy.len(), 1);
}

#[test]
fn a_resync_tells_what_waits_for_a_list_of_its_terms_and_goes_behind_all_else() {
    let (mut occupancy, now) = occupancy(Duration::ZERO);
    let terms = |may_collapse| Arc::new(Terms { may_collapse, ..Terms::plain("posts", "post") });
    let (own, lasting) = (terms(true), terms(false));
    let made = |terms: &Arc<Terms>, position| Notification {
        terms: terms.clone(),
        ..notification("post", position, &["posts.1"])
    };
    occupancy.take(0, made(&own, 1), now);
    occupancy.take(0, made(&lasting, 2), now);
    assert!(!occupancy.hold(&own, now) && occupancy.hold(&lasting, now));
    assert!(occupancy.collapse(&lasting).is_empty());
    let collapsed = occupancy.collapse(&own);
    assert_eq!(collapsed.iter().map(|it| it.position.value()).collect::<Vec<_>>(), [1]);
    assert_eq!(occupancy.len(), 1);

    occupancy.take(0, made(&own, 3), now);
    occupancy.ask(now).expect("it is due");
    occupancy.listed(occupied(&["posts.1"]), now);
    assert!(occupancy.hold(&own, now), "what is to be sent goes first");
    assert!(occupancy.collapse(&own).is_empty());
}

const NAMES: [&str; 4] = ["posts.1", "posts.2", "users.1", "cache-1"];

#[derive(Clone, Debug)]
enum Step {
    /// A row changes, and this is announced on these channels.
    Change(BTreeSet<usize>),
    /// rowcast reads the first change that it has not read.
    Read,
    /// A page joins a channel, and fetches after that.
    Join(usize),
    Leave(Index),
    Pass(Duration),
    /// The endpoint looks who is there, now, for the list that was asked for.
    Look,
    /// The list arrives, or something else does.
    Answer {
        is_list: bool,
    },
    /// A lane sends what is next for it.
    Send(usize),
    /// A resync tells what waits.
    Resync,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let channels = prop::collection::btree_set(0..NAMES.len(), 1..4);
    let step = prop_oneof![
        8 => channels.prop_map(Step::Change),
        12 => Just(Step::Read),
        6 => (0..NAMES.len()).prop_map(Step::Join),
        4 => any::<Index>().prop_map(Step::Leave),
        2 => (0..4000_u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        6 => Just(Step::Look),
        4 => (0..8).prop_map(|it| Step::Answer { is_list: it > 0 }),
        8 => (0..2_usize).prop_map(Step::Send),
        1 => Just(Step::Resync),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 0..200)
}

/// Of one channel: the number of the last change that it has fetched.
#[derive(Debug)]
struct Page {
    channel: usize,
    fetched: u64,
    joined_at: Instant,
}

/// The database, the pages and the endpoint; and rowcast, but for its lanes.
struct World {
    lag: Duration,
    room: usize,
    now: Instant,
    terms: Arc<Terms>,
    /// The channels of each change: its position is its index plus one.
    changes: Vec<BTreeSet<usize>>,
    pages: Vec<Page>,
    /// Whom the endpoint saw, if it has looked.
    seen: Option<BTreeSet<usize>>,
    is_asked: bool,
    read: usize,
    confirmed: usize,
    frontier: Frontier,
    occupancy: Occupancy,
    /// Of each lane and channel, what was sent there last.
    sent: BTreeMap<(usize, ChannelName), u64>,
}

impl World {
    fn new(lag: Duration, room: usize) -> World {
        World {
            lag,
            room,
            now: Instant::now(),
            terms: Arc::new(Terms { may_collapse: true, ..Terms::plain("posts", "post") }),
            changes: Vec::new(),
            pages: Vec::new(),
            seen: None,
            is_asked: false,
            read: 0,
            confirmed: 0,
            frontier: Frontier::default(),
            occupancy: Occupancy::new(2, lag, room),
            sent: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(channels) => self.changes.push(channels),
            Step::Read => self.read(),
            Step::Join(channel) => {
                let (fetched, joined_at) = (self.last_change_on(channel), self.now);
                self.pages.push(Page { channel, fetched, joined_at });
            }
            Step::Leave(_) if self.pages.is_empty() => {}
            Step::Leave(page) => drop(self.pages.swap_remove(page.index(self.pages.len()))),
            Step::Pass(time) => self.now += time,
            Step::Look => self.look(),
            Step::Answer { is_list } => self.answer(is_list),
            Step::Send(lane) => self.send(lane),
            Step::Resync => self.resync(),
            Step::Kill => {
                self.occupancy = Occupancy::new(2, self.lag, self.room);
                self.frontier = Frontier::default();
                self.sent.clear();
                (self.read, self.is_asked, self.seen) = (self.confirmed, false, None);
            }
        }
        self.is_asked |= self.occupancy.ask(self.now).is_some();
        if let Some(position) = self.frontier.advance() {
            self.confirmed = usize::try_from(position.value()).expect("there are few");
        }
    }

    fn read(&mut self) {
        if !self.occupancy.has_room() {
            return;
        }
        let Some(channels) = self.changes.get(self.read) else { return };
        let names: Vec<&str> = channels.iter().map(|channel| NAMES[*channel]).collect();
        self.read += 1;
        let made = notification("post", self.read as u64, &names);
        let made = Notification { terms: self.terms.clone(), ..made };
        let position = made.position;
        self.frontier.enter(position);
        if let Some(position) = self.occupancy.take(self.read % 2, made, self.now) {
            self.frontier.hold(position);
        }
        self.frontier.reach(position);
    }

    /// Who joined within the lag may be missing.
    fn look(&mut self) {
        if self.is_asked && self.seen.is_none() {
            let is_seen = |page: &&Page| page.joined_at + self.lag <= self.now;
            self.seen = Some(self.pages.iter().filter(is_seen).map(|page| page.channel).collect());
        }
    }

    fn answer(&mut self, is_list: bool) {
        if !self.is_asked {
            return;
        }
        if !is_list {
            self.occupancy.failed(None, self.now);
        } else if let Some(seen) = &self.seen {
            let names: Vec<&str> = seen.iter().map(|channel| NAMES[*channel]).collect();
            let decided = self.occupancy.listed(occupied(&names), self.now);
            decided.held.into_iter().for_each(|position| self.frontier.hold(position));
            decided.left.into_iter().for_each(|position| self.frontier.leave(position));
        } else {
            return;
        }
        (self.is_asked, self.seen) = (false, None);
    }

    fn send(&mut self, lane: usize) {
        let Some(Taken { notification, .. }) = self.occupancy.next(lane) else { return };
        let position = notification.position.value();
        for name in &notification.channels {
            let last = self.sent.insert((lane, name.clone()), position);
            assert!(last < Some(position), "{position} is sent after {last:?} on {name}");
        }
        self.tell(&notification);
    }

    fn resync(&mut self) {
        let terms = self.terms.clone();
        for notification in self.occupancy.collapse(&terms) {
            self.tell(&notification);
        }
    }

    /// Each page on its channels fetches what is there now.
    fn tell(&mut self, notification: &Notification) {
        for name in &notification.channels {
            let channel = NAMES.iter().position(|it| *it == name.as_str()).expect("one of them");
            let fetched = self.last_change_on(channel);
            let pages = self.pages.iter_mut().filter(|page| page.channel == channel);
            pages.for_each(|page| page.fetched = fetched);
        }
        self.frontier.leave(notification.position);
    }

    fn last_change_on(&self, channel: usize) -> u64 {
        let last = self.changes.iter().rposition(|channels| channels.contains(&channel));
        last.map_or(0, |index| index as u64 + 1)
    }

    /// Positions and channels that are still to be sent or decided.
    fn held(&self) -> BTreeSet<(u64, &str)> {
        let waiting = self.occupancy.waiting.iter().map(|waiting| &waiting.taken);
        let mut held = BTreeSet::new();
        for Taken { notification, .. } in waiting.chain(self.occupancy.ready.iter().flatten()) {
            let position = notification.position.value();
            held.extend(notification.channels.iter().map(|name| (position, name.as_str())));
        }
        held
    }

    /// A page that lacks a change of which nothing is held any more will never fetch it;
    /// and what is confirmed never comes again.
    fn check(&self) -> Result<(), TestCaseError> {
        let held = self.held();
        let lowest = held.first().map_or(u64::MAX, |(position, _)| *position);
        prop_assert!((self.confirmed as u64) < lowest, "{lowest} is held, and confirmed");
        for (position, channels) in (1..).zip(&self.changes[..self.read]) {
            for page in self.pages.iter().filter(|page| channels.contains(&page.channel)) {
                let is_current = page.fetched >= position;
                let is_told = held.contains(&(position, NAMES[page.channel]));
                prop_assert!(is_current || is_told, "{page:?} lacks {position}");
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.confirmed == self.changes.len() && self.occupancy.is_empty() {
                return;
            }
            for step in [
                Step::Read,
                Step::Look,
                Step::Answer { is_list: true },
                Step::Send(0),
                Step::Send(1),
                Step::Pass(Duration::from_millis(100)),
            ] {
                self.step(step);
            }
        }
        panic!("it waits for ever: {:?}", self.occupancy);
    }
}

proptest! {
    #[test]
    fn whoever_joins_when_and_whatever_ends_no_page_stays_as_it_was(
        steps in steps(), may_lag in any::<bool>(), is_narrow in any::<bool>()
    ) {
        let lag = if may_lag { LAG } else { Duration::ZERO };
        let mut world = World::new(lag, if is_narrow { 2_000 } else { ROOM });
        for step in steps {
            world.step(step);
            world.check()?;
        }
        world.settle();
        world.check()?;
        prop_assert_eq!(world.occupancy.pending_bytes(), 0);
    }
}

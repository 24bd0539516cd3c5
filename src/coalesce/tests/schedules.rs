//! Whatever is changed, read, sent and accepted, and when: every change is told
//! after it, in order, and nothing is confirmed before.
//!
//! A script of transactions is read in pieces, as deliver would hand it on, by a
//! coalescer whose caller pops, accepts, ages and forgets at random. After a
//! forgetting the script is read again from what was confirmed, as a server
//! sends it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use proptest::sample::Index;

use super::parents::rules_of_hosts;
use super::*;

const LANES: usize = 2;
const IDS: u64 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// So many items of the script.
    Read(usize),
    /// So many notifications of a lane.
    Pop(usize, usize),
    PopResync,
    /// The endpoint accepts one of what was popped.
    Accept(Index),
    /// It refuses it for good.
    Reject(Index),
    Wait(u64),
    Age,
    /// A resync is recorded as owed for a rule.
    Owe(usize),
    Forget,
}

#[derive(Clone, Debug)]
enum Item {
    /// By rule, id, and which channels and event name of a few.
    Change {
        rule: usize,
        id: u64,
        choice: u8,
    },
    Truncate {
        rule: usize,
    },
    Commit,
    /// A position without a commit, as an idle keepalive brings it.
    Idle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..12_usize).prop_map(Step::Read),
        6 => (0..LANES, 1..6_usize).prop_map(|(lane, count)| Step::Pop(lane, count)),
        2 => Just(Step::PopResync),
        8 => any::<Index>().prop_map(Step::Accept),
        1 => any::<Index>().prop_map(Step::Reject),
        4 => (1..200_u64).prop_map(Step::Wait),
        1 => Just(Step::Age),
        1 => (0..RULES).prop_map(Step::Owe),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 0..120)
}

fn script() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        12 => (0..RULES, 0..IDS, any::<u8>())
            .prop_map(|(rule, id, choice)| Item::Change { rule, id, choice }),
        1 => (0..RULES).prop_map(|rule| Item::Truncate { rule }),
        4 => Just(Item::Commit),
        1 => Just(Item::Idle),
    ];
    prop::collection::vec(item, 0..250)
}

fn limits() -> impl Strategy<Value = Limits> {
    let collapse_above = prop_oneof![1..6_usize, Just(1000)];
    let max_pending_bytes = prop_oneof![3_000..20_000_usize, Just(usize::MAX)];
    let max_age = prop_oneof![Just(None), (1..2000_u64).prop_map(Some)];
    (collapse_above, max_pending_bytes, max_age).prop_map(|(collapse_above, bytes, age)| Limits {
        collapse_above,
        max_pending_bytes: bytes,
        max_age: age.map(Duration::from_millis),
    })
}

const RULES: usize = 12;

/// What routing makes of a change that is only counted.
fn counted(made: &Notification, demand: Demand) -> Resync {
    let audience = match demand {
        Demand::Count => Audience::All,
        Demand::Notification | Demand::Channels => Audience::of(&made.channels),
    };
    Resync {
        terms: made.terms.clone(),
        reason: Reason::Bulk,
        count: Some(1),
        audience,
        position: Some(made.position),
        at: made.at,
    }
}

/// Each differs in what folding looks at. The last ones are of hosts and what
/// belongs to these, of racks and what belongs to these, and of lists.
fn rules() -> [Arc<Terms>; RULES] {
    let alike = |name: &str| Some(Action::ALL.map(|_| event(name)));
    let own = || Shape::Own("{\"id\":*,}".into());
    let named = |entity: &str, rule: &str| Terms { entity: entity.into(), ..terms(rule) };
    [
        named("post", "by-action"),
        Terms { events: vec![alike("Saved")], may_collapse: false, ..named("post", "alike") },
        Terms {
            events: vec![alike("Listed"), alike("Shown")],
            window_by: WindowBy::Channel,
            window: Some(WINDOW / 2),
            ..named("list", "by-channel")
        },
        Terms { window: None, ..named("post", "each") },
        Terms { events: vec![None, None], ..named("log", "named") },
        Terms { events: vec![alike("Child")], id_is_row: false, ..named("parent", "child") },
        Terms { events: vec![alike("Host")], ..named("host", "host") },
        Terms { events: vec![alike("Host")], id_is_row: false, ..named("host", "part") },
        Terms {
            events: vec![alike("Seen"), alike("Host")],
            id_is_row: false,
            may_collapse: false,
            ..named("host", "piece")
        },
        Terms { events: vec![alike("Rack"), None], shape: own(), ..named("rack", "rack") },
        Terms {
            events: vec![alike("Rack"), None],
            shape: own(),
            id_is_row: false,
            ..named("rack", "bay")
        },
        Terms {
            events: vec![alike("Listed"), alike("Shown")],
            window_by: WindowBy::Channel,
            window: Some(WINDOW / 2),
            ..named("list", "also-by-channel")
        },
    ]
    .map(Arc::new)
}

/// A notification that must be told, until it is.
#[derive(Clone, Debug)]
struct Obligation {
    rule: usize,
    event_index: usize,
    id: Box<str>,
    /// Empty for all that the rule names.
    channel: String,
    position: Position,
    /// When it was last pushed, by the count of steps.
    pushed: u64,
}

/// What was popped and not accepted.
enum Popped {
    Notification(Notification),
    Resync(Resync),
    /// A rule's resync on these channels, which refused the notification.
    Follower(Notification, usize, Vec<ChannelName>),
}

/// Entity, id and length.
type WindowOf = (Arc<str>, Box<str>, Option<Duration>);

struct World {
    limits: Limits,
    rules: [Arc<Terms>; RULES],
    /// The script, with each change's position, payload and serial number.
    script: Vec<(Item, Position)>,
    actions: HashMap<usize, Action>,
    /// Changes of rows that were not before their transaction, up to where it
    /// deleted them.
    unseen: BTreeSet<usize>,
    /// Changes of rows from where their transaction created them to where it
    /// deleted them.
    passing: BTreeSet<usize>,
    cursor: usize,
    stage: Stage,
    serial: u64,
    confirmed: Option<Position>,
    reached: Option<Position>,
    obligations: BTreeMap<(usize, usize, String), Obligation>,
    popped: Vec<(u64, Popped)>,
    owed: BTreeMap<usize, u64>,
    /// Of each window: the serial number of the last change told.
    told: HashMap<WindowOf, usize>,
    /// Of each rule, event, id and channel: the last one told.
    last_told: HashMap<(usize, usize, Box<str>, ChannelName), usize>,
    last_resync: HashMap<usize, u64>,
}

impl World {
    fn new(limits: Limits, items: Vec<Item>) -> World {
        let mut stage = Stage::new(limits);
        stage.coalescer = Coalescer::new(LANES, limits).demanding();
        let mut world = World {
            limits,
            rules: rules(),
            script: Vec::new(),
            actions: HashMap::new(),
            unseen: BTreeSet::new(),
            passing: BTreeSet::new(),
            cursor: 0,
            stage,
            serial: 0,
            confirmed: None,
            reached: None,
            obligations: BTreeMap::new(),
            popped: Vec::new(),
            owed: BTreeMap::new(),
            told: HashMap::new(),
            last_told: HashMap::new(),
            last_resync: HashMap::new(),
        };
        world.write(items);
        world
    }

    /// Gives each item its position, and each change an action that its row's
    /// history allows.
    fn write(&mut self, items: Vec<Item>) {
        let mut position = 10;
        let mut rows: HashMap<(usize, u64), bool> = HashMap::new();
        let mut before = rows.clone();
        let mut changes: Vec<(usize, (usize, u64))> = Vec::new();
        for item in items.into_iter().chain([Item::Commit]) {
            let index = self.script.len();
            self.script.push((item.clone(), Position::new(position)));
            match item {
                Item::Change { rule, id, choice } => {
                    let exists = rows.entry((rule, id)).or_insert(id % 2 == 0);
                    before.entry((rule, id)).or_insert(*exists);
                    let action = match (*exists, choice % 4) {
                        (false, _) => Action::Created,
                        (true, 0) => Action::Deleted,
                        (true, 1) => Action::Restored,
                        (true, _) => Action::Updated,
                    };
                    *exists = action != Action::Deleted;
                    self.actions.insert(index, action);
                    changes.push((index, (rule, id)));
                }
                Item::Truncate { rule } => {
                    for ((of, _), exists) in &mut rows {
                        *exists &= *of != rule;
                    }
                }
                Item::Commit => {
                    for (index, row) in &changes {
                        let later =
                            changes.iter().filter(|(later, of)| later >= index && of == row);
                        let mut later = later.map(|(later, _)| self.actions[later]);
                        let is_deleted = later.any(|action| action == Action::Deleted);
                        if is_deleted && !before[row] {
                            self.unseen.insert(*index);
                        }
                        let until =
                            changes.iter().filter(|(until, of)| until <= index && of == row);
                        let mut until = until.map(|(until, _)| self.actions[until]);
                        if is_deleted && until.any(|action| action == Action::Created) {
                            self.passing.insert(*index);
                        }
                    }
                    changes.clear();
                    before = rows.clone();
                    position += 10;
                }
                // Between two transactions only.
                Item::Idle if changes.is_empty() => position += 10,
                Item::Idle => {}
            }
        }
    }

    fn notifications(&self, index: usize) -> Vec<Notification> {
        let (Item::Change { rule, id, choice }, position) = &self.script[index] else {
            return Vec::new();
        };
        let terms = &self.rules[*rule];
        let of_rule = match &*terms.entity {
            "host" | "rack" | "list" if choice % 4 < 3 => format!("{}-b", terms.entity),
            _ => format!("{}-b", terms.rule),
        };
        let of_entity = format!("{}-a", terms.entity);
        let channels = match choice % 3 {
            0 => vec![of_entity],
            1 => vec![of_rule],
            _ => vec![of_entity, of_rule],
        };
        let action = self.actions[&index];
        let of_event = |event_index: usize| Notification {
            event_index,
            event: terms
                .event(event_index, action)
                .cloned()
                .unwrap_or_else(|| event(if choice % 5 == 0 { "One" } else { "Other" })),
            channels: channels.iter().map(|name| name.parse().expect("a channel")).collect(),
            payload: Payload::Own(index.to_string().into()),
            at: self.stage.at.wall,
            ..notification(terms, action, *id, position.value())
        };
        (0..terms.events.len()).map(of_event).collect()
    }

    fn rule_of(&self, terms: &Arc<Terms>) -> usize {
        self.rules.iter().position(|rule| Arc::ptr_eq(rule, terms)).expect("a rule")
    }

    /// Hands on what one read of the stream brought.
    fn read(&mut self, count: usize) {
        let mut resyncs = Vec::new();
        let mut reached = None;
        for _ in 0..count {
            // As reading waits where there is no room.
            if self.cursor == self.script.len() || !self.stage.coalescer.has_room() {
                break;
            }
            let index = self.cursor;
            self.cursor += 1;
            let (item, position) = self.script[index].clone();
            match item {
                Item::Change { rule, .. } => {
                    let made = self.notifications(index);
                    for notification in &made {
                        self.oblige(rule, index, notification);
                    }
                    match self.demand(&item) {
                        Demand::Notification => {
                            made.into_iter().for_each(|notification| self.stage.push(notification));
                        }
                        demand => resyncs.push(counted(&made[0], demand)),
                    }
                }
                Item::Truncate { rule } => {
                    resyncs.push(Resync {
                        terms: self.rules[rule].clone(),
                        reason: Reason::Truncate,
                        count: None,
                        audience: Audience::All,
                        position: Some(position),
                        at: self.stage.at.wall,
                    });
                    self.owed.insert(rule, self.serial);
                    let oblige = Obligation {
                        rule,
                        event_index: usize::MAX,
                        id: "".into(),
                        channel: String::new(),
                        position,
                        pushed: self.serial,
                    };
                    self.obligations.insert((index, 0, String::new()), oblige);
                }
                Item::Commit => reached = Some(position),
                Item::Idle if self.is_between(index) => reached = Some(position),
                Item::Idle => {}
            }
        }
        for resync in resyncs {
            let Stage { coalescer, frontier, at } = &mut self.stage;
            coalescer.resync(resync, *at, frontier);
        }
        if let Some(position) = reached {
            self.stage.reach(position);
            self.reached = Some(position);
        }
    }

    /// As the rules are told, or were, or will be.
    fn demand(&self, item: &Item) -> Demand {
        let Item::Change { rule, choice, .. } = item else { panic!("no change") };
        let terms = &self.rules[*rule];
        match choice / 16 {
            0 => Demand::Notification,
            1 if terms.may_collapse => Demand::Channels,
            2 if terms.may_collapse => Demand::Count,
            _ => terms.demanded.now(),
        }
    }

    /// Whether no transaction is open at that place of the script.
    fn is_between(&self, index: usize) -> bool {
        let before = self.script[..index].iter().rev();
        let mut of_transaction = before.take_while(|(item, _)| !matches!(item, Item::Commit));
        !of_transaction.any(|(item, _)| matches!(item, Item::Change { .. } | Item::Truncate { .. }))
    }

    fn oblige(&mut self, rule: usize, index: usize, notification: &Notification) {
        if self.may_be_nothing(index, &notification.terms) {
            return;
        }
        for channel in &notification.channels {
            let channel = channel.to_string();
            let key = (index, notification.event_index, channel.clone());
            let obligation = Obligation {
                rule,
                event_index: notification.event_index,
                id: notification.id.clone(),
                channel,
                position: notification.position,
                pushed: self.serial,
            };
            self.obligations.insert(key, obligation);
        }
    }

    fn may_be_nothing(&self, index: usize, terms: &Terms) -> bool {
        // What was before it in the transaction may have gone out already.
        let is_piecewise = !terms.may_collapse && self.limits.max_pending_bytes < usize::MAX;
        let is_nothing =
            self.unseen.contains(&index) || is_piecewise && self.passing.contains(&index);
        terms.id_is_row && is_nothing
    }

    fn pop(&mut self, lane: usize) -> Option<()> {
        let popped = self.stage.coalescer.pop(lane, self.stage.at.now)?;
        let index: usize = popped.data().parse().expect("an index");
        if self.limits.max_pending_bytes == usize::MAX {
            let last = self.script[index].1;
            assert!(Some(last) <= self.reached, "{last:?} before it was complete");
        }
        assert!(popped.position <= self.script[index].1);
        if popped.terms.window_by == WindowBy::Id {
            let id = (popped.terms.entity.clone(), popped.id.clone(), popped.terms.window);
            let before = self.told.insert(id, index);
            assert!(before <= Some(index), "{before:?} before {index}");
            assert_eq!(*popped.id, *self.id_of(index));
        }
        for (rule, event_index, channels) in self.shares(&popped) {
            for channel in channels {
                assert!(popped.channels.contains(&channel));
                let id = popped.id.clone();
                self.last_told.insert((rule, event_index, id, channel), index);
            }
        }
        self.popped.push((self.serial, Popped::Notification(popped)));
        Some(())
    }

    /// By rule, each with which of its events it is.
    fn shares(&self, popped: &Notification) -> Vec<(usize, usize, Vec<ChannelName>)> {
        let Notification { terms, event_index, channels, .. } = popped;
        if popped.shares.is_empty() {
            return vec![(self.rule_of(terms), *event_index, channels.clone())];
        }
        let shares = popped.shares.iter();
        shares.map(|it| (self.rule_of(&it.terms), it.event_index, it.channels.clone())).collect()
    }

    fn id_of(&self, index: usize) -> String {
        let Item::Change { id, .. } = self.script[index].0 else { panic!("no change") };
        id.to_string()
    }

    fn pop_resync(&mut self) -> Option<()> {
        let popped = self.stage.coalescer.pop_resync(self.stage.at.now, |_, _| false)?;
        self.last_resync.insert(self.rule_of(&popped.terms), self.serial);
        self.popped.push((self.serial, Popped::Resync(popped)));
        Some(())
    }

    fn accept(&mut self, index: usize) {
        let (popped_at, popped) = self.popped.swap_remove(index);
        match popped {
            Popped::Notification(popped) => {
                for (rule, _, channels) in self.shares(&popped) {
                    self.tell(&popped, rule, &channels, popped_at);
                }
                self.stage.frontier.leave(popped.position);
            }
            Popped::Follower(refused, rule, channels) => {
                self.tell(&refused, rule, &channels, popped_at);
                self.stage.frontier.leave(refused.position);
            }
            Popped::Resync(popped) => {
                let rule = self.rule_of(&popped.terms);
                let Resync { audience, .. } = &popped;
                let is_told = |owed: &Obligation| match &*owed.channel {
                    "" => audience.is_all(),
                    channel => audience.holds(&channel.parse().expect("a channel")),
                };
                self.obligations.retain(|_, owed| {
                    owed.rule != rule || owed.pushed >= popped_at || !is_told(owed)
                });
                if audience.is_all() {
                    self.owed.retain(|owed, since| *owed != rule || *since >= popped_at);
                }
                if let Some(position) = popped.position {
                    self.stage.frontier.leave(position);
                }
            }
        }
    }

    /// What the rule has in the notification was told on these channels.
    fn tell(
        &mut self,
        popped: &Notification,
        rule: usize,
        channels: &[ChannelName],
        popped_at: u64,
    ) {
        let of_event =
            |(of, event_index, _): &(usize, usize, _)| (*of == rule).then_some(*event_index);
        let event_index = self.shares(popped).iter().find_map(of_event).expect("it has a share");
        self.obligations.retain(|_, owed| {
            let is_told = owed.rule == rule
                && owed.event_index == event_index
                && owed.pushed < popped_at
                && (owed.id == popped.id || *popped.id == *"null")
                && channels.iter().any(|channel| channel.as_str() == owed.channel);
            !is_told
        });
    }

    /// It stands in the file of what was refused, and resyncs follow, as a lane
    /// has it.
    fn reject(&mut self, index: usize) {
        if !matches!(self.popped[index].1, Popped::Notification(_)) {
            return;
        }
        let (popped_at, popped) = self.popped.swap_remove(index);
        let Popped::Notification(refused) = popped else { unreachable!("it was seen above") };
        for (resync, channels) in refused.resyncs_on(&refused.channels, Reason::Refused) {
            self.stage.frontier.hold(refused.position);
            let rule = self.rule_of(&resync.terms);
            self.popped.push((popped_at, Popped::Follower(refused.clone(), rule, channels)));
        }
        self.stage.frontier.leave(refused.position);
    }

    fn owe(&mut self, rule: usize) {
        self.owed.insert(rule, self.serial);
        let resync = Resync {
            terms: self.rules[rule].clone(),
            reason: Reason::Gap,
            count: None,
            audience: Audience::All,
            position: None,
            at: self.stage.at.wall,
        };
        let Stage { coalescer, frontier, at } = &mut self.stage;
        coalescer.resync(resync, *at, frontier);
    }

    /// The session ends, and the next one reads on from what was confirmed.
    fn forget(&mut self) {
        self.stage.coalescer.forget();
        self.stage.frontier = Frontier::default();
        self.popped.clear();
        self.told.clear();
        self.reached = None;
        let confirmed = self.confirmed;
        let is_confirmed = |(_, position): &(Item, Position)| Some(*position) <= confirmed;
        self.cursor = self.script.iter().take_while(|item| is_confirmed(item)).count();
        for rule in self.owed.clone().into_keys() {
            self.owe(rule);
        }
    }

    fn step(&mut self, step: Step) {
        self.serial += 1;
        match step {
            Step::Read(count) => self.read(count),
            Step::Pop(lane, count) => {
                let _ = (0..count).try_for_each(|_| self.pop(lane));
            }
            Step::PopResync => drop(self.pop_resync()),
            Step::Accept(_) | Step::Reject(_) if self.popped.is_empty() => {}
            Step::Reject(index) => self.reject(index.index(self.popped.len())),
            Step::Accept(index) => self.accept(index.index(self.popped.len())),
            Step::Wait(millis) => self.stage.wait(Duration::from_millis(millis)),
            Step::Age => {
                let Stage { coalescer, frontier, at } = &mut self.stage;
                coalescer.age(*at, frontier);
            }
            Step::Owe(rule) => self.owe(rule),
            Step::Forget => self.forget(),
        }
        self.check();
    }

    fn check(&mut self) {
        if let Some(position) = self.stage.frontier.advance() {
            self.confirmed = self.confirmed.max(Some(position));
        }
        for owed in self.obligations.values() {
            assert!(self.confirmed < Some(owed.position), "{:?}, and {owed:?}", self.confirmed);
        }
        for terms in self.rules.iter().filter(|terms| !terms.may_collapse) {
            assert_eq!(terms.demanded.now(), Demand::Notification, "{}", terms.rule);
        }
        if self.stage.coalescer.is_empty() && self.popped.is_empty() {
            assert!(self.stage.frontier.is_idle());
        }
        // A change's notifications may go past the bound before reading stops.
        let bytes = self.stage.coalescer.pending_bytes();
        assert!(bytes <= self.limits.max_pending_bytes.saturating_add(5_000), "{bytes}");
    }

    /// All is read, and the endpoint accepts all.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.step(Step::Read(20));
            for lane in 0..LANES {
                self.step(Step::Pop(lane, 100));
            }
            while self
                .stage
                .coalescer
                .next_due(|_| true)
                .is_some_and(|due| due <= self.stage.at.now)
            {
                let _ = (0..LANES).filter_map(|lane| self.pop(lane)).count();
            }
            self.step(Step::PopResync);
            while !self.popped.is_empty() {
                self.accept(0);
            }
            self.check();
            let is_read = self.cursor == self.script.len();
            if is_read && self.stage.coalescer.is_empty() && self.popped.is_empty() {
                return;
            }
            self.step(Step::Wait(100));
        }
        panic!("it never comes to rest");
    }
}

proptest! {
    #[test]
    fn each_change_is_told_after_it_in_order_and_confirmed_only_then(
        limits in limits(),
        script in script(),
        steps in steps(),
    ) {
        let mut world = World::new(limits, script);
        for step in steps {
            world.step(step);
        }
        world.settle();
        prop_assert!(world.obligations.is_empty(), "never told: {:?}", world.obligations);
        prop_assert!(world.owed.is_empty());
        prop_assert_eq!(world.stage.coalescer.pending_bytes(), 0);
        prop_assert!(world.stage.coalescer.rules.hold_nothing());
        let demands = world.rules.iter().map(|terms| terms.demanded.now());
        prop_assert!(demands.into_iter().all(|demand| demand == Demand::Notification));
        prop_assert_eq!(world.confirmed, world.script.last().map(|(_, position)| *position));
        // The last word on an id is its last change's.
        for (index, (item, _)) in world.script.iter().enumerate() {
            let Item::Change { rule, .. } = item else { continue };
            let terms = &world.rules[*rule];
            if terms.window_by == WindowBy::Channel || world.last_resync.contains_key(rule) {
                continue;
            }
            if world.may_be_nothing(index, terms) {
                continue;
            }
            for made in world.notifications(index) {
                for channel in made.channels {
                    let told = (*rule, made.event_index, made.id.clone(), channel);
                    prop_assert!(world.last_told.get(&told) >= Some(&index), "{:?}", told);
                }
            }
        }
    }

    #[test]
    fn what_is_folded_has_a_socket_only_if_all_of_it_has_the_same(
        changes in prop::collection::vec((0..3_usize, 0..3_usize), 1..6),
    ) {
        let [host, part, piece] = rules_of_hosts();
        let mut stage = Stage::new(AMPLE);
        stage.commit(notification(&host, Action::Updated, 7, 1));
        stage.pop().expect("it is due");
        let socket = |index: usize| [None, Some("1.1"), Some("2.2")][index].map(Arc::from);
        for (position, (rule, index)) in (2..).zip(&changes) {
            let terms = [&host, &part, &piece][*rule];
            let made = notification(terms, Action::Updated, 7, position);
            stage.commit(Notification { socket_id: socket(*index), ..made });
        }
        stage.wait(WINDOW);
        let popped = stage.pop_all();
        prop_assert_eq!(popped.len(), 1);
        prop_assert_eq!(popped[0].count, changes.len() as u64);
        let first = changes[0].1;
        let is_same = changes.iter().all(|(_, index)| *index == first);
        prop_assert_eq!(&popped[0].socket_id, &socket(first).filter(|_| is_same));
    }

    #[test]
    fn a_hot_id_is_sent_at_once_and_then_once_for_each_window(
        changes in prop::collection::vec((0..120_u64, any::<bool>()), 1..100),
    ) {
        let terms = Arc::new(Terms {
            events: vec![Some(Action::ALL.map(|_| event("Saved")))],
            ..terms("post")
        });
        let mut stage = Stage::new(AMPLE);
        let mut sent: Vec<Instant> = Vec::new();
        for (position, (millis, is_popped)) in (1..).zip(changes) {
            stage.wait(Duration::from_millis(millis));
            let is_free = sent.last().is_none_or(|last| *last + WINDOW <= stage.at.now);
            stage.commit(notification(&terms, Action::Updated, 7, position));
            if !is_popped {
                continue;
            }
            let due = stage.coalescer.next_due(|_| true).expect("one is unsent");
            prop_assert_eq!(due <= stage.at.now, is_free);
            let popped = stage.pop_all();
            prop_assert_eq!(popped.len(), usize::from(is_free));
            sent.extend(popped.iter().map(|_| stage.at.now));
        }
        prop_assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW));
    }
}

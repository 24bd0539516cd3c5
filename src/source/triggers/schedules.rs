//! Any schedule of transactions, polls, confirmations and deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::backlog::{Backlog, Listed, Read};
use super::ledger::Ledger;
use super::missing::Missing;
use super::room::Room;
use super::rows::{OutboxRow, Rows, tests::array};
use super::shapes::{ShapeRow, Shapes};
use super::taker::Taker;
use crate::change::{
    Batch, Column, Item, Kind, Missed, Position, Relation, ReplicaIdentity, TableName, Timestamp,
    Value,
};
use crate::postgres::running::RunningTransactions;

const KEYS: u64 = 4;
const MAX_ROWS: u64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// One of the running transactions changes a row, if no other has.
    Change(prop::sample::Index, u64),
    /// It could not write down what it changed.
    Fail(prop::sample::Index),
    Commit(prop::sample::Index),
    RollBack(prop::sample::Index),
    /// Whether there is more than one answer may hold.
    Poll(bool),
    ReadOn,
    /// So many of those that were handed on are delivered.
    Confirm(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        3 => Just(Step::Begin),
        6 => (which(), 0..KEYS).prop_map(|(at, key)| Step::Change(at, key)),
        1 => which().prop_map(Step::Fail),
        3 => which().prop_map(Step::Commit),
        1 => which().prop_map(Step::RollBack),
        4 => any::<bool>().prop_map(Step::Poll),
        4 => Just(Step::ReadOn),
        2 => (0..4_usize).prop_map(Step::Confirm),
        2 => (0..1500_u64).prop_map(Step::Wait),
    ]
}

#[derive(Clone, Debug)]
struct Row {
    xid: u64,
    id: i64,
    key: u64,
    /// Which change of its key it is, counted when it is made.
    version: u64,
}

/// A database, as far as it matters.
#[derive(Default)]
struct Db {
    last_xid: u64,
    latest_completed: u64,
    last_id: i64,
    failures: i64,
    running: Vec<u64>,
    /// Who has changed a key and not ended.
    locks: BTreeMap<u64, u64>,
    versions: BTreeMap<u64, u64>,
    rows: Vec<Row>,
    /// All rows that were ever committed.
    committed: Vec<Row>,
    rolled_back: BTreeSet<u64>,
}

impl Db {
    fn begin(&mut self) -> u64 {
        self.last_xid += 1;
        self.running.push(self.last_xid);
        self.last_xid
    }

    fn end(&mut self, xid: u64) {
        self.running.retain(|running| *running != xid);
        self.locks.retain(|_, by| *by != xid);
        self.latest_completed = self.latest_completed.max(xid);
    }

    fn change(&mut self, xid: u64, key: u64) {
        if self.locks.get(&key).is_some_and(|by| *by != xid) {
            return;
        }
        self.locks.insert(key, xid);
        let version = self.versions.entry(key).or_default();
        *version += 1;
        self.last_id += 1;
        self.rows.push(Row { xid, id: self.last_id, key, version: *version });
    }

    fn snapshot(&self) -> RunningTransactions {
        let xmax = self.latest_completed + 1;
        RunningTransactions::of(xmax, self.running.iter().copied().filter(|x| *x < xmax).collect())
    }

    fn shows(&self, xid: u64) -> bool {
        !self.running.contains(&xid) && !self.rolled_back.contains(&xid)
    }

    /// What the statements select.
    fn fresh(&self, since: &RunningTransactions) -> Vec<Row> {
        let xmax = self.latest_completed + 1;
        let is_fresh = |row: &&Row| {
            let has_ended = since.running().contains(&row.xid);
            let has_begun = row.xid >= since.xmax() && row.xid < xmax;
            (has_ended || has_begun) && self.shows(row.xid)
        };
        self.rows.iter().filter(is_fresh).cloned().collect()
    }

    fn fence(&mut self) -> u64 {
        let xid = self.begin();
        self.end(xid);
        xid
    }
}

/// The pure parts of a session, held together as it does.
struct Reader {
    taker: Taker,
    ledger: Ledger,
    missing: Missing,
    room: Room,
    since: RunningTransactions,
    backlog: Option<Backlog>,
    last_id: i64,
    now: Instant,
    /// What was handed on: `None` where a position was reached.
    handed: Vec<Option<(u64, u64)>>,
    reached: Vec<Position>,
    /// Of each position the transaction.
    transactions: BTreeMap<u64, u64>,
    told: Vec<RunningTransactions>,
    recorded: i64,
}

fn posts() -> Relation {
    let column = |name: &str| Column {
        name: name.into(),
        kind: Kind::Integer,
        in_identity: false,
        nullable: false,
    };
    Relation {
        oid: 9,
        table: TableName::new("public", "posts"),
        renamed: None,
        columns: ["version", "other", "key"].map(column).into(),
        identity: ReplicaIdentity::Default,
        primary_key: vec![2],
    }
}

impl Reader {
    fn new() -> Reader {
        let mut shapes = Shapes::new(Box::new(|_| Vec::new()));
        let columns = ["key", "gone", "version"].map(str::to_owned).into();
        shapes.learn(vec![ShapeRow { id: 1, relation: 9, columns }], vec![posts()]);
        Reader {
            taker: Taker::new(shapes),
            ledger: Ledger::new(3),
            missing: Missing::new(Missed::Unrecorded, 0),
            room: Room::new(MAX_ROWS),
            since: RunningTransactions::UNKNOWN,
            backlog: None,
            last_id: 0,
            now: Instant::now(),
            handed: Vec::new(),
            reached: Vec::new(),
            transactions: BTreeMap::new(),
            told: Vec::new(),
            recorded: 0,
        }
    }

    fn poll(&mut self, db: &mut Db, is_more: bool) {
        if self.backlog.is_some() {
            return;
        }
        let (snapshot, fresh) = (db.snapshot(), db.fresh(&self.since));
        let seen = self.room.count(fresh.iter().map(|row| row.id));
        self.room.polled(seen, db.last_id, &snapshot);
        self.last_id = db.last_id;
        if is_more {
            let mut listed: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
            for row in &fresh {
                let (last, rows) = listed.entry(row.xid).or_default();
                (*last, *rows) = (row.id.max(*last), *rows + 1);
            }
            // As if they were wide, some of them too much so for one read.
            let listed = listed.into_iter().map(|(xid, (last, rows))| {
                Listed::new(xid, last, rows, rows * (i64::try_from(xid % 3).unwrap() << 20))
            });
            self.backlog = Some(Backlog::new(listed.collect()));
        } else if !fresh.is_empty() {
            let batch = self.taker.whole(rows(fresh), &mut self.ledger);
            self.take(&batch);
        }
        self.missing.polled(db.failures);
        if self.missing.is_due(&snapshot, self.now) {
            let reached = self.ledger.handed_on(0, 0);
            self.handed.push(None);
            self.reached.push(reached);
            self.missing.told_at(reached);
            self.told.push(snapshot.clone());
        }
        if self.missing.wants_fence() {
            let fence = db.fence();
            self.missing.fence(fence);
            self.room.fence(self.last_id, fence);
        }
        self.since = snapshot;
    }

    fn read_on(&mut self, db: &Db) {
        let Some(backlog) = &mut self.backlog else { return };
        match backlog.next() {
            None => self.backlog = None,
            Some(Read::Whole(xids)) => {
                let found = db.rows.iter().filter(|row| xids.contains(&row.xid));
                let batch = self.taker.whole(rows(found.cloned().collect()), &mut self.ledger);
                self.take(&batch);
            }
            Some(Read::Piece(large)) => {
                let of_it = |row: &&Row| row.xid == large.xid && row.id > large.after;
                let mut piece: Vec<Row> = db.rows.iter().filter(of_it).cloned().collect();
                piece.truncate(2);
                match piece.last().map(|row| row.id) {
                    Some(last) => {
                        backlog.piece_read(last, piece.len() as u64);
                        let batch = self.taker.piece(rows(piece), &self.ledger);
                        self.take(&batch);
                    }
                    None => {
                        backlog.end_large();
                        let batch = self.taker.end(large.xid, large.rows, &mut self.ledger);
                        self.take(&batch);
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        let mut of = None;
        for item in batch.items() {
            match item {
                Item::Change(change) => {
                    let value = |column| match change.new_value(column) {
                        Value::Text(text) => {
                            std::str::from_utf8(text).unwrap().parse::<u64>().unwrap()
                        }
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(change.new_value(1), Value::Unknown);
                    let position = change.transaction.position;
                    assert!(self.reached.last().is_none_or(|last| *last < position));
                    of = Some(position);
                    let xid = change.transaction.xid.into();
                    let is_whole = |at: u64| at == position.value() + 1;
                    let mut before = self.transactions.iter().filter(|(_, of)| **of == xid);
                    assert!(before.all(|(at, _)| is_whole(*at)), "{xid} is split");
                    self.transactions.insert(position.value() + 1, xid);
                    self.handed.push(Some((value(2), value(0))));
                }
                Item::Reached(position) => {
                    assert!(of.is_none_or(|of| of < position));
                    self.handed.push(None);
                    self.reached.push(position);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn delete(&mut self, db: &mut Db, now: Option<Instant>, confirmed: Position) {
        while let Some(due) = self.ledger.take_due(now) {
            assert!(due.position <= confirmed);
            for xid in &due.xids {
                let position = self.transactions.iter().find(|(_, of)| *of == xid);
                assert!(position.is_some_and(|(position, _)| *position <= confirmed.value()));
            }
            let before = db.rows.len();
            db.rows.retain(|row| !due.xids.contains(&row.xid));
            assert_eq!((before - db.rows.len()) as u64, due.rows);
            self.room.deleted(due.rows);
            self.recorded = self.missing.recorded_with(due.position);
            let fence = db.fence();
            self.missing.fence(fence);
            self.room.fence(self.last_id, fence);
        }
    }
}

fn rows(from: Vec<Row>) -> Rows {
    let mut rows = Rows::default();
    for Row { xid, id, key, version } in from {
        let start = rows.bytes.len();
        let (key, version) = (key.to_string(), version.to_string());
        rows.bytes.extend(array(&[Some(&key), Some("gone"), Some(&version)]));
        rows.rows.push(OutboxRow {
            xid,
            id,
            at: Timestamp::from_unix_micros(0),
            shape: Some(1),
            operation: b'i',
            old: None,
            new: Some(start..rows.bytes.len()),
        });
    }
    rows
}

proptest! {
    #[test]
    fn every_committed_row_is_handed_on_once_in_order_and_deleted_last(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let (mut db, mut reader) = (Db::default(), Reader::new());
        let mut confirmed = Position::default();
        // Of each transaction that failed to write.
        let mut failed: Vec<u64> = Vec::new();
        reader.poll(&mut db, false);
        let run = |db: &mut Db, reader: &mut Reader, step: Step| match step {
            Step::Begin => {
                db.begin();
            }
            Step::Change(at, key) if !db.running.is_empty() => {
                let xid = *at.get(&db.running);
                db.change(xid, key);
            }
            Step::Fail(at) if !db.running.is_empty() => {
                failed.push(*at.get(&db.running));
                db.failures += 1;
            }
            Step::Commit(at) if !db.running.is_empty() => {
                let xid = *at.get(&db.running);
                db.end(xid);
                let rows = db.rows.iter().filter(|row| row.xid == xid).cloned();
                db.committed.extend(rows);
            }
            Step::RollBack(at) if !db.running.is_empty() => {
                let xid = *at.get(&db.running);
                db.end(xid);
                db.rolled_back.insert(xid);
                db.rows.retain(|row| row.xid != xid);
            }
            Step::Change(..) | Step::Fail(_) | Step::Commit(_) | Step::RollBack(_) => {}
            Step::Poll(is_more) => reader.poll(db, is_more),
            Step::ReadOn => reader.read_on(db),
            Step::Confirm(count) => {
                let at = reader.reached.iter().filter(|at| **at > confirmed).nth(count);
                confirmed = at.copied().unwrap_or(confirmed);
                reader.ledger.confirm(confirmed, reader.now);
            }
            Step::Wait(millis) => {
                reader.now += Duration::from_millis(millis);
                reader.delete(db, Some(reader.now), confirmed);
            }
        };
        let mut run = run;
        for step in steps {
            run(&mut db, &mut reader, step);
            // What triggers may still write is never more than there is room for.
            let live = i64::try_from(db.rows.len()).unwrap();
            prop_assert!(reader.room.limit() <= db.last_id + MAX_ROWS.cast_signed() - live);
        }
        while let Some(xid) = db.running.first().copied() {
            db.end(xid);
            let rows = db.rows.iter().filter(|row| row.xid == xid).cloned();
            db.committed.extend(rows);
        }
        for _ in 0..4 {
            while reader.backlog.is_some() {
                reader.read_on(&db);
            }
            reader.now += Duration::from_secs(1);
            reader.poll(&mut db, false);
        }

        let handed: Vec<(u64, u64)> = reader.handed.iter().copied().flatten().collect();
        let mut expected: Vec<(u64, u64)> =
            db.committed.iter().map(|row| (row.key, row.version)).collect();
        expected.sort_unstable();
        let mut sorted = handed.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, expected, "each once");
        for key in 0..KEYS {
            let versions: Vec<u64> =
                handed.iter().filter(|(of, _)| *of == key).map(|(_, version)| *version).collect();
            prop_assert!(versions.is_sorted(), "{:?}", versions);
        }
        for xid in failed {
            // Whoever has a number below and does not run has ended.
            let shows = |told: &RunningTransactions| {
                xid < told.xmax() && !told.running().contains(&xid)
            };
            prop_assert!(reader.told.iter().any(shows), "{xid} failed and was not told");
        }

        // All is delivered: nothing is left, and all the room is there again.
        reader.ledger.confirm(Position::new(u64::MAX), reader.now);
        reader.delete(&mut db, None, Position::new(u64::MAX));
        prop_assert!(db.rows.is_empty());
        prop_assert_eq!(reader.recorded, db.failures);
        let fence = db.fence();
        reader.poll(&mut db, false);
        reader.room.fence(db.last_id, fence);
        reader.poll(&mut db, false);
        prop_assert_eq!(reader.room.limit(), db.last_id + MAX_ROWS.cast_signed());
        prop_assert_eq!(reader.ledger.due_at(), None::<Instant>);
    }
}

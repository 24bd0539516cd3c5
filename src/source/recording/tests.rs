use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use super::{Error, Recording, Writer};
use crate::change::{
    Batch, BatchBuilder, Broadcast, Change, Column, Context, Field, Item, Kind, Missed, Operation,
    Position, Relation, ReplicaIdentity, TableName, Timestamp, Transaction, Value,
};

const COLUMNS: [&str; 4] = ["id", "title", "body", "\u{e9} \"quoted\""];

fn relation() -> Arc<Relation> {
    let column = |name: &str| Column {
        name: name.into(),
        kind: Kind::Text,
        in_identity: true,
        nullable: true,
    };
    Arc::new(Relation {
        oid: 16385,
        table: TableName::new("public", "posts"),
        renamed: Some(TableName::new("public", "articles")),
        columns: COLUMNS.map(column).into(),
        identity: ReplicaIdentity::Full,
        primary_key: vec![0],
    })
}

fn transaction(n: u64) -> Transaction {
    let at = Timestamp::from_unix_micros(1_795_210_440_123_456 + n as i64);
    Transaction { xid: n as u32, at, position: Position::new(10 * n + 1) }
}

/// A value without its bytes' batch.
#[derive(Clone, Debug)]
enum Cell {
    Null,
    Text(Vec<u8>),
    Unchanged,
    Unknown,
    Omitted(u8),
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        ".{0,6}".prop_map(|text| Cell::Text(text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Cell::Text),
        Just(Cell::Unchanged),
        Just(Cell::Unknown),
        (0..2_u8).prop_map(Cell::Omitted),
    ]
}

type Cells = [Cell; COLUMNS.len()];

#[derive(Clone, Debug)]
enum Told {
    Insert(Cells),
    Update(Option<Cells>, Cells),
    Delete(Cells),
    Truncate,
    Broadcast(String),
    Missed,
    Context(Option<i64>),
    Reached,
}

fn told() -> impl Strategy<Value = Told> {
    let cells = || [cell(), cell(), cell(), cell()];
    prop_oneof![
        cells().prop_map(Told::Insert),
        (prop::option::of(cells()), cells()).prop_map(|(old, new)| Told::Update(old, new)),
        cells().prop_map(Told::Delete),
        Just(Told::Truncate),
        ".{0,6}".prop_map(Told::Broadcast),
        Just(Told::Missed),
        prop::option::of(any::<i64>()).prop_map(Told::Context),
        Just(Told::Reached),
    ]
}

fn batch(relation: &Arc<Relation>, told: &[Told]) -> Batch {
    let mut builder = BatchBuilder::default();
    let mut bytes = Vec::new();
    let mut n = 1;
    for told in told {
        let mut row = |builder: &mut BatchBuilder, cells: &Cells| {
            let start = builder.fields.len();
            for cell in cells {
                let at = bytes.len();
                let field = match cell {
                    Cell::Null => Field::NULL,
                    Cell::Unchanged => Field::UNCHANGED,
                    Cell::Unknown => Field::UNKNOWN,
                    Cell::Text(text) => {
                        bytes.extend_from_slice(text);
                        Field::text(at..bytes.len()).expect("it is short")
                    }
                    Cell::Omitted(fingerprint) => {
                        bytes.extend_from_slice(&[*fingerprint; Field::FINGERPRINT]);
                        Field::omitted(at).expect("it is short")
                    }
                };
                builder.fields.push(field);
            }
            start..builder.fields.len()
        };
        let (operation, old, new) = match told {
            Told::Insert(new) => (Operation::Insert, None, Some(row(&mut builder, new))),
            Told::Update(old, new) => {
                let old = old.as_ref().map(|old| row(&mut builder, old));
                (Operation::Update, old, Some(row(&mut builder, new)))
            }
            Told::Delete(old) => (Operation::Delete, Some(row(&mut builder, old)), None),
            Told::Truncate => {
                builder.truncate(relation.clone(), transaction(n));
                continue;
            }
            Told::Broadcast(text) => {
                let data = format!("{{\n{text:?}: 1}}").into();
                let channel = text.as_str().into();
                let broadcast = Broadcast { channel, event: "e".into(), data };
                builder.broadcast(broadcast, transaction(n));
                continue;
            }
            Told::Missed => {
                let relation = (n % 2 == 0).then(|| relation.clone());
                builder.missed(relation, Missed::Full, transaction(n));
                continue;
            }
            Told::Context(user) => {
                let context = |user: i64| Context::parse(format!("{{\"u\":{user}}}").as_bytes());
                builder.context = user.map(|user| Arc::new(context(user).expect("a context")));
                continue;
            }
            Told::Reached => {
                builder.context = None;
                builder.reached(Position::new(10 * n + 9));
                n += 1;
                continue;
            }
        };
        builder.change(relation, operation, transaction(n), old, new);
    }
    builder.finish(bytes.into())
}

fn record(folder: &Path, wanted: [bool; COLUMNS.len()], batches: &[&Batch]) -> PathBuf {
    let path = folder.join("changes.jsonl");
    let mut writer = Writer::create(&path, Box::new(move |_| wanted.into())).expect("a new file");
    batches.iter().for_each(|batch| writer.write(batch).expect("it is written"));
    path
}

fn read(path: &Path, after: Option<Position>) -> Result<Vec<Batch>, Error> {
    let mut recording = Recording::open(path, after)?;
    let mut batches = Vec::new();
    while let Some(batch) = recording.next()? {
        batches.push(batch);
    }
    Ok(batches)
}

/// What a rule that needs `wanted` can know of it.
fn seen(change: &Change<'_>, wanted: [bool; COLUMNS.len()]) -> String {
    let mut seen = format!("{:?} {:?} ", change.operation, change.relation);
    for (column, is_wanted) in wanted.into_iter().enumerate() {
        let known = |value: Value<'_>| match value {
            value @ (Value::Null | Value::Text(_)) if is_wanted => format!("{value:?}"),
            _ => "?".to_owned(),
        };
        let (old, new) = (known(change.old_value(column)), known(change.new_value(column)));
        let changed = match change.operation {
            Operation::Update => change.column_changed(column),
            Operation::Insert | Operation::Delete | Operation::Read => None,
        };
        seen.push_str(&format!("{old} {new} {changed:?}, "));
    }
    seen
}

fn all_seen<'a>(
    batches: impl IntoIterator<Item = &'a Batch>,
    wanted: [bool; COLUMNS.len()],
) -> Vec<String> {
    let of_item = |item: Item<'_>| match item {
        Item::Change(change) => {
            let context = change.context.map(|context| context.values().clone());
            format!("{} {:?} {context:?}", seen(&change, wanted), change.transaction)
        }
        item => format!("{item:?}"),
    };
    batches.into_iter().flat_map(|batch| batch.items().map(of_item).collect::<Vec<_>>()).collect()
}

proptest! {
    #[test]
    fn what_was_recorded_is_read_as_far_as_rules_can_know_it(
        told in prop::collection::vec(told(), 0..20),
        wanted in any::<[bool; COLUMNS.len()]>(),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut told = told;
        told.push(Told::Missed);
        told.push(Told::Reached);
        // Where nothing happened nothing is reached.
        told.dedup_by(|a, b| matches!((a, b), (Told::Reached, Told::Reached | Told::Context(_))));
        if matches!(told.first(), Some(Told::Reached)) {
            told.remove(0);
        }
        let recorded = batch(&relation(), &told);
        let path = record(folder.path(), wanted, &[&recorded]);
        let read = read(&path, None).expect("it can be read");
        let (expected, mut found) = (all_seen([&recorded], wanted), all_seen(&read, wanted));
        // A context alone, and its end, is no transaction.
        let reached = |text: &String| text.starts_with("Reached");
        let told_of = |seen: &[String]| -> Vec<String> {
            let mut kept: Vec<String> = Vec::new();
            for text in seen {
                if !(reached(text) && kept.last().is_none_or(reached)) {
                    kept.push(text.clone());
                }
            }
            kept
        };
        found = told_of(&found);
        prop_assert_eq!(found, told_of(&expected));
    }

    #[test]
    fn whatever_is_no_recording_is_an_error_with_its_line(
        told in prop::collection::vec(told(), 1..6),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = record(folder.path(), [true; 4], &[&batch(&relation(), &told)]);
        let mut bytes = fs::read(&path).expect("it is there");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        fs::write(&path, &bytes).expect("it is written");
        // It may still be one, of something else.
        if let Err(error) = read(&path, None) {
            let Error::Line { line: found, .. } = error else { panic!("{error}") };
            prop_assert!(found >= line || byte == b'\n', "{} {}", found, line);
        }
    }
}

fn insert(id: &str) -> Told {
    Told::Insert([Cell::Text(id.into()), Cell::Null, Cell::Unknown, Cell::Unknown])
}

#[test]
fn a_value_that_no_rule_needs_is_not_in_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |text: &str| Cell::Text(text.into());
    let old = [text("7"), text("draft"), text("secret"), text("same")];
    let new = [text("7"), text("published"), text("hidden"), text("same")];
    let recorded = batch(&relation(), &[Told::Update(Some(old), new), Told::Reached]);
    let path = record(folder.path(), [true, true, false, false], &[&recorded]);
    let text = fs::read_to_string(&path).expect("it is there");
    let update = text.lines().find(|line| line.contains("update")).expect("an update");
    assert_eq!(
        update,
        "{\"update\":{\"relation\":16385,\"old\":{\"id\":\"7\",\"title\":\"draft\"},\
         \"new\":{\"id\":\"7\",\"title\":\"published\"},\"changed\":[\"body\"],\
         \"same\":[\"\u{e9} \\\"quoted\\\"\"]}}"
    );
    let read = read(&path, None).expect("it can be read");
    let change = read[0].change().expect("a change");
    assert_eq!(change.column_changed(2), Some(true));
    assert_eq!(change.column_changed(3), Some(false));
}

#[test]
fn what_was_told_before_is_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = [insert("1"), Told::Reached, insert("2"), Told::Reached, insert("3")];
    let recorded = batch(&relation(), &told);
    let path = record(folder.path(), [true; 4], &[&recorded]);
    let ids = |after: Option<Position>| -> Vec<String> {
        let read = read(&path, after).expect("it can be read");
        all_seen(&read, [true, false, false, false])
    };
    let all = ids(None);
    assert_eq!(all.len(), 6, "{all:?}");
    // One that was stopped within a transaction ends with it.
    assert!(all[5].starts_with("Reached"), "{all:?}");
    assert_eq!(ids(Some(Position::new(19))), all[2..]);
    assert_eq!(ids(Some(Position::new(29))), all[4..]);
    assert!(ids(Some(Position::new(31))).is_empty());
}

#[test]
fn recordings_one_after_the_other_are_one_whose_positions_rise() {
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = batch(&relation(), &[insert("1"), Told::Reached, insert("2")]);
    let path = record(folder.path(), [true; 4], &[&recorded]);
    let once = fs::read_to_string(&path).expect("it is there");
    fs::write(&path, format!("{once}{once}")).expect("it is written");
    let read = read(&path, None).expect("it can be read");
    let mut reached = Position::default();
    for item in read.iter().flat_map(Batch::items) {
        match item {
            Item::Change(change) => assert!(change.transaction.position > reached),
            Item::Reached(position) => {
                assert!(position > reached);
                reached = position;
            }
            item => panic!("{item:?}"),
        }
    }
    assert_eq!(read.iter().flat_map(Batch::items).count(), 8);
}

#[test]
fn what_is_no_recording_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("changes.jsonl");
    let head = "{\"recording\":{\"version\":1}}\n";
    let begin = "{\"transaction\":{\"xid\":1,\"at\":\"2026-11-20T21:34:00Z\",\"position\":1}}\n";
    let described = format!(
        "{}\n",
        serde_json::json!({ "relation": serde_json::to_value(&*relation()).expect("JSON") })
    );
    let far = described.replace("\"primary_key\":[0]", "\"primary_key\":[4]");
    for (text, line, says) in [
        (String::new(), 1, "does not begin as a recording"),
        ("id,title\n".to_owned(), 1, "does not begin as a recording"),
        ("\u{7f}ELF".to_owned(), 1, "does not begin as a recording"),
        ("{\"reached\":1}\n".to_owned(), 1, "does not begin as a recording"),
        (head.replace('1', "2"), 1, "version 2, and this rowcast reads version 1"),
        (format!("{head}{{\"reached\":1"), 2, "has no end"),
        (format!("{head}\n"), 2, "EOF"),
        (format!("{head}{{\"unknown\":1}}\n"), 2, "unknown variant `unknown`"),
        (format!("{head}{{\"truncate\":{{\"relation\":9}}}}\n"), 2, "table 9 was not described"),
        (format!("{head}{described}{{\"truncate\":{{\"relation\":16385}}}}\n"), 3, "transaction"),
        (format!("{head}{far}"), 2, "another key"),
        (format!("{head}{}", begin.replace("2026", "9x")), 2, "is no moment"),
        (
            format!(
                "{head}{described}{begin}{{\"insert\":{{\"relation\":16385,\"new\":\
                 {{\"x\":null}}}}}}\n"
            ),
            4,
            "public.posts has no column \"x\"",
        ),
        (
            format!("{head}{described}{begin}{{\"insert\":{{\"relation\":16385}}}}\n"),
            4,
            "it is of insert, which has no such rows",
        ),
        (
            format!(
                "{head}{described}{begin}{{\"insert\":{{\"relation\":16385,\"new\":\
                 {{\"id\":7}}}}}}\n"
            ),
            4,
            "expected a string, null, or",
        ),
    ] {
        fs::write(&path, &text).expect("it is written");
        let Err(error) = read(&path, None) else { panic!("{text} was read") };
        let message = error.to_string();
        assert!(message.contains(&format!("changes.jsonl, line {line}: ")), "{message}");
        assert!(message.contains(says), "{message}");
    }
    let missing = read(&folder.path().join("missing"), None).expect_err("it is missing");
    assert!(missing.to_string().contains("cannot read the recording"), "{missing}");
}

#[tokio::test]
async fn a_recording_stops_when_it_is_told_to_and_ends_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let told: Vec<Told> = (0..5000).flat_map(|n| [insert(&n.to_string()), Told::Reached]).collect();
    let path = record(folder.path(), [true; 4], &[&batch(&relation(), &told)]);
    let open = || Recording::open(&path, None).expect("it is one");

    let (changes_tx, mut changes_rx) = mpsc::channel(1);
    let (stop_tx, stop_rx) = watch::channel(false);
    let running = tokio::spawn(open().run(changes_tx, stop_rx));
    let mut changes = 0;
    while let Some(batch) = changes_rx.recv().await {
        changes += batch.items().filter(|item| matches!(item, Item::Change(_))).count();
    }
    running.await.expect("no panic").expect("it ends");
    assert_eq!(changes, 5000);

    let (changes_tx, mut changes_rx) = mpsc::channel(1);
    stop_tx.send_replace(true);
    open().run(changes_tx, stop_tx.subscribe()).await.expect("it stops");
    assert!(changes_rx.recv().await.is_none());
}

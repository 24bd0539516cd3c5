use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::change::{
    BatchBuilder, Column, Field, Kind, Lookup, ParentRow, Position, ReplicaIdentity, TableName,
    Timestamp, Transaction,
};

/// A value of a row: `None` for NULL.
type Values<'a> = &'a [Option<&'a str>];

const LOOKUP: LookupId = LookupId(0);

/// `firewalls (id, server_id, note)`, of which the note is not read.
fn relation(identity: ReplicaIdentity) -> Arc<Relation> {
    let column = |name: &str| Column {
        name: name.into(),
        kind: Kind::Integer,
        in_identity: identity == ReplicaIdentity::Full || name == "id",
        nullable: true,
    };
    Arc::new(Relation {
        oid: 1,
        table: TableName::new("public", "firewalls"),
        renamed: None,
        columns: ["id", "server_id", "note"].map(column).into(),
        identity,
        primary_key: vec![0],
    })
}

struct Scene {
    cache: Cache,
    relation: Arc<Relation>,
    now: Instant,
}

impl Scene {
    fn new(identity: ReplicaIdentity, decides: bool) -> Scene {
        let relation = relation(identity);
        let lookup = Lookup {
            table: relation.table.clone(),
            by: None,
            columns: vec!["server_id".into()],
            deciding: if decides { vec![0] } else { Vec::new() },
            ttl: Duration::from_secs(5),
        };
        let mut cache = Cache::new(vec![Table::new(lookup, relation.clone())]);
        cache.set_key_type(LOOKUP, KeyType::new(23, false, true));
        Scene { cache, relation, now: Instant::now() }
    }

    fn deciding() -> Scene {
        Scene::new(ReplicaIdentity::Full, true)
    }

    fn observe(&mut self, xid: u32, changes: &[(Option<Values<'_>>, Option<Values<'_>>)]) {
        let mut batch = BatchBuilder::default();
        let mut bytes = Vec::new();
        for (old, new) in changes {
            let operation = match (old, new) {
                (None, Some(_)) => Operation::Insert,
                (Some(_), None) => Operation::Delete,
                _ => Operation::Update,
            };
            let mut row = |values: &Values<'_>| {
                let start = batch.fields.len();
                for value in *values {
                    let Some(text) = value else {
                        batch.fields.push(Field::NULL);
                        continue;
                    };
                    if *text == "unchanged" {
                        batch.fields.push(Field::UNCHANGED);
                        continue;
                    }
                    let at = bytes.len();
                    bytes.extend_from_slice(text.as_bytes());
                    batch.fields.push(Field::text(at..bytes.len()).unwrap());
                }
                start..batch.fields.len()
            };
            let (old, new) = (old.as_ref().map(&mut row), new.as_ref().map(&mut row));
            let transaction = transaction(xid);
            batch.change(&self.relation, operation, transaction, old, new);
        }
        self.cache.observe(&batch.finish(Bytes::from(bytes)), self.now);
    }

    /// Begins a batch of a row as it stands.
    fn read(&mut self) {
        let mut batch = BatchBuilder::default();
        batch.fields.extend([Field::NULL; 3]);
        batch.change(&self.relation, Operation::Read, transaction(0), None, Some(0..3));
        self.cache.observe(&batch.finish(Bytes::new()), self.now);
    }

    fn fetch(&mut self, key: &str, answer: Answer) {
        assert_eq!(self.get(key), None, "it need not be fetched");
        self.cache.take(parent_key(key), answer, self.now);
    }

    fn get(&self, key: &str) -> Option<&Parent> {
        self.cache.parents.get(&parent_key(key))
    }
}

fn transaction(xid: u32) -> Transaction {
    Transaction { xid, at: Timestamp::from_unix_micros(0), position: Position::new(xid.into()) }
}

fn parent_key(key: &str) -> ParentKey {
    ParentKey { lookup: LOOKUP, key: key.into() }
}

fn server(id: &str) -> Parent {
    let values = [(Kind::Integer, Some(id.as_bytes().into()))].into();
    Parent::Row(Arc::new(ParentRow { values }))
}

fn found(key: &str, id: &str) -> Answer {
    Answer::Found { key: key.into(), parent: server(id) }
}

fn not_there(key: &str) -> Answer {
    Answer::NotThere { key: key.into() }
}

fn row<'a>(id: &'a str, server_id: &'a str) -> [Option<&'a str>; 3] {
    [Some(id), Some(server_id), None]
}

#[test]
fn rows_as_they_stand_come_without_changes_so_nothing_is_known_from_before_them() {
    let mut scene = Scene::deciding();
    scene.read();
    scene.fetch("7", found("7", "1"));
    assert_eq!(scene.get("7"), Some(&server("1")));
    scene.read();
    assert_eq!(scene.get("7"), None);
}

#[test]
fn a_parent_that_is_kept_follows_its_changes() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    scene.observe(2, &[(Some(&row("7", "1")), Some(&row("7", "2")))]);
    assert_eq!(scene.get("7"), Some(&server("2")));
    scene.observe(3, &[(Some(&row("7", "2")), Some(&row("8", "3")))]);
    assert_eq!(scene.get("8"), Some(&server("3")));
    assert_eq!(scene.get("7"), Some(&server("2")), "as it was, for its children of before");
    scene.observe(4, &[]);
    assert_eq!(scene.get("7"), Some(&Parent::Absent));
    scene.observe(5, &[(None, Some(&row("7", "4")))]);
    assert_eq!(scene.get("7"), Some(&server("4")));
    scene.observe(6, &[]);
    assert_eq!(scene.get("7"), Some(&server("4")));
}

#[test]
fn a_value_that_a_change_leaves_out_is_read_again() {
    let mut scene = Scene::new(ReplicaIdentity::Default, true);
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    scene.observe(2, &[(None, Some(&row("9", "9")))]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    // The old row has its key alone, and says that the key has not changed.
    scene.observe(3, &[(Some(&row("7", "1")), Some(&row("7", "unchanged")))]);
    assert_eq!(scene.get("7"), None);
}

#[test]
fn a_deleted_parent_is_known_as_it_was_until_its_transaction_is_over() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[(Some(&row("7", "1")), None)]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    scene.observe(1, &[(Some(&row("8", "2")), None)]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    assert_eq!(scene.get("8"), Some(&server("2")));
    scene.observe(2, &[]);
    assert_eq!((scene.get("7"), scene.get("8")), (None, None));
}

#[test]
fn of_more_deleted_parents_than_are_remembered_none_is_taken_for_absent() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    let ids: Vec<String> = (0..=MAX_DELETED).map(|id| id.to_string()).collect();
    ids.iter().for_each(|id| scene.fetch(id, found(id, "1")));
    let rows: Vec<_> = ids.iter().map(|id| row(id, "1")).collect();
    let deletes: Vec<_> = rows.iter().map(|row| (Some(&row[..]), None)).collect();
    scene.observe(2, &deletes);
    assert!(ids.iter().all(|id| scene.get(id) == Some(&server("1"))));
    scene.observe(2, &[(None, Some(&row("20000", "1")))]);
    assert_eq!(scene.get("0"), Some(&server("1")));
    assert_eq!(scene.get("10000"), None, "it is to be read now");
}

#[test]
fn a_row_that_is_too_large_holds_for_its_batch() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    let large = "1".repeat(MAX_ROW_BYTES + 1);
    scene.observe(2, &[(Some(&row("7", "1")), Some(&row("7", &large)))]);
    assert_eq!(scene.get("7"), Some(&server(&large)));
    scene.observe(3, &[]);
    assert_eq!(scene.get("7"), None, "it is to be read now");
    scene.fetch("7", Answer::TooLarge);
    assert_eq!(scene.get("7"), Some(&Parent::Unknown));
    scene.observe(4, &[]);
    assert_eq!(scene.get("7"), None, "it may be smaller now");
}

#[test]
fn one_that_comes_back_in_the_same_transaction_is_known_as_it_is() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[(Some(&row("7", "1")), None), (None, Some(&row("7", "2")))]);
    assert_eq!(scene.get("7"), Some(&server("2")));
    scene.observe(1, &[(None, Some(&row("8", "1")))]);
    assert_eq!(scene.get("7"), None, "it is to be read now");
}

#[test]
fn who_a_child_belonged_to_before_its_parent_moved_is_not_known() {
    let moved = |scene: &Scene, key| scene.cache.parents.has_moved(&parent_key(key));
    let mut scene = Scene::deciding();
    let (here, there) = (row("7", "1"), row("7", "2"));
    scene.observe(1, &[(Some(&here), Some(&there)), (Some(&row("8", "1")), Some(&row("8", "1")))]);
    assert!(moved(&scene, "7") && !moved(&scene, "8"));
    scene.observe(1, &[]);
    assert!(!moved(&scene, "7"), "the transaction is over");
    scene.observe(2, &[(Some(&here), None), (Some(&row("9", "1")), None), (None, Some(&there))]);
    assert!(moved(&scene, "7") && !moved(&scene, "9"));
    scene.observe(2, &[(None, Some(&row("5", "1")))]);
    assert!(moved(&scene, "7"), "the transaction goes on");
    scene.observe(3, &[(Some(&there), None), (None, Some(&there))]);
    assert!(!moved(&scene, "7"), "it came back as it was");
    scene.observe(4, &[(None, Some(&row("6", "1")))]);
    assert!(!moved(&scene, "7") && !moved(&scene, "6"));
}

#[test]
fn a_deleted_parent_whose_old_row_is_short_is_what_was_known_of_it_or_unknown() {
    let mut scene = Scene::new(ReplicaIdentity::Default, true);
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    scene.observe(2, &[(Some(&row("7", "1")), None), (Some(&row("8", "1")), None)]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    assert_eq!(scene.get("8"), Some(&Parent::Unknown));
    scene.observe(3, &[]);
    assert_eq!(scene.get("7"), Some(&Parent::Absent));
    let mut scene = Scene::new(ReplicaIdentity::Default, false);
    scene.observe(1, &[(Some(&row("8", "1")), None)]);
    assert_eq!(scene.get("8"), Some(&Parent::Absent));
}

#[test]
fn a_parent_that_is_gone_when_it_is_asked_for_is_unknown_once_and_then_absent() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("7", not_there("7"));
    scene.fetch("007", not_there("7"));
    assert_eq!(scene.get("7"), Some(&Parent::Unknown));
    assert_eq!(scene.get("007"), Some(&Parent::Absent), "that was told with the other");
    scene.observe(2, &[]);
    assert_eq!(scene.get("7"), Some(&Parent::Absent));
    scene.fetch("007", not_there("7"));
    assert_eq!(scene.get("007"), Some(&Parent::Absent));
    // There it is, and gone again: that is news.
    scene.observe(3, &[(None, Some(&row("7", "1"))), (Some(&row("7", "1")), None)]);
    scene.observe(4, &[]);
    assert_eq!(scene.get("7"), Some(&Parent::Absent));
    let mut scene = Scene::new(ReplicaIdentity::Full, false);
    scene.observe(1, &[]);
    scene.fetch("7", not_there("7"));
    assert_eq!(scene.get("7"), Some(&Parent::Absent));
}

#[test]
fn a_key_that_is_written_otherwise_holds_for_one_batch() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("007", found("7", "1"));
    assert_eq!(scene.get("007"), Some(&server("1")));
    scene.observe(2, &[]);
    assert_eq!(scene.get("007"), None);
}

#[test]
fn where_other_texts_may_be_equal_any_new_row_may_be_what_was_looked_for_in_vain() {
    let mut scene = Scene::deciding();
    scene.cache.set_key_type(LOOKUP, KeyType::new(1700, false, true));
    scene.observe(1, &[]);
    scene.fetch("1.0", not_there("1.0"));
    scene.observe(2, &[]);
    assert_eq!(scene.get("1.0"), Some(&Parent::Absent));
    scene.observe(3, &[(None, Some(&row("1.00", "1")))]);
    assert_eq!(scene.get("1.0"), None);
}

#[test]
fn what_no_change_stream_keeps_right_is_read_again_after_a_while() {
    let mut scene = Scene::new(ReplicaIdentity::Full, false);
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    scene.now += Duration::from_millis(4999);
    scene.observe(2, &[]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    scene.now += Duration::from_millis(1);
    scene.observe(3, &[]);
    assert_eq!(scene.get("7"), None);
}

#[test]
fn what_could_not_be_read_is_asked_for_again_with_the_next_batch() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("7", Answer::Unknown);
    scene.fetch("abc", Answer::Refused);
    assert_eq!(scene.get("7"), Some(&Parent::Unknown));
    scene.observe(2, &[]);
    assert_eq!(scene.get("7"), None);
    assert_eq!(scene.get("abc"), Some(&Parent::Absent));
}

#[test]
fn a_table_that_is_emptied_or_another_one_is_forgotten() {
    let mut scene = Scene::deciding();
    scene.observe(1, &[]);
    scene.fetch("7", found("7", "1"));
    let mut batch = BatchBuilder::default();
    batch.truncate(scene.relation.clone(), transaction(2));
    scene.cache.observe(&batch.finish(Bytes::new()), scene.now);
    scene.fetch("7", found("7", "1"));
    // Described anew, but as before.
    scene.relation = Arc::new((*scene.relation).clone());
    scene.observe(3, &[(None, Some(&row("9", "9")))]);
    assert_eq!(scene.get("7"), Some(&server("1")));
    let mut other = (*scene.relation).clone();
    other.columns.swap(1, 2);
    scene.relation = Arc::new(other);
    scene.observe(4, &[(None, Some(&[Some("9"), None, Some("3")]))]);
    assert_eq!(scene.get("7"), None);
    assert_eq!(scene.get("9"), Some(&server("3")));
}

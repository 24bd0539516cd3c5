use std::ops::Range;
use std::sync::Arc;

use super::super::Wanted;
use super::super::said::{Said, Unheard};
use super::pgoutput::{self, DecodeError, Message, Tuple};
use super::relations::{Known, Relations};
use crate::change::{BatchBuilder, Context, Lsn, Operation, Position, Relation, Transaction};

/// Turns messages into the changes and positions of a batch. Pure.
pub(super) struct Decoder {
    relations: Relations,
    wanted: Wanted,
    /// The transaction whose rows are being read.
    transaction: Option<Transaction>,
    /// What that one has said of itself. It may span several batches.
    context: Option<Arc<Context>>,
    /// The catalog was read after the relation that is described next.
    catalog_is_fresh: bool,
    reached: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Taken,
    /// The message describes a table that the catalog did not know: call
    /// [`Decoder::learn`], then give the message again.
    NeedsCatalog,
    /// A message to us, or a part of it, was passed over.
    Unheard(Unheard),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecoderError {
    #[error("message {tag:?} at {lsn} cannot be read", tag = char::from(*tag))]
    Message {
        tag: u8,
        lsn: Lsn,
        #[source]
        source: DecodeError,
    },
    #[error("a row at {lsn} is of relation {oid}, which the server has not described")]
    UnknownRelation { oid: u32, lsn: Lsn },
    #[error("a row of {relation} at {lsn} has {fields} columns, and the table {columns}")]
    ColumnCount { relation: String, lsn: Lsn, fields: usize, columns: usize },
    #[error("message {tag:?} at {lsn} is out of place", tag = char::from(*tag))]
    OutOfPlace { tag: u8, lsn: Lsn },
}

impl Decoder {
    pub(super) fn new(catalog: Vec<Relation>, wanted: Wanted) -> Decoder {
        Decoder {
            relations: Relations::new(catalog),
            wanted,
            transaction: None,
            context: None,
            catalog_is_fresh: false,
            reached: Lsn::ZERO,
        }
    }

    pub(super) fn learn(&mut self, catalog: Vec<Relation>) {
        self.relations.learn(catalog);
        self.catalog_is_fresh = true;
    }

    /// Of each column of the relation, whether a rule needs its value.
    pub(super) fn wanted(&self, oid: u32) -> Option<&[bool]> {
        self.relations.get(oid).map(|known| &*known.wanted)
    }

    /// The highest position that a batch was given.
    pub(super) fn reached(&self) -> Lsn {
        self.reached
    }

    /// A batch for what comes next.
    pub(super) fn batch(&self) -> BatchBuilder {
        let mut batch = BatchBuilder::default();
        batch.context.clone_from(&self.context);
        batch
    }

    /// Takes the message at `range` of `bytes`, which began at `lsn`.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        range: Range<usize>,
        lsn: Lsn,
        batch: &mut BatchBuilder,
    ) -> Result<Step, DecoderError> {
        let tag = bytes.get(range.start).copied().unwrap_or_default();
        let asked_for = |oid| self.relations.get(oid).and_then(Known::asked_for);
        let message = pgoutput::decode(bytes, range, asked_for, &mut batch.fields)
            .map_err(|source| DecoderError::Message { tag, lsn, source })?;
        let out_of_place = DecoderError::OutOfPlace { tag, lsn };
        match message {
            Message::Begin { final_lsn, at, xid } => {
                // One above the commit record's start: a position that was
                // reached before may be exactly that start, and this
                // transaction must lie above it.
                let Some(above) = u64::from(final_lsn).checked_add(1) else {
                    return Err(out_of_place);
                };
                let position = Position::new(above);
                if self.transaction.replace(Transaction { xid, at, position }).is_some() {
                    return Err(out_of_place);
                }
            }
            Message::Commit { end_lsn } => {
                self.transaction.take().ok_or(out_of_place)?;
                self.context = None;
                batch.context = None;
                self.reach(end_lsn, batch);
            }
            Message::Relation(relation) => {
                if self.relations.is_news(&relation) && !self.catalog_is_fresh {
                    return Ok(Step::NeedsCatalog);
                }
                self.catalog_is_fresh = false;
                self.relations.put(&relation, &self.wanted);
            }
            Message::Insert { relation_oid, new } => {
                let row = (Operation::Insert, None, Some(new));
                self.change(relation_oid, row, lsn, batch, out_of_place)?;
            }
            Message::Update { relation_oid, old, new } => {
                let row = (Operation::Update, old, Some(new));
                self.change(relation_oid, row, lsn, batch, out_of_place)?;
            }
            Message::Delete { relation_oid, old } => {
                let row = (Operation::Delete, Some(old), None);
                self.change(relation_oid, row, lsn, batch, out_of_place)?;
            }
            Message::Truncate { relation_oids } => {
                let transaction = self.transaction.ok_or(out_of_place)?;
                for oid in relation_oids {
                    let known = self
                        .relations
                        .get(oid)
                        .ok_or(DecoderError::UnknownRelation { oid, lsn })?;
                    batch.truncate(known.relation.clone(), transaction);
                }
            }
            Message::Logical { transactional, prefix, len, content } => {
                match Said::of(transactional, prefix, len, content) {
                    Some(Ok(Said::Context(context))) => {
                        self.transaction.ok_or(out_of_place)?;
                        let is_socket_id_refused = context.is_socket_id_refused();
                        self.context = Some(Arc::new(context));
                        batch.context.clone_from(&self.context);
                        if is_socket_id_refused {
                            return Ok(Step::Unheard(Unheard::SocketId));
                        }
                    }
                    Some(Ok(Said::Broadcast(broadcast))) => {
                        batch.broadcast(broadcast, self.transaction.ok_or(out_of_place)?);
                    }
                    Some(Err(unheard)) => return Ok(Step::Unheard(unheard)),
                    // What other programs tell each other.
                    None => {}
                }
            }
            // Where a transaction came from and what a type is called makes no
            // notification.
            Message::Origin | Message::Type => {}
        }
        Ok(Step::Taken)
    }

    /// A keepalive's position has been decoded by the server, so outside a
    /// transaction nothing at or below it is still to come.
    pub(super) fn keepalive(&mut self, wal_end: Lsn, batch: &mut BatchBuilder) {
        if self.transaction.is_none() {
            self.reach(wal_end, batch);
        }
    }

    fn reach(&mut self, lsn: Lsn, batch: &mut BatchBuilder) {
        if lsn > self.reached {
            self.reached = lsn;
            batch.reached(Position::new(lsn.into()));
        }
    }

    fn change(
        &mut self,
        oid: u32,
        (operation, old, new): (Operation, Option<Tuple>, Option<Tuple>),
        lsn: Lsn,
        batch: &mut BatchBuilder,
        out_of_place: DecoderError,
    ) -> Result<(), DecoderError> {
        let transaction = self.transaction.ok_or(out_of_place)?;
        let Known { relation, .. } =
            self.relations.get(oid).ok_or(DecoderError::UnknownRelation { oid, lsn })?;
        for row in [&old, &new].into_iter().flatten() {
            if row.columns != relation.columns.len() {
                return Err(DecoderError::ColumnCount {
                    relation: relation.table.to_string(),
                    lsn,
                    fields: row.columns,
                    columns: relation.columns.len(),
                });
            }
        }
        let [old, new] = [old, new].map(|row| row.map(|row| row.fields));
        batch.change(relation, operation, transaction, old, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::change::{BroadcastError, ContextError, Item, Value};

    const LSN: Lsn = Lsn::ZERO;

    /// By which every column is asked for.
    fn decoder() -> Decoder {
        Decoder::new(Vec::new(), Box::new(|relation| vec![true; relation.columns.len()]))
    }

    fn begin(final_lsn: u64) -> Vec<u8> {
        [b"B".as_slice(), &final_lsn.to_be_bytes(), &[0; 8], &7_u32.to_be_bytes()].concat()
    }

    fn commit(end_lsn: u64) -> Vec<u8> {
        [b"C\0".as_slice(), &[0; 8], &end_lsn.to_be_bytes(), &[0; 8]].concat()
    }

    /// Relation 9, `public.posts (id integer, title text)`, identity `id`.
    fn relation() -> Vec<u8> {
        let column = |flag: u8, name: &str, oid: u32| {
            let modifier = u32::MAX.to_be_bytes();
            [&[flag], name.as_bytes(), b"\0", &oid.to_be_bytes(), &modifier].concat()
        };
        let columns = [column(1, "id", 23), column(0, "title", 25)].concat();
        [b"R\0\0\0\x09public\0posts\0d\0\x02".as_slice(), &columns].concat()
    }

    fn take(
        decoder: &mut Decoder,
        messages: &[Vec<u8>],
    ) -> Result<crate::change::Batch, DecoderError> {
        let (batch, unheard) = hear(decoder, messages)?;
        assert_eq!(unheard, []);
        Ok(batch)
    }

    /// The same, with what was passed over.
    fn hear(
        decoder: &mut Decoder,
        messages: &[Vec<u8>],
    ) -> Result<(crate::change::Batch, Vec<Unheard>), DecoderError> {
        let mut builder = decoder.batch();
        let mut passed_over = Vec::new();
        let bytes = messages.concat();
        let mut at = 0;
        for message in messages {
            let range = at..at + message.len();
            match decoder.take(&bytes, range.clone(), LSN, &mut builder)? {
                Step::Taken => {}
                Step::Unheard(unheard) => passed_over.push(unheard),
                Step::NeedsCatalog => {
                    decoder.learn(Vec::new());
                    assert_eq!(decoder.take(&bytes, range, LSN, &mut builder)?, Step::Taken);
                }
            }
            at += message.len();
        }
        Ok((builder.finish(Bytes::from(bytes)), passed_over))
    }

    fn emitted(transactional: bool, prefix: &str, content: &str) -> Vec<u8> {
        let len = u32::try_from(content.len()).unwrap().to_be_bytes();
        let head = [b"M".as_slice(), &[u8::from(transactional)], &[0; 8], prefix.as_bytes()];
        [&head.concat(), b"\0".as_slice(), &len, content.as_bytes()].concat()
    }

    fn insert() -> Vec<u8> {
        b"I\0\0\0\x09N\0\x02t\0\0\0\x011n".to_vec()
    }

    /// Of each change or broadcast, the user that its context names.
    fn users(batch: &crate::change::Batch) -> Vec<Option<i64>> {
        let contexts = batch.items().filter_map(|item| match item {
            Item::Change(change) => Some(change.context),
            Item::Broadcast { context, .. } => Some(context),
            Item::Truncate { .. } | Item::Missed { .. } | Item::Reached(_) => None,
        });
        contexts.map(|context| context?.values()["user_id"].as_i64()).collect()
    }

    #[test]
    fn a_context_goes_with_what_follows_in_its_transaction_whatever_the_batch() {
        let mut decoder = decoder();
        let context = |id: u32| emitted(true, "rowcast", &format!("{{\"user_id\":{id}}}"));
        let first = take(&mut decoder, &[begin(1), relation(), insert(), context(7), insert()]);
        assert_eq!(users(&first.unwrap()), [None, Some(7)]);
        let event = emitted(true, "rowcast.broadcast", r#"{"channel":"c","event":"e","data":{}}"#);
        let second = take(&mut decoder, &[insert(), context(8), event, insert(), commit(9)]);
        assert_eq!(users(&second.unwrap()), [Some(7), Some(8), Some(8)]);
        let third = take(&mut decoder, &[begin(10), insert(), commit(20)]);
        assert_eq!(users(&third.unwrap()), [None]);
    }

    #[test]
    fn a_transaction_of_messages_alone_is_a_position_as_any() {
        let event = r#"{"channel":"c","event":"e","data":{"id":1}}"#;
        let messages = [
            begin(50),
            emitted(true, "rowcast.broadcast", event),
            emitted(true, "other", "\u{1}"),
            commit(100),
        ];
        let batch = take(&mut decoder(), &messages).unwrap();
        let items: Vec<_> = batch.items().collect();
        let [Item::Broadcast { broadcast, transaction, .. }, Item::Reached(reached)] = &*items
        else {
            panic!("{items:?}");
        };
        assert_eq!(&*broadcast.data, r#"{"id":1}"#);
        assert!(transaction.position < *reached);
        assert_eq!(batch.xids(), [7]);
    }

    #[test]
    fn what_strangers_say_is_passed_over_and_nothing_else_suffers() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(Context::MAX_BYTES));
        let messages = [
            emitted(false, "rowcast", r#"{"user_id":1}"#),
            emitted(false, "other", "?"),
            begin(50),
            emitted(true, "rowcast", r#"{"user_id":7}"#),
            emitted(true, "rowcast", r#"{"user_id":8,"socket_id":"x"}"#),
            emitted(true, "rowcast", "hello"),
            emitted(true, "rowcast", &long),
            emitted(true, "rowcast.broadcast", "[]"),
            emitted(false, "rowcast.broadcast", r#"{"channel":"c","event":"e","data":{}}"#),
            emitted(true, "rowcast.other", "?"),
            relation(),
            insert(),
            commit(100),
        ];
        let (batch, unheard) = hear(&mut decoder(), &messages).unwrap();
        assert_eq!(users(&batch), [Some(8)]);
        let too_long = ContextError::TooLong { bytes: long.len() };
        let expected = [
            Unheard::NotTransactional,
            Unheard::SocketId,
            Unheard::Context(ContextError::NoObject),
            Unheard::Context(too_long),
            Unheard::Broadcast(BroadcastError::Shape),
            Unheard::NotTransactional,
        ];
        assert_eq!(unheard, expected);
    }

    #[test]
    fn a_message_of_a_transaction_outside_of_one_is_fatal_only_if_it_is_ours() {
        let ours = take(&mut decoder(), &[emitted(true, "rowcast", "{}")]);
        assert_eq!(ours.unwrap_err(), DecoderError::OutOfPlace { tag: b'M', lsn: LSN });
        assert!(take(&mut decoder(), &[emitted(true, "other", "{}")]).is_ok());
    }

    #[test]
    fn a_transaction_lies_above_the_position_that_its_commit_record_begins_at() {
        let mut decoder = decoder();
        let insert = b"I\0\0\0\x09N\0\x02t\0\0\0\x011n".to_vec();
        let batch = take(
            &mut decoder,
            &[begin(50), commit(100), begin(100), relation(), insert, commit(130)],
        )
        .unwrap();
        let items: Vec<_> = batch.items().collect();
        let [Item::Reached(first), Item::Change(change), Item::Reached(last)] = items.as_slice()
        else {
            panic!("{items:?}");
        };
        assert_eq!(first.value(), 100);
        assert!(change.transaction.position > *first);
        assert!(change.transaction.position < *last);
        assert_eq!(change.new_value(0), Value::Text(b"1"));
        assert_eq!(change.new_value(1), Value::Null);
    }

    #[test]
    fn a_deleted_rows_other_columns_are_unknown_not_null() {
        let mut decoder = decoder();
        let delete = b"D\0\0\0\x09K\0\x02t\0\0\0\x011n".to_vec();
        let batch = take(&mut decoder, &[begin(1), relation(), delete]).unwrap();
        let Some(Item::Change(change)) = batch.items().next() else { panic!("no change") };
        assert_eq!(change.old_value(0), Value::Text(b"1"));
        assert_eq!(change.old_value(1), Value::Unknown);
        assert_eq!(change.new_value(0), Value::Unknown);
    }

    #[test]
    fn without_an_old_row_the_identity_is_unchanged_and_the_rest_unknown() {
        let mut decoder = decoder();
        let update = b"U\0\0\0\x09N\0\x02t\0\0\0\x011u".to_vec();
        let batch = take(&mut decoder, &[begin(1), relation(), update]).unwrap();
        let Some(Item::Change(change)) = batch.items().next() else { panic!("no change") };
        assert_eq!(change.old_value(0), Value::Text(b"1"));
        assert_eq!(change.old_value(1), Value::Unknown);
        assert_eq!(change.new_value(1), Value::Unchanged);
        assert_eq!(change.column_changed(0), Some(false));
        assert_eq!(change.column_changed(1), Some(false));
    }

    #[test]
    fn a_keepalive_within_a_transaction_is_no_position() {
        let mut decoder = decoder();
        let mut builder = BatchBuilder::default();
        let bytes = begin(50);
        decoder.take(&bytes, 0..bytes.len(), LSN, &mut builder).unwrap();
        decoder.keepalive(Lsn::from(60), &mut builder);
        assert!(builder.is_empty());
        let bytes = commit(70);
        decoder.take(&bytes, 0..bytes.len(), LSN, &mut builder).unwrap();
        decoder.keepalive(Lsn::from(70), &mut builder);
        decoder.keepalive(Lsn::from(80), &mut builder);
        let batch = builder.finish(Bytes::new());
        let reached: Vec<u64> = batch
            .items()
            .map(|item| match item {
                Item::Reached(position) => position.value(),
                item => panic!("{item:?}"),
            })
            .collect();
        assert_eq!(reached, [70, 80]);
    }

    #[test]
    fn a_row_without_its_relation_or_its_transaction_is_fatal() {
        let insert = || b"I\0\0\0\x09N\0\x02t\0\0\0\x011n".to_vec();
        let unknown = take(&mut decoder(), &[begin(1), insert()]);
        assert_eq!(unknown.unwrap_err(), DecoderError::UnknownRelation { oid: 9, lsn: LSN });
        let outside = take(&mut decoder(), &[relation(), insert()]);
        assert_eq!(outside.unwrap_err(), DecoderError::OutOfPlace { tag: b'I', lsn: LSN });
        let twice = take(&mut decoder(), &[begin(1), begin(2)]);
        assert_eq!(twice.unwrap_err(), DecoderError::OutOfPlace { tag: b'B', lsn: LSN });
        let short = b"I\0\0\0\x09N\0\x01n".to_vec();
        let short = take(&mut decoder(), &[begin(1), relation(), short]);
        assert!(matches!(short, Err(DecoderError::ColumnCount { fields: 1, columns: 2, .. })));
    }

    #[test]
    fn truncate_names_every_relation() {
        let truncate = b"T\0\0\0\x01\0\0\0\0\x09".to_vec();
        let batch = take(&mut decoder(), &[begin(1), relation(), truncate]).unwrap();
        let items: Vec<_> = batch.items().collect();
        assert!(matches!(items.as_slice(), [Item::Truncate { relation, .. }] if relation.oid == 9));
    }

    /// A value as the stream has it: NULL, unchanged, or one of three.
    fn column() -> impl Strategy<Value = Vec<u8>> {
        let texts = ["", "a", "long"].map(|text| {
            let len = u32::try_from(text.len()).unwrap().to_be_bytes();
            [b"t".as_slice(), &len, text.as_bytes()].concat()
        });
        prop::sample::select([vec![b"n".to_vec(), b"u".to_vec()], texts.to_vec()].concat())
    }

    const COLUMNS: usize = 5;

    proptest! {
        #[test]
        fn a_rule_sees_the_same_whatever_columns_it_does_not_need(
            identity in prop::sample::select(b"dfin".to_vec()),
            in_identity in prop::array::uniform5(any::<bool>()),
            wanted in prop::array::uniform5(any::<bool>()),
            old in prop::option::of(prop::array::uniform5(column())),
            new in prop::array::uniform5(column()),
            tag in prop::sample::select(b"IUD".to_vec()),
        ) {
            let is_full = identity == b'f';
            let mut relation = [b"R\0\0\0\x09public\0posts\0".as_slice(), &[identity, 0, COLUMNS as u8]].concat();
            for (at, in_identity) in in_identity.iter().enumerate() {
                let name = [b'a' + at as u8, 0];
                let flag = u8::from(is_full || *in_identity);
                relation.extend([&[flag], &name[..], &25_u32.to_be_bytes(), &[255; 4]].concat());
            }
            let tuple = |kind: u8, columns: &[Vec<u8>; COLUMNS]| {
                [&[kind, 0, COLUMNS as u8], &columns.concat()[..]].concat()
            };
            let old = old.map(|columns| match is_full {
                true => tuple(b'O', &columns),
                false => tuple(b'K', &std::array::from_fn(|at| match in_identity[at] {
                    true => columns[at].clone(),
                    false => b"n".to_vec(),
                })),
            });
            let (old, new) = match tag {
                b'I' => (None, Some(new)),
                b'U' => (old, Some(new)),
                _ => (Some(old.unwrap_or_else(|| tuple(b'K', &new))), None),
            };
            let new = new.map(|new| tuple(b'N', &new));
            let row = [&[tag, 0, 0, 0, 9], &old.unwrap_or_default()[..], &new.unwrap_or_default()].concat();
            let messages = [begin(1), relation, row, commit(9)];

            let all = take(&mut decoder(), &messages).unwrap();
            let mut by_need = Decoder::new(Vec::new(), Box::new(move |_| wanted.to_vec()));
            let some = take(&mut by_need, &messages).unwrap();
            let (all, some) = (all.change().unwrap(), some.change().unwrap());
            for (column, is_wanted) in wanted.into_iter().enumerate() {
                prop_assert_eq!(all.column_changed(column), some.column_changed(column));
                if is_wanted {
                    prop_assert_eq!(all.new_value(column), some.new_value(column));
                    prop_assert_eq!(all.old_value(column), some.old_value(column));
                }
            }
        }
    }
}

use std::ops::Range;

use super::pgoutput::{self, DecodeError, Message};
use super::relations::Relations;
use crate::change::{BatchBuilder, Lsn, Operation, Position, Relation, Transaction};

/// Turns messages into the changes and positions of a batch. Pure.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    relations: Relations,
    /// The transaction whose rows are being read.
    transaction: Option<Transaction>,
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
    pub(super) fn new(catalog: Vec<Relation>) -> Decoder {
        Decoder { relations: Relations::new(catalog), ..Decoder::default() }
    }

    pub(super) fn learn(&mut self, catalog: Vec<Relation>) {
        self.relations.learn(catalog);
        self.catalog_is_fresh = true;
    }

    pub(super) fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(oid).map(|relation| &**relation)
    }

    /// The highest position that a batch was given.
    pub(super) fn reached(&self) -> Lsn {
        self.reached
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
        let message = pgoutput::decode(bytes, range, &mut batch.fields)
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
                self.reach(end_lsn, batch);
            }
            Message::Relation(relation) => {
                if self.relations.is_news(&relation) && !self.catalog_is_fresh {
                    return Ok(Step::NeedsCatalog);
                }
                self.catalog_is_fresh = false;
                self.relations.put(&relation);
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
                    let relation = self
                        .relations
                        .get(oid)
                        .ok_or(DecoderError::UnknownRelation { oid, lsn })?;
                    batch.truncate(relation.clone(), transaction);
                }
            }
            // Where a transaction came from, what a type is called, and what
            // other programs tell each other makes no notification.
            Message::Origin | Message::Type | Message::Logical { .. } => {}
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
        (operation, old, new): (Operation, Option<Range<usize>>, Option<Range<usize>>),
        lsn: Lsn,
        batch: &mut BatchBuilder,
        out_of_place: DecoderError,
    ) -> Result<(), DecoderError> {
        let transaction = self.transaction.ok_or(out_of_place)?;
        let relation = self.relations.get(oid).ok_or(DecoderError::UnknownRelation { oid, lsn })?;
        for row in [&old, &new].into_iter().flatten() {
            if row.len() != relation.columns.len() {
                return Err(DecoderError::ColumnCount {
                    relation: relation.table.to_string(),
                    lsn,
                    fields: row.len(),
                    columns: relation.columns.len(),
                });
            }
        }
        batch.change(relation.clone(), operation, transaction, old, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::change::{Item, Value};

    const LSN: Lsn = Lsn::ZERO;

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
        let mut builder = BatchBuilder::default();
        let bytes = messages.concat();
        let mut at = 0;
        for message in messages {
            let range = at..at + message.len();
            if decoder.take(&bytes, range.clone(), LSN, &mut builder)? == Step::NeedsCatalog {
                decoder.learn(Vec::new());
                assert_eq!(decoder.take(&bytes, range, LSN, &mut builder)?, Step::Taken);
            }
            at += message.len();
        }
        Ok(builder.finish(Bytes::from(bytes)))
    }

    #[test]
    fn a_transaction_lies_above_the_position_that_its_commit_record_begins_at() {
        let mut decoder = Decoder::default();
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
        let mut decoder = Decoder::default();
        let delete = b"D\0\0\0\x09K\0\x02t\0\0\0\x011n".to_vec();
        let batch = take(&mut decoder, &[begin(1), relation(), delete]).unwrap();
        let Some(Item::Change(change)) = batch.items().next() else { panic!("no change") };
        assert_eq!(change.old_value(0), Value::Text(b"1"));
        assert_eq!(change.old_value(1), Value::Unknown);
        assert_eq!(change.new_value(0), Value::Unknown);
    }

    #[test]
    fn without_an_old_row_the_identity_is_unchanged_and_the_rest_unknown() {
        let mut decoder = Decoder::default();
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
        let mut decoder = Decoder::default();
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
        let unknown = take(&mut Decoder::default(), &[begin(1), insert()]);
        assert_eq!(unknown.unwrap_err(), DecoderError::UnknownRelation { oid: 9, lsn: LSN });
        let outside = take(&mut Decoder::default(), &[relation(), insert()]);
        assert_eq!(outside.unwrap_err(), DecoderError::OutOfPlace { tag: b'I', lsn: LSN });
        let twice = take(&mut Decoder::default(), &[begin(1), begin(2)]);
        assert_eq!(twice.unwrap_err(), DecoderError::OutOfPlace { tag: b'B', lsn: LSN });
        let short = b"I\0\0\0\x09N\0\x01n".to_vec();
        let short = take(&mut Decoder::default(), &[begin(1), relation(), short]);
        assert!(matches!(short, Err(DecoderError::ColumnCount { fields: 1, columns: 2, .. })));
    }

    #[test]
    fn truncate_names_every_relation() {
        let truncate = b"T\0\0\0\x01\0\0\0\0\x09".to_vec();
        let batch = take(&mut Decoder::default(), &[begin(1), relation(), truncate]).unwrap();
        let items: Vec<_> = batch.items().collect();
        assert!(matches!(items.as_slice(), [Item::Truncate { relation, .. }] if relation.oid == 9));
    }
}

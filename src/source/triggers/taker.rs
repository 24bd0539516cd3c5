use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tracing::debug;

use super::super::said::{PassedOver, Said, Unheard};
use super::ledger::Ledger;
use super::nested::unnest;
use super::rows::{OutboxRow, Rows, Values};
use super::shapes::Shapes;
use crate::change::{
    Batch, BatchBuilder, Context, Field, Missed, Operation, Position, Transaction,
};

/// Turns rows of the outbox into batches, each transaction whole and followed by
/// its position. Pure.
pub(super) struct Taker {
    pub(super) shapes: Shapes,
    pub(super) passed_over: PassedOver,
    /// What the transaction that is handed on in pieces has said of itself.
    context: Option<Arc<Context>>,
}

impl Taker {
    pub(super) fn new(shapes: Shapes) -> Taker {
        Taker { shapes, passed_over: PassedOver::default(), context: None }
    }

    /// Whether a row is of a shape that is not known.
    pub(super) fn has_unknown_shape(&self, rows: &Rows) -> bool {
        let mut shapes = rows.rows.iter().filter_map(|row| row.shape);
        shapes.any(|shape| self.shapes.get(shape).is_none())
    }

    /// All rows of some transactions, in any order.
    pub(super) fn whole(&mut self, mut rows: Rows, ledger: &mut Ledger) -> Batch {
        in_order(&mut rows.rows);
        let Rows { bytes, mut rows } = rows;
        let mut batch = BatchBuilder::default();
        for transaction in rows.chunk_by_mut(|row, next| row.xid == next.xid) {
            unnest(transaction, &bytes, &self.shapes);
            for row in transaction.iter() {
                self.take(row, &bytes, ledger.next(), &mut batch);
            }
            batch.context = None;
            let reached = ledger.handed_on(transaction[0].xid, transaction.len() as u64);
            batch.reached(reached);
        }
        batch.finish(bytes.into())
    }

    /// The next rows of one transaction, which goes on.
    pub(super) fn piece(&mut self, mut rows: Rows, ledger: &Ledger) -> Batch {
        rows.rows.sort_unstable_by_key(|row| row.id);
        unnest(&mut rows.rows, &rows.bytes, &self.shapes);
        let mut batch = BatchBuilder::default();
        batch.context.clone_from(&self.context);
        for row in &rows.rows {
            self.take(row, &rows.bytes, ledger.next(), &mut batch);
        }
        self.context = batch.context.take();
        batch.finish(rows.bytes.into())
    }

    /// The transaction that was handed on in pieces ends.
    pub(super) fn end(&mut self, xid: u64, rows: u64, ledger: &mut Ledger) -> Batch {
        self.context = None;
        let mut batch = BatchBuilder::default();
        batch.reached(ledger.handed_on(xid, rows));
        batch.finish(bytes::Bytes::new())
    }

    fn take(
        &mut self,
        row: &OutboxRow,
        bytes: &[u8],
        position: Position,
        batch: &mut BatchBuilder,
    ) {
        // Whoever compares transactions compares those that follow each other.
        let transaction = Transaction { xid: row.xid as u32, at: row.at, position };
        if row.shape.is_none() && matches!(row.operation, b'c' | b'b') {
            self.hear(row, bytes, transaction, batch);
            return;
        }
        let Some(shape) = row.shape.and_then(|shape| self.shapes.get(shape)) else {
            batch.missed(None, Missed::Unrecorded, transaction);
            return;
        };
        let Some(relation) = &shape.relation else {
            debug!(shape = row.shape, "a change of a table that is not there any more");
            return;
        };
        if shape.is_short && row.operation != b't' {
            batch.missed(Some(relation.clone()), Missed::Unrecorded, transaction);
            return;
        }
        let width = relation.columns.len();
        let mut read = |array: &Option<Range<usize>>| match array {
            Some(array) => {
                place(bytes, array.clone(), &shape.columns, width, &mut batch.fields).map(Some)
            }
            None => Some(None),
        };
        let (old, new) = (read(&row.old), read(&row.new));
        let operation = match (row.operation, &old, &new) {
            (b't', _, _) => {
                batch.truncate(relation.clone(), transaction);
                return;
            }
            (b'i', Some(None), Some(Some(_))) => Operation::Insert,
            (b'u', Some(Some(_)), Some(Some(_))) => Operation::Update,
            (b'd', Some(Some(_)), Some(None)) => Operation::Delete,
            // Whoever may write to the outbox may write anything.
            _ => {
                batch.missed(Some(relation.clone()), Missed::Unrecorded, transaction);
                return;
            }
        };
        let (old, new) = (old.flatten(), new.flatten());
        batch.change(relation, operation, transaction, old, new);
    }

    /// A context or broadcast: one JSON text in `new`.
    fn hear(
        &mut self,
        row: &OutboxRow,
        bytes: &[u8],
        transaction: Transaction,
        batch: &mut BatchBuilder,
    ) {
        let text = row.new.clone().and_then(|array| only_text(bytes, array)).unwrap_or_default();
        let (content, len) = (Some(text), text.len());
        let said = match row.operation {
            b'c' => Said::context(len, content),
            _ => Said::broadcast(len, content),
        };
        match said {
            Ok(Said::Context(context)) => {
                if context.is_socket_id_refused() {
                    self.passed_over.add(Unheard::SocketId);
                }
                batch.context = Some(Arc::new(context));
            }
            Ok(Said::Broadcast(broadcast)) => batch.broadcast(broadcast, transaction),
            Err(unheard) => self.passed_over.add(unheard),
        }
    }
}

/// By transaction, these by their last row, and each by its rows. What changed a
/// row after another transaction did comes after all of that one so.
fn in_order(rows: &mut [OutboxRow]) {
    let mut last: HashMap<u64, i64> = HashMap::new();
    for row in rows.iter() {
        let id = last.entry(row.xid).or_insert(row.id);
        *id = row.id.max(*id);
    }
    rows.sort_unstable_by_key(|row| (last[&row.xid], row.xid, row.id));
}

/// Appends a row of `width` fields with the array's values in their columns.
/// `None` if the array is none, or has another length than its shape.
fn place(
    bytes: &[u8],
    array: Range<usize>,
    columns: &[Option<usize>],
    width: usize,
    out: &mut Vec<Field>,
) -> Option<Range<usize>> {
    let start = out.len();
    out.resize(start + width, Field::UNKNOWN);
    let mut columns = columns.iter();
    for value in Values::of(bytes, array).ok()? {
        let (value, column) = (value.ok()?, columns.next()?);
        if let Some(column) = column {
            out[start + column] = value.map_or(Some(Field::NULL), Field::text)?;
        }
    }
    columns.next().is_none().then_some(start..start + width)
}

fn only_text(bytes: &[u8], array: Range<usize>) -> Option<&[u8]> {
    let range = Values::of(bytes, array).ok()?.next()?.ok()??;
    bytes.get(range)
}

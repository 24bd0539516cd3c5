//! The rows of a table as they stand, in the order of its key: for who is to be told
//! of them once more.
//!
//! They are read page by page, each page in a transaction of its own that only
//! reads. So nothing is held in the database while a page is delivered, however
//! slowly: no lock, and no snapshot that keeps dead rows from being removed. A row
//! that is written meanwhile behind the page is told by its own change.

mod error;
mod key;
mod query;

pub use error::Error;
pub use key::{Key, KeyError};
pub use query::{Query, Since};

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use futures_core::Stream as _;
use tokio::sync::{mpsc, watch};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::change::{
    Batch, BatchBuilder, Field, Operation, Position, Relation, Timestamp, Transaction,
};
use crate::postgres::{Connection, Mode, transaction};

/// Of a page, in bytes. The rows beyond are read again with the next one.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Reads rows, and remembers up to which they were delivered.
pub struct Session {
    connection: Connection,
    relation: Arc<Relation>,
    query: Query,
    page_rows: u32,
    /// The last row that was read; where to begin.
    last: Option<Key>,
    rows: u64,
}

/// What a session has come to.
#[derive(Debug)]
pub struct Read {
    /// Every row up to this one was delivered. `None`: not even the first.
    pub after: Option<Key>,
    /// How many were.
    pub delivered: u64,
    /// Why no further.
    pub failed: Option<Error>,
}

struct Page {
    batch: Batch,
    keys: Vec<Key>,
    is_last: bool,
}

impl Session {
    /// Of the rows after `after`, so many at a time.
    pub fn new(
        connection: Connection,
        relation: Relation,
        query: Query,
        after: Option<Key>,
        page_rows: u32,
    ) -> Session {
        let relation = Arc::new(relation);
        Session { connection, relation, query, page_rows, last: after, rows: 0 }
    }

    /// Reads until there is no more row, or until `stop` turns true or its sender is
    /// gone; then waits until `confirmed`'s sender is gone. The position of a row is
    /// its number.
    ///
    /// `changes` is dropped as soon as reading stops, so that the stages behind it
    /// finish what they hold.
    pub async fn run(
        mut self,
        changes: mpsc::Sender<Batch>,
        mut confirmed: watch::Receiver<Option<Position>>,
        mut stop: watch::Receiver<bool>,
    ) -> Read {
        let mut ledger = Ledger { after: self.last.clone(), ..Ledger::default() };
        let reading = async {
            loop {
                let Page { batch, keys, is_last } = self.page().await?;
                ledger.add(keys);
                ledger.settle(*confirmed.borrow_and_update());
                if changes.send(batch).await.is_err() || is_last {
                    return Ok(());
                }
            }
        };
        let ended = tokio::select! {
            ended = reading => ended,
            // A page that was not handed on is never confirmed.
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        drop(changes);
        while confirmed.changed().await.is_ok() {}
        ledger.settle(*confirmed.borrow());
        let Ledger { after, delivered, .. } = ledger;
        Read { after, delivered, failed: ended.err() }
    }

    /// The next rows, at least one unless there is none.
    async fn page(&mut self) -> Result<Page, Error> {
        let sql = self.query.page(&self.relation, self.last.as_ref(), self.page_rows);
        let client = &self.connection.client;
        let reading = read(client, &sql, &self.query, &self.relation, self.rows);
        let page = transaction(client, Mode::ReadOnly, query::SETTINGS, reading).await;
        let mut page = page.map_err(|error| self.query.failed(&self.relation, error))?;
        page.is_last &= page.keys.len() < self.page_rows as usize;
        self.rows += page.keys.len() as u64;
        self.last = page.keys.last().cloned().or(self.last.take());
        Ok(page)
    }
}

/// `before`: how many rows came before.
async fn read(
    client: &tokio_postgres::Client,
    sql: &str,
    query: &Query,
    relation: &Arc<Relation>,
    before: u64,
) -> Result<Page, tokio_postgres::Error> {
    let mut batch = BatchBuilder::default();
    let (mut bytes, mut keys, mut is_last) = (Vec::new(), Vec::new(), true);
    let at = Timestamp::now();
    let mut position = Position::new(before);
    let mut messages = pin!(client.simple_query_raw(sql).await?);
    while let Some(message) = poll_fn(|context| messages.as_mut().poll_next(context)).await {
        let SimpleQueryMessage::Row(row) = message? else { continue };
        position = Position::new(position.value() + 1);
        let transaction = Transaction { xid: 0, at, position };
        let fields = append(&row, query.columns(), relation, &mut batch, &mut bytes)?;
        batch.change(relation, Operation::Read, transaction, None, Some(fields));
        keys.push(Key::of(&row, query.columns(), &relation.primary_key)?);
        if bytes.len() >= MAX_PAGE_BYTES {
            is_last = false;
            break;
        }
    }
    batch.reached(position);
    Ok(Page { batch: batch.finish(bytes.into()), keys, is_last })
}

/// The row's values, which stand in the order of `columns`.
fn append(
    row: &SimpleQueryRow,
    columns: &[usize],
    relation: &Relation,
    batch: &mut BatchBuilder,
    bytes: &mut Vec<u8>,
) -> Result<std::ops::Range<usize>, tokio_postgres::Error> {
    let start = batch.fields.len();
    batch.fields.resize(start + relation.columns.len(), Field::UNKNOWN);
    for (place, column) in columns.iter().enumerate() {
        batch.fields[start + column] = match row.try_get(place)? {
            None => Field::NULL,
            Some(text) => {
                let at = bytes.len();
                bytes.extend_from_slice(text.as_bytes());
                Field::text(at..bytes.len()).unwrap_or(Field::UNKNOWN)
            }
        };
    }
    Ok(start..batch.fields.len())
}

/// Rows that were read and are not known to be delivered. Pure.
#[derive(Debug, Default)]
struct Ledger {
    /// The first one's number is one more than `delivered`.
    open: VecDeque<Key>,
    delivered: u64,
    after: Option<Key>,
}

impl Ledger {
    fn add(&mut self, keys: Vec<Key>) {
        self.open.extend(keys);
    }

    fn settle(&mut self, confirmed: Option<Position>) {
        let Some(confirmed) = confirmed else { return };
        while self.delivered < confirmed.value()
            && let Some(key) = self.open.pop_front()
        {
            self.delivered += 1;
            self.after = Some(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_delivered_ends_at_the_last_row_that_is_confirmed() {
        let key = |id: u32| Key::parse(&id.to_string(), 1).expect("a key");
        let mut ledger = Ledger { after: Some(key(10)), ..Ledger::default() };
        ledger.add((11..=14).map(key).collect());
        ledger.settle(None);
        assert_eq!((&ledger.after, ledger.delivered), (&Some(key(10)), 0));
        ledger.settle(Some(Position::new(3)));
        ledger.settle(Some(Position::new(2)));
        assert_eq!((&ledger.after, ledger.delivered), (&Some(key(13)), 3));
        ledger.settle(Some(Position::new(9)));
        assert_eq!((&ledger.after, ledger.delivered), (&Some(key(14)), 4));
    }
}

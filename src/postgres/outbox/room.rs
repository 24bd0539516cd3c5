//! How full the outbox is.

use tokio_postgres::{Client, Error};

/// What is in it, and what may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Changes that are committed and not delivered, as rows.
    pub rows: u64,
    /// How many triggers may still write, about; `None` before anybody has read
    /// from it.
    pub left: Option<u64>,
}

impl Room {
    /// `None` if there is no outbox. It counts the rows, which takes a moment where
    /// there are many.
    pub async fn read(client: &Client) -> Result<Option<Room>, Error> {
        let there = client.query_typed_one(IS_THERE, &[]).await?;
        if !there.try_get::<_, bool>(0)? {
            return Ok(None);
        }
        let (rows, left) = tokio::try_join!(client.query_typed_one(ROWS, &[]), Room::left(client))?;
        let rows = u64::try_from(rows.try_get::<_, i64>(0)?).unwrap_or(0);
        Ok(Some(Room { rows, left }))
    }

    /// As in the field, of an outbox that is there.
    pub async fn left(client: &Client) -> Result<Option<u64>, Error> {
        let left = client.query_typed_one(LEFT, &[]).await?.try_get::<_, Option<i64>>(0)?;
        Ok(left.map(|left| u64::try_from(left).unwrap_or(0)))
    }
}

const IS_THERE: &str = "
SELECT pg_catalog.count(*) = 3 FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND c.relname IN ('outbox', 'gate', 'outbox_id')";

const ROWS: &str = "SELECT pg_catalog.count(*) FROM rowcast.outbox";

/// How many rows triggers may still write. The gate has twice the highest number
/// that a row may have.
const LEFT: &str = "
SELECT CASE WHEN g.is_called THEN (g.last_value >> 1) - o.last_value END
FROM rowcast.gate g, rowcast.outbox_id o";

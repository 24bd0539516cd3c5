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
        let row = client.query_typed_one(ROOM, &[]).await?;
        let rows = u64::try_from(row.try_get::<_, i64>("rows")?).unwrap_or(0);
        let left: Option<i64> = row.try_get("left")?;
        Ok(Some(Room { rows, left: left.map(|left| u64::try_from(left).unwrap_or(0)) }))
    }
}

const IS_THERE: &str = "
SELECT pg_catalog.count(*) = 3 FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'rowcast' AND c.relname IN ('outbox', 'gate', 'outbox_id')";

/// The gate has twice the highest number that a row may have.
const ROOM: &str = "
SELECT (SELECT pg_catalog.count(*) FROM rowcast.outbox) AS rows,
       CASE WHEN g.is_called THEN (g.last_value >> 1) - o.last_value END AS left
FROM rowcast.gate g, rowcast.outbox_id o";

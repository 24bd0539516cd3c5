//! Whether a pooler is in between that gives each transaction another session.

use tokio_postgres::{Client, Error};

/// Those that others use meanwhile may hide it from one look, but not from many.
const LOOKS: usize = 5;

/// Whether the two connections are given sessions of a common pool. Leaves nothing
/// in them.
pub(super) async fn share_sessions(one: &Client, other: &Client) -> Result<bool, Error> {
    for _ in 0..LOOKS {
        let before = session_of(one).await?;
        // A pool that has only this session gives it to the other one; else one that
        // the other one holds is not what `one` is given next.
        other.batch_execute("BEGIN").await?;
        let others = session_of(other).await?;
        let is_shared = others == before || session_of(one).await? != before;
        other.batch_execute("ROLLBACK").await?;
        if is_shared {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process that answers.
async fn session_of(client: &Client) -> Result<i32, Error> {
    client.query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.try_get(0)
}

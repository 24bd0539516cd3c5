//! Whether a pooler is in between that gives each transaction another session.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// Who is asked, in turn. A pool gives what it got back last, or first, or what is
/// left: against an order that repeats, the two could go on missing each other.
const TURNS: [usize; 16] = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0];

/// The session that answers; and whether that which answered another connection last
/// has done something else since, as far as this may be known.
const QUESTION: &str = "
SELECT pg_catalog.pg_backend_pid(), EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity one, pg_catalog.pg_stat_activity other
    WHERE one.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
    AND other.pid OPERATOR(pg_catalog.=) $1 AND other.state OPERATOR(pg_catalog.<>) 'disabled'
    AND other.query OPERATOR(pg_catalog.<>) one.query)";

/// Whether sessions go from hand to hand between the two connections, which nobody
/// else uses, or to others. Leaves nothing in them.
pub(super) async fn share_sessions(one: &Client, other: &Client) -> Result<bool, Error> {
    let mut pids: [Option<i32>; 2] = [None, None];
    for turn in TURNS {
        let others = pids[1 - turn];
        let asked: (&(dyn ToSql + Sync), Type) = (&others, Type::INT4);
        let row = [one, other][turn].query_typed_one(QUESTION, &[asked]).await?;
        let (pid, has_done_else): (i32, bool) = (row.try_get(0)?, row.try_get(1)?);
        let before = pids[turn].replace(pid);
        if before.is_some_and(|before| before != pid) || others == Some(pid) || has_done_else {
            return Ok(true);
        }
    }
    Ok(false)
}

//! Transactions that others wait for.

use std::fmt;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};

use super::quote_literal;

/// An open transaction that something waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    holder: Holder,
    user: Option<String>,
    /// `None` where the role may not see it, nor what application it is.
    pub age_s: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    Backend { pid: i32, application: Option<String> },
    Prepared { gid: String },
}

impl Blocker {
    #[cfg(test)]
    pub(crate) fn prepared(gid: &str, age_s: Option<i64>) -> Blocker {
        Blocker { holder: Holder::Prepared { gid: gid.to_owned() }, user: None, age_s }
    }

    /// SQL that ends it, in the database that it is of.
    pub fn end_sql(&self) -> String {
        match &self.holder {
            Holder::Backend { pid, .. } => format!("SELECT pg_terminate_backend({pid});"),
            Holder::Prepared { gid } => {
                let gid = quote_literal(gid);
                format!(
                    "ROLLBACK PREPARED {gid};   -- or COMMIT PREPARED {gid}; as its transaction \
                     manager decides, in the database that it is of"
                )
            }
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map_or(String::new(), |user| format!(" of {user}"));
        match &self.holder {
            Holder::Prepared { gid } => write!(f, "the prepared transaction {gid:?}{user}")?,
            Holder::Backend { pid, application } => {
                write!(f, "the transaction of backend {pid}{user}")?;
                if let Some(application) = application.as_ref().filter(|name| !name.is_empty()) {
                    write!(f, " ({application})")?;
                }
            }
        }
        match self.age_s {
            Some(age) => write!(f, ", open for {age} s"),
            None => Ok(()),
        }
    }
}

/// Those that backend `pid` waits for, the oldest first.
pub async fn of(client: &Client, pid: i32) -> Result<Vec<Blocker>, Error> {
    client.query_typed(BLOCKERS, &[(&pid, Type::INT4)]).await?.iter().map(blocker).collect()
}

/// The oldest of the cluster that has written something: no slot lets go of the
/// log since its beginning. Any role sees which it is. `None` if there is none.
pub async fn oldest_writer(client: &Client) -> Result<Option<Blocker>, Error> {
    client.query_typed_opt(OLDEST_WRITER, &[]).await?.as_ref().map(blocker).transpose()
}

fn blocker(row: &Row) -> Result<Blocker, Error> {
    Ok(Blocker {
        holder: match row.try_get("gid")? {
            Some(gid) => Holder::Prepared { gid },
            None => Holder::Backend {
                pid: row.try_get("pid")?,
                application: row.try_get("application_name")?,
            },
        },
        user: row.try_get("usename")?,
        age_s: row.try_get("age_s")?,
    })
}

/// `pg_blocking_pids` gives 0 for prepared transactions.
const BLOCKERS: &str = "
SELECT b.pid, a.usename::text, a.application_name,
       extract(epoch FROM now() - a.xact_start)::bigint AS age_s, NULL::text AS gid
FROM (SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid) b
LEFT JOIN pg_stat_activity a ON a.pid = b.pid
WHERE b.pid <> 0
UNION ALL
SELECT NULL, p.owner::text, NULL, extract(epoch FROM now() - p.prepared)::bigint, p.gid
FROM pg_prepared_xacts p
WHERE 0 = ANY (pg_blocking_pids($1))
ORDER BY age_s DESC NULLS LAST
LIMIT 5
";

const OLDEST_WRITER: &str = "
SELECT * FROM (
    SELECT a.pid, a.usename::text, a.application_name,
           extract(epoch FROM now() - a.xact_start)::bigint AS age_s, NULL::text AS gid,
           a.backend_xid AS xid
    FROM pg_stat_activity a
    WHERE a.backend_xid IS NOT NULL
    UNION ALL
    SELECT NULL, p.owner::text, NULL, extract(epoch FROM now() - p.prepared)::bigint, p.gid,
           p.transaction
    FROM pg_prepared_xacts p
) w
ORDER BY age(w.xid) DESC
LIMIT 1
";

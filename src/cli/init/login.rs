use std::fs;
use std::io::Read;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::table::Judged;
use crate::postgres::Capture;
use crate::postgres::server::Server;
use crate::secret::Secret;

/// As whom rowcast is to log in.
pub(super) enum Login {
    /// As `init` does.
    Same,
    /// As the role `rowcast`, which is there already.
    Existing,
    /// As the role `rowcast`, which is yet to be made, with this password.
    New(Secret),
}

pub(super) const ROLE: &str = "rowcast";

impl Login {
    /// Triggers need no special role. To stream changes needs REPLICATION, which
    /// applications seldom have, and should not: it reads all databases.
    pub(super) async fn find(
        client: &Client,
        server: &Server,
        capture: Capture,
    ) -> anyhow::Result<Login> {
        if capture == Capture::Triggers || server.may_replicate {
            return Ok(Login::Same);
        }
        let exists = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
        let row = client.query_typed_one(exists, &[(&ROLE, Type::TEXT)]).await?;
        match row.try_get(0)? {
            true => Ok(Login::Existing),
            false => Ok(Login::New(password()?)),
        }
    }
}

/// 128 bits, as hexadecimal digits: nothing in it needs quoting.
fn password() -> anyhow::Result<Secret> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::new(hex::encode(bytes)))
}

/// Whether the role that is logged in may do what `setup` does for these tables.
pub(super) async fn may_set_up(client: &Client, judged: &[Judged<'_>]) -> anyhow::Result<bool> {
    let oids: Vec<u32> = judged
        .iter()
        .filter(|judged| judged.has_rule())
        .map(|judged| judged.table.relation.oid)
        .collect();
    let sql = "SELECT has_database_privilege(current_database(), 'CREATE') AND NOT EXISTS (
                   SELECT FROM pg_class
                   WHERE oid = ANY($1) AND NOT pg_has_role(relowner, 'USAGE')
               )";
    let row = client.query_typed_one(sql, &[(&oids, Type::OID_ARRAY)]).await?;
    Ok(row.try_get(0)?)
}

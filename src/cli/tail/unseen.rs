//! Of what tables nothing is seen, however often they change: nobody has the
//! server send it, or triggers write it down.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::postgres::catalog::Table;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{self, Capture, Config};

/// Of a long list this many are named.
const NAMED: usize = 20;

/// Says it on stderr.
pub(super) async fn tell(database: &Config) -> io::Result<()> {
    // Whatever is in the way is told where changes are read.
    let Some(snapshot) = look(database).await else { return Ok(()) };
    let mut stderr = io::stderr();
    let tables = tables(&snapshot, database.capture);
    if !tables.is_empty() {
        writeln!(
            stderr,
            "nothing is seen of these tables, since no rule takes them: {}",
            list(&tables)
        )?;
    }
    let operations = operations(&snapshot, database.capture);
    if !operations.is_empty() {
        writeln!(stderr, "not published, since no rule is on it: {}", operations.join(", "))?;
    }
    Ok(())
}

async fn look(database: &Config) -> Option<Snapshot> {
    let dsn = database.dsn();
    let connecting = postgres::connect_as(&dsn, postgres::APPLICATION_NAME, database.tenure());
    let connection = connecting.await.ok()?;
    let gathering = Snapshot::gather(&connection.client, &database.slot, &database.publication);
    connection.read(Box::pin(gathering)).await.ok()
}

fn tables(snapshot: &Snapshot, capture: Capture) -> Vec<String> {
    let captured: HashSet<u32> = match capture {
        Capture::Wal => {
            let published = snapshot.publication.iter().flat_map(|it| &it.tables);
            published.filter(|table| table.published).map(|table| table.oid).collect()
        }
        Capture::Triggers => {
            let triggers = snapshot.outbox.iter().flat_map(|outbox| outbox.captures());
            triggers.map(|trigger| trigger.relation).collect()
        }
    };
    // A partition's changes are its root's.
    let is_whole = |table: &&Table| table.role.root().is_none();
    let is_ours = |table: &Table| &*table.relation.table.schema == "rowcast";
    let tables = snapshot.tables.iter().filter(is_whole).filter(|table| !is_ours(table));
    let unseen = tables.filter(|table| !captured.contains(&table.relation.oid));
    unseen.map(|table| table.relation.table.to_string()).collect()
}

fn operations(snapshot: &Snapshot, capture: Capture) -> Vec<&'static str> {
    let (Capture::Wal, Some(publication)) = (capture, &snapshot.publication) else {
        return Vec::new();
    };
    let operations = [
        ("inserts", publication.insert),
        ("updates", publication.update),
        ("deletes", publication.delete),
    ];
    operations.into_iter().filter(|(_, is_published)| !is_published).map(|(name, _)| name).collect()
}

fn list(tables: &[String]) -> String {
    match tables.split_at_checked(NAMED) {
        Some((named, rest)) if !rest.is_empty() => {
            format!("{} and {} more", named.join(", "), rest.len())
        }
        Some(_) | None => tables.join(", "),
    }
}

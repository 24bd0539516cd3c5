use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use crate::change::Column;
use crate::postgres::Capture;
use crate::postgres::catalog::{Role, Table, quote_table};
use crate::route::{TablePattern, entity_of, looks_secret};

/// A table, and what a configuration says of it.
pub(super) struct Judged<'a> {
    pub(super) table: &'a Table,
    /// As `table = "…"` names it.
    pub(super) name: String,
    pub(super) verdict: Verdict<'a>,
}

pub(super) enum Verdict<'a> {
    /// A channel for each row and one for the list, and perhaps one for each owner.
    Rule {
        owner: Option<Owner<'a>>,
    },
    /// The users themselves, for whom Laravel has a channel already.
    Users {
        key: &'a Column,
    },
    /// Of a framework or a package: never.
    Theirs,
    /// Its rows join rows of other tables.
    Joins {
        parent: Option<Parent<'a>>,
    },
    /// Of more than one column.
    WideKey {
        key: Vec<&'a Column>,
    },
    NoKey,
    SecretKey {
        key: &'a Column,
    },
    /// It cannot be announced; why, and what would change that.
    Not {
        why: String,
        fix: String,
    },
}

pub(super) struct Owner<'a> {
    pub(super) column: &'a Column,
    /// Whether an old row tells whose it was, so that a deletion can be told.
    pub(super) is_known_of_old_rows: bool,
}

/// Of a row that joins: `playlist_id`, `playlist`, `playlists`.
pub(super) struct Parent<'a> {
    pub(super) column: &'a Column,
    pub(super) entity: String,
    pub(super) table: String,
}

/// Tables of Laravel and of packages that keep what no page shows.
const THEIRS: [&str; 17] = [
    "migrations",
    "jobs",
    "job_batches",
    "failed_jobs",
    "cache",
    "cache_locks",
    "sessions",
    "password_reset_tokens",
    "password_resets",
    "personal_access_tokens",
    "telescope_*",
    "pulse_*",
    "horizon*",
    "oauth_*",
    "websockets_statistics_entries",
    "action_events",
    "schema_migrations",
];
/// Others, such as `owner_id`, are of other tables as often as of users.
const OWNER: &str = "user_id";

impl<'a> Judged<'a> {
    /// `None` for what stands for another table: a partition, whose changes bear
    /// the name of its root.
    pub(super) fn of(table: &'a Table, all: &'a [Table], capture: Capture) -> Option<Judged<'a>> {
        if table.role.root().is_some() {
            return None;
        }
        let name = &table.relation.table;
        let shown = match &*name.schema {
            "public" => name.name.to_string(),
            _ => name.to_string(),
        };
        let verdict = match shown.contains('*') || shown.parse::<TablePattern>().is_err() {
            true => Verdict::Not {
                why: "no rule can name it: it has a dot, a quote or a star in its name".to_owned(),
                fix: "rename it".to_owned(),
            },
            false => verdict(table, all, capture),
        };
        Some(Judged { table, name: shown, verdict })
    }

    /// Leaves out all but one of the tables with one name, in several schemas: pages
    /// would take their channels for the same. That of `public` stays.
    pub(super) fn leave_out_namesakes(all: &mut [Judged<'_>]) {
        let mut taken: HashMap<Box<str>, String> = HashMap::new();
        let is_public = |judged: &Judged<'_>| &*judged.table.relation.table.schema == "public";
        let (public, others): (Vec<_>, Vec<_>) =
            (0..all.len()).partition(|&at| is_public(&all[at]));
        for at in
            public.into_iter().chain(others).filter(|&at| all[at].has_rule()).collect::<Vec<_>>()
        {
            let judged = &mut all[at];
            let name = judged.table.relation.table.name.clone();
            match taken.get(&name) {
                None => drop(taken.insert(name, judged.name.clone())),
                Some(other) => {
                    judged.verdict = Verdict::Not {
                        why: format!("its channels would be those of {other}"),
                        fix: "a rule of its own, with channels and an entity of other names"
                            .to_owned(),
                    };
                }
            }
        }
    }

    pub(super) fn has_rule(&self) -> bool {
        matches!(self.verdict, Verdict::Rule { .. } | Verdict::Users { .. })
    }
}

fn verdict<'a>(table: &'a Table, all: &'a [Table], capture: Capture) -> Verdict<'a> {
    let relation = &table.relation;
    if is_theirs(&relation.table.name) {
        return Verdict::Theirs;
    }
    let key: Vec<&Column> = relation.primary_key.iter().map(|&at| &relation.columns[at]).collect();
    match &*key {
        [] if joins(&relation.columns) => return Verdict::Joins { parent: None },
        [] => return Verdict::NoKey,
        [key] if looks_secret(&key.name) || key.name.contains("email") => {
            return Verdict::SecretKey { key };
        }
        _ => {}
    }
    if let Some((why, fix)) = obstacle(table, capture) {
        return Verdict::Not { why, fix };
    }
    match &*key {
        [key] if &*relation.table.name == "users" => Verdict::Users { key },
        [_] => Verdict::Rule { owner: owner(table, capture) },
        _ if key.iter().all(|column| column.name.ends_with("_id")) => {
            Verdict::Joins { parent: parent(key[0], all) }
        }
        _ => Verdict::WideKey { key },
    }
}

fn is_theirs(name: &str) -> bool {
    THEIRS.iter().any(|theirs| match theirs.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *theirs,
    })
}

/// Without a key of its own: at least two references, and nothing else but when.
fn joins(columns: &[Column]) -> bool {
    let references = columns.iter().filter(|column| column.name.ends_with("_id")).count();
    let others = columns
        .iter()
        .filter(|column| !column.name.ends_with("_id") && !column.name.ends_with("_at"))
        .count();
    references >= 2 && others == 0
}

/// What `setup` would refuse.
fn obstacle(table: &Table, capture: Capture) -> Option<(String, String)> {
    let quoted = quote_table(&table.relation.table);
    match capture {
        Capture::Wal if !table.logged => Some((
            "it is UNLOGGED: its changes never reach the log".to_owned(),
            format!("ALTER TABLE {quoted} SET LOGGED; or capture = \"triggers\""),
        )),
        Capture::Wal if !table.has_identity() && table.role == Role::Plain => Some((
            "without a replica identity its updates would fail once they are published".to_owned(),
            format!("ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT;"),
        )),
        Capture::Triggers if table.subscribed => Some((
            "its rows come by a subscription, for which triggers do not fire".to_owned(),
            "announce it where it is written".to_owned(),
        )),
        Capture::Wal | Capture::Triggers => None,
    }
}

fn owner(table: &Table, capture: Capture) -> Option<Owner<'_>> {
    let columns = &table.relation.columns;
    let column = columns.iter().find(|column| *column.name == *OWNER)?;
    // A key of several models.
    if columns.iter().any(|column| &*column.name == "user_type") {
        return None;
    }
    let is_known_of_old_rows = capture == Capture::Triggers || column.in_identity;
    Some(Owner { column, is_known_of_old_rows })
}

/// `playlist_id` means the table whose entity is `playlist`.
fn parent<'a>(column: &'a Column, all: &[Table]) -> Option<Parent<'a>> {
    let entity = column.name.strip_suffix("_id")?;
    let table = all
        .iter()
        .map(|table| &*table.relation.table.name)
        .find(|name| entity_of(name) == entity)
        .map_or_else(|| format!("{entity}s"), str::to_owned);
    Some(Parent { column, entity: entity.to_owned(), table })
}

/// Tables that belong to extensions, such as those of PostGIS.
pub(super) async fn of_extensions(client: &Client) -> Result<HashSet<u32>, tokio_postgres::Error> {
    let sql = "SELECT objid FROM pg_depend
               WHERE classid = 'pg_class'::regclass AND deptype = 'e'";
    let rows = client.query_typed(sql, &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frameworks_tables_are_known_by_name() {
        for theirs in ["migrations", "telescope_entries", "cache", "oauth_clients"] {
            assert!(is_theirs(theirs), "{theirs}");
        }
        for own in ["caches", "posts", "job_offers", "users"] {
            assert!(!is_theirs(own), "{own}");
        }
    }
}

use std::str::FromStr;

use crate::harness::database::Database;

/// How rowcast learns of changes, and of triggers how it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    Wal,
    Notify,
    Poll,
}

impl Capture {
    pub(super) fn is_triggers(self) -> bool {
        self != Capture::Wal
    }

    /// What the cluster has besides. Triggers must do without what logical replication takes.
    pub(super) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // A walsender whose client is gone without a word is noticed soon.
            Capture::Wal => &[("wal_sender_timeout", "5s")],
            Capture::Notify | Capture::Poll => &[
                ("wal_level", "replica"),
                ("max_replication_slots", "0"),
                ("max_prepared_transactions", "20"),
            ],
        }
    }

    /// The URL of rowcast: with triggers that of a role of its own, which may log in and little else.
    pub(super) async fn url(self, database: &Database) -> String {
        let url = database.url();
        if self == Capture::Wal {
            return url;
        }
        let role = role(database);
        // What rules look up it reads itself.
        let sql =
            format!("create role {role} login; grant select (id, handle) on owners to {role};");
        database.psql(&sql).await;
        url.replacen("postgres@", &format!("{role}@"), 1)
    }

    /// `[database]` of the configuration. The slot gives the state file its name, too.
    pub(super) fn toml(self, database: &Database) -> String {
        let wake = match self {
            Capture::Wal => return database.toml(),
            Capture::Notify => "notify",
            Capture::Poll => "poll",
        };
        let (url, slot) = (database.url(), database.slot());
        format!(
            "[database]\nurl = '{url}'\nslot = '{slot}'\ncapture = 'triggers'\nwake = '{wake}'\n"
        )
    }
}

fn role(database: &Database) -> String {
    format!("rowcast_{}", database.name)
}

impl FromStr for Capture {
    type Err = String;

    /// As `tests/faults` says it.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wal" => Ok(Capture::Wal),
            "notify" => Ok(Capture::Notify),
            "poll" => Ok(Capture::Poll),
            _ => Err(format!("{text}: it is wal, notify or poll")),
        }
    }
}

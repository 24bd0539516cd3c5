//! What is wrong with the database for our purposes, and what mends it. Pure:
//! it judges a [`Snapshot`]. Run at each connect, each minute, by `setup` and
//! `doctor`.

mod captured;
mod published;

use std::fmt;

use super::catalog::Table;
use super::identity;
use super::need::{Need, wanted};
use super::server::{Hosting, Server};
use super::slot::{Slot, WalStatus};
use super::snapshot::Snapshot;
use super::{
    APPLICATION_NAME, Capture, Config, PublicationName, SlotName, quote_identifier, standby,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub severity: Severity,
    /// What is, and what that means for the data.
    pub message: String,
    /// Commands, SQL or words that put it right.
    pub fix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but should not stay so.
    Warning,
    /// Changes would be lost or wrong, or the application's own writes suffer.
    Error,
}

/// What a finding is about, for those who act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    WalLevel,
    RoleCannotReplicate,
    NoFreeSlot,
    SlotMissing,
    SlotPhysical,
    SlotPlugin,
    SlotDatabase,
    SlotLost,
    SlotActive,
    SlotNearlyLost,
    SlotNotFailover,
    FailoverUnsupported,
    HoldersHidden,
    UnlimitedRetention,
    SynchronousStandby,
    PublicationMissing,
    PublicationPerhapsNewer,
    PublicationOperations,
    PublicationByPartition,
    TableNotPublished,
    TableUnlogged,
    TableNotWanted,
    PartitionOfPublished,
    RowFilter,
    ColumnList,
    GeneratedColumns,
    Identity,
    LookupNotUnique,
    LookupNotReadable,
    LookupHidden,
    LookupFiltered,
    OutboxMissing,
    OutboxForeign,
    CaptureOutdated,
    TriggersMissing,
    TriggersOff,
    PartitionNotCaptured,
    PartitionAlone,
    TableWithoutKey,
    TableSubscribed,
    SlotLeft,
    TriggersLeft,
}

impl Kind {
    /// Whether it is about the slot that is configured, and so nothing to a
    /// session that makes a slot of its own.
    pub fn is_about_slot(self) -> bool {
        match self {
            Kind::SlotMissing
            | Kind::SlotPhysical
            | Kind::SlotPlugin
            | Kind::SlotDatabase
            | Kind::SlotLost
            | Kind::SlotActive
            | Kind::SlotNearlyLost
            | Kind::SlotNotFailover
            | Kind::FailoverUnsupported
            | Kind::HoldersHidden
            | Kind::UnlimitedRetention
            | Kind::PublicationPerhapsNewer
            | Kind::SlotLeft => true,
            Kind::WalLevel
            | Kind::RoleCannotReplicate
            | Kind::NoFreeSlot
            | Kind::SynchronousStandby
            | Kind::PublicationMissing
            | Kind::PublicationOperations
            | Kind::PublicationByPartition
            | Kind::TableNotPublished
            | Kind::TableUnlogged
            | Kind::TableNotWanted
            | Kind::PartitionOfPublished
            | Kind::RowFilter
            | Kind::ColumnList
            | Kind::GeneratedColumns
            | Kind::Identity
            | Kind::LookupNotUnique
            | Kind::LookupNotReadable
            | Kind::LookupHidden
            | Kind::LookupFiltered
            | Kind::OutboxMissing
            | Kind::OutboxForeign
            | Kind::CaptureOutdated
            | Kind::TriggersMissing
            | Kind::TriggersOff
            | Kind::PartitionNotCaptured
            | Kind::PartitionAlone
            | Kind::TableWithoutKey
            | Kind::TableSubscribed
            | Kind::TriggersLeft => false,
        }
    }
}

/// What the database is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub capture: Capture,
    pub slot: &'a SlotName,
    pub publication: &'a PublicationName,
    pub needs: &'a [Need],
    /// Whether a silent holder of the slot is to be found out.
    pub takeover: bool,
    /// Whether standbys are to have the slot too.
    pub failover: bool,
}

impl<'a> Expected<'a> {
    /// Without takeover and failover.
    pub fn of(config: &'a Config, needs: &'a [Need]) -> Expected<'a> {
        Expected {
            capture: config.capture,
            slot: &config.slot,
            publication: &config.publication,
            needs,
            takeover: false,
            failover: false,
        }
    }
}

/// The message, then the fix on lines of its own, as for any error.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhelp: {}", self.message, self.fix.replace('\n', "\n      "))
    }
}

impl Finding {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub(super) fn error(kind: Kind, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { kind, severity: Severity::Error, message: message.into(), fix: fix.into() }
    }

    fn warning(kind: Kind, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { kind, severity: Severity::Warning, message: message.into(), fix: fix.into() }
    }
}

/// Everything that is wrong, errors first.
pub fn check(snapshot: &Snapshot, expected: &Expected<'_>) -> Vec<Finding> {
    let mut findings = match expected.capture {
        Capture::Wal => streamed(snapshot, expected),
        Capture::Triggers => captured::existing_capture(snapshot, expected),
    };
    findings.extend(published::partitions_of_published(&snapshot.tables, expected.needs));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn streamed(snapshot: &Snapshot, expected: &Expected<'_>) -> Vec<Finding> {
    let mut findings = settings(&snapshot.server);
    match &snapshot.slot {
        Some(slot) => findings.extend(existing_slot(slot, &snapshot.server, expected)),
        None => findings.extend(missing_slot(&snapshot.server, expected)),
    }
    match &snapshot.publication {
        Some(publication) => {
            findings.extend(published::existing_publication(publication, snapshot, expected));
        }
        None => findings.push(Finding::error(
            Kind::PublicationMissing,
            format!(
                "publication {} does not exist: no change is sent to rowcast, and those committed \
                 without it never will be",
                expected.publication
            ),
            "rowcast setup",
        )),
    }
    findings.extend(several_instances(snapshot, expected));
    findings.extend(identities(&snapshot.tables, expected.needs));
    findings.extend(captured::triggers_left(snapshot));
    findings
}

/// What the server and the role allow, whatever is set up.
pub fn settings(server: &Server) -> Vec<Finding> {
    let mut findings = Vec::new();
    if &*server.wal_level != "logical" {
        findings.push(Finding::error(
            Kind::WalLevel,
            format!(
                "wal_level is {}: it must be logical, which takes effect after a restart of \
                 Postgres",
                server.wal_level
            ),
            match server.hosting {
                Hosting::Own => {
                    "ALTER SYSTEM SET wal_level = 'logical';   -- then restart Postgres".to_owned()
                }
                Hosting::Rds => "set rds.logical_replication = 1 in the instance's parameter \
                                 group, then reboot it"
                    .to_owned(),
                Hosting::Azure => "set wal_level to logical under Server parameters, then restart \
                                   the server"
                    .to_owned(),
                Hosting::CloudSql => {
                    "set the flag cloudsql.logical_decoding=on; the instance restarts".to_owned()
                }
                Hosting::Neon => "enable logical replication in the project's settings".to_owned(),
            },
        ));
    }
    if !server.may_replicate {
        findings.push(role_cannot_replicate(server));
    }
    if standby::is_synchronous(&server.synchronous_standby_names, APPLICATION_NAME) {
        findings.push(Finding::error(
            Kind::SynchronousStandby,
            format!(
                "synchronous_standby_names is {:?}, which takes {APPLICATION_NAME} for a synchronous \
                 standby: every commit of the application would wait until it is delivered",
                server.synchronous_standby_names
            ),
            "name the real standbys in synchronous_standby_names, without '*', then SELECT \
             pg_reload_conf();",
        ));
    }
    if server.max_slot_wal_keep_size.is_none() {
        findings.push(unlimited_retention(server));
    }
    findings
}

fn role_cannot_replicate(server: &Server) -> Finding {
    let role = quote_identifier(&server.role);
    Finding::error(
        Kind::RoleCannotReplicate,
        format!("role {} may not stream changes: it lacks REPLICATION", server.role),
        match server.hosting {
            Hosting::Rds => format!("GRANT rds_replication TO {role};"),
            _ => format!("ALTER ROLE {role} REPLICATION;"),
        },
    )
}

fn unlimited_retention(server: &Server) -> Finding {
    Finding::warning(
        Kind::UnlimitedRetention,
        "max_slot_wal_keep_size is -1: while rowcast does not run, its slot keeps log until the \
         disk is full and Postgres stops",
        match server.hosting {
            Hosting::Own => {
                "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT \
                             pg_reload_conf();   -- as much as the disk can spare"
            }
            Hosting::Rds | Hosting::Azure | Hosting::CloudSql | Hosting::Neon => {
                "set max_slot_wal_keep_size, in MB, among the server's parameters: as much as the \
                 disk can spare"
            }
        },
    )
}

fn missing_slot(server: &Server, expected: &Expected<'_>) -> Vec<Finding> {
    let mut findings = vec![Finding::error(
        Kind::SlotMissing,
        format!(
            "slot {} does not exist: Postgres keeps no changes for rowcast, and those until it is \
             made are not announced",
            expected.slot
        ),
        "rowcast setup",
    )];
    if server.used_replication_slots >= server.max_replication_slots {
        findings.push(Finding::error(
            Kind::NoFreeSlot,
            format!(
                "all {} slots that max_replication_slots allows are in use",
                server.max_replication_slots
            ),
            format!(
                "ALTER SYSTEM SET max_replication_slots = {};   -- then restart Postgres\nor drop one \
                 that nobody uses: SELECT slot_name, active FROM pg_replication_slots;",
                server.max_replication_slots + 10
            ),
        ));
    }
    findings
}

fn existing_slot(slot: &Slot, server: &Server, expected: &Expected<'_>) -> Vec<Finding> {
    let name = expected.slot;
    let another = "choose another name under [database] slot, then rowcast setup";
    let Some(plugin) = slot.plugin.as_deref() else {
        let message =
            format!("slot {name} is a physical one, which a standby uses: rowcast cannot read it");
        return vec![Finding::error(Kind::SlotPhysical, message, another)];
    };
    let mut findings = Vec::new();
    if plugin != "pgoutput" {
        let message = format!(
            "slot {name} belongs to the output plugin {plugin}, so to another program: rowcast \
             reads pgoutput"
        );
        findings.push(Finding::error(Kind::SlotPlugin, message, another));
    }
    let database = slot.database.as_deref().unwrap_or_default();
    if *database != *server.database {
        let message = format!(
            "slot {name} is of database {database:?}, and [database] url leads to {:?}",
            server.database
        );
        findings.push(Finding::error(Kind::SlotDatabase, message, another));
    }
    if slot.is_lost() {
        let reason = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
        findings.push(Finding::error(
            Kind::SlotLost,
            format!(
                "slot {name} is lost ({reason}): Postgres has removed the log that it still \
                 needed, so changes since then cannot be read any more"
            ),
            "rowcast run makes it again and tells all pages to fetch again, unless on_slot_loss is \
             \"stop\"; by hand: rowcast teardown && rowcast setup",
        ));
    } else if slot.wal_status == Some(WalStatus::Unreserved) {
        findings.push(Finding::warning(
            Kind::SlotNearlyLost,
            format!(
                "slot {name} keeps {} of log, more than max_slot_wal_keep_size: the next \
                 checkpoint may remove it, and with it changes that are not announced yet",
                mebibytes(slot.retained_bytes.unwrap_or(0))
            ),
            "let rowcast catch up, or raise max_slot_wal_keep_size",
        ));
    }
    if let Some(pid) = slot.active_pid {
        let application = slot.active_application.as_deref().filter(|name| !name.is_empty());
        findings.push(Finding::error(
            Kind::SlotActive,
            format!(
                "slot {name} is in use by backend {pid}{}: only one process can read from it",
                application.map_or(String::new(), |name| format!(" ({name})")),
            ),
            format!(
                "stop the other process; if it is gone already: SELECT \
                 pg_terminate_backend({pid});"
            ),
        ));
    }
    findings
}

/// What `takeover` and `failover` need.
fn several_instances(snapshot: &Snapshot, expected: &Expected<'_>) -> Vec<Finding> {
    let (server, name) = (&snapshot.server, expected.slot);
    let mut findings = Vec::new();
    if expected.takeover && !server.sees_replication {
        let role = quote_identifier(&server.role);
        findings.push(Finding::error(
            Kind::HoldersHidden,
            format!(
                "takeover is on, and role {} may not see when the holder of the slot was last \
                 heard: it lacks pg_read_all_stats",
                server.role
            ),
            format!("GRANT pg_read_all_stats TO {role};"),
        ));
    }
    if expected.failover && !server.has_failover_slots() {
        findings.push(Finding::error(
            Kind::FailoverUnsupported,
            format!(
                "failover is on, and Postgres keeps slots on standbys only from version 17 on: \
                 this one is {}",
                server.version_num / 10_000
            ),
            "remove failover = true under [run]; after a failover the slot is made again, and all \
             pages fetch again (on_slot_loss)",
        ));
    } else if expected.failover && snapshot.slot.as_ref().is_some_and(|slot| !slot.failover) {
        findings.push(Finding::warning(
            Kind::SlotNotFailover,
            format!("slot {name} is not kept on standbys: after a failover it is gone"),
            "rowcast setup   # while no rowcast streams",
        ));
    }
    findings
}

fn mebibytes(bytes: i64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn identities(tables: &[Table], needs: &[Need]) -> Vec<Finding> {
    wanted(tables, needs)
        .into_iter()
        .filter_map(|wanted| {
            let shortfall = identity::shortfall(tables, wanted, &[])?;
            Some(Finding::error(
                Kind::Identity,
                shortfall.why,
                format!("rowcast setup --identity, or:\n{}", identity::sql(&shortfall.statements)),
            ))
        })
        .collect()
}

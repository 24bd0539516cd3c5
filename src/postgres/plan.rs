//! What `setup` and `teardown` would do, decided from a [`Snapshot`]. Pure.

use super::catalog::Table;
use super::checks::{Expected, Finding, Kind, check};
use super::functions;
use super::identity::{self, OwnIndex, Shortfall};
use super::need::{holders, wanted};
use super::publish::{PublishError, Target, is_full};
use super::slot::Slot;
use super::snapshot::Snapshot;
use super::statement::Statement;
use super::{Capture, PublicationName, PublishColumns, SlotName, quote_identifier, quote_literal};

/// What `setup` has to do, in order: the statements, then the slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    pub statements: Vec<Statement>,
    /// The publication comes first: a slot that is older than its publication
    /// has changes that cannot be read.
    pub slot: Option<SlotChange>,
    /// What applications may call. They come last, since all else goes without.
    pub functions: Option<Statement>,
    /// What is as it should be already, in words.
    pub found: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotChange {
    Make,
    /// Have standbys keep it too.
    ToFailover,
}

/// Whether replica identities may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identities {
    Keep,
    Change,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Settings and slots that setup does not touch.
    #[error("{}", lines(.0))]
    Blocked(Vec<Finding>),
    #[error(
        "{why}rowcast setup --identity changes that, or this does:\n{sql}",
        sql = identities_sql(.0),
        why = .0.iter().map(|s| format!("{}\n", s.why)).collect::<String>(),
    )]
    Identity(Vec<Shortfall>),
    /// Postgres would have the change wait until the stream ends.
    #[error(
        "slot {slot} is in use by backend {pid}, and failover is to be on: stop that rowcast while \
         setup has standbys keep the slot too"
    )]
    SlotInUse { slot: SlotName, pid: i32 },
    #[error(transparent)]
    Publish(#[from] PublishError),
}

fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    lines.join("\n\nerror: ")
}

fn identities_sql(shortfalls: &[Shortfall]) -> String {
    let all: Vec<String> = shortfalls.iter().map(|one| identity::sql(&one.statements)).collect();
    all.join("\n")
}

/// What leads from `snapshot` to what `expected` describes.
///
/// # Errors
/// Whatever must be decided or changed by somebody else first.
pub fn setup(
    snapshot: &Snapshot,
    expected: &Expected<'_>,
    indexes: &[OwnIndex],
    columns: PublishColumns,
    identities: Identities,
) -> Result<Setup, SetupError> {
    let blocked: Vec<Finding> =
        check(snapshot, expected).into_iter().filter(|finding| blocks(finding.kind)).collect();
    if !blocked.is_empty() {
        return Err(SetupError::Blocked(blocked));
    }

    let tables = &snapshot.tables;
    let wanted = wanted(tables, expected.needs);
    let mut found = Vec::new();
    let mut shortfalls = Vec::new();
    for one in &wanted {
        match identity::shortfall(tables, *one, indexes) {
            Some(shortfall) => shortfalls.push(shortfall),
            None => found.push(format!("replica identity of {}", one.table.relation.table)),
        }
    }
    if identities == Identities::Keep && !shortfalls.is_empty() {
        return Err(SetupError::Identity(shortfalls));
    }

    let becomes_full = |table: &Table| {
        let is_part = |root: &Table| {
            holders(tables, root).iter().any(|part| part.relation.oid == table.relation.oid)
        };
        let changed = wanted
            .iter()
            .map(|one| one.table)
            .find(|one| one.relation.oid == table.relation.oid || is_part(one))
            .and_then(|one| shortfalls.iter().find(|s| s.table == one.relation.table));
        changed.map_or(is_full(table), |shortfall| shortfall.to_full)
    };
    let named = columns == PublishColumns::Named;
    let target = Target::new(&snapshot.server, tables, &wanted, named, becomes_full)?;
    let publication =
        target.statements(&snapshot.server, expected.publication, snapshot.publication.as_ref())?;
    if publication.is_empty() {
        found.push(format!("publication {}", expected.publication));
    }
    let slot = match &snapshot.slot {
        None => Some(SlotChange::Make),
        Some(slot) if expected.failover && !slot.failover => match slot.active_pid {
            None => Some(SlotChange::ToFailover),
            Some(pid) => return Err(SetupError::SlotInUse { slot: expected.slot.clone(), pid }),
        },
        Some(_) => {
            found.push(format!("slot {}", expected.slot));
            None
        }
    };
    let functions = functions::make(snapshot.functions, Capture::Wal);
    if functions.is_none() {
        found.push(functions::NAMES.to_owned());
    }
    let statements =
        shortfalls.into_iter().flat_map(|one| one.statements).chain(publication).collect();
    Ok(Setup { statements, slot, functions, found })
}

/// Findings that setup can do nothing about, and that its work depends on.
fn blocks(kind: Kind) -> bool {
    match kind {
        Kind::WalLevel
        | Kind::NoFreeSlot
        | Kind::SlotPhysical
        | Kind::SlotPlugin
        | Kind::SlotDatabase
        | Kind::SlotLost
        | Kind::FailoverUnsupported => true,
        Kind::RoleCannotReplicate
        | Kind::SlotMissing
        | Kind::SlotActive
        | Kind::SlotNearlyLost
        | Kind::SlotNotFailover
        | Kind::HoldersHidden
        | Kind::UnlimitedRetention
        | Kind::SynchronousStandby
        | Kind::PublicationMissing
        | Kind::PublicationPerhapsNewer
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
        | Kind::LookupFiltered => false,
    }
}

/// The same for psql.
pub fn slot_change(change: SlotChange, slot: &SlotName, failover: bool) -> Statement {
    match change {
        SlotChange::Make => make_slot(slot, failover),
        SlotChange::ToFailover => Statement::new(
            format!("slot {slot}: standbys keep it too; no rowcast may stream meanwhile"),
            // The command belongs to the replication protocol.
            format!(
                "\\connect -reuse-previous=on \"replication=database\"\n\
                 ALTER_REPLICATION_SLOT {} (FAILOVER true)",
                quote_identifier(slot.as_str())
            ),
        ),
    }
}

fn make_slot(slot: &SlotName, failover: bool) -> Statement {
    let failover = if failover { ", failover => true" } else { "" };
    Statement::new(
        format!(
            "slot {slot}: from here on Postgres keeps changes for rowcast; this waits for open \
             transactions"
        ),
        format!(
            "SELECT pg_create_logical_replication_slot({}, 'pgoutput'{failover})",
            quote_literal(slot.as_str())
        ),
    )
}

/// What `teardown` has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teardown {
    /// By a role with REPLICATION.
    pub slot: Option<Statement>,
    /// By the owner.
    pub statements: Vec<Statement>,
    /// What is gone already.
    pub absent: Vec<String>,
    /// Replica identities that stay: tables, and the SQL that sets them back.
    pub identities: Vec<Statement>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TeardownError {
    #[error(
        "slot {slot} is in use by backend {pid}{application}: stop that rowcast first; if it is \
         gone already: SELECT pg_terminate_backend({pid});",
        application = application.as_ref().map_or(String::new(), |name| format!(" ({name})")),
    )]
    Active { slot: SlotName, pid: i32, application: Option<Box<str>> },
    #[error("slot {slot} is not rowcast's: {why}; it stays, and so does everything else")]
    NotOurs { slot: SlotName, why: String },
}

/// # Errors
/// A slot that is in use or somebody else's. Then nothing is done: the
/// publication of a running stream may not go.
pub fn teardown(
    snapshot: &Snapshot,
    indexes: &[OwnIndex],
    slot: &SlotName,
    publication: &PublicationName,
    identities: Identities,
) -> Result<Teardown, TeardownError> {
    let mut absent = Vec::new();
    let slot_statement = match &snapshot.slot {
        Some(found) => {
            is_droppable(found, snapshot, slot)?;
            Some(Statement::new(
                format!("slot {slot}: Postgres keeps no more log for it"),
                format!("SELECT pg_drop_replication_slot({})", quote_literal(slot.as_str())),
            ))
        }
        None => {
            absent.push(format!("slot {slot}"));
            None
        }
    };
    let mut statements = Vec::new();
    match &snapshot.publication {
        Some(_) => statements.push(Statement::new(
            format!("publication {publication} is gone"),
            format!("DROP PUBLICATION IF EXISTS {}", quote_identifier(publication.as_str())),
        )),
        None => absent.push(format!("publication {publication}")),
    }
    statements.extend(functions::remove(snapshot.functions));
    let ours = identity::removal(&snapshot.tables, indexes);
    let mut staying = identity::full_to_default(snapshot);
    match identities {
        Identities::Change => statements.extend(ours),
        Identities::Keep => staying.extend(ours),
    }
    Ok(Teardown { slot: slot_statement, statements, absent, identities: staying })
}

fn is_droppable(found: &Slot, snapshot: &Snapshot, slot: &SlotName) -> Result<(), TeardownError> {
    let not_ours = |why: String| Err(TeardownError::NotOurs { slot: slot.clone(), why });
    match found.plugin.as_deref() {
        None => return not_ours("it is a physical one".to_owned()),
        Some("pgoutput") => {}
        Some(plugin) => return not_ours(format!("its output plugin is {plugin}")),
    }
    let database = found.database.as_deref().unwrap_or_default();
    if *database != *snapshot.server.database {
        return not_ours(format!("it is of database {database:?}"));
    }
    match found.active_pid {
        Some(pid) => Err(TeardownError::Active {
            slot: slot.clone(),
            pid,
            application: found.active_application.clone().filter(|name| !name.is_empty()),
        }),
        None => Ok(()),
    }
}

//! What `setup` and `teardown` would do, decided from a [`Snapshot`]. Pure.

use super::catalog::Table;
use super::checks::{Expected, Finding, Kind, check};
use super::functions;
use super::identity::{self, OwnIndex, Shortfall};
use super::need::{holders, wanted};
use super::outbox::{self, Backend};
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
    refuse_blocked(snapshot, expected)?;
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

/// # Errors
/// [`SetupError::Blocked`], with what setup does not change.
pub fn refuse_blocked(snapshot: &Snapshot, expected: &Expected<'_>) -> Result<(), SetupError> {
    let blocked: Vec<Finding> =
        check(snapshot, expected).into_iter().filter(|finding| blocks(finding.kind)).collect();
    match blocked.is_empty() {
        true => Ok(()),
        false => Err(SetupError::Blocked(blocked)),
    }
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
        | Kind::FailoverUnsupported
        | Kind::OutboxForeign
        | Kind::PartitionAlone
        | Kind::TableWithoutKey => true,
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
        | Kind::LookupFiltered
        | Kind::OutboxMissing
        | Kind::CaptureOutdated
        | Kind::TriggersMissing
        | Kind::TriggersOff
        | Kind::PartitionNotCaptured
        | Kind::TableSubscribed
        | Kind::SlotLeft
        | Kind::TriggersLeft => false,
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
    Statement::waiting(
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

/// What `teardown` is to take back.
#[derive(Clone, Copy, Debug)]
pub struct Removal<'a> {
    pub slot: &'a SlotName,
    pub publication: &'a PublicationName,
    /// That of the configuration.
    pub capture: Capture,
    /// What one way of capture needs, or what both do.
    pub only: Option<Capture>,
    /// That of `[database] url`.
    pub role: &'a str,
    pub identities: Identities,
}

impl Removal<'_> {
    fn is_of(&self, capture: Capture) -> bool {
        self.only.is_none_or(|only| only == capture)
    }

    /// Whether the capture that stays needs nothing of it.
    fn is_of_all(&self) -> bool {
        self.is_of(self.capture)
    }
}

/// What `teardown` has to do, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Teardown {
    /// By a role with REPLICATION.
    pub slot: Option<Statement>,
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
        application = in_brackets(application),
    )]
    Active { slot: SlotName, pid: i32, application: Option<Box<str>> },
    #[error("slot {slot} is not rowcast's: {why}; it stays, and so does everything else")]
    NotOurs { slot: SlotName, why: String },
    #[error(
        "backend {pid}{application} reads rowcast.outbox: stop that rowcast first, or leave it \
         alone with --only wal; if it is gone already: SELECT pg_terminate_backend({pid});",
        application = in_brackets(application),
    )]
    Drained { pid: i32, application: Option<Box<str>> },
}

fn in_brackets(application: &Option<Box<str>>) -> String {
    application.as_ref().map_or(String::new(), |name| format!(" ({name})"))
}

/// # Errors
/// A slot or outbox that is in use, or somebody else's slot. Then nothing is
/// done: the publication of a running stream may not go.
pub fn teardown(
    snapshot: &Snapshot,
    indexes: &[OwnIndex],
    removal: &Removal<'_>,
) -> Result<Teardown, TeardownError> {
    let mut plan = Teardown::default();
    if removal.is_of(Capture::Wal) {
        stop_streaming(&mut plan, snapshot, removal)?;
    }
    if removal.is_of(Capture::Triggers) {
        stop_triggers(&mut plan, snapshot, removal)?;
    }
    if removal.is_of_all() {
        plan.statements.extend(functions::remove(snapshot.functions));
        plan.statements.extend(outbox::remove_schema(snapshot, removal.role));
    }
    if removal.is_of(Capture::Wal) {
        let ours = identity::removal(&snapshot.tables, indexes);
        plan.identities = identity::full_to_default(snapshot);
        match removal.identities {
            Identities::Change => plan.statements.extend(ours),
            Identities::Keep => plan.identities.extend(ours),
        }
    }
    Ok(plan)
}

fn stop_streaming(
    plan: &mut Teardown,
    snapshot: &Snapshot,
    removal: &Removal<'_>,
) -> Result<(), TeardownError> {
    let Removal { slot, publication, .. } = removal;
    let is_asked_for = removal.only.unwrap_or(removal.capture) == Capture::Wal;
    match &snapshot.slot {
        Some(found) => {
            // One of that name may well be another database's.
            let droppable = is_droppable(found, snapshot, slot);
            if is_asked_for || !matches!(droppable, Err(TeardownError::NotOurs { .. })) {
                droppable?;
                plan.slot = Some(Statement::new(
                    format!("slot {slot}: Postgres keeps no more log for it"),
                    format!("SELECT pg_drop_replication_slot({})", quote_literal(slot.as_str())),
                ));
            }
        }
        None if is_asked_for => plan.absent.push(format!("slot {slot}")),
        None => {}
    }
    match &snapshot.publication {
        Some(_) => plan.statements.push(Statement::new(
            format!("publication {publication} is gone"),
            format!("DROP PUBLICATION IF EXISTS {}", quote_identifier(publication.as_str())),
        )),
        None if is_asked_for => plan.absent.push(format!("publication {publication}")),
        None => {}
    }
    Ok(())
}

fn stop_triggers(
    plan: &mut Teardown,
    snapshot: &Snapshot,
    removal: &Removal<'_>,
) -> Result<(), TeardownError> {
    match &snapshot.outbox {
        Some(outbox) => {
            if let Some(Backend { pid, application }) = outbox.drained_by.clone() {
                return Err(TeardownError::Drained { pid, application });
            }
            plan.statements.extend(outbox::remove(outbox, removal.role));
        }
        None if removal.only.unwrap_or(removal.capture) == Capture::Triggers => {
            plan.absent.push("outbox rowcast.outbox".to_owned());
        }
        None => {}
    }
    Ok(())
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

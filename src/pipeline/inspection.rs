use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

use tracing::{error, warn};

use super::judgement::{Instances, Judgement};
use super::{Capture, Options, Slot, Wal};
use crate::change::{Lookup, Relation};
use crate::postgres::Connection;
use crate::postgres::checks::{Finding, Kind, Severity};
use crate::postgres::need::{IdentityNeed, Need};
use crate::postgres::outbox::Outbox;
use crate::postgres::reading::Reading;
use crate::postgres::snapshot::Snapshot;
use crate::route::{Problem, Rules, TableNeeds};

/// The database as it is now, held against what the rules need of it.
pub(super) struct Inspection {
    snapshot: Snapshot,
    /// The tables as rules know them.
    relations: Vec<Relation>,
    /// As in [`State::parts`](crate::state::State::parts).
    parts: BTreeSet<Box<str>>,
    problems: Vec<Problem>,
    findings: Vec<Finding>,
}

/// Why nothing may stream: each error of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// With the rules: they, or the tables, must change.
    pub problems: Vec<Problem>,
    /// With the database: each names its fix.
    pub findings: Vec<Finding>,
}

/// Each as an error of its own, as `main` prints one, but for the last one's fix:
/// that is the hint.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Option<&str> = None;
        for (index, (message, fix)) in self.said().enumerate() {
            if let Some(fix) = before {
                write!(f, "\nhelp: {fix}")?;
            }
            if index > 0 {
                f.write_str("\n\nerror: ")?;
            }
            f.write_str(&message)?;
            before = fix;
        }
        Ok(())
    }
}

impl Refused {
    /// What is wrong, and what mends it.
    fn said(&self) -> impl Iterator<Item = (String, Option<&str>)> {
        let problems = self.problems.iter().map(|p| (p.to_string(), p.fix.as_deref()));
        problems.chain(self.findings.iter().map(|f| (f.message.clone(), Some(&*f.fix))))
    }

    /// What mends the last one.
    pub(super) fn hint(&self) -> Option<String> {
        self.said().last()?.1.map(str::to_owned)
    }

    pub(super) fn tell(&self) {
        for (message, fix) in self.said() {
            error!(fix, "{message}");
        }
    }

    /// Whether all that is wrong is that there is no slot, or only a lost one.
    pub(super) fn is_slot_gone(&self) -> bool {
        let gone = |finding: &Finding| matches!(finding.kind, Kind::SlotMissing | Kind::SlotLost);
        self.problems.is_empty() && self.findings.iter().all(gone)
    }

    /// Whether all that is committed until this is mended is kept for us.
    pub(super) fn is_harmless(&self) -> bool {
        self.findings.iter().all(|finding| is_harmless(finding.kind))
    }
}

/// What the log has been told already: once is enough, since nothing changes
/// until somebody acts.
#[derive(Debug, Default)]
pub(super) struct Told(HashSet<String>);

impl Told {
    /// Logs what works but should not stay so.
    pub(super) fn warn(&mut self, inspection: &Inspection) {
        for problem in inspection.problems.iter().filter(|problem| !problem.is_error()) {
            if self.0.insert(problem.to_string()) {
                match &problem.fix {
                    Some(fix) => warn!(fix, "{problem}"),
                    None => warn!("{problem}"),
                }
            }
        }
        for finding in inspection.findings.iter().filter(|finding| !finding.is_error()) {
            // The message may have a size in it, which is another each time.
            if self.0.insert(format!("{:?} {}", finding.kind, finding.fix)) {
                warn!(fix = finding.fix, "{}", finding.message);
            }
        }
    }
}

impl Inspection {
    pub(super) async fn of(
        connection: &Connection,
        options: &Options,
        rules: &Rules,
    ) -> Result<Inspection, tokio_postgres::Error> {
        // It would make every future that holds it large.
        connection.read_at_once(Box::pin(Inspection::read(connection, options, rules))).await
    }

    async fn read(
        connection: &Connection,
        options: &Options,
        rules: &Rules,
    ) -> Result<Inspection, tokio_postgres::Error> {
        let instances = match &options.capture {
            Capture::Wal(wal) => Instances { takeover: wal.takeover, failover: wal.failover },
            Capture::Triggers(_) => Instances::default(),
        };
        let judged = Judgement::read(&connection.client, &options.database, rules, instances);
        let Judgement { snapshot, relations, problems, mut findings } = judged.await?;
        findings.retain(|finding| concerns(finding.kind, &options.capture));
        let parts = match &options.capture {
            Capture::Wal(_) => snapshot.publication.as_ref().map(|it| it.parts.clone()),
            Capture::Triggers(_) => snapshot.outbox.as_ref().map(Outbox::parts),
        };
        let parts = parts.unwrap_or_default();
        Ok(Inspection { snapshot, relations, parts, problems, findings })
    }

    /// At a start somebody stands by. Later, rows that cannot be looked up must not
    /// hold back what other rules tell: the lookups have resyncs sent instead.
    pub(super) fn go_on_without_lookups(&mut self) {
        for finding in &mut self.findings {
            let is_of_lookups = matches!(
                finding.kind,
                Kind::LookupNotUnique | Kind::LookupNotReadable | Kind::LookupHidden
            );
            if is_of_lookups {
                finding.severity = Severity::Warning;
            }
        }
    }

    /// # Errors
    /// If the promise could not be kept with the database as it is.
    pub(super) fn accept(&self) -> Result<(), Refused> {
        let problems: Vec<_> = self.problems.iter().filter(|p| p.is_error()).cloned().collect();
        let findings: Vec<_> = self.findings.iter().filter(|f| f.is_error()).cloned().collect();
        match problems.is_empty() && findings.is_empty() {
            true => Ok(()),
            false => Err(Refused { problems, findings }),
        }
    }

    pub(super) fn relations(&self) -> Vec<Relation> {
        self.relations.clone()
    }

    pub(super) fn parts(&self) -> BTreeSet<Box<str>> {
        self.parts.clone()
    }

    pub(super) fn has_slot(&self) -> bool {
        self.snapshot.slot.is_some()
    }

    /// How much log slots may hold back, in bytes; `None`: until the disk is full.
    pub(super) fn max_slot_wal_keep_size(&self) -> Option<u64> {
        self.snapshot.server.max_slot_wal_keep_size
    }

    /// Zero if the server waits for ever.
    pub(super) fn wal_sender_timeout(&self) -> Duration {
        self.snapshot.server.wal_sender_timeout.unwrap_or_default()
    }
}

/// A slot that is in use is waited for, not complained of; and of a slot that
/// will be made for the session there is nothing to say yet.
fn concerns(kind: Kind, capture: &Capture) -> bool {
    // Whether the publication is newer the stream itself tells for certain.
    let told_elsewhere = matches!(kind, Kind::SlotActive | Kind::PublicationPerhapsNewer);
    match capture {
        Capture::Wal(Wal { slot: Slot::Temporary(_), .. }) => {
            !told_elsewhere && !kind.is_about_slot()
        }
        Capture::Wal(_) | Capture::Triggers(_) => !told_elsewhere,
    }
}

/// Whether the slot, or the outbox, keeps all that is committed while this is so.
/// What is published, or written by triggers, is decided at each change: a
/// publication or trigger that is mended later brings nothing back.
fn is_harmless(kind: Kind) -> bool {
    match kind {
        Kind::SlotMissing
        | Kind::SlotPhysical
        | Kind::SlotPlugin
        | Kind::SlotDatabase
        | Kind::SlotLost
        | Kind::PublicationMissing
        | Kind::PublicationOperations
        | Kind::PublicationByPartition
        | Kind::TableNotPublished
        | Kind::TableUnlogged
        | Kind::ColumnList
        | Kind::Identity
        | Kind::LookupFiltered
        | Kind::OutboxMissing
        | Kind::OutboxForeign
        | Kind::CaptureOutdated
        | Kind::TriggersMissing
        | Kind::TriggersOff
        | Kind::PartitionNotCaptured
        | Kind::PartitionAlone
        | Kind::TableWithoutKey
        | Kind::TableSubscribed => false,
        Kind::WalLevel
        | Kind::RoleCannotReplicate
        | Kind::NoFreeSlot
        | Kind::SlotActive
        | Kind::SlotNearlyLost
        | Kind::SlotNotFailover
        | Kind::FailoverUnsupported
        | Kind::HoldersHidden
        | Kind::UnlimitedRetention
        | Kind::SynchronousStandby
        | Kind::PublicationPerhapsNewer
        | Kind::TableNotWanted
        | Kind::PartitionOfPublished
        | Kind::RowFilter
        | Kind::GeneratedColumns
        | Kind::LookupNotUnique
        | Kind::LookupNotReadable
        | Kind::LookupHidden
        | Kind::SlotLeft
        | Kind::TriggersLeft => true,
    }
}

/// What rules need of tables, in the words of `postgres`.
pub fn needs_of(tables: &[TableNeeds<'_>]) -> Vec<Need> {
    let identity = |table: &TableNeeds<'_>| {
        let needs = table.identity.iter();
        needs.map(|(column, rule)| IdentityNeed { column: *column, rule: rule.clone() }).collect()
    };
    tables
        .iter()
        .map(|table| Need {
            oid: table.relation.oid,
            rules: table.rules.clone(),
            columns: table.columns.clone(),
            identity: identity(table),
        })
        .collect()
}

/// What rules look up, in the words of `postgres`. A table or column that is not
/// there is for the rules to complain of.
pub fn readings_of(lookups: &[Lookup], relations: &[Relation]) -> Vec<Reading> {
    let reading = |lookup: &Lookup| {
        let relation = relations.iter().find(|relation| relation.table == lookup.table)?;
        let by = relation.key_column(lookup.by.as_deref())?;
        let columns = lookup.columns.iter().filter_map(|name| relation.column(name)).collect();
        Some(Reading { oid: relation.oid, by, columns, decides: lookup.decides() })
    };
    lookups.iter().filter_map(reading).collect()
}

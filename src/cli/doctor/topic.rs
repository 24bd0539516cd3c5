use std::collections::BTreeSet;

use super::report::Check;
use crate::cli::units::Bytes;
use crate::config::Config;
use crate::deliver::ByteSize;
use crate::pipeline::{Judgement, max_retained};
use crate::postgres::checks::{Finding, Kind};
use crate::postgres::publication::Age;
use crate::postgres::{APPLICATION_NAME, Capture};
use crate::route::Rules;

/// What findings are about: one line where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    WalLevel,
    Role,
    Publication,
    Tables,
    Identity,
    Partitions,
    Slot,
    Order,
    Retention,
    SynchronousStandbys,
    Instances,
    Outbox,
    Triggers,
    Lookups,
    Leftovers,
}

/// What the answers are made of.
#[derive(Clone, Copy)]
pub(super) struct Looked<'a> {
    pub(super) config: &'a Config,
    pub(super) rules: &'a Rules,
    pub(super) judged: &'a Judgement,
}

impl Topic {
    /// In the order in which a setup goes wrong.
    pub(super) const ALL: [Topic; 15] = [
        Topic::WalLevel,
        Topic::Role,
        Topic::Outbox,
        Topic::Publication,
        Topic::Triggers,
        Topic::Tables,
        Topic::Identity,
        Topic::Partitions,
        Topic::Lookups,
        Topic::Slot,
        Topic::Order,
        Topic::Retention,
        Topic::SynchronousStandbys,
        Topic::Instances,
        Topic::Leftovers,
    ];

    fn of(kind: Kind) -> Topic {
        match kind {
            Kind::WalLevel => Topic::WalLevel,
            Kind::RoleCannotReplicate => Topic::Role,
            Kind::PublicationMissing | Kind::PublicationOperations => Topic::Publication,
            Kind::PublicationByPartition
            | Kind::TableNotPublished
            | Kind::TableUnlogged
            | Kind::TableNotWanted
            | Kind::RowFilter
            | Kind::ColumnList
            | Kind::TableWithoutKey
            | Kind::TableSubscribed => Topic::Tables,
            Kind::Identity | Kind::GeneratedColumns => Topic::Identity,
            Kind::PartitionOfPublished | Kind::PartitionNotCaptured | Kind::PartitionAlone => {
                Topic::Partitions
            }
            Kind::SlotMissing
            | Kind::SlotPhysical
            | Kind::SlotPlugin
            | Kind::SlotDatabase
            | Kind::SlotLost
            | Kind::SlotActive
            | Kind::NoFreeSlot => Topic::Slot,
            Kind::PublicationPerhapsNewer => Topic::Order,
            Kind::UnlimitedRetention | Kind::SlotNearlyLost => Topic::Retention,
            Kind::SynchronousStandby => Topic::SynchronousStandbys,
            Kind::SlotNotFailover | Kind::FailoverUnsupported | Kind::HoldersHidden => {
                Topic::Instances
            }
            Kind::OutboxMissing | Kind::OutboxForeign => Topic::Outbox,
            Kind::CaptureOutdated | Kind::TriggersMissing | Kind::TriggersOff => Topic::Triggers,
            Kind::LookupNotUnique
            | Kind::LookupNotReadable
            | Kind::LookupHidden
            | Kind::LookupFiltered => Topic::Lookups,
            Kind::SlotLeft | Kind::TriggersLeft => Topic::Leftovers,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Topic::WalLevel => "wal_level",
            Topic::Role => "role",
            Topic::Publication => "publication",
            Topic::Tables => "tables",
            Topic::Identity => "replica identity",
            Topic::Partitions => "partitions",
            Topic::Slot => "slot",
            Topic::Order => "order",
            Topic::Retention => "log that is kept",
            Topic::SynchronousStandbys => "synchronous standbys",
            Topic::Instances => "several instances",
            Topic::Outbox => "outbox",
            Topic::Triggers => "triggers",
            Topic::Lookups => "lookups",
            Topic::Leftovers => "left over",
        }
    }

    pub(super) fn checks(self, looked: Looked<'_>) -> Vec<Check> {
        let findings = looked.judged.findings.iter();
        let of_this = findings.filter(|finding| Topic::of(finding.kind) == self);
        // That rowcast runs is no trouble.
        let is_trouble = |finding: &&Finding| match finding.kind {
            Kind::SlotActive => !looked.is_read_by_rowcast(),
            _ => true,
        };
        let checks: Vec<Check> = of_this.filter(is_trouble).map(|it| self.check(it)).collect();
        if !checks.is_empty() {
            return checks;
        }
        let Some(found) = self.holds(looked) else { return Vec::new() };
        vec![match self.waits_for(looked) {
            Some(what) => Check::unknown(self.name(), format!("seen once {what} is in order")),
            None => Check::holds(self.name(), found),
        }]
    }

    /// Without what nothing of this was looked at.
    fn waits_for(self, looked: Looked<'_>) -> Option<&'static str> {
        let kinds = looked.judged.findings.iter().map(|finding| finding.kind);
        let blocks = |kind| match (self, kind) {
            (Topic::Tables | Topic::Triggers, Kind::OutboxMissing | Kind::OutboxForeign) => {
                Some("the outbox")
            }
            (Topic::Tables, Kind::PublicationMissing) => Some("the publication"),
            _ => None,
        };
        kinds.filter_map(blocks).next()
    }

    fn check(self, finding: &Finding) -> Check {
        let (found, fix) = (finding.message.clone(), finding.fix.clone());
        match finding.is_error() {
            true => Check::fails(self.name(), found, fix),
            false => Check::advice(self.name(), found, fix),
        }
    }

    /// What is as it should be. `None` where that is nothing to speak of.
    fn holds(self, looked: Looked<'_>) -> Option<String> {
        let Looked { config, rules, judged } = looked;
        let (database, snapshot) = (&config.database, &judged.snapshot);
        let server = &snapshot.server;
        let is_wal = database.capture == Capture::Wal;
        match self {
            Topic::WalLevel => is_wal.then(|| "logical".to_owned()),
            Topic::Role => is_wal.then(|| format!("{} may stream changes", server.role)),
            Topic::Publication => {
                is_wal.then(|| format!("{} sends all that changes", database.publication))
            }
            Topic::Triggers => {
                (!is_wal).then(|| "they write all that changes, and all that rules name".to_owned())
            }
            Topic::Tables => {
                let tables = looked.tables();
                let how = if is_wal { "published" } else { "each has a primary key" };
                (!tables.is_empty()).then(|| format!("{}: {how}", named(&tables)))
            }
            Topic::Identity => {
                is_wal.then(|| "old rows carry the columns that rules need of them".to_owned())
            }
            Topic::Lookups => {
                let tables: BTreeSet<String> =
                    rules.lookups().iter().map(|lookup| lookup.table.to_string()).collect();
                let names: Vec<String> = tables.into_iter().collect();
                let may_read = || format!("{} may read {}", server.role, named(&names));
                (!names.is_empty()).then(may_read)
            }
            Topic::Slot => is_wal.then(|| looked.slot()),
            Topic::Order => {
                let age = snapshot.publication.as_ref().map(|publication| publication.age);
                let is_older = is_wal && age == Some(Age::OlderThanSlot);
                is_older.then(|| "the publication was there before the slot".to_owned())
            }
            Topic::Retention => {
                let most = server.max_slot_wal_keep_size.filter(|_| is_wal)?;
                let waiting = config.limits.max_retained_wal.map(ByteSize::bytes);
                Some(format!(
                    "at most {} while rowcast runs (max_retained_wal), {} while it does not \
                     (max_slot_wal_keep_size). Beyond, changes are passed over, and pages are told \
                     to fetch again",
                    Bytes(max_retained(waiting, Some(most))),
                    setting(most)
                ))
            }
            Topic::SynchronousStandbys => {
                is_wal.then(|| match &*server.synchronous_standby_names {
                    "" => "none: no commit waits for rowcast".to_owned(),
                    names => format!("{names}: no commit waits for rowcast"),
                })
            }
            Topic::Instances => {
                let run = &config.run;
                let options = [(run.takeover, "takeover"), (run.failover, "failover")];
                let on: Vec<&str> =
                    options.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name).collect();
                (is_wal && !on.is_empty()).then(|| format!("{} can do its work", on.join(" and ")))
            }
            Topic::Outbox => (!is_wal).then(|| format!("rowcast.outbox is {}'s", server.role)),
            Topic::Partitions | Topic::Leftovers => None,
        }
    }
}

impl Looked<'_> {
    /// Names of those that rules take.
    fn tables(&self) -> Vec<&str> {
        let tables = self.rules.tables(&self.judged.relations);
        // It borrows from the relations alone.
        let oids: Vec<u32> = tables.iter().map(|table| table.relation.oid).collect();
        let relations = self.judged.relations.iter();
        let taken = relations.filter(|relation| oids.contains(&relation.oid));
        taken.map(|relation| &*relation.table.name).collect()
    }

    fn is_read_by_rowcast(&self) -> bool {
        let slot = self.judged.snapshot.slot.as_ref();
        let application = slot.and_then(|slot| slot.active_application.as_deref());
        application == Some(APPLICATION_NAME)
    }

    fn slot(&self) -> String {
        let name = &self.config.database.slot;
        let Some(slot) = &self.judged.snapshot.slot else { return name.to_string() };
        let reader = match slot.active_pid {
            Some(pid) => format!("rowcast reads it (backend {pid})"),
            None => "nobody reads it now".to_owned(),
        };
        let kept = slot.retained_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        format!("{name}: {reader}; it keeps {} of log", Bytes(kept))
    }
}

/// The first few, and how many more there are.
pub(super) fn named(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let shown = shown.join(", ");
    match names.len() {
        0 => "none".to_owned(),
        1..=SHOWN => shown,
        count => format!("{shown} and {} more", count - SHOWN),
    }
}

/// As Postgres' own settings are written, whose `MB` are 2²⁰ bytes.
fn setting(bytes: u64) -> String {
    let mebibytes = bytes >> 20;
    match mebibytes % 1024 {
        0 => format!("{}GB", mebibytes / 1024),
        _ => format!("{mebibytes}MB"),
    }
}

//! Whether triggers write what the rules need, and nothing is left of a slot.

use std::collections::BTreeSet;

use super::{Expected, Finding, Kind, mebibytes};
use crate::postgres::catalog::{Table, quote_table};
use crate::postgres::need::{Wanted, wanted};
use crate::postgres::outbox::capture::Operation;
use crate::postgres::outbox::goal::{Goal, Refusal, Standing, goals, refusal};
use crate::postgres::outbox::{Outbox, Trigger};
use crate::postgres::quote_literal;
use crate::postgres::snapshot::Snapshot;

pub(super) fn existing_capture(snapshot: &Snapshot, expected: &Expected<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = wanted(&snapshot.tables, expected.needs)
        .into_iter()
        .filter_map(|one| refused(one, snapshot))
        .collect();
    findings.extend(slot_left(snapshot, expected));
    let Some(outbox) = &snapshot.outbox else {
        findings.push(outbox_missing("rowcast.outbox"));
        return findings;
    };
    let role = &snapshot.server.role;
    if let Some(foreign) = foreign(outbox, role) {
        findings.push(foreign);
        return findings;
    }
    findings.extend(incomplete(outbox));
    let goals = goals(snapshot, expected.needs);
    for goal in &goals {
        findings.extend(outdated(goal, outbox, role));
        findings.extend(triggers(goal, outbox));
        findings.extend(subscribed(goal));
    }
    findings.extend(not_wanted(outbox, &goals));
    findings
}

/// Tables that triggers cannot serve.
fn refused(wanted: Wanted<'_>, snapshot: &Snapshot) -> Option<Finding> {
    let name = &wanted.table.relation.table;
    match refusal(wanted)? {
        Refusal::NoPrimaryKey => Some(Finding::error(
            Kind::TableWithoutKey,
            format!(
                "{name} has no primary key, by which triggers would tell which old and which new \
                 row of an UPDATE are the same: its changes are not written"
            ),
            format!(
                "ALTER TABLE {} ADD PRIMARY KEY (…); then rowcast setup\nor take {name} out of \
                 the rules, or capture = \"wal\"",
                quote_table(name)
            ),
        )),
        Refusal::PartitionAlone { root } => {
            let root = snapshot.tables.iter().find(|table| table.relation.oid == root)?;
            let root = &root.relation.table;
            let rules = wanted.need.rules.join(", ");
            Some(Finding::error(
                Kind::PartitionAlone,
                format!(
                    "{name} is a partition of {root}, which no rule takes: statements on {root} do \
                     not fire the triggers of {name}, so rule {rules:?} would miss what they change"
                ),
                format!(
                    "write table = \"{root}\" in rule {rules:?}, with where to narrow it down; or \
                     capture = \"wal\""
                ),
            ))
        }
    }
}

fn outbox_missing(what: &str) -> Finding {
    Finding::error(
        Kind::OutboxMissing,
        format!(
            "{what} does not exist: what triggers write has no place, and changes until it is \
             made are not announced"
        ),
        "rowcast setup",
    )
}

fn incomplete(outbox: &Outbox) -> Option<Finding> {
    let missing: Vec<String> = outbox.missing().map(|name| format!("rowcast.{name}")).collect();
    if !missing.is_empty() {
        return Some(outbox_missing(&missing.join(", ")));
    }
    if !outbox.has_reader {
        return Some(outbox_missing("the row of rowcast.reader"));
    }
    if !outbox.has_guard() {
        return Some(Finding::error(
            Kind::OutboxMissing,
            "the trigger on rowcast.outbox that tells of its TRUNCATE is not there, or off: \
             changes that are emptied from it before they are delivered would be lost in silence",
            "rowcast setup",
        ));
    }
    (!outbox.is_gate_set).then(|| {
        Finding::error(
            Kind::OutboxMissing,
            "rowcast.gate was never set: triggers write nothing, and changes until it is are not \
             announced",
            "rowcast setup",
        )
    })
}

/// What our role does not own, it may not empty, or the functions may not fill.
fn foreign(outbox: &Outbox, role: &str) -> Option<Finding> {
    let objects = outbox.objects.iter().map(|object| (&object.name, &object.owner));
    let functions = outbox.functions.iter().map(|function| (&function.name, &function.owner));
    let (name, owner) = objects.chain(functions).find(|(_, owner)| ***owner != *role)?;
    Some(Finding::error(
        Kind::OutboxForeign,
        format!(
            "rowcast.{name} belongs to role {owner}, and rowcast runs as {role}: it may not read \
             and empty what triggers write"
        ),
        format!(
            "run rowcast as {owner}; or rowcast teardown --only triggers as {owner}, then rowcast \
             setup"
        ),
    ))
}

/// Functions that write something else than rules need now.
fn outdated(goal: &Goal<'_>, outbox: &Outbox, role: &str) -> Option<Finding> {
    let name = &goal.root.relation.table;
    if goal.has_shape {
        let is_outdated = goal.is_called(outbox) && !goal.has_functions(outbox, role);
        return is_outdated.then(|| {
            Finding::warning(
                Kind::CaptureOutdated,
                format!(
                    "the trigger functions of {name} are not as this version of rowcast makes \
                     them for its columns: values may be written in another form"
                ),
                "rowcast setup",
            )
        });
    }
    let shape = outbox.shape_of(goal.root.relation.oid)?;
    let lacking: Vec<&str> = goal
        .shape
        .columns
        .iter()
        .filter(|column| !shape.columns.contains(column))
        .map(|column| &**column)
        .collect();
    Some(match lacking.is_empty() {
        false => Finding::error(
            Kind::CaptureOutdated,
            format!(
                "triggers on {name} do not write columns that rules name: {}. Changes until they \
                 do lack them for good",
                lacking.join(", ")
            ),
            "rowcast setup",
        ),
        true => Finding::warning(
            Kind::CaptureOutdated,
            format!(
                "triggers on {name} write columns that no rule names, which costs writers time"
            ),
            "rowcast setup",
        ),
    })
}

fn triggers(goal: &Goal<'_>, outbox: &Outbox) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut partitions = Vec::new();
    for table in &goal.tables {
        let standing = |operation| goal.standing(outbox, table, operation);
        let names = |which: fn(Standing) -> bool| -> Vec<String> {
            let all = Operation::ALL.into_iter().filter(|operation| which(standing(*operation)));
            all.map(Operation::trigger).collect()
        };
        let missing = names(|standing| standing == Standing::Missing);
        let off = names(|standing| matches!(standing, Standing::Off(_)));
        let name = &table.relation.table;
        let is_partition = table.role.root().is_some();
        match (missing.is_empty(), off.is_empty()) {
            (true, true) => {}
            _ if is_partition => partitions.push(name.to_string()),
            (false, _) => findings.push(Finding::error(
                Kind::TriggersMissing,
                format!(
                    "{name} lacks triggers ({}): its changes are not written, and those committed \
                     meanwhile never will be",
                    missing.join(", ")
                ),
                "rowcast setup",
            )),
            (true, false) => findings.push(off_finding(table, &off)),
        }
    }
    let count = partitions.len();
    if count > 0 {
        let root = &goal.root.relation.table;
        partitions.truncate(10);
        let more = if count > partitions.len() { ", …" } else { "" };
        findings.push(Finding::warning(
            Kind::PartitionNotCaptured,
            format!(
                "partitions of {root} lack triggers: {}{more}. What is written to them by way of \
                 {root} is announced; what is written to them by name is not, so pages are told \
                 to fetch again each time the database is looked at (inspect_every)",
                partitions.join(", ")
            ),
            "rowcast setup",
        ));
    }
    findings
}

fn off_finding(table: &Table, off: &[String]) -> Finding {
    let name = &table.relation.table;
    let enable: Vec<String> = off
        .iter()
        .map(|trigger| {
            format!("ALTER TABLE {} ENABLE ALWAYS TRIGGER {trigger};", quote_table(name))
        })
        .collect();
    Finding::error(
        Kind::TriggersOff,
        format!(
            "triggers on {name} are disabled, or do not fire always ({}): changes that are \
             written meanwhile, or with session_replication_role = replica, are never announced",
            off.join(", ")
        ),
        format!("rowcast setup, or:\n{}", enable.join("\n")),
    )
}

/// Its apply worker fires no triggers of whole statements.
fn subscribed(goal: &Goal<'_>) -> Option<Finding> {
    let table = goal.tables.iter().find(|table| table.subscribed)?;
    let name = &table.relation.table;
    Some(Finding::warning(
        Kind::TableSubscribed,
        format!(
            "rows of {name} come by a subscription of logical replication, which does not fire \
             triggers of whole statements: changes that come so are not announced"
        ),
        "run rowcast on the publisher, or capture = \"wal\" here",
    ))
}

/// Triggers on tables that no rule takes: they fill the outbox for nothing.
fn not_wanted(outbox: &Outbox, goals: &[Goal<'_>]) -> Option<Finding> {
    let is_wanted = |relation: u32| {
        let mut tables = goals.iter().flat_map(|goal| &goal.tables);
        tables.any(|table| table.relation.oid == relation)
    };
    let tables = tables_of(outbox, |trigger| !is_wanted(trigger.relation))?;
    Some(Finding::warning(
        Kind::TableNotWanted,
        format!("triggers write changes of tables that no rule takes: {tables}"),
        "rowcast setup",
    ))
}

/// What is left of capture by the log. Its slot keeps log until the disk is full.
fn slot_left(snapshot: &Snapshot, expected: &Expected<'_>) -> Option<Finding> {
    let slot = snapshot.slot.as_ref()?;
    let is_ours = slot.plugin.as_deref() == Some("pgoutput")
        && slot.database.as_deref() == Some(&*snapshot.server.database);
    if !is_ours || slot.active_pid.is_some() {
        return None;
    }
    Some(Finding::warning(
        Kind::SlotLeft,
        format!(
            "slot {} is left of capture = \"wal\", and nobody reads it: Postgres keeps log for \
             it, {} now, until the disk is full",
            expected.slot,
            mebibytes(slot.retained_bytes.unwrap_or(0))
        ),
        format!(
            "rowcast teardown --only wal, or: SELECT pg_drop_replication_slot({});",
            quote_literal(expected.slot.as_str())
        ),
    ))
}

/// What is left of capture by triggers, where the log is read.
pub(super) fn triggers_left(snapshot: &Snapshot) -> Option<Finding> {
    let outbox = snapshot.outbox.as_ref().filter(|outbox| outbox.drained_by.is_none())?;
    let tables = tables_of(outbox, |_| true)?;
    Some(Finding::warning(
        Kind::TriggersLeft,
        format!(
            "triggers are left of capture = \"triggers\", on {tables}: they cost each write time, \
             and fill rowcast.outbox, which nobody empties, up to its bound"
        ),
        "rowcast teardown --only triggers",
    ))
}

/// Names of tables with such triggers.
fn tables_of(outbox: &Outbox, which: impl Fn(&Trigger) -> bool) -> Option<String> {
    const SHOWN: usize = 10;
    let tables: BTreeSet<&str> =
        outbox.captures().filter(|trigger| which(trigger)).map(|trigger| &*trigger.table).collect();
    let more = if tables.len() > SHOWN { ", …" } else { "" };
    let names: Vec<&str> = tables.into_iter().take(SHOWN).collect();
    (!names.is_empty()).then(|| names.join(", ") + more)
}

//! What `setup` has to do for capture by triggers. Pure.

use std::collections::BTreeMap;

use super::capture::Operation;
use super::goal::{Goal, goals};
use super::{Outbox, SEQUENCES, TABLES, is_capture};
use crate::postgres::catalog::{Table, quote_table};
use crate::postgres::functions::{self, Functions};
use crate::postgres::need::Need;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::statement::Statement;
use crate::postgres::{Capture, quote_identifier, quote_literal};

const SQL: &str = include_str!("../../../sql/outbox.sql");

/// The statements, in order, and what is as it should be already, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    pub statements: Vec<Statement>,
    /// What applications may call. All else goes without.
    pub functions: Option<Statement>,
    pub found: Vec<String>,
}

/// What leads from `snapshot`, which the role of `[database] url` has taken, to
/// triggers that write what rules need. First what they write to, then what
/// they call, then themselves: nothing is ever half there.
pub fn install(snapshot: &Snapshot, needs: &[Need], max_outbox_rows: u64) -> Installation {
    let nothing = Outbox::default();
    let outbox = snapshot.outbox.as_ref().unwrap_or(&nothing);
    let role = &snapshot.server.role;
    let mut plan = Installation::default();
    let has_schema =
        snapshot.schema.as_ref().is_some_and(|schema| schema.may_create && schema.is_for_all);
    plan.statements.extend((!has_schema).then(|| schema(role)));
    let is_made = outbox.is_complete() && outbox.is_gate_set && has_functions(outbox);
    match is_made {
        true => plan.found.push("outbox rowcast.outbox".to_owned()),
        false => plan.statements.push(objects(role, max_outbox_rows)),
    }
    let goals = goals(snapshot, needs);
    for goal in &goals {
        let name = &goal.root.relation.table;
        match goal.has_shape && goal.has_functions(outbox, role) && !lacks_grants(goal, outbox) {
            true => plan.found.push(format!("trigger functions of {name}")),
            false => plan.statements.push(trigger_functions(goal, role)),
        }
    }
    for goal in &goals {
        for (table, sql) in goal.tables.iter().zip(&goal.triggers) {
            match goal.stands(outbox, table) {
                true => plan.found.push(format!("triggers on {}", table.relation.table)),
                false => plan.statements.push(triggers(table, sql)),
            }
        }
    }
    plan.statements.extend(stale_triggers(outbox, &goals));
    plan.statements.extend(stale_functions(outbox, &goals, role));
    plan.functions = functions::make(snapshot.functions, Capture::Triggers);
    if plan.functions.is_none() {
        plan.found.push(functions::NAMES.to_owned());
    }
    plan
}

/// Whether the functions of `sql/outbox.sql` are as it makes them.
fn has_functions(outbox: &Outbox) -> bool {
    let mut bodies = SQL.split("$rowcast$").skip(1).step_by(2);
    bodies.all(|body| outbox.functions.iter().any(|function| *function.body == *body))
}

fn schema(role: &str) -> Statement {
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS rowcast;\n\
         GRANT USAGE ON SCHEMA rowcast TO PUBLIC;\n\
         GRANT USAGE, CREATE ON SCHEMA rowcast TO {}",
        quote_identifier(role)
    );
    Statement::new(format!("schema rowcast: role {role} may make its outbox there"), sql)
}

/// Where the reader has told how much may be written, that stays.
fn objects(role: &str, max_outbox_rows: u64) -> Statement {
    let gate = format!(
        "SELECT setval('rowcast.gate', 2 * (i.last_value + {max_outbox_rows}))\n\
         FROM rowcast.outbox_id i, rowcast.gate g WHERE NOT g.is_called"
    );
    let what = "outbox rowcast.outbox: where triggers write what rowcast reads";
    Statement::new(what, format!("{SQL}\n{gate}")).by_role(role).shown_as("sql/outbox.sql")
}

/// Whose triggers call the functions must be allowed to.
fn grantees<'a>(goal: &'a Goal<'_>, role: &str) -> Vec<&'a str> {
    let mut owners: Vec<&str> = goal.tables.iter().map(|table| &*table.owner).collect();
    owners.sort_unstable();
    owners.dedup();
    owners.retain(|owner| *owner != role);
    owners
}

fn lacks_grants(goal: &Goal<'_>, outbox: &Outbox) -> bool {
    goal.functions.iter().any(|function| {
        let found = outbox.functions.iter().find(|found| *found.name == *function.name);
        found.is_none_or(|found| {
            let grantees = grantees(goal, &found.owner);
            grantees.iter().any(|owner| found.granted.iter().all(|granted| **granted != **owner))
        })
    })
}

/// Replaced in place: no change is missed meanwhile. Their shape comes with them.
fn trigger_functions(goal: &Goal<'_>, role: &str) -> Statement {
    let name = &goal.root.relation.table;
    let mut sql = Vec::new();
    if !goal.has_shape {
        let columns: Vec<String> =
            goal.shape.columns.iter().map(|column| quote_literal(column)).collect();
        sql.push(format!(
            "INSERT INTO rowcast.shapes (id, relation, columns) OVERRIDING SYSTEM VALUE\n\
             VALUES ({}, {}, ARRAY[{}])",
            goal.shape.id,
            goal.shape.relation,
            columns.join(", ")
        ));
    }
    for function in &goal.functions {
        sql.push(function.sql());
        sql.extend(grantees(goal, role).into_iter().map(|owner| function.grant(owner)));
    }
    let what = format!(
        "trigger functions of {name}: they write {} and nothing else",
        goal.shape.columns.join(", ")
    );
    let names: Vec<String> =
        goal.functions.iter().map(|function| format!("rowcast.{}", function.name)).collect();
    Statement::new(what, sql.join(";\n"))
        .by_role(role)
        .shown_as(format!("CREATE OR REPLACE FUNCTION {}", names.join(", ")))
}

/// All of a table's at once: one short lock, that writers wait for.
fn triggers(table: &Table, sql: &str) -> Statement {
    let name = &table.relation.table;
    let names: Vec<String> = Operation::ALL.map(Operation::trigger).into();
    Statement::new(format!("triggers on {name}: from here on its changes are written"), sql)
        .shown_as(format!("CREATE TRIGGER {} ON {}", names.join(", "), quote_table(name)))
}

/// Those of tables that no rule takes, and those that no version of rowcast
/// would make there.
fn stale_triggers(outbox: &Outbox, goals: &[Goal<'_>]) -> Vec<Statement> {
    let is_wanted = |relation: u32, name: &str| {
        let mut tables = goals.iter().flat_map(|goal| &goal.tables);
        tables.any(|table| table.relation.oid == relation)
            && Operation::ALL.into_iter().any(|operation| operation.trigger() == name)
    };
    drop_triggers(outbox, |trigger| !is_wanted(trigger.relation, &trigger.name))
}

/// By table.
pub(super) fn drop_triggers(
    outbox: &Outbox,
    which: impl Fn(&super::Trigger) -> bool,
) -> Vec<Statement> {
    let mut tables: BTreeMap<u32, (&str, Vec<String>)> = BTreeMap::new();
    for trigger in outbox.captures().filter(|trigger| which(trigger)) {
        let (_, names) =
            tables.entry(trigger.relation).or_insert_with(|| (&trigger.table, Vec::new()));
        names.push(quote_identifier(&trigger.name));
    }
    tables
        .into_values()
        .map(|(table, names)| {
            let drops: Vec<String> = names
                .iter()
                .map(|name| format!("DROP TRIGGER IF EXISTS {name} ON {table}"))
                .collect();
            let what = format!("triggers on {table} are gone: its changes are not written");
            Statement::new(what, drops.join(";\n"))
        })
        .collect()
}

fn stale_functions(outbox: &Outbox, goals: &[Goal<'_>], role: &str) -> Option<Statement> {
    let is_wanted = |name: &str| {
        let mut functions = goals.iter().flat_map(|goal| &goal.functions);
        functions.any(|function| function.name == name)
    };
    let stale = outbox.functions.iter().filter(|function| *function.owner == *role);
    let names: Vec<String> = stale
        .filter(|function| is_capture(&function.name) && !is_wanted(&function.name))
        .map(|function| function.signature.to_string())
        .collect();
    let sql = format!("DROP FUNCTION IF EXISTS {}", names.join(", "));
    let what = "trigger functions of tables that no rule takes are gone";
    (!names.is_empty()).then(|| Statement::new(what, sql).by_role(role))
}

/// Takes everything back that `install` makes, if it is there. `role` is that
/// of `[database] url`.
pub fn remove(outbox: &Outbox, role: &str) -> Vec<Statement> {
    let mut statements = drop_triggers(outbox, |_| true);
    let named = |kind: &str, names: &[&str]| {
        let found = outbox.objects.iter().filter(|object| names.contains(&&*object.name));
        let found: Vec<String> = found.map(|object| format!("rowcast.{}", object.name)).collect();
        (!found.is_empty()).then(|| format!("DROP {kind} IF EXISTS {}", found.join(", ")))
    };
    let functions: Vec<String> =
        outbox.functions.iter().map(|function| function.signature.to_string()).collect();
    let drop_functions = (!functions.is_empty())
        .then(|| format!("DROP FUNCTION IF EXISTS {}", functions.join(", ")));
    let drops: Vec<String> =
        [named("TABLE", &TABLES), named("SEQUENCE", &SEQUENCES), drop_functions]
            .into_iter()
            .flatten()
            .collect();
    let is_own = |owner: &str| owner == role;
    let owned = outbox.objects.iter().all(|object| is_own(&object.owner))
        && outbox.functions.iter().all(|function| is_own(&function.owner));
    if !drops.is_empty() {
        let what = "outbox rowcast.outbox is gone, with what was not delivered from it";
        let drop = Statement::new(what, drops.join(";\n"));
        statements.push(if owned { drop.by_role(role) } else { drop });
    }
    statements
}

/// The schema, unless anything else is in it.
pub fn remove_schema(snapshot: &Snapshot, role: &str) -> Option<Statement> {
    let schema = snapshot.schema.as_ref()?;
    let is_ours = snapshot.outbox.is_some() || snapshot.functions != Functions::Absent;
    let sql = "DO $$ BEGIN DROP SCHEMA rowcast; \
               EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$";
    let drop = Statement::new("schema rowcast is gone, unless anything else is in it", sql);
    (is_ours || schema.is_empty)
        .then(|| if *schema.owner == *role { drop.by_role(role) } else { drop })
}

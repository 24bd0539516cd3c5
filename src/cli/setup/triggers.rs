//! `rowcast setup` for capture by triggers.

use super::{Args, Report, Sessions, execute};
use crate::config::Loaded;
use crate::pipeline::readings_of;
use crate::postgres::checks::{Expected, Kind, check};
use crate::postgres::reading::{self, Access};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{Config, Connection, outbox, plan};
use crate::route::Rules;

/// Two sessions: what the role of `[database] url` makes, it owns.
pub(super) async fn setup(args: &Args, loaded: &Loaded, rules: &Rules) -> anyhow::Result<()> {
    let database = &loaded.config.database;
    let mut sessions = Sessions::of(database, args.url.as_ref());
    let own = sessions.own().await?;
    let snapshot = gather(own, database).await?;
    let needs = super::needs(rules, &snapshot, |problems| Ok(loaded.refuse(problems)?))?;
    let expected = Expected::of(database, &needs);
    plan::refuse_blocked(&snapshot, &expected)?;
    let plan = outbox::install(&snapshot, &needs, loaded.config.limits.max_outbox_rows.get());
    let readings = readings_of(rules.lookups(), &snapshot.relations());
    let role = snapshot.server.role.clone();
    let access = own.read(Access::read(&own.client, &role, &readings)).await?;
    let grants = reading::grants(&snapshot.tables, &readings, &access);

    let mut report = Report::new(args.json);
    if args.print {
        for finding in check(&snapshot, &expected) {
            if finding.kind == Kind::SlotLeft {
                tracing::warn!(fix = finding.fix, "{}", finding.message);
            }
        }
        report.script(plan.statements.iter().chain(&grants).chain(&plan.functions))?;
        return Ok(());
    }
    if args.identity {
        report.warning(
            "--identity changes nothing: triggers write old rows whatever the replica identity is",
            None,
        );
    }
    for found in plan.found {
        report.found(found);
    }
    for statement in plan.statements.iter().chain(&grants) {
        execute(statement, &sessions.by(statement).await?.client, &mut report).await?;
    }

    let are_missing = match &plan.functions {
        Some(statement) => {
            let owner = sessions.owner().await?;
            super::make_functions(statement, &owner.client, &mut report).await?
        }
        None => false,
    };

    let own = sessions.own().await?;
    let after = gather(own, database).await?;
    let mut findings = check(&after, &expected);
    let access = own.read(Access::read(&own.client, &role, &readings)).await?;
    findings.extend(reading::check(&after.tables, None, &readings, &access));
    report.findings(&findings);
    report.finish()?;
    super::ensure_ready(&findings, are_missing && rules.sends_broadcasts())
}

async fn gather(own: &Connection, database: &Config) -> Result<Snapshot, tokio_postgres::Error> {
    own.read(Snapshot::gather(&own.client, &database.slot, &database.publication)).await
}

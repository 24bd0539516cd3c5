//! `rowcast setup` for capture by triggers.

use super::{Args, Report, SESSION_NAME, execute};
use crate::config::Loaded;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::statement::By;
use crate::postgres::{self, outbox};
use crate::route::Rules;

/// Two sessions: what the role of `[database] url` makes, it owns.
pub(super) async fn setup(args: &Args, loaded: &Loaded, rules: &Rules) -> anyhow::Result<()> {
    let database = &loaded.config.database;
    let dsn = database.dsn();
    let own = postgres::connect(&dsn, SESSION_NAME).await?;
    let snapshot = Snapshot::gather(&own.client, &database.slot, &database.publication).await?;
    let needs = super::needs(rules, &snapshot, |problems| Ok(loaded.refuse(problems)?))?;
    let max_rows = loaded.config.limits.max_outbox_rows.get();
    let plan = outbox::install(&snapshot, &needs, max_rows);

    let mut report = Report::new(args.json);
    if args.print {
        report.script(plan.statements.iter());
        return Ok(());
    }
    for found in plan.found {
        report.found(found);
    }
    let owner = postgres::connect(args.url.as_ref().unwrap_or(&dsn), SESSION_NAME).await?;
    for statement in &plan.statements {
        let session = match &statement.by {
            By::Owner => &owner,
            By::Role(_) => &own,
        };
        execute(statement, &session.client, &mut report).await?;
    }
    report.finish()?;
    Ok(())
}

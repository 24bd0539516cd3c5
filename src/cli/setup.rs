//! `rowcast setup`: replica identities, publication, privileges, slot.

mod make_slot;
mod report;
mod sessions;
mod triggers;

use tokio_postgres::Client;

use super::{Global, rules};
use crate::chain;
use crate::change::{Relation, ReplicaIdentity};
use crate::pipeline::{needs_of, readings_of};
use crate::postgres::checks::{Expected, Finding, Kind, check};
use crate::postgres::need::Need;
use crate::postgres::plan::{self, Identities, SlotChange};
use crate::postgres::publication::Age;
use crate::postgres::reading::{self, Access};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::statement::{By, Statement, StatementError, Wait};
use crate::postgres::{self, Capture, Dsn, PublishColumns, Target, functions, identity};
use crate::route::{self, Rules};
use crate::source::wal::connection::Persistence;

pub(super) use report::Report;
pub(super) use sessions::Sessions;

/// Makes what rowcast needs in the database; run it again after changing rules
///
/// That is the publication of the tables that rules name, and the replication
/// slot, or with capture = "triggers" an outbox, and triggers on these tables that
/// fill it; the right of its role to read what rules look up; and the functions
/// rowcast.context and rowcast.broadcast for applications.
///
/// It touches no row, and never waits long for a lock. What is right already
/// stays as it is. The role of [database] url needs REPLICATION only, or with
/// capture = "triggers" nothing but LOGIN, if --url is that of the tables' owner.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast setup --url postgres://shop@127.0.0.1/shop
  rowcast setup --print | psql shop")]
pub(super) struct Args {
    /// Log in with this instead of [database] url: the owner of the tables
    #[arg(long, value_name = "DSN")]
    url: Option<Dsn>,
    /// Log in as the Laravel application does, by the .env of [laravel] root: it
    /// usually owns the tables
    #[arg(long, conflicts_with = "url")]
    laravel: bool,
    /// Change replica identities where rules need more of old rows; triggers
    /// need nothing of them
    #[arg(long)]
    identity: bool,
    /// Change nothing, print the SQL
    #[arg(long)]
    print: bool,
    /// Print one JSON object instead of text
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

/// How often to try for one lock.
const ATTEMPTS: u32 = 10;

/// What the session is called in `pg_stat_activity`.
pub(super) const SESSION_NAME: &str = "rowcast setup";

/// What the rules need of the database.
///
/// # Errors
/// Of `refuse`, which is given what is wrong with the rules apart from what
/// `setup` may change: replica identities.
fn needs(
    rules: &Rules,
    snapshot: &Snapshot,
    refuse: impl Fn(&[route::Problem]) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Need>> {
    let mut relations: Vec<Relation> = snapshot.relations();
    for relation in &mut relations {
        relation.identity = ReplicaIdentity::Full;
        relation.columns.iter_mut().for_each(|column| column.in_identity = true);
    }
    refuse(&rules.check(&relations))?;
    Ok(needs_of(&rules.tables(&relations)))
}

pub(super) async fn run(mut args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    if args.laravel {
        args.url = Some(loaded.application_dsn(&|name| std::env::var(name).ok())?);
    }
    let rules = rules::compile(&loaded)?;
    let config = &loaded.config;
    let failover = config.run.failover;
    if config.database.capture == Capture::Triggers {
        return Box::pin(triggers::setup(&args, &loaded, &rules)).await;
    }
    setup(&args, &config.database, failover, &rules, |problems| Ok(loaded.refuse(problems)?)).await
}

/// Does what `args` asks for.
pub(super) async fn setup(
    args: &Args,
    database: &postgres::Config,
    failover: bool,
    rules: &Rules,
    refuse: impl Fn(&[route::Problem]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let own = database.dsn();
    let owner = args.url.as_ref().unwrap_or(&own);
    let session = postgres::connect(owner, SESSION_NAME).await?;
    let client = &session.client;

    let (snapshot, indexes) = tokio::try_join!(
        Snapshot::gather(client, &database.slot, &database.publication),
        identity::own_indexes(client)
    )?;
    let needs = needs(rules, &snapshot, refuse)?;
    let expected = Expected { failover, ..Expected::of(database, &needs) };
    let identities =
        if args.identity || args.print { Identities::Change } else { Identities::Keep };
    let plan = plan::setup(&snapshot, &expected, &indexes, database.publish_columns, identities)?;
    let readings = readings_of(rules.lookups(), &snapshot.relations());
    let role = Target::of(&own)?.user().to_owned();
    let access = Access::read(client, &role, &readings).await?;
    let grants = reading::grants(&snapshot.tables, &readings, &access);

    let mut report = Report::new(args.json);
    if args.print {
        for finding in check(&snapshot, &expected) {
            if matches!(finding.kind, Kind::UnlimitedRetention | Kind::SynchronousStandby) {
                tracing::warn!(fix = finding.fix, "{}", finding.message);
            }
        }
        let slot = plan.slot.map(|change| plan::slot_change(change, &database.slot, failover));
        let functions = &plan.functions;
        report.script(plan.statements.iter().chain(&grants).chain(functions).chain(&slot))?;
        return Ok(());
    }
    for found in plan.found {
        report.found(found);
    }
    // Before any change: a role that may not replicate makes the rest useless.
    let slot_change = match plan.slot {
        Some(change) => Some((change, make_slot::connect(&own).await?)),
        None => None,
    };
    for statement in plan.statements.iter().chain(&grants) {
        execute(statement, client, &mut report).await?;
    }
    let slot = format!("slot {}", database.slot);
    match slot_change {
        Some((SlotChange::Make, replication)) => {
            let kind = if failover { Persistence::Failover } else { Persistence::Permanent };
            let lsn = make_slot::make(replication, &database.slot, kind, &own, client).await?;
            report.made(slot, format!("from {lsn} on Postgres keeps changes for rowcast"));
        }
        Some((SlotChange::ToFailover, mut replication)) => {
            replication.set_failover(&database.slot).await?;
            report.made(slot, "standbys keep it too".to_owned());
        }
        None => {}
    }
    let are_missing = match &plan.functions {
        Some(statement) => make_functions(statement, client, &mut report).await?,
        None => false,
    };

    let after = Snapshot::gather(client, &database.slot, &database.publication).await?;
    let mut findings = check(&after, &expected);
    let access = Access::read(client, &role, &readings).await?;
    findings.extend(reading::check(&after.tables, after.publication.as_ref(), &readings, &access));
    let age = snapshot.publication.map(|publication| publication.age);
    let in_order = plan.slot == Some(SlotChange::Make) || age == Some(Age::OlderThanSlot);
    findings.retain(|finding| remains(finding.kind, in_order));
    if database.publish_columns == PublishColumns::Named {
        report.warning(COLUMN_LISTS_WARNING, None);
    }
    report.findings(&findings);
    report.finish()?;
    ensure_ready(&findings, are_missing && rules.sends_broadcasts())
}

/// # Errors
/// If rowcast cannot do yet what the configuration asks for.
fn ensure_ready(findings: &[Finding], lacks_broadcast: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        !findings.iter().any(Finding::is_error),
        "setup is done, but rowcast cannot run yet: see above"
    );
    anyhow::ensure!(
        !lacks_broadcast,
        "setup is done, but [broadcast] is set and no application can call rowcast.broadcast: see \
         above"
    );
    Ok(())
}

/// Whether they could not be made. rowcast runs without them, so that is no error.
async fn make_functions(
    statement: &Statement,
    client: &Client,
    report: &mut Report,
) -> anyhow::Result<bool> {
    match statement.execute(client, ATTEMPTS, |wait| on_wait(wait, &statement.what)).await {
        Ok(()) => {
            report.made(statement.what.clone(), "sql/functions.sql".to_owned());
            Ok(false)
        }
        Err(error @ StatementError::Lost { .. }) => Err(error.into()),
        Err(error) => {
            let message = format!(
                "{} are not there, so no application can say who changes what, or send events: {}",
                functions::NAMES,
                chain::line(&error)
            );
            let fix = "rowcast setup, or sql/functions.sql in psql, by a role with CREATE on the \
                       database";
            report.warning(&message, Some(fix.to_owned()));
            Ok(true)
        }
    }
}

/// Not what concerns the session of setup itself, or a rowcast that runs; nor a
/// doubt about the order of what was made `in_order`: altering the publication
/// just now has raised it.
fn remains(kind: Kind, in_order: bool) -> bool {
    match kind {
        Kind::RoleCannotReplicate | Kind::SlotActive => false,
        Kind::PublicationPerhapsNewer => !in_order,
        _ => true,
    }
}

const COLUMN_LISTS_WARNING: &str = "publish_columns = \"named\": while the tables are published \
    so, DROP COLUMN and type changes of a published column fail, DROP COLUMN … CASCADE takes the \
    table out of the publication without a word, and REPLICA IDENTITY FULL or a wider key makes \
    every UPDATE and DELETE fail";

/// Runs the statement and reports it; says so while it waits.
pub(super) async fn execute(
    statement: &Statement,
    client: &Client,
    report: &mut Report,
) -> anyhow::Result<()> {
    let waits = |wait| on_wait(wait, statement.shown());
    statement.execute(client, ATTEMPTS, waits).await.map_err(|error| {
        let rest = match report.has_changed() {
            true => "what was changed before this stays",
            false => "nothing was changed",
        };
        let why = match (error.lacks_privilege(), &statement.by) {
            (true, By::Owner) => {
                "this takes the owner of the tables, with CREATE on the database: \
                 --url postgres://OWNER@HOST/DATABASE"
            }
            (true, By::Role(_)) => "the role of [database] url may not do this",
            (false, _) => "run it again once the cause is mended",
        };
        anyhow::Error::new(error).context(format!("{why} ({rest})"))
    })?;
    report.made(statement.what.clone(), statement.shown().to_owned());
    Ok(())
}

fn on_wait(wait: Wait, sql: &str) {
    match wait {
        Wait::ForLock => tracing::warn!(
            sql,
            "another session holds the lock for this; letting others pass, then trying again"
        ),
        Wait::ForEnd => tracing::warn!(sql, "still at work, or waiting for old transactions"),
    }
}

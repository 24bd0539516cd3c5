//! `rowcast teardown`: takes back what `setup` made.

use super::Global;
use super::setup::{Report, SESSION_NAME, execute};
use crate::postgres::plan::{self, Identities};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{self, Dsn, identity};

/// Removes what setup made: the slot, the publication and the functions
///
/// The slot goes first, so that Postgres keeps no more log for it. A slot that
/// is in use stays, and so does all else. An application that still calls
/// rowcast.context or rowcast.broadcast gets an error from then on. Replica identities stay too, unless
/// --identity is given: they cost a little, and the application may rely on
/// them by now. What the role may read stays its own: it may have been granted
/// before, and goes with the role (DROP OWNED BY).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast teardown --url postgres://shop@127.0.0.1/shop
  rowcast teardown --print | psql shop")]
pub(super) struct Args {
    /// Log in with this instead of [database] url: the owner of the tables
    #[arg(long, value_name = "DSN")]
    url: Option<Dsn>,
    /// Set back the replica identities that setup --identity made by an index,
    /// and drop these indexes
    #[arg(long)]
    identity: bool,
    /// Change nothing, print the SQL
    #[arg(long)]
    print: bool,
    /// Print one JSON object instead of text
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    teardown(&args, &loaded.config.database).await
}

/// Does what `args` asks for.
pub(super) async fn teardown(args: &Args, database: &postgres::Config) -> anyhow::Result<()> {
    let own = database.dsn();
    let owner = args.url.as_ref().unwrap_or(&own);
    let session = postgres::connect(owner, SESSION_NAME).await?;
    let client = &session.client;
    let (snapshot, indexes) = tokio::try_join!(
        Snapshot::gather(client, &database.slot, &database.publication),
        identity::own_indexes(client)
    )?;
    let identities = if args.identity { Identities::Change } else { Identities::Keep };
    let plan =
        plan::teardown(&snapshot, &indexes, &database.slot, &database.publication, identities)?;

    let mut report = Report::new(args.json);
    if args.print {
        report.script(plan.slot.iter().chain(&plan.statements));
        return Ok(());
    }
    for absent in plan.absent {
        report.found(format!("{absent} is not there"));
    }
    if let Some(drop_slot) = &plan.slot {
        // The owner may lack REPLICATION, which the role of [database] url has.
        let replicating = postgres::connect(&own, SESSION_NAME).await?;
        execute(drop_slot, &replicating.client, &mut report).await?;
    }
    for statement in &plan.statements {
        execute(statement, client, &mut report).await?;
    }
    if !plan.identities.is_empty() {
        report.warning(
            "replica identities stay as they are; where nothing else needs them, set them back:",
            Some(identity::sql(&plan.identities)),
        );
    }
    report.finish()?;
    Ok(())
}

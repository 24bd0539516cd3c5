//! `rowcast teardown`: takes back what `setup` made.

use super::Global;
use super::setup::{Report, Sessions, execute};
use crate::postgres::plan::{self, Identities, Removal};
use crate::postgres::snapshot::Snapshot;
use crate::postgres::{self, Capture, Dsn, Target, identity};

/// Removes what setup made
///
/// For either capture: the slot and the publication, the triggers and the
/// outbox, and the functions.
///
/// The slot goes first, so that Postgres keeps no more log for it. Triggers go
/// table by table, each with a short lock. A slot that is in use stays, and so
/// does an outbox that is read, and then all else. An application that still
/// calls rowcast.context or rowcast.broadcast gets an error from then on.
/// Replica identities stay too, unless --identity is given: they cost a little,
/// and the application may rely on them by now. What the role may read stays
/// its own: it may have been granted before, and goes with the role (DROP OWNED
/// BY).
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
    /// Only what one capture needs: after a change from one to the other
    #[arg(long, value_name = "CAPTURE")]
    only: Option<Only>,
    /// Change nothing, print the SQL
    #[arg(long)]
    print: bool,
    /// Print one JSON object instead of text
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

/// One way of capture.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Only {
    /// The slot and the publication
    Wal,
    /// The triggers and the outbox
    Triggers,
}

impl From<Only> for Capture {
    fn from(only: Only) -> Capture {
        match only {
            Only::Wal => Capture::Wal,
            Only::Triggers => Capture::Triggers,
        }
    }
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    teardown(&args, &loaded.config.database).await
}

/// Does what `args` asks for.
pub(super) async fn teardown(args: &Args, database: &postgres::Config) -> anyhow::Result<()> {
    let own = database.dsn();
    let mut sessions = Sessions::of(database, args.url.as_ref());
    let owner = sessions.owner().await?;
    let read = async {
        tokio::try_join!(
            Snapshot::gather(&owner.client, &database.slot, &database.publication),
            identity::own_indexes(&owner.client)
        )
    };
    let (snapshot, indexes) = owner.read(Box::pin(read)).await?;
    let role = Target::of(&own)?.user().to_owned();
    let removal = Removal {
        slot: &database.slot,
        publication: &database.publication,
        capture: database.capture,
        only: args.only.map(Capture::from),
        role: &role,
        identities: if args.identity { Identities::Change } else { Identities::Keep },
    };
    let plan = plan::teardown(&snapshot, &indexes, &removal)?;

    let mut report = Report::new(args.json);
    if args.print {
        report.script(plan.slot.iter().chain(&plan.statements))?;
        return Ok(());
    }
    for absent in plan.absent {
        report.found(format!("{absent} is not there"));
    }
    // The owner may lack REPLICATION, which the role of [database] url has.
    let drop_slot = plan.slot.map(|drop_slot| drop_slot.by_role(&role));
    for statement in drop_slot.iter().chain(&plan.statements) {
        execute(statement, &sessions.by(statement).await?.client, &mut report).await?;
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

//! `rowcast run`: the daemon.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::{Global, rules, signal};
use crate::config::Loaded;
use crate::deliver::{ByteSize, Deliver, RejectedFile, Sink, pusher};
use crate::pipeline::{self, Capture, End, Slot, Wal};
use crate::state::StateFile;

/// What was refused holds data of rows.
const OWNER_ONLY: u32 = 0o700;

/// Streams changes and delivers notifications until it is stopped
///
/// SIGTERM or Ctrl-C stops reading, delivers what was read within the time of
/// [run] grace, and confirms it. A second one ends at once. Whatever was not
/// confirmed is sent again at the next start.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast run
  rowcast run --once    for a cron job or a test: what was committed until now")]
pub(super) struct Args {
    /// Deliver what was committed before the start, then end
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    let rules = Arc::new(rules::compile(&loaded)?);
    let folder = state_dir(&loaded)?;
    let state = StateFile::open(folder, loaded.config.database.slot.as_str())?;
    let mut deliver = Deliver::new(sink(&loaded, folder)?, &loaded.config.limits);
    let options = pipeline::Options {
        database: loaded.config.database.clone(),
        capture: Capture::Wal(Wal {
            slot: Slot::Configured(loaded.config.database.slot.clone()),
            on_slot_loss: loaded.config.run.on_slot_loss,
            max_retained_wal: loaded.config.limits.max_retained_wal.map(ByteSize::bytes),
            takeover: loaded.config.run.takeover,
            failover: loaded.config.run.failover,
        }),
        rules,
        once: args.once,
        grace: loaded.config.run.grace,
        inspect_every: loaded.config.run.inspect_every.get(),
        state: Some(state),
    };
    let end = pipeline::run(&options, &mut deliver, signal::shutdown()?)
        .await
        .map_err(|error| rules::explain(error, &loaded))?;
    match end {
        End::Delivered => {
            tracing::info!("stopped: everything that was read is delivered and confirmed");
            Ok(())
        }
        End::Undelivered => anyhow::bail!(
            "stopped before everything that was read was delivered: the rest is sent again at \
             the next start"
        ),
    }
}

/// The folder of the state, made if it is not there.
fn state_dir(loaded: &Loaded) -> anyhow::Result<&Path> {
    let folder = &loaded.config.run.state_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_ONLY)
        .create(folder)
        .with_context(|| format!("cannot make the state folder {}", folder.display()))?;
    Ok(folder)
}

fn sink(loaded: &Loaded, folder: &Path) -> anyhow::Result<Sink> {
    let client = pusher::Client::new(&loaded.config.pusher)
        .map_err(|error| loaded.refuse_option(&format!("pusher.{}", error.option()), &error))?;
    let path = folder.join("rejected.jsonl");
    Ok(Sink::Pusher(client, RejectedFile::open(path, RejectedFile::MAX)?))
}

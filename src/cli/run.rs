//! `rowcast run`: the daemon.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::reload::Reload;
use super::signal::{self, Hangups};
use super::{Global, admin, rules};
use crate::config::{Config, Loaded};
use crate::deliver::{ByteSize, Deliver, RejectedFile, Sink, pusher};
use crate::observe::{Observer, Systemd};
use crate::pipeline::{self, Capture, End, Rulebook, Slot, Triggers, Wal};
use crate::postgres::{self, Target};
use crate::source::triggers::Reads;
use crate::state::StateFile;

/// What was refused holds data of rows.
const OWNER_ONLY: u32 = 0o700;
const REJECTED: &str = "rejected.jsonl";

/// Streams changes and delivers notifications until it is stopped
///
/// SIGTERM or Ctrl-C stops reading, delivers what was read within the time of
/// [run] grace, and confirms it. A second one ends at once. Whatever was not
/// confirmed is sent again at the next start.
///
/// SIGHUP reads the rules anew: they are checked first, and where anything is
/// wrong with them those in use stay. All other options need a restart.
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
    // From here on it ends nothing.
    let hangups = (!args.once).then(Hangups::new).transpose()?;
    let (rules_tx, rulebook) = Rulebook::new(rules::compile(&loaded)?);
    let folder = state_dir(&loaded)?;
    let state = StateFile::open(folder, &state_name(&loaded.config.database)?)?;
    let systemd = Systemd::from_env();
    let observer = Observer::with(systemd.map(|it| it.pulses()).unwrap_or_default());
    let mut deliver = Deliver::new(sink(&loaded, folder)?, &loaded.config.limits, observer.clone());
    let options = Arc::new(pipeline::Options {
        database: loaded.config.database.clone(),
        capture: capture(&loaded.config),
        rules: rulebook,
        once: args.once,
        grace: loaded.config.run.grace,
        inspect_every: loaded.config.run.inspect_every.get(),
        state: Some(state),
        observer,
        recorder: None,
        explains: false,
    });
    let rejected = folder.join(REJECTED);
    let _answering = admin::start(&loaded, rejected, options.observer.clone()).await?;
    let shutdown = match hangups {
        Some(hangups) => {
            let reload = Reload {
                path: loaded.path().to_owned(),
                config: loaded.config.clone(),
                warnings: loaded.warnings.clone(),
                options: options.clone(),
                rules_tx,
                systemd,
            };
            tokio::spawn(reload.run(hangups));
            signal::daemon_shutdown()?
        }
        None => signal::shutdown()?,
    };
    if let Some(systemd) = systemd {
        let (standing, pulses) = (options.observer.standing(), options.observer.pulses());
        tokio::spawn(systemd.run(standing, pulses, shutdown.clone(), options.grace));
    }
    let end = pipeline::run(&options, &mut deliver, shutdown)
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

fn capture(config: &Config) -> Capture {
    match config.database.capture {
        postgres::Capture::Wal => Capture::Wal(Wal {
            slot: Slot::Configured(config.database.slot.clone()),
            on_slot_loss: config.run.on_slot_loss,
            max_retained_wal: config.limits.max_retained_wal.map(ByteSize::bytes),
            takeover: config.run.takeover,
            failover: config.run.failover,
        }),
        postgres::Capture::Triggers => Capture::Triggers(Triggers {
            reads: Reads::Drain,
            max_rows: config.limits.max_outbox_rows.get(),
        }),
    }
}

/// Whose state it is. A slot's name is one of the whole cluster; an outbox has
/// none, and another database may have one too.
pub(super) fn state_name(database: &postgres::Config) -> anyhow::Result<String> {
    let mut name = database.slot.to_string();
    if database.capture == postgres::Capture::Triggers {
        name.push('-');
        for byte in Target::of(&database.dsn())?.database().bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte.into()),
                other => name.push_str(&format!("%{other:02X}")),
            }
        }
    }
    Ok(name)
}

/// The folder of the state, made if it is not there.
pub(super) fn state_dir(loaded: &Loaded) -> anyhow::Result<&Path> {
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
    let path = folder.join(REJECTED);
    Ok(Sink::Pusher(client, RejectedFile::open(path, RejectedFile::MAX)?))
}

//! `rowcast tail`: notifications as they would be sent.

mod unseen;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Global, rules, signal};
use crate::change::Relation;
use crate::config::{Config, OnSlotLoss};
use crate::deliver::{ByteSize, Deliver, Format, Sink, Stdout, Tally};
use crate::duration;
use crate::observe::Observer;
use crate::pipeline::{self, Capture, Slot, Triggers, Wal};
use crate::postgres;
use crate::route::Rules;
use crate::source::recording::{WriteError, Writer};
use crate::source::triggers::Reads;

/// Prints each notification as it would be sent, from now on
///
/// It reads by a slot of its own, which ends with it, or looks on at the outbox,
/// and sends nothing: a running `rowcast run` is not disturbed. Below each notification stands the
/// line of Laravel Echo that hears it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast tail
  rowcast tail --json | jq .channels
  rowcast tail --why                     why is nobody told of this row?
  rowcast tail --for 10m > /dev/null     how many messages a day will it be?
  rowcast tail --record changes.jsonl    to be told again by rowcast replay --recording")]
pub(super) struct Args {
    /// Print one JSON object for each notification
    #[arg(long)]
    json: bool,
    /// Show also what nobody is told of, and why
    ///
    /// One line for each change of a table that no rule takes, and for each rule that
    /// lets a change go: because of `on`, `where`, `when`, `changed`, or of a NULL in
    /// a channel. On stderr first: of what tables nothing is seen at all.
    #[arg(long)]
    why: bool,
    /// Stop after so long, and estimate how many messages `run` sends a day
    ///
    /// On stderr; with --json it is the last line. Notifications are printed
    /// each, and counted as they are sent: changes of one row within `coalesce`
    /// as one.
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Option<Duration>,
    /// Write the changes themselves to this new file, too
    ///
    /// With the columns that rules read, and no others; only its owner may read it.
    /// `rowcast replay --recording` tells them again.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn length(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .filter(|length| !length.is_zero())
        .ok_or_else(|| "expected a duration such as 10m or 90s".to_owned())
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    let format = if args.json { Format::Json } else { Format::Human };
    let mut stdout = Stdout::new(Box::new(io::stdout()), format);
    let mut shutdown = signal::shutdown()?;
    if let Some(length) = args.length {
        let (since_tx, since_rx) = watch::channel(None);
        stdout = stdout.counting(Tally::new(&loaded.config.limits, since_tx));
        shutdown = after(length, since_rx, shutdown);
    }
    let mut deliver =
        Deliver::new(Sink::Stdout(stdout), &loaded.config.limits, Observer::default());
    let recorder = match &args.record {
        Some(path) => Some(recorder(path, rules::compile(&loaded)?)?),
        None => None,
    };
    if args.why {
        unseen::tell(&loaded.config.database).await?;
    }
    let options = pipeline::Options {
        database: loaded.config.database.clone(),
        capture: capture(&loaded.config)?,
        rules: rules::compile(&loaded)?.into(),
        once: false,
        grace: loaded.config.run.grace,
        inspect_every: loaded.config.run.inspect_every.get(),
        state: None,
        observer: Observer::default(),
        recorder: recorder.clone(),
        explains: args.why,
    };
    pipeline::run(&options, &mut deliver, shutdown)
        .await
        .map_err(|error| rules::explain(error, &loaded))?;
    match (deliver.estimate(), format) {
        (Some(estimate), Format::Human) => writeln!(io::stderr(), "\n{estimate}")?,
        (Some(estimate), Format::Json) => writeln!(io::stdout(), "{}", estimate.json())?,
        (None, _) => {}
    }
    if let Some(recorder) = recorder {
        let writer = recorder.lock().expect("nobody panics at it");
        let path = writer.path().display();
        let changes = match writer.changes() {
            1 => "1 change is".to_owned(),
            changes => format!("{changes} changes are"),
        };
        writeln!(
            io::stderr(),
            "{changes} in {path}: rowcast replay --recording {path} tells them again"
        )?;
    }
    Ok(())
}

fn recorder(path: &Path, rules: Rules) -> Result<Arc<Mutex<Writer>>, WriteError> {
    let wanted = Box::new(move |relation: &Relation| rules.wanted(relation));
    Ok(Arc::new(Mutex::new(Writer::create(path, wanted)?)))
}

fn capture(config: &Config) -> anyhow::Result<Capture> {
    Ok(match config.database.capture {
        postgres::Capture::Wal => Capture::Wal(Wal {
            slot: Slot::Temporary(
                format!("{}_tail_{}", config.database.slot, process::id()).parse()?,
            ),
            on_slot_loss: OnSlotLoss::Stop,
            max_retained_wal: config.limits.max_retained_wal.map(ByteSize::bytes),
            takeover: false,
            failover: false,
        }),
        postgres::Capture::Triggers => Capture::Triggers(Triggers {
            reads: Reads::Watch,
            max_rows: config.limits.max_outbox_rows.get(),
        }),
    })
}

/// Turns true with `shutdown`, or so long after `since` is told.
fn after(
    length: Duration,
    mut since: watch::Receiver<Option<Instant>>,
    mut shutdown: watch::Receiver<bool>,
) -> watch::Receiver<bool> {
    let (over_tx, over_rx) = watch::channel(false);
    tokio::spawn(async move {
        let is_over = async {
            let Ok(since) = since.wait_for(Option::is_some).await.map(|since| *since) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until((since.unwrap_or_else(Instant::now) + length).into()).await;
        };
        tokio::select! {
            () = is_over => {}
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        over_tx.send_replace(true);
    });
    over_rx
}

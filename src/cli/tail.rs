//! `rowcast tail`: notifications as they would be sent.

use std::io;
use std::process;
use std::sync::Arc;

use super::{Global, rules, signal};
use crate::config::OnSlotLoss;
use crate::deliver::{ByteSize, Deliver, Format, Sink, Stdout};
use crate::pipeline::{self, Slot};

/// Prints each notification as it would be sent, from now on
///
/// It reads by a slot of its own, which ends with it, and sends nothing: a
/// running `rowcast run` is not disturbed. Below each notification stands the
/// line of Laravel Echo that hears it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast tail
  rowcast tail --json | jq .channels")]
pub(super) struct Args {
    /// Print one JSON object for each notification
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    let format = if args.json { Format::Json } else { Format::Human };
    let sink = Sink::Stdout(Stdout::new(Box::new(io::stdout()), format));
    let mut deliver = Deliver::new(sink, &loaded.config.limits);
    let slot = format!("{}_tail_{}", loaded.config.database.slot, process::id());
    let options = pipeline::Options {
        database: loaded.config.database.clone(),
        slot: Slot::Temporary(slot.parse()?),
        rules: Arc::new(rules::compile(&loaded)?),
        once: false,
        grace: loaded.config.run.grace,
        inspect_every: loaded.config.run.inspect_every.get(),
        state: None,
        on_slot_loss: OnSlotLoss::Stop,
        max_retained_wal: loaded.config.limits.max_retained_wal.map(ByteSize::bytes),
        takeover: false,
        failover: false,
    };
    pipeline::run(&options, &mut deliver, signal::shutdown()?)
        .await
        .map_err(|error| rules::explain(error, &loaded))?;
    Ok(())
}

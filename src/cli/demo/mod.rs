//! `rowcast demo`: the real pipeline between a throwaway Postgres and a loopback
//! endpoint, on a machine where nothing is configured.
//!
//! A [`Cluster`] of the server [`Binaries`] that are there or get [`install`]ed
//! holds the [`blog`], which is written to; the [`Endpoint`] verifies what comes
//! out; the [`Ledger`] compares.

mod account;
mod binaries;
mod blog;
mod cluster;
mod endpoint;
mod install;
mod ledger;
mod prepare;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::cli::signal;
use crate::pipeline;

use account::Account;
use binaries::Binaries;
use cluster::Cluster;
use endpoint::Endpoint;
use ledger::{Ledger, Totals};
use prepare::Prepared;
use report::Report;

/// Shows rowcast at work on a throwaway database
///
/// Prints changes, the notifications that they become, and how long that takes.
/// Starts a Postgres server of its own in a temporary folder, which is gone
/// afterwards; it needs no configuration and touches no other database. Exits
/// with 1 if a change was lost or one that was rolled back was sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast demo
  rowcast demo --for 1m --postgres /usr/lib/postgresql/17/bin")]
pub(super) struct Args {
    /// How long to write
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    length: Duration,
    /// End with one line of JSON; progress goes to stderr
    #[arg(long)]
    json: bool,
    /// Install Postgres' server binaries without asking, if there are none
    #[arg(long)]
    yes: bool,
    /// The folder of the server's binaries [default: looked for, else installed]
    #[arg(long, value_name = "DIR")]
    postgres: Option<PathBuf>,
}

/// From the last write until everything must have arrived.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that the endpoint has accepted and nobody has looked at.
const REQUESTS_QUEUE: usize = 256;
const STEPS_QUEUE: usize = 16;

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let report = if args.json { Report::Json } else { Report::Human };
    let account = Account::choose()?;
    let binaries = find_binaries(&args, account, report).await?;

    // The first one ends the writing, the second one the process; the cluster's
    // guardian cleans up behind that.
    let mut interrupted = signal::shutdown().context("cannot listen for signals")?;
    let (cluster, endpoint, prepared) = tokio::select! {
        // What was made so far is removed as it is dropped.
        _ = interrupted.wait_for(|interrupted| *interrupted) => bail!("interrupted"),
        made = make(&binaries, account, report) => made?,
    };
    let totals = observe(args.length, interrupted, endpoint, prepared, report).await?;
    drop(cluster);

    report.totals(&totals, &binaries.version);
    ensure!(totals.lost == 0, "{} of {} changes were lost", totals.lost, totals.changes);
    let sent = totals.rolled_back_sent;
    ensure!(sent == 0, "{sent} changes that were rolled back were sent");
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let positive = parsed.and_then(|it| Duration::try_from(it).ok()).filter(|it| !it.is_zero());
    positive.ok_or_else(|| "write a duration such as 10s or 2m".to_owned())
}

async fn find_binaries(args: &Args, account: Account, report: Report) -> anyhow::Result<Binaries> {
    if let Some(folder) = &args.postgres {
        return Binaries::named(account, folder).await.context("--postgres");
    }
    let cache = install::cache(account)?;
    match Binaries::find(account, &install::installed(&cache)).await {
        Some(binaries) => Ok(binaries),
        None => install::install(account, &cache, args.yes, report).await,
    }
}

async fn make(
    binaries: &Binaries,
    account: Account,
    report: Report,
) -> anyhow::Result<(Cluster, Endpoint, Prepared)> {
    report.say(&format!(
        "Postgres    {} of {}, a throwaway cluster",
        binaries.version,
        binaries.folder.display()
    ));
    let cluster = Cluster::start(binaries, account).await?;
    let endpoint = Endpoint::bind().await?;
    report.say(&format!("Endpoint    {}, which verifies every signature", endpoint.url()));
    let prepared = prepare::prepare(&cluster, &endpoint).await?;
    report.say("Writing     to a blog of users, posts and comments\n");
    Ok((cluster, endpoint, prepared))
}

/// Runs the pipeline while the blog is written to, and until everything that was
/// committed has arrived or should have.
async fn observe(
    length: Duration,
    interrupted: watch::Receiver<bool>,
    endpoint: Endpoint,
    prepared: Prepared,
    report: Report,
) -> anyhow::Result<Totals> {
    let Prepared { options, mut deliver, application } = prepared;
    let (requests_tx, mut requests_rx) = mpsc::channel(REQUESTS_QUEUE);
    let (steps_tx, mut steps_rx) = mpsc::channel(STEPS_QUEUE);
    let (stop_tx, stop_rx) = watch::channel(false);

    // Aborted as they are dropped.
    let mut outside: JoinSet<anyhow::Result<()>> = JoinSet::new();
    outside.spawn(async move { match endpoint.serve(requests_tx).await? {} });
    let mut inside: JoinSet<Result<pipeline::End, pipeline::Error>> = JoinSet::new();
    inside.spawn(async move { pipeline::run(&options, &mut deliver, stop_rx).await });
    tokio::select! {
        streaming = prepare::streaming(&application.client) => streaming?,
        ended = inside.join_next() => {
            ended.transpose()?.transpose()?;
            bail!("the pipeline ended before the demo");
        }
    }
    let end = Instant::now() + length;
    outside.spawn(blog::write(application, steps_tx, end, interrupted));

    let mut ledger = Ledger::default();
    let mut deadline: Option<Instant> = None;
    while deadline.is_none() || !ledger.is_settled() {
        tokio::select! {
            Some(request) = requests_rx.recv() => {
                ledger.request(request).iter().for_each(|step| report.finished(step));
            }
            step = steps_rx.recv(), if deadline.is_none() => match step {
                Some(step) => ledger.step(step).iter().for_each(|step| report.finished(step)),
                None => deadline = Some(Instant::now() + PATIENCE),
            },
            Some(ended) = outside.join_next() => ended??,
            Some(ended) = inside.join_next() => {
                ended??;
                bail!("the pipeline ended before the demo");
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
        }
    }

    // What is on its way now can only be a mistake, which must be seen too.
    stop_tx.send_replace(true);
    loop {
        tokio::select! {
            Some(request) = requests_rx.recv() => {
                ledger.request(request).iter().for_each(|step| report.finished(step));
            }
            ended = inside.join_next() => {
                ended.transpose()?.transpose()?;
                break;
            }
        }
    }
    while let Ok(request) = requests_rx.try_recv() {
        ledger.request(request).iter().for_each(|step| report.finished(step));
    }
    Ok(ledger.totals())
}

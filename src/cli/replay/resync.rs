//! Every page is told to fetch again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde_json::json;
use tokio::sync::watch;

use super::Args;
use super::report::{self, Time, counted};
use crate::cli::shell;
use crate::cli::{rules, signal};
use crate::config::Loaded;
use crate::deliver::Progress;
use crate::pipeline::End;
use crate::pipeline::replay::{Again, Catalog, Replay, Replayed, named};

/// `names` are of rules; none means all.
pub(super) async fn run(args: &Args, names: &[String], loaded: &Loaded) -> anyhow::Result<()> {
    let compiled = Arc::new(rules::compile(loaded)?);
    let catalog = Catalog::read(&args.dsn(loaded), loaded.config.database.tenure()).await?;
    let resyncs = catalog.resyncs(&compiled, &named(&compiled, names)?);
    if resyncs.is_empty() {
        bail!("no rule takes any table of the database, so there is nobody to tell");
    }
    let rules: BTreeSet<Arc<str>> = resyncs.iter().map(|it| it.terms.rule.clone()).collect();
    let told: Vec<&str> = rules.iter().map(|rule| &**rule).collect();
    if !args.dry_run {
        report::say(&format!(
            "Telling every occupied channel of {} to fetch again, over {}.",
            told.join(", "),
            Time(loaded.config.limits.resync_spread)
        ))?;
    }

    let shutdown = signal::shutdown()?;
    let started = Instant::now();
    let (mut deliver, refused) = args.deliver(loaded)?;
    let (progress_tx, progress_rx) = watch::channel(Progress::default());
    let grace = loaded.config.run.grace;
    let replay = Replay { deliver: &mut deliver, rate: None, grace, progress: progress_tx };
    let Replayed { end, failed, .. } = replay.run(Again::Resyncs(resyncs), shutdown).await;
    let settled = progress_rx.borrow().settled.clone();
    let left: Vec<&str> = rules.difference(&settled).map(|rule| &**rule).collect();
    if args.json {
        report::print_json(&json!({
            "told": settled, "left": left, "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else if !args.dry_run && left.is_empty() {
        let rules = counted(settled.len() as u64, "rule", "rules");
        report::say(&format!("Done: {rules} told in {}.", Time(started.elapsed())))?;
    }
    if let Some(refused) = refused.and_then(|refused| refused.since())
        && failed.is_none()
    {
        bail!(refused);
    }
    match end {
        _ if left.is_empty() && failed.is_none() => Ok(()),
        End::Delivered => bail!("not all was told: {}", left.join(", ")),
        End::Undelivered => {
            let left: Vec<String> = left.iter().map(|rule| shell::word(rule)).collect();
            let command = format!("rowcast replay --resync {}", left.join(" "));
            Err(report::stopped("not all was told", &command, failed))
        }
    }
}

//! What the endpoint has refused is sent again.

use std::path::Path;
use std::time::Instant;

use anyhow::bail;
use serde_json::json;
use tokio::sync::watch;

use super::Args;
use super::report::{self, Time, counted};
use crate::cli::shell;
use crate::cli::{run::state_dir, signal};
use crate::config::Loaded;
use crate::deliver::{ByteSize, Progress, RejectedFile, Resend};
use crate::pipeline::End;
use crate::pipeline::replay::{Again, Replay, Replayed};

/// What is refused again is appended, and must not set aside what it is read from.
const NO_BOUND: ByteSize = ByteSize::new(u64::MAX);

pub(super) async fn run(args: &Args, file: Option<&Path>, loaded: &Loaded) -> anyhow::Result<()> {
    let path = match file {
        Some(file) => file.to_owned(),
        None => state_dir(loaded)?.join("rejected.jsonl"),
    };
    let resend = Resend::open(&path)?;
    let (count, left_out) = (resend.count() as u64, resend.left_out() as u64);
    if left_out > 0 {
        let lines = counted(left_out, "line", "lines");
        report::say(&format!(
            "{} has {lines} without anything that could be sent: they stay.",
            path.display()
        ))?;
    }
    if count == 0 {
        return Ok(report::say("There is nothing to send.")?);
    }
    let shutdown = signal::shutdown()?;
    let started = Instant::now();
    let (mut deliver, refused) =
        args.deliver_or_record(loaded, || Ok(RejectedFile::open(&path, NO_BOUND)?))?;
    let (progress_tx, progress_rx) = watch::channel(Progress::default());
    let rate = args.rate.0.clone().filter(|_| !args.dry_run);
    let grace = loaded.config.run.grace;
    let replay = Replay { deliver: &mut deliver, rate, grace, progress: progress_tx };
    let again = Again::Refused(resend.handoffs());
    let Replayed { end, failed, notifications, .. } = replay.run(again, shutdown).await;
    let refused = refused.is_some_and(|refused| refused.since().is_some());
    let delivered = progress_rx.borrow().position;
    let left = match args.dry_run {
        true => count,
        false => resend.take_out(delivered)? as u64 - left_out,
    };

    if args.json {
        report::print_json(&json!({
            "file": path,
            "notifications": notifications,
            "left": left,
            "refused_again": refused,
            "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else if end == End::Delivered && !args.dry_run {
        report::say(&format!(
            "Done: {} sent in {}.",
            counted(count, "notification", "notifications"),
            Time(started.elapsed())
        ))?;
    }
    if end == End::Undelivered {
        let left = counted(left, "notification is", "notifications are");
        let path = shell::word(&path.display().to_string());
        let command = format!("rowcast replay --rejected {path}");
        return Err(report::stopped(&format!("{left} left"), &command, failed));
    }
    if refused {
        bail!("some were refused again, and stand in {} with the reason", path.display());
    }
    Ok(())
}

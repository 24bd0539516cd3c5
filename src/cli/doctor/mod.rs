//! `rowcast doctor`: every precondition, how it stands, and what mends it.
//!
//! It changes nothing. Unlike `run` it goes on after what fails, as far as it can.

mod connection;
mod database;
mod endpoint;
mod local;
mod migrations;
mod report;
mod server;
mod topic;

use super::{Global, rules};
use report::{Check, Report};

/// Checks all that rowcast needs, and says how to mend what is missing
///
/// Each line is one thing that was looked at, with what was found. It changes and
/// sends nothing, but for --push, and may be run beside a running rowcast.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast doctor
  rowcast doctor --push
  rowcast doctor --json | jq '.sections[].checks[] | select(.verdict == \"fails\")'

Exit codes: 0 nothing fails, 1 something fails, 78 the configuration cannot be read.")]
pub(super) struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Send two test events, a small one and one as large as any may be, to the
    /// channel rowcast-doctor, which nobody listens on
    #[arg(long)]
    push: bool,
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.find_config()?;
    let rules = rules::compile(&loaded)?;
    let mut report = Report::new(args.json);

    report.section("configuration");
    report.add(Check::holds("file", loaded.path().display().to_string()));
    for warning in &loaded.warnings {
        report.add(Check::advice("file", warning, None));
    }
    local::check(&loaded, &mut report)?;
    database::check(&loaded, &rules, &mut report).await;
    endpoint::check(&loaded, args.push, &mut report).await;
    report.finish()
}

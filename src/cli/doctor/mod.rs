//! `rowcast doctor`: every precondition, how it stands, and what mends it.
//!
//! It changes nothing. Unlike `run` it goes on after what fails, as far as it can.

mod database;
mod report;
mod topic;

use super::{Global, rules};
use report::{Check, Report};

/// Checks all that rowcast needs, and says how to mend what is missing
///
/// Each line is one thing that was looked at, with what was found. It changes
/// nothing, and may be run beside a running rowcast.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast doctor
  rowcast doctor --json | jq '.sections[].checks[] | select(.verdict == \"fails\")'

Exit codes: 0 nothing fails, 1 something fails, 78 the configuration cannot be read.")]
pub(super) struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
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
    database::check(&loaded, &rules, &mut report).await;
    report.finish()
}

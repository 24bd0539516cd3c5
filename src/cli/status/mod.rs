//! `rowcast status`: what the running process and the database say of how it
//! stands.

mod database;
mod process;
mod words;

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Global, admin};
use crate::chain;
use crate::config::Loaded;
use crate::postgres::SlotName;

use database::Database;
use process::Asked;

/// Says how rowcast stands
///
/// Whether changes come and are delivered, what waits, and what the database keeps
/// for it.
///
/// It asks the process that runs with this configuration, by its socket in the
/// state folder, and Postgres. It says what it can where one of them is away. The
/// exit code is 0 if that process works or stands by, and 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast status
  rowcast status --json | jq .database.unconfirmed_bytes")]
pub(super) struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// All that is known.
#[derive(Debug)]
struct Status {
    slot: SlotName,
    socket: PathBuf,
    process: Asked,
    database: anyhow::Result<Database>,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Working,
    /// Another one does the work; this one takes over.
    StandingBy,
    NotWorking,
    NotRunning,
    Unknown,
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    let status = Status::read(&loaded).await?;
    let mut stdout = io::stdout().lock();
    match args.json {
        true => writeln!(stdout, "{}", status.json())?,
        false => write!(stdout, "{status}")?,
    }
    match status.verdict() {
        Verdict::Working | Verdict::StandingBy => Ok(()),
        Verdict::NotWorking => anyhow::bail!("rowcast does not work now: see above"),
        Verdict::NotRunning => anyhow::bail!("rowcast does not run with this configuration here"),
        Verdict::Unknown => anyhow::bail!("whether rowcast works is not known: see above"),
    }
}

impl Status {
    async fn read(loaded: &Loaded) -> anyhow::Result<Status> {
        let config = &loaded.config;
        let socket = admin::socket(loaded)?;
        let (process, database) = tokio::join!(process::ask(&socket), database::look(config));
        Ok(Status { slot: config.database.slot.clone(), socket, process, database })
    }

    fn verdict(&self) -> Verdict {
        match &self.process {
            Asked::Answered(process, _) if !process.ready => Verdict::NotWorking,
            Asked::Answered(process, _) if process.source.holder.is_some() => Verdict::StandingBy,
            Asked::Answered(..) => Verdict::Working,
            Asked::NotRunning => Verdict::NotRunning,
            Asked::Failed(_) => Verdict::Unknown,
        }
    }

    fn json(&self) -> Value {
        let (process, process_problem) = match &self.process {
            Asked::Answered(_, told) => (Some(told), None),
            Asked::NotRunning => (None, None),
            Asked::Failed(error) => (None, Some(chain::line(error.as_ref()))),
        };
        let (database, database_problem) = match &self.database {
            Ok(database) => (Some(database.json()), None),
            Err(error) => (None, Some(chain::line(error.as_ref()))),
        };
        json!({
            "verdict": self.verdict().name(),
            "socket": self.socket,
            "process": process,
            "process_problem": process_problem,
            "database": database,
            "database_problem": database_problem,
        })
    }
}

impl Verdict {
    /// As in JSON.
    fn name(self) -> &'static str {
        match self {
            Verdict::Working => "working",
            Verdict::StandingBy => "standing_by",
            Verdict::NotWorking => "not_working",
            Verdict::NotRunning => "not_running",
            Verdict::Unknown => "unknown",
        }
    }
}

//! The command line: one file for each subcommand.
//!
//! This is the only place that prints, and the only one that knows clap and
//! anyhow. A subcommand is a file with its `Args` and one `run`, a variant of
//! `Command` and an arm in [`run`].

mod admin;
mod completions;
mod demo;
mod doctor;
mod init;
mod man;
mod reload;
mod replay;
mod rules;
mod run;
mod send;
mod setup;
mod shell;
mod signal;
mod status;
mod tail;
mod teardown;
mod terminal;
mod units;

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::config::{self, Loaded};
use crate::deliver::pusher;
use crate::observe::http::ListenError;
use crate::observe::log;
use crate::pipeline;
use crate::postgres;
use crate::source::{recording, wal};

/// Tells browsers that a row of your Postgres database changed.
///
/// rowcast reads every committed change from Postgres, turns each into a small
/// notification by the rules of its configuration, and pushes it to a
/// Pusher-compatible server such as Laravel Reverb. Pages that listen with
/// Laravel Echo or pusher-js then fetch what they show anew.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Example:
  rowcast setup --url postgres://postgres@127.0.0.1/shop
  rowcast run

`rowcast COMMAND --help` says what a command does in full, with examples. What can be
set in the configuration stands in config.example.toml.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration."
)]
pub struct Cli {
    #[command(flatten, next_help_heading = "Options of every command")]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, clap::Args)]
struct Global {
    /// The configuration [default: ./rowcast.toml, else /etc/rowcast/rowcast.toml]
    #[arg(short, long, global = true, env = "ROWCAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look
    #[arg(
        long,
        global = true,
        env = "ROWCAST_LOG_FORMAT",
        default_value = "auto",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
    /// Log more: what is done (-v), or every change (-vv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less: only what needs attention (-q), or only failures (-qq)
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people; without times where the journal adds them
    Auto,
    /// For people
    Human,
    /// One JSON object in each line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Init(init::Args),
    Setup(setup::Args),
    Teardown(teardown::Args),
    Status(status::Args),
    Tail(tail::Args),
    Send(send::Args),
    Doctor(doctor::Args),
    Replay(Box<replay::Args>),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Cli {
    /// From here on log lines go to stderr as the command line asks.
    pub fn init_log(&self) -> anyhow::Result<()> {
        log::init(self.global.log_format.format(), &self.global.directives(&self.command))?;
        Ok(())
    }

    /// Whether programs read stderr.
    pub fn logs_json(&self) -> bool {
        self.global.log_format.format() == log::Format::Json
    }
}

/// The command line, or the end of the process with what is wrong about it.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        // It may hold a password, and this may go to a log.
        if error
            .get(ContextKind::InvalidArg)
            .is_some_and(|arg| arg.to_string().starts_with("--url"))
        {
            error.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
        }
        error.exit()
    })
}

/// Runs the subcommand to its end.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => run::run(args, &global).await,
        Command::Init(args) => init::run(args, &global).await,
        Command::Setup(args) => setup::run(args, &global).await,
        Command::Teardown(args) => teardown::run(args, &global).await,
        Command::Status(args) => status::run(args, &global).await,
        Command::Tail(args) => tail::run(args, &global).await,
        Command::Send(args) => send::run(args, &global).await,
        Command::Doctor(args) => doctor::run(args, &global).await,
        Command::Replay(args) => replay::run(*args, &global).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// What the process returns to its caller for a failure.
/// 78 is `EX_CONFIG` of sysexits.h: starting again will not help.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<config::Error>()) { 78 } else { 1 }
}

/// What the operator can do about a failure, from the outermost error that
/// knows.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(problem) = cause.downcast_ref::<pusher::Problem>() {
            return problem.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ListenError>() {
            return Some(admin::hint(error));
        }
        if let Some(error) = cause.downcast_ref::<pipeline::Error>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<recording::WriteError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<recording::Error>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<postgres::ConnectError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<wal::connection::Error>() {
            return error.hint();
        }
        cause.downcast_ref::<wal::Error>()?.hint()
    })
}

impl Command {
    /// Without -v and -q: a daemon tells of its life, a one-shot command only
    /// of trouble, since it prints its own result.
    fn is_daemon(&self) -> bool {
        match self {
            Command::Run(_) => true,
            Command::Init(_)
            | Command::Setup(_)
            | Command::Teardown(_)
            | Command::Status(_)
            | Command::Tail(_)
            | Command::Send(_)
            | Command::Doctor(_)
            | Command::Replay(_)
            | Command::Demo(_)
            | Command::Completions(_)
            | Command::Man(_) => false,
        }
    }
}

impl LogFormat {
    fn format(self) -> log::Format {
        let colour = terminal::has_colour(&io::stderr());
        match self {
            LogFormat::Auto => {
                log::Format::Human { colour, times: !terminal::is_set("JOURNAL_STREAM") }
            }
            LogFormat::Human => log::Format::Human { colour, times: true },
            LogFormat::Json => log::Format::Json,
        }
    }
}

impl Global {
    /// Reads the configuration and logs its warnings.
    fn load_config(&self) -> Result<Loaded, config::Error> {
        let loaded = self.find_config()?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        Ok(loaded)
    }

    fn find_config(&self) -> Result<Loaded, config::Error> {
        let env = |name: &str| env::var(name).ok();
        if let Some(path) = &self.config {
            return config::load(path, &env);
        }
        let mut tried = Vec::new();
        for path in ["rowcast.toml", "/etc/rowcast/rowcast.toml"] {
            match config::load(Path::new(path), &env) {
                Err(config::Error::NotFound { .. }) => tried.push(PathBuf::from(path)),
                result => return result,
            }
        }
        Err(config::Error::NotFound { tried })
    }

    /// -v and -q speak of rowcast itself; RUST_LOG, without them, of anything.
    fn directives(&self, command: &Command) -> String {
        let usual = if command.is_daemon() { 2 } else { 1 };
        let steps = i16::from(self.verbose) - i16::from(self.quiet);
        if steps == 0
            && let Some(directives) = env::var("RUST_LOG").ok().filter(|text| !text.is_empty())
        {
            return directives;
        }
        match usual + steps {
            ..=0 => "error".to_owned(),
            1 => "warn".to_owned(),
            2 => "warn,rowcast=info".to_owned(),
            3 => "warn,rowcast=debug".to_owned(),
            4.. => "info,rowcast=trace".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_is_for_and_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn what_a_command_is_for_is_said_in_one_line_of_a_terminal() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.chars().count() <= 88, "{}: {about}", command.get_name());
        }
    }

    #[test]
    fn every_option_says_what_it_is_for() {
        let mut root = Cli::command();
        root.build();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            for option in command.get_arguments() {
                let help = option.get_help().map(ToString::to_string).unwrap_or_default();
                let (command, option) = (command.get_name(), option.get_id());
                assert!(help.chars().count() >= 10, "{command} {option}: {help:?}");
            }
        }
    }
}

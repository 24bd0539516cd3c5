//! `rowcast replay`: what pages should hear once more.

mod moment;
mod recording;
mod refused;
mod rejected;
mod report;
mod resync;
mod rows;

use std::io;
use std::path::PathBuf;

use anyhow::Context;

use self::moment::Moment;
use self::refused::Refused;
use super::{Global, run::state_dir, shell};
use crate::config::Loaded;
use crate::deliver::{ByteSize, Deliver, Format, Limits, RejectedFile, Sink, Stdout, pusher};
use crate::notification::Action;
use crate::observe::Observer;
use crate::pipeline::replay::{Rate, RateError};
use crate::postgres::Dsn;
use crate::route::TablePattern;

/// Tells pages once more, after something went wrong
///
/// It is safe beside a running `rowcast run`: it needs no slot, and leaves its
/// position and the outbox alone. Ctrl-C delivers what was read, and prints the
/// command that goes on from there.
///
/// After an incident --resync is what one wants: each page that is open fetches
/// again, in seconds. --table tells of rows one by one, as `updated`, also to
/// listeners that do more than fetch.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what")
        .required(true)
        .multiple(true)
        .args(["resync", "table", "rule", "rejected", "recording"]),
    after_help = "\
Examples:
  rowcast replay --resync                        every page that is open fetches again
  rowcast replay --resync posts                  those that look at posts
  rowcast replay --table posts --since 40m       the rows written in the last 40 minutes
  rowcast replay --table posts --where \"user_id = 7\" --dry-run
  rowcast replay --recording changes.jsonl       what rowcast tail --record wrote down
  rowcast replay --rejected                      what the endpoint has refused"
)]
pub(super) struct Args {
    /// Tell every occupied channel of these rules, or of all, to fetch again
    ///
    /// It takes seconds, is right for deleted rows too, and costs what there are
    /// subscribers, not what there are rows.
    #[arg(long, value_name = "RULE", num_args = 0.., conflicts_with_all = ["table", "rule"])]
    resync: Option<Vec<String>>,
    /// Send again what the endpoint has refused, and keep what it refuses again
    ///
    /// Without FILE, that of `rowcast run`: rejected.jsonl in the state folder.
    #[arg(long, value_name = "FILE", num_args = 0..=1,
        conflicts_with_all = ["resync", "table", "rule", "since", "condition", "action", "after"])]
    rejected: Option<Option<PathBuf>>,
    /// Tell the changes of this recording, which `rowcast tail --record` has made
    ///
    /// By the rules as they are now. Rules that announce only some changes, say how a
    /// row was before, or do not announce updates, and application events, are told
    /// if --rule names them.
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["resync", "rejected", "table", "since", "condition", "action"])]
    recording: Option<PathBuf>,
    /// Tell of the rows of this table as they are now, in the order of its key
    #[arg(long, value_name = "TABLE", help_heading = "Rows")]
    table: Option<TablePattern>,
    /// Of rows written since then: 40m, or a time such as "2026-11-21 14:05"
    ///
    /// A time without an offset is in [database] timezone.
    #[arg(long, value_name = "TIME", help_heading = "Rows", conflicts_with = "resync")]
    since: Option<Moment>,
    /// The column that tells when a row was written
    #[arg(
        long,
        value_name = "COLUMN",
        help_heading = "Rows",
        requires = "since",
        default_value = SINCE_COLUMN
    )]
    since_column: String,
    /// Of rows for which this condition in SQL holds
    #[arg(long = "where", value_name = "SQL", help_heading = "Rows", conflicts_with = "resync")]
    condition: Option<String>,
    /// By this rule alone, also if it is one that would be skipped; may be repeated
    ///
    /// Without it, rules that announce only some changes (`when`, `changed`), say
    /// how a row was before, or do not announce updates are skipped: nobody is to
    /// see ten thousand old toasts.
    #[arg(long, value_name = "RULE", help_heading = "Rows")]
    rule: Vec<String>,
    /// Say that this happened to the rows [default: updated]
    ///
    /// Rows that are deleted softly are told as deleted whatever it is.
    #[arg(long, value_name = "ACTION", help_heading = "Rows", value_parser = action,
        conflicts_with = "resync")]
    action: Option<Action>,
    /// Go on after the row of this key, as an interrupted replay has printed it
    #[arg(long, value_name = "KEY", help_heading = "Rows", conflicts_with = "resync")]
    after: Option<String>,
    /// At most so many notifications: 500/s, 30/m or unlimited
    #[arg(long, value_name = "RATE", default_value = "500/s", value_parser = rate)]
    rate: Pace,
    /// Do not ask, however many rows there are
    #[arg(long, short)]
    yes: bool,
    /// Log in to the database with this instead of [database] url
    ///
    /// Rows are read with it: the role that streams need not be allowed to.
    #[arg(long, value_name = "DSN")]
    url: Option<Dsn>,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the summary, and with --dry-run each notification, as JSON
    #[arg(long)]
    json: bool,
}

/// As Eloquent has it.
const SINCE_COLUMN: &str = "updated_at";
/// More than that, and it asks first.
const ASKS_ABOVE: u64 = 1000;
/// Some thousand rows: what is read long before it is sent may be something else by
/// then, and a stop would take longer.
const MAX_PENDING: ByteSize = ByteSize::mebibytes(1);

/// `None`: as fast as the endpoint takes them. A type of its own, since clap takes
/// an `Option` for what may be left out.
#[derive(Clone, Debug)]
struct Pace(Option<Rate>);

fn rate(text: &str) -> Result<Pace, RateError> {
    if text == "unlimited" { Ok(Pace(None)) } else { Ok(Pace(Some(text.parse()?))) }
}

fn action(text: &str) -> Result<Action, String> {
    let named = Action::ALL.into_iter().find(|action| action.name() == text);
    named.ok_or_else(|| "expected created, updated, deleted or restored".to_owned())
}

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let loaded = global.load_config()?;
    if let Some(file) = &args.recording {
        return Box::pin(recording::run(&args, file, global, &loaded)).await;
    }
    match (&args.resync, &args.rejected) {
        (Some(rules), _) => resync::run(&args, rules, &loaded).await,
        (None, Some(file)) => rejected::run(&args, file.as_deref(), &loaded).await,
        (None, None) => Box::pin(rows::run(&args, global, &loaded)).await,
    }
}

impl Args {
    /// The command that goes on with this after there.
    fn goes_on(&self, global: &Global, what: Vec<(&str, String)>, after: Option<String>) -> String {
        let mut words = vec!["rowcast".to_owned(), "replay".to_owned()];
        let mut option = |name: &str, value: &str| {
            words.extend([name.to_owned(), shell::word(value)]);
        };
        if let Some(config) = &global.config {
            option("--config", &config.display().to_string());
        }
        if self.url.is_some() {
            // It may hold a password.
            option("--url", "(as before)");
        }
        what.iter().for_each(|(name, value)| option(name, value));
        self.rule.iter().for_each(|rule| option("--rule", rule));
        if let Some(action) = self.action {
            option("--action", action.name());
        }
        match &self.rate.0 {
            Some(rate) => option("--rate", &rate.to_string()),
            None => option("--rate", "unlimited"),
        }
        if let Some(after) = after {
            option("--after", &after);
        }
        for (name, is_set) in
            [("--yes", self.yes), ("--dry-run", self.dry_run), ("--json", self.json)]
        {
            words.extend(is_set.then(|| name.to_owned()));
        }
        words.join(" ")
    }

    /// In words, how long so many notifications take at least; nothing if that is not
    /// bound.
    fn time_of(&self, notifications: u64) -> String {
        match self.rate.0.as_ref().filter(|_| !self.dry_run) {
            Some(rate) => format!(", in about {}", report::Time(rate.time_of(notifications))),
            None => String::new(),
        }
    }

    fn dsn(&self, loaded: &Loaded) -> Dsn {
        self.url.clone().unwrap_or_else(|| loaded.config.database.dsn())
    }

    /// To the endpoint, or onto the screen; and where it is written down what the
    /// endpoint refuses.
    fn deliver(&self, loaded: &Loaded) -> anyhow::Result<(Deliver, Option<Refused>)> {
        self.deliver_or_record(loaded, || rejected_file(loaded))
    }

    fn deliver_or_record(
        &self,
        loaded: &Loaded,
        file: impl FnOnce() -> anyhow::Result<RejectedFile>,
    ) -> anyhow::Result<(Deliver, Option<Refused>)> {
        let (sink, refused) = if self.dry_run {
            let format = if self.json { Format::Json } else { Format::Human };
            (Sink::Stdout(Stdout::new(Box::new(io::stdout()), format)), None)
        } else {
            let file = file()?;
            let refused = Refused::before(file.path())?;
            (Sink::Pusher(client(loaded)?, file), Some(refused))
        };
        let limits =
            Limits { max_pending: MAX_PENDING.try_into()?, ..loaded.config.limits.clone() };
        Ok((Deliver::new(sink, &limits, Observer::default()), refused))
    }
}

fn client(loaded: &Loaded) -> anyhow::Result<pusher::Client> {
    // Who joined so late that a list lacks it has fetched what is told once more.
    let config = pusher::Config { nodes: Some(pusher::Nodes::One), ..loaded.config.pusher.clone() };
    pusher::Client::new(&config)
        .map_err(|error| loaded.refuse_option(&format!("pusher.{}", error.option()), &error).into())
}

/// Apart from that of `run`, which must not meet a file that another user has made.
fn rejected_file(loaded: &Loaded) -> anyhow::Result<RejectedFile> {
    let path = state_dir(loaded)?.join("rejected-by-replay.jsonl");
    RejectedFile::open(path, RejectedFile::MAX)
        .context("set [run] state_dir to a folder that this user may write to")
}

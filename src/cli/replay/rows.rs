//! The rows of a table are told as they stand.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::watch;

use super::report::{self, counted};
use super::{ASKS_ABOVE, Args, SINCE_COLUMN};
use crate::change::{Position, Timestamp};
use crate::cli::shell;
use crate::cli::{Global, rules, signal};
use crate::config::Loaded;
use crate::deliver::Progress;
use crate::pipeline::replay::{Again, Catalog, Replay, Replayed, Source, named};
use crate::pipeline::{self, End};
use crate::postgres::catalog::Table;
use crate::route::{Rules, Skipped};
use crate::source;
use crate::source::rows::{Key, Query, Session, Since};

/// Of a page of rows.
const PAGE_ROWS: u32 = 500;

/// What is going to be told, once all is known of it.
struct Plan {
    table: Table,
    rules: Arc<Rules>,
    skipped: Vec<Skipped>,
    query: Query,
    /// The command line's, at its moment: it is the same when it goes on later.
    since: Option<Timestamp>,
    after: Option<Key>,
    rows: u64,
}

pub(super) async fn run(args: &Args, global: &Global, loaded: &Loaded) -> anyhow::Result<()> {
    let database = &loaded.config.database;
    let catalog = Catalog::read(&args.dsn(loaded), database.tenure()).await?;
    let plan = plan(args, loaded, &catalog).await?;
    report::say(&plan.words(args))?;
    if plan.rows == 0 {
        return Ok(());
    }
    if plan.rows > ASKS_ABOVE && !args.dry_run && !args.yes && !is_agreed()? {
        bail!("nothing was sent");
    }

    let shutdown = signal::shutdown()?;
    let started = Instant::now();
    let (mut deliver, refused) = args.deliver(loaded)?;
    let (progress_tx, progress_rx) = watch::channel(Progress::default());
    let bar = bar(args, plan.rows);
    tokio::spawn(advance(bar.clone(), progress_rx));
    let rate = args.rate.0.clone().filter(|_| !args.dry_run);
    let routing = catalog.routing(&plan.rules, database.tenure());
    let page_rows = rate.as_ref().map_or(PAGE_ROWS, |rate| {
        // What is read long before it is sent may be something else by then.
        PAGE_ROWS.min(rate.per_second().ceil() as u32)
    });
    let relation = plan.table.relation.clone().with_whole_old_rows();
    let Catalog { connection, .. } = catalog;
    let (query, after) = (plan.query.clone(), plan.after.clone());
    let session = Session::new(connection, relation, query, after, page_rows);
    let grace = loaded.config.run.grace;
    let replay = Replay { deliver: &mut deliver, rate, grace, progress: progress_tx };
    let again = Again::Changes(Source::Rows(Box::new(session)), Box::new(routing));
    let Replayed { end, failed, notifications, read } = replay.run(again, shutdown).await;
    bar.finish_and_clear();

    let read = read.expect("rows were to be read");
    let is_done = end == End::Delivered;
    let delivered = counted(read.delivered, "row", "rows");
    let refused = refused.and_then(|refused| refused.since());
    if args.json {
        report::print_json(&json!({
            "table": plan.table.relation.table.to_string(),
            "rows": plan.rows,
            "delivered": read.delivered,
            "notifications": notifications,
            "after": read.after.as_ref().map(ToString::to_string),
            "done": is_done,
            "refused": refused,
            "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else if is_done {
        report::done(args, &delivered, notifications, started)?;
    }
    if !is_done {
        let command = plan.command(args, global, read.after.as_ref());
        return Err(report::stopped(&format!("{delivered} delivered"), &command, failed));
    }
    match refused {
        Some(refused) => bail!(refused),
        None => Ok(()),
    }
}

async fn plan(args: &Args, loaded: &Loaded, catalog: &Catalog) -> anyhow::Result<Plan> {
    let all = rules::compile(loaded)?;
    let asked_for = match args.rule.is_empty() {
        true => Vec::new(),
        false => named(&all, &args.rule)?,
    };
    let table = table(args, catalog, &all)?;
    let relation = table.relation.clone().with_whole_old_rows();
    let (told, skipped) = all.of_rows(&relation, &asked_for, args.action);
    loaded.refuse(&told.check(&catalog.relations()))?;
    let why: Vec<String> = skipped.iter().map(words_of).collect();
    if told.is_empty() {
        let all = if why.is_empty() { String::new() } else { format!("\n{}", why.join("\n")) };
        bail!("no rule tells rows of {}{all}", relation.table);
    }
    let findings = catalog.findings(&told).await?;
    if let Some(finding) = findings.iter().find(|finding| finding.is_error()) {
        bail!("{}\nhelp: {}", finding.message, finding.fix);
    }

    let zone = loaded.config.database.timezone.get();
    let since = match &args.since {
        Some(moment) => {
            Some(moment.at(catalog.now, zone).context("--since is past all calendars")?)
        }
        None => None,
    };
    let written = since.map(|moment| Since { column: args.since_column.clone(), moment });
    let written = written.as_ref().map(|since| (since, zone));
    let wanted = told.wanted(&relation);
    let condition = args.condition.as_deref();
    let query = Query::new(table, &wanted, written, condition, &catalog.role).map_err(failed)?;
    let after = match &args.after {
        Some(text) => Some(Key::parse(text, relation.primary_key.len()).context("--after")?),
        None => None,
    };
    let client = &catalog.connection.client;
    let rows = query.count(client, &relation, after.as_ref()).await.map_err(failed)?;
    Ok(Plan { table: table.clone(), rules: Arc::new(told), skipped, query, since, after, rows })
}

/// The one that is named, or the only one that the rules are about.
fn table<'a>(args: &Args, catalog: &'a Catalog, rules: &Rules) -> anyhow::Result<&'a Table> {
    if let Some(pattern) = &args.table {
        let name = pattern.exact().context("--table takes one table, not a glob")?;
        let table = catalog.table(&name);
        return table.with_context(|| format!("the database has no table {name}"));
    }
    let asked_for = named(rules, &args.rule)?;
    let is_theirs = |table: &&Table| {
        let relation = table.relation.clone().with_whole_old_rows();
        // Whether it can say that is told of the one table.
        !rules.of_rows(&relation, &asked_for, None).0.is_empty()
    };
    let tables: Vec<&Table> = catalog.tables.iter().filter(is_theirs).collect();
    match &*tables {
        [table] => Ok(table),
        [] => bail!("{} takes no rows of any table", args.rule.join(", ")),
        tables => {
            let names = tables.iter().map(|table| table.relation.table.to_string());
            let names: Vec<String> = names.collect();
            bail!("say which one by --table: {}", names.join(", "))
        }
    }
}

fn failed(error: crate::source::rows::Error) -> anyhow::Error {
    pipeline::Error::from(source::Error::from(error)).into()
}

pub(super) fn words_of(Skipped { rule, why }: &Skipped) -> String {
    let named = match why.is_for_want_of_a_name() {
        true => format!(" (--rule {} tells it too)", shell::word(rule)),
        false => String::new(),
    };
    format!("Skipped: rule {rule}, since {why}{named}.")
}

impl Plan {
    /// What is going to happen, for people.
    fn words(&self, args: &Args) -> String {
        let table = &self.table.relation.table;
        if self.rows == 0 {
            return format!("{table}: there is no such row, so there is nothing to tell.");
        }
        let rules: Vec<&str> = self.rules.names().map(|name| &**name).collect();
        let most = self.rows * self.rules.events_of_a_row() as u64;
        let mut words = format!(
            "{table}: {}, up to {} by {}",
            counted(self.rows, "row", "rows"),
            counted(most, "notification", "notifications"),
            rules.join(", "),
        );
        words.push_str(&args.time_of(most));
        words
            .push_str(".\nDeleted rows are not in the table: rowcast replay --resync is for them.");
        for skipped in &self.skipped {
            words.push('\n');
            words.push_str(&words_of(skipped));
        }
        words
    }

    /// The command that goes on after this row.
    fn command(&self, args: &Args, global: &Global, after: Option<&Key>) -> String {
        let mut what = vec![("--table", self.table.relation.table.to_string())];
        if let Some(since) = self.since {
            what.push(("--since", since.to_string()));
            if args.since_column != SINCE_COLUMN {
                what.push(("--since-column", args.since_column.clone()));
            }
        }
        what.extend(args.condition.clone().map(|condition| ("--where", condition)));
        args.goes_on(global, what, after.map(ToString::to_string))
    }
}

/// Asks on a terminal. Where there is none, nobody could answer.
pub(super) fn is_agreed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("there is nobody to ask: --yes sends it, --dry-run shows it");
    }
    write!(io::stderr(), "Send them? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Nothing is drawn where stderr is no terminal.
fn bar(args: &Args, rows: u64) -> ProgressBar {
    if args.dry_run || args.json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = "{bar:30} {human_pos} of {human_len} rows, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is right");
    ProgressBar::new(rows).with_style(style.progress_chars("=> "))
}

async fn advance(bar: ProgressBar, mut progress: watch::Receiver<Progress>) {
    while progress.changed().await.is_ok() {
        let position = progress.borrow_and_update().position;
        bar.set_position(position.map_or(0, Position::value));
    }
}

//! What `rowcast tail --record` has written down is told again.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::sync::watch;

use super::report::{self, counted};
use super::rows::{is_agreed, words_of};
use super::{ASKS_ABOVE, Args};
use crate::change::{Item, Parents, Position, Relation};
use crate::cli::{Global, rules, signal};
use crate::config::Loaded;
use crate::deliver::Progress;
use crate::notification::Handoff;
use crate::pipeline::replay::{
    Again, Catalog, Replay, Replayed, Source, named, routing_of_recording,
};
use crate::pipeline::{self, End};
use crate::route::{Router, Rules};
use crate::source::recording::{self, Recording};

/// What is in it, as far as it is to be told.
#[derive(Default)]
struct Contents {
    changes: u64,
    relations: HashMap<u32, Arc<Relation>>,
    /// How many changes there are at or below some positions, which rise.
    marks: Vec<(Position, u64)>,
}

pub(super) async fn run(
    args: &Args,
    file: &Path,
    global: &Global,
    loaded: &Loaded,
) -> anyhow::Result<()> {
    let after = match &args.after {
        Some(text) => Some(Position::new(text.parse().context("--after is no position")?)),
        None => None,
    };
    let all = rules::compile(loaded)?;
    let asked_for = match args.rule.is_empty() {
        true => Vec::new(),
        false => named(&all, &args.rule)?,
    };
    // Wholly, so that nothing is sent of what cannot be read to its end.
    let contents = Contents::of(open(file, after)?)?;
    let relations: Vec<&Relation> = contents.relations.values().map(|it| &**it).collect();
    let (told, skipped) = all.of_changes(&relations, &asked_for);
    let told = Arc::new(told);
    let leaves_out_broadcasts = !told.sends_broadcasts();
    let open = || -> Result<Recording, recording::Error> {
        let recording = open(file, after)?;
        Ok(if leaves_out_broadcasts { recording.without_broadcasts() } else { recording })
    };
    let most = notifications(open()?, &told)?;
    report::say(&words(file, &contents, &told, most, args))?;
    for skipped in &skipped {
        report::say(&words_of(skipped))?;
    }
    if most == 0 {
        return Ok(());
    }
    if most > ASKS_ABOVE && !args.dry_run && !args.yes && !is_agreed()? {
        bail!("nothing was sent");
    }

    let shutdown = signal::shutdown()?;
    let started = Instant::now();
    let (mut deliver, refused) = args.deliver(loaded)?;
    let (progress_tx, progress_rx) = watch::channel(Progress::default());
    let rate = args.rate.0.clone().filter(|_| !args.dry_run);
    let (dsn, tenure) = (args.dsn(loaded), loaded.config.database.tenure());
    // Of what is not looked up nobody is asked: any machine will do.
    let tables = match told.lookups() {
        [] => Vec::new(),
        _ => Catalog::read(&dsn, tenure).await?.relations(),
    };
    let routing = routing_of_recording(dsn, tenure, &told, &tables);
    let grace = loaded.config.run.grace;
    let replay = Replay { deliver: &mut deliver, rate, grace, progress: progress_tx };
    let source = Source::Recording(Box::new(open()?));
    let again = Again::Changes(source, Box::new(routing));
    let Replayed { end, failed, notifications, .. } = replay.run(again, shutdown).await;

    let reached = progress_rx.borrow().position.or(after);
    let is_done = end == End::Delivered;
    let delivered = if is_done { contents.changes } else { contents.at(reached) };
    let told = counted(delivered, "change", "changes");
    let refused = refused.and_then(|refused| refused.since());
    if args.json {
        report::print_json(&json!({
            "recording": file,
            "changes": contents.changes,
            "delivered": delivered,
            "notifications": notifications,
            "after": reached.map(Position::value),
            "done": is_done,
            "refused": refused,
            "seconds": started.elapsed().as_secs_f64(),
        }))?;
    } else if is_done {
        report::done(args, &told, notifications, started)?;
    }
    if !is_done {
        let what = vec![("--recording", file.display().to_string())];
        let command = args.goes_on(global, what, reached.map(|it| it.value().to_string()));
        return Err(report::stopped(&format!("{told} delivered"), &command, failed));
    }
    match refused {
        Some(refused) => bail!(refused),
        None => Ok(()),
    }
}

fn open(file: &Path, after: Option<Position>) -> Result<Recording, recording::Error> {
    Recording::open(file, after)
}

impl Contents {
    fn of(mut recording: Recording) -> Result<Contents, recording::Error> {
        let mut contents = Contents::default();
        while let Some(batch) = recording.next()? {
            let mut reached = None;
            for item in batch.items() {
                match item {
                    Item::Change(change) => {
                        let relation = change.relation;
                        contents.relations.entry(relation.oid).or_insert_with(|| relation.clone());
                        contents.changes += 1;
                    }
                    Item::Truncate { relation, .. } => {
                        contents.relations.entry(relation.oid).or_insert_with(|| relation.clone());
                        contents.changes += 1;
                    }
                    Item::Broadcast { .. } | Item::Missed { .. } => contents.changes += 1,
                    Item::Reached(position) => reached = Some((position, contents.changes)),
                }
            }
            contents.marks.extend(reached);
        }
        Ok(contents)
    }

    /// How many are at or below the position, about: no more than there are.
    fn at(&self, position: Option<Position>) -> u64 {
        let after = self.marks.partition_point(|(mark, _)| Some(*mark) <= position);
        after.checked_sub(1).map_or(0, |last| self.marks[last].1)
    }
}

/// How many there will be, as far as that depends on no other table.
fn notifications(mut recording: Recording, rules: &Arc<Rules>) -> anyhow::Result<u64> {
    let mut router = Router::new(rules.clone());
    let (parents, mut missing) = (Parents::default(), BTreeSet::new());
    let mut count = 0;
    while let Some(batch) = recording.next()? {
        let mut told = Handoff::default();
        let routed = batch.items().try_for_each(|item| match item {
            Item::Change(change) => router.route(&change, &parents, &mut missing, &mut told),
            Item::Truncate { relation, transaction } => {
                router.truncate(relation, transaction, &mut told.resyncs)
            }
            Item::Missed { relation, why, transaction } => {
                router.missed(relation, why, transaction, &mut told.resyncs)
            }
            Item::Broadcast { .. } => {
                count += 1;
                Ok(())
            }
            Item::Reached(_) => Ok(()),
        });
        routed.map_err(pipeline::Error::from)?;
        count += (told.notifications.len() + told.resyncs.len() + missing.len()) as u64;
        missing.clear();
    }
    Ok(count)
}

/// What is going to happen, for people.
fn words(file: &Path, contents: &Contents, told: &Rules, most: u64, args: &Args) -> String {
    let file = file.display();
    if most == 0 {
        return format!("{file}: nothing in it is told by the rules, so there is nothing to send.");
    }
    let rules: Vec<&str> = told.names().map(|name| &**name).collect();
    let mut words = format!(
        "{file}: {}, about {} by {}",
        counted(contents.changes, "change", "changes"),
        counted(most, "notification", "notifications"),
        rules.join(", "),
    );
    words.push_str(&args.time_of(most));
    words.push('.');
    words
}

//! The database: whether it can be reached, and has all that the rules need.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Error};

use super::report::{Check, Report};
use super::topic::{Looked, Topic};
use super::{connection, migrations, server};
use crate::chain;
use crate::config::Loaded;
use crate::pipeline::{Instances, Judgement};
use crate::postgres::functions::{self, Functions};
use crate::postgres::outbox::{Outbox, Room};
use crate::postgres::{Capture, Connection};
use crate::route::{Problem, Rules};

/// For the catalogs, which a lock may keep from being read.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn check(loaded: &Loaded, rules: &Rules, report: &mut Report) {
    report.section("database");
    let Some(connection) = connection::connect(&loaded.config.database, report).await else {
        return;
    };
    let looked = timeout(ANSWER_WITHIN, look(&connection, loaded, rules, report)).await;
    let why = match looked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => chain::line(&error),
        Err(_) => format!("no answer in {} s: is one locked?", ANSWER_WITHIN.as_secs()),
    };
    report.add(Check::fails("catalogs", why, None));
}

async fn look(
    connection: &Connection,
    loaded: &Loaded,
    rules: &Rules,
    report: &mut Report,
) -> Result<(), Error> {
    let (config, client) = (&loaded.config, &connection.client);
    let capture = config.database.capture;
    // First: an older server may not understand the other questions.
    let server = connection.read(server::identify(client, capture)).await?;
    let is_usable = !server.is_failure();
    report.add(server);
    if !is_usable {
        return Ok(());
    }
    let instances = Instances { takeover: config.run.takeover, failover: config.run.failover };
    let judged = Judgement::read(client, &config.database, rules, instances);
    let judged = connection.read(Box::pin(judged)).await?;
    let looked = Looked { config, rules, judged: &judged };
    let checks = connection.read(Box::pin(checks(client, looked))).await?;
    // Last: it takes one of the places that were counted. What a role may not do is
    // told by itself.
    if capture == Capture::Wal && judged.snapshot.server.may_replicate {
        report.add(connection::replication(connection, config.database.dsn()).await);
    }
    checks.into_iter().for_each(|check| report.add(check));

    report.section("rules");
    for check in problems(loaded, rules, &judged) {
        report.add(check);
    }
    Ok(())
}

async fn checks(client: &Client, looked: Looked<'_>) -> Result<Vec<Check>, Error> {
    let snapshot = &looked.judged.snapshot;
    let capture = looked.config.database.capture;
    let mut checks: Vec<Check> =
        Topic::ALL.into_iter().flat_map(|topic| topic.checks(looked)).collect();
    checks.push(match capture {
        Capture::Wal => server::places(client, &snapshot.server).await?,
        Capture::Triggers => fill(client, looked).await?,
    });
    checks.push(server::old_transactions(client, snapshot, capture).await?);
    if capture == Capture::Wal {
        checks.extend(migrations::checks(looked));
    }
    checks.push(functions(looked));
    Ok(checks)
}

/// Whether the outbox has room, and who empties it.
async fn fill(client: &Client, looked: Looked<'_>) -> Result<Check, Error> {
    const NAME: &str = "outbox rows";
    let max_rows = looked.config.limits.max_outbox_rows.get();
    let unknown = || Ok(Check::unknown(NAME, "they cannot be counted"));
    let can_be_read = |outbox: &&Outbox| outbox.objects.iter().all(|object| object.readable);
    let outbox = looked.judged.snapshot.outbox.as_ref();
    let Some(outbox) = outbox.filter(can_be_read) else { return unknown() };
    let reader = match &outbox.drained_by {
        Some(backend) => {
            let application = backend.application.as_deref().unwrap_or("without a name");
            format!("backend {} ({application}) empties it", backend.pid)
        }
        None => "nobody empties it now".to_owned(),
    };
    let Some(room) = Room::read(client).await? else { return unknown() };
    let found = format!("{} of {max_rows} (max_outbox_rows); {reader}", room.rows);
    let is_filling = room.left.is_some_and(|left| left < max_rows / 2);
    Ok(match is_filling {
        false => Check::holds(NAME, found),
        true => Check::advice(
            NAME,
            format!(
                "{found}. Once it is full, changes are passed over, and pages are told to fetch \
                 again instead"
            ),
            "start rowcast, or see below whether the endpoint takes what is sent".to_owned(),
        ),
    })
}

fn functions(looked: Looked<'_>) -> Check {
    const NAME: &str = "functions";
    let Looked { config, rules, judged } = looked;
    let fix = || "rowcast setup".to_owned();
    match judged.snapshot.functions {
        Functions::InOrder(capture) if capture == config.database.capture => {
            Check::holds(NAME, "rowcast.context and rowcast.broadcast can be called by everyone")
        }
        _ if rules.sends_broadcasts() => Check::fails(
            NAME,
            format!("{} are not as they should be: [broadcast] sends nothing", functions::NAMES),
            fix(),
        ),
        Functions::Absent => Check::advice(
            NAME,
            format!("{} are not there: no application can say who changes what", functions::NAMES),
            fix(),
        ),
        Functions::Other | Functions::InOrder(_) => Check::advice(
            NAME,
            format!("{} are not as this version makes them", functions::NAMES),
            fix(),
        ),
    }
}

/// The rules against the tables. What replica identities lack has been told by
/// table, with what `setup` does about it.
fn problems(loaded: &Loaded, rules: &Rules, judged: &Judgement) -> Vec<Check> {
    const NAME: &str = "rules";
    let count = loaded.config.rule.len();
    if count == 0 && !rules.sends_broadcasts() {
        let found = "there is none, so nothing is told";
        return vec![Check::fails(NAME, found, "a [[rule]] with its table".to_owned())];
    }
    let whole = judged.relations.iter().cloned().map(|relation| relation.with_whole_old_rows());
    let with_whole_rows = rules.check(&whole.collect::<Vec<_>>());
    let is_of_rule = |problem: &&Problem| !problem.is_error() || with_whole_rows.contains(problem);
    let checks: Vec<Check> = judged
        .problems
        .iter()
        .filter(is_of_rule)
        .map(|problem| {
            let place = loaded.locate(problem.rule_index, problem.option);
            let found = format!("{problem} ({place})");
            match problem.is_error() {
                true => Check::fails(NAME, found, problem.fix.clone()),
                false => Check::advice(NAME, found, problem.fix.clone()),
            }
        })
        .collect();
    match (checks.is_empty(), count) {
        (false, _) => checks,
        (true, 1) => vec![Check::holds(NAME, "one, as its tables allow")],
        (true, count) => vec![Check::holds(NAME, format!("{count}, as their tables allow"))],
    }
}

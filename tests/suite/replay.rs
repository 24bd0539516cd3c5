//! `rowcast replay`: what pages are told once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use rowcast::deliver::pusher::Server;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    client::{Heard, Listener},
    cluster::Version,
    database::Database,
    endpoint::{Endpoint, Event, Fault},
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};

fn sockudo_toml(sockudo: &Sockudo) -> String {
    format!(
        "[pusher]\nurl = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n",
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET,
    )
}

/// A rowcast that can make no file larger than that.
fn start_with_little_disk(rowcast: &Rowcast, bytes: u64, arguments: &[&str]) -> Process {
    let mut command = Command::new("env");
    command
        .args(["--ignore-signal=XFSZ", "prlimit"])
        .arg(format!("--fsize={bytes}"))
        .arg(env!("CARGO_BIN_EXE_rowcast"))
        .args(arguments)
        .env("HOME", rowcast.folder());
    Process::spawn(&mut command, rowcast.folder())
}

/// The arguments of the command that the process says goes on.
fn goes_on(replay: &Process) -> Vec<String> {
    let said = replay.stderr.all();
    let command = said.iter().find(|line| line.trim().starts_with("rowcast replay "));
    let command = command.unwrap_or_else(|| panic!("no command goes on: {said:?}"));
    command.split_whitespace().skip(1).map(ToOwned::to_owned).collect()
}

fn restart(rowcast: &Rowcast, arguments: &[String]) -> Process {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    rowcast.start(&arguments)
}

/// Without anything that `setup` makes: replay needs none of it.
fn configured(database: &Database, pusher: &str, rules: &str) -> Rowcast {
    let config = format!(
        "{}{pusher}[limits]\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\n{rules}",
        database.toml()
    );
    Rowcast::new(&config)
}

#[tokio::test]
async fn a_resync_on_request_reaches_the_pages_of_the_rules_named_and_needs_no_slot() {
    let database = Database::on(Version::V15).await;
    database
        .psql("create table posts (id int primary key); create table users (id int primary key)")
        .await;
    let sockudo = Sockudo::shared().await;
    let name = &database.name;
    let (post, user) = (format!("private-{name}.posts.7"), format!("private-{name}.users"));
    let page = Listener::join(sockudo, &[&post, &user]).await;
    let rules = format!(
        "[[rule]]\ntable = 'posts'\nchannels = 'private-{name}.posts.{{{{ id }}}}'\n\
         [[rule]]\ntable = 'users'\nchannels = '{user}'\n"
    );
    let rowcast = configured(&database, &sockudo_toml(sockudo), &rules);
    let is_resync = |data: &Value| data["action"] == "resync" && data["reason"] == "replay";

    let dry = rowcast.start(&["replay", "--resync", "--dry-run"]);
    assert_eq!(dry.exit_code(SOON).await, 0, "{:?}", dry.stderr.all());
    assert_eq!(dry.stdout.all().len(), 2, "{:?}", dry.stdout.all());

    let some = rowcast.start(&["replay", "--resync", "posts"]);
    assert_eq!(some.exit_code(SOON).await, 0, "{:?}", some.stderr.all());
    let is_told = |heard: &Heard| heard.channel == post && is_resync(&heard.data);
    page.wait_for(SOON, "posts are told", is_told).await;

    let all = rowcast.start(&["replay", "--resync", "--json"]);
    assert_eq!(all.exit_code(SOON).await, 0, "{:?}", all.stderr.all());
    let is_last = |heard: &Heard| heard.event == "UserDeleted" && is_resync(&heard.data);
    page.wait_for(SOON, "users are told", is_last).await;
    let summary: Value = serde_json::from_str(&all.stdout.all()[0]).expect("JSON");
    assert_eq!(summary["told"], serde_json::json!(["posts", "users"]));
    let of_users = page.heard().into_iter().filter(|heard| heard.channel == user).count();
    assert_eq!(of_users, 3, "created, updated and deleted, once: {:?}", page.heard());

    let unknown = rowcast.start(&["replay", "--resync", "comments"]);
    assert_eq!(unknown.exit_code(SOON).await, 1);
    let said = unknown.stderr.all().join("\n");
    assert!(said.contains("no rule is named \"comments\"; there are posts, users"), "{said}");
}

fn ids(endpoint: &Endpoint) -> Vec<u64> {
    let accepted = endpoint.accepted();
    accepted.iter().map(|it| it.event.data("id").as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_hundred_thousand_rows_are_told_though_it_is_interrupted_and_few_of_them_twice() {
    const ROWS: u64 = 100_000;
    let database = Database::on(Version::V15).await;
    database
        .psql(&format!(
            "create table posts (id int primary key, title text);
             insert into posts select i, 'a' from generate_series(1, {ROWS}) i"
        ))
        .await;
    let endpoint = Endpoint::start(Server::Reverb);
    let pusher = format!("[pusher]\n{}", endpoint.toml());
    let rowcast = configured(&database, &pusher, "[[rule]]\ntable = 'posts'\nchannels = 'posts'\n");

    let unasked = rowcast.start(&["replay", "--table", "posts"]);
    assert_eq!(unasked.exit_code(SOON).await, 1);
    let said = unasked.stderr.all().join("\n");
    assert!(said.contains("public.posts: 100,000 rows, up to 100,000 notifications"), "{said}");
    assert!(said.contains("in about 3 min 20 s") && said.contains("--yes sends it"), "{said}");
    assert_eq!(endpoint.accepted_count(), 0);

    let command = ["replay", "--table", "posts", "--rate", "unlimited", "--yes"];
    let mut words: Vec<String> = command.map(ToOwned::to_owned).into();
    for stop_at in [20_000, 60_000] {
        let replay = restart(&rowcast, &words);
        for count in (0..=stop_at).step_by(5_000) {
            endpoint.wait_for("a part is told", |accepted| accepted.len() >= count).await;
        }
        replay.signal(Signal::INT);
        assert_eq!(replay.exit_code(SOON).await, 1, "{:?}", replay.stderr.all());
        words = goes_on(&replay);
    }
    let last = restart(&rowcast, &words);
    assert_eq!(last.exit_code(10 * SOON).await, 0, "{:?}", last.stderr.all());

    let told = ids(&endpoint);
    let distinct: BTreeSet<u64> = told.iter().copied().collect();
    assert_eq!(distinct, (1..=ROWS).collect());
    let twice = told.len() - distinct.len();
    assert!(twice <= 2000, "{twice} rows were told again");
    assert!(endpoint.resyncs().is_empty());
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_replay_whose_delivery_fails_says_what_goes_on_after_what_was_told() {
    let database = Database::on(Version::V15).await;
    database
        .psql(
            "create table posts (id int primary key, title text);
             insert into posts select i, 'a' from generate_series(1, 10) i",
        )
        .await;
    let endpoint = Endpoint::start(Server::Any);
    let is_fifth = |event: &Event| event.data("id") == 5;
    endpoint.choose(move |events| events.iter().any(is_fifth).then(|| Fault::status(400)));
    let pusher = format!("[pusher]\n{}", endpoint.toml());
    let rule = "[[rule]]\ntable = 'posts'\nchannels = 'posts.{{ id }}'\n";
    let rowcast = configured(&database, &pusher, rule);

    let command = ["replay", "--table", "posts", "--rate", "5/s"];
    // What is refused cannot be written down.
    let replay = start_with_little_disk(&rowcast, 0, &command);
    assert_eq!(replay.exit_code(SOON).await, 1, "{:?}", replay.stderr.all());
    let said = replay.stderr.all().join("\n");
    assert!(
        said.contains("stopped: ") && said.contains("a refused notification cannot be"),
        "{said}"
    );
    let words = goes_on(&replay);
    assert!(words.contains(&"--after".to_owned()), "{words:?}");
    endpoint.heal();
    let last = restart(&rowcast, &words);
    assert_eq!(last.exit_code(SOON).await, 0, "{:?}", last.stderr.all());
    assert_eq!(BTreeSet::from_iter(ids(&endpoint)), (1..=10).collect());
}

const RULES: &str = "[[rule]]
table = 'posts'
channels = 'posts.{{ id }}'
where = \"status == 'public'\"
[[rule]]
name = 'toasts'
table = 'posts'
channels = 'toasts'
when = \"old.title != new.title\"
[[rule]]
name = 'births'
table = 'posts'
channels = 'births'
on = ['created']
";

#[tokio::test]
async fn rows_are_told_as_they_stand_by_rules_that_only_have_pages_fetch() {
    let database = Database::on(Version::V15).await;
    database
        .psql(
            "create table posts (shop int, id int, title text, status text, deleted_at timestamp,
                                 updated_at timestamp, primary key (shop, id));
             insert into posts
             select 1, i, 'a', case when i = 3 then 'draft' else 'public' end,
                    case when i = 4 then now() end, (now() at time zone 'Europe/Berlin') - interval '1h' * i
             from generate_series(0, 9) i",
        )
        .await;
    let endpoint = Endpoint::start(Server::Any);
    let pusher = format!("timezone = 'Europe/Berlin'\n[pusher]\n{}", endpoint.toml());
    let rowcast = configured(&database, &pusher, RULES);

    let dry =
        rowcast.start(&["replay", "--table", "posts", "--since", "90m", "--dry-run", "--json"]);
    assert_eq!(dry.exit_code(SOON).await, 0, "{:?}", dry.stderr.all());
    let printed = dry.stdout.all();
    assert_eq!(printed.len(), 3, "two notifications and the summary: {printed:?}");
    assert_eq!(endpoint.requests(), 0);

    let all = rowcast.start(&["replay", "--table", "posts", "--where", "id <> 9 -- nor 9"]);
    assert_eq!(all.exit_code(SOON).await, 0, "{:?}", all.stderr.all());
    let said = all.stderr.all().join("\n");
    assert!(
        said.contains("Skipped: rule births, since it does not announce updates (--rule births"),
        "{said}"
    );
    assert!(said.contains("Skipped: rule toasts"), "{said}");
    assert!(said.contains("Done: 9 rows, 8 notifications sent"), "{said}");
    let told: BTreeMap<String, String> = endpoint
        .accepted()
        .into_iter()
        .map(|it| (it.event.channel.clone(), it.event.name.clone()))
        .collect();
    assert_eq!(told.len(), 8, "all but the draft and what --where leaves out: {told:?}");
    for (channel, event) in &told {
        let expected = if channel == "posts.4" { "PostDeleted" } else { "PostUpdated" };
        assert_eq!(event, expected, "{channel}");
    }
    assert!(endpoint.accepted().iter().all(|it| it.event.data("changed").is_null()));

    endpoint.forget();
    let after = ["replay", "--rule", "births", "--after", r#"["1","7"]"#];
    let births = rowcast.start(&after);
    assert_eq!(births.exit_code(SOON).await, 0, "{:?}", births.stderr.all());
    let told: Vec<_> = endpoint.accepted().into_iter().map(|it| it.event.name).collect();
    assert_eq!(told, ["PostCreated", "PostCreated"]);

    for (arguments, expected) in [
        (vec!["--table", "nowhere"], "the database has no table public.nowhere"),
        (vec!["--table", "posts", "--where", "nothing = 1"], "column \"nothing\" does not exist"),
        (
            vec!["--table", "posts", "--where", "true); drop table posts; select (true"],
            "syntax error",
        ),
        (vec!["--table", "posts", "--where", "id < 5) or (id > 2"], "syntax error"),
        (
            vec!["--table", "posts", "--since", "1h", "--since-column", "title"],
            "one of deleted_at, updated_at",
        ),
        (vec!["--rule", "births", "--action", "updated"], "it does not announce updated"),
    ] {
        let refused = rowcast.start(&[vec!["replay"], arguments.clone()].concat());
        assert_eq!(refused.exit_code(SOON).await, 1, "{arguments:?}");
        let said = refused.stderr.all().join("\n");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    endpoint.assert_strict();
}

#[tokio::test]
async fn who_may_not_read_the_rows_is_told_what_to_grant() {
    let database = Database::on(Version::V15).await;
    let role = database.role();
    database
        .psql(&format!(
            "create role {role} login; create table posts (id int primary key, title text)"
        ))
        .await;
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let rowcast = Rowcast::new(&format!(
        "[database]\nurl = '{url}'\n[pusher]\nurl = 'http://127.0.0.1:9'\napp_id = '1'\nkey = 'k'\nsecret = 's'\n\
         [run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = 'posts'\n"
    ));
    let refused = rowcast.start(&["replay", "--table", "posts"]);
    assert_eq!(refused.exit_code(SOON).await, 1);
    let said = refused.stderr.all().join("\n");
    assert!(said.contains(&format!("role {role} may not read the rows of public.posts")), "{said}");
    let grant = format!("GRANT SELECT (\"id\") ON \"public\".\"posts\" TO \"{role}\";");
    assert!(said.contains(&grant), "{said}");
    database.psql(&grant).await;
    let granted = rowcast.start(&["replay", "--table", "posts"]);
    assert_eq!(granted.exit_code(SOON).await, 0, "{:?}", granted.stderr.all());
    let owner = rowcast.start(&[
        "replay",
        "--table",
        "posts",
        "--where",
        "title = 'a'",
        "--url",
        &database.url(),
    ]);
    assert_eq!(owner.exit_code(SOON).await, 0, "{:?}", owner.stderr.all());
}

/// What stands in the file of a notification that the endpoint has refused.
fn refused_line(id: u32) -> String {
    format!(
        r#"{{"at":"2026-11-20T21:34:00.123456Z","rule":"posts","event":"PostUpdated","channels":["posts.{id}"],"entity":"post","id":{id},"action":"updated","data":{{"id":{id}}},"position":7,"reason":"it was bad"}}"#
    )
}

#[tokio::test]
async fn what_was_refused_is_sent_again_and_stays_only_if_it_is_refused_again() {
    let endpoint = Endpoint::start(Server::Any);
    let bad = |event: &Event| event.channel == "posts.2";
    endpoint.choose(move |events| events.iter().any(bad).then(|| Fault::status(400)));
    let rowcast = Rowcast::new(&format!(
        "[pusher]\n{}[run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = 'posts'\n",
        endpoint.toml()
    ));
    let path = rowcast.folder().join("state/rejected.jsonl");
    fs::create_dir(rowcast.folder().join("state")).expect("the folder is writable");
    let lines: Vec<String> = (1..=4).map(refused_line).collect();
    fs::write(&path, lines.join("\n") + "\nno line of ours\n").expect("the folder is writable");

    let dry = rowcast.start(&["replay", "--rejected", "--dry-run"]);
    assert_eq!(dry.exit_code(SOON).await, 0, "{:?}", dry.stderr.all());
    assert_eq!((dry.stdout.all().len(), endpoint.requests()), (4, 0));

    let again = rowcast.start(&["replay", "--rejected"]);
    assert_eq!(again.exit_code(SOON).await, 1, "{:?}", again.stderr.all());
    let said = again.stderr.all().join("\n");
    assert!(said.contains("1 line without anything that could be sent"), "{said}");
    assert!(said.contains("some were refused again"), "{said}");
    assert_eq!(BTreeSet::from_iter(ids(&endpoint)), [1, 3, 4].into());
    assert!(endpoint.resyncs().is_empty(), "pages were told when it was refused first");
    let kept = fs::read_to_string(&path).expect("it is there");
    let kept: Vec<&str> = kept.lines().collect();
    let [other, refused] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(*other, "no line of ours");
    let refused: Value = serde_json::from_str(refused).expect("JSON");
    assert_eq!((&refused["id"], &refused["data"]["id"]), (&2.into(), &2.into()));
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("400")), "{refused}");

    endpoint.heal();
    let file = path.to_str().expect("it is UTF-8");
    let last = rowcast.start(&["replay", "--rejected", file, "--json"]);
    assert_eq!(last.exit_code(SOON).await, 0, "{:?}", last.stderr.all());
    assert_eq!(ids(&endpoint).len(), 4);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "no line of ours\n");
}

#[tokio::test]
async fn what_was_sent_before_a_failure_is_not_among_the_refused_any_more() {
    let endpoint = Endpoint::start(Server::Any);
    let is_third = |event: &Event| event.channel == "posts.3";
    endpoint.choose(move |events| events.iter().any(is_third).then(|| Fault::status(400)));
    let rowcast = Rowcast::new(&format!(
        "[pusher]\n{}[run]\nstate_dir = 'state'\n[[rule]]\ntable = 'posts'\nchannels = 'posts'\n",
        endpoint.toml()
    ));
    let text: String = (1..=4).map(|id| refused_line(id) + "\n").collect();
    let path = rowcast.folder().join("state/rejected.jsonl");
    fs::create_dir(rowcast.folder().join("state")).expect("the folder is writable");
    fs::write(&path, &text).expect("the folder is writable");

    // Each is answered before the next one is sent.
    let command = ["replay", "--rejected", "--rate", "1/s"];
    let replay = start_with_little_disk(&rowcast, text.len() as u64, &command);
    assert_eq!(replay.exit_code(SOON).await, 1, "{:?}", replay.stderr.all());
    let said = replay.stderr.all().join("\n");
    assert!(said.contains("stopped: 2 notifications are left"), "{said}");
    let left: String = (3..=4).map(|id| refused_line(id) + "\n").collect();
    assert_eq!(fs::read_to_string(&path).expect("it is there"), left);
    endpoint.heal();
    let last = restart(&rowcast, &goes_on(&replay));
    assert_eq!(last.exit_code(SOON).await, 0, "{:?}", last.stderr.all());
    assert_eq!(BTreeSet::from_iter(ids(&endpoint)), (1..=4).collect());
}

//! What a transaction says of itself, and application events: who changes what, who need not hear of it, and what
//! strangers cannot do.

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    capture::{Capture, over_both},
    client::{Heard, Listener},
    cluster::{Version, on_every_version},
    database::Database,
    endpoint::{Accepted, Endpoint},
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::SOON,
};

mod functions;

const POSTS: &str = "create table posts (id int primary key)";
const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['posts']\ncoalesce = false\n\
                    data = { id = '{{ id }}', by = '{{ context.user_id }}' }\n";
const BROADCAST: &str =
    "[broadcast]\nchannels = ['private-admin.*']\nevents = ['App\\Events\\*']\n";

fn config(database: &str, pusher: &str, rules: &str) -> String {
    format!(
        "{database}[pusher]\n{pusher}[limits]\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\n{rules}"
    )
}

struct Scene {
    database: Database,
    endpoint: Endpoint,
    rowcast: Rowcast,
}

impl Scene {
    /// Set up.
    async fn on(version: Version, rules: &str) -> Scene {
        Scene::over(Capture::Wal, version, rules).await
    }

    async fn over(capture: Capture, version: Version, rules: &str) -> Scene {
        let database = Database::on(version).await;
        database.psql(POSTS).await;
        let endpoint = Endpoint::start(Server::Reverb);
        let toml = database.toml_over(capture).await;
        let rowcast = Rowcast::new(&config(&toml, &endpoint.toml(), rules));
        database.set_up(&rowcast, capture).await;
        Scene { database, endpoint, rowcast }
    }

    async fn run(&self) -> Process {
        let run = self.rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }

    async fn stop(&self, run: &Process) {
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        self.endpoint.assert_strict();
    }

    async fn hears(&self, event: &str) {
        let is_it = |accepted: &Accepted| accepted.event.name == event;
        self.endpoint.wait_for(event, |accepted| accepted.iter().any(is_it)).await;
    }

    /// What was told one by one, in order: event, data and the connection that was left out.
    fn told(&self) -> Vec<(String, Value, Option<String>)> {
        let told = self.endpoint.accepted().into_iter().map(|Accepted { event, .. }| {
            let data = serde_json::from_str(&event.data).expect("data is JSON");
            (format!("{} on {}", event.name, event.channel), data, event.socket_id)
        });
        told.collect()
    }
}

on_every_version! {
    async fn what_is_committed_is_told_with_what_was_said_and_what_is_rolled_back_was_never_said(version: Version) {
        over_both(async |capture| what_is_committed_is_told(version, capture).await).await;
    }
}

async fn what_is_committed_is_told(version: Version, capture: Capture) {
    let scene = Scene::over(capture, version, &[BROADCAST, RULE].concat()).await;
    let run = scene.run().await;
    scene
            .database
            .psql(
                r#"insert into posts values (1);
                   begin;
                   insert into posts values (2);
                   select rowcast.context('{"user_id":7,"socket_id":"12.34"}');
                   insert into posts values (3);
                   savepoint s;
                   select rowcast.context('{"user_id":8}');
                   select rowcast.broadcast('private-admin.7', 'App\Events\Never', '{}');
                   insert into posts values (90);
                   rollback to s;
                   insert into posts values (4);
                   select rowcast.broadcast('private-admin.7', 'App\Events\Paid', '{"order":2}');
                   select rowcast.context('{"user_id":"Zoë"}');
                   insert into posts values (5);
                   commit;
                   begin;
                   select rowcast.context('{"user_id":9}');
                   insert into posts values (91);
                   select rowcast.broadcast('private-admin.7', 'App\Events\Never', '{}');
                   rollback;
                   insert into posts values (6);
                   begin read only;
                   select rowcast.context('{"user_id":9}');
                   select rowcast.broadcast('private-admin.7', 'App\Events\Never', '{}');
                   commit;
                   select rowcast.context(null);
                   select rowcast.broadcast('private-admin.7', 'App\Events\Last', '{"n":12345678901234567890.10}');"#,
            )
            .await;
    scene.hears(r"App\Events\Last").await;
    scene.hears("PostCreated").await;
    scene.database.delivered(capture).await;
    scene.stop(&run).await;

    let mut told = scene.told();
    told.sort_by_key(|(name, data, _)| (name.clone(), data["id"].as_i64()));
    let post = |id: i64, by: Value, socket: Option<&str>| {
        (
            "PostCreated on posts".to_owned(),
            json!({ "id": id, "by": by }),
            socket.map(str::to_owned),
        )
    };
    let socket = Some("12.34");
    let last: Value = serde_json::from_str(r#"{"n":12345678901234567890.10}"#).unwrap();
    assert_eq!(
        told,
        [
            (r"App\Events\Last on private-admin.7".to_owned(), last, None),
            (
                r"App\Events\Paid on private-admin.7".to_owned(),
                json!({ "order": 2 }),
                socket.map(str::to_owned)
            ),
            post(1, Value::Null, None),
            post(2, Value::Null, None),
            post(3, json!(7), socket),
            post(4, json!(7), socket),
            post(5, json!("Zoë"), None),
            post(6, Value::Null, None),
        ]
    );
    let exact = scene.endpoint.accepted().into_iter().find(|a| a.event.name.ends_with("Last"));
    assert_eq!(exact.expect("it was told").event.data, r#"{"n": 12345678901234567890.10}"#);
}

#[tokio::test]
async fn events_of_a_channel_keep_their_order_and_say_each_what_they_say() {
    over_both(async |capture| events_keep_their_order(capture).await).await;
}

async fn events_keep_their_order(capture: Capture) {
    let scene = Scene::over(capture, Version::DEFAULT, &[BROADCAST, RULE].concat()).await;
    let run = scene.run().await;
    scene
        .database
        .psql(
            r"do $$ begin
                  for n in 1..300 loop
                      perform rowcast.broadcast('private-admin.' || n % 3, 'App\Events\Counted', jsonb_build_object('n', n));
                      commit;
                  end loop;
              end $$",
        )
        .await;
    scene.endpoint.wait_for("all 300", |accepted| accepted.len() >= 300).await;
    scene.stop(&run).await;
    for channel in ["private-admin.0", "private-admin.1", "private-admin.2"] {
        let accepted = scene.endpoint.accepted().into_iter().filter(|a| a.event.channel == channel);
        let numbers: Vec<i64> = accepted.filter_map(|a| a.event.data("n").as_i64()).collect();
        assert_eq!(numbers.len(), 100, "none is folded");
        assert!(numbers.is_sorted(), "{channel}: {numbers:?}");
    }
}

#[tokio::test]
async fn two_browsers_share_a_channel_and_the_one_that_made_the_change_is_not_told() {
    over_both(async |capture| two_browsers_share_a_channel(capture).await).await;
}

async fn two_browsers_share_a_channel(capture: Capture) {
    let database = Database::on(Version::V15).await;
    database.psql(POSTS).await;
    let sockudo = Sockudo::shared().await;
    let list = format!("private-{}", database.name);
    let admin = format!("private-{}-admin.7", database.name);
    let channels = [&*list, &*admin];
    let author = Listener::join(sockudo, &channels).await;
    let other = Listener::join(sockudo, &channels).await;
    let pusher = format!(
        "url = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n",
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET
    );
    let rules = format!(
        "[broadcast]\nchannels = ['private-{}-admin.*']\nevents = ['*']\n\
         [[rule]]\ntable = 'posts'\nchannels = ['{list}']\n",
        database.name
    );
    let toml = database.toml_over(capture).await;
    let rowcast = Rowcast::new(&config(&toml, &pusher, &rules));
    database.set_up(&rowcast, capture).await;
    let run = rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    // The resync of the first start is told to both, before anything else is.
    let is_resync = |heard: &Heard| heard.channel == list && heard.data["action"] == "resync";
    author.wait_for(SOON, "the first resync", is_resync).await;

    let socket = author.socket_id().await;
    let write = |socket: &str, id: i32| {
        format!(
            "begin; select rowcast.context('{{\"socket_id\":\"{socket}\"}}');
             insert into posts values ({id});
             select rowcast.broadcast('{admin}', 'Noted', '{{\"id\":{id}}}'); commit;"
        )
    };
    database.psql(&write(&socket, 1)).await;
    // A connection that is not there excludes nobody.
    database.psql(&write("1.1", 2)).await;
    let on = |channel: &str, id: i32| {
        let channel = channel.to_owned();
        move |heard: &Heard| heard.channel == channel && heard.data["id"] == id
    };
    for channel in [&list, &admin] {
        other.wait_for(SOON, "the change that it did not make", on(channel, 1)).await;
        other.wait_for(SOON, "what the other browser also hears", on(channel, 2)).await;
        // Order is kept within the channel of an event, and the row has been sent before row 2.
        author.wait_for(SOON, "what another made", on(channel, 2)).await;
    }
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    sockudo.publish(&[&list, &admin], "last", &json!({})).await;
    author.wait_for(SOON, "the last event", |heard| heard.event == "last").await;
    let own: Vec<Heard> =
        author.heard().into_iter().filter(|heard| heard.data["id"] == 1).collect();
    assert!(own.is_empty(), "{own:?}");
}

/// What a role that may do nothing but log in can send anyone.
const STRANGE: &str = r#"
    select pg_logical_emit_message(true, 'rowcast', 'a-secret-of-strangers');
    select pg_logical_emit_message(true, 'rowcast', '"a-secret-of-strangers"');
    select pg_logical_emit_message(true, 'rowcast', '{"socket_id":"a-secret-of-strangers"}');
    select pg_logical_emit_message(true, 'rowcast', '{"a":"' || repeat('x', 5000) || '"}');
    select pg_logical_emit_message(true, 'rowcast', '\x00ff00'::bytea);
    select pg_logical_emit_message(true, 'rowcast.broadcast', 'a-secret-of-strangers');
    select pg_logical_emit_message(true, 'rowcast.broadcast', '{"channel":"private-admin.7"}');
    select pg_logical_emit_message(true, 'rowcast.broadcast', repeat('x', 3000000));
    select pg_logical_emit_message(false, 'rowcast', '{"user_id":1}');
    select pg_logical_emit_message(false, 'rowcast.broadcast', '{"channel":"private-admin.7","event":"App\\Events\\A","data":{}}');
    select pg_logical_emit_message(true, 'others', repeat('x', 50000000));
    select pg_logical_emit_message(false, 'others', repeat('x', 50000000));
    select rowcast.broadcast('private-users.7', 'App\Events\A', '"a-secret-of-strangers"');
    select rowcast.broadcast('private-encrypted-admin.7', 'App\Events\A');
    select rowcast.broadcast('private-admin.7.secret', 'App\Events\A');
    select rowcast.broadcast('private-admin.7', 'App\Jobs\A');
    select rowcast.broadcast('private admin', 'App\Events\A');
    select rowcast.broadcast('private-admin.7', 'pusher:error');
    select rowcast.broadcast(null, null, null);
    do $$ begin
        for n in 1..500 loop
            perform pg_logical_emit_message(true, 'rowcast', 'again');
            perform rowcast.broadcast('private-users.' || n, 'App\Events\A');
        end loop;
    end $$;
"#;

#[tokio::test]
async fn strangers_send_nothing_and_are_counted_not_quoted() {
    let scene = Scene::on(Version::DEFAULT, &[BROADCAST, RULE].concat()).await;
    let run = scene.run().await;
    let role = format!("stranger_{}", scene.database.name);
    scene.database.psql(&format!("create role {role}; set role {role}; {STRANGE}")).await;
    scene.database.psql("reset role; insert into posts values (1)").await;
    scene.hears("PostCreated").await;
    let memory = run.peak_memory_bytes();
    assert!(memory < 128_000_000, "{memory}");
    scene.stop(&run).await;
    assert_eq!(
        scene.told(),
        [("PostCreated on posts".to_owned(), json!({ "id": 1, "by": null }), None)]
    );

    let log = run.stderr.all().join("\n");
    assert!(!log.contains("a-secret-of-strangers") && !log.contains("xxxxx"), "{log}");
    for said in [
        "it is no JSON object",
        "expected at most 4096",
        "expected two numbers such as 123.456",
        "it is no JSON object with channel, event and data",
        "it has 3000000 bytes, expected at most 262144",
        "it was not emitted as part of a transaction",
        "channel private-users.7 is not allowed",
        "channel private-encrypted-admin.7 is not allowed",
        "channel private-admin.7.secret is not allowed",
        r"event App\Jobs\A is not allowed",
        "may not be in a channel name",
        "belong to the protocol",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 30, "{warnings} warnings: {log}");
    assert!(log.contains("channels = [\\\"private-users.7\\\"]"), "{log}");
    let is_counted = |reason: &str, count: u32| {
        log.lines().any(|line| line.contains(reason) && line.contains(&format!("count={count}")))
    };
    assert!(is_counted("context_no_object", 503), "{log}");
    assert!(is_counted("channel_not_allowed", 503), "{log}");
    scene.database.psql(&format!("drop role {role}")).await;
}

#[tokio::test]
async fn without_leave_no_application_event_is_sent_and_the_log_says_which_lines_give_it() {
    let scene = Scene::on(Version::DEFAULT, RULE).await;
    let run = scene.run().await;
    scene
        .database
        .psql(
            r"select rowcast.broadcast('private-admin.7', 'App\Events\Paid', '{}');
              insert into posts values (1)",
        )
        .await;
    scene.hears("PostCreated").await;
    scene.stop(&run).await;
    assert_eq!(scene.told().len(), 1);
    let log = run.stderr.all().join("\n");
    assert!(log.contains("application events are off"), "{log}");
    assert!(log.contains("private-admin.7") && log.contains("[broadcast]"), "{log}");

    let endpoint = &scene.endpoint.toml();
    for (broadcast, says) in [
        ("channels = ['private-*']", "`events` is not set"),
        ("events = ['*']", "`channels` is not set"),
        ("channels = ['private*']\nevents = ['*']", "expected \"private-*\" or such"),
        ("channels = ['private-encrypted-*']\nevents = ['*']", "`encryption_key`"),
    ] {
        let rules = format!("[broadcast]\n{broadcast}\n{RULE}");
        scene.rowcast.configure(&config(&scene.database.toml(), endpoint, &rules));
        let refused = scene.rowcast.start(&["run"]);
        assert_eq!(refused.exit_code(SOON).await, 78, "{broadcast}");
        let said = refused.stderr.all().join("\n");
        assert!(said.contains(says) && said.contains("rowcast.toml:"), "{said}");
    }
}

#[tokio::test]
async fn an_event_is_told_though_rowcast_is_killed_before_and_after_the_endpoint_took_it() {
    let mut scene = Scene::on(Version::DEFAULT, &[BROADCAST, RULE].concat()).await;
    let run = scene.run().await;
    scene.database.psql(r"select rowcast.broadcast('private-admin.7', 'App\Events\First')").await;
    scene.hears(r"App\Events\First").await;
    scene.stop(&run).await;

    // First: else what other databases log may be due to be written before it.
    scene.database.psql(r"select rowcast.broadcast('private-admin.7', 'App\Events\Second')").await;
    let killed = scene.rowcast.start_with(&["run"], &[("ROWCAST_FAILPOINT", "state-due")]);
    scene.hears(r"App\Events\Second").await;
    assert_eq!(killed.ended(SOON).await.code(), None);
    scene.endpoint.refuse_connections().await;
    let run = scene.run().await;
    scene.database.psql(r"select rowcast.broadcast('private-admin.7', 'App\Events\Third')").await;
    run.kill9();
    run.ended(SOON).await;
    scene.endpoint.come_back();
    let run = scene.run().await;
    scene.hears(r"App\Events\Third").await;
    scene.stop(&run).await;
    let names: Vec<String> = scene.endpoint.accepted().into_iter().map(|a| a.event.name).collect();
    let firsts = names.iter().filter(|name| name.ends_with("First")).count();
    assert_eq!(firsts, 1, "what is confirmed does not come again: {names:?}");
    let mut in_order = names.clone();
    in_order.dedup();
    in_order.sort_by_key(|name| {
        ["First", "Second", "Third"].iter().position(|end| name.ends_with(end))
    });
    in_order.dedup();
    assert_eq!(in_order.len(), 3, "{names:?}");
}

#[tokio::test]
async fn an_event_that_the_endpoint_would_not_take_is_recorded_and_its_channel_told_to_fetch_again()
{
    let scene = Scene::on(Version::DEFAULT, &[BROADCAST, RULE].concat()).await;
    scene.endpoint.occupy(["private-admin.7", "private-users.7"]);
    let run = scene.run().await;
    scene
        .database
        .psql(
            r#"begin; select rowcast.context('{"socket_id":"1.2"}');
               select rowcast.broadcast('private-admin.7', 'App\Events\Large', to_jsonb(repeat('x', 20000)));
               commit;"#,
        )
        .await;
    // That of the first start may come before it and after it.
    let is_instead = |resync: &Accepted| resync.event.data("reason") == "refused";
    let is_told = |resyncs: &[Accepted]| resyncs.iter().any(is_instead);
    scene.endpoint.wait_for_resyncs("the resync instead", is_told).await;
    scene.stop(&run).await;
    assert_eq!(scene.told(), []);
    let resyncs = scene.endpoint.resyncs();
    let instead: Vec<&Accepted> = resyncs.iter().filter(|resync| is_instead(resync)).collect();
    let [Accepted { event: resync, .. }] = instead[..] else { panic!("{resyncs:?}") };
    assert_eq!((&*resync.name, &*resync.channel), ("rowcast.resync", "private-admin.7"));
    assert_eq!(resync.socket_id, None);
    let rejected = std::fs::read_to_string(scene.rowcast.folder().join("state/rejected.jsonl"));
    let rejected: Value = serde_json::from_str(&rejected.expect("the file")).expect("one line");
    assert_eq!(rejected["event"], r"App\Events\Large");
    assert_eq!(rejected["socket_id"], "1.2");
    assert!(
        rejected["reason"].as_str().is_some_and(|why| why.contains("and the endpoint takes")),
        "{rejected}"
    );
}

#[tokio::test]
async fn tail_shows_events_and_who_is_not_told() {
    let scene = Scene::on(Version::DEFAULT, &[BROADCAST, RULE].concat()).await;
    let tail = scene.rowcast.start(&["tail", "-v"]);
    tail.stderr.wait_for(SOON, "streaming changes").await;
    scene
        .database
        .psql(
            r#"begin; select rowcast.context('{"user_id":7,"socket_id":"1.2"}');
               select rowcast.broadcast('private-admin.7', 'App\Events\Paid');
               insert into posts values (1); commit;"#,
        )
        .await;
    let line = tail.stdout.wait_for(SOON, "broadcast").await;
    assert!(line.contains(r"broadcast  App\Events\Paid  on private-admin.7  not to 1.2"), "{line}");
    let line = tail.stdout.wait_for(SOON, "PostCreated").await;
    assert!(line.contains("on posts  not to 1.2"), "{line}");
    tail.sigterm();
    assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
}

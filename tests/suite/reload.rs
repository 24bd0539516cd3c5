//! SIGHUP: other rules take the place of those in use, and nothing is lost by that.

use std::{fs, process::Command, sync::Arc};

use rustix::process::Signal;

use crate::faults::{Scene, Writer};
use crate::harness::{
    capture::{Capture, over_both},
    cluster::{Cluster, Stop, Version},
    database::Database,
    endpoint::{Accepted, Fault},
    process::Process,
    proxy::Proxy,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const RELOADED: &str = "the rules are reloaded";
const REFUSED: &str = "the rules are not reloaded, and those in use stay";

async fn scene(capture: Capture) -> Scene {
    let database = Database::on(Version::DEFAULT).await;
    let toml = match capture {
        Capture::Wal => database.toml(),
        Capture::Triggers => format!("{}capture = 'triggers'\n", database.toml()),
    };
    Scene::by(database, &toml).await
}

fn config(scene: &Scene) -> String {
    fs::read_to_string(scene.rowcast.folder().join("rowcast.toml")).expect("it was written")
}

/// The configuration, whose rule tells another channel too.
fn with_channel(config: &str, channel: &str) -> String {
    config.replace("'counters']", &format!("'counters', '{channel}']"))
}

/// Returns the first line since that says how it went.
async fn reload(run: &Process, outcome: &str) -> String {
    let mark = run.stderr.mark();
    run.signal(Signal::HUP);
    let said = |line: &str| line.contains(outcome).then(|| line.to_owned());
    run.stderr.find_after(mark, SOON, outcome, said).await
}

async fn streams_after(run: &Process, mark: usize) {
    let streams = |line: &str| line.contains("streaming changes").then_some(());
    run.stderr.find_after(mark, SOON, "it streams again", streams).await;
}

fn is_told_on(accepted: &[Accepted], channel: &str) -> bool {
    accepted.iter().any(|accepted| accepted.event.channel == channel)
}

#[tokio::test]
async fn a_reload_under_load_loses_nothing_and_tells_by_the_new_rules() {
    over_both(async |capture| {
        let scene = scene(capture).await;
        scene.rowcast.configure(&config(&scene).replace("grace = '5s'", "grace = '20s'"));
        let writer = Writer::start(scene.database.url());
        let run = scene.run().await;
        scene.endpoint.wait_for_requests(10).await;
        let before = config(&scene);
        let mark = run.stderr.mark();
        for round in 1..=4 {
            let channel = format!("round-{round}");
            scene.rowcast.configure(&with_channel(&before, &channel));
            reload(&run, RELOADED).await;
            let is_told = |accepted: &[Accepted]| is_told_on(accepted, &channel);
            scene.endpoint.wait_for("the new rules tell", is_told).await;
        }
        writer.stop().await;
        scene.assert_nothing_is_lost().await;
        let said = run.stderr.all()[mark..].join("\n");
        for trouble in ["WARN", "ERROR", "fetch again", "taking"] {
            assert!(!said.contains(trouble), "over {capture}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn several_reloads_at_once_and_a_stop_among_them_lose_nothing() {
    over_both(async |capture| {
        let scene = scene(capture).await;
        let writer = Writer::start(scene.database.url());
        let before = config(&scene);
        for round in 1..=3 {
            let run = scene.run().await;
            scene.endpoint.wait_for_requests(scene.endpoint.requests() + 10).await;
            for channel in ["a", "b", "c"] {
                scene.rowcast.configure(&with_channel(&before, &format!("{channel}-{round}")));
                run.signal(Signal::HUP);
            }
            if round == 1 {
                run.stderr.wait_for(SOON, RELOADED).await;
            }
            run.sigterm();
            run.ended(SOON).await;
        }
        let _run = scene.run().await;
        writer.stop().await;
        scene.assert_nothing_is_lost().await;
    })
    .await;
}

#[tokio::test]
async fn a_stop_between_the_two_sessions_of_a_reload_leaves_nothing_undelivered() {
    let database = Database::on(Version::DEFAULT).await;
    let (port, url) = (database.cluster.port(), database.url());
    let mut proxy = Proxy::to(([127, 0, 0, 1], port).into());
    let through = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let toml = database.toml().replace(&url, &through);
    let scene = Scene::by(database, &toml).await;
    let config_of_this = config(&scene)
        .replace("[run]\n", "timeout = '60s'\n[run]\n")
        .replace("grace = '5s'", "grace = '60s'");
    scene.rowcast.configure(&config_of_this);
    let run = scene.run().await;
    // The session ends once this is delivered.
    scene.endpoint.choose(|_| Some(Fault::Held));
    let requests = scene.endpoint.requests();
    scene.database.psql("update counters set version = version + 1").await;
    scene.endpoint.wait_for_requests(requests + 1).await;
    scene.rowcast.configure(&with_channel(&config(&scene), "more"));
    reload(&run, RELOADED).await;
    proxy.refuse().await;
    scene.endpoint.heal();
    run.stderr.wait_for(SOON, "Connection refused").await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn rules_that_cannot_be_used_leave_those_in_use_undisturbed() {
    over_both(async |capture| {
        let scene = scene(capture).await;
        scene.database.psql("create table tags (id int primary key)").await;
        let run = scene.run().await;
        let good = config(&scene);

        scene.rowcast.configure(&good.replace("channels = ", "chanels = "));
        let said = reload(&run, REFUSED).await;
        run.stderr.wait_for(SOON, "did you mean `channels`?").await;
        assert!(said.contains("ERROR"), "{said}");

        scene.rowcast.configure(&format!("{good}[[rule]]\ntable = 'tags'\nchannels = ['tags']\n"));
        let said = reload(&run, REFUSED).await;
        assert!(said.contains("tags") && said.contains("rowcast setup"), "{said}");

        scene.rowcast.configure(&format!("{good}[[rule]]\ntable = 'nowhere'\nchannels = ['n']\n"));
        let said = reload(&run, REFUSED).await;
        assert!(said.contains("nowhere"), "{said}");

        fs::remove_file(scene.rowcast.folder().join("rowcast.toml")).expect("it is there");
        reload(&run, REFUSED).await;

        scene.rowcast.configure(&good.replace("grace = '5s'", "grace = '3s'"));
        reload(&run, "nothing changes").await;
        run.stderr.wait_for(SOON, "[run] has changed in the file: that needs a restart").await;

        scene.database.psql("update counters set version = version + 1").await;
        scene.assert_nothing_is_lost().await;
        let said = run.stderr.all();
        let sessions = said.iter().filter(|line| line.contains("streaming changes"));
        assert_eq!(sessions.count(), 1, "over {capture}: {said:?}");
    })
    .await;
}

#[tokio::test]
async fn what_the_endpoint_did_not_take_before_a_reload_is_told_by_the_new_rules() {
    over_both(async |capture| {
        let scene = scene(capture).await;
        let run = scene.run().await;
        scene.endpoint.choose(|_| Some(Fault::status(500)));
        let requests = scene.endpoint.requests();
        scene.database.psql("update counters set version = version + 1").await;
        scene.endpoint.wait_for_requests(requests + 1).await;
        scene.rowcast.configure(&with_channel(&config(&scene), "more"));
        let mark = run.stderr.mark();
        reload(&run, RELOADED).await;
        // After the grace.
        streams_after(&run, mark).await;
        scene.endpoint.heal();
        let is_told = |accepted: &[Accepted]| is_told_on(accepted, "more");
        scene.endpoint.wait_for("what was left", is_told).await;
        scene.assert_nothing_is_lost().await;
    })
    .await;
}

#[tokio::test]
async fn a_reload_mends_what_keeps_changes_from_streaming() {
    let scene = scene(Capture::Wal).await;
    scene.database.psql("create table tags (id int primary key)").await;
    let good = config(&scene).replace("[run]\n", "[run]\ninspect_every = '100ms'\n");
    scene.rowcast.configure(&format!("{good}[[rule]]\ntable = 'tags'\nchannels = ['tags']\n"));
    scene.database.set_up(&scene.rowcast, Capture::Wal).await;
    let run = scene.run().await;
    scene.database.psql("drop table tags").await;
    run.stderr.wait_for(SOON, "streaming pauses until this is mended").await;
    let mark = run.stderr.mark();
    scene.rowcast.configure(&good);
    reload(&run, RELOADED).await;
    streams_after(&run, mark).await;
    scene.database.psql("update counters set version = version + 1").await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_asked_about_the_new_rules_once_it_is_back() {
    let cluster = Arc::new(Cluster::start(Version::DEFAULT, &[]).await);
    let scene = Scene::on(Database::fresh(&cluster).await).await;
    let run = scene.run().await;
    cluster.stop(Stop::Fast).await;
    scene.rowcast.configure(&with_channel(&config(&scene), "more"));
    reload(&run, "the new rules are checked once Postgres can be asked").await;
    cluster.start_again().await;
    run.stderr.wait_for(SOON, RELOADED).await;
    scene.database.psql("update counters set version = version + 1").await;
    let is_told = |accepted: &[Accepted]| is_told_on(accepted, "more");
    scene.endpoint.wait_for("the new rules tell", is_told).await;
    scene.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn one_that_stands_by_takes_over_with_the_rules_that_it_was_given_meanwhile() {
    over_both(async |capture| {
        let scene = scene(capture).await;
        let first = scene.run().await;
        let second = Rowcast::new(&config(&scene));
        let run = second.start(&["run"]);
        run.stderr.wait_for(SOON, "waiting until it is").await;
        second.configure(&with_channel(&config(&scene), "more"));
        reload(&run, RELOADED).await;
        first.kill9();
        first.ended(SOON).await;
        run.stderr.wait_for(SOON, "streaming changes").await;
        scene.database.psql("update counters set version = version + 1").await;
        let is_told = |accepted: &[Accepted]| is_told_on(accepted, "more");
        scene.endpoint.wait_for("the new rules tell", is_told).await;
        scene.assert_nothing_is_lost().await;
    })
    .await;
}

#[tokio::test]
async fn resyncs_that_are_owed_outlive_a_reload() {
    let mut scene = scene(Capture::Wal).await;
    let resync = config(&scene)
        .replace("resync = false\n", "")
        .replace("[run]", "[limits]\nresync_spread = '0s'\n[run]");
    scene.rowcast.configure(&resync);
    scene.endpoint.refuse_connections().await;
    // The first start of all owes one.
    let run = scene.rowcast.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    let mark = run.stderr.mark();
    // What is owed to a rule that is gone is owed to all.
    scene.rowcast.configure(&resync.replace("[[rule]]", "[[rule]]\nname = 'tallies'"));
    reload(&run, RELOADED).await;
    streams_after(&run, mark).await;
    scene.endpoint.come_back();
    let is_told = |accepted: &[Accepted]| !accepted.is_empty();
    scene.endpoint.wait_for_resyncs("the resync", is_told).await;
    eventually(SOON, "nothing more is owed", async || {
        let state = scene.rowcast.folder().join("state");
        let mut files = fs::read_dir(state).expect("it is there").map(|it| it.unwrap().path());
        let json = files.find(|path| path.extension().is_some_and(|it| it == "json"))?;
        fs::read_to_string(json).ok()?.contains("\"owed\": {}").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_terminal_that_is_closed_ends_what_was_started_in_it_and_does_not_reload() {
    let scene = scene(Capture::Wal).await;
    let folder = scene.rowcast.folder();
    let run = format!("timeout --foreground 60 {} run 2> log", env!("CARGO_BIN_EXE_rowcast"));
    // Under nohup SIGHUP is ignored, which is inherited.
    let mut script = Command::new("env");
    script
        .args(["--default-signal=HUP", "script", "-qec", &run, "/dev/null"])
        .env("HOME", folder)
        .env("SHELL", "/bin/sh");
    let terminal = Process::spawn(&mut script, folder);
    let log = async |text: &str| {
        eventually(SOON, text, async || {
            let log = fs::read_to_string(folder.join("log")).ok()?;
            log.contains(text).then_some(log)
        })
        .await
    };
    log("streaming changes").await;
    terminal.kill9();
    let log = log("stopped: everything that was read is delivered").await;
    assert!(!log.contains("the rules in the file"), "{log}");
}

//! The endpoint does not take what it is sent.

use rowcast::deliver::pusher::Server;
use serde_json::json;

use super::{Scene, ids, line, said};
use crate::harness::{
    cluster::Version,
    database::Database,
    endpoint::{Endpoint, Fault},
    sockudo::Sockudo,
    wait::SOON,
};

/// Inserts row `id` into a scene whose endpoint is unwell, and checks what is said of that, until it is well again.
async fn falls_ill(
    scene: &Scene,
    run: &crate::harness::process::Process,
    id: i32,
    expected: &[&str],
) {
    let mark = run.stderr.mark();
    let requests = scene.endpoint.requests();
    let before = scene.database.confirmed().await;
    scene.insert(id).await;
    let written = scene.database.written().await;
    let told = line(run, mark, expected[0]).await;
    for text in expected {
        assert!(told.contains(text), "{text:?} is not in {told}");
    }
    scene.endpoint.wait_for_requests(requests + 3).await;
    let said = run.stderr.all()[mark..].join("\n");
    assert_eq!(said.lines().count(), 1, "one message: {said}");
    let confirmed = scene.database.confirmed().await;
    assert!(before <= confirmed && confirmed < written, "{before} {confirmed} {written}");
    assert!(run.is_running());

    scene.endpoint.heal();
    line(run, mark, "the endpoint accepts again").await;
    scene.arrives(id).await;
    scene.wait_confirmed().await;
}

#[tokio::test]
async fn what_may_pass_is_repeated_until_it_is_accepted() {
    let mut scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let run = scene.run().await;
    let repeated = "a request failed and is repeated until it is accepted";
    let faults = [
        (Fault::retry_after(429, "0"), "the endpoint answered 429"),
        (Fault::status(500), "the endpoint answered 500"),
        (Fault::body(503, "<html>"), "the endpoint answered 503"),
        (Fault::body(200, r#"{"error":"Internal error","code":500}"#), "the endpoint answered 500"),
        (Fault::Hang, "the endpoint gave no answer within 2s"),
        (
            Fault::CloseBeforeAnswer,
            "the endpoint closed the connection before its answer was whole",
        ),
        (Fault::CloseMidAnswer, "the endpoint closed the connection before its answer was whole"),
    ];
    for (id, (fault, problem)) in (1..).zip(faults) {
        scene.endpoint.probe_fault(fault.clone());
        scene.endpoint.choose(move |_| Some(fault.clone()));
        falls_ill(&scene, &run, id, &[repeated, problem, "WARN"]).await;
    }

    scene.endpoint.refuse_connections().await;
    let mark = run.stderr.mark();
    scene.insert(100).await;
    let told = line(&run, mark, repeated).await;
    let problem =
        format!("the endpoint at {} cannot be reached: Connection refused", scene.endpoint.url());
    assert!(told.contains(&problem), "{told}");
    assert!(told.contains("check that the server runs"), "{told}");
    assert!(scene.database.confirmed().await < scene.database.written().await);
    scene.endpoint.come_back();
    scene.arrives(100).await;
    scene.wait_confirmed().await;
    assert!(scene.rejected().is_empty());
    scene.endpoint.assert_strict();
}

#[tokio::test]
async fn what_somebody_must_change_pauses_delivery_with_one_message() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let elsewhere = Endpoint::start(Server::Any);
    let run = scene.run().await;
    let moved = format!("{}/apps/1001/events", elsewhere.url());
    let address = "set `url` in [pusher] to the address that the redirect names";
    let program = "`url` in [pusher] leads to another program";
    let secret = "`key` and `secret` in [pusher] must be the server's own";
    let app = "compare `app_id` and `url` in [pusher] with the server";
    let faults = [
        (Fault::redirect(301, &moved), format!("the endpoint redirects to {moved} (301)"), address),
        (Fault::redirect(302, "/login"), "the endpoint redirects to /login (302)".into(), address),
        (Fault::body(401, "No such key"), "the endpoint answered 401: No such key".into(), secret),
        (Fault::body(404, "<html>"), "the endpoint answered 404".into(), app),
        (
            Fault::body(200, r#"{"error":"The app does not exist","code":404}"#),
            "the endpoint answered 404: The app does not exist".into(),
            app,
        ),
        (
            Fault::body(200, "<!doctype html><title>Log in</title>"),
            "the endpoint answered 200 with an HTML page".into(),
            program,
        ),
        (Fault::body(200, ""), "the endpoint answered 200 with an empty body".into(), program),
    ];
    let paused = "the endpoint takes nothing: delivery pauses, nothing is lost, and Postgres keeps \
                  what changes until the endpoint accepts again";
    for (id, (fault, problem, fix)) in (1..).zip(faults) {
        scene.endpoint.probe_fault(fault.clone());
        scene.endpoint.choose(move |_| Some(fault.clone()));
        falls_ill(&scene, &run, id, &[paused, &problem, fix, "ERROR"]).await;
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect was followed");
    assert!(scene.rejected().is_empty());
}

#[tokio::test]
async fn a_refused_notification_alone_goes_to_the_rejected_file() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let run = scene.run().await;
    for (round, code) in (0..).zip([413, 422]) {
        let bad = round * 100 + 7;
        scene.endpoint.choose(move |events| {
            let is_bad = events.iter().any(|event| event.data("id") == bad);
            is_bad.then(|| Fault::body(code, r#"{"error":"not this one"}"#))
        });
        let (first, last) = (round * 100 + 1, round * 100 + 20);
        let sql =
            format!("insert into posts select i, 'a' from generate_series({first}, {last}) i");
        scene.database.psql(&sql).await;
        scene.wait_confirmed().await;
        let mut heard = ids(&scene.endpoint.accepted(), "posts");
        heard.retain(|id| (first..=last).contains(id));
        heard.sort_unstable();
        heard.dedup();
        assert_eq!(heard, (first..=last).filter(|id| *id != bad).collect::<Vec<_>>(), "{code}");
        let rejected = scene.rejected();
        let last = rejected.last().expect("the culprit");
        assert_eq!(last["id"], json!(bad));
        assert_eq!(last["channels"], json!([format!("posts.{bad}"), "posts"]));
        assert_eq!(last["reason"], format!("the endpoint answered {code}: not this one"));
        assert_eq!(rejected.len(), usize::try_from(round).unwrap() + 1, "{rejected:?}");
    }
    let warned = line(&run, 0, "refused for good").await;
    assert!(warned.contains("WARN") && warned.contains("state/rejected.jsonl"), "{warned}");
}

/// What the answers above look like where nobody wrote them for a test.
#[tokio::test]
async fn a_wrong_secret_or_app_is_told_by_a_real_server_and_nothing_is_lost() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let sockudo = Sockudo::shared().await;
    let pusher = |app: &str, secret: &str| {
        format!(
            "url = '{}'\napp_id = '{app}'\nkey = '{}'\nsecret = '{secret}'\nserver = 'sockudo'\n",
            sockudo.url(),
            Sockudo::KEY,
        )
    };
    let configure = |app: &str, secret: &str| {
        let own = scene.endpoint.toml();
        scene.configure(|text| {
            *text = text.replace(&own, &pusher(app, secret));
            // Nothing will be accepted in it.
            *text = text.replace("[run]\n", "[run]\ngrace = '1s'\n");
        });
    };
    scene.insert(1).await;
    let written = scene.database.written().await;
    for (app, secret) in [(Sockudo::APP_ID, "wrong"), ("2", Sockudo::SECRET)] {
        configure(app, secret);
        let run = scene.run().await;
        let told = line(&run, 0, "the endpoint takes nothing").await;
        assert!(told.contains("the endpoint answered 40"), "{told}");
        assert!(told.contains("in [pusher]"), "{told}");
        run.sigterm();
        assert_eq!(run.exit_code(SOON).await, 1);
        assert!(said(&run).ends_with("the rest is sent again at the next start"), "{}", said(&run));
        assert!(scene.database.confirmed().await < written);
    }
    configure(Sockudo::APP_ID, Sockudo::SECRET);
    let run = scene.rowcast.start(&["run", "--once"]);
    assert_eq!(run.exit_code(SOON).await, 0, "{}", said(&run));
    assert!(scene.database.confirmed().await >= written);
    assert!(scene.rejected().is_empty());
}

//! Each answer that FACTS tell of: repeated, given up, or everything stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rowcast::deliver::pusher::Server;
use serde_json::json;

use crate::harness::endpoint::{Endpoint, Event, Fault};
use crate::harness::wait::{SOON, eventually};

use super::{Setup, holds, number, post, update};

#[tokio::test]
async fn what_may_pass_is_sent_again_until_it_is_accepted() {
    for fault in [
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::body(200, r#"{"error":"Internal server error","code":500}"#),
        Fault::body(200, r#"{"error":"rate limited","code":429}"#),
        Fault::Hang,
        Fault::CloseBeforeAnswer,
        Fault::CloseMidAnswer,
        Fault::AcceptThenReset,
        Fault::AcceptBut { code: 502, body: "<html>bad gateway</html>".to_owned() },
    ] {
        let endpoint = Endpoint::start(Server::Any);
        let mut setup = Setup::new(&endpoint);
        if matches!(fault, Fault::Hang) {
            setup = setup.timeout_ms(2000);
        }
        let mut session = setup.session();
        endpoint.fault(fault.clone());
        session.send(vec![post(1, 1)]).await;
        session.wait_confirmed(1).await;
        assert_eq!(endpoint.requests(), 2, "{fault:?}");
        session.finish().await.expect("all is delivered");
        assert!(setup.rejected().is_empty(), "{fault:?}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn what_somebody_must_change_stops_everything_and_loses_nothing() {
    let elsewhere = Endpoint::start(Server::Any);
    for fault in [
        Fault::redirect(301, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(302, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(307, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::redirect(308, &format!("{}/apps/1001/events", elsewhere.url())),
        Fault::status(401),
        Fault::status(403),
        Fault::status(404),
        Fault::status(405),
        Fault::body(200, "<!doctype html><title>Log in</title>"),
        Fault::body(200, ""),
        Fault::body(204, ""),
        Fault::body(200, "OK"),
        Fault::body(200, r#"{"error":"The app does not exist","code":404}"#),
        Fault::body(200, r#"{"error":"The signature is invalid","code":401}"#),
    ] {
        let endpoint = Endpoint::start(Server::Any);
        let setup = Setup::new(&endpoint);
        let mut session = setup.session();
        let met = fault.clone();
        endpoint.choose(move |_| Some(met.clone()));
        endpoint.probe_fault(fault.clone());
        session.send((1..=40).map(|n| post(n, n)).collect()).await;
        endpoint.wait_for_requests(10).await;
        assert_eq!(session.confirmed(), None, "{fault:?}");
        endpoint.heal();
        session.wait_confirmed(40).await;
        session.finish().await.expect("all is delivered");
        assert_eq!(endpoint.accepted_count(), 80, "{fault:?}");
        assert!(setup.rejected().is_empty(), "{fault:?}");
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect was followed");
}

#[tokio::test]
async fn a_refused_batch_is_bisected_until_the_culprit_is_alone() {
    for (server, fault) in [
        (Server::Reverb, Fault::body(400, r#"{"error":"bad id"}"#)),
        (Server::Any, Fault::body(413, "too large")),
        (Server::Any, Fault::status(415)),
        (Server::Any, Fault::status(422)),
        (Server::Soketi, Fault::body(200, r#"{"error":"bad id","code":400}"#)),
    ] {
        let endpoint = Endpoint::start(server);
        let setup = Setup::new(&endpoint).lanes(1);
        let mut session = setup.session();
        let met = fault.clone();
        endpoint.choose(move |events| holds(events, 13).then(|| met.clone()));
        session.send((1..=40).map(|n| post(n, n)).collect()).await;
        session.wait_confirmed(40).await;
        session.finish().await.expect("all is delivered or refused");
        let mut accepted: Vec<u64> = endpoint.accepted().iter().map(number).collect();
        accepted.dedup();
        let others: Vec<u64> = (1..=40).filter(|n| *n != 13).collect();
        assert_eq!(accepted, others, "{fault:?}");
        let rejected = setup.rejected();
        assert_eq!(rejected.len(), 1, "{fault:?}: {rejected:?}");
        assert_eq!(rejected[0]["id"], 13);
        assert_eq!(rejected[0]["position"], 13);
        assert_eq!(rejected[0]["channels"], json!(["private-posts.13", "private-posts"]));
        let reason = rejected[0]["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("the endpoint answered 4"), "{reason}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn a_channel_that_is_refused_does_not_take_the_others_with_it() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let is_bad = |event: &Event| event.channel == "private-bad" && !event.is_resync();
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    let channels = ["private-a", "private-bad", "private-b"].map(str::to_owned);
    session.send(vec![update(1, 1, &channels), post(1, 2)]).await;
    session.wait_confirmed(2).await;
    let accepted = endpoint.accepted();
    let channels: Vec<&str> = accepted.iter().map(|a| a.event.channel.as_str()).collect();
    assert_eq!(channels, ["private-a", "private-b", "private-posts.1", "private-posts"]);
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0]["channels"], json!(["private-bad"]));
}

#[tokio::test]
async fn a_body_that_reverb_answers_500_to_is_given_up_after_five_tries() {
    let endpoint = Endpoint::start(Server::Reverb);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    endpoint.choose(move |publish| {
        holds(publish, 1).then(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            Fault::status(500)
        })
    });
    session.send(vec![update(1, 1, &["a".to_owned()]), post(2, 2)]).await;
    session.wait_confirmed(2).await;
    assert_eq!(tries.load(Ordering::Relaxed), 5);
    assert_eq!(setup.rejected().len(), 1);
}

#[tokio::test]
async fn a_500_is_never_the_requests_fault_while_the_endpoint_is_unwell() {
    let endpoint = Endpoint::start(Server::Reverb);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::status(500)));
    endpoint.probe_fault(Fault::status(500));
    session.send(vec![update(1, 1, &["a".to_owned()])]).await;
    // Five tries and the probe after the fifth.
    endpoint.wait_for_requests(6).await;
    endpoint.heal();
    session.wait_confirmed(1).await;
    assert_eq!(endpoint.accepted_count(), 1);
    assert!(setup.rejected().is_empty());
}

#[tokio::test]
async fn ten_refusals_in_a_row_are_the_endpoints_fault() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|_| Some(Fault::body(413, "<html>nginx</html>")));
    let channel = ["private-posts".to_owned()];
    session.send((1..=60).map(|n| update(n, n, &channel)).collect()).await;
    let is_stopped = async || (setup.rejected().len() == 9).then_some(());
    eventually(SOON, "nine are given up", is_stopped).await;
    // Its probes find that nothing has changed, and give up nothing more.
    endpoint.wait_for_requests(endpoint.requests() + 5).await;
    assert_eq!(setup.rejected().len(), 9);
    endpoint.heal();
    session.wait_confirmed(60).await;
    session.finish().await.expect("all is delivered or refused");
    let mut seen: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    seen.extend(setup.rejected().iter().map(|line| line["position"].as_u64().expect("a number")));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (1..=60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_without_batch_events_gets_single_events() {
    let endpoint = Endpoint::start(Server::LaravelWebsockets);
    let mut setup = Setup::new(&endpoint).lanes(2);
    setup.config.server = Server::Any;
    let mut session = setup.session();
    session.send((1..=30).map(|n| post(n, n)).collect()).await;
    session.wait_confirmed(30).await;
    session.finish().await.expect("all is delivered");
    assert_eq!(endpoint.accepted_count(), 60);
    assert!(setup.rejected().is_empty());
    let breaches = endpoint.breaches();
    assert!(breaches.len() <= 2 && breaches.iter().all(|b| b.contains("batch_events")));
}

#[tokio::test]
async fn every_lane_waits_as_long_as_the_endpoint_asks() {
    let endpoint = Endpoint::start(Server::Sockudo);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.fault(Fault::retry_after(429, "1"));
    session.send(vec![post(1, 1)]).await;
    endpoint.wait_for_requests(1).await;
    let asked = Instant::now();
    session.send(vec![post(1, 2)]).await;
    session.wait_confirmed(2).await;
    // The answer was on its way when its request was seen.
    let first = endpoint.accepted().into_iter().map(|a| a.began).min().expect("accepted");
    assert!(first - asked > Duration::from_millis(950), "{:?}", first - asked);
}

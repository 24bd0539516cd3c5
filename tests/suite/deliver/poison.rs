//! What the endpoint refuses is followed by a resync where it was refused, and stands in the file.

use rowcast::deliver::pusher::Server;
use serde_json::json;

use crate::harness::endpoint::{Endpoint, Event, Fault};
use crate::harness::wait::{SOON, eventually};

use super::{Setup, number, post, update};

fn is_about(event: &Event, id: u64) -> bool {
    event.data("id") == id
}

#[tokio::test]
async fn a_refused_notification_is_followed_by_a_resync_on_exactly_the_refusing_channels() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint).lanes(1);
    let mut session = setup.session();
    let is_bad =
        |event: &Event| is_about(event, 2) && ["private-b", "private-d"].contains(&&*event.channel);
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    let channels = ["private-a", "private-b", "private-c", "private-d"].map(str::to_owned);
    session.send(vec![post(1, 1), update(2, 2, &channels), post(3, 3)]).await;
    session.wait_confirmed(3).await;
    session.finish().await.expect("all is delivered or refused");

    let resyncs = endpoint.resyncs();
    let told: Vec<&str> = resyncs.iter().map(|it| it.event.channel.as_str()).collect();
    assert_eq!(told, ["private-b", "private-d"]);
    for resync in resyncs {
        assert_eq!(resync.event.name, "rowcast.resync");
        let data: serde_json::Value = serde_json::from_str(&resync.event.data).expect("JSON");
        let expected =
            json!({ "entity": "post", "action": "resync", "reason": "refused", "count": 1 });
        assert_eq!(data, expected);
    }
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0]["channels"], json!(["private-b", "private-d"]));
    assert_eq!(rejected[0]["action"], "updated");
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_resync_that_is_refused_too_is_written_down_and_nothing_follows_it() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let is_bad = |event: &Event| event.channel == "private-bad";
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    session.send(vec![update(1, 1, &["private-bad".to_owned()]), post(2, 2)]).await;
    session.wait_confirmed(2).await;
    session.finish().await.expect("all is delivered or refused");
    let rejected = setup.rejected();
    let actions: Vec<_> = rejected.iter().map(|line| &line["action"]).collect();
    assert_eq!(actions, ["updated", "resync"]);
    assert_eq!(rejected[1]["channels"], json!(["private-bad"]));
    assert_eq!(rejected[1]["data"]["reason"], "refused");
    assert!(endpoint.resyncs().is_empty());
}

#[tokio::test]
async fn a_rule_whose_notifications_are_all_refused_becomes_resyncs_and_holds_up_no_other() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let is_bad = |event: &Event| event.channel == "private-bad" && !event.is_resync();
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    let bad = ["private-bad".to_owned()];
    session
        .send((1..=60).map(|n| if n % 2 == 0 { post(n, n) } else { update(n, n, &bad) }).collect())
        .await;
    session.wait_confirmed(60).await;
    session.finish().await.expect("all is delivered or refused");
    assert_eq!(setup.rejected().len(), 30);
    assert_eq!(endpoint.resyncs().len(), 30);
    let mut accepted: Vec<u64> = endpoint.accepted().iter().map(number).collect();
    accepted.sort_unstable();
    accepted.dedup();
    assert_eq!(accepted, (1..=60).filter(|n| n % 2 == 0).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_position_is_held_until_the_resync_behind_a_refused_notification_is_accepted() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    endpoint.choose(|events| {
        Some(if events.iter().any(Event::is_resync) {
            Fault::status(503)
        } else {
            Fault::status(400)
        })
    });
    session.send(vec![update(1, 1, &["private-bad".to_owned()])]).await;
    // The refused one, and its resync again and again.
    let is_written_down = async || (setup.rejected().len() == 1).then_some(());
    eventually(SOON, "it is written down", is_written_down).await;
    assert_eq!(session.confirmed(), None);
    endpoint.heal();
    session.wait_confirmed(1).await;
    assert_eq!(endpoint.resyncs().len(), 1);
}

#[tokio::test]
async fn a_channel_that_takes_neither_notifications_nor_resyncs_holds_up_no_other() {
    let endpoint = Endpoint::start(Server::Any);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let is_bad = |event: &Event| event.channel == "private-bad";
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    let bad = ["private-bad".to_owned()];
    session.send((1..=40).map(|n| update(n, n, &bad)).collect()).await;
    session.send(vec![update(41, 41, &["private-good".to_owned()])]).await;
    session.wait_confirmed(41).await;
    session.finish().await.expect("all is delivered or refused");
    assert_eq!(setup.rejected().len(), 80, "each and its resync");
    assert_eq!(endpoint.accepted().iter().map(number).collect::<Vec<_>>(), [41]);
}

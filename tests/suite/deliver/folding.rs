//! What cannot be sent yet folds, and nothing of it is lost.

use std::sync::Arc;
use std::time::Duration;

use rowcast::deliver::pusher::Server;
use rowcast::notification::{Notification, Terms};

use crate::harness::endpoint::{Accepted, Endpoint};

use super::{Setup, number, post};

fn windowed(window: Duration) -> Arc<Terms> {
    Terms { window: Some(window), ..Terms::plain("posts", "post") }.into()
}

fn by(terms: &Arc<Terms>, notification: Notification) -> Notification {
    Notification { terms: terms.clone(), ..notification }
}

#[tokio::test]
async fn a_hot_id_costs_one_request_more_however_often_it_changes_while_the_endpoint_is_away() {
    let mut endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let terms = windowed(Duration::from_millis(1));
    endpoint.refuse_connections().await;
    for n in 1..=1000 {
        session.send(vec![by(&terms, post(7, n))]).await;
    }
    endpoint.come_back();
    session.wait_confirmed(1000).await;
    session.finish().await.expect("all is delivered");
    // The first was frozen in its lane, and up to a few more before the queue was read.
    assert!(endpoint.requests() <= 3, "{} requests", endpoint.requests());
    let accepted = endpoint.accepted();
    assert_eq!(accepted.last().map(number), Some(1000));
    endpoint.assert_strict();
}

#[tokio::test]
async fn the_first_change_goes_at_once_and_the_next_ones_together_when_the_window_ends() {
    const WINDOW: Duration = Duration::from_millis(400);
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let terms = windowed(WINDOW);
    session.send(vec![by(&terms, post(7, 1))]).await;
    session.wait_confirmed(1).await;
    for n in 2..=5 {
        session.send(vec![by(&terms, post(7, n))]).await;
    }
    // Another id does not wait.
    session.send(vec![by(&terms, post(8, 6))]).await;
    session.wait_confirmed(6).await;

    let accepted = endpoint.accepted();
    let of = |id: u64| accepted.iter().filter(move |it| it.event.data("id") == id);
    let numbers: Vec<u64> = of(7).map(number).collect();
    assert_eq!(numbers, [1, 1, 5, 5], "on two channels each");
    let began: Vec<_> = of(7).map(|it| it.began).collect();
    assert!(began[2] - began[0] >= WINDOW - Duration::from_millis(20), "{began:?}");
    let other: &Accepted = of(8).next().expect("it was accepted");
    assert!(other.began < began[2]);
    session.finish().await.expect("all is delivered");
}

#[tokio::test]
async fn a_stop_waits_for_no_window() {
    let endpoint = Endpoint::start(Server::Any).await;
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let terms = windowed(Duration::from_secs(3600));
    for n in 1..=20 {
        session.send(vec![by(&terms, post(n % 2, n))]).await;
    }
    session.wait(|_| true).await;
    let progress = session.progress.clone();
    session.finish().await.expect("all is delivered");
    assert_eq!(progress.borrow().position.map(|it| it.value()), Some(20));
    let accepted = endpoint.accepted();
    for last in [19, 20] {
        assert!(accepted.iter().any(|it| number(it) == last), "{last} of {accepted:?}");
    }
}

//! What cannot be sent yet folds, and nothing of it is lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rowcast::deliver::pusher::Server;
use rowcast::notification::{Notification, Terms};

use crate::harness::endpoint::{Accepted, Endpoint};

use super::order::{Dice, passing_fault};
use super::{Setup, number, post};

fn windowed(window: Duration) -> Arc<Terms> {
    Terms { window: Some(window), ..Terms::plain("posts", "post") }.into()
}

fn by(terms: &Arc<Terms>, notification: Notification) -> Notification {
    Notification { terms: terms.clone(), ..notification }
}

#[tokio::test]
async fn a_hot_id_costs_one_request_more_however_often_it_changes_while_the_endpoint_is_away() {
    let mut endpoint = Endpoint::start(Server::Any);
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
    // Longer than a busy machine takes from the first to the last.
    const WINDOW: Duration = Duration::from_secs(3);
    let endpoint = Endpoint::start(Server::Any);
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
    let endpoint = Endpoint::start(Server::Any);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_each_channel_hears_the_last_of_each_id_last() {
    for seed in [3, 4] {
        let endpoint = Endpoint::start(Server::Any);
        let setup = Setup::new(&endpoint).timeout_ms(150);
        let mut session = setup.session();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        endpoint.choose(move |_| passing_fault(&mut dice));
        let terms = windowed(Duration::from_millis(5));
        let mut dice = Dice(0x2545_f491_4f6c_dd1d ^ seed);
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut n = 0;
        while n < 500 {
            let count = 1 + dice.below(9).min(499 - n);
            let changes: Vec<(u64, u64)> =
                (n + 1..=n + count).map(|n| (dice.below(11), n)).collect();
            last.extend(changes.iter().copied());
            session.send(changes.iter().map(|(id, n)| by(&terms, post(*id, *n))).collect()).await;
            n += count;
        }
        session.wait_confirmed(500).await;
        session.finish().await.expect("all is delivered");

        let mut heard: HashSet<(String, u64)> = HashSet::new();
        let mut latest: HashMap<(u64, String), u64> = HashMap::new();
        for accepted in endpoint.accepted() {
            let id = accepted.event.data("id").as_u64().expect("an id");
            let (channel, number) = (accepted.event.channel.clone(), number(&accepted));
            let is_repeated = !heard.insert((channel.clone(), number));
            let latest = latest.entry((id, channel)).or_default();
            assert!(is_repeated || number >= *latest, "{number} of {id} came after {latest}");
            *latest = number;
        }
        for (id, last) in last {
            for channel in [format!("private-posts.{id}"), "private-posts".to_owned()] {
                assert_eq!(latest.get(&(id, channel)), Some(&last), "of {id}");
            }
        }
        assert!(setup.rejected().is_empty());
        endpoint.assert_strict();
    }
}

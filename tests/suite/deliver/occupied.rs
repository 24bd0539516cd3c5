//! `occupied_only`: what is sent, what nobody needs, and what is confirmed meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rowcast::change::Position;
use rowcast::deliver::pusher::{Nodes, Server};
use rowcast::notification::{Audience, Handoff, Reason, Resync};

use crate::harness::endpoint::{Accepted, Endpoint, Fault};

use super::resyncs::{by, posts, resync, truncate};
use super::{Session, Setup, number, post, update};

/// How long after somebody joined a channel a list of several nodes may lack it.
const LAG: Duration = Duration::from_secs(5);

fn occupied_only(endpoint: &Endpoint) -> Setup {
    let mut setup = Setup::new(endpoint);
    setup.config.occupied_only = true;
    setup.limits.resync_spread = Duration::ZERO;
    setup
}

fn channels(accepted: &[Accepted]) -> BTreeSet<&str> {
    accepted.iter().map(|it| it.event.channel.as_str()).collect()
}

#[tokio::test]
async fn only_channels_that_somebody_has_joined_are_told_and_all_is_confirmed() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.occupy(["private-posts.3", "private-posts.44"]);
    let setup = occupied_only(&endpoint);
    let mut session = setup.session();
    session.send((1..=300).map(|n| post(n, n)).collect()).await;
    session.wait_confirmed(300).await;
    let accepted = endpoint.accepted();
    assert_eq!(channels(&accepted), ["private-posts.3", "private-posts.44"].into());
    assert_eq!(accepted.iter().map(number).collect::<BTreeSet<_>>(), [3, 44].into());

    // A page opens the list of posts; and a change is told whose list is asked for after that.
    endpoint.occupy(["private-posts"]);
    let lists = endpoint.lists().len();
    let sent = Instant::now();
    session.send(vec![post(7, 301), update(7, 302, &["cache-posts".to_owned()])]).await;
    session.wait_confirmed(302).await;
    let accepted = endpoint.accepted();
    assert_eq!(channels(&accepted[2..]), ["private-posts", "cache-posts"].into());
    assert!(endpoint.lists()[lists].began > sent, "the list is older than the change");
    session.finish().await.expect("all is delivered");
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_channel_of_the_last_list_is_told_without_waiting_for_another() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.occupy(["private-posts.1"]);
    let setup = occupied_only(&endpoint);
    let mut session = setup.session();
    session.send(vec![post(1, 1)]).await;
    session.wait_confirmed(1).await;
    endpoint.list_fault(Fault::Hang);
    session.send(vec![post(1, 2)]).await;
    let is_told = |accepted: &[Accepted]| accepted.len() == 2;
    endpoint.wait_for("the second on the known channel", is_told).await;
    assert_eq!(session.confirmed(), Some(1), "whether the other is occupied is not known yet");
}

#[tokio::test]
async fn where_no_list_is_to_be_had_everything_is_sent() {
    for fault in [Fault::status(503), Fault::status(403), Fault::body(200, "{}"), Fault::Hang] {
        let endpoint = Endpoint::start(Server::Any);
        endpoint.list_fault(fault);
        let setup = occupied_only(&endpoint).timeout_ms(200);
        let mut session = setup.session();
        session.send((1..=20).map(|n| post(n, n)).collect()).await;
        session.wait_confirmed(20).await;
        assert_eq!(endpoint.accepted_count(), 2 * 20);
        session.finish().await.expect("all is delivered");
    }
}

#[tokio::test]
async fn a_resync_does_not_wait_for_a_second_list_but_tells_what_does() {
    let endpoint = Endpoint::start(Server::Pusher);
    let setup = occupied_only(&endpoint);
    let mut session = setup.session();
    let terms = posts();
    let sent = Instant::now();
    session.send(vec![by(&terms, post(3, 1)), by(&terms, post(4, 1))]).await;
    endpoint.wait_for_lists(1).await;
    endpoint.occupy(["private-posts.3"]);
    session.handoffs.send(truncate(&terms, 2)).await.expect("delivery runs");
    // A channel that the rule names itself is told whether it is occupied or not.
    let both = ["private-posts.3", "private-posts"].into();
    endpoint.wait_for_resyncs("the resync", |resyncs| channels(resyncs) == both).await;
    assert!(sent.elapsed() < LAG);
    assert_eq!(session.confirmed(), None);
    session.wait_confirmed(2).await;
    assert_eq!(endpoint.accepted_count(), 0);
    session.finish().await.expect("all is delivered");
}

#[tokio::test]
async fn of_several_nodes_a_second_list_tells_who_was_missing_in_the_first() {
    let endpoint = Endpoint::start(Server::Pusher);
    let mut setup = occupied_only(&endpoint);
    let mut session = setup.session();
    let sent = Instant::now();
    session.send(vec![post(3, 1), post(4, 1)]).await;
    endpoint.wait_for_lists(1).await;
    // Somebody had joined at another node before the change was committed.
    endpoint.occupy(["private-posts.3"]);
    endpoint.wait_for("the latecomer", |accepted| accepted.len() == 1).await;
    assert!(sent.elapsed() >= LAG);
    session.wait_confirmed(1).await;
    assert_eq!(channels(&endpoint.accepted()), ["private-posts.3"].into());

    // So it is with resyncs, whether all is sent or not. What is stopped waits for that.
    setup.config.occupied_only = false;
    let owed = vec![resync(&posts(), Reason::Gap, None)];
    let begun = Instant::now();
    let session = Session::start_owing(setup.deliver(), owed);
    session.handoffs.send(truncate(&posts(), 2)).await.expect("delivery runs");
    let is_told = |name: &'static str| move |it: &[Accepted]| channels(it).contains(name);
    endpoint.wait_for_resyncs("the first look", is_told("private-posts.3")).await;
    endpoint.occupy(["private-posts.3", "private-posts.5"]);
    assert_eq!((session.confirmed(), session.progress.borrow().settled.len()), (None, 0));
    let mut progress = session.progress.clone();
    session.finish().await.expect("all is delivered");
    assert!(begun.elapsed() >= LAG);
    assert!(is_told("private-posts.5")(&endpoint.resyncs()));
    assert_eq!(progress.borrow_and_update().settled.len(), 1);
}

#[tokio::test]
async fn hosted_pusher_is_looked_at_twice_unless_it_is_told_to_be_one_node() {
    let endpoint = Endpoint::start(Server::Pusher);
    let mut setup = occupied_only(&endpoint);
    setup.config.nodes = Some(Nodes::One);
    let mut session = setup.session();
    let sent = Instant::now();
    session.send(vec![post(3, 1)]).await;
    session.wait_confirmed(1).await;
    assert!(sent.elapsed() < LAG, "one list is enough");
    assert_eq!((endpoint.accepted_count(), endpoint.lists().len()), (0, 1));
}

#[tokio::test]
async fn what_only_some_channels_are_told_meanwhile_does_not_settle_what_is_owed_to_all() {
    let endpoint = Endpoint::start(Server::Pusher);
    endpoint.occupy(["private-posts.3"]);
    let mut setup = Setup::new(&endpoint);
    setup.limits.resync_spread = Duration::ZERO;
    let terms = posts();
    let mut session =
        Session::start_owing(setup.deliver(), vec![resync(&terms, Reason::Gap, None)]);
    let is_told = |name: &'static str| move |it: &[Accepted]| channels(it).contains(name);
    endpoint.wait_for_resyncs("the first look", is_told("private-posts.3")).await;
    endpoint.occupy(["private-posts.3", "private-posts.5"]);
    // This one needs no list: it is done before the gap is looked at again.
    let audience = Audience::default();
    let bulk = Resync { audience, ..resync(&terms, Reason::Bulk, Some(1)) };
    let reached = Some(Position::new(1));
    let handoff = Handoff { resyncs: vec![bulk], reached, ..Handoff::default() };
    session.handoffs.send(handoff).await.expect("delivery runs");
    session.wait_confirmed(1).await;
    assert!(!is_told("private-posts.5")(&endpoint.resyncs()), "that is the second look's");
    assert_eq!(session.progress.borrow().settled.len(), 0, "a kill now must not lose the gap");
    let mut progress = session.progress.clone();
    session.finish().await.expect("all is delivered");
    assert!(is_told("private-posts.5")(&endpoint.resyncs()));
    assert_eq!(progress.borrow_and_update().settled.len(), 1);
}

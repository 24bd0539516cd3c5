//! Resyncs on the channels of a rule and on those that are occupied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowcast::change::{Position, Timestamp};
use rowcast::deliver::ByteSize;
use rowcast::deliver::pusher::Server;
use rowcast::notification::{
    Audience, ChannelClass, ChannelPattern, Handoff, Notification, Part, Reason, Resync, Terms,
};

use crate::harness::endpoint::{Accepted, Endpoint, Event, Fault};
use crate::harness::wait::{SOON, eventually};

use super::{Session, Setup, handoff, number, post};

/// Of the rule that makes what [`post`] looks like.
pub(super) fn posts() -> Arc<Terms> {
    let text = |text: &str| Part::Text(text.into());
    let pattern = |parts| ChannelPattern::new(parts, ChannelClass::Private);
    Terms {
        window: Some(Duration::from_millis(10)),
        may_collapse: true,
        resync_events: vec!["PostUpdated".parse().expect("an event")],
        channels: vec![
            pattern(vec![text("private-posts."), Part::Value { dotted: false }]),
            pattern(vec![text("private-posts")]),
        ],
        ..Terms::plain("posts", "post")
    }
    .into()
}

pub(super) fn resync(terms: &Arc<Terms>, reason: Reason, position: Option<u64>) -> Resync {
    Resync {
        terms: terms.clone(),
        reason,
        count: None,
        audience: Audience::All,
        position: position.map(Position::new),
        at: Timestamp::now(),
    }
}

pub(super) fn by(terms: &Arc<Terms>, notification: Notification) -> Notification {
    Notification { terms: terms.clone(), ..notification }
}

pub(super) fn truncate(terms: &Arc<Terms>, position: u64) -> Handoff {
    Handoff {
        resyncs: vec![resync(terms, Reason::Truncate, Some(position))],
        reached: Some(Position::new(position)),
        ..Handoff::default()
    }
}

fn told(resyncs: &[Accepted]) -> BTreeSet<&str> {
    resyncs.iter().map(|it| it.event.channel.as_str()).collect()
}

fn at_once(endpoint: &Endpoint) -> Setup {
    let mut setup = Setup::new(endpoint);
    setup.limits.resync_spread = Duration::ZERO;
    setup
}

#[tokio::test]
async fn too_many_changes_become_a_resync_on_the_rules_channels_and_on_occupied_ones_of_theirs() {
    let endpoint = Endpoint::start(Server::Reverb);
    endpoint.occupy([
        "private-posts.3",
        "private-posts.998",
        "private-posts.77777",
        "private-posts.3.comments",
        "posts.4",
    ]);
    let mut setup = at_once(&endpoint);
    setup.limits.collapse_above = 50.try_into().expect("not zero");
    let mut session = setup.session();
    let terms = posts();
    let before_last = Instant::now();
    let bulk = (1..=1000)
        .map(|id| by(&terms, Notification { position: Position::new(5), ..post(id, id) }));
    session.handoffs.send(handoff(bulk.collect())).await.expect("delivery runs");
    session.wait_confirmed(5).await;
    session.finish().await.expect("all is delivered");

    let resyncs = endpoint.resyncs();
    let expected = ["private-posts", "private-posts.3", "private-posts.998"];
    assert_eq!(told(&resyncs), expected.into());
    assert_eq!(resyncs.len(), 3, "{resyncs:?}");
    for Accepted { event, .. } in &resyncs {
        assert_eq!(event.name, "PostUpdated");
        assert_eq!((event.data("reason"), event.data("count")), ("bulk".into(), 1000.into()));
    }
    let lists = endpoint.lists();
    assert_eq!(lists.len(), 1);
    assert_eq!(lists[0].prefix, "private-posts.");
    assert!(lists[0].began > before_last, "the list is older than the last change");
    assert_eq!(endpoint.accepted_count(), 0);
    assert!(setup.rejected().is_empty());
    endpoint.assert_strict();
}

#[tokio::test]
async fn while_lists_fail_changes_go_on_and_the_position_waits() {
    let without_end = r#"{"channels":{"#.to_owned() + &r#""private-posts.3":{},"#.repeat(800_000);
    for fault in [
        Fault::status(503),
        Fault::status(403),
        Fault::body(200, "{}"),
        Fault::body(200, &format!(r#"{without_end}"private-posts.3":{{}}}}}}"#)),
        Fault::Hang,
    ] {
        let endpoint = Endpoint::start(Server::Sockudo);
        endpoint.occupy(["private-posts.3"]);
        let setup = at_once(&endpoint).timeout_ms(200);
        let mut session = setup.session();
        endpoint.list_fault(fault);
        session.handoffs.send(truncate(&posts(), 1)).await.expect("delivery runs");
        endpoint.wait_for_lists(1).await;
        session.send((2..=40).map(|n| post(n, n)).collect()).await;
        let all = |accepted: &[Accepted]| {
            let told = |channel: &str, n| {
                accepted.iter().any(|it| it.event.channel == channel && number(it) == n)
            };
            let both = |n| told("private-posts", n) && told(&format!("private-posts.{n}"), n);
            (2..=40).all(both)
        };
        endpoint.wait_for("changes go on", all).await;
        endpoint.wait_for_lists(4).await;
        assert_eq!(told(&endpoint.resyncs()), ["private-posts"].into());
        assert_eq!(session.confirmed(), None);
        endpoint.heal();
        session.wait_confirmed(40).await;
        assert_eq!(told(&endpoint.resyncs()), ["private-posts", "private-posts.3"].into());
        session.finish().await.expect("all is delivered");
    }
}

#[tokio::test]
async fn a_resync_of_a_rule_without_row_values_in_its_channels_needs_no_list() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.list_fault(Fault::Hang);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let mut terms = Terms::plain("posts", "post");
    let text = Part::Text("private-posts".into());
    terms.channels = vec![ChannelPattern::new(vec![text], ChannelClass::Private)];
    session.handoffs.send(truncate(&terms.into(), 1)).await.expect("delivery runs");
    session.wait_confirmed(1).await;
    assert_eq!(told(&endpoint.resyncs()), ["private-posts"].into());
    assert!(endpoint.lists().is_empty());
    session.finish().await.expect("all is delivered");
}

#[tokio::test]
async fn occupied_channels_are_told_in_parts_over_the_spread() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.occupy((0..400).map(|id| format!("private-posts.{id}")));
    let mut setup = Setup::new(&endpoint);
    setup.limits.resync_spread = Duration::from_millis(400);
    let mut session = setup.session();
    let sent = Instant::now();
    session.handoffs.send(truncate(&posts(), 1)).await.expect("delivery runs");
    session.wait_confirmed(1).await;
    let resyncs = endpoint.resyncs();
    assert_eq!(told(&resyncs).len(), 401);
    // The last of four parts is due after three quarters of it.
    let over = resyncs.iter().map(|it| it.began).max().expect("some") - sent;
    assert!(over >= Duration::from_millis(300), "all were told within {over:?}");
    session.finish().await.expect("all is delivered");
    endpoint.assert_strict();
}

#[tokio::test]
async fn what_is_owed_settles_once_it_is_accepted_on_all_channels_or_refused_for_good() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.occupy(["private-posts.1", "private-posts.2"]);
    let setup = at_once(&endpoint);
    let users = Arc::new(Terms {
        channels: vec![ChannelPattern::new(
            vec![Part::Text("private-users".into())],
            ChannelClass::Private,
        )],
        ..Terms::plain("users", "user")
    });
    endpoint.list_fault(Fault::status(503));
    let is_bad = |event: &Event| event.channel == "private-users";
    endpoint.choose(move |events| events.iter().any(is_bad).then(|| Fault::status(400)));
    let owed = vec![resync(&posts(), Reason::Gap, None), resync(&users, Reason::Shed, None)];
    let mut session = Session::start_owing(setup.deliver(), owed);
    session.wait(|progress| progress.settled.contains("users")).await;
    assert_eq!(setup.rejected().len(), 1);
    // What is owed stands in the state file, so changes are confirmed meanwhile.
    session.send(vec![post(9, 1)]).await;
    session.wait_confirmed(1).await;
    assert!(!session.progress.borrow().settled.contains("posts"));
    endpoint.heal();
    session.wait(|progress| progress.settled.len() == 2).await;
    let told: Vec<String> = endpoint.resyncs().into_iter().map(|it| it.event.channel).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(endpoint.resyncs().iter().all(|it| it.event.data("reason") == "gap"));
    session.finish().await.expect("all is delivered");
}

#[tokio::test]
async fn a_stop_tells_what_is_spread_over_time_at_once() {
    let endpoint = Endpoint::start(Server::Sockudo);
    endpoint.occupy((0..300).map(|id| format!("private-posts.{id}")));
    let mut setup = Setup::new(&endpoint);
    setup.limits.resync_spread = Duration::from_secs(60);
    let session = setup.session();
    session.handoffs.send(truncate(&posts(), 1)).await.expect("delivery runs");
    endpoint.wait_for_lists(1).await;
    session.finish().await.expect("all is delivered");
    assert_eq!(told(&endpoint.resyncs()).len(), 301);
}

#[tokio::test]
async fn changes_behind_a_resync_are_told_one_by_one_again() {
    let endpoint = Endpoint::start(Server::Sockudo);
    let setup = at_once(&endpoint);
    let mut session = setup.session();
    let terms = posts();
    session.handoffs.send(truncate(&terms, 1)).await.expect("delivery runs");
    session.wait_confirmed(1).await;
    session.send(vec![by(&terms, post(4, 2))]).await;
    eventually(SOON, "it is accepted", async || {
        endpoint.accepted().iter().any(|it| number(it) == 2).then_some(())
    })
    .await;
    session.finish().await.expect("all is delivered");
    assert_eq!(endpoint.resyncs().len(), 1);
}

#[tokio::test]
async fn a_resync_does_not_wait_for_what_lanes_take_after_it() {
    let endpoint = Endpoint::start(Server::Reverb);
    let mut setup = at_once(&endpoint);
    setup.limits.max_pending = ByteSize::mebibytes(1).try_into().expect("it is enough");
    let session = setup.session();
    let own = Arc::into_inner(posts()).expect("nobody else has them");
    let terms = Arc::new(Terms { window: None, may_collapse: false, ..own });
    let handoffs = session.handoffs.clone();
    let load = tokio::spawn(async move {
        for position in 1.. {
            let posts = (0..20).map(|_| by(&terms, post(position, position))).collect();
            let mut handoff = handoff(posts);
            if position == 100 {
                handoff.resyncs.push(resync(&terms, Reason::Truncate, Some(position)));
            }
            if handoffs.send(handoff).await.is_err() {
                return;
            }
        }
    });
    let is_told = async || (!endpoint.resyncs().is_empty()).then_some(());
    eventually(SOON, "the resync is told under constant load", is_told).await;
    assert!(!load.is_finished());
    load.abort();
}

//! What is only counted is told on the channels that it would have been told on.

use std::sync::Arc;

use proptest::prelude::*;

use super::hostile::hostile_value;
use super::lookups::{self, hostile_parent, parent_of};
use super::rows::{batch, fields};
use super::{posts, route_with, rules};
use crate::change::{Batch, Parents};
use crate::notification::{ChannelName, Demand, Handoff, Reason};
use crate::route::Router;

/// What is said by itself, and where only that is wanted.
fn both(
    router: &mut Router,
    change: &Batch,
    parents: &Parents,
    demand: Demand,
) -> (Handoff, Handoff) {
    let mut said = [Demand::Notification, demand].map(|demand| {
        // The terms are there once the table was described.
        route_with(router, change, parents);
        router.terms().for_each(|terms| terms.demanded.set(demand));
        let (told, missing) = route_with(router, change, parents);
        assert!(missing.is_empty(), "{missing:?}");
        told
    });
    (std::mem::take(&mut said[0]), std::mem::take(&mut said[1]))
}

fn tells(told: &Handoff, channel: &ChannelName) -> bool {
    let is_constant = |constant: Option<ChannelName>| constant.as_ref() == Some(channel);
    told.notifications.iter().any(|it| it.channels.contains(channel))
        || told.resyncs.iter().any(|resync| {
            let mut patterns = resync.terms.channels.iter();
            resync.audience.holds(channel) || patterns.any(|it| is_constant(it.constant()))
        })
}

fn agree(alone: &Handoff, counted: &Handoff, demand: Demand) -> Result<(), TestCaseError> {
    let channels = || alone.notifications.iter().flat_map(|it| &it.channels);
    for channel in channels() {
        prop_assert!(tells(counted, channel), "{channel} is not told: {counted:?}");
    }
    if alone.notifications.is_empty() && demand == Demand::Channels {
        prop_assert!(counted.notifications.is_empty());
        prop_assert_eq!(alone.resyncs.len(), counted.resyncs.len());
    }
    let bulk = counted.resyncs.iter().filter(|resync| resync.reason == Reason::Bulk);
    for resync in bulk {
        prop_assert_eq!(resync.audience.is_all(), demand == Demand::Count);
        let of_rows = channels().filter(|channel| resync.audience.holds(channel));
        prop_assert!(resync.audience.names() <= of_rows.count(), "names that no row has");
    }
    Ok(())
}

/// Mostly one that may be in a channel's name.
fn value() -> impl Strategy<Value = Option<Option<Vec<u8>>>> {
    prop_oneof![1 => hostile_value(), 7 => "[a-c42]{1,2}".prop_map(|text| Some(Some(text.into())))]
}

fn demands() -> impl Strategy<Value = Demand> {
    prop_oneof![Just(Demand::Channels), Just(Demand::Count)]
}

proptest! {
    #[test]
    fn whatever_the_values_no_channel_is_left_out_and_none_added(
        demand in demands(),
        old in prop::option::of(prop::collection::vec(value(), 4)),
        new in prop::option::of(prop::collection::vec(value(), 4)),
    ) {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let rules = rules(toml::toml! {
            table = "posts"
            channels = ["posts", "private-posts.{{ slug }}", "users.{{ user_id }}", "x{{ slug | dotted }}"]
            id = "{{ user_id }}"
            where = "note != '42'"
            when = "note != 'a.b'"
            changed = ["slug", "user_id", "note"]
        });
        let relation = posts(&["id integer", "slug text", "user_id text", "note text"]);
        let mut router = Router::new(Arc::new(rules));
        let change = batch(&relation, old, new);
        let (alone, counted) = both(&mut router, &change, &Parents::default(), demand);
        agree(&alone, &counted, demand)?;
    }

    #[test]
    fn whatever_parents_say_no_channel_is_left_out_and_none_added(
        demand in demands(),
        old in prop::option::of(prop::collection::vec(value(), 3)),
        new in prop::option::of(prop::collection::vec(value(), 3)),
        rows in prop::collection::vec(hostile_parent(), 8),
    ) {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let mut router = Router::new(Arc::new(lookups::hostile_rules()));
        let change = batch(&lookups::comments(), old, new);
        let (mut parents, mut rows) = (Parents::default(), rows.into_iter());
        loop {
            let (_, missing) = route_with(&mut router, &change, &parents);
            if missing.is_empty() {
                break;
            }
            for key in missing {
                parents.put(key, parent_of(rows.next().expect("four at most, by two lookups")));
            }
        }
        let (alone, counted) = both(&mut router, &change, &parents, demand);
        if alone.resyncs.is_empty() {
            agree(&alone, &counted, demand)?;
        }
    }
}

#[test]
fn what_one_transaction_did_is_one_resync_and_a_channel_that_cannot_be_named_stays_itself() {
    let rules = rules(toml::toml! {
        table = "posts"
        channels = ["posts", "posts.{{ slug }}"]
    });
    let relation = posts(&["id integer", "slug text"]);
    let mut router = Router::new(Arc::new(rules));
    let row = |row: &str| batch(&relation, None, Some(fields(&relation, row)));
    route_with(&mut router, &row(r#"{"id":1,"slug":"a"}"#), &Parents::default());
    router.terms().for_each(|terms| terms.demanded.set(Demand::Channels));
    let (mut told, mut missing) = (Handoff::default(), Default::default());
    for slug in ["\"a\"", "\"b\"", "\"a b\"", "null", "\"b\""] {
        let change = row(&format!(r#"{{"id":1,"slug":{slug}}}"#));
        let change = change.change().expect("a change");
        router.route(&change, &Parents::default(), &mut missing, &mut told).expect("it is known");
    }
    let [resync] = &told.resyncs[..] else { panic!("{:?}", told.resyncs) };
    assert_eq!((resync.count, resync.reason, resync.audience.names()), (Some(4), Reason::Bulk, 2));
    let [refused, beside] = &told.notifications[..] else { panic!("{:?}", told.notifications) };
    assert!(refused.refusal.is_some() && beside.channels.len() == 1);
    assert_eq!(router.counts.null_channels, 1);
}

//! What holds whatever a row's values are.

use std::sync::Arc;

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::rows::batch;
use super::{notifications, posts, route_all, rules};
use crate::change::Relation;
use crate::notification::{Action, ChannelClass, Notification, Payload};
use crate::route::{Router, Rules};

fn hostile_rules() -> (Rules, Arc<Relation>) {
    let config = toml::toml! {
        table = "posts"
        channels = [
            "private-posts.{{ slug }}.end",
            "private-{{ slug }}",
            "presence-x{{ slug | dotted }}",
            "news.{{ slug | upper }}-{{ id }}",
            "json.{{ props.name }}",
            "json.{{ props['name'] }}.{{ slug[:4] }}",
            "space.{{ slug | replace(' ', '-') }}",
            "beside.{{ slug ~ (props.name | replace('.', '-')) }}",
            "behind.{{ slug ~ props.name | dotted }}"
        ]
        event = ["{{ Entity }}{{ Action }}", "x.{{ slug }}"]
        when = "old.total > 3 or new.total < 7 or props.a.b == 'x'"
        data = { slug = "{{ slug }}", all = "{{ slug }} {{ props }} {{ at_time }}", p = "{{ props }}", n = "{{ total | number_format(2) }}", t = "{{ at_time | iso8601 }}", e = "{{ slug | e }}" }
    };
    let columns = ["id integer", "slug text", "props json", "at_time timestamptz", "total numeric"];
    (rules(config), posts(&columns))
}

pub(super) fn hostile_value() -> impl Strategy<Value = Option<Option<Vec<u8>>>> {
    let text = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        3 => "[-a-zA-Z0-9_=@,;.#{}%| ]{0,30}".prop_map(String::into_bytes),
        2 => prop::sample::select(vec![
            "encrypted-x", "cache-x", "private-x", "42", "a.b", "../x", "{{ id }}", "",
            "{\"name\":\"cache-a\",\"a\":{\"b\":\"x\"}}", "{\"name\":null}", "[1,2]", "NaN", "1e400",
            "infinity", "2026-11-20 21:34:00+00", "2026-11-20 21:34:00.1+05:30", "\u{0}", "é",
            "{% raw %}{{", "{% include 'x' %}", "{#", "}}", "\r\nHost: x", "\u{1b}[2J", "a\u{0}b",
            "\u{202e}x\u{feff}", "294276-12-31 23:59:59.999999+00", "0044-03-15 12:00:00+00 BC",
            "-1e-999999", "{\"name\":\"{{ id }}\",\"a\":[]}", "{\"a\":{\"b\":\"\\u0000\"}}",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["9", "x", "[", "{\"a\":", "\"", "\u{1}", ".", "é", "{{"])
            .prop_flat_map(|text| {
                (0..12_000 / text.len()).prop_map(|count| text.repeat(count).into_bytes())
            }),
    ];
    prop_oneof![1 => Just(None), 1 => Just(Some(None)), 8 => text.prop_map(|text| Some(Some(text)))]
}

proptest! {
    #[test]
    fn no_row_value_makes_another_channel_or_a_panic(
        old in prop::option::of(prop::collection::vec(hostile_value(), 5)),
        new in prop::option::of(prop::collection::vec(hostile_value(), 5)),
    ) {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        let (rules, relation) = hostile_rules();
        // Start, end, and how many dots are the template's own.
        let frames = [
            ("private-posts.", ".end", 2..=2, ChannelClass::Private),
            ("private-", "", 0..=0, ChannelClass::Private),
            ("presence-x", "", 0..=200, ChannelClass::Presence),
            ("news.", "", 1..=1, ChannelClass::Public),
            ("json.", "", 1..=2, ChannelClass::Public),
            ("space.", "", 1..=1, ChannelClass::Public),
            ("beside.", "", 1..=1, ChannelClass::Public),
            ("behind.", "", 1..=1, ChannelClass::Public),
        ];
        for notification in notifications(rules, &batch(&relation, old, new)) {
            prop_assert!(!notification.channels.is_empty() || notification.refusal.is_some());
            for channel in &notification.channels {
                let name = channel.as_str();
                let dots = name.matches('.').count();
                let within = frames.iter().any(|(start, end, own_dots, class)| {
                    name.starts_with(start)
                        && name.ends_with(end)
                        && own_dots.contains(&dots)
                        && channel.class() == *class
                });
                prop_assert!(within && !name.contains('#'), "{name}");
                // Else a resync would not reach it.
                let patterns = &notification.terms.channels;
                prop_assert!(patterns.iter().any(|pattern| pattern.matches(channel)), "{name}");
            }
            // Not as a `Value`: JSON allows numbers that no float holds.
            for json in [&*notification.data(), &*notification.id] {
                prop_assert!(serde_json::from_str::<IgnoredAny>(json).is_ok(), "{json}");
            }
        }
    }
    #[test]
    fn a_payload_drawn_again_is_the_same_and_folded_with_others_still_json(
        rows in prop::collection::vec(
            (
                prop::option::of(prop::collection::vec(hostile_value(), 5)),
                prop::collection::vec(hostile_value(), 5),
            ),
            1..4,
        ),
    ) {
        let config = toml::toml! {
            table = "posts"
            channels = "posts"
            data = { old = "{{ old.slug }}", all = "{{ changed }} {{ Action }} {{ props }}", n = "{{ old.total | number_format(2) }}", t = "{{ at_time }}" }
        };
        let columns =
            ["id integer", "slug text", "props json", "at_time timestamptz", "total numeric"];
        let relation = posts(&columns);
        let mut router = Router::new(Arc::new(rules(config)));
        let told = rows.into_iter().flat_map(|(old, new)| {
            route_all(&mut router, &batch(&relation, old, Some(new)))
        });
        let mut folded: Option<Notification> = None;
        for mut notification in told {
            match &notification.payload {
                Payload::Drawn { text, draft } => {
                    let again = draft.render.render(draft, notification.action);
                    prop_assert_eq!(again.as_ref(), Some(text));
                }
                Payload::Minimal { partial, draft, .. } => {
                    prop_assert!(*partial);
                    let draft = draft.as_ref().expect("a fold may mend it");
                    prop_assert_eq!(draft.render.render(draft, notification.action), None);
                }
                Payload::Own(_) => prop_assert!(false, "folding changes what it says"),
            }
            if let Some(earlier) = folded.take() {
                notification.absorb(earlier, Action::Updated);
            }
            prop_assert!(serde_json::from_str::<IgnoredAny>(&notification.data()).is_ok());
            folded = Some(notification);
        }
    }
}

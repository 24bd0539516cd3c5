//! A row's values in channel names are input from strangers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{Scene, said};
use crate::harness::{cluster::Version, database::Database, wait::SOON};

/// What a slug makes of the channels `posts.{{ slug }}` and `private-{{ slug }}`: these, and for what reason others not.
const SLUGS: [(&str, &[&str], &[&str]); 14] = [
    ("fine-1", &["posts.fine-1", "private-fine-1"], &[]),
    ("a=b@c,d;e_f", &["posts.a=b@c,d;e_f", "private-a=b@c,d;e_f"], &[]),
    ("two words", &[], &["a value has ' '"]),
    ("a#b", &[], &["a value has '#'"]),
    ("#server-to-user-1", &[], &["a value has '#'"]),
    ("naïve", &[], &["a value has 'ï'"]),
    ("line\nbreak", &[], &["a value has '\\n'"]),
    ("1.secret", &[], &["a value has '.'"]),
    ("..", &[], &["a value has '.'"]),
    ("{{ id }}", &[], &["a value has '{'"]),
    // Within another frame it is a name like any other.
    ("private-x", &["posts.private-x", "private-private-x"], &[]),
    ("encrypted-x", &["posts.encrypted-x"], &["another class of channel"]),
    ("cache-x", &["posts.cache-x"], &["another class of channel"]),
    (LONG, &[], &["the channel name has 306 bytes", "the channel name has 308 bytes"]),
];

const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

#[tokio::test]
async fn a_value_never_names_another_channel_and_the_other_channels_still_go() {
    let rules = "[[rule]]\ntable = 'posts'\non = ['created']\n\
                 channels = ['posts.{{ slug }}', 'private-{{ slug }}', 'all']\n";
    let scene = Scene::with(Database::on(Version::DEFAULT).await, rules).await;
    let run = scene.run().await;
    let client = scene.database.client().await;
    for (id, (slug, ..)) in (0..).zip(SLUGS) {
        client.execute("insert into posts values ($1, $2)", &[&id, &slug]).await.expect("any text");
    }
    scene.wait_confirmed().await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{}", said(&run));
    scene.endpoint.assert_strict();

    let mut heard: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for accepted in scene.endpoint.accepted() {
        let id = accepted.event.data("id").as_i64().expect("the payload has its id");
        heard.entry(id).or_default().insert(accepted.event.channel);
    }
    let rejected = scene.rejected();
    for (id, (slug, channels, reasons)) in (0..).zip(SLUGS) {
        let expected = channels.iter().copied().chain(["all"]).map(str::to_owned).collect();
        assert_eq!(heard[&id], expected, "{slug:?}");
        let lines: Vec<_> = rejected.iter().filter(|line| line["id"] == json!(id)).collect();
        assert_eq!(lines.len(), usize::from(!reasons.is_empty()), "{slug:?}: {lines:?}");
        for line in lines {
            let reason = line["reason"].as_str().expect("a reason");
            assert!(reasons.iter().all(|part| reason.contains(part)), "{slug:?}: {reason}");
            assert_eq!(line["data"]["id"], json!(id));
        }
    }
    let warned = said(&run);
    assert!(warned.contains("refused for good"), "{warned}");
    assert!(warned.contains("state/rejected.jsonl"), "{warned}");
    assert!(!warned.contains("secret"), "a row's value is in the log: {warned}");
}

#[tokio::test]
async fn a_channel_whose_class_a_value_would_choose_is_no_configuration() {
    let rules = "[[rule]]\ntable = 'posts'\nchannels = ['{{ slug }}']\n";
    let scene = Scene::before_setup(Database::on(Version::DEFAULT).await, rules).await;
    let (code, said) = scene.refused().await;
    assert_eq!(code, 78);
    assert!(said.contains("the beginning must be text that tells the class"), "{said}");
    assert!(said.contains(r#"for example "private-{{ slug }}", or "rows.{{ slug }}""#), "{said}");
}

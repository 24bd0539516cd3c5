//! The configuration is wrong.

use super::Scene;
use crate::harness::{cluster::Version, database::Database};

#[tokio::test]
async fn a_wrong_configuration_ends_with_78_its_place_and_what_to_write_instead() {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    scene.insert(1).await;
    for (right, wrong, told) in [
        (
            "channels =",
            "chanels =",
            r"error: unknown option `chanels` in `rule`
  --> rowcast.toml:LINE:1
   |
LINE | chanels = ['posts.{{ id }}', 'posts']
   | ^^^^^^^
   = help: did you mean `channels`?",
        ),
        (
            "{{ id }}",
            "{{ id",
            r#"error: rule "posts", channels: "posts.{{ id": `{{` at character 7 is never closed by `}}`
  --> rowcast.toml:LINE:1
   |
LINE | channels = ['posts.{{ id', 'posts']
   | ^^^^^^^^"#,
        ),
        (
            "{{ id }}",
            "{{ idd }}",
            r#"error: rule "posts", channels: public.posts has no column idd
  --> rowcast.toml:LINE:1
   |
LINE | channels = ['posts.{{ idd }}', 'posts']
   | ^^^^^^^^
   = help: did you mean id?"#,
        ),
        (
            "'posts'\n",
            "'post'\n",
            r#"error: rule "post", table: the database has no table public.post
  --> rowcast.toml:LINE:1
   |
LINE | table = 'post'
   | ^^^^^
   = help: did you mean posts?"#,
        ),
        (
            "'posts']\n",
            "'posts']\nevent = '${EVENT}'\n",
            r"error: `rule.event`: the environment variable EVENT is not set
  --> rowcast.toml:LINE:10
   |
LINE | event = '${EVENT}'
   |          ^^^^^^^^
   = help: set EVENT, or give a default: ${EVENT:-…}",
        ),
        (
            "'posts']\n",
            "'posts']\nevent = \"App\\Events\\PostUpdated\"\n",
            r#"error: in double quotes a backslash begins an escape such as \n
  --> rowcast.toml:LINE:9
   |
LINE | event = "App\Events\PostUpdated"
   |         ^^^^^^^^^^^^^^^^^^^^^^^^
   = help: write it in single quotes: 'App\Events\PostUpdated'"#,
        ),
    ] {
        let mut at = 0;
        scene.configure(|text| {
            assert!(text.contains(right), "{right:?} is not in {text}");
            *text = text.replace(right, wrong);
            let quoted = told.lines().find_map(|line| line.strip_prefix("LINE | ")).expect("one");
            at = text.lines().position(|line| line == quoted).expect("the line is there") + 1;
        });
        let (code, said) = scene.refused().await;
        assert_eq!(said, told.replace("LINE", &at.to_string()));
        assert_eq!(code, 78, "{said}");
    }
    assert_eq!(scene.endpoint.requests(), 0);
    scene.configure(|_| ());
    scene.arrives_now(1).await;
}

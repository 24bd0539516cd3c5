//! `--why`: what nobody is told of, and which option it was.

use super::{configured, printed};
use crate::harness::{
    capture::{Capture, over_both},
    cluster::Version,
    database::Database,
    rowcast::Rowcast,
    wait::SOON,
};

const RULES: &str = r#"
[[rule]]
table = "posts"
channels = ["private-posts.{{ id }}", "private-users.{{ user_id }}"]
where = "status == 'published'"
[[rule]]
name = "news"
table = "posts"
channels = "news"
on = ["created"]
"#;

async fn scene(capture: Capture) -> (Database, Rowcast) {
    let database = Database::on(Version::V15).await;
    database
        .psql(
            "create table posts (id int primary key, status text not null, user_id int);
             create table comments (id int primary key);
             create table tags (id int primary key);",
        )
        .await;
    let rowcast = configured(&database.toml_over(capture).await, RULES);
    database.set_up(&rowcast, capture).await;
    if capture == Capture::Wal {
        database.psql(&format!("alter publication {} add table tags", database.name)).await;
    }
    (database, rowcast)
}

#[tokio::test]
async fn what_rules_let_go_is_told_in_its_place_with_the_option_and_what_it_read() {
    over_both(async |capture| {
        let (database, rowcast) = scene(capture).await;
        let tail = rowcast.start(&["tail", "--why", "--json", "-v"]);
        tail.stderr.wait_for(SOON, "streaming changes").await;
        let said = tail.stderr.all().join("\n");
        let unseen = match capture {
            Capture::Wal => "no rule takes them: public.comments\n",
            Capture::Triggers => "no rule takes them: public.comments, public.tags\n",
        };
        assert!(said.contains(unseen), "{said}");
        database
            .psql(
                "insert into posts values (1, 'draft', 7);
                 update posts set status = 'published', user_id = null where id = 1;
                 insert into tags values (5);
                 insert into comments values (9);
                 insert into posts values (2, 'published', 8);",
            )
            .await;
        tail.stdout.wait_for(SOON, "private-users.8").await;
        tail.sigterm();
        assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
        let told: Vec<String> = printed(&tail)
            .iter()
            .map(|line| {
                let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
                match line.get("why") {
                    Some(why) => {
                        format!("{} {} {} {}: {}", text("rule"), line["id"], text("action"),
                            why.as_str().expect("text"), text("text"))
                    }
                    None => format!("{} {} {}", text("rule"), line["id"], line["channels"]),
                }
            })
            .collect();
        let mut expected = vec![
            "posts 1 created where: where does not hold: status == 'published'; status is \"draft\"",
            "news 1 [\"news\"]",
            "posts 1 created channels: not on private-users.{{ user_id }}, since a value in it is NULL",
            "posts 1 [\"private-posts.1\"]",
            "news 1 updated on: it is only on created",
            "posts 2 [\"private-posts.2\",\"private-users.8\"]",
            "news 2 [\"news\"]",
        ];
        if capture == Capture::Wal {
            expected.insert(5, "- 5 created table: no rule takes the table");
        }
        let mut sorted = told.clone();
        sorted.sort();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        // What is said of the first row is said before what is said of the second.
        let first = told.iter().position(|line| line.starts_with("posts 1 created where"));
        assert_eq!(first, Some(0), "{told:?}");
    })
    .await;
}

#[tokio::test]
async fn for_people_it_is_one_line_too() {
    let (database, rowcast) = scene(Capture::Wal).await;
    let tail = rowcast.start(&["tail", "--why", "-v"]);
    tail.stderr.wait_for(SOON, "streaming changes").await;
    database.psql("insert into posts values (1, 'draft', 7)").await;
    let line = tail.stdout.wait_for(SOON, "not told").await;
    assert!(
        line.ends_with(
            "  public.posts 1 created  not told by rule posts: where does not hold: \
             status == 'published'; status is \"draft\""
        ),
        "{line}"
    );
    // Without it there is nothing of that.
    tail.sigterm();
    assert_eq!(tail.exit_code(SOON).await, 0, "{:?}", tail.stderr.all());
}

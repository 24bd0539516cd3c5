//! Rules that change, and tables that are renamed with them: `setup` makes them known, over both captures.

use rowcast::deliver::pusher::Server;
use serde_json::{Value, json};

use crate::harness::{
    capture::{Capture, over_both},
    cluster::Version,
    database::Database,
    endpoint::{Accepted, Endpoint},
    rowcast::Rowcast,
    wait::SOON,
};

struct Scene {
    capture: Capture,
    database: Database,
    endpoint: Endpoint,
    head: String,
    rowcast: Rowcast,
}

impl Scene {
    async fn new(capture: Capture, schema: &str) -> Scene {
        let database = Database::on(Version::DEFAULT).await;
        database.psql(schema).await;
        let endpoint = Endpoint::start(Server::Reverb);
        let head = format!(
            "{}[pusher]\n{}[limits]\nmax_in_flight = 1\n[run]\nstate_dir = 'state'\n",
            database.toml_over(capture).await,
            endpoint.toml()
        );
        Scene { capture, database, endpoint, head, rowcast: Rowcast::without_config() }
    }

    /// Set up with these rules, and run until all that was written before is told: by channel, event and data.
    async fn told(&self, rules: &str) -> Vec<(String, String, Value)> {
        self.rowcast.configure(&format!("{}{rules}", self.head));
        self.database.set_up(&self.rowcast, self.capture).await;
        self.once().await
    }

    async fn once(&self) -> Vec<(String, String, Value)> {
        self.endpoint.forget();
        let run = self.rowcast.start(&["run", "--once"]);
        assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
        let told = self.endpoint.accepted().into_iter().map(|Accepted { event, .. }| {
            let mut data: Value = serde_json::from_str(&event.data).expect("data is JSON");
            data.as_object_mut().and_then(|data| data.remove("at"));
            (event.channel, event.name, data)
        });
        told.collect()
    }
}

fn told(channel: &str, event: &str, data: Value) -> (String, String, Value) {
    (channel.to_owned(), event.to_owned(), data)
}

#[tokio::test]
async fn rules_that_change_and_tables_that_are_renamed_are_told_of_after_setup() {
    over_both(async |capture| rules_change(capture).await).await;
}

async fn rules_change(capture: Capture) {
    let schema = "create table posts (id int primary key, title text, status text);
                  create table tags (id int primary key)";
    let scene = Scene::new(capture, schema).await;
    let rule = |table: &str, data: &str| {
        format!(
            "[[rule]]\ntable = '{table}'\nchannels = 'posts'\ncoalesce = false\ndata = {{ {data} }}\n"
        )
    };
    let [by_title, by_status] =
        ["id = '{{ id }}', title = '{{ title }}'", "id = '{{ id }}', status = '{{ status }}'"];
    assert_eq!(scene.told(&rule("posts", by_title)).await, []);
    scene.database.psql("insert into posts values (1, 'a', 'draft')").await;
    assert_eq!(
        scene.once().await,
        [told("posts", "PostCreated", json!({ "id": 1, "title": "a" }))]
    );

    // Written by what the old rules named, and told by the new ones.
    scene.database.psql("insert into posts values (2, 'b', 'draft')").await;
    let both = format!("{}[[rule]]\ntable = 'tags'\nchannels = 'tags'\n", rule("posts", by_status));
    let before = match capture {
        Capture::Wal => vec![told("posts", "PostCreated", json!({ "id": 2, "status": "draft" }))],
        // What the new rules need of it was not written: pages fetch instead.
        Capture::Triggers => vec![],
    };
    assert_eq!(scene.told(&both).await, before);
    let resyncs = scene.endpoint.resyncs();
    let fetches = resyncs.iter().any(|it| it.event.channel == "posts");
    assert!(fetches || capture == Capture::Wal, "{resyncs:?}");
    scene.database.psql("update posts set status = 'done' where id = 2").await;
    scene.database.psql("insert into tags values (1)").await;
    assert_eq!(
        scene.once().await,
        [
            told("posts", "PostUpdated", json!({ "id": 2, "status": "done" })),
            told("tags", "TagCreated", json!({ "entity": "tag", "action": "created", "id": 1 })),
        ]
    );

    let rename =
        "update posts set status = 'old' where id = 2; alter table posts rename to articles;
                  update articles set status = 'new' where id = 2";
    scene.database.psql(rename).await;
    let renamed = rule("articles", by_status);
    let told_of = |status: &str| {
        let data = json!({ "id": 2, "status": status });
        told("posts", "ArticleUpdated", data)
    };
    assert_eq!(scene.told(&renamed).await, [told_of("old"), told_of("new")]);
    scene.database.psql("update articles set status = 'newer' where id = 2").await;
    assert_eq!(scene.once().await, [told_of("newer")]);
}

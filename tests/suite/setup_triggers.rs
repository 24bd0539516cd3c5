//! `rowcast setup` and `rowcast teardown` with capture = "triggers", as an operator runs them.

use crate::harness::{
    cluster::{Version, on_every_version},
    database::Database,
    process::Process,
    psql,
    rowcast::Rowcast,
    wait::SOON,
};

const POSTS: &str = "create table posts (id int primary key, user_id int, title text);";
const RULE: &str = "[[rule]]\ntable = 'posts'\nchannels = ['private-users.{{ user_id }}.posts']\n";

/// A database whose tables belong to `shop`, and a role for rowcast that may log in and nothing else.
struct Scene {
    database: Database,
    rowcast: Rowcast,
    owner_url: String,
}

impl Scene {
    async fn new(version: Version, schema: &str, rules: &str) -> Self {
        let database = Database::on(version).await;
        let name = &database.name;
        database
            .psql(&format!(
                "create role own_{name} login; create role shop_{name} login;
                 alter database {name} owner to shop_{name}; alter schema public owner to shop_{name}"
            ))
            .await;
        let as_role = |role: &str| database.url().replace("postgres@", &format!("{role}_{name}@"));
        let owner_url = as_role("shop");
        psql::run(&owner_url, schema).await;
        let rowcast = Rowcast::new(&config(&as_role("own"), rules));
        Self { database, rowcast, owner_url }
    }

    async fn setup(&self, arguments: &[&str]) -> (i32, String) {
        let setup = [&["setup", "--url", &self.owner_url], arguments].concat();
        ended(&self.rowcast.start(&setup)).await
    }
}

fn config(url: &str, rules: &str) -> String {
    format!(
        "[database]\nurl = '{url}'\ncapture = 'triggers'\n\
         [pusher]\nurl = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n\
         [run]\nstate_dir = 'state'\n{rules}"
    )
}

async fn ended(process: &Process) -> (i32, String) {
    let code = process.exit_code(SOON).await;
    (code, [process.stdout.all(), process.stderr.all()].concat().join("\n"))
}

on_every_version! {
    async fn setup_makes_all_as_its_own_role_and_then_finds_nothing_to_do(version: Version) {
        let scene = Scene::new(version, POSTS, RULE).await;
        let (code, said) = scene.setup(&[]).await;
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("changed    "), "{said}");
        let owners = "select distinct relowner::regrole from pg_class
                      where relnamespace = 'rowcast'::regnamespace";
        let own = format!("own_{}", scene.database.name);
        assert_eq!(scene.database.psql(owners).await, own);

        let write = "insert into posts values (1, 7, 'a'); update posts set user_id = 8; delete from posts";
        psql::run(&scene.owner_url, write).await;
        let written = "select op, old, new from rowcast.outbox order by id";
        let rows = ["i||{1,7}", "u|{1,7}|{1,8}", "d|{1,8}|"];
        assert_eq!(scene.database.psql(written).await, rows.join("\n"));

        let (code, said) = scene.setup(&[]).await;
        assert_eq!(code, 0, "{said}");
        assert!(!said.contains("changed    ") && said.contains("unchanged  "), "{said}");
    }
}

//! `rowcast run` with capture = "triggers" by way of the pool that the application uses too, as the same role.

use rowcast::deliver::pusher::Server;

use super::Pool;
use crate::harness::{
    endpoint::{Accepted, Endpoint},
    pgbouncer::PoolMode,
    process::Process,
    rowcast::Rowcast,
    wait::SOON,
};

struct Scene {
    pool: Pool,
    endpoint: Endpoint,
    config: String,
    rowcast: Rowcast,
}

impl Scene {
    /// Posts, whose channel their author says.
    async fn with(mode: PoolMode, wake: &str) -> Scene {
        let pool = Pool::of_a_role(mode).await;
        pool.database
            .psql(&format!(
                "create table users (id int primary key, name text);
                 create table posts (id int primary key, author_id int, title text);
                 grant all on posts, users to {};
                 insert into users select n, 'user' || n from generate_series(1, 9) n;",
                pool.role,
            ))
            .await;
        let endpoint = Endpoint::start(Server::Reverb);
        let config = format!(
            "[database]\nurl = '{}'\ncapture = 'triggers'\nwake = '{wake}'\n[pusher]\n{}\
             [limits]\nresync_spread = '0s'\n[run]\nstate_dir = 'state'\ninspect_every = '100ms'\n\
             [[rule]]\ntable = 'posts'\nchannels = ['posts.{{{{ author.name }}}}']\ncoalesce = false\n\
             [rule.lookup.author]\ntable = 'users'\nkey = '{{{{ author_id }}}}'\ncolumns = ['name']\n",
            pool.url(),
            endpoint.toml(),
        );
        let rowcast = Rowcast::new(&config);
        let setup = rowcast.start(&["setup", "--url", &pool.database.url()]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        Scene { pool, endpoint, config, rowcast }
    }

    /// By a role that is another, for who asks PgBouncer.
    async fn write(&self, ids: std::ops::RangeInclusive<i32>) {
        let url = self.pool.bouncer.url("application", &self.pool.database.name);
        let mut script = String::new();
        for id in ids {
            script += &format!("insert into public.posts values ({id}, {}, 'a');\n", id % 9 + 1);
        }
        crate::harness::psql::run(&url, &script).await;
    }

    async fn arrive(&self, ids: std::ops::RangeInclusive<i32>) {
        let is_there = |all: &[Accepted], id: i32| {
            let channel = format!("posts.user{}", id % 9 + 1);
            let is_it = |it: &Accepted| it.event.data("id") == id && it.event.channel == channel;
            all.iter().any(is_it)
        };
        let what = format!("posts {ids:?}");
        self.endpoint.wait_for(&what, |all| ids.clone().all(|id| is_there(all, id))).await;
    }

    async fn run(rowcast: &Rowcast) -> Process {
        let run = rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        run
    }
}

async fn stop(run: Process) {
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0, "{:?}", run.stderr.all());
}

#[tokio::test]
async fn by_polling_it_goes_through_transaction_mode_and_leaves_nothing_there() {
    let scene = Scene::with(PoolMode::Transaction, "poll").await;
    let fresh = scene.pool.fresh().await;
    let first = Scene::run(&scene.rowcast).await;
    let others = scene.pool.stirred().await;
    scene.write(1..=100).await;
    scene.arrive(1..=100).await;

    let second = Rowcast::new(&scene.config);
    let second = second.start(&["run"]);
    second.stderr.wait_for(SOON, "another rowcast empties the outbox").await;
    scene.write(101..=120).await;
    scene.arrive(101..=120).await;
    first.kill9();
    scene.write(121..=140).await;
    second.stderr.wait_for(SOON, "streaming changes").await;
    scene.arrive(121..=140).await;
    others.leave().await;
    stop(second).await;
    assert_eq!(scene.pool.database.psql("select count(*) from rowcast.outbox").await, "0");
    assert_eq!(scene.pool.left_behind().await, fresh);
}

#[tokio::test]
async fn woken_by_notify_it_goes_through_session_mode() {
    let scene = Scene::with(PoolMode::Session, "notify").await;
    let run = Scene::run(&scene.rowcast).await;
    scene.pool.database.psql("insert into posts values (1, 2, 'a')").await;
    scene.arrive(1..=1).await;
    stop(run).await;
}

#[tokio::test]
async fn where_a_session_is_needed_transaction_mode_is_refused_with_words() {
    let scene = Scene::with(PoolMode::Transaction, "notify").await;
    let fresh = scene.pool.fresh().await;
    let refused = scene.rowcast.start(&["run"]);
    assert_eq!(refused.exit_code(SOON).await, 1);
    let said = refused.stderr.all().join("\n");
    assert!(said.contains("gives each transaction another session"), "{said}");
    assert!(said.contains("wake = \"poll\""), "{said}");
    assert_eq!(scene.pool.left_behind().await, fresh);
}

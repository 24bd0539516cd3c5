//! `rowcast status`: what it says with and without a process, with and without Postgres.

use rowcast::deliver::pusher::Server;
use serde_json::Value;

use crate::harness::{
    capture::Capture,
    cluster::Version,
    database::Database,
    endpoint::{Endpoint, Fault},
    process::Process,
    rowcast::Rowcast,
    wait::{SOON, eventually},
};

const REST: &str = "[pusher]\nurl = 'http://127.0.0.1:9'\napp_id = '1'\nkey = 'k'\nsecret = 's'\n\
                    [run]\nstate_dir = 'state'\n\
                    [[rule]]\ntable = 'posts'\nchannels = 'posts'\n";

async fn set_up(database: &Database, capture: Capture) -> Rowcast {
    database.psql("create table posts (id int primary key)").await;
    let rowcast = Rowcast::new(&format!("{}{REST}", database.toml_over(capture).await));
    database.set_up(&rowcast, capture).await;
    rowcast
}

async fn status(rowcast: &Rowcast, arguments: &[&str]) -> (i32, Process) {
    let status = rowcast.start(&[&["status"], arguments].concat());
    (status.exit_code(SOON).await, status)
}

async fn json(rowcast: &Rowcast) -> (i32, Value) {
    let (code, status) = status(rowcast, &["--json"]).await;
    let printed = status.stdout.all().join("\n");
    (code, serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}")))
}

#[tokio::test]
async fn without_a_process_it_says_what_the_database_keeps_and_fails() {
    for capture in [Capture::Wal, Capture::Triggers] {
        let database = Database::on(Version::DEFAULT).await;
        let rowcast = set_up(&database, capture).await;
        let (code, printed) = status(&rowcast, &[]).await;
        let (text, error) = (printed.stdout.all().join("\n"), printed.stderr.all().join("\n"));
        assert_eq!(code, 1, "{text}");
        assert!(text.starts_with("process    none: nothing listens at state/"), "{text}");
        let kept = match capture {
            Capture::Wal => format!("slot       {}, nobody reads it", database.slot()),
            Capture::Triggers => "outbox     0 rows of at most 1000000, read by nobody".to_owned(),
        };
        assert!(text.contains(&kept), "{text}");
        assert!(error.contains("rowcast does not run with this configuration here"), "{error}");

        let (code, json) = json(&rowcast).await;
        assert_eq!((code, &json["verdict"]), (1, &Value::from("not_running")));
        let kept = match capture {
            Capture::Wal => &json["database"]["retained_bytes"],
            Capture::Triggers => &json["database"]["rows"],
        };
        assert!(kept.is_u64(), "{json}");
    }
}

#[tokio::test]
async fn without_postgres_it_says_so_with_what_to_do() {
    let rowcast =
        Rowcast::new(&format!("[database]\nurl = 'postgres://postgres@127.0.0.1:9/shop'\n{REST}"));
    let (code, printed) = status(&rowcast, &[]).await;
    let text = printed.stdout.all().join("\n");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("database   cannot be asked: "), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
    let (_, json) = json(&rowcast).await;
    assert!(json["database_problem"].is_string() && json["database"].is_null(), "{json}");
}

#[tokio::test]
async fn a_process_is_asked_how_it_stands_and_one_that_stands_by_is_well() {
    for capture in [Capture::Wal, Capture::Triggers] {
        let database = Database::on(Version::DEFAULT).await;
        let rowcast = set_up(&database, capture).await;
        let endpoint = Endpoint::start(Server::Any);
        let config = std::fs::read_to_string(rowcast.folder().join("rowcast.toml")).unwrap();
        let (before, after) = config.split_once("[pusher]").expect("it has one");
        let (_, after) = after.split_once("[run]").expect("it has one");
        let config = format!("{before}[pusher]\n{}[run]{after}", endpoint.toml());
        rowcast.configure(&config);
        let run = rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;
        database.psql("insert into posts values (1)").await;
        database.delivered(capture).await;
        // The resync of the first start may come after it.
        let text = eventually(SOON, "nothing is pending", async || {
            let (code, printed) = status(&rowcast, &[]).await;
            let text = printed.stdout.all().join("\n");
            assert_eq!(code, 0, "{text}");
            text.contains("pending    nothing").then_some(text)
        })
        .await;
        let pid = format!("pid {}, version ", run.pid());
        for said in [
            "process    working: streaming",
            &pid,
            "endpoint   accepts what is sent",
            "delivered  the last notification ",
            "read by backend ",
        ] {
            assert!(text.contains(said), "{said:?} is not in\n{text}");
        }
        if capture == Capture::Triggers {
            continue;
        }

        let second = Rowcast::new(&config);
        let waiting = second.start(&["run"]);
        waiting.stderr.wait_for(SOON, "waiting until it is").await;
        let (code, told) = json(&second).await;
        assert_eq!((code, &told["verdict"]), (0, &Value::from("standing_by")), "{told}");

        endpoint.choose(|_| Some(Fault::status(401)));
        endpoint.probe_fault(Fault::status(401));
        database.psql("insert into posts values (2)").await;
        let told = eventually(SOON, "it does not work", async || {
            let (code, told) = json(&rowcast).await;
            (code == 1).then_some(told)
        })
        .await;
        assert_eq!(told["verdict"], "not_working", "{told}");
        assert_eq!(told["process"]["endpoint"]["state"], "stopped", "{told}");
    }
}

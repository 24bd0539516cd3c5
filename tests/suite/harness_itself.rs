//! Claims about the harness, on which all other tests rely.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::harness::{
    client::{EchoChannel, Listener},
    cluster::{Cluster, Stop, Version, on_every_version},
    database::Database,
    process::Process,
    proxy::{Pace, Proxy, Which},
    psql, scratch,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

on_every_version! {
    async fn a_database_decodes_its_own_changes(version: Version) {
        let database = Database::on(version).await;
        assert_eq!(database.psql("show server_version_num").await[..2], version.major().to_string());
        assert_eq!(psql::run(&database.socket_url(), "show wal_level").await, "logical");
        let slot = database.slot();
        database
            .psql(&format!(
                "create table posts (id int primary key);
                 create publication p for table posts;
                 do $$ begin perform pg_create_logical_replication_slot('{slot}', 'pgoutput'); end $$;
                 insert into posts values (1);"
            ))
            .await;
        let peek = format!(
            "select count(*) from pg_logical_slot_peek_binary_changes(
                 '{slot}', null, null, 'proto_version', '1', 'publication_names', 'p')
             where get_byte(data, 0) = ascii('I')"
        );
        assert_eq!(database.psql(&peek).await, "1");
    }
}

#[tokio::test]
async fn a_dropped_database_takes_its_slots_along_even_one_in_use() {
    let cluster = Cluster::shared(Version::DEFAULT).await;
    let database = Database::fresh(&cluster).await;
    let slot = database.slot();
    database
        .psql(&format!("select pg_create_logical_replication_slot('{slot}', 'test_decoding')"))
        .await;
    let reader = receive(&database, &database.url());
    let slots =
        |what| format!("select {what} from pg_replication_slots where slot_name = '{slot}'");
    let active = slots("active");
    eventually(SOON, "the slot is in use", async || {
        (cluster.psql("postgres", &active).await == "t").then_some(())
    })
    .await;
    drop(database);
    assert_eq!(cluster.psql("postgres", &slots("count(*)")).await, "0");
    assert_ne!(reader.exit_code(SOON).await, 0);
}

#[tokio::test]
async fn committed_rows_outlive_a_crash_and_every_stop() {
    let cluster = Cluster::start(Version::DEFAULT, &[("wal_sender_timeout", "5s")]).await;
    cluster.psql("postgres", "create table kept (id int); insert into kept values (1)").await;
    cluster.crash().await;
    cluster.start_again().await;
    for how in [Stop::Smart, Stop::Fast, Stop::Immediate] {
        cluster.restart(how).await;
    }
    let row = cluster.client("postgres").await.query_one("select id from kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    assert_eq!(cluster.psql("postgres", "show wal_sender_timeout").await, "5s");
}

#[tokio::test]
async fn settings_and_access_rules_hold_after_a_reload() {
    let cluster = Cluster::start(Version::DEFAULT, &[]).await;
    cluster.psql("postgres", "create role guest login password 'pw'").await;
    cluster.set(&[("password_encryption", "md5")]);
    cluster
        .set_hba(
            "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n",
        )
        .await;
    assert_eq!(cluster.psql("postgres", "show password_encryption").await, "md5");
    let as_guest = |password: &str| {
        format!("postgres://guest:{password}@127.0.0.1:{}/postgres", cluster.port())
    };
    assert_eq!(psql::run(&as_guest("pw"), "select 1").await, "1");
    let refused = psql::try_run(&as_guest("wrong"), "select 1").await.unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
}

#[tokio::test]
async fn a_fast_stop_ends_its_clients() {
    let cluster = Cluster::start(Version::DEFAULT, &[]).await;
    let client = cluster.client("postgres").await;
    assert!(cluster.stop(Stop::Fast).await < SOON);
    eventually(SOON, "the client notices", async || client.is_closed().then_some(())).await;
}

#[tokio::test]
async fn pusher_js_hears_what_an_application_sends() {
    let sockudo = Sockudo::shared().await;
    let channels = ["harness", "private-harness", "presence-harness"];
    let listener = Listener::join(sockudo, &channels).await;
    let data = json!({ "id": 7, "name": "Ä" });
    sockudo.publish(&channels, "PostUpdated", &data).await;
    for channel in channels {
        let heard = listener.wait_for(SOON, channel, |it| it.channel == channel).await;
        assert_eq!((heard.event.as_str(), &heard.data), ("PostUpdated", &data));
    }
    assert_eq!(listener.heard().len(), channels.len());
}

#[tokio::test]
async fn echo_hears_an_event_by_its_name_after_a_dot() {
    let sockudo = Sockudo::shared().await;
    let listener = Listener::join(sockudo, &[]).await;
    listener.listen_by_echo(EchoChannel::Public, "echo", ".PostUpdated").await;
    listener.listen_by_echo(EchoChannel::Private, "echo.7", ".PostUpdated").await;
    sockudo.publish(&["echo", "private-echo.7"], "PostUpdated", &json!({ "id": 7 })).await;
    for channel in ["echo", "echo.7"] {
        let heard = listener.wait_for(SOON, channel, |it| it.channel == channel).await;
        assert_eq!((heard.event.as_str(), heard.data), (".PostUpdated", json!({ "id": 7 })));
    }
}

#[tokio::test]
async fn pusher_js_notices_that_the_server_is_gone() {
    let sockudo = Sockudo::start().await;
    let listener = Listener::join(&sockudo, &["harness"]).await;
    drop(sockudo);
    listener.wait_for_state(SOON, "connecting").await;
}

#[tokio::test]
async fn a_proxy_stalls_slows_refuses_and_cuts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut proxy = Proxy::to(listener.local_addr().unwrap());
    let connect = async |port: u16| TcpStream::connect(("127.0.0.1", port)).await;
    let mut client = connect(proxy.port()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut byte = [0];

    proxy.stall(Which::All);
    client.write_all(b"a").await.unwrap();
    server.write_all(b"b").await.unwrap();
    let silence = Duration::from_millis(100);
    assert!(timeout(silence, server.read(&mut byte)).await.is_err());
    assert!(timeout(silence, client.read(&mut byte)).await.is_err());
    proxy.resume();
    server.read_exact(&mut byte).await.unwrap();
    client.read_exact(&mut byte).await.unwrap();

    let latency = Duration::from_millis(50);
    proxy.slow(Pace { bytes_per_second: 20, latency });
    let begun = Instant::now();
    client.write_all(b"slow").await.unwrap();
    server.read_exact(&mut [0; 4]).await.unwrap();
    assert!(begun.elapsed() >= latency + Duration::from_millis(200), "{:?}", begun.elapsed());
    proxy.resume();

    proxy.refuse().await;
    assert!(connect(proxy.port()).await.is_err());
    client.write_all(b"c").await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    proxy.come_back();
    let _other = connect(proxy.port()).await.unwrap();
    let _ = listener.accept().await.unwrap();

    proxy.cut(Which::All);
    for end in [&mut client, &mut server] {
        let error = end.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    eventually(SOON, "none is open", async || (proxy.open(Which::All) == 0).then_some(())).await;
}

#[tokio::test]
async fn a_proxy_tells_the_connection_that_streams_from_the_others() {
    let database = Database::on(Version::DEFAULT).await;
    let slot = database.slot();
    database
        .psql(&format!("select pg_create_logical_replication_slot('{slot}', 'test_decoding')"))
        .await;
    let proxy = Proxy::to(([127, 0, 0, 1], database.cluster.port()).into());
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", proxy.port(), database.name);
    let reader = receive(&database, &url);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    eventually(SOON, "both are open", async || {
        (proxy.open(Which::Streaming) == 1 && proxy.open(Which::Ordinary) == 1).then_some(())
    })
    .await;
    proxy.cut(Which::Streaming);
    assert_ne!(reader.exit_code(SOON).await, 0);
    client.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn a_process_is_heard_asked_and_waited_for() {
    let process = shell(
        "trap 'echo bye; exit 3' TERM; echo ready; while read -r line; do echo \"got $line\" >&2; done",
    );
    process.stdout.wait_for(SOON, "ready").await;
    process.write_line("one");
    process.write_line("two");
    process.stderr.wait_for(SOON, "got two").await;
    assert!((10_000..100_000_000).contains(&process.peak_memory_bytes()));
    process.sigterm();
    assert_eq!(process.exit_code(SOON).await, 3);
    let printed: Vec<String> = process.stdout.all().iter().map(|line| line.to_string()).collect();
    assert_eq!(printed, ["ready", "bye"]);
}

#[tokio::test]
async fn a_dropped_process_takes_its_children_along() {
    let process = shell("sleep 1000 & echo ready; wait");
    process.stdout.wait_for(SOON, "ready").await;
    let stdout = process.stdout.clone();
    drop(process);
    // The child has inherited it.
    stdout.closed(SOON).await;
}

/// Starts this test in a process of its own, lets it build up servers there and kills it.
#[tokio::test]
async fn a_killed_test_process_leaves_neither_processes_nor_folders() {
    const HOLDS: &str = "ROWCAST_TEST_HOLDS";
    if let Some(ready) = std::env::var_os(HOLDS) {
        let _database = Database::on(Version::DEFAULT).await;
        let _own = Cluster::start(Version::DEFAULT, &[]).await;
        let sockudo = Sockudo::start().await;
        let _listener = Listener::join(&sockudo, &["harness"]).await;
        let _process = shell("sleep 1000");
        fs::write(ready, scratch::root().to_str().unwrap()).unwrap();
        return std::future::pending().await;
    }

    let folder = scratch::folder("killed");
    let ready = folder.path().join("ready");
    let claim = "harness_itself::a_killed_test_process_leaves_neither_processes_nor_folders";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", claim]).env(HOLDS, &ready).env("TMPDIR", folder.path());
    let tests = Process::spawn(&mut command, folder.path());
    let root = eventually(Duration::from_secs(60), "the servers are up", async || {
        fs::read_to_string(&ready).ok().filter(|root| !root.is_empty())
    })
    .await;
    assert_ne!(processes_in(&root), 0);
    tests.kill9();
    let gone = async || (processes_in(&root) == 0 && !Path::new(&root).exists()).then_some(());
    eventually(SOON, "processes and folder are gone", gone).await;
}

fn processes_in(root: &str) -> usize {
    let folders = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok());
    folders.filter(|folder| folder.starts_with(root)).count()
}

fn shell(script: &str) -> Process {
    Process::spawn(Command::new("sh").args(["-c", script]), scratch::root())
}

/// Reads the slot of `database` by `url`.
fn receive(database: &Database, url: &str) -> Process {
    let mut command = Command::new(Version::DEFAULT.bin().join("pg_recvlogical"));
    command.args([
        "--dbname",
        url,
        "--slot",
        &database.slot(),
        "--start",
        "--no-loop",
        "--file",
        "-",
    ]);
    Process::spawn(&mut command, scratch::root())
}

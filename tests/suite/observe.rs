//! What a running process says of itself, over its socket and its port.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowcast::deliver::pusher::Server;
use rowcast::observe::{BacklogStatus, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::faults::Scene;
use crate::harness::{
    cache,
    capture::Capture,
    cluster::Version,
    database::Database,
    endpoint::{Endpoint, Fault},
    rowcast::Rowcast,
    scratch,
    wait::{SOON, eventually},
};
use crate::package::metrics_of_alerts;

/// The status and the body of the answer to a GET.
async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (u16, String) {
    ask(stream, path).await.expect("it answers and closes")
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: rowcast\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Ok((status, body.to_owned()))
}

async fn get_tcp(port: u16, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    get(stream, path).await
}

pub(crate) async fn status_at(socket: &Path) -> Status {
    let stream = UnixStream::connect(socket).await.expect("it listens");
    let (code, json) = get(stream, "/status").await;
    assert_eq!(code, 200);
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

/// A scene whose rowcast listens on a port as well.
async fn scene() -> (Scene, u16, PathBuf) {
    let scene = Scene::on(Database::on(Version::DEFAULT).await).await;
    let port = scratch::free_port();
    let config = std::fs::read_to_string(scene.rowcast.folder().join("rowcast.toml")).unwrap();
    let admin = format!("[run]\nadmin = '127.0.0.1:{port}'\n");
    scene.rowcast.configure(&config.replace("[run]\n", &admin));
    let socket = scene.rowcast.folder().join(format!("state/{}.sock", scene.database.slot()));
    (scene, port, socket)
}

const UPDATE: &str = "update counters set version = version + 1";

/// Of a line of `/metrics`, by its name with its labels.
fn value(metrics: &str, series: &str) -> f64 {
    let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(of).unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
}

#[tokio::test]
async fn it_is_ready_until_the_endpoint_refuses_everything() {
    let (scene, port, socket) = scene().await;
    let run = scene.run().await;
    assert_eq!(get_tcp(port, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get_tcp(port, "/readyz").await, (200, "streaming\n".to_owned()));
    assert_eq!(get_tcp(port, "/").await.0, 404);
    scene.database.psql(UPDATE).await;
    let status = eventually(SOON, "all was accepted", async || {
        let status = status_at(&socket).await;
        let is_told = status.last_accepted_s.is_some() && status.pending == 0;
        (is_told && status.lag_seconds == Some(0.0)).then_some(status)
    })
    .await;
    assert_eq!(status.source.state, "streaming");
    assert_eq!(status.slot, Some(scene.database.slot()));
    assert!(matches!(status.backlog, BacklogStatus::Log { max_bytes: 1.., .. }), "{status:?}");
    assert_eq!(status.pid, run.pid());

    scene.endpoint.choose(|_| Some(Fault::status(401)));
    scene.database.psql(UPDATE).await;
    let words = eventually(SOON, "it is not ready", async || {
        let (code, words) = get_tcp(port, "/readyz").await;
        (code == 503).then_some(words)
    })
    .await;
    assert!(words.starts_with("streaming, endpoint down for "), "{words}");
    assert_eq!(get_tcp(port, "/healthz").await.0, 200);
    let status = status_at(&socket).await;
    assert_eq!(status.endpoint.state, "stopped");
    assert!(status.endpoint.problem.as_ref().is_some_and(|it| it.contains("401")), "{status:?}");
    assert!(status.pending > 0 && status.pending_bytes > 0, "{status:?}");
    assert!(status.lag_seconds.is_some_and(|lag| lag > 0.0), "{status:?}");

    scene.endpoint.heal();
    eventually(SOON, "it is ready again", async || {
        (get_tcp(port, "/readyz").await.0 == 200).then_some(())
    })
    .await;
    scene.assert_nothing_is_lost().await;
    run.sigterm();
    assert_eq!(run.exit_code(SOON).await, 0);
    assert!(!socket.exists(), "the socket is left");
}

#[tokio::test]
async fn its_metrics_are_what_happened_and_promtool_finds_nothing_wrong() {
    let (scene, port, _) = scene().await;
    let _run = scene.run().await;
    let before = std::time::Instant::now();
    scene.database.psql(UPDATE).await;
    let metrics = eventually(SOON, "all was accepted", async || {
        let (_, metrics) = get_tcp(port, "/metrics").await;
        let is_told = value(&metrics, "rowcast_delivery_seconds_count") == 7.0;
        // Counted a moment later.
        let is_done = value(&metrics, "rowcast_pending_notifications") == 0.0;
        (is_told && is_done && value(&metrics, "rowcast_lag_seconds") == 0.0).then_some(metrics)
    })
    .await;
    for (series, expected) in [
        ("rowcast_changes_total{operation=\"update\"}", 7.0),
        ("rowcast_changes_total{operation=\"insert\"}", 0.0),
        ("rowcast_routed_notifications_total{rule=\"counters\"}", 7.0),
        ("rowcast_rejected_notifications_total{rule=\"counters\"}", 0.0),
        ("rowcast_requests_total{operation=\"publish\",outcome=\"stopped\"}", 0.0),
        ("rowcast_resyncs_total{reason=\"bulk\"}", 0.0),
        // It is the first run.
        ("rowcast_resyncs_total{reason=\"gap\"}", 1.0),
        ("rowcast_streaming", 1.0),
        ("rowcast_endpoint_up", 1.0),
        ("rowcast_reconnects_total", 0.0),
    ] {
        assert_eq!(value(&metrics, series), expected, "{series}");
    }
    assert!(
        value(&metrics, "rowcast_requests_total{operation=\"publish\",outcome=\"accepted\"}") > 0.0
    );
    assert!(value(&metrics, "rowcast_max_retained_wal_bytes") > 0.0);
    // One machine, so one clock.
    let seconds = value(&metrics, "rowcast_delivery_seconds_sum");
    assert!((0.0..before.elapsed().as_secs_f64() * 7.0).contains(&seconds), "{seconds}");
    let labels = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (_, labels) = line.split_once('{')?;
        Some(labels.split_once('}')?.0.split(',').map(|label| label.split_once('=').unwrap().0))
    });
    for label in labels.flatten() {
        assert!(["rule", "reason", "outcome", "operation", "le"].contains(&label), "{label}");
    }
    for name in metrics_of_alerts() {
        let is_there =
            |end| metrics.lines().any(|line| line.starts_with(&format!("rowcast_{name}{end}")));
        assert!(is_there(' ') || is_there('{'), "rowcast_{name} of packaging/alerts.yml");
    }
    assert!(metrics.len() < 20_000, "{} bytes", metrics.len());
    assert_eq!(promtool(&["check", "metrics"], &metrics).await, "");
}

/// What promtool says, if it finds nothing wrong.
async fn promtool(arguments: &[&str], input: &str) -> String {
    let path = cache().join("promtool");
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    let mut child = tokio::process::Command::new(path)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test]
async fn one_that_waits_is_ready_and_says_for_whom() {
    let (scene, port, socket) = scene().await;
    let first = scene.run().await;
    // With the same state folder, but for the port.
    let folder = scene.rowcast.folder().join("state");
    let config = std::fs::read_to_string(scene.rowcast.folder().join("rowcast.toml")).unwrap();
    let config = config
        .replace("'state'", &format!("'{}'", folder.display()))
        .replace(&format!("admin = '127.0.0.1:{port}'\n"), "");
    let taken = scene.rowcast.start(&["run"]);
    assert_eq!(taken.exit_code(SOON).await, 1);
    let said = taken.stderr.all().join("\n");
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
    assert!(said.contains("help: [run] admin: another port"), "{said}");

    let second_port = scratch::free_port();
    let admin = format!("[run]\nadmin = '127.0.0.1:{second_port}'\n");
    let second = Rowcast::new(&config.replace("[run]\n", &admin));
    let second = second.start(&["run"]);
    let words = eventually(SOON, "the second waits", async || {
        let stream = TcpStream::connect(("127.0.0.1", second_port)).await.ok()?;
        let (code, words) = get(stream, "/readyz").await;
        (code == 200).then_some(words)
    })
    .await;
    let slot = scene.database.slot();
    let sql = format!("select active_pid from pg_replication_slots where slot_name = '{slot}'");
    let holder = scene.database.psql(&sql).await;
    let expected = format!("waiting for slot {slot} held by pid {holder}\n");
    assert_eq!(words, expected);
    let (_, status) = get_tcp(second_port, "/status").await;
    let status: Status = serde_json::from_str(&status).unwrap();
    assert_eq!((status.lag_seconds, status.ready), (None, true));
    let (_, metrics) = get_tcp(second_port, "/metrics").await;
    assert!(metrics.contains("\nrowcast_lag_seconds NaN\n"), "{metrics}");
    assert_eq!(value(&metrics, "rowcast_standby"), 1.0);

    // The socket is the first one's, and then the second's.
    assert_eq!(status_at(&socket).await.pid, first.pid());
    first.kill9();
    let heir = eventually(SOON, "the second answers on the socket", async || {
        let stream = UnixStream::connect(&socket).await.ok()?;
        let (_, json) = ask(stream, "/status").await.ok()?;
        serde_json::from_str::<Status>(&json).ok()
    })
    .await;
    assert_eq!(heir.pid, second.pid());
    eventually(SOON, "the second streams", async || {
        (status_at(&socket).await.source.state == "streaming").then_some(())
    })
    .await;
}

#[tokio::test]
async fn over_triggers_it_says_how_full_the_outbox_is_and_who_empties_it() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql("create table posts (id int primary key)").await;
    let endpoint = Endpoint::start(Server::Sockudo);
    let config = |run: &str| {
        format!(
            "[pusher]\n{}[run]\n{run}[[rule]]\ntable = 'posts'\nchannels = ['posts']\n",
            endpoint.toml()
        )
    };
    let toml = database.toml_over(Capture::Triggers).await;
    let first = Rowcast::new(&format!("{toml}{}", config("state_dir = 'state'\n")));
    database.set_up(&first, Capture::Triggers).await;
    endpoint.choose(|_| Some(Fault::status(503)));
    let run = first.start(&["run"]);
    run.stderr.wait_for(SOON, "streaming changes").await;
    database.psql("insert into posts select generate_series(1, 9)").await;
    let folder = first.folder().join("state");
    let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let socket = files.find(|path| path.extension().is_some_and(|it| it == "sock"));
    let socket = socket.expect("a socket in the state folder");
    let status = eventually(SOON, "the outbox is weighed, and nothing accepted", async || {
        let status = status_at(&socket).await;
        let is_weighed = matches!(status.backlog, BacklogStatus::Outbox { rows: 9, .. });
        (is_weighed && status.endpoint.state == "troubled").then_some(status)
    })
    .await;
    assert_eq!((&*status.capture, status.slot), ("triggers", None));
    // It is the first run, and nothing is accepted.
    assert_eq!((&*status.owed[0].rule, &*status.owed[0].reason), ("posts", "gap"));

    let second_port = scratch::free_port();
    let admin = format!("admin = '127.0.0.1:{second_port}'\nstate_dir = 'state'\n");
    let second = Rowcast::new(&format!("{toml}{}", config(&admin)));
    let _second = second.start(&["run"]);
    eventually(SOON, "the second waits", async || {
        let stream = TcpStream::connect(("127.0.0.1", second_port)).await.ok()?;
        let (_, words) = ask(stream, "/readyz").await.ok()?;
        words.starts_with("waiting for the outbox held by backend ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_asks_without_end_holds_nobody_up() {
    let (scene, port, socket) = scene().await;
    let _run = scene.run().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ").await.expect("it is open");
        idle.push(stream);
    }
    // Nor who sends a head without end.
    let mut endless = UnixStream::connect(&socket).await.expect("it listens");
    let _closed = endless.write_all(&[b'x'; 100_000]).await;
    scene.database.psql(UPDATE).await;
    scene.assert_nothing_is_lost().await;
    // Half of what the others are given.
    let status = tokio::time::timeout(Duration::from_secs(5), status_at(&socket)).await;
    assert_eq!(status.expect("the socket answers").source.state, "streaming");
    drop(idle);
    eventually(SOON, "the port answers again", async || {
        (get_tcp(port, "/healthz").await.0 == 200).then_some(())
    })
    .await;
}

//! What requests look like, and where they go.

use std::process::Command;

use rowcast::deliver::pusher::{self, Client, Problem, Server};
use rowcast::notification::Payload;
use rowcast::secret::Secret;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use crate::harness::endpoint::{Endpoint, Fault};

use super::order::Dice;
use super::{Setup, update};

#[tokio::test]
async fn every_server_gets_requests_within_its_limits() {
    for server in Server::ALL {
        let endpoint = Endpoint::start(server);
        let setup = Setup::new(&endpoint);
        let mut session = setup.session();
        let mut dice = Dice(7);
        let notifications = (1..=300).map(|n| {
            let mut channels = vec![format!("private-posts.{n}"), "private-posts".to_owned()];
            channels.extend((0..dice.below(40).saturating_sub(30) * 15).map(|c| format!("c-{c}")));
            let mut made = update(n, n, &channels);
            let text = "\"é".repeat(usize::try_from(dice.below(400)).expect("small"));
            made.payload = Payload::Own(
                json!({ "entity": "post", "id": n, "number": n, "text": text }).to_string().into(),
            );
            made
        });
        let notifications: Vec<_> = notifications.collect();
        let pairs: usize = notifications.iter().map(|n| n.channels.len()).sum();
        session.send(notifications).await;
        session.wait_confirmed(300).await;
        session.finish().await.expect("all is delivered");
        assert_eq!(endpoint.accepted_count(), pairs, "{server:?}");
        assert!(setup.rejected().is_empty(), "{server:?}");
        endpoint.assert_strict();
    }
}

#[tokio::test]
async fn more_than_a_hundred_channels_are_chunked_and_none_is_left_out() {
    let endpoint = Endpoint::start(Server::Soketi);
    let setup = Setup::new(&endpoint);
    let mut session = setup.session();
    let channels: Vec<String> = (0..250).map(|n| format!("private-posts.{n}")).collect();
    session.send(vec![update(1, 1, &channels)]).await;
    session.wait_confirmed(1).await;
    let accepted = endpoint.accepted();
    let names: Vec<String> = accepted.into_iter().map(|a| a.event.channel).collect();
    assert_eq!(names, channels);
    assert_eq!(endpoint.requests(), 3);
    endpoint.assert_strict();
}

#[tokio::test]
async fn a_probe_tells_network_app_secret_and_clock_apart() {
    let mut endpoint = Endpoint::start(Server::Any);
    let probe = async |change: &dyn Fn(&mut pusher::Config)| {
        let mut config = endpoint.config();
        change(&mut config);
        Client::new(&config).expect("a valid configuration").probe().await
    };
    probe(&|_| {}).await.expect("all is right");
    let app = probe(&|config| config.app_id = "2".parse().expect("an id")).await;
    assert!(matches!(app, Err(Problem::Answered { code: 404, .. })), "{app:?}");
    let wrong = |config: &mut pusher::Config| {
        config.secret = Secret::new("x").try_into().expect("it is not empty");
    };
    let secret = probe(&wrong).await;
    assert!(matches!(secret, Err(Problem::Answered { code: 401, .. })), "{secret:?}");
    endpoint.probe_fault(Fault::Status {
        code: 401,
        body: "Timestamp expired".to_owned(),
        headers: vec![("Date", "Tue, 01 Jan 2019 00:00:00 GMT".to_owned())],
    });
    let clock = probe(&|_| {}).await;
    assert!(matches!(clock, Err(Problem::ClockSkew { .. })), "{clock:?}");
    let config = endpoint.config();
    endpoint.refuse_connections().await;
    let network = Client::new(&config).expect("a valid configuration").probe().await;
    assert!(matches!(network, Err(Problem::Unreachable { .. })), "{network:?}");
}

#[tokio::test]
async fn publishing_says_why_it_was_refused() {
    let endpoint = Endpoint::start(Server::Any);
    let client = Client::new(&endpoint.config()).expect("a valid configuration");
    let event = "Hello".parse().expect("an event");
    let channels = ["a".parse().expect("a channel"), "b".parse().expect("a channel")];
    client.publish(&event, &channels, "{}").await.expect("accepted");
    assert_eq!(endpoint.accepted_count(), 2);
    endpoint.fault(Fault::body(403, r#"{"error":"over quota"}"#));
    let error = client.publish(&event, &channels, "{}").await.expect_err("refused");
    assert_eq!(error.to_string(), "the endpoint answered 403: over quota");
}

#[tokio::test]
async fn a_path_prefix_is_signed_as_the_server_wants_it() {
    for (server, is_signed) in [(Server::Reverb, false), (Server::Soketi, true)] {
        let endpoint = Endpoint::start_with(server, "/ws/app", is_signed);
        let client = Client::new(&endpoint.config()).expect("a valid configuration");
        client.probe().await.expect("the default suits the server");
        let mut other = endpoint.config();
        other.sign_path_prefix = Some(!is_signed);
        let error = Client::new(&other).expect("valid").probe().await.expect_err("not signed so");
        assert!(matches!(error, Problem::Answered { code: 401, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_configured_proxy_is_used() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut config = Endpoint::start(Server::Any).config();
    config.url = Some("http://endpoint.invalid:6001".parse().expect("a url"));
    let address = proxy.local_addr().expect("it is bound");
    config.proxy = Some(format!("http://{address}").try_into().expect("a url"));
    let client = Client::new(&config).expect("a valid configuration");
    let probing = tokio::spawn(async move { client.probe().await });
    let (stream, _) = proxy.accept().await.expect("the proxy is asked");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.expect("a request");
    assert!(line.starts_with("GET http://endpoint.invalid:6001/apps/1001/channels?"), "{line}");
    probing.await.expect("no panic").expect_err("the proxy hung up");
}

/// Runs itself in a process with proxy variables, since those of this one cannot be set safely.
#[tokio::test]
async fn the_environments_proxies_are_ignored() {
    const NAME: &str = "deliver::requests::the_environments_proxies_are_ignored";
    // Nothing listens on the port of `discard`.
    const NOWHERE: &str = "http://127.0.0.1:9";
    if std::env::var("http_proxy").is_ok_and(|proxy| proxy == NOWHERE) {
        let endpoint = Endpoint::start(Server::Any);
        let client = Client::new(&endpoint.config()).expect("a valid configuration");
        return client.probe().await.expect("it goes straight to the endpoint");
    }
    let mut child = Command::new(std::env::current_exe().expect("this test's path"));
    child.args(["--exact", NAME]).env_remove("no_proxy").env_remove("NO_PROXY");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"] {
        child.env(name, NOWHERE);
    }
    let output = child.output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
}

//! What cannot be shown on the plain endpoint: a real server, HTTP/2, TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rowcast::change::{Position, Timestamp};
use rowcast::deliver::pusher::{Client, Problem, Server};
use rowcast::notification::{
    Audience, ChannelClass, ChannelPattern, Handoff, Part, Payload, Reason, Resync, Terms,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::client::{Heard, Listener};
use crate::harness::endpoint::Endpoint;
use crate::harness::scratch;
use crate::harness::sockudo::Sockudo;
use crate::harness::wait::SOON;

use super::{Setup, post, update};

fn sockudo_toml(sockudo: &Sockudo) -> String {
    format!(
        "url = '{}'\napp_id = '{}'\nkey = '{}'\nsecret = '{}'\nserver = 'sockudo'\n",
        sockudo.url(),
        Sockudo::APP_ID,
        Sockudo::KEY,
        Sockudo::SECRET
    )
}

#[tokio::test]
async fn a_real_sockudo_takes_everything_by_http_1_and_http_2() {
    let sockudo = Sockudo::shared().await;
    for http2 in [false, true] {
        let toml = format!("{}http2 = {http2}\n", sockudo_toml(sockudo));
        let setup = Setup::of(toml::from_str(&toml).expect("a valid configuration"));
        let mut session = setup.session();
        let channels: Vec<String> = (0..150).map(|n| format!("private-many.{n}")).collect();
        session.send(vec![update(1000, 1, &channels)]).await;
        session.send((2..=300).map(|n| post(n, n)).collect()).await;
        session.wait_confirmed(300).await;
        session.finish().await.expect("all is delivered");
        assert!(setup.rejected().is_empty(), "{:?}", setup.rejected());
    }
}

#[tokio::test]
async fn a_real_sockudo_refuses_what_is_too_large_and_takes_the_rest() {
    let sockudo = Sockudo::shared().await;
    let setup = Setup::of(toml::from_str(&sockudo_toml(sockudo)).expect("a valid configuration"));
    let mut session = setup.session();
    let mut large = post(2, 2);
    large.payload =
        Payload::Own(json!({ "id": 2, "text": "x".repeat(200_000) }).to_string().into());
    session.send(vec![post(2, 1), large, post(2, 3)]).await;
    session.wait_confirmed(3).await;
    let rejected = setup.rejected();
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(rejected[0]["position"], 2);
}

#[tokio::test]
async fn a_real_sockudo_tells_a_wrong_secret_and_a_wrong_app() {
    let sockudo = Sockudo::shared().await;
    for (wrong, part) in [(Sockudo::SECRET, "secret"), (Sockudo::APP_ID, "app_id")] {
        let toml = sockudo_toml(sockudo);
        let right = format!("{part} = '{wrong}'");
        assert!(toml.contains(&right), "{toml}");
        let toml = toml.replace(&right, &format!("{part} = 'another'"));
        let config = toml::from_str(&toml).expect("a valid configuration");
        let client = Client::new(&config).expect("a valid configuration");
        let problem = client.probe().await.expect_err("it is wrong");
        assert!(matches!(problem, Problem::Answered { code: 401 | 404, .. }), "{part}: {problem}");
    }
}

#[tokio::test]
async fn a_resync_reaches_who_listens_on_a_real_sockudo_and_no_other_channel() {
    let sockudo = Sockudo::shared().await;
    let joined = ["private-listed.7", "private-listed.7.comments", "private-listed"];
    let listener = Listener::join(sockudo, &joined).await;
    let setup = Setup::of(toml::from_str(&sockudo_toml(sockudo)).expect("a valid configuration"));
    let mut session = setup.session();
    let by_id = vec![Part::Text("private-listed.".into()), Part::Value { dotted: false }];
    let terms = Terms {
        channels: vec![ChannelPattern::new(by_id, ChannelClass::Private)],
        ..Terms::plain("listed", "post")
    };
    let resync = Resync {
        terms: terms.into(),
        reason: Reason::Truncate,
        count: None,
        audience: Audience::All,
        position: Some(Position::new(1)),
        at: Timestamp::now(),
    };
    let reached = Some(Position::new(1));
    let handoff = Handoff { resyncs: vec![resync], reached, ..Handoff::default() };
    session.handoffs.send(handoff).await.expect("delivery runs");
    session.wait_confirmed(1).await;
    session.finish().await.expect("all is delivered");
    sockudo.publish(&joined, "last", &json!({})).await;
    for channel in joined {
        let is_last = |heard: &Heard| heard.channel == channel && heard.event == "last";
        listener.wait_for(SOON, "the last event", is_last).await;
    }
    let mut heard = listener.heard();
    heard.retain(|heard| heard.event != "last");
    let [resync] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((&*resync.channel, &*resync.event), ("private-listed.7", "rowcast.resync"));
    assert_eq!(resync.data["reason"], "truncate");
    assert!(setup.rejected().is_empty());
}

/// Whom nobody trusts who is not told to, and the certificate that it made for `localhost`.
pub(super) struct Authority(TempDir);

impl Authority {
    pub(super) fn new() -> Authority {
        let folder = scratch::folder("endpoint-tls");
        let openssl = |arguments: &str| openssl(folder.path(), arguments);
        openssl(
            "req -x509 -nodes -newkey rsa:2048 -keyout ca.key -subj /CN=ca -days 2 -out ca.crt",
        );
        openssl(
            "req -new -nodes -newkey rsa:2048 -keyout server.key -subj /CN=localhost -out server.csr",
        );
        std::fs::write(folder.path().join("ext"), "subjectAltName=DNS:localhost\n").expect("ours");
        openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -extfile ext -out server.crt",
        );
        Authority(folder)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Speaks TLS with the authority's certificate in front of what is `behind`, and prefers these
/// protocols; the port.
pub(super) async fn tls_in_front_of(
    behind: SocketAddr,
    Authority(folder): &Authority,
    alpn: &[&[u8]],
) -> u16 {
    let read = "openssl made it";
    let certificate = CertificateDer::from_pem_file(folder.path().join("server.crt")).expect(read);
    let key = PrivateKeyDer::from_pem_file(folder.path().join("server.key")).expect(read);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("the loopback accepts");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(behind).await.expect("the endpoint listens");
                // Either side may close first.
                drop(copy_bidirectional(&mut stream, &mut plain).await);
            });
        }
    });
    port
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_by_ca_file() {
    let endpoint = Endpoint::start(Server::Reverb);
    let authority = Authority::new();
    let port = tls_in_front_of(endpoint.address(), &authority, &[]).await;

    let mut config = endpoint.config();
    config.url = Some(format!("https://localhost:{port}").parse().expect("a url"));
    let untrusted = Client::new(&config).expect("a valid configuration");
    let hello = ("Hello".parse().expect("an event"), ["a".parse().expect("a channel")]);
    let published = untrusted.publish(&hello.0, &hello.1, "{}").await;
    for refused in [untrusted.probe().await, published] {
        let problem = refused.expect_err("nobody is trusted who is not known");
        let words = "cannot be reached: invalid peer certificate: UnknownIssuer";
        assert!(problem.to_string().ends_with(words), "{problem}");
    }
    config.ca_file = Some(authority.file());
    let trusted = Client::new(&config).expect("a valid configuration").probe().await;
    trusted.expect("the authority is trusted");

    config.ca_file = Some(authority.file().with_file_name("missing.crt"));
    let error = Client::new(&config).expect_err("no such file");
    assert_eq!(error.option(), "ca_file");
    config.ca_file = Some(authority.file().with_file_name("ext"));
    let error = Client::new(&config).expect_err("no certificate in it");
    assert!(error.to_string().ends_with("holds no certificate"), "{error}");
}

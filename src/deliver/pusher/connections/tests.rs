use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Context;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

/// What happens at all happens by then.
const SOON: Duration = Duration::from_secs(10);
/// Of the connections; much longer than the loopback takes.
const TIMEOUT: Duration = Duration::from_secs(4);
const NOBODY: &str = "http://127.0.0.1:1";

fn connections(origin: &str) -> Connections {
    Connections::new(origin, None, TIMEOUT).expect("it is an origin")
}

async fn connected() -> (Connection, DuplexStream) {
    let (client, server) = duplex(4096);
    let connection = Connection::over(Box::new(client)).await;
    (connection.expect("it says nothing yet"), server)
}

async fn answer(server: &mut DuplexStream, answer: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"{}") {
        server.read_buf(&mut request).await.expect("it is open");
    }
    let request = String::from_utf8(request).expect("it is text");
    assert!(request.contains("\r\naccept: */*\r\n"), "{request}");
    server.write_all(answer.as_bytes()).await.expect("it is open");
}

const ACCEPTED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

async fn post(connections: &Connections) -> Result<Response, Failure> {
    let target = Uri::from_static("/apps/1/events?auth_key=k");
    let posting = connections.post(target, Bytes::from_static(b"{}"), 1024);
    timeout(SOON, posting).await.expect("it ends in time")
}

/// Takes no more connections, and refuses none.
async fn silent() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let listener = socket.listen(1).expect("it can listen");
    let address = listener.local_addr().expect("it is bound");
    let mut waiting = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        waiting.push(connected.expect("there is room for it"));
    }
    (listener, waiting)
}

#[derive(Clone)]
struct Resolver(Vec<SocketAddr>);

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        Ok(()).into()
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}

#[tokio::test]
async fn an_address_that_keeps_silent_leaves_time_for_the_next_one() {
    let (full, _waiting) = silent().await;
    let silent = full.local_addr().expect("it is bound");
    let well = SocketAddr::from(([127, 0, 0, 2], silent.port()));
    let _listener = TcpListener::bind(well).await.expect("nobody else has the address");
    let mut connector = connector(Resolver(vec![silent, well]), TIMEOUT);
    let origin = format!("http://endpoint.test:{}", silent.port());
    let connecting = connector.call(origin.parse().expect("an origin"));
    let connected = timeout(TIMEOUT, connecting).await.expect("it comes in time");
    let connected = connected.expect("one of them answers").into_inner();
    assert_eq!(connected.peer_addr().expect("it is connected"), well);
}

#[tokio::test]
async fn a_request_on_a_connection_that_has_ended_fails_at_once() {
    let (mut connection, mut server) = connected().await;
    let connections = connections(NOBODY);
    let request = || connections.0.request(Uri::from_static("/"), Bytes::from_static(b"{}"));
    let asking = async {
        let head = connection.ask(request()).await.expect("it is answered");
        connection.read(head, 1024).await.expect("it is whole");
    };
    tokio::join!(asking, answer(&mut server, ACCEPTED));
    drop(server);
    let asked = timeout(SOON, connection.ask(request())).await.expect("it fails at once");
    asked.expect_err("nobody is there");
}

#[tokio::test]
async fn the_connection_that_was_used_last_is_used_next() {
    let connections = connections(NOBODY);
    let (first, _unused) = connected().await;
    let (last, mut server) = connected().await;
    connections.0.keep(first);
    connections.0.keep(last);
    for _ in 0..3 {
        let (posted, ()) = tokio::join!(post(&connections), answer(&mut server, ACCEPTED));
        posted.expect("it is answered");
    }
}

#[tokio::test]
async fn once_an_answer_has_begun_the_request_is_not_sent_again() {
    let connections = connections(NOBODY);
    let (connection, mut server) = connected().await;
    connections.0.keep(connection);
    let serving = async move {
        answer(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{").await;
    };
    let (posted, ()) = tokio::join!(post(&connections), serving);
    // A new connection would have been refused.
    assert!(matches!(posted, Err(Failure::BrokenOff(_))));
}

#[tokio::test]
async fn with_an_idle_connection_that_does_not_answer_the_others_go_too() {
    let connections = connections(NOBODY);
    let mut servers = Vec::new();
    for _ in 0..3 {
        let (connection, server) = connected().await;
        connections.0.keep(connection);
        servers.push(server);
    }
    let target = Uri::from_static("/apps/1/events?auth_key=k");
    let posting = connections.post(target, Bytes::from_static(b"{}"), 1024);
    timeout(Duration::from_millis(50), posting).await.map(drop).expect_err("nobody answers");
    assert!(connections.0.pool().idle.is_empty());
    assert_eq!(connections.0.pool().busy, 0);
}

#[tokio::test]
async fn a_connection_ahead_that_does_not_come_about_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("https://{}", listener.local_addr().expect("it is bound"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let soon = Duration::from_millis(100);
    let connections = Connections::new(&origin, Some(Arc::new(tls)), soon);
    let shared = connections.expect("it is an origin").0;
    let (ended, server) = connected().await;
    drop(server);
    let busy = Busy::begin(&shared);
    shared.end(ended);
    let opening = shared.pool().opening;
    assert_eq!(opening, 1);
    // It connects, and then nobody speaks TLS.
    let _ahead = timeout(SOON, listener.accept()).await.expect("it comes in time");
    let given_up = async {
        while shared.pool().opening > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, given_up).await.expect("it is given up in time");
    drop(busy);
}

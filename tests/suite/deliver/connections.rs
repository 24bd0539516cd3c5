//! On which connections requests go.

use std::time::Duration;

use rowcast::deliver::pusher::{Client, Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::endpoint::{APP_ID, Endpoint, KEY, SECRET};
use crate::harness::sockudo::Sockudo;
use crate::harness::wait::SOON;

use super::servers::{Authority, tls_in_front_of};

/// Longer than anything here takes that happens at all.
const NEVER: Duration = Duration::from_millis(300);

/// A server whose every connection the test holds.
struct ByHand(TcpListener);

impl ByHand {
    async fn listen() -> (ByHand, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let config: Config = toml::from_str(&format!(
            "url = 'http://{address}'\napp_id = '{APP_ID}'\nkey = '{KEY}'\nsecret = '{SECRET}'\n"
        ))
        .expect("it is valid");
        (ByHand(listener), Client::new(&config).expect("it is valid"))
    }

    async fn accept(&self) -> TcpStream {
        let accepted = timeout(SOON, self.0.accept()).await.expect("a connection comes in time");
        accepted.expect("the loopback accepts").0
    }

    async fn assert_nobody_connects(&self) {
        let accepted = timeout(NEVER, self.0.accept()).await;
        assert!(accepted.is_err(), "another connection: {accepted:?}");
    }
}

/// Reads a whole request.
async fn read(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines().map(str::to_ascii_lowercase);
            let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if Some(body.len()) == length {
                return text.into_owned();
            }
        }
        let count = timeout(SOON, stream.read_buf(&mut request)).await.expect("it comes in time");
        assert!(count.expect("it reads") > 0, "closed after {request:?}");
    }
}

async fn accept_request(stream: &mut TcpStream, connection: &str) {
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: {connection}\r\n\r\n{{}}");
    stream.write_all(answer.as_bytes()).await.expect("the client reads");
}

fn publish(client: &Client, id: u32) -> tokio::task::JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        let event = "PostUpdated".parse().expect("an event");
        let channel = "posts".parse().expect("a channel");
        let data = format!("{{\"id\":{id}}}");
        client.publish(&event, &[channel], &data).await.expect("it is accepted");
    })
}

async fn done(publishing: tokio::task::JoinHandle<()>) {
    timeout(SOON, publishing).await.expect("it is done in time").expect("no panic");
}

#[tokio::test]
async fn where_each_connection_is_closed_the_next_one_is_open_before_it_is_needed() {
    let (server, client) = ByHand::listen().await;
    let mut publishing = publish(&client, 0);
    let mut connection = server.accept().await;
    for id in 0..3 {
        let request = read(&mut connection).await;
        assert!(request.contains(&format!("id\\\":{id}")), "{request}");
        accept_request(&mut connection, "close").await;
        done(publishing).await;
        connection = server.accept().await;
        server.assert_nobody_connects().await;
        publishing = publish(&client, id + 1);
    }
    read(&mut connection).await;
    accept_request(&mut connection, "close").await;
    done(publishing).await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_neither_used_nor_replaced_before_a_request() {
    let (server, client) = ByHand::listen().await;
    let mut publishing = publish(&client, 0);
    for id in 1..4 {
        let mut connection = server.accept().await;
        read(&mut connection).await;
        accept_request(&mut connection, "close").await;
        done(publishing).await;
        // As a proxy ends what is silent for too long.
        let mut idle = server.accept().await;
        idle.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.expect("it is open");
        drop(idle);
        server.assert_nobody_connects().await;
        publishing = publish(&client, id);
    }
    let mut connection = server.accept().await;
    read(&mut connection).await;
    accept_request(&mut connection, "close").await;
    done(publishing).await;
}

#[tokio::test]
async fn a_request_that_an_idle_connection_swallows_is_sent_again_at_once() {
    let (server, client) = ByHand::listen().await;
    let publishing = publish(&client, 1);
    let mut connection = server.accept().await;
    read(&mut connection).await;
    accept_request(&mut connection, "close").await;
    done(publishing).await;
    let mut idle = server.accept().await;
    let publishing = publish(&client, 2);
    let swallowed = read(&mut idle).await;
    drop(idle);
    let mut connection = server.accept().await;
    assert_eq!(read(&mut connection).await, swallowed);
    accept_request(&mut connection, "close").await;
    done(publishing).await;
}

#[tokio::test]
async fn a_connection_that_stays_open_takes_the_next_request() {
    let (server, client) = ByHand::listen().await;
    let mut publishing = publish(&client, 0);
    let mut connection = server.accept().await;
    for id in 1..4 {
        read(&mut connection).await;
        accept_request(&mut connection, "keep-alive").await;
        done(publishing).await;
        publishing = publish(&client, id);
    }
    read(&mut connection).await;
    accept_request(&mut connection, "keep-alive").await;
    done(publishing).await;
    server.assert_nobody_connects().await;
}

#[tokio::test]
async fn over_tls_it_speaks_whichever_http_the_server_prefers() {
    let endpoint = Endpoint::start(Server::Reverb);
    let sockudo = Sockudo::shared().await;
    let authority = Authority::new();
    let plain = tls_in_front_of(endpoint.address(), &authority, &[]).await;
    let http_1 = tls_in_front_of(endpoint.address(), &authority, &[b"http/1.1"]).await;
    // Over plain TCP Sockudo speaks HTTP/2 to who begins with it.
    let sockudos = ([127, 0, 0, 1], sockudo.port).into();
    let http_2 = tls_in_front_of(sockudos, &authority, &[b"h2", b"http/1.1"]).await;
    for (port, is_sockudo) in [(plain, false), (http_1, false), (http_2, true)] {
        let (app_id, key, secret) = match is_sockudo {
            true => (Sockudo::APP_ID, Sockudo::KEY, Sockudo::SECRET),
            false => (APP_ID, KEY, SECRET),
        };
        let config = format!(
            "url = 'https://localhost:{port}'\napp_id = '{app_id}'\nkey = '{key}'\n\
             secret = '{secret}'\nca_file = '{}'\n",
            authority.file().display()
        );
        let config: Config = toml::from_str(&config).expect("it is valid");
        let client = Client::new(&config).expect("it is valid");
        for id in 1..4 {
            done(publish(&client, id)).await;
        }
    }
    assert_eq!(endpoint.accepted_count(), 6);
    endpoint.assert_strict();
}

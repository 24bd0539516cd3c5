//! A Pusher-compatible endpoint on the loopback interface. It takes only what
//! such servers take, verifies every signature, and hands on what it accepted.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::change::Timestamp;
use crate::deliver::pusher::signature::{self, Signed, signed_query};
use crate::notification::{ChannelName, EventName};
use crate::secret::Secret;

use super::cluster::random_text;
use super::ledger::{Accepted, Payload, Request};

const APP_ID: &str = "demo";
const APP_KEY: &str = "demo-key";
const MAX_BODY_BYTES: usize = 100_000;
const MAX_CHANNELS: usize = 100;
const MAX_BATCH: usize = 10;
/// How far a request's clock may be off, as hosted Pusher has it.
const MAX_SKEW_SECONDS: u64 = 600;

pub(super) struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

struct App {
    secret: Secret,
}

/// What a request is refused with.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    error: String,
}

impl Endpoint {
    pub(super) async fn bind() -> anyhow::Result<Endpoint> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let app = Arc::new(App { secret: Secret::new(random_text()?) });
        Ok(Endpoint { listener, address, app })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The content of a configuration's `[pusher]` section.
    pub(super) fn config(&self) -> String {
        let secret = self.app.secret.expose();
        format!(
            "url = '{}'\napp_id = '{APP_ID}'\nkey = '{APP_KEY}'\nsecret = '{secret}'\n",
            self.url()
        )
    }

    /// Hands on each accepted request before it is answered. Ends only by being
    /// dropped, and its connections with it.
    ///
    /// # Errors
    /// If no connection can be accepted any more.
    pub(super) async fn serve(self, requests: mpsc::Sender<Request>) -> anyhow::Result<Infallible> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted.context("the demo's endpoint cannot accept")?;
                    connections.spawn(serve_connection(stream, self.app.clone(), requests.clone()));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, app: Arc<App>, requests: mpsc::Sender<Request>) {
    let service = service_fn(async |request| answer(request, &app, &requests).await);
    // Without keep-alive, as Reverb, Soketi and Sockudo.
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a connection to the demo's endpoint broke: {error}");
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    app: &App,
    requests: &mpsc::Sender<Request>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let refusal = refuse(StatusCode::PAYLOAD_TOO_LARGE, format!("unreadable: {error}"));
            return Ok(refusal.response());
        }
    };
    let arrived = Timestamp::now();
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let checked = app
        .verify(&parts.method, path, query, &body, arrived)
        .and_then(|()| read(&parts.method, path, &body));
    let events = match checked {
        Ok(events) => events,
        Err(refusal) => return Ok(refusal.response()),
    };
    if events.is_empty() {
        // Nobody listens to this endpoint.
        return Ok(json(StatusCode::OK, r#"{"channels":{}}"#.to_owned()));
    }
    if requests.send(Request { arrived, events }).await.is_err() {
        let refusal = refuse(StatusCode::SERVICE_UNAVAILABLE, "the demo is over");
        return Ok(refusal.response());
    }
    Ok(json(StatusCode::OK, "{}".to_owned()))
}

impl App {
    /// Signs the request as its sender should have, and compares.
    fn verify(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let unauthorized = |error: &str| refuse(StatusCode::UNAUTHORIZED, error);
        let parameters: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let value = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        if value("auth_key") != Some(APP_KEY) {
            return Err(unauthorized("auth_key is not the app's"));
        }
        if value("auth_version") != Some("1.0") {
            return Err(unauthorized("auth_version is not 1.0"));
        }
        let unix_seconds: i64 = value("auth_timestamp")
            .and_then(|seconds| seconds.parse().ok())
            .ok_or_else(|| unauthorized("auth_timestamp is not a number"))?;
        if unix_seconds.abs_diff(now.unix_micros() / 1_000_000) > MAX_SKEW_SECONDS {
            return Err(unauthorized("auth_timestamp is too far from now"));
        }
        let method = match *method {
            Method::GET => signature::Method::Get,
            Method::POST => signature::Method::Post,
            _ => return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST")),
        };
        let ours = ["auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"];
        let others: Vec<(&str, &str)> = parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !ours.contains(name))
            .collect();
        let signed = Signed { method, path, parameters: &others, body, unix_seconds };
        let expected = signed_query(APP_KEY, &self.secret, signed);
        for (name, expected) in url::form_urlencoded::parse(expected.as_bytes()) {
            if value(&name) != Some(&expected) {
                return Err(unauthorized(&format!("{name} does not fit the request")));
            }
        }
        Ok(())
    }
}

/// The events of a valid request; none for a question.
fn read(method: &Method, path: &str, body: &[u8]) -> Result<Vec<Accepted>, Refusal> {
    let route = path.strip_prefix("/apps/").and_then(|rest| rest.split_once('/'));
    let Some((APP_ID, route)) = route else {
        return Err(refuse(StatusCode::NOT_FOUND, "no such app"));
    };
    match (method, route) {
        (&Method::GET, "channels") => Ok(Vec::new()),
        (&Method::POST, "events") => {
            let Event { name, data, channels } = parse(body)?;
            if channels.is_empty() || channels.len() > MAX_CHANNELS {
                return Err(bad_request(format!("{} channels", channels.len())));
            }
            channels.into_iter().map(|channel| accept(&name, &channel, &data)).collect()
        }
        (&Method::POST, "batch_events") => {
            let Batch { batch } = parse(body)?;
            if batch.is_empty() || batch.len() > MAX_BATCH {
                return Err(bad_request(format!("{} events in a batch", batch.len())));
            }
            batch.iter().map(|it| accept(&it.name, &it.channel, &it.data)).collect()
        }
        _ => Err(refuse(StatusCode::NOT_FOUND, "no such path")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    name: String,
    data: String,
    channels: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    batch: Vec<BatchEvent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchEvent {
    name: String,
    data: String,
    channel: String,
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad_request(error.to_string()))
}

fn accept(name: &str, channel: &str, data: &str) -> Result<Accepted, Refusal> {
    let event: EventName = name.parse().map_err(|error| bad_request(format!("{error}")))?;
    let channel: ChannelName = channel.parse().map_err(|error| bad_request(format!("{error}")))?;
    let payload: Payload = parse(data.as_bytes())?;
    Ok(Accepted { event: event.to_string(), channel: channel.to_string(), payload })
}

fn bad_request(error: String) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, error)
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Refusal {
    Refusal { status, error: error.into() }
}

impl Refusal {
    fn response(&self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({ "error": self.error, "code": self.status.as_u16() });
        json(self.status, body.to_string())
    }
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = "application/json".parse().expect("it is a header's value");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/apps/demo/events";
    const BODY: &str = r#"{"name":"PostUpdated","channels":["posts","posts.7"],
        "data":"{\"entity\":\"post\",\"id\":7,\"at\":\"2026-11-20T21:34:00.123456Z\"}"}"#;
    const NOW: i64 = 1_795_210_440;

    fn app() -> App {
        App { secret: Secret::new("hush") }
    }

    fn query(body: &str, unix_seconds: i64) -> String {
        let signed = Signed {
            method: signature::Method::Post,
            path: PATH,
            parameters: &[],
            body: body.as_bytes(),
            unix_seconds,
        };
        signed_query(APP_KEY, &app().secret, signed)
    }

    fn verify(query: &str, body: &str) -> Result<(), Refusal> {
        let now = Timestamp::from_unix_micros(NOW * 1_000_000);
        app().verify(&Method::POST, PATH, query, body.as_bytes(), now)
    }

    #[test]
    fn a_request_is_taken_only_with_its_own_signature() {
        assert_eq!(verify(&query(BODY, NOW), BODY), Ok(()));
        assert_eq!(verify(&query(BODY, NOW - 599), BODY), Ok(()));
        let forged = query(BODY, NOW).replace("auth_signature=", "auth_signature=0");
        for (query, body, error) in [
            (query(BODY, NOW), "{}", "body_md5 does not fit the request"),
            (query(BODY, NOW - 601), BODY, "auth_timestamp is too far from now"),
            (forged, BODY, "auth_signature does not fit the request"),
            (String::new(), BODY, "auth_key is not the app's"),
        ] {
            let refusal = verify(&query, body).unwrap_err();
            assert_eq!((refusal.status, refusal.error.as_str()), (StatusCode::UNAUTHORIZED, error));
        }
    }

    #[test]
    fn an_event_is_accepted_once_for_each_of_its_channels() {
        let accepted = read(&Method::POST, PATH, BODY.as_bytes()).unwrap();
        let channels: Vec<&str> = accepted.iter().map(|it| it.channel.as_str()).collect();
        assert_eq!(channels, ["posts", "posts.7"]);
        assert!(matches!(accepted[0].payload, Payload::Row { id: 7, .. }));
    }

    #[test]
    fn what_servers_do_not_take_is_refused() {
        let status =
            |path, body: &str| read(&Method::POST, path, body.as_bytes()).unwrap_err().status;
        assert_eq!(status("/apps/other/events", BODY), StatusCode::NOT_FOUND);
        assert_eq!(status("/apps/demo/nothing", BODY), StatusCode::NOT_FOUND);
        assert_eq!(status(PATH, "{}"), StatusCode::BAD_REQUEST);
        assert_eq!(status(PATH, &BODY.replace("posts.7", "posts 7")), StatusCode::BAD_REQUEST);
        assert_eq!(status(PATH, &BODY.replace("PostUpdated", "")), StatusCode::BAD_REQUEST);
        assert_eq!(status("/apps/demo/batch_events", r#"{"batch":[]}"#), StatusCode::BAD_REQUEST);
    }
}

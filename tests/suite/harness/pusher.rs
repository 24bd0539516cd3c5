//! What the servers take: signature, limits, names. Shares no code with rowcast.

use std::time::{SystemTime, UNIX_EPOCH};

use rowcast::deliver::pusher::Server;
use serde_json::Value;

use super::http::Request;

/// What the app is called on every endpoint.
pub const APP_ID: &str = "1001";
pub const KEY: &str = "rowcast-test-key";
pub const SECRET: &str = "rowcast-test-secret";

/// One event on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub channel: String,
    pub data: String,
    /// The connection that is not told.
    pub socket_id: Option<String>,
}

impl Event {
    /// A member of the payload.
    pub fn data(&self, member: &str) -> Value {
        serde_json::from_str::<Value>(&self.data).map_or(Value::Null, |data| data[member].clone())
    }

    /// Entity and id, where the payload has them.
    pub fn subject(&self) -> Option<String> {
        let data = serde_json::from_str::<Value>(&self.data).ok()?;
        Some(format!("{} {}", data.get("entity")?, data.get("id")?))
    }

    /// Whether it tells to fetch everything again.
    pub fn is_resync(&self) -> bool {
        self.name == "rowcast.resync" || self.data("action") == "resync"
    }
}

pub enum Asked {
    /// Which channels that begin so are occupied.
    Channels {
        prefix: String,
        info: Option<String>,
    },
    Publish(Vec<Event>),
}

#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    why: String,
}

impl Refusal {
    pub fn json(&self) -> String {
        serde_json::json!({ "error": self.why, "code": self.code }).to_string()
    }
}

fn refuse<T>(code: u16, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, why: why.into() })
}

/// What a server takes in one request.
struct Takes {
    request_bytes: usize,
    body_bytes: usize,
    batch_events: usize,
}

fn takes(server: Server) -> Takes {
    let (request_bytes, body_bytes, batch_events) = match server {
        Server::Any => (10_000, 9_000, 10),
        Server::Reverb => (10_000, 9_999, usize::MAX),
        Server::Pusher => (usize::MAX, 100_000, 10),
        Server::Soketi | Server::Sockudo => (usize::MAX, 1_000_000, 10),
        Server::LaravelWebsockets => (usize::MAX, 250_000, 0),
    };
    Takes { request_bytes, body_bytes, batch_events }
}

/// An app of a server, as requests are verified.
pub struct App {
    pub server: Server,
    /// What stands before `/apps`, and whether it is signed.
    pub prefix: String,
    pub signs_prefix: bool,
}

impl App {
    pub fn check(&self, request: &Request) -> Result<Asked, Refusal> {
        let takes = takes(self.server);
        if request.head_bytes + request.body.len() > takes.request_bytes
            || request.body.len() > takes.body_bytes
        {
            return refuse(413, format!("{} bytes are too large", request.body.len()));
        }
        let Some(path) = request.path.strip_prefix(self.prefix.as_str()) else {
            return refuse(404, format!("{} is not below {}", request.path, self.prefix));
        };
        let Some(name) = path.strip_prefix("/apps/").and_then(|p| p.strip_prefix(APP_ID)) else {
            return refuse(404, format!("no app at {path}"));
        };
        let signed_path = if self.signs_prefix { &request.path } else { path };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        if let Err(why) = request.verify(signed_path, KEY, SECRET, now) {
            return refuse(401, why);
        }
        match (request.method.as_str(), name) {
            ("GET", "/channels") => channels(request, self.server),
            ("POST", "/events") => event(&request.body).map(Asked::Publish),
            ("POST", "/batch_events") if takes.batch_events > 0 => {
                batch(&request.body, takes.batch_events).map(Asked::Publish)
            }
            ("POST" | "GET", _) => refuse(404, format!("no path {name}")),
            (method, _) => refuse(405, format!("{method} is no method here")),
        }
    }
}

fn channels(request: &Request, server: Server) -> Result<Asked, Refusal> {
    let (mut prefix, mut info) = (None, None);
    for (name, value) in request.parameters() {
        match name {
            "filter_by_prefix" if prefix.is_none() && !value.is_empty() => {
                prefix = Some(value.to_owned());
            }
            // Hosted Pusher refuses what it does not know, and what an app has not enabled.
            "info" if info.is_none() && server == Server::Sockudo => info = Some(value.to_owned()),
            _ => return refuse(400, format!("{name} is {value:?}")),
        }
    }
    Ok(Asked::Channels { prefix: prefix.unwrap_or_default(), info })
}

fn event(body: &[u8]) -> Result<Vec<Event>, Refusal> {
    let body = json(body)?;
    let channels = match (&body["channels"], &body["channel"]) {
        (Value::Array(channels), Value::Null) => channels.as_slice(),
        (Value::Null, channel @ Value::String(_)) => std::slice::from_ref(channel),
        _ => return refuse(422, "neither channels nor channel"),
    };
    if channels.is_empty() || channels.len() > 100 {
        return refuse(400, format!("{} channels", channels.len()));
    }
    if channels.len() > 1 && channels.iter().any(|it| it.as_str().is_some_and(is_encrypted)) {
        return refuse(400, "an encrypted channel beside others");
    }
    channels.iter().map(|channel| pair(&body, channel)).collect()
}

fn batch(body: &[u8], max_events: usize) -> Result<Vec<Event>, Refusal> {
    let body = json(body)?;
    let Value::Array(events) = &body["batch"] else { return refuse(422, "no batch") };
    if events.is_empty() || events.len() > max_events {
        return refuse(400, format!("{} events in a batch", events.len()));
    }
    events.iter().map(|event| pair(event, &event["channel"])).collect()
}

fn json(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).or_else(|error| refuse(400, format!("no JSON: {error}")))
}

fn pair(event: &Value, channel: &Value) -> Result<Event, Refusal> {
    let (Value::String(name), Value::String(channel), Value::String(data)) =
        (&event["name"], channel, &event["data"])
    else {
        return refuse(422, "name, channel and data are strings");
    };
    if name.is_empty() || name.len() > 200 {
        return refuse(400, format!("an event name of {} bytes", name.len()));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_=@,.;".contains(c);
    let rest = channel.strip_prefix('#').unwrap_or(channel);
    if rest.is_empty() || channel.len() > 200 || !rest.chars().all(is_allowed) {
        return refuse(400, format!("{channel:?} is no channel"));
    }
    if data.is_empty() {
        return refuse(422, "data is empty");
    }
    if is_encrypted(channel) && !is_ciphertext(data) {
        return refuse(400, format!("plain text on {channel}"));
    }
    let socket_id = match &event["socket_id"] {
        Value::Null => None,
        Value::String(id) if is_socket_id(id) => Some(id.clone()),
        other => return refuse(400, format!("{other} is no socket_id")),
    };
    Ok(Event { name: name.clone(), channel: channel.clone(), data: data.clone(), socket_id })
}

fn is_socket_id(id: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    id.split_once('.').is_some_and(|(one, two)| is_number(one) && is_number(two))
}

fn is_encrypted(channel: &str) -> bool {
    channel.starts_with("private-encrypted-")
}

/// Whether it is what the servers' own libraries send on an encrypted channel.
fn is_ciphertext(data: &str) -> bool {
    let Ok(Value::Object(data)) = serde_json::from_str(data) else { return false };
    data.len() == 2
        && ["nonce", "ciphertext"].iter().all(|part| data.get(*part).is_some_and(Value::is_string))
}

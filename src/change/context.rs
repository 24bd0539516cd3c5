use std::sync::Arc;

use serde_json::{Map, Value};

/// What a transaction says of itself: a JSON object that the application emitted
/// within it. Any role may emit one, so it is no more to be trusted than a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    values: Map<String, Value>,
    socket_id: Option<Arc<str>>,
    is_socket_id_refused: bool,
    heap_bytes: usize,
}

/// Why a message is no context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    #[error("it has {bytes} bytes, expected at most {}", Context::MAX_BYTES)]
    TooLong { bytes: usize },
    #[error("it is no JSON object")]
    NoObject,
}

impl Context {
    /// It is kept with each change of its transaction that is not sent yet.
    pub const MAX_BYTES: usize = 4096;
    /// The longest `socket_id`; the servers' own are half as long.
    pub const MAX_SOCKET_ID: usize = 64;

    /// `json` is the message's content.
    ///
    /// # Errors
    /// For anything but a JSON object.
    pub fn parse(json: &[u8]) -> Result<Context, ContextError> {
        if json.len() > Context::MAX_BYTES {
            return Err(ContextError::TooLong { bytes: json.len() });
        }
        let values: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| ContextError::NoObject)?;
        Ok(Context::of(values))
    }

    /// Of a context's own values.
    pub fn of(values: Map<String, Value>) -> Context {
        // A browser has sent it, who must not have the rest unsaid by it.
        let (socket_id, is_socket_id_refused) = match values.get("socket_id") {
            None | Some(Value::Null) => (None, false),
            Some(Value::String(text)) if is_socket_id(text) => (Some(text.as_str().into()), false),
            Some(_) => (None, true),
        };
        let heap_bytes = of_object(&values);
        Context { values, socket_id, is_socket_id_refused, heap_bytes }
    }

    /// What it costs to keep, in bytes, near enough: with many small values in it
    /// far more than its text.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// The connection that need not be told, since its user made the change.
    pub fn socket_id(&self) -> Option<&Arc<str>> {
        self.socket_id.as_ref()
    }

    /// Whether it has a `socket_id` that is none.
    pub fn is_socket_id_refused(&self) -> bool {
        self.is_socket_id_refused
    }

    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }
}

fn of_object(values: &Map<String, Value>) -> usize {
    /// Of a tree of maps, which has room for eleven entries and is half full.
    const NODE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 32;
    let nodes = (values.len() / 5 + 1) * NODE;
    nodes + values.iter().map(|(key, value)| key.len() + of_value(value)).sum::<usize>()
}

fn of_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => {
            items.capacity() * size_of::<Value>() + items.iter().map(of_value).sum::<usize>()
        }
        Value::Object(values) => of_object(values),
    }
}

/// As Pusher's servers give them to clients, and check them.
/// <https://pusher.com/docs/channels/library_auth_reference/rest-api/>
fn is_socket_id(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.len() <= Context::MAX_SOCKET_ID
        && text.split_once('.').is_some_and(|(a, b)| is_number(a) && is_number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_weigh_more_than_their_text() {
        let weight = |json: &str| Context::parse(json.as_bytes()).expect(json).heap_bytes();
        let usual = weight(r#"{"user_id":7,"socket_id":"12.345"}"#);
        assert!((500..1000).contains(&usual), "{usual}");
        let maps = format!(r#"{{"a":[{}]}}"#, vec![r#"{"":0}"#; 500].join(","));
        assert!(weight(&maps) > 60 * maps.len());
    }

    #[test]
    fn a_context_is_a_json_object_and_its_socket_id_two_numbers() {
        let context = Context::parse(br#"{"user_id":7,"socket_id":"12.345"}"#).unwrap();
        assert_eq!(context.values()["user_id"], 7);
        assert_eq!(context.socket_id().map(|id| &**id), Some("12.345"));
        assert_eq!(Context::parse(b"{}").unwrap().socket_id(), None);
        assert_eq!(Context::parse(br#"{"socket_id":null}"#).unwrap().socket_id(), None);
        for text in ["", "7", "[]", "{", "null", "\"a\"", "{\"a\":\u{1}}"] {
            assert_eq!(Context::parse(text.as_bytes()), Err(ContextError::NoObject), "{text}");
        }
        for id in ["12", "12.", ".5", "a.b", "1.2.3", "1.2\\u000d\\u000a"] {
            let json = format!(r#"{{"socket_id":"{id}"}}"#);
            let context = Context::parse(json.as_bytes()).expect(id);
            assert_eq!((context.socket_id(), context.is_socket_id_refused()), (None, true), "{id}");
        }
        let context = Context::parse(br#"{"socket_id":12.5,"user_id":7}"#).unwrap();
        assert!(context.is_socket_id_refused() && context.values()["user_id"] == 7);
        let long = format!(r#"{{"a":"{}"}}"#, "a".repeat(Context::MAX_BYTES));
        let error = Context::parse(long.as_bytes());
        assert_eq!(error, Err(ContextError::TooLong { bytes: long.len() }));
    }
}

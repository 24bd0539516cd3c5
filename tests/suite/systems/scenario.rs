//! A scenario as it is written: who listens to what, and what each step writes and makes them hear.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The rows of the system's table: every one is covered by a step.
    pub rows: Vec<String>,
    #[serde(rename = "client")]
    pub clients: Vec<Client>,
    /// Channels that no rule names: a resync does not reach them.
    #[serde(default)]
    pub without_resync: Vec<String>,
    /// Written before rowcast looks.
    #[serde(default)]
    pub before: String,
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// A browser.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    pub name: String,
    /// As whom it joins presence channels.
    pub user: Option<User>,
    /// `"private user.1"`, a method of Echo and a channel, with what `.listen` is given.
    #[serde(default)]
    pub listen: BTreeMap<String, Vec<String>>,
    /// Functions of the system's page.js that it runs, `"server 1"`, each with what this fetches after joining.
    #[serde(default)]
    pub pages: BTreeMap<String, String>,
    /// Whether it listens for each of these also with a dot: under the bare name.
    #[serde(default)]
    pub both: bool,
    /// Channels that it asks for, in the same form, and that the application denies it.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Channels that it tries to join with a signature that is none.
    #[serde(default)]
    pub forged: Vec<String>,
}

#[derive(Deserialize, serde::Serialize, Clone)]
pub struct User {
    pub id: u32,
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub claim: String,
    /// The rows of the system's table that it shows.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Each text in one round trip: one transaction, unless it says otherwise. `@socket NAME` is a client's socket id.
    #[serde(default)]
    pub sql: Texts,
    /// `"ann: join online"`, as in `listen`.
    pub join: Option<String>,
    /// `"ann: presence-online"`.
    pub leave: Option<String>,
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// What pages ask of their application then, `"till: fetchOrder 7"`.
    #[serde(default)]
    pub calls: Vec<String>,
}

/// Each event on each channel, at each client that joined it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub channels: Texts,
    pub events: Texts,
    /// JSON. `"@iso"`, `"@iso8601"` and `"@any"` stand for values that differ each time.
    pub data: String,
    /// Those that hear it. Default: all that joined.
    pub to: Option<Vec<String>>,
    /// It may come this often. Default: once.
    pub at_most: Option<usize>,
}

/// One, or a list.
#[derive(Deserialize, Default, Clone)]
#[serde(untagged)]
pub enum Texts {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::None => &[],
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts.as_slice(),
        };
        texts.iter().map(String::as_str)
    }
}

impl Scenario {
    pub fn load(path: &Path) -> Self {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// `private user.1`: a method of Echo and the channel without its class.
#[derive(Clone, Copy)]
pub struct Subscription<'a> {
    pub method: &'a str,
    pub name: &'a str,
}

impl<'a> Subscription<'a> {
    pub fn of(text: &'a str) -> Self {
        let (method, name) = text.split_once(' ').expect("a method of Echo and a channel");
        Self { method, name }
    }

    pub fn channel(self) -> String {
        let class = match self.method {
            "channel" => "",
            "private" => "private-",
            "join" => "presence-",
            "encryptedPrivate" => "private-encrypted-",
            other => panic!("Echo has no {other}"),
        };
        format!("{class}{}", self.name)
    }
}

/// Whether the data is as expected.
pub fn is_like(expected: &Value, data: &Value) -> bool {
    match (expected, data) {
        (Value::String(text), _) if text == "@any" => true,
        (Value::String(text), Value::String(data)) if text == "@iso" => {
            is_date(data, "0000-00-00T00:00:00.000000Z")
        }
        (Value::String(text), Value::String(data)) if text == "@iso8601" => {
            is_date(data, "0000-00-00T00:00:00+00:00")
        }
        (Value::Object(expected), Value::Object(data)) => {
            expected.len() == data.len()
                && expected
                    .iter()
                    .all(|(key, value)| data.get(key).is_some_and(|data| is_like(value, data)))
        }
        (Value::Array(expected), Value::Array(data)) => {
            expected.len() == data.len()
                && expected.iter().zip(data).all(|(expected, data)| is_like(expected, data))
        }
        _ => expected == data,
    }
}

fn is_date(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text.chars().zip(form.chars()).all(|(is, like)| match like {
            '0' => is.is_ascii_digit(),
            _ => is == like,
        })
}

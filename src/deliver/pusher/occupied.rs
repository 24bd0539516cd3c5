//! The channels that somebody listens on, as an endpoint lists them. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::notification::ChannelName;

/// Of one list: some 400,000 channels below one prefix. What is longer is not
/// taken, since memory is bounded whatever an endpoint sends.
pub(super) const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;

/// The names in `{"channels":{"name":{…}}}` that are wanted; no others are kept.
///
/// # Errors
/// If it is no such list, or says that it is an error.
pub(super) fn names(
    body: &[u8],
    is_wanted: &dyn Fn(&ChannelName) -> bool,
) -> Result<Vec<ChannelName>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let names = Answer(is_wanted).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(names)
}

struct Answer<'a>(&'a dyn Fn(&ChannelName) -> bool);

struct Channels<'a>(&'a dyn Fn(&ChannelName) -> bool);

impl<'de> DeserializeSeed<'de> for Answer<'_> {
    type Value = Vec<ChannelName>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = Vec<ChannelName>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with channels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "channels" => names = Some(map.next_value_seed(Channels(self.0))?),
                "error" if map.next_value::<Option<IgnoredAny>>()?.is_some() => {
                    return Err(A::Error::custom("it is an error"));
                }
                "error" => {}
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        names.ok_or_else(|| A::Error::missing_field("channels"))
    }
}

impl<'de> DeserializeSeed<'de> for Channels<'_> {
    type Value = Vec<ChannelName>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Channels<'_> {
    type Value = Vec<ChannelName>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each channel")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            // What is no name cannot be told anything either.
            names.extend(name.parse().ok().filter(|name| (self.0)(name)));
        }
        Ok(names)
    }

    /// PHP prints an empty object so.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(Vec::new()),
            Some(_) => Err(A::Error::custom("a list of channels has their names as keys")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(body: &str) -> Option<Vec<String>> {
        let is_wanted = |name: &ChannelName| name.as_str().starts_with("posts.");
        let names = names(body.as_bytes(), &is_wanted).ok()?;
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_list_is_read_as_each_server_prints_it_and_only_the_wanted_names_are_kept() {
        let none = || Some(Vec::new());
        for (body, names) in [
            (r#"{"channels":{}}"#, none()),
            (r#"{"channels":[]}"#, none()),
            (r#"{"channels":{"posts.1":{},"users.1":{}}}"#, Some(vec!["posts.1".to_owned()])),
            (
                r#"{"channels":{"posts.1":{"user_count":3},"posts.2":[]},"error":null}"#,
                Some(vec!["posts.1".to_owned(), "posts.2".to_owned()]),
            ),
            (r#"{"channels":{"posts. no name":{}}}"#, none()),
            (r#"{"channels":["posts.1"]}"#, None),
            (r#"{"channels":{"posts.1":{}},"error":"no","code":500}"#, None),
            ("{}", None),
            ("[]", None),
            (r#"{"channels":{"posts.1":{}}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(listed(body), names, "{body}");
        }
    }
}

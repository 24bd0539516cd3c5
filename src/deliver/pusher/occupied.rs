//! The channels that somebody listens on, as an endpoint lists them. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::notification::{ChannelName, NameHash};

/// Of one list: some 400,000 channels below one prefix. What is longer is not
/// taken, since memory is bounded whatever an endpoint sends.
pub(super) const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;

/// What `keep` makes of the names in `{"channels":{"name":{…}}}`; nothing else is kept.
///
/// # Errors
/// If it is no such list, or says that it is an error.
pub(super) fn names<T>(
    body: &[u8],
    keep: &dyn Fn(ChannelName) -> Option<T>,
) -> Result<Vec<T>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let names = Answer(keep).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(names)
}

/// The names of one list, each as a hash: one that was not listed may be taken for one
/// that was, at the cost of telling nobody something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::deliver) struct Occupied(Box<[NameHash]>);

impl Occupied {
    pub(in crate::deliver) fn contains(&self, name: &ChannelName) -> bool {
        self.0.binary_search(&NameHash::of(name.as_str())).is_ok()
    }

    pub(in crate::deliver) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn of(mut hashes: Vec<NameHash>) -> Occupied {
        hashes.sort_unstable();
        hashes.dedup();
        Occupied(hashes.into())
    }
}

#[cfg(test)]
impl FromIterator<ChannelName> for Occupied {
    fn from_iter<I: IntoIterator<Item = ChannelName>>(names: I) -> Occupied {
        Occupied::of(names.into_iter().map(|name| NameHash::of(name.as_str())).collect())
    }
}

struct Answer<'a, T>(&'a dyn Fn(ChannelName) -> Option<T>);

struct Channels<'a, T>(&'a dyn Fn(ChannelName) -> Option<T>);

impl<'de, T> DeserializeSeed<'de> for Answer<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T> Visitor<'de> for Answer<'_, T> {
    type Value = Vec<T>;

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

impl<'de, T> DeserializeSeed<'de> for Channels<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T> Visitor<'de> for Channels<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member for each channel")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            // What is no name cannot be told anything either.
            names.extend(name.parse().ok().and_then(|name| (self.0)(name)));
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
        let keep =
            |name: ChannelName| name.as_str().starts_with("posts.").then(|| name.to_string());
        names(body.as_bytes(), &keep).ok()
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

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// A Pusher channel: its class prefix and a name, for example
/// `private-posts.42`.
/// <https://pusher.com/docs/channels/using_channels/channels/#channel-naming-conventions>
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    pub const MAX_LEN: usize = 200;

    /// Whether the servers accept `byte` in a channel's name.
    pub fn allows(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-_=@,.;".contains(&byte)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn class(&self) -> ChannelClass {
        ChannelClass::of(&self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    #[error("the channel name is empty")]
    Empty,
    #[error("the channel name has {0} bytes, and the servers take {max}", max = ChannelName::MAX_LEN)]
    TooLong(usize),
    #[error("{0:?} may not be in a channel name")]
    Character(char),
}

impl ChannelName {
    /// Whether a channel may be called so.
    ///
    /// # Errors
    /// Why not.
    pub fn check(name: &str) -> Result<(), ChannelNameError> {
        let rest = name.strip_prefix('#').unwrap_or(name);
        if rest.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        if !rest.bytes().all(Self::allows) {
            let is_refused = |c: &char| !u8::try_from(*c).is_ok_and(Self::allows);
            let character = rest.chars().find(is_refused).expect("a byte of it is refused");
            return Err(ChannelNameError::Character(character));
        }
        if name.len() > Self::MAX_LEN {
            return Err(ChannelNameError::TooLong(name.len()));
        }
        Ok(())
    }
}

impl FromStr for ChannelName {
    type Err = ChannelNameError;

    fn from_str(name: &str) -> Result<ChannelName, ChannelNameError> {
        ChannelName::check(name)?;
        Ok(ChannelName(name.into()))
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for ChannelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Who may join a channel, and how, by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelClass {
    Public,
    Cache,
    Private,
    PrivateCache,
    Encrypted,
    EncryptedCache,
    Presence,
    PresenceCache,
}

impl ChannelClass {
    /// Longer prefixes first: each also begins with a shorter one of the list.
    const PREFIXES: [(&'static str, ChannelClass); 7] = [
        ("private-encrypted-cache-", ChannelClass::EncryptedCache),
        ("private-encrypted-", ChannelClass::Encrypted),
        ("private-cache-", ChannelClass::PrivateCache),
        ("private-", ChannelClass::Private),
        ("presence-cache-", ChannelClass::PresenceCache),
        ("presence-", ChannelClass::Presence),
        ("cache-", ChannelClass::Cache),
    ];

    pub const ALL: [ChannelClass; 8] = [
        ChannelClass::Public,
        ChannelClass::Cache,
        ChannelClass::Private,
        ChannelClass::PrivateCache,
        ChannelClass::Encrypted,
        ChannelClass::EncryptedCache,
        ChannelClass::Presence,
        ChannelClass::PresenceCache,
    ];

    /// The first other class that a name may have which begins with `head` and goes
    /// on: `private` may become `private-`.
    pub fn after(head: &str) -> Option<ChannelClass> {
        let is_longer = |class: &ChannelClass| {
            class.prefix().len() > head.len() && class.prefix().starts_with(head)
        };
        ChannelClass::ALL.into_iter().find(is_longer)
    }

    /// The class that a name, or the literal beginning of one, belongs to.
    pub fn of(name: &str) -> ChannelClass {
        Self::PREFIXES
            .into_iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map_or(ChannelClass::Public, |(_, class)| class)
    }

    /// Whether the server keeps the last event for who joins later.
    pub fn is_cache(self) -> bool {
        use ChannelClass::{Cache, EncryptedCache, PresenceCache, PrivateCache};
        matches!(self, Cache | PrivateCache | EncryptedCache | PresenceCache)
    }

    /// Whether what is sent there is encrypted.
    pub fn is_encrypted(self) -> bool {
        matches!(self, ChannelClass::Encrypted | ChannelClass::EncryptedCache)
    }

    /// What a name of this class begins with; empty for a public channel.
    pub fn prefix(self) -> &'static str {
        Self::PREFIXES
            .into_iter()
            .find(|(_, class)| *class == self)
            .map_or("", |(prefix, _)| prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_takes_only_what_the_servers_take() {
        for name in ["posts", "private-posts.42", "#server-to-user-42", "a=b@c,d;e_f"] {
            assert_eq!(name.parse::<ChannelName>().unwrap().as_str(), name);
        }
        assert_eq!("".parse::<ChannelName>(), Err(ChannelNameError::Empty));
        assert_eq!("#".parse::<ChannelName>(), Err(ChannelNameError::Empty));
        assert_eq!("a b".parse::<ChannelName>(), Err(ChannelNameError::Character(' ')));
        assert_eq!("a#b".parse::<ChannelName>(), Err(ChannelNameError::Character('#')));
        assert_eq!("é".parse::<ChannelName>(), Err(ChannelNameError::Character('é')));
        assert_eq!("x".repeat(201).parse::<ChannelName>(), Err(ChannelNameError::TooLong(201)));
    }

    #[test]
    fn a_class_is_told_by_the_longest_prefix() {
        for (name, class) in [
            ("posts", ChannelClass::Public),
            ("privateers", ChannelClass::Public),
            ("private-posts", ChannelClass::Private),
            ("private-encrypted-x", ChannelClass::Encrypted),
            ("private-cache-x", ChannelClass::PrivateCache),
            ("presence-room.1", ChannelClass::Presence),
            ("cache-x", ChannelClass::Cache),
        ] {
            assert_eq!(ChannelClass::of(name), class, "{name}");
            assert!(name.starts_with(class.prefix()));
        }
    }
}

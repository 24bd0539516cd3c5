use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// A Pusher event's name, for example `PostUpdated` or `App\Events\PostUpdated`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventName(Arc<str>);

impl EventName {
    pub const MAX_LEN: usize = 200;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventNameError {
    #[error("the event name is empty")]
    Empty,
    #[error("the event name has {0} bytes, and the servers take {max}", max = EventName::MAX_LEN)]
    TooLong(usize),
    #[error("the event name has a control character")]
    Control,
    #[error("names that begin with pusher: or client- belong to the protocol")]
    Reserved,
}

impl FromStr for EventName {
    type Err = EventNameError;

    fn from_str(name: &str) -> Result<EventName, EventNameError> {
        if name.is_empty() {
            return Err(EventNameError::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(EventNameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(EventNameError::Control);
        }
        if ["pusher:", "pusher_internal:", "client-"].iter().any(|p| name.starts_with(p)) {
            return Err(EventNameError::Reserved);
        }
        Ok(EventName(name.into()))
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EventName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_name_may_be_a_class_but_not_the_protocols() {
        assert!(r"App\Events\PostUpdated".parse::<EventName>().is_ok());
        assert_eq!("pusher:ping".parse::<EventName>(), Err(EventNameError::Reserved));
        assert_eq!("a\nb".parse::<EventName>(), Err(EventNameError::Control));
        assert_eq!("x".repeat(201).parse::<EventName>(), Err(EventNameError::TooLong(201)));
    }
}

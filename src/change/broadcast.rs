use serde::Deserialize;
use serde_json::value::RawValue;

/// An event that the application sends by a transaction, without any row. The
/// source has checked only that `data` is JSON: any role may emit one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    pub channel: Box<str>,
    pub event: Box<str>,
    /// A JSON text, as it was sent.
    pub data: Box<str>,
}

/// Why a message is no broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BroadcastError {
    #[error("it has {bytes} bytes, expected at most {}", Broadcast::MAX_BYTES)]
    TooLong { bytes: usize },
    #[error("it is no JSON object with channel, event and data")]
    Shape,
}

impl Broadcast {
    /// More than any server takes of one event. What is below, and still too
    /// large for the server at hand, is told of by a resync.
    pub const MAX_BYTES: usize = 256 << 10;

    /// `json` is the message's content.
    ///
    /// # Errors
    /// For anything but an object with a text `channel`, a text `event`, and
    /// `data`.
    pub fn parse(json: &[u8]) -> Result<Broadcast, BroadcastError> {
        #[derive(Deserialize)]
        struct Message<'a> {
            channel: Box<str>,
            event: Box<str>,
            #[serde(borrow)]
            data: &'a RawValue,
        }

        if json.len() > Broadcast::MAX_BYTES {
            return Err(BroadcastError::TooLong { bytes: json.len() });
        }
        let Message { channel, event, data } =
            serde_json::from_slice(json).map_err(|_| BroadcastError::Shape)?;
        Ok(Broadcast { channel, event, data: data.get().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_as_it_was_sent() {
        let json = br#"{"event":"A","data": {"n": 12345678901234567890.10}, "channel":"c"}"#;
        let broadcast = Broadcast::parse(json).expect("a broadcast");
        assert_eq!((&*broadcast.channel, &*broadcast.event), ("c", "A"));
        assert_eq!(&*broadcast.data, r#"{"n": 12345678901234567890.10}"#);
        for data in ["null", "1", "\"a\"", "[]"] {
            let json = format!(r#"{{"channel":"c","event":"A","data":{data}}}"#);
            assert_eq!(&*Broadcast::parse(json.as_bytes()).expect(data).data, data);
        }
    }

    #[test]
    fn what_is_no_broadcast_is_an_error() {
        for text in [
            "",
            "null",
            "[]",
            "hello",
            r#"{"channel":"c","event":"A"}"#,
            r#"{"channel":"c","data":{}}"#,
            r#"{"channel":7,"event":"A","data":{}}"#,
            r#"{"channel":"c","event":"A","data":}"#,
            r#"{"channel":"c","event":"A","data":{}}{"#,
        ] {
            assert_eq!(Broadcast::parse(text.as_bytes()), Err(BroadcastError::Shape), "{text}");
        }
        let long = vec![b'a'; Broadcast::MAX_BYTES + 1];
        let bytes = long.len();
        assert_eq!(Broadcast::parse(&long), Err(BroadcastError::TooLong { bytes }));
        let deep = format!(r#"{{"channel":"c","event":"A","data":{}}}"#, "[".repeat(100_000));
        assert_eq!(Broadcast::parse(deep.as_bytes()), Err(BroadcastError::Shape));
    }
}

use serde::Deserialize;

use crate::change::Context;

/// Which server answers at the endpoint, since their limits and quirks differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// Not told: what all of them take.
    #[default]
    Any,
    Reverb,
    /// Hosted Pusher Channels.
    Pusher,
    Soketi,
    Sockudo,
    LaravelWebsockets,
}

impl Server {
    pub const ALL: [Server; 6] = [
        Server::Any,
        Server::Reverb,
        Server::Pusher,
        Server::Soketi,
        Server::Sockudo,
        Server::LaravelWebsockets,
    ];

    pub fn capacity(self) -> Capacity {
        match self {
            Server::Any => Capacity { body_bytes: 9_000, data_bytes: 10_000, batch_events: 10 },
            // `max_request_size` is 10,000 bytes and counts the headers too.
            Server::Reverb => {
                Capacity { body_bytes: 9_000, data_bytes: 9_000, batch_events: usize::MAX }
            }
            Server::Pusher => {
                Capacity { body_bytes: 100_000, data_bytes: 10_000, batch_events: 10 }
            }
            Server::Soketi | Server::Sockudo => {
                Capacity { body_bytes: 500_000, data_bytes: 100_000, batch_events: 10 }
            }
            // Knows no `batch_events`; requests up to 250 KB.
            Server::LaravelWebsockets => {
                Capacity { body_bytes: 240_000, data_bytes: 100_000, batch_events: 0 }
            }
        }
    }

    /// Whether the path prefix of the endpoint's address is part of what is
    /// signed. The official libraries sign it; Reverb cuts it off first.
    pub(super) fn signs_path_prefix(self) -> bool {
        match self {
            Server::Reverb => false,
            Server::Any
            | Server::Pusher
            | Server::Soketi
            | Server::Sockudo
            | Server::LaravelWebsockets => true,
        }
    }

    /// Whether a list of channels is repeated for 2 s to whoever asks for the same: the
    /// same prefix and the same `info`. Others make each anew.
    pub(super) fn repeats_lists(self) -> bool {
        match self {
            Server::Sockudo => true,
            Server::Any
            | Server::Reverb
            | Server::Pusher
            | Server::Soketi
            | Server::LaravelWebsockets => false,
        }
    }

    /// Whether a 500 may mean that this one request is bad: Reverb answers so
    /// to a body that it cannot parse.
    pub(super) fn blames_itself_for_a_bad_request(self) -> bool {
        match self {
            Server::Any | Server::Reverb => true,
            Server::Pusher | Server::Soketi | Server::Sockudo | Server::LaravelWebsockets => false,
        }
    }
}

/// What a server takes in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Of a request's body.
    pub body_bytes: usize,
    data_bytes: usize,
    /// Of `batch_events`, one for each event and channel; 0 where there is no
    /// such path.
    pub batch_events: usize,
}

impl Capacity {
    /// Channels of one event in `events`.
    pub const CHANNELS: usize = 100;

    /// The longest data that fits whatever its event and channel are called,
    /// measured as a JSON string literal, see
    /// [`escaped_len`](crate::notification::escaped_len).
    pub fn max_data_bytes(self) -> usize {
        self.data_bytes.min(self.body_bytes - ENVELOPE_BYTES)
    }
}

/// `{"name":"","channels":[""],"data":,"socket_id":""}` with the longest names,
/// the event's in full of characters that JSON writes as two.
const ENVELOPE_BYTES: usize = 60 + 2 * 200 + 200 + Context::MAX_SOCKET_ID;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_as_in_the_documentation() {
        for (name, server) in [
            ("any", Server::Any),
            ("reverb", Server::Reverb),
            ("pusher", Server::Pusher),
            ("soketi", Server::Soketi),
            ("sockudo", Server::Sockudo),
            ("laravel-websockets", Server::LaravelWebsockets),
        ] {
            let named: Server =
                serde_json::from_value(serde_json::Value::from(name)).expect("a server's name");
            assert_eq!(named, server);
        }
    }
}

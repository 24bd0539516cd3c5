//! What is told to rowcast itself, by `pg_logical_emit_message` or by a row of the
//! outbox. Any role may do that, so it is no more to be trusted than a row.

use std::collections::BTreeMap;

use tracing::{info, warn};

use crate::change::{Broadcast, BroadcastError, Context, ContextError};

/// A message that is for us.
#[derive(Debug)]
pub(super) enum Said {
    /// What the transaction says of itself.
    Context(Context),
    Broadcast(Broadcast),
}

/// Why a message that is for us, or a part of it, is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unheard {
    #[error("a context was passed over: {0}")]
    Context(ContextError),
    #[error("a context's socket_id was passed over: expected two numbers such as 123.456")]
    SocketId,
    #[error("an application event was passed over: {0}")]
    Broadcast(BroadcastError),
    #[error(
        "a context or application event was passed over: it was not emitted as part of a \
         transaction, and would be told even if that is rolled back"
    )]
    NotTransactional,
}

impl Said {
    /// `None` for what other programs tell each other. `content` is `None` if it
    /// was left out, for its length.
    pub(super) fn of(
        transactional: bool,
        prefix: &[u8],
        len: usize,
        content: Option<&[u8]>,
    ) -> Option<Result<Said, Unheard>> {
        let parse: fn(usize, Option<&[u8]>) -> Result<Said, Unheard> = match prefix {
            b"rowcast" => Said::context,
            b"rowcast.broadcast" => Said::broadcast,
            _ => return None,
        };
        Some(match transactional {
            true => parse(len, content),
            false => Err(Unheard::NotTransactional),
        })
    }

    /// A context of `len` bytes; `content` is `None` if it was left out for them.
    pub(super) fn context(len: usize, content: Option<&[u8]>) -> Result<Said, Unheard> {
        let content = content.ok_or(ContextError::TooLong { bytes: len });
        content.and_then(Context::parse).map(Said::Context).map_err(Unheard::Context)
    }

    /// The same of a broadcast.
    pub(super) fn broadcast(len: usize, content: Option<&[u8]>) -> Result<Said, Unheard> {
        let content = content.ok_or(BroadcastError::TooLong { bytes: len });
        content.and_then(Broadcast::parse).map(Said::Broadcast).map_err(Unheard::Broadcast)
    }
}

impl Unheard {
    /// The same for all that are passed over alike.
    fn reason(self) -> &'static str {
        match self {
            Unheard::Context(ContextError::TooLong { .. }) => "context_too_long",
            Unheard::Context(ContextError::NoObject) => "context_no_object",
            Unheard::SocketId => "context_socket_id",
            Unheard::Broadcast(BroadcastError::TooLong { .. }) => "broadcast_too_long",
            Unheard::Broadcast(BroadcastError::Shape) => "broadcast_shape",
            Unheard::NotTransactional => "not_transactional",
        }
    }

    /// What to do about it.
    fn fix(self) -> &'static str {
        match self {
            Unheard::SocketId => "leave it out where the browser has sent none",
            Unheard::Context(_) => "SELECT rowcast.context('{\"user_id\":7}')",
            Unheard::Broadcast(_) => {
                "SELECT rowcast.broadcast('private-admin.7', 'OrderPaid', '{\"id\":42}')"
            }
            Unheard::NotTransactional => {
                "pg_logical_emit_message(true, …), as rowcast's functions do"
            }
        }
    }
}

/// How many messages were passed over, by reason. Of each the first is told:
/// whoever may log in can emit any number.
#[derive(Debug, Default)]
pub(super) struct PassedOver(BTreeMap<&'static str, u64>);

impl PassedOver {
    pub(super) fn add(&mut self, unheard: Unheard) {
        let count = self.0.entry(unheard.reason()).or_default();
        if *count == 0 {
            warn!(
                reason = unheard.reason(),
                fix = unheard.fix(),
                "{unheard}; further ones are counted"
            );
        }
        *count += 1;
    }

    /// At the end of a session.
    pub(super) fn tell(&self) {
        for (reason, count) in &self.0 {
            info!(reason, count, "messages to rowcast that were passed over");
        }
    }
}

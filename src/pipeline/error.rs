use std::time::Duration;

use tokio_postgres::error::SqlState;
use tracing::{error, warn};

use super::{Refused, Slot};
use crate::chain;
use crate::deliver;
use crate::postgres::ConnectError;
use crate::route;
use crate::source::wal;
use crate::source::wal::connection;

/// Why nothing streams, or is delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(ConnectError),
    #[error("cannot read the state of the database")]
    Inspect(#[source] tokio_postgres::Error),
    #[error("the state of the database could not be read in time: is a system catalog locked?")]
    InspectTimeout,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Source(#[from] wal::Error),
    #[error(transparent)]
    Renamed(#[from] route::Renamed),
    #[error(transparent)]
    Deliver(#[from] deliver::Error),
    #[error("Postgres closed the connection")]
    Disconnected(#[source] Option<tokio_postgres::Error>),
}

impl Error {
    /// Whether trying again may help without anyone's doing.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Connect(error) => error.is_transient(),
            Error::Inspect(error) => error.code().is_none_or(passes),
            Error::InspectTimeout | Error::Disconnected(_) => true,
            Error::Refused(_) | Error::Renamed(_) | Error::Deliver(_) => false,
            Error::Source(error) => error.is_transient(),
        }
    }

    pub(super) fn is_slot_in_use(&self) -> bool {
        matches!(self, Error::Source(wal::Error::Connection(connection::Error::SlotInUse { .. })))
    }

    /// Whether the slot keeps all that is committed until this is mended.
    fn is_harmless(&self) -> bool {
        match self {
            Error::Refused(refused) => refused.is_harmless(),
            Error::Source(wal::Error::Publication { .. }) => false,
            Error::Source(wal::Error::Connection(error)) => !matches!(
                error,
                connection::Error::NoSuchSlot { .. } | connection::Error::WrongSlot { .. }
            ),
            Error::Source(_)
            | Error::Connect(_)
            | Error::Inspect(_)
            | Error::InspectTimeout
            | Error::Renamed(_)
            | Error::Deliver(_)
            | Error::Disconnected(_) => true,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Connect(error) => error.hint(),
            Error::Source(error) => error.hint(),
            Error::Refused(refused) => refused.hint(),
            Error::Renamed(renamed) => Some(renamed.hint()),
            Error::Inspect(_)
            | Error::InspectTimeout
            | Error::Disconnected(_)
            | Error::Deliver(_) => None,
        }
    }

    /// With its causes.
    pub(super) fn in_full(&self) -> String {
        chain::line(self)
    }

    /// Logs what keeps changes from streaming until the next attempt.
    pub(super) fn tell(&self, slot: &Slot, wait: Duration) {
        let retry_ms = wait.as_millis() as u64;
        let so = match slot {
            Slot::Configured if self.is_harmless() => {
                "; nothing is lost: the slot keeps what was not delivered"
            }
            Slot::Configured => "",
            Slot::Temporary(_) => "; what is committed meanwhile is not shown",
        };
        if let Error::Refused(refused) = self {
            refused.tell();
            return error!(retry_ms, "streaming pauses until this is mended{so}");
        }
        let (text, hint) = (self.in_full(), self.hint());
        if self.is_slot_in_use() {
            warn!(hint, "{text}: waiting until it is free{so}");
        } else if self.is_transient() {
            warn!(hint, retry_ms, "{text}{so}");
        } else {
            error!(hint, retry_ms, "{text}{so}");
        }
    }
}

/// Too few resources, and a server that stops or starts, are of those.
fn passes(code: &SqlState) -> bool {
    ["53", "57", "58", "08"].iter().any(|class| code.code().starts_with(class))
}

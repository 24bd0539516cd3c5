use tokio_postgres::error::SqlState;

use super::Refused;
use crate::chain;
use crate::deliver;
use crate::postgres::ConnectError;
use crate::source::wal;

/// Why nothing streams.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to Postgres")]
    Connect(#[source] ConnectError),
    #[error("cannot read the state of the database")]
    Inspect(#[source] tokio_postgres::Error),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("cannot stream changes")]
    Source(#[from] wal::Error),
    #[error("cannot deliver")]
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
            Error::Disconnected(_) => true,
            Error::Refused(_) | Error::Deliver(_) => false,
            Error::Source(error) => error.is_transient(),
        }
    }

    pub(super) fn is_slot_in_use(&self) -> bool {
        matches!(
            self,
            Error::Source(wal::Error::Connection(wal::connection::Error::SlotInUse { .. }))
        )
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        match self {
            Error::Connect(error) => error.hint(),
            Error::Source(error) => error.hint(),
            Error::Inspect(_) | Error::Disconnected(_) | Error::Refused(_) | Error::Deliver(_) => {
                None
            }
        }
    }

    /// With its causes, and what to do, on one line.
    pub(super) fn in_full(&self) -> String {
        let text = chain::line(self);
        match self.hint() {
            Some(hint) => format!("{text} ({hint})"),
            None => text,
        }
    }
}

/// Too few resources, and a server that stops or starts, are of those.
fn passes(code: &SqlState) -> bool {
    ["53", "57", "58", "08"].iter().any(|class| code.code().starts_with(class))
}

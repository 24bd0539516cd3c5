use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tracing::{error, info, warn};

use super::triggers::Holder;
use super::{Capture, Refused};
use crate::chain;
use crate::deliver;
use crate::postgres::{ConnectError, PublicationName, SlotName};
use crate::route;
use crate::source;
use crate::source::recording;
use crate::source::wal::{self, MakeSlotError, connection};
use crate::state::StateError;

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
    Source(#[from] source::Error),
    #[error(transparent)]
    Renamed(#[from] route::Renamed),
    #[error(transparent)]
    Deliver(#[from] deliver::Error),
    #[error(
        "Postgres has not answered for {} s: the network is broken, or its machine hangs",
        .0.as_secs()
    )]
    Unanswered(Duration),
    #[error("Postgres closed the connection")]
    Disconnected(#[source] Option<tokio_postgres::Error>),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "the database belongs to system {found}, and changes were read from system {recorded} until \
         now: it is another cluster, not a copy"
    )]
    OtherSystem { recorded: Box<str>, found: Box<str>, state: PathBuf },
    /// And on_slot_loss says to stop.
    #[error("{0}\n\nerror: changes are lost with the slot, and on_slot_loss is \"stop\"")]
    SlotLost(Refused),
    #[error("slot {0} was dropped just now")]
    SlotVanished(SlotName),
    #[error(transparent)]
    MakeSlot(#[from] MakeSlotError),
    #[error("publication {0} was altered")]
    PublicationAltered(PublicationName),
    #[error("the outbox, or a trigger that writes to it, was altered")]
    TriggersAltered,
    #[error("another rowcast empties the outbox: {0}")]
    Drained(Holder),
    #[error("the server is a standby, where the outbox cannot be emptied")]
    Standby,
    #[error(transparent)]
    Shed(#[from] Shed),
    #[error(transparent)]
    Record(#[from] recording::WriteError),
    #[error(transparent)]
    Recording(#[from] recording::Error),
}

/// Postgres keeps too much log for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Postgres keeps {} MiB of log that is not delivered, more than the {} MiB of max_retained_wal",
    lag_bytes >> 20,
    max_bytes >> 20
)]
pub struct Shed {
    pub lag_bytes: u64,
    pub max_bytes: u64,
}

impl Error {
    /// Whether trying again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect(error) => error.is_transient(),
            Error::Inspect(error) => error.code().is_none_or(passes),
            Error::InspectTimeout
            | Error::Unanswered(_)
            | Error::Disconnected(_)
            | Error::SlotVanished(_)
            | Error::PublicationAltered(_)
            | Error::TriggersAltered
            // It may be about to be promoted.
            | Error::Standby
            | Error::Shed(_) => true,
            Error::Refused(_)
            | Error::Renamed(_)
            | Error::Deliver(_)
            | Error::State(_)
            | Error::OtherSystem { .. }
            | Error::SlotLost(_)
            | Error::Drained(_)
            | Error::Record(_)
            | Error::Recording(_) => false,
            Error::Source(error) => error.is_transient(),
            Error::MakeSlot(error) => error.is_transient(),
        }
    }

    /// Whether it ends rowcast, whatever was streamed before.
    pub(super) fn is_final(&self) -> bool {
        use Error::{Deliver, OtherSystem, Record, SlotLost};

        matches!(self, Deliver(_) | OtherSystem { .. } | SlotLost(_) | Record(_))
    }

    pub(super) fn is_slot_in_use(&self) -> bool {
        use connection::Error::SlotInUse;

        let Error::Source(source::Error::Wal(error)) = self else { return false };
        matches!(error, wal::Error::Connection(SlotInUse { .. }))
    }

    /// Whether all that is committed until this is mended is kept for us.
    pub(super) fn is_harmless(&self) -> bool {
        match self {
            Error::Refused(refused) => refused.is_harmless(),
            Error::Source(source::Error::Wal(error)) => !matches!(
                error,
                wal::Error::Publication { .. }
                    | wal::Error::Connection(
                        connection::Error::NoSuchSlot { .. } | connection::Error::WrongSlot { .. }
                    )
            ),
            // Without the outbox nothing is written down.
            Error::Source(source::Error::Triggers(error)) => error.is_transient(),
            Error::Source(source::Error::Rows(_)) => true,
            Error::Connect(_)
            | Error::Inspect(_)
            | Error::InspectTimeout
            | Error::Unanswered(_)
            | Error::Renamed(_)
            | Error::Deliver(_)
            | Error::Disconnected(_)
            | Error::State(_)
            | Error::OtherSystem { .. }
            | Error::PublicationAltered(_)
            | Error::TriggersAltered
            | Error::Drained(_)
            | Error::Standby
            | Error::Record(_)
            | Error::Recording(_) => true,
            Error::SlotLost(_) | Error::SlotVanished(_) | Error::MakeSlot(_) | Error::Shed(_) => {
                false
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Connect(error) => error.hint(),
            Error::Source(error) => error.hint(),
            Error::Refused(refused) => refused.hint(),
            Error::Renamed(renamed) => Some(renamed.hint()),
            Error::OtherSystem { state, .. } => Some(format!(
                "check [database] url; if the change is meant, or two databases share a state \
                 folder and the slot's name: another [run] state_dir or [database] slot, or remove \
                 {}, and pages are told to fetch again",
                state.display()
            )),
            Error::SlotLost(_) => Some(
                "on_slot_loss = \"resync\" under [run] makes the slot again and tells all pages to \
                 fetch again"
                    .to_owned(),
            ),
            Error::MakeSlot(error) => error.hint(),
            Error::Drained(holder) => holder.hint(),
            Error::Record(error) => error.hint(),
            Error::Recording(error) => error.hint(),
            Error::Standby => Some(
                "connect to the primary; with several hosts, target_session_attrs=primary finds it"
                    .to_owned(),
            ),
            Error::Inspect(_)
            | Error::InspectTimeout
            | Error::Unanswered(_)
            | Error::Disconnected(_)
            | Error::Deliver(_)
            | Error::State(_)
            | Error::SlotVanished(_)
            | Error::PublicationAltered(_)
            | Error::TriggersAltered
            | Error::Shed(_) => None,
        }
    }

    /// With its causes.
    pub(super) fn in_full(&self) -> String {
        chain::line(self)
    }

    /// Logs that changes never come, which pages are told.
    pub(super) fn tell_made_up_for(&self) {
        let text = self.in_full();
        warn!("{text}: these changes are passed over, and pages are told to fetch again instead");
    }

    /// Logs what keeps changes from streaming until the next attempt.
    pub(super) fn tell(&self, capture: &Capture, wait: Duration) {
        match self {
            Error::PublicationAltered(_) => {
                return info!("{self}: beginning anew, to see whether it sent everything");
            }
            Error::TriggersAltered => {
                return info!("{self}: beginning anew, to see whether all was written down");
            }
            _ => {}
        }
        let retry_ms = wait.as_millis() as u64;
        let so = match capture {
            capture if !capture.keeps() => "; what is committed meanwhile is not shown",
            _ if !self.is_harmless() => "; after that, pages are told to fetch again",
            Capture::Wal(_) => "; nothing is lost: the slot keeps what was not delivered",
            Capture::Triggers(_) => "; nothing is lost: the outbox keeps what was not delivered",
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

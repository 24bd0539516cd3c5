use std::io;

use tokio_postgres::error::SqlState;

use crate::postgres::{ConnectError, ServerError, SlotName};

/// Why a replication session did not come about, or did not do as told. An
/// `answer` of the server is one whose words the phrase has already.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the replication connection broke")]
    Broken(#[source] io::Error),
    #[error("the server closed the replication connection")]
    Closed,
    #[error("the server sent bytes that are not the protocol of Postgres")]
    Malformed(#[source] io::Error),
    #[error("the server sent a message {tag:?} of {len} bytes, which no answer has")]
    TooLong { tag: char, len: usize },
    #[error("the server answered {command} with a message that does not belong there")]
    Unexpected { command: &'static str },
    #[error("the server's answer to {command} is not what the protocol says")]
    Answer { command: &'static str },
    #[error("the command cannot be sent")]
    Unsendable(#[source] io::Error),
    #[error("the server's wal_level does not allow logical replication")]
    WalLevel(ServerError),
    #[error("slot {slot} is in use{}", pid.map(|pid| format!(" by backend {pid}")).unwrap_or_default())]
    SlotInUse { slot: SlotName, pid: Option<i32>, answer: ServerError },
    #[error("there is no slot {slot}")]
    NoSuchSlot { slot: SlotName, answer: ServerError },
    #[error("there is a slot {slot} already")]
    SlotExists { slot: SlotName, answer: ServerError },
    #[error("slot {slot} cannot stream this database's changes to rowcast")]
    WrongSlot { slot: SlotName, source: ServerError },
    #[error("the server is a standby that cannot decode changes")]
    Standby(#[source] ServerError),
    #[error("the server has no free replication slot")]
    TooManySlots(ServerError),
    #[error("the server is starting or stopping")]
    Unavailable(#[source] ServerError),
    #[error("the server refused the command")]
    Server(#[source] ServerError),
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Error {
        // The setting's name is in the message in every language.
        if *error.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            && error.message().contains("wal_level")
        {
            return Error::WalLevel(error);
        }
        if error.is_unavailable() {
            return Error::Unavailable(error);
        }
        if *error.code() == SqlState::CONFIGURATION_LIMIT_EXCEEDED {
            return Error::TooManySlots(error);
        }
        Error::Server(error)
    }
}

impl Error {
    /// What the server's refusal means for a command about `slot`.
    pub(in crate::source::wal) fn about(self, slot: &SlotName) -> Error {
        let Error::Server(source) = self else { return self };
        let slot = slot.clone();
        if *source.code() == SqlState::OBJECT_IN_USE {
            let pid = pid_in(source.message(), slot.as_str());
            return Error::SlotInUse { slot, pid, answer: source };
        }
        if *source.code() == SqlState::FEATURE_NOT_SUPPORTED {
            return Error::Standby(source);
        }
        if *source.code() == SqlState::UNDEFINED_OBJECT {
            return Error::NoSuchSlot { slot, answer: source };
        }
        if *source.code() == SqlState::DUPLICATE_OBJECT {
            return Error::SlotExists { slot, answer: source };
        }
        // Physical, of another database, invalidated; or of another plugin,
        // which does not know pgoutput's options.
        if *source.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            || *source.code() == SqlState::INVALID_PARAMETER_VALUE
        {
            return Error::WrongSlot { slot, source };
        }
        Error::Server(source)
    }

    fn server(&self) -> Option<&ServerError> {
        match self {
            Error::WalLevel(source)
            | Error::Standby(source)
            | Error::TooManySlots(source)
            | Error::Unavailable(source)
            | Error::Server(source)
            | Error::SlotInUse { answer: source, .. }
            | Error::NoSuchSlot { answer: source, .. }
            | Error::SlotExists { answer: source, .. }
            | Error::WrongSlot { source, .. } => Some(source),
            Error::Connect(_)
            | Error::Broken(_)
            | Error::Closed
            | Error::Malformed(_)
            | Error::TooLong { .. }
            | Error::Unexpected { .. }
            | Error::Answer { .. }
            | Error::Unsendable(_) => None,
        }
    }

    /// The SQLSTATE, if the server gave one.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Error::Connect(error) => error.code(),
            error => error.server().map(ServerError::code),
        }
    }

    /// Whether the same attempt may succeed later without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect(error) => error.is_transient(),
            Error::Broken(_) | Error::Closed | Error::SlotInUse { .. } | Error::Unavailable(_)
            // It may be about to be promoted.
            | Error::Standby(_) => {
                true
            }
            Error::Server(error) => error.is_exhausted(),
            Error::Malformed(_)
            | Error::TooLong { .. }
            | Error::Unexpected { .. }
            | Error::Answer { .. }
            | Error::Unsendable(_)
            | Error::WalLevel(_)
            | Error::NoSuchSlot { .. }
            | Error::SlotExists { .. }
            | Error::WrongSlot { .. }
            | Error::TooManySlots(_) => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Connect(error) => error.hint(),
            Error::WalLevel(_) => Some(
                "ALTER SYSTEM SET wal_level = 'logical', then restart the server (a reload is not \
                 enough); on Amazon RDS set rds.logical_replication = 1 and reboot"
                    .to_owned(),
            ),
            Error::SlotInUse { pid, .. } => Some(match pid {
                Some(pid) => format!(
                    "perhaps another rowcast streams from it: SELECT * FROM pg_stat_replication \
                     WHERE pid = {pid}"
                ),
                None => "perhaps another rowcast streams from it".to_owned(),
            }),
            Error::NoSuchSlot { .. } => Some("run rowcast setup".to_owned()),
            Error::SlotExists { slot, .. } => {
                Some(format!("SELECT pg_drop_replication_slot('{slot}') removes it"))
            }
            Error::WrongSlot { slot, .. } => Some(format!(
                "choose another name for [database] slot and run rowcast setup, or, if nothing \
                 else uses it, first SELECT pg_drop_replication_slot('{slot}')"
            )),
            Error::Standby(_) => Some(
                "connect to the primary; with several hosts, target_session_attrs=primary finds it"
                    .to_owned(),
            ),
            Error::TooManySlots(_) => Some(
                "raise max_replication_slots (needs a restart), or drop slots that are not used: \
                 SELECT slot_name, active FROM pg_replication_slots"
                    .to_owned(),
            ),
            Error::Server(source) | Error::Unavailable(source) => source.hint().map(str::to_owned),
            Error::Broken(_)
            | Error::Closed
            | Error::Malformed(_)
            | Error::TooLong { .. }
            | Error::Unexpected { .. }
            | Error::Answer { .. }
            | Error::Unsendable(_) => None,
        }
    }
}

/// The process in `replication slot "x" is active for PID 42`, whatever the
/// language: the only number beside the slot's name.
fn pid_in(message: &str, slot: &str) -> Option<i32> {
    let message = message.replacen(slot, "", 1);
    let digits = message.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_found_beside_a_slot_with_digits() {
        let english = r#"replication slot "rowcast_2" is active for PID 4242"#;
        assert_eq!(pid_in(english, "rowcast_2"), Some(4242));
        let german = r#"Replikations-Slot »rowcast_2« ist aktiv für PID 7"#;
        assert_eq!(pid_in(german, "rowcast_2"), Some(7));
        assert_eq!(pid_in("in use", "rowcast"), None);
        assert_eq!(pid_in("PID 99999999999999", "rowcast"), None);
    }
}

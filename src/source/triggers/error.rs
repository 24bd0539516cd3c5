use std::error::Error as _;
use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::postgres::ServerError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection to Postgres broke")]
    Lost(#[source] tokio_postgres::Error),
    #[error("the outbox was not answered for within {} s", .0.as_secs())]
    Unanswered(Duration),
    /// A table, column or function is missing, or is something else.
    #[error("what rowcast setup makes for capture by triggers is not all there: {answer}")]
    NotInstalled { answer: ServerError },
    #[error("what rowcast setup makes for capture by triggers is not ours to use: {answer}")]
    NotPermitted { answer: ServerError },
    #[error("rowcast.reader has no row, so nothing says what was delivered")]
    NoReader,
    #[error("another rowcast reads the outbox now, or it was made anew")]
    Superseded,
    #[error("the outbox has columns of other types than rowcast setup makes")]
    Unreadable(#[source] tokio_postgres::Error),
    #[error("the outbox cannot be read")]
    Refused(#[source] tokio_postgres::Error),
}

impl Error {
    /// Of what came instead of an answer.
    pub(super) fn of_query(error: tokio_postgres::Error) -> Error {
        let Some(answer) = error.as_db_error().map(ServerError::from) else {
            let is_io = error.source().is_some_and(|cause| cause.is::<io::Error>());
            return match is_io || error.is_closed() {
                true => Error::Lost(error),
                false => Error::Unreadable(error),
            };
        };
        let code = answer.code();
        if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            return Error::NotPermitted { answer };
        }
        // Syntax errors and missing objects, and a missing schema.
        let is_missing = code.code().starts_with("42") || *code == SqlState::INVALID_SCHEMA_NAME;
        match is_missing {
            true => Error::NotInstalled { answer },
            false => Error::Refused(error),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NotInstalled { .. }
            | Error::NotPermitted { .. }
            | Error::NoReader
            | Error::Unreadable(_) => Some(
                "rowcast setup, which makes what is missing; every page is then told to fetch again"
                    .to_owned(),
            ),
            Error::Closed
            | Error::Lost(_)
            | Error::Unanswered(_)
            | Error::Superseded
            | Error::Refused(_) => None,
        }
    }

    /// Whether connecting again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Closed
            | Error::Lost(_)
            | Error::Unanswered(_)
            | Error::Superseded
            | Error::Refused(_) => true,
            Error::NotInstalled { .. }
            | Error::NotPermitted { .. }
            | Error::NoReader
            | Error::Unreadable(_) => false,
        }
    }
}

use tokio::sync::{mpsc, watch};

use super::{rows, triggers, wal};
use crate::change::{Batch, Position};

/// One connection's changes, of whichever source.
pub enum Session {
    Wal(Box<wal::Session>),
    Triggers(Box<triggers::Session>),
}

impl From<wal::Session> for Session {
    fn from(session: wal::Session) -> Session {
        Session::Wal(Box::new(session))
    }
}

impl From<triggers::Session> for Session {
    fn from(session: triggers::Session) -> Session {
        Session::Triggers(Box::new(session))
    }
}

/// What ended a session before its time, or kept it from beginning.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Wal(#[from] wal::Error),
    #[error(transparent)]
    Triggers(#[from] triggers::Error),
    #[error(transparent)]
    Rows(#[from] rows::Error),
}

impl Session {
    /// Hands on changes until `stop` turns true or its sender is gone, then goes on
    /// confirming until `confirmed`'s sender is gone.
    ///
    /// `changes` is dropped as soon as reading stops, so that the stages behind it
    /// finish what they hold.
    ///
    /// # Errors
    /// Whatever ended it before. What was confirmed until then may not have reached
    /// the database, and comes again.
    pub async fn run(
        self,
        changes: mpsc::Sender<Batch>,
        confirmed: watch::Receiver<Option<Position>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        match self {
            Session::Wal(session) => Ok(session.run(changes, confirmed, stop).await?),
            Session::Triggers(session) => Ok(session.run(changes, confirmed, stop).await?),
        }
    }
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Wal(error) => error.hint(),
            Error::Triggers(error) => error.hint(),
            Error::Rows(error) => error.hint(),
        }
    }

    /// Whether connecting again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Wal(error) => error.is_transient(),
            Error::Triggers(error) => error.is_transient(),
            Error::Rows(error) => error.is_transient(),
        }
    }
}

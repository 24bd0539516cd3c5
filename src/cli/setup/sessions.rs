use crate::postgres::statement::{By, Statement};
use crate::postgres::{self, Capture, Config, ConnectError, Connection, Dsn, Tenure};

use super::SESSION_NAME;

/// The sessions that statements are run by: that of the tables' owner, and that
/// of the role of `[database] url`, which may be the same.
pub(in crate::cli) struct Sessions {
    tenure: Tenure,
    owner: Option<Connection>,
    owner_dsn: Option<Dsn>,
    own: Option<Connection>,
    own_dsn: Dsn,
}

impl Sessions {
    /// None is open yet. `owner` is `--url`, if that is given.
    pub(in crate::cli) fn of(database: &Config, owner: Option<&Dsn>) -> Sessions {
        let tenure = match database.capture {
            Capture::Wal => Tenure::Session,
            // There may be a pooler between.
            Capture::Triggers => Tenure::Transaction,
        };
        let (owner_dsn, own_dsn) = (owner.cloned(), database.dsn());
        Sessions { tenure, owner: None, owner_dsn, own: None, own_dsn }
    }

    /// That of the tables' owner.
    pub(in crate::cli) async fn owner(&mut self) -> Result<&Connection, ConnectError> {
        match &self.owner_dsn {
            Some(dsn) => open(&mut self.owner, dsn, self.tenure).await,
            None => self.own().await,
        }
    }

    /// That of the role of `[database] url`.
    pub(in crate::cli) async fn own(&mut self) -> Result<&Connection, ConnectError> {
        open(&mut self.own, &self.own_dsn, self.tenure).await
    }

    pub(in crate::cli) async fn by(
        &mut self,
        statement: &Statement,
    ) -> Result<&Connection, ConnectError> {
        match statement.by {
            By::Owner => self.owner().await,
            By::Role(_) => self.own().await,
        }
    }
}

async fn open<'a>(
    session: &'a mut Option<Connection>,
    dsn: &Dsn,
    tenure: Tenure,
) -> Result<&'a Connection, ConnectError> {
    if session.is_none() {
        *session = Some(postgres::connect_as(dsn, SESSION_NAME, tenure).await?);
    }
    Ok(session.as_ref().expect("it was opened just now"))
}

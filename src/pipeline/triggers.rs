//! From no connection to a reading of the outbox: who may empty it, whether it goes
//! on where the last session ended, and what is owed if it does not.

mod continuity;
mod fill;
mod leader;
mod server;

pub(super) use fill::Fill;
pub(super) use leader::{Holder, Leader};

use tracing::{info, warn};

use super::inspection::Inspection;
use super::opening;
use super::{Backlog, Error, Open, Pipeline, Triggers};
use crate::notification::Reason;
use crate::postgres::{APPLICATION_NAME, Connection, Tenure, connect_alone, connect_as};
use crate::source;
use crate::source::triggers::{self, Delivered, Reads, Session, Until};
use crate::state::{State, StateFile};
use continuity::{Found, Gap, judge};
use server::Server;

impl Pipeline<'_> {
    async fn accepted(&mut self, connection: &Connection) -> Result<Inspection, Error> {
        let inspection = self.look(connection).await?;
        inspection.accept()?;
        self.told.warn(&inspection);
        Ok(inspection)
    }

    pub(super) async fn open_triggers(&mut self, triggers: &Triggers) -> Result<Open, Error> {
        let options = self.options;
        let (dsn, tenure) = (options.database.dsn(), options.database.tenure());
        let connection = match tenure {
            // Before anything is set in a session that is not ours.
            Tenure::Session => connect_alone(&dsn, APPLICATION_NAME).await,
            Tenure::Transaction => connect_as(&dsn, APPLICATION_NAME, tenure).await,
        };
        let connection = connection.map_err(Error::Connect)?;
        let mut inspection = self.accepted(&connection).await?;
        // What was inspected, and is watched, is the server that is read.
        let dsn = dsn.only(&connection.host);
        let server = Server::read(&connection).await?;
        self.refuse_other_system(self.load().await?.as_ref(), &server.system)?;

        let reading = connect_as(&dsn, APPLICATION_NAME, tenure).await.map_err(Error::Connect)?;
        let leader = match triggers.reads {
            Reads::Watch => None,
            Reads::Drain => {
                let (leader, has_waited) = Leader::become_one(
                    &dsn,
                    &reading,
                    self.led_by,
                    options.once,
                    &options.observer,
                )
                .await?;
                self.led_by = Some(leader.pid);
                if has_waited {
                    inspection = self.accepted(&connection).await?;
                }
                Some(leader)
            }
        };
        let relations = inspection.relations();
        let rules = self.rules.clone();
        let session = Session::open(
            reading,
            triggers::Options {
                wake: options.database.wake,
                catalog: relations.clone(),
                wanted: Box::new(move |relation| rules.wanted(relation)),
                max_rows: triggers.max_rows,
                inspect_every: options.inspect_every,
                until: match options.once {
                    true => Until::FirstSnapshot,
                    false => Until::Stopped,
                },
                reads: triggers.reads,
            },
        )
        .await
        .map_err(source::Error::from)?;
        let routing = self.routing(&dsn, &relations, None);
        let state = match &options.state {
            Some(file) => {
                Some(self.resume_triggers(file, &inspection, &server, session.delivered()).await?)
            }
            None => None,
        };
        let owed = opening::resyncs(&routing.router, state.as_ref());
        let backlog = match triggers.reads {
            Reads::Drain => Backlog::Outbox(Fill::new(triggers.max_rows)),
            Reads::Watch => Backlog::Nothing,
        };
        let (session, parts) = (session.into(), inspection.parts());
        Ok(Open { session, connection, leader, routing, state, owed, parts, backlog })
    }

    /// What is recorded from now on, once the outbox is ours: nobody else empties
    /// it, or writes to a state file that is shared with us.
    async fn resume_triggers(
        &self,
        file: &StateFile,
        inspection: &Inspection,
        server: &Server,
        delivered: Delivered,
    ) -> Result<State, Error> {
        let recorded = self.load().await?;
        let parts = inspection.parts();
        let found = Found { server, delivered, parts: &parts };
        let mut owed = recorded.as_ref().map(|state| state.owed.clone()).unwrap_or_default();
        if let Some(gap) = judge(recorded.as_ref(), &found) {
            tell(&gap);
            owed.add(self.all(Reason::Gap));
        }
        let state = State {
            system: server.system.clone(),
            timeline: server.timeline,
            slot: file.slot().into(),
            position: delivered.position,
            parts,
            owed: self.known(owed),
        };
        if recorded.as_ref() != Some(&state) {
            self.record(&state).await;
        }
        Ok(state)
    }
}

fn tell(gap: &Gap) {
    match gap {
        Gap::NoState => info!("{gap}: every page is told to fetch again"),
        gap => warn!("{gap}: every page is told to fetch again"),
    }
}

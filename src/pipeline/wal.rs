//! From no connection to a stream of the log: whether it goes on where the last
//! one ended, and what is owed if it does not.

mod continuity;
mod log;
mod loss;
mod shed;
mod takeover;
mod visible;

pub(super) use log::Log;
pub use log::max_retained;
pub(super) use loss::SlotGone;
pub(super) use takeover::Standby;
pub(super) use visible::Visible;

use tracing::{info, warn};

use super::inspection::Inspection;
use super::opening::{self, Opened};
use super::{Backlog, Error, Open, Pipeline, Slot, Wal};
use crate::change::{Lsn, Position};
use crate::notification::Reason;
use crate::postgres::{self, Connection, SlotName, slot};
use crate::source;
use crate::source::wal::connection::ReplicationConnection;
use crate::source::wal::{self, Session, SlotChoice};
use crate::state::State;
use continuity::{Found, Gap, Server, Verdict, judge};

impl Pipeline<'_> {
    pub(super) async fn open_wal(&mut self, wal: &Wal) -> Result<Opened, Error> {
        let options = self.options;
        let dsn = options.database.dsn();
        let connection =
            postgres::connect(&dsn, postgres::APPLICATION_NAME).await.map_err(Error::Connect)?;
        let slot = wal.slot.name();
        let (inspection, refused) = loop {
            let inspection = self.look(&connection).await?;
            let refused = inspection.accept().err();
            if self.has_failed {
                self.relieve(wal, &connection, &inspection).await;
            }
            if let Some(refused) = &refused
                && !(refused.is_slot_gone() && options.state.is_some())
            {
                return Err(refused.clone().into());
            }
            self.told.warn(&inspection);
            if !self.standby.wait(&connection.client, slot, &options.observer).await? {
                break (inspection, refused);
            }
        };
        // What was inspected, and is watched, is the server that streams.
        let dsn = dsn.only(&connection.host);
        let mut replication = ReplicationConnection::connect(&dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(failed)?;
        let recorded = self.load().await?;
        let server = identify(&mut replication, recorded.as_ref()).await?;
        self.refuse_other_system(recorded.as_ref(), &server.system)?;
        if let Some(refused) = refused {
            let file = options.state.clone().expect("it was asked for above");
            let gone = SlotGone {
                connection,
                replication,
                inspection,
                refused,
                file,
                state: recorded,
                server,
                failover: wal.failover,
            };
            return gone.opened(wal.on_slot_loss);
        }

        if options.once && self.until.is_none() {
            self.until = Some(end_of_log(&connection, slot).await?);
        }
        let start = match self.pass_over {
            Some(reason) => Some(self.owe_and_pass_over(slot, &connection, reason).await?),
            None => None,
        };
        let relations = inspection.relations();
        let rules = self.rules.clone();
        let process_id = replication.process_id();
        let session = Session::open(
            replication,
            wal::Options {
                dsn: dsn.clone(),
                slot: match &wal.slot {
                    Slot::Configured(slot) => SlotChoice::Named(slot.clone()),
                    Slot::Temporary(slot) => SlotChoice::Temporary(slot.clone()),
                },
                publication: options.database.publication.clone(),
                status_interval: match wal.takeover {
                    true => takeover::STATUS_INTERVAL,
                    false => wal::STATUS_INTERVAL,
                },
                wal_sender_timeout: inspection.wal_sender_timeout(),
                catalog: relations.clone(),
                wanted: Box::new(move |relation| rules.wanted(relation)),
                start,
                until: self.until,
            },
        )
        .await
        .map_err(source::Error::from)?;
        self.standby.streams_by(process_id);
        self.pass_over = None;
        let visible = Visible::open(&dsn).await?;
        let routing = self.routing(&dsn, &relations, Some(visible));
        let state = match &options.state {
            Some(_) => Some(self.resume(slot, &connection, &inspection, &server, start).await?),
            None => None,
        };
        let owed = opening::resyncs(&routing.router, state.as_ref());
        let max_retained_wal =
            log::max_retained(wal.max_retained_wal, inspection.max_slot_wal_keep_size());
        Ok(Opened::Streaming(Box::new(Open {
            session: session.into(),
            connection,
            leader: None,
            routing,
            state,
            owed,
            parts: inspection.parts(),
            backlog: Backlog::Log(Log::new(slot.clone(), max_retained_wal)),
        })))
    }

    /// What is recorded from now on, once the slot is ours: nobody else can move
    /// it, or write to a state file that is shared with it.
    async fn resume(
        &self,
        name: &SlotName,
        connection: &Connection,
        inspection: &Inspection,
        server: &Server,
        start: Option<Lsn>,
    ) -> Result<State, Error> {
        let slot = slot::read(&connection.client, name).await.map_err(Error::Inspect)?;
        let slot = slot.and_then(|slot| {
            Some(continuity::Slot { confirmed: slot.confirmed_flush_lsn?, failover: slot.failover })
        });
        let recorded = self.load().await?;
        let parts = inspection.parts();
        let verdict = judge(recorded.as_ref(), &Found { server, slot, publication: &parts });
        let mut owed = recorded.as_ref().map(|state| state.owed.clone()).unwrap_or_default();
        if let Verdict::Gap(gap) = &verdict {
            tell(gap);
            owed.add(self.all(Reason::Gap));
        }
        let confirmed = slot.map_or(Lsn::ZERO, |slot| slot.confirmed);
        let state = State {
            system: server.system.clone(),
            timeline: server.timeline,
            slot: name.as_str().into(),
            position: Position::new(confirmed.max(start.unwrap_or(Lsn::ZERO)).into()),
            parts,
            owed: self.known(owed),
        };
        if recorded.as_ref() != Some(&state) {
            self.record(&state).await;
        }
        Ok(state)
    }
}

async fn identify(
    replication: &mut ReplicationConnection,
    recorded: Option<&State>,
) -> Result<Server, Error> {
    let system = replication.identify_system().await.map_err(failed)?;
    let left_at = match recorded.map(|state| state.timeline) {
        Some(earlier) if earlier != system.timeline => {
            replication.left_timeline(earlier, system.timeline).await.map_err(failed)?
        }
        _ => None,
    };
    let wal::connection::System { identifier, timeline, end } = system;
    Ok(Server { system: identifier, timeline, end, left_at })
}

async fn end_of_log(connection: &Connection, slot: &SlotName) -> Result<Lsn, Error> {
    let lag = postgres::lag::read(&connection.client, slot).await.map_err(Error::Inspect)?;
    // It was there when the database was inspected.
    Ok(lag.ok_or_else(|| Error::SlotVanished(slot.clone()))?.end)
}

fn failed(error: wal::connection::Error) -> Error {
    source::Error::from(wal::Error::from(error)).into()
}

fn tell(gap: &Gap) {
    match gap {
        Gap::NoState => info!("{gap}: every page is told to fetch again"),
        gap => warn!("{gap}: every page is told to fetch again"),
    }
}

//! From no connection to a stream: what the database is like, whether the stream
//! goes on where the last one ended, and what is owed if it does not.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::continuity::{self, Found, Gap, Server, Verdict, judge};
use super::inspection::Inspection;
use super::keeper;
use super::routing::Routing;
use super::takeover;
use super::unsent::Unsent;
use super::visible::Visible;
use super::{Error, Open, Options, Pipeline, Refused, Shed, Slot, inspect};
use crate::change::{Lsn, Timestamp};
use crate::config::OnSlotLoss;
use crate::failpoint;
use crate::lookup::Lookups;
use crate::notification::{Reason, Resync};
use crate::postgres::{self, Connection, lag, slot};
use crate::route::Router;
use crate::source::wal::connection::{Persistence, ReplicationConnection};
use crate::source::wal::{self, Maker, Session, SlotChoice};
use crate::state::{Loaded, Owed, State, StateFile};

pub(super) enum Opened {
    Streaming(Box<Open>),
    /// There is nothing to stream from: [`Pipeline::remake`] makes it.
    SlotGone(Box<SlotGone>),
}

/// The slot is lost, and is to be made again.
pub(super) struct SlotGone {
    connection: Connection,
    replication: ReplicationConnection,
    inspection: Inspection,
    /// Why nothing can stream.
    refused: Refused,
    file: StateFile,
    state: Option<State>,
    server: Server,
}

impl Pipeline<'_> {
    pub(super) async fn open(&mut self) -> Result<Opened, Error> {
        let options = self.options;
        let dsn = options.database.dsn();
        let connection =
            postgres::connect(&dsn, postgres::APPLICATION_NAME).await.map_err(Error::Connect)?;
        let slot = options.slot.name(&options.database).clone();
        let (inspection, refused) = loop {
            let mut inspection = inspect(&connection.client, options).await?;
            if self.has_streamed {
                inspection.go_on_without_lookups();
            }
            let refused = inspection.accept().err();
            if self.has_failed {
                self.relieve(&connection, &inspection).await;
            }
            if let Some(refused) = &refused
                && !(refused.is_slot_gone() && options.state.is_some())
            {
                return Err(refused.clone().into());
            }
            self.told.warn(&inspection);
            if !self.standby.wait(&connection.client, &slot).await? {
                break (inspection, refused);
            }
        };
        // What was inspected, and is watched, is the server that streams.
        let dsn = dsn.only(&connection.host);
        let mut replication = ReplicationConnection::connect(&dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(source)?;
        let recorded = load(options).await?;
        let server = identify(&mut replication, recorded.as_ref()).await?;
        self.refuse_other_system(recorded.as_ref(), &server)?;
        if let Some(refused) = refused {
            let file = options.state.clone().expect("it was asked for above");
            let state = recorded;
            return slot_gone(
                options.on_slot_loss,
                SlotGone { connection, replication, inspection, refused, file, state, server },
            );
        }

        if options.once && self.until.is_none() {
            self.until = Some(self.end_of_log(&connection).await?);
        }
        let start = match self.pass_over {
            Some(reason) => Some(self.owe_and_pass_over(&connection, reason).await?),
            None => None,
        };
        let relations = inspection.relations();
        let rules = options.rules.clone();
        let process_id = replication.process_id();
        let session = Session::open(
            replication,
            wal::Options {
                dsn: dsn.clone(),
                slot: match &options.slot {
                    Slot::Configured => SlotChoice::Named(slot),
                    Slot::Temporary(_) => SlotChoice::Temporary(slot),
                },
                publication: options.database.publication.clone(),
                status_interval: match options.takeover {
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
        .await?;
        self.standby.streams_by(process_id);
        self.pass_over = None;
        let mut router = Router::new(options.rules.clone());
        router.learn(&relations);
        let visible = Visible::open(&dsn).await?;
        let lookups = Lookups::new(dsn.clone(), options.rules.lookups(), &relations);
        let routing = Routing { router, visible, lookups, unsent: Unsent::default() };
        let state = match &options.state {
            Some(_) => Some(self.resume(&connection, &inspection, &server, start).await?),
            None => None,
        };
        let owed =
            state.as_ref().map(|state| resyncs(&routing.router, &state.owed)).unwrap_or_default();
        let publication = inspection.publication();
        let max_retained_wal =
            max_retained_wal(options.max_retained_wal, inspection.max_slot_wal_keep_size());
        Ok(Opened::Streaming(Box::new(Open {
            session,
            connection,
            routing,
            state,
            owed,
            publication,
            max_retained_wal,
        })))
    }

    /// What is recorded from now on, once the slot is ours: nobody else can move
    /// it, or write to a state file that is shared with it.
    async fn resume(
        &self,
        connection: &Connection,
        inspection: &Inspection,
        server: &Server,
        start: Option<Lsn>,
    ) -> Result<State, Error> {
        let name = self.options.slot.name(&self.options.database);
        let slot = slot::read(&connection.client, name).await.map_err(Error::Inspect)?;
        let slot = slot.and_then(|slot| {
            Some(continuity::Slot { confirmed: slot.confirmed_flush_lsn?, failover: slot.failover })
        });
        let recorded = load(self.options).await?;
        let publication = inspection.publication();
        let found = Found { server, slot, publication: &publication };
        let verdict = judge(recorded.as_ref(), &found);
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
            position: confirmed.max(start.unwrap_or(Lsn::ZERO)),
            publication,
            owed: self.known(owed),
        };
        if recorded.as_ref() != Some(&state) {
            self.record(&state).await;
        }
        Ok(state)
    }

    /// Makes the lost slot again, once it is recorded that every rule is owed a
    /// resync. `false` if `stopped` came first.
    pub(super) async fn remake(
        &mut self,
        gone: Box<SlotGone>,
        stopped: impl Future<Output = ()>,
    ) -> Result<bool, Error> {
        let SlotGone { connection, mut replication, inspection, refused, file, state, server } =
            *gone;
        refused.tell();
        let slot = &self.options.database.slot;
        error!("slot {slot} is made again, and every page is told to fetch again");
        let recorded = state.unwrap_or_else(|| State {
            system: server.system.clone(),
            timeline: server.timeline,
            slot: slot.as_str().into(),
            position: Lsn::ZERO,
            publication: inspection.publication(),
            owed: Owed::default(),
        });
        let mut owed = recorded.owed.clone();
        owed.add(self.all(Reason::Slot));
        keeper::write(&file, &State { owed, ..recorded }).await?;
        failpoint::reached("loss-recorded");
        if inspection.has_slot() {
            replication.drop_slot(slot).await.map_err(source)?;
            failpoint::reached("slot-dropped");
        }
        let dsn = self.options.database.dsn().only(&connection.host);
        let maker = Maker {
            dsn: &dsn,
            application_name: postgres::APPLICATION_NAME,
            persistence: match self.options.failover {
                true => Persistence::Failover,
                false => Persistence::Permanent,
            },
            observer: &connection.client,
            way_out: "SIGTERM",
        };
        let made = maker.make(replication, slot, stopped).await?;
        failpoint::reached("slot-created");
        if let Some(lsn) = made {
            info!("slot {slot} keeps changes from {lsn} on");
        }
        Ok(made.is_some())
    }

    /// Records that changes may have been passed over, while nothing streams.
    pub(super) async fn owe_gap(&self) {
        match load(self.options).await {
            Ok(Some(mut state)) => {
                state.owed.add(self.all(Reason::Gap));
                self.record(&state).await;
            }
            // The next start takes that for a gap anyway.
            Ok(None) => {}
            Err(error) => warn!("{}", error.in_full()),
        }
    }

    /// Lets go of log beyond `max_retained_wal` while nothing streams any more, or
    /// no session lasts: nobody else would.
    async fn relieve(&self, connection: &Connection, inspection: &Inspection) {
        if self.options.state.is_none() {
            return;
        }
        if let Err(error) = self.try_relieve(connection, inspection).await {
            let error = error.in_full();
            warn!("{error}: the slot goes on keeping log, up to max_slot_wal_keep_size");
        }
    }

    async fn try_relieve(
        &self,
        connection: &Connection,
        inspection: &Inspection,
    ) -> Result<(), Error> {
        let (client, name) = (&connection.client, self.options.slot.name(&self.options.database));
        let slot = slot::read(client, name).await.map_err(Error::Inspect)?;
        // Who has it bounds it.
        if slot.is_none_or(|slot| slot.active_pid.is_some()) {
            return Ok(());
        }
        let Some(lag) = lag::read(client, name).await.map_err(Error::Inspect)? else {
            return Ok(());
        };
        let lag_bytes = lag.unconfirmed_bytes();
        let max_bytes =
            max_retained_wal(self.options.max_retained_wal, inspection.max_slot_wal_keep_size());
        if lag_bytes <= max_bytes {
            return Ok(());
        }
        // A reconnect may have come to another server, whose slot is not ours.
        let dsn = self.options.database.dsn().only(&connection.host);
        let mut replication = ReplicationConnection::connect(&dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(source)?;
        let recorded = load(self.options).await?;
        let server = identify(&mut replication, recorded.as_ref()).await?;
        self.refuse_other_system(recorded.as_ref(), &server)?;
        let end = self.owe_and_pass_over(connection, Reason::Shed).await?;
        slot::advance(client, name, end).await.map_err(Error::Inspect)?;
        Error::from(Shed { lag_bytes, max_bytes }).tell_made_up_for();
        Ok(())
    }

    /// Records that what is committed until now is told by resyncs, and returns
    /// where to go on.
    async fn owe_and_pass_over(
        &self,
        connection: &Connection,
        reason: Reason,
    ) -> Result<Lsn, Error> {
        let start = self.end_of_log(connection).await?;
        if let Some(mut state) = load(self.options).await? {
            state.owed.add(self.all(reason));
            state.position = start;
            self.record(&state).await;
        }
        failpoint::reached("shed-recorded");
        info!("going on from {start}");
        Ok(start)
    }

    /// Writes the state, or says what it means that it cannot be. Nothing is
    /// lost by that: what is confirmed later lies past what is recorded, which
    /// the next start takes for a gap.
    async fn record(&self, state: &State) {
        let Some(file) = &self.options.state else { return };
        if let Err(error) = keeper::write(file, state).await {
            let error = Error::from(error).in_full();
            warn!("{error}: after the next start every page is told to fetch again");
        }
    }

    fn refuse_other_system(&self, state: Option<&State>, server: &Server) -> Result<(), Error> {
        match (state, &self.options.state) {
            (Some(state), Some(file)) if state.system != server.system => Err(Error::OtherSystem {
                recorded: state.system.clone(),
                found: server.system.clone(),
                slot: self.options.database.slot.clone(),
                state: file.path().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn all(&self, reason: Reason) -> Owed {
        Owed::all(self.options.rules.names().cloned(), reason)
    }

    /// What a rule is owed that has another name now, or is gone, is owed to all:
    /// its pages may be those of any other.
    fn known(&self, mut owed: Owed) -> Owed {
        let is_rule = |name: &&Arc<str>| self.options.rules.names().any(|rule| rule == *name);
        let unknown: Vec<_> = owed.rules().filter(|rule| !is_rule(rule)).cloned().collect();
        if let Some(rule) = unknown.first() {
            info!(%rule, "a rule that is owed a resync is not there any more: all rules send one");
            owed.settle(&unknown);
            owed.add(self.all(Reason::Gap));
        }
        owed
    }

    async fn end_of_log(&self, connection: &Connection) -> Result<Lsn, Error> {
        let slot = self.options.slot.name(&self.options.database);
        let lag = lag::read(&connection.client, slot).await.map_err(Error::Inspect)?;
        // It was there when the database was inspected.
        Ok(lag.ok_or_else(|| Error::SlotVanished(slot.clone()))?.end)
    }
}

fn slot_gone(on_slot_loss: OnSlotLoss, gone: SlotGone) -> Result<Opened, Error> {
    // A slot that nobody made is for `setup` to make.
    if gone.state.is_none() && !gone.inspection.has_slot() {
        return Err(gone.refused.into());
    }
    match on_slot_loss {
        OnSlotLoss::Resync => Ok(Opened::SlotGone(Box::new(gone))),
        OnSlotLoss::Stop => Err(Error::SlotLost(gone.refused)),
    }
}

/// What is recorded of the slot; nothing where nothing is kept.
async fn load(options: &Options) -> Result<Option<State>, Error> {
    let Some(file) = options.state.clone() else { return Ok(None) };
    let slot = options.slot.name(&options.database).as_str();
    Ok(match keeper::load(file).await? {
        Loaded::State(state) => Some(state).filter(|state| *state.slot == *slot),
        Loaded::Missing | Loaded::Garbage => None,
    })
}

async fn identify(
    replication: &mut ReplicationConnection,
    recorded: Option<&State>,
) -> Result<Server, Error> {
    let system = replication.identify_system().await.map_err(source)?;
    let left_at = match recorded.map(|state| state.timeline) {
        Some(earlier) if earlier != system.timeline => {
            replication.left_timeline(earlier, system.timeline).await.map_err(source)?
        }
        _ => None,
    };
    let wal::connection::System { identifier, timeline, end } = system;
    Ok(Server { system: identifier, timeline, end, left_at })
}

fn source(error: wal::connection::Error) -> Error {
    Error::Source(error.into())
}

fn tell(gap: &Gap) {
    match gap {
        Gap::NoState => info!("{gap}: every page is told to fetch again"),
        gap => warn!("{gap}: every page is told to fetch again"),
    }
}

/// One for each table of each rule that is owed one.
fn resyncs(router: &Router, owed: &Owed) -> Vec<Resync> {
    let at = Timestamp::now();
    let owed = router.terms().filter_map(|terms| {
        let reason = owed.reason(&terms.rule)?;
        Some(Resync { terms: terms.clone(), reason, count: None, position: None, at })
    });
    owed.collect()
}

/// Bytes of log that may wait for us. At the server's own bound the slot is lost,
/// so we let go before.
fn max_retained_wal(configured: Option<u64>, max_slot_wal_keep_size: Option<u64>) -> u64 {
    const DEFAULT: u64 = 4_000_000_000;
    configured.unwrap_or_else(|| {
        let most = max_slot_wal_keep_size.map(|keep| keep / 5 * 4);
        most.map_or(DEFAULT, |most| most.min(DEFAULT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_log_may_wait_as_the_server_keeps_and_4_gb_at_most() {
        assert_eq!(max_retained_wal(None, None), 4_000_000_000);
        assert_eq!(max_retained_wal(None, Some(1_000_000_000)), 800_000_000);
        assert_eq!(max_retained_wal(None, Some(1 << 40)), 4_000_000_000);
        assert_eq!(max_retained_wal(Some(5_000_000_000), Some(1_000_000_000)), 5_000_000_000);
    }
}

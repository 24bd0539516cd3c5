//! From no connection to a stream: what both sources need for that. What the
//! database is like, what is recorded, and what is owed.

use std::sync::Arc;

use tracing::{info, warn};

use super::inspection::Inspection;
use super::routing::Routing;
use super::unsent::Unsent;
use super::wal::{SlotGone, Visible};
use super::{Capture, Error, Open, Pipeline, inspect, keeper};
use crate::change::{Relation, Timestamp};
use crate::lookup::Lookups;
use crate::notification::{Audience, Reason, Resync};
use crate::postgres::{Connection, Dsn};
use crate::route::Router;
use crate::state::{Loaded, Owed, State};

pub(super) enum Opened {
    Streaming(Box<Open>),
    /// There is nothing to stream from: [`Pipeline::remake`] makes it.
    SlotGone(Box<SlotGone>),
}

impl Pipeline<'_> {
    pub(super) async fn open(&mut self) -> Result<Opened, Error> {
        let options = self.options;
        match &options.capture {
            Capture::Wal(wal) => self.open_wal(wal).await,
            Capture::Triggers(triggers) => {
                let open = self.open_triggers(triggers).await?;
                Ok(Opened::Streaming(Box::new(open)))
            }
        }
    }

    /// By the rules that are wanted now, which are in use from here on: who waited for
    /// long begins with those.
    pub(super) async fn look(&mut self, connection: &Connection) -> Result<Inspection, Error> {
        self.rules = self.rulebook.latest();
        let mut inspection = inspect(connection, self.options, &self.rules).await?;
        if self.has_streamed {
            inspection.go_on_without_lookups();
        }
        Ok(inspection)
    }

    /// Which begins knowing the tables as the catalog has them.
    pub(super) fn routing(
        &self,
        dsn: &Dsn,
        relations: &[Relation],
        visible: Option<Visible>,
    ) -> Routing {
        let rules = &self.rules;
        let tenure = self.options.database.tenure();
        let mut router = Router::new(rules.clone());
        if self.options.explains {
            router = router.explaining();
        }
        router.learn(relations);
        let lookups = Lookups::new(dsn.clone(), tenure, rules.lookups(), relations);
        let observer = self.options.observer.clone();
        observer.metrics().declare(rules.names(), Reason::ALL.map(Reason::name));
        let (unsent, recorder) = (Unsent::default(), self.options.recorder.clone());
        Routing { router, visible, lookups, unsent, observer, recorder }
    }

    /// Records that changes may have been passed over, while nothing streams.
    pub(super) async fn owe_gap(&self) {
        match self.load().await {
            Ok(Some(mut state)) => {
                state.owed.add(self.all(Reason::Gap));
                self.record(&state).await;
            }
            // The next start takes that for a gap anyway.
            Ok(None) => {}
            Err(error) => warn!("{}", error.in_full()),
        }
    }

    /// What is recorded; nothing where nothing is kept.
    pub(super) async fn load(&self) -> Result<Option<State>, Error> {
        let Some(file) = &self.options.state else { return Ok(None) };
        Ok(match keeper::load(file).await? {
            Loaded::State(state) => Some(state).filter(|state| *state.slot == *file.slot()),
            Loaded::Missing | Loaded::Garbage => None,
        })
    }

    /// Writes the state, or says what it means that it cannot be. Nothing is
    /// lost by that: what is confirmed later lies past what is recorded, which
    /// the next start takes for a gap.
    pub(super) async fn record(&self, state: &State) {
        let Some(file) = &self.options.state else { return };
        keeper::tell_owed(&self.options.observer, state);
        if let Err(error) = keeper::write(file, state).await {
            let error = Error::from(error).in_full();
            warn!("{error}: after the next start every page is told to fetch again");
        }
    }

    pub(super) fn refuse_other_system(
        &self,
        state: Option<&State>,
        system: &str,
    ) -> Result<(), Error> {
        match (state, &self.options.state) {
            (Some(state), Some(file)) if *state.system != *system => Err(Error::OtherSystem {
                recorded: state.system.clone(),
                found: system.into(),
                state: file.path().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn all(&self, reason: Reason) -> Owed {
        Owed::all(self.rules.names().cloned(), reason)
    }

    /// What a rule is owed that has another name now, or is gone, is owed to all:
    /// its pages may be those of any other.
    pub(super) fn known(&self, mut owed: Owed) -> Owed {
        let is_rule = |name: &&Arc<str>| self.rules.names().any(|rule| rule == *name);
        let unknown: Vec<_> = owed.rules().filter(|rule| !is_rule(rule)).cloned().collect();
        if let Some(rule) = unknown.first() {
            info!(%rule, "a rule that is owed a resync is not there any more: all rules send one");
            owed.settle(&unknown);
            owed.add(self.all(Reason::Gap));
        }
        owed
    }
}

/// One for each table of each rule that is owed one.
pub(super) fn resyncs(router: &Router, state: Option<&State>) -> Vec<Resync> {
    let at = Timestamp::now();
    let owed = router.terms().filter_map(|terms| {
        let reason = state?.owed.reason(&terms.rule)?;
        let (terms, audience) = (terms.clone(), Audience::All);
        Some(Resync { terms, reason, count: None, audience, position: None, at })
    });
    owed.collect()
}

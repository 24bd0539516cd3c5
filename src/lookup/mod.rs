//! Rows of other tables that rules look columns up in, by a key: read over an
//! ordinary connection, many at once, and kept right by the change stream.
//!
//! # Behavior
//!
//! A batch is first [observed](Lookups::observe): its own changes of looked-up
//! tables are applied to what is kept. Then it is routed. Keys that are not known
//! are [fetched](Lookups::fetch) once the batch's transactions are visible, and it
//! is routed again, once for each level of a chain. The next batch is not looked
//! at meanwhile, so no change of a key is read between its query and its being
//! kept: later ones are applied to what the query said.
//!
//! A row may be newer than the change that asks for it. A parent that has moved
//! meanwhile has a change of its own, which comes later.
//!
//! What cannot be read is tried again for a while, with what was read held back.
//! After that it is [unknown](crate::change::Parent::Unknown), and whoever it would have named is
//! told by a resync, so that a table that is locked or gone stops nothing for ever.

mod cache;
mod key;
mod patience;
mod session;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use cache::{Answer, Cache};
use patience::{HOLDS_FOR, Patience, Verdict};
use session::{Failure, Session};
use table::Table;

use crate::chain;
use crate::change::{Batch, Lookup, LookupId, ParentKey, Parents, Relation, ReplicaIdentity};
use crate::postgres::{Dsn, Tenure};

/// In one query.
const MAX_KEYS: usize = 1000;
/// Of the rows that one batch asks for, in bytes. Those beyond are unknown.
const MAX_BATCH_BYTES: usize = 32 << 20;
/// Of what is read of one row, in bytes. A larger one is unknown: one value may
/// have a gigabyte.
const MAX_ROW_BYTES: usize = 1 << 20;

/// The stage between the source and the rules.
pub struct Lookups {
    dsn: Dsn,
    tenure: Tenure,
    /// `None` before the first question, and after a failure.
    session: Option<Session>,
    cache: Cache,
    /// With the connection.
    link: Patience,
    /// With each table, by [`LookupId`].
    patience: Vec<Patience>,
    /// How many bytes this batch may still ask for.
    budget: usize,
    pub counts: Counts,
}

/// What was asked, since the stage was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queries: u64,
    pub keys: u64,
}

impl Lookups {
    /// With the server that streams, which is connected to when the first row is
    /// asked for, by a session that is ours for `tenure`.
    pub fn new(dsn: Dsn, tenure: Tenure, lookups: &[Lookup], catalog: &[Relation]) -> Lookups {
        let tables = lookups.iter().map(|lookup| table_of(lookup, catalog)).collect();
        Lookups {
            dsn,
            tenure,
            session: None,
            cache: Cache::new(tables),
            link: Patience::new(),
            patience: lookups.iter().map(|_| Patience::new()).collect(),
            budget: MAX_BATCH_BYTES,
            counts: Counts::default(),
        }
    }

    /// What is known while this batch is routed.
    pub fn parents(&self) -> &Parents {
        &self.cache.parents
    }

    /// Begins a batch.
    pub fn observe(&mut self, batch: &Batch, now: Instant) {
        self.budget = MAX_BATCH_BYTES;
        for id in self.cache.observe(batch, now) {
            if let Some(session) = &mut self.session {
                session.forget(id);
            }
        }
    }

    /// Has each of these keys known for this batch, whatever it takes: to be
    /// called once the batch's transactions are visible.
    pub async fn fetch(&mut self, missing: impl IntoIterator<Item = ParentKey>) {
        let mut keys: BTreeMap<LookupId, Vec<ParentKey>> = BTreeMap::new();
        for key in missing {
            keys.entry(key.lookup).or_default().push(key);
        }
        for (id, mut keys) in keys {
            keys.sort_unstable();
            keys.dedup();
            self.counts.keys += keys.len() as u64;
            for part in keys.chunks(MAX_KEYS) {
                let texts: Vec<&str> = part.iter().map(|key| &*key.key).collect();
                let answers = self.answers(id, &texts).await;
                let now = Instant::now();
                for (key, answer) in part.iter().zip(answers) {
                    self.cache.take(key.clone(), answer, now);
                }
            }
        }
    }

    /// Tries until there is an answer, or no use in waiting for one.
    async fn answers(&mut self, id: LookupId, keys: &[&str]) -> Vec<Answer> {
        loop {
            let now = Instant::now();
            if !self.link.may_try(now) || !self.patience[id.0].may_try(now) {
                break;
            }
            let failure = match self.ask(id, keys).await {
                Ok(answers) => {
                    if self.link.succeeded() | self.patience[id.0].succeeded() {
                        let table = &self.cache.table(id).relation.table;
                        info!(%table, "rows are looked up again");
                    }
                    return answers;
                }
                Err(failure) => failure,
            };
            self.session = None;
            let patience = match failure {
                Failure::Connect(_) => &mut self.link,
                Failure::Query(_) | Failure::Unanswered | Failure::NoColumn => {
                    &mut self.patience[id.0]
                }
            };
            let verdict = patience.failed(Instant::now());
            self.tell(id, &failure, verdict);
            match verdict {
                Verdict::TryAgain { after, .. } => sleep(after).await,
                Verdict::GiveUp { .. } => break,
            }
        }
        vec![Answer::Unknown; keys.len()]
    }

    async fn ask(&mut self, id: LookupId, keys: &[&str]) -> Result<Vec<Answer>, Failure> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::open(&self.dsn, self.tenure).await?),
        };
        let key_type = session.prepare(id, self.cache.table(id)).await?;
        self.cache.set_key_type(id, key_type);
        let (table, counts) = (self.cache.table(id), &mut self.counts);
        session.look_up(id, table, keys, &mut self.budget, &mut counts.queries).await
    }

    fn tell(&self, id: LookupId, failure: &Failure, verdict: Verdict) {
        let table = &self.cache.table(id).relation.table;
        let (error, hint) = (chain::line(failure), failure.hint());
        match verdict {
            Verdict::TryAgain { is_first: true, .. } => warn!(
                %table,
                error,
                hint,
                "rows cannot be looked up: what was read is held back, and tried again for {} s",
                HOLDS_FOR.as_secs()
            ),
            Verdict::GiveUp { is_first: true } => error!(
                %table,
                error,
                hint,
                "rows cannot be looked up: pages that would be told by them are told to fetch \
                 again instead"
            ),
            Verdict::TryAgain { .. } | Verdict::GiveUp { .. } => {
                debug!(%table, error, "rows cannot be looked up");
            }
        }
    }
}

/// Where `catalog` lacks the table it is never found; the rules refuse that.
fn table_of(lookup: &Lookup, catalog: &[Relation]) -> Table {
    let is_it = |relation: &&Relation| relation.table == lookup.table;
    let relation = catalog.iter().find(is_it).cloned().unwrap_or_else(|| Relation {
        oid: 0,
        table: lookup.table.clone(),
        renamed: None,
        columns: Vec::new(),
        identity: ReplicaIdentity::Nothing,
        primary_key: Vec::new(),
    });
    Table::new(lookup.clone(), Arc::new(relation))
}

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::info;

use super::Error;
use super::unsent::Unsent;
use super::wal::Visible;
use crate::change::{Batch, Item, Operation, ParentKey, Parents, Timestamp};
use crate::lookup::{self, Lookups};
use crate::notification::Handoff;
use crate::observe::{Changes, Observer, Shortfalls};
use crate::route::{self, Router};
use crate::source::recording::Writer;

/// What a batch goes through, between two queues.
pub struct Routing {
    pub(super) router: Router,
    /// Where changes may come before others see them.
    pub(super) visible: Option<Visible>,
    pub(super) lookups: Lookups,
    pub(super) unsent: Unsent,
    pub(super) observer: Observer,
    pub(super) recorder: Option<Arc<Mutex<Writer>>>,
}

/// What the rules make of a batch.
#[derive(Default)]
struct Routed {
    handoff: Handoff,
    /// Without these it is not complete.
    missing: BTreeSet<ParentKey>,
    unsent: Vec<route::Unsent>,
    changes: Changes,
}

impl Routing {
    /// Turns each batch of changes into its notifications, and hands these on once
    /// other sessions see all its transactions.
    ///
    /// # Errors
    /// With the batch of the first change that must not be passed over, or of which
    /// the server does not tell: nothing of it is handed on, so the position stays
    /// before it. And if what is handed on cannot be recorded.
    pub(super) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Batch>,
        handoffs: mpsc::Sender<Handoff>,
    ) -> Result<(), Error> {
        let ended = loop {
            self.observer.metrics().routes(None);
            let Some(batch) = changes.recv().await else { break Ok(()) };
            self.observer.metrics().routes(committed_at(&batch).map(Timestamp::unix_micros));
            let routed = tokio::select! {
                routed = self.route(&batch) => routed,
                () = handoffs.closed() => break Ok(()),
            };
            let handoff = match routed {
                Ok(handoff) => handoff,
                Err(error) => break Err(error),
            };
            if let Some(recorder) = &self.recorder
                && let Err(error) = recorder.lock().expect("nobody panics at it").write(&batch)
            {
                break Err(error.into());
            }
            if handoffs.send(handoff).await.is_err() {
                break Ok(());
            }
        };
        self.unsent.tell();
        let route::Counts { null_channels, partial } = self.router.counts;
        if null_channels + partial > 0 {
            info!(null_channels, partial, "channels that a NULL left out, payloads sent minimal");
        }
        let lookup::Counts { queries, keys } = self.lookups.counts;
        if queries > 0 {
            info!(queries, keys, "rows looked up");
        }
        ended
    }

    async fn route(&mut self, batch: &Batch) -> Result<Handoff, Error> {
        let Routing { router, visible, lookups, unsent, observer, .. } = self;
        let (counts, lookup_counts) = (router.counts, lookups.counts);
        lookups.observe(batch, Instant::now());
        // The rules are evaluated while the answer is on its way.
        let (seen, routed) = tokio::join!(
            biased;
            wait_for(visible.as_mut(), batch),
            async { route(router, batch, lookups.parents()) },
        );
        seen?;
        let mut routed = routed?;
        // A row is read after the changes that ask for it are visible: it may be
        // as new as they are. Once more for each level of a chain.
        while !routed.missing.is_empty() {
            lookups.fetch(routed.missing).await;
            router.counts = counts;
            routed = route(router, batch, lookups.parents())?;
        }
        routed.unsent.iter().for_each(|why| unsent.add(why));
        let metrics = observer.metrics();
        metrics.count_changes(routed.changes);
        metrics.count_shortfalls(Shortfalls {
            null_channels: router.counts.null_channels - counts.null_channels,
            partial_payloads: router.counts.partial - counts.partial,
            refused_broadcasts: routed.unsent.len() as u64,
            lookup_queries: lookups.counts.queries - lookup_counts.queries,
        });
        // What rules make of a batch comes in runs of one rule.
        let runs = routed.handoff.notifications.chunk_by(|a, b| Arc::ptr_eq(&a.terms, &b.terms));
        for run in runs {
            metrics.routed(&run[0].terms.rule, run.len() as u64);
        }
        for resync in &routed.handoff.resyncs {
            metrics.routed(&resync.terms.rule, resync.counted());
        }
        Ok(routed.handoff)
    }
}

/// When the first change of it was.
fn committed_at(batch: &Batch) -> Option<Timestamp> {
    batch.items().find_map(|item| match item {
        Item::Change(change) => Some(change.transaction.at),
        Item::Truncate { transaction, .. }
        | Item::Broadcast { transaction, .. }
        | Item::Missed { transaction, .. } => Some(transaction.at),
        Item::Reached(_) => None,
    })
}

/// Until other sessions see all of it.
async fn wait_for(visible: Option<&mut Visible>, batch: &Batch) -> Result<(), Error> {
    match visible {
        Some(visible) => visible.wait_for(&batch.xids()).await,
        None => Ok(()),
    }
}

fn route(router: &mut Router, batch: &Batch, parents: &Parents) -> Result<Routed, route::Renamed> {
    let Routed { mut handoff, mut missing, mut unsent, mut changes } = Routed::default();
    for item in batch.items() {
        match item {
            Item::Change(change) => {
                *match change.operation {
                    Operation::Insert => &mut changes.inserts,
                    Operation::Update | Operation::Read => &mut changes.updates,
                    Operation::Delete => &mut changes.deletes,
                } += 1;
                router.route(&change, parents, &mut missing, &mut handoff)?;
            }
            Item::Truncate { relation, transaction } => {
                changes.truncates += 1;
                router.truncate(relation, transaction, &mut handoff.resyncs)?;
            }
            Item::Broadcast { broadcast, transaction, context } => {
                changes.broadcasts += 1;
                let out = &mut handoff.notifications;
                if let Err(why) = router.broadcast(broadcast, transaction, context, out) {
                    unsent.push(why);
                }
            }
            Item::Missed { relation, why, transaction } => {
                changes.missed += 1;
                router.missed(relation, why, transaction, &mut handoff.resyncs)?;
            }
            Item::Reached(position) => handoff.reached = Some(position),
        }
    }
    Ok(Routed { handoff, missing, unsent, changes })
}

use std::collections::BTreeSet;

use tokio::sync::mpsc;
use tracing::info;

use super::Error;
use super::visible::Visible;
use crate::change::{Batch, Item, Parents};
use crate::notification::Handoff;
use crate::route::{self, Router};

/// Turns each batch of changes into its notifications, and hands these on once
/// other sessions see all its transactions.
///
/// # Errors
/// With the batch of the first change that must not be passed over, or of which
/// the server does not tell: nothing of it is handed on, so the position stays
/// before it.
pub(super) async fn route(
    mut router: Router,
    mut visible: Visible,
    mut changes: mpsc::Receiver<Batch>,
    handoffs: mpsc::Sender<Handoff>,
) -> Result<(), Error> {
    let ended = loop {
        let Some(batch) = changes.recv().await else { break Ok(()) };
        let xids = batch.xids();
        let (seen, handoff) = tokio::select! {
            both = async {
                // The rules are evaluated while the answer is on its way.
                tokio::join!(
                    biased;
                    visible.wait_for(&xids),
                    async { handoff_of(&mut router, &batch) },
                )
            } => both,
            () = handoffs.closed() => break Ok(()),
        };
        let handoff = match seen.and_then(|()| Ok(handoff?)) {
            Ok(handoff) => handoff,
            Err(error) => break Err(error),
        };
        if handoffs.send(handoff).await.is_err() {
            break Ok(());
        }
    };
    let route::Counts { null_channels, partial } = router.counts;
    if null_channels + partial > 0 {
        info!(null_channels, partial, "channels that a NULL left out, payloads sent minimal");
    }
    ended
}

fn handoff_of(router: &mut Router, batch: &Batch) -> Result<Handoff, route::Renamed> {
    let mut handoff = Handoff::default();
    let (parents, mut missing) = (Parents::default(), BTreeSet::new());
    for item in batch.items() {
        match item {
            Item::Change(change) => {
                router.route(&change, &parents, &mut missing, &mut handoff)?;
            }
            Item::Truncate { relation, transaction } => {
                router.truncate(relation, transaction, &mut handoff.resyncs)?;
            }
            Item::Broadcast { .. } => {}
            Item::Reached(position) => handoff.reached = Some(position),
        }
    }
    Ok(handoff)
}

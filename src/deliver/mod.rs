//! Notifications out.
//!
//! Delivering owns the [`Frontier`]: it knows what was accepted, so it says
//! what the source may confirm. A notification leaves the frontier once the
//! endpoint accepted it on each of its channels, or once it was refused for
//! good, stands in the rejected file, and a resync on the channels that refused
//! it has met the same; or on those channels where nobody listens, if only others are
//! told.
//!
//! It owns the [`Coalescer`](crate::coalesce::Coalescer) too, which so is no
//! stage before it: notifications are pulled out of it, when a lane is free, and
//! fold until then.

mod behind;
mod echo;
mod estimate;
mod gate;
mod lane;
mod lanes;
mod limits;
mod occupancy;
mod owed;
mod publish;
pub mod pusher;
mod record;
mod recorder;
mod rejected;
mod resend;
mod resyncs;
mod stdout;
mod tally;

pub use echo::echo_line;
pub use estimate::{Count, Estimate};
pub use limits::{
    ByteSize, ByteSizeError, Limits, MaxInFlight, MaxInFlightError, MaxPending, MaxPendingError,
};
pub use rejected::{RejectedError, RejectedFile};
pub use resend::Resend;
pub use stdout::{Format, Stdout};
pub use tally::Tally;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::acknowledge::Frontier;
use crate::change::Position;
use crate::notification::{Handoff, Resync};
use crate::observe::Observer;

use publish::Publisher;

/// Where notifications go.
#[derive(Debug)]
pub enum Sink {
    /// To the endpoint; what it refuses for good goes to the file.
    Pusher(pusher::Client, RejectedFile),
    Stdout(Stdout),
}

/// The last stage. It outlives the sessions of the source, so that requests of
/// the session before are waited for, and order is kept across a reconnect.
#[derive(Debug)]
pub struct Deliver {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Publish(Box<Publisher>),
    Print(Stdout),
}

/// How far a session has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What may be confirmed.
    pub position: Option<Position>,
    /// Rules whose owed resyncs have all been accepted, or recorded as refused.
    pub settled: BTreeSet<Arc<str>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a refused notification cannot be recorded, so delivery stops")]
    Rejected(#[from] RejectedError),
    #[error("cannot print notifications")]
    Stdout(#[source] io::Error),
}

impl Deliver {
    pub fn new(sink: Sink, limits: &Limits, observer: Observer) -> Deliver {
        let stage = match sink {
            Sink::Pusher(client, rejected) => {
                Stage::Publish(Box::new(Publisher::new(client, rejected, limits, observer)))
            }
            Sink::Stdout(stdout) => Stage::Print(stdout),
        };
        Deliver { stage }
    }

    /// Delivers one session of the source: first what is owed from before, then
    /// what comes. Ends when `handoffs` is closed and all of it was delivered.
    ///
    /// Dropping the future abandons the session: unsent notifications are
    /// forgotten, and requests on their way are waited for by the next session.
    ///
    /// # Errors
    /// When a refused notification cannot be recorded, or nothing printed. What
    /// the endpoint does is never an error: delivery waits for it.
    pub async fn run(
        &mut self,
        owed: Vec<Resync>,
        handoffs: mpsc::Receiver<Handoff>,
        progress: watch::Sender<Progress>,
    ) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Publish(publisher) => publisher.run(owed, handoffs, progress).await,
            Stage::Print(stdout) => print(stdout, owed, handoffs, progress).await,
        }
    }

    /// What was printed would be so much, if that was counted.
    pub fn estimate(&mut self) -> Option<Estimate> {
        match &mut self.stage {
            Stage::Publish(_) => None,
            Stage::Print(stdout) => stdout.estimate(),
        }
    }
}

async fn print(
    stdout: &mut Stdout,
    owed: Vec<Resync>,
    mut handoffs: mpsc::Receiver<Handoff>,
    progress: watch::Sender<Progress>,
) -> Result<(), Error> {
    let mut frontier = Frontier::default();
    stdout.begin();
    for resync in &owed {
        stdout.print_resync(resync).map_err(Error::Stdout)?;
    }
    stdout.flush().map_err(Error::Stdout)?;
    let settled = owed.into_iter().map(|resync| resync.terms.rule.clone());
    progress.send_modify(|progress| progress.settled.extend(settled));
    while let Some(handoff) = handoffs.recv().await {
        stdout.print_all(&handoff).map_err(Error::Stdout)?;
        for resync in &handoff.resyncs {
            stdout.print_resync(resync).map_err(Error::Stdout)?;
        }
        stdout.flush().map_err(Error::Stdout)?;
        let reached = handoff.reached;
        stdout.count(handoff);
        if let Some(position) = reached {
            frontier.reach(position);
        }
        if let Some(position) = frontier.advance() {
            progress.send_modify(|progress| progress.position = Some(position));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::change::{Position, Timestamp};
    use crate::notification::{Action, Notification, Payload, Terms};

    /// An update of entity `entity` and this id, which is also its position.
    pub(super) fn notification(entity: &str, id: u64, channels: &[&str]) -> Notification {
        Notification {
            terms: Terms::plain(&format!("{entity}s"), entity).into(),
            action: Action::Updated,
            id: id.to_string().into(),
            event: "PostUpdated".parse().expect("an event"),
            event_index: 0,
            channels: channels.iter().map(|name| name.parse().expect("a channel")).collect(),
            payload: Payload::Own(format!("{{\"id\":{id}}}").into()),
            count: 1,
            position: Position::new(id),
            at: Timestamp::from_unix_micros(i64::try_from(id).expect("a small number")),
            resync: None,
            socket_id: None,
            shares: Vec::new(),
            refusal: None,
        }
    }
}

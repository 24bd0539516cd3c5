//! Notifications out.
//!
//! Delivering owns the [`Frontier`]: it knows what was accepted, so it says
//! what the source may confirm. A notification leaves the frontier once the
//! endpoint accepted it on each of its channels, or once it was refused for
//! good and stands in the rejected file.

mod echo;
mod gate;
mod lane;
mod lanes;
mod limits;
mod publish;
pub mod pusher;
mod record;
mod recorder;
mod rejected;
mod stdout;

pub use echo::echo_line;
pub use limits::{
    ByteSize, ByteSizeError, Limits, MaxInFlight, MaxInFlightError, MaxPending, MaxPendingError,
};
pub use rejected::{RejectedError, RejectedFile};
pub use stdout::{Format, Stdout};

use std::io;

use tokio::sync::{mpsc, watch};

use crate::acknowledge::Frontier;
use crate::change::Position;
use crate::notification::Handoff;

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

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a refused notification cannot be recorded, so delivery stops")]
    Rejected(#[from] RejectedError),
    #[error("cannot print notifications")]
    Stdout(#[source] io::Error),
}

impl Deliver {
    pub fn new(sink: Sink, limits: &Limits) -> Deliver {
        let stage = match sink {
            Sink::Pusher(client, rejected) => {
                Stage::Publish(Box::new(Publisher::new(client, rejected, limits)))
            }
            Sink::Stdout(stdout) => Stage::Print(stdout),
        };
        Deliver { stage }
    }

    /// Delivers one session of the source: ends when `handoffs` is closed and
    /// all of it was delivered. What was confirmable so far is on `confirmed`.
    ///
    /// Dropping the future abandons the session: unsent notifications are
    /// forgotten, and requests on their way are waited for by the next session.
    ///
    /// # Errors
    /// When a refused notification cannot be recorded, or nothing printed. What
    /// the endpoint does is never an error: delivery waits for it.
    pub async fn run(
        &mut self,
        handoffs: mpsc::Receiver<Handoff>,
        confirmed: watch::Sender<Option<Position>>,
    ) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Publish(publisher) => publisher.run(handoffs, confirmed).await,
            Stage::Print(stdout) => print(stdout, handoffs, confirmed).await,
        }
    }
}

async fn print(
    stdout: &mut Stdout,
    mut handoffs: mpsc::Receiver<Handoff>,
    confirmed: watch::Sender<Option<Position>>,
) -> Result<(), Error> {
    let mut frontier = Frontier::default();
    while let Some(handoff) = handoffs.recv().await {
        for notification in &handoff.notifications {
            stdout.print(notification).map_err(Error::Stdout)?;
        }
        stdout.flush().map_err(Error::Stdout)?;
        if let Some(position) = handoff.reached {
            frontier.reach(position);
        }
        if let Some(position) = frontier.advance() {
            confirmed.send_replace(Some(position));
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
            refusal: None,
        }
    }
}

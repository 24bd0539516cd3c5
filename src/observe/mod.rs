//! What the operator sees of a running process: its log, how it stands, and what it
//! has counted.
//!
//! Stages tell an [`Observer`]. [`http`] answers whoever asks, and never waits for a
//! stage; systemd is told unasked.

pub mod http;
pub mod log;
mod metrics;
mod pulse;
mod socket;
mod standing;
mod status;
mod systemd;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

pub use metrics::{Changes, Metrics, Outcome, Pending, Request, Shortfalls};
pub use pulse::Pulses;
pub use standing::{Backlog, Endpoint, Owed, Source, Standing};
pub use status::{About, BacklogStatus, EndpointStatus, OwedStatus, SourceStatus, Status};
pub use systemd::Systemd;

/// To whom the stages tell how they are. All clones are one.
#[derive(Clone, Debug)]
pub struct Observer {
    standing: Arc<watch::Sender<Standing>>,
    metrics: Arc<Metrics>,
    pulses: Pulses,
}

impl Default for Observer {
    fn default() -> Observer {
        let starting = Standing::starting(Instant::now());
        Observer {
            standing: Arc::new(watch::Sender::new(starting)),
            metrics: Arc::new(Metrics::new()),
            pulses: Pulses::default(),
        }
    }
}

impl Observer {
    /// Whose stages give these signs of life.
    pub fn with(pulses: Pulses) -> Observer {
        Observer { pulses, ..Observer::default() }
    }

    pub fn pulses(&self) -> Pulses {
        self.pulses.clone()
    }

    pub fn streams(&self) {
        self.tell(|standing| standing.source = Source::Streaming { since: Instant::now() });
    }

    /// Another process does the work. `holder`, in words, is what it holds and who it
    /// is: `slot rowcast held by pid 812`.
    pub fn waits(&self, holder: impl Into<Box<str>>) {
        self.tell(|standing| {
            let since = match &standing.source {
                Source::Waiting { since, .. } => *since,
                _ => Instant::now(),
            };
            standing.source = Source::Waiting { since, holder: holder.into() };
            // What waits, and is owed, is the holder's.
            standing.backlog = Backlog::Unknown;
            standing.owed.clear();
        });
    }

    pub fn is_broken(&self, problem: impl Into<Box<str>>) {
        self.tell(|standing| {
            let since = match &standing.source {
                Source::Broken { since, .. } => *since,
                _ => Instant::now(),
            };
            standing.source = Source::Broken { since, problem: problem.into() };
        });
    }

    pub fn stops(&self) {
        self.tell(|standing| standing.source = Source::Stopping { since: Instant::now() });
    }

    pub fn endpoint_accepts(&self) {
        self.tell(|standing| standing.endpoint = Endpoint::Accepting { since: Instant::now() });
    }

    pub fn endpoint_is_troubled(&self, problem: impl Into<Box<str>>) {
        self.tell(|standing| {
            let since = standing.endpoint.fails_since().unwrap_or_else(Instant::now);
            standing.endpoint = Endpoint::Troubled { since, problem: problem.into() };
        });
    }

    pub fn endpoint_stopped(&self, problem: impl Into<Box<str>>) {
        self.tell(|standing| {
            let since = standing.endpoint.fails_since().unwrap_or_else(Instant::now);
            standing.endpoint = Endpoint::Stopped { since, problem: problem.into() };
        });
    }

    pub fn backlog(&self, backlog: Backlog) {
        self.tell(|standing| standing.backlog = backlog);
    }

    /// Resyncs that are recorded as owed, all of them.
    pub fn owes(&self, owed: Vec<Owed>) {
        self.tell(|standing| standing.owed = owed);
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What is counted wakes nobody.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who watches is woken if that says something else than before.
    fn tell(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            *standing != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_it_is_so_stays_while_only_the_words_change() {
        let observer = Observer::default();
        observer.is_broken("connection refused");
        let Source::Broken { since, .. } = observer.standing().borrow().source else {
            panic!("it is broken");
        };
        observer.is_broken("no such host");
        let expected = Source::Broken { since, problem: "no such host".into() };
        assert_eq!(observer.standing().borrow().source, expected);

        observer.endpoint_is_troubled("503");
        let since = observer.standing().borrow().endpoint.fails_since();
        observer.endpoint_stopped("401");
        assert_eq!(observer.standing().borrow().endpoint.fails_since(), since);
        observer.endpoint_accepts();
        assert_eq!(observer.standing().borrow().endpoint.fails_since(), None);
    }

    #[test]
    fn nobody_is_woken_by_what_was_said_before() {
        let observer = Observer::default();
        let standing = observer.standing();
        observer.waits("slot rowcast held by pid 812");
        assert!(standing.has_changed().expect("the observer is there"));
        let standing = observer.standing();
        observer.waits("slot rowcast held by pid 812");
        assert!(!standing.has_changed().expect("the observer is there"));
    }
}

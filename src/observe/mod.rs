//! What the operator sees of a running process: its log, and how it stands.

pub mod log;
mod standing;

use std::sync::Arc;

use tokio::sync::watch;

pub use standing::{Backlog, Endpoint, Source, Standing};

/// To whom the stages tell how they are. All clones are one.
#[derive(Clone, Debug)]
pub struct Observer {
    standing: Arc<watch::Sender<Standing>>,
}

impl Default for Observer {
    fn default() -> Observer {
        Observer { standing: Arc::new(watch::Sender::new(Standing::default())) }
    }
}

impl Observer {
    /// Who watches is woken if it says something else than before.
    pub fn source(&self, source: Source) {
        self.standing.send_if_modified(|standing| replace(&mut standing.source, source));
    }

    pub fn endpoint(&self, endpoint: Endpoint) {
        self.standing.send_if_modified(|standing| replace(&mut standing.endpoint, endpoint));
    }

    pub fn backlog(&self, backlog: Backlog) {
        self.standing.send_if_modified(|standing| replace(&mut standing.backlog, backlog));
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let is_news = *place != value;
    *place = value;
    is_news
}

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use crate::chain;
use crate::change::Position;
use crate::deliver::Progress;
use crate::failpoint;
use crate::observe::{self, Observer};
use crate::state::{Loaded, State, StateError, StateFile};

/// The state is written at most so often: each time waits for the disk.
const INTERVAL: Duration = Duration::from_secs(1);
/// A disk that takes longer is taken for one that refuses.
const DISK_WITHIN: Duration = Duration::from_secs(5);

/// Stands between what was delivered and what is confirmed: a position is
/// confirmed only after it is on disk, so a slot that is found past the recorded
/// position has been read by somebody else, or made anew.
///
/// Where the disk refuses, positions are confirmed all the same: to keep log on
/// the database's disk for the sake of ours would be the greater harm. The next
/// start then finds the slot past what is recorded and takes that for a gap, so
/// every page is told to fetch again: more than needed, and nothing is lost.
#[derive(Debug)]
pub(super) struct Keeper {
    file: StateFile,
    state: State,
    is_failing: bool,
    observer: Observer,
}

impl Keeper {
    pub(super) fn new(file: StateFile, state: State, observer: Observer) -> Keeper {
        tell_owed(&observer, &state);
        Keeper { file, state, is_failing: false, observer }
    }

    /// Runs until `progress` has no sender any more, and writes its last word.
    pub(super) async fn run(
        mut self,
        mut progress: watch::Receiver<Progress>,
        confirmed: watch::Sender<Option<Position>>,
    ) {
        let mut next_at = Instant::now();
        while progress.changed().await.is_ok() {
            // What comes meanwhile is written with it. An end cuts the wait short.
            let ended = async { while progress.changed().await.is_ok() {} };
            let _more_to_come = timeout_at(next_at, ended).await;
            let now = progress.borrow_and_update().clone();
            self.keep(now, &confirmed).await;
            next_at = Instant::now() + INTERVAL;
        }
        let last = progress.borrow().clone();
        self.keep(last, &confirmed).await;
    }

    async fn keep(&mut self, progress: Progress, confirmed: &watch::Sender<Option<Position>>) {
        let before = self.state.clone();
        if let Some(position) = progress.position {
            self.state.position = position;
        }
        self.state.owed.settle(&progress.settled);
        if self.state.owed != before.owed {
            tell_owed(&self.observer, &self.state);
        }
        if self.state != before || self.is_failing {
            failpoint::reached("state-due");
            self.write().await;
            failpoint::reached("state-written");
        }
        confirmed.send_if_modified(|confirmed| {
            let is_new = *confirmed < progress.position;
            if is_new {
                *confirmed = progress.position;
            }
            is_new
        });
    }

    async fn write(&mut self) {
        // Once is enough to wait for what hangs.
        if self.is_failing && self.file.is_being_written() {
            return;
        }
        match write(&self.file, &self.state).await {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                info!("the state is written again");
            }
            Ok(()) => {}
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                let error = chain::line(&error);
                warn!(
                    "{error}: delivery goes on; after the next start every page is told to fetch \
                     again, since nothing says then what was delivered"
                );
            }
            Err(_told) => {}
        }
    }
}

/// What is recorded as owed.
pub(super) fn tell_owed(observer: &Observer, state: &State) {
    let owed = state.owed.iter();
    let owed =
        owed.map(|(rule, reason)| observe::Owed { rule: (&**rule).into(), reason: reason.name() });
    observer.owes(owed.collect());
}

/// Reads the state without keeping the runtime from its other work.
pub(super) async fn load(file: &StateFile) -> Result<Loaded, StateError> {
    let reading = spawn_blocking({
        let file = file.clone();
        move || file.load()
    });
    match timeout(DISK_WITHIN, reading).await {
        Ok(read) => ended(read),
        Err(_) => Err(file.read_error(io::ErrorKind::TimedOut.into())),
    }
}

/// Writes the state without keeping the runtime from its other work, and after all
/// writes that were begun before: of one that hangs the end is not waited for, and
/// it must not come last.
pub(super) async fn write(file: &StateFile, state: &State) -> Result<(), StateError> {
    let writing = async {
        let turn = file.turn().await;
        let (file, state) = (file.clone(), state.clone());
        let writing = spawn_blocking(move || {
            let _turn = turn;
            file.write(&state)
        });
        ended(writing.await)
    };
    match timeout(DISK_WITHIN, writing).await {
        Ok(written) => written,
        Err(_) => Err(file.write_error(io::ErrorKind::TimedOut.into())),
    }
}

fn ended<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

/// Instead of a [`Keeper`], where nothing outlives the process.
pub(super) async fn pass_on(
    mut progress: watch::Receiver<Progress>,
    confirmed: watch::Sender<Option<Position>>,
) {
    loop {
        let ended = progress.changed().await.is_err();
        confirmed.send_replace(progress.borrow_and_update().position);
        if ended {
            return;
        }
    }
}

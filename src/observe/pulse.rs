use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// Signs of life of the tasks that changes go through. All clones are one.
///
/// A sign is given from within the task, each time that it has handed the thread
/// back: one that computes for ever, or blocks its thread, gives none. What waits,
/// for Postgres or for the endpoint, is alive.
#[derive(Clone, Debug, Default)]
pub struct Pulses {
    /// `None` where nobody listens.
    every: Option<Duration>,
    next: Arc<AtomicU64>,
    tasks: Arc<Mutex<BTreeMap<u64, Pulse>>>,
}

#[derive(Debug)]
struct Pulse {
    task: &'static str,
    last: Instant,
}

impl Pulses {
    pub fn every(every: Duration) -> Pulses {
        Pulses { every: Some(every), ..Pulses::default() }
    }

    /// Runs `task`, with a sign of life from time to time until it ends.
    pub async fn of<T>(self, name: &'static str, task: impl Future<Output = T>) -> T {
        let Some(every) = self.every else { return task.await };
        let mut task = pin!(task);
        let beating = self.begin(name);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => beating.beat(),
                ended = &mut task => return ended,
            }
        }
    }

    /// A task that has given no sign for so long.
    pub fn silent_for(&self, patience: Duration, now: Instant) -> Option<&'static str> {
        let tasks = self.tasks();
        let mut silent = tasks.values().filter(|it| now.duration_since(it.last) > patience);
        silent.next().map(|pulse| pulse.task)
    }

    fn begin(self, task: &'static str) -> Beating {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.tasks().insert(id, Pulse { task, last: Instant::now() });
        Beating { pulses: self, id }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<u64, Pulse>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of one task, until it is dropped.
struct Beating {
    pulses: Pulses,
    id: u64,
}

impl Beating {
    fn beat(&self) {
        if let Some(pulse) = self.pulses.tasks().get_mut(&self.id) {
            pulse.last = Instant::now();
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.pulses.tasks().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const EVERY: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_millis(500);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waits_is_alive_and_what_blocks_its_thread_is_not() {
        let pulses = Pulses::every(EVERY);
        let waits = tokio::spawn(pulses.clone().of("waits", pending::<()>()));
        let (block_tx, block_rx) = std::sync::mpsc::channel::<()>();
        let blocks = tokio::spawn(pulses.clone().of("blocks", async move {
            // Until the test has seen it.
            let _gone = block_rx.recv();
        }));
        let end = Instant::now() + Duration::from_secs(20);
        while pulses.silent_for(PATIENCE, Instant::now()) != Some("blocks") {
            assert!(Instant::now() < end, "it blocks");
            tokio::time::sleep(EVERY).await;
        }
        drop(block_tx);
        blocks.await.expect("it ends");
        while pulses.silent_for(PATIENCE, Instant::now()).is_some() {
            assert!(Instant::now() < end, "it has ended");
            tokio::time::sleep(EVERY).await;
        }
        waits.abort();
        let _aborted = waits.await;
        assert!(pulses.tasks().is_empty());
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_ticks() {
        let pulses = Pulses::default();
        assert_eq!(pulses.clone().of("any", async { 7 }).await, 7);
        assert_eq!(pulses.silent_for(Duration::ZERO, Instant::now()), None);
    }
}

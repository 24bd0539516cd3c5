use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::harm::Harm;
use super::shop::PULSES;

const PAUSE: Duration = Duration::from_millis(25);
/// Rows that only it writes.
const ROWS: u64 = 4;

/// A writer that no other writer is in the way of: what it waits for is the server, or rowcast.
pub(super) struct Pulse {
    stop: Arc<AtomicBool>,
    beating: JoinHandle<()>,
}

impl Pulse {
    pub(super) fn start(url: &str, harm: &Arc<Harm>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let beating = tokio::spawn(beat(url.to_owned(), harm.clone(), stop.clone()));
        Self { stop, beating }
    }

    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.beating.await.expect("it never panics");
    }
}

async fn beat(url: String, harm: Arc<Harm>, stop: Arc<AtomicBool>) {
    let mut client: Option<Client> = None;
    let mut beats = 0;
    while !stop.load(Ordering::Relaxed) {
        sleep(PAUSE).await;
        let Some(connected) = &client else {
            if let Ok((connected, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                client = Some(connected);
            }
            continue;
        };
        beats += 1;
        let sql = format!(
            "update {} set version = nextval('versions') where id = {}",
            PULSES.name,
            1 + beats % ROWS
        );
        let begun = Instant::now();
        match connected.batch_execute(&sql).await {
            Ok(()) => harm.took(begun.elapsed()),
            Err(error) => {
                harm.failed(&error);
                client = None;
            }
        }
    }
}

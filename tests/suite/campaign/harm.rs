//! What the application's writes suffer. They may fail by themselves, but never because of rowcast.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

/// Longer than any write takes that waits for nobody, on a busy machine too.
const LONGEST_WRITE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Harm {
    failures: Mutex<Vec<String>>,
    longest_micros: AtomicU64,
}

impl Harm {
    /// A write failed.
    pub(super) fn failed(&self, error: &Error) {
        if let Some(error) = error.as_db_error().filter(|error| !is_own(error)) {
            let context = error.where_().unwrap_or_default();
            let failure = format!("a write failed: {error} ({}) {context}", error.code().code());
            self.failures.lock().expect("nobody panics while he notes a failure").push(failure);
        }
    }

    /// A write that waits for no other writer took so long.
    pub(super) fn took(&self, time: Duration) {
        self.longest_micros.fetch_max(time.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_micros.load(Ordering::Relaxed))
    }

    pub(super) fn breaches(&self) -> Vec<String> {
        let mut breaches =
            self.failures.lock().expect("nobody panics while he notes a failure").clone();
        let longest = self.longest();
        if longest > LONGEST_WRITE {
            breaches.push(format!("a write that waits for no other took {longest:?}"));
        }
        breaches
    }
}

/// Whether the writer could not have expected better: a key that is taken, a row that another writer holds, or a
/// server that goes away.
fn is_own(error: &DbError) -> bool {
    let expected = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
    ];
    let names_ours = |text: Option<&str>| text.is_some_and(|text| text.contains("rowcast"));
    let goes_away = error.code().code().starts_with("57P");
    expected.contains(error.code())
        && (goes_away || !(names_ours(error.where_()) || names_ours(error.schema())))
}

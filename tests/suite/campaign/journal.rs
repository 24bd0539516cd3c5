use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What happened in a schedule, to be printed if it fails.
#[derive(Clone)]
pub(super) struct Journal {
    begun: Instant,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Journal {
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), notes: Arc::default() }
    }

    pub(super) fn note(&self, what: impl AsRef<str>) {
        let note = format!("{:8.3} s  {}", self.begun.elapsed().as_secs_f64(), what.as_ref());
        self.notes.lock().expect("nobody panics while he writes").push(note);
    }

    pub(super) fn text(&self) -> String {
        self.notes.lock().expect("nobody panics while he writes").join("\n")
    }
}

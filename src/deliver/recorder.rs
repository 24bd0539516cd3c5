use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::rejected::{Rejected, RejectedError, RejectedFile};

/// Writes refused notifications down: one fsync for all that came during the one
/// before, and away from the async workers, since a disk may take seconds.
#[derive(Debug)]
pub(super) struct Recorder {
    path: PathBuf,
    /// `None` while it is written to.
    file: Option<RejectedFile>,
    waiting: Vec<Rejected>,
    /// At most one.
    writing: JoinSet<Written>,
    /// What is being written belongs to a session that is over.
    is_abandoned: bool,
    pending_bytes: usize,
}

#[derive(Debug)]
struct Written {
    file: RejectedFile,
    rejected: Vec<Rejected>,
    result: Result<(), RejectedError>,
}

impl Recorder {
    pub(super) fn new(file: RejectedFile) -> Recorder {
        Recorder {
            path: file.path().to_owned(),
            file: Some(file),
            waiting: Vec::new(),
            writing: JoinSet::new(),
            is_abandoned: false,
            pending_bytes: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn push(&mut self, rejected: Vec<Rejected>) {
        self.pending_bytes += weight(&rejected);
        self.waiting.extend(rejected);
    }

    /// Memory of what is not durable yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }

    /// Begins to write what waits, unless the write before is under way.
    pub(super) fn start(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut file) = self.file.take() else { return };
        let rejected = std::mem::take(&mut self.waiting);
        self.writing.spawn_blocking(move || {
            let result = file.append(&rejected);
            Written { file, rejected, result }
        });
    }

    /// Waits for the write under way and returns what is durable now, without
    /// what was forgotten. `None` if none is under way. Cancel-safe.
    pub(super) async fn written(&mut self) -> Option<Result<Vec<Rejected>, RejectedError>> {
        let Written { file, rejected, result } = match self.writing.join_next().await? {
            Ok(written) => written,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => unreachable!("a write is never cancelled: {error}"),
            },
        };
        self.file = Some(file);
        if std::mem::take(&mut self.is_abandoned) {
            return Some(result.map(|()| Vec::new()));
        }
        self.pending_bytes -= weight(&rejected);
        Some(result.map(|()| rejected))
    }

    /// Forgets what is not durable yet. A write under way still ends.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.is_abandoned = !self.writing.is_empty();
        self.pending_bytes = 0;
    }
}

fn weight(rejected: &[Rejected]) -> usize {
    rejected.iter().map(|rejected| rejected.notification.weight()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::lane::Debt;
    use crate::deliver::tests::notification;

    fn rejected(id: u64) -> Rejected {
        let notification = notification("post", id, &["posts"]);
        let channels = notification.channels.clone();
        let debt = Debt::Position(notification.position);
        Rejected { notification, channels, reason: "the endpoint answered 400".to_owned(), debt }
    }

    fn recorder(folder: &Path) -> Recorder {
        let file = RejectedFile::open(folder.join("rejected.jsonl"), RejectedFile::MAX);
        Recorder::new(file.expect("opens"))
    }

    async fn written(recorder: &mut Recorder) -> Vec<u64> {
        let written = recorder.written().await.expect("a write is under way").expect("a good disk");
        written.iter().map(|rejected| rejected.notification.position.value()).collect()
    }

    fn lines(folder: &Path) -> usize {
        let text = std::fs::read_to_string(folder.join("rejected.jsonl")).expect("reads");
        text.lines().count()
    }

    #[tokio::test]
    async fn what_comes_during_a_write_is_in_the_next_one_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path());
        recorder.push(vec![rejected(1)]);
        recorder.start();
        for id in 2..=5 {
            recorder.push(vec![rejected(id)]);
            recorder.start();
        }
        assert_eq!(written(&mut recorder).await, [1]);
        assert_eq!(lines(folder.path()), 1);
        recorder.start();
        assert_eq!(written(&mut recorder).await, [2, 3, 4, 5]);
        assert_eq!(lines(folder.path()), 5);
        assert!(recorder.is_idle() && recorder.written().await.is_none());
        assert_eq!(recorder.pending_bytes(), 0);
    }

    #[tokio::test]
    async fn what_was_forgotten_is_never_told_as_durable() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recorder = recorder(folder.path());
        recorder.push(vec![rejected(1)]);
        recorder.start();
        recorder.push(vec![rejected(2)]);
        recorder.forget();
        recorder.push(vec![rejected(3)]);
        recorder.start();
        assert!(written(&mut recorder).await.is_empty());
        recorder.start();
        assert_eq!(written(&mut recorder).await, [3]);
        assert_eq!(recorder.pending_bytes(), 0);
    }

    #[tokio::test]
    async fn a_write_that_fails_makes_nothing_durable() {
        let file = RejectedFile::open("/dev/full", RejectedFile::MAX).expect("it opens");
        let mut recorder = Recorder::new(file);
        recorder.push(vec![rejected(1)]);
        recorder.start();
        recorder.written().await.expect("a write is under way").expect_err("the disk is full");
    }
}

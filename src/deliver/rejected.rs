use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::notification::{ChannelName, Notification};

use super::lane::Debt;
use super::{ByteSize, record};

/// JSON Lines of what was refused for good, so that it is not dropped silently.
/// It holds row values, so only its owner may read it. A full file becomes
/// `rejected.jsonl.1`, in place of the one before.
#[derive(Debug)]
pub struct RejectedFile {
    path: PathBuf,
    file: File,
    len: u64,
    max: ByteSize,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write refused notifications to {path}")]
pub struct RejectedError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A notification that is refused on some or all of its channels.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) notification: Notification,
    /// Those of its channels that this is about.
    pub(super) channels: Vec<ChannelName>,
    pub(super) reason: String,
    /// Paid once this is durable.
    pub(super) debt: Debt,
}

impl RejectedFile {
    /// The two files together take twice this on disk.
    pub const MAX: ByteSize = ByteSize::mebibytes(16);

    /// Opens or creates the file, whose folder exists.
    pub fn open(path: impl Into<PathBuf>, max: ByteSize) -> Result<RejectedFile, RejectedError> {
        let path = path.into();
        match open(&path) {
            Ok((file, len)) => Ok(RejectedFile { path, file, len, max }),
            Err(source) => Err(RejectedError { path, source }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends and makes durable. Blocks for the disk.
    pub(super) fn append(&mut self, rejected: &[Rejected]) -> Result<(), RejectedError> {
        if rejected.is_empty() {
            return Ok(());
        }
        self.try_append(rejected)
            .map_err(|source| RejectedError { path: self.path.clone(), source })
    }

    fn try_append(&mut self, rejected: &[Rejected]) -> io::Result<()> {
        let mut line = Vec::new();
        for rejected in rejected {
            line.clear();
            record::write_open(&mut line, &rejected.notification, &rejected.channels);
            record::write_field(&mut line, "reason", &rejected.reason);
            line.extend_from_slice(b"}\n");
            if self.len > 0 && self.len + line.len() as u64 > self.max.bytes() {
                self.rotate()?;
            }
            self.file.write_all(&line)?;
            self.len += line.len() as u64;
        }
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut full = self.path.clone().into_os_string();
        full.push(".1");
        warn!(path = %self.path.display(), max = %self.max, "rejected file is full: starting anew");
        self.file.sync_data()?;
        fs::rename(&self.path, &full)?;
        (self.file, self.len) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut len = file.metadata()?.len();
    // A crash may have left half a line, which must not swallow the next one.
    if len > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            len += 1;
        }
    }
    // The file's name is durable only with its folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok((file, len))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::deliver::tests::notification;

    fn rejected(id: u64) -> Rejected {
        let notification = notification("post", id, &["private-posts", "posts"]);
        let channels = notification.channels[..1].to_vec();
        let debt = Debt::Position(notification.position);
        let reason = "the endpoint answered 400: no".to_owned();
        Rejected { notification, channels, reason, debt }
    }

    #[test]
    fn a_refused_notification_is_one_line_with_all_that_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        let mut file = RejectedFile::open(&path, RejectedFile::MAX).expect("opens");
        file.append(&[rejected(42)]).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        assert_eq!(
            text,
            "{\"at\":\"1970-01-01T00:00:00.000042Z\",\"rule\":\"posts\",\"event\":\"PostUpdated\",\
             \"channels\":[\"private-posts\"],\"entity\":\"post\",\"id\":42,\
             \"action\":\"updated\",\"data\":{\"id\":42},\"position\":42,\
             \"reason\":\"the endpoint answered 400: no\"}\n"
        );
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn half_a_line_of_a_crash_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        fs::write(&path, "{\"at\":").expect("writes");
        let mut file = RejectedFile::open(&path, RejectedFile::MAX).expect("opens");
        file.append(&[rejected(1)]).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        let last = text.lines().last().expect("a line");
        assert!(serde_json::from_str::<serde_json::Value>(last).is_ok(), "{text}");
    }

    #[test]
    fn the_file_and_the_one_before_stay_within_their_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejected.jsonl");
        let max = ByteSize::new(1000);
        let mut file = RejectedFile::open(&path, max).expect("opens");
        for id in 0..20 {
            file.append(&[rejected(id)]).expect("writes");
        }
        let before = fs::read_to_string(folder.path().join("rejected.jsonl.1")).expect("rotated");
        let now = fs::read_to_string(&path).expect("reads");
        assert!(before.len() <= 1000 && now.len() <= 1000);
        assert!(now.lines().last().expect("a line").contains("\"id\":19"), "{now}");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 2);
    }

    #[test]
    fn an_unwritable_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("missing/rejected.jsonl");
        let error = RejectedFile::open(&path, RejectedFile::MAX).expect_err("no folder");
        assert!(error.to_string().contains("missing/rejected.jsonl"), "{error}");
    }
}

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::notification::{ChannelName, Notification};

use super::lane::Debt;
use super::{ByteSize, record};

/// JSON Lines of what was refused for good, so that it is not dropped silently.
/// It holds row values, so only its owner may read it. A full file becomes
/// `rejected.jsonl.1`, in place of the one before.
///
/// Several processes may write to it: each looks, with the file locked, whether the
/// one that it has open is still the one that is there.
#[derive(Debug)]
pub struct RejectedFile {
    path: PathBuf,
    file: File,
    max: ByteSize,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write refused notifications to {path}")]
pub struct RejectedError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl RejectedError {
    pub(super) fn new(path: &Path, source: io::Error) -> RejectedError {
        RejectedError { path: path.to_owned(), source }
    }
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
            Ok(file) => Ok(RejectedFile { path, file, max }),
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
        let len = self.lock()?;
        let written = self.write(rejected, len);
        // It does not outlive the file either.
        let _ = self.file.unlock();
        written
    }

    /// To the locked file, which is so long.
    fn write(&mut self, rejected: &[Rejected], mut len: u64) -> io::Result<()> {
        let mut line = Vec::new();
        for rejected in rejected {
            line.clear();
            record::write_open(&mut line, &rejected.notification, &rejected.channels);
            record::write_field(&mut line, "reason", &rejected.reason);
            line.extend_from_slice(b"}\n");
            if len > 0 && len + line.len() as u64 > self.max.bytes() {
                self.rotate()?;
                len = self.lock()?;
            }
            self.file.write_all(&line)?;
            len += line.len() as u64;
        }
        self.file.sync_data()
    }

    /// Locks the file that is there, which another process may have put in place of
    /// the one that was. Returns how long it is.
    fn lock(&mut self) -> io::Result<u64> {
        loop {
            lock(&self.file);
            if is_at(&self.file, &self.path)? {
                return end_line(&mut self.file);
            }
            self.file = open(&self.path)?;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut full = self.path.clone().into_os_string();
        full.push(".1");
        warn!(path = %self.path.display(), max = %self.max, "rejected file is full: starting anew");
        self.file.sync_data()?;
        fs::rename(&self.path, &full)?;
        self.file = open(&self.path)?;
        Ok(())
    }
}

/// Keeps other processes from writing to the file until it is unlocked or closed.
/// Where files cannot be locked, they are not: what is written is whole all the same,
/// since it is appended at once.
pub(super) fn lock(file: &File) {
    let _ = file.lock();
}

/// Whether `path` names the file.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let own = file.metadata()?;
    Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
}

/// Returns how long the file is.
fn end_line(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(0);
    }
    // A crash may have left half a line, which must not swallow the next one.
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(len);
    }
    file.write_all(b"\n")?;
    Ok(len + 1)
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // The file's name is durable only with its folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
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

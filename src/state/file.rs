use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::error;

use super::State;

/// The file of one slot's [`State`]. Two slots may share a folder.
#[derive(Clone, Debug)]
pub struct StateFile {
    folder: PathBuf,
    path: PathBuf,
    slot: Box<str>,
    turn: Arc<Mutex<()>>,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    State(State),
    Missing,
    /// Something that is no state: it was put aside, and counts as missing.
    Garbage,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read the state in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the state to {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl StateFile {
    /// Of that slot, in a folder that exists.
    ///
    /// # Errors
    /// If nothing can be written there.
    pub fn open(folder: &Path, slot: &str) -> Result<StateFile, StateError> {
        let path = folder.join(format!("state-{slot}.json"));
        let turn = Arc::default();
        let file = StateFile { folder: folder.to_owned(), path, slot: slot.into(), turn };
        let probe = || {
            // By a name of our own: another process may be writing the state.
            let path = file.beside(&format!(".{}", process::id()));
            make(&path)?.sync_all()?;
            fs::remove_file(&path)
        };
        probe().map_err(|source| file.write_error(source))?;
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose state it is: the name that it was opened by.
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// Who has it may write: one after the other, in the order in which they asked.
    pub async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    pub fn is_being_written(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// # Errors
    /// If it is there and cannot be read: what it says is not known then.
    pub fn load(&self) -> Result<Loaded, StateError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                return Ok(Loaded::Missing);
            }
            Err(error) => return Err(self.read_error(error)),
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Loaded::State(state)),
            Err(garbage) => {
                let aside = self.beside(".bad");
                error!(
                    aside = %aside.display(),
                    "{} is no state of rowcast, so it is put aside: {garbage}",
                    self.path.display()
                );
                fs::rename(&self.path, &aside).map_err(|error| self.read_error(error))?;
                Ok(Loaded::Garbage)
            }
        }
    }

    /// Replaces the state, durably, at once: a crash leaves the old one or the
    /// new one. Blocks for the disk.
    ///
    /// # Errors
    /// The old one may stay then.
    pub fn write(&self, state: &State) -> Result<(), StateError> {
        self.try_write(state).map_err(|source| self.write_error(source))
    }

    fn try_write(&self, state: &State) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(state)?;
        text.push(b'\n');
        let new = self.beside(".new");
        let mut file = make(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        // The file's name is durable only with its folder.
        File::open(&self.folder)?.sync_all()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// What a read that failed so is called.
    pub fn read_error(&self, source: io::Error) -> StateError {
        StateError::Read { path: self.path.clone(), source }
    }

    /// What a write that failed so is called.
    pub fn write_error(&self, source: io::Error) -> StateError {
        StateError::Write { path: self.path.clone(), source }
    }
}

/// An empty file that only its owner may read: names of rules are in it.
fn make(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::change::Position;
    use crate::notification::Reason;
    use crate::state::Owed;

    fn state() -> State {
        State {
            system: "7431234567890123456".into(),
            timeline: 3,
            slot: "rowcast".into(),
            position: Position::new(0x16_B374_D848),
            parts: ["16400/751".into(), "16402".into()].into(),
            owed: Owed::all(["posts".into()], Reason::Shed),
        }
    }

    #[test]
    fn what_was_written_is_read_and_only_by_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = StateFile::open(folder.path(), "rowcast").expect("writable");
        assert_eq!(file.load().expect("reads"), Loaded::Missing);
        file.write(&State { position: Position::new(1), ..state() }).expect("writes");
        file.write(&state()).expect("writes again");
        assert_eq!(file.load().expect("reads"), Loaded::State(state()));
        let mode = fs::metadata(file.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing else is left");
        let other = StateFile::open(folder.path(), "other").expect("writable");
        assert_eq!(other.load().expect("reads"), Loaded::Missing, "each slot has its own");
    }

    #[test]
    fn garbage_is_put_aside_and_what_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = StateFile::open(folder.path(), "rowcast").expect("writable");
        for garbage in ["", "{\"system\":", "{\"position\": 4}"] {
            fs::write(file.path(), garbage).expect("writes");
            assert_eq!(file.load().expect("reads"), Loaded::Garbage);
            let aside = folder.path().join("state-rowcast.json.bad");
            assert_eq!(fs::read_to_string(aside).expect("is kept"), garbage);
            assert_eq!(file.load().expect("reads"), Loaded::Missing);
        }
        fs::create_dir(file.path()).expect("makes");
        let error = file.load().expect_err("a folder is no file");
        assert!(matches!(error, StateError::Read { .. }), "{error}");
        let error = file.write(&state()).expect_err("a folder is not replaced");
        assert!(error.to_string().contains("state-rowcast.json"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_with_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing");
        let error = StateFile::open(&missing, "rowcast").expect_err("no folder");
        assert!(error.to_string().contains("missing/state-rowcast.json"), "{error}");
    }
}

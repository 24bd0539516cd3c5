use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::shell;

/// Whether the endpoint has refused something for good, by what was written down.
pub(super) struct Refused {
    path: PathBuf,
    bytes_before: u64,
}

impl Refused {
    pub(super) fn before(path: &Path) -> io::Result<Refused> {
        Ok(Refused { path: path.to_owned(), bytes_before: fs::metadata(path)?.len() })
    }

    /// What to do, if something was.
    pub(super) fn since(&self) -> Option<String> {
        let bytes = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        (bytes != self.bytes_before).then(|| {
            format!(
                "the endpoint refused some for good; they stand in {path} with the reason, and \
                 `rowcast replay --rejected {word}` sends them again",
                path = self.path.display(),
                word = shell::word(&self.path.display().to_string()),
            )
        })
    }
}

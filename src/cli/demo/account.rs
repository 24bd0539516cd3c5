//! Whom the server's programs run as.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// The account of the server: our own, or an unprivileged one where we are
/// root, whom Postgres refuses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Account {
    Own,
    Unprivileged { uid: u32, gid: u32 },
}

impl Account {
    pub(super) fn choose() -> anyhow::Result<Account> {
        // A new file belongs to whoever made it.
        let file =
            tempfile::tempfile().context("cannot write to the folder for temporary files")?;
        if file.metadata()?.uid() != 0 {
            return Ok(Account::Own);
        }
        for user in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id("-u", user)?, id("-g", user)?) {
                return Ok(Account::Unprivileged { uid, gid });
            }
        }
        bail!("Postgres refuses to run as root, and there is no user postgres or nobody");
    }

    pub(super) fn is_root(self) -> bool {
        matches!(self, Account::Unprivileged { .. })
    }

    /// `program` in this account, deaf to our own Postgres variables: `PGDATA`
    /// and `PGPORT` are those of the user's own server.
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        if let Account::Unprivileged { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        match self {
            Account::Own => Ok(()),
            Account::Unprivileged { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}

/// A number of `user`'s, by option of `id`; `None` if there is no such user.
fn id(option: &str, user: &str) -> anyhow::Result<Option<u32>> {
    let output = Command::new("id").args([option, user]).output().context("cannot run id")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}

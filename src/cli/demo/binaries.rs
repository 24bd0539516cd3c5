//! The Postgres server's binaries: where they usually are, and whether what is
//! there can be used.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use super::account::Account;

/// What the demo calls.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// The oldest release that rowcast supports.
const OLDEST_MAJOR: u32 = 14;
/// Folders with one server for each release: what is before the release's
/// number in their path, and what is after it.
const USUAL: [(&str, &str); 7] = [
    ("/usr/lib/postgresql/", "bin"),
    ("/usr/pgsql-", "bin"),
    ("/usr/libexec/postgresql", ""),
    ("/opt/homebrew/opt/postgresql@", "bin"),
    ("/usr/local/opt/postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt/postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions/", "bin"),
];

/// A folder whose programs run as the server's account.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) version: Version,
}

/// A release of Postgres, for example `15.18`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    major: u32,
    text: String,
}

impl Binaries {
    /// The first usable folder: of the PATH, of the usual ones, of our cache.
    pub(super) async fn find(account: Account, installed: &Path) -> Option<Binaries> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = of_path(&path);
        folders.extend(USUAL.into_iter().flat_map(|(before, after)| of_releases(before, after)));
        folders.push(installed.to_owned());
        for folder in folders {
            match Binaries::inspect(account, &folder).await {
                Ok(binaries) => return Some(binaries),
                Err(error) => tracing::debug!(folder = %folder.display(), "passed over: {error:#}"),
            }
        }
        None
    }

    /// What the user named: the folder of the binaries, or the one around it.
    pub(super) async fn named(account: Account, folder: &Path) -> anyhow::Result<Binaries> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("there is no folder {}", folder.display()))?;
        let inner = folder.join("bin");
        let folder = if inner.join("postgres").is_file() { inner } else { folder };
        Binaries::inspect(account, &folder).await
    }

    pub(super) async fn inspect(account: Account, folder: &Path) -> anyhow::Result<Binaries> {
        for program in PROGRAMS {
            if !folder.join(program).is_file() {
                bail!("{} has no {program}", folder.display());
            }
        }
        let program = folder.join("postgres");
        let mut command = Command::from(account.command(&program));
        command.arg("--version").current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(Duration::from_secs(5), command.output())
            .await
            .with_context(|| format!("{} --version does not end", program.display()))?
            .with_context(|| match account {
                Account::Own => format!("cannot run {}", program.display()),
                Account::Unprivileged { uid, .. } => {
                    format!("user {uid} cannot run {}", program.display())
                }
            })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let Some(version) = Version::parse(&said) else {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.lines().next().unwrap_or_default();
            bail!("{} is not Postgres' server: {}{error}", program.display(), said.trim());
        };
        if version.major < OLDEST_MAJOR {
            bail!("{} is Postgres {version}, and {OLDEST_MAJOR} is needed", program.display());
        }
        Ok(Binaries { folder: folder.to_owned(), version })
    }
}

impl Version {
    /// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    fn parse(said: &str) -> Option<Version> {
        let (_, rest) = said.split_once("(PostgreSQL) ")?;
        let text = rest.split_whitespace().next()?;
        Some(Version { major: leading_number(text)?, text: text.to_owned() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Of an entry of the PATH that is a link, the folder that it leads to comes
/// first: the other programs may not be linked.
fn of_path(path: &OsString) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()) {
        let Ok(program) = folder.join("postgres").canonicalize() else { continue };
        folders.extend(program.parent().map(Path::to_owned));
        folders.push(folder);
    }
    folders.dedup();
    folders
}

/// The newest release first.
fn of_releases(before: &str, after: &str) -> Vec<PathBuf> {
    let (parent, prefix) = before.rsplit_once('/').expect("the usual folders are absolute");
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let release = leading_number(entry.file_name().to_str()?.strip_prefix(prefix)?)?;
            Some((release, entry.path().join(after)))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_is_what_follows_the_products_name() {
        for (said, major, text) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", 15, "15.18"),
            ("postgres (PostgreSQL) 18beta1\n", 18, "18beta1"),
            ("postgres (PostgreSQL) 9.6.24\n", 9, "9.6.24"),
        ] {
            assert_eq!(Version::parse(said), Some(Version { major, text: text.to_owned() }));
        }
        for said in ["", "postgres-mcp 1.2", "postgres (PostgreSQL) devel"] {
            assert_eq!(Version::parse(said), None);
        }
    }

    #[test]
    fn releases_are_tried_from_the_newest_to_the_oldest() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["pg-9.6", "pg-15", "pg-14", "pg-x", "other"] {
            std::fs::create_dir(parent.path().join(name)).unwrap();
        }
        let before = parent.path().join("pg-");
        let found = of_releases(before.to_str().unwrap(), "bin");
        let expected = ["pg-15/bin", "pg-14/bin", "pg-9.6/bin"].map(|it| parent.path().join(it));
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_stray_program_called_postgres_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            let path = folder.path().join(program);
            std::fs::write(&path, "#!/bin/sh\necho something else 15.1\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let error = Binaries::inspect(Account::Own, folder.path()).await.unwrap_err();
        assert!(error.to_string().contains("is not Postgres' server"), "{error:#}");
        std::fs::remove_file(folder.path().join("pg_ctl")).unwrap();
        let error = Binaries::inspect(Account::Own, folder.path()).await.unwrap_err();
        assert!(error.to_string().ends_with("has no pg_ctl"), "{error:#}");
    }
}

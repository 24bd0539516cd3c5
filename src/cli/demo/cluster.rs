//! A Postgres cluster that lives as long as the demo.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;

use super::account::Account;
use super::binaries::Binaries;

const USER: &str = "rowcast";
/// Names the socket's file; nothing listens on this port.
const SOCKET_PORT: u16 = 5432;
/// Of a unix socket's address, without its final zero: macOS has the shortest.
const MAX_SOCKET_PATH: usize = 103;
/// What the user's own `PG*` variables would decide otherwise. Without TLS no
/// root certificate is read, but one of the environment could contradict.
const SESSION: &str = "sslmode=disable sslnegotiation=postgres sslrootcert=unused \
    channel_binding=disable target_session_attrs=any options='-c search_path=public'";
/// Another process may take a free port before Postgres does.
const ATTEMPTS: u32 = 3;

/// Dropping it stops the server and removes its files.
pub(super) struct Cluster {
    // Dropped in this order: the server ends before its folder goes.
    _guardian: Guardian,
    folder: TempDir,
    address: Address,
    password: String,
}

enum Address {
    /// In the cluster's folder, which only the server's account and we can enter.
    Socket,
    /// On 127.0.0.1, with a password: every user of the machine gets that far.
    Tcp { port: u16 },
}

/// The shells that run the server and end it when stdin closes: however we end,
/// also when we are killed.
struct Guardian {
    /// As the server's account.
    server: Child,
    /// As ours, since the server's may not remove our folder. It waits for the
    /// other one.
    sweeper: Child,
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        for child in [&mut self.server, &mut self.sweeper] {
            if let Err(error) = child.wait() {
                tracing::warn!("cannot wait for the demo's Postgres to be gone: {error}");
            }
        }
    }
}

impl Guardian {
    fn start(folder: &Path, binaries: &Path, account: Account) -> io::Result<Guardian> {
        // Ctrl-C at a terminal is for us, and these have to come after us.
        let shell = |account: Account, script: &str| {
            let mut shell = account.command("/bin/sh");
            shell.args(["-c", script, "rowcast-demo-guardian"]).arg(folder);
            shell.current_dir("/").process_group(0).stdin(Stdio::piped());
            shell
        };
        let mut sweeper = shell(Account::Own, "trap '' HUP INT TERM; cat; rm -rf \"$1\"")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let until_gone = sweeper.stdin.take().expect("it was asked to be piped");
        let server = shell(account, include_str!("guardian.sh"))
            .arg(binaries)
            .stdout(until_gone)
            .stderr(Stdio::piped())
            .spawn();
        match server {
            Ok(server) => Ok(Guardian { server, sweeper }),
            Err(error) => {
                // Its stdin is closed by now, so it ends.
                sweeper.wait()?;
                Err(error)
            }
        }
    }

    /// What the server's shell says once the start is over.
    async fn first_words(&mut self) -> io::Result<String> {
        let stderr = self.server.stderr.take().expect("it was asked to be piped");
        let mut said = String::new();
        BufReader::new(ChildStderr::from_std(stderr)?).read_line(&mut said).await?;
        Ok(said)
    }
}

impl Cluster {
    pub(super) async fn start(binaries: &Binaries, account: Account) -> anyhow::Result<Cluster> {
        for _ in 1..ATTEMPTS {
            match Cluster::try_start(binaries, account).await? {
                Ok(cluster) => return Ok(cluster),
                Err(said) if said.contains("Address already in use") => {}
                Err(said) => bail!("Postgres does not start: {said}"),
            }
        }
        match Cluster::try_start(binaries, account).await? {
            Ok(cluster) => Ok(cluster),
            Err(said) => bail!("Postgres does not start: {said}"),
        }
    }

    /// The inner error is what the server said.
    async fn try_start(
        binaries: &Binaries,
        account: Account,
    ) -> anyhow::Result<Result<Cluster, String>> {
        let folder = tempfile::Builder::new()
            .prefix("rowcast-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .context("cannot write to the folder for temporary files")?;
        let address = Address::choose(folder.path())?;
        let password = random_text()?;
        place(account, &folder.path().join("password"), &password)?;
        place(account, &folder.path().join("settings"), &address.settings(folder.path()))?;
        account.give(folder.path())?;

        let mut guardian = Guardian::start(folder.path(), &binaries.folder, account)
            .context("cannot run /bin/sh")?;
        if guardian.first_words().await?.trim() != "started" {
            return Ok(Err(what_went_wrong(folder.path())));
        }
        Ok(Ok(Cluster { _guardian: guardian, folder, address, password }))
    }

    /// Also for files of the demo that shall go with the cluster.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A keyword DSN that leaves nothing to the user's own `PG*` variables.
    pub(super) fn dsn(&self, database: &str) -> String {
        let (host, port) = match self.address {
            Address::Socket => (self.folder.path().display().to_string(), SOCKET_PORT),
            Address::Tcp { port } => (Ipv4Addr::LOCALHOST.to_string(), port),
        };
        let host = host.replace('\\', r"\\").replace('\'', r"\'");
        format!(
            "host='{host}' port={port} user={USER} password={} dbname={database} {SESSION}",
            self.password
        )
    }
}

impl Address {
    fn choose(folder: &Path) -> io::Result<Address> {
        let socket = folder.join(format!(".s.PGSQL.{SOCKET_PORT}"));
        if socket.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Address::Socket);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Address::Tcp { port: listener.local_addr()?.port() })
    }

    fn settings(&self, folder: &Path) -> String {
        let folder = folder.display().to_string();
        let (addresses, sockets, port) = match self {
            Address::Socket => ("", folder.as_str(), SOCKET_PORT),
            Address::Tcp { port } => ("127.0.0.1", "", *port),
        };
        let port = port.to_string();
        let settings = [
            ("cluster_name", "rowcast-demo"),
            ("listen_addresses", addresses),
            ("unix_socket_directories", sockets),
            ("port", &port),
            ("wal_level", "logical"),
            ("max_slot_wal_keep_size", "256MB"),
            ("shared_buffers", "32MB"),
            ("max_connections", "20"),
            // Nothing of it outlives the demo.
            ("fsync", "off"),
            ("full_page_writes", "off"),
        ];
        let line = |(name, value): (&str, &str)| {
            format!("{name} = '{}'\n", value.replace('\\', r"\\").replace('\'', "''"))
        };
        settings.into_iter().map(line).collect()
    }
}

/// Writes a file that only the server's account and we can read.
fn place(account: Account, path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        fs::write(path, text)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        account.give(path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// 32 hexadecimal digits that nobody can guess.
pub(super) fn random_text() -> anyhow::Result<String> {
    use std::io::Read;

    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(hex::encode(bytes))
}

/// In the words of Postgres: the last lines of initdb and pg_ctl, and of the server's own log.
fn what_went_wrong(folder: &Path) -> String {
    const LINES: usize = 6;
    let mut said = Vec::new();
    for file in ["output", "log"] {
        let text = fs::read(folder.join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        said.extend(lines[lines.len().saturating_sub(LINES)..].iter().map(|it| it.to_string()));
    }
    if said.is_empty() {
        // Not even its output could be written.
        return format!(
            "its user cannot write to {}: set TMPDIR to a folder that everyone can enter",
            folder.display()
        );
    }
    said.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_too_long_for_a_socket_is_served_over_tcp() {
        assert!(matches!(Address::choose(Path::new("/tmp/x")), Ok(Address::Socket)));
        let long = format!("/tmp/{}", "x".repeat(100));
        let address = Address::choose(Path::new(&long)).unwrap();
        let settings = address.settings(Path::new(&long));
        assert!(settings.contains("listen_addresses = '127.0.0.1'"), "{settings}");
        assert!(settings.contains("unix_socket_directories = ''"), "{settings}");
    }
}

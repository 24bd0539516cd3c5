//! A throwaway Postgres cluster.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    cache, installed,
    proxy::Proxy,
    scratch,
    server::{as_server, give_to_server, initdb, template},
    wait::{SOON, eventually},
};

/// A major version of Postgres. The core suite runs on `DEFAULT`; `on_every_version!` marks what runs on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V14,
    V15,
    V16,
    V17,
    V18,
}

impl Version {
    pub const DEFAULT: Self = Self::V15;

    pub fn major(self) -> u32 {
        match self {
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The folder of `initdb` and `postgres`: 15 is Debian's, the others come from npm.
    pub fn bin(self) -> PathBuf {
        installed(match self {
            Self::V15 => "/usr/lib/postgresql/15/bin".into(),
            _ => cache().join(format!("postgres-{}/bin", self.major())),
        })
    }
}

/// One claim, as a test for each version: `on_every_version! { async fn claim(version: Version) { … } }` gives
/// `claim::on_14` to `claim::on_18`.
macro_rules! on_every_version {
    (async fn $claim:ident($version:ident: Version) $body:block) => {
        mod $claim {
            use super::*;

            async fn claim($version: Version) $body

            #[tokio::test]
            async fn on_14() {
                claim(Version::V14).await;
            }

            #[tokio::test]
            async fn on_15() {
                claim(Version::V15).await;
            }

            #[tokio::test]
            async fn on_16() {
                claim(Version::V16).await;
            }

            #[tokio::test]
            async fn on_17() {
                claim(Version::V17).await;
            }

            #[tokio::test]
            async fn on_18() {
                claim(Version::V18).await;
            }
        }
    };
}
pub(crate) use on_every_version;

/// What a fast stop takes at most where rowcast streams: its last two seconds, and what a busy machine takes to end
/// all the others. Where rowcast holds it up it is a quarter of a minute at least.
pub const FAST: Duration = Duration::from_secs(10);

/// How to ask a postmaster to stop.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// Waits for all clients to leave.
    Smart,
    /// Ends the clients, then waits for the walsenders to have everything confirmed.
    Fast,
    /// As a crash, but without stray processes.
    Immediate,
}

/// `wal_level=logical`, trust for everybody, superuser `postgres`, on a unix socket and on a TCP port that stays the
/// same over restarts. Dropping it stops it and removes it.
///
/// All clusters of one version are copies of one, so they have the same system identifier.
pub struct Cluster {
    version: Version,
    folder: TempDir,
    port: u16,
    postmaster: Mutex<Option<Child>>,
}

impl Cluster {
    /// A cluster of one's own: for tests that stop it, change its settings, or hold transactions open (a slot is
    /// created only after all transactions of the cluster). The others share one by `Database::fresh`.
    pub async fn start(version: Version, settings: &[(&str, &str)]) -> Self {
        Self::copy_of(template(version), version, settings).await
    }

    /// One with a system identifier of its own.
    pub async fn unrelated(version: Version) -> Self {
        Self::copy_of(&initdb(version), version, &[]).await
    }

    /// A hot standby that streams from this cluster by way of the proxy to it. This one is stopped for the copy, and
    /// gets a physical slot `standby`. From 17 on the standby keeps this one's failover slots too.
    pub async fn standby(&self, proxy: &Proxy) -> Self {
        self.psql("postgres", "select pg_create_physical_replication_slot('standby', true)").await;
        self.stop(Stop::Fast).await;
        let conninfo =
            format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port());
        let mut settings = vec![
            ("primary_conninfo", &*conninfo),
            ("primary_slot_name", "standby"),
            ("hot_standby_feedback", "on"),
            // Comes back soon after the network does.
            ("wal_retrieve_retry_interval", "100ms"),
        ];
        if self.version.major() >= 17 {
            settings.push(("sync_replication_slots", "on"));
        }
        let mut standby = Self::copy(self.version, &self.data(), &settings);
        standby.place("standby.signal", b"");
        // First: what finds no primary comes back for slots only after a minute.
        self.start_again().await;
        standby.open().await;
        standby
    }

    /// Makes a primary of a standby, with a timeline of its own.
    pub async fn promote(&self) {
        assert_eq!(self.psql("postgres", "select pg_promote()").await, "t");
    }

    async fn copy_of(original: &Path, version: Version, settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::copy(version, original, settings);
        cluster.open().await;
        cluster
    }

    fn copy(version: Version, original: &Path, settings: &[(&str, &str)]) -> Self {
        let folder = scratch::folder(&format!("pg{}", version.major()));
        let data = folder.path().join("data");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(original)
            .arg(&data)
            .current_dir(folder.path())
            .status();
        assert!(copied.expect("cp is there").success(), "copying the cluster failed");
        give_to_server(folder.path());
        let cluster = Self { version, folder, port: 0, postmaster: Mutex::new(None) };
        cluster.append("postgresql.conf", &cluster.configuration(settings));
        cluster
    }

    async fn open(&mut self) {
        // Another process may take the port before Postgres does.
        for _ in 0..5 {
            self.port = scratch::free_port();
            match self.try_start_again().await {
                Ok(()) => return,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("Postgres {} does not start: {log}", self.version.major()),
            }
        }
        panic!("no port for Postgres {} in five attempts", self.version.major());
    }

    /// The cluster that the tests of this process share. Databases and slots are made by `Database::fresh`.
    pub async fn shared(version: Version) -> Arc<Self> {
        static SHARED: [OnceCell<Arc<Cluster>>; 5] = [const { OnceCell::const_new() }; 5];
        let start = async || Arc::new(Self::start(version, &[]).await);
        SHARED[version as usize].get_or_init(start).await.clone()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Over TCP, as the superuser.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Over the unix socket, as the superuser.
    pub fn socket_url(&self, database: &str) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}:{}/{database}", self.port)
    }

    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls)
                .await
                .unwrap_or_else(|error| {
                    panic!("cannot connect to {}: {error:?}", self.url(database))
                });
        tokio::spawn(async move {
            // Tests stop servers under their clients; the client's next call reports it.
            let _ = connection.await;
        });
        client
    }

    /// Runs a script by `psql`, each statement a transaction of its own, and returns what it prints: unaligned, rows
    /// only.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        super::psql::run(&self.url(database), sql).await
    }

    /// Puts a file that only the server may read into the data folder, and returns its path.
    pub fn place(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.data().join(name);
        fs::write(&path, content).expect("the data folder is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        give_to_server(&path);
        path
    }

    /// Replaces `pg_hba.conf` and has it read.
    pub async fn set_hba(&self, lines: &str) {
        self.place("pg_hba.conf", lines.as_bytes());
        self.reload().await;
    }

    /// Writes settings, the last ones to win. They hold from the next `reload` or start on.
    pub fn set(&self, settings: &[(&str, &str)]) {
        self.append("postgresql.conf", &setting_lines(settings));
    }

    /// Has the configuration files read again.
    pub async fn reload(&self) {
        const NOTICED: &str = "received SIGHUP, reloading configuration files";
        let noticed = || self.log().matches(NOTICED).count();
        let before = noticed();
        self.signal(Signal::HUP);
        // A client that connects now is served after the postmaster is through with it.
        eventually(SOON, "the configuration is reloaded", async || {
            (noticed() > before).then_some(())
        })
        .await;
    }

    /// All that the server has logged.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Starts it after a `stop` or a `crash`.
    pub async fn start_again(&self) {
        if let Err(log) = self.try_start_again().await {
            panic!("Postgres {} does not start again: {log}", self.version.major());
        }
    }

    /// Returns how long it took. Panics after a minute.
    pub async fn stop(&self, how: Stop) -> Duration {
        let begun = Instant::now();
        self.request_stop(how);
        self.stopped(Duration::from_secs(60)).await;
        begun.elapsed()
    }

    /// Returns at once; `stopped` waits.
    pub fn request_stop(&self, how: Stop) {
        self.signal(match how {
            Stop::Smart => Signal::TERM,
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        });
    }

    pub async fn stopped(&self, deadline: Duration) {
        eventually(deadline, "Postgres has stopped", async || {
            let mut postmaster = self.postmaster();
            let running = postmaster.as_mut().expect("the cluster was started");
            running.try_wait().expect("it is our child")?;
            *postmaster = None;
            Some(())
        })
        .await;
    }

    pub async fn restart(&self, how: Stop) {
        self.stop(how).await;
        self.start_again().await;
    }

    /// Kills all its processes as a power failure would. What was committed is recovered at the next start.
    pub async fn crash(&self) {
        self.signal(Signal::KILL);
        let data = self.data();
        eventually(SOON, "the crashed processes are gone", async || {
            let left = processes_in(&data);
            for pid in &left {
                // It may be gone meanwhile, which is what is wanted.
                let _ = kill_process(*pid, Signal::KILL);
            }
            left.is_empty().then_some(())
        })
        .await;
        self.stopped(SOON).await;
    }

    fn configuration(&self, settings: &[(&str, &str)]) -> String {
        let socket_folder = self.folder.path().display().to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &socket_folder),
            ("wal_level", "logical"),
            ("max_connections", "200"),
            ("max_wal_senders", "50"),
            ("max_replication_slots", "50"),
            ("fsync", "off"),
            ("shared_buffers", "32MB"),
            // In the data folder, so that it is removed with it.
            ("dynamic_shared_memory_type", "mmap"),
            ("log_line_prefix", "%m [%p] %q%u@%d/%a "),
        ];
        setting_lines(&ours) + &setting_lines(settings)
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let opened = fs::OpenOptions::new().append(true).open(path);
        opened
            .and_then(|mut it| it.write_all(text.as_bytes()))
            .expect("the data folder is writable");
    }

    /// `Err` is what the server logged.
    async fn try_start_again(&self) -> Result<(), String> {
        assert!(self.postmaster().is_none(), "the cluster is running");
        let data = self.data();
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("the folder is writable");
        let output = log.try_clone().expect("a file can be shared");
        let child = as_server(Version::bin(self.version).join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &self.port.to_string()])
            .current_dir(&data)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .expect("postgres can be executed");
        let pid = child.id().to_string();
        *self.postmaster() = Some(child);
        let what = format!("Postgres {} accepts connections", self.version.major());
        eventually(Duration::from_secs(60), &what, async || {
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            // After a crash the file of the one before is still there.
            let is_open = |line: &str| ["ready", "standby"].contains(&line.trim());
            if lines.next() == Some(&pid) && lines.any(is_open) {
                return Some(Ok(()));
            }
            let mut postmaster = self.postmaster();
            postmaster.as_mut()?.try_wait().expect("it is our child")?;
            *postmaster = None;
            Some(Err(self.log()))
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let postmaster = self.postmaster();
        let child = postmaster.as_ref().expect("the cluster is running");
        kill_process(Pid::from_child(child), signal)
            .expect("it is our child and not yet waited for");
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked elsewhere must not keep this from being stopped.
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.postmaster().take() {
            // An error says that it has ended by itself.
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

fn setting_lines(settings: &[(&str, &str)]) -> String {
    settings
        .iter()
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect()
}

/// Backends are in sessions of their own; the data folder as working folder is what they have in common.
fn processes_in(folder: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder))
        .filter_map(Pid::from_raw)
        .collect()
}

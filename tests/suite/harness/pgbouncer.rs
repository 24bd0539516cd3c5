//! PgBouncer, the pooler, in front of a cluster.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{
    cluster::Cluster,
    installed,
    process::Process,
    scratch,
    server::as_server,
    wait::{SOON, eventually},
};

/// For how long a client has a session of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Session,
    Transaction,
}

/// Sessions are pooled for each user and database. Killed when dropped.
pub struct PgBouncer {
    pub port: u16,
    _process: Process,
    _folder: TempDir,
}

impl PgBouncer {
    /// With `size` sessions in each pool. Lets `users` in without a password, as whom they say they are, or all as
    /// the role `shared`.
    pub async fn start(
        cluster: &Cluster,
        mode: PoolMode,
        size: u32,
        users: &[&str],
        shared: Option<&str>,
    ) -> Self {
        // Another process may take the port before PgBouncer does.
        for _ in 0..5 {
            let port = scratch::free_port();
            let folder = scratch::folder("pgbouncer");
            configure(folder.path(), port, cluster, mode, size, users, shared);
            let mut command = as_server(binary());
            command.arg("pgbouncer.ini");
            let process = Process::spawn(&mut command, folder.path());
            let is_up = eventually(SOON, "PgBouncer listens", async || {
                if !process.is_running() {
                    return Some(false);
                }
                let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                connected.is_ok().then_some(true)
            })
            .await;
            if is_up {
                return Self { port, _process: process, _folder: folder };
            }
            let printed = process.stderr.all().join("\n");
            assert!(printed.contains("in use"), "PgBouncer does not start: {printed}");
        }
        panic!("no port for PgBouncer in five attempts");
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }
}

fn configure(
    folder: &Path,
    port: u16,
    cluster: &Cluster,
    mode: PoolMode,
    size: u32,
    users: &[&str],
    shared: Option<&str>,
) {
    let mode = match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    };
    let server = format!("host=127.0.0.1 port={}", cluster.port());
    let role = shared.map(|role| format!(" user={role}")).unwrap_or_default();
    let config = format!(
        "[databases]\n* = {server}{role}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = users.txt\npool_mode = {mode}\n\
         default_pool_size = {size}\n"
    );
    let mut known = String::new();
    for user in users {
        let _ = writeln!(known, "\"{user}\" \"\"");
    }
    fs::write(folder.join("pgbouncer.ini"), config).expect("the folder is writable");
    fs::write(folder.join("users.txt"), known).expect("the folder is writable");
}

fn binary() -> PathBuf {
    installed("/usr/sbin/pgbouncer".into())
}

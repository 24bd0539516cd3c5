//! Where the tests put and start things, so that nothing of it outlives the test process.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

use tempfile::TempDir;

struct Scratch {
    root: PathBuf,
    /// Its stdin is open for as long as this process lives: its closing is what the guardian waits for.
    _guardian: Child,
}

static SCRATCH: OnceLock<Scratch> = OnceLock::new();

/// A new folder that is removed on drop, and at the latest after this process. Whatever is started must have its
/// working folder here, or the guardian does not find it.
pub fn folder(name: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .permissions(readable_by_all())
        .tempdir_in(root())
        .expect("the scratch folder is writable")
}

pub fn root() -> &'static Path {
    &SCRATCH.get_or_init(Scratch::open).root
}

impl Scratch {
    fn open() -> Self {
        let root = tempfile::Builder::new()
            .prefix("rowcast-tests-")
            .permissions(readable_by_all())
            .tempdir()
            .expect("the folder for temporary files is writable")
            .keep();
        let root = root.canonicalize().expect("the folder was just made");
        let guardian = Command::new("sh")
            .args(["-c", include_str!("guardian.sh"), "rowcast-tests-guardian"])
            .arg(&root)
            .current_dir("/")
            // Ctrl-C at a terminal is for the tests, and the guardian has to come after them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh is there");
        Self { root, _guardian: guardian }
    }
}

/// Postgres runs as another user where the tests run as root.
fn readable_by_all() -> std::fs::Permissions {
    std::fs::Permissions::from_mode(0o755)
}

/// A TCP port of 127.0.0.1 that nobody listens on, never the same twice. It is below the range from which the
/// system takes ports for outgoing connections, so it stays free while a server is stopped.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes side by side start looking at different places.
    let start = (std::process::id() % 397 * 50) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

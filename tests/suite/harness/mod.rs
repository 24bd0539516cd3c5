//! What the tests run against: real Postgres clusters, a real Sockudo, real pusher-js, and the real binary.
//!
//! `tests/setup` installs them. All that is started here ends with its value, and at the latest with the test
//! process, even if that is killed (`scratch`).

pub mod browser;
pub mod capture;
pub mod client;
pub mod cluster;
pub mod database;
pub mod endpoint;
mod http;
pub mod lines;
pub mod node;
pub mod pgbouncer;
mod port;
pub mod process;
pub mod proxy;
pub mod psql;
mod pusher;
pub mod rowcast;
pub mod scratch;
mod server;
pub mod sockudo;
pub mod standby;
pub mod wait;

use std::path::PathBuf;

/// The folder into which `tests/setup` installs.
pub fn cache() -> PathBuf {
    let by =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(cache) = by("ROWCAST_TEST_CACHE") {
        return cache;
    }
    if rustix::process::geteuid().is_root() {
        return "/var/cache/rowcast-tests".into();
    }
    by("XDG_CACHE_HOME")
        .or_else(|| by("HOME").map(|home| home.join(".cache")))
        .expect("HOME is set")
        .join("rowcast-tests")
}

/// The path of an installed file, or a panic that says how to install it.
fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}

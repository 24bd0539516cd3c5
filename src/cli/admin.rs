//! Where a running process answers how it is.

use std::path::PathBuf;
use std::time::Instant;

use tracing::warn;

use super::run::state_name;
use crate::config::{Admin, Loaded};
use crate::observe::http::{ListenError, Server};
use crate::observe::{About, Observer};
use crate::postgres::Capture;

/// The Unix socket of the process that runs by this configuration.
pub(super) fn socket(loaded: &Loaded) -> anyhow::Result<PathBuf> {
    let name = state_name(&loaded.config.database)?;
    Ok(loaded.config.run.state_dir.join(format!("{name}.sock")))
}

/// Begins to answer. Ends with what it returns.
pub(super) async fn start(
    loaded: &Loaded,
    rejected_file: PathBuf,
    observer: Observer,
) -> anyhow::Result<Server> {
    let database = &loaded.config.database;
    let (capture, slot) = match database.capture {
        Capture::Wal => ("wal", Some(database.slot.to_string())),
        Capture::Triggers => ("triggers", None),
    };
    let config = loaded.path().canonicalize().unwrap_or_else(|_| loaded.path().to_owned());
    let about = About { config, capture, slot, rejected_file, since: Instant::now() };
    let address = loaded.config.run.admin.map(Admin::address);
    if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
        warn!(
            "[run] admin = \"{address}\": whoever reaches that address learns names of rules and \
             tables, since nobody has to log in; 127.0.0.1 is reached from this machine only"
        );
    }
    Ok(Server::start(observer, about, socket(loaded)?, address).await?)
}

/// What to do about a port that is taken.
pub(super) fn hint(error: &ListenError) -> String {
    let port = error.address.port();
    format!(
        "[run] admin: another port, or none; `ss -ltnp 'sport = :{port}'` says who listens there"
    )
}

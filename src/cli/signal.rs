use std::io;
use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a shell reports for a process that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// Turns true at the first SIGTERM or SIGINT. The second ends the process
/// where it stands: nothing is lost, since nothing undelivered was confirmed.
pub(super) fn shutdown() -> io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (shutdown_tx, shutdown_rx) = watch::channel(false);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        shutdown_tx.send_replace(true);
        next().await;
        process::exit(INTERRUPTED);
    });
    Ok(shutdown_rx)
}

use std::io::{self, IsTerminal};
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// What a shell reports for a process that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// Turns true at the first SIGTERM or SIGINT. The second ends the process
/// where it stands: nothing is lost, since nothing undelivered was confirmed.
pub(super) fn shutdown() -> io::Result<watch::Receiver<bool>> {
    shutdown_or(std::future::pending())
}

/// As [`shutdown`], for what reloads at SIGHUP: unless that says that the terminal
/// is gone in which it was started.
pub(super) fn daemon_shutdown() -> io::Result<watch::Receiver<bool>> {
    let mut hangups = Hangups::new()?;
    shutdown_or(async move { hangups.closed().await })
}

fn shutdown_or(
    closed: impl Future<Output = ()> + Send + 'static,
) -> io::Result<watch::Receiver<bool>> {
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
        tokio::select! {
            () = next() => {}
            () = closed => {}
        }
        shutdown_tx.send_replace(true);
        next().await;
        process::exit(INTERRUPTED);
    });
    Ok(shutdown_rx)
}

/// SIGHUPs as they come.
pub(super) struct Hangups {
    signal: Signal,
    had_terminal: bool,
}

impl Hangups {
    pub(super) fn new() -> io::Result<Hangups> {
        Ok(Hangups { signal: signal(SignalKind::hangup())?, had_terminal: has_terminal() })
    }

    /// Waits for one that is meant for us.
    pub(super) async fn next(&mut self) {
        while self.any().await == Hangup::Closed {}
    }

    async fn closed(&mut self) {
        while self.any().await == Hangup::Asked {}
    }

    async fn any(&mut self) -> Hangup {
        self.signal.recv().await;
        match self.had_terminal && !has_terminal() {
            true => Hangup::Closed,
            false => Hangup::Asked,
        }
    }
}

#[derive(PartialEq)]
enum Hangup {
    /// Somebody sent it.
    Asked,
    /// The terminal was closed: nobody is there who could stop us otherwise.
    Closed,
}

/// One that was closed is none any more.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

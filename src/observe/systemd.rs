//! What systemd is told of the service, where that is what started it.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::env;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{interval, sleep};
use tracing::{debug, error};

use super::{Pulses, Source, Standing};

/// How it stands is told so often, since that has times in it.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// And no more often than this, whatever happens.
const TELL_AT_MOST: Duration = Duration::from_millis(200);
/// Beyond the grace a stop may take so long, for what is confirmed last.
const STOP_MARGIN: Duration = Duration::from_secs(20);
/// Longer words are cut off.
const STATUS_CHARS: usize = 500;

/// The connection to the service manager.
#[derive(Clone, Copy, Debug)]
pub struct Systemd {
    /// Without a sign of life for so long it ends us.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// `None` if something else started us.
    pub fn from_env() -> Option<Systemd> {
        env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        Some(Systemd { watchdog: sd_notify::watchdog_enabled().filter(|it| !it.is_zero()) })
    }

    /// What stages are to give for the watchdog.
    pub fn pulses(&self) -> Pulses {
        self.watchdog.map(|watchdog| Pulses::every(watchdog / 4)).unwrap_or_default()
    }

    /// Tells that the service is ready, once it is known that it will not fail to
    /// start; how it stands; that it lives, as long as each task gives `pulses`; and
    /// that it stops, for which it may take `grace`. Never ends.
    pub async fn run(
        self,
        standing: watch::Receiver<Standing>,
        pulses: Pulses,
        shutdown: watch::Receiver<bool>,
        grace: Duration,
    ) {
        tokio::join!(words(standing), self.live(pulses), stop(shutdown, grace));
    }

    async fn live(self, pulses: Pulses) {
        let Some(watchdog) = self.watchdog else { return };
        let mut ticks = interval(watchdog / 4);
        let mut is_told = false;
        loop {
            ticks.tick().await;
            match pulses.silent_for(watchdog / 2, Instant::now()) {
                None => {
                    is_told = false;
                    tell(&[NotifyState::Watchdog]);
                }
                Some(task) if !is_told => {
                    is_told = true;
                    error!(
                        task,
                        "hangs: unless it goes on, systemd ends rowcast, and starts it again"
                    );
                }
                Some(_told) => {}
            }
        }
    }

    /// The rules are being read anew. To be followed by [`Systemd::reloaded`].
    pub fn reloads(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!("the clock cannot be read: {error}"),
        }
    }

    /// Other rules are in use, or those that were stay.
    pub fn reloaded(&self) {
        tell(&[NotifyState::Ready]);
    }
}

async fn words(mut standing: watch::Receiver<Standing>) {
    let mut is_ready = false;
    let mut told = String::new();
    loop {
        let (words, is_starting) = {
            let standing = standing.borrow_and_update();
            (
                status(&standing.words(Instant::now())),
                matches!(standing.source, Source::Starting { .. }),
            )
        };
        if !is_ready && !is_starting {
            is_ready = true;
            tell(&[NotifyState::Ready, NotifyState::Status(&words)]);
        } else if words != told {
            tell(&[NotifyState::Status(&words)]);
        }
        told = words;
        if is_ready {
            sleep(TELL_AT_MOST).await;
        }
        tokio::select! {
            Ok(()) = standing.changed() => {}
            () = sleep(TELL_EVERY) => {}
        }
    }
}

async fn stop(mut shutdown: watch::Receiver<bool>, grace: Duration) {
    if shutdown.wait_for(|shutdown| *shutdown).await.is_err() {
        return;
    }
    let within = (grace + STOP_MARGIN).as_micros();
    let within = NotifyState::ExtendTimeoutUsec(u32::try_from(within).unwrap_or(u32::MAX));
    tell(&[NotifyState::Stopping, within]);
}

/// On one line: what a server says must not be taken for what we do.
fn status(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS_CHARS).collect()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("systemd cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_stays_on_the_line_of_the_status() {
        assert_eq!(status("no changes: FATAL:\nMAINPID=1"), "no changes: FATAL: MAINPID=1");
        assert_eq!(status(&"é".repeat(1000)).chars().count(), STATUS_CHARS);
    }
}

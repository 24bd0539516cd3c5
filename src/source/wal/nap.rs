use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

/// Waits for less than a millisecond, to which the runtime's own timer rounds up.
#[derive(Debug)]
pub(super) struct Nap {
    /// Without one, a nap is over as it begins.
    timer: Option<AsyncFd<OwnedFd>>,
    is_on: bool,
}

impl Nap {
    #[expect(deprecated, reason = "what replaces it is unsafe; the timer stays the same open file")]
    pub(super) fn new() -> Nap {
        let timer = timerfd::create().and_then(AsyncFd::new);
        Nap { timer: timer.ok(), is_on: false }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn begin(&mut self, length: Duration) -> io::Result<()> {
        if let Some(timer) = &self.timer {
            timerfd::set(timer, length)?;
            self.is_on = true;
        }
        Ok(())
    }

    /// Cancel safe.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        if let Some(timer) = &self.timer {
            // To set it anew takes back that it went off: nothing is left to be read.
            timer.readable().await?.clear_ready();
        }
        self.is_on = false;
        Ok(())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod timerfd {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    pub(super) fn create() -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
    }

    pub(super) fn set(timer: impl AsFd, length: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: length.try_into().map_err(io::Error::other)?,
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

/// Other systems have none.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod timerfd {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    pub(super) fn create() -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set(_: impl AsFd, _: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn each_nap_lasts_as_long_as_it_was_to() {
        let mut nap = Nap::new();
        for length in [300, 50, 1000].map(Duration::from_micros) {
            let since = Instant::now();
            nap.begin(length).unwrap();
            assert!(nap.is_on());
            nap.end().await.unwrap();
            assert!(since.elapsed() >= length);
            assert!(!nap.is_on());
        }
    }
}

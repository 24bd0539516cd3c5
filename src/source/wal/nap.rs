use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Waits for less than a millisecond, to which the runtime's own timer rounds up.
#[derive(Debug)]
pub(super) struct Nap {
    timer: AsyncFd<OwnedFd>,
    is_on: bool,
}

impl Nap {
    #[expect(deprecated, reason = "what replaces it is unsafe; the timer stays the same open file")]
    pub(super) fn new() -> io::Result<Nap> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        Ok(Nap { timer, is_on: false })
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn begin(&mut self, length: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: length.try_into().map_err(io::Error::other)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.is_on = true;
        Ok(())
    }

    /// Cancel safe.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        // To set it anew takes back that it went off: nothing is left to be read.
        self.timer.readable().await?.clear_ready();
        self.is_on = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn each_nap_lasts_as_long_as_it_was_to() {
        let mut nap = Nap::new().unwrap();
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

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// How long what was read waits for a row that cannot be read. After that pages
/// are told to fetch again instead.
pub(super) const HOLDS_FOR: Duration = Duration::from_secs(30);
/// Once that is over: how often to try all the same, without waiting.
pub(super) const TRIES_EVERY: Duration = Duration::from_secs(30);

/// Whether to wait for what fails. Pure: time is told.
#[derive(Debug)]
pub(super) struct Patience {
    state: State,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    Working,
    Failing { since: Instant },
    GivenUp { next_try: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// `is_first` after it has worked.
    TryAgain { after: Duration, is_first: bool },
    /// `is_first` if there was a wait for it until now.
    GiveUp { is_first: bool },
}

impl Patience {
    pub(super) fn new() -> Patience {
        Patience { state: State::Working, backoff: Backoff::up_to(Duration::from_secs(5)) }
    }

    /// Not while it is given up, but for one attempt now and then.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        match self.state {
            State::Working | State::Failing { .. } => true,
            State::GivenUp { next_try } => now >= next_try,
        }
    }

    pub(super) fn failed(&mut self, now: Instant) -> Verdict {
        let since = match self.state {
            State::Working => {
                self.state = State::Failing { since: now };
                let after = self.backoff.next();
                return Verdict::TryAgain { after, is_first: true };
            }
            State::Failing { since } => since,
            State::GivenUp { .. } => {
                self.state = State::GivenUp { next_try: now + TRIES_EVERY };
                return Verdict::GiveUp { is_first: false };
            }
        };
        let left = HOLDS_FOR.saturating_sub(now.duration_since(since));
        if left.is_zero() {
            self.state = State::GivenUp { next_try: now + TRIES_EVERY };
            return Verdict::GiveUp { is_first: true };
        }
        Verdict::TryAgain { after: self.backoff.next().min(left), is_first: false }
    }

    /// Returns whether it had failed before.
    pub(super) fn succeeded(&mut self) -> bool {
        self.backoff.reset();
        !matches!(std::mem::replace(&mut self.state, State::Working), State::Working)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt that takes `each`, again and again, until it is given up;
    /// returns how long that took.
    fn give_up(patience: &mut Patience, mut now: Instant, each: Duration) -> Duration {
        let begun = now;
        loop {
            assert!(patience.may_try(now));
            now += each;
            match patience.failed(now) {
                Verdict::TryAgain { after, is_first } => {
                    assert_eq!(is_first, now == begun + each);
                    now += after;
                }
                Verdict::GiveUp { is_first } => {
                    assert!(is_first);
                    return now.duration_since(begun);
                }
            }
        }
    }

    #[test]
    fn a_failure_is_waited_out_for_half_a_minute_and_no_longer() {
        for each_ms in [1, 700, 5000] {
            let each = Duration::from_millis(each_ms);
            let took = give_up(&mut Patience::new(), Instant::now(), each);
            assert!(took >= HOLDS_FOR, "{took:?}");
            assert!(took <= HOLDS_FOR + each + each, "{took:?}");
        }
    }

    #[test]
    fn what_was_given_up_is_tried_once_in_a_while_and_not_waited_for() {
        let (mut patience, begun) = (Patience::new(), Instant::now());
        let mut now = begun + give_up(&mut patience, begun, Duration::from_secs(5));
        for _ in 0..3 {
            assert!(!patience.may_try(now));
            assert!(!patience.may_try(now + TRIES_EVERY - Duration::from_millis(1)));
            now += TRIES_EVERY;
            assert!(patience.may_try(now));
            assert_eq!(patience.failed(now), Verdict::GiveUp { is_first: false });
        }
        assert!(patience.succeeded());
        assert!(!patience.succeeded());
        assert!(matches!(patience.failed(now), Verdict::TryAgain { is_first: true, .. }));
    }
}

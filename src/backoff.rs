//! How long to wait before trying again. The `backoff` crate is not maintained
//! any more, so this is the only place that uses it, and only for its policy.

use std::time::Duration;

use ::backoff::ExponentialBackoff;
use ::backoff::backoff::Backoff as _;

/// Waits that grow from about 100 ms, without end, each spread by half so that
/// many clients do not come back at once.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

/// Up to about 30 s.
impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::up_to(Duration::from_secs(30))
    }
}

impl Backoff {
    /// Up to about `longest`.
    pub fn up_to(longest: Duration) -> Backoff {
        let initial = Duration::from_millis(100);
        Backoff(ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            randomization_factor: 0.5,
            multiplier: 2.0,
            max_interval: longest,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// How long to wait before the next attempt.
    #[expect(clippy::should_implement_trait, reason = "it has no end, so it is no iterator")]
    pub fn next(&mut self) -> Duration {
        self.0.next_backoff().expect("it ends only after a maximal time, and has none")
    }

    /// After a success: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_100_ms_to_30_s_with_jitter_and_start_anew_after_a_reset() {
        let mut backoff = Backoff::default();
        for expected_ms in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
            let wait = backoff.next().as_millis();
            assert!((expected_ms / 2..=expected_ms * 3 / 2 + 1).contains(&wait), "{wait} ms");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(151));
    }
}

use std::time::Duration;

/// So much ahead of [`STEADY`] is a backlog, or a large transaction.
const BACKLOG: usize = 64 << 10;
/// So far ahead a backlog gets: a server that is kept from its processor for some
/// milliseconds has no less of it for that.
const MOST: usize = 256 << 10;
/// Bytes in a microsecond. What brings less is read as it comes; a server that
/// reads its log for us brings ten times as much.
const STEADY: usize = 8;
/// A server brings some thirty kB meanwhile, and a socket's buffer holds some
/// hundred: one that is full would keep it from going on.
const GATHER: Duration = Duration::from_micros(300);
const GATHER_BYTES: usize = GATHER.subsec_micros() as usize * STEADY;

/// Says when to let what comes gather before it is read. Pure.
///
/// The server sends each row by itself, and a reader that waits is woken for each:
/// where many follow each other, that costs both of them more than the rows do. A
/// quiet stream is read at once.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// By how much what came is more than a steady stream had brought.
    ahead_bytes: usize,
    has_rested: bool,
}

impl Pace {
    /// So much was read, once it had been waited for so long.
    pub(super) fn read(&mut self, bytes: usize, waited: Duration) {
        let micros = usize::try_from(waited.as_micros()).unwrap_or(usize::MAX);
        let left = self.ahead_bytes.saturating_sub(micros.saturating_mul(STEADY));
        self.ahead_bytes = left.saturating_add(bytes).min(MOST);
        self.has_rested = false;
    }

    /// Nothing more is there: for how long not to look, if more is about to come.
    /// After that, a read must bring something first.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        if self.ahead_bytes < BACKLOG || self.has_rested {
            return None;
        }
        self.has_rested = true;
        // A steady stream brings so much meanwhile, and is soon read as it comes again.
        self.ahead_bytes -= GATHER_BYTES;
        Some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: usize = 400;
    /// Between two rows, for a reader that is woken for each.
    const TURN: Duration = Duration::from_micros(8);
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Rows that follow each other, after a while without any.
    fn rows(pace: &mut Pace, count: usize, after: Duration) {
        pace.read(ROW, after);
        (1..count).for_each(|_| pace.read(ROW, TURN));
    }

    #[test]
    fn a_backlog_gathers_between_two_reads() {
        let mut pace = Pace::default();
        rows(&mut pace, 1000, MILLISECOND);
        for _ in 0..3 {
            assert_eq!(pace.rest(), Some(GATHER));
            for _ in 0..2 {
                assert_eq!(pace.rest(), None, "what gathered is read first, or waited for");
            }
            pace.read(75 * ROW, TURN);
        }
    }

    #[test]
    fn a_server_that_does_not_get_its_turn_has_a_backlog_all_the_same() {
        let mut pace = Pace::default();
        rows(&mut pace, 1000, MILLISECOND);
        pace.read(75 * ROW, 10 * MILLISECOND);
        assert_eq!(pace.rest(), Some(GATHER));
    }

    #[test]
    fn a_small_transaction_is_never_delayed() {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            rows(&mut pace, 100, 5 * MILLISECOND);
            assert_eq!(pace.rest(), None);
        }
    }

    #[test]
    fn nor_is_a_steady_stream_of_single_rows() {
        let mut pace = Pace::default();
        for _ in 0..10_000 {
            pace.read(2 * ROW, MILLISECOND / 5);
            assert_eq!(pace.rest(), None);
        }
    }

    #[test]
    fn after_a_backlog_a_steady_stream_is_soon_read_as_it_comes() {
        let mut pace = Pace::default();
        rows(&mut pace, 10_000, MILLISECOND);
        let rests = (0..).take_while(|_| {
            pace.read(2 * ROW, Duration::ZERO);
            pace.rest().is_some()
        });
        assert!(rests.count() < 200);
        for _ in 0..100 {
            pace.read(2 * ROW, GATHER);
            assert_eq!(pace.rest(), None);
        }
    }

    #[test]
    fn after_a_backlog_a_quiet_stream_is_read_at_once() {
        let mut pace = Pace::default();
        rows(&mut pace, 10_000, MILLISECOND);
        assert_eq!(pace.rest(), Some(GATHER));
        pace.read(ROW, 50 * MILLISECOND);
        assert_eq!(pace.rest(), None);
    }
}

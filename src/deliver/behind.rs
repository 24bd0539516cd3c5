use std::collections::VecDeque;

use crate::change::{Position, Timestamp};

/// Since when what is not delivered yet was committed, near enough: never later than
/// it was. Pure.
#[derive(Debug, Default)]
pub(super) struct Behind(VecDeque<Mark>);

/// Up to this position, nothing was committed before this time.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: Position,
    at: Timestamp,
}

/// A long outage is measured as well by fewer marks.
const MAX_MARKS: usize = 1024;

impl Behind {
    /// What was committed from this time on has come, up to the position.
    pub(super) fn come(&mut self, position: Position, at: Timestamp) {
        if self.0.len() >= MAX_MARKS {
            self.join_pairs();
        }
        self.0.push_back(Mark { position, at });
    }

    /// Everything at or below the position was delivered.
    pub(super) fn delivered(&mut self, position: Position) {
        while self.0.front().is_some_and(|mark| mark.position <= position) {
            self.0.pop_front();
        }
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.0.front().map(|mark| mark.at)
    }

    fn join_pairs(&mut self) {
        let pairs = self.0.make_contiguous().chunks(2);
        let joined = pairs.map(|pair| Mark { position: pair[pair.len() - 1].position, ..pair[0] });
        self.0 = joined.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_never_told_as_younger_than_it_is_and_marks_stay_few() {
        let mut behind = Behind::default();
        assert_eq!(behind.oldest(), None);
        let at = |n: u64| Timestamp::from_unix_micros(n as i64);
        for n in 1..=100_000 {
            behind.come(Position::new(n), at(n));
            assert!(behind.0.len() <= MAX_MARKS);
        }
        for n in (1..=100_000).step_by(777) {
            assert!(behind.oldest() <= Some(at(n)), "at {n}");
            behind.delivered(Position::new(n - 1));
            assert!(behind.oldest().is_some_and(|oldest| oldest <= at(n)), "at {n}");
        }
        behind.delivered(Position::new(100_000));
        assert_eq!(behind.oldest(), None);
    }
}

//! The frontier: the highest position with nothing pending at or below it.
//! Pure bookkeeping over positions; what it returns is what the source may
//! confirm to the database, so a mistake here loses changes.

use std::collections::BTreeMap;

use crate::change::Position;

/// Counts what is on its way and says how far everything has arrived.
/// Its memory is bounded by what is pending.
#[derive(Debug, Default)]
pub struct Frontier {
    pending: BTreeMap<Position, Pending>,
    reached: Option<Position>,
    confirmed: Option<Position>,
}

/// The notifications of one commit that are on their way.
#[derive(Debug)]
struct Pending {
    count: usize,
    /// The highest position reached before this commit: what may be confirmed
    /// once everything below has arrived.
    reached_before: Option<Position>,
}

impl Frontier {
    /// A notification of the commit at `position` is on its way. `position` is
    /// above every position reached so far.
    pub fn enter(&mut self, position: Position) {
        debug_assert!(self.reached < Some(position), "{position:?} entered after it was reached");
        let reached_before = self.reached.filter(|reached| *reached < position);
        self.pending.entry(position).or_insert(Pending { count: 0, reached_before }).count += 1;
    }

    /// One more is on its way at a position where one is pending already: what
    /// was refused there is followed by something else.
    pub fn hold(&mut self, position: Position) {
        let Some(pending) = self.pending.get_mut(&position) else {
            unreachable!("nothing is pending at {position:?} to hold");
        };
        pending.count += 1;
    }

    /// One notification of the commit at `position` was accepted, or recorded
    /// as refused for good.
    pub fn leave(&mut self, position: Position) {
        let Some(pending) = self.pending.get_mut(&position) else {
            unreachable!("a notification left at {position:?} that never entered");
        };
        pending.count -= 1;
        if pending.count == 0 {
            self.pending.remove(&position);
        }
    }

    /// The source has nothing more at or below `position`, and all it had there
    /// has entered.
    pub fn reach(&mut self, position: Position) {
        self.reached = self.reached.max(Some(position));
    }

    /// The highest position that may be confirmed, once it has grown.
    pub fn advance(&mut self) -> Option<Position> {
        let free = match self.pending.values().next() {
            Some(lowest) => lowest.reached_before,
            None => self.reached,
        };
        if free <= self.confirmed {
            return None;
        }
        self.confirmed = free;
        free
    }

    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(value: u64) -> Position {
        Position::new(value)
    }

    #[test]
    fn an_idle_position_is_confirmed_at_once() {
        let mut frontier = Frontier::default();
        frontier.reach(at(7));
        assert_eq!(frontier.advance(), Some(at(7)));
        assert_eq!(frontier.advance(), None);
    }

    #[test]
    fn a_pending_notification_holds_its_commit_and_all_later_ones() {
        let mut frontier = Frontier::default();
        frontier.reach(at(5));
        frontier.enter(at(10));
        frontier.reach(at(12));
        frontier.enter(at(20));
        frontier.reach(at(22));
        frontier.leave(at(20));
        assert_eq!(frontier.advance(), Some(at(5)));
        assert_eq!(frontier.advance(), None);
        frontier.leave(at(10));
        assert_eq!(frontier.advance(), Some(at(22)));
    }

    #[test]
    fn an_unfinished_transaction_confirms_nothing_of_itself() {
        let mut frontier = Frontier::default();
        frontier.enter(at(10));
        frontier.leave(at(10));
        assert_eq!(frontier.advance(), None);
        frontier.reach(at(12));
        assert_eq!(frontier.advance(), Some(at(12)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// A transaction with this many notifications.
        Commit(usize),
        /// A position without a commit, as an idle keepalive brings it.
        Idle,
        /// One of the notifications on their way arrives or is refused.
        Leave(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (0..4_usize).prop_map(Step::Commit),
            1 => Just(Step::Idle),
            5 => any::<prop::sample::Index>().prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn never_confirms_past_a_pending_notification_and_all_of_it_once_idle(steps in steps()) {
            let mut frontier = Frontier::default();
            let mut pending: Vec<u64> = Vec::new();
            let mut clock = 0;
            let mut confirmed = 0;
            let mut check = |frontier: &mut Frontier, pending: &[u64], reached: u64| {
                if let Some(position) = frontier.advance() {
                    prop_assert!(position.value() > confirmed);
                    confirmed = position.value();
                }
                for position in pending {
                    prop_assert!(confirmed < *position, "{confirmed} confirmed, {position} pending");
                }
                if pending.is_empty() {
                    prop_assert_eq!(confirmed, reached);
                }
                prop_assert!(frontier.pending.len() <= pending.len());
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Commit(count) => {
                        clock += 10;
                        for _ in 0..count {
                            frontier.enter(at(clock));
                            pending.push(clock);
                        }
                        clock += 2;
                        frontier.reach(at(clock));
                    }
                    Step::Idle => {
                        clock += 1;
                        frontier.reach(at(clock));
                    }
                    Step::Leave(_) if pending.is_empty() => {}
                    Step::Leave(index) => {
                        let position = pending.swap_remove(index.index(pending.len()));
                        frontier.leave(at(position));
                    }
                }
                check(&mut frontier, &pending, clock)?;
            }
            while let Some(position) = pending.pop() {
                frontier.leave(at(position));
                check(&mut frontier, &pending, clock)?;
            }
        }
    }
}

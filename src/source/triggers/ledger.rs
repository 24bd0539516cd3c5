use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::change::Position;

/// Delivered rows stay for so long: many are deleted at once, and `tail` may see
/// them.
pub(super) const KEEP_DELIVERED: Duration = Duration::from_secs(1);
/// Rows that are deleted by one statement, about: polls wait for it.
const CHUNK: u64 = 2_000;

/// Which position stands for which transaction, until its rows may be deleted.
/// Pure.
///
/// A position is `session << 40 | n`, and `n` is odd for a transaction and the
/// even number after it once that is handed on whole.
#[derive(Debug)]
pub(super) struct Ledger {
    base: u64,
    /// Handed on and not deleted, in the order of their positions.
    handed: VecDeque<Handed>,
    /// How many were before the first of these.
    deleted: u64,
    /// How many of all are confirmed, and when that was known.
    confirmed: VecDeque<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    /// 0 for what is of no transaction.
    xid: u64,
    rows: u64,
}

/// What may be deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// All their rows. One alone may have many.
    pub(super) xids: Vec<u64>,
    pub(super) rows: u64,
    /// Everything at or below it is deleted with them.
    pub(super) position: Position,
}

impl Due {
    /// Whether its one transaction is to be deleted piece by piece.
    pub(super) fn is_large(&self) -> bool {
        self.rows > CHUNK && self.xids.len() == 1
    }
}

impl Ledger {
    /// Session numbers take what is above.
    pub(super) const SESSION_SHIFT: u32 = 40;

    pub(super) fn new(session: u64) -> Ledger {
        Ledger {
            base: session << Ledger::SESSION_SHIFT,
            handed: VecDeque::new(),
            deleted: 0,
            confirmed: VecDeque::new(),
        }
    }

    /// The position of the transaction that is handed on next.
    pub(super) fn next(&self) -> Position {
        Position::new(self.base + 2 * self.count() + 1)
    }

    /// That one is handed on whole, `rows` of it, and reaches the position that is
    /// returned.
    pub(super) fn handed_on(&mut self, xid: u64, rows: u64) -> Position {
        self.handed.push_back(Handed { xid, rows });
        Position::new(self.base + 2 * self.count())
    }

    /// Everything at or below `position` is delivered.
    pub(super) fn confirm(&mut self, position: Position, now: Instant) {
        let count = (position.value().saturating_sub(self.base) / 2).min(self.count());
        let before = self.confirmed.back().map_or(self.deleted, |(_, count)| *count);
        if count > before {
            self.confirmed.push_back((now, count));
        }
    }

    /// When something may be deleted, if anything.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.confirmed.front().map(|(at, _)| *at + KEEP_DELIVERED)
    }

    /// Takes the next that may be deleted; `now` is `None` for everything that is
    /// confirmed.
    pub(super) fn take_due(&mut self, now: Option<Instant>) -> Option<Due> {
        let is_due = |at: &Instant| now.is_none_or(|now| *at + KEEP_DELIVERED <= now);
        let due = self.confirmed.iter().take_while(|(at, _)| is_due(at)).last()?.1;
        let (mut xids, mut rows) = (Vec::new(), 0);
        while self.deleted < due
            && let Some(next) = self.handed.front()
            && (rows == 0 || rows + next.rows <= CHUNK)
        {
            if next.xid != 0 {
                xids.push(next.xid);
            }
            rows += next.rows;
            self.handed.pop_front();
            self.deleted += 1;
        }
        self.confirmed.retain(|(_, count)| *count > self.deleted);
        Some(Due { xids, rows, position: Position::new(self.base + 2 * self.deleted) })
    }

    fn count(&self) -> u64 {
        self.deleted + self.handed.len() as u64
    }
}

use crate::postgres::running::RunningTransactions;

/// How far triggers may write: the gate without its lowest bit. Pure.
///
/// Rows that transactions have written and not committed are seen by nobody, so
/// they are counted by the numbers that they took. Where a transaction was rolled
/// back its numbers are taken for rows, until all that ran then have ended.
#[derive(Debug)]
pub(super) struct Room {
    max_rows: i64,
    /// Of the numbers taken so far, how many are known to be of rows that were
    /// seen, or of none.
    accounted: i64,
    /// All numbers up to here are.
    floor: i64,
    /// Rows that were seen and not deleted.
    undeleted: i64,
    mark: Option<Mark>,
}

/// Once everything below `fence` has ended, all numbers up to `id` are accounted.
#[derive(Clone, Copy, Debug)]
struct Mark {
    id: i64,
    fence: u64,
    /// Rows seen since of which the number is above.
    seen_above: i64,
}

/// Rows that were seen in one poll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) rows: i64,
    /// Of these, those with a number above [`Room::floor`].
    pub(super) above_floor: i64,
    /// Those with one above [`Room::mark`].
    pub(super) above_mark: i64,
}

impl Room {
    pub(super) fn new(max_rows: u64) -> Room {
        let max_rows = i64::try_from(max_rows).unwrap_or(i64::MAX).min(1 << 60);
        // What is seen first was written before, as far as it counts.
        Room { max_rows, accounted: 0, floor: i64::MAX, undeleted: 0, mark: None }
    }

    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    pub(super) fn mark(&self) -> i64 {
        self.mark.map_or(i64::MAX, |mark| mark.id)
    }

    /// What rows of these numbers are.
    pub(super) fn count(&self, ids: impl Iterator<Item = i64>) -> Seen {
        let (floor, mark) = (self.floor(), self.mark());
        ids.fold(Seen::default(), |seen, id| Seen {
            rows: seen.rows + 1,
            above_floor: seen.above_floor + i64::from(id > floor),
            above_mark: seen.above_mark + i64::from(id > mark),
        })
    }

    /// A poll saw these, `last_id` being the highest number taken by then, and all
    /// that `snapshot` shows was seen.
    pub(super) fn polled(&mut self, seen: Seen, last_id: i64, snapshot: &RunningTransactions) {
        if self.floor == i64::MAX {
            (self.floor, self.accounted) = (last_id, last_id);
        }
        self.undeleted += seen.rows;
        self.accounted += seen.above_floor;
        if let Some(mark) = &mut self.mark {
            mark.seen_above += seen.above_mark;
            if snapshot.all_ended_below(mark.fence) {
                (self.floor, self.accounted) = (mark.id, mark.id + mark.seen_above);
                self.mark = None;
            }
        }
    }

    pub(super) fn deleted(&mut self, rows: u64) {
        self.undeleted -= rows.cast_signed();
    }

    /// What took a number up to `last_id`, that of the last poll, has an xid below
    /// `fence`.
    pub(super) fn fence(&mut self, last_id: i64, fence: u64) {
        if self.mark.is_none() {
            self.mark = Some(Mark { id: last_id, fence, seen_above: 0 });
        }
    }

    /// Whether many numbers, of those up to `last_id`, may be of no rows, and nothing is
    /// awaited that would tell.
    pub(super) fn wants_fence(&self, last_id: i64) -> bool {
        self.mark.is_none() && last_id - self.accounted >= self.worth_a_write()
    }

    /// The highest number that a row may have now.
    pub(super) fn limit(&self) -> i64 {
        (self.accounted + self.max_rows - self.undeleted).max(0)
    }

    /// Whether the limit is far enough from what was set to be worth a write.
    pub(super) fn is_news(&self, set: i64) -> bool {
        (self.limit() - set).abs() >= self.worth_a_write()
    }

    fn worth_a_write(&self) -> i64 {
        (self.max_rows / 16).max(1)
    }
}

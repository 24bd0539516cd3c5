use std::collections::VecDeque;

/// What one read brings at most, in rows.
pub(super) const MAX_ROWS: i64 = 2_000;
/// The same in bytes of values. Of a larger row it brings that one.
pub(super) const MAX_BYTES: i64 = 4 << 20;

/// A transaction of which all rows are visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) xid: u64,
    pub(super) last_id: i64,
    pub(super) rows: u32,
    /// Of its values, in KiB: a million transactions may be listed.
    kibibytes: u32,
}

/// The transactions of a poll that has more of them than one read may bring, in
/// the order in which they are handed on. Pure.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    listed: VecDeque<Listed>,
    /// The one that is handed on piece by piece, and what was.
    large: Option<Large>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Large {
    pub(super) xid: u64,
    /// Up to this one its rows were handed on.
    pub(super) after: i64,
    pub(super) rows: u64,
}

/// What to read next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// These, wholly.
    Whole(Vec<u64>),
    /// A piece of this one.
    Piece(Large),
}

impl Backlog {
    pub(super) fn new(mut listed: Vec<Listed>) -> Backlog {
        // What changed a row after another did has its last number above all of the
        // other's. No other order says that: ids are taken before commits, and in
        // another order than xids.
        listed.sort_unstable_by_key(|transaction| transaction.last_id);
        Backlog { listed: listed.into(), large: None }
    }

    /// What to read next. The same again until [`Backlog::piece_read`] or
    /// [`Backlog::end_large`] says how a piece went.
    pub(super) fn next(&mut self) -> Option<Read> {
        if let Some(large) = self.large {
            return Some(Read::Piece(large));
        }
        let (mut xids, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = self.listed.front() {
            rows += i64::from(next.rows);
            bytes += i64::from(next.kibibytes) << 10;
            if rows > MAX_ROWS || bytes > MAX_BYTES {
                break;
            }
            xids.push(next.xid);
            self.listed.pop_front();
        }
        if !xids.is_empty() {
            return Some(Read::Whole(xids));
        }
        let large = self.listed.pop_front()?;
        self.large = Some(Large { xid: large.xid, after: i64::MIN, rows: 0 });
        self.large.map(Read::Piece)
    }

    pub(super) fn piece_read(&mut self, last_id: i64, rows: u64) {
        if let Some(large) = &mut self.large {
            large.after = last_id;
            large.rows += rows;
        }
    }

    pub(super) fn end_large(&mut self) {
        self.large = None;
    }
}

impl Listed {
    pub(super) fn new(xid: u64, last_id: i64, rows: i64, bytes: i64) -> Listed {
        let fit = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Listed { xid, last_id, rows: fit(rows), kibibytes: fit((bytes + 1023) >> 10) }
    }
}

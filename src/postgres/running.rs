//! Which transactions other sessions do not see yet.

use std::error::Error;

use bytes::Buf;
use tokio_postgres::types::{FromSql, Type};

/// What `pg_current_snapshot()` says: the transactions that a query does not see
/// if it begins at the same moment. A transaction is sent to us when its commit
/// is flushed, and becomes visible after that: with a synchronous standby, only
/// once that has acknowledged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTransactions {
    /// All below it have ended.
    xmin: u64,
    /// It and all above it have not.
    xmax: u64,
    /// Those in between that have not.
    running: Vec<u64>,
}

impl RunningTransactions {
    /// Before anything was asked: no transaction is known to have ended.
    pub const UNKNOWN: RunningTransactions =
        RunningTransactions { xmin: 0, xmax: 0, running: Vec::new() };

    #[cfg(test)]
    pub(crate) fn of(xmax: u64, running: Vec<u64>) -> RunningTransactions {
        let xmin = running.iter().copied().min().unwrap_or(xmax);
        RunningTransactions { xmin, xmax, running }
    }

    /// Whether the changes of `xid`, which has committed, are visible.
    pub fn shows(&self, xid: u32) -> bool {
        // The stream has only the lower half of a transaction's id. Postgres
        // keeps all that it may meet within half of that, on either side.
        let behind = (self.xmax as u32).wrapping_sub(xid).cast_signed();
        let Ok(behind @ 1..) = u64::try_from(behind) else { return false };
        let Some(xid) = self.xmax.checked_sub(behind) else { return false };
        xid < self.xmin || !self.running.contains(&xid)
    }

    /// Whether all transactions below `xid` have ended.
    pub fn all_ended_below(&self, xid: u64) -> bool {
        xid <= self.xmin
    }

    /// Those of which it is known by their number that they had not ended.
    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// It and all above it had not ended, whether begun or not.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }
}

/// As `pg_snapshot_send` writes it: a count, xmin, xmax, and so many ids.
impl<'a> FromSql<'a> for RunningTransactions {
    fn from_sql(
        _: &Type,
        mut raw: &'a [u8],
    ) -> Result<RunningTransactions, Box<dyn Error + Sync + Send>> {
        let count = raw.try_get_u32()?;
        let (xmin, xmax) = (raw.try_get_u64()?, raw.try_get_u64()?);
        let running = (0..count).map(|_| raw.try_get_u64()).collect::<Result<_, _>>()?;
        Ok(RunningTransactions { xmin, xmax, running })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_SNAPSHOT
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HALF: u64 = 1 << 31;

    proptest! {
        #[test]
        fn an_xid_is_shown_exactly_if_the_whole_id_is(
            // Around where the lower half begins anew, most of the time.
            xmax in prop_oneof![(1..9_u64, 0..200_u64).prop_map(|(epoch, at)| (epoch << 32) + at - 100), HALF..1 << 60],
            span in 0..100_u64,
            running in prop::collection::btree_set(0..100_u64, 0..20),
            xid in prop_oneof![-150..150_i64, -(HALF as i64) + 1..HALF as i64],
        ) {
            let xmin = xmax - span;
            let running: Vec<u64> =
                running.into_iter().map(|above| xmin + above).filter(|xid| *xid < xmax).collect();
            let xid = xmax.checked_add_signed(xid).unwrap();
            let is_visible = xid < xmin || xid < xmax && !running.contains(&xid);
            let snapshot = RunningTransactions { xmin, xmax, running };
            prop_assert_eq!(snapshot.shows(xid as u32), is_visible);
        }

        #[test]
        fn what_is_cut_short_is_an_error(len in 0..36_usize) {
            let whole = [2_u32.to_be_bytes().as_slice(), &[0; 32]].concat();
            let read = RunningTransactions::from_sql(&Type::PG_SNAPSHOT, &whole[..len]);
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn nothing_is_shown_before_anything_was_asked() {
        for xid in [0, 3, u32::MAX / 2, u32::MAX] {
            assert!(!RunningTransactions::UNKNOWN.shows(xid), "{xid}");
        }
    }

    #[test]
    fn a_snapshot_is_read_as_the_server_writes_it() {
        let mut raw = 1_u32.to_be_bytes().to_vec();
        for xid in [730_u64, 740, 735] {
            raw.extend(xid.to_be_bytes());
        }
        let snapshot = RunningTransactions::from_sql(&Type::PG_SNAPSHOT, &raw).unwrap();
        assert_eq!(snapshot, RunningTransactions { xmin: 730, xmax: 740, running: vec![735] });
    }
}

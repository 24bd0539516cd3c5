use std::error::Error;
use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use postgres_protocol::types::timestamp_from_sql;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::change::Timestamp;

type BoxError = Box<dyn Error + Sync + Send>;

/// A transaction's whole id, which never comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xid(pub(super) u64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Xid, BoxError> {
        Ok(Xid(raw.try_get_u64()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
}

impl ToSql for Xid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }

    to_sql_checked!();
}

/// A moment, in microseconds since 2000.
pub(super) struct Moment(pub(super) Timestamp);

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Moment, BoxError> {
        Ok(Moment(Timestamp::from_postgres_micros(timestamp_from_sql(raw)?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// A `text[]` as it came, in the binary form.
struct TextArray<'a>(&'a [u8]);

impl<'a> FromSql<'a> for TextArray<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<TextArray<'a>, BoxError> {
        Ok(TextArray(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }
}

/// Rows of the outbox, over one block of bytes.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: Vec<OutboxRow>,
}

/// One row. `old` and `new` say where in the bytes an array is, as it came.
#[derive(Clone, Debug)]
pub(super) struct OutboxRow {
    pub(super) xid: u64,
    pub(super) id: i64,
    pub(super) at: Timestamp,
    pub(super) shape: Option<i32>,
    pub(super) operation: u8,
    pub(super) old: Option<Range<usize>>,
    pub(super) new: Option<Range<usize>>,
}

impl Rows {
    /// Adds a row of the columns xid, id, at, shape, op, old and new, the first of
    /// them at `first`.
    ///
    /// # Errors
    /// If they are of other types.
    pub(super) fn push(&mut self, row: &Row, first: usize) -> Result<(), tokio_postgres::Error> {
        let old = row.try_get::<_, Option<TextArray<'_>>>(first + 5)?;
        let new = row.try_get::<_, Option<TextArray<'_>>>(first + 6)?;
        let mut keep = |array: Option<TextArray<'_>>| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(array?.0);
            Some(start..self.bytes.len())
        };
        let (old, new) = (keep(old), keep(new));
        self.rows.push(OutboxRow {
            xid: row.try_get::<_, Xid>(first)?.0,
            id: row.try_get(first + 1)?,
            at: row.try_get::<_, Moment>(first + 2)?.0,
            shape: row.try_get(first + 3)?,
            operation: row.try_get::<_, i8>(first + 4)? as u8,
            old,
            new,
        });
        Ok(())
    }
}

/// Where the values of the array at `range` of `bytes` are, and `None` for NULL.
pub(super) struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    left: usize,
}

/// What should be an array of one dimension, and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoArray;

impl Values<'_> {
    /// `range` of `bytes` is an array in the binary form.
    /// <https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/adt/arrayfuncs.c>,
    /// `array_send`.
    pub(super) fn of(bytes: &[u8], range: Range<usize>) -> Result<Values<'_>, NoArray> {
        const HEAD: usize = 12;
        const DIMENSION: usize = 8;
        let head = bytes.get(range.clone()).ok_or(NoArray)?;
        let int = |at: usize| {
            let raw = head.get(at..at + 4).and_then(|raw| raw.try_into().ok()).ok_or(NoArray)?;
            usize::try_from(i32::from_be_bytes(raw)).map_err(|_| NoArray)
        };
        let (left, head) = match int(0)? {
            0 => (0, HEAD),
            1 => (int(HEAD)?, HEAD + DIMENSION),
            _ => return Err(NoArray),
        };
        Ok(Values { bytes, at: range.start + head, end: range.end, left })
    }
}

impl Iterator for Values<'_> {
    type Item = Result<Option<Range<usize>>, NoArray>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let start = self.at + 4;
        let raw = self.bytes.get(self.at..start).and_then(|raw| raw.try_into().ok());
        let Some(len) = raw.map(i32::from_be_bytes) else {
            self.left = 0;
            return Some(Err(NoArray));
        };
        let Ok(len) = usize::try_from(len) else {
            self.at = start;
            return Some(Ok(None));
        };
        self.at = start + len;
        if self.at > self.end {
            self.left = 0;
            return Some(Err(NoArray));
        }
        Some(Ok(Some(start..self.at)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `array_send` writes a `text[]`.
    pub(in super::super) fn array(values: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let int = |bytes: &mut Vec<u8>, value: usize| {
            bytes.extend(u32::try_from(value).unwrap().to_be_bytes());
        };
        int(&mut bytes, usize::from(!values.is_empty()));
        int(&mut bytes, usize::from(values.contains(&None)));
        int(&mut bytes, 25);
        if !values.is_empty() {
            int(&mut bytes, values.len());
            int(&mut bytes, 1);
        }
        for value in values {
            match value {
                Some(text) => {
                    int(&mut bytes, text.len());
                    bytes.extend(text.as_bytes());
                }
                None => bytes.extend((-1_i32).to_be_bytes()),
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn of_an_array_every_value_is_where_it_is(
            values in prop::collection::vec(prop::option::of(".{0,9}"), 0..5),
            before in 0..9_usize,
        ) {
            let values: Vec<Option<&str>> = values.iter().map(|value| value.as_deref()).collect();
            let mut bytes = vec![b'x'; before];
            let mut expected = Vec::new();
            bytes.extend(array(&values));
            let mut at = before + if values.is_empty() { 12 } else { 20 };
            for value in &values {
                at += 4;
                expected.push(Ok(value.map(|text| at..at + text.len())));
                at += value.map_or(0, str::len);
            }
            let found: Vec<_> = Values::of(&bytes, before..bytes.len()).unwrap().collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn whatever_else_comes_ends(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(values) = Values::of(&bytes, 0..bytes.len()) {
                for range in values.flatten().flatten() {
                    prop_assert!(bytes.get(range).is_some());
                }
            }
        }
    }
}

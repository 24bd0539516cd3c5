use std::ops::Range;

/// One column of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// The value in Postgres' text form. Usually UTF-8, but a `SQL_ASCII`
    /// database sends whatever bytes it holds.
    Text(&'a [u8]),
    /// A TOASTed value that the update did not touch, and that was not sent.
    Unchanged,
    /// Not carried: a column that the replica identity leaves out of an old row.
    Unknown,
    /// Left out of a huge row, since no rule names the column. Two omitted
    /// values are equal exactly if these fingerprints are.
    Omitted(&'a [u8]),
}

impl Value<'_> {
    /// Whether the value itself is here, NULL included.
    pub fn is_known(self) -> bool {
        matches!(self, Value::Null | Value::Text(_))
    }
}

/// Where a value lies in its batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    start: u32,
    len: u32,
}

impl Field {
    const OMITTED: u32 = u32::MAX - 3;
    const NULL_LEN: u32 = u32::MAX - 2;
    const UNCHANGED_LEN: u32 = u32::MAX - 1;
    const UNKNOWN_LEN: u32 = u32::MAX;
    /// Length of an omitted value's fingerprint.
    pub const FINGERPRINT: usize = 16;

    pub const NULL: Field = Field { start: 0, len: Field::NULL_LEN };
    pub const UNCHANGED: Field = Field { start: 0, len: Field::UNCHANGED_LEN };
    pub const UNKNOWN: Field = Field { start: 0, len: Field::UNKNOWN_LEN };

    /// The value at `range` of the batch's bytes. `None` past 4 GB, which no
    /// batch reaches.
    pub fn text(range: Range<usize>) -> Option<Field> {
        let start = u32::try_from(range.start).ok()?;
        let len = u32::try_from(range.len()).ok()?;
        (len < Field::OMITTED).then_some(Field { start, len })
    }

    /// An omitted value, whose fingerprint of [`Field::FINGERPRINT`] bytes
    /// begins at `start`.
    pub fn omitted(start: usize) -> Option<Field> {
        Some(Field { start: u32::try_from(start).ok()?, len: Field::OMITTED })
    }
}

/// A row of a change: one field for each column of its relation.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) fields: &'a [Field],
}

impl<'a> Row<'a> {
    /// A column past the row's end is unknown: a row may be older than the
    /// column that is asked for.
    pub fn value(self, column: usize) -> Value<'a> {
        let Some(field) = self.fields.get(column) else { return Value::Unknown };
        let slice = |len: usize| {
            let start = field.start as usize;
            self.bytes.get(start..start + len)
        };
        match field.len {
            Field::NULL_LEN => Value::Null,
            Field::UNCHANGED_LEN => Value::Unchanged,
            Field::UNKNOWN_LEN => Value::Unknown,
            Field::OMITTED => slice(Field::FINGERPRINT).map_or(Value::Unknown, Value::Omitted),
            len => slice(len as usize).map_or(Value::Unknown, Value::Text),
        }
    }
}

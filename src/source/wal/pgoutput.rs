//! The logical replication messages of protocol 1, decoded in place. Pure.
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

use std::ops::Range;

use crate::change::{Field, Lsn, ReplicaIdentity, Timestamp};

/// One message. Rows are in the `fields` that [`decode`] appended to.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        final_lsn: Lsn,
        at: Timestamp,
        xid: u32,
    },
    Commit {
        end_lsn: Lsn,
    },
    Origin,
    Type,
    Relation(RelationMessage<'a>),
    Insert {
        relation_oid: u32,
        new: Tuple,
    },
    Update {
        relation_oid: u32,
        /// Absent if no column of the replica identity changed.
        old: Option<Tuple>,
        new: Tuple,
    },
    Delete {
        relation_oid: u32,
        old: Tuple,
    },
    Truncate {
        relation_oids: Vec<u32>,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        transactional: bool,
        prefix: &'a [u8],
        len: usize,
        /// `None` if it was left out of a huge message.
        content: Option<&'a [u8]>,
    },
}

/// One row. Its fields end with the last column that anybody asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Tuple {
    pub fields: Range<usize>,
    pub columns: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    pub oid: u32,
    /// `pg_catalog` where the message leaves it empty.
    pub schema: &'a str,
    pub name: &'a str,
    pub identity: ReplicaIdentity,
    pub columns: Vec<ColumnMessage<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct ColumnMessage<'a> {
    pub name: &'a str,
    pub type_oid: u32,
    pub in_identity: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends early, at its byte {at}")]
    Truncated { at: usize },
    #[error("{bytes} bytes are left over after the message")]
    LeftOver { bytes: usize },
    #[error("there is no message with tag {tag:?} in protocol 1", tag = char::from(*tag))]
    UnknownTag { tag: u8 },
    #[error("there is no tuple of kind {kind:?}", kind = char::from(*kind))]
    UnknownTuple { kind: u8 },
    #[error("there is no column of kind {kind:?}", kind = char::from(*kind))]
    UnknownColumn { kind: u8 },
    #[error("there is no replica identity {kind:?}", kind = char::from(*kind))]
    UnknownIdentity { kind: u8 },
    #[error("a name is not UTF-8")]
    Name,
}

/// A column that the frame reader left out of a huge row; our own, between
/// [`super::frame`] and here, with a fingerprint of [`Field::FINGERPRINT`]
/// bytes in place of the value.
pub(super) const OMITTED: u8 = b'o';
/// Likewise, among the flags of a message whose content was left out.
pub(super) const WITHOUT_CONTENT: u8 = 0x80;

/// Decodes the message at `range` of `bytes` (one XLogData payload, without its
/// 25-byte header) and appends its rows' columns to `fields`, which point into
/// `bytes`. An unchanged TOAST column becomes [`Field::UNCHANGED`], never NULL.
///
/// `asked_for` tells of each column of a relation whether its value is, of the
/// others only that it is unchanged; `None` if each is.
///
/// # Errors
/// Any byte sequence that is not exactly one message of protocol 1. `fields`
/// may then have grown.
pub fn decode<'a, 'r>(
    bytes: &'a [u8],
    range: Range<usize>,
    asked_for: impl FnOnce(u32) -> Option<&'r [bool]>,
    fields: &mut Vec<Field>,
) -> Result<Message<'a>, DecodeError> {
    let mut reader = Reader { bytes: &bytes[..range.end], at: range.start, start: range.start };
    let message = match reader.u8()? {
        b'B' => {
            Message::Begin { final_lsn: reader.lsn()?, at: reader.timestamp()?, xid: reader.u32()? }
        }
        b'C' => {
            reader.take(1 + 8)?; // flags, commit_lsn
            let end_lsn = reader.lsn()?;
            reader.timestamp()?;
            Message::Commit { end_lsn }
        }
        b'O' => {
            reader.lsn()?;
            reader.string()?;
            Message::Origin
        }
        b'Y' => {
            reader.u32()?;
            reader.string()?;
            reader.string()?;
            Message::Type
        }
        b'R' => Message::Relation(relation(&mut reader)?),
        b'I' => {
            let relation_oid = reader.u32()?;
            let asked_for = asked_for(relation_oid);
            match reader.u8()? {
                b'N' => {
                    Message::Insert { relation_oid, new: tuple(&mut reader, asked_for, fields)? }
                }
                kind => return Err(DecodeError::UnknownTuple { kind }),
            }
        }
        b'U' => {
            let relation_oid = reader.u32()?;
            let asked_for = asked_for(relation_oid);
            let (old, kind) = match reader.u8()? {
                b'K' | b'O' => (Some(tuple(&mut reader, asked_for, fields)?), reader.u8()?),
                kind => (None, kind),
            };
            match kind {
                b'N' => {
                    let new = tuple(&mut reader, asked_for, fields)?;
                    Message::Update { relation_oid, old, new }
                }
                kind => return Err(DecodeError::UnknownTuple { kind }),
            }
        }
        b'D' => {
            let relation_oid = reader.u32()?;
            let asked_for = asked_for(relation_oid);
            match reader.u8()? {
                b'K' | b'O' => {
                    Message::Delete { relation_oid, old: tuple(&mut reader, asked_for, fields)? }
                }
                kind => return Err(DecodeError::UnknownTuple { kind }),
            }
        }
        b'T' => {
            let count = reader.u32()?;
            reader.u8()?; // CASCADE, RESTART IDENTITY: the relations are listed all the same
            // The count is the server's word: grow as the oids really come.
            let mut relation_oids = Vec::new();
            for _ in 0..count {
                relation_oids.push(reader.u32()?);
            }
            Message::Truncate { relation_oids }
        }
        b'M' => {
            let flags = reader.u8()?;
            reader.lsn()?;
            let prefix = reader.string()?;
            let len = reader.u32()? as usize;
            let content = match flags & WITHOUT_CONTENT {
                0 => Some(reader.take(len)?),
                _ => None,
            };
            Message::Logical { transactional: flags & 1 != 0, prefix, len, content }
        }
        tag => return Err(DecodeError::UnknownTag { tag }),
    };
    match range.end - reader.at {
        0 => Ok(message),
        bytes => Err(DecodeError::LeftOver { bytes }),
    }
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<RelationMessage<'a>, DecodeError> {
    let oid = reader.u32()?;
    let schema = match reader.name()? {
        "" => "pg_catalog",
        schema => schema,
    };
    let name = reader.name()?;
    let identity = match reader.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        b'n' => ReplicaIdentity::Nothing,
        kind => return Err(DecodeError::UnknownIdentity { kind }),
    };
    let count = reader.u16()?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let in_identity = reader.u8()? & 1 != 0;
        let name = reader.name()?;
        let type_oid = reader.u32()?;
        reader.u32()?; // the type's modifier
        columns.push(ColumnMessage { name, type_oid, in_identity });
    }
    Ok(RelationMessage { oid, schema, name, identity, columns })
}

fn tuple(
    reader: &mut Reader<'_>,
    asked_for: Option<&[bool]>,
    fields: &mut Vec<Field>,
) -> Result<Tuple, DecodeError> {
    let start = fields.len();
    let columns = usize::from(reader.u16()?);
    for column in 0..columns {
        let is_asked_for = asked_for.is_none_or(|asked_for| asked_for.get(column) != Some(&false));
        let field = match reader.u8()? {
            b'n' if !is_asked_for => continue,
            b'n' => Field::NULL,
            b'u' => Field::UNCHANGED,
            b't' => {
                let len = reader.u32()? as usize;
                let at = reader.at;
                reader.take(len)?;
                if !is_asked_for {
                    continue;
                }
                Field::text(at..at + len).ok_or(DecodeError::Truncated { at: reader.offset() })?
            }
            OMITTED => {
                let at = reader.at;
                reader.take(Field::FINGERPRINT)?;
                Field::omitted(at).ok_or(DecodeError::Truncated { at: reader.offset() })?
            }
            kind => return Err(DecodeError::UnknownColumn { kind }),
        };
        // Those that were passed over until here.
        fields.resize(start + column, Field::UNKNOWN);
        fields.push(field);
    }
    Ok(Tuple { fields: start..fields.len(), columns })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    start: usize,
}

impl<'a> Reader<'a> {
    fn offset(&self) -> usize {
        self.at - self.start
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self
            .at
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or(DecodeError::Truncated { at: self.offset() })?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take returns the length asked for"))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn::from(u64::from_be_bytes(bytes)))
    }

    fn timestamp(&mut self) -> Result<Timestamp, DecodeError> {
        self.array().map(|bytes| Timestamp::from_postgres_micros(i64::from_be_bytes(bytes)))
    }

    /// The bytes up to a NUL, which is passed over.
    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(DecodeError::Truncated { at: self.bytes.len() - self.start })?;
        self.at += len + 1;
        Ok(&rest[..len])
    }

    fn name(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.string()?).map_err(|_| DecodeError::Name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as the server writes it, part by part.
    fn message(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    fn decoded<'a>(bytes: &'a [u8], fields: &mut Vec<Field>) -> Result<Message<'a>, DecodeError> {
        decode(bytes, 0..bytes.len(), |_| None, fields)
    }

    fn text(value: &str) -> Vec<u8> {
        let len = u32::try_from(value.len()).unwrap().to_be_bytes();
        message(&[b"t", &len, value.as_bytes()])
    }

    fn oid(value: u32) -> [u8; 4] {
        value.to_be_bytes()
    }

    #[test]
    fn begin_and_commit_give_lsns_time_and_xid() {
        let begin = message(&[b"B", &7_u64.to_be_bytes(), &1_i64.to_be_bytes(), &oid(99)]);
        assert_eq!(
            decoded(&begin, &mut Vec::new()),
            Ok(Message::Begin {
                final_lsn: Lsn::from(7),
                at: Timestamp::from_postgres_micros(1),
                xid: 99
            })
        );
        let commit =
            message(&[b"C\0", &7_u64.to_be_bytes(), &9_u64.to_be_bytes(), &1_i64.to_be_bytes()]);
        assert_eq!(
            decoded(&commit, &mut Vec::new()),
            Ok(Message::Commit { end_lsn: Lsn::from(9) })
        );
    }

    #[test]
    fn a_relation_without_schema_is_of_pg_catalog() {
        let bytes = message(&[
            b"R",
            &oid(16384),
            b"\0posts\0d",
            &2_u16.to_be_bytes(),
            b"\x01id\0",
            &oid(20),
            &oid(u32::MAX),
            b"\0title\0",
            &oid(25),
            &oid(u32::MAX),
        ]);
        let expected = RelationMessage {
            oid: 16384,
            schema: "pg_catalog",
            name: "posts",
            identity: ReplicaIdentity::Default,
            columns: vec![
                ColumnMessage { name: "id", type_oid: 20, in_identity: true },
                ColumnMessage { name: "title", type_oid: 25, in_identity: false },
            ],
        };
        assert_eq!(decoded(&bytes, &mut Vec::new()), Ok(Message::Relation(expected)));
    }

    #[test]
    fn an_update_keeps_null_unchanged_and_text_apart() {
        let bytes = message(&[
            b"U",
            &oid(1),
            b"K",
            &1_u16.to_be_bytes(),
            &text("1"),
            b"N",
            &3_u16.to_be_bytes(),
            &text("2"),
            b"n",
            b"u",
        ]);
        let mut fields = vec![Field::NULL];
        let update = decoded(&bytes, &mut fields).unwrap();
        let old = Some(Tuple { fields: 1..2, columns: 1 });
        let new = Tuple { fields: 2..5, columns: 3 };
        assert_eq!(update, Message::Update { relation_oid: 1, old, new });
        assert_eq!(fields[3..], [Field::NULL, Field::UNCHANGED]);
    }

    #[test]
    fn of_columns_that_nobody_asks_for_only_what_is_unchanged_is_told() {
        let head = [b"I".as_slice(), &oid(7), b"N", &5_u16.to_be_bytes()].concat();
        let fields = |columns: [&[u8]; 5], asked_for: [bool; 5]| {
            let bytes = [&head, &columns.concat()[..]].concat();
            let mut fields = vec![Field::NULL];
            let insert = decode(&bytes, 0..bytes.len(), |_| Some(&asked_for), &mut fields);
            let new = Tuple { fields: 1..fields.len(), columns: 5 };
            assert_eq!(insert, Ok(Message::Insert { relation_oid: 7, new }));
            fields.split_off(1)
        };
        let (long, value) = (text("long"), text("1"));
        let columns: [&[u8]; 5] = [b"n", &long, &value, b"n", &long];
        let asked_for = [false, false, true, false, false];
        let at = head.len() + 1 + long.len() + value.len() - 1;
        let known = Field::text(at..at + 1).unwrap();
        assert_eq!(fields(columns, asked_for), [Field::UNKNOWN, Field::UNKNOWN, known]);
        assert_eq!(fields([b"n"; 5], [false; 5]), []);
        let unchanged = fields([&long, b"n", b"n", b"u", b"n"], [false; 5]);
        assert_eq!(unchanged[3], Field::UNCHANGED);
        assert_eq!(unchanged.len(), 4);
    }

    #[test]
    fn every_cut_of_a_message_is_a_typed_error() {
        let bytes = message(&[
            b"U",
            &oid(1),
            b"O",
            &1_u16.to_be_bytes(),
            &text("abc"),
            b"N",
            &1_u16.to_be_bytes(),
            &text("def"),
        ]);
        for end in 0..bytes.len() {
            let cut = decode(&bytes, 0..end, |_| None, &mut Vec::new());
            assert!(matches!(cut, Err(DecodeError::Truncated { .. })), "{end}: {cut:?}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decoded(&longer, &mut Vec::new()), Err(DecodeError::LeftOver { bytes: 1 }));
    }

    #[test]
    fn messages_of_later_protocols_are_refused_by_tag() {
        for tag in *b"SEcAbKPrp" {
            assert_eq!(decoded(&[tag], &mut Vec::new()), Err(DecodeError::UnknownTag { tag }));
        }
    }

    #[test]
    fn truncate_and_logical_messages_are_read_whole() {
        let bytes = message(&[b"T", &2_u32.to_be_bytes(), b"\x01", &oid(5), &oid(6)]);
        assert_eq!(
            decoded(&bytes, &mut Vec::new()),
            Ok(Message::Truncate { relation_oids: vec![5, 6] })
        );
        let bytes =
            message(&[b"M\x01", &9_u64.to_be_bytes(), b"rowcast\0", &2_u32.to_be_bytes(), b"{}"]);
        assert_eq!(
            decoded(&bytes, &mut Vec::new()),
            Ok(Message::Logical {
                transactional: true,
                prefix: b"rowcast",
                len: 2,
                content: Some(b"{}")
            })
        );
    }

    #[test]
    fn a_count_that_the_bytes_do_not_hold_allocates_nothing() {
        let bytes = message(&[b"T", &u32::MAX.to_be_bytes(), b"\0"]);
        assert!(decoded(&bytes, &mut Vec::new()).is_err());
        let bytes = message(&[b"M\0", &[0; 8], b"\0", &u32::MAX.to_be_bytes()]);
        assert!(decoded(&bytes, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tag in prop::sample::select(b"BCORYIUDTM".to_vec()),
                                       rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![tag];
            bytes.extend(rest);
            let _outcome = decoded(&bytes, &mut Vec::new());
        }

        #[test]
        fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = message(&[
                b"U", &oid(1), b"O", &2_u16.to_be_bytes(), &text("abc"), b"n",
                b"N", &2_u16.to_be_bytes(), &text("def"), b"u",
            ]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _outcome = decoded(&bytes, &mut Vec::new());
        }
    }
}

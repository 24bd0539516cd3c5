use std::mem;

use sha2::{Digest, Sha256};

use crate::change::Field;
use crate::source::wal::pgoutput::{OMITTED, WITHOUT_CONTENT};

/// Values up to here stay in a skimmed row, whether a rule names them or not.
const SMALL: usize = 1 << 10;
/// Values above this are left out even if a rule names them: no payload holds
/// them, and a condition on them is answered as for any unknown value.
const LARGEST: usize = 1 << 20;
/// With this much kept of a row, the rest of its values are left out likewise: a
/// row has up to 1600 columns.
const MOST: usize = 4 << 20;

/// Tag, flags and LSN of what `pg_logical_emit_message` wrote.
const MESSAGE_HEAD: usize = 1 + 1 + 8;
/// With this much of it one sees whether it is for us, and how long it is.
const MESSAGE: usize = MESSAGE_HEAD + 64;

/// Makes a huge row small while it is being read: a value that no rule names,
/// or that is too large for any payload, is replaced by its fingerprint. Of what
/// `pg_logical_emit_message` wrote only the content's length is kept. What
/// comes out is a message that [`super::super::pgoutput::decode`] reads.
#[derive(Debug)]
pub(in crate::source::wal) struct Skim {
    /// Bytes of the frame not yet consumed.
    left: usize,
    /// Whether a rule names the column; a column past its end is not named.
    wanted: Vec<bool>,
    state: State,
    /// A number being read, and how many of its bytes are there.
    partial: ([u8; 4], usize),
    column: usize,
    columns: usize,
    out: Vec<u8>,
}

#[derive(Debug)]
enum State {
    TupleKind,
    ColumnCount,
    ColumnKind,
    ValueLength,
    Copy {
        left: usize,
    },
    Hash {
        left: usize,
        digest: Box<Sha256>,
    },
    /// Not a row: kept up to [`MESSAGE`], then passed over.
    Message,
    Discard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkimError {
    #[error("a huge row has a column of kind {kind:?}", kind = char::from(*kind))]
    UnknownColumn { kind: u8 },
    #[error("a huge row ends early")]
    Truncated,
}

impl Skim {
    /// How many bytes of the payload [`Skim::new`] needs: tag and relation OID.
    pub(in crate::source::wal) const HEAD: usize = 5;

    /// The relation that a payload of this head is a row of; `None` if it is no row.
    pub(in crate::source::wal) fn relation_oid(head: [u8; Self::HEAD]) -> Option<u32> {
        let [tag, oid @ ..] = head;
        matches!(tag, b'I' | b'U' | b'D').then(|| u32::from_be_bytes(oid))
    }

    /// For a payload of `len` bytes that begins with `head`.
    pub(in crate::source::wal) fn new(
        head: [u8; Self::HEAD],
        len: usize,
        wanted: Vec<bool>,
    ) -> Skim {
        let state = match head[0] {
            b'I' | b'U' | b'D' => State::TupleKind,
            b'M' => State::Message,
            _ => State::Discard,
        };
        Skim {
            left: len - Self::HEAD,
            wanted,
            state,
            partial: ([0; 4], 0),
            column: 0,
            columns: 0,
            out: head.to_vec(),
        }
    }

    pub(in crate::source::wal) fn held_bytes(&self) -> usize {
        self.out.capacity()
    }

    pub(in crate::source::wal) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The small message, once done; `None` for what nobody reads.
    ///
    /// # Errors
    /// If the row did not end with its frame.
    pub(in crate::source::wal) fn finish(self) -> Result<Option<Vec<u8>>, SkimError> {
        match self.state {
            State::Discard => Ok(None),
            State::Message => Ok(without_content(self.out)),
            State::TupleKind if self.partial.1 == 0 => Ok(Some(self.out)),
            _ => Err(SkimError::Truncated),
        }
    }

    /// Takes what it can of `chunk` and says how many bytes that was: all of
    /// them, or those up to the frame's end.
    pub(in crate::source::wal) fn consume(&mut self, chunk: &[u8]) -> Result<usize, SkimError> {
        let mut at = 0;
        while at < chunk.len() && self.left > 0 {
            let rest = &chunk[at..chunk.len().min(at + self.left)];
            let taken = self.step(rest)?;
            at += taken;
            self.left -= taken;
        }
        Ok(at)
    }

    fn step(&mut self, rest: &[u8]) -> Result<usize, SkimError> {
        match &mut self.state {
            State::Discard => Ok(rest.len()),
            State::Message => {
                let kept = rest.len().min(MESSAGE - self.out.len());
                self.out.extend_from_slice(&rest[..kept]);
                Ok(rest.len())
            }
            State::Copy { left } => {
                let taken = rest.len().min(*left);
                self.out.extend_from_slice(&rest[..taken]);
                *left -= taken;
                if *left == 0 {
                    self.next_column();
                }
                Ok(taken)
            }
            State::Hash { left, digest } => {
                let taken = rest.len().min(*left);
                digest.update(&rest[..taken]);
                *left -= taken;
                if *left == 0 {
                    let digest = mem::take(digest).finalize();
                    self.out.extend_from_slice(&digest[..Field::FINGERPRINT]);
                    self.next_column();
                }
                Ok(taken)
            }
            State::TupleKind => {
                self.out.push(rest[0]);
                self.state = State::ColumnCount;
                Ok(1)
            }
            State::ColumnKind => {
                match rest[0] {
                    kind @ (b'n' | b'u') => {
                        self.out.push(kind);
                        self.next_column();
                    }
                    b't' => self.state = State::ValueLength,
                    kind => return Err(SkimError::UnknownColumn { kind }),
                }
                Ok(1)
            }
            State::ColumnCount => {
                if let Some(count) = self.number(rest[0], 2) {
                    self.out.extend_from_slice(&(count as u16).to_be_bytes());
                    self.columns = count;
                    self.column = 0;
                    self.state = if count == 0 { State::TupleKind } else { State::ColumnKind };
                }
                Ok(1)
            }
            State::ValueLength => {
                if let Some(len) = self.number(rest[0], 4) {
                    self.begin_value(len);
                }
                Ok(1)
            }
        }
    }

    /// The number of `size` bytes that ends with `byte`, once all are there.
    fn number(&mut self, byte: u8, size: usize) -> Option<usize> {
        let (bytes, have) = &mut self.partial;
        bytes[*have] = byte;
        *have += 1;
        if *have < size {
            return None;
        }
        let number = bytes[..size].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.partial = ([0; 4], 0);
        Some(number)
    }

    fn begin_value(&mut self, len: usize) {
        let wanted = self.wanted.get(self.column).copied().unwrap_or(false);
        let fits = len <= LARGEST && self.out.len() + len <= MOST;
        if len <= SMALL || (wanted && fits) {
            self.out.push(b't');
            self.out.extend_from_slice(&(len as u32).to_be_bytes());
            self.state = State::Copy { left: len };
        } else {
            self.out.push(OMITTED);
            self.state = State::Hash { left: len, digest: Box::default() };
        }
        if len == 0 {
            self.next_column();
        }
    }

    fn next_column(&mut self) {
        self.column += 1;
        self.state = if self.column == self.columns { State::TupleKind } else { State::ColumnKind };
    }
}

/// `None` if its prefix is longer than any of ours.
fn without_content(mut message: Vec<u8>) -> Option<Vec<u8>> {
    let prefix = message.get(MESSAGE_HEAD..)?.iter().position(|byte| *byte == 0)?;
    let end = MESSAGE_HEAD + prefix + 1 + size_of::<u32>();
    (end <= message.len()).then(|| {
        message.truncate(end);
        message[1] |= WITHOUT_CONTENT;
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{
        Batch, BatchBuilder, Column, Item, Kind, Operation, Position, Relation, ReplicaIdentity,
        TableName, Timestamp, Transaction, Value,
    };
    use crate::source::wal::pgoutput::{Message, decode};

    fn text(value: &[u8]) -> Vec<u8> {
        let len = u32::try_from(value.len()).unwrap().to_be_bytes();
        [b"t".as_slice(), &len, value].concat()
    }

    fn update(old: &[u8], new: &[u8]) -> Vec<u8> {
        let tuple = |kind: &[u8], big: &[u8]| {
            [kind, &4_u16.to_be_bytes(), &text(b"1"), &text(big), b"n", &text(b"")].concat()
        };
        [b"U\0\0\0\x07".as_slice(), &tuple(b"O", old), &tuple(b"N", new)].concat()
    }

    fn skimmed(message: &[u8], wanted: &[bool], chunk: usize) -> Vec<u8> {
        let head = message[..Skim::HEAD].try_into().unwrap();
        let mut skim = Skim::new(head, message.len(), wanted.to_vec());
        for piece in message[Skim::HEAD..].chunks(chunk) {
            assert_eq!(skim.consume(piece), Ok(piece.len()));
        }
        assert!(skim.is_done());
        skim.finish().unwrap().unwrap()
    }

    /// The change of a whole row that `message`, once skimmed, stands for.
    fn batch(message: Vec<u8>) -> Batch {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Kind::Text,
            in_identity: true,
            nullable: true,
        };
        let relation = Relation {
            oid: 7,
            table: TableName::new("public", "files"),
            renamed: None,
            columns: ["id", "content", "note", "empty"].map(column).into(),
            identity: ReplicaIdentity::Full,
            primary_key: vec![0],
        };
        let at = Timestamp::default();
        let transaction = Transaction { xid: 1, at, position: Position::new(1) };
        let mut batch = BatchBuilder::default();
        let update = decode(&message, 0..message.len(), |_| None, &mut batch.fields).unwrap();
        let Message::Update { relation_oid: 7, old, new } = update else { panic!("{update:?}") };
        let old = old.map(|old| old.fields);
        batch.change(&relation.into(), Operation::Update, transaction, old, Some(new.fields));
        batch.finish(message.into())
    }

    #[test]
    fn a_skimmed_row_tells_whether_its_large_values_are_equal() {
        let large = vec![b'x'; 5000];
        let mut other = large.clone();
        other[4999] = b'y';
        for (new, changed) in [(&large, false), (&other, true)] {
            for chunk in [1, 7, 4096, 100_000] {
                let bytes = skimmed(&update(&large, new), &[true, false, false, false], chunk);
                assert!(bytes.len() < 120);
                let batch = batch(bytes);
                let Some(Item::Change(change)) = batch.items().next() else { panic!("no change") };
                assert_eq!(change.column_changed(1), Some(changed));
                assert!(matches!(change.new_value(1), Value::Omitted(_)));
                assert_eq!(change.new_value(2), Value::Null);
                assert_eq!(change.new_value(3), Value::Text(b""));
            }
        }
    }

    #[test]
    fn a_wanted_value_stays_as_it_is() {
        let large = vec![b'x'; 5000];
        let message = update(&large, &large);
        assert_eq!(skimmed(&message, &[true, true, true, true], 11), message);
    }

    #[test]
    fn of_many_large_values_only_the_first_are_kept() {
        const COUNT: u16 = 100;
        let value = text(&vec![b'x'; LARGEST]);
        let head = [b"I\0\0\0\x07N".as_slice(), &COUNT.to_be_bytes()].concat();
        let message = [head, value.repeat(usize::from(COUNT))].concat();
        let bytes = skimmed(&message, &vec![true; usize::from(COUNT)], 100_000);
        assert!((MOST - LARGEST..=MOST + 4096).contains(&bytes.len()), "{}", bytes.len());
        assert!(decode(&bytes, 0..bytes.len(), |_| None, &mut Vec::new()).is_ok());
    }

    #[test]
    fn what_is_no_row_is_passed_over() {
        let mut skim = Skim::new(*b"Y1234", 105, Vec::new());
        assert_eq!(skim.consume(&[0; 200]), Ok(100));
        assert!(skim.is_done());
        assert_eq!(skim.finish(), Ok(None));
    }

    #[test]
    fn of_a_huge_message_only_prefix_and_length_are_kept() {
        let emitted = |prefix: &str| {
            let len = u32::try_from(LARGEST).unwrap().to_be_bytes();
            let head = [b"M\x01".as_slice(), &[0; 8], prefix.as_bytes(), b"\0", &len].concat();
            [head, vec![b'x'; LARGEST]].concat()
        };
        for chunk in [1, 7, 100_000] {
            let bytes = skimmed(&emitted("rowcast.broadcast"), &[], chunk);
            assert!(bytes.len() < MESSAGE);
            assert_eq!(
                decode(&bytes, 0..bytes.len(), |_| None, &mut Vec::new()),
                Ok(Message::Logical {
                    transactional: true,
                    prefix: b"rowcast.broadcast",
                    len: LARGEST,
                    content: None
                })
            );
        }
        let message = emitted(&"p".repeat(MESSAGE));
        let mut skim = Skim::new(message[..Skim::HEAD].try_into().unwrap(), message.len(), vec![]);
        skim.consume(&message[Skim::HEAD..]).unwrap();
        assert!(skim.held_bytes() < 2 * MESSAGE);
        assert_eq!(skim.finish(), Ok(None));
    }

    #[test]
    fn a_row_that_does_not_end_with_its_frame_is_an_error() {
        let message = update(b"a", b"b");
        let head = message[..Skim::HEAD].try_into().unwrap();
        let mut skim = Skim::new(head, message.len() - 3, Vec::new());
        skim.consume(&message[Skim::HEAD..]).unwrap();
        assert_eq!(skim.finish(), Err(SkimError::Truncated));
    }
}

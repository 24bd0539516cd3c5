//! The frames of a CopyBoth stream: where each begins and ends, and huge ones
//! made small. Pure; the session does the reading.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

mod skim;

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use crate::change::{Lsn, Timestamp};

pub(super) use skim::Skim;
pub use skim::SkimError;

/// A frame longer than this is skimmed rather than held whole.
pub(super) const HUGE: usize = 1 << 20;

/// Tag and length of a backend message.
const HEADER: usize = 5;
/// `w`, start LSN, end LSN, time.
const XLOG_HEADER: usize = 25;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// One pgoutput message, at `payload` of the buffer; `start` is zero for
    /// Relation and Type.
    XLogData {
        start: Lsn,
        payload: Range<usize>,
    },
    Keepalive {
        wal_end: Lsn,
        reply_requested: bool,
    },
    CopyDone,
    /// An ErrorResponse or a NoticeResponse, header included.
    Error(Range<usize>),
    Notice(Range<usize>),
    /// A changed setting.
    Aside,
    ReadyForQuery,
    CommandComplete,
    /// XLogData of more than [`HUGE`] bytes, `len` of them from the payload's
    /// first on; the payload begins at `payload`.
    Huge {
        start: Lsn,
        payload: usize,
        len: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {len} bytes cannot be")]
    Length { len: i32 },
    #[error("there is no message with tag {tag:?} in a replication stream", tag = char::from(*tag))]
    UnknownTag { tag: u8 },
    #[error("a message {tag:?} of {len} bytes is longer than any of its kind", tag = char::from(*tag))]
    TooLong { tag: u8, len: usize },
    #[error("a copy message is cut short")]
    Truncated,
}

/// The frame that begins at `at`, and where the next one begins. `None` if not
/// all of it has been read yet. A [`Frame::Huge`] is told by its first bytes.
pub(super) fn next(buffer: &[u8], at: usize) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some(header) = buffer.get(at..at + HEADER) else { return Ok(None) };
    let tag = header[0];
    let len = i32::from_be_bytes(header[1..].try_into().expect("a header has five bytes"));
    let end = usize::try_from(len)
        .ok()
        .filter(|len| *len >= 4)
        .map(|len| at + 1 + len)
        .ok_or(FrameError::Length { len })?;
    let body = at + HEADER;
    if end - at > HUGE {
        if tag != b'd' {
            return Err(FrameError::TooLong { tag, len: end - at });
        }
        let Some(copy) = buffer.get(body..body + XLOG_HEADER) else { return Ok(None) };
        let start = xlog_start(copy)?;
        let payload = body + XLOG_HEADER;
        return Ok(Some((Frame::Huge { start, payload, len: end - payload }, payload)));
    }
    if buffer.len() < end {
        return Ok(None);
    }
    let frame = match tag {
        b'd' => copy_data(&buffer[..end], body)?,
        b'c' => Frame::CopyDone,
        b'E' => Frame::Error(at..end),
        b'N' => Frame::Notice(at..end),
        b'S' | b'A' => Frame::Aside,
        b'Z' => Frame::ReadyForQuery,
        b'C' => Frame::CommandComplete,
        tag => return Err(FrameError::UnknownTag { tag }),
    };
    Ok(Some((frame, end)))
}

fn copy_data(buffer: &[u8], body: usize) -> Result<Frame, FrameError> {
    let copy = &buffer[body..];
    match copy.first() {
        Some(b'w') => {
            let start = xlog_start(copy)?;
            Ok(Frame::XLogData { start, payload: body + XLOG_HEADER..buffer.len() })
        }
        Some(b'k') => Ok(Frame::Keepalive {
            wal_end: Lsn::from(u64_at(copy, 1)?),
            reply_requested: *copy.get(17).ok_or(FrameError::Truncated)? != 0,
        }),
        Some(tag) => Err(FrameError::UnknownTag { tag: *tag }),
        None => Err(FrameError::Truncated),
    }
}

fn xlog_start(copy: &[u8]) -> Result<Lsn, FrameError> {
    match copy.first() {
        Some(b'w') if copy.len() >= XLOG_HEADER => Ok(Lsn::from(u64_at(copy, 1)?)),
        Some(b'w') | None => Err(FrameError::Truncated),
        Some(tag) => Err(FrameError::UnknownTag { tag: *tag }),
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, FrameError> {
    let taken = bytes.get(at..at + 8).ok_or(FrameError::Truncated)?;
    Ok(u64::from_be_bytes(taken.try_into().expect("eight bytes were taken")))
}

/// Appends a standby status update. The server moves the slot to `flush`.
pub(super) fn status_update(
    out: &mut BytesMut,
    write: Lsn,
    flush: Lsn,
    now: Timestamp,
    reply_wanted: bool,
) {
    const LEN: i32 = 4 + 1 + 3 * 8 + 8 + 1;
    out.put_u8(b'd');
    out.put_i32(LEN);
    out.put_u8(b'r');
    out.put_u64(write.into());
    out.put_u64(flush.into());
    out.put_u64(flush.into());
    out.put_i64(now.postgres_micros());
    out.put_u8(u8::from(reply_wanted));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copy(body: &[u8]) -> Vec<u8> {
        let len = i32::try_from(body.len() + 4).unwrap();
        [b"d".as_slice(), &len.to_be_bytes(), body].concat()
    }

    fn xlog(payload: &[u8]) -> Vec<u8> {
        copy(&[b"w".as_slice(), &7_u64.to_be_bytes(), &[0; 16], payload].concat())
    }

    #[test]
    fn frames_are_found_one_after_the_other_and_not_before_they_are_whole() {
        let keepalive = copy(&[b"k".as_slice(), &9_u64.to_be_bytes(), &[0; 8], &[1]].concat());
        let stream = [xlog(b"B"), keepalive].concat();
        let (frame, at) = next(&stream, 0).unwrap().unwrap();
        assert_eq!(frame, Frame::XLogData { start: Lsn::from(7), payload: 30..31 });
        let (frame, end) = next(&stream, at).unwrap().unwrap();
        assert_eq!(frame, Frame::Keepalive { wal_end: Lsn::from(9), reply_requested: true });
        assert_eq!(end, stream.len());
        for cut in at..stream.len() {
            assert_eq!(next(&stream[..cut], at), Ok(None));
        }
    }

    #[test]
    fn a_huge_frame_is_told_by_its_header() {
        let stream = xlog(&vec![b'I'; HUGE]);
        assert_eq!(next(&stream[..29], 0), Ok(None));
        let (frame, at) = next(&stream[..30], 0).unwrap().unwrap();
        assert_eq!(frame, Frame::Huge { start: Lsn::from(7), payload: 30, len: HUGE });
        assert_eq!(at, 30);
    }

    #[test]
    fn a_length_below_four_and_an_unknown_tag_are_errors() {
        assert_eq!(next(b"d\0\0\0\x03", 0), Err(FrameError::Length { len: 3 }));
        assert_eq!(next(b"d\xff\xff\xff\xff", 0), Err(FrameError::Length { len: -1 }));
        assert_eq!(next(b"x\0\0\0\x04", 0), Err(FrameError::UnknownTag { tag: b'x' }));
        assert_eq!(
            next(b"E\x7f\xff\xff\xff", 0),
            Err(FrameError::TooLong { tag: b'E', len: 0x8000_0000 })
        );
        assert_eq!(next(&copy(b""), 0), Err(FrameError::Truncated));
        assert_eq!(next(&copy(b"w123"), 0), Err(FrameError::Truncated));
        assert_eq!(next(&copy(b"k123"), 0), Err(FrameError::Truncated));
    }

    #[test]
    fn a_status_update_is_34_bytes_of_copy_data() {
        let mut out = BytesMut::new();
        status_update(&mut out, Lsn::from(2), Lsn::from(1), Timestamp::default(), true);
        assert_eq!(out.len(), 1 + 4 + 34);
        assert_eq!(out[1..5], 38_i32.to_be_bytes());
        assert_eq!(out[5], b'r');
        assert_eq!(out[6..14], 2_u64.to_be_bytes());
        assert_eq!(out[14..22], 1_u64.to_be_bytes());
        assert_eq!(out[22..30], 1_u64.to_be_bytes());
        assert_eq!(out[38], 1);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = next(&bytes, 0);
        }
    }
}

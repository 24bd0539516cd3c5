use std::io;
use std::ops::Range;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use tracing::debug;

use super::super::Wanted;
use super::super::said::PassedOver;
use super::decoder::{Decoder, DecoderError, Step};
use super::feedback::Feedback;
use super::frame::{self, Frame, FrameError, Skim, SkimError};
use crate::change::{Batch, Lsn, Relation};
use crate::postgres::ServerError;

/// Room to read into: what one read may bring, and so about what a batch holds.
const READ: usize = 256 << 10;
/// Columns in a batch, and what happened to rows, above which the rest of what was
/// read waits its turn.
const BATCH_FIELDS: usize = 8 << 10;
const BATCH_ENTRIES: usize = 2 << 10;

/// What was read of the stream and is not yet decoded. Pure: the session reads
/// and sends.
pub(super) struct Inbox {
    bytes: BytesMut,
    /// The huge row being read, and where it began.
    skim: Option<(Skim, Lsn)>,
    decoder: Decoder,
    passed_over: PassedOver,
}

/// What the bytes read so far amount to.
#[derive(Debug)]
pub(super) enum Next {
    Batch(Batch),
    /// More must be read first.
    NeedsBytes,
    /// A table is described that the catalog did not know: read the catalog,
    /// call [`Inbox::learn`], and ask again.
    NeedsCatalog,
    Error(ServerError),
    Notice(ServerError),
    /// The server ended the stream.
    Ended,
}

#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Skim(#[from] SkimError),
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    #[error("the server sent an error that cannot be read")]
    Response(#[source] io::Error),
}

impl Inbox {
    /// `bytes` came with the answer that started the stream.
    pub(super) fn new(bytes: BytesMut, catalog: Vec<Relation>, wanted: Wanted) -> Inbox {
        let decoder = Decoder::new(catalog, wanted);
        Inbox { bytes, skim: None, decoder, passed_over: PassedOver::default() }
    }

    /// Where to append what is read.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        // A quiet stream goes on in the block it has; a busy one wants a whole one.
        if self.bytes.capacity() - self.bytes.len() < READ / 4 {
            self.bytes.reserve(READ);
        }
        &mut self.bytes
    }

    /// What it holds for bytes that are not decoded.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.skim.as_ref().map_or(0, |(skim, _)| skim.held_bytes())
    }

    /// What messages to us it could not take.
    pub(super) fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// The highest position that a batch was given.
    pub(super) fn reached(&self) -> Lsn {
        self.decoder.reached()
    }

    pub(super) fn learn(&mut self, catalog: Vec<Relation>) {
        self.decoder.learn(catalog);
    }

    /// Tells `feedback` what was received and whether a reply is wanted.
    pub(super) fn next(&mut self, feedback: &mut Feedback) -> Result<Next, InboxError> {
        loop {
            if let Some((skim, _)) = &mut self.skim {
                let taken = skim.consume(&self.bytes)?;
                self.bytes.advance(taken);
                if !skim.is_done() {
                    return Ok(Next::NeedsBytes);
                }
                match self.skimmed()? {
                    Some(batch) => return Ok(Next::Batch(batch)),
                    None => continue,
                }
            }
            let (batch, frame) = self.changes(feedback)?;
            if let Some(batch) = batch {
                return Ok(Next::Batch(batch));
            }
            let Some((frame, end)) = frame else { return Ok(Next::NeedsBytes) };
            let next = match frame {
                Frame::XLogData { .. } => return Ok(Next::NeedsCatalog),
                Frame::Huge { start, payload, len } => match self.begin_skim(start, payload, len) {
                    true => continue,
                    false => return Ok(Next::NeedsBytes),
                },
                Frame::Error(range) => Next::Error(self.response(range)?),
                Frame::Notice(range) => Next::Notice(self.response(range)?),
                Frame::CopyDone | Frame::CommandComplete | Frame::ReadyForQuery => Next::Ended,
                Frame::Keepalive { .. } | Frame::Aside => {
                    unreachable!("changes takes every keepalive and aside")
                }
            };
            self.bytes.advance(end);
            return Ok(next);
        }
    }

    /// The batch that the whole frames at the front make, if any, and the frame
    /// that now stands at the front, if it is of another kind, with its end.
    #[expect(clippy::type_complexity, reason = "a pair for one caller, taken apart at once")]
    fn changes(
        &mut self,
        feedback: &mut Feedback,
    ) -> Result<(Option<Batch>, Option<(Frame, usize)>), InboxError> {
        let mut batch = self.decoder.batch();
        let mut at = 0;
        let mut other = false;
        while batch.fields.len() < BATCH_FIELDS
            && batch.len() < BATCH_ENTRIES
            && let Some((frame, end)) = frame::next(&self.bytes, at)?
        {
            match frame {
                Frame::XLogData { start, payload } => {
                    feedback.received(start);
                    match self.decoder.take(&self.bytes, payload, start, &mut batch)? {
                        Step::Taken => {}
                        Step::Unheard(unheard) => self.passed_over.add(unheard),
                        Step::NeedsCatalog => {
                            other = true;
                            break;
                        }
                    }
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    feedback.received(wal_end);
                    self.decoder.keepalive(wal_end, &mut batch);
                    if reply_requested {
                        feedback.reply_requested();
                    }
                }
                Frame::Aside => {}
                Frame::Huge { .. }
                | Frame::Error(_)
                | Frame::Notice(_)
                | Frame::CopyDone
                | Frame::CommandComplete
                | Frame::ReadyForQuery => {
                    other = true;
                    break;
                }
            }
            at = end;
        }
        feedback.received(self.decoder.reached());
        let bytes = self.bytes.split_to(at).freeze();
        let batch = (!batch.is_empty()).then(|| batch.finish(bytes));
        let frame = if other { frame::next(&self.bytes, 0)? } else { None };
        Ok((batch, frame))
    }

    /// Enters a huge row, if its head is there already.
    fn begin_skim(&mut self, start: Lsn, payload: usize, len: usize) -> bool {
        let Some(head) = self.bytes.get(payload..payload + Skim::HEAD) else { return false };
        let head = head.try_into().expect("the head's length was asked for");
        let wanted = Skim::relation_oid(head)
            .and_then(|oid| self.decoder.wanted(oid))
            .unwrap_or_default()
            .to_vec();
        debug!(%start, len, "a huge row");
        self.bytes.advance(payload + Skim::HEAD);
        self.skim = Some((Skim::new(head, len, wanted), start));
        true
    }

    fn skimmed(&mut self) -> Result<Option<Batch>, InboxError> {
        let Some((skim, start)) = self.skim.take() else { return Ok(None) };
        let Some(message) = skim.finish()? else { return Ok(None) };
        let mut batch = self.decoder.batch();
        let step = self.decoder.take(&message, 0..message.len(), start, &mut batch)?;
        if let Step::Unheard(unheard) = step {
            self.passed_over.add(unheard);
        }
        Ok((!batch.is_empty()).then(|| batch.finish(message.into())))
    }

    /// What the ErrorResponse or NoticeResponse at `range` says.
    fn response(&self, range: Range<usize>) -> Result<ServerError, InboxError> {
        let mut response = BytesMut::from(&self.bytes[range]);
        let parsed = match Message::parse(&mut response) {
            Ok(Some(Message::ErrorResponse(body))) => ServerError::from_fields(body.fields()),
            Ok(Some(Message::NoticeResponse(body))) => ServerError::from_fields(body.fields()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Err(error),
        };
        parsed.map_err(InboxError::Response)
    }

    /// Passes over what is still on its way after we ended the stream, and says
    /// whether the server has ended it too.
    pub(super) fn is_ended(&mut self) -> Result<bool, InboxError> {
        let mut at = 0;
        while self.skim.is_none()
            && let Some((frame, end)) = frame::next(&self.bytes, at)?
        {
            at = end;
            match frame {
                Frame::ReadyForQuery | Frame::Error(_) => return Ok(true),
                Frame::Huge { .. } => break,
                Frame::XLogData { .. }
                | Frame::Keepalive { .. }
                | Frame::CopyDone
                | Frame::CommandComplete
                | Frame::Notice(_)
                | Frame::Aside => {}
            }
        }
        self.bytes.advance(at);
        Ok(false)
    }

    /// Whether what comes next is the rest of a huge row, whose end is not
    /// worth waiting for.
    pub(super) fn is_within_a_row(&self) -> bool {
        self.skim.is_some()
            || matches!(frame::next(&self.bytes, 0), Ok(Some((Frame::Huge { .. }, _))))
    }
}

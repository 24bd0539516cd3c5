use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_postgres::error::SqlState;
use tracing::debug;

use super::connection::{self, CopyBoth, Persistence, ReplicationConnection};
use super::decoder::{Decoder, DecoderError, Step};
use super::feedback::{Feedback, StatusUpdate};
use super::frame::{self, Frame, FrameError, Skim, SkimError};
use crate::change::{Batch, BatchBuilder, Lsn, Position, Relation, Timestamp};
use crate::postgres::{self, Dsn, PublicationName, ServerError, SlotName, Stream};

/// Room to read into: what one read may bring, and so about what a batch holds.
const READ: usize = 256 << 10;
/// Columns in a batch, above which the rest of what was read waits its turn.
const BATCH_FIELDS: usize = 8 << 10;
/// A status update is 39 bytes: if even that does not go out, nobody reads.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// For the server to end the stream after we did.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells which columns of a table some rule names; asked for huge rows only.
pub type Wanted = Box<dyn Fn(&Relation) -> Vec<bool> + Send + Sync>;

pub struct Options {
    pub dsn: Dsn,
    pub slot: SlotChoice,
    pub publication: PublicationName,
    /// The server's, which drops a client that it has not heard of for so long.
    pub wal_sender_timeout: Duration,
    /// The tables as the catalog has them now.
    pub catalog: Vec<Relation>,
    pub wanted: Wanted,
    /// Stop reading once this position was reached, instead of going on.
    pub until: Option<Lsn>,
}

pub enum SlotChoice {
    Named(SlotName),
    /// A slot of this session's own, which ends with it.
    Temporary(SlotName),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Connection(#[from] connection::Error),
    #[error("the replication connection broke")]
    Io(#[source] io::Error),
    #[error("the server closed the replication connection")]
    Closed,
    #[error("the server ended the stream")]
    Ended,
    #[error("nothing came from the server for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the server does not take our status updates")]
    Unheard,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Skim(#[from] SkimError),
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// At the slot's place in the log there is no such publication yet, or no
    /// longer: its changes would be passed over.
    #[error(
        "publication {publication} is not there at the slot's place in the log: it was made after \
         the slot, or dropped; changes are held back, not lost"
    )]
    Publication { publication: PublicationName, source: ServerError },
    #[error("the catalog cannot be read")]
    Catalog(#[source] tokio_postgres::Error),
    #[error("the catalog cannot be read")]
    CatalogConnection(#[source] postgres::ConnectError),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Connection(error) => error.hint(),
            Error::CatalogConnection(error) => error.hint(),
            Error::Publication { .. } => Some(
                "rowcast setup, if it is missing; if it is there, the slot is older and can never \
                 be read: rowcast teardown, then rowcast setup, then have open pages reload"
                    .to_owned(),
            ),
            Error::Io(_)
            | Error::Closed
            | Error::Ended
            | Error::Silent(_)
            | Error::Unheard
            | Error::Catalog(_)
            | Error::Frame(_)
            | Error::Skim(_)
            | Error::Decoder(_) => None,
        }
    }

    /// Whether connecting again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connection(error) => error.is_transient(),
            Error::CatalogConnection(error) => error.is_transient(),
            Error::Io(_)
            | Error::Closed
            | Error::Ended
            | Error::Silent(_)
            | Error::Unheard
            | Error::Catalog(_) => true,
            Error::Frame(_) | Error::Skim(_) | Error::Decoder(_) | Error::Publication { .. } => {
                false
            }
        }
    }
}

/// One replication connection from START_REPLICATION to its end.
///
/// It confirms only positions that it received itself: a new session begins
/// with none.
pub struct Session {
    stream: Stream,
    inbox: BytesMut,
    outbox: BytesMut,
    decoder: Decoder,
    /// The huge row being read, and where it began.
    skim: Option<(Skim, Lsn)>,
    /// The catalog must be read before the inbox can be read on.
    needs_catalog: bool,
    feedback: Feedback,
    dsn: Dsn,
    slot: SlotName,
    publication: PublicationName,
    wanted: Wanted,
    until: Option<Lsn>,
}

impl Session {
    pub async fn open(options: Options) -> Result<Session, Error> {
        let Options { dsn, slot, publication, wal_sender_timeout, catalog, wanted, until } =
            options;
        let mut connection =
            ReplicationConnection::connect(&dsn, postgres::APPLICATION_NAME).await?;
        let slot = match slot {
            SlotChoice::Named(slot) => slot,
            SlotChoice::Temporary(slot) => {
                connection.create_slot(&slot, Persistence::Temporary).await?;
                slot
            }
        };
        // 0/0 goes on where the slot was confirmed. Any other position that is
        // ahead of that would be honoured, and what lies between lost.
        let CopyBoth { stream, inbox } =
            connection.start_replication(&slot, &publication, Lsn::ZERO).await?;
        Ok(Session {
            stream,
            inbox,
            outbox: BytesMut::new(),
            decoder: Decoder::new(catalog),
            skim: None,
            needs_catalog: false,
            feedback: Feedback::new(wal_sender_timeout, Instant::now()),
            dsn,
            slot,
            publication,
            wanted,
            until,
        })
    }

    /// Streams until `stop` turns true or its sender is gone, then goes on
    /// confirming until `confirmed`'s sender is gone, then ends the stream.
    ///
    /// `changes` is dropped as soon as reading stops, so that the stages behind
    /// it finish what they hold.
    ///
    /// # Errors
    /// Whatever broke the connection. What was confirmed until then may not
    /// have reached the server, which then sends it again.
    pub async fn run(
        mut self,
        changes: mpsc::Sender<Batch>,
        mut confirmed: watch::Receiver<Option<Position>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        self.stream_changes(changes, &mut confirmed, stop).await?;
        self.confirm_the_rest(confirmed).await?;
        match timeout(CLOSE_TIMEOUT, self.close()).await {
            Ok(closed) => closed,
            Err(_) => {
                debug!("the server did not end the stream in time");
                Ok(())
            }
        }
    }

    async fn stream_changes(
        &mut self,
        changes: mpsc::Sender<Batch>,
        confirmed: &mut watch::Receiver<Option<Position>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let stopped = async move {
            // An error means that whoever could stop us is gone: stop then too.
            let _gone = stop.wait_for(|stop| *stop).await;
        };
        tokio::pin!(stopped);
        let mut ready: Option<Batch> = None;
        loop {
            if ready.is_none() {
                ready = self.decode_available()?;
                if self.needs_catalog {
                    self.read_catalog().await?;
                    continue;
                }
            }
            if ready.is_none() && self.until.is_some_and(|until| self.decoder.reached() >= until) {
                return Ok(());
            }
            let reading = ready.is_none();
            let due_at = self.feedback.due_at().into();
            // Every arm is cancel-safe: a read that does not complete takes no
            // bytes, a reservation that does not complete sends nothing.
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                () = sleep_until(due_at) => self.send_status().await?,
                Ok(()) = confirmed.changed() => self.confirm(confirmed),
                permit = changes.reserve(), if !reading => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(ready.take().expect("reserved only for a batch that is ready"));
                    // While we did not read, the silence was ours.
                    self.feedback.heard(Instant::now());
                }
                read = read(&mut self.stream, &mut self.inbox), if reading => {
                    if read? == 0 {
                        return Err(Error::Closed);
                    }
                    self.feedback.heard(Instant::now());
                }
            }
            if reading && let Some(silence) = self.feedback.silent_for(Instant::now()) {
                return Err(Error::Silent(silence));
            }
        }
    }

    fn confirm(&mut self, confirmed: &mut watch::Receiver<Option<Position>>) {
        if let Some(position) = *confirmed.borrow_and_update() {
            self.feedback.confirm(Lsn::from(position.value()));
        }
    }

    async fn confirm_the_rest(
        &mut self,
        mut confirmed: watch::Receiver<Option<Position>>,
    ) -> Result<(), Error> {
        loop {
            tokio::select! {
                changed = confirmed.changed() => {
                    self.confirm(&mut confirmed);
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = sleep_until(self.feedback.due_at().into()) => self.send_status().await?,
            }
        }
    }

    /// Ends the stream as the protocol asks, so that the server has read the
    /// last status update before the connection closes.
    async fn close(mut self) -> Result<(), Error> {
        let update = self.feedback.update_now(Instant::now());
        self.put_status(update);
        frontend::copy_done(&mut self.outbox);
        self.flush().await?;
        loop {
            let mut at = 0;
            let mut ready = false;
            while let Some((frame, next)) = frame::next(&self.inbox, at)? {
                at = next;
                match frame {
                    Frame::ReadyForQuery => ready = true,
                    Frame::Error(range) => return Err(self.server_error(range)),
                    // Row data still on its way; the rest of a huge row cannot
                    // be told from frames, so the stream is left at that.
                    Frame::Huge { .. } => return Ok(()),
                    Frame::XLogData { .. }
                    | Frame::Keepalive { .. }
                    | Frame::CopyDone
                    | Frame::CommandComplete
                    | Frame::Notice(_)
                    | Frame::Aside => {}
                }
            }
            self.inbox.advance(at);
            if ready {
                break;
            }
            if read(&mut self.stream, &mut self.inbox).await? == 0 {
                return Ok(());
            }
        }
        frontend::terminate(&mut self.outbox);
        self.flush().await?;
        self.stream.shutdown().await.map_err(Error::Io)
    }

    async fn send_status(&mut self) -> Result<(), Error> {
        match self.feedback.update(Instant::now()) {
            Some(update) => {
                self.put_status(update);
                self.flush().await
            }
            None => Ok(()),
        }
    }

    fn put_status(&mut self, StatusUpdate { write, flush, reply_wanted }: StatusUpdate) {
        debug!(%write, %flush, "status update");
        // To stop at a position, one must hear of it, even if nothing happens.
        let reply_wanted = reply_wanted || self.until.is_some();
        frame::status_update(&mut self.outbox, write, flush, Timestamp::now(), reply_wanted);
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let sent = timeout(SEND_TIMEOUT, async {
            self.stream.write_all_buf(&mut self.outbox).await?;
            self.stream.flush().await
        });
        sent.await.map_err(|_| Error::Unheard)?.map_err(Error::Io)
    }

    /// The batch that the whole frames of the inbox make; `None` if they bring
    /// no change and no position.
    fn decode_available(&mut self) -> Result<Option<Batch>, Error> {
        while let Some((skim, _)) = &mut self.skim {
            let taken = skim.consume(&self.inbox)?;
            self.inbox.advance(taken);
            if !skim.is_done() {
                return Ok(None);
            }
            if let Some(batch) = self.finish_skim()? {
                return Ok(Some(batch));
            }
        }
        self.decode_frames()
    }

    fn decode_frames(&mut self) -> Result<Option<Batch>, Error> {
        let mut batch = BatchBuilder::default();
        let mut at = 0;
        while batch.fields.len() < BATCH_FIELDS
            && let Some((frame, next)) = frame::next(&self.inbox, at)?
        {
            match frame {
                Frame::XLogData { start, payload } => {
                    self.feedback.received(start);
                    let step = self.decoder.take(&self.inbox, payload, start, &mut batch)?;
                    if step == Step::NeedsCatalog {
                        self.needs_catalog = true;
                        break;
                    }
                }
                Frame::Keepalive { wal_end, reply_requested } => {
                    self.feedback.received(wal_end);
                    self.decoder.keepalive(wal_end, &mut batch);
                    if reply_requested {
                        self.feedback.reply_requested();
                    }
                }
                Frame::Huge { start, payload, len } => {
                    if at > 0 {
                        break;
                    }
                    return match self.begin_skim(start, payload, len) {
                        true => self.decode_available(),
                        false => Ok(None),
                    };
                }
                Frame::Error(range) => return Err(self.server_error(range)),
                Frame::Notice(range) => self.notice(range)?,
                Frame::Aside => {}
                Frame::CopyDone | Frame::CommandComplete | Frame::ReadyForQuery => {
                    return Err(Error::Ended);
                }
            }
            at = next;
        }
        self.feedback.received(self.decoder.reached());
        let bytes = self.inbox.split_to(at).freeze();
        Ok((!batch.is_empty()).then(|| batch.finish(bytes)))
    }

    /// Enters a huge row, if its head is there already.
    fn begin_skim(&mut self, start: Lsn, payload: usize, len: usize) -> bool {
        let Some(head) = self.inbox.get(payload..payload + Skim::HEAD) else { return false };
        let head = head.try_into().expect("the head's length was asked for");
        let wanted = Skim::relation_oid(head)
            .and_then(|oid| self.decoder.relation(oid))
            .map(&self.wanted)
            .unwrap_or_default();
        debug!(%start, len, "a huge row");
        self.inbox.advance(payload + Skim::HEAD);
        self.skim = Some((Skim::new(head, len, wanted), start));
        true
    }

    fn finish_skim(&mut self) -> Result<Option<Batch>, Error> {
        let Some((skim, start)) = self.skim.take() else { return Ok(None) };
        let Some(message) = skim.finish()? else { return Ok(None) };
        let mut batch = BatchBuilder::default();
        self.decoder.take(&message, 0..message.len(), start, &mut batch)?;
        Ok(Some(batch.finish(message.into())))
    }

    /// What the ErrorResponse at `range` of the inbox says.
    fn server_error(&self, range: Range<usize>) -> Error {
        match self.response(range) {
            // A slot that is missing was told at the start: up to 17 this is
            // how the stream says that the publication is.
            Ok(source) if *source.code() == SqlState::UNDEFINED_OBJECT => {
                Error::Publication { publication: self.publication.clone(), source }
            }
            Ok(error) => Error::Connection(connection::Error::from(error).about(&self.slot)),
            Err(error) => error,
        }
    }

    /// From 18 on a publication that is missing is only warned of, and its
    /// changes are passed over. By the code, since the text is translated.
    fn notice(&self, range: Range<usize>) -> Result<(), Error> {
        let source = self.response(range)?;
        if *source.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
            return Err(Error::Publication { publication: self.publication.clone(), source });
        }
        debug!(code = source.code().code(), "the server notes: {}", source.message());
        Ok(())
    }

    fn response(&self, range: Range<usize>) -> Result<ServerError, Error> {
        let mut response = BytesMut::from(&self.inbox[range]);
        let parsed = match Message::parse(&mut response) {
            Ok(Some(Message::ErrorResponse(body))) => ServerError::from_fields(body.fields()),
            Ok(Some(Message::NoticeResponse(body))) => ServerError::from_fields(body.fields()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Err(error),
        };
        parsed.map_err(|error| connection::Error::Malformed(error).into())
    }

    /// After a migration the stream describes a table that we have not read.
    async fn read_catalog(&mut self) -> Result<(), Error> {
        let connection = postgres::connect(&self.dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(Error::CatalogConnection)?;
        let catalog =
            postgres::catalog::relations(&connection.client).await.map_err(Error::Catalog)?;
        self.decoder.learn(catalog);
        self.needs_catalog = false;
        Ok(())
    }
}

async fn read(stream: &mut Stream, inbox: &mut BytesMut) -> Result<usize, Error> {
    // A quiet stream goes on in the block it has; a busy one wants a whole one.
    if inbox.capacity() - inbox.len() < READ / 4 {
        inbox.reserve(READ);
    }
    stream.read_buf(inbox).await.map_err(Error::Io)
}

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tokio_postgres::error::SqlState;
use tracing::debug;

use super::super::Wanted;
use super::connection::{self, CopyBoth, Persistence, ReplicationConnection};
use super::feedback::{Feedback, StatusUpdate};
use super::frame;
use super::inbox::{Inbox, InboxError, Next};
use super::nap::Nap;
use super::pace::Pace;
use crate::change::{Batch, Lsn, Position, Relation, Timestamp};
use crate::failpoint;
use crate::postgres::{self, Dsn, PublicationName, ServerError, SlotName, Stream};

/// A status update is 39 bytes: if even that does not go out, nobody reads.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// For the catalog, when the stream describes a table that it did not have.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);
/// For the server to end the stream after we did.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Options {
    pub dsn: Dsn,
    pub slot: SlotChoice,
    pub publication: PublicationName,
    /// The longest time between two status updates.
    pub status_interval: Duration,
    /// The server's, which drops a client that it has not heard of for so long.
    pub wal_sender_timeout: Duration,
    /// The tables as the catalog has them now.
    pub catalog: Vec<Relation>,
    pub wanted: Wanted,
    /// Begin here, though the slot may stand before it: what is committed up to
    /// here is passed over and confirmed.
    pub start: Option<Lsn>,
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
    #[error("the server sent what rowcast cannot read")]
    Unreadable(#[from] InboxError),
    /// At the slot's place in the log there is no such publication yet, or no
    /// longer: its changes would be passed over. The server says no more.
    #[error(
        "publication {publication} is not there at the slot's place in the log: it was made after \
         the slot, or dropped, so the changes there can never be read"
    )]
    Publication { publication: PublicationName, answer: ServerError },
    #[error("the catalog cannot be read")]
    Catalog(#[source] tokio_postgres::Error),
    #[error("the catalog cannot be read")]
    CatalogConnection(#[source] postgres::ConnectError),
    #[error("the catalog was not read within {} s", CATALOG_TIMEOUT.as_secs())]
    CatalogTimeout,
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Connection(error) => error.hint(),
            Error::CatalogConnection(error) => error.hint(),
            Error::Publication { .. } => Some(
                "rowcast setup, if it is missing; if it is there: rowcast teardown && rowcast \
                 setup, which goes on from now and tells all pages to fetch again"
                    .to_owned(),
            ),
            Error::Io(_)
            | Error::Closed
            | Error::Ended
            | Error::Silent(_)
            | Error::Unheard
            | Error::Catalog(_)
            | Error::CatalogTimeout
            | Error::Unreadable(_) => None,
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
            | Error::Catalog(_)
            | Error::CatalogTimeout => true,
            Error::Unreadable(_) | Error::Publication { .. } => false,
        }
    }
}

/// One replication connection from START_REPLICATION to its end.
///
/// It confirms only positions that it received itself, or where it was told to
/// begin: a new session has none.
pub struct Session {
    stream: Stream,
    inbox: Inbox,
    outbox: BytesMut,
    feedback: Feedback,
    dsn: Dsn,
    slot: SlotName,
    publication: PublicationName,
    until: Option<Lsn>,
}

/// The catalog on its way.
type Learning = Pin<Box<dyn Future<Output = Result<Vec<Relation>, Error>> + Send>>;

impl Session {
    pub async fn open(
        mut connection: ReplicationConnection,
        options: Options,
    ) -> Result<Session, Error> {
        let Options {
            dsn,
            slot,
            publication,
            status_interval,
            wal_sender_timeout,
            catalog,
            wanted,
            start,
            until,
        } = options;
        let slot = match slot {
            SlotChoice::Named(slot) => slot,
            SlotChoice::Temporary(slot) => {
                connection.create_slot(&slot, Persistence::Temporary).await?;
                slot
            }
        };
        // 0/0 goes on where the slot was confirmed.
        let CopyBoth { stream, inbox } =
            connection.start_replication(&slot, &publication, start.unwrap_or(Lsn::ZERO)).await?;
        let mut feedback = Feedback::new(status_interval, wal_sender_timeout, Instant::now());
        if let Some(start) = start {
            feedback.confirm(start);
        }
        Ok(Session {
            stream,
            inbox: Inbox::new(inbox, catalog, wanted),
            outbox: BytesMut::new(),
            feedback,
            dsn,
            slot,
            publication,
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
        let streamed = self.stream_changes(changes, &mut confirmed, stop).await;
        self.inbox.passed_over().tell();
        streamed?;
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
        let mut learning: Option<Learning> = None;
        let mut pace = Pace::default();
        let mut nap = Nap::new();
        loop {
            if ready.is_none() && learning.is_none() {
                match self.inbox.next(&mut self.feedback)? {
                    Next::Batch(batch) => ready = Some(batch),
                    Next::NeedsCatalog => learning = Some(Box::pin(read_catalog(self.dsn.clone()))),
                    Next::NeedsBytes => {}
                    Next::Notice(notice) => {
                        self.note(notice)?;
                        continue;
                    }
                    Next::Error(error) => return Err(self.refusal(error)),
                    Next::Ended => return Err(Error::Ended),
                }
            }
            let reading = ready.is_none() && learning.is_none();
            if reading && self.until.is_some_and(|until| self.inbox.reached() >= until) {
                return Ok(());
            }
            let due_at = self.feedback.due_at().into();
            let asked_at = Instant::now();
            // Every arm is cancel-safe: a read that does not complete takes no
            // bytes, a reservation that does not complete sends nothing, and the
            // catalog's future is kept.
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                () = sleep_until(due_at) => self.send_status().await?,
                Ok(()) = confirmed.changed() => self.confirm(confirmed),
                permit = changes.reserve(), if ready.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(ready.take().expect("reserved only for a batch that is ready"));
                    // While we did not read, the silence was ours.
                    self.feedback.heard(Instant::now());
                }
                catalog = learned(&mut learning), if learning.is_some() => {
                    self.inbox.learn(catalog?);
                    learning = None;
                    self.feedback.heard(Instant::now());
                }
                ended = nap.end(), if nap.is_on() => ended.map_err(Error::Io)?,
                read = self.stream.read_buf(self.inbox.room()), if reading && !nap.is_on() => {
                    let bytes = read.map_err(Error::Io)?;
                    if bytes == 0 {
                        return Err(Error::Closed);
                    }
                    let now = Instant::now();
                    pace.read(bytes, now - asked_at);
                    self.feedback.heard(now);
                }
                // The last arm: nothing is there to be read at once.
                Some(length) = async { pace.rest() }, if reading && !nap.is_on() => {
                    self.stream.rest().map_err(Error::Io)?;
                    nap.begin(length).map_err(Error::Io)?;
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

    fn refusal(&self, error: ServerError) -> Error {
        // A slot that is missing was told at the start: up to Postgres 17 this
        // is how the stream says that the publication is.
        match *error.code() == SqlState::UNDEFINED_OBJECT {
            true => Error::Publication { publication: self.publication.clone(), answer: error },
            false => Error::Connection(connection::Error::from(error).about(&self.slot)),
        }
    }

    /// From Postgres 18 on a publication that is missing is only warned of, and
    /// its changes are passed over. By the code, since the text is translated.
    fn note(&self, notice: ServerError) -> Result<(), Error> {
        if *notice.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
            let publication = self.publication.clone();
            return Err(Error::Publication { publication, answer: notice });
        }
        debug!(code = notice.code().code(), "the server notes: {}", notice.message());
        Ok(())
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
        while !self.inbox.is_ended()? {
            if self.inbox.is_within_a_row() {
                return Ok(());
            }
            if self.stream.read_buf(self.inbox.room()).await.map_err(Error::Io)? == 0 {
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
                self.flush().await?;
                if update.flush > Lsn::ZERO {
                    failpoint::reached("status-sent");
                }
                Ok(())
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
}

/// After a migration the stream describes a table that we have not read.
async fn read_catalog(dsn: Dsn) -> Result<Vec<Relation>, Error> {
    let reading = async {
        let connection = postgres::connect(&dsn, postgres::APPLICATION_NAME)
            .await
            .map_err(Error::CatalogConnection)?;
        postgres::catalog::relations(&connection.client).await.map_err(Error::Catalog)
    };
    timeout(CATALOG_TIMEOUT, reading).await.map_err(|_| Error::CatalogTimeout)?
}

/// What is on its way, once it is there.
async fn learned(learning: &mut Option<Learning>) -> Result<Vec<Relation>, Error> {
    match learning {
        Some(learning) => learning.await,
        None => pending().await,
    }
}

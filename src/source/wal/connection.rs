//! A replication session: logging in, the commands of the replication
//! protocol, and the switch to the stream of changes.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>
//!
//! tokio-postgres knows neither the `replication` parameter nor CopyBoth, so
//! this speaks the protocol itself, on postgres-protocol.

mod error;
mod login;

pub use error::Error;

use std::collections::HashMap;
use std::io;

use bytes::{Buf as _, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, Header, Message, ParameterStatusBody};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::debug;

use crate::change::Lsn;
use crate::postgres::{
    Dsn, PublicationName, ServerError, SlotName, Stream, quote_identifier,
    quote_replication_literal,
};

/// A session that may stream changes. Between calls it is idle.
///
/// No method is cancel safe: after a future was dropped, the answer to its
/// command may be half read. Drop the connection then.
#[derive(Debug)]
pub struct ReplicationConnection {
    stream: Stream,
    /// Read, but not taken yet.
    inbox: BytesMut,
    parameters: HashMap<String, String>,
    process_id: i32,
}

/// A session that streams changes.
#[derive(Debug)]
pub struct CopyBoth {
    pub stream: Stream,
    /// The first bytes of the stream, which came with the server's consent.
    pub inbox: BytesMut,
}

/// Which cluster it is, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Made by initdb, and the same for all copies.
    pub identifier: Box<str>,
    /// Another one after each promotion.
    pub timeline: u32,
    /// The end of its log.
    pub end: Lsn,
}

/// Whether a slot outlives the session that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Permanent,
    /// Permanent, and kept by standbys too. From Postgres 17 on.
    Failover,
    /// It ends with its session, and with the first error of that session.
    Temporary,
}

/// The rows of one answer, in text form.
pub type Rows = Vec<Vec<Option<String>>>;

/// No answer to a command is longer; only the stream itself may be.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// `CopyBothResponse`, which postgres-protocol does not know.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-COPYBOTHRESPONSE>
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// What the server sent: a message, or its consent to stream.
enum Reply {
    Message(Message),
    CopyBoth,
}

impl ReplicationConnection {
    /// A replication session with the first host of `dsn` that will do.
    ///
    /// # Errors
    /// [`Error::Connect`] with that of the last host tried.
    pub async fn connect(
        dsn: &Dsn,
        application_name: &str,
    ) -> Result<ReplicationConnection, Error> {
        Ok(login::connect(dsn, application_name).await?)
    }

    /// A setting that the server reported at login, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server process, as `pg_stat_replication` and `active_pid` name it.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// The server's major version, such as 17. `None` if it reports something
    /// that does not begin with a number.
    pub fn major_version(&self) -> Option<u32> {
        let version = self.parameter("server_version")?;
        let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        version[..end].parse().ok()
    }

    /// Makes a logical slot for pgoutput and returns its consistent point: it
    /// streams what is committed after that. This waits for every transaction
    /// that is open now.
    ///
    /// # Errors
    /// [`Error::SlotExists`], [`Error::WalLevel`], [`Error::TooManySlots`].
    pub async fn create_slot(
        &mut self,
        slot: &SlotName,
        persistence: Persistence,
    ) -> Result<Lsn, Error> {
        let command = create_slot_command(slot, persistence, self.major_version());
        let rows = self.query(&command).await.map_err(|error| error.about(slot))?;
        let consistent_point = || rows.first()?.get(1)?.as_deref()?.parse().ok();
        consistent_point().ok_or(Error::Answer { command: "CREATE_REPLICATION_SLOT" })
    }

    /// Has standbys keep the slot too. From Postgres 17 on.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::SlotInUse`].
    pub async fn set_failover(&mut self, slot: &SlotName) -> Result<(), Error> {
        let slot_name = quote_identifier(slot.as_str());
        let command = format!("ALTER_REPLICATION_SLOT {slot_name} (FAILOVER true)");
        self.query(&command).await.map_err(|error| error.about(slot))?;
        Ok(())
    }

    /// Drops a slot that nobody uses.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::SlotInUse`].
    pub async fn drop_slot(&mut self, slot: &SlotName) -> Result<(), Error> {
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(slot.as_str()));
        self.query(&command).await.map_err(|error| error.about(slot))?;
        Ok(())
    }

    pub async fn identify_system(&mut self) -> Result<System, Error> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let column = |index: usize| rows.first()?.get(index)?.as_deref();
        let system = || {
            Some(System {
                identifier: column(0)?.into(),
                timeline: column(1)?.parse().ok()?,
                end: column(2)?.parse().ok()?,
            })
        };
        system().ok_or(Error::Answer { command: "IDENTIFY_SYSTEM" })
    }

    /// Where the server left timeline `earlier` on its way to `timeline`. `None`
    /// if it was never on that, or does not know any more.
    pub async fn left_timeline(
        &mut self,
        earlier: u32,
        timeline: u32,
    ) -> Result<Option<Lsn>, Error> {
        const FIRST: u32 = 1;
        if timeline == FIRST {
            return Ok(None);
        }
        match self.query(&format!("TIMELINE_HISTORY {timeline}")).await {
            Ok(rows) => {
                let history = rows.first().and_then(|row| row.get(1)?.as_deref());
                Ok(history.and_then(|history| switch_point(history, earlier)))
            }
            Err(Error::Server(answer)) => {
                debug!(%answer, "the server does not have the history of its timeline");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Runs one command, or several statements of SQL, by the simple query
    /// protocol, and returns the rows of all.
    ///
    /// # Errors
    /// [`Error::Server`] and its kin leave the session usable; after any other
    /// it is not.
    pub async fn query(&mut self, command: &str) -> Result<Rows, Error> {
        self.send(|buf| frontend::query(command, buf)).await?;
        let mut rows = Vec::new();
        let mut failure: Option<ServerError> = None;
        loop {
            let reply = match (self.receive().await, failure.take()) {
                (Ok(reply), earlier) => {
                    failure = earlier;
                    reply
                }
                // A fatal error is not followed by ReadyForQuery, but by the end.
                (Err(Error::Closed | Error::Broken(_)), Some(fatal)) => return Err(fatal.into()),
                (Err(error), _) => return Err(error),
            };
            match reply {
                Reply::Message(Message::DataRow(row)) => rows.push(texts(&row)?),
                Reply::Message(Message::ErrorResponse(body)) => {
                    failure = Some(ServerError::parse(&body).map_err(Error::Malformed)?);
                }
                Reply::Message(Message::ReadyForQuery(_)) => break,
                Reply::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse,
                ) => {}
                Reply::Message(_) => return Err(Error::Unexpected { command: "a query" }),
                Reply::CopyBoth => return Err(Error::Unexpected { command: "a query" }),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(rows),
        }
    }

    /// Begins to stream the changes of `publication` from `start`, or from
    /// where the slot stands if that is further on. A `start` ahead of the slot
    /// is honoured and skips changes: it is [`Lsn::ZERO`] unless that is meant.
    ///
    /// # Errors
    /// [`Error::SlotInUse`], [`Error::NoSuchSlot`], [`Error::WrongSlot`],
    /// [`Error::WalLevel`]. That the publication is missing shows only later,
    /// in the stream.
    pub async fn start_replication(
        mut self,
        slot: &SlotName,
        publication: &PublicationName,
        start: Lsn,
    ) -> Result<CopyBoth, Error> {
        let command = start_replication_command(slot, publication, start);
        self.send(|buf| frontend::query(&command, buf)).await?;
        match self.receive().await? {
            Reply::CopyBoth => Ok(CopyBoth { stream: self.stream, inbox: self.inbox }),
            Reply::Message(Message::ErrorResponse(body)) => {
                let error = ServerError::parse(&body).map_err(Error::Malformed)?;
                Err(Error::from(error).about(slot))
            }
            Reply::Message(_) => Err(Error::Unexpected { command: "START_REPLICATION" }),
        }
    }

    async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut buf = BytesMut::new();
        // It fails for text with a zero byte.
        write(&mut buf).map_err(Error::Unsendable)?;
        self.stream.write_all(&buf).await.map_err(Error::Broken)?;
        self.stream.flush().await.map_err(Error::Broken)
    }

    /// The next message that is an answer. Notices and changed parameters may
    /// come between at any time.
    async fn receive(&mut self) -> Result<Reply, Error> {
        loop {
            match self.receive_any().await? {
                Reply::Message(Message::NoticeResponse(body)) => {
                    let notice =
                        ServerError::from_fields(body.fields()).map_err(Error::Malformed)?;
                    debug!(%notice, "the server sent a notice");
                }
                Reply::Message(Message::ParameterStatus(body)) => self.keep(&body)?,
                Reply::Message(Message::NotificationResponse(_)) => {}
                reply => return Ok(reply),
            }
        }
    }

    fn keep(&mut self, body: &ParameterStatusBody) -> Result<(), Error> {
        let name = body.name().map_err(Error::Malformed)?;
        let value = body.value().map_err(Error::Malformed)?;
        self.parameters.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    async fn receive_any(&mut self) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = take_reply(&mut self.inbox)? {
                return Ok(reply);
            }
            let read = self.stream.read_buf(&mut self.inbox).await.map_err(Error::Broken)?;
            if read == 0 {
                return Err(Error::Closed);
            }
        }
    }
}

/// Takes the first message off `inbox` once all of it is there.
fn take_reply(inbox: &mut BytesMut) -> Result<Option<Reply>, Error> {
    let Some(header) = Header::parse(inbox).map_err(Error::Malformed)? else { return Ok(None) };
    // The length counts itself, but not the tag.
    let len = usize::try_from(header.len()).map_or(usize::MAX, |len| len.saturating_add(1));
    if len > MAX_MESSAGE_BYTES {
        return Err(Error::TooLong { tag: char::from(header.tag()), len });
    }
    if inbox.len() < len {
        inbox.reserve(len - inbox.len());
        return Ok(None);
    }
    if header.tag() == COPY_BOTH_RESPONSE_TAG {
        // It tells the formats of columns, of which this stream has none.
        inbox.advance(len);
        return Ok(Some(Reply::CopyBoth));
    }
    let message = Message::parse(inbox).map_err(Error::Malformed)?;
    Ok(message.map(Reply::Message))
}

fn texts(row: &DataRowBody) -> Result<Vec<Option<String>>, Error> {
    let mut texts = Vec::new();
    let mut ranges = row.ranges();
    while let Some(range) = ranges.next().map_err(Error::Malformed)? {
        let text = range.map(|range| String::from_utf8_lossy(&row.buffer()[range]).into_owned());
        texts.push(text);
    }
    Ok(texts)
}

/// The end of timeline `earlier` in a history file: a line for each timeline,
/// with its number and where the next one begins.
/// <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES>
fn switch_point(history: &str, earlier: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let timeline: u32 = words.next()?.parse().ok()?;
        (timeline == earlier).then(|| words.next()?.parse().ok())?
    })
}

fn create_slot_command(
    slot: &SlotName,
    persistence: Persistence,
    major_version: Option<u32>,
) -> String {
    let slot = quote_identifier(slot.as_str());
    let temporary = match persistence {
        Persistence::Permanent | Persistence::Failover => "",
        Persistence::Temporary => " TEMPORARY",
    };
    let options = match (persistence, major_version) {
        (Persistence::Failover, _) => "(SNAPSHOT 'nothing', FAILOVER true)",
        (_, Some(..15)) => "NOEXPORT_SNAPSHOT",
        _ => "(SNAPSHOT 'nothing')",
    };
    format!("CREATE_REPLICATION_SLOT {slot}{temporary} LOGICAL pgoutput {options}")
}

fn start_replication_command(slot: &SlotName, publication: &PublicationName, start: Lsn) -> String {
    let slot = quote_identifier(slot.as_str());
    // The option is a list of names, so a name in it is an identifier.
    let publications = quote_replication_literal(&quote_identifier(publication.as_str()));
    format!(
        "START_REPLICATION SLOT {slot} LOGICAL {start} \
         (proto_version '1', publication_names {publications}, messages 'true')"
    )
}

#[cfg(test)]
mod tests;

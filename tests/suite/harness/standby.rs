//! A synchronous standby that keeps nothing, and acknowledges when the test says.

use std::{collections::VecDeque, time::Duration};

use bytes::{Buf, BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{
    backend::{DataRowBody, Message},
    frontend,
};
use rowcast::change::Lsn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    cluster::Cluster,
    wait::{SOON, eventually},
};

const NAME: &str = "slow_standby";

/// Streams the log of a cluster, whose commits wait for it: `synchronous_standby_names` is its name.
pub struct Standby {
    delay: watch::Sender<Option<Duration>>,
    streaming: JoinHandle<()>,
}

impl Standby {
    /// What is committed from now on waits for it. It acknowledges at once.
    pub async fn start(cluster: &Cluster) -> Self {
        let (delay, delayed) = watch::channel(Some(Duration::ZERO));
        let (connection, start) = log_in(cluster).await;
        let standby = Self { delay, streaming: tokio::spawn(receive(connection, start, delayed)) };
        cluster.set(&[("synchronous_standby_names", NAME)]);
        cluster.reload().await;
        let client = cluster.client("postgres").await;
        let sql = "select 1 from pg_stat_replication where sync_state = 'sync'";
        eventually(SOON, "the standby is synchronous", async || {
            client.query_opt(sql, &[]).await.expect("anyone may ask").map(drop)
        })
        .await;
        standby
    }

    /// Acknowledges what comes from now on so late, or never.
    pub fn acknowledge_after(&self, delay: Option<Duration>) {
        self.delay.send_replace(delay);
    }

    /// Is gone, as if its host had crashed. Commits wait on.
    pub fn leave(&self) {
        self.streaming.abort();
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A connection that streams, and from where.
async fn log_in(cluster: &Cluster) -> (Connection, Lsn) {
    let stream = TcpStream::connect(("127.0.0.1", cluster.port())).await.expect("it listens");
    let mut connection = Connection { stream, read: BytesMut::new(), write: BytesMut::new() };
    let parameters = [("user", "postgres"), ("replication", "true"), ("application_name", NAME)];
    frontend::startup_message(parameters, &mut connection.write).expect("no zero byte");
    connection.until_ready().await;
    frontend::query("IDENTIFY_SYSTEM", &mut connection.write).expect("no zero byte");
    let row = connection.until_ready().await.expect("IDENTIFY_SYSTEM answers with a row");
    let start: Lsn = column(&row, 2).parse().expect("Postgres prints an LSN as one");
    let command = format!("START_REPLICATION PHYSICAL {start}");
    frontend::query(&command, &mut connection.write).expect("no zero byte");
    connection.flush().await;
    (connection, start)
}

struct Connection {
    stream: TcpStream,
    read: BytesMut,
    write: BytesMut,
}

impl Connection {
    async fn flush(&mut self) {
        self.stream.write_all_buf(&mut self.write).await.expect("the server reads");
    }

    /// The row that the server answers with, if it does.
    async fn until_ready(&mut self) -> Option<DataRowBody> {
        self.flush().await;
        let mut row = None;
        loop {
            match Message::parse(&mut self.read).expect("the server keeps to the protocol") {
                Some(Message::ReadyForQuery(_)) => return row,
                Some(Message::DataRow(body)) => row = Some(body),
                Some(Message::ErrorResponse(_)) => panic!("the server refuses the standby"),
                Some(_) => {}
                None => {
                    let read = self.stream.read_buf(&mut self.read).await;
                    assert_ne!(read.expect("the server answers"), 0, "the server closed");
                }
            }
        }
    }
}

fn column(row: &DataRowBody, index: usize) -> String {
    let range = row.ranges().nth(index).expect("a row").flatten().expect("a value");
    String::from_utf8_lossy(&row.buffer()[range]).into_owned()
}

/// Reads the log until the server is gone, and acknowledges it.
async fn receive(
    mut connection: Connection,
    start: Lsn,
    mut delay: watch::Receiver<Option<Duration>>,
) {
    let mut received = u64::from(start);
    let mut acknowledged = 0;
    // When to acknowledge what.
    let mut due = VecDeque::from([(Instant::now(), received)]);
    loop {
        while let Some(end) = next_end(&mut connection.read) {
            received = received.max(end);
            if let Some(delay) = *delay.borrow() {
                due.push_back((Instant::now() + delay, received));
            }
        }
        let first = due.front().map(|(at, _)| *at);
        tokio::select! {
            read = connection.stream.read_buf(&mut connection.read) => {
                if !read.is_ok_and(|bytes| bytes > 0) {
                    return;
                }
            }
            () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                while let Some((_, lsn)) = due.pop_front_if(|(at, _)| *at <= Instant::now()) {
                    acknowledged = lsn;
                }
            }
            Ok(()) = delay.changed() => {
                // What was never to be acknowledged may be now.
                if let Some(delay) = *delay.borrow_and_update() {
                    due.push_back((Instant::now() + delay, received));
                }
            }
        }
        put_status(&mut connection.write, acknowledged);
        if connection.stream.write_all_buf(&mut connection.write).await.is_err() {
            return;
        }
    }
}

/// How far the next whole message brings the log, and takes it off the front.
/// <https://www.postgresql.org/docs/current/protocol-replication.html>
fn next_end(read: &mut BytesMut) -> Option<u64> {
    let mut header = read.get(..5)?;
    let tag = header.get_u8();
    let len = header.get_u32() as usize;
    if read.len() < 1 + len {
        return None;
    }
    let message = read.split_to(1 + len);
    let mut body = &message[5..];
    let is_log = tag == b'd' && body.get_u8() == b'w';
    if !is_log {
        return Some(0);
    }
    let start = body.get_u64();
    // Its end LSN and the time precede the log itself.
    body.advance(16);
    Some(start + body.len() as u64)
}

/// Written, flushed and applied up to `lsn`.
fn put_status(write: &mut BytesMut, lsn: u64) {
    let mut status = BytesMut::new();
    status.put_u8(b'r');
    for lsn in [lsn, lsn, lsn] {
        status.put_u64(lsn);
    }
    // Its clock, and that no answer is wanted.
    status.put_u64(0);
    status.put_u8(0);
    frontend::CopyData::new(status.freeze()).expect("it is short").write(write);
}

//! An endpoint that takes everything and counts it, as cheaply as it can: it shares the cores with what is measured.
//! The strict one of the tests verifies signatures and limits; this one does not.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

/// Connections that are served side by side: more than rowcast opens by default, used or not.
const SERVED: usize = 32;
const MAX_REQUEST_BYTES: usize = 1 << 20;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
/// A resync of a rule without `data` comes as each of the rule's events, on the same channels. This one is counted.
const COUNTED: &str = "PostUpdated";

pub(crate) struct Endpoint {
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
}

/// What was accepted.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Requests for the occupied channels.
    pub(crate) lists: u64,
    /// Of single rows.
    pub(crate) events: u64,
    pub(crate) resyncs: u64,
    /// Requests that are not understood, and events of a row that are not later than the one before on that channel.
    pub(crate) strange: u64,
    /// For how many the list's channel was told, one by one or by resyncs.
    pub(crate) changes: u64,
    /// For how many the last resync stood there, which tells it from the one before.
    last_resync: Option<u64>,
    /// By the row's id.
    own_channel: Vec<Row>,
    list_channel: Vec<Row>,
    /// Whose own channel somebody listens to.
    occupied: Vec<usize>,
}

/// The events of one row on one channel.
#[derive(Clone, Copy, Default)]
struct Row {
    count: u32,
    last_at: u64,
    last_resync: Option<u64>,
}

/// What an event says.
enum Payload {
    Row { id: usize, count: u64, at: u64 },
    Resync { count: u64 },
}

impl Tally {
    fn of_rows(rows: usize, occupied: Vec<usize>) -> Self {
        let none = vec![Row::default(); rows + 1];
        Self { own_channel: none.clone(), list_channel: none, occupied, ..Self::default() }
    }

    /// How many of these updates, counted by the row's id, are missing on a channel.
    pub(crate) fn lost(&self, updates: &[u32]) -> u64 {
        let channels = [&self.own_channel, &self.list_channel];
        let missing = channels.into_iter().flat_map(|rows| {
            let rows = rows.iter().zip(updates);
            rows.map(|(row, updates)| u64::from(updates.saturating_sub(row.count)))
        });
        missing.sum()
    }

    /// Whether a row's own channel was told of what was committed after that moment, or was part of the last resync.
    #[allow(dead_code, reason = "only one of the benches asks")]
    pub(crate) fn has_told(&self, id: usize, changed_at: u64) -> bool {
        let row = self.own_channel[id];
        row.last_at >= changed_at
            || self.last_resync.is_some() && row.last_resync == self.last_resync
    }

    fn list(&mut self) -> String {
        self.lists += 1;
        let occupied = self.occupied.iter().map(|id| format!("\"private-posts.{id}\":{{}}"));
        format!("{{\"channels\":{{{}}}}}", occupied.collect::<Vec<_>>().join(","))
    }

    fn take(&mut self, body: &str) {
        self.requests += 1;
        let understood = match body.starts_with("{\"batch\"") {
            true => self.take_batch(body),
            false => self.take_event(body),
        };
        if understood.is_none() {
            self.strange += 1;
        }
    }

    fn take_batch(&mut self, body: &str) -> Option<()> {
        let mut rest = Text(body);
        while let Some(name) = rest.string("name") {
            let channel = rest.string("channel")?;
            let payload = rest.payload()?;
            self.count(name, channel, &payload)?;
        }
        Some(())
    }

    fn take_event(&mut self, body: &str) -> Option<()> {
        let mut rest = Text(body);
        let name = rest.string("name")?;
        let payload = rest.payload()?;
        rest.skip_past("\"channels\":[")?;
        for channel in rest.until("]")?.split(',') {
            self.count(name, channel.trim_matches('"'), &payload)?;
        }
        Some(())
    }

    fn count(&mut self, name: &str, channel: &str, payload: &Payload) -> Option<()> {
        let row = match channel.split_once('.') {
            Some(("private-posts", id)) => Some(id.parse::<usize>().ok()?),
            None if channel == "private-posts" => None,
            _ => return None,
        };
        match (payload, row) {
            (Payload::Resync { .. }, _) if name != COUNTED => {}
            (Payload::Resync { count }, None) => {
                self.resyncs += 1;
                self.changes += count;
                self.last_resync = Some(*count);
            }
            (Payload::Resync { count }, Some(id)) => {
                self.own_channel.get_mut(id)?.last_resync = Some(*count);
            }
            (Payload::Row { id, count, at }, None) => {
                self.changes += count;
                self.events += 1;
                self.strange += self.list_channel.get_mut(*id)?.told(*at);
            }
            (Payload::Row { id, at, .. }, Some(row)) if row == *id => {
                self.events += 1;
                self.strange += self.own_channel.get_mut(*id)?.told(*at);
            }
            (Payload::Row { .. }, Some(_)) => return None,
        }
        Some(())
    }
}

impl Row {
    /// Returns 1 where it should not have been. No two updates of a row are of one commit, so this also tells that
    /// none came twice.
    fn told(&mut self, at: u64) -> u64 {
        let is_strange = at <= self.last_at;
        self.count += 1;
        self.last_at = at;
        u64::from(is_strange)
    }
}

/// What is left of a body. Reading it as JSON would cost more than rowcast needs to write it.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn skip_past(&mut self, mark: &str) -> Option<()> {
        self.until(mark).map(drop)
    }

    fn until(&mut self, mark: &str) -> Option<&'a str> {
        let (before, after) = self.0.split_once(mark)?;
        self.0 = after;
        Some(before)
    }

    /// The next member of that name, which is a string without escapes.
    fn string(&mut self, name: &str) -> Option<&'a str> {
        self.skip_past(name)?;
        self.0 = self.0.strip_prefix("\":\"")?;
        self.until("\"")
    }

    /// JSON in a JSON string:
    /// `\"action\":\"updated\",\"id\":42,\"changed\":[\"views\"],\"count\":2,\"at\":\"2026-11-20T21:34:00.123456Z\"`.
    fn payload(&mut self) -> Option<Payload> {
        self.skip_past(r#"\"action\":\""#)?;
        if self.0.starts_with("resync") {
            let mut said = Text(self.until("}")?);
            return Some(Payload::Resync { count: said.count(0)? });
        }
        self.skip_past(r#"\"id\":"#)?;
        let id = self.until(",")?.parse().ok()?;
        let count = Text(self.until(r#"\"at\":\"20"#)?).count(1)?;
        // From the year's third digit on, as one number.
        let digits = self.until("Z")?.bytes().filter(u8::is_ascii_digit);
        let at = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        Some(Payload::Row { id, count, at })
    }

    fn count(&mut self, otherwise: u64) -> Option<u64> {
        match self.skip_past(r#"\"count\":"#) {
            Some(()) => self.0.split(',').next()?.parse().ok(),
            None => Some(otherwise),
        }
    }
}

impl Endpoint {
    /// For a table with the ids 1 to `rows`. Its threads end with this process.
    pub(crate) fn start(rows: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let tally = Arc::new(Mutex::new(Tally::of_rows(rows, Vec::new())));
        for _ in 0..SERVED {
            let listener = listener.try_clone().expect("a socket can be shared");
            let tally = tally.clone();
            std::thread::spawn(move || serve(&listener, &tally));
        }
        Self { address, tally }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// From now on somebody listens to these rows' own channels.
    #[allow(dead_code, reason = "only one of the benches asks")]
    pub(crate) fn occupy(&self, ids: impl Iterator<Item = usize>) {
        lock(&self.tally).occupied = ids.collect();
    }

    /// Begins to count anew.
    pub(crate) fn forget(&self) {
        let mut tally = lock(&self.tally);
        let occupied = std::mem::take(&mut tally.occupied);
        *tally = Tally::of_rows(tally.own_channel.len() - 1, occupied);
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().expect("nobody panics while counting")
}

/// One request for each connection, as with the real servers.
fn serve(listener: &TcpListener, tally: &Mutex<Tally>) {
    let mut buffer = vec![0; MAX_REQUEST_BYTES];
    loop {
        let (mut stream, _) = listener.accept().expect("the loopback accepts");
        // A client that is gone has not been answered, and what was counted of it comes again.
        let _ = answer(&mut stream, &mut buffer, tally);
    }
}

fn answer(stream: &mut TcpStream, buffer: &mut [u8], tally: &Mutex<Tally>) -> io::Result<()> {
    let mut len = 0;
    let answer = loop {
        match stream.read(&mut buffer[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => len += count,
        }
        if buffer.starts_with(b"GET ") {
            break lock(tally).list();
        }
        if let Some(body) = body(&buffer[..len]) {
            lock(tally).take(body);
            break "{}".to_owned();
        }
    };
    stream.write_all(format!("{OK}Content-Length: {}\r\n\r\n{answer}", answer.len()).as_bytes())
}

/// Once all of it is there.
fn body(request: &[u8]) -> Option<&str> {
    let request = std::str::from_utf8(request).ok()?;
    let (head, body) = request.split_once("\r\n\r\n")?;
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    (body.len() == length.parse::<usize>().ok()?).then_some(body)
}

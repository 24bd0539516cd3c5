//! An endpoint that takes everything and counts it, as cheaply as it can: it shares the cores with what is measured.
//! The strict one of the tests verifies signatures and limits; this one does not.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

/// Connections that are served side by side: as many as rowcast opens by default.
const SERVED: usize = 8;
const MAX_REQUEST_BYTES: usize = 64 << 10;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
/// Nobody listens to any channel.
const LIST: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"channels\":{}}";

pub(crate) struct Endpoint {
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
}

/// What was accepted.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) events: u64,
    /// Requests that are not understood, and events of a row that are not later than the one before on that channel.
    pub(crate) strange: u64,
    /// By the row's id.
    own_channel: Vec<Row>,
    list_channel: Vec<Row>,
}

/// The events of one row on one channel.
#[derive(Clone, Copy, Default)]
struct Row {
    count: u32,
    last_at: u64,
}

impl Tally {
    fn of_rows(rows: usize) -> Self {
        let none = vec![Row::default(); rows + 1];
        Self { own_channel: none.clone(), list_channel: none, ..Self::default() }
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

    fn take(&mut self, body: &str) {
        // At its first start rowcast does not know what it has missed.
        if body.contains(r#"\"action\":\"resync\""#) {
            return;
        }
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
        while rest.skip_past("\"channel\":\"").is_some() {
            let channel = rest.until("\"")?;
            let (id, at) = rest.id_and_at()?;
            self.count(channel, id, at)?;
        }
        Some(())
    }

    fn take_event(&mut self, body: &str) -> Option<()> {
        let mut rest = Text(body);
        let (id, at) = rest.id_and_at()?;
        rest.skip_past("\"channels\":[")?;
        for channel in rest.until("]")?.split(',') {
            self.count(channel.trim_matches('"'), id, at)?;
        }
        Some(())
    }

    fn count(&mut self, channel: &str, id: usize, at: u64) -> Option<()> {
        let rows = match channel.split_once('.') {
            Some(("private-posts", row)) if row.parse() == Ok(id) => &mut self.own_channel,
            None if channel == "private-posts" => &mut self.list_channel,
            _ => return None,
        };
        let row = rows.get_mut(id)?;
        self.events += 1;
        // Each update of a row is a transaction of its own, so this also tells that none came twice.
        if at <= row.last_at {
            self.strange += 1;
        }
        row.count += 1;
        row.last_at = at;
        Some(())
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

    /// Of the payload, which is JSON in a JSON string: `\"id\":42,\"at\":\"2026-11-20T21:34:00.123456Z\"`. The digits
    /// of the moment from the year's third on, as one number.
    fn id_and_at(&mut self) -> Option<(usize, u64)> {
        self.skip_past(r#"\"id\":"#)?;
        let id = self.until(",")?.parse().ok()?;
        self.skip_past(r#"\"at\":\"20"#)?;
        let digits = self.until("Z")?.bytes().filter(u8::is_ascii_digit);
        Some((id, digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))))
    }
}

impl Endpoint {
    /// For a table with the ids 1 to `rows`. Its threads end with this process.
    pub(crate) fn start(rows: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let tally = Arc::new(Mutex::new(Tally::of_rows(rows)));
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

    /// Begins to count anew.
    pub(crate) fn forget(&self) {
        let mut tally = lock(&self.tally);
        *tally = Tally::of_rows(tally.own_channel.len() - 1);
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
    let body = loop {
        match stream.read(&mut buffer[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => len += count,
        }
        if buffer.starts_with(b"GET ") {
            return stream.write_all(LIST);
        }
        if let Some(body) = body(&buffer[..len]) {
            break body;
        }
    };
    lock(tally).take(body);
    stream.write_all(ANSWER)
}

/// Once all of it is there.
fn body(request: &[u8]) -> Option<&str> {
    let request = std::str::from_utf8(request).ok()?;
    let (head, body) = request.split_once("\r\n\r\n")?;
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let (_, length) = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    (body.len() == length.parse::<usize>().ok()?).then_some(body)
}

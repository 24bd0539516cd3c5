//! A TCP proxy on the loopback: the network between rowcast and a server, to be cut, stalled or slowed at will.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp},
    sync::watch,
    time::sleep,
};

use super::port::Port;

/// Which of the open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those to Postgres that stream changes.
    Streaming,
    /// All others.
    Ordinary,
    /// One of those that are open, by number. There is always one, if any is open.
    One(usize),
}

/// How bytes pass: each chunk, of one read, waits `latency` and the time that its bytes take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes_per_second: u32,
    pub latency: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Clear,
    Slow(Pace),
    Stalled,
    Cut,
}

/// As seen by the rest of the proxy; the connection itself is a task.
struct Link {
    streams: Arc<AtomicBool>,
    condition: watch::Sender<Condition>,
}

struct Shared {
    target: SocketAddr,
    /// What new connections meet.
    pace: Mutex<Option<Pace>>,
    links: Mutex<Vec<Link>>,
}

/// Drop cuts what is open.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Proxy {
        let shared = Shared { target, pace: Mutex::default(), links: Mutex::default() };
        let mut proxy = Proxy { port: Port::closed(), shared: Arc::new(shared) };
        proxy.come_back();
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port.address().port()
    }

    /// How many connections are open.
    pub fn open(&self, which: Which) -> usize {
        chosen(&self.shared.links(), which).count()
    }

    /// Resets them, towards both ends.
    pub fn cut(&self, which: Which) {
        self.shared.put(which, Condition::Cut);
    }

    /// Nothing passes any more in either direction, not even an end, and both ends see an open connection. New
    /// connections are not stalled.
    pub fn stall(&self, which: Which) {
        self.shared.put(which, Condition::Stalled);
    }

    /// All connections, those that are open and those to come.
    pub fn slow(&self, pace: Pace) {
        *lock(&self.shared.pace) = Some(pace);
        self.shared.put(Which::All, Condition::Slow(pace));
    }

    /// What was stalled or slow passes as it comes.
    pub fn resume(&self) {
        *lock(&self.shared.pace) = None;
        self.shared.put(Which::All, Condition::Clear);
    }

    /// New connections are refused until [`Proxy::come_back`]. Those that are open stay.
    pub async fn refuse(&mut self) {
        self.port.close().await;
    }

    pub fn come_back(&mut self) {
        let shared = self.shared.clone();
        self.port.open(move |client| pass_on(client, &shared));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.put(Which::All, Condition::Cut);
    }
}

impl Shared {
    /// Those that are open.
    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        let mut links = lock(&self.links);
        links.retain(|link| !link.condition.is_closed());
        links
    }

    fn put(&self, which: Which, condition: Condition) {
        for link in chosen(&self.links(), which) {
            link.condition.send_replace(condition);
        }
    }
}

fn chosen(links: &[Link], which: Which) -> impl Iterator<Item = &Link> {
    links.iter().enumerate().filter_map(move |(number, link)| {
        let streams = link.streams.load(Ordering::Relaxed);
        let is_chosen = match which {
            Which::All => true,
            Which::Streaming => streams,
            Which::Ordinary => !streams,
            Which::One(chosen) => number == chosen % links.len(),
        };
        is_chosen.then_some(link)
    })
}

fn pass_on(client: TcpStream, shared: &Shared) {
    let pace = *lock(&shared.pace);
    let condition = watch::Sender::new(pace.map_or(Condition::Clear, Condition::Slow));
    let condition_rx = condition.subscribe();
    let streams = Arc::new(AtomicBool::new(false));
    lock(&shared.links).push(Link { streams: streams.clone(), condition });
    tokio::spawn(pass(client, shared.target, streams, condition_rx));
}

/// One connection's life.
async fn pass(
    mut client: TcpStream,
    target: SocketAddr,
    streams: Arc<AtomicBool>,
    mut condition: watch::Receiver<Condition>,
) {
    // A target that is away is told by a reset, as a refused connection would not be far from.
    let Ok(mut server) = TcpStream::connect(target).await else {
        return client.set_zero_linger().expect("an option of every TCP socket");
    };
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let there = pump(client_read, server_write, condition.clone(), |bytes| {
            // Of the start-up message, which nobody but Postgres is sent.
            if bytes.windows(12).any(|it| it == b"replication\0") {
                streams.store(true, Ordering::Relaxed);
            }
        });
        let back = pump(server_read, client_write, condition.clone(), |_| {});
        tokio::select! {
            ended = async { tokio::try_join!(there, back) } => ended.map(drop),
            _ = condition.wait_for(|it| matches!(it, Condition::Cut)) => {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    };
    if ended.is_err() {
        for stream in [&client, &server] {
            stream.set_zero_linger().expect("an option of every TCP socket");
        }
    }
}

async fn pump(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    mut condition: watch::Receiver<Condition>,
    look_at: impl Fn(&[u8]),
) -> io::Result<()> {
    let mut chunk = vec![0; 16 << 10];
    loop {
        let len = from.read(&mut chunk).await?;
        look_at(&chunk[..len]);
        let flows = condition.wait_for(|it| !matches!(it, Condition::Stalled)).await;
        if let Ok(Condition::Slow(Pace { bytes_per_second, latency })) = flows.map(|it| *it) {
            sleep(latency + Duration::from_secs(len as u64) / bytes_per_second).await;
        }
        match &chunk[..len] {
            [] => return to.shutdown().await,
            bytes => to.write_all(bytes).await?,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

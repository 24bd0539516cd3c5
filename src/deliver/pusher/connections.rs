//! HTTP/1.1 on connections of our own, for what is sent most and should arrive
//! soonest.
//!
//! Reverb, Sockudo and Soketi close each connection after its answer. So that the
//! next request does not wait for a new one to come about, it is opened ahead: as
//! many as requests were on their way, at least one, and only when one was closed
//! after its answer. A server that closes idle ones sees no more of them than
//! requests. One that leaves them open gets its requests on the same ones.

mod connection;

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use rustls::pki_types::ServerName;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use tracing::debug;

use super::client::{Response, USER_AGENT_NAME};
use connection::{Connection, Stream};

/// Idle ones are closed then. Shorter than most servers, and what lies between, keep
/// them: a request on a connection that is silently dead costs up to
/// [`MAX_UNACKNOWLEDGED`], and where that cannot be set a whole timeout.
const MAX_IDLE: Duration = Duration::from_secs(25);

/// A connection is dead if what was sent is not acknowledged by then. The server's
/// system does that, however slow its answer is.
#[cfg(any(target_os = "android", target_os = "linux"))]
const MAX_UNACKNOWLEDGED: Duration = Duration::from_secs(2);

pub(super) type Cause = Box<dyn Error + Send + Sync>;

/// To one endpoint. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    origin: Uri,
    host: HeaderValue,
    connector: HttpConnector,
    tls: Option<Tls>,
    /// Of one attempt to publish, or to open a connection ahead.
    timeout: Duration,
    speaks_http2: AtomicBool,
    pool: Mutex<Pool>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

#[derive(Debug, Default)]
struct Pool {
    /// The one that was opened or used last is the last, and the next to be used: what
    /// a burst left over grows old.
    idle: VecDeque<Connection>,
    /// So many are being opened ahead.
    opening: usize,
    /// Requests on their way.
    busy: usize,
    is_watched: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server prefers HTTP/2, of which one connection is enough.
    Http2,
    Unreachable(Cause),
    BrokenOff(Cause),
}

impl Connections {
    /// `None` where the origin's host cannot be asked for a certificate.
    pub(super) fn new(
        origin: &str,
        tls: Option<Arc<rustls::ClientConfig>>,
        timeout: Duration,
    ) -> Option<Connections> {
        let origin: Uri = origin.parse().ok()?;
        let authority = origin.authority()?;
        let host = HeaderValue::from_str(authority.as_str()).ok()?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = authority.host().trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(name.to_owned()).ok()?;
                Some(Tls { connector: TlsConnector::from(config), name })
            }
        };
        Some(Connections(Arc::new(Shared {
            origin,
            host,
            connector: connector(GaiResolver::new(), timeout),
            tls,
            timeout,
            speaks_http2: AtomicBool::new(false),
            pool: Mutex::default(),
        })))
    }

    /// Posts JSON, and reads at most so much of the answer. If a connection that was
    /// idle ends before the head of an answer came, it is sent once more on a new one,
    /// at once: it may then arrive twice.
    pub(super) async fn post(
        &self,
        target: Uri,
        body: Bytes,
        max_bytes: usize,
    ) -> Result<Response, Failure> {
        if self.0.speaks_http2.load(Ordering::Relaxed) {
            return Err(Failure::Http2);
        }
        let broken_off = |error: hyper::Error| Failure::BrokenOff(error.into());
        let _busy = Busy::begin(&self.0);
        let (mut connection, answer) = match self.0.ask_idle(&target, &body).await {
            Some(answered) => answered,
            None => {
                let mut connection = self.0.open().await?;
                let asking = connection.ask(self.0.request(target, body));
                let answer = asking.await.map_err(broken_off)?;
                (connection, answer)
            }
        };
        let response = connection.read(answer, max_bytes).await.map_err(broken_off)?;
        self.0.end(connection);
        Ok(response)
    }
}

fn connector<R>(resolver: R, timeout: Duration) -> HttpConnector<R> {
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // All addresses of a host share it. What is left is for the request, which takes no
    // fewer round trips.
    connector.set_connect_timeout(Some(timeout / 2));
    #[cfg(any(target_os = "android", target_os = "linux"))]
    connector.set_tcp_user_timeout(Some(timeout.min(MAX_UNACKNOWLEDGED)));
    connector
}

/// A request is on its way, until this is dropped.
struct Busy<'a>(&'a Shared);

impl Busy<'_> {
    fn begin(shared: &Shared) -> Busy<'_> {
        shared.pool().busy += 1;
        Busy(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.pool().busy -= 1;
    }
}

/// A connection is being opened ahead, until this is dropped.
struct Opening(Arc<Shared>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.pool().opening -= 1;
    }
}

/// A connection that was idle has not answered. If it never does, the other idle ones
/// are as likely to be dead.
struct Doubt<'a>(&'a Shared);

impl Doubt<'_> {
    fn dispel(self) {
        std::mem::forget(self);
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        let dead = std::mem::take(&mut self.0.pool().idle);
        drop(dead);
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("nobody panics while holding it")
    }

    fn request(&self, target: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::post(target)
            .body(Full::new(body))
            .expect("the target is one, and the method known");
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    /// One that the server has not closed until now.
    fn idle(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut pool = self.pool();
        pool.close_old(now);
        std::iter::from_fn(|| pool.idle.pop_back())
            .find_map(|mut connection| connection.is_open().then_some(connection))
    }

    /// `None` if none is idle, or it ended without an answer.
    async fn ask_idle(
        &self,
        target: &Uri,
        body: &Bytes,
    ) -> Option<(Connection, hyper::Response<Incoming>)> {
        let mut connection = self.idle()?;
        let doubt = Doubt(self);
        match connection.ask(self.request(target.clone(), body.clone())).await {
            Ok(answer) => {
                doubt.dispel();
                Some((connection, answer))
            }
            Err(error) => {
                debug!(%error, "an idle connection was dead");
                None
            }
        }
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let mut connector = self.connector.clone();
        let tcp = connector.call(self.origin.clone()).await;
        let tcp = tcp.map_err(|error| Failure::Unreachable(error.into()))?.into_inner();
        let Some(Tls { connector, name }) = &self.tls else {
            return over(Box::new(tcp)).await;
        };
        let tls = connector.connect(name.clone(), tcp).await;
        let tls = tls.map_err(|error| Failure::Unreachable(error.into()))?;
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.speaks_http2.store(true, Ordering::Relaxed);
            return Err(Failure::Http2);
        }
        over(Box::new(tls)).await
    }

    /// Keeps the connection for the next request; if the server closed it, opens
    /// another ahead.
    fn end(self: &Arc<Self>, mut connection: Connection) {
        if connection.is_open() {
            return self.keep(connection);
        }
        let mut pool = self.pool();
        if pool.idle.len() + pool.opening >= pool.busy {
            return;
        }
        pool.opening += 1;
        drop(pool);
        let opening = Opening(self.clone());
        tokio::spawn(async move {
            let shared = &opening.0;
            // The next request meets what is wrong.
            if let Ok(Ok(connection)) = timeout(shared.timeout, shared.open()).await {
                shared.keep(connection);
            }
        });
    }

    fn keep(self: &Arc<Self>, mut connection: Connection) {
        connection.idle_since = Instant::now();
        let mut pool = self.pool();
        pool.idle.push_back(connection);
        if !std::mem::replace(&mut pool.is_watched, true) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }
}

/// Closes what is idle for long, until nothing is idle.
async fn watch(shared: Weak<Shared>) {
    loop {
        sleep(MAX_IDLE).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut pool = shared.pool();
        pool.close_old(Instant::now());
        if pool.idle.is_empty() {
            pool.is_watched = false;
            return;
        }
    }
}

impl Pool {
    fn close_old(&mut self, now: Instant) {
        self.idle.retain(|connection| now.duration_since(connection.idle_since) < MAX_IDLE);
    }
}

async fn over(stream: Box<dyn Stream>) -> Result<Connection, Failure> {
    let connection = Connection::over(stream).await;
    connection.map_err(|error| Failure::Unreachable(error.into()))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! HTTP/1.1 on connections of our own, for what is sent most and should arrive
//! soonest.
//!
//! Reverb, Sockudo and Soketi close each connection after its answer. So that the
//! next request does not wait for a new one to come about, it is opened ahead: as
//! many as requests were on their way, at least one, and only when one was closed
//! after its answer. A server that closes idle ones sees no more of them than
//! requests. One that leaves them open gets its requests on the same ones.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use tracing::trace;

use super::client::{Response, USER_AGENT_NAME};

/// Idle ones are closed then. Shorter than servers, and what lies between, keep
/// them: a request on a connection that is silently dead costs a whole timeout.
const MAX_IDLE: Duration = Duration::from_secs(10);

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
    speaks_http2: AtomicBool,
    pool: Mutex<Pool>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

#[derive(Debug, Default)]
struct Pool {
    /// The one that was opened or used first is the first.
    idle: VecDeque<Connection>,
    /// So many are being opened ahead.
    opening: usize,
    /// Requests on their way.
    busy: usize,
    is_watched: bool,
}

/// Nothing happens on it unless it is polled, and nothing has to while it is idle.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>,
    is_ended: bool,
    idle_since: Instant,
}

trait Stream: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Stream for S {}

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
    pub(super) fn new(origin: &str, tls: Option<Arc<rustls::ClientConfig>>) -> Option<Connections> {
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
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        Some(Connections(Arc::new(Shared {
            origin,
            host,
            connector,
            tls,
            speaks_http2: AtomicBool::new(false),
            pool: Mutex::default(),
        })))
    }

    /// Posts JSON, and reads at most so much of the answer. On a connection that
    /// was idle and turns out to be dead, it is sent once more on a new one, at
    /// once: it may then arrive twice.
    pub(super) async fn post(
        &self,
        target: Uri,
        body: Bytes,
        max_bytes: usize,
    ) -> Result<Response, Failure> {
        if self.0.speaks_http2.load(Ordering::Relaxed) {
            return Err(Failure::Http2);
        }
        let _busy = Busy::begin(&self.0);
        if let Some(mut connection) = self.0.idle() {
            let request = self.0.request(target.clone(), body.clone());
            match connection.exchange(request, max_bytes).await {
                Ok(response) => {
                    self.0.end(connection);
                    return Ok(response);
                }
                Err(error) => trace!(%error, "an idle connection was dead"),
            }
        }
        let mut connection = self.0.open().await?;
        let request = self.0.request(target, body);
        let response = connection.exchange(request, max_bytes).await;
        let response = response.map_err(|error| Failure::BrokenOff(error.into()))?;
        self.0.end(connection);
        Ok(response)
    }
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
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    /// One that the server has not closed until now.
    fn idle(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut pool = self.pool();
        pool.close_old(now);
        std::iter::from_fn(|| pool.idle.pop_front())
            .find_map(|mut connection| connection.is_open().then_some(connection))
    }

    async fn open(&self) -> Result<Connection, Failure> {
        let mut connector = self.connector.clone();
        let tcp = connector.call(self.origin.clone()).await;
        let tcp = tcp.map_err(|error| Failure::Unreachable(error.into()))?.into_inner();
        let Some(Tls { connector, name }) = &self.tls else {
            return Connection::over(Box::new(tcp)).await;
        };
        let tls = connector.connect(name.clone(), tcp).await;
        let tls = tls.map_err(|error| Failure::Unreachable(error.into()))?;
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.speaks_http2.store(true, Ordering::Relaxed);
            return Err(Failure::Http2);
        }
        Connection::over(Box::new(tls)).await
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
        let shared = self.clone();
        tokio::spawn(async move {
            let opened = shared.open().await;
            shared.pool().opening -= 1;
            // The next request meets what is wrong.
            if let Ok(connection) = opened {
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

impl Connection {
    async fn over(stream: Box<dyn Stream>) -> Result<Connection, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Unreachable(error.into()))?;
        Ok(Connection { sender, driver, is_ended: false, idle_since: Instant::now() })
    }

    /// Whether it can take a request: the server has not closed it, nor said
    /// anything unasked.
    fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.is_ended = self.is_ended || self.drive(&mut context);
        !self.is_ended
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        max_bytes: usize,
    ) -> hyper::Result<Response> {
        let answering = self.sender.send_request(request);
        let mut answering = pin!(async { Response::read(answering.await?, max_bytes).await });
        poll_fn(|context| {
            // How it ended is in the answer.
            self.is_ended = self.is_ended || self.drive(context);
            answering.as_mut().poll(context)
        })
        .await
    }

    /// Whether it has ended.
    fn drive(&mut self, context: &mut Context<'_>) -> bool {
        Pin::new(&mut self.driver).poll(context).is_ready()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

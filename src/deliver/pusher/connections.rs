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
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use tracing::debug;

use super::client::{Response, USER_AGENT_NAME};

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

/// Nothing happens on it unless it is polled, and nothing has to while it is idle.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended: only by being dropped does it tell a request in its
    /// queue that nobody will send it.
    driver: Option<Driver>,
    idle_since: Instant,
}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

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

impl Connection {
    async fn over(stream: Box<dyn Stream>) -> Result<Connection, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Unreachable(error.into()))?;
        Ok(Connection { sender, driver: Some(driver), idle_since: Instant::now() })
    }

    /// Whether it can take a request: the server has not closed it, nor said
    /// anything unasked.
    fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some()
    }

    /// Sends the request, and waits for the head of the answer.
    async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        let answering = self.sender.send_request(request);
        self.driving(answering).await
    }

    async fn read(
        &mut self,
        answer: hyper::Response<Incoming>,
        max_bytes: usize,
    ) -> hyper::Result<Response> {
        self.driving(Response::read(answer, max_bytes)).await
    }

    async fn driving<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.drive(context);
            future.as_mut().poll(context)
        })
        .await
    }

    /// How it ended is in the answer.
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(context).is_ready()
        {
            self.driver = None;
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::net::{Ipv4Addr, SocketAddr};

    use hyper_util::client::legacy::connect::dns::Name;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    /// What happens at all happens by then.
    const SOON: Duration = Duration::from_secs(10);
    /// Of the connections; longer than the loopback takes.
    const TIMEOUT: Duration = Duration::from_secs(1);
    const NOBODY: &str = "http://127.0.0.1:1";

    fn connections(origin: &str) -> Connections {
        Connections::new(origin, None, TIMEOUT).expect("it is an origin")
    }

    async fn connected() -> (Connection, DuplexStream) {
        let (client, server) = duplex(4096);
        let connection = Connection::over(Box::new(client)).await;
        (connection.expect("it says nothing yet"), server)
    }

    async fn answer(server: &mut DuplexStream, answer: &str) {
        let mut request = Vec::new();
        while !request.ends_with(b"{}") {
            server.read_buf(&mut request).await.expect("it is open");
        }
        let request = String::from_utf8(request).expect("it is text");
        assert!(request.contains("\r\naccept: */*\r\n"), "{request}");
        server.write_all(answer.as_bytes()).await.expect("it is open");
    }

    const ACCEPTED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

    async fn post(connections: &Connections) -> Result<Response, Failure> {
        let target = Uri::from_static("/apps/1/events?auth_key=k");
        let posting = connections.post(target, Bytes::from_static(b"{}"), 1024);
        timeout(SOON, posting).await.expect("it ends in time")
    }

    /// Takes no more connections, and refuses none.
    async fn silent() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let listener = socket.listen(1).expect("it can listen");
        let address = listener.local_addr().expect("it is bound");
        let mut waiting = Vec::new();
        while let Ok(connected) =
            timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            waiting.push(connected.expect("there is room for it"));
        }
        (listener, waiting)
    }

    #[derive(Clone)]
    struct Resolver(Vec<SocketAddr>);

    impl tower_service::Service<Name> for Resolver {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            Ok(()).into()
        }

        fn call(&mut self, _: Name) -> Self::Future {
            ready(Ok(self.0.clone().into_iter()))
        }
    }

    #[tokio::test]
    async fn an_address_that_keeps_silent_leaves_time_for_the_next_one() {
        let (full, _waiting) = silent().await;
        let silent = full.local_addr().expect("it is bound");
        let well = SocketAddr::from(([127, 0, 0, 2], silent.port()));
        let _listener = TcpListener::bind(well).await.expect("nobody else has the address");
        let mut connector = connector(Resolver(vec![silent, well]), TIMEOUT);
        let origin = format!("http://endpoint.test:{}", silent.port());
        let connecting = connector.call(origin.parse().expect("an origin"));
        let connected = timeout(TIMEOUT, connecting).await.expect("it comes in time");
        let connected = connected.expect("one of them answers").into_inner();
        assert_eq!(connected.peer_addr().expect("it is connected"), well);
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_has_ended_fails_at_once() {
        let (mut connection, mut server) = connected().await;
        let connections = connections(NOBODY);
        let request = || connections.0.request(Uri::from_static("/"), Bytes::from_static(b"{}"));
        let asking = async {
            let head = connection.ask(request()).await.expect("it is answered");
            connection.read(head, 1024).await.expect("it is whole");
        };
        tokio::join!(asking, answer(&mut server, ACCEPTED));
        drop(server);
        let asked = timeout(SOON, connection.ask(request())).await.expect("it fails at once");
        asked.expect_err("nobody is there");
    }

    #[tokio::test]
    async fn the_connection_that_was_used_last_is_used_next() {
        let connections = connections(NOBODY);
        let (first, _unused) = connected().await;
        let (last, mut server) = connected().await;
        connections.0.keep(first);
        connections.0.keep(last);
        for _ in 0..3 {
            let (posted, ()) = tokio::join!(post(&connections), answer(&mut server, ACCEPTED));
            posted.expect("it is answered");
        }
    }

    #[tokio::test]
    async fn once_an_answer_has_begun_the_request_is_not_sent_again() {
        let connections = connections(NOBODY);
        let (connection, mut server) = connected().await;
        connections.0.keep(connection);
        let serving = async move {
            answer(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{").await;
        };
        let (posted, ()) = tokio::join!(post(&connections), serving);
        // A new connection would have been refused.
        assert!(matches!(posted, Err(Failure::BrokenOff(_))));
    }

    #[tokio::test]
    async fn with_an_idle_connection_that_does_not_answer_the_others_go_too() {
        let connections = connections(NOBODY);
        let mut servers = Vec::new();
        for _ in 0..3 {
            let (connection, server) = connected().await;
            connections.0.keep(connection);
            servers.push(server);
        }
        let target = Uri::from_static("/apps/1/events?auth_key=k");
        let posting = connections.post(target, Bytes::from_static(b"{}"), 1024);
        timeout(Duration::from_millis(50), posting).await.map(drop).expect_err("nobody answers");
        assert!(connections.0.pool().idle.is_empty());
        assert_eq!(connections.0.pool().busy, 0);
    }

    #[tokio::test]
    async fn a_connection_ahead_that_does_not_come_about_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = format!("https://{}", listener.local_addr().expect("it is bound"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let soon = Duration::from_millis(100);
        let connections = Connections::new(&origin, Some(Arc::new(tls)), soon);
        let shared = connections.expect("it is an origin").0;
        let (ended, server) = connected().await;
        drop(server);
        let busy = Busy::begin(&shared);
        shared.end(ended);
        let opening = shared.pool().opening;
        assert_eq!(opening, 1);
        // It connects, and then nobody speaks TLS.
        let _ahead = timeout(SOON, listener.accept()).await.expect("it comes in time");
        let given_up = async {
            while shared.pool().opening > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, given_up).await.expect("it is given up in time");
        drop(busy);
    }
}

//! Answers over HTTP, for programs: `/healthz`, `/readyz`, `/metrics`, `/status`.
//!
//! On a Unix socket in the state folder, always, and on a TCP port if one is asked
//! for. Who asks sees names of rules and tables' problems, never row values; there is
//! no authentication, so the port belongs on the loopback.
//!
//! Nothing here waits for a stage, or a stage for it: connections are few, short, and
//! have a deadline.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::socket::Socket;
use super::{About, Observer, Status};

/// Of each listener. Whoever comes when all are busy waits for one to end.
const MAX_CONNECTIONS: usize = 16;
/// For a whole connection: the question and the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The least that hyper allows.
const MAX_HEAD_BYTES: usize = 8192;
/// After a connection could not be accepted, and while another process has the
/// socket.
const PAUSE: Duration = Duration::from_secs(2);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    _listeners: JoinSet<()>,
}

/// What is answered from.
#[derive(Debug)]
struct Answers {
    observer: Observer,
    about: About,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    pub address: SocketAddr,
    #[source]
    source: io::Error,
}

impl Server {
    /// Begins to answer on the socket, which is removed at the end, and on the
    /// address. Without the socket it goes on.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(
        observer: Observer,
        about: About,
        socket: PathBuf,
        address: Option<SocketAddr>,
    ) -> Result<Server, ListenError> {
        let answers = Arc::new(Answers { observer, about });
        let mut listeners = JoinSet::new();
        if let Some(address) = address {
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|source| ListenError { address, source })?;
            listeners.spawn(serve_tcp(listener, answers.clone()));
        }
        match Socket::bind(&socket).await {
            Ok(bound) => drop(listeners.spawn(serve_unix(bound, answers))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                listeners.spawn(follow(socket, answers));
            }
            Err(error) => warn!(
                "cannot listen on {}: {error}; `rowcast status` will not see this process",
                socket.display()
            ),
        }
        Ok(Server { _listeners: listeners })
    }
}

/// Another process answers there, which uses the same state folder: until it ends.
async fn follow(path: PathBuf, answers: Arc<Answers>) {
    debug!("another process listens on {}", path.display());
    let bound = loop {
        sleep(PAUSE).await;
        match Socket::bind(&path).await {
            Ok(bound) => break bound,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return warn!("cannot listen on {}: {error}", path.display()),
        }
    };
    serve_unix(bound, answers).await;
}

async fn serve_unix(socket: Socket, answers: Arc<Answers>) {
    let mut connections = Connections::new(answers);
    loop {
        let permit = connections.permit().await;
        match socket.listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, permit),
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_tcp(listener: TcpListener, answers: Arc<Answers>) {
    let mut connections = Connections::new(answers);
    loop {
        let permit = connections.permit().await;
        match listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, permit),
            Err(error) => pause(&error).await,
        }
    }
}

/// As when this process has too many files open: that may pass.
async fn pause(error: &io::Error) {
    debug!("a connection could not be accepted: {error}");
    sleep(PAUSE).await;
}

/// Those of one listener, which end with it.
struct Connections {
    answers: Arc<Answers>,
    permits: Arc<Semaphore>,
    open: JoinSet<()>,
}

impl Connections {
    fn new(answers: Arc<Answers>) -> Connections {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Connections { answers, permits, open: JoinSet::new() }
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("nobody closes it")
    }

    fn serve<S>(&mut self, stream: S, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while self.open.try_join_next().is_some() {}
        let answers = self.answers.clone();
        self.open.spawn(async move {
            let _permit = permit;
            let answer = service_fn(async |request| Ok::<_, Infallible>(answers.to(&request)));
            let connection = http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), answer);
            match timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("a connection that asked broke: {error}"),
                Err(_) => debug!("a connection that asked took too long"),
            }
        });
    }
}

impl Answers {
    fn to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        }
        let now = Instant::now();
        match request.uri().path() {
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => {
                let standing = self.observer.standing().borrow().clone();
                let status = match standing.is_ready() {
                    true => StatusCode::OK,
                    false => StatusCode::SERVICE_UNAVAILABLE,
                };
                response(status, TEXT, standing.words(now) + "\n")
            }
            "/metrics" => {
                let standing = self.observer.standing().borrow().clone();
                let text = self.observer.metrics().text(&standing, now);
                response(StatusCode::OK, PROMETHEUS, text)
            }
            "/status" => {
                let status = Status::of(&self.observer, &self.about, now);
                let json = serde_json::to_string(&status).expect("names and numbers are JSON");
                response(StatusCode::OK, JSON, json + "\n")
            }
            _ => response(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /healthz, /readyz, /metrics and /status\n".to_owned(),
            ),
        }
    }
}

fn response(status: StatusCode, content: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

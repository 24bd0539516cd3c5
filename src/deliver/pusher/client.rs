use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Uri;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::change::Timestamp;
use crate::notification::{ChannelName, EventName, NameHash};
use crate::secret::Secret;

use super::answer::{Answer, judge};
use super::connections::{Cause, Connections, Failure};
use super::occupied::{self, MAX_LIST_BYTES, Occupied};
use super::packing::{Packed, Packer, Path};
use super::signature::{Method, Signed, signed_query};
use super::{Config, ConfigError, Problem, Server, Verdict};

/// No answer of an endpoint is longer; what follows is not read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

pub(super) const USER_AGENT_NAME: &str = concat!("rowcast/", env!("CARGO_PKG_VERSION"));

/// A channel that nobody listens on.
pub(super) const PROBE: &str = "rowcast-probe";

/// Speaks to one app of one Pusher-compatible server.
#[derive(Clone, Debug)]
pub struct Client {
    /// For what is published, unless a proxy or HTTP/2 is between.
    connections: Option<Connections>,
    http: reqwest::Client,
    app: Arc<App>,
}

#[derive(Clone, Debug)]
pub(super) struct App {
    /// `http://host:port`
    origin: String,
    /// Empty, or `/prefix`.
    pub(super) prefix: String,
    /// Whether the server verifies the path with its prefix.
    pub(super) signs_prefix: bool,
    pub(super) id: String,
    pub(super) key: String,
    pub(super) secret: Secret,
    server: Server,
    list_lag: Duration,
    occupied_only: bool,
    pub(super) packer: Packer,
    timeout: Duration,
}

impl App {
    pub(super) fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// `http://host:port/prefix/apps/1/events`
    pub(super) fn url(&self, name: &str) -> String {
        format!("{}{}", self.origin, self.path(name))
    }

    /// `/prefix/apps/1/events`
    fn path(&self, name: &str) -> String {
        format!("{}/apps/{}/{name}", self.prefix, self.id)
    }

    /// `/apps/1/events`, or with the prefix, as the server verifies it.
    fn signed_path(&self, name: &str) -> String {
        let prefix = if self.signs_prefix { &*self.prefix } else { "" };
        format!("{prefix}/apps/{}/{name}", self.id)
    }
}

impl Client {
    /// Reads files (certificate authorities), and connects to nothing.
    pub fn new(config: &Config) -> Result<Client, ConfigError> {
        let endpoint = config.endpoint()?;
        let timeout = config.timeout.get();
        let tls = tls(config, endpoint.is_encrypted())?;
        let connections = match config.proxy.is_some() || config.http2 {
            true => None,
            false => {
                let tls = endpoint.is_encrypted().then(|| Arc::new(tls.clone()));
                Connections::new(endpoint.origin(), tls, timeout)
            }
        };
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT_NAME)
            .tls_backend_preconfigured(tls)
            // A followed 301 turns the POST into a GET, and nothing is published.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(timeout)
            .timeout(timeout)
            // Shorter than any server's own: a connection that the server is
            // about to close costs a retry.
            .pool_idle_timeout(Duration::from_secs(10))
            // A dead HTTP/2 connection would be tried again for as long as TCP
            // takes to notice.
            .http2_keep_alive_interval(Duration::from_secs(2))
            .http2_keep_alive_timeout(Duration::from_secs(3));
        if let Some(proxy) = &config.proxy {
            let proxy = reqwest::Proxy::all(proxy.as_url().clone()).map_err(ConfigError::Http)?;
            http = http.proxy(proxy);
        }
        if config.http2 && !endpoint.is_encrypted() {
            http = http.http2_prior_knowledge();
        }

        Ok(Client {
            connections,
            http: http.build().map_err(ConfigError::Http)?,
            app: Arc::new(App {
                origin: endpoint.origin().to_string(),
                prefix: endpoint.prefix().to_owned(),
                signs_prefix: config.signs_path_prefix(),
                id: config.app_id.as_str().to_owned(),
                key: config.key.as_str().to_owned(),
                secret: config.secret.as_secret().clone(),
                server: config.server,
                list_lag: config.list_lag(),
                occupied_only: config.occupied_only,
                packer: Packer {
                    capacity: config.server.capacity(),
                    key: config.encryption_key.clone(),
                },
                timeout,
            }),
        })
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The same connections, for another app.
    pub(super) fn with(&self, app: App) -> Client {
        let Client { connections, http, .. } = self.clone();
        Client { connections, http, app: Arc::new(app) }
    }

    pub(in crate::deliver) fn packer(&self) -> &Packer {
        &self.app.packer
    }

    /// Publishes one event now, and once. For an encrypted channel there must be
    /// a key.
    ///
    /// # Errors
    /// Why the endpoint did not accept it on all channels. After a timeout or a
    /// broken answer it may still have been published.
    pub async fn publish(
        &self,
        event: &EventName,
        channels: &[ChannelName],
        data: &str,
    ) -> Result<(), Problem> {
        let mut channels = channels;
        while !channels.is_empty() {
            let packed = self.app.packer.event(event, channels, data, None, usize::MAX);
            channels = &channels[packed.pairs..];
            let response = self.post(&packed).await?;
            response.answer().check()?;
        }
        Ok(())
    }

    /// Asks whether the endpoint knows this app and its key and secret, and
    /// publishes nothing.
    ///
    /// # Errors
    /// What is wrong: the network, the address, the app, the secret, the clock.
    pub async fn probe(&self) -> Result<(), Problem> {
        // The answer lists channels: this prefix keeps it short.
        let response = self.channels(PROBE, None, MAX_ANSWER_BYTES).await?;
        response.answer().check()
    }

    /// Whether the endpoint publishes an event that is as plain as any, on a
    /// channel of its own.
    pub(in crate::deliver) async fn takes_a_plain_event(&self) -> bool {
        let event = "rowcast.probe".parse().expect("a valid event name");
        let channel = PROBE.parse().expect("a valid channel name");
        self.publish(&event, &[channel], "{}").await.is_ok()
    }

    /// Whether only channels are told that somebody listens on.
    pub(in crate::deliver) fn tells_occupied_only(&self) -> bool {
        self.app.occupied_only
    }

    /// How long after somebody joined a channel it may be missing in a list.
    pub(in crate::deliver) fn list_lag(&self) -> Duration {
        self.app.list_lag
    }

    /// The channels that somebody listens on now, of those that begin with
    /// `prefix`. What the endpoint does not list has nobody to tell anything.
    ///
    /// # Errors
    /// As of [`Client::occupied`].
    pub(in crate::deliver) async fn all_occupied(&self, prefix: &str) -> Result<Occupied, Verdict> {
        let hashes = self.occupied(prefix, &|name| Some(NameHash::of(name.as_str()))).await?;
        Ok(Occupied::of(hashes))
    }

    /// What `keep` makes of those channels.
    ///
    /// # Errors
    /// Why there is no list, as for a request to publish.
    pub(in crate::deliver) async fn occupied<T>(
        &self,
        prefix: &str,
        keep: &(dyn Fn(ChannelName) -> Option<T> + Sync),
    ) -> Result<Vec<T>, Verdict> {
        let server = self.app.server;
        let own_info = (server.repeats_lists() && self.app.list_lag.is_zero()).then(own_info);
        let response = match self.channels(prefix, own_info.as_deref(), MAX_LIST_BYTES).await {
            Ok(response) => response,
            Err(problem) => return Err(problem.judge(server, None)),
        };
        if response.is_cut_off {
            return Err(Problem::ListTooLong { max_bytes: MAX_LIST_BYTES }.judge(server, None));
        }
        let answer = response.answer();
        match occupied::names(&response.body, keep) {
            Ok(names) if answer.is_success() => Ok(names),
            Ok(_) | Err(_) => Err(answer.judge_as_list(server)),
        }
    }

    /// Sends the request once and says what became of it. `is_last_try`: a
    /// doubtful answer now means that the request is bad, if the endpoint is
    /// otherwise well.
    pub(in crate::deliver) async fn attempt(&self, packed: Packed, is_last_try: bool) -> Verdict {
        let server = self.app.server;
        let verdict = match self.post(&packed).await {
            Ok(response) => judge(server, response.answer()),
            Err(problem) => problem.judge(server, None),
        };
        match verdict {
            Verdict::Doubt { problem } if is_last_try => match self.probe().await {
                Ok(()) => Verdict::Reject { problem },
                Err(unwell) => {
                    debug!(%unwell, "endpoint is unwell");
                    Verdict::Doubt { problem }
                }
            },
            Verdict::Stop { problem: problem @ Problem::Answered { code: 404 | 405, .. } }
                if packed.path == Path::BatchEvents =>
            {
                match self.probe().await {
                    Ok(()) => Verdict::EventsOnly,
                    Err(_) => Verdict::Stop { problem },
                }
            }
            verdict => verdict,
        }
    }

    async fn post(&self, packed: &Packed) -> Result<Response, Problem> {
        let (name, body) = (packed.path.name(), &packed.body);
        if let Some(connections) = &self.connections {
            let query = self.signed_query(Method::Post, name, &[], body);
            let target = format!("{}?{query}", self.app.path(name));
            let target = Uri::try_from(target).expect("a path and a query of ASCII, and short");
            let posting = connections.post(target, body.clone(), MAX_ANSWER_BYTES);
            let posted = timeout(self.app.timeout, posting).await;
            match posted.map_err(|_| Problem::Timeout(self.app.timeout))? {
                Ok(response) => return Ok(response),
                Err(Failure::Unreachable(cause)) => return Err(self.unreachable(cause)),
                Err(Failure::BrokenOff(cause)) => return Err(Problem::BrokenOff(cause)),
                Err(Failure::Http2) => {}
            }
        }
        let sent = self.send(Method::Post, name, &[], body.clone()).await;
        self.read(sent?, MAX_ANSWER_BYTES).await
    }

    /// The list of occupied channels that begin with `prefix`, and this of each.
    pub(super) async fn channels(
        &self,
        prefix: &str,
        info: Option<&str>,
        max_bytes: usize,
    ) -> Result<Response, Problem> {
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        let parameters = [("filter_by_prefix", prefix), ("info", info)];
        let parameters = parameters.into_iter().filter_map(|(name, it)| Some((name, it?)));
        let parameters: Vec<(&str, &str)> = parameters.collect();
        let sent = self.send(Method::Get, "channels", &parameters, Bytes::new()).await;
        self.read(sent?, max_bytes).await
    }

    pub(super) async fn read(
        &self,
        response: reqwest::Response,
        max_bytes: usize,
    ) -> Result<Response, Problem> {
        let read = Response::read(response.into(), max_bytes).await;
        read.map_err(|error| self.explain(error))
    }

    pub(super) async fn send(
        &self,
        method: Method,
        name: &str,
        parameters: &[(&str, &str)],
        body: Bytes,
    ) -> Result<reqwest::Response, Problem> {
        let query = self.signed_query(method, name, parameters, &body);
        let url = format!("{}?{query}", self.app.url(name));
        let request = match method {
            Method::Get => self.http.get(url),
            Method::Post => self.http.post(url).header(CONTENT_TYPE, "application/json").body(body),
        };
        request.send().await.map_err(|error| self.explain(error))
    }

    fn signed_query(
        &self,
        method: Method,
        name: &str,
        parameters: &[(&str, &str)],
        body: &[u8],
    ) -> String {
        let path = self.app.signed_path(name);
        let signed = Signed { method, path: &path, parameters, body, unix_seconds: unix_seconds() };
        signed_query(&self.app.key, &self.app.secret, signed)
    }

    pub(super) fn explain(&self, error: reqwest::Error) -> Problem {
        // The address has the key and a signature in it.
        let error = error.without_url();
        if error.is_timeout() {
            return Problem::Timeout(self.app.timeout);
        }
        match error.is_connect() {
            true => self.unreachable(error.into()),
            false => Problem::BrokenOff(error.into()),
        }
    }

    fn unreachable(&self, cause: Cause) -> Problem {
        Problem::Unreachable { origin: self.app.origin.clone(), cause }
    }
}

pub(super) struct Response {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// There was more of it than was to be read.
    is_cut_off: bool,
}

impl Response {
    pub(super) async fn read<B>(
        mut response: hyper::Response<B>,
        max_bytes: usize,
    ) -> Result<Response, B::Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut body = Vec::new();
        let mut is_cut_off = false;
        while let Some(frame) = response.body_mut().frame().await {
            // What is no data are trailers.
            let Ok(chunk) = frame?.into_data() else { continue };
            is_cut_off = body.len() + chunk.len() > max_bytes;
            if is_cut_off {
                body.extend_from_slice(&chunk[..max_bytes - body.len()]);
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status().as_u16();
        Ok(Response { status, headers: std::mem::take(response.headers_mut()), body, is_cut_off })
    }

    pub(super) fn answer(&self) -> Answer<'_> {
        Answer {
            status: self.status,
            retry_after: self.header(RETRY_AFTER),
            location: self.header(LOCATION),
            date: self.header(DATE),
            body: &self.body[..self.body.len().min(MAX_ANSWER_BYTES)],
            unix_seconds: unix_seconds(),
        }
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What nobody has asked for before.
fn own_info() -> String {
    format!("subscription_count,{}", Timestamp::now().unix_micros())
}

fn unix_seconds() -> i64 {
    Timestamp::now().unix_micros().div_euclid(1_000_000)
}

/// The system's authorities and those of `ca_file`. On plain HTTP none are
/// read, since a slim container may have none.
pub(super) fn tls(
    config: &Config,
    is_encrypted: bool,
) -> Result<rustls::ClientConfig, ConfigError> {
    let mut roots = rustls::RootCertStore::empty();
    if is_encrypted || config.proxy.is_some() {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            warn!(%error, "cannot read some of the system's certificate authorities");
        }
        roots.add_parsable_certificates(system.certs);
    }
    if let Some(path) = &config.ca_file {
        let failed = |source| ConfigError::CaFile { path: path.clone(), source };
        let mut count = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            roots
                .add(certificate.map_err(failed)?)
                .map_err(|source| ConfigError::CaCertificate { path: path.clone(), source })?;
            count += 1;
        }
        if count == 0 {
            return Err(ConfigError::CaFileEmpty { path: path.clone() });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

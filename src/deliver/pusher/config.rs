use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::secret::Secret;

use super::{EncryptionKey, Server};

/// Of each text that becomes part of a request's address. Servers take some kB of
/// address in all.
const MAX_BYTES: usize = 1024;

/// `[pusher]`: the Pusher-compatible endpoint that notifications go to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the server's HTTP API listens: scheme, host, port, and a path
    /// prefix if it has one, for example `http://127.0.0.1:8080`. Either this
    /// or `cluster`.
    pub url: Option<EndpointUrl>,
    /// A cluster of hosted Pusher Channels, for example `mt1` or `eu`.
    pub cluster: Option<Cluster>,
    /// The app's id, key and secret, as the server knows them.
    pub app_id: AppId,
    pub key: AppKey,
    pub secret: AppSecret,
    /// For channels that begin with `private-encrypted-`: 32 bytes as base64,
    /// the same as the application's, perhaps with `base64:` before it.
    pub encryption_key: Option<EncryptionKey>,
    /// Which server it is, for its limits and quirks: `reverb`, `pusher`,
    /// `soketi`, `sockudo`, `laravel-websockets`, or `any`: what all of them
    /// take.
    #[serde(default)]
    pub server: Server,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether a notification is sent only on channels that somebody has joined, for
    /// which the endpoint is asked.
    #[serde(default)]
    pub occupied_only: bool,
    /// `one` or `several` processes of the server that browsers connect to.
    /// Several learn from each other who has joined what, so the list that one of them
    /// gives may lack what was joined in the last moments. Default: `several` with
    /// `cluster` and `server = "pusher"`.
    pub nodes: Option<Nodes>,
    /// HTTP proxy to go through. Only this one: the proxy variables of the
    /// environment are never read.
    pub proxy: Option<ProxyUrl>,
    /// Speak HTTP/2 without asking first, which saves a connection for each
    /// request on a plain `http://` Sockudo. Over `https://` HTTP/2 is
    /// negotiated anyway.
    #[serde(default)]
    pub http2: bool,
    /// Whether the path prefix of `url` is part of the signature. By default
    /// not with `server = "reverb"`, and otherwise yes.
    pub sign_path_prefix: Option<bool>,
    /// How long one request may take, from 100ms to 60s. A request that was
    /// given up may still have arrived, so it is repeated.
    #[serde(default)]
    pub timeout: Timeout,
}

/// An endpoint that is not told clearly, or files that it needs.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("neither `url` nor `cluster` says where the endpoint is")]
    NoEndpoint,
    #[error("`url` and `cluster` both say where the endpoint is")]
    TwoEndpoints,
    #[error("cannot read the certificate authorities in {path}")]
    CaFile {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    CaFileEmpty { path: PathBuf },
    #[error("{path} holds a certificate that cannot be an authority")]
    CaCertificate {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("cannot make an HTTP client")]
    Http(#[source] reqwest::Error),
}

impl ConfigError {
    /// The option of `[pusher]` to change.
    pub fn option(&self) -> &'static str {
        match self {
            ConfigError::NoEndpoint => "url",
            ConfigError::TwoEndpoints => "cluster",
            ConfigError::CaFile { .. }
            | ConfigError::CaFileEmpty { .. }
            | ConfigError::CaCertificate { .. } => "ca_file",
            ConfigError::Http(_) => "proxy",
        }
    }
}

impl Config {
    /// The endpoint's address without a slash at its end.
    ///
    /// # Errors
    /// If there is none, or two.
    pub fn endpoint(&self) -> Result<EndpointUrl, ConfigError> {
        match (&self.url, &self.cluster) {
            (Some(url), None) => Ok(url.clone()),
            (None, Some(cluster)) => Ok(cluster.url()),
            (None, None) => Err(ConfigError::NoEndpoint),
            (Some(_), Some(_)) => Err(ConfigError::TwoEndpoints),
        }
    }

    pub fn nodes(&self) -> Nodes {
        let is_hosted = self.cluster.is_some() || self.server == Server::Pusher;
        self.nodes.unwrap_or(if is_hosted { Nodes::Several } else { Nodes::One })
    }

    /// How long after somebody joined a channel it may be missing in a list.
    pub(super) fn list_lag(&self) -> Duration {
        match (self.nodes(), self.server) {
            (Nodes::Several, _) => Duration::from_secs(5),
            // It may be a Sockudo, which repeats a list for 2 s.
            (Nodes::One, Server::Any) => Duration::from_secs(3),
            (Nodes::One, _) => Duration::ZERO,
        }
    }

    pub fn signs_path_prefix(&self) -> bool {
        self.sign_path_prefix.unwrap_or_else(|| self.server.signs_path_prefix())
    }
}

/// How many processes of the server there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nodes {
    One,
    Several,
}

/// `https://host:port/prefix`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct EndpointUrl {
    origin: String,
    prefix: String,
}

impl EndpointUrl {
    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Empty, or a path that begins with a slash and ends without one.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.origin.starts_with("https:")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    #[error("not a URL like http://127.0.0.1:8080")]
    Form(#[source] url::ParseError),
    #[error("the scheme is {0}, and the HTTP API speaks http or https")]
    Scheme(String),
    #[error("the URL has a user or password, which belong in `key` and `secret`")]
    Credentials,
    #[error("the URL has a query or fragment, and only a path may follow the host")]
    Query,
    #[error("leave out /apps: rowcast appends it")]
    Apps,
    #[error("the path has {0} bytes, and at most {MAX_BYTES} are taken")]
    TooLong(usize),
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<EndpointUrl, EndpointUrlError> {
        let url = Url::parse(text).map_err(EndpointUrlError::Form)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(EndpointUrlError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointUrlError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointUrlError::Query);
        }
        let prefix = url.path().trim_end_matches('/');
        if prefix.ends_with("/apps") || prefix.contains("/apps/") {
            return Err(EndpointUrlError::Apps);
        }
        if prefix.len() > MAX_BYTES {
            return Err(EndpointUrlError::TooLong(prefix.len()));
        }
        Ok(EndpointUrl { origin: url.origin().ascii_serialization(), prefix: prefix.to_owned() })
    }
}

impl TryFrom<String> for EndpointUrl {
    type Error = EndpointUrlError;

    fn try_from(text: String) -> Result<EndpointUrl, EndpointUrlError> {
        text.parse()
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.prefix)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is one kind of name, checked when it is read.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:ident, $message:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum $error {
            #[error($message)]
            Form(String),
            #[error("it has {0} bytes, and at most {MAX_BYTES} are taken")]
            TooLong(usize),
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<$name, $error> {
                let allowed: fn(u8) -> bool = $allowed;
                if text.len() > MAX_BYTES {
                    return Err($error::TooLong(text.len()));
                }
                if text.is_empty() || !text.bytes().all(allowed) {
                    return Err($error::Form(text));
                }
                Ok($name(text))
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<$name, $error> {
                text.to_owned().try_into()
            }
        }
    };
}

name! {
    /// The app's id, which is part of every path.
    AppId, AppIdError, "{0:?} is no app id: it takes letters, digits, - _ and ., at least one",
    |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

name! {
    /// The app's public key, which browsers know too.
    AppKey, AppKeyError, "{0:?} is no app key: it takes printable ASCII without spaces, at least one character",
    |byte| byte.is_ascii_graphic()
}

name! {
    /// A cluster of hosted Pusher Channels.
    Cluster, ClusterError, "{0:?} is no cluster: small letters, digits and - only, as in mt1",
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// The app's secret, which signs every request. It never prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Secret")]
pub struct AppSecret(Secret);

impl AppSecret {
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    pub(super) fn as_secret(&self) -> &Secret {
        &self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the app's secret is empty")]
pub struct EmptySecret;

impl TryFrom<Secret> for AppSecret {
    type Error = EmptySecret;

    fn try_from(secret: Secret) -> Result<AppSecret, EmptySecret> {
        if secret.expose().is_empty() { Err(EmptySecret) } else { Ok(AppSecret(secret)) }
    }
}

impl Cluster {
    fn url(&self) -> EndpointUrl {
        EndpointUrl { origin: format!("https://api-{}.pusher.com", self.0), prefix: String::new() }
    }
}

/// The address of an HTTP proxy. It may hold a password, so it never prints.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyUrl(Url);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    #[error("not a URL like http://proxy.example:3128")]
    Form(#[source] url::ParseError),
    #[error("the scheme is {0}, and a proxy is reached by http or https")]
    Scheme(String),
}

impl ProxyUrl {
    pub(super) fn as_url(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = ProxyUrlError;

    fn try_from(text: String) -> Result<ProxyUrl, ProxyUrlError> {
        let url = Url::parse(&text).map_err(ProxyUrlError::Form)?;
        match url.scheme() {
            "http" | "https" => Ok(ProxyUrl(url)),
            scheme => Err(ProxyUrlError::Scheme(scheme.to_owned())),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// How long one request may take, written `"5s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Timeout(Duration);

impl Timeout {
    pub fn get(self) -> Duration {
        self.0
    }
}

impl Default for Timeout {
    fn default() -> Timeout {
        Timeout(Duration::from_secs(5))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TimeoutError {
    #[error("not a duration like 5s or 500ms")]
    Form(#[source] jiff::Error),
    #[error("{0:?} is not from 100ms to 60s")]
    Range(Duration),
}

impl TryFrom<Duration> for Timeout {
    type Error = TimeoutError;

    fn try_from(duration: Duration) -> Result<Timeout, TimeoutError> {
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&duration) {
            return Err(TimeoutError::Range(duration));
        }
        Ok(Timeout(duration))
    }
}

impl TryFrom<String> for Timeout {
    type Error = TimeoutError;

    fn try_from(text: String) -> Result<Timeout, TimeoutError> {
        let duration: jiff::SignedDuration = text.parse().map_err(TimeoutError::Form)?;
        Duration::try_from(duration).map_err(TimeoutError::Form)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "app_id = '1'\nkey = 'k'\nsecret = 'hush-hush'\n";

    fn config(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("{APP}{text}"))
    }

    #[test]
    fn the_endpoint_is_a_url_or_a_cluster_but_not_both() {
        let endpoint = |text| config(text).expect("it parses").endpoint();
        let url = endpoint("url = 'http://127.0.0.1:8080/'").expect("a url");
        assert_eq!(url.to_string(), "http://127.0.0.1:8080");
        let prefixed = endpoint("url = 'https://ws.example/reverb/'").expect("a url");
        assert_eq!((prefixed.origin(), prefixed.prefix()), ("https://ws.example", "/reverb"));
        let cluster = endpoint("cluster = 'mt1'").expect("a cluster");
        assert_eq!(cluster.to_string(), "https://api-mt1.pusher.com");
        assert!(matches!(endpoint(""), Err(ConfigError::NoEndpoint)));
        let both = endpoint("url = 'http://h'\ncluster = 'eu'");
        assert!(matches!(both, Err(ConfigError::TwoEndpoints)));
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused_with_the_reason() {
        for (text, reason) in [
            ("url = 'ws://h:80'", "speaks http or https"),
            ("url = 'localhost:8080'", "speaks http or https"),
            ("url = '127.0.0.1'", "not a URL like"),
            ("url = 'http://k:s@h'", "user or password"),
            ("url = 'http://h/?a=1'", "query"),
            ("url = 'http://h/apps/1'", "leave out /apps"),
            ("cluster = 'MT1'", "no cluster"),
            ("timeout = '1h'", "from 100ms to 60s"),
            ("timeout = '5'", "not a duration"),
            ("server = 'redis'", "unknown variant"),
            ("proxy = 'socks5://h'", "by http or https"),
            ("nodes = 'three'", "unknown variant"),
            ("proxi = 'http://h'", "unknown field"),
        ] {
            let error = config(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_no_server_takes_in_an_address_is_refused() {
        let long = "k".repeat(MAX_BYTES);
        for option in ["app_id", "key"] {
            let mut app = toml::from_str::<toml::Table>(APP).expect("it parses");
            app.insert(option.to_owned(), long.clone().into());
            app.clone().try_into::<Config>().expect(option);
            app.insert(option.to_owned(), format!("{long}k").into());
            let error = app.try_into::<Config>().expect_err(option).to_string();
            assert!(error.contains("it has 1025 bytes, and at most 1024"), "{option}: {error}");
        }
        config(&format!("url = 'http://h/{}'", &long[1..])).expect("it is short enough");
        let error = config(&format!("url = 'http://h/{long}'")).expect_err("it is too long");
        assert!(error.to_string().contains("the path has 1025 bytes"), "{error}");
    }

    #[test]
    fn neither_id_nor_key_nor_secret_of_the_app_may_be_empty() {
        for (option, reason) in [
            ("app_id", "\"\" is no app id"),
            ("key", "\"\" is no app key"),
            ("secret", "the app's secret is empty"),
        ] {
            let mut app = toml::from_str::<toml::Table>(APP).expect("it parses");
            app.insert(option.to_owned(), "".into());
            let error = app.try_into::<Config>().expect_err(option).to_string();
            assert!(error.contains(reason), "{option}: {error}");
        }
    }

    #[test]
    fn hosted_pusher_has_several_nodes_and_the_others_have_one_unless_told() {
        let nodes = |text| config(text).expect("it parses").nodes();
        assert_eq!(nodes("cluster = 'eu'"), Nodes::Several);
        assert_eq!(nodes("server = 'pusher'"), Nodes::Several);
        assert_eq!(nodes("server = 'pusher'\nnodes = 'one'"), Nodes::One);
        assert_eq!(nodes("server = 'reverb'"), Nodes::One);
        assert_eq!(nodes("server = 'soketi'\nnodes = 'several'"), Nodes::Several);
    }

    #[test]
    fn a_list_may_lag_where_there_are_several_nodes_and_where_the_server_is_not_named() {
        let lag = |text| config(text).expect("it parses").list_lag();
        assert!(lag("server = 'reverb'").is_zero() && lag("server = 'sockudo'").is_zero());
        assert_eq!(lag(""), Duration::from_secs(3));
        assert_eq!(lag("server = 'sockudo'\nnodes = 'several'"), Duration::from_secs(5));
        assert_eq!(lag("nodes = 'several'"), Duration::from_secs(5));
    }

    #[test]
    fn only_reverb_leaves_the_prefix_out_of_the_signature_unless_told() {
        let signs = |text| config(text).expect("it parses").signs_path_prefix();
        assert!(signs("server = 'soketi'"));
        assert!(!signs("server = 'reverb'"));
        assert!(signs("server = 'reverb'\nsign_path_prefix = true"));
    }

    #[test]
    fn neither_the_secret_nor_a_proxys_password_prints() {
        let config = config("proxy = 'http://u:pw-of-proxy@h'").expect("it parses");
        let printed = format!("{config:?}");
        assert!(!printed.contains("hush") && !printed.contains("pw-of-proxy"), "{printed}");
        assert_eq!(config.timeout.get(), Duration::from_secs(5));
    }
}

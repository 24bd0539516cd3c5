//! HTTP/1.1 requests and Pusher's signature, as a server reads them. Shares no code with rowcast or hyper.

use std::time::Instant;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const MAX_HEAD_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    query: Vec<(String, String)>,
    pub head_bytes: usize,
    pub body: Vec<u8>,
    /// When its first byte was read.
    pub began: Instant,
}

/// What no HTTP client of this API may do, in words.
#[derive(Debug)]
pub struct Malformed(pub &'static str);

/// Reads one request; `None` if the client closed before it was whole.
pub async fn read(stream: &mut TcpStream) -> Result<Option<Request>, Malformed> {
    let mut bytes = Vec::with_capacity(4096);
    let mut began = None;
    let head_bytes = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(Malformed("the head never ends"));
        }
        // A reset is the client's way to close, too.
        let Ok(count @ 1..) = stream.read_buf(&mut bytes).await else { return Ok(None) };
        began.get_or_insert_with(Instant::now);
        debug_assert!(count > 0);
    };
    let began = began.expect("a head was read");
    let head =
        str::from_utf8(&bytes[..head_bytes]).map_err(|_| Malformed("the head is no text"))?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1")) = (first.next(), first.next(), first.next())
    else {
        return Err(Malformed("the first line is no request of HTTP/1.1"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path) = (method.to_owned(), path.to_owned());
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(decode_pair).collect();

    let mut length = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(Malformed("a header without a colon"))?;
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => return Err(Malformed("Reverb does not read chunked bodies")),
            "expect" => return Err(Malformed("Reverb hangs on Expect")),
            "content-length" => length = value.trim().parse::<usize>().ok(),
            _ => {}
        }
    }
    let length = match (method.as_str(), length) {
        ("POST", None) => return Err(Malformed("a POST without Content-Length")),
        (_, length) => length.unwrap_or(0),
    };
    let mut body = bytes.split_off(head_bytes);
    while body.len() < length {
        let Ok(1..) = stream.read_buf(&mut body).await else { return Ok(None) };
    }
    Ok(Some(Request { method, path, query, head_bytes, body, began }))
}

impl Request {
    /// Of the query, without what authenticates it.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        const AUTHENTICATING: [&str; 5] =
            ["auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"];
        let parameters = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        parameters.filter(|(name, _)| !AUTHENTICATING.contains(name))
    }

    /// Whether the signature is right, or why not.
    /// <https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication>
    pub fn verify(&self, path: &str, key: &str, secret: &str, now: u64) -> Result<(), String> {
        let parameter = |name: &str| {
            let found = self.query.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str()).ok_or(format!("no {name}"))
        };
        if parameter("auth_key")? != key {
            return Err("another auth_key".to_owned());
        }
        if parameter("auth_version")? != "1.0" {
            return Err("another auth_version".to_owned());
        }
        let timestamp: u64 = parameter("auth_timestamp")?.parse().map_err(|_| "no timestamp")?;
        if timestamp.abs_diff(now) > 600 {
            return Err(format!("timestamp {timestamp} is expired"));
        }
        if !self.body.is_empty() && parameter("body_md5")? != hex(&Md5::digest(&self.body)) {
            return Err("another body_md5".to_owned());
        }
        let mut signed: Vec<String> = self
            .query
            .iter()
            .filter(|(name, _)| name != "auth_signature")
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        signed.sort();
        let text = [self.method.as_str(), path, &signed.join("&")].join("\n");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key will do");
        mac.update(text.as_bytes());
        if parameter("auth_signature")? != hex(&mac.finalize().into_bytes()) {
            return Err(format!("another signature than that of {text:?}"));
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_pair(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    (decode(name), decode(value))
}

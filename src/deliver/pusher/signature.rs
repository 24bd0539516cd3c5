//! The signature of a request. Pure; the caller tells the time.
//! <https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication>

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

use crate::secret::Secret;

/// What a query value leaves as it is.
const QUERY_VALUE: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b',');

#[derive(Clone, Copy, Debug)]
pub enum Method {
    Get,
    Post,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub method: Method,
    /// From `/apps` on, or with the path prefix, as the server wants it.
    pub path: &'a str,
    /// Further parameters of the query.
    pub parameters: &'a [(&'a str, &'a str)],
    /// Empty for a GET, which has no `body_md5`.
    pub body: &'a [u8],
    pub unix_seconds: i64,
}

/// The query string that makes the request valid, without the `?`.
pub fn signed_query(key: &str, secret: &Secret, signed: Signed<'_>) -> String {
    let timestamp = signed.unix_seconds.to_string();
    let mut body_md5 = [0; 2 * 16];
    let body_md5 = hex_of(&Md5::digest(signed.body), &mut body_md5);
    let mut parameters =
        vec![("auth_key", key), ("auth_timestamp", timestamp.as_str()), ("auth_version", "1.0")];
    if !signed.body.is_empty() {
        parameters.push(("body_md5", body_md5));
    }
    parameters.extend_from_slice(signed.parameters);
    parameters.sort_unstable();

    let mut text = String::with_capacity(256);
    text.extend([signed.method.name(), "\n", signed.path, "\n"]);
    let mut query = String::with_capacity(256);
    for (index, (name, value)) in parameters.iter().enumerate() {
        let separator = if index == 0 { "" } else { "&" };
        text.extend([separator, name, "=", value]);
        query.extend([separator, name, "="]);
        query.extend(utf8_percent_encode(value, &QUERY_VALUE));
    }

    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    query.push_str("&auth_signature=");
    query.push_str(hex_of(&mac.finalize().into_bytes(), &mut [0; 2 * 32]));
    query
}

/// `out` is twice as long as `bytes`.
fn hex_of<'o>(bytes: &[u8], out: &'o mut [u8]) -> &'o str {
    hex::encode_to_slice(bytes, out).expect("it is as long as it must be");
    str::from_utf8(out).expect("hexadecimal digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(signed: Signed<'_>) -> String {
        signed_query("278d425bdf160c739803", &Secret::new("7ad3773142a6692b25b8"), signed)
    }

    #[test]
    fn the_worked_example_of_the_documentation_comes_out() {
        let query = sign(Signed {
            method: Method::Post,
            path: "/apps/3/events",
            parameters: &[],
            body: br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#,
            unix_seconds: 1_353_088_179,
        });
        assert_eq!(
            query,
            "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
             &body_md5=ec365a775a4cd0599faeb73354201b6f\
             &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
    }

    #[test]
    fn a_get_has_no_body_md5_and_signs_its_parameters_in_order() {
        let query = sign(Signed {
            method: Method::Get,
            path: "/apps/3/channels",
            parameters: &[("info", "user_count"), ("filter_by_prefix", "presence-a b")],
            body: b"",
            unix_seconds: 1,
        });
        let (parameters, signature) = query.split_once("&auth_signature=").expect("a signature");
        assert_eq!(
            parameters,
            "auth_key=278d425bdf160c739803&auth_timestamp=1&auth_version=1.0\
             &filter_by_prefix=presence-a%20b&info=user_count"
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(b"7ad3773142a6692b25b8").expect("any key");
        mac.update(
            b"GET\n/apps/3/channels\nauth_key=278d425bdf160c739803&auth_timestamp=1\
              &auth_version=1.0&filter_by_prefix=presence-a b&info=user_count",
        );
        assert_eq!(signature, hex::encode(mac.finalize().into_bytes()));
    }
}

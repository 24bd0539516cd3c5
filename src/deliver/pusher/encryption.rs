//! Encrypted channels: the endpoint carries what only their subscribers can
//! read, who have a channel's key from the application.
//! <https://pusher.com/docs/channels/using_channels/encrypted-channels/>

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::{Aead, AeadCore, OsRng};
use crypto_secretbox::{Key, KeyInit, Nonce, XSalsa20Poly1305};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::notification::ChannelName;
use crate::secret::Secret;

/// What the keys of all encrypted channels are made of, as the application that
/// lets pages join them has it. It never prints.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Secret")]
pub struct EncryptionKey([u8; EncryptionKey::LEN]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionKeyError {
    #[error(
        "it is no base64; expected {len} bytes as base64, as from: openssl rand -base64 {len}",
        len = EncryptionKey::LEN
    )]
    Form,
    #[error(
        "it is {0} bytes as base64; expected {len}, as from: openssl rand -base64 {len}",
        len = EncryptionKey::LEN
    )]
    Length(usize),
}

impl EncryptionKey {
    const LEN: usize = 32;

    /// `data` as it is sent on the channel: a JSON text.
    pub(super) fn encrypt(&self, channel: &ChannelName, data: &str) -> String {
        self.encrypt_with(&XSalsa20Poly1305::generate_nonce(&mut OsRng), channel, data)
    }

    fn encrypt_with(&self, nonce: &Nonce, channel: &ChannelName, data: &str) -> String {
        let key = Sha256::new().chain_update(channel.as_str()).chain_update(self.0).finalize();
        let secretbox = XSalsa20Poly1305::new(Key::from_slice(&key));
        let ciphertext = secretbox.encrypt(nonce, data.as_bytes());
        format!(
            r#"{{"nonce":"{}","ciphertext":"{}"}}"#,
            BASE64_STANDARD.encode(nonce),
            BASE64_STANDARD.encode(ciphertext.expect("any text that fits into memory"))
        )
    }
}

impl TryFrom<Secret> for EncryptionKey {
    type Error = EncryptionKeyError;

    /// Base64, perhaps with the `base64:` that Laravel writes before its keys.
    fn try_from(secret: Secret) -> Result<EncryptionKey, EncryptionKeyError> {
        let text = secret.expose().trim();
        let text = text.strip_prefix("base64:").unwrap_or(text);
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| EncryptionKeyError::Form)?;
        let key = bytes.try_into();
        key.map(EncryptionKey).map_err(|bytes: Vec<u8>| EncryptionKeyError::Length(bytes.len()))
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
impl EncryptionKey {
    /// A key of this byte.
    pub(in crate::deliver) fn of(byte: u8) -> EncryptionKey {
        EncryptionKey([byte; EncryptionKey::LEN])
    }

    /// What a page reads.
    pub(in crate::deliver) fn decrypt(&self, channel: &ChannelName, data: &str) -> String {
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        let part = |name: &str| {
            BASE64_STANDARD.decode(data[name].as_str().expect("a string")).expect("base64")
        };
        let key = Sha256::new().chain_update(channel.as_str()).chain_update(self.0).finalize();
        let secretbox = XSalsa20Poly1305::new(Key::from_slice(&key));
        let nonce = part("nonce");
        let text = secretbox.decrypt(Nonce::from_slice(&nonce), &*part("ciphertext"));
        String::from_utf8(text.expect("it is authentic")).expect("UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::{encrypted_len, escaped_len};

    fn channel() -> ChannelName {
        "private-encrypted-posts.42".parse().expect("a channel")
    }

    fn key(text: &str) -> Result<EncryptionKey, EncryptionKeyError> {
        Secret::new(text).try_into()
    }

    #[test]
    fn what_tweetnacl_makes_with_the_same_key_and_nonce_comes_out() {
        let key = key("AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=").expect("a key");
        let nonce: [u8; 24] = std::array::from_fn(|at| u8::try_from(100 + at).expect("a byte"));
        let data = r#"{"id":42,"title":"Crème"}"#;
        assert_eq!(
            key.encrypt_with(&nonce.into(), &channel(), data),
            "{\"nonce\":\"ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7\",\"ciphertext\":\
             \"xwrD34vjEWINBarpxNcBPaLasQ3U6rDtjR48ZoXPu4cZktkIlcpSF9YV\"}"
        );
    }

    #[test]
    fn what_is_encrypted_is_never_the_same_twice_and_as_long_as_was_told() {
        let key = EncryptionKey::of(7);
        for data in ["", "{}", "é", r#"{"id":42}"#, &"\"".repeat(10_000)] {
            let encrypted = key.encrypt(&channel(), data);
            assert_ne!(encrypted, key.encrypt(&channel(), data));
            assert_eq!(key.decrypt(&channel(), &encrypted), data);
            assert_eq!(escaped_len(&encrypted), encrypted_len(data.len()));
        }
    }

    #[test]
    fn a_key_is_32_bytes_as_base64_and_never_prints() {
        let text = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
        let expected = EncryptionKey(std::array::from_fn(|at| u8::try_from(at + 1).expect("32")));
        assert_eq!(key(text), Ok(expected.clone()));
        assert_eq!(key(&format!("base64:{text}\n")), Ok(expected.clone()));
        assert_eq!(format!("{expected:?}"), "<redacted>");
        assert_eq!(key(""), Err(EncryptionKeyError::Length(0)));
        assert_eq!(key("AQID"), Err(EncryptionKeyError::Length(3)));
        assert_eq!(key("my password"), Err(EncryptionKeyError::Form));
    }
}

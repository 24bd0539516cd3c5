use super::{ChannelPattern, escaped_len};

/// How payloads are measured: by the longest string that one becomes in a
/// request. On an encrypted channel that is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    is_sent_plain: bool,
    is_sent_encrypted: bool,
}

impl Measure {
    /// For payloads that may go to any of these channels.
    pub fn of(channels: &[ChannelPattern]) -> Measure {
        let mut classes = channels.iter().map(ChannelPattern::class);
        let is_sent_encrypted = classes.clone().any(|class| class.is_encrypted());
        let is_sent_plain = !is_sent_encrypted || classes.any(|class| !class.is_encrypted());
        Measure { is_sent_plain, is_sent_encrypted }
    }

    /// What the payload takes of a request, as [`escaped_len`] counts.
    pub fn bytes(self, payload: &str) -> usize {
        let plain = if self.is_sent_plain { escaped_len(payload) } else { 0 };
        let encrypted = if self.is_sent_encrypted { encrypted_len(payload.len()) } else { 0 };
        plain.max(encrypted)
    }
}

/// The [`escaped_len`] of what so many bytes become on an encrypted channel:
/// `{"nonce":"…","ciphertext":"…"}`.
pub fn encrypted_len(bytes: usize) -> usize {
    const TAG: usize = 16;
    const NONCE: usize = 24;
    /// The names and signs, each quote escaped, and the two around it all.
    const REST: usize = 38;
    base64_len(NONCE) + base64_len(bytes + TAG) + REST
}

fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::{ChannelClass, Part};

    #[test]
    fn a_payload_is_measured_by_its_longest_form_among_its_channels() {
        let pattern =
            |name: &str| ChannelPattern::new(vec![Part::Text(name.into())], ChannelClass::of(name));
        let measure = |names: &[&str]| {
            let patterns: Vec<_> = names.iter().map(|name| pattern(name)).collect();
            Measure::of(&patterns)
        };
        let quotes = "\"".repeat(1000);
        for (channels, payload, bytes) in [
            (&["posts", "private-posts"][..], &*quotes, 2002),
            (&["private-encrypted-posts"], &quotes, encrypted_len(1000)),
            (&["private-encrypted-posts", "posts"], &quotes, 2002),
            (&["posts"], "{}", 4),
            (&["private-encrypted-posts", "posts"], "{}", encrypted_len(2)),
            (&[], "{}", 4),
        ] {
            assert_eq!(measure(channels).bytes(payload), bytes, "{channels:?}");
        }
    }
}

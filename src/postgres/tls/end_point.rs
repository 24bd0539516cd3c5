//! The channel binding `tls-server-end-point`: a hash of the server's
//! certificate, by the hash function of the certificate's own signature.
//! <https://www.rfc-editor.org/rfc/rfc5929#section-4>
//!
//! Only that function's name is needed, four nested headers into the
//! certificate, so the walk is here instead of a crate for X.509.

use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The binding's data for a server with the certificate `der`. None if its
/// signature names no hash function, as with Ed25519; Postgres then offers no
/// channel binding either.
pub(crate) fn tls_server_end_point(der: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(der)? {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The first field of RSASSA-PSS-params, its hash algorithm.
const CONTEXT_0: u8 = 0xA0;

/// 1.2.840.113549.1.1
const PKCS1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
/// 2.16.840.1.101.3.4.2
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// 1.3.14.3.2.26
const SHA1: &[u8] = &[0x2B, 0x0E, 0x03, 0x02, 0x1A];

/// Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signature }
/// <https://www.rfc-editor.org/rfc/rfc5280#section-4.1>
fn signature_hash(der: &[u8]) -> Option<Hash> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (_, after_tbs) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(after_tbs, SEQUENCE)?;
    let (oid, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    if let Some(rest) = oid.strip_prefix(PKCS1) {
        return match rest {
            // MD5 and SHA-1 are too weak to bind with; the RFC puts SHA-256 in
            // their place.
            [4 | 5] => Some(Hash::Sha256),
            [10] => pss_hash(parameters),
            [11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            _ => None,
        };
    }
    match oid.strip_prefix(ECDSA)? {
        [1] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 2] => Some(Hash::Sha256),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// <https://www.rfc-editor.org/rfc/rfc4055#section-3.1>
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (fields, _) = element(parameters, SEQUENCE)?;
    // Left out, it is SHA-1.
    let Some((tagged, _)) = element(fields, CONTEXT_0) else { return Some(Hash::Sha256) };
    let (algorithm, _) = element(tagged, SEQUENCE)?;
    let (oid, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    if oid == SHA1 {
        return Some(Hash::Sha256);
    }
    match oid.strip_prefix(NIST_HASHES)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

/// The content of the DER element that `bytes` begins with, if its tag is
/// `tag`, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (len, rest) = match short {
        0..=0x7F => (usize::from(short), rest),
        // A certificate is far below 16 MB, so three bytes of length will do.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7F))?;
            let len = digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit));
            (len, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match content.len() {
            len @ 0..=0x7F => bytes.push(len as u8),
            len => bytes.extend([0x82, (len >> 8) as u8, len as u8]),
        }
        bytes.extend(content);
        bytes
    }

    /// A certificate as far as the walk goes.
    fn certificate(algorithm: &[&[u8]]) -> Vec<u8> {
        let parts =
            [tlv(SEQUENCE, &[7; 300]), tlv(SEQUENCE, &algorithm.concat()), tlv(0x03, &[0; 64])];
        tlv(SEQUENCE, &parts.concat())
    }

    fn oid(parts: &[&[u8]]) -> Vec<u8> {
        tlv(OBJECT_IDENTIFIER, &parts.concat())
    }

    #[test]
    fn the_hash_is_the_one_that_the_signature_uses() {
        let null: &[u8] = &[5, 0];
        for (algorithm, expected) in [
            (oid(&[PKCS1, &[4]]), Some(Hash::Sha256)),
            (oid(&[PKCS1, &[5]]), Some(Hash::Sha256)),
            (oid(&[PKCS1, &[11]]), Some(Hash::Sha256)),
            (oid(&[PKCS1, &[12]]), Some(Hash::Sha384)),
            (oid(&[PKCS1, &[13]]), Some(Hash::Sha512)),
            (oid(&[ECDSA, &[3, 3]]), Some(Hash::Sha384)),
            (oid(&[&[0x2B, 0x65, 0x70]]), None),
        ] {
            assert_eq!(signature_hash(&certificate(&[&algorithm, null])), expected);
        }
    }

    #[test]
    fn the_hash_of_a_pss_signature_is_among_its_parameters() {
        let pss = oid(&[PKCS1, &[10]]);
        let with = |hash: &[u8]| tlv(SEQUENCE, &tlv(CONTEXT_0, &tlv(SEQUENCE, &oid(&[hash]))));
        for (parameters, expected) in [
            (with(&[NIST_HASHES, &[3]].concat()), Some(Hash::Sha512)),
            (with(SHA1), Some(Hash::Sha256)),
            (tlv(SEQUENCE, &[]), Some(Hash::Sha256)),
            (with(&[1, 2, 3]), None),
        ] {
            assert_eq!(signature_hash(&certificate(&[&pss, &parameters])), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            tls_server_end_point(&bytes);
            tls_server_end_point(&tlv(SEQUENCE, &bytes));
            tls_server_end_point(&certificate(&[&bytes]));
        }
    }
}

//! What a key's text says before the server is asked.

/// The type of the column that keys are looked for in, domains resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyType {
    /// Of `pg_type.dat`.
    pub(super) oid: u32,
    /// Whether two values are equal exactly if the server writes them alike.
    pub(super) is_its_text: bool,
}

const UUID: u32 = 2950;

impl KeyType {
    /// By the OIDs of `pg_type.dat`; an enum has one of its own. Not `numeric`
    /// (1.0 and 1.00 are equal), nor `bpchar`, floats and intervals; nor text
    /// of a collation for which differing bytes may be equal.
    pub(super) fn new(oid: u32, is_enum: bool, is_deterministic: bool) -> KeyType {
        let is_its_text = match oid {
            // bool, bytea, int8, int2, int4, oid, date, timestamp, timestamptz
            16 | 17 | 20 | 21 | 23 | 26 | 1082 | 1114 | 1184 | UUID => true,
            // name, text, varchar
            19 | 25 | 1043 => is_deterministic,
            _ => is_enum,
        };
        KeyType { oid, is_its_text }
    }

    /// Whether the text is certainly none of this type. One query with such a
    /// key fails for all, so those of a `morphs` column had better not get there.
    pub(super) fn refuses(self, key: &str) -> bool {
        let bounds = match self.oid {
            20 => i64::MIN.into()..=i64::MAX.into(),
            21 => i16::MIN.into()..=i16::MAX.into(),
            23 => i32::MIN.into()..=i32::MAX.into(),
            UUID => return key.chars().filter(char::is_ascii_hexdigit).count() != 32,
            _ => return false,
        };
        let digits = key.trim_ascii();
        match digits.parse::<i128>() {
            Ok(number) => !bounds.contains(&number),
            Err(_) => {
                let digits = digits.strip_prefix(['-', '+']).unwrap_or(digits);
                // From 16 on it may be 0x2a or 1_000.
                !digits.starts_with(|first: char| first.is_ascii_digit())
                    || !digits.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_server_takes_is_refused() {
        let of = |oid| KeyType::new(oid, false, true);
        let uuid = "0b9a1f5e-65a1-4a54-9f0e-1c1b8f7d2a10";
        for (oid, taken, refused) in [
            (23, ["42", " +007 ", "0x2a", "-2147483648"], ["", "abc", uuid, "2147483648"]),
            (21, ["42", "-1", "32767", "1_0"], ["32768", "1.5", "--1", "1-1"]),
            (20, ["1", "9223372036854775807", "0", "7"], ["9223372036854775808", "NaN", "+", "x1"]),
            (2950, [uuid, "{0b9a1f5e65a14a549f0e1c1b8f7d2a10}", uuid, uuid], ["1", "", "x", "abc"]),
        ] {
            for key in taken {
                assert!(!of(oid).refuses(key), "{key} of {oid}");
            }
            for key in refused {
                assert!(of(oid).refuses(key), "{key} of {oid}");
            }
        }
        assert!(!of(25).refuses("") && !of(1184).refuses("yesterday"));
    }
}

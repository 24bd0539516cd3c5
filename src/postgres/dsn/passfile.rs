//! The password file.
//! <https://www.postgresql.org/docs/current/libpq-pgpass.html>

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tracing::warn;

use crate::secret::Secret;

/// The password of the file at `path` for this connection. None where the file
/// is absent, and, with a warning, where others could read it.
pub(super) fn read(path: &Path, fields: [&str; 4]) -> Option<Secret> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the password file cannot be read");
            return None;
        }
    };
    if !metadata.is_file() {
        warn!(path = %path.display(), "the password file is not a plain file and is ignored");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        warn!(
            path = %path.display(),
            "the password file is open to group or others and is ignored; its mode should be 0600"
        );
        return None;
    }
    match fs::read_to_string(path) {
        Ok(content) => find(&content, fields),
        Err(error) => {
            warn!(path = %path.display(), %error, "the password file cannot be read");
            None
        }
    }
}

/// The password of the first line whose host, port, database and user fit.
fn find(content: &str, fields: [&str; 4]) -> Option<Secret> {
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for wanted in fields {
            rest = matched(rest, wanted)?;
        }
        let mut password = String::new();
        let mut characters = rest.chars();
        while let Some(character) = characters.next() {
            match character {
                ':' => break,
                '\\' => password.extend(characters.next()),
                character => password.push(character),
            }
        }
        (!password.is_empty()).then(|| Secret::new(password))
    })
}

/// What follows the first field of `line`, if that is `*` or equals `wanted`.
fn matched<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        let character = match character {
            ':' => return wanted.next().is_none().then(|| &line[at + 1..]),
            '\\' => characters.next()?.1,
            character => character,
        };
        if wanted.next() != Some(character) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(content: &str) -> Option<String> {
        find(content, ["db.example", "5432", "shop", "rowcast"])
            .map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        for (content, expected) in [
            ("db.example:5432:shop:rowcast:one", Some("one")),
            ("*:*:*:*:any", Some("any")),
            ("other:*:*:*:no\n*:5432:*:rowcast:two\n*:*:*:*:three", Some("two")),
            ("# *:*:*:*:no\ndb.example:*:shop:*:yes", Some("yes")),
            (r"*:*:*:rowcast:a\:b\\c", Some(r"a:b\c")),
            (r"db\.example:5432:shop:rowcast:x", Some("x")),
            ("*:*:*:*:x\r\n", Some("x")),
            ("*:*:*:*:", None),
            ("*:*:*:*", None),
            ("db.example:5432:shop:row:no", None),
            ("db.example:5432:shop:rowcast2:no", None),
            ("", None),
        ] {
            assert_eq!(password(content).as_deref(), expected, "{content}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let read = || read(&path, ["h", "1", "d", "u"]).is_some();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!read());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read());
    }
}

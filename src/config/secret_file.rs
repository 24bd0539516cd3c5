//! `secret_file = "/run/credentials/…"` in place of `secret = "…"`: systemd
//! credentials, Docker secrets, or any file that only rowcast may read.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Options that may stand in a file of their own, with the name that says so.
const IN_FILES: [(&str, &str); 6] = [
    ("app_id", "app_id_file"),
    ("encryption_key", "encryption_key_file"),
    ("key", "key_file"),
    ("password", "password_file"),
    ("secret", "secret_file"),
    ("url", "url_file"),
];

#[derive(Debug, thiserror::Error)]
pub(super) enum SecretFileError {
    #[error("both `{option}` and `{file_option}` are set")]
    Both { option: &'static str, file_option: &'static str },
    #[error("`{file_option}` is not a path")]
    NotAPath { file_option: &'static str },
    #[error("cannot read {path} for `{option}`: {source}", path = path.display())]
    Read { option: &'static str, path: PathBuf, source: io::Error },
}

impl SecretFileError {
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            SecretFileError::Both { .. } => Some("keep one of the two".to_owned()),
            SecretFileError::NotAPath { file_option } => {
                Some(format!("write {file_option} = \"/path/to/the/file\""))
            }
            SecretFileError::Read { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Some("let the user that runs rowcast read it".to_owned())
                }
                _ => None,
            },
        }
    }
}

/// Puts the contents of each `X_file` of one section in place of `X`. The
/// option keeps the place of `X_file`, so that a bad value is shown there.
pub(super) fn resolve(section: &mut DeTable<'_>) -> Vec<(Range<usize>, SecretFileError)> {
    let mut errors = Vec::new();
    for (option, file_option) in IN_FILES {
        let Some((key, value)) = section.remove_entry(file_option) else { continue };
        if section.contains_key(option) {
            errors.push((key.span(), SecretFileError::Both { option, file_option }));
            continue;
        }
        let Some(path) = value.get_ref().as_str() else {
            errors.push((value.span(), SecretFileError::NotAPath { file_option }));
            continue;
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                // What echo and editors leave behind, and no more: a password
                // may end in a space.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                section.insert(
                    Spanned::new(key.span(), Cow::Borrowed(option)),
                    Spanned::new(value.span(), DeValue::String(Cow::Owned(text))),
                );
            }
            Err(source) => {
                let error = SecretFileError::Read { option, path: path.into(), source };
                errors.push((value.span(), error));
            }
        }
    }
    errors
}

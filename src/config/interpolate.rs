//! `${VAR}` in a string: the value of an environment variable.
//!
//! - `${VAR}` must be set, `${VAR:-default}` stands for the default when the
//!   variable is unset or empty, as in a shell.
//! - `$${` is a literal `${`.
//! - `${{ price }}` is a dollar sign before a rule's template and stays as it is.

use std::borrow::Cow;

/// Why a string cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InterpolateError {
    #[error("the environment variable {name} is not set")]
    Unset { name: String },
    #[error("`${{` without its `}}`")]
    Unclosed,
    #[error("{name:?} is not a variable's name")]
    Name { name: String },
    #[error("the default of {name} holds another `${{`")]
    Nested { name: String },
}

impl InterpolateError {
    pub(super) fn fix(&self) -> String {
        match self {
            InterpolateError::Unset { name } => {
                format!("set {name}, or give a default: ${{{name}:-…}}")
            }
            InterpolateError::Unclosed | InterpolateError::Name { .. } => {
                "write ${VAR} or ${VAR:-default}; $${ is a literal ${".to_owned()
            }
            InterpolateError::Nested { .. } => {
                "a default is plain text: set the variable where rowcast is started".to_owned()
            }
        }
    }

    /// What the string holds where it goes wrong.
    pub(super) fn culprit(&self) -> String {
        match self {
            InterpolateError::Unset { name }
            | InterpolateError::Name { name }
            | InterpolateError::Nested { name } => format!("${{{name}"),
            InterpolateError::Unclosed => "${".to_owned(),
        }
    }
}

pub(super) fn interpolate<'a>(
    text: &'a str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Cow<'a, str>, InterpolateError> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let after = &rest[at + 2..];
        if let Some(template) = after.strip_prefix('{') {
            done.push_str(&rest[..at + 3]);
            rest = template;
        } else if rest[..at].ends_with('$') {
            done.push_str(&rest[..at - 1]);
            done.push_str("${");
            rest = after;
        } else {
            done.push_str(&rest[..at]);
            let (variable, tail) = after.split_once('}').ok_or(InterpolateError::Unclosed)?;
            done.push_str(&value(variable, env)?);
            rest = tail;
        }
    }
    done.push_str(rest);
    Ok(Cow::Owned(done))
}

fn value(variable: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, InterpolateError> {
    let (name, default) = match variable.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (variable, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(InterpolateError::Name { name: name.to_owned() });
    }
    let set = env(name);
    match default {
        None => set.ok_or_else(|| InterpolateError::Unset { name: name.to_owned() }),
        Some(default) if default.contains("${") => {
            Err(InterpolateError::Nested { name: name.to_owned() })
        }
        Some(default) => Ok(set.filter(|s| !s.is_empty()).unwrap_or_else(|| default.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_literals_are_told_apart() {
        for (text, done) in [
            ("plain $5 {{ id }}", "plain $5 {{ id }}"),
            ("//${HOST}:${PORT:-5432}/", "//db:5432/"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${PORT:-}", ""),
            ("${HOST:-a:-b}", "db"),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("${{ price }} at ${HOST}", "${{ price }} at db"),
            ("$${{ price }}", "$${{ price }}"),
            ("${TRICK}", "${HOST}"),
            ("é${HOST}é", "édbé"),
        ] {
            assert_eq!(interpolate(text, &env).unwrap(), done, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_completed_is_an_error_and_never_empty_text() {
        let name = |name: &str| name.to_owned();
        for (text, error) in [
            ("${NONE}", InterpolateError::Unset { name: name("NONE") }),
            ("a ${HOST", InterpolateError::Unclosed),
            ("${}", InterpolateError::Name { name: name("") }),
            ("${1A}", InterpolateError::Name { name: name("1A") }),
            ("${HOST-x}", InterpolateError::Name { name: name("HOST-x") }),
            ("${NONE:-${HOST}}", InterpolateError::Nested { name: name("NONE") }),
        ] {
            assert_eq!(interpolate(text, &env), Err(error), "{text}");
        }
    }
}

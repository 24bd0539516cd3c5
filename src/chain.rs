//! An error with its causes.

use std::error::Error;
use std::iter::successors;

/// The error, then each cause, without what has been said already: some crates
/// print their own cause too.
pub fn parts(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for error in successors(Some(error), |&error| error.source()) {
        let text = error.to_string();
        if !said.iter().any(|said| said.contains(&text)) {
            said.push(text);
        }
    }
    said
}

/// The same on one line.
pub fn line(error: &(dyn Error + 'static)) -> String {
    parts(error).join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Said {
        text: &'static str,
        source: Option<Box<Said>>,
    }

    #[test]
    fn a_cause_that_its_error_has_quoted_is_not_said_again() {
        let inner = Said { text: "refused", source: None };
        let middle = Said { text: "connect: refused", source: Some(Box::new(inner)) };
        let outer = Said { text: "cannot deliver", source: Some(Box::new(middle)) };
        assert_eq!(line(&outer), "cannot deliver: connect: refused");
    }
}

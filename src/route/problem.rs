use std::fmt;

/// What is wrong with a rule, or may become so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Which `[[rule]]`, counted from 0.
    pub rule_index: usize,
    pub rule: String,
    /// The rule's option as the file has it: `channels`, `where`.
    pub option: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
    /// The SQL or the line of configuration that mends it.
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth telling; the rule works.
    Warning,
    /// The rule cannot keep the promise: nothing may start with it.
    Error,
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// One line, without the fix: `rule "posts", channels: …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}, {}: {}", self.rule, self.option, self.message)
    }
}

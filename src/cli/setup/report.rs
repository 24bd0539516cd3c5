use std::io;

use serde::Serialize;

use crate::cli::terminal;
use crate::postgres::checks::{Finding, Severity};
use crate::postgres::statement::Statement;

/// What was done and found: as text while it happens, or as one JSON object at
/// the end.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Report {
    #[serde(skip)]
    json: bool,
    changed: Vec<Change>,
    unchanged: Vec<String>,
    findings: Vec<Judged>,
}

#[derive(Debug, Serialize)]
struct Change {
    what: String,
    how: String,
}

#[derive(Debug, Serialize)]
struct Judged {
    severity: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Report {
    pub(in crate::cli) fn new(json: bool) -> Report {
        Report { json, changed: Vec::new(), unchanged: Vec::new(), findings: Vec::new() }
    }

    pub(in crate::cli) fn made(&mut self, what: String, how: String) {
        if !self.json {
            let how = how.replace('\n', "\n           ");
            terminal::say(format_args!("changed    {what}\n           {how}"));
        }
        self.changed.push(Change { what, how });
    }

    pub(in crate::cli) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Was as it should be.
    pub(in crate::cli) fn found(&mut self, what: String) {
        if !self.json {
            terminal::say(format_args!("unchanged  {what}"));
        }
        self.unchanged.push(what);
    }

    pub(in crate::cli) fn warning(&mut self, message: &str, fix: Option<String>) {
        self.judge(Severity::Warning, message.to_owned(), fix);
    }

    pub(in crate::cli) fn findings(&mut self, findings: &[Finding]) {
        for finding in findings {
            self.judge(finding.severity, finding.message.clone(), Some(finding.fix.clone()));
        }
    }

    fn judge(&mut self, severity: Severity, message: String, fix: Option<String>) {
        let severity = match severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if !self.json {
            terminal::say(format_args!("{severity:<10} {message}"));
            for line in fix.iter().flat_map(|fix| fix.lines()) {
                terminal::say(format_args!("           {line}"));
            }
        }
        self.findings.push(Judged { severity, message, fix });
    }

    /// A script for psql, instead of all else.
    pub(in crate::cli) fn script<'a>(
        &self,
        statements: impl Iterator<Item = &'a Statement>,
    ) -> io::Result<()> {
        let mut statements = statements.peekable();
        if statements.peek().is_none() {
            return terminal::print(b"-- nothing to do\n");
        }
        let mut script = Statement::script_head();
        for statement in statements {
            script += "\n";
            script += &statement.script();
        }
        terminal::print(script.as_bytes())
    }

    pub(in crate::cli) fn finish(&self) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let object = serde_json::to_string(self)?;
        terminal::print(format!("{object}\n").as_bytes())
    }
}

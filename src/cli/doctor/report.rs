//! What was looked at, and how that stands: lines for people as they come, or one
//! JSON object at the end.

use std::env;
use std::io;

use serde::Serialize;

use crate::cli::terminal;

/// Where what was found begins. Names of checks are shorter.
const INDENT: usize = 27;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What, in a word or two: the same one for several things of a kind.
    name: &'static str,
    verdict: Verdict,
    /// What is, and what that means for the data.
    found: String,
    /// Commands, SQL or words that put it right.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Holds,
    /// It works, but should not stay so.
    Advice,
    /// Nothing is told, or not all, or the application suffers.
    Fails,
    /// It could not be looked at.
    Unknown,
}

impl Check {
    pub(super) fn holds(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Holds, found: found.into(), fix: None }
    }

    pub(super) fn advice(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) -> Check {
        Check { name, verdict: Verdict::Advice, found: found.into(), fix: fix.into() }
    }

    pub(super) fn fails(
        name: &'static str,
        found: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) -> Check {
        Check { name, verdict: Verdict::Fails, found: found.into(), fix: fix.into() }
    }

    pub(super) fn unknown(name: &'static str, why: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Unknown, found: why.into(), fix: None }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.verdict == Verdict::Fails
    }

    /// As a person reads it, with the line ends within.
    fn text(&self, style: Style) -> String {
        let (mark, name) = (style.mark(self.verdict), self.name);
        let indent = " ".repeat(INDENT);
        let mut text = format!("  {mark} {name:<width$}", width = INDENT - 4);
        text += &self.found.replace('\n', &format!("\n{indent}"));
        if let Some(fix) = &self.fix {
            text += &format!("\n{indent}fix: ");
            text += &fix.replace('\n', &format!("\n{indent}     "));
        }
        text
    }
}

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
struct Style {
    unicode: bool,
    colour: bool,
}

impl Style {
    fn of_stdout() -> Style {
        // The first that is set decides, as for libc.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| {
            let value = env::var_os(name).filter(|value| !value.is_empty())?;
            Some(value.to_string_lossy().to_ascii_lowercase())
        });
        let is_utf8 = |locale: String| locale.contains("utf-8") || locale.contains("utf8");
        Style { unicode: locale.is_some_and(is_utf8), colour: terminal::has_colour(&io::stdout()) }
    }

    fn mark(self, verdict: Verdict) -> String {
        let (plain, ascii, colour) = match verdict {
            Verdict::Holds => ("✓", "+", 32),
            Verdict::Advice => ("!", "!", 33),
            Verdict::Fails => ("✗", "x", 31),
            Verdict::Unknown => ("?", "?", 33),
        };
        let mark = if self.unicode { plain } else { ascii };
        match self.colour {
            true => format!("\x1b[{colour}m{mark}\x1b[0m"),
            false => mark.to_owned(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    style: Style,
    sections: Vec<Section>,
}

#[derive(Debug, Serialize)]
struct Section {
    name: &'static str,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report { json, style: Style::of_stdout(), sections: Vec::new() }
    }

    /// What comes next is of this.
    pub(super) fn section(&mut self, name: &'static str) {
        if !self.json {
            let before = if self.sections.is_empty() { "" } else { "\n" };
            terminal::say(format_args!("{before}{name}"));
        }
        self.sections.push(Section { name, checks: Vec::new() });
    }

    pub(super) fn add(&mut self, check: Check) {
        if !self.json {
            terminal::say(check.text(self.style));
        }
        let section = self.sections.last_mut().expect("a check is of a section");
        section.checks.push(check);
    }

    fn count(&self, verdict: Verdict) -> usize {
        let checks = self.sections.iter().flat_map(|section| &section.checks);
        checks.filter(|check| check.verdict == verdict).count()
    }

    /// # Errors
    /// If anything fails, or cannot be printed.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        let failed = self.count(Verdict::Fails);
        if self.json {
            let ok = failed == 0;
            let object = serde_json::json!({ "ok": ok, "sections": self.sections });
            terminal::print(format!("{object}\n").as_bytes())?;
        } else {
            terminal::say(format_args!("\n{}", self.summary()));
        }
        match failed {
            0 => Ok(()),
            1 => anyhow::bail!("one check fails: see above"),
            failed => anyhow::bail!("{failed} checks fail: see above"),
        }
    }

    fn summary(&self) -> String {
        let words = [
            (Verdict::Holds, "hold"),
            (Verdict::Advice, "with advice"),
            (Verdict::Fails, "failed"),
            (Verdict::Unknown, "unknown"),
        ];
        let counted = words.map(|(verdict, word)| (self.count(verdict), word));
        let counted = counted.into_iter().filter(|(count, _)| *count > 0);
        counted.map(|(count, word)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { unicode: false, colour: false };

    #[test]
    fn what_was_found_and_its_fix_stand_below_each_other() {
        let check = Check::fails("slot", "it is lost:\ngone", "rowcast setup\nagain".to_owned());
        let indent = " ".repeat(INDENT);
        assert_eq!(
            check.text(PLAIN),
            format!(
                "  x slot                   it is lost:\n{indent}gone\n{indent}fix: rowcast setup\n\
                 {indent}     again"
            )
        );
        let style = Style { unicode: true, colour: true };
        assert!(check.text(style).starts_with("  \x1b[31m✗\x1b[0m slot "));
    }

    #[test]
    fn only_what_fails_is_an_error() {
        let mut report = Report::new(true);
        report.section("one");
        report.add(Check::holds("a", "is there"));
        report.add(Check::advice("b", "might be better", None));
        report.add(Check::unknown("c", "nobody said"));
        assert!(report.finish().is_ok());
        report.add(Check::fails("d", "is not", None));
        assert_eq!(report.finish().unwrap_err().to_string(), "one check fails: see above");
        assert_eq!(report.summary(), "1 hold, 1 with advice, 1 failed, 1 unknown");
    }
}

//! The file as a tree: parsed, its variables and secret files put in, and then
//! taken apart section by section, so that each stage reads its own.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::explain;
use super::interpolate::interpolate;
use super::laravel::Application;
use super::locate::{Outline, Source};
use super::report::{Problem, Report};
use super::secret_file;

/// The sections that hold no secret files: a rule's tables have the names that
/// the user gives them.
const RULES: &str = "rule";

pub(super) struct Document<'s> {
    source: &'s Source,
    outline: Outline,
    root: DeTable<'s>,
    sections: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'s> Document<'s> {
    pub(super) fn parse(source: &'s Source) -> Result<Document<'s>, Report> {
        let (root, errors) = DeTable::parse_recoverable(&source.text);
        if !errors.is_empty() {
            return Err(Report::new(explain::syntax(source, &errors)));
        }
        let root = root.into_inner();
        let outline = Outline::of(&root);
        Ok(Document { source, outline, root, sections: Vec::new(), problems: Vec::new() })
    }

    /// The application that `[laravel] root` names. What is wrong with the option
    /// itself is told where it is read.
    pub(super) fn application<'e>(
        &self,
        env: &'e dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Application<'e>>, Report> {
        let root = self.root.get("laravel").and_then(|section| section.get_ref().get("root"));
        let Some((root, span)) =
            root.and_then(|root| Some((root.get_ref().as_str()?, root.span())))
        else {
            return Ok(None);
        };
        let Ok(root) = interpolate(root, env) else { return Ok(None) };
        match Application::read(Path::new(&*root), env) {
            Ok(application) => Ok(Some(application)),
            Err(problem) if problem.location().is_some() => Err(Report::new(vec![problem])),
            Err(problem) => Err(Report::new(vec![problem.at(self.source, span)])),
        }
    }

    /// Puts in what stands outside the file.
    pub(super) fn complete(
        &mut self,
        env: &dyn Fn(&str) -> Option<String>,
        application: Option<&Application<'_>>,
    ) -> Result<(), Report> {
        self.resolve(env);
        if let Some(application) = application {
            self.inherit(application);
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(Report::new(std::mem::take(&mut self.problems))),
        }
    }

    fn resolve(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        let mut root = std::mem::take(&mut self.root);
        for (name, section) in root.iter_mut() {
            let (is_rule, span) = (name.get_ref() == RULES, section.span());
            self.strings(section.get_mut(), span, env);
            if let DeValue::Table(table) = section.get_mut()
                && !is_rule
            {
                for (span, error) in secret_file::resolve(table) {
                    let problem = Problem::new(error.to_string());
                    self.problems.push(problem.at(self.source, span).fix(error.fix()));
                }
            }
        }
        self.root = root;
    }

    /// What the application knows and the file does not say. What the file says
    /// is not looked for.
    fn inherit(&mut self, application: &Application<'_>) {
        if !self.has("database", "url") {
            match application.database() {
                Ok(dsn) => self.default("database", "url", dsn.to_string()),
                Err(problems) => self.problems.extend(problems),
            }
        }
        if !self.has("database", "timezone") {
            match application.timezone() {
                Ok(Some(zone)) => self.default("database", "timezone", zone),
                Ok(None) => {}
                Err(problem) => self.problems.push(problem),
            }
        }
        match application.pusher(&|option| !self.has("pusher", option)) {
            Ok(found) => {
                found.into_iter().for_each(|(option, value)| self.default("pusher", option, value));
            }
            Err(problems) => self.problems.extend(problems),
        }
    }

    fn has(&self, section: &str, option: &str) -> bool {
        self.root.get(section).is_some_and(|section| section.get_ref().get(option).is_some())
    }

    fn strings(
        &mut self,
        value: &mut DeValue<'_>,
        span: Range<usize>,
        env: &dyn Fn(&str) -> Option<String>,
    ) {
        match value {
            DeValue::String(text) => self.string(text, span, env),
            DeValue::Array(array) => {
                for item in array.iter_mut() {
                    let span = item.span();
                    self.strings(item.get_mut(), span, env);
                }
            }
            DeValue::Table(table) => {
                for (_, item) in table.iter_mut() {
                    let span = item.span();
                    self.strings(item.get_mut(), span, env);
                }
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    fn string(
        &mut self,
        text: &mut Cow<'_, str>,
        span: Range<usize>,
        env: &dyn Fn(&str) -> Option<String>,
    ) {
        let raw = self.source.text.get(span.clone()).unwrap_or_default();
        let option = self.outline.at(&span).map(|entry| entry.shown()).unwrap_or_default();
        // `"App\events"` is no syntax error: `\e` is TOML's escape for ESC. No
        // option holds such a character on purpose, and no name a line end.
        let one_line = raw.starts_with('"') && !raw.starts_with("\"\"\"");
        let is_name =
            ["rule.event", "rule.channels", "rule.table", "broadcast.channels", "broadcast.events"]
                .contains(&option.as_str());
        if one_line
            && (text.contains(['\u{8}', '\u{c}', '\u{1b}'])
                || is_name && text.contains(['\n', '\r', '\t']))
        {
            self.problems.push(explain::backslash(self.source, span));
            return;
        }
        match interpolate(text, env) {
            Ok(Cow::Borrowed(_)) => {}
            Ok(Cow::Owned(done)) => *text = Cow::Owned(done),
            Err(error) => {
                let culprit = error.culprit();
                let at = raw.find(&culprit).map_or(span.clone(), |at| {
                    let start = span.start + at;
                    let end = raw[at..].find('}').map_or(culprit.len(), |brace| brace + 1);
                    start..start + end
                });
                let problem = Problem::new(format!("`{option}`: {error}"));
                self.problems.push(problem.at(self.source, at).fix(error.fix()));
            }
        }
    }

    /// Gives `section.option` a value unless the file does.
    pub(super) fn default(&mut self, section: &'static str, option: &'static str, value: String) {
        let nowhere = 0..0;
        let key = Spanned::new(nowhere.clone(), Cow::Borrowed(section));
        let table = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        if let DeValue::Table(table) = self.root.entry(key).or_insert_with(table).get_mut() {
            let key = Spanned::new(nowhere.clone(), Cow::Borrowed(option));
            table
                .entry(key)
                .or_insert_with(|| Spanned::new(nowhere, DeValue::String(Cow::Owned(value))));
        }
    }

    /// The section `name`, which the file must have.
    pub(super) fn required<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        example: &str,
    ) -> Option<T> {
        if !self.root.contains_key(name) && !self.is_misspelt(name) {
            self.sections.push(name);
            let problem = Problem::new(format!("the section [{name}] is missing"));
            self.problems.push(problem.at(self.source, 0..0).fix(example.to_owned()));
            return None;
        }
        self.section(name)
    }

    /// The section `name`; without one, all its defaults. `None` if it holds a
    /// mistake, which [`Document::finish`] returns.
    pub(super) fn section<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.sections.push(name);
        if self.is_misspelt(name) {
            return None;
        }
        let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let section = self.root.remove(name).unwrap_or_else(empty);
        self.read(section)
    }

    /// Whether the section stands there under a name that [`Document::finish`]
    /// will correct: that it is missing as well is no second mistake.
    fn is_misspelt(&self, name: &'static str) -> bool {
        !self.root.contains_key(name)
            && self.root.keys().any(|key| explain::nearest(key.get_ref(), &[name]).is_some())
    }

    /// Each `[[rule]]`, in the order of the file.
    pub(super) fn rules<T: DeserializeOwned>(&mut self) -> Vec<T> {
        self.sections.push(RULES);
        let Some(rules) = self.root.remove(RULES) else { return Vec::new() };
        let span = rules.span();
        let DeValue::Array(rules) = rules.into_inner() else {
            let problem = Problem::new("there can be several rules, so each begins with [[rule]]");
            let fix = "write [[rule]], with two brackets".to_owned();
            self.problems.push(problem.at(self.source, span).fix(fix));
            return Vec::new();
        };
        rules.into_iter().filter_map(|rule| self.read(rule)).collect()
    }

    /// Serde stops at the first mistake: the option that holds it is taken out
    /// and the rest read again, to report all of them.
    fn read<T: DeserializeOwned>(&mut self, mut section: Spanned<DeValue<'s>>) -> Option<T> {
        let mut is_right = true;
        let mut taken: Vec<String> = Vec::new();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(section.clone())) {
                Ok(config) => return is_right.then_some(config),
                Err(error) => error,
            };
            is_right = false;
            // An option that was taken out, or that stands there misspelt, is
            // not missing.
            if let Some(missing) = explain::missing(&error)
                && taken.iter().any(|name| explain::nearest(name, &[missing]).is_some())
            {
                return None;
            }
            self.problems.push(explain::value(self.source, &self.outline, &error));
            let span = error.span().unwrap_or(0..0);
            let DeValue::Table(table) = section.get_mut() else { return None };
            let holds = |range: Range<usize>| range.start <= span.start && span.end <= range.end;
            let name = table
                .iter()
                .find(|(key, value)| holds(key.span()) || holds(value.span()))
                .map(|(key, _)| key.get_ref().to_string())?;
            table.remove(name.as_str());
            taken.push(name);
        }
    }

    /// What the file says of its places, once every section has been taken.
    pub(super) fn finish(mut self) -> Result<Outline, Report> {
        for key in self.root.keys() {
            let name = key.get_ref();
            let fix = match explain::nearest(name, &self.sections) {
                Some(nearest) if nearest == RULES => "did you mean [[rule]]?".to_owned(),
                Some(nearest) => format!("did you mean [{nearest}]?"),
                None => format!("sections are [{}]", self.sections.join("], [")),
            };
            let problem = Problem::new(format!("unknown section or option `{name}`"));
            self.problems.push(problem.at(self.source, key.span()).fix(fix));
        }
        match self.problems.is_empty() {
            true => Ok(self.outline),
            false => Err(Report::new(self.problems)),
        }
    }
}

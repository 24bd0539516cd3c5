//! Where in the file an option stands.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

/// A place in the configuration, counted from 1; columns are characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub path: Arc<Path>,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// The file as it was read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: Arc<Path>,
    pub(super) text: String,
}

impl Source {
    pub(super) fn location(&self, offset: usize) -> Location {
        let before = &self.text[..self.floor(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Location { path: Arc::clone(&self.path), line, column }
    }

    /// The range of the line that holds `offset`, without its line end.
    pub(super) fn line(&self, offset: usize) -> Range<usize> {
        let offset = self.floor(offset);
        let start = self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |at| offset + at);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }

    /// The parser also names the offset behind the last byte.
    fn floor(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset)
    }
}

/// An option that the file sets, or a section of it.
#[derive(Debug)]
pub(super) struct Entry {
    /// `pusher.secret`, `rule[2].data.id`, `rule[2].channels[0]`.
    pub(super) option: String,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

impl Entry {
    /// The option as it is shown: which of the rules it is, the line tells.
    pub(super) fn shown(&self) -> String {
        let mut shown = String::new();
        for (index, part) in self.option.split('[').enumerate() {
            shown.push_str(if index == 0 {
                part
            } else {
                part.split_once(']').map_or("", |(_, rest)| rest)
            });
        }
        shown
    }
}

/// Everything that the file sets, in the order of the walk.
#[derive(Debug, Default)]
pub(super) struct Outline(Vec<Entry>);

impl Outline {
    pub(super) fn of(table: &DeTable<'_>) -> Outline {
        let mut outline = Outline::default();
        outline.table("", table);
        outline
    }

    pub(super) fn find(&self, option: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.option == option)
    }

    /// The option whose key or value the parser means by `span`: the innermost
    /// that holds it.
    pub(super) fn at(&self, span: &Range<usize>) -> Option<&Entry> {
        let holds = |range: &Range<usize>| range.start <= span.start && span.end <= range.end;
        self.0
            .iter()
            .filter(|entry| holds(&entry.key) || holds(&entry.value))
            .min_by_key(|entry| if holds(&entry.key) { 0 } else { entry.value.len() })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let dot = if prefix.is_empty() { "" } else { "." };
            let option = format!("{prefix}{dot}{}", key.get_ref());
            self.value(option, key.span(), value.get_ref(), value.span());
        }
    }

    fn value(
        &mut self,
        option: String,
        key: Range<usize>,
        value: &DeValue<'_>,
        span: Range<usize>,
    ) {
        match value {
            DeValue::Table(table) => self.table(&option, table),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    let option = format!("{option}[{index}]");
                    self.value(option, item.span(), item.get_ref(), item.span());
                }
            }
            _ => {}
        }
        self.0.push(Entry { option, key, value: span });
    }
}

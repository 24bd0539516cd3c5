//! The payload: a rule's own, or the minimal one.

use super::config::Data;
use super::lookup::Vocabulary;
use super::reads::Reads;
use super::template::{BoundTemplate, ParseTemplateError, Part, Template, Unrenderable};
use super::value::write_json;
use super::view::{Known, Scope, View};
use crate::change::Relation;
use crate::notification::{Shape, write_string};

/// A payload in the shape that the rule gives it.
#[derive(Clone, Debug)]
pub(super) enum DataTemplate {
    Table(Vec<(Box<str>, DataTemplate)>),
    List(Vec<DataTemplate>),
    Template(Template),
    /// A table of columns under their own names, without those that the row does
    /// not carry.
    Columns(Vec<Box<str>>),
    /// JSON that is the same for all rows.
    Literal(Box<str>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    #[error("{path}: {template:?}: {error}")]
    Template { path: String, template: String, error: Box<ParseTemplateError> },
    #[error("expected a table, such as {{ post_id = \"{{{{ id }}}}\" }}")]
    NotATable,
}

impl DataError {
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            DataError::Template { error, .. } => error.fix(),
            DataError::NotATable => None,
        }
    }
}

impl DataTemplate {
    pub(super) fn parse(data: Data, vocabulary: Vocabulary<'_>) -> Result<DataTemplate, DataError> {
        if !matches!(data, Data::Table(_)) {
            return Err(DataError::NotATable);
        }
        DataTemplate::node(data, "", vocabulary)
    }

    fn node(data: Data, path: &str, vocabulary: Vocabulary<'_>) -> Result<DataTemplate, DataError> {
        let within = |key: &dyn std::fmt::Display| match path {
            "" => key.to_string(),
            path => format!("{path}.{key}"),
        };
        Ok(match data {
            Data::Table(entries) => {
                let entries = entries.into_iter().map(|(key, value)| {
                    let value = DataTemplate::node(value, &within(&key), vocabulary)?;
                    Ok((json_string(&key), value))
                });
                DataTemplate::Table(entries.collect::<Result<_, _>>()?)
            }
            Data::List(items) => {
                let items = items.into_iter().enumerate();
                let items = items
                    .map(|(index, item)| DataTemplate::node(item, &within(&index), vocabulary));
                DataTemplate::List(items.collect::<Result<_, _>>()?)
            }
            Data::Template(text) => match Template::parse(&text, vocabulary) {
                Ok(template) => match &*template.parts {
                    [] => DataTemplate::Literal(json_string("")),
                    [Part::Text(text)] => DataTemplate::Literal(json_string(text)),
                    _ => DataTemplate::Template(template),
                },
                Err(error) => {
                    let (path, error) = (path.to_owned(), Box::new(error));
                    return Err(DataError::Template { path, template: text, error });
                }
            },
            Data::Bool(value) => DataTemplate::Literal(value.to_string().into()),
            Data::Integer(value) => DataTemplate::Literal(value.to_string().into()),
            Data::Float(value) => DataTemplate::Literal(value.to_string().into()),
        })
    }

    pub(super) fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        self.add_reads(&mut reads);
        reads
    }

    fn add_reads(&self, reads: &mut Reads) {
        match self {
            DataTemplate::Table(entries) => {
                entries.iter().for_each(|(_, value)| value.add_reads(reads));
            }
            DataTemplate::List(items) => items.iter().for_each(|item| item.add_reads(reads)),
            DataTemplate::Template(template) => reads.merge(&template.reads()),
            DataTemplate::Columns(names) => {
                names.iter().for_each(|name| reads.column(Scope::Row, name));
            }
            DataTemplate::Literal(_) => {}
        }
    }

    /// Those in it, whatever they make.
    pub(super) fn templates(&self) -> Box<dyn Iterator<Item = &Template> + '_> {
        match self {
            DataTemplate::Table(entries) => {
                Box::new(entries.iter().flat_map(|(_, value)| value.templates()))
            }
            DataTemplate::List(items) => Box::new(items.iter().flat_map(DataTemplate::templates)),
            DataTemplate::Template(template) => Box::new(std::iter::once(template)),
            DataTemplate::Columns(_) | DataTemplate::Literal(_) => Box::new(std::iter::empty()),
        }
    }

    /// How long the payload is at the least, whatever the row.
    pub(super) fn least_len(&self) -> usize {
        match self {
            DataTemplate::Table(entries) => {
                let entries = entries.iter().map(|(key, value)| key.len() + 2 + value.least_len());
                entries.sum::<usize>() + 1
            }
            DataTemplate::List(items) => {
                items.iter().map(|item| item.least_len() + 1).sum::<usize>() + 1
            }
            DataTemplate::Template(template) => {
                let texts = template.parts.iter().map(|part| match part {
                    Part::Text(text) => text.len(),
                    _ => 0,
                });
                texts.sum()
            }
            DataTemplate::Columns(_) => 2,
            DataTemplate::Literal(json) => json.len(),
        }
    }

    /// What listeners know of it; `print` says what the table makes of a part.
    pub(super) fn shape(&self, print: impl Fn(&Part) -> Option<String> + Copy) -> Shape {
        if self.templates().any(Template::tells_old) {
            return Shape::Before;
        }
        let mut out = String::new();
        self.write_shape(print, &mut out);
        Shape::Own(out.into())
    }

    /// The payload's JSON, its keys in order, and stars for what rows say.
    fn write_shape(&self, print: impl Fn(&Part) -> Option<String> + Copy, out: &mut String) {
        match self {
            DataTemplate::Table(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|(one, _), (other, _)| one.cmp(other));
                out.push('{');
                for (key, value) in entries {
                    out.push_str(key);
                    out.push(':');
                    value.write_shape(print, out);
                    out.push(',');
                }
                out.push('}');
            }
            DataTemplate::List(items) => {
                out.push('[');
                for item in items {
                    item.write_shape(print, out);
                    out.push(',');
                }
                out.push(']');
            }
            DataTemplate::Template(template) => {
                let parts = template.parts.iter().map(|part| match part {
                    Part::Text(text) => Some(text.to_string()),
                    part => print(part),
                });
                match parts.collect::<Option<String>>() {
                    Some(text) => write_string(out, &text),
                    None => out.push('*'),
                }
            }
            DataTemplate::Columns(names) => {
                let mut names: Vec<_> = names.iter().map(|name| json_string(name)).collect();
                names.sort();
                out.push_str(&format!("{{{}:*}}", names.join(":*,")));
            }
            DataTemplate::Literal(json) => out.push_str(json),
        }
    }

    pub(super) fn bind(&self, relation: &Relation) -> BoundData {
        match self {
            DataTemplate::Table(entries) => BoundData::Table(
                entries.iter().map(|(key, value)| (key.clone(), value.bind(relation))).collect(),
            ),
            DataTemplate::List(items) => {
                BoundData::List(items.iter().map(|item| item.bind(relation)).collect())
            }
            DataTemplate::Template(template) => BoundData::Template(template.bind(relation)),
            DataTemplate::Columns(names) => {
                let columns = names.iter().filter_map(|name| relation.column(name));
                let named =
                    columns.map(|column| (json_string(&relation.columns[column].name), column));
                BoundData::Columns(named.collect())
            }
            DataTemplate::Literal(json) => BoundData::Literal(json.clone()),
        }
    }
}

fn json_string(text: &str) -> Box<str> {
    let mut json = String::new();
    write_string(&mut json, text);
    json.into()
}

/// A payload on one relation's columns.
#[derive(Clone, Debug)]
pub(super) enum BoundData {
    Table(Vec<(Box<str>, BoundData)>),
    List(Vec<BoundData>),
    Template(BoundTemplate),
    /// Their names as JSON, and which they are.
    Columns(Vec<(Box<str>, usize)>),
    Literal(Box<str>),
}

impl BoundData {
    pub(super) fn write(&self, view: &View<'_>, out: &mut String) -> Result<(), Unrenderable> {
        match self {
            BoundData::Table(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(key);
                    out.push(':');
                    value.write(view, out)?;
                }
                out.push('}');
            }
            BoundData::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(view, out)?;
                }
                out.push(']');
            }
            BoundData::Template(template) => template.json(view, out)?,
            BoundData::Columns(columns) => write_columns(columns, view, out),
            BoundData::Literal(json) => out.push_str(json),
        }
        Ok(())
    }
}

fn write_columns(columns: &[(Box<str>, usize)], view: &View<'_>, out: &mut String) {
    let mut before = '{';
    for (name, column) in columns {
        let value = view.value(Scope::Row, *column);
        if value == Known::Unknown {
            continue;
        }
        out.push(before);
        out.push_str(name);
        out.push(':');
        match value {
            Known::Text(bytes) => {
                write_json(out, view.change.relation.columns[*column].kind, bytes, view.zone);
            }
            _ => out.push_str("null"),
        }
        before = ',';
    }
    out.push_str(if before == '{' { "{}" } else { "}" });
}

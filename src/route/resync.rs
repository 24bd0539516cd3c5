//! What pages are told where there is too much to tell one by one.

use super::config::Data;
use super::data::{DataError, DataTemplate};
use super::event::BoundEvent;
use super::lookup::Vocabulary;
use super::rule::Rule;
use super::template::{Part, Template};
use super::variable::Variable;
use super::view::Scope;
use crate::change::Relation;
use crate::notification::{EventName, Piece, Reason, write_string};

/// A rule's `resync`, parsed.
#[derive(Clone, Debug)]
pub(super) struct ResyncTemplate {
    pub may_collapse: bool,
    /// `None`: the usual ones.
    pub events: Option<Vec<Template>>,
    /// `None`: the minimal payload.
    pub data: Option<DataTemplate>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ResyncError {
    #[error(
        "{{{{ {name} }}}} is unknown to a resync, which is about no row; expected one of {}",
        known.join(", ")
    )]
    Unknown { name: String, known: Vec<&'static str> },
    #[error(
        "a resync is about no row and takes variables only as they are; expected one of {}",
        known.join(", ")
    )]
    Expression { known: Vec<&'static str> },
    #[error(transparent)]
    Data(#[from] DataError),
}

const REASON: &str = "reason";
const COUNT: &str = "count";

/// Passes if the template names an event without a row.
pub(super) fn check_event(template: &Template) -> Result<(), ResyncError> {
    check(template, &[])
}

pub(super) fn parse_data(data: Data) -> Result<DataTemplate, ResyncError> {
    let data = DataTemplate::parse(data, Vocabulary::NONE)?;
    data.templates().try_for_each(|template| check(template, &[REASON, COUNT]))?;
    Ok(data)
}

/// Passes if it reads nothing but what the table gives, and `also`.
fn check(template: &Template, also: &[&'static str]) -> Result<(), ResyncError> {
    let known = || {
        let of_table = Variable::ALL.into_iter().filter(|(_, variable)| variable.is_static());
        of_table.map(|(name, _)| name).chain(also.iter().copied()).collect()
    };
    let unknown = |name: String| Err(ResyncError::Unknown { name, known: known() });
    template.parts.iter().try_for_each(|part| match part {
        Part::Text(_) => Ok(()),
        Part::Variable(variable) if variable.is_static() => Ok(()),
        Part::Variable(variable) => unknown(variable.name().to_owned()),
        Part::Column(Scope::Row, name) if also.contains(&&**name) => Ok(()),
        Part::Column(Scope::Row, name) => unknown(name.to_string()),
        Part::Column(Scope::Old, name) => unknown(format!("old.{name}")),
        Part::Column(Scope::New, name) => unknown(format!("new.{name}")),
        Part::Parent(_) | Part::Expression { .. } | Part::Block(_) => {
            Err(ResyncError::Expression { known: known() })
        }
    })
}

/// The rule's own events where whoever hears them fetches again anyway: each
/// that it can send, `events` being as it is bound to the relation.
pub(super) fn usual_events(
    rule: &Rule,
    relation: &Relation,
    events: &[BoundEvent],
) -> Vec<EventName> {
    let usual = || "rowcast.resync".parse().expect("a valid event name");
    if rule.data.is_some() {
        return vec![usual()];
    }
    let mut names: Vec<EventName> = Vec::new();
    for event in events {
        match event.constants() {
            Some(constants) => {
                let actions = rule.actions(relation).into_iter();
                names.extend(actions.map(|action| constants[action as usize].clone()));
            }
            None => names.push(usual()),
        }
    }
    distinct(names).unwrap_or_else(|| vec![usual()])
}

/// The events that a rule names for its resyncs; `None` if it can name none.
pub(super) fn own_events(events: &[BoundEvent]) -> Option<Vec<EventName>> {
    let names = events.iter().filter_map(BoundEvent::constants);
    distinct(names.map(|[name, ..]| name).collect())
}

/// Without repeats; `None` without any.
fn distinct(mut names: Vec<EventName>) -> Option<Vec<EventName>> {
    let mut seen = Vec::new();
    names.retain(|name| {
        let is_new = !seen.contains(name);
        seen.extend(is_new.then(|| name.clone()));
        is_new
    });
    (!names.is_empty()).then_some(names)
}

/// A resync's payload on one table; `print` says what the table makes of a part.
pub(super) fn pieces(data: &DataTemplate, print: impl Fn(&Part) -> Option<String>) -> Box<[Piece]> {
    let mut pieces = Pieces { done: Vec::new(), text: String::new(), print };
    pieces.data(data);
    pieces.flush();
    pieces.done.into()
}

/// The longest that it gets.
pub(super) fn longest(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(piece) => text.push_str(piece),
            Piece::Reason => {
                let names = Reason::ALL.map(Reason::name).into_iter();
                text.push_str(names.max_by_key(|name| name.len()).unwrap_or_default());
            }
            Piece::Count { .. } => text.push_str(&u64::MAX.to_string()),
        }
    }
    text
}

struct Pieces<P> {
    done: Vec<Piece>,
    /// The text since the last one.
    text: String,
    print: P,
}

impl<P: Fn(&Part) -> Option<String>> Pieces<P> {
    fn data(&mut self, data: &DataTemplate) {
        match data {
            DataTemplate::Table(entries) => {
                self.text.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    for text in [comma, key, ":"] {
                        self.text.push_str(text);
                    }
                    self.data(value);
                }
                self.text.push('}');
            }
            DataTemplate::List(items) => {
                self.text.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.text.push(',');
                    }
                    self.data(item);
                }
                self.text.push(']');
            }
            DataTemplate::Template(template) => self.template(template),
            DataTemplate::Columns(_) => self.text.push_str("{}"),
            DataTemplate::Literal(json) => self.text.push_str(json),
        }
    }

    fn template(&mut self, template: &Template) {
        if let [Part::Column(_, name)] = &*template.parts
            && **name == *COUNT
        {
            self.push(Piece::Count { within_text: false });
            return;
        }
        self.text.push('"');
        for part in &template.parts {
            match part {
                Part::Column(_, name) if **name == *COUNT => {
                    self.push(Piece::Count { within_text: true });
                }
                Part::Column(..) => self.push(Piece::Reason),
                Part::Text(text) => self.escaped(text),
                part => {
                    let text = (self.print)(part).unwrap_or_default();
                    self.escaped(&text);
                }
            }
        }
        self.text.push('"');
    }

    fn escaped(&mut self, text: &str) {
        let mut literal = String::new();
        write_string(&mut literal, text);
        self.text.push_str(&literal[1..literal.len() - 1]);
    }

    fn push(&mut self, piece: Piece) {
        self.flush();
        self.done.push(piece);
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.done.push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
    }
}

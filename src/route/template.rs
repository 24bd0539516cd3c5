//! Text with `{{ expressions }}`. Plain columns do not pay for the engine.

use std::sync::Arc;

use minijinja::Error;

use super::expression::{
    Block, BoundBlock, BoundExpression, Expression, Outcome, ParseExpressionError,
};
use super::lex::{closing, is_identifier, last_filter, words};
use super::lookup::{LookupError, ParentColumn, Vocabulary};
use super::reads::Reads;
use super::value::{write_engine_json, write_engine_text, write_json, write_text};
use super::variable::Variable;
use super::view::{Known, Scope, View};
use crate::change::{Kind, Relation};
use crate::notification::write_string;

#[derive(Clone, Debug)]
pub(super) struct Template {
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(Box<str>),
    Variable(Variable),
    Column(Scope, Box<str>),
    Parent(ParentColumn),
    Expression {
        expression: Arc<Expression>,
        /// Whether it says itself what NULL becomes.
        minds_null: bool,
        /// Whether the rule asks for dots, which else let a value reach into
        /// another channel (`private-posts.7` and a slug `7.admins`): all of the
        /// expression, not only an operand of it, goes through `dotted` last.
        /// `replace` needs no leave: what it leaves of dots is the value's own.
        dotted: bool,
    },
    Block(Arc<Block>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ParseTemplateError {
    #[error("`{{{{` at character {0} is never closed by `}}}}`")]
    Unclosed(usize),
    #[error("`{{{{ }}}}` at character {0} is empty, expected a column or an expression")]
    Empty(usize),
    #[error("{error} in `{{{{ {expression} }}}}`")]
    Expression { expression: String, error: ParseExpressionError },
    #[error(transparent)]
    Block(#[from] ParseExpressionError),
}

impl ParseTemplateError {
    fn lookup(expression: &str, error: LookupError) -> ParseTemplateError {
        ParseTemplateError::Expression { expression: expression.into(), error: error.into() }
    }

    pub(super) fn fix(&self) -> Option<String> {
        match self {
            ParseTemplateError::Unclosed(_) | ParseTemplateError::Empty(_) => None,
            ParseTemplateError::Expression { error, .. } | ParseTemplateError::Block(error) => {
                error.fix()
            }
        }
    }
}

impl Template {
    pub(super) fn parse(
        source: &str,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Template, ParseTemplateError> {
        let blocks = ["{%", "{#", "{{-", "-}}", "{{+", "+}}"];
        if blocks.iter().any(|mark| source.contains(mark)) {
            let block = Block::parse(source, vocabulary)?;
            return Ok(Template { parts: vec![Part::Block(Arc::new(block))] });
        }
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find("{{") {
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            let at = source[..source.len() - rest.len() + open].chars().count() + 1;
            let inside = &rest[open + 2..];
            let close = closing(inside).ok_or(ParseTemplateError::Unclosed(at))?;
            let expression = inside[..close].trim();
            if expression.is_empty() {
                return Err(ParseTemplateError::Empty(at));
            }
            parts.push(Part::parse(expression, vocabulary)?);
            rest = &inside[close + 2..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Template { parts })
    }

    pub(super) fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        for part in &self.parts {
            match part {
                Part::Text(_) | Part::Variable(_) => {}
                Part::Column(scope, name) => reads.column(*scope, name),
                Part::Parent(column) => drop(reads.parents.insert(*column)),
                Part::Expression { expression, .. } => reads.merge(&expression.reads),
                Part::Block(block) => reads.merge(&block.reads),
            }
        }
        reads
    }

    /// Whether it says something of what went before the row as it is, so that
    /// folding changes what it says.
    pub(super) fn tells_before(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Text(_) | Part::Parent(_) => false,
            Part::Variable(variable) => variable.tells_before(),
            Part::Column(scope, _) => *scope == Scope::Old,
            Part::Expression { expression, .. } => expression.reads.tells_before(),
            Part::Block(block) => block.reads.tells_before(),
        })
    }

    /// Whether it says something of what the transaction said of itself.
    pub(super) fn tells_context(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Text(_) | Part::Parent(_) | Part::Variable(_) | Part::Column(..) => false,
            Part::Expression { expression, .. } => expression.reads.tells_context(),
            Part::Block(block) => block.reads.tells_context(),
        })
    }

    /// Whether it says how the row was before, or what changed in it.
    pub(super) fn tells_old(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Text(_) | Part::Parent(_) => false,
            Part::Variable(variable) => *variable == Variable::Changed,
            Part::Column(scope, _) => *scope == Scope::Old,
            Part::Expression { expression, .. } => expression.reads.tells_old(),
            Part::Block(block) => block.reads.tells_old(),
        })
    }

    pub(super) fn has_block(&self) -> bool {
        matches!(*self.parts, [Part::Block(_)])
    }

    pub(super) fn bind(&self, relation: &Relation) -> BoundTemplate {
        BoundTemplate { parts: self.parts.iter().map(|part| part.bind(relation)).collect() }
    }
}

impl Part {
    fn parse(source: &str, vocabulary: Vocabulary<'_>) -> Result<Part, ParseTemplateError> {
        if is_identifier(source)
            && !vocabulary.has(source)
            && !["true", "false", "none", "True", "False", "None"].contains(&source)
        {
            return Ok(match Variable::named(source) {
                Some(Variable::Changed | Variable::Context) => {
                    Part::expression(source, vocabulary)?
                }
                Some(variable) => Part::Variable(variable),
                None if source == "new" || source == "old" => Part::expression(source, vocabulary)?,
                None => Part::Column(Scope::Row, source.into()),
            });
        }
        match source.split_once('.') {
            Some(("new", column)) if is_identifier(column) => {
                Ok(Part::Column(Scope::New, column.into()))
            }
            Some(("old", column)) if is_identifier(column) => {
                Ok(Part::Column(Scope::Old, column.into()))
            }
            Some((lookup, column)) if vocabulary.has(lookup) && is_identifier(column) => {
                let parent = vocabulary.column(lookup, Some(column));
                let parent = parent.map_err(|error| ParseTemplateError::lookup(source, error))?;
                Ok(Part::Parent(parent.expect("the lookup is there")))
            }
            _ => Part::expression(source, vocabulary),
        }
    }

    fn expression(source: &str, vocabulary: Vocabulary<'_>) -> Result<Part, ParseTemplateError> {
        let expression = Expression::parse(source, vocabulary)
            .map_err(|error| ParseTemplateError::Expression { expression: source.into(), error })?;
        let words = words(source);
        let has = |names: &[&str]| words.iter().any(|word| names.contains(&&**word));
        Ok(Part::Expression {
            expression: Arc::new(expression),
            minds_null: has(&["if", "or", "and", "is", "default", "d"]),
            dotted: last_filter(source).as_deref() == Some("dotted"),
        })
    }

    fn bind(&self, relation: &Relation) -> BoundPart {
        match self {
            Part::Text(text) => BoundPart::Text(text.clone()),
            Part::Variable(variable) => BoundPart::Variable(*variable),
            Part::Column(scope, name) => match relation.column(name) {
                Some(index) => {
                    BoundPart::Column { scope: *scope, index, kind: relation.columns[index].kind }
                }
                None => BoundPart::NoColumn(name.clone()),
            },
            Part::Parent(column) => BoundPart::Parent(*column),
            Part::Expression { expression, minds_null, dotted } => BoundPart::Expression {
                expression: BoundExpression::new(expression, relation),
                minds_null: *minds_null,
                dotted: *dotted,
            },
            Part::Block(block) => BoundPart::Block(BoundBlock::new(block, relation)),
        }
    }
}

/// A template on one relation's columns.
#[derive(Clone, Debug)]
pub(super) struct BoundTemplate {
    pub parts: Vec<BoundPart>,
}

#[derive(Clone, Debug)]
pub(super) enum BoundPart {
    Text(Box<str>),
    Variable(Variable),
    Column {
        scope: Scope,
        index: usize,
        kind: Kind,
    },
    /// The relation has no such column (yet).
    NoColumn(Box<str>),
    Parent(ParentColumn),
    Expression {
        expression: BoundExpression,
        minds_null: bool,
        dotted: bool,
    },
    Block(BoundBlock),
}

/// Why a template could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unrenderable(pub String);

/// Whether a part had something to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    Value,
    Null,
}

impl BoundTemplate {
    /// Appends the text; NULL prints nothing.
    pub(super) fn text(&self, view: &View<'_>, out: &mut String) -> Result<(), Unrenderable> {
        self.parts.iter().try_for_each(|part| part.text(view, out).map(drop))
    }

    /// Appends JSON: one expression alone keeps its type, all else is a string.
    pub(super) fn json(&self, view: &View<'_>, out: &mut String) -> Result<(), Unrenderable> {
        match &*self.parts {
            [BoundPart::Column { scope, index, kind }] => match view.value(*scope, *index) {
                Known::Null => out.push_str("null"),
                Known::Text(bytes) => write_json(out, *kind, bytes, view.zone),
                Known::Unknown => return Err(unknown_column(view, *index)),
            },
            [BoundPart::Parent(column)] => match view.parent(*column)? {
                None => out.push_str("null"),
                Some((kind, bytes)) => write_json(out, kind, bytes, view.zone),
            },
            [BoundPart::Expression { expression, .. }] => match expression.evaluate(view) {
                Outcome::Known(evaluated) => {
                    write_engine_json(out, &evaluated.value).ok_or_else(|| {
                        Unrenderable(format!("a {} has no JSON form", evaluated.value.kind()))
                    })?;
                }
                outcome => return Err(unrenderable(outcome)),
            },
            _ => {
                let mut text = String::new();
                self.text(view, &mut text)?;
                write_string(out, &text);
            }
        }
        Ok(())
    }
}

impl BoundPart {
    pub(super) fn text(&self, view: &View<'_>, out: &mut String) -> Result<Printed, Unrenderable> {
        match self {
            BoundPart::Text(text) => out.push_str(text),
            BoundPart::Variable(variable) => print_variable(*variable, view, out),
            BoundPart::Column { scope, index, kind } => match view.value(*scope, *index) {
                Known::Null => return Ok(Printed::Null),
                Known::Text(bytes) => write_text(out, *kind, bytes, view.zone),
                Known::Unknown => return Err(unknown_column(view, *index)),
            },
            BoundPart::NoColumn(name) => {
                return Err(Unrenderable(format!("the table has no column {name}")));
            }
            BoundPart::Parent(column) => match view.parent(*column)? {
                None => return Ok(Printed::Null),
                Some((kind, bytes)) => write_text(out, kind, bytes, view.zone),
            },
            BoundPart::Expression { expression, minds_null, .. } => {
                match expression.evaluate(view) {
                    Outcome::Known(evaluated) => {
                        let value = &evaluated.value;
                        write_engine_text(out, value).ok_or_else(|| {
                            Unrenderable(format!("a {} has no text form", value.kind()))
                        })?;
                        let is_null = value.is_none() || value.is_undefined();
                        if is_null || (evaluated.saw_null && !minds_null) {
                            return Ok(Printed::Null);
                        }
                    }
                    outcome => return Err(unrenderable(outcome)),
                }
            }
            BoundPart::Block(block) => match block.render(view) {
                Outcome::Known(text) => out.push_str(&text),
                outcome => return Err(unrenderable(outcome)),
            },
        }
        Ok(Printed::Value)
    }

    /// As [`BoundPart::text`], but a column as Postgres has it, to be looked for.
    pub(super) fn raw_text(
        &self,
        view: &View<'_>,
        out: &mut String,
    ) -> Result<Printed, Unrenderable> {
        let bytes = match self {
            BoundPart::Column { scope, index, .. } => match view.value(*scope, *index) {
                Known::Null => return Ok(Printed::Null),
                Known::Text(bytes) => bytes,
                Known::Unknown => return Err(unknown_column(view, *index)),
            },
            BoundPart::Parent(column) => match view.parent(*column)? {
                None => return Ok(Printed::Null),
                Some((_, bytes)) => bytes,
            },
            part => return part.text(view, out),
        };
        out.push_str(&String::from_utf8_lossy(bytes));
        Ok(Printed::Value)
    }
}

pub(super) fn print_variable(variable: Variable, view: &View<'_>, out: &mut String) {
    match variable {
        Variable::Entity => out.push_str(&view.names.entity),
        Variable::EntityStudly => out.push_str(&view.names.studly),
        Variable::Action => out.push_str(view.action.name()),
        Variable::ActionStudly => out.push_str(view.action.studly_name()),
        Variable::Table => out.push_str(&view.names.table.name),
        Variable::Schema => out.push_str(&view.names.table.schema),
        Variable::At => out.push_str(&view.change.transaction.at.to_string()),
        Variable::Changed | Variable::Context => unreachable!("it is an expression"),
    }
}

fn unknown_column(view: &View<'_>, index: usize) -> Unrenderable {
    let name = &view.change.relation.columns[index].name;
    Unrenderable(format!("the row does not carry {name}"))
}

fn unrenderable<T>(outcome: Outcome<T>) -> Unrenderable {
    match outcome {
        Outcome::Failed(error) => Unrenderable(describe(&error)),
        _ => Unrenderable("the row does not carry all columns that it reads".to_owned()),
    }
}

/// MiniJinja's own words, in one line, without its made-up file names.
pub(super) fn describe(error: &Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line().filter(|line| *line > 1) {
        text.push_str(&format!(" (line {line})"));
    }
    text
}

//! A MiniJinja expression, or a whole template of its own.

use std::sync::Arc;

use minijinja::{Error, ErrorKind, Value};

use super::engine::{self, ENGINE};
use super::lex;
use super::lookup::{LookupError, Vocabulary};
use super::reads::{BoundReads, Reads};
use super::template::describe;
use super::value::Numerics;
use super::view::View;
use crate::change::Relation;
use crate::notification::Unmet;

/// What came of an expression.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    Known(T),
    /// It looked at a column whose value is not known.
    Unknown,
    Failed(Error),
}

pub(super) struct Evaluated {
    pub value: Value,
    /// Whether a column that it looked at was NULL.
    pub saw_null: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ParseExpressionError {
    #[error("{}", describe(.0))]
    Engine(#[from] Error),
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl ParseExpressionError {
    pub(super) fn fix(&self) -> Option<String> {
        match self {
            ParseExpressionError::Engine(_) => None,
            ParseExpressionError::Lookup(error) => Some(error.fix()),
        }
    }
}

/// A condition, or what stands between `{{` and `}}`.
#[derive(Debug)]
pub(super) struct Expression {
    source: Box<str>,
    compiled: minijinja::Expression<'static, 'static>,
    numerics: Numerics,
    pub reads: Reads,
}

/// A numeric keeps its digits where it is only printed, and is a number where
/// text would compare or multiply as text does.
fn numerics(source: &str) -> Numerics {
    if lex::computes(source) { Numerics::Number } else { Numerics::Text }
}

impl Expression {
    pub(super) fn parse(
        source: &str,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Expression, ParseExpressionError> {
        let compiled = ENGINE.compile_expression_owned(source.to_owned())?;
        check_names(source)?;
        let reads = Reads::of(compiled.undeclared_variables(true), source, vocabulary)?;
        Ok(Expression { source: source.into(), compiled, numerics: numerics(source), reads })
    }
}

/// An expression on one relation's columns.
#[derive(Clone, Debug)]
pub(super) struct BoundExpression {
    expression: Arc<Expression>,
    reads: BoundReads,
}

impl BoundExpression {
    pub(super) fn new(expression: &Arc<Expression>, relation: &Relation) -> BoundExpression {
        BoundExpression { reads: expression.reads.bind(relation), expression: expression.clone() }
    }

    pub(super) fn looks_up(&self) -> bool {
        !self.expression.reads.parents.is_empty()
    }

    /// As [`Reads::tells_before`].
    pub(super) fn tells_before(&self) -> bool {
        self.expression.reads.tells_before()
    }

    pub(super) fn evaluate(&self, view: &View<'_>) -> Outcome<Evaluated> {
        self.run(view, self.expression.numerics)
    }

    /// As a condition: `None` if it is unknown, or cannot be told.
    pub(super) fn holds(&self, view: &View<'_>) -> Option<bool> {
        match self.run(view, Numerics::Number) {
            Outcome::Known(evaluated) => Some(evaluated.value.is_true()),
            Outcome::Unknown | Outcome::Failed(_) => None,
        }
    }

    /// The condition, which does not hold for the view.
    pub(super) fn unmet(&self, view: &View<'_>) -> Unmet {
        Unmet { condition: self.expression.source.clone(), values: self.reads.shown(view) }
    }

    fn run(&self, view: &View<'_>, numerics: Numerics) -> Outcome<Evaluated> {
        let (context, sight) = self.reads.context(view, numerics);
        let result = self.expression.compiled.eval(context);
        let (unknown, saw_null) = sight.settle(view);
        if unknown {
            return Outcome::Unknown;
        }
        match result {
            Ok(value) => Outcome::Known(Evaluated { value, saw_null }),
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// MiniJinja looks filters and tests up only when it comes across them, which
/// would be at the first row.
fn check_names(source: &str) -> Result<(), Error> {
    for filter in lex::filters(source) {
        if !engine::has("filter", &filter) {
            return Err(Error::new(ErrorKind::UnknownFilter, filter));
        }
    }
    for test in lex::tests(source) {
        if !engine::has("test", &test) {
            return Err(Error::new(ErrorKind::UnknownTest, test));
        }
    }
    Ok(())
}

/// A whole template with `{% %}` blocks.
#[derive(Debug)]
pub(super) struct Block {
    env: minijinja::Environment<'static>,
    numerics: Numerics,
    pub reads: Reads,
}

const BLOCK: &str = "template";

impl Block {
    pub(super) fn parse(
        source: &str,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Block, ParseExpressionError> {
        let mut env = ENGINE.clone();
        env.add_template_owned(BLOCK, source.to_owned())?;
        lex::tags(source).try_for_each(check_names)?;
        let names = env.get_template(BLOCK)?.undeclared_variables(true);
        let reads = Reads::of(names, source, vocabulary)?;
        let computes = lex::tags(source).any(|tag| numerics(tag) == Numerics::Number);
        let numerics = if computes { Numerics::Number } else { Numerics::Text };
        Ok(Block { env, numerics, reads })
    }
}

#[derive(Clone, Debug)]
pub(super) struct BoundBlock {
    block: Arc<Block>,
    reads: BoundReads,
}

impl BoundBlock {
    pub(super) fn new(block: &Arc<Block>, relation: &Relation) -> BoundBlock {
        BoundBlock { reads: block.reads.bind(relation), block: block.clone() }
    }

    pub(super) fn render(&self, view: &View<'_>) -> Outcome<String> {
        let (context, sight) = self.reads.context(view, self.block.numerics);
        let result = self.block.env.get_template(BLOCK).and_then(|block| block.render(context));
        let (unknown, _) = sight.settle(view);
        if unknown {
            return Outcome::Unknown;
        }
        match result {
            Ok(text) => Outcome::Known(text),
            Err(error) => Outcome::Failed(error),
        }
    }
}

//! A MiniJinja expression, and which columns it reads.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use minijinja::value::Object;
use minijinja::{Error, ErrorKind, Value};

use super::engine::{self, ENGINE, FUNCTIONS};
use super::kin::Found;
use super::lex;
use super::lookup::{LookupError, ParentColumn, Vocabulary};
use super::said::said;
use super::template::describe;
use super::value::{Numerics, to_engine};
use super::view::{Known, Scope, View};
use crate::change::Relation;

/// Variables that are not columns. A column of the same name is reached as
/// `new.action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Entity,
    EntityStudly,
    Action,
    ActionStudly,
    Table,
    Schema,
    Changed,
    At,
    /// What the transaction has said of itself.
    Context,
}

impl Variable {
    pub(super) const ALL: [(&'static str, Variable); 9] = [
        ("entity", Variable::Entity),
        ("Entity", Variable::EntityStudly),
        ("action", Variable::Action),
        ("Action", Variable::ActionStudly),
        ("table", Variable::Table),
        ("schema", Variable::Schema),
        ("changed", Variable::Changed),
        ("at", Variable::At),
        ("context", Variable::Context),
    ];

    pub(super) fn named(name: &str) -> Option<Variable> {
        Variable::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, variable)| variable)
    }

    pub(super) fn name(self) -> &'static str {
        let (name, _) = Variable::ALL[self as usize];
        name
    }

    /// Whether it is the same for all changes of a table.
    pub(super) fn is_static(self) -> bool {
        !matches!(
            self,
            Variable::Action
                | Variable::ActionStudly
                | Variable::Changed
                | Variable::At
                | Variable::Context
        )
    }

    /// Whether it says something of what went before the row as it is.
    pub(super) fn tells_before(self) -> bool {
        matches!(self, Variable::Action | Variable::ActionStudly | Variable::Changed)
    }

    fn value(self, view: &View<'_>, touched: &Arc<Touched>) -> Option<Value> {
        Some(match self {
            Variable::Entity => Value::from(&*view.names.entity),
            Variable::EntityStudly => Value::from(&*view.names.studly),
            Variable::Action => Value::from(view.action.name()),
            Variable::ActionStudly => Value::from(view.action.studly_name()),
            Variable::Table => Value::from(&*view.names.table.name),
            Variable::Schema => Value::from(&*view.names.table.schema),
            Variable::Changed => match view.since {
                Some(since) if view.tells_changed() => Value::from_iter(since.changed?.names()),
                _ => {
                    let columns = &view.change.relation.columns;
                    Value::from_iter(view.changed()?.map(|c| &*columns[usize::from(c)].name))
                }
            },
            Variable::At => Value::from(view.change.transaction.at.to_string()),
            Variable::Context => said(view.change.context, touched),
        })
    }
}

/// The columns that a template or condition reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    pub columns: BTreeSet<(Scope, Box<str>)>,
    /// Read if the table has them: names that may also be a loop's variables.
    pub perhaps: BTreeSet<(Scope, Box<str>)>,
    /// `new` or `old` as a whole, for example `old[name]`.
    pub whole: BTreeSet<Scope>,
    pub parents: BTreeSet<ParentColumn>,
    variables: Vec<Variable>,
}

impl Reads {
    /// From dotted names, as MiniJinja lists them.
    fn of(
        names: HashSet<String>,
        source: &str,
        vocabulary: Vocabulary<'_>,
    ) -> Result<Reads, LookupError> {
        let mut reads = Reads::default();
        for name in &names {
            reads.add(name, false, vocabulary)?;
        }
        // MiniJinja's list lacks what is sliced: `title[:10]`.
        for name in lex::indexed_names(source) {
            reads.add(name, true, vocabulary)?;
        }
        Ok(reads)
    }

    fn add(
        &mut self,
        dotted: &str,
        perhaps: bool,
        vocabulary: Vocabulary<'_>,
    ) -> Result<(), LookupError> {
        let mut segments = dotted.split('.');
        let root = segments.next().unwrap_or_default();
        let scope = match root {
            "new" => Scope::New,
            "old" => Scope::Old,
            _ => {
                if let Some(parent) = vocabulary.column(root, segments.next())? {
                    self.parents.insert(parent);
                } else if let Some(variable) = Variable::named(root) {
                    self.variables.push(variable);
                } else if perhaps || FUNCTIONS.contains(&root) {
                    self.perhaps.insert((Scope::Row, root.into()));
                } else {
                    self.columns.insert((Scope::Row, root.into()));
                }
                return Ok(());
            }
        };
        match segments.next() {
            Some(column) if perhaps => self.perhaps.insert((scope, column.into())),
            Some(column) => self.columns.insert((scope, column.into())),
            None => self.whole.insert(scope),
        };
        Ok(())
    }

    /// Whether it says something of what went before the row as it is.
    pub(super) fn tells_before(&self) -> bool {
        self.tells_old() || self.variables.iter().any(|variable| variable.tells_before())
    }

    /// Whether it says how the row was before, or what changed in it.
    pub(super) fn tells_old(&self) -> bool {
        let is_old = |(scope, _): &(Scope, Box<str>)| *scope == Scope::Old;
        self.columns.iter().chain(&self.perhaps).any(is_old)
            || self.whole.contains(&Scope::Old)
            || self.variables.contains(&Variable::Changed)
    }

    pub(super) fn merge(&mut self, other: &Reads) {
        self.columns.extend(other.columns.iter().cloned());
        self.perhaps.extend(other.perhaps.iter().cloned());
        self.whole.extend(other.whole.iter().copied());
        self.parents.extend(other.parents.iter().copied());
    }

    pub(super) fn column(&mut self, scope: Scope, name: &str) {
        self.columns.insert((scope, name.into()));
    }

    /// Indexes of the relation's columns that are read, each with its scope.
    pub(super) fn resolve(&self, relation: &Relation) -> BTreeSet<(Scope, usize)> {
        let named = self.columns.iter().chain(&self.perhaps);
        let mut resolved: BTreeSet<(Scope, usize)> = named
            .filter_map(|(scope, name)| relation.column(name).map(|column| (*scope, column)))
            .collect();
        for scope in &self.whole {
            resolved.extend((0..relation.columns.len()).map(|column| (*scope, column)));
        }
        resolved
    }

    fn bind(&self, relation: &Relation) -> BoundReads {
        let mut columns: Vec<BoundRead> = self
            .resolve(relation)
            .into_iter()
            .map(|(scope, index)| BoundRead {
                scope,
                name: relation.columns[index].name.as_ref().into(),
                column: Some(index),
            })
            .collect();
        let lacking = self.columns.iter().filter(|(_, name)| relation.column(name).is_none());
        columns.extend(lacking.map(|(scope, name)| BoundRead {
            scope: *scope,
            name: name.as_ref().into(),
            column: None,
        }));
        let parents = self.parents.iter().copied().collect();
        BoundReads { columns, parents, variables: self.variables.clone() }
    }
}

#[derive(Clone, Debug)]
struct BoundReads {
    columns: Vec<BoundRead>,
    /// Those of one lookup beside each other.
    parents: Vec<ParentColumn>,
    variables: Vec<Variable>,
}

#[derive(Clone, Debug)]
struct BoundRead {
    scope: Scope,
    name: Arc<str>,
    /// `None` if the relation has no such column (yet).
    column: Option<usize>,
}

impl BoundReads {
    fn context(&self, view: &View<'_>, numerics: Numerics) -> (Value, Sight) {
        let touched = Arc::new(Touched::default());
        let fields = |scope: Scope| -> Vec<(Arc<str>, Option<Value>)> {
            let of_scope = self.columns.iter().filter(|read| read.scope == scope);
            of_scope
                .map(|read| {
                    let value = read.column.and_then(|column| {
                        let kind = view.change.relation.columns[column].kind;
                        match view.value(scope, column) {
                            Known::Null => Some(Value::from(())),
                            Known::Text(bytes) => Some(to_engine(kind, bytes, view.zone, numerics)),
                            Known::Unknown => None,
                        }
                    });
                    (read.name.clone(), value)
                })
                .collect()
        };
        let mut top = fields(Scope::Row);
        for (name, variable) in Variable::ALL {
            if self.variables.contains(&variable) {
                top.push((name.into(), variable.value(view, &touched)));
            }
        }
        for (name, scope) in [("new", Scope::New), ("old", Scope::Old)] {
            let fields = fields(scope);
            if !fields.is_empty() {
                let row = Fields { fields, touched: touched.clone() };
                top.push((name.into(), Some(Value::from_object(row))));
            }
        }
        let mut parents = Vec::new();
        for columns in self.parents.chunk_by(|a, b| a.lookup == b.lookup) {
            let (name, row) = self.parent(columns, view, numerics);
            parents.push((columns[0].lookup, row.touched.clone()));
            top.push((name, Some(Value::from_object(row))));
        }
        let top = Fields { fields: top, touched: touched.clone() };
        (Value::from_object(top), Sight { touched, parents })
    }

    /// The columns of one lookup's row.
    fn parent(
        &self,
        columns: &[ParentColumn],
        view: &View<'_>,
        numerics: Numerics,
    ) -> (Arc<str>, Fields) {
        let kin = view.kin.expect("a rule that reads parents has lookups");
        let lookup = columns[0].lookup;
        let found = kin.find(view, lookup);
        let value = |column: usize| match found {
            Found::Row(row) => Some(match kin.column(row, lookup, column) {
                Some((kind, text)) => to_engine(kind, text, view.zone, numerics),
                None => Value::from(()),
            }),
            Found::Absent => Some(Value::from(())),
            Found::Nameless(_) | Found::Trouble(_) => None,
        };
        let bound = &kin.lookups[lookup];
        let fields = columns.iter().map(|column| {
            let name = bound.columns[column.column].clone();
            (name, value(column.column))
        });
        let row = Fields { fields: fields.collect(), touched: Arc::default() };
        (bound.name.clone(), row)
    }
}

/// What an evaluation came across, and of which parents.
struct Sight {
    touched: Arc<Touched>,
    parents: Vec<(usize, Arc<Touched>)>,
}

impl Sight {
    /// Whether something was not known, and whether something was NULL. A parent
    /// that stands in the way is noted as such.
    fn settle(&self, view: &View<'_>) -> (bool, bool) {
        let (mut unknown, mut null) =
            (self.touched.unknown.load(Relaxed), self.touched.null.load(Relaxed));
        for (lookup, touched) in &self.parents {
            null |= touched.null.load(Relaxed);
            if touched.unknown.load(Relaxed) {
                unknown = true;
                view.kin.inspect(|kin| kin.note(view, *lookup));
            }
        }
        (unknown, null)
    }
}

/// What an evaluation came across.
#[derive(Debug, Default)]
pub(super) struct Touched {
    unknown: AtomicBool,
    null: AtomicBool,
}

impl Touched {
    pub(super) fn null(&self) {
        self.null.store(true, Relaxed);
    }
}

/// A row or the top level, to the engine. `None` is unknown; that it was looked
/// at is what makes a result unknown.
#[derive(Debug)]
struct Fields {
    fields: Vec<(Arc<str>, Option<Value>)>,
    touched: Arc<Touched>,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let (_, value) = self.fields.iter().find(|(field, _)| &**field == name)?;
        match value {
            None => self.touched.unknown.store(true, Relaxed),
            Some(value) if value.is_none() => self.touched.null(),
            Some(_) => {}
        }
        value.clone()
    }

    fn enumerate(self: &Arc<Self>) -> minijinja::value::Enumerator {
        let names = self.fields.iter().map(|(name, _)| Value::from(&**name));
        minijinja::value::Enumerator::Values(names.collect())
    }
}

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
        Ok(Expression { compiled, numerics: numerics(source), reads })
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

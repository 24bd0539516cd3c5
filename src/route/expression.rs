//! A MiniJinja expression, and which columns it reads.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use minijinja::value::Object;
use minijinja::{Error, ErrorKind, Value};

use super::engine::{self, ENGINE, FUNCTIONS};
use super::lex;
use super::said::said;
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
    variables: Vec<Variable>,
}

impl Reads {
    /// From dotted names, as MiniJinja lists them.
    pub(super) fn of(names: HashSet<String>, source: &str) -> Reads {
        let mut reads = Reads::default();
        for name in &names {
            reads.add(name, false);
        }
        // MiniJinja's list lacks what is sliced: `title[:10]`.
        for name in lex::indexed_names(source) {
            reads.add(name, true);
        }
        reads
    }

    fn add(&mut self, dotted: &str, perhaps: bool) {
        let mut segments = dotted.split('.');
        let root = segments.next().unwrap_or_default();
        let scope = match root {
            "new" => Scope::New,
            "old" => Scope::Old,
            _ => {
                if let Some(variable) = Variable::named(root) {
                    self.variables.push(variable);
                } else if perhaps || FUNCTIONS.contains(&root) {
                    self.perhaps.insert((Scope::Row, root.into()));
                } else {
                    self.columns.insert((Scope::Row, root.into()));
                }
                return;
            }
        };
        match segments.next() {
            Some(column) if perhaps => self.perhaps.insert((scope, column.into())),
            Some(column) => self.columns.insert((scope, column.into())),
            None => self.whole.insert(scope),
        };
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
        BoundReads { columns, variables: self.variables.clone() }
    }
}

#[derive(Clone, Debug)]
struct BoundReads {
    columns: Vec<BoundRead>,
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
    fn context(&self, view: &View<'_>, numerics: Numerics) -> (Value, Arc<Touched>) {
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
        (Value::from_object(Fields { fields: top, touched: touched.clone() }), touched)
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
    pub(super) fn parse(source: &str) -> Result<Expression, Error> {
        let compiled = ENGINE.compile_expression_owned(source.to_owned())?;
        check_names(source)?;
        let reads = Reads::of(compiled.undeclared_variables(true), source);
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
        let (context, touched) = self.reads.context(view, numerics);
        let result = self.expression.compiled.eval(context);
        if touched.unknown.load(Relaxed) {
            return Outcome::Unknown;
        }
        match result {
            Ok(value) => Outcome::Known(Evaluated { value, saw_null: touched.null.load(Relaxed) }),
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
    pub(super) fn parse(source: &str) -> Result<Block, Error> {
        let mut env = ENGINE.clone();
        env.add_template_owned(BLOCK, source.to_owned())?;
        lex::tags(source).try_for_each(check_names)?;
        let reads = Reads::of(env.get_template(BLOCK)?.undeclared_variables(true), source);
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
        let (context, touched) = self.reads.context(view, self.block.numerics);
        let result = self.block.env.get_template(BLOCK).and_then(|block| block.render(context));
        if touched.unknown.load(Relaxed) {
            return Outcome::Unknown;
        }
        match result {
            Ok(text) => Outcome::Known(text),
            Err(error) => Outcome::Failed(error),
        }
    }
}

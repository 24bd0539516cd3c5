//! Which columns a template or condition reads, and how they look to the engine.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use minijinja::Value;
use minijinja::value::{Enumerator, Object};

use super::engine::FUNCTIONS;
use super::kin::Found;
use super::lex;
use super::lookup::{LookupError, ParentColumn, Vocabulary};
use super::value::{Numerics, to_engine, write_json};
use super::variable::Variable;
use super::view::{Known, Scope, View};
use crate::change::{Kind, Relation};

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
    pub(super) fn of(
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

    /// Whether it says something of what the transaction said of itself.
    pub(super) fn tells_context(&self) -> bool {
        self.variables.contains(&Variable::Context)
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

    pub(super) fn bind(&self, relation: &Relation) -> BoundReads {
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
pub(super) struct BoundReads {
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
    /// What is read, by name, as JSON that is cut short. What is not known is left
    /// out.
    pub(super) fn shown(&self, view: &View<'_>) -> Vec<(Box<str>, String)> {
        const LONG: usize = 40;
        let show = |name: String, value: Option<(Kind, &[u8])>| {
            let mut json = String::new();
            match value {
                Some((kind, text)) => write_json(&mut json, kind, text, view.zone),
                None => json.push_str("null"),
            }
            if let Some((at, _)) = json.char_indices().nth(LONG) {
                json.truncate(at);
                json.push('…');
            }
            (name.into_boxed_str(), json)
        };
        let of_row = self.columns.iter().filter_map(|read| {
            let name = match read.scope {
                Scope::Row => read.name.to_string(),
                Scope::Old => format!("old.{}", read.name),
                Scope::New => format!("new.{}", read.name),
            };
            let column = read.column?;
            Some(match view.value(read.scope, column) {
                Known::Null => show(name, None),
                Known::Text(text) => {
                    show(name, Some((view.change.relation.columns[column].kind, text)))
                }
                Known::Unknown => return None,
            })
        });
        let of_parents = self.parents.iter().filter_map(|column| {
            let kin = view.kin?;
            let bound = &kin.lookups[column.lookup];
            let name = format!("{}.{}", bound.name, bound.columns[column.column]);
            match kin.find(view, column.lookup) {
                Found::Row(row) => Some(show(name, kin.column(row, column.lookup, column.column))),
                Found::Absent => Some(show(name, None)),
                Found::Nameless(_) | Found::Trouble(_) => None,
            }
        });
        of_row.chain(of_parents).collect()
    }

    pub(super) fn context(&self, view: &View<'_>, numerics: Numerics) -> (Value, Sight) {
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
pub(super) struct Sight {
    touched: Arc<Touched>,
    parents: Vec<(usize, Arc<Touched>)>,
}

impl Sight {
    /// Whether something was not known, and whether something was NULL. A parent
    /// that stands in the way is noted as such.
    pub(super) fn settle(&self, view: &View<'_>) -> (bool, bool) {
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

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self.fields.iter().map(|(name, _)| Value::from(&**name));
        Enumerator::Values(names.collect())
    }
}

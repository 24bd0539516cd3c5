//! A rule's lookups: rows of other tables that its templates read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check::nearest;
use super::config;
use super::engine::FUNCTIONS;
use super::lex::is_identifier;
use super::names;
use super::reads::Reads;
use super::rule::{Compiler, Rule};
use super::template::Template;
use super::variable::Variable;
use super::view::Scope;
use crate::change::{Lookup, LookupId, Relation, TableName};

/// One of a rule's lookups, parsed.
#[derive(Clone, Debug)]
pub(super) struct RuleLookup {
    pub name: Box<str>,
    pub table: TableName,
    /// `None`: the primary key.
    pub by: Option<Box<str>>,
    /// As the rule lists them: a [`ParentColumn`] counts these.
    pub columns: Vec<Box<str>>,
    pub key: Template,
    ttl: Duration,
    /// Whether anything reads it.
    pub is_read: bool,
    /// Those of `columns` that decide more than what a payload says.
    pub deciding: BTreeSet<usize>,
    /// Which of all rules' lookups it is part of, and where the columns are
    /// there.
    pub id: LookupId,
    pub places: Vec<usize>,
}

/// A column of one of a rule's lookups, both counted as the rule has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ParentColumn {
    pub lookup: usize,
    pub column: usize,
}

/// What a rule's templates can name besides variables and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vocabulary<'a>(pub &'a BTreeMap<String, config::Lookup>);

impl Vocabulary<'static> {
    pub(super) const NONE: Vocabulary<'static> = {
        static NONE: BTreeMap<String, config::Lookup> = BTreeMap::new();
        Vocabulary(&NONE)
    };
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    #[error("lookup {lookup} does not list the column {column}")]
    Column { lookup: String, column: String, columns: Vec<String> },
    #[error("{lookup} is a row, expected one of its columns by name")]
    Whole { lookup: String, columns: Vec<String> },
}

impl LookupError {
    pub(super) fn fix(&self) -> String {
        match self {
            LookupError::Column { lookup, column, columns } => {
                match nearest(column, columns.iter().map(String::as_str)) {
                    Some(nearest) => format!("did you mean {lookup}.{nearest}?"),
                    None => {
                        let columns = columns.iter().chain([column]);
                        let columns: Vec<_> = columns.map(|name| format!("{name:?}")).collect();
                        format!("columns = [{}] in [rule.lookup.{lookup}]", columns.join(", "))
                    }
                }
            }
            LookupError::Whole { lookup, columns } => {
                let column = columns.first().map_or("column", String::as_str);
                format!("{{{{ {lookup}.{column} }}}}")
            }
        }
    }
}

impl Vocabulary<'_> {
    pub(super) fn has(self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The column that the segments after `lookup` name.
    ///
    /// # Errors
    /// If the lookup lacks it, or if there is none.
    pub(super) fn column(
        self,
        lookup: &str,
        column: Option<&str>,
    ) -> Result<Option<ParentColumn>, LookupError> {
        let mut named = self.0.iter().enumerate();
        let Some((index, (_, config))) = named.find(|(_, (name, _))| *name == lookup) else {
            return Ok(None);
        };
        let (lookup, columns) = (lookup.to_owned(), config.columns.clone());
        let Some(column) = column else { return Err(LookupError::Whole { lookup, columns }) };
        match columns.iter().position(|known| known == column) {
            Some(column) => Ok(Some(ParentColumn { lookup: index, column })),
            None => Err(LookupError::Column { lookup, column: column.to_owned(), columns }),
        }
    }
}

/// Why no lookup can have this name.
fn check_name(name: &str) -> Result<(), String> {
    const WORDS: [&str; 16] = [
        "new", "old", "context", "loop", "self", "true", "false", "none", "True", "False", "None",
        "and", "or", "not", "if", "in",
    ];
    if !is_identifier(name) {
        return Err(format!("{name:?} is no name that a template can have, expected letters"));
    }
    let is_taken =
        Variable::named(name).is_some() || WORDS.contains(&name) || FUNCTIONS.contains(&name);
    if is_taken {
        return Err(format!("{name:?} means something else in templates"));
    }
    Ok(())
}

/// Why this cannot be a key.
fn check_key(key: &Template) -> Result<(), &'static str> {
    let reads = key.reads();
    let mut scopes = reads.columns.iter().chain(&reads.perhaps).map(|(scope, _)| scope);
    if key.has_block() {
        return Err("{% blocks %} and comments are for `data`, expected {{ user_id }}");
    }
    if key.parts.is_empty() {
        return Err("it is empty, expected a template such as {{ user_id }}");
    }
    if scopes.any(|scope| *scope != Scope::Row) || !reads.whole.is_empty() || key.tells_before() {
        return Err(
            "it is looked up for a row as it was and as it is, so it has no `old`, `new`, \
                    `action` and `changed`",
        );
    }
    Ok(())
}

impl RuleLookup {
    fn new(name: &str, table: TableName, config: &config::Lookup, key: Template) -> RuleLookup {
        RuleLookup {
            name: name.into(),
            table,
            by: config.by.as_deref().map(Box::from),
            columns: config.columns.iter().map(|column| (**column).into()).collect(),
            key,
            ttl: config.ttl,
            is_read: false,
            deciding: BTreeSet::new(),
            id: LookupId(0),
            places: Vec::new(),
        }
    }

    pub(super) fn decides(&self) -> bool {
        !self.deciding.is_empty()
    }

    /// Whether it looks for rows of the relation, by whichever name.
    pub(super) fn is_of(&self, relation: &Relation) -> bool {
        relation.table == self.table || relation.renamed.as_ref() == Some(&self.table)
    }

    /// The column that keys are looked for in.
    pub(super) fn key_column(&self, relation: &Relation) -> Option<usize> {
        relation.key_column(self.by.as_deref())
    }

    /// Indexes of the columns that it reads of the relation, with the one that
    /// keys are looked for in.
    pub(super) fn columns_of(&self, relation: &Relation) -> impl Iterator<Item = usize> {
        let columns = self.columns.iter().filter_map(|name| relation.column(name));
        columns.chain(self.key_column(relation))
    }

    /// Those of them that old rows must carry: a parent that went with its child
    /// is known by nothing else.
    pub(super) fn identity_columns(&self, rule: &Rule, relation: &Relation) -> BTreeSet<usize> {
        if !self.decides() || !rule.reads_old() {
            return BTreeSet::new();
        }
        let deciding = self.deciding.iter().map(|column| &self.columns[*column]);
        let columns = deciding.filter_map(|name| relation.column(name));
        columns.chain(self.key_column(relation)).collect()
    }
}

impl Compiler<'_> {
    pub(super) fn lookups(&mut self) -> Vec<RuleLookup> {
        let Vocabulary(configs) = self.vocabulary;
        let lookups = configs.iter().map(|(name, config)| self.lookup(name, config));
        let mut lookups: Vec<RuleLookup> = lookups.collect();
        if let Some(circle) = circle(&lookups) {
            let message = format!("the keys wait for each other: {}", circle.join(" reads "));
            self.problem("lookup", message, Some("key = \"{{ column }}\" in one of them".into()));
            // So that nobody walks round.
            lookups.iter_mut().for_each(|lookup| lookup.key.parts.clear());
        }
        lookups
    }

    fn lookup(&mut self, name: &str, config: &config::Lookup) -> RuleLookup {
        if let Err(message) = check_name(name) {
            let fix = format!("[rule.lookup.{}]", name_of(&config.table.to_string()));
            self.problem("lookup", message, Some(fix));
        }
        let table = config.table.exact().unwrap_or_else(|| {
            let message = format!("{name}: {} is not one table", config.table);
            self.problem("lookup", message, Some("table = \"users\"".into()));
            TableName::new("", "")
        });
        if config.columns.iter().all(|column| column.is_empty()) {
            let message = format!("{name}: it lists no columns, so nothing can be read of it");
            self.problem("lookup", message, Some("columns = [\"name\"]".into()));
        }
        let key = match Template::parse(&config.key, self.vocabulary) {
            Ok(key) => key,
            Err(error) => {
                let message = format!("{name}: key {:?}: {error}", config.key);
                self.problem("lookup", message, error.fix());
                return RuleLookup::new(name, table, config, Template { parts: Vec::new() });
            }
        };
        if let Err(reason) = check_key(&key) {
            let message = format!("{name}: key {:?}: {reason}", config.key);
            self.problem("lookup", message, None);
        }
        RuleLookup::new(name, table, config, key)
    }
}

/// What a row of the table may be called in templates.
fn name_of(table: &str) -> String {
    names::entity(table.rsplit('.').next().unwrap_or(table))
}

/// Lookups that wait for each other, in that order, the first one last again.
fn circle(lookups: &[RuleLookup]) -> Option<Vec<&str>> {
    let keys: Vec<BTreeSet<usize>> = lookups
        .iter()
        .map(|lookup| lookup.key.reads().parents.iter().map(|parent| parent.lookup).collect())
        .collect();
    fn walk(at: usize, keys: &[BTreeSet<usize>], path: &mut Vec<usize>) -> bool {
        let is_known = path.contains(&at);
        path.push(at);
        if is_known || keys[at].iter().any(|next| walk(*next, keys, path)) {
            return true;
        }
        path.pop();
        false
    }
    (0..lookups.len()).find_map(|start| {
        let mut path = Vec::new();
        if !walk(start, &keys, &mut path) {
            return None;
        }
        let again = *path.last()?;
        let first = path.iter().position(|at| *at == again)?;
        Some(path[first..].iter().map(|at| &*lookups[*at].name).collect())
    })
}

/// Notes what reads each lookup, keys of others included.
pub(super) fn note_readers(rule: &mut Rule) {
    for (option, reads) in rule.reads() {
        for parent in reads.parents {
            note(&mut rule.lookups, parent, option != "data");
        }
    }
}

fn note(lookups: &mut [RuleLookup], parent: ParentColumn, decides: bool) {
    let lookup = &mut lookups[parent.lookup];
    lookup.is_read = true;
    if decides {
        lookup.deciding.insert(parent.column);
    }
    for needed in lookup.key.reads().parents {
        note(lookups, needed, decides);
    }
}

/// Adds the columns that the keys of all lookups in `reads` read.
pub(super) fn with_keys(lookups: &[RuleLookup], mut reads: Reads) -> Reads {
    let parents: BTreeSet<usize> = reads.parents.iter().map(|parent| parent.lookup).collect();
    for lookup in parents {
        reads.merge(&with_keys(lookups, lookups[lookup].key.reads()));
    }
    reads
}

/// All rules' lookups, those of the same rows as one.
pub(super) fn merge(rules: &mut [Rule]) -> Vec<Lookup> {
    let mut merged: Vec<Lookup> = Vec::new();
    for own in rules.iter_mut().flat_map(|rule| &mut rule.lookups) {
        let same = |lookup: &Lookup| lookup.table == own.table && lookup.by == own.by;
        let index = merged.iter().position(same).unwrap_or_else(|| {
            merged.push(Lookup {
                table: own.table.clone(),
                by: own.by.clone(),
                columns: Vec::new(),
                deciding: Vec::new(),
                ttl: own.ttl,
            });
            merged.len() - 1
        });
        let Lookup { columns, deciding, ttl, .. } = &mut merged[index];
        let mut place = |name: &str| {
            columns.iter().position(|column| **column == *name).unwrap_or_else(|| {
                columns.push(name.into());
                columns.len() - 1
            })
        };
        own.places = own.columns.iter().map(|name| place(name)).collect();
        own.id = LookupId(index);
        for column in &own.deciding {
            let place = own.places[*column];
            if !deciding.contains(&place) {
                deciding.push(place);
            }
        }
        *ttl = own.ttl.min(*ttl);
    }
    merged
}

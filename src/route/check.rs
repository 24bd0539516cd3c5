//! Rules against the live catalog: all that can be said before the first row.

mod identity;
mod lookups;

use std::collections::BTreeMap;

use self::identity::{identity_sql, quoted};
use super::bound::BoundRule;
use super::lookup::with_keys;
use super::names;
use super::preset::Preset;
use super::resync;
use super::rule::Rule;
use super::template::Part;
use super::view::Scope;
use super::{Problem, Rules, Severity, SoftDelete};
use crate::change::{Kind, Relation, TableName};
use crate::notification::Action;

impl Rules {
    /// The rules against the catalog as it is now.
    pub fn check(&self, relations: &[Relation]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for rule in &self.rules {
            let mut check = Check { rule, problems: &mut problems };
            check.patterns(relations);
            check.lookups(relations, self);
            for relation in relations.iter().filter(|relation| rule.takes(&relation.table)) {
                let rule = rule.on(relation);
                Check { rule: &rule, problems: &mut problems }.relation(relation, self);
            }
        }
        problems
    }
}

pub(super) struct Check<'a> {
    pub rule: &'a Rule,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn add(
        &mut self,
        severity: Severity,
        option: &'static str,
        message: String,
        fix: Option<String>,
    ) {
        // What the file has instead of what a preset made of it.
        let option = match (option, &self.rule.preset) {
            ("data", Some(Preset::Model(_))) => "columns",
            ("channels", Some(_)) => "preset",
            _ => option,
        };
        let problem = Problem {
            severity,
            rule_index: self.rule.index,
            rule: self.rule.name.to_string(),
            option,
            message,
            fix,
        };
        // A preset's rules share most of what may be wrong with one.
        let is_known = |known: &Problem| {
            (known.rule_index, known.option) == (problem.rule_index, problem.option)
                && known.message == problem.message
        };
        if !self.problems.iter().any(is_known) {
            self.problems.push(problem);
        }
    }

    fn error(&mut self, option: &'static str, message: String, fix: Option<String>) {
        self.add(Severity::Error, option, message, fix);
    }

    pub(super) fn warn(&mut self, option: &'static str, message: String, fix: Option<String>) {
        self.add(Severity::Warning, option, message, fix);
    }

    fn patterns(&mut self, relations: &[Relation]) {
        for pattern in &self.rule.tables {
            if relations.iter().any(|relation| pattern.matches(&relation.table)) {
                continue;
            }
            let Some(table) = pattern.exact() else {
                self.warn("table", format!("no table is named like {pattern}"), None);
                continue;
            };
            let message = format!("the database has no table {table}");
            self.error("table", message, instead_of(&table, relations));
        }
    }

    fn relation(&mut self, relation: &Relation, rules: &Rules) {
        let table = &relation.table;
        if !self.rule.applies(relation) {
            let why = match &*relation.primary_key {
                [] => "no primary key, so its rows have no id",
                _ => "a primary key of several columns, which name no channel",
            };
            let message = format!("{table} has {why}: it is left out of this rule");
            self.warn("table", message, None);
            return;
        }
        self.lookup_names(relation);
        if !self.names(relation) {
            return;
        }
        if self.rule.id.is_none() && relation.primary_key.is_empty() {
            let fix = format!(
                "id = \"{{{{ column }}}}\", with a unique column; or: \
                 ALTER TABLE {} ADD PRIMARY KEY (…);",
                quoted(table)
            );
            self.error("id", format!("{table} has no primary key"), Some(fix));
            return;
        }
        if !self.rule.has_id(relation) {
            let count = relation.primary_key.len();
            let message = format!(
                "{table} has a primary key of {count} columns, and the preset names a row's \
                 channel by one"
            );
            let fix = "id = \"{{ column }}\", with a unique column; or `channels` without `preset`";
            self.error("id", message, Some(fix.to_owned()));
            return;
        }
        let bound = BoundRule::new(self.rule, relation, &rules.options);
        for error in bound.channels.iter().filter_map(|channel| channel.problem()) {
            self.error("channels", format!("for {table}: {error}"), None);
        }
        for error in bound.events.iter().filter_map(|event| event.problem()) {
            self.error("event", format!("for {table}: {error}"), None);
        }
        for error in bound.resync_events.iter().filter_map(|event| event.problem()) {
            self.error("resync", format!("for {table}: {error}"), None);
        }
        let resync_bytes = bound
            .terms()
            .resync_data
            .as_deref()
            .map_or(0, |data| bound.measure.bytes(&resync::longest(data)));
        if resync_bytes > rules.options.max_data_bytes {
            let message = format!(
                "its data may have {resync_bytes} bytes, and the endpoint takes {}",
                rules.options.max_data_bytes
            );
            self.error("resync", message, None);
        }
        self.channel_columns(relation);
        self.identity(relation, rules);
        self.soft_delete(relation);
        self.trashed(relation);
        self.announced_as(relation);
        self.payload(relation);
        self.public(relation, &bound);
        self.membership(relation);
    }

    /// Whether the relation has every column that the rule names.
    fn names(&mut self, relation: &Relation) -> bool {
        let mut missing: BTreeMap<String, &'static str> = BTreeMap::new();
        let mut need = |option, name: &str| {
            if relation.column(name).is_none() {
                missing.entry(name.to_owned()).or_insert(option);
            }
        };
        for (option, reads) in self.rule.reads() {
            reads.columns.iter().for_each(|(_, name)| need(option, name));
        }
        for lookup in &self.rule.lookups {
            lookup.key.reads().columns.iter().for_each(|(_, name)| need("lookup", name));
        }
        self.rule.changed.iter().flatten().for_each(|name| need("changed", name));
        self.rule.fixed.iter().for_each(|name| need("fixed", name));
        if let SoftDelete::Column(name) = &self.rule.soft_delete {
            need("soft_delete", name);
        }
        for (name, option) in &missing {
            let mut lookups = self.rule.lookups.iter().map(|lookup| &*lookup.name);
            let fix = match lookups.find(|lookup| nearest(name, [*lookup].into_iter()).is_some()) {
                Some(lookup) => format!("did you mean {lookup}?"),
                None => column_instead_of(name, relation),
            };
            let message = format!("{} has no column {name}", relation.table);
            self.error(option, message, Some(fix));
        }
        missing.is_empty()
    }

    /// Columns whose text no channel's name can hold, or seldom can.
    fn channel_columns(&mut self, relation: &Relation) {
        for part in self.rule.channels.iter().flat_map(|channel| &channel.template.parts) {
            let Part::Column(_, name) = part else { continue };
            let Some(column) = relation.column(name) else { continue };
            self.channel_column(name, relation, relation.columns[column].kind);
        }
    }

    fn channel_column(&mut self, name: &str, relation: &Relation, kind: Kind) {
        let (severity, what) = match kind {
            Kind::Timestamp | Kind::TimestampTz => (Severity::Error, "a timestamp has colons"),
            Kind::Json => (Severity::Error, "JSON has braces, brackets or quotes"),
            Kind::Numeric | Kind::Float => (Severity::Warning, "a number may have a dot"),
            Kind::Bool | Kind::Integer | Kind::Date | Kind::Text => return,
        };
        let message = format!(
            "{name} of {} does not fit into a channel's name: {what}, and a channel with such a \
             value is refused",
            relation.table
        );
        let fix = format!("{{{{ {name} | replace('.', '-') }}}}, or another column");
        let fix = (severity == Severity::Warning).then_some(fix);
        self.add(severity, "channels", message, fix);
    }

    fn soft_delete(&mut self, relation: &Relation) {
        let asks = self.rule.on_is_explicit && self.rule.announces(Action::Restored);
        if asks && self.rule.soft_delete_column(relation).is_none() {
            let message = format!(
                "`restored` never happens: {} has no column that marks a soft delete",
                relation.table
            );
            self.warn("on", message, Some("soft_delete = \"column\"".to_owned()));
        }
    }

    /// A model's events that cannot be told apart.
    fn trashed(&mut self, relation: &Relation) {
        let Some(model) = &self.rule.model else { return };
        let Some(column) = self.rule.soft_delete_column(relation) else { return };
        if relation.columns[column].in_identity || self.rule.on_is_explicit {
            return;
        }
        let message = format!(
            "an old row of {} does not carry {}: {model}Restored is never sent, and each change \
             of a trashed row is told as {model}Trashed and {model}Deleted again",
            relation.table, relation.columns[column].name
        );
        self.warn("preset", message, Some(identity_sql(relation, &[column])));
    }

    /// A child's rule that would say of its parent what happened to the child.
    fn announced_as(&mut self, relation: &Relation) {
        let (Some(entity), Some(id)) = (&self.rule.entity, &self.rule.id) else { return };
        let reads = id.reads().resolve(relation);
        let is_own = reads.iter().any(|(_, column)| relation.primary_key.contains(column));
        if is_own || self.rule.action.is_some() || self.rule.event_is_explicit {
            return;
        }
        let studly = names::studly(entity);
        let mut actions = self.rule.actions(relation).into_iter();
        let (row, action) = match actions.find(|action| *action != Action::Updated) {
            Some(action @ Action::Created) => ("a new", action),
            Some(action @ Action::Deleted) => ("a deleted", action),
            Some(action) => ("a restored", action),
            None => return,
        };
        let message = format!(
            "{row} row of {} is announced as {studly}{}, though `id` names another row than its \
             own",
            relation.table,
            action.studly_name()
        );
        let fix = "action = \"updated\"; or `event`, if it is meant so".to_owned();
        self.warn("action", message, Some(fix));
    }

    fn payload(&mut self, relation: &Relation) {
        let Some(data) = &self.rule.data else { return };
        let reads = with_keys(&self.rule.lookups, data.reads()).resolve(relation);
        let name = |column: usize| &*relation.columns[column].name;
        if self.rule.announces(Action::Deleted) {
            let lacking: Vec<&str> = reads
                .iter()
                .filter(|(scope, column)| {
                    *scope == Scope::Row && !relation.columns[*column].in_identity
                })
                .map(|(_, column)| name(*column))
                .collect();
            if !lacking.is_empty() {
                let instead = match self.rule.model {
                    Some(_) => "its model goes out without",
                    None => "`deleted` goes out with the minimal payload",
                };
                let message = format!(
                    "a deleted row of {} does not carry {}: {instead}",
                    relation.table,
                    lacking.join(", ")
                );
                let all: Vec<usize> = reads.iter().map(|(_, column)| *column).collect();
                self.warn("data", message, Some(identity_sql(relation, &all)));
            }
        }
        let mut long: Vec<&str> = reads
            .iter()
            .filter(|(_, column)| matches!(relation.columns[*column].kind, Kind::Text | Kind::Json))
            .map(|(_, column)| name(*column))
            .collect();
        long.dedup();
        if !long.is_empty() {
            let instead = match self.rule.oversize {
                super::Oversize::Minimal if self.rule.least.is_some() => {
                    "goes out with the model's key alone"
                }
                super::Oversize::Minimal => "goes out minimal, with \"partial\":true",
                super::Oversize::Reject => "is not sent but written to the rejected file",
            };
            let message = format!(
                "{} of {} may be long: a payload over the endpoint's limit {instead}",
                long.join(", "),
                relation.table
            );
            self.warn("data", message, None);
        }
    }

    fn membership(&mut self, relation: &Relation) {
        let Some(condition) = &self.rule.membership else { return };
        // Those of its lookups' keys must be there in any case.
        let lacking: Vec<&str> = condition
            .reads
            .resolve(relation)
            .iter()
            .filter(|(_, column)| !relation.columns[*column].in_identity)
            .map(|(_, column)| &*relation.columns[*column].name)
            .collect();
        if !lacking.is_empty() && self.rule.needs_updates() {
            let message = format!(
                "an old row of {} does not carry {}: a row that enters is told as `updated`, and \
                 each change of a row outside as `deleted`",
                relation.table,
                lacking.join(", ")
            );
            let reads = condition.reads.resolve(relation);
            let all: Vec<usize> = reads.iter().map(|(_, column)| *column).collect();
            self.warn("where", message, Some(identity_sql(relation, &all)));
        }
    }
}

/// What was perhaps meant by a table that is not there.
fn instead_of(table: &TableName, relations: &[Relation]) -> Option<String> {
    let elsewhere = relations.iter().map(|relation| &relation.table);
    match elsewhere.clone().find(|other| other.name == table.name) {
        Some(other) => Some(format!("table = \"{other}\"")),
        None => {
            let nearest = nearest(&table.name, elsewhere.map(|table| &*table.name));
            nearest.map(|name| format!("did you mean {name}?"))
        }
    }
}

fn column_instead_of(name: &str, relation: &Relation) -> String {
    let columns: Vec<&str> = relation.columns.iter().map(|column| &*column.name).collect();
    match nearest(name, columns.iter().copied()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("its columns are {}", columns.join(", ")),
    }
}

/// The name that a typing mistake may have come from.
pub(super) fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = among.map(|other| (distance(name, other), other)).min()?;
    (near.0 <= 1 + name.chars().count() / 4).then_some(near.1)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

//! Which rules tell rows as they stand, and as what.

use std::fmt;
use std::sync::Arc;

use super::data::DataTemplate;
use super::preset::Preset;
use super::rule::Rule;
use super::template::Template;
use super::{Broadcasts, Rules};
use crate::change::Relation;
use crate::notification::Action;

/// A rule on the table that does not tell its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub rule: Arc<str>,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was not among those asked for.
    NotNamed,
    /// It does not say that a row was updated.
    NotUpdated,
    /// It says how the row was, or what changed.
    Old,
    /// The same, of a change that says it.
    OldAgain,
    Changed,
    When,
    /// An application event is more than that something is to be fetched.
    Event,
    /// It does not say what is to be said.
    NotAnnounced(Action),
    OnlyDeleted,
}

impl Why {
    /// Whether it tells them if it is asked for by name.
    pub fn is_for_want_of_a_name(self) -> bool {
        match self {
            Why::NotNamed
            | Why::NotUpdated
            | Why::Old
            | Why::OldAgain
            | Why::Changed
            | Why::When
            | Why::Event => true,
            Why::NotAnnounced(_) | Why::OnlyDeleted => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotNamed => f.write_str("it is not named"),
            Why::NotUpdated => f.write_str("it does not announce updates"),
            Why::Old => f.write_str("it tells of `old` or `changed`, which a row does not say"),
            Why::OldAgain => f.write_str("it tells of `old` or `changed`, as a toast does"),
            Why::Event => f.write_str("application events are more than a call to fetch"),
            Why::Changed => f.write_str("it announces only some updates, by `changed`"),
            Why::When => f.write_str("it announces only some changes, by `when`"),
            Why::NotAnnounced(action) => write!(f, "it does not announce {action}"),
            Why::OnlyDeleted => f.write_str("it announces rows that are not there any more"),
        }
    }
}

impl Rules {
    /// The rules by which rows of the table are told as they stand, as `action` or
    /// else as updated; without one of its own to say that, as what the rule says.
    /// Without names, those of which a page hears no more than that it is to fetch.
    ///
    /// They never collapse: each row is told. Then come the others on the table.
    pub fn of_rows(
        &self,
        relation: &Relation,
        named: &[Arc<str>],
        action: Option<Action>,
    ) -> (Rules, Vec<Skipped>) {
        let (mut told, mut skipped) = (Vec::new(), Vec::new());
        for rule in self.rules.iter().filter(|rule| rule.applies(relation)) {
            let is_named = named.contains(&rule.name);
            let why = match (is_named, named.is_empty()) {
                (false, false) => Some(Why::NotNamed),
                (true, _) => None,
                (false, true) => rule.on(relation).keeps_rows_back(action),
            };
            match why.map_or_else(|| rule.read_as(action), Err) {
                Ok(read_as) => told.push(Rule { read_as, ..rule.clone() }),
                Err(why) => skipped.push(Skipped { rule: rule.name.clone(), why }),
            }
        }
        let rules = Rules {
            options: self.options.clone(),
            rules: told,
            lookups: self.lookups.clone(),
            broadcasts: None,
        };
        (rules.told_each(), skipped)
    }

    /// The rules by which recorded changes of these tables are told again. Without
    /// names, those of which a page hears no more than that it is to fetch; nobody is
    /// to see ten thousand old toasts.
    ///
    /// They never collapse: each change is told. Then come the others.
    pub fn of_changes(self, relations: &[&Relation], named: &[Arc<str>]) -> (Rules, Vec<Skipped>) {
        let (mut told, mut skipped) = (Vec::new(), Vec::new());
        for rule in self.rules {
            let Some(relation) = relations.iter().find(|relation| rule.applies(relation)) else {
                continue;
            };
            let why = match (named.contains(&rule.name), named.is_empty()) {
                (false, false) => Some(Why::NotNamed),
                (true, _) => None,
                (false, true) => rule.on(relation).keeps_rows_back(None).map(|why| match why {
                    Why::Old => Why::OldAgain,
                    why => why,
                }),
            };
            match why {
                None => told.push(rule),
                Some(why) => skipped.push(Skipped { rule: rule.name, why }),
            }
        }
        let is_named = |broadcasts: &Broadcasts| named.contains(&broadcasts.terms().rule);
        let broadcasts = self.broadcasts.filter(|broadcasts| {
            let is_told = is_named(broadcasts);
            if !is_told {
                let why = if named.is_empty() { Why::Event } else { Why::NotNamed };
                skipped.push(Skipped { rule: broadcasts.terms().rule.clone(), why });
            }
            is_told
        });
        let rules = Rules { options: self.options, rules: told, lookups: self.lookups, broadcasts };
        (rules.told_each(), skipped)
    }

    /// Whether no rule is left.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many notifications one row may become, each on some channels.
    pub fn events_of_a_row(&self) -> usize {
        // Of a model's events one says what happened.
        let events = |rule: &Rule| match &rule.preset {
            Some(Preset::Model(_)) => 1,
            Some(Preset::Row) | None => rule.events.len(),
        };
        self.rules.iter().map(events).sum()
    }

    /// The same, without ever telling many changes by one resync.
    #[must_use]
    pub fn told_each(mut self) -> Rules {
        for rule in &mut self.rules {
            rule.resync.may_collapse = false;
        }
        self
    }
}

impl Rule {
    fn keeps_rows_back(&self, action: Option<Action>) -> Option<Why> {
        if action.is_none() && !self.announces(Action::Updated) {
            return Some(Why::NotUpdated);
        }
        if self.tells_old() {
            return Some(Why::Old);
        }
        match (&self.changed, &self.when) {
            (Some(_), _) => Some(Why::Changed),
            (None, Some(_)) => Some(Why::When),
            (None, None) => None,
        }
    }

    /// Whether what it sends says how the row was, or what changed in it.
    fn tells_old(&self) -> bool {
        let channels = self.channels.iter().map(|channel| &channel.template);
        let data = self.data.iter().flat_map(DataTemplate::templates);
        let mut all = self.id.iter().chain(channels).chain(&self.events).chain(data);
        all.any(Template::tells_old)
    }

    fn read_as(&self, action: Option<Action>) -> Result<Action, Why> {
        if let Some(action) = action {
            return self.announces(action).then_some(action).ok_or(Why::NotAnnounced(action));
        }
        let usual = [Action::Updated, Action::Created, Action::Restored];
        usual.into_iter().find(|action| self.announces(*action)).ok_or(Why::OnlyDeleted)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::super::{Config, Options};
    use super::*;
    use crate::change::{Column, Kind, ReplicaIdentity, TableName};

    fn posts() -> Relation {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Kind::Text,
            in_identity: true,
            nullable: true,
        };
        Relation {
            oid: 1,
            table: TableName::new("public", "posts"),
            renamed: None,
            columns: ["id", "title"].map(column).into(),
            identity: ReplicaIdentity::Full,
            primary_key: vec![0],
        }
    }

    const RULES: &str = r#"
        [[rule]]
        name = "pages"
        [[rule]]
        name = "own"
        data = { title = "{{ title }}" }
        [[rule]]
        name = "old"
        data = { was = "{{ old.title }}" }
        [[rule]]
        name = "columns"
        data = { columns = "{{ changed }}" }
        [[rule]]
        name = "some"
        changed = ["title"]
        [[rule]]
        name = "when"
        when = "new.title == 'a'"
        [[rule]]
        name = "births"
        on = ["created", "deleted"]
        [[rule]]
        name = "deaths"
        on = ["deleted"]
    "#;

    fn rules() -> Rules {
        #[derive(serde::Deserialize)]
        struct All {
            rule: Vec<toml::Table>,
        }
        let All { rule } = toml::from_str(RULES).unwrap();
        let configs = rule.into_iter().map(|mut rule| {
            rule.insert("table".into(), "posts".into());
            rule.insert("channels".into(), "posts".into());
            rule.try_into::<Config>().unwrap()
        });
        let options = Options { timezone: TimeZone::UTC, max_data_bytes: 9_000, encrypts: false };
        Rules::compile(configs.collect(), options).unwrap()
    }

    /// By the name of their rules.
    type By<T> = Vec<(String, T)>;

    fn told(named: &[&str], action: Option<Action>) -> (By<Action>, By<Why>) {
        let named: Vec<Arc<str>> = named.iter().map(|name| (*name).into()).collect();
        let (told, skipped) = rules().of_rows(&posts(), &named, action);
        assert!(told.rules.iter().all(|rule| !rule.resync.may_collapse));
        (
            told.rules.iter().map(|rule| (rule.name.to_string(), rule.read_as)).collect(),
            skipped.into_iter().map(|it| (it.rule.to_string(), it.why)).collect(),
        )
    }

    #[test]
    fn without_a_name_only_rules_that_tell_every_update_of_the_row_as_it_is_tell_rows() {
        let (told, skipped) = told(&[], None);
        assert_eq!(told, ["pages", "own"].map(|rule| (rule.to_owned(), Action::Updated)));
        let expected = [
            ("old", Why::Old),
            ("columns", Why::Old),
            ("some", Why::Changed),
            ("when", Why::When),
            ("births", Why::NotUpdated),
            ("deaths", Why::NotUpdated),
        ];
        assert_eq!(skipped, expected.map(|(rule, why)| (rule.to_owned(), why)));
    }

    #[test]
    fn a_rule_that_is_named_tells_rows_as_it_can() {
        let (told_named, _) = told(&["births", "old", "deaths"], None);
        let expected = [("old", Action::Updated), ("births", Action::Created)];
        assert_eq!(told_named, expected.map(|(rule, action)| (rule.to_owned(), action)));
        let (told_created, skipped) = told(&["births", "deaths"], Some(Action::Created));
        assert_eq!(told_created, [("births".to_owned(), Action::Created)]);
        assert!(skipped.contains(&("deaths".to_owned(), Why::NotAnnounced(Action::Created))));
    }
}

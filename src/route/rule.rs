use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::channel::ChannelTemplate;
use super::config::{self, OneOrMany};
use super::data::DataTemplate;
use super::expression::Expression;
use super::lookup::{self, RuleLookup, Vocabulary};
use super::preset::{self, Preset};
use super::reads::Reads;
use super::resync::{self, ResyncTemplate};
use super::template::{Part, Template};
use super::view::Scope;
use super::{Broadcasts, Config, Oversize, Problem, Severity, SoftDelete, TablePattern};
use crate::change::{Lookup, Relation, TableName};
use crate::notification::{Action, EventName, Tells, WindowBy};

/// What all rules have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of timestamps without one, as the application writes them.
    pub timezone: TimeZone,
    /// The longest payload that the endpoint takes, measured by
    /// [`Measure`](crate::notification::Measure).
    pub max_data_bytes: usize,
    /// Whether there is a key for encrypted channels.
    pub encrypts: bool,
}

/// All rules, parsed: what they ask for, of whichever table.
#[derive(Debug)]
pub struct Rules {
    pub(super) options: Options,
    pub(super) rules: Vec<Rule>,
    pub(super) lookups: Vec<Lookup>,
    /// `None`: no application event is sent.
    pub(super) broadcasts: Option<Broadcasts>,
}

/// One rule, parsed.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub index: usize,
    pub name: Arc<str>,
    pub tables: Vec<TablePattern>,
    pub entity: Option<Arc<str>>,
    /// `None`: the primary key.
    pub id: Option<Template>,
    pub on: Vec<Action>,
    /// Whether `on` was written, so that all it names must be possible.
    pub on_is_explicit: bool,
    /// What all of them are announced as, if not as what they are.
    pub action: Option<Action>,
    /// What a row that was read as it stands is announced as.
    pub read_as: Action,
    /// What is made for each table by [`Rule::on`]: `channels`, and for a model
    /// `data` and `model`.
    pub preset: Option<Preset>,
    /// The model's class without its namespace, whose events it sends.
    pub model: Option<Box<str>>,
    /// What is sent where `data` is too large, if not the minimal payload: the
    /// model with no more than its key.
    pub least: Option<DataTemplate>,
    /// Columns that may travel though they look secret, or are public.
    pub reveal: Vec<String>,
    pub channels: Vec<ChannelTemplate>,
    pub events: Vec<Template>,
    /// Whether `event` was written.
    pub event_is_explicit: bool,
    pub membership: Option<Arc<Expression>>,
    pub when: Option<Arc<Expression>>,
    pub changed: Option<Vec<String>>,
    /// `None`: the minimal payload.
    pub data: Option<DataTemplate>,
    pub oversize: Oversize,
    pub window: Option<Duration>,
    pub window_by: WindowBy,
    pub resync: ResyncTemplate,
    pub fixed: Vec<String>,
    pub soft_delete: SoftDelete,
    pub lookups: Vec<RuleLookup>,
}

impl Rules {
    /// Touches nothing but the configuration: no catalog.
    ///
    /// # Errors
    /// Everything that is wrong with any rule.
    pub fn compile(configs: Vec<Config>, options: Options) -> Result<Rules, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut rules: Vec<Rule> = Vec::with_capacity(configs.len());
        let mut names: HashMap<String, usize> = HashMap::new();
        for (index, mut config) in configs.into_iter().enumerate() {
            let (name, is_explicit) = match &config.name {
                Some(name) => (name.clone(), true),
                None => (default_name(&config.table), false),
            };
            let uses = names.entry(name.clone()).or_default();
            *uses += 1;
            let unique = if *uses > 1 { format!("{name} ({uses})") } else { name.clone() };
            let lookups = mem::take(&mut config.lookup);
            let vocabulary = Vocabulary(&lookups);
            let mut compiler =
                Compiler { index, rule: &unique, vocabulary, problems: &mut problems };
            if name.trim().is_empty() {
                compiler.problem("name", "it is empty".into(), None);
            } else if *uses > 1 && is_explicit {
                let message = format!("another rule is named {name:?} too");
                compiler.problem("name", message, Some(format!("name = \"{name}-{uses}\"")));
            }
            if config.preset != Some(config::Preset::Resource) {
                rules.push(compiler.rule(config, &options));
                continue;
            }
            let [row, list] = preset::resource(config, &unique);
            rules.push(compiler.rule(row.1, &options));
            // What is wrong with both is told once.
            *names.entry(list.0.clone()).or_default() += 1;
            let mut unheard = Vec::new();
            let mut compiler =
                Compiler { index, rule: &list.0, vocabulary, problems: &mut unheard };
            rules.push(compiler.rule(list.1, &options));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let lookups = lookup::merge(&mut rules);
        Ok(Rules { options, rules, lookups, broadcasts: None })
    }

    /// All that the rules look up in other tables; a
    /// [`LookupId`](crate::change::LookupId) counts these.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// Whether any application event is sent.
    pub fn sends_broadcasts(&self) -> bool {
        self.broadcasts.is_some()
    }

    /// The same, and application events as these allow them.
    pub fn with(self, broadcasts: Option<Broadcasts>) -> Rules {
        Rules { broadcasts, ..self }
    }
}

impl Rule {
    pub(super) fn takes(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.matches(table))
    }

    /// Whether it announces the relation's rows.
    pub(super) fn applies(&self, relation: &Relation) -> bool {
        self.table_of(relation).is_some()
    }

    /// The name by which it takes the relation, if it announces its rows: the
    /// one that they were written under, or else the one that the table has now,
    /// so that a rule that was changed with it takes the rows from before. What
    /// only a glob takes, and has no key to name its rows by, is left alone.
    pub(super) fn table_of<'a>(&self, relation: &'a Relation) -> Option<&'a TableName> {
        let has_id = self.has_id(relation);
        let mut names = [Some(&relation.table), relation.renamed.as_ref()].into_iter().flatten();
        names.find(|table| self.takes(table) && (has_id || self.names(table)))
    }

    /// Whether `table` names it, not only a glob.
    pub(super) fn names(&self, table: &TableName) -> bool {
        self.tables.iter().any(|pattern| pattern.exact().as_ref() == Some(table))
    }

    /// Whether an id is one row's: the primary key, or that column alone.
    pub(super) fn id_is_row(&self, relation: &Relation) -> bool {
        let Some(id) = &self.id else { return !relation.primary_key.is_empty() };
        let ([Part::Column(Scope::Row, name)], [key]) = (&*id.parts, &*relation.primary_key) else {
            return false;
        };
        relation.columns[*key].name == *name
    }

    /// A row whose DELETE `when` does not let pass, and which is made and deleted
    /// again, has not come to nothing.
    pub(super) fn tells(&self) -> Tells {
        match (&self.when, &self.changed, &self.membership) {
            (Some(_), _, _) => Tells::Some,
            (None, None, None) => Tells::All,
            (None, _, _) => Tells::SomeUpdates,
        }
    }

    /// What it may call a change of the relation's rows.
    pub(super) fn actions(&self, relation: &Relation) -> Vec<Action> {
        if let Some(action) = self.action {
            return vec![action];
        }
        let has_soft_delete = self.soft_delete_column(relation).is_some();
        let happens = |action: &Action| *action != Action::Restored || has_soft_delete;
        Action::ALL.into_iter().filter(|a| self.announces(*a) && happens(a)).collect()
    }

    /// Whether it announces rows to which this has happened.
    pub(super) fn announces(&self, action: Action) -> bool {
        self.on.contains(&action)
    }

    /// Whether a notification of it may say that this has happened.
    pub(super) fn says(&self, action: Action) -> bool {
        self.action.map_or_else(|| self.announces(action), |said| said == action)
    }

    pub(super) fn soft_delete_column(&self, relation: &Relation) -> Option<usize> {
        match &self.soft_delete {
            SoftDelete::Off => None,
            SoftDelete::Usual => relation.column("deleted_at"),
            SoftDelete::Column(name) => relation.column(name),
        }
    }

    /// What the options read, each on its own, without the keys of lookups.
    pub(super) fn reads(&self) -> Vec<(&'static str, Reads)> {
        let mut reads = Vec::new();
        reads.extend(self.id.iter().map(|id| ("id", id.reads())));
        reads.extend(self.channels.iter().map(|channel| ("channels", channel.template.reads())));
        reads.extend(self.events.iter().map(|event| ("event", event.reads())));
        reads.extend(self.membership.iter().map(|condition| ("where", condition.reads.clone())));
        reads.extend(self.when.iter().map(|condition| ("when", condition.reads.clone())));
        reads.extend(self.data.iter().map(|data| ("data", data.reads())));
        reads
    }
}

fn default_name(table: &OneOrMany<TablePattern>) -> String {
    let patterns: Vec<String> = table.0.iter().map(ToString::to_string).collect();
    patterns.join(", ")
}

pub(super) struct Compiler<'a> {
    index: usize,
    rule: &'a str,
    pub vocabulary: Vocabulary<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Compiler<'_> {
    pub(super) fn problem(&mut self, option: &'static str, message: String, fix: Option<String>) {
        self.problems.push(Problem {
            severity: Severity::Error,
            rule_index: self.index,
            rule: self.rule.to_owned(),
            option,
            message,
            fix,
        });
    }

    fn rule(&mut self, config: Config, options: &Options) -> Rule {
        if config.entity.as_ref().is_some_and(|entity| entity.trim().is_empty()) {
            self.problem("entity", "it is empty, expected a name such as post".into(), None);
        }
        if config.on.as_ref().is_some_and(Vec::is_empty) {
            let message = "the list is empty, so the rule would never announce anything; \
                           expected some of created, updated, deleted, restored";
            self.problem("on", message.into(), None);
        }
        if config.changed.as_ref().is_some_and(Vec::is_empty) {
            let message = "the list is empty, so no update would ever be announced";
            self.problem("changed", message.into(), Some("leave `changed` out".into()));
        }
        let id = config.id.as_deref().and_then(|id| self.id(id));
        let preset = self.preset(&config);
        let channels = config.channels.iter().flat_map(|channels| &channels.0);
        let channels = channels.filter_map(|text| self.channel(text, options)).collect();
        let events = match &config.event {
            Some(events) => events.0.iter().filter_map(|text| self.event("event", text)).collect(),
            None => self.event("event", "{{ Entity }}{{ Action }}").into_iter().collect(),
        };
        if let (Some(Preset::Model(_)), Some(id)) = (&preset, &id)
            && !matches!(&*id.parts, [Part::Column(Scope::Row, _)])
        {
            let message = "a model's key is one column, as it is".into();
            self.problem("id", message, Some("id = \"{{ uuid }}\"".into()));
        }
        let membership =
            config.membership.as_deref().and_then(|text| self.condition("where", text));
        if membership.as_ref().is_some_and(|condition| {
            let reads = &condition.reads;
            let mut scopes = reads.columns.iter().chain(&reads.perhaps).map(|(scope, _)| scope);
            scopes.any(|scope| *scope != Scope::Row) || !reads.whole.is_empty()
        }) {
            let message = "it is about one row, as it was and as it is, so it has no `old` and \
                           `new`; a condition on the change is `when`";
            self.problem("where", message.into(), None);
        }
        let when = config.when.as_deref().and_then(|text| self.condition("when", text));
        let data = config.data.and_then(|data| match DataTemplate::parse(data, self.vocabulary) {
            Ok(data) => Some(data),
            Err(error) => {
                self.problem("data", error.to_string(), error.fix());
                None
            }
        });
        let least = data.as_ref().map_or(0, DataTemplate::least_len);
        if least > options.max_data_bytes {
            let message = format!(
                "its own text alone has {least} bytes, and the endpoint takes {}",
                options.max_data_bytes
            );
            let fix = "less of it; or no `data`, so that pages fetch".to_owned();
            self.problem("data", message, Some(fix));
        }
        if config.coalesce.is_none() && config.coalesce_by == WindowBy::Channel {
            let message = "with `coalesce = false` nothing is gathered on a channel";
            self.problem("coalesce_by", message.into(), Some("coalesce = \"250ms\"".into()));
        }
        let resync = self.resync(config.resync);
        let lookups = self.lookups();
        let mut rule = Rule {
            index: self.index,
            name: self.rule.into(),
            tables: config.table.0,
            entity: config.entity.map(Arc::from),
            id,
            on_is_explicit: config.on.is_some(),
            on: config.on.unwrap_or_else(|| Action::ALL.to_vec()),
            action: config.action,
            read_as: Action::Updated,
            preset,
            model: None,
            least: None,
            reveal: config.reveal,
            channels,
            events,
            event_is_explicit: config.event.is_some(),
            membership,
            when,
            changed: config.changed,
            data,
            oversize: config.oversize,
            window: config.coalesce,
            window_by: config.coalesce_by,
            resync,
            fixed: config.fixed,
            soft_delete: config.soft_delete,
            lookups,
        };
        lookup::note_readers(&mut rule);
        rule
    }

    fn template(&mut self, option: &'static str, text: &str) -> Option<Template> {
        let template = match Template::parse(text, self.vocabulary) {
            Ok(template) => template,
            Err(error) => {
                self.problem(option, format!("{text:?}: {error}"), error.fix());
                return None;
            }
        };
        if template.has_block() && option != "data" {
            let message = format!(
                "{text:?}: {{% blocks %}} and comments are for `data`; expected text and \
                 {{{{ expressions }}}}, such as {{{{ a if b else c }}}}"
            );
            self.problem(option, message, None);
            return None;
        }
        Some(template)
    }

    fn id(&mut self, text: &str) -> Option<Template> {
        let id = self.template("id", text)?;
        if id.parts.is_empty() {
            self.problem("id", "it is empty, expected a template".into(), None);
        }
        Some(id)
    }

    fn channel(&mut self, text: &str, options: &Options) -> Option<ChannelTemplate> {
        let template = self.template("channels", text)?;
        match ChannelTemplate::new(template, options) {
            Ok(channel) => Some(channel),
            Err(error) => {
                self.problem("channels", format!("{text:?}: {error}"), error.fix(text));
                None
            }
        }
    }

    fn event(&mut self, option: &'static str, text: &str) -> Option<Template> {
        let template = self.template(option, text)?;
        let literal = match &*template.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(&**text),
            _ => None,
        };
        if let Some(Err(error)) = literal.map(str::parse::<EventName>) {
            self.problem(option, format!("{text:?}: {error}"), None);
        }
        Some(template)
    }

    fn resync(&mut self, config: config::Resync) -> ResyncTemplate {
        let (may_collapse, form) = match config {
            config::Resync::Off => (false, config::ResyncForm::default()),
            config::Resync::On(form) => (true, form),
        };
        let events = form
            .event
            .map(|events| events.0.iter().filter_map(|text| self.resync_event(text)).collect());
        let data = form.data.and_then(|data| match resync::parse_data(data) {
            Ok(data) => Some(data),
            Err(error) => {
                self.problem("resync", format!("data: {error}"), None);
                None
            }
        });
        ResyncTemplate { may_collapse, events, data }
    }

    fn resync_event(&mut self, text: &str) -> Option<Template> {
        let template = self.event("resync", text)?;
        match resync::check_event(&template) {
            Ok(()) => Some(template),
            Err(error) => {
                self.problem("resync", format!("{text:?}: {error}"), None);
                None
            }
        }
    }

    fn condition(&mut self, option: &'static str, text: &str) -> Option<Arc<Expression>> {
        if text.contains("{{") {
            let bare = text.trim().trim_start_matches("{{").trim_end_matches("}}").trim();
            let message = format!("{text:?}: a condition is an expression without {{{{ }}}}");
            self.problem(option, message, Some(format!("{option} = \"{bare}\"")));
            return None;
        }
        match Expression::parse(text, self.vocabulary) {
            Ok(expression) => Some(Arc::new(expression)),
            Err(error) => {
                self.problem(option, format!("{text:?}: {error}"), error.fix());
                None
            }
        }
    }
}

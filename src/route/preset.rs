//! Rules whose channels are of a known form, made of each table's own key, and
//! with a model also their events and payload.

use std::borrow::Cow;

use super::Config;
use super::channel::ChannelTemplate;
use super::config;
use super::data::DataTemplate;
use super::names;
use super::rule::{Compiler, Rule};
use super::secrets;
use super::template::{Part, Template};
use super::variable::Variable;
use super::view::Scope;
use crate::change::{Relation, TableName};
use crate::notification::WindowBy;

/// What a rule leaves to be made for each table.
#[derive(Clone, Debug)]
pub(super) enum Preset {
    /// A channel for each row: `private-posts.1`.
    Row,
    /// What Laravel's `BroadcastsEvents` sends.
    Model(Model),
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    /// `None`: the one whose table it is.
    class: Option<Box<str>>,
    /// Those that travel beside the key.
    columns: Vec<Box<str>>,
}

impl Model {
    /// `App\Models\Post`.
    fn class(&self, table: &TableName) -> Cow<'_, str> {
        match &self.class {
            Some(class) => Cow::Borrowed(class),
            None => {
                let name = names::studly(&names::entity(&table.name));
                Cow::Owned(format!(r"App\Models\{name}"))
            }
        }
    }
}

/// The `resource` preset's rules: that of the rows, and that of the list.
pub(super) fn resource(config: Config, name: &str) -> [(String, Config); 2] {
    let list = Config {
        preset: None,
        channels: Some(config::OneOrMany(vec!["private-{{ table }}".to_owned()])),
        coalesce_by: match config.coalesce {
            Some(_) => WindowBy::Channel,
            None => WindowBy::Id,
        },
        ..config.clone()
    };
    [(name.to_owned(), config), (format!("{name} (list)"), list)]
}

impl Compiler<'_> {
    /// What the preset leaves to the tables, after a look at what it goes with.
    pub(super) fn preset(&mut self, config: &Config) -> Option<Preset> {
        let only = r#"preset = "laravel-model""#;
        let is_model = config.preset == Some(config::Preset::LaravelModel);
        for (option, is_set) in
            [("model", config.model.is_some()), ("columns", config.columns.is_some())]
        {
            if is_set && !is_model {
                let message = format!("it goes with {only} alone");
                self.problem(option, message, Some(format!("{only}, or without `{option}`")));
            }
        }
        let Some(preset) = config.preset else {
            if config.channels.is_none() {
                let message = "it is missing, and no preset says where it is announced";
                let fix = r#"channels = ["private-posts"], or preset = "resource""#;
                self.problem("channels", message.into(), Some(fix.into()));
            }
            return None;
        };
        let name = preset.name();
        self.refuse("channels", config.channels.is_some(), name);
        match preset {
            config::Preset::Resource => {
                self.refuse("coalesce_by", config.coalesce_by == WindowBy::Channel, name);
                Some(Preset::Row)
            }
            config::Preset::LaravelModel => {
                self.refuse("event", config.event.is_some(), name);
                self.refuse("data", config.data.is_some(), name);
                self.refuse("action", config.action.is_some(), name);
                self.refuse("coalesce_by", config.coalesce_by == WindowBy::Channel, name);
                Some(Preset::Model(self.model(config)))
            }
        }
    }

    fn refuse(&mut self, option: &'static str, is_set: bool, preset: &str) {
        if is_set {
            let message = format!("preset = \"{preset}\" says it already");
            self.problem(option, message, Some(format!("without `{option}`, or without `preset`")));
        }
    }

    fn model(&mut self, config: &Config) -> Model {
        let columns = config.columns.clone().unwrap_or_default();
        for column in columns.iter().filter(|column| secrets::looks_secret(column)) {
            if !config.reveal.contains(column) {
                let message = format!("{column} looks secret, and each listener would get it");
                let fix = format!("without it; or, if it may travel: reveal = [{column:?}]");
                self.problem("columns", message, Some(fix));
            }
        }
        let class = config.model.as_deref().map(|class| class.trim_start_matches('\\'));
        if let Some(class) = class.filter(|class| !is_class(class)) {
            let message = format!("{class:?} is no class name");
            self.problem("model", message, Some(r"model = 'App\Models\Post'".into()));
        }
        let one_table = config.table.0.len() == 1 && config.table.0[0].exact().is_some();
        if class.is_some() && !one_table {
            let message = "it names one model, and `table` may be several tables";
            let fix = "leave it out: each table's own is App\\Models\\…; or a rule for each";
            self.problem("model", message.into(), Some(fix.into()));
        }
        Model {
            class: class.map(Into::into),
            columns: columns.into_iter().map(String::into_boxed_str).collect(),
        }
    }
}

fn is_class(class: &str) -> bool {
    class.split('\\').all(|name| {
        let is_letter = |first: char| first.is_ascii_alphabetic() || first == '_';
        name.starts_with(is_letter) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

impl Rule {
    /// Whether the relation has what names its rows in a channel.
    pub(super) fn has_id(&self, relation: &Relation) -> bool {
        self.id.is_some()
            || match self.preset {
                Some(_) => relation.primary_key.len() == 1,
                None => !relation.primary_key.is_empty(),
            }
    }

    /// The rule as it is on the relation: what the preset left open is filled in.
    pub(super) fn on<'a>(&'a self, relation: &Relation) -> Cow<'a, Rule> {
        let Some(preset) = &self.preset else { return Cow::Borrowed(self) };
        let key = relation.primary_key.first().map_or("id", |key| &*relation.columns[*key].name);
        let id = match &self.id {
            Some(id) => id.parts.clone(),
            None => vec![Part::Column(Scope::Row, key.into())],
        };
        let mut rule = self.clone();
        let mut channel = Vec::with_capacity(id.len() + 3);
        match preset {
            Preset::Row => channel.extend([
                Part::Text("private-".into()),
                Part::Variable(Variable::Table),
                Part::Text(".".into()),
            ]),
            Preset::Model(model) => {
                let class = model.class(self.table_of(relation).unwrap_or(&relation.table));
                channel.push(Part::Text(format!("private-{}.", class.replace('\\', ".")).into()));
                rule.model = class.rsplit('\\').next().map(Into::into);
                rule.data = Some(payload(&id, key, &model.columns));
                rule.least = Some(payload(&id, key, &[]));
            }
        }
        channel.extend(id);
        rule.channels = vec![ChannelTemplate { template: Template { parts: channel } }];
        Cow::Owned(rule)
    }
}

/// What `BroadcastableModelEventOccurred` carries.
fn payload(id: &[Part], key: &str, columns: &[Box<str>]) -> DataTemplate {
    let key = match id {
        [Part::Column(_, name)] => name,
        _ => key,
    };
    let others = columns.iter().map(|column| &**column).filter(|column| *column != key);
    let model = std::iter::once(key).chain(others).map(Into::into).collect();
    let literal = |json: &str| DataTemplate::Literal(json.into());
    DataTemplate::Table(vec![
        (r#""model""#.into(), DataTemplate::Columns(model)),
        (r#""connection""#.into(), literal("null")),
        (r#""queue""#.into(), literal("null")),
        (r#""afterCommit""#.into(), literal("false")),
    ])
}

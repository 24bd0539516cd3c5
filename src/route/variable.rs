//! What a template can name besides columns and lookups.

use std::sync::Arc;

use minijinja::Value;

use super::reads::Touched;
use super::said::said;
use super::view::View;

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

    pub(super) fn value(self, view: &View<'_>, touched: &Arc<Touched>) -> Option<Value> {
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

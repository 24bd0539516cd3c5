//! Event names, made once where they depend on nothing but the action.

use super::template::{BoundTemplate, Part, Template, Unrenderable};
use super::variable::Variable;
use super::view::View;
use crate::change::Relation;
use crate::notification::{Action, EventName, EventNameError};

#[derive(Debug)]
pub(super) enum BoundEvent {
    /// By action.
    Constant([Result<EventName, String>; Action::ALL.len()]),
    Template(BoundTemplate),
    /// A model's, by action. Who listens for one of them does not hear the others,
    /// so none becomes another by folding.
    Model([Result<EventName, String>; Action::ALL.len()]),
    /// What a model fires before that one when it is trashed or restored.
    BeforeModel {
        trashed: Result<EventName, String>,
        updated: Result<EventName, String>,
    },
}

impl BoundEvent {
    pub(super) fn new(
        template: &Template,
        relation: &Relation,
        print: impl Fn(&Part) -> Option<String>,
    ) -> BoundEvent {
        let constant = |action: Action| -> Option<String> {
            let texts = template.parts.iter().map(|part| match part {
                Part::Text(text) => Some(text.to_string()),
                Part::Variable(Variable::Action) => Some(action.name().to_owned()),
                Part::Variable(Variable::ActionStudly) => Some(action.studly_name().to_owned()),
                part => print(part),
            });
            texts.collect()
        };
        let [Some(created), Some(updated), Some(deleted), Some(restored)] =
            Action::ALL.map(constant)
        else {
            return BoundEvent::Template(template.bind(relation));
        };
        let names = [created, updated, deleted, restored];
        BoundEvent::Constant(names.map(|name| parse_event(&name)))
    }

    /// Those of Laravel's `BroadcastsEvents`, in the order in which they are sent.
    pub(super) fn of_model(class: &str) -> Vec<BoundEvent> {
        let name = |happened: &str| parse_event(&format!("{class}{happened}"));
        vec![
            BoundEvent::BeforeModel { trashed: name("Trashed"), updated: name("Updated") },
            BoundEvent::Model(Action::ALL.map(|action| name(action.studly_name()))),
        ]
    }

    /// Its index, which is its place unless it says so. The one that every change
    /// has is 0.
    pub(super) fn index(&self, place: usize) -> usize {
        match self {
            BoundEvent::Constant(_) | BoundEvent::Template(_) => place,
            BoundEvent::Model(_) => 0,
            BoundEvent::BeforeModel { .. } => 1,
        }
    }

    /// Whether the action has it; `trashed` says that the row stays, deleted.
    pub(super) fn is_sent(&self, action: Action, trashed: bool) -> bool {
        match self {
            BoundEvent::BeforeModel { .. } => trashed || action == Action::Restored,
            _ => true,
        }
    }

    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            BoundEvent::Constant(names) | BoundEvent::Model(names) => {
                names.iter().find_map(|name| name.as_ref().err().map(String::as_str))
            }
            BoundEvent::BeforeModel { .. } | BoundEvent::Template(_) => None,
        }
    }

    /// By action, if no row value names it and all can be named.
    pub(super) fn constants(&self) -> Option<[EventName; Action::ALL.len()]> {
        let BoundEvent::Constant([Ok(created), Ok(updated), Ok(deleted), Ok(restored)]) = self
        else {
            return None;
        };
        Some([created.clone(), updated.clone(), deleted.clone(), restored.clone()])
    }

    pub(super) fn name(&self, view: &View<'_>) -> Result<EventName, String> {
        match self {
            BoundEvent::Constant(names) | BoundEvent::Model(names) => {
                names[view.action as usize].clone()
            }
            BoundEvent::BeforeModel { updated, .. } if view.action == Action::Restored => {
                updated.clone()
            }
            BoundEvent::BeforeModel { trashed, .. } => trashed.clone(),
            BoundEvent::Template(template) => {
                let mut name = String::new();
                for part in &template.parts {
                    // NULL prints nothing: the rest still names the event.
                    part.text(view, &mut name).map_err(|Unrenderable(reason)| reason)?;
                }
                // Without the name: it holds what the row says.
                name.parse().map_err(|error: EventNameError| error.to_string())
            }
        }
    }
}

fn parse_event(name: &str) -> Result<EventName, String> {
    name.parse().map_err(|error| format!("{name:?}: {error}"))
}

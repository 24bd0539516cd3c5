//! Event names, made once where they depend on nothing but the action.

use super::expression::Variable;
use super::template::{BoundTemplate, Part, Template, Unrenderable};
use super::view::View;
use crate::change::Relation;
use crate::notification::{Action, EventName, EventNameError};

#[derive(Debug)]
pub(super) enum BoundEvent {
    /// By action.
    Constant([Result<EventName, String>; Action::ALL.len()]),
    Template(BoundTemplate),
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

    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            BoundEvent::Constant(names) => {
                names.iter().find_map(|name| name.as_ref().err().map(String::as_str))
            }
            BoundEvent::Template(_) => None,
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
            BoundEvent::Constant(names) => names[view.action as usize].clone(),
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

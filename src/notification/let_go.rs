use std::fmt;
use std::sync::Arc;

use super::Action;
use crate::change::{TableName, Timestamp};

/// A change, or a part of what one means, that nobody is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetGo {
    /// How many notifications of its handoff come before it.
    pub place: usize,
    /// When it was committed.
    pub at: Timestamp,
    pub table: TableName,
    /// As a notification has it.
    pub id: Box<str>,
    pub action: Action,
    /// Who let it go; `None` where no rule takes the table.
    pub rule: Option<Arc<str>>,
    pub why: Why,
}

/// Which option of the rule it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    NoRule,
    On(Vec<Action>),
    Where(Unmet),
    When(Unmet),
    /// Of these columns none changed.
    Changed {
        columns: Vec<Box<str>>,
        /// Those that did, if it is known of all.
        changed: Option<Vec<Box<str>>>,
    },
    /// A NULL left the channel out. It may be told on others.
    Channels {
        template: String,
    },
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    pub condition: Box<str>,
    /// The columns that it reads, with their values as JSON.
    pub values: Vec<(Box<str>, String)>,
}

impl Why {
    /// The rule's option as the file has it, or `table`.
    pub fn option(&self) -> &'static str {
        match self {
            Why::NoRule => "table",
            Why::On(_) => "on",
            Why::Where(_) => "where",
            Why::When(_) => "when",
            Why::Changed { .. } => "changed",
            Why::Channels { .. } => "channels",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NoRule => f.write_str("no rule takes the table"),
            Why::On(on) => {
                let on: Vec<&str> = on.iter().map(|action| action.name()).collect();
                write!(f, "it is only on {}", on.join(", "))
            }
            Why::Where(unmet) => write!(f, "where does not hold: {unmet}"),
            Why::When(unmet) => write!(f, "when does not hold: {unmet}"),
            Why::Changed { columns, changed } => {
                write!(f, "nothing changed of {}", columns.join(", "))?;
                match changed.as_deref() {
                    Some([]) => f.write_str(", nor anything else"),
                    Some(changed) => write!(f, ", only {}", changed.join(", ")),
                    None => Ok(()),
                }
            }
            Why::Channels { template } => {
                write!(f, "not on {template}, since a value in it is NULL")
            }
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition)?;
        for (index, (name, value)) in self.values.iter().enumerate() {
            write!(f, "{} {name} is {value}", if index == 0 { ";" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_a_phrase_for_people() {
        let unmet = Unmet {
            condition: "status == 'published'".into(),
            values: vec![("status".into(), "\"draft\"".into()), ("views".into(), "7".into())],
        };
        let columns = || vec!["title".into(), "body".into()];
        for (why, text) in [
            (Why::NoRule, "no rule takes the table"),
            (Why::On(vec![Action::Created, Action::Deleted]), "it is only on created, deleted"),
            (
                Why::Where(unmet),
                "where does not hold: status == 'published'; status is \"draft\", views is 7",
            ),
            (
                Why::Changed { columns: columns(), changed: Some(vec!["updated_at".into()]) },
                "nothing changed of title, body, only updated_at",
            ),
            (
                Why::Changed { columns: columns(), changed: Some(Vec::new()) },
                "nothing changed of title, body, nor anything else",
            ),
            (
                Why::Channels { template: "private-users.{{ user_id }}".to_owned() },
                "not on private-users.{{ user_id }}, since a value in it is NULL",
            ),
        ] {
            assert_eq!(why.to_string(), text);
        }
    }
}

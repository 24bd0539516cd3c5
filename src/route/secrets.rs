//! Columns that most people would not want others to read, by their names.

use std::collections::BTreeSet;

use super::bound::BoundRule;
use super::channel::BoundChannel;
use super::check::Check;
use super::reads::Reads;
use crate::change::{Column, Kind, Relation};

/// Parts of names: `password_hash`, `remember_token`.
const SECRETS: [&str; 5] = ["password", "passwd", "token", "secret", "two_factor"];
/// What words of names begin with: `card_number`, not `discarded_at`.
const SECRET_WORDS: [&str; 2] = ["card", "iban"];

impl Check<'_> {
    /// What anyone who knows a public channel's name can read.
    pub(super) fn public(&mut self, relation: &Relation, bound: &BoundRule) {
        let Some(channel) = bound.channels.iter().find_map(BoundChannel::public_name) else {
            return;
        };
        let mut found = Vec::new();
        if let Some(data) = &self.rule.data {
            found.push(("data", self.exposed(relation, &data.reads(), true)));
        }
        let mut named = Reads::default();
        self.rule.channels.iter().for_each(|channel| named.merge(&channel.template.reads()));
        found.push(("channels", self.exposed(relation, &named, false)));
        for (option, columns) in found {
            if columns.is_empty() {
                continue;
            }
            let message = format!(
                "the channel {channel} is public, so anyone can read {} of {}",
                columns.join(", "),
                relation.table
            );
            // Without the lookup's name.
            let names: Vec<&str> =
                columns.iter().filter_map(|name| name.rsplit('.').next()).collect();
            let fix = format!(
                "\"private-{channel}\", or no `data`, so that pages fetch what they may see; if \
                 all may read it: reveal = {names:?}"
            );
            self.warn(option, message, Some(fix));
        }
    }

    /// Columns that look secret or personal, and `with_text` all that may say
    /// anything.
    fn exposed(&self, relation: &Relation, reads: &Reads, with_text: bool) -> Vec<String> {
        let hides = |name: &str| {
            (looks_secret(name) || looks_personal(name))
                && !self.rule.reveal.iter().any(|r| r == name)
        };
        let own: BTreeSet<usize> = reads.resolve(relation).into_iter().map(|(_, c)| c).collect();
        let own = own.into_iter().map(|column| &relation.columns[column]);
        let is_exposed = |column: &&Column| {
            let is_text = with_text && matches!(column.kind, Kind::Text | Kind::Json);
            let is_revealed = self.rule.reveal.iter().any(|revealed| **revealed == *column.name);
            hides(&column.name) || is_text && !is_revealed
        };
        let own = own.filter(is_exposed).map(|column| column.name.to_string());
        let parents = reads.parents.iter().filter_map(|parent| {
            let lookup = &self.rule.lookups[parent.lookup];
            let name = &*lookup.columns[parent.column];
            hides(name).then(|| format!("{}.{name}", lookup.name))
        });
        own.chain(parents).collect()
    }
}

/// Whether nobody should read such a column's values, by its name.
pub fn looks_secret(column: &str) -> bool {
    let name = column.to_ascii_lowercase();
    SECRETS.iter().any(|part| name.contains(part))
        || name.split('_').any(|word| SECRET_WORDS.iter().any(|start| word.starts_with(start)))
}

/// Whether it tells who somebody is.
fn looks_personal(column: &str) -> bool {
    column.to_ascii_lowercase().contains("email")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_looks_secret_by_a_part_of_its_name_or_by_how_a_word_begins() {
        for secret in ["password_hash", "remember_token", "card_number", "credit_card", "IBAN"] {
            assert!(looks_secret(secret), "{secret}");
        }
        for open in ["discarded_at", "title", "postcard_id"] {
            assert!(!looks_secret(open), "{open}");
        }
    }
}

//! Columns that most people would not want others to read, by their names.

use std::collections::BTreeSet;

use super::bound::BoundRule;
use super::channel::BoundChannel;
use super::check::Check;
use super::expression::Reads;
use crate::change::{Column, Kind, Relation};

/// Parts of names: `password_hash`, `remember_token`, `card_number`.
const SECRETS: [&str; 7] = ["password", "passwd", "token", "secret", "two_factor", "card", "iban"];

impl Check<'_> {
    /// What anyone who knows a public channel's name can read.
    pub(super) fn public(&mut self, relation: &Relation, bound: &BoundRule) {
        let Some(channel) = bound.channels.iter().find_map(BoundChannel::public_name) else {
            return;
        };
        let columns = |reads: &Reads, is_exposed: &dyn Fn(&Column) -> bool| -> Vec<String> {
            let read = reads.resolve(relation).into_iter().map(|(_, column)| column);
            let read: BTreeSet<usize> = read.collect();
            let read = read.into_iter().map(|column| &relation.columns[column]);
            let hidden = |column: &&Column| !self.rule.reveal.iter().any(|r| **r == *column.name);
            let exposed = read.filter(hidden).filter(|column| is_exposed(column));
            exposed.map(|column| column.name.to_string()).collect()
        };
        let is_personal =
            |column: &Column| looks_secret(&column.name) || looks_personal(&column.name);
        let is_telling =
            |column: &Column| is_personal(column) || matches!(column.kind, Kind::Text | Kind::Json);
        let mut found = Vec::new();
        if let Some(data) = &self.rule.data {
            found.push(("data", columns(&data.reads(), &is_telling)));
        }
        let mut named = Reads::default();
        self.rule.channels.iter().for_each(|channel| named.merge(&channel.template.reads()));
        found.push(("channels", columns(&named, &is_personal)));
        for (option, columns) in found {
            if columns.is_empty() {
                continue;
            }
            let message = format!(
                "the channel {channel} is public, so anyone can read {} of {}",
                columns.join(", "),
                relation.table
            );
            let fix = format!(
                "\"private-{channel}\", or no `data`, so that pages fetch what they may see; if \
                 all may read it: reveal = {columns:?}"
            );
            self.warn(option, message, Some(fix));
        }
    }
}

pub(super) fn looks_secret(column: &str) -> bool {
    let name = column.to_ascii_lowercase();
    SECRETS.iter().any(|part| name.contains(part))
}

/// Whether it tells who somebody is.
fn looks_personal(column: &str) -> bool {
    column.to_ascii_lowercase().contains("email")
}

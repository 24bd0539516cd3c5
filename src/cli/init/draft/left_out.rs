use std::collections::BTreeMap;

use super::super::table::{Judged, Parent, Verdict};
use super::{comment, commented, quoted};

/// The tables without a rule, and why.
pub(super) fn left_out(
    text: &mut String,
    judged: &[Judged<'_>],
    refused: &BTreeMap<usize, String>,
) {
    let mut said = String::new();
    for (table, judged) in judged.iter().enumerate() {
        let name = &judged.name;
        let why = match &judged.verdict {
            Verdict::Users { .. } | Verdict::Rule { .. } => match refused.get(&table) {
                Some(why) => format!("{name}: {why}"),
                None => continue,
            },
            Verdict::Theirs => continue,
            Verdict::Joins { parent: Some(parent) } => joins(name, parent),
            Verdict::Joins { parent: None } => format!(
                "{name} joins rows of others and has no primary key, by which rowcast knows a row: \
                 ALTER TABLE {name} ADD PRIMARY KEY (…) over its two columns"
            ),
            Verdict::WideKey { key } => {
                let names: Vec<String> =
                    key.iter().map(|column| format!("{{{{ {} }}}}", column.name)).collect();
                format!(
                    "{name} has a key of several columns: id says how they make one.\n\
                     [[rule]]\ntable = {}\npreset = \"resource\"\nid = \"{}\"",
                    quoted(name),
                    names.join("-")
                )
            }
            Verdict::NoKey => format!(
                "{name} has no primary key, by which rowcast knows a row: ALTER TABLE {name} ADD \
                 COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
            ),
            Verdict::SecretKey { key } => {
                format!("{name}: its key {} is nothing to put in a channel's name", key.name)
            }
            Verdict::Not { why, fix } => format!("{name}: {why}: {fix}"),
        };
        said.push_str(&commented(&why));
        said.push_str("#\n");
    }
    let theirs: Vec<&str> = judged
        .iter()
        .filter(|judged| matches!(judged.verdict, Verdict::Theirs))
        .map(|judged| &*judged.name)
        .collect();
    if !theirs.is_empty() {
        comment(&mut said, &format!("Of Laravel and its packages: {}", theirs.join(", ")));
    }
    if !said.is_empty() {
        text.push_str("# Without a rule:\n#\n");
        text.push_str(said.trim_end_matches(['#', '\n']));
        text.push('\n');
    }
}

fn joins(name: &str, parent: &Parent<'_>) -> String {
    format!(
        "{name} joins rows of others. To tell a {entity}'s page that its own changed:\n\
         [[rule]]\ntable = {}\nentity = {}\nid = \"{{{{ {column} }}}}\"\naction = \"updated\"\n\
         channels = [\"private-{table}.{{{{ {column} }}}}\"]",
        quoted(name),
        quoted(&parent.entity),
        entity = parent.entity,
        column = parent.column.name,
        table = parent.table,
    )
}

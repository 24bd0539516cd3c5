mod left_out;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use super::login::{Login, ROLE};
use super::origin::{From, Origin, Pusher};
use super::table::{Judged, Owner, Verdict};
use crate::change::Relation;
use crate::deliver::echo_line;
use crate::deliver::pusher::Server;
use crate::postgres::Capture;
use crate::postgres::checks::{self, Kind};
use crate::postgres::slot::Slot;
use crate::postgres::snapshot::Snapshot;
use crate::route::{self, Options, Rules, entity_of, studly};

use left_out::left_out;

/// The configuration that is to be written.
pub(super) struct Draft<'a> {
    pub(super) origin: &'a Origin,
    pub(super) snapshot: &'a Snapshot,
    pub(super) capture: Capture,
    pub(super) login: &'a Login,
}

pub(super) struct Written {
    pub(super) text: String,
    pub(super) has_secret: bool,
    pub(super) tables: usize,
    pub(super) tables_with_rules: usize,
}

/// A rule with its comment, and the table that it is of.
struct Block {
    table: usize,
    comment: Vec<String>,
    rule: String,
}

/// Why logical replication is impossible today, and what it takes; `None` where it
/// is possible.
pub(super) fn why_no_wal(snapshot: &Snapshot) -> Option<(String, String)> {
    let finding =
        checks::settings(&snapshot.server).into_iter().find(|it| it.kind == Kind::WalLevel)?;
    Some((finding.message, finding.fix))
}

impl Draft<'_> {
    /// The rules are checked against the live tables: one that does not hold there
    /// becomes a comment.
    ///
    /// # Errors
    /// If the rules cannot be read back.
    pub(super) fn write(&self, judged: &[Judged<'_>]) -> anyhow::Result<Written> {
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        let blocks = loop {
            let blocks: Vec<Block> = judged
                .iter()
                .enumerate()
                .filter(|(table, _)| !refused.contains_key(table))
                .flat_map(|(table, judged)| self.rules(table, judged))
                .collect();
            let problems = self.check(&blocks)?;
            if problems.is_empty() {
                break blocks;
            }
            refused.extend(problems);
        };

        let mut text = String::new();
        self.head(&mut text);
        for block in &blocks {
            block.comment.iter().for_each(|line| comment(&mut text, line));
            text.push_str(&block.rule);
            text.push('\n');
        }
        left_out(&mut text, judged, &refused);
        let mut tables: Vec<usize> = blocks.iter().map(|block| block.table).collect();
        tables.dedup();
        let has_password = self.origin.dsn.get("password").is_some();
        Ok(Written {
            text: text.trim_end().to_owned() + "\n",
            has_secret: match self.login {
                Login::New(_) => true,
                Login::Existing => false,
                Login::Same => self.origin.database_from == From::Url && has_password,
            },
            tables: judged.len(),
            tables_with_rules: tables.len(),
        })
    }

    /// What is wrong with the rules on the live tables, by table.
    fn check(&self, blocks: &[Block]) -> anyhow::Result<BTreeMap<usize, String>> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            rule: Vec<route::Config>,
        }

        let text: String = blocks.iter().map(|block| &*block.rule).collect();
        let file: File = toml::from_str(&text)?;
        let options = Options {
            timezone: jiff::tz::TimeZone::UTC,
            max_data_bytes: Server::default().capacity().max_data_bytes(),
            encrypts: false,
        };
        let problems = match Rules::compile(file.rule, options) {
            Err(problems) => problems,
            Ok(rules) => {
                let relations = self.snapshot.relations().into_iter();
                let relations: Vec<Relation> = match self.capture {
                    Capture::Wal => relations.collect(),
                    Capture::Triggers => relations.map(Relation::with_whole_old_rows).collect(),
                };
                rules.check(&relations)
            }
        };
        let errors = problems.into_iter().filter(route::Problem::is_error);
        Ok(errors.map(|error| (blocks[error.rule_index].table, error.message)).collect())
    }

    fn head(&self, text: &mut String) {
        let server = &self.snapshot.server;
        comment(
            text,
            &format!("rowcast for the database {}, as rowcast init found it.", server.database),
        );
        comment(text, "config.example.toml describes every option.");
        text.push('\n');
        if let Some(root) = &self.origin.laravel {
            text.push_str("[laravel]\n");
            let mut of = Vec::new();
            if let (Login::Same, From::Application) = (self.login, self.origin.database_from) {
                of.push("DB_*");
            }
            if let Pusher::Application = self.origin.pusher {
                of.push("BROADCAST_CONNECTION, REVERB_* or PUSHER_*");
            }
            of.push("APP_TIMEZONE");
            comment(
                text,
                &format!(
                    "Its .env, which rowcast must be able to read, says what is left out below: {}.",
                    of.join(", ")
                ),
            );
            option(text, "root", &root.display().to_string());
            text.push('\n');
        }
        self.database(text);
        self.pusher(text);
        text.push_str(RULES);
    }

    fn database(&self, text: &mut String) {
        let mut lines = String::new();
        let mut dsn = self.origin.dsn.clone();
        let password = dsn.remove("password");
        match (self.login, self.origin.database_from) {
            (Login::Same, From::Application) => {}
            (Login::Same, From::Url | From::Environment) => {
                option(&mut lines, "url", &dsn.to_string());
                if let Some(password) = password {
                    option(&mut lines, "password", &password);
                }
            }
            (Login::Existing | Login::New(_), _) => {
                let role = &self.snapshot.server.role;
                comment(
                    &mut lines,
                    &format!("{role} may not stream changes, so rowcast has a role of its own."),
                );
                dsn.set("user", ROLE);
                dsn.remove("passfile");
                option(&mut lines, "url", &dsn.to_string());
                match self.login {
                    Login::New(password) => option(&mut lines, "password", password.expose()),
                    _ => lines.push_str("password = \"${ROWCAST_DB_PASSWORD}\"\n"),
                }
            }
        }
        if let Some((why, fix)) =
            why_no_wal(self.snapshot).filter(|_| self.capture == Capture::Triggers)
        {
            comment(
                &mut lines,
                &format!("There is no logical replication here: {why}. For \"wal\": {fix}"),
            );
        }
        if self.capture == Capture::Triggers {
            option(&mut lines, "capture", "triggers");
        }
        // A slot's name is the whole server's.
        let is_elsewhere =
            |slot: &Slot| slot.database != Some(self.snapshot.server.database.clone());
        if self.capture == Capture::Wal && self.snapshot.slot.as_ref().is_some_and(is_elsewhere) {
            comment(&mut lines, "The slot rowcast is another database's.");
            option(&mut lines, "slot", &slot_for(&self.snapshot.server.database));
        }
        if !lines.is_empty() {
            let _ = writeln!(text, "[database]\n{lines}");
        }
    }

    fn pusher(&self, text: &mut String) {
        match &self.origin.pusher {
            Pusher::Application => return,
            Pusher::Unknown => {}
            Pusher::Unclear(why) => comment(text, &format!("The .env does not say: {why}.")),
        }
        text.push_str(PUSHER);
    }

    fn rules(&self, table: usize, judged: &Judged<'_>) -> Vec<Block> {
        let name = &judged.name;
        let bare = &judged.table.relation.table.name;
        let model = studly(&entity_of(bare));
        match &judged.verdict {
            Verdict::Users { key } => vec![Block {
                table,
                comment: vec![
                    format!(
                        "Broadcast::channel('App.Models.{model}.{{id}}', fn ({model} $user, $id) => (string) $user->{} === $id);   // Laravel's own",
                        key.name
                    ),
                    policy_of_all(bare, &model),
                    hears(&format!("private-App.Models.{model}.1"), &format!("{model}Updated")),
                    hears(&format!("private-{bare}"), &format!("{model}Created")),
                ],
                rule: format!(
                    "[[rule]]\ntable = {}\nchannels = [\"private-App.Models.{model}.{{{{ {} }}}}\", \"private-{bare}\"]\n",
                    quoted(name),
                    key.name
                ),
            }],
            Verdict::Rule { owner } => {
                let mut blocks = vec![Block {
                    table,
                    comment: vec![
                        policy_of_one(bare, &model, owner.as_ref()),
                        policy_of_all(bare, &model),
                        hears(&format!("private-{bare}.1"), &format!("{model}Updated")),
                        hears(&format!("private-{bare}"), &format!("{model}Created")),
                    ],
                    rule: format!("[[rule]]\ntable = {}\npreset = \"resource\"\n", quoted(name)),
                }];
                match owner {
                    Some(owner) if owner.is_known_of_old_rows => {
                        let of = owned(name, owner);
                        let heard = hears("private-App.Models.User.1", &format!("{model}Updated"));
                        blocks.push(Block {
                            table,
                            comment: vec!["The same to its user alone, on the channel that Laravel has already:".to_owned(), heard],
                            rule: of,
                        });
                    }
                    Some(owner) => {
                        let rule = blocks[0].rule.clone();
                        blocks[0].rule = rule
                            + &commented(&format!(
                                "To its user alone, once `rowcast setup --identity` has old rows carry {}:\n{}",
                                owner.column.name,
                                owned(name, owner)
                            ));
                    }
                    None => {}
                }
                blocks
            }
            _ => Vec::new(),
        }
    }
}

const RULES: &str = "\
# Each rule tells private channels which row was created, updated or deleted, and
# nothing of what is in it: the page fetches that from your API. Delete the rules that
# no page needs. Copy the Broadcast::channel lines of the others to
# routes/channels.php: they decide who may listen. The Echo lines are examples; with
# .PostUpdated there are also .PostCreated and .PostDeleted.

";

const PUSHER: &str = "\
[pusher]
url = \"http://127.0.0.1:8080\"
app_id = \"${REVERB_APP_ID}\"
key = \"${REVERB_APP_KEY}\"
secret = \"${REVERB_APP_SECRET}\"
server = \"reverb\"

";

fn policy_of_one(table: &str, model: &str, owner: Option<&Owner<'_>>) -> String {
    let mut variable = model.to_owned();
    if let Some(first) = variable.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    // A model's own condition where the schema says whose it is.
    let condition = match owner {
        Some(owner) => format!("${variable}->{} === $user->id", owner.column.name),
        None => format!("$user->can('view', ${variable})"),
    };
    format!(
        "Broadcast::channel('{table}.{{{variable}}}', fn (User $user, {model} ${variable}) => {condition});"
    )
}

fn policy_of_all(table: &str, model: &str) -> String {
    format!(
        "Broadcast::channel('{table}', fn (User $user) => $user->can('viewAny', {model}::class));"
    )
}

fn hears(channel: &str, event: &str) -> String {
    match (channel.parse(), event.parse()) {
        (Ok(channel), Ok(event)) => echo_line(&channel, &event).unwrap_or_default(),
        // The check of the rule says why.
        _ => String::new(),
    }
}

fn owned(table: &str, owner: &Owner<'_>) -> String {
    format!(
        "[[rule]]\nname = {}\ntable = {}\nchannels = [\"private-App.Models.User.{{{{ {} }}}}\"]\n",
        quoted(&format!("{table} of a user")),
        quoted(table),
        owner.column.name
    )
}

/// A replication slot's name: small letters, digits and _ only.
fn slot_for(database: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    let name: String = format!("rowcast_{database}").chars().map(plain).collect();
    name[..name.len().min(63)].to_owned()
}

fn option(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name} = {}", quoted(value));
}

/// As a TOML string that stands for itself.
fn quoted(value: &str) -> String {
    toml::Value::String(value.replace("${", "$${")).to_string()
}

/// Words are wrapped; a line of code is one line.
fn comment(text: &mut String, line: &str) {
    const WIDTH: usize = 84;

    if line.starts_with("Broadcast::") || line.starts_with("Echo.") {
        let _ = writeln!(text, "# {line}");
        return;
    }
    let mut width = 0;
    for word in line.split(' ') {
        if width == 0 || width + 1 + word.chars().count() > WIDTH {
            text.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.chars().count();
    }
    text.push('\n');
}

/// A rule that is not switched on, with words before it.
fn commented(text: &str) -> String {
    let mut done = String::new();
    for line in text.lines() {
        match line.starts_with("[[") || line.contains(" = ") {
            true => {
                let _ = writeln!(done, "# {line}");
            }
            false => comment(&mut done, line),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stands_for_itself_in_the_file() {
        #[derive(Deserialize)]
        struct File {
            x: String,
        }

        for text in ["plain", r#"a"b\c"#, "it's", "p${w}d", "$"] {
            let file: File = toml::from_str(&format!("x = {}", quoted(text))).expect(text);
            assert_eq!(file.x.replace("$${", "${"), text);
        }
    }

    #[test]
    fn a_slots_name_is_made_of_any_databases() {
        assert_eq!(slot_for("Shop-2"), "rowcast_shop_2");
        let slot = slot_for(&"é".repeat(80));
        assert!(slot.parse::<crate::postgres::SlotName>().is_ok(), "{slot}");
    }
}

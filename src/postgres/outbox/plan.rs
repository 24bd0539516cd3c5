//! What `setup` has to do for capture by triggers. Pure.

use super::OBJECTS;
use crate::postgres::quote_identifier;
use crate::postgres::snapshot::Snapshot;
use crate::postgres::statement::Statement;

const SQL: &str = include_str!("../../../sql/outbox.sql");

/// The statements, in order, and what is as it should be already, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    pub statements: Vec<Statement>,
    pub found: Vec<String>,
}

/// What leads from `snapshot`, which the role of `[database] url` has taken, to
/// triggers that write what `expected` describes.
pub fn install(snapshot: &Snapshot) -> Installation {
    let mut installation = Installation { statements: Vec::new(), found: Vec::new() };
    installation.statements.extend(schema(snapshot));
    let missing = snapshot.outbox.as_ref().is_none_or(|it| it.objects.len() < OBJECTS.len());
    match missing {
        true => installation.statements.push(objects(&snapshot.server.role)),
        false => installation.found.push("outbox rowcast.outbox".to_owned()),
    }
    installation
}

fn schema(snapshot: &Snapshot) -> Option<Statement> {
    let role = &snapshot.server.role;
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS rowcast;\nGRANT USAGE, CREATE ON SCHEMA rowcast TO {}",
        quote_identifier(role)
    );
    let what = format!("schema rowcast: role {role} may make its outbox there");
    (!snapshot.may_create).then(|| Statement::new(what, sql))
}

fn objects(role: &str) -> Statement {
    let what = "outbox rowcast.outbox: where triggers write what rowcast reads";
    Statement::new(what, SQL.trim_end().trim_end_matches(';'))
        .by_role(role)
        .shown_as("sql/outbox.sql")
}

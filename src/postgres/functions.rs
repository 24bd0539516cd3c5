//! The functions by which an application speaks to rowcast.

use tokio_postgres::{Client, Error};

use super::Capture;
use super::statement::Statement;

/// What makes them, or makes them as they are now.
const fn sql(capture: Capture) -> &'static str {
    match capture {
        Capture::Wal => include_str!("../../sql/functions.sql"),
        Capture::Triggers => include_str!("../../sql/outbox_functions.sql"),
    }
}

pub const NAMES: &str = "functions rowcast.context and rowcast.broadcast";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    Absent,
    /// Some are there, and not all as they are to be.
    Other,
    /// As they are to be with this capture, and everyone may call them.
    InOrder(Capture),
}

pub(super) async fn read(client: &Client) -> Result<Functions, Error> {
    const FOUND: &str = "\
        SELECT p.prosrc,
               has_schema_privilege('public', n.oid, 'USAGE')
               AND has_function_privilege('public', p.oid, 'EXECUTE') AS is_for_all
        FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'rowcast'
        AND (p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)) IN (
            ('context', 'context jsonb'),
            ('broadcast', 'channel text, event text, data jsonb')
        )";
    let rows = client.query_typed(FOUND, &[]).await?;
    let mut found: Vec<&str> = Vec::new();
    for row in &rows {
        let (body, is_for_all): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
        found.extend(is_for_all.then_some(body));
    }
    let is_in_order = |capture: &Capture| bodies(*capture).all(|body| found.contains(&body));
    Ok(match [Capture::Wal, Capture::Triggers].into_iter().find(is_in_order) {
        Some(capture) => Functions::InOrder(capture),
        None if rows.is_empty() => Functions::Absent,
        None => Functions::Other,
    })
}

/// What stands between the quotes.
fn bodies(capture: Capture) -> impl Iterator<Item = &'static str> {
    sql(capture).split("$rowcast$").skip(1).step_by(2)
}

/// `None` if they are in order.
pub(super) fn make(found: Functions, capture: Capture) -> Option<Statement> {
    let sql = sql(capture).trim_end().trim_end_matches(';');
    let what = format!("{NAMES}: an application may say who changes what, and send events");
    (found != Functions::InOrder(capture)).then(|| Statement::new(what, sql))
}

/// `None` if they are gone already.
pub(super) fn remove(found: Functions) -> Option<Statement> {
    let sql = "DROP FUNCTION IF EXISTS rowcast.context(jsonb), \
               rowcast.broadcast(text, text, jsonb)";
    let what = format!("{NAMES} are gone: who still calls them gets an error");
    (found != Functions::Absent).then(|| Statement::new(what, sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_a_body() {
        for capture in [Capture::Wal, Capture::Triggers] {
            assert_eq!(bodies(capture).count(), 2);
        }
        let mut wal = bodies(Capture::Wal);
        assert!(wal.all(|body| body.contains("pg_logical_emit_message(true, 'rowcast")));
    }
}

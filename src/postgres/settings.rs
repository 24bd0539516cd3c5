//! What a session of ours has set, and one that is not ours only within our
//! transactions.

/// How values are written, whatever role, database and server are set to.
/// The stream of changes has the same, so that both write a value alike. And
/// nothing but Postgres' own is called by an unqualified name: whoever may create
/// in `public` could otherwise put a function or an operator of theirs before it,
/// to run as our role.
pub(crate) const SESSION_SETTINGS: [(&str, &str); 7] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];

/// SQL that sets them for as long as the session lasts.
pub(super) fn for_session() -> String {
    let settings = SESSION_SETTINGS.map(|(name, value)| format!("; SET {name} = {}", list(value)));
    format!("SET idle_session_timeout = 0{}", settings.concat())
}

/// SQL that sets them until the transaction ends.
pub(super) fn for_transaction() -> String {
    SESSION_SETTINGS.map(|(name, value)| format!("; SET LOCAL {name} = {}", list(value))).concat()
}

/// Of a list, each is quoted.
fn list(value: &str) -> String {
    format!("'{}'", value.replace(", ", "', '"))
}

use tokio_postgres::error::SqlState;

use super::query::SECONDS;
use crate::change::TableName;
use crate::postgres::catalog::quote_table;
use crate::postgres::{ServerError, quote_identifier};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{table} has no primary key, in whose order its rows could be read")]
    NoKey { table: TableName },
    #[error("{table} has no timestamp column {column}")]
    NoSuchTime { table: TableName, column: String, others: Vec<String> },
    #[error("role {role} may not read the rows of {table}")]
    NotPermitted { table: TableName, role: Box<str>, columns: Vec<String>, answer: ServerError },
    #[error("reading {table} took longer than {SECONDS} s")]
    TooSlow { table: TableName },
    #[error("the rows of {table} cannot be read: {answer}")]
    Refused { table: TableName, answer: ServerError },
    #[error("the connection to Postgres broke")]
    Lost(#[source] tokio_postgres::Error),
}

impl Error {
    /// `columns` are quoted.
    pub(super) fn of_query(
        table: &TableName,
        columns: &[String],
        role: &str,
        error: tokio_postgres::Error,
    ) -> Error {
        let table = table.clone();
        let Some(answer) = error.as_db_error().map(ServerError::from) else {
            return Error::Lost(error);
        };
        match answer.code() {
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                Error::NotPermitted { table, role: role.into(), columns: columns.to_vec(), answer }
            }
            code if *code == SqlState::QUERY_CANCELED => Error::TooSlow { table },
            _ => Error::Refused { table, answer },
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoKey { .. } => Some("rowcast replay --resync, which reads no rows".to_owned()),
            Error::NoSuchTime { others, .. } if others.is_empty() => {
                Some("--where \"a condition in SQL\" instead of --since".to_owned())
            }
            Error::NoSuchTime { others, .. } => {
                Some(format!("--since-column with one of {}", others.join(", ")))
            }
            Error::NotPermitted { table, role, columns, .. } => Some(format!(
                "GRANT USAGE ON SCHEMA {} TO {role_name};\nGRANT SELECT ({}) ON {} TO {role_name};\n\
                 or --url with a role that may read it, such as the application's. Row-level \
                 security must not apply to it either",
                quote_identifier(&table.schema),
                columns.join(", "),
                quote_table(table),
                role_name = quote_identifier(role),
            )),
            Error::TooSlow { .. } => Some(
                "an index on what --since or --where asks for; or rowcast replay --resync, which \
                 reads no rows"
                    .to_owned(),
            ),
            Error::Refused { .. } | Error::Lost(_) => None,
        }
    }

    /// Whether trying again may help without anyone's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Lost(_))
    }
}

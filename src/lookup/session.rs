//! The questions to the server: one for all keys of a table.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream as _;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row, Statement};
use tracing::warn;

use super::MAX_ROW_BYTES;
use super::cache::Answer;
use super::key::KeyType;
use super::table::Table;
use crate::change::{LookupId, Parent, ParentRow};
use crate::postgres::{
    self, APPLICATION_NAME, ConnectError, Connection, Dsn, Mode, Tenure, quote_identifier,
    transaction,
};

/// The server gives up by itself: who does not even say so is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// What row-level security would hide is an error, and not a row that is not
/// there.
const SETTINGS: &str = "SET statement_timeout = '5s'; SET row_security = off; \
                        SET default_transaction_read_only = on";
/// The same for a transaction that only reads.
const LOCAL_SETTINGS: &str = "SET LOCAL statement_timeout = '5s'; SET LOCAL row_security = off";
/// The table of this OID, quoted, and whether its rows are in partitions; its
/// column of that name, and what type that has: without its domain and modifier,
/// since a cast to varchar(3) would cut the key. And the operator that its indexes
/// find a key by: anyone may define another `=`, but only a superuser an operator
/// class. A type without a class of its own, varchar or an enum, has Postgres' `=`.
const DESCRIPTION: &str = "
WITH RECURSIVE base(oid, domain) AS (
    SELECT a.atttypid, t.typbasetype FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = $1 AND a.attname = $2::text AND NOT a.attisdropped
    UNION ALL
    SELECT t.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.domain
)
SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relkind = 'p' AS partitioned,
       format_type(b.oid, -1) AS type, b.oid AS base, t.typtype = 'e' AS enum,
       coalesce(l.collisdeterministic, true) AS deterministic,
       coalesce((
           SELECT format('%I.%s', m.nspname, o.oprname)
           FROM pg_opclass s
           JOIN pg_am i ON i.oid = s.opcmethod AND i.amname = 'btree'
           JOIN pg_amop e ON e.amopfamily = s.opcfamily AND e.amopstrategy = 3
               AND e.amoplefttype = b.oid AND e.amoprighttype = b.oid
           JOIN pg_operator o ON o.oid = e.amopopr
           JOIN pg_namespace m ON m.oid = o.oprnamespace
           WHERE s.opcintype = b.oid AND s.opcdefault
       ), 'pg_catalog.=') AS equals
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2::text AND NOT a.attisdropped
JOIN base b ON b.domain = 0
JOIN pg_type t ON t.oid = b.oid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.oid = $1";

/// Of a row's columns, as stored, where what takes eight bytes may be two in text.
/// More is not even read.
const MAX_STORED_BYTES: usize = 4 * MAX_ROW_BYTES;

/// A session with the server that streams.
pub(super) struct Session {
    client: Client,
    tenure: Tenure,
    questions: HashMap<LookupId, (Question, KeyType)>,
    /// Of whose rows one was too large, which was told.
    with_large_rows: HashSet<LookupId>,
}

/// About the rows of a table.
enum Question {
    Prepared(Statement),
    /// Where a statement that is prepared would be another's afterwards.
    Sql(String),
}

/// Why nothing could be looked up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] tokio_postgres::Error),
    #[error("Postgres did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Unanswered,
    #[error("the table has no such key column any more")]
    NoColumn,
}

impl Failure {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        let Failure::Query(error) = self else { return None };
        let code = error.code()?;
        if *code == SqlState::QUERY_CANCELED {
            return Some("does another session hold a lock on the table? See pg_locks");
        }
        // Row-level security says so too.
        let lacks_privilege = *code == SqlState::INSUFFICIENT_PRIVILEGE;
        lacks_privilege.then_some("rowcast setup grants what rowcast must read")
    }
}

impl Session {
    pub(super) async fn open(dsn: &Dsn, tenure: Tenure) -> Result<Session, Failure> {
        let connected = postgres::connect_as(dsn, APPLICATION_NAME, tenure).await;
        let Connection { client, .. } = connected?;
        if tenure == Tenure::Session {
            in_time(client.batch_execute(SETTINGS)).await?;
        }
        Ok(Session { client, tenure, questions: HashMap::new(), with_large_rows: HashSet::new() })
    }

    /// The table is another one now.
    pub(super) fn forget(&mut self, id: LookupId) {
        self.questions.remove(&id);
    }

    pub(super) async fn prepare(
        &mut self,
        id: LookupId,
        table: &Table,
    ) -> Result<KeyType, Failure> {
        if let Some((_, key_type)) = self.questions.get(&id) {
            return Ok(*key_type);
        }
        let by = table.by().ok_or(Failure::NoColumn)?;
        let described: [(&(dyn ToSql + Sync), Type); 2] =
            [(&table.relation.oid, Type::OID), (&by, Type::TEXT)];
        let row = async { Ok(self.client.query_typed_opt(DESCRIPTION, &described).await?) };
        let row = in_time(self.with_settings(row)).await?;
        let row = row.ok_or(Failure::NoColumn)?;
        let key_type =
            KeyType::new(row.try_get("base")?, row.try_get("enum")?, row.try_get("deterministic")?);
        let (name, only): (String, _) = match row.try_get("partitioned")? {
            true => (row.try_get("name")?, ""),
            false => (row.try_get("name")?, "ONLY "),
        };
        let key = Column { name: by, base: row.try_get("type")?, equals: row.try_get("equals")? };
        let sql = question_of(table, &key, &format!("{only}{name}"));
        let question = match self.tenure {
            Tenure::Session => Question::Prepared(in_time(self.client.prepare(&sql)).await?),
            Tenure::Transaction => Question::Sql(sql),
        };
        self.questions.insert(id, (question, key_type));
        Ok(key_type)
    }

    /// An answer for each key. What would be more than `budget` bytes is unknown.
    ///
    /// # Panics
    /// Unless it is [prepared](Session::prepare).
    pub(super) async fn look_up(
        &mut self,
        id: LookupId,
        table: &Table,
        keys: &[&str],
        budget: &mut usize,
        queries: &mut u64,
    ) -> Result<Vec<Answer>, Failure> {
        let (question, key_type) = &self.questions[&id];
        let mut answers = vec![Answer::Unknown; keys.len()];
        let is_refused = |key: &str| key_type.refuses(key);
        let mut asked: Vec<usize> = (0..keys.len()).collect();
        asked.retain(|at| !is_refused(keys[*at]));
        (0..keys.len())
            .filter(|at| is_refused(keys[*at]))
            .for_each(|at| answers[at] = Answer::Refused);
        // One key that the type does not take fails the query for all: so they
        // are halved until it is alone.
        let mut parts = vec![&*asked];
        while let Some(part) = parts.pop() {
            if part.is_empty() || *budget == 0 {
                continue;
            }
            *queries += 1;
            let asked = self.ask(question, table, keys, part, &mut answers, budget);
            let asked = timeout(ANSWER_WITHIN, self.with_settings(asked));
            match asked.await.map_err(|_| Failure::Unanswered)? {
                Ok(()) => {}
                Err(Failure::Query(error)) if is_refusal(&error) => match part {
                    [at] => answers[*at] = Answer::Refused,
                    _ => {
                        let (some, others) = part.split_at(part.len() / 2);
                        parts.extend([some, others]);
                    }
                },
                Err(failure) => return Err(failure),
            }
        }
        if answers.contains(&Answer::TooLarge) && self.with_large_rows.insert(id) {
            let table = &table.relation.table;
            warn!(%table, "a row is not looked up: what is read of it is larger than 1 MiB");
        }
        Ok(answers)
    }

    /// Runs `work`, which asks what is in the tables.
    async fn with_settings<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match self.tenure {
            Tenure::Session => work.await,
            Tenure::Transaction => {
                transaction(&self.client, Mode::ReadOnly, LOCAL_SETTINGS, work).await
            }
        }
    }

    async fn ask(
        &self,
        question: &Question,
        table: &Table,
        keys: &[&str],
        part: &[usize],
        answers: &mut [Answer],
        budget: &mut usize,
    ) -> Result<(), Failure> {
        let asked: Vec<&str> = part.iter().map(|at| keys[*at]).collect();
        let keys: &(dyn ToSql + Sync) = &asked;
        let rows = match question {
            Question::Prepared(statement) => self.client.query_raw(statement, [keys]).await?,
            Question::Sql(sql) => {
                self.client.query_typed_raw(sql, [(keys, Type::TEXT_ARRAY)]).await?
            }
        };
        let mut rows = pin!(rows);
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
            let row = row?;
            let place = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
            let Some(at) = part.get(place) else { continue };
            answers[*at] = answer(&row, table)?;
            *budget = budget.saturating_sub(row.raw_size_bytes());
            if *budget == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The column that keys are looked for in.
struct Column<'a> {
    name: &'a str,
    /// Its type, without domains.
    base: &'a str,
    /// The operator, with its schema.
    equals: &'a str,
}

/// A row for each key: its place among the keys, whether there is such a row,
/// the key as the server writes it, and the row's columns, or NULL if they are too
/// large. Values are written by the types' output functions, as the change stream
/// has them; a cast to text is another thing for some.
fn question_of(table: &Table, key: &Column<'_>, from: &str) -> String {
    let Column { name, base, equals } = key;
    let by = quote_identifier(name);
    let (mut stored, mut texts) = (String::from("0::bigint"), Vec::new());
    for column in &table.lookup.columns {
        let column = quote_identifier(column);
        stored += &format!(" + coalesce(pg_column_size(t.{column}), 0)");
        texts.push(format!(
            "CASE WHEN t.{column} IS DISTINCT FROM NULL THEN format('%s', t.{column}) END"
        ));
    }
    let texts = texts.join(", ");
    // Base types are compared: no `=` of a domain is nearer. OFFSET has each text
    // written once, though it is used twice.
    format!(
        "SELECT k.place, t.{by} IS DISTINCT FROM NULL, CASE WHEN t.{by} IS DISTINCT FROM NULL \
         THEN format('%s', t.{by}) ELSE format('%s', k.key::{base}) END, \
         CASE WHEN pg_column_size(w.texts) <= {MAX_ROW_BYTES} THEN w.texts END \
         FROM unnest($1::text[]) WITH ORDINALITY AS k(key, place) \
         LEFT JOIN {from} AS t ON t.{by}::{base} OPERATOR({equals}) k.key::{base} \
         CROSS JOIN LATERAL (SELECT CASE WHEN {stored} <= {MAX_STORED_BYTES} \
         THEN ARRAY[{texts}]::text[] END AS texts OFFSET 0) AS w"
    )
}

fn answer(row: &Row, table: &Table) -> Result<Answer, tokio_postgres::Error> {
    let key: Box<str> = row.try_get::<_, &str>(2)?.into();
    if !row.try_get(1)? {
        return Ok(Answer::NotThere { key });
    }
    let Some(texts) = row.try_get::<_, Option<Vec<Option<Raw<'_>>>>>(3)? else {
        return Ok(Answer::TooLarge);
    };
    let texts = texts.into_iter().map(|text| text.map(|Raw(text)| text.into()));
    let values = table.kinds().zip(texts).collect();
    Ok(Answer::Found { key, parent: Parent::Row(Arc::new(ParentRow { values })) })
}

/// Bytes as they are: in a `SQL_ASCII` database they need not be UTF-8.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw<'a>, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Whether it is for a key that the type does not take: a data exception.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

async fn in_time<T, E>(answer: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    Ok(timeout(ANSWER_WITHIN, answer).await.map_err(|_| Failure::Unanswered)??)
}

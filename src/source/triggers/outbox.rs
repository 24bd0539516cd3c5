use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::backlog::{Listed, MAX_BYTES, MAX_ROWS};
use super::error::Error;
use super::room::{Room, Seen};
use super::rows::{Moment, Rows, Xid};
use super::shapes::ShapeRow;
use crate::change::{Position, Relation, Timestamp};
use crate::postgres::running::RunningTransactions;

use crate::postgres::{Connection, End, Mode, catalog, transaction};

/// The server gives up by itself before: who does not even say so is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(70);

/// Before each statement, and only for it: a pooler may give the session to another
/// after it. Rows are found by the index alone, however many dead ones there are
/// and whatever is known of the table.
const BEGIN: &str = "\
    BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
    SET LOCAL search_path = pg_catalog, pg_temp; \
    SET LOCAL statement_timeout = '60s'; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
    SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off";
/// What a crash of the server undoes is delivered again.
const BEGIN_LAX: &str = "; SET LOCAL synchronous_commit = off";

/// The statements that a session consists of.
pub(super) struct Outbox {
    client: Client,
    notified: Arc<Notify>,
    end: End,
}

/// What `rowcast.reader` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub(super) session: u64,
    pub(super) position: Position,
    pub(super) failures: i64,
    pub(super) refusals: i64,
}

/// How things stood when a poll was answered.
#[derive(Debug)]
pub(super) struct Standing {
    /// All that it shows was read with this poll or before.
    pub(super) snapshot: RunningTransactions,
    pub(super) at: Timestamp,
    /// The sequences, a little later than the snapshot.
    pub(super) failures: i64,
    pub(super) refusals: i64,
    pub(super) last_id: i64,
}

/// What a poll brought.
pub(super) enum Polled {
    /// All that is new.
    Rows(Standing, Rows),
    /// There is more than one answer may hold: ask for the list instead.
    Overflow,
}

/// A partition of which changes are not captured.
#[derive(Debug)]
pub(super) struct Bare {
    pub(super) root: u32,
    pub(super) partition: String,
}

impl Outbox {
    pub(super) fn new(connection: Connection) -> Outbox {
        let Connection { client, notified, end, .. } = connection;
        Outbox { client, notified, end }
    }

    /// Waits until triggers say that there is something to read. Cancel safe.
    pub(super) fn notified(&self) -> impl Future<Output = ()> + use<> {
        let notified = self.notified.clone();
        async move { notified.notified().await }
    }

    /// Waits for the end of the connection. Cancel safe.
    pub(super) async fn ended(&mut self) -> Error {
        self.end.closed().await.map_or(Error::Closed, Error::Lost)
    }

    pub(super) async fn listen(&self) -> Result<(), Error> {
        self.client.batch_execute("LISTEN rowcast").await.map_err(Error::of_query)
    }

    /// Takes the number of a new session. What is told is what stood there before,
    /// but for that number.
    pub(super) async fn take_number(&self) -> Result<Reader, Error> {
        const SQL: &str = "UPDATE rowcast.reader SET session = session + 1 \
                           RETURNING session, position, failures, refusals";
        self.reader(SQL).await
    }

    pub(super) async fn look_at_reader(&self) -> Result<Reader, Error> {
        self.reader("SELECT session, position, failures, refusals FROM rowcast.reader").await
    }

    async fn reader(&self, sql: &str) -> Result<Reader, Error> {
        let mut reader = None;
        let take = |row: &Row| {
            reader = Some(Reader {
                session: row.try_get::<_, i64>(0)?.cast_unsigned(),
                position: Position::new(row.try_get::<_, i64>(1)?.cast_unsigned()),
                failures: row.try_get(2)?,
                refusals: row.try_get(3)?,
            });
            Ok(())
        };
        self.run(BEGIN, sql, &[], take).await?;
        reader.ok_or(Error::NoReader)
    }

    pub(super) async fn shapes(&self) -> Result<Vec<ShapeRow>, Error> {
        let mut shapes = Vec::new();
        let take = |row: &Row| {
            shapes.push(ShapeRow {
                id: row.try_get(0)?,
                relation: row.try_get(1)?,
                columns: row.try_get(2)?,
            });
            Ok(())
        };
        self.run(BEGIN, "SELECT id, relation, columns FROM rowcast.shapes", &[], take).await?;
        Ok(shapes)
    }

    /// The tables as the catalog has them now.
    pub(super) async fn catalog(&self) -> Result<Vec<Relation>, Error> {
        let reading = catalog::relations(&self.client);
        let reading = transaction(&self.client, Mode::ReadOnly, "", reading);
        in_time(reading).await
    }

    /// How things stand, without any rows.
    pub(super) async fn look(&self) -> Result<Standing, Error> {
        let mut standing = None;
        let sql = format!("SELECT {STANDING}");
        self.run(BEGIN, &sql, &[], |row| {
            standing = Some(Standing::of(row)?);
            Ok(())
        })
        .await?;
        Ok(standing.expect("an aggregate-free SELECT without FROM has one row"))
    }

    /// All rows that are visible now and were not in the snapshot `since`.
    pub(super) async fn poll(&self, since: &RunningTransactions) -> Result<Polled, Error> {
        let (running, from) = params(since);
        let mut standing = None;
        let mut fits = false;
        let mut rows = Rows::default();
        let sql = poll_sql();
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&running, Type::XID8_ARRAY), (&from, Type::XID8)];
        self.run(BEGIN, &sql, &params, |row| {
            match row.try_get::<_, Option<bool>>(STANDING_WIDTH)? {
                Some(all) => {
                    fits = all;
                    standing = Some(Standing::of(row)?);
                    Ok(())
                }
                None => rows.push(row, STANDING_WIDTH + 1),
            }
        })
        .await?;
        let standing = standing.expect("the first of the UNION has one row");
        Ok(if fits { Polled::Rows(standing, rows) } else { Polled::Overflow })
    }

    /// Of what [`Outbox::poll`] would bring, the transactions.
    pub(super) async fn list(
        &self,
        since: &RunningTransactions,
        room: &Room,
    ) -> Result<(Standing, Vec<Listed>, Seen), Error> {
        let (running, from) = params(since);
        let (floor, mark) = (room.floor(), room.mark());
        let mut standing = None;
        let mut seen = Seen::default();
        let mut listed = Vec::new();
        let sql = list_sql();
        let params: [(&(dyn ToSql + Sync), Type); 4] = [
            (&running, Type::XID8_ARRAY),
            (&from, Type::XID8),
            (&floor, Type::INT8),
            (&mark, Type::INT8),
        ];
        self.run(BEGIN, &sql, &params, |row| {
            let Some(Xid(xid)) = row.try_get::<_, Option<Xid>>(STANDING_WIDTH)? else {
                standing = Some(Standing::of(row)?);
                return Ok(());
            };
            let int = |at: usize| row.try_get::<_, i64>(STANDING_WIDTH + at);
            let rows = int(2)?;
            listed.push(Listed::new(xid, int(1)?, rows, int(3)?));
            seen.rows += rows;
            seen.above_floor += int(4)?;
            seen.above_mark += int(5)?;
            Ok(())
        })
        .await?;
        Ok((standing.expect("the first of the UNION has one row"), listed, seen))
    }

    /// All rows of these transactions.
    pub(super) async fn read(&self, xids: &[u64]) -> Result<Rows, Error> {
        const SQL: &str = "SELECT xid, id, at, shape, op, old, new FROM rowcast.outbox \
                           WHERE xid = ANY($1)";
        let xids: Vec<Xid> = xids.iter().copied().map(Xid).collect();
        let mut rows = Rows::default();
        self.run(BEGIN, SQL, &[(&xids, Type::XID8_ARRAY)], |row| rows.push(row, 0)).await?;
        Ok(rows)
    }

    /// The next rows of a large transaction, in order. None if there are no more.
    ///
    /// One that alone is more than may be held comes without its values, so that its
    /// pages are told to fetch again.
    pub(super) async fn read_piece(&self, xid: u64, after: i64) -> Result<Rows, Error> {
        let sql = format!(
            "SELECT xid, id, at, shape, op, CASE WHEN bytes <= {MAX_BYTES} THEN old END AS old, \
                    CASE WHEN bytes <= {MAX_BYTES} THEN new END AS new FROM ( \
                 SELECT *, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM ( \
                     SELECT *, {BYTES} AS bytes FROM rowcast.outbox \
                     WHERE xid = $1 AND id > $2 ORDER BY id LIMIT {MAX_ROWS} \
                 ) AS next \
             ) AS measured WHERE before < {MAX_BYTES}"
        );
        let mut rows = Rows::default();
        let params: [(&(dyn ToSql + Sync), Type); 2] =
            [(&Xid(xid), Type::XID8), (&after, Type::INT8)];
        self.run(BEGIN, &sql, &params, |row| rows.push(row, 0)).await?;
        Ok(rows)
    }

    /// Deletes the rows of these transactions, and records that everything is
    /// delivered that `reader` says. Returns an xid above all that were taken before.
    ///
    /// # Errors
    /// [`Error::Superseded`], with nothing done, if another session has begun.
    pub(super) async fn delete(&self, xids: &[u64], reader: Reader) -> Result<u64, Error> {
        const SQL: &str = "\
            WITH told AS ( \
                UPDATE rowcast.reader SET position = $2, failures = $3, refusals = $4 \
                WHERE session = $5 RETURNING session \
            ), gone AS ( \
                DELETE FROM rowcast.outbox WHERE xid = ANY($1) AND EXISTS (SELECT FROM told) \
            ) SELECT pg_current_xact_id() FROM told";
        let xids: Vec<Xid> = xids.iter().copied().map(Xid).collect();
        let Reader { session, position, failures, refusals } = reader;
        let (session, position) = (session.cast_signed(), position.value().cast_signed());
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&xids, Type::XID8_ARRAY),
            (&position, Type::INT8),
            (&failures, Type::INT8),
            (&refusals, Type::INT8),
            (&session, Type::INT8),
        ];
        self.write(SQL, &params).await
    }

    /// Deletes a piece of a large transaction, and says up to which row. `None` if
    /// there is no more of it, or it is another session's by now.
    pub(super) async fn delete_piece(
        &self,
        xid: u64,
        after: i64,
        session: u64,
    ) -> Result<Option<i64>, Error> {
        const SQL: &str = "\
            WITH gone AS ( \
                DELETE FROM rowcast.outbox WHERE xid = $1 AND id = ANY(ARRAY( \
                    SELECT id FROM rowcast.outbox WHERE xid = $1 AND id > $2 \
                    ORDER BY id LIMIT 5000 \
                )) AND EXISTS (SELECT FROM rowcast.reader WHERE session = $3) \
                RETURNING id \
            ) SELECT max(id) FROM gone";
        let mut last = None;
        let session = session.cast_signed();
        let params: [(&(dyn ToSql + Sync), Type); 3] =
            [(&Xid(xid), Type::XID8), (&after, Type::INT8), (&session, Type::INT8)];
        self.run(&lax(), SQL, &params, |row| {
            last = row.try_get(0)?;
            Ok(())
        })
        .await?;
        Ok(last)
    }

    /// Lets triggers write up to `limit`, and wake us or not. Returns as
    /// [`Outbox::delete`].
    pub(super) async fn set_gate(&self, limit: i64, wakes: bool) -> Result<u64, Error> {
        const SQL: &str =
            "SELECT pg_current_xact_id() FROM setval('rowcast.gate', $1) AS gate WHERE gate >= 0";
        let gate = limit << 1 | i64::from(wakes);
        self.write(SQL, &[(&gate, Type::INT8)]).await
    }

    /// Returns an xid above all that were taken before.
    pub(super) async fn fence(&self) -> Result<u64, Error> {
        self.write("SELECT pg_current_xact_id()", &[]).await
    }

    /// Partitions of captured tables without triggers of ours that are enabled.
    pub(super) async fn bare_partitions(&self) -> Result<Vec<Bare>, Error> {
        let mut bare = Vec::new();
        self.run(BEGIN, BARE_PARTITIONS, &[], |row| {
            bare.push(Bare { root: row.try_get(0)?, partition: row.try_get(1)? });
            Ok(())
        })
        .await?;
        Ok(bare)
    }

    /// What the tables of all shapes are called and consist of.
    pub(super) async fn fingerprint(&self) -> Result<Option<String>, Error> {
        let mut fingerprint = None;
        self.run(BEGIN, FINGERPRINT, &[], |row| {
            fingerprint = row.try_get(0)?;
            Ok(())
        })
        .await?;
        Ok(fingerprint)
    }

    /// Returns the xid that the statement selects.
    async fn write(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<u64, Error> {
        let mut fence = None;
        self.run(&lax(), sql, params, |row| {
            fence = Some(row.try_get::<_, Xid>(0)?.0);
            Ok(())
        })
        .await?;
        fence.ok_or(Error::Superseded)
    }

    /// Runs one statement in a transaction of its own, all of it sent at once. Its
    /// rows are taken as they come.
    async fn run(
        &self,
        begin: &str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        mut take: impl FnMut(&Row) -> Result<(), tokio_postgres::Error>,
    ) -> Result<(), Error> {
        let reading = async {
            let params = params.iter().map(|(value, ty)| (*value, ty.clone()));
            let params: Vec<(&(dyn ToSql + Sync), Type)> = params.collect();
            let mut rows = pin!(self.client.query_typed_raw(sql, params).await?);
            while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
                take(&row?)?;
            }
            Ok(())
        };
        // Each is sent when it is polled first, so they go out together, in order.
        let answered = async {
            tokio::join!(
                biased;
                self.client.batch_execute(begin),
                reading,
                self.client.batch_execute("COMMIT"),
            )
        };
        let answers = timeout(ANSWER_WITHIN, answered).await;
        let (begun, read, committed) = answers.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?;
        begun.and(read).and(committed).map_err(Error::of_query)
    }
}

impl Standing {
    fn of(row: &Row) -> Result<Standing, tokio_postgres::Error> {
        Ok(Standing {
            snapshot: row.try_get(0)?,
            at: row.try_get::<_, Moment>(1)?.0,
            failures: row.try_get(2)?,
            refusals: row.try_get(3)?,
            last_id: row.try_get(4)?,
        })
    }
}

async fn in_time<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    let answered = timeout(ANSWER_WITHIN, answer).await;
    answered.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?.map_err(Error::of_query)
}

fn lax() -> String {
    format!("{BEGIN}{BEGIN_LAX}")
}

/// Those that ran then, and where those begin that had not begun.
fn params(since: &RunningTransactions) -> (Vec<Xid>, Xid) {
    (since.running().iter().copied().map(Xid).collect(), Xid(since.xmax()))
}

/// See [`Standing`]. The sequences are read when the snapshot is taken already: a
/// step that a poll does not see is seen by the next.
const STANDING: &str = "\
    pg_current_snapshot() AS snapshot, statement_timestamp() AS now, \
    (SELECT last_value FROM rowcast.failures) AS failures, \
    (SELECT last_value FROM rowcast.refusals) AS refusals, \
    (SELECT last_value FROM rowcast.outbox_id) AS last_id";
const STANDING_WIDTH: usize = 5;
const NO_STANDING: &str = "NULL, NULL, NULL, NULL, NULL";

/// What ran when the snapshot before was taken, and has ended: `$1`. What has begun
/// since: from `$2`. Rows of a transaction that still runs are not even looked at,
/// once it is known by its number: a bulk write may have millions.
const ENDED: &str = "\
    xid = ANY(ARRAY(SELECT ran FROM unnest($1) AS ran \
                    WHERE pg_visible_in_snapshot(ran, pg_current_snapshot())))";
const BEGUN: &str = "xid >= $2 AND xid < pg_snapshot_xmax(pg_current_snapshot())";
/// What a row's values take. Of what is not compressed, near enough.
const BYTES: &str = "(coalesce(pg_column_size(old), 0) + coalesce(pg_column_size(new), 0))";

fn poll_sql() -> String {
    let columns = "xid, id, at, shape, op, old, new";
    let limit = MAX_ROWS + 1;
    format!(
        "WITH fresh AS MATERIALIZED ( \
             (SELECT {columns} FROM rowcast.outbox WHERE {ENDED} LIMIT {limit}) \
             UNION ALL \
             (SELECT {columns} FROM rowcast.outbox WHERE {BEGUN} LIMIT {limit}) \
         ), all_of_it AS MATERIALIZED ( \
             SELECT count(*) <= {MAX_ROWS} AND coalesce(sum({BYTES}), 0) <= {MAX_BYTES} AS fits \
             FROM fresh \
         ) \
         SELECT {STANDING}, fits, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM all_of_it \
         UNION ALL \
         SELECT {NO_STANDING}, NULL, {columns} FROM fresh WHERE (SELECT fits FROM all_of_it)"
    )
}

fn list_sql() -> String {
    let of = |condition: &str| {
        format!(
            "SELECT {NO_STANDING}, xid, max(id), count(*), sum({BYTES}), \
                    count(*) FILTER (WHERE id > $3), count(*) FILTER (WHERE id > $4) \
             FROM rowcast.outbox WHERE {condition} GROUP BY xid"
        )
    };
    let (ended, begun) = (of(ENDED), of(BEGUN));
    format!(
        "SELECT {STANDING}, NULL::xid8, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, \
                NULL::bigint \
         UNION ALL ({ended}) UNION ALL ({begun})"
    )
}

/// A root has triggers of ours, or is none of ours any more: whether that should be
/// is for others to say.
const BARE_PARTITIONS: &str = "
WITH ours AS MATERIALIZED (
    SELECT tgrelid, count(*) FILTER (WHERE tgenabled IN ('O', 'A')) AS enabled
    FROM pg_trigger
    WHERE NOT tgisinternal
    AND tgname IN ('rowcast_insert', 'rowcast_update', 'rowcast_delete', 'rowcast_truncate')
    GROUP BY tgrelid
), roots AS (
    SELECT DISTINCT s.relation FROM rowcast.shapes s
    JOIN ours o ON o.tgrelid = s.relation
    JOIN pg_class c ON c.oid = s.relation AND c.relkind = 'p'
)
SELECT r.relation, format('%I.%I', n.nspname, c.relname)
FROM roots r, pg_partition_tree(r.relation) AS t
JOIN pg_class c ON c.oid = t.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN ours o ON o.tgrelid = t.relid
WHERE t.relid <> r.relation AND c.relkind IN ('r', 'p') AND coalesce(o.enabled, 0) < 4
ORDER BY 1, 2";

const FINGERPRINT: &str = "
SELECT md5(string_agg(concat_ws(',', c.oid, c.relnamespace, c.relname, a.attnum, a.attname, a.atttypid),
                      ';' ORDER BY c.oid, a.attnum))
FROM (SELECT DISTINCT relation FROM rowcast.shapes) s
JOIN pg_class c ON c.oid = s.relation
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped";

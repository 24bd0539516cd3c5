//! The demo's application: a blog that is written to as applications write.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage, Transaction};

use crate::change::Timestamp;
use crate::postgres::Connection;

use super::ledger::{Committed, RolledBack, Row, Step};

pub(super) const DATABASE: &str = "blog";
pub(super) const SCHEMA: &str = include_str!("blog.sql");
/// The content of a configuration's `[[rule]]` sections.
pub(super) const RULES: &str = include_str!("blog.toml");

/// A few writes in each second, as people make them.
const PACE: Duration = Duration::from_millis(220);

#[derive(Clone, Copy, Debug)]
enum Write {
    InsertPost,
    UpdatePost,
    InsertComment,
    BulkUpdate,
    RolledBack,
    UpdateComment,
    SoftDelete,
    Savepoint,
    RenameUser,
    Script,
    Restore,
    DeleteComment,
}

/// The order of a turn. The kinds that are worth seeing come early.
const TURN: [Write; 12] = [
    Write::InsertPost,
    Write::UpdatePost,
    Write::InsertComment,
    Write::BulkUpdate,
    Write::RolledBack,
    Write::SoftDelete,
    Write::Savepoint,
    Write::Script,
    Write::UpdateComment,
    Write::Restore,
    Write::RenameUser,
    Write::DeleteComment,
];

#[derive(Clone, Copy, Debug)]
enum Table {
    Users,
    Posts,
    Comments,
}

/// Writes until `end` or until `stop` says so, and tells of each step once it
/// has ended.
///
/// # Errors
/// If the database refuses a statement, which none of these deserves.
pub(super) async fn write(
    mut application: Connection,
    steps: mpsc::Sender<Step>,
    end: Instant,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for write in TURN.into_iter().cycle() {
        tokio::select! {
            biased;
            // Its sender is gone only when nobody listens any more.
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep_until(end) => break,
            _ = ticks.tick() => {}
        }
        let step = write
            .run(&mut application.client)
            .await
            .with_context(|| format!("{write:?} failed"))?;
        if steps.send(step).await.is_err() {
            break;
        }
    }
    Ok(())
}

impl Write {
    async fn run(self, client: &mut Client) -> Result<Step, tokio_postgres::Error> {
        use Table::{Comments, Posts, Users};
        match self {
            Write::InsertPost => {
                let sql =
                    "INSERT INTO posts (user_id, title) VALUES (1, 'A new post') RETURNING id";
                single(client, "insert into posts", Posts, sql).await
            }
            Write::UpdatePost => {
                let sql = "UPDATE posts SET status = 'published', updated_at = localtimestamp \
                    WHERE id = (SELECT max(id) FROM posts WHERE deleted_at IS NULL) RETURNING id";
                single(client, "update posts set status", Posts, sql).await
            }
            Write::InsertComment => {
                let sql = "INSERT INTO comments (post_id, body) \
                    SELECT max(id), 'Well said' FROM posts RETURNING id, post_id";
                single(client, "insert into comments", Comments, sql).await
            }
            Write::BulkUpdate => {
                let sql = "UPDATE posts SET user_id = 1 + user_id % 10 WHERE id IN \
                    (SELECT id FROM posts WHERE deleted_at IS NULL ORDER BY id LIMIT 200) \
                    RETURNING id";
                single(client, "update 200 posts in one statement", Posts, sql).await
            }
            Write::UpdateComment => {
                let sql = "UPDATE comments SET body = body || ', again' \
                    WHERE id = (SELECT max(id) FROM comments) RETURNING id, post_id";
                single(client, "update comments set body", Comments, sql).await
            }
            Write::SoftDelete => {
                let sql = "UPDATE posts SET deleted_at = localtimestamp \
                    WHERE id = (SELECT min(id) FROM posts WHERE deleted_at IS NULL) RETURNING id";
                single(client, "update posts set deleted_at (soft delete)", Posts, sql).await
            }
            Write::Restore => {
                let sql = "UPDATE posts SET deleted_at = NULL \
                    WHERE id = (SELECT min(id) FROM posts WHERE deleted_at IS NOT NULL) RETURNING id";
                single(client, "update posts set deleted_at = null", Posts, sql).await
            }
            Write::RenameUser => {
                let sql = "UPDATE users SET name = name || ' jr.' \
                    WHERE id = (SELECT id FROM users ORDER BY length(name), id LIMIT 1) RETURNING id";
                single(client, "update users set name", Users, sql).await
            }
            Write::DeleteComment => {
                let sql = "DELETE FROM comments \
                    WHERE id = (SELECT min(id) FROM comments) RETURNING id, post_id";
                single(client, "delete from comments", Comments, sql).await
            }
            Write::RolledBack => rolled_back(client.transaction().await?).await,
            Write::Savepoint => savepoint(client.transaction().await?).await,
            Write::Script => script(client).await,
        }
    }
}

/// A statement that is a transaction of its own.
async fn single(
    client: &Client,
    what: &str,
    table: Table,
    sql: &str,
) -> Result<Step, tokio_postgres::Error> {
    let committed = statement(client, table, sql).await?;
    Ok(Step { what: what.to_owned(), committed, rolled_back: Vec::new() })
}

/// Runs one that returns `id` of each row that it changed, and `post_id` of
/// comments.
async fn statement(
    client: &impl GenericClient,
    table: Table,
    sql: &str,
) -> Result<Vec<Committed>, tokio_postgres::Error> {
    let since = Timestamp::now();
    let rows = client.query(sql, &[]).await?;
    rows.iter()
        .map(|row| Ok(table.committed(since, row.try_get(0)?, row.try_get(row.len() - 1)?)))
        .collect()
}

async fn rolled_back(transaction: Transaction<'_>) -> Result<Step, tokio_postgres::Error> {
    let update = "UPDATE posts SET title = 'Never seen' \
        WHERE id = (SELECT max(id) FROM posts WHERE deleted_at IS NULL) RETURNING id";
    let insert = "INSERT INTO comments (post_id, body) \
        SELECT max(id), 'Never said' FROM posts RETURNING id, post_id";
    let mut changes = statement(&transaction, Table::Posts, update).await?;
    changes.extend(statement(&transaction, Table::Comments, insert).await?);
    transaction.rollback().await?;
    let what = "update a post, insert a comment, rollback".to_owned();
    Ok(Step { what, committed: Vec::new(), rolled_back: taken_back(changes) })
}

async fn savepoint(mut transaction: Transaction<'_>) -> Result<Step, tokio_postgres::Error> {
    let insert_post =
        "INSERT INTO posts (user_id, title) VALUES (2, 'In a transaction') RETURNING id";
    let insert_comment = "INSERT INTO comments (post_id, body) \
        SELECT max(id), 'In a transaction' FROM posts RETURNING id, post_id";
    let mut committed = statement(&transaction, Table::Posts, insert_post).await?;
    let inner = transaction.savepoint("draft").await?;
    let dropped = statement(&inner, Table::Comments, insert_comment).await?;
    inner.rollback().await?;
    committed.extend(statement(&transaction, Table::Comments, insert_comment).await?);
    transaction.commit().await?;
    // Only now: if it leaked, it would say that it was committed with the rest.
    let rolled_back = taken_back(dropped);
    let what = "transaction with a savepoint rolled back".to_owned();
    Ok(Step { what, committed, rolled_back })
}

/// As psql sends a script: several statements at once, without parameters.
async fn script(client: &Client) -> Result<Step, tokio_postgres::Error> {
    let since = Timestamp::now();
    let messages = client
        .simple_query(
            "BEGIN; \
             UPDATE posts SET status = 'archived' WHERE id IN \
             (SELECT id FROM posts WHERE deleted_at IS NULL ORDER BY id LIMIT 2) RETURNING id; \
             COMMIT",
        )
        .await?;
    let ids = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    let committed = ids.map(|id| Table::Posts.committed(since, id, id)).collect();
    Ok(Step { what: "psql script: update 2 posts".to_owned(), committed, rolled_back: Vec::new() })
}

/// What was changed until now, and not for good.
fn taken_back(changes: Vec<Committed>) -> Vec<RolledBack> {
    let until = Timestamp::now();
    let take_back = |change: Committed| RolledBack { row: change.row, since: change.since, until };
    changes.into_iter().map(take_back).collect()
}

impl Table {
    /// With the channels that [`RULES`] give it; `post_id` matters for a comment.
    fn committed(self, since: Timestamp, id: i64, post_id: i64) -> Committed {
        let (entity, channels) = match self {
            Table::Users => ("user", vec![format!("private-users.{id}")]),
            Table::Posts => {
                ("post", vec![format!("private-posts.{id}"), "private-posts".to_owned()])
            }
            Table::Comments => ("comment", vec![format!("private-posts.{post_id}.comments")]),
        };
        Committed { row: Row { entity: entity.to_owned(), id }, since, channels }
    }
}

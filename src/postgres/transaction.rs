//! Transactions that leave nothing behind in a session that is not ours.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Waker};

use tokio_postgres::{Client, Error};

use super::settings;

/// What a transaction may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    ReadOnly,
    /// `ReadOnly`, and what is committed after the first query none sees.
    Snapshot,
    ReadWrite,
}

/// Runs `work`, which sends its queries by `client`, as one transaction with our
/// settings, and after them `more`: `SET LOCAL …`, or nothing. Nobody else may use
/// `client` meanwhile.
///
/// Reading takes no more round trips than `work` does, and `ReadWrite` one for the
/// commit. Where `work` fails, or this is dropped, it is rolled back.
///
/// # Errors
/// Those of `work`, of beginning and of committing.
pub async fn transaction<T, E: From<Error>>(
    client: &Client,
    mode: Mode,
    more: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    static SETTINGS: LazyLock<String> = LazyLock::new(settings::for_transaction);
    let mode_sql = match mode {
        Mode::ReadOnly => "READ COMMITTED READ ONLY",
        Mode::Snapshot => "REPEATABLE READ READ ONLY",
        Mode::ReadWrite => "READ COMMITTED READ WRITE",
    };
    // Role and database may have other defaults.
    let begin = format!("BEGIN ISOLATION LEVEL {mode_sql}{}; {more}", *SETTINGS);

    let mut transaction = Transaction { client, is_open: true };
    // Each sends when it is first polled. A setting that is refused fails the
    // transaction, and with it all of `work`.
    let (begun, done) = tokio::join!(biased; client.batch_execute(&begin), work);
    begun?;
    let done = done?;
    if mode == Mode::ReadWrite {
        client.batch_execute("COMMIT").await?;
        transaction.is_open = false;
    }
    Ok(done)
}

/// Rolls back when it is dropped.
struct Transaction<'a> {
    client: &'a Client,
    is_open: bool,
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // Sent when it is polled. What comes of it nobody needs to know: whoever
            // uses the connection next queues behind it.
            let rollback = pin!(self.client.batch_execute("ROLLBACK"));
            let _ = rollback.poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

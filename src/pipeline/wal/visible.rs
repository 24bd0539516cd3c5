use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Statement};
use tracing::warn;

use crate::pipeline::Error;
use crate::postgres::running::RunningTransactions;
use crate::postgres::{self, Connection, Dsn};

/// The question needs no lock and reads nothing: who does not answer is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between the first two questions about a transaction, then twice as long each
/// time.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// A commit is not invisible for so long without a reason that somebody should
/// know.
const REMARKABLE: Duration = Duration::from_secs(5);

/// Holds back transactions that other sessions do not see yet: a page that is
/// told of one and fetches at once would read the old row, and be told of it no
/// more.
pub(in crate::pipeline) struct Visible {
    client: Client,
    question: Statement,
    running: RunningTransactions,
}

impl Visible {
    /// Over a session of its own with the server that streams.
    pub(super) async fn open(dsn: &Dsn) -> Result<Visible, Error> {
        let connected = postgres::connect(dsn, postgres::APPLICATION_NAME).await;
        let Connection { client, .. } = connected.map_err(Error::Connect)?;
        let question = client.prepare("SELECT pg_current_snapshot()").await;
        let question = question.map_err(Error::Inspect)?;
        Ok(Visible { client, question, running: RunningTransactions::UNKNOWN })
    }

    /// Returns once every query that begins then sees the changes of `xids`,
    /// all of them committed. What the last answer has shown already is not
    /// asked again.
    pub(in crate::pipeline) async fn wait_for(&mut self, xids: &[u32]) -> Result<(), Error> {
        let since = Instant::now();
        // The first question is asked at once.
        let mut pause: Option<Duration> = None;
        let mut is_told = false;
        while let Some(xid) = xids.iter().find(|xid| !self.running.shows(**xid)) {
            if !is_told && since.elapsed() > REMARKABLE {
                warn!(
                    xid,
                    "a commit is not visible to other sessions yet, and is announced once it is: \
                     does it wait for a synchronous standby that is away? See \
                     synchronous_standby_names and pg_stat_replication"
                );
                is_told = true;
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            pause = Some(pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
            self.running = self.ask().await?;
        }
        Ok(())
    }

    async fn ask(&self) -> Result<RunningTransactions, Error> {
        let answer = timeout(ANSWER_WITHIN, self.client.query_one(&self.question, &[]));
        let row = answer.await.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?;
        row.and_then(|row| row.try_get(0)).map_err(Error::Inspect)
    }
}

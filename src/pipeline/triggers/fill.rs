use tokio::time::timeout;
use tracing::{info, warn};

use crate::observe::{self, Observer};
use crate::pipeline::Error;
use crate::pipeline::lookout::ANSWER_WITHIN;
use crate::postgres::Connection;
use crate::postgres::outbox::Room;

/// How much of the outbox's room is taken.
#[derive(Debug)]
pub(in crate::pipeline) struct Fill {
    max_rows: u64,
    level: Level,
    /// What the last look would have told. Seen once only, it may be a burst.
    seen: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Low,
    /// More than half.
    High,
    Full,
}

impl Fill {
    pub(super) fn new(max_rows: u64) -> Fill {
        Fill { max_rows, level: Level::Low, seen: Level::Low }
    }

    /// Reads how many rows it has, and tells that.
    pub(in crate::pipeline) async fn look(
        &self,
        connection: &Connection,
        observer: &Observer,
    ) -> Result<Option<u64>, Error> {
        let left = timeout(ANSWER_WITHIN, connection.read(Room::left(&connection.client))).await;
        let left = left.map_err(|_| Error::Unanswered(ANSWER_WITHIN))?.map_err(Error::Inspect)?;
        // Before the reader has set it, nothing says how much room there is.
        let Some(room) = left else { return Ok(None) };
        let (rows, max_rows) = (self.max_rows.saturating_sub(room), self.max_rows);
        observer.backlog(observe::Backlog::Outbox { rows, max_rows });
        Ok(Some(rows))
    }

    pub(in crate::pipeline) async fn weigh(
        &mut self,
        connection: &Connection,
        observer: &Observer,
    ) -> Result<(), Error> {
        let Some(rows) = self.look(connection, observer).await? else { return Ok(()) };
        if let Some(level) = self.found(rows) {
            tell(level, rows, self.max_rows);
        }
        Ok(())
    }

    /// What is to be told.
    fn found(&mut self, rows: u64) -> Option<Level> {
        let max_rows = self.max_rows;
        let level = match rows {
            rows if rows >= max_rows => Level::Full,
            rows if rows > max_rows / 2 => Level::High,
            // Between a quarter and a half it is what it was, so that nobody is told
            // again and again.
            rows if rows > max_rows / 4 => self.level.min(Level::High),
            _ => Level::Low,
        };
        let seen = std::mem::replace(&mut self.seen, level);
        let is_news = level != self.level && level == seen;
        is_news.then(|| {
            self.level = level;
            level
        })
    }
}

fn tell(level: Level, rows: u64, max_rows: u64) {
    let hint = "is the endpoint away, or too slow? [limits] max_outbox_rows is how much may wait";
    match level {
        Level::Low => info!(rows, max_rows, "the outbox has room again"),
        Level::High => warn!(
            rows,
            max_rows,
            hint,
            "the outbox is more than half full: once it is full, changes are passed over, and pages \
             are told to fetch again instead"
        ),
        Level::Full => warn!(
            rows,
            max_rows,
            hint,
            "the outbox is full: changes are passed over until what it has is delivered, and pages \
             are told to fetch again instead"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once() {
        let mut fill = Fill::new(1000);
        let told: Vec<_> = [0, 600, 100, 600, 700, 800, 400, 300, 1000, 1200, 1000, 400, 10, 0]
            .map(|rows| fill.found(rows))
            .into_iter()
            .enumerate()
            .filter_map(|(look, told)| told.map(|told| (look, told)))
            .collect();
        assert_eq!(told, [(4, Level::High), (9, Level::Full), (13, Level::Low)]);
    }
}

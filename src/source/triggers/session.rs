use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, warn};

use super::super::Wanted;
use super::backlog::{Backlog, Read};
use super::error::Error;
use super::ledger::{Due, Ledger};
use super::missing::Missing;
use super::outbox::{Outbox, Polled, Reader, Standing};
use super::room::Room;
use super::rows::Rows;
use super::shapes::Shapes;
use super::sleep::{Found, Sleep};
use super::taker::Taker;
use crate::change::{Batch, BatchBuilder, Missed, Position, Relation, Timestamp, Transaction};
use crate::postgres::running::RunningTransactions;
use crate::postgres::{Connection, Wake};

pub struct Options {
    pub wake: Wake,
    /// The tables as the catalog has them now.
    pub catalog: Vec<Relation>,
    pub wanted: Wanted,
    /// Beyond so many rows, delivered or not, triggers write no more.
    pub max_rows: u64,
    /// How often it is looked whether the tables are still those that they were.
    pub inspect_every: Duration,
    pub until: Until,
    pub reads: Reads,
}

/// What is ready is taken sooner, unless the endpoint is away.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// When a session has read enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Stopped,
    /// With what is committed when it begins.
    FirstSnapshot,
}

/// What a session does with the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// It empties it. There must be no other that does.
    Drain,
    /// It looks on, from now on, and leaves no trace.
    Watch,
}

/// What the sessions before had delivered, by the database's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub session: u64,
    pub position: Position,
}

impl Delivered {
    /// The number of the session that made the position.
    pub fn session_of(position: Position) -> u64 {
        position.value() >> Ledger::SESSION_SHIFT
    }
}

/// One connection's reading of the outbox, from its first snapshot on.
///
/// It confirms only positions that it handed on itself.
pub struct Session {
    outbox: Outbox,
    drains: bool,
    until: Until,
    inspect_every: Duration,
    delivered: Delivered,
    session: u64,
    taker: Taker,
    ledger: Ledger,
    missing: [Missing; 2],
    room: Room,
    sleep: Sleep,
    /// What the last poll saw, and all polls together have read.
    since: RunningTransactions,
    last_id: i64,
    backlog: Option<Backlog>,
    /// What is being deleted piece by piece, and up to which row it is.
    deleting: Option<(Due, i64)>,
    /// The limit that triggers have been told.
    gate: Option<i64>,
    polls: u64,
    bare: BTreeSet<String>,
    fingerprint: Option<String>,
}

impl Session {
    /// Takes the number of a new session. `connection` is used by nobody else.
    pub async fn open(connection: Connection, options: Options) -> Result<Session, Error> {
        let Options { wake, catalog, wanted, max_rows, inspect_every, until, reads } = options;
        let outbox = Outbox::new(connection);
        let drains = reads == Reads::Drain;
        let reader = match reads {
            Reads::Drain => outbox.take_number().await?,
            Reads::Watch => outbox.look_at_reader().await?,
        };
        let mut shapes = Shapes::new(wanted);
        let fingerprint = outbox.fingerprint().await?;
        shapes.learn(outbox.shapes().await?, catalog);
        let Reader { session, position, mut failures, mut refusals } = reader;
        let mut since = RunningTransactions::UNKNOWN;
        if !drains {
            let now = outbox.look().await?;
            (since, failures, refusals) = (now.snapshot, now.failures, now.refusals);
        }
        let wake = if drains { wake } else { Wake::Poll };
        if wake == Wake::Notify {
            outbox.listen().await?;
        }
        let before = session - u64::from(drains);
        Ok(Session {
            outbox,
            drains,
            until,
            inspect_every,
            delivered: Delivered { session: before, position },
            session,
            taker: Taker::new(shapes),
            ledger: Ledger::new(session),
            missing: [
                Missing::new(Missed::Unrecorded, failures),
                Missing::new(Missed::Full, refusals),
            ],
            room: Room::new(max_rows),
            sleep: Sleep::new(wake, drains, Instant::now()),
            since,
            last_id: 0,
            backlog: None,
            deleting: None,
            gate: None,
            polls: 0,
            bare: BTreeSet::new(),
            fingerprint,
        })
    }

    /// As `rowcast.reader` had it before this session took its number.
    pub fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Reads until `stop` turns true or its sender is gone, then goes on deleting
    /// what is confirmed until `confirmed`'s sender is gone.
    ///
    /// `changes` is dropped as soon as reading stops, so that the stages behind it
    /// finish what they hold.
    ///
    /// # Errors
    /// Whatever broke the connection, or is not as it should be in the database.
    /// What was confirmed until then may not be recorded, and then comes again.
    pub async fn run(
        mut self,
        changes: mpsc::Sender<Batch>,
        mut confirmed: watch::Receiver<Option<Position>>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let read = self.read_changes(changes, &mut confirmed, stop).await;
        self.taker.passed_over.tell();
        read?;
        self.confirm_the_rest(confirmed).await
    }

    async fn read_changes(
        &mut self,
        changes: mpsc::Sender<Batch>,
        confirmed: &mut watch::Receiver<Option<Position>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let stopped = async move {
            // An error means that whoever could stop us is gone: stop then too.
            let _gone = stop.wait_for(|stop| *stop).await;
        };
        tokio::pin!(stopped);
        let mut ready: VecDeque<Batch> = VecDeque::new();
        let mut inspect_at = Instant::now() + self.inspect_every;
        let mut waits_since = None;
        loop {
            // Statements are short, and none is left half said: a stop waits for the
            // one that is under way.
            let now = Instant::now();
            if ready.is_empty() {
                if inspect_at <= now {
                    self.inspect(&mut ready).await?;
                    inspect_at = Instant::now() + self.inspect_every;
                } else if self.backlog.is_some() {
                    self.read_on(&mut ready).await?;
                } else if self.has_read_enough() {
                    return Ok(());
                } else if self.sleep.next_poll() <= now {
                    self.poll(&mut ready).await?;
                }
            }
            if ready.is_empty() {
                waits_since = None;
            }
            // Commits would pay for waking whoever can take nothing.
            let rest_at = waits_since.map(|since| since + TAKEN_WITHIN);
            if rest_at.is_some_and(|at| at <= now) && self.sleep.is_armed() {
                self.set_gate(false).await?;
            }
            self.delete_due(Some(Instant::now())).await?;
            self.tend_gate().await?;

            // While something waits to be taken, nothing more is read.
            let read_at = match (ready.is_empty(), self.backlog.is_some()) {
                (false, _) => None,
                (true, false) if !self.has_read_enough() => {
                    Some(self.sleep.next_poll().min(inspect_at))
                }
                (true, _) => Some(now),
            };
            let delete_at = self.deleting.as_ref().map(|_| now).or(self.ledger.due_at());
            if !ready.is_empty() {
                waits_since.get_or_insert(now);
            }
            let rest_at = waits_since.map(|since| since + TAKEN_WITHIN);
            let rest_at = rest_at.filter(|_| self.sleep.is_armed());
            let due_at = [read_at, delete_at, rest_at].into_iter().flatten().min();
            // Every arm is cancel-safe: a reservation that does not complete sends
            // nothing, and what woke us is only a reason to look.
            let notified = self.outbox.notified();
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                ended = self.outbox.ended() => return Err(ended),
                Ok(()) = confirmed.changed() => self.confirm(confirmed),
                permit = changes.reserve(), if !ready.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(ready.pop_front().expect("reserved only for one that is ready"));
                }
                () = notified, if self.sleep.is_armed() && ready.is_empty() => {
                    self.sleep.poll_at(Instant::now());
                }
                () = sleep_until(due_at.unwrap_or(now).into()), if due_at.is_some() => {}
            }
        }
    }

    fn has_read_enough(&self) -> bool {
        self.until == Until::FirstSnapshot
            && self.polls > 0
            && !self.missing.iter().any(Missing::is_untold)
    }

    fn confirm(&mut self, confirmed: &mut watch::Receiver<Option<Position>>) {
        if let Some(position) = *confirmed.borrow_and_update() {
            self.ledger.confirm(position, Instant::now());
        }
    }

    async fn confirm_the_rest(
        &mut self,
        mut confirmed: watch::Receiver<Option<Position>>,
    ) -> Result<(), Error> {
        loop {
            let changed = confirmed.changed().await;
            self.confirm(&mut confirmed);
            while self.delete_due(None).await? {}
            if changed.is_err() {
                break;
            }
        }
        // Nobody is there to be woken.
        if self.sleep.is_armed() {
            self.outbox.set_gate(self.room.limit(), false).await?;
        }
        Ok(())
    }

    /// Reads what is new, or a list of it.
    async fn poll(&mut self, ready: &mut VecDeque<Batch>) -> Result<(), Error> {
        let since = Instant::now();
        let (standing, rows, seen, transactions, is_more) =
            match self.outbox.poll(&self.since).await? {
                Polled::Rows(standing, rows) => {
                    let seen = self.room.count(rows.rows.iter().map(|row| row.id));
                    // In the order of the index, but for those that ran before.
                    let transactions = rows.rows.chunk_by(|row, next| row.xid == next.xid).count();
                    (standing, rows, seen, transactions, false)
                }
                Polled::Overflow => {
                    let (standing, listed, seen) =
                        self.outbox.list(&self.since, &self.room).await?;
                    debug!(transactions = listed.len(), rows = seen.rows, "a backlog");
                    let transactions = listed.len();
                    self.backlog = Some(Backlog::new(listed));
                    (standing, Rows::default(), seen, transactions, true)
                }
            };
        let found = Found { transactions, is_more, took: since.elapsed() };
        let now = Instant::now();
        self.polls += 1;
        self.room.polled(seen, standing.last_id, &standing.snapshot);
        self.sleep.polled(found, &standing.snapshot, now);
        self.last_id = standing.last_id;
        if !rows.rows.is_empty() {
            self.know_shapes(&rows).await?;
            ready.push_back(self.taker.whole(rows, &mut self.ledger));
        }
        self.tell_missing(&standing, now, ready);
        self.take_fence().await?;
        self.since = standing.snapshot;
        Ok(())
    }

    /// Reads the next of the backlog.
    async fn read_on(&mut self, ready: &mut VecDeque<Batch>) -> Result<(), Error> {
        let Some(backlog) = &mut self.backlog else { return Ok(()) };
        match backlog.next() {
            None => {
                self.backlog = None;
                self.sleep.poll_at(Instant::now());
            }
            Some(Read::Whole(xids)) => {
                let rows = self.outbox.read(&xids).await?;
                self.know_shapes(&rows).await?;
                ready.push_back(self.taker.whole(rows, &mut self.ledger));
            }
            Some(Read::Piece(large)) => {
                let rows = self.outbox.read_piece(large.xid, large.after).await?;
                match rows.rows.iter().map(|row| row.id).max() {
                    Some(last_id) => {
                        backlog.piece_read(last_id, rows.rows.len() as u64);
                        self.know_shapes(&rows).await?;
                        ready.push_back(self.taker.piece(rows, &self.ledger));
                    }
                    None => {
                        backlog.end_large();
                        let end = self.taker.end(large.xid, large.rows, &mut self.ledger);
                        ready.push_back(end);
                    }
                }
            }
        }
        Ok(())
    }

    /// A row of another shape than we know was written after a new setup.
    async fn know_shapes(&mut self, rows: &Rows) -> Result<(), Error> {
        if self.taker.has_unknown_shape(rows) {
            self.learn().await?;
        }
        Ok(())
    }

    async fn learn(&mut self) -> Result<(), Error> {
        let shapes = self.outbox.shapes().await?;
        let catalog = self.outbox.catalog().await?;
        self.taker.shapes.learn(shapes, catalog);
        Ok(())
    }

    /// What triggers could not write down.
    fn tell_missing(&mut self, standing: &Standing, now: Instant, ready: &mut VecDeque<Batch>) {
        for (missing, value) in self.missing.iter_mut().zip([standing.failures, standing.refusals])
        {
            missing.polled(value);
            // Who ran when it was counted has ended, as far as the snapshot shows it.
            if missing.is_due(&standing.snapshot, now) {
                warn_missed(missing.why());
                let (batch, reached) = missed(&mut self.ledger, None, missing.why(), standing.at);
                ready.push_back(batch);
                missing.told_at(reached);
            }
        }
    }

    /// Has it told by a later poll who has ended by then.
    async fn take_fence(&mut self) -> Result<(), Error> {
        let is_wanted = self.missing.iter().any(Missing::wants_fence)
            || self.drains && self.room.wants_fence(self.last_id);
        if is_wanted {
            let fence = self.outbox.fence().await?;
            self.fenced(fence);
            self.sleep.poll_at(Instant::now());
        }
        Ok(())
    }

    /// `fence` was taken after the last poll.
    fn fenced(&mut self, fence: u64) {
        self.missing.iter_mut().for_each(|missing| missing.fence(fence));
        self.room.fence(self.last_id, fence);
    }

    /// Deletes the next that may be, a piece at a time so that polls do not wait for
    /// long, and says whether there was anything.
    async fn delete_due(&mut self, now: Option<Instant>) -> Result<bool, Error> {
        let (due, after) = match self.deleting.take() {
            Some(deleting) => deleting,
            None => match self.ledger.take_due(now) {
                Some(due) => (due, i64::MIN),
                None => return Ok(false),
            },
        };
        if !self.drains {
            return Ok(true);
        }
        if let ([xid], true) = (&*due.xids, due.is_large())
            && let Some(last) = self.outbox.delete_piece(*xid, after, self.session).await?
        {
            self.deleting = Some((due, last));
            return Ok(true);
        }
        let [failures, refusals] =
            self.missing.each_mut().map(|missing| missing.recorded_with(due.position));
        let (session, position) = (self.session, due.position);
        let reader = Reader { session, position, failures, refusals };
        let fence = self.outbox.delete(&due.xids, reader).await?;
        self.room.deleted(due.rows);
        self.fenced(fence);
        Ok(true)
    }

    /// Tells triggers how far they may write, and whether to wake us.
    async fn tend_gate(&mut self) -> Result<(), Error> {
        if !self.drains || self.polls == 0 {
            return Ok(());
        }
        let wants = self.sleep.wants();
        let is_news = self.gate.is_none_or(|set| self.room.is_news(set));
        if wants.is_none() && !is_news {
            return Ok(());
        }
        self.set_gate(wants.unwrap_or(self.sleep.is_armed())).await
    }

    async fn set_gate(&mut self, wakes: bool) -> Result<(), Error> {
        let limit = self.room.limit();
        let fence = self.outbox.set_gate(limit, wakes).await?;
        self.gate = Some(limit);
        self.fenced(fence);
        match (self.sleep.is_armed(), wakes) {
            (false, true) => self.sleep.arm(fence, Instant::now()),
            (true, false) => self.sleep.disarm(Instant::now()),
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    /// Looks whether tables are still what they were, and whether all their
    /// partitions have our triggers.
    async fn inspect(&mut self, ready: &mut VecDeque<Batch>) -> Result<(), Error> {
        let fingerprint = self.outbox.fingerprint().await?;
        if fingerprint != self.fingerprint {
            self.learn().await?;
            self.fingerprint = fingerprint;
        }
        let bare = self.outbox.bare_partitions().await?;
        let roots: BTreeSet<u32> = bare.iter().map(|bare| bare.root).collect();
        let partitions: BTreeSet<String> = bare.into_iter().map(|bare| bare.partition).collect();
        for partition in partitions.difference(&self.bare) {
            warn!(
                %partition,
                fix = "rowcast setup",
                "this partition has no triggers of rowcast, so what changes there is not \
                 captured: pages are told to fetch again each time that this is looked at"
            );
        }
        self.bare = partitions;
        for root in roots {
            let relation = self.taker.shapes.relation(root).cloned();
            let (why, at) = (Missed::Unrecorded, Timestamp::now());
            ready.push_back(missed(&mut self.ledger, relation, why, at).0);
        }
        Ok(())
    }
}

/// That changes of a table, or of any, were missed.
fn missed(
    ledger: &mut Ledger,
    relation: Option<std::sync::Arc<Relation>>,
    why: Missed,
    at: Timestamp,
) -> (Batch, Position) {
    let mut batch = BatchBuilder::default();
    batch.missed(relation, why, Transaction { xid: 0, at, position: ledger.next() });
    let reached = ledger.handed_on(0, 0);
    batch.reached(reached);
    (batch.finish(bytes::Bytes::new()), reached)
}

fn warn_missed(why: Missed) {
    match why {
        Missed::Unrecorded => warn!(
            "triggers could not write down what changed: every page is told to fetch again; \
             rowcast setup says what is not in order"
        ),
        Missed::Full => warn!(
            "the outbox was full and changes were not written down: every page is told to fetch \
             again; see [limits] max_outbox_rows"
        ),
    }
}

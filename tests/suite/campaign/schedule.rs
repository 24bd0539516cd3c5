//! What one seed stands for.

use super::capture::Capture;
use super::rng::Rng;

/// What can befall rowcast and what it works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// rowcast gets a `kill -9`.
    Kill,
    /// rowcast is stopped and started again.
    Stop,
    /// rowcast gets SIGSTOP, and SIGCONT later.
    Freeze,
    /// Postgres is restarted, `-m fast`.
    Restart,
    /// Postgres is killed, and recovers.
    Crash,
    /// The connections to Postgres are reset.
    Cut,
    /// Nothing passes between rowcast and Postgres for a while.
    Stall,
    /// The network between rowcast and Postgres is slow.
    Slow,
    /// The endpoint answers errors, late, or never, and may have accepted.
    Answers,
    /// The endpoint refuses connections for a while.
    Away,
    /// The slot is dropped while rowcast is not there.
    DropSlot,
    /// The state file is lost.
    LoseState,
    /// The endpoint is away until rowcast gives its backlog up, or triggers write no more.
    Shed,
    /// rowcast is killed where a crash would do the most harm.
    Failpoint,
    /// rowcast is killed while another one waits to take over.
    Relieve,
    /// Somebody locks the outbox.
    LockOutbox,
    /// Somebody empties the outbox.
    TruncateOutbox,
    /// Somebody drops the outbox, and it is set up again.
    DropOutbox,
    /// A column that rules name has another name for a while.
    Rename,
}

impl Fault {
    /// Those after which every change is still announced by itself.
    fn harmless(capture: Capture) -> Vec<Fault> {
        use Fault::{
            Answers, Away, Crash, Cut, Failpoint, Freeze, Kill, Relieve, Restart, Slow, Stall, Stop,
        };
        let mut harmless =
            vec![Kill, Stop, Freeze, Restart, Crash, Cut, Stall, Slow, Answers, Away];
        if capture.is_triggers() {
            harmless.extend([Failpoint, Relieve]);
        }
        harmless
    }

    /// Those after which resyncs are owed.
    fn causes(capture: Capture) -> Vec<Fault> {
        use Fault::{DropOutbox, DropSlot, LockOutbox, LoseState, Rename, Shed, TruncateOutbox};
        match capture.is_triggers() {
            true => vec![LoseState, Shed, LockOutbox, TruncateOutbox, DropOutbox, Rename],
            false => vec![DropSlot, LoseState, Shed],
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) capture: Capture,
    pub(super) faults: Vec<Fault>,
    /// Whether tables are emptied, and more rows written at once than are told one by one.
    pub(super) has_bulk: bool,
    /// Whether only channels are told that somebody listens on.
    pub(super) is_occupied_only: bool,
    /// How often trouble strikes.
    pub(super) strikes: usize,
    /// How many transactions are committed, at least.
    pub(super) transactions: u64,
    pub(super) rng: Rng,
}

impl Schedule {
    /// In turn: one without any fault, one for each fault alone, two with all that are harmless together, and two
    /// with all. Every second one has bulk.
    pub(super) fn of(seed: u64, capture: Capture) -> Self {
        let harmless = Fault::harmless(capture);
        let alone = [harmless.clone(), Fault::causes(capture)].concat();
        let kinds = alone.len() as u64;
        let turn = seed % (kinds + 5);
        let faults = match turn {
            0 => Vec::new(),
            turn if turn <= kinds => vec![alone[turn as usize - 1]],
            turn if turn <= kinds + 2 => harmless,
            _ => alone,
        };
        let has_bulk = (turn + seed / (kinds + 5)) % 2 == 1;
        // Each kind about once, and a single one often.
        let strikes = faults.len().max(6);
        Self {
            seed,
            capture,
            faults,
            has_bulk,
            is_occupied_only: seed % 3 == 1,
            strikes,
            transactions: 1_500,
            rng: Rng::new(seed),
        }
    }

    /// The beginning of it.
    pub(super) fn shortened(self) -> Self {
        Self { strikes: 3, transactions: 350, ..self }
    }

    /// The reasons for which a resync may come.
    pub(super) fn causes(&self) -> Vec<&'static str> {
        let mut causes = Vec::new();
        if self.has_bulk {
            causes.extend(["truncate", "bulk", "backlog", "age"]);
        }
        if self.faults.contains(&Fault::DropSlot) {
            causes.extend(["gap", "slot"]);
        }
        if self.faults.contains(&Fault::LoseState) {
            causes.push("gap");
        }
        if self.faults.contains(&Fault::Shed) {
            causes.extend(["shed", "backlog"]);
        }
        let unrecorded =
            [Fault::LockOutbox, Fault::TruncateOutbox, Fault::DropOutbox, Fault::Rename];
        if unrecorded.iter().any(|it| self.faults.contains(it)) {
            causes.push("gap");
        }
        causes
    }
}

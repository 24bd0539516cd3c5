//! What one seed stands for.

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
    /// The endpoint is away until rowcast gives its backlog up.
    Shed,
}

impl Fault {
    /// Those after which every change is still announced by itself.
    const HARMLESS: [Fault; 10] = [
        Fault::Kill,
        Fault::Stop,
        Fault::Freeze,
        Fault::Restart,
        Fault::Crash,
        Fault::Cut,
        Fault::Stall,
        Fault::Slow,
        Fault::Answers,
        Fault::Away,
    ];
    /// Those after which resyncs are owed.
    const CAUSES: [Fault; 3] = [Fault::DropSlot, Fault::LoseState, Fault::Shed];
}

#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) faults: Vec<Fault>,
    /// Whether tables are emptied, and more rows written at once than are told one by one.
    pub(super) has_bulk: bool,
    /// How often trouble strikes.
    pub(super) strikes: usize,
    /// How many transactions are committed, at least.
    pub(super) transactions: u64,
    pub(super) rng: Rng,
}

impl Schedule {
    /// Of eighteen seeds one is without any fault, thirteen have one fault each, two all that are harmless together,
    /// and two all. Every second one has bulk.
    pub(super) fn of(seed: u64) -> Self {
        let alone: Vec<Fault> = Fault::HARMLESS.into_iter().chain(Fault::CAUSES).collect();
        let faults = match seed % 18 {
            0 => Vec::new(),
            turn @ 1..14 => vec![alone[turn as usize - 1]],
            14 | 15 => Fault::HARMLESS.to_vec(),
            _ => alone,
        };
        let has_bulk = (seed + seed / 18) % 2 == 1;
        // Each kind about once, and a single one often.
        let strikes = faults.len().max(6);
        Self { seed, faults, has_bulk, strikes, transactions: 1_500, rng: Rng::new(seed) }
    }

    /// The beginning of it.
    pub(super) fn shortened(self) -> Self {
        Self { strikes: 4, transactions: 500, ..self }
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
        causes
    }
}

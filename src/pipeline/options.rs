use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Rulebook;
use crate::config::OnSlotLoss;
use crate::observe::Observer;
use crate::postgres::{self, SlotName};
use crate::source::recording;
use crate::source::triggers::Reads;
use crate::state::StateFile;

pub struct Options {
    pub database: postgres::Config,
    pub capture: Capture,
    pub rules: Rulebook,
    /// Deliver what was committed before the start, then return.
    pub once: bool,
    /// How long a stop may take to deliver what was read.
    pub grace: Duration,
    /// How often the database is looked at while changes stream.
    pub inspect_every: Duration,
    /// Where it is kept what was delivered. `None` for what begins anew each time.
    pub state: Option<StateFile>,
    pub observer: Observer,
    /// Where the changes that are handed on are written down, too. Sessions follow
    /// each other, and go on with it.
    pub recorder: Option<Arc<Mutex<recording::Writer>>>,
    /// Whether to say of each change who is not told of it, and why.
    pub explains: bool,
}

/// How committed changes are learned of.
pub enum Capture {
    Wal(Wal),
    Triggers(Triggers),
}

pub struct Wal {
    pub slot: Slot,
    pub on_slot_loss: OnSlotLoss,
    /// How much log may wait for us, in bytes, before changes are passed over.
    /// `None`: as much as the server allows, within reason.
    pub max_retained_wal: Option<u64>,
    /// Whether to take the slot from another rowcast that is silent.
    pub takeover: bool,
    /// Whether the slot is to be one that standbys keep too.
    pub failover: bool,
}

pub struct Triggers {
    /// Whether it empties the outbox, or looks on.
    pub reads: Reads,
    /// How many rows the outbox may hold, before changes are passed over.
    pub max_rows: u64,
}

pub enum Slot {
    /// The one that `setup` made.
    Configured(SlotName),
    /// One that ends with the connection and begins with it.
    Temporary(SlotName),
}

impl Slot {
    pub(super) fn name(&self) -> &SlotName {
        match self {
            Slot::Configured(slot) | Slot::Temporary(slot) => slot,
        }
    }
}

impl Capture {
    /// Whether what is committed between two sessions is kept for the next one.
    pub(super) fn keeps(&self) -> bool {
        match self {
            Capture::Wal(wal) => matches!(wal.slot, Slot::Configured(_)),
            Capture::Triggers(triggers) => triggers.reads == Reads::Drain,
        }
    }
}

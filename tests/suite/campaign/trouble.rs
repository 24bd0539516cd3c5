//! What befalls a schedule, from several sides at once.

mod outbox;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::sleep;

use super::capture::Capture;
use super::journal::Journal;
use super::rng::Rng;
use super::schedule::Fault;
use super::sidecar::Sidecar;
use super::summary::Counts;
use crate::harness::{
    cluster::{FAST, Stop},
    database::Database,
    endpoint::{self, Endpoint, Event},
    proxy::{Pace, Proxy, Which},
    wait::{SOON, eventually},
};

/// Of the requests that meet a fault while the endpoint answers badly.
const BAD_ANSWERS_PERCENT: u64 = 25;
/// Written past the limit of retained log, so that rowcast has to give it up.
const SHED_BYTES: u32 = 12 << 20;

/// Where a crash would do the most harm: something is done, and what belongs to it is not.
const FAILPOINTS: [&str; 2] = ["state-due", "state-written"];

const WHICH: [Which; 3] = [Which::All, Which::Streaming, Which::Ordinary];

/// Those who may be befallen.
pub(super) struct Trouble<'a> {
    pub(super) capture: Capture,
    pub(super) database: &'a Database,
    pub(super) endpoint: &'a RwLock<Endpoint>,
    pub(super) proxy: &'a Proxy,
    pub(super) sidecar: &'a mut Sidecar,
    pub(super) journal: &'a Journal,
    pub(super) counts: &'a mut Counts,
    pub(super) rng: Rng,
    pub(super) bad_answers: Arc<AtomicU64>,
    pub(super) proxy_is_troubled: bool,
    /// How many rows were written that nobody else writes.
    pub(super) late: u64,
}

impl Trouble<'_> {
    /// One of them, and often while another lasts.
    pub(super) async fn strike_any(&mut self, faults: &[Fault]) {
        let fault = *self.rng.pick(faults);
        let lasting = *self.rng.pick(faults);
        let needs_endpoint = matches!(fault, Fault::Away | Fault::Shed);
        let is_lasting = match lasting {
            Fault::Away => !needs_endpoint,
            Fault::Stall | Fault::Slow | Fault::Answers => lasting != fault,
            _ => false,
        };
        if !is_lasting {
            return self.strike_alone(fault).await;
        }
        self.journal.note(format!("{lasting:?} begins"));
        self.begin(lasting).await;
        self.strike(fault).await;
        self.end(lasting).await;
        self.journal.note(format!("{lasting:?} ends"));
    }

    /// Often while the endpoint is slow, and has been for so long that what it has not yet been sent would be
    /// confirmed, if it were confirmed by mistake.
    async fn strike_alone(&mut self, fault: Fault) {
        let ends_session =
            matches!(fault, Fault::Kill | Fault::Stop | Fault::Restart | Fault::Crash | Fault::Cut);
        if !ends_session || self.rng.percent(30) {
            return self.strike(fault).await;
        }
        let late = self.rng.millis(200, 450);
        self.endpoint.read().await.choose(move |_: &[Event]| Some(endpoint::Fault::Slow(late)));
        self.pause(1200, 2000).await;
        self.strike(fault).await;
        self.endpoint.read().await.heal();
    }

    /// Does it, and waits until it is over, but for what rowcast makes of it.
    async fn strike(&mut self, fault: Fault) {
        self.journal.note(format!("{fault:?}"));
        self.sidecar.check();
        match fault {
            Fault::Kill => self.kill().await,
            Fault::Stop => {
                self.counts.stops += 1;
                self.sidecar.stop().await;
                self.pause(0, 300).await;
                self.sidecar.start_again();
            }
            Fault::Freeze => {
                self.counts.freezes += 1;
                self.sidecar.freeze();
                if self.capture.is_triggers() {
                    self.cross().await;
                }
                self.pause(50, 2500).await;
                self.sidecar.thaw();
            }
            Fault::Restart => {
                self.counts.restarts += 1;
                let cluster = &self.database.cluster;
                let took = cluster.stop(Stop::Fast).await;
                // A rowcast that the server cannot reach can do nothing for it.
                let is_prompt = took < FAST || self.proxy_is_troubled;
                assert!(is_prompt, "pg_ctl stop -m fast took {took:?}");
                self.pause(0, 500).await;
                self.database.cluster.start_again().await;
            }
            Fault::Crash => {
                self.counts.crashes += 1;
                match self.rng.percent(50) {
                    true => self.database.cluster.crash().await,
                    false => drop(self.database.cluster.stop(Stop::Immediate).await),
                }
                self.pause(0, 500).await;
                self.database.cluster.start_again().await;
            }
            Fault::Cut => {
                self.counts.cuts += 1;
                let which = self.which();
                self.proxy.cut(which);
            }
            Fault::Stall | Fault::Slow | Fault::Answers | Fault::Away => {
                self.begin(fault).await;
                // A stall may last so long that the server gives up.
                let longest = if self.rng.percent(10) { 7000 } else { 2500 };
                self.pause(50, longest).await;
                self.end(fault).await;
            }
            Fault::DropSlot => self.drop_slot().await,
            Fault::LoseState => {
                self.counts.losses += 1;
                if self.rng.percent(50) {
                    self.sidecar.stop().await
                } else {
                    self.sidecar.kill().await
                }
                self.sidecar.lose_state();
                self.sidecar.start_again();
            }
            Fault::Shed if self.capture.is_triggers() => self.fill_outbox().await,
            Fault::Shed => self.shed().await,
            Fault::Failpoint => {
                self.counts.kills += 2;
                self.sidecar.kill().await;
                let place = self.rng.pick(&FAILPOINTS);
                self.sidecar.start_until(place, Duration::from_secs(4)).await;
                self.sidecar.start_again();
            }
            Fault::Relieve => {
                self.counts.kills += 1;
                let after = self.rng.millis(0, 2000);
                self.sidecar.relieve(after).await;
            }
            Fault::LockOutbox => self.lock_outbox().await,
            Fault::TruncateOutbox => self.truncate_outbox().await,
            Fault::DropOutbox => self.drop_outbox().await,
            Fault::Rename => self.rename().await,
        }
        self.journal.note(format!("{fault:?} is over"));
    }

    fn which(&mut self) -> Which {
        match self.capture.is_triggers() {
            true if self.rng.percent(50) => Which::One(self.rng.below(10) as usize),
            true => Which::All,
            false => *self.rng.pick(&WHICH),
        }
    }

    async fn kill(&mut self) {
        // Also while it starts, or waits for its predecessor's slot.
        for _ in 0..=self.rng.below(2) {
            self.counts.kills += 1;
            self.sidecar.kill().await;
            self.sidecar.start_again();
            self.pause(0, 400).await;
        }
    }

    /// Of those that last: until [`Trouble::end`].
    async fn begin(&mut self, fault: Fault) {
        let which = self.which();
        let latency = self.rng.millis(1, 60);
        self.proxy_is_troubled |= matches!(fault, Fault::Stall | Fault::Slow);
        match fault {
            Fault::Stall => {
                self.counts.stalls += 1;
                self.proxy.stall(which);
            }
            Fault::Slow => {
                self.counts.stalls += 1;
                self.proxy.slow(Pace { bytes_per_second: 100_000, latency });
            }
            Fault::Answers => self.answer_badly().await,
            Fault::Away => {
                self.counts.endpoint_faults += 1;
                self.endpoint.write().await.refuse_connections().await;
            }
            _ => unreachable!("{fault:?} is over at once"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Stall | Fault::Slow => {
                self.proxy.resume();
                self.proxy_is_troubled = false;
            }
            Fault::Answers => {
                self.endpoint.read().await.heal();
                self.counts.endpoint_faults += self.bad_answers.swap(0, Ordering::Relaxed);
            }
            Fault::Away => self.endpoint.write().await.come_back(),
            _ => unreachable!("{fault:?} is over at once"),
        }
    }

    async fn answer_badly(&mut self) {
        let mut rng = self.rng.fork();
        let count = self.bad_answers.clone();
        let endpoint = self.endpoint.read().await;
        endpoint.choose(move |_: &[Event]| {
            let fault = rng.percent(BAD_ANSWERS_PERCENT).then(|| bad_answer(&mut rng))?;
            count.fetch_add(1, Ordering::Relaxed);
            Some(fault)
        });
        if self.rng.percent(30) {
            endpoint.probe_fault(endpoint::Fault::status(500));
            endpoint.list_fault(bad_answer(&mut self.rng));
        }
    }

    async fn drop_slot(&mut self) {
        self.counts.losses += 1;
        self.sidecar.kill().await;
        let client = self.database.client().await;
        // It may be gone: rowcast was killed before it had made it again.
        let sql = format!(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{}'",
            self.database.slot()
        );
        eventually(SOON, "the slot is free", async || client.batch_execute(&sql).await.ok()).await;
        self.pause(0, 300).await;
        if self.rng.percent(50) {
            assert_eq!(self.sidecar.try_set_up().await, Ok(()));
        }
        self.pause(0, 300).await;
        self.sidecar.start_again();
    }

    async fn shed(&mut self) {
        self.counts.losses += 1;
        self.endpoint.write().await.refuse_connections().await;
        self.pause(0, 300).await;
        let client = self.database.client().await;
        let sql =
            format!("select pg_logical_emit_message(false, 'campaign', repeat('x', {SHED_BYTES}))");
        client.batch_execute(&sql).await.expect("anyone may");
        self.pause(1000, 4000).await;
        self.endpoint.write().await.come_back();
    }

    async fn pause(&mut self, from: u64, to: u64) {
        sleep(self.rng.millis(from, to)).await;
    }
}

fn bad_answer(rng: &mut Rng) -> endpoint::Fault {
    use endpoint::Fault;
    match rng.below(9) {
        0 => Fault::status(500),
        1 => Fault::status(503),
        2 => Fault::retry_after(429, "0"),
        3 => Fault::retry_after(429, "1"),
        4 => Fault::Hang,
        5 => Fault::CloseBeforeAnswer,
        6 => Fault::AcceptThenReset,
        7 => Fault::AcceptBut { code: 500, body: String::new() },
        _ => Fault::Slow(rng.millis(10, 900)),
    }
}

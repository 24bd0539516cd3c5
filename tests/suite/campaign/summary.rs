use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What befell, and what came of it.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) seeds: u64,
    pub(super) changes: u64,
    /// Transactions that ended long after others that began later.
    pub(super) late: u64,
    pub(super) kills: u64,
    pub(super) stops: u64,
    pub(super) freezes: u64,
    pub(super) restarts: u64,
    pub(super) crashes: u64,
    pub(super) cuts: u64,
    pub(super) stalls: u64,
    pub(super) endpoint_faults: u64,
    /// Of slots, outboxes, state files, or the backlog.
    pub(super) losses: u64,
    pub(super) duplicates: u64,
    /// The longest write that waited for no other writer.
    pub(super) longest_write: Duration,
    /// By reason: messages, one for each channel and event.
    pub(super) resyncs: BTreeMap<String, u64>,
    pub(super) lost: u64,
    pub(super) breaches: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        let Counts {
            seeds,
            changes,
            late,
            kills,
            stops,
            freezes,
            restarts,
            crashes,
            cuts,
            stalls,
            endpoint_faults,
            losses,
            duplicates,
            longest_write,
            resyncs,
            lost,
            breaches,
        } = other;
        self.seeds += seeds;
        self.changes += changes;
        self.late += late;
        self.kills += kills;
        self.stops += stops;
        self.freezes += freezes;
        self.restarts += restarts;
        self.crashes += crashes;
        self.cuts += cuts;
        self.stalls += stalls;
        self.endpoint_faults += endpoint_faults;
        self.losses += losses;
        self.duplicates += duplicates;
        self.longest_write = self.longest_write.max(longest_write);
        for (reason, count) in resyncs {
            *self.resyncs.entry(reason).or_default() += count;
        }
        self.lost += lost;
        self.breaches += breaches;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resyncs = self.resyncs.iter().map(|(reason, count)| format!("{reason}={count}"));
        let resyncs: Vec<String> = resyncs.collect();
        let Counts { seeds, changes, late, kills, stops, freezes, restarts, crashes, cuts, .. } =
            self;
        let Counts { stalls, endpoint_faults, losses, duplicates, lost, breaches, .. } = self;
        let longest_write = self.longest_write.as_millis();
        write!(
            f,
            "seeds={seeds} changes={changes} late={late} kills={kills} stops={stops} freezes={freezes} \
             restarts={restarts} crashes={crashes} cuts={cuts} stalls={stalls} \
             endpoint_faults={endpoint_faults} losses={losses} duplicates={duplicates} \
             longest_write_ms={longest_write} resyncs{{{}}} breaches={breaches} lost={lost}",
            resyncs.join(",")
        )
    }
}

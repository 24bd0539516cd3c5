//! The table, and the same as one line of JSON.

use serde_json::{Value, json};

use crate::{
    backlog::{Backlog, Run, Sent},
    cost::Cost,
};

#[derive(Default)]
pub(crate) struct Report {
    backlogs: Vec<Value>,
    title: String,
    changes: u64,
    runs: Vec<Value>,
    /// Of `pg_recvlogical`, in seconds.
    discarded: Vec<f64>,
    delivered: Vec<(String, f64)>,
}

impl Report {
    /// What is measured from now on drains this one.
    pub(crate) fn backlog(&mut self, backlog: &Backlog<'_>) {
        self.title = backlog.load.title();
        self.changes = backlog.changes();
        println!("{}", self.title);
        println!(
            "{:<24} {:>7} {:>9} {:>6} {:>6} {:>7} {:>8} {:>9} {:>8} {:>6} {:>10}",
            "",
            "wall s",
            "changes/s",
            "cpu s",
            "of sys",
            "peak MB",
            "events",
            "resyncs",
            "requests",
            "lists",
            "endp.'s cpu",
        );
    }

    /// Said at once: the next one takes a while.
    pub(crate) fn run(&mut self, run: &Run) {
        let Cost { wall, user_cpu, system_cpu, peak_bytes } = run.cost;
        let (wall, cpu) = (wall.as_secs_f64(), (user_cpu + system_cpu).as_secs_f64());
        print!(
            "{:<24} {wall:>7.2} {:>9.0} {cpu:>6.2} {:>6.2} {:>7.1}",
            run.name,
            self.changes as f64 / wall,
            system_cpu.as_secs_f64(),
            peak_bytes as f64 / 1e6,
        );
        let mut measured = json!({
            "name": run.name,
            "wall_s": wall,
            "cpu_s": cpu,
            "system_cpu_s": system_cpu.as_secs_f64(),
            "cpu_s_per_million": cpu * 1e6 / self.changes as f64,
            "peak_bytes": peak_bytes,
        });
        match &run.sent {
            None => {
                self.discarded.push(wall);
                println!();
            }
            Some(Sent { tally, endpoint_cpu }) => {
                self.delivered.push((run.name.clone(), wall));
                let endpoint_cpu = endpoint_cpu.as_secs_f64();
                println!(
                    " {:>8} {:>9} {:>8} {:>6} {endpoint_cpu:>10.2}",
                    tally.events, tally.resyncs, tally.requests, tally.lists
                );
                measured["sent"] = json!({
                    "events": tally.events,
                    "resyncs": tally.resyncs,
                    "requests": tally.requests,
                    "lists": tally.lists,
                    "endpoint_cpu_s": endpoint_cpu,
                });
            }
        }
        self.runs.push(measured);
    }

    pub(crate) fn backlog_ends(&mut self) {
        let best = self.discarded.drain(..).fold(f64::INFINITY, f64::min);
        let ratios: Vec<(String, f64)> =
            self.delivered.drain(..).map(|(name, wall)| (name, wall / best)).collect();
        for (name, ratio) in &ratios {
            println!("{name:<24} {ratio:>7.2} of pg_recvlogical's best wall time");
        }
        self.backlogs.push(json!({
            "backlog": self.title,
            "changes": self.changes,
            "runs": std::mem::take(&mut self.runs),
            "wall_ratios": ratios,
        }));
    }

    pub(crate) fn end(self) {
        println!("{}", json!({ "bench": "drain", "backlogs": self.backlogs }));
    }
}

//! What a process costs.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::harness::process::Process;

/// Between looks at a process: its end and its memory are known to within this.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) user_cpu: Duration,
    pub(crate) system_cpu: Duration,
    pub(crate) peak_bytes: u64,
}

impl Cost {
    /// Of a process from its start to its end. Nothing else that this process started may end meanwhile: the system
    /// tells only what all children used that have ended.
    pub(crate) async fn of(start: impl FnOnce() -> Process, deadline: Duration) -> (Self, Process) {
        let [.., user_before, system_before] = cpu_times("self");
        let began = Instant::now();
        let process = start();
        let mut peak_bytes = 0;
        while process.is_running() {
            peak_bytes = peak_memory_bytes(process.pid()).unwrap_or(peak_bytes);
            assert!(began.elapsed() < deadline, "not done within {deadline:?}");
            tokio::time::sleep(LOOK).await;
        }
        let wall = began.elapsed();
        let [.., user_after, system_after] = cpu_times("self");
        let user_cpu = user_after - user_before;
        let system_cpu = system_after - system_before;
        (Self { wall, user_cpu, system_cpu, peak_bytes }, process)
    }
}

/// What this process itself has used.
pub(crate) fn own_cpu() -> Duration {
    let [user, system, ..] = cpu_times("self");
    user + system
}

/// What the children of a process have used that have ended.
#[allow(dead_code, reason = "only one of the benches asks")]
pub(crate) fn ended_childrens_cpu(pid: &str) -> Duration {
    let [.., user, system] = cpu_times(pid);
    user + system
}

/// What a process has used, exactly, as long as none of its threads ends.
#[allow(dead_code, reason = "only one of the benches asks")]
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    let nanoseconds = threads.filter_map(|thread| {
        // https://docs.kernel.org/scheduler/sched-stats.html: the time spent on the cpu comes first.
        let stat = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// A process' time in user and system mode, then the same of its children that have ended.
fn cpu_times(pid: &str) -> [Duration; 4] {
    /// `USER_HZ`, the same on every Linux.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is running");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    // https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: `utime` is the 14th field, the 12th after the name.
    let mut times = fields.split_whitespace().skip(11).map(|ticks| {
        let ticks: u64 = ticks.parse().expect("it is a number");
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    });
    std::array::from_fn(|_| times.next().expect("there are more fields than these"))
}

/// `None` once it has ended.
fn peak_memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

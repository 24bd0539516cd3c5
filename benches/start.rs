//! From the start of the process to "streaming changes", and what it holds in memory once it is idle. Beside each
//! start, in turn, `psql -c 'select 1'`: what it costs here to start a process that asks Postgres one thing.
//!
//! `cargo bench --bench start`
#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

#[expect(unreachable_pub, reason = "nothing of a bench can be reached from outside")]
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest of it")]
#[path = "../tests/suite/harness/mod.rs"]
mod harness;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rowcast::deliver::pusher::Server;
use rustix::process::{Pid, Signal, kill_process};

use harness::{
    capture::Capture, cluster::Version, database::Database, endpoint::Endpoint, rowcast::Rowcast,
};

const STARTS: usize = 20;
const TABLES: usize = 10;
const IDLE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let endpoint = Endpoint::start(Server::Sockudo);
    for capture in [Capture::Wal, Capture::Triggers] {
        let database = Database::on(Version::DEFAULT).await;
        let rowcast = scene(&database, capture, &endpoint).await;
        let url = database.url();
        let (mut starts, mut questions) = (Vec::new(), Vec::new());
        // The first one tells every page to fetch again.
        start(&rowcast).end();
        for _ in 0..STARTS {
            questions.push(ask(&url));
            let run = start(&rowcast);
            starts.push(run.took);
            run.end();
        }
        println!("{capture}, {TABLES} tables, {STARTS} starts:");
        println!("  to \"streaming changes\": {}", Figures::of(starts));
        println!("  psql -c 'select 1':     {}", Figures::of(questions));
        let run = start(&rowcast);
        tokio::time::sleep(IDLE).await;
        let [all, own, files] = ["VmRSS", "RssAnon", "RssFile"].map(|name| run.memory_kb(name));
        println!(
            "  idle after {} s: {:.1} MB of memory, {:.1} MB its own and {:.1} MB of its files",
            IDLE.as_secs(),
            megabytes(all),
            megabytes(own),
            megabytes(files),
        );
        run.end();
    }
}

async fn scene(database: &Database, capture: Capture, endpoint: &Endpoint) -> Rowcast {
    let mut rules = String::new();
    for n in 0..TABLES {
        database.psql(&format!("create table t{n} (id int primary key, title text)")).await;
        rules.push_str(&format!("[[rule]]\ntable = 't{n}'\nchannels = ['t{n}.{{{{ id }}}}']\n"));
    }
    let rowcast = Rowcast::new(&format!(
        "{}[pusher]\n{}[run]\nstate_dir = 'state'\nadmin = '127.0.0.1:{}'\n{rules}",
        database.toml_over(capture).await,
        endpoint.toml(),
        harness::scratch::free_port(),
    ));
    database.set_up(&rowcast, capture).await;
    rowcast
}

struct Run {
    child: Child,
    took: Duration,
}

/// Returns once it streams.
fn start(rowcast: &Rowcast) -> Run {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_rowcast"))
        .arg("run")
        .current_dir(rowcast.folder())
        .env("HOME", rowcast.folder())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rowcast starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let streams = lines.any(|line| line.is_ok_and(|line| line.contains("streaming changes")));
    let took = begun.elapsed();
    assert!(streams, "it has ended");
    // Somebody has to read what it says.
    std::thread::spawn(move || lines.for_each(drop));
    Run { child, took }
}

impl Run {
    fn memory_kb(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kb.expect("a line of the kernel's").parse().expect("it is a number")
    }

    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        assert!(self.child.wait().expect("it is our child").success());
    }
}

fn ask(url: &str) -> Duration {
    let begun = Instant::now();
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "--command", "select 1", url]).stdout(Stdio::null());
    assert!(psql.status().expect("psql is there").success());
    begun.elapsed()
}

struct Figures(Vec<Duration>);

impl Figures {
    fn of(mut took: Vec<Duration>) -> Figures {
        took.sort();
        Figures(took)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |took: Duration| took.as_secs_f64() * 1000.0;
        let Figures(took) = self;
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        write!(
            f,
            "{:.0} ms at best, p50 {:.0} ms, {:.0} ms at worst",
            ms(took[0]),
            ms(median),
            ms(longest)
        )
    }
}

fn megabytes(kb: f64) -> f64 {
    kb * 1024.0 / 1e6
}

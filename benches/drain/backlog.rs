//! What was committed while nobody read, who drains it, and what that took.

use std::{fs, process::Command, time::Duration};

use crate::{
    cost::{self, Cost},
    endpoint::{Endpoint, Tally},
    harness::{
        cluster::Version, database::Database, process::Process, rowcast::Rowcast, scratch,
        wait::SOON,
    },
    load::{Load, Updated},
};

const CHANNELS: usize = 2;
const DEADLINE: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it comes: changes of a row are folded, and a flood is told by resyncs.
    Default,
    /// Every change by itself.
    Each,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Default, Self::Each];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Each => "each",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Each => "coalesce = false\nresync = false\n",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Reader {
    /// `pg_recvlogical`, which throws away what it reads.
    Discard,
    Rowcast {
        mode: Mode,
        server: &'static str,
    },
}

/// One that drains a slot of its own.
pub(crate) struct Turn {
    reader: Reader,
    slot: String,
    rowcast: Option<Rowcast>,
}

/// Committed updates of `posts`, and for each turn a slot that begins before them.
pub(crate) struct Backlog<'a> {
    pub(crate) load: Load,
    database: &'a Database,
    endpoint: &'a Endpoint,
    turns: Vec<Turn>,
    /// Where it ends.
    end: String,
    /// By the rows' ids, from 1.
    updated: Vec<Updated>,
}

/// One drained slot.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) cost: Cost,
    pub(crate) sent: Option<Sent>,
}

pub(crate) struct Sent {
    pub(crate) tally: Tally,
    /// What receiving it cost the endpoint, on the same cores.
    pub(crate) endpoint_cpu: Duration,
}

impl Reader {
    fn name(self) -> String {
        match self {
            Self::Discard => "pg_recvlogical".to_owned(),
            Self::Rowcast { mode: Mode::Default, .. } => "rowcast, default rule".to_owned(),
            Self::Rowcast { mode: Mode::Each, server } => format!("rowcast, each, {server}"),
        }
    }
}

impl<'a> Backlog<'a> {
    pub(crate) async fn write(
        database: &'a Database,
        endpoint: &'a Endpoint,
        load: Load,
        readers: &[Reader],
    ) -> Self {
        load.seed(database).await;
        endpoint.occupy(load.occupied());
        let mut turns = Vec::new();
        for (number, reader) in readers.iter().enumerate() {
            turns.push(Turn::new(database, endpoint, *reader, number));
        }
        let first = Rowcast::new(&config(database, endpoint, &turns[0].slot, Mode::Default, "any"));
        succeeds(&first, &["setup"]).await;
        // Copied before anything is written: a copy does not have to decode its way to the start.
        for turn in &turns[1..] {
            let (made, copy) = (&turns[0].slot, &turn.slot);
            database
                .psql(&format!("select pg_copy_logical_replication_slot('{made}', '{copy}')"))
                .await;
        }
        for rowcast in turns.iter().filter_map(|turn| turn.rowcast.as_ref()) {
            // At its first start it would have every page fetch again.
            succeeds(rowcast, &["run", "--once"]).await;
        }
        let updated = load.write(database).await;
        let end = database.psql("select pg_current_wal_flush_lsn()").await;
        Self { load, database, endpoint, turns, end, updated }
    }

    pub(crate) fn turns(&self) -> &[Turn] {
        &self.turns
    }

    pub(crate) fn changes(&self) -> u64 {
        self.updated.iter().map(|row| u64::from(row.times)).sum()
    }

    pub(crate) async fn drain(&self, turn: &Turn) -> Run {
        let name = turn.reader.name();
        match (turn.reader, &turn.rowcast) {
            (Reader::Rowcast { mode, .. }, Some(rowcast)) => {
                let (cost, sent) = self.deliver(rowcast).await;
                match mode {
                    Mode::Default => self.assert_told(&sent.tally),
                    Mode::Each => self.assert_delivered(&sent.tally),
                }
                Run { name, cost, sent: Some(sent) }
            }
            _ => Run { name, cost: self.discard(&turn.slot).await, sent: None },
        }
    }

    async fn discard(&self, slot: &str) -> Cost {
        let Database { name, cluster } = self.database;
        let folder = scratch::folder("pg_recvlogical");
        let mut command = Command::new(Version::DEFAULT.bin().join("pg_recvlogical"));
        command
            .args(["--start", "--no-loop", "--file=/dev/null", "--option=proto_version=1"])
            .arg(format!("--option=publication_names={name}"))
            .args(["--slot", slot, "--endpos", &self.end])
            .args(["--dbname", &cluster.url(name)]);
        let (cost, process) =
            Cost::of(|| Process::spawn(&mut command, folder.path()), DEADLINE).await;
        assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
        cost
    }

    async fn deliver(&self, rowcast: &Rowcast) -> (Cost, Sent) {
        self.endpoint.forget();
        let endpoint_cpu = cost::own_cpu();
        let (cost, process) = Cost::of(|| rowcast.start(&["run", "--once"]), DEADLINE).await;
        assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
        let endpoint_cpu = cost::own_cpu() - endpoint_cpu;
        let rejected = fs::read(rowcast.folder().join("state/rejected.jsonl")).unwrap_or_default();
        assert!(rejected.is_empty(), "{}", String::from_utf8_lossy(&rejected));
        let tally = self.endpoint.tally();
        assert_eq!(tally.strange, 0, "every request is understood, and every row's order is kept");
        (cost, Sent { tally, endpoint_cpu })
    }

    /// Every page that is open, after the last change of its row.
    fn assert_told(&self, tally: &Tally) {
        let changed_at = |id: usize| self.updated[id - 1].last_at;
        let untold: Vec<usize> =
            self.load.occupied().filter(|id| !tally.has_told(*id, changed_at(*id))).collect();
        assert!(untold.is_empty(), "pages that are stale: {untold:?}");
        assert!(tally.changes >= self.changes(), "the list was told of {} changes", tally.changes);
    }

    fn assert_delivered(&self, tally: &Tally) {
        let times: Vec<u32> =
            std::iter::once(0).chain(self.updated.iter().map(|row| row.times)).collect();
        assert_eq!(tally.lost(&times), 0);
        assert_eq!(tally.events, self.changes() * CHANNELS as u64, "each once on each channel");
        assert_eq!(tally.resyncs, 0);
    }
}

impl Turn {
    fn new(database: &Database, endpoint: &Endpoint, reader: Reader, number: usize) -> Self {
        let slot = format!("{}_{number}", database.name);
        let rowcast = match reader {
            Reader::Discard => None,
            Reader::Rowcast { mode, server } => {
                Some(Rowcast::new(&config(database, endpoint, &slot, mode, server)))
            }
        };
        Self { reader, slot, rowcast }
    }
}

async fn succeeds(rowcast: &Rowcast, arguments: &[&str]) {
    let process = rowcast.start(arguments);
    assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
}

fn config(
    database: &Database,
    endpoint: &Endpoint,
    slot: &str,
    mode: Mode,
    server: &str,
) -> String {
    format!(
        "[database]\nurl = '{}'\nslot = '{slot}'\npublication = '{}'\n\
         [pusher]\nurl = '{}'\napp_id = '1'\nkey = 'key'\nsecret = 'secret'\nserver = '{server}'\n\
         [run]\nstate_dir = 'state'\n\
         [[rule]]\ntable = 'posts'\nchannels = ['private-posts.{{{{ id }}}}', 'private-posts']\n{}",
        database.url(),
        database.name,
        endpoint.url(),
        mode.options(),
    )
}

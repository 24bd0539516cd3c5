//! What befalls the outbox of triggers, at the hands of people.

use std::time::Duration;

use tokio::time::sleep;

use super::Trouble;
use crate::campaign::shop::{LATE_IDS, PULSES};
use crate::harness::wait::{SOON, eventually};

/// What has to wait for everyone who writes gets through: latecomers stay shorter.
const GETS_LOCK: &str = "20s";
/// How many rows nobody else writes, for each fault.
const ROWS: u64 = 2_000;

const LOCK_MODES: [&str; 2] = ["access exclusive", "share row exclusive"];

impl Trouble<'_> {
    /// Meanwhile triggers can write nothing. A transaction of that time is committed long after it was found out.
    pub(super) async fn lock_outbox(&mut self) {
        self.counts.losses += 1;
        let locker = self.database.client().await;
        let mode = *self.rng.pick(&LOCK_MODES);
        // It waits for those who have written: others already wait for it.
        let lock =
            format!("begin; set local lock_timeout = '6s'; lock rowcast.outbox in {mode} mode");
        let held = self.rng.millis(1000, 4000);
        let locking = tokio::spawn(async move {
            // Without success others have waited, too.
            if locker.batch_execute(&lock).await.is_ok() {
                sleep(held).await;
            }
            let _ = locker.batch_execute("rollback").await;
        });
        self.pause(100, 500).await;
        let late = self.database.client().await;
        let id = self.own_rows();
        let insert = format!(
            "begin; insert into posts (id, owner, status, version) values ({id}, 1, 'late', nextval('versions'))"
        );
        late.batch_execute(&insert).await.expect("nobody else writes it");
        locking.await.expect("it never panics");
        self.pause(500, 2500).await;
        late.batch_execute("commit").await.expect("the server is there");
    }

    pub(super) async fn truncate_outbox(&mut self) {
        self.counts.losses += 1;
        let sql = format!("set lock_timeout = '{GETS_LOCK}'; truncate rowcast.outbox");
        let client = self.database.client().await;
        client.batch_execute(&sql).await.expect("everyone who writes is through by then");
    }

    pub(super) async fn drop_outbox(&mut self) {
        self.counts.losses += 1;
        let is_there = self.rng.percent(50);
        if !is_there {
            self.sidecar.kill().await;
        }
        let sql = format!("set lock_timeout = '{GETS_LOCK}'; drop table rowcast.outbox cascade");
        let client = self.database.client().await;
        client.batch_execute(&sql).await.expect("everyone who writes is through by then");
        self.pause(0, 2000).await;
        // Tables that are written to by long transactions may have it try again.
        eventually(Duration::from_secs(60), "it is set up again", async || {
            self.sidecar.try_set_up().await.ok()
        })
        .await;
        match is_there {
            true => self.sidecar.start_if_ended(),
            false => self.sidecar.start_again(),
        }
    }

    /// Rules cannot be followed meanwhile, and triggers fail.
    pub(super) async fn rename(&mut self) {
        self.counts.losses += 1;
        let client = self.database.client().await;
        let rename = async |from: &str, to: &str| {
            let sql =
                format!("set lock_timeout = '900ms'; alter table readings rename {from} to {to}");
            eventually(SOON, "nobody writes to the table", async || {
                client.batch_execute(&sql).await.ok()
            })
            .await;
        };
        rename("mark", "marked").await;
        self.pause(200, 2500).await;
        rename("marked", "mark").await;
        self.sidecar.start_if_ended();
    }

    /// With the endpoint away, more is written than the outbox may hold.
    pub(super) async fn fill_outbox(&mut self) {
        self.counts.losses += 1;
        self.endpoint.write().await.refuse_connections().await;
        self.pause(0, 300).await;
        let client = self.database.client().await;
        let first = self.own_rows();
        for from in (first..first + 1500).step_by(100) {
            let sql = format!(
                "insert into {} select i, 1, 'many', nextval('versions') from generate_series({from}, {from} + 99) i",
                PULSES.name
            );
            client.batch_execute(&sql).await.expect("nobody else writes them");
        }
        self.pause(1000, 4000).await;
        self.endpoint.write().await.come_back();
    }

    /// Two transactions change a row in another order than that in which they got their numbers and wrote first.
    pub(super) async fn cross(&mut self) {
        let (first, second) = (self.database.client().await, self.database.client().await);
        let row = self.own_rows();
        let insert = |id: u64| {
            format!(
                "insert into readings (id, owner, status, version) values ({id}, 1, 'crossed', nextval('versions'))"
            )
        };
        let update = format!("update readings set version = nextval('versions') where id = {row}");
        let steps = [
            (&second, insert(row)),
            (&first, format!("begin; {}", insert(row + 1))),
            (&second, update.clone()),
            (&first, format!("{update}; commit")),
        ];
        for (client, sql) in steps {
            // A bulk write may have locked both rows the other way round.
            if client.batch_execute(&sql).await.is_err() {
                break;
            }
        }
    }

    /// The first id of rows that nobody else writes.
    fn own_rows(&mut self) -> u64 {
        self.late += 1;
        2 * LATE_IDS + self.late * ROWS
    }
}

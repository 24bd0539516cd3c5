//! A database of a test's own on a shared cluster.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rowcast::change::Lsn;

use super::{
    capture::Capture,
    cluster::{Cluster, Version},
    rowcast::Rowcast,
    scratch,
    wait::{SOON, eventually},
};

/// Empty, dropped with its slots when the value is. Slots belong to the whole cluster: name them by `slot`.
pub struct Database {
    pub name: String,
    pub cluster: Arc<Cluster>,
}

impl Database {
    pub async fn fresh(cluster: &Arc<Cluster>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // template1 could not be copied while somebody is connected to it.
        let sql = format!("create database {name} template template0");
        cluster.client("postgres").await.batch_execute(&sql).await.expect("the superuser may");
        Self { name, cluster: cluster.clone() }
    }

    /// On the cluster that this process shares for that version.
    pub async fn on(version: Version) -> Self {
        Self::fresh(&Cluster::shared(version).await).await
    }

    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    pub fn socket_url(&self) -> String {
        self.cluster.socket_url(&self.name)
    }

    /// `[database]` of a configuration, with a slot and a publication of this database's own.
    pub fn toml(&self) -> String {
        let (url, slot) = (self.url(), self.slot());
        format!("[database]\nurl = '{url}'\nslot = '{slot}'\npublication = '{}'\n", self.name)
    }

    /// `[database]` for this capture.
    pub async fn toml_over(&self, capture: Capture) -> String {
        let url = self.url_over(capture).await;
        let (slot, publication) = (self.slot(), &self.name);
        match capture {
            Capture::Wal => self.toml(),
            Capture::Triggers => format!(
                "[database]\nurl = '{url}'\nslot = '{slot}'\npublication = '{publication}'\ncapture = 'triggers'\n"
            ),
        }
    }

    /// As whom rowcast runs. Triggers need no superuser and no REPLICATION: their role is made here.
    pub async fn url_over(&self, capture: Capture) -> String {
        if capture == Capture::Wal {
            return self.url();
        }
        self.psql(&format!("create role {} login", self.role())).await;
        self.url().replace("postgres@", &format!("{}@", self.role()))
    }

    /// Of triggers: it may log in and nothing else.
    pub fn role(&self) -> String {
        format!("rowcast_{}", self.name)
    }

    /// Runs `setup` as the superuser; with wal also what old rows are to carry.
    pub async fn set_up(&self, rowcast: &Rowcast, capture: Capture) {
        let url = self.url();
        let setup = match capture {
            Capture::Wal => rowcast.start(&["setup", "--identity"]),
            Capture::Triggers => rowcast.start(&["setup", "--url", &url]),
        };
        assert_eq!(setup.exit_code(SOON).await, 0, "over {capture}: {:?}", setup.stderr.all());
    }

    /// Waits until all that is committed is delivered. Over triggers that takes a second or so, since what is
    /// delivered is deleted together.
    pub async fn delivered(&self, capture: Capture) {
        let client = self.client().await;
        let written = self.written().await;
        eventually(SOON, "all is delivered", async || match capture {
            Capture::Wal => (self.confirmed().await >= written).then_some(()),
            Capture::Triggers => {
                let left = "select exists (select from rowcast.outbox)";
                let left = client.query_one(left, &[]).await.expect("the superuser may");
                (!left.get::<_, bool>(0)).then_some(())
            }
        })
        .await;
    }

    /// How far the slot is confirmed.
    pub async fn confirmed(&self) -> Lsn {
        let sql = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
        let row =
            self.client().await.query_one(sql, &[&self.slot()]).await.expect("the slot is there");
        row.get::<_, &str>(0).parse().expect("Postgres prints an LSN as one")
    }

    /// Where the log ends now.
    pub async fn written(&self) -> Lsn {
        let sql = "select pg_current_wal_lsn()::text";
        let row = self.client().await.query_one(sql, &[]).await.expect("anyone may ask");
        row.get::<_, &str>(0).parse().expect("Postgres prints an LSN as one")
    }

    /// A slot name that no other test has.
    pub fn slot(&self) -> String {
        format!("slot_{}", self.name)
    }

    pub async fn client(&self) -> tokio_postgres::Client {
        self.cluster.client(&self.name).await
    }

    pub async fn psql(&self, script: &str) -> String {
        self.cluster.psql(&self.name, script).await
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = &self.name;
        // An abandoned slot would retain the WAL of all the tests that follow. Dropping the database drops its slots,
        // but not one that is still in use.
        let release = format!(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots
             where database = '{name}' and active"
        );
        let drop = format!("drop database if exists {name} with (force)");
        let drop_role = format!("drop role if exists {}", self.role());
        // A failure leaves it to the end of the cluster, or says that the test has stopped that already.
        let _ = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--dbname",
                &self.cluster.url("postgres"),
                "-c",
                &release,
                "-c",
                &drop,
                "-c",
                &drop_role,
            ])
            // It must not wait for a standby that is away.
            .env("PGOPTIONS", "-c synchronous_commit=local")
            .current_dir(scratch::root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

//! The systems in a real browser: what the application's database commits is what its pages show, without anybody's
//! reloading them, and without disturbing whoever types or reads there.
//!
//! The pages are in `tests/client/browser`, with the application that serves them. The configurations are those of
//! `tests/systems`.

mod blog;
mod pos;
mod provisioning;
mod quickstart;

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::harness::{
    browser::{Browser, Window},
    cluster::Version,
    database::Database,
    node,
    process::Process,
    rowcast::Rowcast,
    sockudo::Sockudo,
    wait::{SOON, eventually},
};

/// A system at work. Its channels are named as in its configuration, so its Sockudo is its own.
struct Scene {
    browser: Browser,
    site: Process,
    site_port: u64,
    _run: Process,
    rowcast: Rowcast,
    database: Database,
    _sockudo: Sockudo,
}

impl Scene {
    /// Returns when changes are announced and nothing is owed any more.
    async fn of(system: &str, rows: &str) -> Self {
        let sockudo = Sockudo::start().await;
        let socket_port = sockudo.port;
        Self::with(system, rows, sockudo, socket_port).await
    }

    /// Pages find the Pusher-compatible server at `socket_port`.
    async fn with(system: &str, rows: &str, sockudo: Sockudo, socket_port: u16) -> Self {
        let browser = Browser::start();
        let database = Database::on(Version::DEFAULT).await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systems").join(system);
        let read = |name| fs::read_to_string(folder.join(name)).expect("each system has it");
        database.psql(&read("schema.sql")).await;
        database.psql(rows).await;

        let mut app = sockudo.app();
        app["port"] = socket_port.into();
        let users = json!({ "1": "Ann", "2": "Ben" });
        let argument = json!({ "app": app, "database": database.url(), "users": users });
        let site = node::start("browser/site.mjs", &argument);

        let rowcast = Rowcast::new(&read("rowcast.toml"))
            .env("DATABASE_URL", &database.url())
            .env("ROWCAST_SLOT", &database.slot())
            .env("PUSHER_URL", &sockudo.url())
            .env("PUSHER_SERVER", "sockudo")
            .env("REVERB_APP_ID", Sockudo::APP_ID)
            .env("REVERB_APP_KEY", Sockudo::KEY)
            .env("REVERB_APP_SECRET", Sockudo::SECRET)
            .env("STATE_DIRECTORY", "state");
        let setup = rowcast.start(&["setup", "--identity"]);
        assert_eq!(setup.exit_code(SOON).await, 0, "{:?}", setup.stderr.all());
        let run = rowcast.start(&["run"]);
        run.stderr.wait_for(SOON, "streaming changes").await;

        let port = |line: &str| serde_json::from_str::<Value>(line).ok()?["port"].as_u64();
        let site_port = site.stdout.find_after(0, SOON, "the site's port", port).await;
        let scene =
            Self { browser, site, site_port, _run: run, rowcast, database, _sockudo: sockudo };
        scene.settled().await;
        scene
    }

    async fn open(&self, page: &str) -> Window<'_> {
        let url = format!("http://127.0.0.1:{}/{page}", self.site_port);
        self.browser.open(&url).await
    }

    /// Returns when all that is committed has been announced.
    async fn announced(&self) {
        let written = self.database.written().await;
        eventually(SOON, "all is accepted", async || {
            (self.database.confirmed().await >= written).then_some(())
        })
        .await;
    }

    /// At its first start rowcast does not know what it has missed, so it tells a resync.
    async fn settled(&self) {
        let path = format!("state/state-{}.json", self.database.slot());
        let path = self.rowcast.folder().join(path);
        eventually(SOON, "nothing is owed", async || {
            let state: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            (state["owed"] == json!({})).then_some(())
        })
        .await;
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.site.stderr.all(), Vec::<std::sync::Arc<str>>::new());
        }
    }
}

//! A Sockudo: a Pusher-compatible server as users run it.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
};

use super::{cache, installed, node, process::Process, scratch, wait::eventually};

/// Knows one app. Killed when dropped: asked politely it drains for ten seconds.
pub struct Sockudo {
    pub port: u16,
    process: Process,
    _folder: TempDir,
}

impl Sockudo {
    pub const APP_ID: &str = "rowcast-tests";
    pub const KEY: &str = "app-key";
    pub const SECRET: &str = "app-secret";
    /// The application's, for encrypted channels. Sockudo does not know it.
    pub const ENCRYPTION_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

    pub async fn start() -> Self {
        // Another process may take the port before Sockudo does.
        for _ in 0..5 {
            let sockudo = Self::spawn(scratch::free_port());
            let up = eventually(Duration::from_secs(30), "Sockudo answers GET /up", async || {
                if !sockudo.process.is_running() {
                    return Some(false);
                }
                sockudo.answers().await.then_some(true)
            });
            if up.await {
                return sockudo;
            }
            let printed =
                [sockudo.process.stdout.all(), sockudo.process.stderr.all()].concat().join("\n");
            assert!(printed.contains("in use"), "Sockudo does not start: {printed}");
        }
        panic!("no port for Sockudo in five attempts");
    }

    /// The one that the tests of this process share: they use channels of their own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Sockudo> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    #[allow(dead_code, reason = "only a bench asks")]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends an event as an application does: by the `pusher` library for Node. Returns when it is accepted.
    pub async fn publish(&self, channels: &[&str], event: &str, data: &Value) {
        let app = self.app();
        let request = json!({ "app": app, "channels": channels, "event": event, "data": data });
        let publisher = node::start("publish.mjs", &request);
        let code = publisher.exit_code(Duration::from_secs(30)).await;
        assert_eq!(code, 0, "publish.mjs: {}", publisher.stderr.all().join("\n"));
    }

    /// What the Node scripts need to know.
    pub fn app(&self) -> Value {
        json!({
            "host": "127.0.0.1", "port": self.port,
            "app_id": Self::APP_ID, "key": Self::KEY, "secret": Self::SECRET,
            "encryption_key": Self::ENCRYPTION_KEY,
        })
    }

    fn spawn(port: u16) -> Self {
        let config = json!({
            "host": "127.0.0.1",
            "port": port,
            "metrics": { "enabled": false },
            // By default 100 requests per minute.
            "rate_limiter": { "enabled": false },
            "app_manager": { "driver": "memory", "array": { "apps": [{
                "id": Self::APP_ID, "key": Self::KEY, "secret": Self::SECRET, "enabled": true,
                "policy": { "limits": {
                    "max_connections": 1000,
                    "max_event_payload_in_kb": 100,
                    "max_event_channels_at_once": 100,
                    "max_event_batch_size": 50,
                } },
            }] } },
        });
        let folder = scratch::folder("sockudo");
        fs::write(folder.path().join("config.json"), config.to_string())
            .expect("the folder is writable");
        let mut command = Command::new(binary());
        command.args(["--config", "config.json"]);
        Self { port, process: Process::spawn(&mut command, folder.path()), _folder: folder }
    }

    async fn answers(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream
                .write_all(b"GET /up HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
        };
        ask.await.unwrap_or(false)
    }
}

fn binary() -> PathBuf {
    installed(cache().join("sockudo-5.2.0/bin/sockudo"))
}

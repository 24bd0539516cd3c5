//! What the running process says of itself, at its socket in the state folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// It answers from what it knows already.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What became of the question.
#[derive(Debug)]
pub(super) enum Asked {
    Answered(Box<Process>),
    /// Nothing listens there.
    NotRunning,
    Failed(anyhow::Error),
}

/// A process, as it sees itself. What another version does not tell is left at
/// its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub version: String,
    pub pid: u32,
    pub config: Option<PathBuf>,
    /// Since it was started.
    pub since_s: f64,
    pub words: String,
    pub source: State,
    pub endpoint: State,
    pub lag_seconds: Option<f64>,
    pub last_accepted_s: Option<f64>,
    pub pending: u64,
    pub pending_bytes: u64,
    pub in_flight: u64,
    pub owed: Vec<Owed>,
    pub rejected_total: u64,
    pub rejected_file: Option<PathBuf>,
    pub resyncs_total: u64,
    /// The answer itself.
    #[serde(skip)]
    pub told: Value,
}

/// How one side of it stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub state: String,
    pub for_s: Option<f64>,
    pub problem: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owed {
    pub rule: String,
    pub reason: String,
}

impl Process {
    pub(super) fn streams(&self) -> bool {
        self.source.state == "streaming"
    }

    /// Another one does the work, and this one is there to take over.
    pub(super) fn stands_by(&self) -> bool {
        self.source.state == "waiting"
    }

    /// The endpoint takes nothing until somebody changes something.
    pub(super) fn is_refused(&self) -> bool {
        self.endpoint.state == "stopped"
    }
}

pub(super) async fn ask(socket: &Path) -> Asked {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // A socket that nobody listens at is what a killed process left.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Asked::NotRunning;
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            return Asked::Failed(error.context(format!("cannot open {}", socket.display())));
        }
    };
    let answer = timeout(ANSWER_WITHIN, answer(stream)).await;
    let answer = answer.unwrap_or_else(|_| {
        Err(anyhow::anyhow!("it gives no answer within {} s", ANSWER_WITHIN.as_secs()))
    });
    match answer.with_context(|| format!("at {}", socket.display())) {
        Ok(process) => Asked::Answered(Box::new(process)),
        Err(error) => Asked::Failed(error),
    }
}

async fn answer(stream: UnixStream) -> anyhow::Result<Process> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/status").header(HOST, "rowcast").body(Empty::<Bytes>::new())?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        ensure!(status.is_success(), "it answers {status} to GET /status");
        read(&body)
    };
    // The connection is what carries the request; it ends with the answer.
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        answer = &mut asking => answer,
        ended = connection => {
            ended?;
            asking.await
        }
    }
}

fn read(body: &[u8]) -> anyhow::Result<Process> {
    let told: Value = serde_json::from_slice(body).context("its answer is no JSON")?;
    let process = Process::deserialize(&told).context("its answer is not understood")?;
    Ok(Process { told, ..process })
}

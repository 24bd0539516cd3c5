//! What the running process says of itself, at its socket in the state folder.

use std::io;
use std::path::Path;
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

use crate::observe::Status;

/// It answers from what it knows already.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What became of the question.
#[derive(Debug)]
pub(super) enum Asked {
    /// How it stands, and its own JSON, which a newer one may say more in.
    Answered(Box<Status>, Value),
    /// Nothing listens there.
    NotRunning,
    Failed(anyhow::Error),
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
        Ok((status, told)) => Asked::Answered(Box::new(status), told),
        Err(error) => Asked::Failed(error),
    }
}

async fn answer(stream: UnixStream) -> anyhow::Result<(Status, Value)> {
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

fn read(body: &[u8]) -> anyhow::Result<(Status, Value)> {
    let told: Value = serde_json::from_slice(body).context("its answer is no JSON")?;
    let status = Status::deserialize(&told).context("its answer is not understood")?;
    Ok((status, told))
}

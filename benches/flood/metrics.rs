//! What a running rowcast counts.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) async fn at(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nhost: rowcast\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers and closes");
        Self(answer)
    }

    pub(crate) fn updates(&self) -> u64 {
        self.sum("rowcast_changes_total{operation=\"update\"}")
    }

    /// Those that publish, and those for the occupied channels.
    pub(crate) fn requests(&self) -> u64 {
        self.sum("rowcast_requests_total{")
    }

    pub(crate) fn lists(&self) -> u64 {
        self.sum("rowcast_requests_total{operation=\"list\"")
    }

    pub(crate) fn resyncs(&self) -> u64 {
        self.sum("rowcast_resyncs_total{")
    }

    /// How many notifications were accepted, and how many seconds all of them took from their commits on.
    #[allow(dead_code, reason = "only the bench of latency asks")]
    pub(crate) fn delivery(&self) -> (u64, f64) {
        let series = "rowcast_delivery_seconds_sum ";
        let seconds = self.0.lines().find_map(|line| line.strip_prefix(series)?.parse().ok());
        (self.sum("rowcast_delivery_seconds_count "), seconds.unwrap_or(0.0))
    }

    /// Of the series that begin so.
    fn sum(&self, series: &str) -> u64 {
        let lines = self.0.lines().filter(|line| line.starts_with(series));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum()
    }
}

//! The ways in which rowcast learns of changes, and claims that are made of each.

use std::{fmt, future::poll_fn, pin::pin, thread};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    Wal,
    Triggers,
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wal => "wal",
            Self::Triggers => "triggers",
        })
    }
}

/// Makes the claim of each capture, side by side since most of a test is waiting. A failure says of which one it is.
pub async fn over_both(claim: impl AsyncFn(Capture)) {
    tokio::join!(
        named(Capture::Wal, claim(Capture::Wal)),
        named(Capture::Triggers, claim(Capture::Triggers)),
    );
}

async fn named(capture: Capture, claim: impl Future<Output = ()>) {
    let mut claim = pin!(claim);
    poll_fn(|context| {
        let _named = Named(capture);
        claim.as_mut().poll(context)
    })
    .await;
}

struct Named(Capture);

impl Drop for Named {
    #[expect(clippy::print_stderr, reason = "it belongs to the failure of the test")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("\ncapture = \"{}\": the panic above\n", self.0);
        }
    }
}

//! Waiting for a condition with a deadline, which is how tests wait.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Long enough for a busy machine, short enough to notice. For what is expected to happen soon.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is `Some`, and returns it. Panics with `what` after `deadline`.
pub async fn eventually<T, F>(deadline: Duration, what: &str, mut condition: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        match timeout_at(end, condition()).await {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < end => {}
            Ok(None) | Err(_) => panic!("not within {deadline:?}: {what}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

//! What an endpoint makes of requests that publish nothing: who is right about the
//! app, what it takes, and how late it is there.

use bytes::Bytes;

use super::client::{App, MAX_ANSWER_BYTES, PROBE};
use super::signature::Method;
use super::{Client, Problem};

/// What was observed.
#[derive(Debug)]
pub struct Examination {
    /// Of a signed `GET /channels`.
    pub known: Result<(), Problem>,
    /// How far this machine's clock is ahead of the endpoint's, where that tells.
    pub skew_seconds: Option<i64>,
    /// What else was tried, where the endpoint has answered and not as it should.
    pub trials: Vec<Trial>,
    /// Of an empty `POST /batch_events`, if all is well until here, and batches
    /// would be sent.
    pub batch: Option<Result<(), Problem>>,
    /// Of one that is as long as a request may be.
    pub largest: Option<Result<(), Problem>>,
}

/// The same request with one thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub change: Change,
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// What no server knows, in place of the configured one.
    AppId,
    Key,
    Secret,
    /// Without a query, as a proxy may forward it.
    NoQuery,
    /// The path prefix is signed where it was not, or not where it was.
    PrefixSigned,
    /// Without the path prefix.
    NoPrefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The answer is as it should be.
    Mends,
    /// The same answer: it does not depend on what was changed, or on what is wrong
    /// before that.
    None,
    /// Another answer: so what was changed was right.
    Other,
}

/// Nobody's id, key or secret.
const NOBODY: &str = "rowcast-doctor-nobody";

/// Publishes nothing.
const NO_EVENTS: &str = r#"{"batch":[]"#;

impl Client {
    /// Asks what is asked before anything is published, and publishes nothing.
    pub async fn examine(&self) -> Examination {
        let (known, skew_seconds) = self.ask().await;
        let mut trials = Vec::new();
        if let Err(problem) = &known
            && is_an_answer(problem)
        {
            for change in self.changes() {
                let effect = self.effect(change, problem).await;
                trials.push(Trial { change, effect });
            }
        }
        let capacity = self.app().packer.capacity;
        let (mut batch, mut largest) = (None, None);
        if known.is_ok() && capacity.batch_events > 0 {
            let small = self.empty_batch(0).await;
            if is_read(&small) {
                let large = self.empty_batch(capacity.body_bytes).await;
                largest = Some(if is_the_same(&small, &large) { Ok(()) } else { large });
            }
            batch = Some(if is_read(&small) { Ok(()) } else { small });
        }
        Examination { known, skew_seconds, trials, batch, largest }
    }

    async fn ask(&self) -> (Result<(), Problem>, Option<i64>) {
        match self.channels(PROBE, None, MAX_ANSWER_BYTES).await {
            Ok(response) => {
                let answer = response.answer();
                (answer.check(), answer.skew_seconds())
            }
            Err(problem) => (Err(problem), None),
        }
    }

    fn changes(&self) -> Vec<Change> {
        let mut changes = vec![Change::AppId, Change::Key, Change::Secret, Change::NoQuery];
        if self.app().has_prefix() {
            changes.extend([Change::PrefixSigned, Change::NoPrefix]);
        }
        changes
    }

    async fn effect(&self, change: Change, before: &Problem) -> Effect {
        let after = match change {
            Change::NoQuery => self.ask_without_query().await,
            change => self.changed(change).ask().await.0,
        };
        let Err(after) = after else { return Effect::Mends };
        // A server may quote what it does not know.
        let app = self.app();
        let quoted = match change {
            Change::AppId => &*app.id,
            Change::Key => &*app.key,
            Change::Secret | Change::NoQuery | Change::PrefixSigned | Change::NoPrefix => NOBODY,
        };
        let is_same = after.to_string().replace(NOBODY, quoted) == before.to_string();
        if is_same { Effect::None } else { Effect::Other }
    }

    fn changed(&self, change: Change) -> Client {
        let mut app = App::clone(self.app());
        match change {
            Change::AppId => app.id = NOBODY.to_owned(),
            Change::Key => app.key = NOBODY.to_owned(),
            Change::Secret => app.secret = crate::secret::Secret::new(NOBODY),
            Change::PrefixSigned => app.signs_prefix = !app.signs_prefix,
            Change::NoPrefix => app.prefix.clear(),
            Change::NoQuery => {}
        }
        self.with(app)
    }

    async fn ask_without_query(&self) -> Result<(), Problem> {
        let sent = self.http().get(self.app().url("channels")).send().await;
        let response = sent.map_err(|error| self.explain(error))?;
        self.read(response, MAX_ANSWER_BYTES).await?.answer().check()
    }

    /// Padded to so many bytes with spaces.
    async fn empty_batch(&self, bytes: usize) -> Result<(), Problem> {
        let mut body = NO_EVENTS.to_owned();
        let padding = bytes.saturating_sub(body.len() + 1);
        body.extend(std::iter::repeat_n(' ', padding));
        body.push('}');
        let sent = self.send(Method::Post, "batch_events", &[], Bytes::from(body)).await?;
        self.read(sent, MAX_ANSWER_BYTES).await?.answer().check()
    }
}

/// There are servers that ask for at least one event: they have read the request.
fn is_read(batch: &Result<(), Problem>) -> bool {
    matches!(batch, Ok(()) | Err(Problem::Answered { code: 400 | 422, .. }))
}

fn is_the_same(one: &Result<(), Problem>, other: &Result<(), Problem>) -> bool {
    match (one, other) {
        (Ok(()), Ok(())) => true,
        (Err(one), Err(other)) => one.to_string() == other.to_string(),
        _ => false,
    }
}

/// Whether it came from a server that speaks HTTP, so that another request may meet
/// something else.
fn is_an_answer(problem: &Problem) -> bool {
    match problem {
        Problem::Answered { .. }
        | Problem::ErrorWithoutCode { .. }
        | Problem::NotAnAnswer { .. }
        | Problem::ClockSkew { .. } => true,
        Problem::Redirected { .. }
        | Problem::Unreachable { .. }
        | Problem::Timeout(_)
        | Problem::BrokenOff(_)
        | Problem::ListTooLong { .. }
        | Problem::RefusedInARow { .. } => false,
    }
}

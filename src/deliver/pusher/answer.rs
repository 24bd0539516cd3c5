//! What an answer means. Pure.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::Server;
use super::connections::Cause;

/// Longest wait that `Retry-After` may ask for: meanwhile Postgres keeps its WAL.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Servers that look at a request's time refuse it ten minutes off.
pub const TOLERATED_SKEW_SECONDS: i64 = 300;

/// What became of a request that was to publish something.
#[derive(Debug)]
pub(in crate::deliver) enum Verdict {
    Accepted,
    /// The same request may be accepted later.
    Retry {
        problem: Problem,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// As `Retry`, but perhaps the request itself is bad.
    Doubt {
        problem: Problem,
    },
    /// The request is bad and stays so; others may be accepted.
    Reject {
        problem: Problem,
    },
    /// As `Reject`, and right after it the endpoint has accepted another.
    RejectAlone {
        problem: Problem,
    },
    /// No request can be accepted until somebody changes something.
    Stop {
        problem: Problem,
    },
    /// The server is well but has no `batch_events`.
    EventsOnly,
}

impl Verdict {
    pub(in crate::deliver) fn name(&self) -> &'static str {
        match self {
            Verdict::Accepted => "accepted",
            Verdict::Retry { .. } => "retry",
            Verdict::Doubt { .. } => "doubt",
            Verdict::Reject { .. } => "reject",
            Verdict::RejectAlone { .. } => "reject alone",
            Verdict::Stop { .. } => "stop",
            Verdict::EventsOnly => "events only",
        }
    }
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("the endpoint at {origin} cannot be reached: {}", root(&**cause))]
    Unreachable { origin: String, cause: Cause },
    #[error("the endpoint gave no answer within {0:?}")]
    Timeout(Duration),
    #[error("the endpoint closed the connection before its answer was whole: {}", root(&**.0))]
    BrokenOff(Cause),
    #[error("the endpoint answered {code}{message}")]
    Answered {
        /// The status, or the body's `code` where it has one.
        code: u16,
        message: ServerMessage,
    },
    #[error("the endpoint answered {status} with an error that has no code{message}")]
    ErrorWithoutCode { status: u16, message: ServerMessage },
    #[error("the endpoint redirects to {location} ({status})")]
    Redirected { status: u16, location: String },
    #[error("the endpoint answered {status} with {what}, which no Pusher-compatible server does")]
    NotAnAnswer { status: u16, what: NotAnAnswer },
    #[error("the endpoint's list of occupied channels is longer than {max_bytes} bytes")]
    ListTooLong { max_bytes: usize },
    #[error("this machine's clock is {skew_seconds} s off the endpoint's")]
    ClockSkew { skew_seconds: i64 },
    #[error("{count} notifications in a row were refused and none accepted")]
    RefusedInARow {
        count: u32,
        #[source]
        last: Box<Problem>,
    },
}

/// The cause of its causes, such as "Connection refused". What stands above it
/// says only which part of the HTTP client met it.
fn root(error: &(dyn Error + Send + Sync + 'static)) -> String {
    let errors = std::iter::successors(Some(error as &dyn Error), |&error| error.source());
    errors.last().map(ToString::to_string).unwrap_or_default()
}

/// What a 2xx held instead of JSON without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnAnswer {
    Nothing,
    Html,
    Text,
    /// Where the occupied channels were asked for.
    NoList,
}

impl fmt::Display for NotAnAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotAnAnswer::Nothing => "an empty body",
            NotAnAnswer::Html => "an HTML page",
            NotAnAnswer::Text => "something that is no JSON object",
            NotAnAnswer::NoList => "JSON that lists no channels",
        })
    }
}

/// What the server wrote about an error: short and printable, perhaps nothing.
/// Prints as `: the words`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage(String);

impl ServerMessage {
    const MAX_CHARS: usize = 200;

    /// Up to where a server repeats the request's signed query.
    pub fn new(text: &str) -> ServerMessage {
        let text = text.split("auth_key=").next().unwrap_or_default();
        let printable = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        ServerMessage(printable.take(Self::MAX_CHARS).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// An answer as it came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) retry_after: Option<&'a str>,
    pub(super) location: Option<&'a str>,
    pub(super) date: Option<&'a str>,
    pub(super) body: &'a [u8],
    /// This machine's time.
    pub(super) unix_seconds: i64,
}

impl Answer<'_> {
    /// Whether it accepts: 2xx and a JSON object or array without `error`.
    /// Soketi answers 200 to nearly every error, and a login page or a
    /// catch-all route answers 200 to anything.
    pub(super) fn check(self) -> Result<(), Problem> {
        let status = self.status;
        if (300..400).contains(&status) {
            // A redirect that keeps the query has the signature in it.
            let location = self.location.unwrap_or("nowhere");
            let location = location.split(['?', '#']).next().unwrap_or_default();
            let location = ServerMessage::new(location).0;
            return Err(Problem::Redirected { status, location });
        }
        let body = serde_json::from_slice::<Value>(self.body).ok();
        let error = body.as_ref().and_then(|body| body.get("error")).filter(|e| !e.is_null());
        let code = body.as_ref().and_then(|body| body.get("code")).and_then(Value::as_u64);
        let code = code.and_then(|code| u16::try_from(code).ok().filter(|c| is_error(*c)));
        let succeeded = self.is_success();
        let message = self.message(body.as_ref());
        match (succeeded, error.is_some(), &body) {
            (true, true, _) => Err(match code {
                Some(code) => self.explain(code, message),
                None => Problem::ErrorWithoutCode { status, message },
            }),
            (true, false, Some(Value::Object(_) | Value::Array(_))) => Ok(()),
            (true, false, _) => Err(Problem::NotAnAnswer { status, what: self.instead_of_json() }),
            (false, _, _) => Err(self.explain(code.unwrap_or(status), message)),
        }
    }

    /// How far this machine's clock is ahead of the server's.
    pub(super) fn skew_seconds(self) -> Option<i64> {
        let date = jiff::fmt::rfc2822::parse(self.date?).ok()?;
        Some(self.unix_seconds - date.timestamp().as_second())
    }

    pub(super) fn is_success(self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Why it is no list of channels.
    pub(super) fn judge_as_list(self, server: Server) -> Verdict {
        let Err(problem) = self.check() else {
            let problem = Problem::NotAnAnswer { status: self.status, what: NotAnAnswer::NoList };
            return problem.judge(server, None);
        };
        problem.judge(server, self.wait())
    }

    fn explain(self, code: u16, message: ServerMessage) -> Problem {
        let skew_seconds = self.skew_seconds().unwrap_or(0);
        if matches!(code, 401 | 403) && skew_seconds.abs() > TOLERATED_SKEW_SECONDS {
            return Problem::ClockSkew { skew_seconds };
        }
        Problem::Answered { code, message }
    }

    fn message(self, body: Option<&Value>) -> ServerMessage {
        match body {
            Some(Value::Object(object)) => {
                let words = ["error", "message"].iter().find_map(|key| object.get(*key)?.as_str());
                ServerMessage::new(words.unwrap_or_default())
            }
            Some(Value::String(text)) => ServerMessage::new(text),
            Some(_) => ServerMessage::default(),
            None if self.instead_of_json() == NotAnAnswer::Text => ServerMessage::new(
                &String::from_utf8_lossy(&self.body[..self.body.len().min(1000)]),
            ),
            None => ServerMessage::default(),
        }
    }

    fn instead_of_json(self) -> NotAnAnswer {
        match self.body.trim_ascii_start() {
            [] => NotAnAnswer::Nothing,
            [b'<', ..] => NotAnAnswer::Html,
            _ => NotAnAnswer::Text,
        }
    }

    /// How long the server asks to wait: seconds, or a date.
    fn wait(self) -> Option<Duration> {
        let text = self.retry_after?.trim();
        let seconds = match text.parse::<u64>() {
            Ok(seconds) => seconds,
            Err(_) => {
                let date = jiff::fmt::rfc2822::parse(text).ok()?;
                u64::try_from(date.timestamp().as_second() - self.unix_seconds).unwrap_or(0)
            }
        };
        Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
    }
}

fn is_error(code: u16) -> bool {
    (400..600).contains(&code)
}

/// What an answer to a publishing request means.
pub(super) fn judge(server: Server, answer: Answer<'_>) -> Verdict {
    match answer.check() {
        Ok(()) => Verdict::Accepted,
        Err(problem) => problem.judge(server, answer.wait()),
    }
}

impl Problem {
    /// Whether the request is repeated, given up, or everything stops.
    pub(super) fn judge(self, server: Server, after: Option<Duration>) -> Verdict {
        let problem = self;
        match problem {
            Problem::Unreachable { .. } | Problem::Timeout(_) | Problem::BrokenOff(_) => {
                Verdict::Retry { problem, after }
            }
            Problem::ErrorWithoutCode { .. } => Verdict::Doubt { problem },
            Problem::Redirected { .. }
            | Problem::NotAnAnswer { .. }
            | Problem::ListTooLong { .. }
            | Problem::ClockSkew { .. }
            | Problem::RefusedInARow { .. } => Verdict::Stop { problem },
            Problem::Answered { code, .. } => match code {
                // Pusher documents 413 for data over 10 KB, so it is about this
                // request; a proxy's 413 to everything stops after ten.
                400 | 413 | 415 | 422 => Verdict::Reject { problem },
                408 | 425 | 429 => Verdict::Retry { problem, after },
                500 if server.blames_itself_for_a_bad_request() => Verdict::Doubt { problem },
                500..=599 => Verdict::Retry { problem, after },
                // 401, 403, 404, 405 and whatever else nobody documents: the
                // next request would get the same. Pusher's 403 is "disabled"
                // or "over quota"; both pass only by somebody's doing.
                _ => Verdict::Stop { problem },
            },
        }
    }

    /// What may be logged: without the server's words where they may quote a
    /// notification. Its own words for a configuration error are the best clue.
    pub(in crate::deliver) fn for_the_log(&self) -> String {
        match self {
            Problem::Answered { code: 401 | 403 | 404 | 405 | 429 | 502..=504, .. } => {
                self.to_string()
            }
            Problem::RefusedInARow { last, .. } => format!("{self}: {}", last.kind()),
            Problem::ClockSkew { .. } | Problem::Redirected { .. } => self.to_string(),
            problem => problem.kind(),
        }
    }

    /// The same text for every occurrence of the same problem.
    pub(in crate::deliver) fn kind(&self) -> String {
        match self {
            Problem::Answered { code, .. } => format!("the endpoint answered {code}"),
            Problem::ErrorWithoutCode { status, .. } => {
                format!("the endpoint answered {status} with an error that has no code")
            }
            Problem::ClockSkew { .. } => "this machine's clock is off the endpoint's".to_owned(),
            // `location` may repeat the path, which differs between requests.
            Problem::Redirected { status, .. } => format!("the endpoint redirects ({status})"),
            problem => problem.to_string(),
        }
    }

    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Problem::Unreachable { .. } | Problem::Timeout(_) => {
                "check that the server runs, and scheme, host and port of `url` in [pusher]; a \
                 private certificate authority goes into `ca_file`"
            }
            Problem::Redirected { .. } => {
                "set `url` in [pusher] to the address that the redirect names, often https"
            }
            Problem::NotAnAnswer { .. } => {
                "`url` in [pusher] leads to another program: use the server's own port, or let \
                 the proxy in front of it forward /apps"
            }
            Problem::ListTooLong { .. } => {
                "begin the rule's channels with more text before their first {{ value }}"
            }
            Problem::ClockSkew { .. } => "set this machine's clock, for example by NTP",
            Problem::RefusedInARow { .. } => {
                "a proxy may refuse everything, or every rule makes what this server does not \
                 take: see the rejected file for the reasons, and set `server` in [pusher]"
            }
            Problem::Answered { code: 401, .. } => {
                "`key` and `secret` in [pusher] must be the server's own; behind a path prefix \
                 try `sign_path_prefix`"
            }
            Problem::Answered { code: 403, .. } => {
                "the app is disabled or over its quota: see the server's dashboard"
            }
            Problem::Answered { code: 404, .. } => {
                "the server knows no such app, or the path prefix of `url` is wrong: compare \
                 `app_id` and `url` in [pusher] with the server"
            }
            Problem::Answered { code: 405, .. } => {
                "something at `url` does not let POST requests through to the server's /apps"
            }
            Problem::Answered { code: 413, .. } => {
                "the request is too large: set `server` in [pusher], or let the proxy pass more"
            }
            Problem::BrokenOff(_) | Problem::ErrorWithoutCode { .. } | Problem::Answered { .. } => {
                return None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer { status, body: body.as_bytes(), unix_seconds: 1_800_000_000, ..Answer::default() }
    }

    fn verdict(server: Server, status: u16, body: &str) -> &'static str {
        judge(server, answer(status, body)).name()
    }

    #[test]
    fn every_answer_of_the_servers_means_what_it_should() {
        const INVALID: &str = r#"{"error":"bad channel","code":400}"#;
        let table = [
            // Accepted: 2xx, and JSON without an error.
            (200, "{}", "accepted"),
            (200, r#"{"ok":true}"#, "accepted"),
            (202, "[]", "accepted"),
            (200, r#"{"channels":{},"error":null}"#, "accepted"),
            // Soketi answers 200, and the truth is in the body.
            (200, INVALID, "reject"),
            (200, r#"{"error":"The app does not exist","code":404}"#, "stop"),
            (200, r#"{"error":"invalid signature","code":401}"#, "stop"),
            (200, r#"{"error":"too large","code":413}"#, "reject"),
            (200, r#"{"error":"slow down","code":429}"#, "retry"),
            (200, r#"{"error":"broken","code":500}"#, "doubt"),
            (200, r#"{"error":"broken","code":503}"#, "retry"),
            (200, r#"{"error":"no code"}"#, "doubt"),
            (200, r#"{"error":"a code of websockets","code":4009}"#, "doubt"),
            // The body's code comes first.
            (500, INVALID, "reject"),
            (400, r#"{"error":"busy","code":503}"#, "retry"),
            // A page of another program.
            (200, "", "stop"),
            (200, "  \n", "stop"),
            (204, "", "stop"),
            (200, "<!doctype html><title>Log in</title>", "stop"),
            (200, "ok", "stop"),
            (200, "\"ok\"", "stop"),
            (200, "null", "stop"),
            (200, "{\"ok\":", "stop"),
            // Redirects are never followed.
            (301, "", "stop"),
            (302, "{}", "stop"),
            (303, "{}", "stop"),
            (307, "{}", "stop"),
            (308, "{}", "stop"),
            // Configuration.
            (401, "Invalid signature", "stop"),
            (402, "", "stop"),
            (403, "", "stop"),
            (404, "<html>", "stop"),
            (405, "", "stop"),
            (418, "", "stop"),
            (431, "", "stop"),
            // This request.
            (400, "", "reject"),
            (413, "<html>nginx</html>", "reject"),
            (415, "", "reject"),
            (422, r#"{"message":"The name is required."}"#, "reject"),
            // Later.
            (408, "", "retry"),
            (425, "", "retry"),
            (429, "", "retry"),
            (500, "", "doubt"),
            (501, "", "retry"),
            (502, "<html>", "retry"),
            (503, "", "retry"),
            (504, "", "retry"),
            (529, "", "retry"),
        ];
        for (status, body, expected) in table {
            assert_eq!(verdict(Server::Reverb, status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn only_reverb_or_an_unknown_server_is_doubted_for_a_500() {
        for server in Server::ALL {
            let expected = match server {
                Server::Any | Server::Reverb => "doubt",
                _ => "retry",
            };
            assert_eq!(verdict(server, 500, ""), expected, "{server:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let wait = |text| {
            let answer = Answer { retry_after: Some(text), ..answer(429, "") };
            match judge(Server::Sockudo, answer) {
                Verdict::Retry { after, .. } => after,
                verdict => panic!("{}", verdict.name()),
            }
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Fri, 15 Jan 2027 08:00:09 GMT"), Some(Duration::from_secs(9)));
        assert_eq!(wait("Fri, 15 Jan 2027 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_refused_signature_is_the_clocks_fault_if_that_is_far_off() {
        let skewed =
            Answer { date: Some("Fri, 15 Jan 2027 07:00:00 GMT"), ..answer(401, "expired") };
        let problem = skewed.check().expect_err("a 401");
        assert!(matches!(problem, Problem::ClockSkew { skew_seconds: 3600 }), "{problem}");
        let right = Answer { date: Some("Fri, 15 Jan 2027 08:00:00 GMT"), ..skewed };
        let problem = right.check().expect_err("a 401");
        assert!(matches!(problem, Problem::Answered { code: 401, .. }), "{problem}");
    }

    #[test]
    fn the_servers_words_are_kept_but_not_logged_where_they_may_quote_a_row() {
        let refused = answer(400, r#"{"error":"private-ann's is no channel"}"#);
        let problem = refused.check().expect_err("a 400");
        assert_eq!(problem.to_string(), "the endpoint answered 400: private-ann's is no channel");
        assert_eq!(problem.for_the_log(), "the endpoint answered 400");
        let unknown = answer(401, "Unknown app\u{1b}[31m").check().expect_err("a 401");
        assert_eq!(unknown.for_the_log(), "the endpoint answered 401: Unknown app [31m");
    }

    #[test]
    fn a_redirect_tells_where_to_without_the_query_and_is_the_same_problem_each_time() {
        let redirect = |location: &str| {
            let answer = Answer { location: Some(location), ..answer(301, "") };
            answer.check().expect_err("a redirect")
        };
        let signed = "auth_key=k&auth_timestamp=1&auth_version=1.0&auth_signature=cafe";
        let first = redirect(&format!("https://h/apps/1/events?{signed}"));
        let then = redirect(&format!("https://h/apps/1/batch_events?{signed}0"));
        assert_eq!(first.for_the_log(), "the endpoint redirects to https://h/apps/1/events (301)");
        assert_eq!(first.kind(), then.kind());
        let printed = format!("{first:?} {first}");
        assert!(!printed.contains("auth_"), "{printed}");
    }

    #[test]
    fn a_server_that_repeats_the_signed_query_is_cut_short() {
        let body = r#"{"message":"Cannot POST /apps/1/events?auth_key=k&auth_signature=cafe"}"#;
        let problem = answer(404, body).check().expect_err("a 404");
        assert_eq!(problem.for_the_log(), "the endpoint answered 404: Cannot POST /apps/1/events?");
    }

    proptest! {
        #[test]
        fn no_answer_is_taken_for_an_acceptance_unless_it_is_json_without_error(
            status in 100..1000_u16,
            body in prop_oneof![
                any::<Vec<u8>>(),
                r#"[\[{]?("error"|"code"|:|,|[0-9]|null){0,6}[\]}]?"#.prop_map(String::into_bytes),
            ],
        ) {
            let answer = Answer { status, body: &body, ..Answer::default() };
            if let Verdict::Accepted = judge(Server::Any, answer) {
                prop_assert!((200..300).contains(&status));
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                prop_assert!(body.is_object() || body.is_array());
                prop_assert!(body.get("error").is_none_or(Value::is_null));
            }
        }
    }
}

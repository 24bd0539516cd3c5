use std::fmt;
use std::time::Instant;

/// How a process stands: what its stages have said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub source: Source,
    pub endpoint: Endpoint,
    pub backlog: Backlog,
    /// Resyncs that are recorded as owed.
    pub owed: Vec<Owed>,
}

/// Whether changes come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The first connection is being made.
    Starting {
        since: Instant,
    },
    /// Another process reads them, and this one stands by.
    Waiting {
        since: Instant,
        /// What that one holds, and who it is.
        holder: Box<str>,
    },
    Streaming {
        since: Instant,
    },
    /// They do not: the connection failed, or the database is not as the rules
    /// need it. It is tried again.
    Broken {
        since: Instant,
        problem: Box<str>,
    },
    /// What was read is being delivered; nothing more is.
    Stopping {
        since: Instant,
    },
}

/// Whether the endpoint takes what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// As far as is known.
    Accepting { since: Instant },
    /// Requests fail and are repeated.
    Troubled { since: Instant, problem: Box<str> },
    /// It refuses everything until somebody changes something.
    Stopped { since: Instant, problem: Box<str> },
}

/// What the database keeps until it is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backlog {
    #[default]
    Unknown,
    Log {
        /// Behind the end of the log.
        unconfirmed_bytes: u64,
        /// What the slot keeps from being removed.
        retained_bytes: u64,
        /// At this much unconfirmed, changes are passed over.
        max_bytes: u64,
    },
    Outbox {
        rows: u64,
        max_rows: u64,
    },
}

/// That a rule's pages are to be told to fetch everything again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    pub rule: Box<str>,
    pub reason: &'static str,
}

impl Source {
    /// In one word.
    pub fn state(&self) -> &'static str {
        match self {
            Source::Starting { .. } => "starting",
            Source::Waiting { .. } => "waiting",
            Source::Streaming { .. } => "streaming",
            Source::Broken { .. } => "broken",
            Source::Stopping { .. } => "stopping",
        }
    }

    pub fn since(&self) -> Instant {
        match self {
            Source::Starting { since }
            | Source::Waiting { since, .. }
            | Source::Streaming { since }
            | Source::Broken { since, .. }
            | Source::Stopping { since } => *since,
        }
    }
}

impl Endpoint {
    /// In one word.
    pub fn state(&self) -> &'static str {
        match self {
            Endpoint::Accepting { .. } => "accepting",
            Endpoint::Troubled { .. } => "troubled",
            Endpoint::Stopped { .. } => "stopped",
        }
    }

    pub fn since(&self) -> Instant {
        match self {
            Endpoint::Accepting { since }
            | Endpoint::Troubled { since, .. }
            | Endpoint::Stopped { since, .. } => *since,
        }
    }

    pub fn fails_since(&self) -> Option<Instant> {
        match self {
            Endpoint::Accepting { .. } => None,
            Endpoint::Troubled { since, .. } | Endpoint::Stopped { since, .. } => Some(*since),
        }
    }

    pub fn problem(&self) -> Option<&str> {
        match self {
            Endpoint::Accepting { .. } => None,
            Endpoint::Troubled { problem, .. } | Endpoint::Stopped { problem, .. } => Some(problem),
        }
    }
}

impl Standing {
    pub fn starting(since: Instant) -> Standing {
        Standing {
            source: Source::Starting { since },
            endpoint: Endpoint::Accepting { since },
            backlog: Backlog::Unknown,
            owed: Vec::new(),
        }
    }

    /// Whether changes come and the endpoint takes them; or another process does
    /// that work and this one is there to take over.
    pub fn is_ready(&self) -> bool {
        let has_source = matches!(self.source, Source::Streaming { .. } | Source::Waiting { .. });
        has_source && !matches!(self.endpoint, Endpoint::Stopped { .. })
    }

    /// One line for people: `streaming`, `waiting for slot rowcast held by pid 812`,
    /// `streaming, endpoint down for 4 min, 31 MB retained`.
    pub fn words(&self, now: Instant) -> String {
        let source = match &self.source {
            Source::Starting { .. } => "starting".to_owned(),
            Source::Waiting { holder, .. } => format!("waiting for {holder}"),
            Source::Streaming { .. } => "streaming".to_owned(),
            Source::Broken { since, problem } => {
                format!("no changes for {}: {problem}", Span::between(*since, now))
            }
            Source::Stopping { .. } => "stopping".to_owned(),
        };
        let endpoint = match &self.endpoint {
            Endpoint::Accepting { .. } => return source,
            Endpoint::Troubled { since, .. } | Endpoint::Stopped { since, .. } => {
                format!("endpoint down for {}", Span::between(*since, now))
            }
        };
        match self.backlog {
            Backlog::Unknown => format!("{source}, {endpoint}"),
            Backlog::Log { retained_bytes, .. } => {
                format!("{source}, {endpoint}, {} MB retained", retained_bytes / 1_000_000)
            }
            Backlog::Outbox { rows, .. } => {
                format!("{source}, {endpoint}, {rows} rows in the outbox")
            }
        }
    }
}

/// A time that has passed, in its largest unit: `4 min`.
struct Span(u64);

impl Span {
    fn between(since: Instant, now: Instant) -> Span {
        Span(now.saturating_duration_since(since).as_secs())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ ..120 => write!(f, "{seconds} s"),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h", seconds / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_says_what_is_wrong_and_for_how_long() {
        let since = Instant::now();
        let standing = Standing {
            source: Source::Streaming { since },
            owed: Vec::new(),
            endpoint: Endpoint::Stopped { since, problem: "401".into() },
            backlog: Backlog::Log {
                unconfirmed_bytes: 31_000_000,
                retained_bytes: 31_500_000,
                max_bytes: 4_000_000_000,
            },
        };
        let words = standing.words(since + Duration::from_secs(250));
        assert_eq!(words, "streaming, endpoint down for 4 min, 31 MB retained");
        assert!(!standing.is_ready());
    }

    #[test]
    fn one_that_stands_by_is_ready() {
        let now = Instant::now();
        let starting = Standing::starting(now);
        let source = Source::Waiting { since: now, holder: "slot rowcast held by pid 812".into() };
        let standing = Standing { source, ..starting.clone() };
        assert_eq!(standing.words(now), "waiting for slot rowcast held by pid 812");
        assert!(standing.is_ready() && !starting.is_ready());
    }
}

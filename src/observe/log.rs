//! Log lines on stderr: for people, or one JSON object each.

use std::io;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human {
        colour: bool,
        /// Whether each line begins with its time. The journal has its own.
        times: bool,
    },
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{directives:?} does not say what to log, as rowcast=debug would")]
    Filter {
        directives: String,
        #[source]
        source: ParseError,
    },
}

/// Sends everything that `directives` let through to stderr, from now on and
/// for the whole process.
///
/// # Panics
/// If it is called twice.
pub fn init(format: Format, directives: &str) -> Result<(), LogError> {
    // What `EnvFilter` knows beyond this, fields of spans, takes regular expressions: a
    // tenth of the binary.
    let filter: Targets = directives
        .parse()
        .map_err(|source| LogError::Filter { directives: directives.to_owned(), source })?;
    let filtered = registry().with(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    match format {
        Format::Human { colour, times: true } => {
            filtered.with(lines.with_target(false).with_ansi(colour)).init();
        }
        Format::Human { colour, times: false } => {
            filtered.with(lines.with_target(false).with_ansi(colour).without_time()).init();
        }
        Format::Json => {
            filtered.with(lines.json().flatten_event(true).with_current_span(true)).init();
        }
    }
    Ok(())
}

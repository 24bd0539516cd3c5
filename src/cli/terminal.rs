//! What stdout and stderr are, and how text gets there.

use std::env;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Whether text may be coloured there: it is a terminal that can, and nobody
/// asked for none (<https://no-color.org>). clap decides in the same way.
pub(super) fn has_colour(stream: &impl IsTerminal) -> bool {
    let is_able = env::var_os("TERM").is_some_and(|name| name != "dumb");
    stream.is_terminal() && is_able && !is_set("NO_COLOR")
}

/// Whether a variable of the environment has a value.
pub(super) fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// Prints a line to stdout while work goes on, which is not to be left half done
/// because nobody reads any more.
pub(super) fn say(line: impl Display) {
    let _nobody_reads = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a result to stdout. Who reads only the beginning, as `head` does, closes the
/// pipe: that is no failure.
pub(super) fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

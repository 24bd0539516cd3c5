//! The scripts of `tests/client`.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::{installed, process::Process, scratch};

/// Starts a script with one argument, which it reads as JSON.
pub fn start(script: &str, argument: &Value) -> Process {
    Process::spawn(command(script).arg(argument.to_string()), scratch::root())
}

/// For a script, without its argument.
pub fn command(script: &str) -> Command {
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client");
    installed(client.join("node_modules"));
    let mut command = Command::new("node");
    command.arg(client.join(script));
    command
}

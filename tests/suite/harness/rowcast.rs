//! The real binary.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{process::Process, scratch};

/// A working folder with a `rowcast.toml`, where the binary looks for it. Started several times, it finds there what
/// it left.
pub struct Rowcast {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Rowcast {
    pub fn new(config: &str) -> Self {
        let rowcast = Self::without_config();
        rowcast.configure(config);
        rowcast
    }

    pub fn without_config() -> Self {
        Self { folder: scratch::folder("rowcast"), variables: Vec::new() }
    }

    /// Replaces the configuration.
    pub fn configure(&self, config: &str) {
        fs::write(self.folder().join("rowcast.toml"), config).expect("the folder is writable");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Nothing of the developer's own environment gets in, but for PATH.
    pub fn start(&self, arguments: &[&str]) -> Process {
        self.start_with(arguments, &[])
    }

    /// With these variables besides.
    pub fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rowcast"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder())
            // What it starts or unpacks is removed with the folder.
            .env("TMPDIR", self.folder())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .envs(variables.iter().copied());
        Process::spawn(&mut command, self.folder())
    }
}

//! `rowcast completions`: what a shell completes by.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, terminal};

/// Prints what a shell needs to complete commands and options
///
/// The Debian package has installed it for bash, zsh and fish.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(rowcast completions bash)     for this shell only
  rowcast completions bash > ~/.local/share/bash-completion/completions/rowcast
  rowcast completions zsh > /usr/local/share/zsh/site-functions/_rowcast
  rowcast completions fish > ~/.config/fish/completions/rowcast.fish")]
pub(super) struct Args {
    /// Which shell reads it
    shell: Shell,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rowcast", &mut text);
    terminal::print(&text)?;
    Ok(())
}

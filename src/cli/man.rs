//! `rowcast man`: the manual pages, from what `--help` says.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, terminal};

/// Prints the manual page, or writes one for each command into a folder
///
/// The Debian package has installed them: `man rowcast`, `man rowcast-run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast man | man -l -
  rowcast man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Where to write rowcast.1, rowcast-run.1 and the others; made if it is
    /// not there
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What a manual has beyond `--help`: heading, and items each with its text.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "FILES",
        &[
            ("./rowcast.toml", "The configuration, if it is there."),
            ("/etc/rowcast/rowcast.toml", "The configuration otherwise."),
            (
                "/etc/rowcast/NAME.toml",
                "That of the systemd instance rowcast@NAME, if the package is installed.",
            ),
            (
                "/usr/share/doc/rowcast/config.example.toml",
                "Every option of the configuration, if the package is installed.",
            ),
            (
                "$STATE_DIRECTORY, or ~/.local/state/rowcast",
                "How far changes were delivered, and what was refused for good, unless \
                 [run] state_dir names another folder.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("ROWCAST_CONFIG", "The configuration, as --config."),
            ("ROWCAST_LOG_FORMAT", "How log lines look, as --log-format."),
            ("RUST_LOG", "What is logged where neither -v nor -q is given, as in rowcast=debug."),
            ("NO_COLOR", "Nothing is coloured if it has a value."),
            ("any other", "What the configuration names as ${NAME}."),
        ],
    ),
    (
        "SIGNALS",
        &[(
            "SIGTERM, SIGINT",
            "rowcast run stops reading, delivers what was read within [run] grace, and \
                 confirms it. A second one ends it at once; what was not confirmed is sent again \
                 at the next start.",
        )],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Failed. Where it may pass, starting again is the answer."),
            ("2", "Wrong usage."),
            ("78", "Wrong configuration: starting again does not help."),
            ("130", "A second signal ended it at once."),
        ],
    ),
];

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let Some(folder) = args.folder else {
        return Ok(terminal::print(&page(&root)?)?);
    };
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for command in std::iter::once(&root).chain(root.get_subcommands()) {
        let file = folder.join(format!("{}.1", name(command)));
        fs::write(&file, page(command)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// `rowcast`, `rowcast-run`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let is_root = command.has_subcommands();
    let man = Man::new(command.clone())
        .title(name(command).to_uppercase())
        // Left out, what comes after would be taken for it.
        .date(" ")
        .source(concat!("rowcast ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, below) = help.split_once("\n\n").unwrap_or((&help, ""));
    let mut rest = Roff::new();
    if is_root {
        commands(command, &mut rest);
    }
    rest.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in examples.lines().skip(1) {
        rest.text([roman(line.trim_start())]);
    }
    rest.control("fi", []);
    if is_root {
        for (heading, items) in SECTIONS {
            rest.control("SH", [heading]);
            for (item, text) in items {
                rest.control("TP", []).text([bold(*item)]).text([roman(*text)]);
            }
        }
    } else {
        for line in below.lines() {
            match line {
                "" => rest.control("PP", []),
                line => rest.text([roman(line)]),
            };
        }
        rest.control("SH", ["SEE ALSO"]).text([bold("rowcast"), roman("(1)")]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// With the page that tells all of each.
fn commands(root: &Command, roff: &mut Roff) {
    roff.control("SH", ["COMMANDS"]);
    for command in root.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        roff.control("TP", []).text([bold(name(command)), roman("(1)")]).text([roman(about)]);
    }
}

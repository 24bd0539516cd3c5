//! What a shell and its user meet: completions, manual pages, colours, exit codes.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use rowcast::deliver::pusher::Server;
use tempfile::TempDir;

use crate::harness::{
    cluster::Version,
    database::Database,
    endpoint::{Endpoint, Fault},
    process::Process,
    rowcast::Rowcast,
    scratch,
    wait::SOON,
};

/// What it printed, once it has ended without failure.
async fn printed(process: &Process) -> String {
    assert_eq!(process.exit_code(SOON).await, 0, "{:?}", process.stderr.all());
    process.stdout.all().join("\n")
}

async fn rowcast(arguments: &[&str]) -> String {
    printed(&Rowcast::without_config().start(arguments)).await
}

async fn run(program: &str, arguments: &[&str], folder: &TempDir) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
    printed(&Process::spawn(&mut command, folder.path())).await
}

#[tokio::test]
async fn bash_completes_commands_and_options() {
    let folder = scratch::folder("bash");
    fs::write(folder.path().join("rowcast"), rowcast(&["completions", "bash"]).await)
        .expect("the folder is writable");
    let script = "set -eu
        source ./rowcast
        complete -p rowcast
        COMP_WORDS=(rowcast teard); COMP_CWORD=1; _rowcast rowcast teard rowcast; echo \"${COMPREPLY[@]}\"
        COMP_WORDS=(rowcast run --o); COMP_CWORD=2; _rowcast rowcast --o run; echo \"${COMPREPLY[@]}\"";
    let said = run("bash", &["--norc", "-c", script], &folder).await;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].ends_with("-F _rowcast rowcast"), "{said}");
    assert_eq!(lines[1..], ["teardown", "--once"], "{said}");
}

/// At a terminal, as zsh's completion does not work without one.
#[tokio::test]
async fn zsh_completes_commands_options_and_values() {
    let folder = scratch::folder("zsh");
    fs::write(folder.path().join("_rowcast"), rowcast(&["completions", "zsh"]).await)
        .expect("the folder is writable");
    let script = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u'
        zpty -w shell 'rowcast() { print "would ""run: $*" }; print load""ed'
        zpty -r -m shell out '*loaded*'
        zpty -w shell $'rowcast teard\t --onl\t trig\t'
        zpty -r -m shell out '*would run: *'
        zpty -r shell line
        print -r -- $out$line"#;
    let said = run("zsh", &["-f", "-c", script], &folder).await;
    assert!(said.contains("would run: teardown --only triggers"), "{said:?}");
}

#[tokio::test]
async fn every_command_has_a_manual_page_that_is_read_without_a_complaint() {
    let folder = scratch::folder("man");
    let man = folder.path().join("made/man1");
    rowcast(&["man", man.to_str().expect("it is UTF-8")]).await;
    let names = |text: &str| -> BTreeSet<String> {
        let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
        let (_, rest) = text.split_once("Commands:\n").expect("it lists the commands");
        rest.lines()
            .take_while(|line| !line.is_empty())
            .filter(is_command)
            .map(first_word)
            .collect()
    };
    let mut expected: BTreeSet<String> = names(&rowcast(&["--help"]).await)
        .into_iter()
        .filter(|name| name != "help")
        .map(|name| format!("rowcast-{name}.1"))
        .collect();
    expected.insert("rowcast.1".to_owned());
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&man).expect("it was made") {
        let path = entry.expect("it is readable").path();
        let file = path.to_str().expect("it is UTF-8");
        assert_eq!(run("mandoc", &["-T", "lint", "-W", "error", file], &folder).await, "");
        // groff's complaints go to stderr.
        let mut groff = Command::new("man");
        groff
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file])
            .env("LC_ALL", "C.UTF-8");
        let groff = Process::spawn(&mut groff, folder.path());
        printed(&groff).await;
        assert!(groff.stderr.all().is_empty(), "{file}: {:?}", groff.stderr.all());
        found.insert(path.file_name().expect("it has one").to_string_lossy().into_owned());
    }
    assert_eq!(found, expected);
    let page = fs::read_to_string(man.join("rowcast.1")).expect("it was made");
    for text in ["EXIT STATUS", "NO_COLOR", "/etc/rowcast/rowcast.toml"] {
        assert!(page.contains(text), "{page}");
    }
}

fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

const ESCAPE: char = '\u{1b}';

/// Both streams of `rowcast ARGUMENTS` at a terminal, which `script` plays.
async fn at_a_terminal(rowcast: &Rowcast, arguments: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--command"])
        .arg(format!("{} {arguments}", env!("CARGO_BIN_EXE_rowcast")))
        .arg("/dev/null")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm-256color")
        .env("HOME", rowcast.folder())
        .envs(variables.iter().copied());
    printed(&Process::spawn(&mut command, rowcast.folder())).await
}

#[tokio::test]
async fn there_are_colours_at_a_terminal_only_and_not_with_no_color() {
    // Its log line warns that everybody may read the secret.
    let rowcast = Rowcast::new(&config("postgres://127.0.0.1:1/x", UNREACHABLE, POSTS));
    for arguments in ["--help", "send posts PostUpdated", "nonsense"] {
        let coloured = at_a_terminal(&rowcast, arguments, &[]).await;
        assert!(coloured.contains(ESCAPE), "{arguments}: {coloured}");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = at_a_terminal(&rowcast, arguments, &[variable]).await;
            assert!(
                !plain.is_empty() && !plain.contains(ESCAPE),
                "{variable:?} {arguments}: {plain}"
            );
        }
        let words: Vec<&str> = arguments.split(' ').collect();
        let piped = rowcast.start_with(&words, &[("TERM", "xterm-256color")]);
        piped.ended(SOON).await;
        let said = [piped.stdout.all(), piped.stderr.all()].concat().join("\n");
        assert!(!said.is_empty() && !said.contains(ESCAPE), "{arguments}: {said}");
    }
}

#[tokio::test]
async fn who_reads_only_the_beginning_gets_it_without_a_failure() {
    let folder = scratch::folder("pipe");
    for arguments in ["completions zsh", "man"] {
        let script = format!(
            "set -o pipefail; {} {arguments} | head -c 1 | wc -c",
            env!("CARGO_BIN_EXE_rowcast")
        );
        assert_eq!(run("bash", &["-c", &script], &folder).await.trim(), "1");
    }
}

const POSTS: &str = "[[rule]]\ntable = 'posts'\nchannels = ['posts']\n";
const UNREACHABLE: &str = "url = 'http://127.0.0.1:1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n";

fn config(url: &str, pusher: &str, rules: &str) -> String {
    format!("[database]\nurl = '{url}'\n[pusher]\n{pusher}[run]\nstate_dir = 'state'\n{rules}")
}

/// The exit codes of these with this configuration.
async fn expect(code: i32, config: &str, commands: &[&[&str]]) {
    let rowcast = Rowcast::new(config);
    for command in commands {
        let process = rowcast.start(command);
        let found = process.exit_code(Duration::from_secs(40)).await;
        assert_eq!(found, code, "{command:?}: {:?}\n{config}", process.stderr.all());
        let stderr = process.stderr.all().join("\n");
        assert!(
            stderr.starts_with("error: ") || stderr.contains("\nerror: "),
            "{command:?}: {stderr}"
        );
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2_before_anything_is_read() {
    expect(
        2,
        "not even TOML",
        &[
            &["nonsense"],
            &["run", "--nonsense"],
            &["run", "extra"],
            &["send", "posts"],
            &["send", "posts", "PostUpdated", "{not json"],
            &["send", "posts with spaces", "PostUpdated"],
            &["setup", "--print", "--json"],
            &["setup", "--url", "mysql://x"],
            &["teardown", "--only", "nothing"],
            &["tail", "--for", "soon"],
            &["completions"],
            &["completions", "cmd"],
            &["-v", "-q", "run"],
            &["--log-format", "xml", "run"],
        ],
    )
    .await;
}

#[tokio::test]
async fn a_wrong_configuration_exits_with_78() {
    let url = "postgres://127.0.0.1:1/x";
    let all: [&[&str]; 4] = [&["run"], &["setup"], &["tail"], &["send", "posts", "PostUpdated"]];
    for wrong in [
        "not even TOML".to_owned(),
        config(url, UNREACHABLE, "[nonsense]\n"),
        config("mysql://127.0.0.1/x", UNREACHABLE, POSTS),
        config("postgres://127.0.0.1/${ROWCAST_TEST_UNSET}", UNREACHABLE, POSTS),
        config(url, "url = 'ftp://127.0.0.1'\napp_id = 'a'\nkey = 'k'\nsecret = 's'\n", POSTS),
        config(url, &UNREACHABLE.replace("secret = 's'", "secret_file = 'none'"), POSTS),
    ] {
        expect(78, &wrong, &all).await;
    }
    let rules = "[[rule]]\ntable = 'posts'\nchannels = ['posts.{{ id']\n";
    expect(78, &config(url, UNREACHABLE, rules), &all[..3]).await;
    let none = Rowcast::without_config().start(&["run", "--config", "none.toml"]);
    assert_eq!(none.exit_code(SOON).await, 78);
}

#[tokio::test]
async fn a_rule_that_the_tables_contradict_exits_with_78_and_other_failures_with_1() {
    let database = Database::on(Version::DEFAULT).await;
    database.psql("create table posts (id int primary key)").await;
    let endpoint = Endpoint::start(Server::Any);
    let (url, pusher) = (database.url(), endpoint.toml());
    let typo = "[[rule]]\ntable = 'posts'\nchannels = ['posts.{{ nonsense }}']\n";
    expect(78, &config(&url, &pusher, typo), &[&["run"], &["setup"], &["tail"]]).await;

    // Not set up: nobody made the slot and the publication.
    expect(1, &config(&url, &pusher, POSTS), &[&["run"]]).await;
    let send: [&[&str]; 1] = [&["send", "posts", "PostUpdated"]];
    expect(1, &config(&url, UNREACHABLE, POSTS), &send).await;
    endpoint.fault(Fault::status(401));
    expect(1, &config(&url, &pusher, POSTS), &send).await;
    let unreachable = config("postgres://127.0.0.1:1/x", &pusher, POSTS);
    expect(1, &unreachable, &[&["setup"], &["teardown"]]).await;
}

/// As with `| head`: who has read enough closes the pipe.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure_of_what_is_printed() {
    let folder = scratch::folder("pipe");
    let config = "[pusher]\nurl = 'http://127.0.0.1:1'\napp_id = '1'\nkey = 'k'\nsecret = 's'\n\
                  [database]\nurl = 'postgres://rowcast@127.0.0.1:1/shop'\n\
                  [[rule]]\ntable = 'posts'\nchannels = ['posts']\n";
    fs::write(folder.path().join("rowcast.toml"), config).expect("the folder is writable");
    // Nothing is there to be checked, so that doctor fails; it must not panic.
    for (arguments, code) in [("doctor", "1"), ("doctor --json", "1"), ("completions bash", "0")] {
        // It writes to a pipe that nobody reads from any more.
        let script = format!(
            "exec 3> >(exit); wait $!; {} {arguments} >&3 2>errors; echo $?",
            env!("CARGO_BIN_EXE_rowcast")
        );
        let said = run("bash", &["-c", &script], &folder).await;
        let errors = fs::read_to_string(folder.path().join("errors")).expect("it is there");
        assert_eq!(said, code, "{arguments}: {errors}");
        assert!(!errors.contains("panicked"), "{arguments}: {errors}");
    }
}

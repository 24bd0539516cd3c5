//! What a wrong configuration is answered with. Each `config/NAME.toml` here is
//! one, and `NAME.txt` the whole text that its author reads.
//!
//! `ROWCAST_BLESS=1` writes the texts anew: read the difference.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rowcast::config::{Error, Loaded};
use rowcast::route::{Problem, Severity};

const CASES: &str = "tests/suite/config";

/// Of the process that loads the cases.
fn env(name: &str) -> Option<String> {
    (name == "STATE_DIRECTORY").then(|| "/var/lib/rowcast".to_owned())
}

fn files(extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(CASES)
        .expect("the cases lie in the package")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn a_wrong_configuration_is_answered_with_place_reason_and_fix() {
    let bless = std::env::var_os("ROWCAST_BLESS").is_some();
    let cases = files("toml");
    assert!(!cases.is_empty());
    for case in cases {
        let error = rowcast::config::load(&case, &env).expect_err(&case.display().to_string());
        let text = format!("error: {error}\n");
        let golden = case.with_extension("txt");
        if bless {
            std::fs::write(&golden, &text).expect("the package can be written");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(text, expected, "{}", case.display());
    }
}

#[test]
fn a_text_without_its_case_is_no_test() {
    for golden in files("txt") {
        assert!(golden.with_extension("toml").exists(), "{}", golden.display());
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let error = rowcast::config::load(Path::new("no/such.toml"), &env).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no configuration: looked for no/such.toml; --config names another"
    );
}

/// The example, with what it asks of the environment.
const EXAMPLE: &str = include_str!("../../config.example.toml");

fn example_env(name: &str) -> Option<String> {
    let set = ["DB_PASSWORD", "REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET"];
    match name {
        "PUSHER_ENCRYPTION_KEY" => Some(format!("base64:{}=", "A".repeat(43))),
        name => set.contains(&name).then(|| "1234".to_owned()).or_else(|| env(name)),
    }
}

/// The option that a line of the example sets, if it sets one, and the line
/// without its comment sign.
fn option(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix('#').map_or(line, |rest| rest.strip_prefix(' ').unwrap_or(rest));
    let (name, _) = line.split_once(" = ")?;
    let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_name.then_some((name, line))
}

fn load_text(text: &str) -> Result<Loaded, Error> {
    load_with(text, &example_env)
}

fn load_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Error> {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join("rowcast.toml");
    std::fs::write(&path, text).expect("the folder is ours");
    rowcast::config::load(&path, env)
}

#[test]
fn the_example_loads_as_it_is_and_with_every_option_switched_on() {
    let all: Vec<&str> =
        EXAMPLE.lines().map(|line| option(line).map_or(line, |(_, option)| option)).collect();
    let all = all.join("\n").replace("/var/www/shop", &format!("{CASES}/laravel"));
    for text in [EXAMPLE, &all] {
        let loaded = load_text(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config.rule.len(), 1);
    }
}

#[test]
fn the_example_documents_every_option_and_no_other() {
    for section in
        ["[database]", "[pusher]", "[laravel]", "[limits]", "[run]", "[broadcast]", "[[rule]]"]
    {
        let (_, rest) = EXAMPLE.split_once(&format!("\n{section}\n")).expect(section);
        let documented: BTreeSet<&str> = rest
            .lines()
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| option(line).map(|(name, _)| name))
            .collect();
        assert_eq!(documented, options(section).iter().map(String::as_str).collect(), "{section}");
    }
}

#[test]
fn a_default_in_the_example_is_the_default() {
    /// Shown with an example, since they are not set by default, or not always
    /// to the same.
    const WITHOUT: [&str; 13] = [
        "admin",
        "ca_file",
        "channels",
        "cluster",
        "encryption_key",
        "events",
        "max_retained_wal",
        "nodes",
        "password",
        "proxy",
        "root",
        "sign_path_prefix",
        "state_dir",
    ];
    let usual = format!("{:?}", load_text(EXAMPLE).expect("the example is right").config);
    let (stages, _) = EXAMPLE.split_once("\n[[rule]]\n").expect("rules come last");
    for commented in stages.lines().filter(|line| line.starts_with('#')) {
        let Some((name, set)) = option(commented).filter(|(name, _)| !WITHOUT.contains(name))
        else {
            continue;
        };
        let text = EXAMPLE.replacen(&format!("\n{commented}\n"), &format!("\n{set}\n"), 1);
        let config = load_text(&text).unwrap_or_else(|error| panic!("{error}")).config;
        assert_eq!(format!("{config:?}"), usual, "{name}");
    }
}

/// What may be set in a section, as the answer to an unknown option lists it.
fn options(section: &str) -> BTreeSet<String> {
    let text = format!("{section}\nno_such_option = 1\n");
    let answer = load_text(&text).expect_err("the option is unknown").to_string();
    let (_, list) = answer.split_once("help: one of ").expect("a list of options");
    let list = list.lines().next().unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn a_rules_option_is_located_and_so_is_the_rule_that_leaves_it_out() {
    let loaded = load_text(EXAMPLE).expect("the example is right");
    let line = |start: &str| EXAMPLE.lines().position(|line| line.starts_with(start)).unwrap() + 1;
    assert_eq!(loaded.locate(0, "channels").line, line("channels ="));
    assert_eq!(loaded.locate(0, "where").line, line("[[rule]]"));
}

#[test]
fn all_errors_of_the_rules_are_shown_in_the_order_of_the_file_and_no_warning() {
    let text = r#"
[pusher]
url = "http://127.0.0.1:8080"
app_id = "1"
key = "key"
secret = "secret"
[[rule]]
table = "posts"
channels = ["private-user.{{ user_id }}"]
"#;
    let loaded = load_text(text.trim_start()).expect("it is right");
    let problem = |severity, option, message: &str, fix: Option<&str>| Problem {
        severity,
        rule_index: 0,
        rule: "posts".to_owned(),
        option,
        message: message.to_owned(),
        fix: fix.map(str::to_owned),
    };
    let sql = "ALTER TABLE posts\n  REPLICA IDENTITY FULL;";
    let warning = problem(Severity::Warning, "data", "body may not fit", None);
    let channels = problem(Severity::Error, "channels", "the old user_id is unknown", Some(sql));
    let table = problem(Severity::Error, "table", "there is no table posts", None);
    assert!(loaded.refuse(std::slice::from_ref(&warning)).is_ok());
    let error = loaded.refuse(&[channels, warning, table]).unwrap_err().to_string();
    let path = loaded.locate(0, "table").path.display().to_string();
    assert_eq!(
        error.replace(&path, "PATH"),
        r#"rule "posts", table: there is no table posts
 --> PATH:7:1
  |
7 | table = "posts"
  | ^^^^^

error: rule "posts", channels: the old user_id is unknown
 --> PATH:8:1
  |
8 | channels = ["private-user.{{ user_id }}"]
  | ^^^^^^^^
  = help: ALTER TABLE posts
            REPLICA IDENTITY FULL;"#
    );
}

#[test]
fn a_secret_in_a_file_that_everyone_can_read_is_warned_of() {
    let warnings = |mode: u32, secret: &str| {
        let folder = tempfile::tempdir().expect("a folder for the file");
        let path = folder.path().join("rowcast.toml");
        let text = EXAMPLE.replace("secret = \"${REVERB_APP_SECRET}\"", secret);
        std::fs::write(&path, text).expect("the folder is ours");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is ours");
        rowcast::config::load(&path, &example_env).expect("the example is right").warnings
    };
    let [warning] = &warnings(0o644, "secret = 'abc'")[..] else { panic!("one warning") };
    assert!(warning.contains("holds pusher.secret"), "{warning}");
    assert!(warnings(0o640, "secret = 'abc'").is_empty());
    assert!(warnings(0o644, "secret = '${REVERB_APP_SECRET}'").is_empty());
}

#[test]
fn an_option_that_the_capture_does_not_take_is_warned_of_where_it_stands() {
    let options = |options: &[&str]| {
        let folder = tempfile::tempdir().expect("a folder for the file");
        let path = folder.path().join("rowcast.toml");
        let text = options.iter().fold(EXAMPLE.to_owned(), |text, option| {
            let (name, _) = option.split_once(" = ").expect("an option has a value");
            let line = text.lines().find(|line| line.starts_with(&format!("# {name} = ")));
            text.replace(line.expect("the example has every option"), option)
        });
        std::fs::write(&path, text).expect("the folder is ours");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the file is ours");
        rowcast::config::load(&path, &example_env).expect("the example is right").warnings
    };
    let [wake] = &options(&["wake = 'poll'"])[..] else { panic!("one warning") };
    assert!(wake.ends_with("database.wake means nothing with capture = \"wal\""), "{wake}");
    let warnings = options(&["capture = 'triggers'", "takeover = true", "wake = 'poll'"]);
    let [takeover] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(takeover.contains("rowcast.toml:"), "{takeover}");
    assert!(
        takeover.contains("run.takeover means nothing with capture = \"triggers\""),
        "{takeover}"
    );
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join("secret");
    std::fs::write(&path, "from the file \n").expect("the folder is ours");
    let option = format!("secret_file = '{}'", path.display());
    let text = EXAMPLE.replace("secret = \"${REVERB_APP_SECRET}\"", &option);
    let loaded = load_text(&text).expect("the secret is in its file");
    assert_eq!(loaded.config.pusher.secret.expose(), "from the file ");
}

#[test]
fn an_applications_env_gives_what_the_file_leaves_out_option_by_option() {
    let root = format!("[laravel]\nroot = '{CASES}/laravel'\n");
    let loaded = load_with(&root, &env).unwrap_or_else(|error| panic!("{error}"));
    let config = &loaded.config;
    let url = "postgres://shop:p%40ss@db.internal:5433/shop".parse().expect("a DSN");
    assert_eq!(config.database.dsn(), url);
    assert_eq!(
        config.pusher.url.as_ref().map(ToString::to_string).as_deref(),
        Some("http://reverb:8080")
    );
    assert_eq!((config.pusher.app_id.as_str(), config.pusher.key.as_str()), ("1", "of-env"));
    assert_eq!(config.pusher.secret.expose(), "hush");

    let own = "[database]\nurl = 'postgres://rowcast@${DB_HOST}/${DB_DATABASE}'\npassword = 'own'\n\
               [pusher]\ncluster = 'eu'\nkey = 'own'\n";
    let loaded = load_with(&format!("{root}{own}"), &env).unwrap_or_else(|error| panic!("{error}"));
    let config = &loaded.config;
    let url = "postgres://rowcast:own@db.internal/shop".parse().expect("a DSN");
    assert_eq!(config.database.dsn(), url);
    assert!(config.pusher.url.is_none() && config.pusher.cluster.is_some());
    assert_eq!((config.pusher.app_id.as_str(), config.pusher.key.as_str()), ("1", "own"));
}

/// The program in an environment that holds nothing but `env`.
fn rowcast(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rowcast"))
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the program was built with the tests")
}

#[test]
fn a_wrong_configuration_ends_the_program_with_78_and_is_printed_once() {
    let case = format!("{CASES}/syntax.toml");
    let output = rowcast(&["send", "posts", "PostUpdated", "--config", &case], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        std::fs::read_to_string(format!("{CASES}/syntax.txt")).expect("the case has its text")
    );
    let output = rowcast(&["send", "posts", "X"], &[("ROWCAST_CONFIG", "no/such.toml")]);
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn wrong_usage_ends_the_program_with_2_and_says_what_was_expected() {
    for (arguments, said) in [
        (&["send", "no spaces here", "X"][..], "' ' may not be in a channel name"),
        (&["send", "posts", "pusher:ping"], "belong to the protocol"),
        (&["send", "posts", "X", "{id: 1}"], "key must be a string"),
        (&["sned"], "send"),
        (&["send", "posts", "X", "-v", "-q"], "cannot be used with"),
    ] {
        let output = rowcast(arguments, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn json_logs_are_one_object_in_each_line() {
    let folder = tempfile::tempdir().expect("a folder for the file");
    let path = folder.path().join("rowcast.toml");
    let text = EXAMPLE
        .replace("secret = \"${REVERB_APP_SECRET}\"", "secret = 'abc'")
        .replace("${REVERB_APP_ID}", "1")
        .replace("${REVERB_APP_KEY}", "key")
        .replace("http://127.0.0.1:8080", &format!("http://{}", closed_port()));
    std::fs::write(&path, text).expect("the folder is ours");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("the file is ours");
    let path = path.to_str().expect("temporary folders have plain names");
    let arguments = ["send", "posts", "X", "--log-format", "json", "-c", path];
    let output = rowcast(&arguments, &[("HOME", "/nowhere")]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let [warning, error] = &lines[..] else { panic!("a warning and an error: {text}") };
    assert_eq!((&warning["level"], &error["level"]), (&"WARN".into(), &"ERROR".into()));
    assert!(warning["message"].as_str().is_some_and(|said| said.contains("pusher.secret")));
}

/// An address on which nothing listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

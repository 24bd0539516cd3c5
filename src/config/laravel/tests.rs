use super::*;

/// What a fresh application has after `php artisan install:broadcasting`.
const FRESH: &str = r#"APP_NAME=Laravel
APP_KEY=base64:c2VjcmV0
APP_URL=http://localhost

DB_CONNECTION=pgsql
DB_HOST=127.0.0.1
DB_PORT=5432
DB_DATABASE=shop
DB_USERNAME=shop
DB_PASSWORD="p@ss word/?#"

BROADCAST_CONNECTION=reverb
REVERB_APP_ID=100001
REVERB_APP_KEY=key
REVERB_APP_SECRET=hush
REVERB_HOST="localhost"
REVERB_PORT=8080
REVERB_SCHEME=http

VITE_REVERB_APP_KEY="${REVERB_APP_KEY}"
"#;

struct App {
    folder: tempfile::TempDir,
    process: Vec<(&'static str, &'static str)>,
}

fn app(env_file: &str) -> App {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(".env"), env_file).expect("it is ours");
    App { folder, process: Vec::new() }
}

impl App {
    fn with(mut self, process: &[(&'static str, &'static str)]) -> App {
        self.process = process.to_vec();
        self
    }

    fn read<T>(&self, f: impl FnOnce(&Application<'_>) -> T) -> T {
        let env = |name: &str| {
            let set = self.process.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| (*value).to_owned())
        };
        f(&Application::read(self.folder.path(), &env).expect("the file is right"))
    }

    fn database(&self) -> String {
        match self.read(|app| app.database()) {
            Ok(dsn) => dsn.to_string(),
            Err(problems) => self.texts(&problems),
        }
    }

    fn pusher(&self) -> String {
        match self.read(|app| app.pusher(&|_| true)) {
            Ok(found) => {
                let found: Vec<String> =
                    found.iter().map(|(option, value)| format!("{option}={value}")).collect();
                found.join(" ")
            }
            Err(problems) => self.texts(&problems),
        }
    }

    /// Messages, with the line of the file where they have one.
    fn texts(&self, problems: &[Problem]) -> String {
        let texts: Vec<String> = problems
            .iter()
            .map(|problem| {
                let line = problem.location().map(|at| format!("line {}: ", at.line));
                format!("{}{}", line.unwrap_or_default(), problem.message())
            })
            .collect();
        texts.join("; ").replace(&self.folder.path().display().to_string(), "ROOT")
    }
}

#[test]
fn a_fresh_applications_env_says_both() {
    let app = app(FRESH);
    assert_eq!(app.database(), "postgres://shop:p%40ss%20word%2F%3F%23@127.0.0.1:5432/shop");
    assert_eq!(
        app.pusher(),
        "app_id=100001 key=key secret=hush server=reverb url=http://localhost:8080"
    );
}

#[test]
fn the_environment_of_the_process_wins_as_in_laravel() {
    let app = app(FRESH).with(&[("DB_HOST", "db"), ("REVERB_APP_KEY", "other"), ("DB_PORT", "")]);
    assert_eq!(app.database(), "postgres://shop:p%40ss%20word%2F%3F%23@db/shop");
    assert!(app.pusher().contains("key=other"));
}

#[test]
fn a_url_wins_over_the_single_variables_and_takes_the_rest_from_them() {
    for (name, url, dsn) in [
        ("DB_URL", "postgresql://u:p%40@h:6/d", "postgres://u:p%40@h:6/d"),
        (
            "DB_URL",
            "pgsql://h/d?charset=utf8&sslmode=require",
            "postgres://shop@h/d?sslmode=require",
        ),
        ("DATABASE_URL", "postgres://u@/d", "postgres://u@127.0.0.1/d"),
    ] {
        let file =
            format!("DB_CONNECTION=pgsql\nDB_USERNAME=shop\nDB_DATABASE=x\n{name}=\"{url}\"");
        assert_eq!(app(&file).database(), dsn, "{url}");
    }
    assert_eq!(app("DB_URL=postgres://u@h/d").database(), "postgres://u@h/d");
}

#[test]
fn what_is_no_postgres_is_said_with_its_line() {
    for (file, said) in [
        (
            "A=1\nDB_CONNECTION=mysql",
            "line 2: DB_CONNECTION is \"mysql\", and rowcast reads Postgres only, which Laravel \
             calls pgsql",
        ),
        ("DB_URL=mysql://h/d", "line 1: DB_URL is no URL of a Postgres database"),
        ("A=1", "DB_CONNECTION is set neither in ROOT/.env nor in the environment"),
        (
            "DB_CONNECTION=pgsql\nDB_PORT=54x",
            "line 2: DB_PORT: port should be a number from 1 to 65535; in a URL, write : / @ of a \
             password as %3A %2F %40",
        ),
        (
            "DB_CONNECTION=pgsql\nDB_DATABASE=",
            "DB_DATABASE is set neither in ROOT/.env nor in the environment; DB_USERNAME is set \
             neither in ROOT/.env nor in the environment",
        ),
    ] {
        assert_eq!(app(file).database(), said, "{file}");
    }
}

#[test]
fn pusher_is_a_cluster_unless_a_host_is_set() {
    let with = |more: &str| {
        let keys = "PUSHER_APP_ID=1\nPUSHER_APP_KEY=k\nPUSHER_APP_SECRET=s";
        app(&format!("BROADCAST_DRIVER=pusher\n{keys}\n{more}")).pusher()
    };
    let keys = "app_id=1 key=k secret=s";
    let usual = "PUSHER_HOST=\nPUSHER_PORT=443\nPUSHER_SCHEME=https\nPUSHER_APP_CLUSTER=eu";
    assert_eq!(with(usual), format!("{keys} server=pusher cluster=eu"));
    assert_eq!(with(""), format!("{keys} server=pusher cluster=mt1"));
    let soketi = "PUSHER_HOST=soketi\nPUSHER_PORT=6001\nPUSHER_SCHEME=http\nPUSHER_APP_CLUSTER=mt1";
    assert_eq!(with(soketi), format!("{keys} url=http://soketi:6001"));
    assert_eq!(with("PUSHER_HOST=ws.example"), format!("{keys} url=https://ws.example:443"));
}

#[test]
fn where_the_application_sends_nowhere_it_is_said() {
    let replaced = |from: &str, to: &str| app(&FRESH.replace(from, to)).pusher();
    assert_eq!(
        replaced("BROADCAST_CONNECTION=reverb", "BROADCAST_CONNECTION=log"),
        "line 12: BROADCAST_CONNECTION is \"log\", and rowcast sends to what Laravel calls reverb \
         or pusher"
    );
    assert!(replaced("BROADCAST_CONNECTION=reverb\n", "").contains("server=reverb"));
    assert_eq!(
        replaced("REVERB_APP_ID=100001", "REVERB_APP_ID=\"a b\""),
        "line 13: REVERB_APP_ID: \"a b\" is no app id: it takes letters, digits, - _ and ., at \
         least one"
    );
    assert_eq!(
        replaced("REVERB_APP_SECRET=hush", "REVERB_APP_SECRET=null"),
        "REVERB_APP_SECRET is set neither in ROOT/.env nor in the environment"
    );
    assert_eq!(
        replaced("REVERB_SCHEME=http", "REVERB_SCHEME=ws"),
        "line 16: REVERB_SCHEME, REVERB_HOST and REVERB_PORT make \"ws://localhost:8080\": the \
         scheme is ws, and the HTTP API speaks http or https"
    );
}

#[test]
fn what_the_file_says_itself_is_not_looked_for() {
    let app = app("BROADCAST_CONNECTION=log\nREVERB_APP_KEY=\"a b\"");
    let own = |option: &str| !["cluster", "app_id", "key", "secret"].contains(&option);
    assert_eq!(app.read(|app| app.pusher(&own)).map_err(|p| app.texts(&p)), Ok(Vec::new()));
}

#[test]
fn of_several_environments_the_process_names_one() {
    let app = app("DB_URL=postgres://u@h/one");
    std::fs::write(app.folder.path().join(".env.staging"), "DB_URL=postgres://u@h/two").unwrap();
    assert_eq!(app.database(), "postgres://u@h/one");
    let app = app.with(&[("APP_ENV", "staging")]);
    assert_eq!(app.database(), "postgres://u@h/two");
    let app = app.with(&[("APP_ENV", "production")]);
    assert_eq!(app.database(), "postgres://u@h/one");
}

#[test]
fn without_a_file_the_environment_says_it_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = |_: &str| None;
    let app = Application::read(folder.path(), &none).expect("it may be missing");
    let problems = app.database().unwrap_err();
    let said = problems[0].message().replace(&folder.path().display().to_string(), "ROOT");
    assert_eq!(said, "DB_CONNECTION is not set in the environment, and there is no ROOT/.env");
    let set = |name: &str| (name == "DB_URL").then(|| "postgres://u@h/d".to_owned());
    let app = Application::read(folder.path(), &set).expect("it may be missing");
    assert!(app.database().is_ok());
}

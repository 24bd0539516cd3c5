//! `[laravel]`: what a Laravel application's own settings say of its database and
//! of its Pusher-compatible server, as defaults of `[database]` and `[pusher]`.

mod dotenv;

use std::error::Error;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::locate::Source;
use super::report::Problem;
use crate::chain;
use crate::deliver::pusher::{AppId, AppKey, Cluster, EndpointUrl};
use crate::postgres::{Dsn, TimeZone, WrittenDsn};

use dotenv::Entry;

/// `[laravel]`: an application whose settings are rowcast's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Laravel {
    /// The folder of the application, which holds its `.env`.
    pub root: Option<PathBuf>,
}

/// The environment of an application, as Laravel sees it: that of the process, then
/// its `.env` file, if it has one.
pub struct Application<'e> {
    file: Source,
    has_file: bool,
    entries: Vec<Entry>,
    env: &'e dyn Fn(&str) -> Option<String>,
}

/// The set value of a variable.
struct Value {
    name: &'static str,
    text: String,
    /// `None` in the environment of the process.
    span: Option<Range<usize>>,
}

/// The options of the database by the variables that Laravel's
/// `config/database.php` reads.
const DATABASE: [(&str, &str); 6] = [
    ("host", "DB_HOST"),
    ("port", "DB_PORT"),
    ("dbname", "DB_DATABASE"),
    ("user", "DB_USERNAME"),
    ("password", "DB_PASSWORD"),
    ("sslmode", "DB_SSLMODE"),
];
/// What Laravel takes of a URL's query.
const IN_QUERY: [&str; 4] = ["sslmode", "sslcert", "sslkey", "sslrootcert"];

/// What the drivers of `config/broadcasting.php` call their variables.
struct Driver {
    app_id: &'static str,
    key: &'static str,
    secret: &'static str,
    host: &'static str,
    port: &'static str,
    scheme: &'static str,
}

const REVERB: Driver = Driver {
    app_id: "REVERB_APP_ID",
    key: "REVERB_APP_KEY",
    secret: "REVERB_APP_SECRET",
    host: "REVERB_HOST",
    port: "REVERB_PORT",
    scheme: "REVERB_SCHEME",
};
const PUSHER: Driver = Driver {
    app_id: "PUSHER_APP_ID",
    key: "PUSHER_APP_KEY",
    secret: "PUSHER_APP_SECRET",
    host: "PUSHER_HOST",
    port: "PUSHER_PORT",
    scheme: "PUSHER_SCHEME",
};

impl<'e> Application<'e> {
    /// Reads the `.env` in `root`. `env` looks up a variable of the process; with
    /// `APP_ENV` set there, `.env.production` is read instead if there is one, as
    /// Laravel does.
    ///
    /// # Errors
    /// If there is no such folder, the file cannot be read, or not be understood.
    pub fn read(
        root: &Path,
        env: &'e dyn Fn(&str) -> Option<String>,
    ) -> Result<Application<'e>, Problem> {
        if !root.is_dir() {
            let message = format!("there is no folder {}", root.display());
            return Err(Problem::new(message).fix("name the one that holds .env".to_owned()));
        }
        let special = env("APP_ENV").map(|name| root.join(format!(".env.{name}")));
        let path = special.filter(|path| path.is_file()).unwrap_or_else(|| root.join(".env"));
        let (bytes, has_file) = match std::fs::read(&path) {
            Ok(bytes) => (bytes, true),
            // In a container all of it may be in the environment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), false),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                let fix = "let the user that runs rowcast read it, or write [database] and \
                           [pusher] without [laravel]";
                return Err(Problem::new(message).fix(fix.to_owned()));
            }
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem::new(format!("{} is not UTF-8", path.display())))?;
        let file = Source { path: path.into(), text };
        match dotenv::parse(&file.text, env) {
            Ok(entries) => Ok(Application { file, has_file, entries, env }),
            Err((error, span)) => {
                Err(Problem::new(error.to_string()).at(&file, span).fix(error.fix().to_owned()))
            }
        }
    }

    /// The file that was read, or would have been.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// A variable, unless it is empty or `null`.
    pub fn get(&self, name: &str) -> Option<String> {
        self.find(name).map(|(text, _)| text)
    }

    fn find(&self, name: &str) -> Option<(String, Option<Range<usize>>)> {
        let (text, span) = match (self.env)(name) {
            Some(text) => (text, None),
            None => {
                let entry = self.entries.iter().rfind(|entry| entry.name == name)?;
                (entry.value.clone(), Some(entry.span.clone()))
            }
        };
        // Laravel's env() takes these words for what they say.
        let is_unset =
            matches!(&*text.to_ascii_lowercase(), "" | "null" | "(null)" | "empty" | "(empty)");
        (!is_unset).then_some((text, span))
    }

    fn value(&self, names: &[&'static str]) -> Option<Value> {
        names
            .iter()
            .find_map(|&name| self.find(name).map(|(text, span)| Value { name, text, span }))
    }

    /// Where the application's database is, with the role that it logs in as.
    ///
    /// # Errors
    /// If it is no Postgres, or its variables do not say.
    pub fn database(&self) -> Result<WrittenDsn, Vec<Problem>> {
        self.is_postgres().map_err(|problem| vec![problem])?;
        let mut problems = Vec::new();
        let mut dsn = WrittenDsn::default();
        dsn.set("host", "127.0.0.1");
        for (key, name) in DATABASE {
            let Some(value) = self.value(&[name]) else { continue };
            let mut one = WrittenDsn::default();
            one.set(key, &value.text);
            match Dsn::try_from(&one) {
                Ok(_) => dsn.set(key, &value.text),
                Err(error) => problems.push(self.refuse(&value, &error)),
            }
        }
        if let Some(url) = self.url() {
            match of_url(&url.text) {
                Ok(of_url) => of_url.pairs().for_each(|(key, value)| dsn.set(key, value)),
                Err(error) => problems.push(self.refuse(&url, &error)),
            }
        }
        if problems.is_empty() {
            let required = [("dbname", "DB_DATABASE"), ("user", "DB_USERNAME")];
            let missing = required.iter().filter(|(key, _)| dsn.get(key).is_none());
            let fix = "set it, or write url under [database]";
            problems.extend(missing.map(|(_, name)| self.missing(name, fix)));
        }
        if problems.is_empty() { Ok(dsn) } else { Err(problems) }
    }

    fn url(&self) -> Option<Value> {
        self.value(&["DB_URL", "DATABASE_URL"])
    }

    fn is_postgres(&self) -> Result<(), Problem> {
        let fix = "if the tables are in Postgres all the same, name it: url under [database], or \
                   rowcast init --url";
        if let Some(connection) = self.value(&["DB_CONNECTION"]).filter(|it| it.text != "pgsql") {
            let message = format!(
                "DB_CONNECTION is {:?}, and rowcast reads Postgres only, which Laravel calls pgsql",
                connection.text
            );
            return Err(self.place(Problem::new(message), &connection).fix(fix.to_owned()));
        }
        match self.url() {
            Some(url) => match url.text.split_once("://") {
                Some(("postgres" | "postgresql" | "pgsql", _)) => Ok(()),
                _ => {
                    let message = format!("{} is no URL of a Postgres database", url.name);
                    Err(self.place(Problem::new(message), &url).fix(fix.to_owned()))
                }
            },
            None if self.find("DB_CONNECTION").is_none() => {
                Err(self.missing("DB_CONNECTION", "DB_CONNECTION=pgsql, if it is Postgres"))
            }
            None => Ok(()),
        }
    }

    /// Those of `[pusher]` that `lacks` asks for, checked: what is not asked for
    /// may be wrong.
    ///
    /// # Errors
    /// What is missing, and what cannot be.
    pub fn pusher(
        &self,
        lacks: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<(&'static str, String)>, Vec<Problem>> {
        let lacks_endpoint = lacks("url") && lacks("cluster");
        if !lacks_endpoint && !["app_id", "key", "secret"].iter().any(|option| lacks(option)) {
            return Ok(Vec::new());
        }
        let driver = self.driver().map_err(|problem| vec![problem])?;
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for (option, name) in
            [("app_id", driver.app_id), ("key", driver.key), ("secret", driver.secret)]
        {
            if !lacks(option) {
                continue;
            }
            match self.value(&[name]) {
                Some(value) => match check(option, &value.text) {
                    Ok(()) => found.push((option, value.text)),
                    Err(error) => problems.push(self.refuse(&value, &*error)),
                },
                None => {
                    let fix = format!("set it, or write {option} under [pusher]");
                    problems.push(self.missing(name, &fix));
                }
            }
        }
        let server = match driver.host {
            "REVERB_HOST" => Some("reverb"),
            _ if self.find(PUSHER.host).is_none() => Some("pusher"),
            _ => None,
        };
        found.extend(server.filter(|_| lacks("server")).map(|name| ("server", name.to_owned())));
        if lacks_endpoint {
            match self.endpoint(driver) {
                Ok(endpoint) => found.push(endpoint),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    fn driver(&self) -> Result<&'static Driver, Problem> {
        let fix = "BROADCAST_CONNECTION=reverb or pusher, or write url, app_id, key and secret \
                   under [pusher]";
        let Some(connection) = self.value(&["BROADCAST_CONNECTION", "BROADCAST_DRIVER"]) else {
            let has_key = |driver: &&Driver| self.find(driver.key).is_some();
            let driver = [&REVERB, &PUSHER].into_iter().find(has_key);
            return driver.ok_or_else(|| self.missing("BROADCAST_CONNECTION", fix));
        };
        match &*connection.text {
            "reverb" => Ok(&REVERB),
            "pusher" => Ok(&PUSHER),
            other => {
                let message = format!(
                    "{} is {other:?}, and rowcast sends to what Laravel calls reverb or pusher",
                    connection.name
                );
                Err(self.place(Problem::new(message), &connection).fix(fix.to_owned()))
            }
        }
    }

    /// `url` or `cluster`, as `config/broadcasting.php` finds them.
    fn endpoint(&self, driver: &Driver) -> Result<(&'static str, String), Problem> {
        let Some(host) = self.value(&[driver.host]) else {
            if driver.host == REVERB.host {
                return Err(self.missing(REVERB.host, "set it, or write url under [pusher]"));
            }
            let Some(cluster) = self.value(&["PUSHER_APP_CLUSTER"]) else {
                return Ok(("cluster", "mt1".to_owned()));
            };
            return match check("cluster", &cluster.text) {
                Ok(()) => Ok(("cluster", cluster.text)),
                Err(error) => Err(self.refuse(&cluster, &*error)),
            };
        };
        let scheme = self.get(driver.scheme).unwrap_or_else(|| "https".to_owned());
        let port = self.get(driver.port).unwrap_or_else(|| "443".to_owned());
        let url = match host.text.contains(':') {
            true => format!("{scheme}://[{}]:{port}", host.text),
            false => format!("{scheme}://{}:{port}", host.text),
        };
        match check("url", &url) {
            Ok(()) => Ok(("url", url)),
            Err(error) => {
                let message = format!(
                    "{}, {} and {} make {url:?}: {}",
                    driver.scheme,
                    driver.host,
                    driver.port,
                    chain::line(&*error)
                );
                Err(self.place(Problem::new(message), &host))
            }
        }
    }

    /// The time zone that the application writes its timestamps in, if it says so.
    ///
    /// # Errors
    /// If there is no such time zone.
    pub fn timezone(&self) -> Result<Option<String>, Problem> {
        let Some(value) = self.value(&["APP_TIMEZONE"]) else { return Ok(None) };
        match TimeZone::try_from(value.text.clone()) {
            Ok(_) => Ok(Some(value.text)),
            Err(error) => Err(self.refuse(&value, &error)),
        }
    }

    fn refuse(&self, value: &Value, error: &(dyn Error + 'static)) -> Problem {
        self.place(Problem::new(format!("{}: {}", value.name, chain::line(error))), value)
    }

    fn place(&self, problem: Problem, value: &Value) -> Problem {
        match &value.span {
            Some(span) => problem.at(&self.file, span.clone()),
            None => problem,
        }
    }

    fn missing(&self, name: &str, fix: &str) -> Problem {
        let path = self.file.path.display();
        let message = match self.has_file {
            true => format!("{name} is set neither in {path} nor in the environment"),
            false => format!("{name} is not set in the environment, and there is no {path}"),
        };
        Problem::new(message).fix(fix.to_owned())
    }
}

/// Of a URL in the form that Laravel takes.
fn of_url(text: &str) -> Result<WrittenDsn, crate::postgres::DsnError> {
    let text = match text.strip_prefix("pgsql://") {
        Some(rest) => format!("postgres://{rest}"),
        None => text.to_owned(),
    };
    let mut dsn: WrittenDsn = text.parse()?;
    let unknown: Vec<String> = dsn
        .pairs()
        .map(|(key, _)| key)
        .filter(|key| !IN_QUERY.contains(key) && !DATABASE.iter().any(|(option, _)| option == key))
        .map(str::to_owned)
        .collect();
    unknown.iter().for_each(|key| drop(dsn.remove(key)));
    Dsn::try_from(&dsn)?;
    Ok(dsn)
}

fn check(option: &str, text: &str) -> Result<(), Box<dyn Error>> {
    match option {
        "app_id" => drop(text.parse::<AppId>()?),
        "key" => drop(text.parse::<AppKey>()?),
        "cluster" => drop(text.parse::<Cluster>()?),
        "url" => drop(text.parse::<EndpointUrl>()?),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::config::{self, Application};
use crate::postgres::{Address, Dsn, Target, WrittenDsn};

/// Where the database and the endpoint are found.
pub(super) struct Origin {
    /// Of the database, as the one who runs `init` may log in.
    pub(super) dsn: WrittenDsn,
    pub(super) database_from: From,
    /// The application's folder, if there is one, absolute.
    pub(super) laravel: Option<PathBuf>,
    /// Where the database was found, in words.
    pub(super) found_in: String,
    pub(super) pusher: Pusher,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Url,
    Application,
    /// The PG* variables, and what libpq does without them.
    Environment,
}

pub(super) enum Pusher {
    /// The application's settings say all of it.
    Application,
    /// Its settings do not, and why.
    Unclear(String),
    Unknown,
}

impl Origin {
    /// # Errors
    /// If the application's settings cannot be read, or name no Postgres.
    pub(super) fn find(
        url: Option<&WrittenDsn>,
        laravel: Option<&Path>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Origin> {
        let application = application(laravel, env)?;
        let (dsn, database_from) = match (url, &application) {
            (Some(url), _) => (url.clone(), From::Url),
            (None, Some((_, application))) => {
                (application.database().map_err(config::Error::from)?, From::Application)
            }
            (None, None) => (of_environment()?, From::Environment),
        };
        let found_in = match (database_from, &application) {
            (From::Application, Some((_, application))) => {
                format!("{}; --url names another way to it", application.path().display())
            }
            (From::Url, _) => "--url".to_owned(),
            _ => "the PG* variables; --url or --laravel names another".to_owned(),
        };
        let pusher = match &application {
            None => Pusher::Unknown,
            Some((_, application)) => match application.pusher(&|_| true) {
                Ok(_) => Pusher::Application,
                Err(problems) => {
                    Pusher::Unclear(problems.first().map_or("", |first| first.message()).to_owned())
                }
            },
        };
        let laravel = application.map(|(root, _)| root);
        Ok(Origin { dsn, database_from, laravel, found_in, pusher })
    }
}

/// The one that was named, else that of this folder.
fn application<'e>(
    named: Option<&Path>,
    env: &'e dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<(PathBuf, Application<'e>)>> {
    let root = named.unwrap_or(Path::new("."));
    let application = match Application::read(root, env) {
        Ok(application) => application,
        Err(problem) if named.is_some() || root.join("artisan").exists() => {
            return Err(config::Error::from(vec![problem]).into());
        }
        Err(_) => return Ok(None),
    };
    let is_one = named.is_some()
        || root.join("artisan").exists()
        || application.get("DB_CONNECTION").is_some();
    if !is_one {
        return Ok(None);
    }
    Ok(Some((root.canonicalize()?, application)))
}

/// What psql would connect to, so that it holds for a service too, which has
/// another environment.
fn of_environment() -> anyhow::Result<WrittenDsn> {
    let target = Target::of(&Dsn::default())?;
    let mut dsn = WrittenDsn::default();
    if let Some(host) = target.hosts.first() {
        match &host.address {
            Address::Unix(folder) => dsn.set("host", &folder.display().to_string()),
            Address::Name(name) => dsn.set("host", name),
            Address::Fixed { ip, .. } => dsn.set("host", &ip.to_string()),
        }
        dsn.set("port", &host.port.to_string());
    }
    for (key, name) in [
        ("sslmode", "PGSSLMODE"),
        ("sslrootcert", "PGSSLROOTCERT"),
        ("channel_binding", "PGCHANNELBINDING"),
    ] {
        dsn.set(key, &std::env::var(name).unwrap_or_default());
    }
    dsn.set("dbname", target.database());
    dsn.set("user", target.user());
    Ok(dsn)
}

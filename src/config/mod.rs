//! The configuration: one TOML file, whose sections belong to the stages.
//!
//! Loading touches files only: the configuration itself, the secrets that it
//! names, and the `.env` of the application that it names. Every mistake is reported with its place, what was expected, and what
//! to write instead; all mistakes of a kind at once.

mod document;
mod explain;
mod interpolate;
mod laravel;
mod locate;
mod report;
mod run;
mod secret_file;
mod unused;

use std::io;
use std::path::{Path, PathBuf};

use crate::chain;
use crate::postgres::Dsn;
use crate::{deliver, postgres, route};

use document::Document;
use locate::{Outline, Source};

pub use laravel::{Application, Laravel};
pub use locate::Location;
pub use report::{Problem, Report};
pub use run::{Admin, InspectEvery, OnSlotLoss, Run};

const PUSHER_EXAMPLE: &str = "add, with your server's values:
[pusher]
url = \"http://127.0.0.1:8080\"
app_id = \"${REVERB_APP_ID}\"
key = \"${REVERB_APP_KEY}\"
secret = \"${REVERB_APP_SECRET}\"";

/// Everything that the file decides.
#[derive(Clone, Debug)]
pub struct Config {
    pub laravel: Laravel,
    pub database: postgres::Config,
    pub pusher: deliver::pusher::Config,
    pub limits: deliver::Limits,
    pub run: Run,
    pub broadcast: route::BroadcastConfig,
    pub rule: Vec<route::Config>,
}

/// A configuration, and where in the file each part of it stands.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is not wrong but should not stay so: to be logged.
    pub warnings: Vec<String>,
    source: Source,
    outline: Outline,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no configuration: looked for {}; --config names another", paths(tried))]
    NotFound { tried: Vec<PathBuf> },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not UTF-8: see line {line}", path.display())]
    Encoding { path: PathBuf, line: usize },
    #[error("{0}")]
    Invalid(Report),
}

impl From<Report> for Error {
    fn from(report: Report) -> Error {
        Error::Invalid(report)
    }
}

impl From<Vec<Problem>> for Error {
    fn from(problems: Vec<Problem>) -> Error {
        Error::Invalid(Report::new(problems))
    }
}

fn paths(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(" and ")
}

/// Reads the configuration at `path`. `env` looks up an environment variable.
///
/// # Errors
/// [`Error::Invalid`] holds every mistake that could be found at once.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Error> {
    let source = read(path)?;
    let mut document = Document::parse(&source)?;
    let application = document.application(env)?;
    let of_application = |name: &str| application.as_ref()?.get(name);
    document.complete(&|name| env(name).or_else(|| of_application(name)), application.as_ref())?;
    if let Some(folder) = run::default_state_dir(path, env) {
        document.default("run", "state_dir", folder.display().to_string());
    }
    let laravel = document.section("laravel");
    let database = document.section("database");
    let pusher = document.required("pusher", PUSHER_EXAMPLE);
    let limits = document.section("limits");
    let run = document.section("run");
    let broadcast = document.section("broadcast");
    let rule = document.rules();
    let outline = document.finish()?;
    let (Some(laravel), Some(database), Some(pusher), Some(limits), Some(run), Some(broadcast)) =
        (laravel, database, pusher, limits, run, broadcast)
    else {
        unreachable!("a section is only missing after a problem");
    };
    let config = Config { laravel, database, pusher, limits, run, broadcast, rule };
    let mut warnings = unused::unused(&source, &outline, config.database.capture);
    warnings.extend(readable_secrets(&source, &outline));
    Ok(Loaded { config, warnings, source, outline })
}

fn read(path: &Path) -> Result<Source, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { tried: vec![path.to_owned()] });
        }
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::Encoding { path: path.to_owned(), line }
    })?;
    Ok(Source { path: path.into(), text })
}

impl Loaded {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Where `option` of the rule stands, counted from 0; the rule itself if it
    /// leaves the option to its default.
    pub fn locate(&self, rule_index: usize, option: &str) -> Location {
        let entry = self.rule_entry(rule_index, option);
        self.source.location(entry.map_or(0, |entry| entry.key.start))
    }

    /// A rule's problem with its line, as all mistakes of the file are shown.
    pub fn place(&self, problem: &route::Problem) -> Problem {
        let span = self
            .rule_entry(problem.rule_index, problem.option)
            .map_or(0..0, |entry| entry.key.clone());
        Problem::new(problem.to_string()).at(&self.source, span).fix(problem.fix.clone())
    }

    /// Passes if none of the problems is an error.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every problem that is one.
    pub fn refuse(&self, problems: &[route::Problem]) -> Result<(), Error> {
        let errors: Vec<Problem> = problems
            .iter()
            .filter(|problem| problem.is_error())
            .map(|problem| self.place(problem))
            .collect();
        if errors.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(Report::new(errors)))
    }

    /// What a stage says of one of its options once it uses it: a file that is
    /// no certificate, two options that exclude each other.
    pub fn refuse_option(&self, option: &str, error: &(dyn std::error::Error + 'static)) -> Error {
        let section = option.split('.').next().unwrap_or(option);
        let entry = self.outline.find(option).or_else(|| self.outline.find(section));
        let message = format!("`{option}`: {}", chain::line(error));
        let span = entry.map_or(0..0, |entry| entry.key.clone());
        Error::Invalid(Report::new(vec![Problem::new(message).at(&self.source, span)]))
    }

    /// As whom the application of `[laravel]` logs in to its database.
    ///
    /// # Errors
    /// If the file names no application, or that one no Postgres.
    pub fn application_dsn(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn, Error> {
        let Some(root) = &self.config.laravel.root else {
            let problem = Problem::new("no application is named whose .env says how to log in")
                .at(&self.source, 0..0)
                .fix("[laravel]\nroot = \"/var/www/shop\"".to_owned());
            return Err(vec![problem].into());
        };
        let application = Application::read(root, env).map_err(|problem| vec![problem])?;
        let dsn = application.database()?;
        Ok(Dsn::try_from(&dsn).expect("it was checked as it was read"))
    }

    fn rule_entry(&self, rule_index: usize, option: &str) -> Option<&locate::Entry> {
        self.outline
            .find(&format!("rule[{rule_index}].{option}"))
            .or_else(|| self.outline.find(&format!("rule[{rule_index}]")))
    }
}

/// Says so if everyone on the machine can read a secret in the file.
fn readable_secrets(source: &Source, outline: &Outline) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;

    let mode = std::fs::metadata(&source.path).ok()?.permissions().mode();
    if mode & 0o004 == 0 {
        return None;
    }
    let secret = outline.entries().find(|entry| {
        let raw = source.text.get(entry.value.clone()).unwrap_or_default();
        match entry.option.as_str() {
            "pusher.secret" | "pusher.encryption_key" | "database.password" => !raw.contains("${"),
            "database.url" => !raw.contains("${") && holds_password(raw),
            _ => false,
        }
    })?;
    Some(format!(
        "every user of this machine can read {path}, which holds {option}: chmod o-r {path}, or \
         keep the secret elsewhere with {option}_file or ${{VAR}}",
        path = source.path.display(),
        option = secret.option,
    ))
}

/// Whether a libpq URL or DSN, as it is written, has a password.
fn holds_password(url: &str) -> bool {
    let in_authority = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'))
        .is_some_and(|(user, _)| user.contains(':'));
    in_authority || url.contains("password=")
}

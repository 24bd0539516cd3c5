//! The section `[run]`: the process itself.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Deserializer;

use crate::duration;

/// How rowcast runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Where rowcast keeps its files, such as the list of rejected
    /// notifications. `default_state_dir` unless set.
    pub state_dir: PathBuf,
    /// Where to answer over HTTP how it runs, besides the socket in `state_dir`.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// How long a stop may take to deliver what has been read.
    #[serde(default = "ten_seconds", deserialize_with = "grace")]
    pub grace: Duration,
    /// How often the database is looked at while changes stream: whether the
    /// publication, the tables and the settings are still as the rules need them.
    #[serde(default)]
    pub inspect_every: InspectEvery,
    /// What happens when the slot is lost, and the changes with it.
    #[serde(default)]
    pub on_slot_loss: OnSlotLoss,
    /// Whether to take the slot from another rowcast that still holds it but is
    /// not there any more.
    #[serde(default)]
    pub takeover: bool,
    /// Whether the slot is one that standbys keep too, from Postgres 17 on.
    #[serde(default)]
    pub failover: bool,
}

/// An address and a port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Admin(SocketAddr);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address with a port, such as \"127.0.0.1:9187\" or \"[::1]:9187\"")]
pub struct AdminError(String);

impl Admin {
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl TryFrom<String> for Admin {
    type Error = AdminError;

    fn try_from(text: String) -> Result<Admin, AdminError> {
        text.parse().map(Admin).map_err(|_| AdminError(text))
    }
}

const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// What to do without the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSlotLoss {
    /// Make it again and tell every page to fetch again.
    #[default]
    Resync,
    /// End, so that somebody looks at it.
    Stop,
}

/// From 100 ms to an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InspectEvery(Duration);

impl InspectEvery {
    const RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

    pub fn get(self) -> Duration {
        self.0
    }
}

fn grace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration::within(deserializer, GRACE)
}

impl Default for InspectEvery {
    fn default() -> InspectEvery {
        InspectEvery(Duration::from_secs(60))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a duration from \"100ms\" to \"1h\"")]
pub struct InspectEveryError(String);

impl TryFrom<String> for InspectEvery {
    type Error = InspectEveryError;

    fn try_from(text: String) -> Result<InspectEvery, InspectEveryError> {
        let duration =
            duration::parse(&text).filter(|duration| InspectEvery::RANGE.contains(duration));
        duration.map(InspectEvery).ok_or(InspectEveryError(text))
    }
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// The folder that systemd made for the service, also for who asks about it from
/// outside; else the user's own. `None` where there is neither.
pub(super) fn default_state_dir(
    config: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    let env = |name| env(name).filter(|value| !value.is_empty());
    if let Some(folders) = env("STATE_DIRECTORY") {
        // Several state folders of one service are separated by colons.
        return folders.split(':').next().map(PathBuf::from);
    }
    if let Some(folder) = of_service(config).filter(|folder| folder.is_dir()) {
        return Some(folder);
    }
    if let Some(folder) = env("XDG_STATE_HOME") {
        return Some(PathBuf::from(folder).join("rowcast"));
    }
    env("HOME").map(|home| PathBuf::from(home).join(".local/state/rowcast"))
}

/// As packaging/rowcast@.service has it.
fn of_service(config: &Path) -> Option<PathBuf> {
    let name = config.strip_prefix("/etc/rowcast").ok()?.to_str()?.strip_suffix(".toml")?;
    (!name.contains('/')).then(|| Path::new("/var/lib/rowcast").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_folder_is_systemds_else_the_users() {
        let folder = |set: &[(&str, &str)]| {
            default_state_dir(Path::new("rowcast.toml"), &|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let state = Some(PathBuf::from("/var/lib/rowcast"));
        assert_eq!(folder(&[("STATE_DIRECTORY", "/var/lib/rowcast"), ("HOME", "/h")]), state);
        assert_eq!(folder(&[("STATE_DIRECTORY", "/var/lib/rowcast:/x")]), state);
        assert_eq!(folder(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/rowcast".into()));
        assert_eq!(
            folder(&[("XDG_STATE_HOME", ""), ("HOME", "/h")]),
            Some("/h/.local/state/rowcast".into())
        );
        assert_eq!(folder(&[]), None);
    }

    #[test]
    fn the_services_folder_is_named_as_its_configuration() {
        let folder = |config: &str| of_service(Path::new(config));
        assert_eq!(folder("/etc/rowcast/shop.toml"), Some("/var/lib/rowcast/shop".into()));
        assert_eq!(folder("/etc/rowcast/a/b.toml"), None);
        assert_eq!(folder("/etc/rowcast/shop"), None);
        assert_eq!(folder("shop.toml"), None);
    }

    fn run(options: &str) -> Result<Run, toml::de::Error> {
        toml::from_str(&format!("state_dir = '/s'\n{options}"))
    }

    #[test]
    fn grace_is_a_duration_with_its_unit() {
        let grace = |text: &str| run(&format!("grace = '{text}'")).map(|run| run.grace);
        assert_eq!(grace("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(grace("10").is_err());
        assert!(grace("-1s").is_err());
        let endless = grace("9223372036854775807s").expect_err("no clock goes so far").to_string();
        assert!(endless.contains("is not a duration from \"0s\" to \"1h\""), "{endless}");
    }

    #[test]
    fn what_answers_listens_nowhere_unless_it_is_told_an_address_and_a_port() {
        assert_eq!(run("").unwrap().admin, None);
        let admin = run("admin = '127.0.0.1:9187'").unwrap().admin.expect("it is set");
        assert!(admin.address().ip().is_loopback());
        for wrong in ["9187", ":9187", "localhost:9187", ""] {
            let error = run(&format!("admin = '{wrong}'")).unwrap_err().to_string();
            assert!(error.contains("such as \"127.0.0.1:9187\""), "{error}");
        }
    }

    #[test]
    fn a_lost_slot_is_made_again_unless_it_is_to_stop() {
        assert_eq!(run("").unwrap().on_slot_loss, OnSlotLoss::Resync);
        assert_eq!(run("on_slot_loss = 'stop'").unwrap().on_slot_loss, OnSlotLoss::Stop);
        let error = run("on_slot_loss = 'ignore'").unwrap_err().to_string();
        assert!(error.contains("`resync` or `stop`"), "{error}");
        let run = run("takeover = true\nfailover = true").unwrap();
        assert!(run.takeover && run.failover);
    }

    #[test]
    fn the_database_is_looked_at_neither_all_the_time_nor_never() {
        let every = |text: &str| InspectEvery::try_from(text.to_owned()).map(InspectEvery::get);
        assert_eq!(every("100ms").unwrap(), Duration::from_millis(100));
        assert_eq!(every("1h").unwrap(), Duration::from_secs(3600));
        assert!(every("99ms").is_err());
        assert!(every("61m").is_err());
        assert!(every("60").is_err());
    }
}

//! SIGHUP: the rules are read anew while `rowcast run` goes on.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::signal::Hangups;
use super::{hint, rules};
use crate::backoff::Backoff;
use crate::chain;
use crate::config::{self, Config, Loaded};
use crate::observe::{Source, Standing, Systemd};
use crate::pipeline;
use crate::route::Rules;

/// The longest wait until a database that could not be asked is asked again.
const ASK_AGAIN_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Reload {
    pub(super) path: PathBuf,
    /// What is in use.
    pub(super) config: Config,
    /// Of the file, which have been told.
    pub(super) warnings: Vec<String>,
    pub(super) options: Arc<pipeline::Options>,
    pub(super) rules_tx: watch::Sender<Arc<Rules>>,
    pub(super) systemd: Option<Systemd>,
}

impl Reload {
    /// Has the rules of the file take the place of those in use at each SIGHUP, if
    /// they can. Whatever is wrong with them is logged, and nothing is interrupted.
    pub(super) async fn run(mut self, mut hangups: Hangups) {
        hangups.next().await;
        loop {
            // What the file says now counts, and not what is still being checked.
            tokio::select! {
                () = self.reload() => hangups.next().await,
                () = hangups.next() => {}
            }
        }
    }

    async fn reload(&mut self) {
        // Until then it may still fail to start.
        let mut standing = self.options.observer.standing();
        let has_begun = |it: &Standing| !matches!(it.source, Source::Starting { .. });
        let _observed = standing.wait_for(has_begun).await.map(drop);
        self.tell(Systemd::reloads);
        match self.try_reload().await {
            Ok(None) => tracing::info!("the rules in the file are those in use: nothing changes"),
            Ok(Some(count)) => tracing::info!(count, "the rules are reloaded"),
            Err(error) => {
                let text = chain::line(error.as_ref());
                tracing::error!(
                    hint = hint(&error),
                    "the rules are not reloaded, and those in use stay: {text}"
                );
            }
        }
        self.tell(Systemd::reloaded);
    }

    fn tell(&self, what: impl FnOnce(&Systemd)) {
        if let Some(systemd) = &self.systemd {
            what(systemd);
        }
    }

    /// Returns how many rules there are now. `None` if nothing is new.
    async fn try_reload(&mut self) -> anyhow::Result<Option<usize>> {
        let loaded = self.read()?;
        let rules = rules::compile(&loaded)?;
        let Config { rule, broadcast, .. } = &loaded.config;
        if (rule, broadcast) == (&self.config.rule, &self.config.broadcast) {
            return Ok(None);
        }
        self.check(&rules).await.map_err(|error| rules::explain(error, &loaded))?;
        let count = rule.len();
        self.config = loaded.config;
        self.rules_tx.send_replace(Arc::new(rules));
        Ok(Some(count))
    }

    /// The file with its rules, and all else as it is in use: by that they are
    /// judged.
    fn read(&mut self) -> Result<Loaded, config::Error> {
        let mut loaded = config::load(&self.path, &|name| env::var(name).ok())?;
        for warning in loaded.warnings.iter().filter(|it| !self.warnings.contains(it)) {
            tracing::warn!("{warning}");
        }
        self.warnings.clone_from(&loaded.warnings);
        for section in others(&self.config, &loaded.config) {
            tracing::warn!("[{section}] has changed in the file: that needs a restart");
        }
        let Config { rule, broadcast, .. } = loaded.config;
        loaded.config = Config { rule, broadcast, ..self.config.clone() };
        Ok(loaded)
    }

    /// Waits for a database that cannot be asked now.
    async fn check(&self, rules: &Rules) -> Result<(), pipeline::Error> {
        let mut backoff = Backoff::up_to(ASK_AGAIN_WITHIN);
        let mut is_told = false;
        loop {
            match pipeline::check(&self.options, rules).await {
                Err(error) if error.is_transient() => {
                    if !is_told {
                        let error = chain::line(&error);
                        tracing::warn!(
                            "{error}: the new rules are checked once Postgres can be asked, and \
                             those in use stay until then"
                        );
                        is_told = true;
                        // Nobody is to wait for that.
                        self.tell(Systemd::reloaded);
                    }
                    sleep(backoff.next()).await;
                }
                checked => return checked,
            }
        }
    }
}

/// Sections besides the rules that are not as they were.
fn others(used: &Config, read: &Config) -> impl Iterator<Item = &'static str> {
    let sections = [
        ("laravel", used.laravel != read.laravel),
        ("database", used.database != read.database),
        ("pusher", used.pusher != read.pusher),
        ("limits", used.limits != read.limits),
        ("run", used.run != read.run),
    ];
    sections.into_iter().filter_map(|(section, is_other)| is_other.then_some(section))
}

//! The rules of the configuration, and how its file is told of their mistakes.

use crate::config::{self, Loaded};
use crate::pipeline;
use crate::route::{Broadcasts, Options, Rules};

/// The rules, as far as they can be judged without the database.
pub(super) fn compile(loaded: &Loaded) -> Result<Rules, config::Error> {
    let config = &loaded.config;
    let options = Options {
        timezone: config.database.timezone.get().clone(),
        max_data_bytes: config.pusher.server.capacity().max_data_bytes(),
        encrypts: config.pusher.encryption_key.is_some(),
    };
    let broadcasts = Broadcasts::new(config.broadcast.clone(), &options)
        .map_err(|(option, error)| loaded.refuse_option(option, &error))?;
    match Rules::compile(config.rule.clone(), options) {
        Ok(rules) => Ok(rules.with(broadcasts)),
        Err(problems) => {
            loaded.refuse(&problems)?;
            unreachable!("rules that do not compile have an error")
        }
    }
}

/// What the live catalog says of the rules belongs to lines of the file.
pub(super) fn explain(error: pipeline::Error, loaded: &Loaded) -> anyhow::Error {
    match &error {
        pipeline::Error::Refused(refused) => match loaded.refuse(&refused.problems) {
            Err(invalid) => invalid.into(),
            Ok(()) => error.into(),
        },
        _ => error.into(),
    }
}

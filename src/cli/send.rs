//! `rowcast send`: one event by hand.

use std::str::FromStr;

use anyhow::Context;

use super::{Global, terminal};
use crate::deliver::echo_line;
use crate::deliver::pusher::Client;
use crate::notification::{ChannelName, EventName};

/// Sends one event by hand: does the endpoint take it, does the page hear it?
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rowcast send private-posts.42 PostUpdated
  rowcast send posts 'App\\Events\\PostUpdated' '{\"id\":42}'")]
pub(super) struct Args {
    /// The channel with its prefix, as in private-posts.42
    channel: ChannelName,
    /// The event's name; in single quotes if it has backslashes
    event: EventName,
    /// The payload
    #[arg(value_name = "JSON", default_value = "{}")]
    data: JsonText,
}

/// A text that is JSON, as it was written.
#[derive(Clone, Debug)]
struct JsonText(Box<str>);

impl FromStr for JsonText {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<JsonText, serde_json::Error> {
        serde_json::from_str::<serde::de::IgnoredAny>(text)?;
        Ok(JsonText(text.into()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0} is an encrypted channel and there is no key for it: set `encryption_key`")]
struct NoKey(ChannelName);

pub(super) async fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let Args { channel, event, data: JsonText(data) } = args;
    let loaded = global.load_config()?;
    let client = Client::new(&loaded.config.pusher)
        .map_err(|error| loaded.refuse_option(&format!("pusher.{}", error.option()), &error))?;
    if channel.class().is_encrypted() && loaded.config.pusher.encryption_key.is_none() {
        return Err(loaded.refuse_option("pusher", &NoKey(channel)).into());
    }
    client
        .publish(&event, std::slice::from_ref(&channel), &data)
        .await
        .with_context(|| format!("cannot send {event} to {channel}"))?;
    terminal::say(format_args!("sent {event} to {channel}: {data}"));
    if let Some(line) = echo_line(&channel, &event) {
        terminal::say(format_args!("heard by {line}"));
    }
    Ok(())
}

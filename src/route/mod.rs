//! Rules: a change in, notifications out. Pure: no IO, no clock.
//!
//! [`Config`] is what a user wrote, [`Rules`] what that means for any table,
//! and a [`Router`] holds what it means for each relation of one session.

mod config;
mod pattern;
mod problem;

mod check;
mod needs;
mod preset;
mod replay;
mod rule;
mod secrets;

mod action;
mod bound;
mod broadcast;
mod channel;
mod data;
mod drawing;
mod event;
mod kin;
mod lookup;
mod resync;
mod router;

mod engine;
mod expression;
mod filters;
mod lex;
mod moment;
mod names;
mod reads;
mod said;
mod singular;
mod template;
mod value;
mod variable;
mod view;

#[cfg(test)]
mod tests;

pub use broadcast::{Broadcasts, BroadcastsError, Config as BroadcastConfig, Unsent};
pub use config::{
    Config, Data, Lookup, OneOrMany, Oversize, Preset, Resync, ResyncForm, SoftDelete,
};
pub use names::{entity as entity_of, studly};
pub use needs::TableNeeds;
pub use pattern::{ParsePatternError, TablePattern};
pub use problem::{Problem, Severity};
pub use replay::{Skipped, Why};
pub use router::{Counts, Renamed, Router};
pub use rule::{Options, Rules};
pub use secrets::looks_secret;

//! Rules: a change in, notifications out. Pure: no IO, no clock.
//!
//! [`Config`] is what a user wrote, [`Rules`] what that means for any table,
//! and a [`Router`] holds what it means for each relation of one session.

mod check;
mod config;
mod pattern;
mod problem;
mod router;
mod rule;

pub use check::TableNeeds;
pub use config::{Config, Data, OneOrMany, Oversize, SoftDelete};
pub use pattern::{ParsePatternError, TablePattern};
pub use problem::{Problem, Severity};
pub use router::{Counts, Router};
pub use rule::{Options, Rules};

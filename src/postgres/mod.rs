//! Ordinary Postgres: connecting, and what setup makes and checks.

mod names;
mod quoting;

pub mod catalog;
pub mod checks;
pub mod identity;
pub mod need;
pub mod publication;
pub mod publish;
pub mod server;
pub mod slot;
pub mod snapshot;
pub mod standby;
pub mod statement;

pub use names::{NameError, PublicationName, SlotName};
pub use quoting::{quote_identifier, quote_literal, quote_replication_literal};

//! Streaming logical replication: a slot's committed changes, decoded by
//! `pgoutput`, and the confirmation of what was delivered.
//!
//! [`connection`] dials and starts the stream; `inbox` holds what is read,
//! in which `frame` finds the frames and `decoder` turns messages
//! ([`pgoutput`]) into changes of the tables that `relations` remembers, and
//! into what was said to rowcast itself;
//! `feedback` decides what to confirm, and `pace` when to let rows gather before
//! they are read, for which it takes a `nap`. [`Session`] is the loop around them, and
//! [`read_pieces`] reads without a server what a session would.

pub mod connection;
mod decoder;
mod feedback;
mod frame;
mod inbox;
mod make_slot;
mod nap;
mod pace;
pub mod pgoutput;
mod pieces;
mod relations;
mod session;

pub use decoder::DecoderError;
pub use feedback::STATUS_INTERVAL;
pub use frame::{FrameError, SkimError};
pub use inbox::InboxError;
pub use make_slot::{MakeSlotError, Maker};
pub use pieces::read_pieces;
pub use session::{Error, Options, Session, SlotChoice};

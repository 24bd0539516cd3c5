//! rowcast reads committed row changes from Postgres, turns them into
//! notifications by rules, and pushes these to a Pusher-compatible server.
//!
//! # The way of the data
//!
//! ```text
//!  source ──changes──▶ lookup ▸ route ──notifications──▶ deliver ──▶ endpoint
//!    ▲                                                      │
//!    └────────────────── position, written down ◀───────────┘
//! ```
//!
//! [`pipeline`] is this drawing as a program: the tasks, the queues between
//! them, and the order in which they end.
//!
//! # Layout
//!
//! In the order of the data, the words that stages share first:
//!
//! - [`change`]: a batch of row changes over one block of bytes, and positions.
//! - [`source`]: where changes come from. [`source::wal`] streams logical
//!   replication; [`source::triggers`] reads and empties a table that triggers
//!   write to; [`source::rows`] and [`source::recording`] are read by `replay`.
//! - [`lookup`]: rows of other tables that rules read columns of, kept right by
//!   the changes themselves.
//! - [`route`]: rules; a change in, notifications out. Pure.
//! - [`notification`]: what is sent, complete.
//! - [`coalesce`]: windows that fold what is unsent, and resyncs where it is too
//!   much. Driven by deliver, which takes from it when a lane is free. Pure.
//! - [`deliver`]: lanes, requests, retries, and who listens; what is refused for good
//!   is written to a file.
//! - [`acknowledge`]: the frontier, which says what may be confirmed. Pure.
//! - [`state`]: what outlives the process: how far changes were delivered, and the
//!   resyncs that are owed.
//! - [`postgres`]: ordinary Postgres: connecting, and what setup makes and
//!   checks.
//! - [`config`]: the file; [`cli`]: the command line; [`observe`]: the log, what is
//!   counted, and how it stands, for whoever asks;
//!   [`secret`]: text that must not be printed; [`chain`]: an error with its
//!   causes; [`backoff`]: waits between attempts; [`duration`]: how they are
//!   written; [`failpoint`]: where a test may end the process.
//!
//! # Invariants
//!
//! 1. A position is confirmed only when every notification at or below it was
//!    accepted, or written to the rejected file, or proved unneeded since nobody
//!    listens, or is told by a resync that was accepted or stands recorded as owed.
//!    With nothing pending, a keepalive's position is confirmed, so an idle database
//!    retains no log.
//! 2. Positions travel as watermarks: each stage hands on the highest position
//!    that it has wholly handed on. A commit, an idle keepalive and a stop take
//!    the same path, and only [`acknowledge::Frontier`] decides.
//! 3. At each connect the queues are new and the frontier is empty. A session
//!    confirms only positions that it received itself, or where it was told to
//!    begin.
//! 4. Status updates are driven by time and never wait behind a full queue or a
//!    slow endpoint.
//! 5. Notifications of one (entity, id) are sent one request after the other,
//!    in order.
//! 6. Memory is bounded by configuration: by what queues hold and what may be
//!    pending, not by transactions, rows or outages. At the bound, rules collapse
//!    to resyncs, never to silence.
//! 7. A position is on disk before it is confirmed. A slot, or an outbox, that is
//!    found past it has a gap, for which every rule owes a resync until that was
//!    accepted.
//! 8. A change is folded only into what is unsent: a notification that deliver
//!    has taken is frozen, and a later change is told after it.

pub mod acknowledge;
pub mod backoff;
pub mod chain;
pub mod change;
pub mod cli;
pub mod coalesce;
pub mod config;
pub mod deliver;
pub mod duration;
pub mod failpoint;
pub mod lookup;
pub mod notification;
pub mod observe;
pub mod pipeline;
pub mod postgres;
pub mod route;
pub mod secret;
pub mod source;
pub mod state;

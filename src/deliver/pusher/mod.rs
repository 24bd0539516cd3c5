//! The Pusher HTTP API as Reverb, Soketi, Sockudo, laravel-websockets and
//! hosted Pusher implement it: what a request looks like, what fits into one,
//! and what an answer means.
//!
//! Only `client` and its `connections` do IO, and for `rowcast doctor` `reach` and `examine`.

mod answer;
mod client;
mod config;
mod connections;
mod encryption;
mod examine;
mod occupied;
mod packing;
mod reach;
mod server;
pub mod signature;

pub use answer::{NotAnAnswer, Problem, ServerMessage, TOLERATED_SKEW_SECONDS};
pub use client::Client;
pub use config::{
    AppId, AppIdError, AppKey, AppKeyError, AppSecret, Cluster, ClusterError, Config, ConfigError,
    EmptySecret, EndpointUrl, EndpointUrlError, Nodes, ProxyUrl, ProxyUrlError, Timeout,
    TimeoutError,
};
pub use encryption::{EncryptionKey, EncryptionKeyError};
pub use examine::{Change, Effect, Examination, Trial};
pub use reach::{Reach, ReachEnd, TlsProblem, reach};
pub use server::{Capacity, Server};

pub(super) use answer::Verdict;
pub(super) use occupied::Occupied;
pub(super) use packing::{Packed, Packer};

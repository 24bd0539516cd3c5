//! The Pusher HTTP API as Reverb, Soketi, Sockudo, laravel-websockets and
//! hosted Pusher implement it: what a request looks like, what fits into one,
//! and what an answer means.
//!
//! Only `client` does IO.

mod answer;
mod client;
mod config;
mod encryption;
mod occupied;
mod packing;
mod server;
pub(crate) mod signature;

pub use answer::{NotAnAnswer, Problem, ServerMessage};
pub use client::Client;
pub use config::{
    AppId, AppIdError, AppKey, AppKeyError, AppSecret, Cluster, ClusterError, Config, ConfigError,
    EmptySecret, EndpointUrl, EndpointUrlError, ProxyUrl, ProxyUrlError, Timeout, TimeoutError,
};
pub use encryption::{EncryptionKey, EncryptionKeyError};
pub use server::{Capacity, Server};

pub(super) use answer::Verdict;
pub(super) use packing::{Packed, Packer};

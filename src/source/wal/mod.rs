//! Streaming logical replication.

pub mod connection;

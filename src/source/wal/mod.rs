//! Streaming logical replication.

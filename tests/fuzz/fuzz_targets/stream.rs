//! Any bytes as a replication stream: `tests/suite/campaign/stream.rs` says what must hold of them, and asks it of
//! bounded numbers with the compiler that everybody has.
#![no_main]

#[path = "../../suite/campaign/stream/claim.rs"]
mod claim;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| claim::holds(bytes));

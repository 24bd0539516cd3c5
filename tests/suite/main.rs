//! Tests of the whole, on real servers: `tests/run` installs these and runs everything.

mod bad_input;
mod browser;
mod campaign;
mod capture;
mod channels;
mod config;
mod connect;
mod context;
mod continuity;
#[expect(unreachable_pub, reason = "nothing of a test binary can be reached from outside")]
mod contract;
mod deliver;
mod demo;
mod doctor;
mod doctor_endpoint;
mod faults;
#[expect(unreachable_pub, reason = "nothing of a test binary can be reached from outside")]
mod harness;
mod harness_itself;
mod imports;
mod init;
mod lookups;
mod main_job;
#[expect(unreachable_pub, reason = "the bench reaches it")]
mod memory;
mod network;
mod observe;
mod occupied;
mod package;
mod parents;
mod pooler;
mod presets;
mod promotion;
mod readme;
mod reload;
mod replay;
mod run_triggers;
mod service;
mod setup;
mod setup_command;
mod setup_triggers;
mod shell;
mod standby;
mod status;
#[expect(unreachable_pub, reason = "nothing of a test binary can be reached from outside")]
mod systems;
mod tail;
mod tls;
mod triggers;
mod visible;
mod wal;

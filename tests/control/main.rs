//! The control socket: transcripts of its conventions, jobs under a guest that goes on, and clients that mean harm.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod backup;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "../nbd/client.rs"]
mod client;
mod command;
#[path = "../common/mod.rs"]
mod common;
mod errors;
mod hostile;
mod jobs;
mod kills;
mod merge;
mod migration;
mod peers;
#[path = "../records/mod.rs"]
mod records;
mod rig;
mod stories;
mod transcripts;

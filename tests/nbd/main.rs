//! The NBD server: transcripts of its protocol, clients that mean harm, and clients of others.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod far;
mod hostile;
mod peers;
mod remote;
mod remote_peers;
mod scripted;
mod serve;
mod tls;
mod transcripts;

//! The crash simulator, the naive model and the operation sequences that run against both.
//!
//! | module | what it is |
//! |---|---|
//! | [`sector`] | 512 bytes of content, shared and hashed |
//! | [`mod@file`] | one simulated file: what is durable, what the page cache shows, what lies between |
//! | [`pending`], [`choices`] | the states a power loss can leave, and walks through them |
//! | [`sim`], [`host`] | a simulated disk of several files, with faults; its time and random bytes |
//! | [`model`] | what each sector of a disk may hold |
//! | [`laws`] | what holds in every state |
//! | [`rot`] | metadata that was written well and goes bad |
//! | [`explore`], [`fingerprint`] | every sequence of a protocol's events; which states are one |
//! | [`protocols`] | the protocols that are walked |
//! | [`hostile`] | files made to be opened |
//! | [`fuzz`] | lives of disks made up by a fuzzer |
//! | [`nbd`] | the NBD server's side of the protocol, without sockets |
//! | [`nbd_client`] | the NBD client, with a server that says anything |
//! | [`control`] | the conventions of the control socket, without sockets |
//! | [`live_script`] | what guests and jobs do to one disk, act by act |
//! | [`qed`] | QED images beside a naive reader |
//! | [`mod@shrink`] | a finding made small |
//! | [`crash`], [`world`] | exploring a scenario; what a scenario is written in |
//! | [`mod@path`] | the name of a state |
//! | [`scenarios`] | the stories that are explored |

#![allow(rustdoc::private_intra_doc_links)]

pub mod choices;
pub mod control;
pub mod crash;
pub mod explore;
pub mod file;
pub mod fingerprint;
pub mod fuzz;
pub mod host;
pub mod hostile;
pub mod laws;
pub mod live_script;
pub mod model;
pub mod nbd;
pub mod nbd_client;
pub mod path;
pub mod pending;
pub mod protocols;
pub mod qed;
pub mod rot;
pub mod scenarios;
pub mod sector;
pub mod shrink;
pub mod sim;
pub mod vectors;
pub mod world;

#[cfg(test)]
mod tests;

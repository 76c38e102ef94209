//! A control socket: jobs, snapshots and bitmaps of disks that guests use, by the conventions of QEMU's machine protocol
//! (QMP) and under QEMU's names.
//!
//! | file | what |
//! |---|---|
//! | `wire` | bytes of a client → texts → commands; answers and events → bytes |
//! | `session` | one client's course: greeting, negotiation, commands; what it gets for each text |
//! | `commands` | the table of all commands, and what each does |
//! | `transaction` | several changes of disks at one instant, all or none |
//! | `merge` | bitmaps of this disk, of others and of other servers, merged into one |
//! | `together` | mirrors whose guests move as one decision |
//! | `backup` | `drive-backup`: push, and pull |
//! | `exports` | exports that commands add |
//! | `query` | what is told of disks and bitmaps |
//! | `job` | one job: its states, its threads, its end |
//! | `course` | the engine's part of it, of each kind of job |
//! | `jobs` | the jobs by their names |
//! | `files` | which files commands may name: the caller's word |
//! | `outbox` | what waits to be sent to a client |
//! | `server` | clients, each on threads of its own, and the events that all of them get |
//!
//! The first two do no I/O, and no count of a client is believed: a text has a longest length and a greatest depth, and a
//! client that does not fetch its answers is sent away.
//!
//! A command and its members mean what they mean in QEMU; what this engine does not have is not there. A job that is
//! reported as completed is durable: the event goes out after the engine has made it so.

mod backup;
mod commands;
mod course;
mod exports;
mod files;
mod job;
mod jobs;
mod merge;
mod outbox;
mod query;
mod server;
mod session;
mod together;
mod transaction;
mod wire;

pub use files::{Files, TargetFormat, TargetMode};
pub use job::threads;
pub use server::{Device, Options, Server};
pub use session::Session;
pub use wire::{Class, Failure, Flaw, MAX_DEPTH, MAX_TEXT};

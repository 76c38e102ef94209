//! A Linux guest with ext4 on a disk of ours, as its only witness: what it was told is durable, it finds again.
//!
//! | file | what |
//! |---|---|
//! | `machine` | the guest: QEMU, a kernel and an initial file system out of Debian packages (`kit.sh`, `init`) |
//! | `files` | the guest's file system as the host sees it |
//! | `jobs` | stream, snapshot, merge and mirror under the guest |
//! | `managed` | the whole story by the control socket: two disks, backups, a move to other servers |
//! | `log` | the guest's own log of its requests, as dm-log-writes keeps it |
//! | `power` | that log again, on a simulated disk whose power fails |
//! | `kills` | the server is killed under the guest, which reconnects; then both are |
//! | `witness` | what stands between guest and server, and knows what was acknowledged |
//!
//! The guest runs without KVM, which is not everywhere, and boots in three seconds.
#![allow(unreachable_pub, reason = "a test binary exports nothing")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod jobs;
mod kills;
mod log;
mod machine;
mod managed;
mod power;
mod witness;

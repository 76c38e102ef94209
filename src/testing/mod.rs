//! The crash simulator, the naive model and the operation sequences that run against both.
//!
//! | module | what it is |
//! |---|---|
//! | [`sector`] | 512 bytes of content, shared and hashed |
//! | [`file`] | one simulated file: what is durable, what the page cache shows, what lies between |
//! | [`pending`] | the states a power loss can leave |
//! | [`sim`] | a simulated disk of several files, with faults |
//! | [`host`] | time and random bytes that a simulation owns |

pub mod file;
pub mod host;
pub mod pending;
pub mod sector;
pub mod sim;

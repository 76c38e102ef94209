//! The locks of the engine, in one place so that a concurrency checker can stand in for them.
//!
//! With `--cfg shuttle` that is [shuttle](https://docs.rs/shuttle): every use of a lock or an atomic is then a point
//! where another thread may go on, chosen from a seed (`tests/interleavings.rs`).

#[cfg(not(shuttle))]
use std::sync as primitives;

#[cfg(shuttle)]
use shuttle::sync as primitives;

pub(crate) use primitives::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
pub(crate) use primitives::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
/// Set once and then only looked at. Nobody waits for it, and the locks around it are points enough.
pub(crate) use std::sync::OnceLock;
/// A counter in a `static`, which outlives every run of a checker.
pub(crate) use std::sync::atomic::AtomicU64 as StaticCounter;

/// Locks a mutex; a panic elsewhere does not make its data unreachable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes a lock for reading.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes a lock for writing.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Waits for a condition to be signalled.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
}

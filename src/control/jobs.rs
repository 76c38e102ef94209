//! The jobs by their names.

use super::job::Job;
use super::wire::{Class, Failure};
use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use std::collections::BTreeMap;

/// Longest name of a job in bytes.
const MAX_NAME: usize = 255;

/// All jobs that were not dismissed yet.
#[derive(Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
    /// Signalled when a job was made, or not.
    made: Condvar,
}

#[derive(Default)]
struct Table {
    /// By name. `None`: a job of that name is being made.
    jobs: BTreeMap<String, Option<Arc<Job>>>,
    closed: bool,
}

impl Jobs {
    /// Adds the job that `make` makes.
    pub(super) fn add(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Arc<Job>, Failure>,
    ) -> Result<Arc<Job>, Failure> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Failure::generic("Invalid job ID"));
        }
        let mut table = lock(&self.table);
        if table.closed {
            return Err(Failure::generic("the server is about to end"));
        }
        if table.jobs.contains_key(name) {
            return Err(Failure::generic(format!("Job ID '{name}' already in use")));
        }
        table.jobs.insert(name.to_owned(), None);
        drop(table);
        let made = make();
        let mut table = lock(&self.table);
        match &made {
            Ok(job) => drop(table.jobs.insert(name.to_owned(), Some(job.clone()))),
            Err(_) => drop(table.jobs.remove(name)),
        }
        drop(table);
        self.made.notify_all();
        made
    }

    pub(super) fn remove(&self, name: &str) {
        lock(&self.table).jobs.remove(name);
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Job>, Failure> {
        let found = lock(&self.table).jobs.get(name).cloned().flatten();
        found.ok_or_else(|| Failure::new(Class::DeviceNotActive, format!("Job '{name}' not found")))
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        lock(&self.table).jobs.values().flatten().cloned().collect()
    }

    /// Cancels all and waits for their ends. There will be no more.
    pub(super) fn close(&self) {
        let mut table = lock(&self.table);
        table.closed = true;
        while table.jobs.values().any(Option::is_none) {
            table = wait(&self.made, table);
        }
        drop(table);
        self.all().iter().for_each(|job| job.stop());
    }
}

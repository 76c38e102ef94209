//! The jobs by their names.

use super::course::Course;
use super::job::{Group, Job, Options};
use super::server::Device;
use super::wire::{Class, Failure};
use crate::sync::{Arc, Condvar, Mutex, lock, wait};
use std::collections::BTreeMap;

/// Longest name of a job in bytes.
const MAX_NAME: usize = 255;

/// The name of a job that is being made; it is free again if none is.
pub(super) struct Seat<'a> {
    jobs: &'a Jobs,
    name: String,
}

impl Seat<'_> {
    /// Gives it to a new job, which is a member of `group` if there is one, and is not started yet.
    pub(super) fn fill(
        self,
        device: Arc<Device>,
        course: Course,
        options: Options,
        group: Option<&Arc<Group>>,
    ) -> Arc<Job> {
        let job = Job::new(&self.name, device, course, options, group.cloned());
        group.into_iter().for_each(|group| group.join(&job));
        lock(&self.jobs.table).jobs.insert(self.name.clone(), Some(job.clone()));
        job
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.jobs.table);
        if matches!(table.jobs.get(&self.name), Some(None)) {
            table.jobs.remove(&self.name);
        }
        drop(table);
        self.jobs.made.notify_all();
    }
}

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
    /// Keeps the name for a job that is being made.
    pub(super) fn reserve(&self, name: &str) -> Result<Seat<'_>, Failure> {
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
        Ok(Seat { jobs: self, name: name.to_owned() })
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

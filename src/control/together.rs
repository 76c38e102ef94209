//! Mirrors that are completed together: all guests move, or none, by one durable decision.

use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::live::{Move, pivot_together};
use crate::storage::Storage;
use crate::sync::{Arc, Condvar, Mutex, lock, wait};

/// The meeting of the jobs that are completed together. The last one that arrives moves all.
#[derive(Debug)]
pub(super) struct Together {
    /// Where the decision is written, until it is.
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Meeting {
    file: Option<Arc<dyn Storage>>,
    expected: usize,
    moves: Vec<Move>,
    /// What each has left, in the order of their arrival.
    left: Option<std::result::Result<Vec<Arc<Chain>>, String>>,
    /// What fails nothing and is to be told.
    report: Option<Error>,
}

impl Together {
    /// `expected` jobs will arrive, or one of them will say that it does not.
    pub(super) fn new(file: Arc<dyn Storage>, expected: usize) -> Arc<Together> {
        let (moves, left, report) = (Vec::new(), None, None);
        let meeting = Meeting { file: Some(file), expected, moves, left, report };
        Arc::new(Together { meeting: Mutex::new(meeting), changed: Condvar::new() })
    }

    /// Waits for the others, and returns the layers that this job's guest has left.
    ///
    /// # Errors
    /// As [`pivot_together`]: no guest has moved. `Invalid` to all but one of the jobs, who are told what that one met.
    pub(super) fn arrive(&self, this: Move) -> Result<Arc<Chain>> {
        let mut meeting = lock(&self.meeting);
        let number = meeting.moves.len();
        meeting.moves.push(this);
        let mut failure = None;
        if meeting.moves.len() == meeting.expected
            && let Some(file) = meeting.file.take()
        {
            match pivot_together(&meeting.moves, file) {
                Ok(moved) => {
                    meeting.report = moved.marks.err();
                    meeting.left = Some(Ok(moved.left));
                }
                Err(error) => {
                    meeting.left = Some(Err(error.to_string()));
                    failure = Some(error);
                }
            }
            self.changed.notify_all();
        }
        while meeting.left.is_none() {
            meeting = wait(&self.changed, meeting);
        }
        match (&meeting.left, failure) {
            (Some(Ok(left)), _) => Ok(left[number].clone()),
            (_, Some(error)) => Err(error),
            (Some(Err(text)), None) => Err(Error::Invalid(format!("the disks did not move: {text}"))),
            (None, None) => Err(Error::Cancelled),
        }
    }

    /// One of the jobs has ended otherwise: none moves, unless all have.
    pub(super) fn fail(&self) {
        let mut meeting = lock(&self.meeting);
        if meeting.left.is_none() {
            meeting.file = None;
            meeting.left = Some(Err("one of the jobs has ended".into()));
            self.changed.notify_all();
        }
    }

    /// What went wrong after all had moved. It is told once.
    pub(super) fn report(&self) -> Option<Error> {
        lock(&self.meeting).report.take()
    }
}

//! One job: its states and verbs, the threads that step it, and its end.
//!
//! One thread *leads*: it copies, with others beside it, until there is nothing left to copy or somebody ends that, and
//! then ends the job. A state changes under the job's lock, and its event goes out under that lock too, so that clients
//! get events in the order in which things happened.

use super::course::{Course, Stepped};
use super::server::{Device, Server};
use super::together::Together;
use super::wire::Failure;
use crate::chain::Layer;
use crate::error::Error;
use crate::live::PointInTime;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, lock, wait};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Weak;
use std::thread;
use std::time::Duration;

/// Threads that copy; more do not copy faster than one disk can.
const THREADS: usize = 4;
/// The same where each piece takes a way across a network and back.
const FAR_THREADS: usize = 16;

/// How many threads to step a job from, if nobody says; `far` if what it reads or writes is on another machine.
pub fn threads(far: bool) -> usize {
    match far {
        true => FAR_THREADS,
        false => thread::available_parallelism().map_or(1, usize::from).min(THREADS),
    }
}

/// The states of a job, as QEMU has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Ready,
    /// Paused when it was ready.
    Standby,
    Waiting,
    Pending,
    Aborting,
    Concluded,
    Null,
}

/// What comes of an error of the host. There is no "ignore": a copy with a hole in it would be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnError {
    /// The job fails.
    #[default]
    Report,
    /// It is paused; resumed, it tries again.
    Stop,
    /// The same where the host has no room left; else it fails.
    Enospc,
}

/// How a job is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) speed: u64,
    /// What comes of an error of what is copied from, and of what is copied into. Where that is one disk, both are equal.
    pub(super) on_source_error: OnError,
    pub(super) on_target_error: OnError,
    pub(super) auto_finalize: bool,
    pub(super) auto_dismiss: bool,
}

impl Options {
    /// As commands say it; what they leave out is done at once.
    pub(super) fn new(
        speed: u64,
        on_source_error: OnError,
        on_target_error: OnError,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    ) -> Options {
        let (auto_finalize, auto_dismiss) = (auto_finalize.unwrap_or(true), auto_dismiss.unwrap_or(true));
        Options { speed, on_source_error, on_target_error, auto_finalize, auto_dismiss }
    }
}

/// Jobs that end together.
#[derive(Default)]
pub(super) struct Group {
    members: Mutex<Members>,
    changed: Condvar,
}

#[derive(Default)]
struct Members {
    jobs: Vec<Weak<Job>>,
    /// So many have copied everything.
    waiting: usize,
    /// One did not end well: none of the others does.
    failed: bool,
}

impl Group {
    pub(super) fn new() -> Arc<Group> {
        Arc::default()
    }

    /// Before any of them is started.
    pub(super) fn join(&self, job: &Arc<Job>) {
        lock(&self.members).jobs.push(Arc::downgrade(job));
    }

    /// Waits until all members have copied everything.
    fn wait(&self) -> crate::Result<()> {
        let mut members = lock(&self.members);
        members.waiting += 1;
        self.changed.notify_all();
        while members.waiting < members.jobs.len() && !members.failed {
            members = wait(&self.changed, members);
        }
        if members.failed { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Cancels all others.
    fn fail(&self) {
        let mut members = lock(&self.members);
        if std::mem::replace(&mut members.failed, true) {
            return;
        }
        let jobs: Vec<_> = members.jobs.iter().filter_map(Weak::upgrade).collect();
        drop(members);
        self.changed.notify_all();
        // One that is about to end otherwise notices at its wait.
        jobs.iter().for_each(|job| drop(job.cancel(true)));
    }
}

/// How the copying ends.
#[derive(Debug)]
enum End {
    /// The copy counts; of a mirror, the guest moves to it.
    Finish,
    /// The same, together with other guests.
    FinishTogether(Arc<Together>),
    /// The target is let go of as the disk of that instant.
    Split,
    Cancel,
    Fail(Error),
}

#[derive(Debug)]
struct State {
    status: Status,
    /// The user has paused it.
    paused: bool,
    /// An error has paused it: of what kind, in QEMU's words.
    stopped: Option<&'static str>,
    /// Threads that are making a step.
    stepping: usize,
    /// What steps have met, until all have ended.
    errors: Vec<Error>,
    ready: bool,
    end: Option<End>,
    finalized: bool,
    speed: u64,
    /// Until it is concluded: the disk is free for the next job afterwards.
    course: Option<Arc<Course>>,
    /// The last that was known of it.
    progress: (u64, u64),
    failure: Option<String>,
}

impl State {
    fn halted(&self) -> bool {
        self.paused || self.stopped.is_some() || !self.errors.is_empty()
    }

    fn progress(&self) -> (u64, u64) {
        self.course.as_ref().map_or(self.progress, |course| course.progress())
    }
}

/// A job on a device.
pub(super) struct Job {
    name: String,
    kind: &'static str,
    device: Arc<Device>,
    options: Options,
    group: Option<Arc<Group>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Job {
    pub(super) fn new(
        name: &str,
        device: Arc<Device>,
        course: Course,
        options: Options,
        group: Option<Arc<Group>>,
    ) -> Arc<Job> {
        course.set_speed(options.speed);
        if let Course::Once { job, .. } = &course {
            job.hold();
        }
        let state = State {
            status: Status::Created,
            paused: false,
            stopped: None,
            stepping: 0,
            errors: Vec::new(),
            ready: false,
            end: None,
            finalized: options.auto_finalize,
            speed: options.speed,
            progress: course.progress(),
            failure: None,
            course: None,
        };
        let (name, kind, changed) = (name.to_owned(), course.kind(), Condvar::new());
        let state = Mutex::new(State { course: Some(Arc::new(course)), ..state });
        Arc::new(Job { name, kind, device, options, group, state, changed })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Starts the leading thread.
    pub(super) fn start(self: &Arc<Self>, server: &Arc<Server>) {
        let mut state = self.state();
        self.enter(&mut state, Status::Created, server);
        self.enter(&mut state, Status::Running, server);
        drop(state);
        let (job, for_thread) = (self.clone(), server.clone());
        let thread = thread::Builder::new().name("job".into()).spawn(move || job.lead(&for_thread));
        if let Err(error) = thread {
            self.conclude(Err(Error::io("threads", "cannot start one", error)), server);
        }
    }

    /// Copies until that is over, and ends the job.
    fn lead(&self, server: &Server) {
        let Some(course) = self.state().course.clone() else { return };
        let threads = threads(course.is_far() || self.device.disk.chain().layers.iter().any(Layer::is_far));
        thread::scope(|scope| {
            for _ in 1..threads {
                // Without them it is slower.
                let helper = thread::Builder::new().name("job-more".into());
                let _ = helper.spawn_scoped(scope, || self.copy(&course, false, server));
            }
            self.copy(&course, true, server);
        });
        let end = self.state().end.take().unwrap_or(End::Cancel);
        let together = if let End::FinishTogether(together) = &end { Some(together.clone()) } else { None };
        let result = match end {
            End::Cancel => Err(Error::Cancelled),
            End::Fail(error) => Err(error),
            end => self.finish(&course, &end, server),
        };
        if let (Some(together), Err(_)) = (together, &result) {
            together.fail();
        }
        // All but the last: whoever hears of the end finds the disk free.
        drop(course);
        self.conclude(result, server);
    }

    /// Steps until the copying is over. Those who help the leader go when the job is ready: there is little left to do.
    fn copy(&self, course: &Course, leads: bool, server: &Server) {
        let mut rest = None;
        while self.may_step(leads, rest, server) {
            let stepped = course.step();
            rest = self.stepped(stepped, server);
        }
        // The leader may be waiting for it.
        self.changed.notify_all();
    }

    /// Waits for `rest`, and while the job is paused. False if there is nothing more to do.
    fn may_step(&self, leads: bool, rest: Option<Duration>, server: &Server) -> bool {
        let mut state = self.state();
        if let Some(rest) = rest.filter(|_| state.end.is_none()) {
            let waited = self.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        loop {
            if state.end.is_some() || state.ready && !leads {
                return false;
            }
            if !state.halted() {
                state.stepping += 1;
                return true;
            }
            if state.stepping == 0 {
                let status = if state.ready { Status::Standby } else { Status::Paused };
                self.enter_if_new(&mut state, status, server);
            }
            state = wait(&self.changed, state);
        }
    }

    /// A step has ended. How long to wait before the next one.
    fn stepped(&self, stepped: crate::Result<Stepped>, server: &Server) -> Option<Duration> {
        let mut state = self.state();
        state.stepping -= 1;
        let (mut rest, mut news) = (None, false);
        match stepped {
            Ok(stepped) => {
                if stepped.over && state.end.is_none() {
                    state.end = Some(End::Finish);
                }
                if stepped.ready && !state.ready {
                    (state.ready, news) = (true, true);
                    self.enter(&mut state, Status::Ready, server);
                    self.event("BLOCK_JOB_READY", &state, None, server);
                }
                rest = stepped.wait;
            }
            Err(error) => state.errors.push(error),
        }
        if state.stepping == 0 && !state.errors.is_empty() {
            self.fail(&mut state, server);
        }
        // Only then: those who rest would not.
        if news || state.halted() || state.end.is_some() {
            self.changed.notify_all();
        }
        rest
    }

    /// Decides what comes of errors, once no step is under way.
    fn fail(&self, state: &mut State, server: &Server) {
        let Some(error) = first_cause(std::mem::take(&mut state.errors)) else { return };
        let no_space = matches!(error, Error::NoSpace { .. });
        let at_target = error.file().is_some_and(|file| state.course.as_ref().is_some_and(|it| it.copies_into(file)));
        let policy = if at_target { self.options.on_target_error } else { self.options.on_source_error };
        let stop = match policy {
            OnError::Report => false,
            OnError::Stop => true,
            OnError::Enospc => no_space,
        };
        let stop = stop && state.end.is_none() && state.course.as_ref().is_some_and(|course| course.retry());
        let reads = !at_target && matches!(&error, Error::Io { action, .. } if action.contains("read"));
        let data = json!({
            "device": self.name,
            "operation": if reads { "read" } else { "write" },
            "action": if stop { "stop" } else { "report" },
            "nospace": no_space,
            "reason": error.to_string(),
        });
        server.event("BLOCK_JOB_ERROR", &data);
        match stop {
            true => {
                state.stopped = Some(if no_space { "nospace" } else { "failed" });
                state.failure = Some(error.to_string());
            }
            false => state.end = state.end.take().or(Some(End::Fail(error))),
        }
    }

    /// Makes what was copied count, when the user wants it.
    fn finish(&self, course: &Course, end: &End, server: &Server) -> crate::Result<()> {
        let mut state = self.state();
        self.enter(&mut state, Status::Waiting, server);
        if let Some(group) = &self.group {
            drop(state);
            group.wait()?;
            state = self.state();
        }
        self.enter(&mut state, Status::Pending, server);
        if !state.finalized {
            server.event("BLOCK_JOB_PENDING", &json!({ "type": self.kind, "id": self.name }));
        }
        while !state.finalized && state.end.is_none() {
            state = wait(&self.changed, state);
        }
        if state.end.is_some() {
            return Err(Error::Cancelled);
        }
        // Too late for any other end.
        state.end = Some(End::Finish);
        drop(state);
        // Layers change: no command may be looking at their numbers.
        let _layers = lock(&self.device.layers);
        match end {
            End::Split => course.split(&self.device),
            End::FinishTogether(together) => course.finish_together(&self.device, server, together),
            _ => course.finish(&self.device, server),
        }
    }

    /// The job is over, and what it led to is durable.
    fn conclude(&self, result: crate::Result<()>, server: &Server) {
        if let (Some(group), Err(_)) = (&self.group, &result) {
            group.fail();
        }
        let mut state = self.state();
        if result.is_err() {
            self.enter(&mut state, Status::Aborting, server);
        }
        state.progress = state.progress();
        let course = state.course.take();
        drop(state);
        // From here on nobody finds its point in time.
        server.withdraw(&self.name);
        // Whoever hears of the end may begin the next job: the disk is free by then. What that takes holds up no query.
        if let (Some(course), Err(_)) = (&course, &result) {
            course.abandon(&self.device, server);
        }
        drop(course);
        let mut state = self.state();
        if self.options.auto_dismiss {
            server.jobs.remove(&self.name);
        }
        match &result {
            Ok(()) => state.failure = None,
            Err(Error::Cancelled) => state.failure = Some("Operation canceled".into()),
            Err(error) => state.failure = Some(error.to_string()),
        }
        match result {
            Err(Error::Cancelled) => self.event("BLOCK_JOB_CANCELLED", &state, None, server),
            Ok(()) | Err(_) => self.event("BLOCK_JOB_COMPLETED", &state, state.failure.as_deref(), server),
        }
        self.enter(&mut state, Status::Concluded, server);
        if self.options.auto_dismiss {
            self.enter(&mut state, Status::Null, server);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn enter(&self, state: &mut State, status: Status, server: &Server) {
        state.status = status;
        server.event("JOB_STATUS_CHANGE", &json!({ "id": self.name, "status": status }));
    }

    fn enter_if_new(&self, state: &mut State, status: Status, server: &Server) {
        if state.status != status {
            self.enter(state, status, server);
        }
    }

    /// An event that tells how far the job is.
    fn event(&self, name: &str, state: &State, error: Option<&str>, server: &Server) {
        let (done, total) = state.progress();
        let mut data =
            json!({ "type": self.kind, "device": self.name, "len": total, "offset": done, "speed": state.speed });
        if let Some(error) = error {
            data["error"] = error.into();
        }
        server.event(name, &data);
    }
}

/// The verbs.
impl Job {
    pub(super) fn pause(&self) -> Result<(), Failure> {
        let mut state = self.check("pause", &[Status::Running, Status::Ready, Status::Paused, Status::Standby])?;
        if state.paused {
            return Err(Failure::generic(format!("Job '{}' is already paused", self.name)));
        }
        state.paused = true;
        self.changed.notify_all();
        Ok(())
    }

    /// Takes back a pause, and what paused it for an error.
    pub(super) fn resume(&self, server: &Server) -> Result<(), Failure> {
        let mut state = self.check("resume", &[Status::Running, Status::Ready, Status::Paused, Status::Standby])?;
        if !state.paused && state.stopped.is_none() {
            return Err(Failure::generic(format!("Job '{}' is not paused", self.name)));
        }
        (state.paused, state.stopped, state.failure) = (false, None, None);
        let status = if state.ready { Status::Ready } else { Status::Running };
        self.enter_if_new(&mut state, status, server);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn set_speed(&self, speed: u64) -> Result<(), Failure> {
        let mut state = self.state();
        let Some(course) = &state.course else { return Err(self.refusal("set-speed", state.status)) };
        course.set_speed(speed);
        state.speed = speed;
        Ok(())
    }

    /// Holds the target of a ready mirror against its source; until that is over it does not end in a copy.
    pub(super) fn compare(&self) -> Result<(), Failure> {
        let state = self.check("compare", &[Status::Ready])?;
        self.check_goes_on(&state)?;
        state.course.as_ref().map_or(Ok(()), |course| course.compare()).map_err(Failure::from)
    }

    /// Ends a ready mirror with the guest on its target.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        let mut state = self.check_whole("complete")?;
        self.end(&mut state, End::Finish)
    }

    /// Whether [`complete_together`](Self::complete_together) would take it.
    pub(super) fn check_together(&self) -> Result<(), Failure> {
        match self.kind {
            "mirror" => self.check_whole("complete").map(drop),
            kind => Err(Failure::generic(format!("Job '{}': a {kind} does not move together with others", self.name))),
        }
    }

    /// Ends a ready mirror with the guest on its target, when those of the others are on theirs.
    pub(super) fn complete_together(&self, together: Arc<Together>) -> Result<(), Failure> {
        let mut state = self.check_whole("complete")?;
        self.end(&mut state, End::FinishTogether(together))
    }

    /// Ends it. A ready mirror that is not forced leaves its target as the disk of this instant.
    pub(super) fn cancel(&self, force: bool) -> Result<(), Failure> {
        let active =
            [Status::Running, Status::Ready, Status::Paused, Status::Standby, Status::Waiting, Status::Pending];
        let mut state = self.check("cancel", &active)?;
        match state.status {
            Status::Ready if !force && self.kind == "commit" => {
                Err(Failure::generic("a commit ends in 'job-complete', or is cancelled with force"))
            }
            Status::Ready if !force && self.kind == "mirror" => {
                self.check_compared(&state)?;
                self.end(&mut state, End::Split)
            }
            Status::Waiting => {
                drop(state);
                self.group.iter().for_each(|group| group.fail());
                Ok(())
            }
            _ => self.end(&mut state, End::Cancel),
        }
    }

    /// The disk of an instant that it keeps for others, if it does.
    pub(super) fn point(&self) -> Option<Arc<PointInTime>> {
        self.state().course.as_ref().and_then(|course| course.point())
    }

    pub(super) fn finalize(&self) -> Result<(), Failure> {
        let mut state = self.check("finalize", &[Status::Pending])?;
        state.finalized = true;
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn dismiss(&self, server: &Server) -> Result<(), Failure> {
        let mut state = self.check("dismiss", &[Status::Concluded])?;
        server.jobs.remove(&self.name);
        self.enter(&mut state, Status::Null, server);
        Ok(())
    }

    /// Cancels it, if it is not over, and waits for its end.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        // One that is about to end otherwise does.
        let _ = self.end(&mut state, End::Cancel);
        while !matches!(state.status, Status::Concluded | Status::Null) {
            state = wait(&self.changed, state);
        }
    }

    fn check_goes_on(&self, state: &State) -> Result<(), Failure> {
        match state.end {
            Some(_) => Err(Failure::generic(format!("Job '{}' is about to end", self.name))),
            None => Ok(()),
        }
    }

    fn end(&self, state: &mut State, end: End) -> Result<(), Failure> {
        self.check_goes_on(state)?;
        state.end = Some(end);
        self.changed.notify_all();
        Ok(())
    }

    /// The state, if it is one of those in which there is this verb.
    fn check(&self, verb: &str, allowed: &[Status]) -> Result<MutexGuard<'_, State>, Failure> {
        let state = self.state();
        if allowed.contains(&state.status) { Ok(state) } else { Err(self.refusal(verb, state.status)) }
    }

    /// The state, if the job is ready and its target was found equal, if that was asked.
    fn check_whole(&self, verb: &str) -> Result<MutexGuard<'_, State>, Failure> {
        let state = self.check(verb, &[Status::Ready])?;
        self.check_compared(&state)?;
        Ok(state)
    }

    fn check_compared(&self, state: &State) -> Result<(), Failure> {
        state.course.as_ref().map_or(Ok(()), |course| course.check_compared()).map_err(Failure::from)
    }

    fn refusal(&self, verb: &str, status: Status) -> Failure {
        let status = format!("{status:?}").to_lowercase();
        Failure::generic(format!("Job '{}' in state '{status}' cannot accept command verb '{verb}'", self.name))
    }
}

/// What is told of a job.
impl Job {
    /// As `query-jobs` has it.
    pub(super) fn info(&self) -> Value {
        let state = self.state();
        let (done, total) = state.progress();
        let mut info = json!({
            "id": self.name, "type": self.kind, "status": state.status,
            "current-progress": done, "total-progress": total,
        });
        if let Some(failure) = &state.failure {
            info["error"] = failure.as_str().into();
        }
        info
    }

    /// As `query-block-jobs` has it.
    pub(super) fn block_info(&self) -> Value {
        let state = self.state();
        let (done, total) = state.progress();
        let mut info = json!({
            "type": self.kind, "device": self.name, "status": state.status, "len": total, "offset": done,
            "busy": state.stepping > 0, "paused": state.halted(), "ready": state.ready, "speed": state.speed,
            "io-status": state.stopped.unwrap_or("ok"),
            "auto-finalize": self.options.auto_finalize, "auto-dismiss": self.options.auto_dismiss,
        });
        if let Some(failure) = &state.failure {
            info["error"] = failure.as_str().into();
        }
        info
    }
}

/// The failure that the others are only told of: the job's word about itself is [`Error::Invalid`].
fn first_cause(errors: Vec<Error>) -> Option<Error> {
    let (told, causes): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| matches!(error, Error::Invalid(_)));
    causes.into_iter().chain(told).next()
}

//! Pause, cancel, speed, yielding to a guest, errors, several threads.

use super::*;
use crate::sync::{Mutex, lock};
use std::time::Duration;

/// A clock that moves only when somebody sleeps.
#[derive(Debug, Default)]
struct Clock(Mutex<Duration>);

impl Host for Clock {
    fn random(&self) -> [u8; 16] {
        [1; 16]
    }

    fn now(&self) -> Duration {
        *lock(&self.0)
    }

    fn sleep(&self, time: Duration) {
        *lock(&self.0) += time;
    }
}

/// Work of so many bytes, each of which is noted.
#[derive(Debug)]
struct Counted {
    total: u64,
    seen: Mutex<Vec<u8>>,
    prepared: AtomicU64,
    finished: AtomicU64,
    fails_at: Mutex<Option<u64>>,
}

impl Counted {
    fn new(total: u64) -> Counted {
        let seen = Mutex::new(vec![0; total as usize]);
        Counted { total, seen, prepared: AtomicU64::new(0), finished: AtomicU64::new(0), fails_at: Mutex::new(None) }
    }
}

impl Work for Counted {
    fn kind(&self) -> &'static str {
        "count"
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn alignment(&self) -> u64 {
        8
    }

    fn prepare(&self) -> Result<()> {
        self.prepared.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        assert_eq!((self.prepared.load(Ordering::Relaxed), self.finished.load(Ordering::Relaxed)), (1, 0));
        if lock(&self.fails_at).is_some_and(|at| range.contains(&at)) {
            return Err(Error::Denied("no further".into()));
        }
        let mut seen = lock(&self.seen);
        range.clone().for_each(|byte| seen[byte as usize] += 1);
        Ok(range.end - range.start)
    }

    fn finish(&self) -> Result<()> {
        assert!(lock(&self.seen).iter().all(|times| *times == 1));
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn several_threads_share_the_pieces() {
    for total in [0, 1, 7, 8, 10_000] {
        let work = Arc::new(Counted::new(total));
        let job = Job::new(work.clone(), host());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| while !job.step(100).unwrap().finished {});
            }
        });
        assert_eq!(work.finished.load(Ordering::Relaxed), 1);
        assert_eq!(job.progress().done, total);
    }
}

#[test]
fn a_failure_is_told_to_every_caller() {
    let work = Counted { fails_at: Mutex::new(Some(500)), ..Counted::new(1000) };
    let job = Job::new(work, host());
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| finish(&job, 10))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().to_string().contains("no further")));
    assert!(!job.progress().finished);
}

/// Of a job that goes on after a failure nothing is left out and nothing done twice.
#[test]
fn a_piece_that_failed_is_done_again() {
    let work = Arc::new(Counted { fails_at: Mutex::new(Some(500)), ..Counted::new(1000) });
    let job = Job::new(work.clone(), Arc::new(Clock::default()));
    assert!(!job.retry(), "nothing has failed");
    for _ in 0..3 {
        while job.step(16).is_ok() {}
        assert!(matches!(job.step(16), Err(Error::Invalid(_))), "until then it has failed");
        assert!(job.retry());
    }
    *lock(&work.fails_at) = None;
    drive(&job, |_| {}).unwrap();
    assert_eq!((job.progress().done, work.finished.load(Ordering::Relaxed)), (1000, 1));
}

/// A job that is held goes through the disk, and no further.
#[test]
fn a_held_job_does_not_finish() {
    for total in [0, 1000] {
        let work = Arc::new(Counted::new(total));
        let job = Job::new(work.clone(), Arc::new(Clock::default()));
        job.hold();
        while !job.step(64).unwrap().held {}
        let progress = job.step(64).unwrap();
        assert!(progress.held && progress.wait.is_some() && !progress.finished && progress.done == total);
        assert_eq!(work.finished.load(Ordering::Relaxed), 0);
        job.release();
        drive(&job, |_| {}).unwrap();
        assert_eq!(work.finished.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_paused_job_does_nothing_and_a_cancelled_one_ends() {
    let job = Job::new(Counted::new(1000), Arc::new(Clock::default()));
    job.step(8).unwrap();
    job.pause();
    let before = job.step(100).unwrap();
    assert!(before.wait.is_some());
    assert_eq!(job.step(100).unwrap().done, before.done);
    job.resume();
    assert!(job.step(100).unwrap().done > before.done);
    job.cancel();
    assert!(matches!(job.step(100), Err(Error::Cancelled)));
    assert!(matches!(drive(&job, |_| {}), Err(Error::Cancelled)));
}

#[test]
fn speed_is_kept() {
    let clock = Arc::new(Clock::default());
    let job = Job::new(Counted::new(100_000), clock.clone());
    job.set_speed(10_000);
    let mut last = 0;
    drive(&job, |progress| last = progress.done).unwrap();
    assert_eq!(last, 100_000);
    let seconds = clock.now().as_secs_f64();
    assert!((9.0..=11.0).contains(&seconds), "{seconds} s");
    let job = Job::new(Counted::new(100_000), clock.clone());
    job.set_speed(10_000);
    job.step(8).unwrap();
    job.set_speed(0);
    let before = clock.now();
    drive(&job, |_| {}).unwrap();
    assert_eq!(clock.now(), before);
}

/// Work that takes a second for each MiB, beside a guest that makes a request every tenth of a second, if it is awake.
#[derive(Debug)]
struct Beside {
    clock: Arc<Clock>,
    asleep_from: Duration,
    total: u64,
    longest: AtomicU64,
}

impl Work for Beside {
    fn kind(&self) -> &'static str {
        "beside"
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn alignment(&self) -> u64 {
        4096
    }

    fn piece(&self, range: Range<u64>) -> Result<u64> {
        let length = range.end - range.start;
        if self.clock.now() < self.asleep_from {
            self.longest.fetch_max(length, Ordering::Relaxed);
        }
        self.clock.sleep(Duration::from_secs(1) * (length >> 10) as u32 / 1024);
        Ok(length)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn load(&self) -> u64 {
        self.clock.now().min(self.asleep_from).as_millis() as u64 / 100
    }
}

/// A stream that read 16 MiB at a time made each request of its guest wait for them. A job with a share works for that
/// part of the time and no more, in pieces that a guest can wait for; when the guest sleeps, all of the time.
#[test]
fn a_job_yields_to_a_guest_that_is_awake() {
    for (share, asleep_from, seconds) in [(100, 1000, 40), (25, 1000, 160), (50, 1000, 80), (50, 0, 40), (50, 40, 60)] {
        let clock = Arc::new(Clock::default());
        let (asleep_from, longest) = (Duration::from_secs(asleep_from), AtomicU64::new(0));
        let work = Arc::new(Beside { clock: clock.clone(), asleep_from, total: 40 << 20, longest });
        let job = Job::new(work.clone(), clock.clone());
        job.set_share(share);
        drive(&job, |_| {}).unwrap();
        let took = clock.now().as_secs_f64();
        assert!((took - f64::from(seconds)).abs() <= 2.0, "{took} s instead of {seconds} with a share of {share} %");
        assert!(share == 100 || work.longest.load(Ordering::Relaxed) <= 1 << 20);
    }
}

#[test]
fn work_that_makes_no_sense_is_refused() {
    let mut random = Random::new(3);
    let scene = Scene::new(&mut random, 3);
    let chain = scene.files.open(scene.top(), 2).unwrap();
    assert!(matches!(Stream::new(&chain, Some(0)), Err(Error::Invalid(_))));
    assert!(matches!(Stream::new(&chain, Some(3)), Err(Error::Invalid(_))));
    assert!(matches!(Merge::new(&chain, 1, 1, false), Err(Error::Invalid(_))));
    assert!(matches!(Merge::new(&chain, 2, 1, false), Err(Error::Invalid(_))));
    assert!(matches!(Merge::new(&chain, 0, 3, false), Err(Error::Invalid(_))));
    let chain = scene.files.open_with(scene.top(), &ChainOptions::default(), &Fuse::new(0)).unwrap();
    assert!(matches!(Stream::new(&chain, None), Err(Error::Denied(_))));
    assert!(matches!(Merge::new(&chain, 0, 1, false), Err(Error::Denied(_))));
}

//! How fast a job may go: a speed in bytes a second, and a share of the time while a guest is at work.

use crate::storage::Host;
use crate::sync::{Arc, Mutex, lock};
use std::time::Duration;

/// How long a caller waits before it looks again at the speed allowed.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// Says when the next piece may begin. Whoever works in several threads shares one.
#[derive(Debug)]
pub(crate) struct Throttle {
    host: Arc<dyn Host>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; 0 for no limit.
    speed: u64,
    /// Bytes that were copied and are not yet paid off by the time gone by.
    debt: u64,
    paid: Duration,
    /// Percent of the time, 1 to 100.
    share: u8,
    /// No piece begins before this moment.
    rests_until: Duration,
    /// When a piece last ended, and the guest's load at that moment.
    ended: Duration,
    load: u64,
    /// Whether the guest made some while that piece was under way; it counts as awake until it is seen asleep.
    awake: bool,
}

impl Throttle {
    /// No limit of speed, and `share` percent of the time. `host` tells it.
    pub(crate) fn new(host: Arc<dyn Host>, share: u8) -> Throttle {
        let now = host.now();
        let state = State {
            speed: 0,
            debt: 0,
            paid: now,
            share: share.clamp(1, 100),
            rests_until: now,
            ended: now,
            load: 0,
            awake: true,
        };
        Throttle { host, state: Mutex::new(state) }
    }

    /// Copies at most `limit` bytes a second from now on; 0 for no limit.
    pub(crate) fn set_speed(&self, limit: u64) {
        let mut state = lock(&self.state);
        (state.speed, state.debt, state.paid) = (limit, 0, self.host.now());
    }

    /// The bytes a second; 0 for no limit.
    pub(crate) fn speed(&self) -> u64 {
        lock(&self.state).speed
    }

    /// Works for at most `percent` of the time while the guest makes requests, but for as long as it takes to move as many
    /// bytes as the guest does; 100 for all of it.
    pub(crate) fn set_share(&self, percent: u8) {
        let mut state = lock(&self.state);
        (state.share, state.rests_until) = (percent.clamp(1, 100), self.host.now());
    }

    /// Whether pieces should be short: the guest, whose load so far is `load`, was at work during the last one, or has been
    /// since.
    pub(crate) fn yields(&self, load: u64) -> bool {
        let state = lock(&self.state);
        state.share < 100 && (state.awake || load != state.load)
    }

    /// How long to wait before the next piece.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let mut state = lock(&self.state);
        if state.speed == 0 && state.share == 100 {
            return None;
        }
        let now = self.host.now();
        if state.speed > 0 {
            let time = now.saturating_sub(state.paid).as_nanos();
            let earned = time.saturating_mul(u128::from(state.speed)) / 1_000_000_000;
            if earned > 0 {
                state.debt = state.debt.saturating_sub(u64::try_from(earned).unwrap_or(u64::MAX));
                state.paid = now;
            }
        }
        let rest = state.rests_until.saturating_sub(now);
        match state.debt > 0 {
            true => Some(rest.max(PATIENCE)),
            false => (!rest.is_zero()).then_some(rest),
        }
    }

    /// A piece begins.
    pub(crate) fn begin(&self) -> Duration {
        self.host.now()
    }

    /// A piece that began at `begun` has ended: `copied` bytes are owed to the speed, and rest to a guest that made requests
    /// meanwhile (`load` is all of them, see [`Work::load`](super::Work::load)), or since the last piece.
    ///
    /// A guest that writes small blocks as fast as it can leaves a job so little of the processors that its pieces take
    /// long, and with a share of the time alone it would move ever less. So it rests no longer than until the guest has
    /// moved as many bytes as the piece.
    pub(crate) fn end(&self, begun: Duration, copied: u64, load: u64) {
        let now = self.host.now();
        let mut state = lock(&self.state);
        if state.speed > 0 {
            state.debt = state.debt.saturating_add(copied);
        }
        state.awake = load != state.load;
        let moved = load.saturating_sub(state.load).max(1);
        if state.share < 100 && state.awake {
            let worked = now.saturating_sub(begun);
            let by_time = worked * u32::from(100 - state.share) / u32::from(state.share);
            let by_bytes = now.saturating_sub(state.ended).mul_f64(copied as f64 / moved as f64).saturating_sub(worked);
            state.rests_until = state.rests_until.max(now) + by_time.min(by_bytes);
        }
        (state.ended, state.load) = (now, load);
    }
}

//! What guests asked for and were told, cell by cell, and whether one disk could have told them that.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one request did to its cells.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// All hold this value afterwards.
    Set(u8),
    /// Each holds this value, or what it held: a discard, or a write that failed.
    May(u8),
    /// They were read as these values.
    Read(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Request {
    guest: usize,
    cells: Range<usize>,
    effect: Effect,
    begun: u64,
    ended: u64,
}

/// The requests of a run, in real time: a request that ended before another began came first.
#[derive(Debug)]
pub(crate) struct History {
    initial: Vec<u8>,
    requests: Mutex<Vec<Request>>,
    clock: AtomicU64,
    values: AtomicU64,
}

/// One access to one cell, as the search sees it.
#[derive(Debug, Clone, Copy)]
enum Access {
    Set(u8),
    May(u8),
    Read(u8),
}

impl History {
    /// Of a disk that holds `initial` at first, a value for each cell.
    pub(crate) fn new(initial: Vec<u8>) -> History {
        History { initial, requests: Mutex::default(), clock: AtomicU64::new(1), values: AtomicU64::new(1) }
    }

    /// This moment.
    pub(crate) fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A value that no cell ever held.
    pub(crate) fn fresh(&self) -> u8 {
        let value = self.values.fetch_add(1, Ordering::Relaxed) as u8;
        assert!(value < 200, "values from 200 on are those of the layers");
        value
    }

    /// A request that began at `begun` has ended.
    pub(crate) fn note(&self, guest: usize, cells: Range<usize>, effect: Effect, begun: u64) {
        let ended = self.now();
        self.requests.lock().unwrap().push(Request { guest, cells, effect, begun, ended });
    }

    /// Every cell behaves like one register.
    pub(crate) fn check(&self) {
        let requests = self.requests.lock().unwrap().clone();
        for cell in 0..self.initial.len() {
            let (accesses, order) = on_cell(&requests, cell, &[]);
            assert!(explained(self.initial[cell], &accesses, &order), "cell {cell}: {}", self.story(&requests, cell));
        }
    }

    /// `content` is what the disk held at one instant of `window`, when no request was under way.
    pub(crate) fn check_instant(&self, window: Range<u64>, content: &[u8], what: &str) {
        let requests = self.requests.lock().unwrap().clone();
        // Requests of one guest follow each other: the instant cuts each guest's in two.
        let of = |guest| requests.iter().filter(move |request| request.guest == guest);
        let cuts = |guest| {
            let least = of(guest).filter(|request| request.ended < window.start).count();
            least..=of(guest).filter(|request| request.begun < window.end).count()
        };
        let mut wrong = Vec::new();
        for first in cuts(0) {
            for second in cuts(1) {
                let mut seen = [0, 0];
                let before: Vec<bool> = requests
                    .iter()
                    .map(|request| {
                        let Some(cut) = [first, second].get(request.guest).copied() else {
                            return request.ended < window.start;
                        };
                        seen[request.guest] += 1;
                        seen[request.guest] <= cut
                    })
                    .collect();
                let misfit = (0..content.len()).find(|&cell| {
                    let (mut accesses, mut order) = on_cell(&requests, cell, &before);
                    accesses.push(Access::Read(content[cell]));
                    let all = (1u64 << (accesses.len() - 1)) - 1;
                    let earlier = order.iter().map(|(_, before)| *before).enumerate();
                    let earlier = earlier.filter(|(_, before)| *before).fold(0, |mask, (at, _)| mask | 1 << at);
                    for (mask, before) in &mut order {
                        *mask |= if *before { 0 } else { 1 << (accesses.len() - 1) };
                    }
                    order.push((earlier & all, true));
                    !explained(self.initial[cell], &accesses, &order)
                });
                match misfit {
                    None => return,
                    Some(cell) => wrong.push(cell),
                }
            }
        }
        let cell = wrong[0];
        panic!("{what}: no instant explains it; cell {cell} is {}: {}", content[cell], self.story(&requests, cell));
    }

    /// Each cell of `content` is what the disk held there at some moment of `window`.
    pub(crate) fn check_cells(&self, window: Range<u64>, content: &[u8], what: &str) {
        let mut requests = self.requests.lock().unwrap().clone();
        let effect = Effect::Read(content.to_vec());
        let (begun, ended) = (window.start, window.end);
        requests.push(Request { guest: usize::MAX, cells: 0..content.len(), effect, begun, ended });
        for (cell, value) in content.iter().enumerate() {
            let (accesses, order) = on_cell(&requests, cell, &[]);
            let fits = explained(self.initial[cell], &accesses, &order);
            assert!(fits, "{what}: cell {cell} is {value}: {}", self.story(&requests, cell));
        }
    }

    fn story(&self, requests: &[Request], cell: usize) -> String {
        let lines = requests.iter().filter(|request| request.cells.contains(&cell)).map(|request| {
            let Request { guest, cells, effect, begun, ended } = request;
            let effect = match effect {
                Effect::Read(values) => format!("Read({})", values[cell - cells.start]),
                other => format!("{other:?}"),
            };
            format!("\n  {begun}..{ended} guest {guest} {cells:?} {effect}")
        });
        format!("at first {}{}", self.initial[cell], lines.collect::<String>())
    }
}

/// The accesses to a cell; for each, those that came before it in real time, and whether `before` names its request.
fn on_cell(requests: &[Request], cell: usize, before: &[bool]) -> (Vec<Access>, Vec<(u64, bool)>) {
    let here: Vec<(usize, &Request)> =
        requests.iter().enumerate().filter(|(_, request)| request.cells.contains(&cell)).collect();
    let accesses = here.iter().map(|(_, request)| match &request.effect {
        Effect::Set(value) => Access::Set(*value),
        Effect::May(value) => Access::May(*value),
        Effect::Read(values) => Access::Read(values[cell - request.cells.start]),
    });
    let order = here.iter().map(|(number, request)| {
        let earlier = here.iter().enumerate().filter(|(_, (_, other))| other.ended < request.begun);
        (earlier.fold(0, |mask, (at, _)| mask | 1 << at), before.get(*number).copied().unwrap_or(true))
    });
    (accesses.collect(), order.collect())
}

/// Whether the accesses can be put in a line, as real time allows, in which every read sees what was set last.
fn explained(initial: u8, accesses: &[Access], order: &[(u64, bool)]) -> bool {
    fn go(
        done: u64,
        value: u8,
        accesses: &[Access],
        order: &[(u64, bool)],
        dead_ends: &mut HashSet<(u64, u8)>,
    ) -> bool {
        if done.count_ones() as usize == accesses.len() {
            return true;
        }
        if !dead_ends.insert((done, value)) {
            return false;
        }
        (0..accesses.len()).filter(|at| done & 1 << at == 0 && order[*at].0 & !done == 0).any(|at| {
            let next = done | 1 << at;
            match accesses[at] {
                Access::Set(new) => go(next, new, accesses, order, dead_ends),
                Access::May(new) => {
                    go(next, value, accesses, order, dead_ends) || go(next, new, accesses, order, dead_ends)
                }
                Access::Read(seen) => seen == value && go(next, value, accesses, order, dead_ends),
            }
        })
    }
    assert!(accesses.len() <= 64, "a history that is short enough to be searched");
    go(0, initial, accesses, order, &mut HashSet::new())
}

#[test]
fn a_history_that_no_disk_tells_is_noticed() {
    let told = |effects: &[(Effect, u64, u64)]| {
        let history = History::new(vec![9]);
        for (number, (effect, begun, ended)) in effects.iter().enumerate() {
            let request =
                Request { guest: number % 2, cells: 0..1, effect: effect.clone(), begun: *begun, ended: *ended };
            history.requests.lock().unwrap().push(request);
        }
        history
    };
    let possible = |history: &History| std::panic::catch_unwind(|| history.check()).is_ok();
    let read = |value| Effect::Read(vec![value]);
    assert!(possible(&told(&[(Effect::Set(1), 1, 4), (read(9), 2, 3), (read(1), 5, 6)])));
    assert!(!possible(&told(&[(Effect::Set(1), 1, 2), (read(9), 3, 4)])), "an old value after the write ended");
    let overtaken = [(Effect::Set(1), 1, 8), (read(1), 2, 3), (read(9), 4, 5)];
    assert!(!possible(&told(&overtaken)), "old after new");
    assert!(possible(&told(&[(Effect::May(0), 1, 2), (read(9), 3, 4)])));
    let either = [(Effect::May(0), 1, 2), (read(9), 3, 4), (read(0), 5, 6)];
    assert!(!possible(&told(&either)), "one, then the other");

    let instant = |history: &History, window: Range<u64>, value| {
        std::panic::catch_unwind(|| history.check_instant(window, &[value], "it")).is_ok()
    };
    let history = told(&[(Effect::Set(1), 1, 4), (Effect::Set(2), 6, 9)]);
    assert!(instant(&history, 2..3, 9) && instant(&history, 2..3, 1) && !instant(&history, 2..3, 2));
    assert!(instant(&history, 4..7, 1) && instant(&history, 4..7, 2) && !instant(&history, 5..7, 9));
}

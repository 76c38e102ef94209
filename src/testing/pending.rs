//! The states a power loss can leave: every subset of what no barrier has covered.
//!
//! Metadata splits by sector: each holds its durable content or that of any write since, and a sector that was
//! written twice with different contents also a mixture of the two (it can be rewritten while it is being written
//! back). Payload splits by operation: none of it arrived, all, the first half, the second half, every other
//! sector. A change of length, and the directory entry of a new file, arrived or did not.

use super::file::{Action, Content, Op, SimFile};
use super::sector::{Sector, mix};
use crate::limits::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// One file as a power loss left it.
#[derive(Debug, Clone)]
pub struct Remains {
    /// Its name.
    pub name: Arc<str>,
    /// Its bytes; `None` if its directory entry did not arrive.
    pub content: Option<Arc<Content>>,
    /// As in [`SimFile::payload`].
    pub payload: Range<u64>,
    /// As in [`SimFile::device`].
    pub device: bool,
}

/// Losses of power that take little to tell of, out of all that there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All that was in flight is lost.
    All,
    /// Nothing is: a quiet minute had passed.
    Nothing,
    /// Every other unit is, the first one too.
    Odd,
    /// Every other unit is, and the first one is not.
    Even,
}

impl Loss {
    /// Each.
    pub const EACH: [Loss; 4] = [Loss::All, Loss::Nothing, Loss::Odd, Loss::Even];

    /// What is chosen where units have so many choices; `None`: what the page cache shows.
    pub(super) fn choices(self, of: &[u8]) -> Option<Vec<u8>> {
        let arrives = |first: bool| (0..of.len()).map(|unit| u8::from((unit % 2 == 0) == first)).collect();
        match self {
            Loss::All => Some(vec![0; of.len()]),
            Loss::Nothing => None,
            Loss::Odd => Some(arrives(false)),
            Loss::Even => Some(arrives(true)),
        }
    }
}

/// A hash of all that a power loss left.
pub fn hash(remains: &[Remains]) -> u64 {
    remains.iter().fold(7, |state, file| mix(state, file.content.as_ref().map_or(0, |content| content.hash())))
}

/// What one choice does to a file.
#[derive(Debug)]
enum Effect {
    Sectors(Vec<(u64, Sector)>),
    Size(u64),
}

/// An effect, and the choice that brings it about.
#[derive(Debug)]
struct Arrival {
    unit: usize,
    choice: u8,
    effect: Effect,
}

#[derive(Debug)]
struct PendingFile {
    name: Arc<str>,
    durable: Arc<Content>,
    payload: Range<u64>,
    device: bool,
    /// Effects in the order in which they were issued.
    arrivals: Vec<Arrival>,
    /// The unit that decides about the directory entry, where it is not durable.
    entry: Option<usize>,
}

/// What no barrier has covered, cut into units that a power loss decides about one by one.
#[derive(Debug)]
pub struct Pending {
    files: Vec<PendingFile>,
    /// Choices of each unit; choice 0 is always "did not arrive".
    choices: Vec<u8>,
    names: Vec<String>,
}

impl Pending {
    /// Cuts up what is in flight on `files`.
    pub fn of(files: &[SimFile]) -> Pending {
        let mut pending = Pending { files: Vec::new(), choices: Vec::new(), names: Vec::new() };
        for file in files {
            let cut = pending.cut(file);
            pending.files.push(cut);
        }
        pending
    }

    /// The number of choices each unit has.
    pub fn choices(&self) -> &[u8] {
        &self.choices
    }

    /// How many states there are; `None` past 2^63.
    pub fn states(&self) -> Option<u64> {
        self.choices.iter().try_fold(1u64, |product, n| product.checked_mul(u64::from(*n)))
    }

    /// What arrived in the state that `choices` make, for a person.
    pub fn describe(&self, choices: &[u8]) -> Vec<String> {
        let word = |choice: &u8, of: &u8| match (choice, of) {
            (0, _) => "lost".to_string(),
            (1, 2) => "arrived".to_string(),
            (n, _) => format!("arrived, choice {n}"),
        };
        let words = choices.iter().zip(&self.choices).map(|(choice, of)| word(choice, of));
        self.names.iter().zip(words).map(|(name, word)| format!("{name}: {word}")).collect()
    }

    /// The files as a power loss leaves them that makes `choices`.
    pub fn apply(&self, choices: &[u8]) -> Vec<Remains> {
        self.files.iter().map(|file| file.apply(choices)).collect()
    }

    fn unit(&mut self, choices: usize, name: String) -> usize {
        self.choices.push(choices as u8);
        self.names.push(name);
        self.choices.len() - 1
    }

    fn cut(&mut self, file: &SimFile) -> PendingFile {
        let mut arrivals: Vec<(usize, Arrival)> = Vec::new();
        let mut entry = None;
        let mut versions: BTreeMap<u64, Vec<(usize, Sector)>> = BTreeMap::new();
        let shortened = shortened(file);
        for (order, op) in file.pending.iter().enumerate() {
            match &op.action {
                Action::Entry => entry = Some(self.unit(2, format!("{}: directory entry", file.name))),
                Action::Size(size) => {
                    if *size != file.durable.size || shortened {
                        let unit = self.unit(2, format!("{}: length {size}", file.name));
                        arrivals.push((order, Arrival { unit, choice: 1, effect: Effect::Size(*size) }));
                    }
                }
                Action::Sectors(_) => {
                    let (payload, metadata) = split(file, op);
                    for (number, sector) in metadata {
                        versions.entry(number).or_default().push((order, sector));
                    }
                    self.cut_payload(file, op, payload, shortened).into_iter().for_each(|a| arrivals.push((order, a)));
                }
            }
        }
        for (number, versions) in versions {
            self.cut_sector(file, number, &versions, shortened, &mut arrivals);
        }
        arrivals.sort_by_key(|(order, _)| *order);
        PendingFile {
            name: Arc::clone(&file.name),
            durable: Arc::clone(&file.durable),
            payload: file.payload.clone(),
            device: file.device,
            arrivals: arrivals.into_iter().map(|(_, arrival)| arrival).collect(),
            entry,
        }
    }

    /// The ways in which a sector of metadata can have arrived.
    fn cut_sector(
        &mut self,
        file: &SimFile,
        number: u64,
        versions: &[(usize, Sector)],
        shortened: bool,
        arrivals: &mut Vec<(usize, Arrival)>,
    ) {
        let durable = file.durable.sector(number);
        let mut distinct: Vec<(usize, Sector)> = Vec::new();
        let mut add = |order: usize, sector: &Sector| {
            let known = distinct.iter().any(|(_, content)| content == sector);
            if !known && (shortened || *sector != durable) {
                distinct.push((order, sector.clone()));
            }
        };
        for (order, sector) in versions {
            add(*order, sector);
        }
        for pair in versions.windows(2) {
            if !file.pending[pair[0].0].abandoned && pair[0].1 != pair[1].1 {
                add(pair[1].0, &pair[0].1.torn(&pair[1].1));
            }
        }
        if distinct.is_empty() {
            return;
        }
        let unit = self.unit(distinct.len() + 1, format!("{}: sector at {}", file.name, number * SECTOR_SIZE));
        for (choice, (order, sector)) in (1u8..).zip(distinct) {
            arrivals.push((order, Arrival { unit, choice, effect: Effect::Sectors(vec![(number, sector)]) }));
        }
    }

    /// The ways in which one operation's payload can have arrived.
    fn cut_payload(&mut self, file: &SimFile, op: &Op, sectors: Vec<(u64, Sector)>, shortened: bool) -> Vec<Arrival> {
        let alone = !shortened && file.pending.iter().filter(|other| overlaps(other, op)).count() == 1;
        let half = sectors.len() / 2;
        let patterns: [&dyn Fn(usize) -> bool; 4] = [&|_| true, &|i| i < half, &|i| i >= half, &|i| i % 2 == 1];
        let mut effects: Vec<Vec<(u64, Sector)>> = Vec::new();
        for pattern in patterns {
            let arrived: Vec<(u64, Sector)> = sectors
                .iter()
                .enumerate()
                .filter(|(i, (number, sector))| pattern(*i) && !(alone && file.durable.sector(*number) == *sector))
                .map(|(_, arrived)| arrived.clone())
                .collect();
            if !arrived.is_empty() && !effects.contains(&arrived) {
                effects.push(arrived);
            }
        }
        if effects.is_empty() {
            return Vec::new();
        }
        let first = sectors[0].0 * SECTOR_SIZE;
        let name = format!("{}: {} sectors of data at {first}", file.name, sectors.len());
        let unit = self.unit(effects.len() + 1, name);
        let numbered = (1u8..).zip(effects);
        numbered.map(|(choice, sectors)| Arrival { unit, choice, effect: Effect::Sectors(sectors) }).collect()
    }
}

impl PendingFile {
    fn apply(&self, choices: &[u8]) -> Remains {
        let arrived = self.entry.is_none_or(|unit| choices[unit] != 0);
        let content = arrived.then(|| {
            let mut content = Arc::clone(&self.durable);
            for arrival in self.arrivals.iter().filter(|arrival| choices[arrival.unit] == arrival.choice) {
                let content = Arc::make_mut(&mut content);
                match &arrival.effect {
                    Effect::Sectors(sectors) => content.sectors.extend(sectors.iter().cloned()),
                    Effect::Size(size) => content.set_size(*size),
                }
            }
            if !self.arrivals.is_empty() {
                Arc::make_mut(&mut content).trim();
            }
            content
        });
        Remains { name: Arc::clone(&self.name), content, payload: self.payload.clone(), device: self.device }
    }
}

/// Whether a length in flight is shorter than one before it: then equal contents may still differ in what follows.
fn shortened(file: &SimFile) -> bool {
    let mut longest = file.durable.size;
    file.pending.iter().any(|op| match op.action {
        Action::Size(size) if size < longest => true,
        Action::Size(size) => {
            longest = size;
            false
        }
        _ => false,
    })
}

/// Sectors by number, with what an operation puts there.
type Contents = Vec<(u64, Sector)>;

/// An operation's contents in the payload area and outside it.
fn split(file: &SimFile, op: &Op) -> (Contents, Contents) {
    op.contents().iter().cloned().partition(|(number, _)| file.payload.contains(&(number * SECTOR_SIZE)))
}

/// Whether two operations speak of one sector.
fn overlaps(a: &Op, b: &Op) -> bool {
    let (a, b) = (a.contents(), b.contents());
    let (shorter, longer) = if a.len() < b.len() { (a, b) } else { (b, a) };
    shorter.iter().any(|(number, _)| longer.binary_search_by_key(number, |content| content.0).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: Range<u64>) -> SimFile {
        let mut file = SimFile::create("f", 1);
        file.settle_entry();
        file.set_size(1 << 16, 2);
        file.settle(2);
        file.payload = payload;
        file
    }

    #[test]
    fn metadata_splits_by_sector_and_unchanged_sectors_do_not_count() {
        let mut file = written(0..0);
        let mut page = vec![0; 4096];
        page[0] = 1;
        page[1024] = 1;
        file.write(&page, 8192, 3);
        assert_eq!(Pending::of(&[file]).choices(), [2, 2]);
    }

    #[test]
    fn a_sector_rewritten_without_a_barrier_can_tear() {
        let mut file = written(0..0);
        file.write(&[1; 512], 0, 3);
        file.write(&[2; 512], 0, 4);
        let pending = Pending::of(&[file]);
        assert_eq!(pending.choices(), [4]);
        let torn = pending.apply(&[3]);
        let sector = torn[0].content.as_ref().expect("exists").sector(0);
        assert_eq!((sector.bytes()[0], sector.bytes()[511]), (2, 1));
    }

    #[test]
    fn payload_splits_by_operation() {
        let mut file = written(4096..1 << 16);
        file.write(&[7; 4096], 4096, 3);
        let pending = Pending::of(&[file]);
        assert_eq!(pending.choices(), [5]);
        let arrived = |choice: u8| pending.apply(&[choice])[0].content.as_ref().expect("exists").sectors.len();
        assert_eq!([0, 1, 2, 3, 4].map(arrived), [0, 8, 4, 4, 4]);
    }

    #[test]
    fn a_failed_barrier_leaves_what_it_covered_undecided_for_ever() {
        let mut file = written(0..0);
        file.write(&[1; 512], 0, 3);
        file.abandon(3);
        file.settle(4);
        assert_eq!(Pending::of(&[file.clone()]).choices(), [2]);
        file.write(&[1; 512], 0, 5);
        file.settle(5);
        assert!(Pending::of(&[file]).choices().is_empty(), "written again and covered");
    }

    #[test]
    fn a_length_and_what_lies_past_it_arrive_apart() {
        let mut file = written(0..0);
        file.write(&[1; 512], 1 << 16, 3);
        let pending = Pending::of(&[file]);
        assert_eq!(pending.choices(), [2, 2]);
        let with = |choices: [u8; 2]| pending.apply(&choices)[0].content.clone().expect("exists");
        let unlike = with([1, 0]);
        assert_eq!((unlike.size, unlike.sector(128)), ((1 << 16) + 512, Sector::zero()));
        assert!(with([0, 1]).sectors.is_empty(), "past the end there is nothing");
    }

    #[test]
    fn a_new_file_is_there_only_with_its_entry() {
        let mut file = SimFile::create("f", 1);
        file.write(&[1; 512], 0, 2);
        file.settle(2);
        let pending = Pending::of(&[file.clone()]);
        assert_eq!(pending.choices(), [2]);
        assert!(pending.apply(&[0])[0].content.is_none());
        file.settle_entry();
        assert!(Pending::of(&[file]).choices().is_empty());
    }
}

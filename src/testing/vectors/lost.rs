//! Vectors of states in which the crash simulator loses power: of what its scenarios leave, one state of each kind.
//!
//! Nobody chose them, as those of [`crash`](super::crash) were chosen. What is read from them is what this library reads,
//! after the simulator's laws were found to hold. [`vector`] makes one of any state that a finding names.

use super::run::Files;
use super::sparse::Sparse;
use super::vector::{Case, Disk, Flag, Role, Stretch, Vector, Verdict, ids};
use crate::conformance::{Told, extents, facts, open, told, verdict};
use crate::device::BlockDevice;
use crate::error::Result;
use crate::format::{Chosen, Header, Kind, choose};
use crate::testing::crash::{Explorer, Limits, Scenario, State};
use crate::testing::file::Content;
use crate::testing::rot::slot_bytes;
use crate::testing::scenarios::{ALL, LONG, files::GROUP};
use crate::testing::sim::SimDisk;
use std::collections::BTreeSet;

/// Few states of each point: what tells kinds apart is in headers, of which a point has one or two.
const LIMITS: Limits =
    Limits { exhaustive: 8, sample: 4, nested: 4, recovery_period: 0, depth: 0, faults: 0, ..Limits::USUAL };

pub(super) fn all() -> Vec<Vector> {
    let mut seen = BTreeSet::new();
    let mut vectors = Vec::new();
    for scenario in ALL.iter().chain(LONG) {
        let mut states = Explorer::states(scenario, LIMITS, Box::new(|_, disk| kind(disk)));
        states.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Each shows a file as none before.
        states.retain(|(kinds, _)| kinds.split("; ").filter(|kind| seen.insert(kind.to_string())).count() > 0);
        vectors.extend(states.iter().enumerate().map(|(number, (_, state))| {
            let name = format!("crash-left-{}-{}", scenario.name.replace([' ', ','], "_"), number + 1);
            vector(&name, state)
        }));
    }
    vectors
}

/// The state that `path` names, of one of `scenarios`, as a vector of this name.
pub fn of_path(name: &str, scenarios: &[&'static Scenario], path: &str) -> Option<Vector> {
    Explorer::state(scenarios, path).map(|state| vector(name, &state))
}

/// What headers say of each file, but not of which content. `None` if there is a file that nobody wants as a vector:
/// a block device, whose poison is no zeros.
fn kind(disk: &SimDisk) -> Option<String> {
    let mut kinds: Vec<String> = Vec::new();
    for name in disk.names() {
        let content = disk.cached(&name)?;
        if !content.fill.is_zero() {
            return None;
        }
        kinds.extend(header(&content).map(|chosen| kind_of(&chosen)));
    }
    kinds.sort();
    (!kinds.is_empty()).then(|| kinds.join("; "))
}

fn kind_of(chosen: &Chosen) -> String {
    let Header { kind, state, decision, .. } = &chosen.header;
    let sections: BTreeSet<String> = chosen.header.sections.iter().map(|section| section.kind.to_string()).collect();
    let bitmaps: BTreeSet<String> = chosen.header.bitmaps.iter().map(|bitmap| bitmap.state.to_string()).collect();
    let Header { parent, merge_mark, copy_mark, group_mark, .. } = &chosen.header;
    let links = [parent.is_some(), merge_mark.is_some(), copy_mark.is_some(), group_mark.is_some()];
    format!("{kind} {state} {links:?} {decision:?} {sections:?} {bitmaps:?}")
}

fn header(content: &Content) -> Option<Chosen> {
    choose(&slot_bytes(content, 0), &slot_bytes(content, 1)).ok()
}

/// Every file that has a header and lies below no other, opened for reading.
fn vector(name: &str, state: &State) -> Vector {
    let State { path, disk } = state;
    let mut vector = Vector::new(name, &format!("Power is lost: {path}."), &[]).also(&["ORD-04"]);
    vector.flags = vec![Flag::Crash, Flag::Written];
    let cases: Vec<Case> = disk.names().iter().filter_map(|file| opening(disk, file)).collect();
    for file in disk.names() {
        let Some(content) = disk.cached(&file) else { continue };
        let named = |names: &Vec<String>| names.iter().any(|name| **name == *file);
        let role = match header(&content).map(|chosen| chosen.header.kind) {
            Some(Kind::Image) => Role::Image,
            Some(Kind::Sidecar) => Role::Sidecar,
            Some(Kind::Group) => Role::Group,
            None if cases.iter().any(|case| case.volume.as_deref() == Some(&*file)) => Role::Volume,
            None if cases.iter().any(|case| named(&case.parents)) => Role::Parent,
            None => Role::Other,
        };
        vector = vector.file(&file, role, bytes(&content));
    }
    let files = Files::of(&vector, false);
    let below: BTreeSet<String> = cases.iter().flat_map(|case| case.parents.clone()).collect();
    vector.cases = cases.into_iter().map(|case| answered(&files, case)).collect();
    // What lies below another one shows through it, and is opened on its own only to be refused.
    vector.cases.retain(|case| case.result != Verdict::Valid || !below.contains(&case.open));
    vector.sum_up();
    vector
}

fn bytes(content: &Content) -> Sparse {
    let (mut bytes, mut all) = (Sparse::new(content.size), vec![0; content.size as usize]);
    content.read(&mut all, 0);
    bytes.write(0, &all);
    bytes
}

/// How the scenarios open a file: parents by the last part of their hint, a volume by the name of its sidecar, the group if
/// there is one. `None` if it has no header, is no disk, or misses a file.
fn opening(disk: &SimDisk, file: &str) -> Option<Case> {
    let found = |name: &str| disk.cached(name).and_then(|content| header(&content)).map(|chosen| chosen.header);
    let header = found(file)?;
    let mut case = Case::new(file, Verdict::Valid, &[]);
    match header.kind {
        Kind::Image => {}
        Kind::Sidecar => case.volume = Some(file.strip_suffix(".lvb").filter(|volume| disk.exists(volume))?.into()),
        Kind::Group => return None,
    }
    case.group = disk.exists(GROUP).then(|| GROUP.into());
    let mut above = Some(header);
    while let Some(parent) = above.and_then(|header| header.parent) {
        let name = parent.hint.rsplit('/').next().filter(|name| disk.exists(name))?;
        above = found(name);
        case.parents.push(name.into());
    }
    Some(case)
}

/// What this library says to a case that only opens.
fn answered(files: &Files, mut case: Case) -> Case {
    let chain = match open(files, &case.opening()) {
        Ok(chain) => chain,
        Err(error) => {
            case.result = verdict(&error).unwrap_or_else(|| panic!("{}: {error}", case.open));
            case.broken = ids(&error.violation().into_iter().collect::<Vec<_>>());
            return case;
        }
    };
    let said = || -> Result<Case> {
        let image = chain.image(0)?;
        let Told { bitmaps, no_bitmaps, point } = told(image)?;
        let (mut bytes, mut broken) = (Sparse::new(chain.size()), BTreeSet::new());
        let extents = extents(&chain)?;
        for Stretch { offset, length, .. } in &extents {
            let mut content = vec![0; *length as usize];
            match chain.read_at(&mut content, *offset) {
                Ok(()) => bytes.write(*offset, &content),
                Err(error) => drop(broken.insert(error.violation().ok_or(error)?)),
            }
        }
        let sha256 = broken.is_empty().then(|| bytes.sha256());
        let result = if broken.is_empty() { Verdict::Valid } else { Verdict::Damaged };
        let broken = ids(&broken.into_iter().collect::<Vec<_>>());
        let disk = Some(Disk { size: chain.size(), sha256, dump: None, extents: Some(extents), bytes });
        let header = Some(facts(&image.header()));
        Ok(Case { result, broken, header, disk, bitmaps, no_bitmaps, point, ..case.clone() })
    };
    said().unwrap_or_else(|error| panic!("{}: {error}", case.open))
}

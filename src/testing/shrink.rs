//! A finding made small: fewer events, fewer crashes in a row, and fewer writes that arrived, as long as the same law breaks.

use super::crash::{Explorer, Finding, Limits, Scenario};
use super::path::StatePath;
use super::scenarios;
use super::sim::Fault;

/// The smallest finding that is easily come by from `finding`, which `scenario` or a shorter story makes. The same one if its
/// law breaks only beside other states, as law E does.
pub fn smallest(scenario: &'static Scenario, finding: &Finding) -> Finding {
    let law = finding.breach.law;
    let fault_of = |finding: &Finding| finding.path.parse().map(|path: StatePath| path.fault).ok();
    let fault = fault_of(finding);
    let search = |scenario, crashes: usize| {
        let depth = crashes.saturating_sub(1) as u32;
        let report = Explorer::explore(scenario, Limits { depth, ..Limits::SEARCH });
        let no_more = |found: &Finding| [Some(Fault::None), fault].contains(&fault_of(found));
        report.findings.into_iter().find(|found| found.breach.law == law && no_more(found))
    };
    let (mut scenario, mut best) = (scenario, finding.clone());
    while let Some(shorter) = scenarios::shorter(scenario)
        .into_iter()
        .find_map(|shorter| search(shorter, crashes(&best)).map(|found| (shorter, found)))
    {
        (scenario, best) = shorter;
    }
    if let Some(found) = (1..crashes(&best)).find_map(|fewer| search(scenario, fewer)) {
        best = found;
    }
    fewer_arrivals(scenario, best)
}

/// Crashes in a row that lead to it.
pub fn crashes(finding: &Finding) -> usize {
    finding.path.parse().map_or(0, |path: StatePath| path.crashes.len())
}

/// Units that arrived in its crashes.
pub fn arrivals(finding: &Finding) -> usize {
    let crashes = finding.path.parse().map_or(Vec::new(), |path: StatePath| path.crashes);
    crashes.iter().flat_map(|crash| &crash.choices).filter(|choice| **choice != 0).count()
}

/// Has units not arrive, half of them, a quarter, and so on down to one at a time, and walks there again. What still breaks the
/// law is kept.
fn fewer_arrivals(scenario: &'static Scenario, mut best: Finding) -> Finding {
    let Ok(mut path) = best.path.parse::<StatePath>() else { return best };
    for crash in (0..path.crashes.len()).rev() {
        let units = path.crashes[crash].choices.len();
        let mut length = units;
        while length > 0 {
            for start in (0..units).step_by(length) {
                let mut fewer = path.clone();
                fewer.crashes[crash].choices[start..units.min(start + length)].fill(0);
                if fewer == path {
                    continue;
                }
                let report = Explorer::replay(&[scenario], &fewer.to_string());
                let found = report.and_then(|report| {
                    let same = |found: &Finding| found.breach.law == best.breach.law && found.path == fewer.to_string();
                    report.findings.into_iter().find(same)
                });
                if let Some(found) = found {
                    (path, best) = (fewer, found);
                }
            }
            length /= 2;
        }
    }
    best
}

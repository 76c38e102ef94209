//! A finding made small: fewer events, fewer crashes in a row, and fewer writes that arrived, as long as the same law breaks.

use super::crash::{Explorer, Finding, Limits, Scenario};
use super::scenarios;

/// The smallest finding that is easily come by from `finding`, which `scenario` or a shorter story makes. The same one if its
/// law breaks only beside other states, as law E does.
pub fn smallest(scenario: &'static Scenario, finding: &Finding) -> Finding {
    let law = finding.breach.law;
    let fault = Path::of(&finding.path).fault;
    let search = |scenario, crashes: usize| {
        let depth = crashes.saturating_sub(1) as u32;
        let report = Explorer::explore(scenario, Limits { depth, ..Limits::SEARCH });
        let no_more = |found: &Finding| ["none", &fault].contains(&&*Path::of(&found.path).fault);
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
    finding.path.split('/').skip(2).count()
}

/// Units that arrived in its crashes.
pub fn arrivals(finding: &Finding) -> usize {
    Path::of(&finding.path).steps.iter().flat_map(|(_, choices)| choices).filter(|choice| *choice != "0").count()
}

/// A path, taken apart.
#[derive(Clone)]
struct Path {
    scenario: String,
    fault: String,
    /// Points, and the choice of each unit there.
    steps: Vec<(String, Vec<String>)>,
}

impl Path {
    fn of(path: &str) -> Path {
        let mut parts = path.split('/');
        let mut name = || parts.next().unwrap_or_default().to_string();
        let (scenario, fault) = (name(), name());
        let step = |part: &str| {
            let (point, choices) = part.split_once(':').unwrap_or((part, ""));
            let choices = choices.split('.').filter(|choice| !choice.is_empty());
            (point.to_string(), choices.map(String::from).collect())
        };
        Path { scenario, fault, steps: parts.map(step).collect() }
    }

    fn text(&self) -> String {
        let steps = self.steps.iter().map(|(point, choices)| format!("/{point}:{}", choices.join(".")));
        format!("{}/{}{}", self.scenario, self.fault, steps.collect::<String>())
    }
}

/// Has units not arrive, half of them, a quarter, and so on down to one at a time, and walks there again. What still breaks the
/// law is kept.
fn fewer_arrivals(scenario: &'static Scenario, mut best: Finding) -> Finding {
    let mut path = Path::of(&best.path);
    for step in (0..path.steps.len()).rev() {
        let units = path.steps[step].1.len();
        let mut length = units;
        while length > 0 {
            for start in (0..units).step_by(length) {
                let mut fewer = path.clone();
                fewer.steps[step].1[start..units.min(start + length)].fill("0".into());
                if fewer.text() == path.text() {
                    continue;
                }
                let report = Explorer::replay(&[scenario], &fewer.text());
                let found = report.and_then(|report| {
                    let same = |found: &Finding| found.breach.law == best.breach.law && found.path == fewer.text();
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

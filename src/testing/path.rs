//! The name of a state that the simulator comes to: `scenario/fault/POINT:CHOICES/POINT:CHOICES…`.

use super::sim::Fault;
use std::fmt;
use std::str::FromStr;

/// Which way leads to a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePath {
    /// The name of the scenario.
    pub scenario: String,
    /// What goes wrong in it.
    pub fault: Fault,
    /// The losses of power, each after what followed the one before.
    pub crashes: Vec<Crash>,
}

/// A loss of power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The number of the point in its branch.
    pub point: u64,
    /// What became of each unit in flight; 0: it did not arrive.
    pub choices: Vec<u8>,
}

/// A fault in the operation, or at the barrier, of this number.
type Numbered = fn(u64) -> Fault;

/// Faults by the words that paths have for them.
const FAULTS: [(&str, Numbered); 7] = [
    ("kill", Fault::Kill),
    ("eio", Fault::FailSync),
    ("revert", Fault::Revert),
    ("late", Fault::Late),
    ("nospace", Fault::NoSpace),
    ("full", Fault::Full),
    ("gone", Fault::Gone),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::None => write!(f, "none"),
            Fault::Kill(n) => write!(f, "kill{n}"),
            Fault::FailSync(n) => write!(f, "eio{n}"),
            Fault::Revert(n) => write!(f, "revert{n}"),
            Fault::Late(n) => write!(f, "late{n}"),
            Fault::NoSpace(n) => write!(f, "nospace{n}"),
            Fault::Full(n) => write!(f, "full{n}"),
            Fault::Gone(n) => write!(f, "gone{n}"),
        }
    }
}

/// It is no path of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPath;

impl FromStr for Fault {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<Fault, NoPath> {
        if text == "none" {
            return Ok(Fault::None);
        }
        let fault = |(word, fault): &(&str, Numbered)| text.strip_prefix(word)?.parse().ok().map(fault);
        FAULTS.iter().find_map(fault).ok_or(NoPath)
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choices: Vec<String> = self.choices.iter().map(u8::to_string).collect();
        write!(f, "{}:{}", self.point, choices.join("."))
    }
}

impl FromStr for Crash {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<Crash, NoPath> {
        let (point, choices) = text.split_once(':').ok_or(NoPath)?;
        let choices = choices.split('.').filter(|choice| !choice.is_empty()).map(str::parse);
        Ok(Crash { point: point.parse().or(Err(NoPath))?, choices: choices.collect::<Result<_, _>>().or(Err(NoPath))? })
    }
}

impl fmt::Display for StatePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scenario, self.fault)?;
        self.crashes.iter().try_for_each(|crash| write!(f, "/{crash}"))
    }
}

impl FromStr for StatePath {
    type Err = NoPath;

    fn from_str(text: &str) -> Result<StatePath, NoPath> {
        let mut parts = text.split('/');
        let (scenario, fault) = (parts.next().ok_or(NoPath)?.into(), parts.next().ok_or(NoPath)?.parse()?);
        Ok(StatePath { scenario, fault, crashes: parts.map(str::parse).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_is_printed() {
        let text = "overlay/kill12/3:0.1.2/0:";
        let path: StatePath = text.parse().unwrap();
        let crashes = vec![Crash { point: 3, choices: vec![0, 1, 2] }, Crash { point: 0, choices: Vec::new() }];
        assert_eq!(path, StatePath { scenario: "overlay".into(), fault: Fault::Kill(12), crashes });
        assert_eq!(path.to_string(), text);
        for (word, fault) in FAULTS {
            assert_eq!(fault(7).to_string(), format!("{word}7"));
            assert_eq!(format!("{word}7").parse(), Ok(fault(7)));
        }
        for wrong in
            ["overlay", "overlay/setup", "overlay/kill", "overlay/none/3", "overlay/none/x:0", "overlay/none/3:-"]
        {
            assert_eq!(wrong.parse::<StatePath>(), Err(NoPath), "{wrong}");
        }
    }
}

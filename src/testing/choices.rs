//! Walking through the states of a crash point: all of them, or a sample that a seed repeats.

use super::sector::mix;

/// Calls `visit` with the choices of every state, until it says to stop.
pub fn every(of: &[u8], mut visit: impl FnMut(&[u8]) -> bool) {
    let mut choices = vec![0; of.len()];
    loop {
        if !visit(&choices) {
            return;
        }
        let Some(at) = (0..of.len()).find(|i| choices[*i] + 1 < of[*i]) else { return };
        choices[at] += 1;
        choices[..at].fill(0);
    }
}

/// Calls `visit` with at most `count` states: nothing, everything, all but one unit, one unit alone, each prefix,
/// then random ones of three densities.
pub fn sample(of: &[u8], count: u64, seed: u64, mut visit: impl FnMut(&[u8]) -> bool) {
    let mut left = count;
    let mut visit = |choices: &[u8]| {
        left = left.saturating_sub(1);
        visit(choices) && left > 0
    };
    let none = vec![0; of.len()];
    let all = vec![1; of.len()];
    let mut structured = vec![none.clone(), all.clone()];
    for unit in 0..of.len() {
        for choice in 0..of[unit] {
            let from = if choice == 0 { &all } else { &none };
            let mut choices = from.clone();
            choices[unit] = choice;
            structured.push(choices);
        }
        structured.push([&all[..unit], &none[unit..]].concat());
    }
    let mut random = Random(seed);
    // A point with more units than samples sees a random part of the structured ones.
    while structured.len() as u64 > count && structured.len() > 2 {
        let at = 2 + random.below(structured.len() as u64 - 2) as usize;
        structured.swap_remove(at);
    }
    if !structured.iter().all(|choices| visit(choices)) {
        return;
    }
    loop {
        let density = [1, 8, 15][random.below(3) as usize];
        let arrived = |n: u8, random: &mut Random| match random.below(16) < density {
            true => 1 + random.below(u64::from(n) - 1) as u8,
            false => 0,
        };
        let choices: Vec<u8> = of.iter().map(|n| arrived(*n, &mut random)).collect();
        if !visit(&choices) {
            return;
        }
    }
}

/// Numbers that a seed repeats.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = mix(self.0.wrapping_add(0x632b_e59b_d9b4_e019), 0x51);
        (self.0 >> 8) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_state_is_visited_once() {
        let mut seen = HashSet::new();
        every(&[2, 5, 3], |choices| seen.insert(choices.to_vec()));
        assert_eq!(seen.len(), 30);
        let mut calls = 0;
        every(&[], |_| {
            calls += 1;
            true
        });
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_sample_is_as_large_as_asked_and_repeats() {
        let walk = |seed| {
            let mut states = Vec::new();
            sample(&[2; 40], 100, seed, |choices| {
                states.push(choices.to_vec());
                true
            });
            states
        };
        assert_eq!(walk(1).len(), 100);
        assert_eq!(walk(1), walk(1));
        assert_ne!(walk(1), walk(2));
        assert!(walk(3).contains(&vec![0; 40]) && walk(3).contains(&vec![1; 40]));
    }
}

//! Files that are not what they should be: opened, read, checked and written to, and nothing goes wrong.

use lvd::testing::hostile;
use lvd::testing::vectors::vector::Role;
use proptest::prelude::*;
use std::sync::OnceLock;

/// Descriptions of sound files.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let describe = |bytes: Vec<u8>| hostile::pack(bytes.len() as u64, [(0, &bytes[..])]);
    SEEDS.get_or_init(|| hostile::bases().iter().map(|base| describe(base.contents())).collect())
}

/// Sound or not, each with its checksums right too.
#[test]
fn vectors_come_through() {
    for vector in lvd::testing::vectors::all() {
        for file in vector.files.iter().filter(|file| matches!(file.role, Role::Image | Role::Sidecar)) {
            let mut input = hostile::pack(file.length, file.bytes.pieces());
            hostile::open(&input);
            input[0] = 1;
            hostile::open(&input);
        }
    }
}

#[test]
fn sound_files_come_through() {
    for (number, seed) in (1..).zip(seeds()) {
        hostile::open(seed);
        assert_eq!(hostile::expand(&[number << 4]).0.contents(), hostile::expand(seed).0.contents());
    }
}

#[test]
fn a_file_cut_anywhere_comes_through() {
    for seed in seeds() {
        for length in (0..seed.len()).step_by(37).chain(0..30) {
            hostile::open(&seed[..length]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Few bytes of a sound file are changed; checksums are made right or not.
    #[test]
    fn a_changed_file_comes_through(
        seed in 0..4usize,
        knobs in 0..8u8,
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        header: bool,
    ) {
        let mut input = seeds()[seed].clone();
        input[0] = knobs;
        // Half the time all of them within the first header, where most is decided.
        let reach = if header { 15 + 300 } else { input.len() };
        for (at, value) in changes {
            input[1 + at % (reach - 1)] = value;
        }
        hostile::open(&input);
    }

    #[test]
    fn any_bytes_come_through(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        hostile::open(&input);
    }
}

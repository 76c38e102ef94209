//! Files that are not what they should be: opened, read, checked and written to, and nothing goes wrong.

use lvd::format::{Identity, Parent, ParentFormat, Uuid};
use lvd::storage::MemoryStorage;
use lvd::testing::host::SimHost;
use lvd::testing::hostile;
use lvd::{BlockDevice, CreateOptions, Image, OpenOptions};
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};

const SIZE: u64 = 300_000;

/// Sound files to begin with: complete, overlay, overlay on a parent, sidecar.
fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let identity = Some(Identity { uuid: Uuid([4; 16]), epoch: Uuid([5; 16]) });
        let parent = Parent { identity, format: ParentFormat::Lvd, visible_length: SIZE - 5000, hint: "b".into() };
        let complete = CreateOptions { virtual_size: SIZE, ..CreateOptions::default() };
        let overlay = CreateOptions { allocation: true, ..complete.clone() };
        let child = CreateOptions { parent: Some(parent), ..complete.clone() };
        vec![seed(&complete, false), seed(&overlay, false), seed(&child, false), seed(&child, true)]
    })
}

fn seed(options: &CreateOptions, sidecar: bool) -> Vec<u8> {
    let (file, host) = (Arc::new(MemoryStorage::new("seed")), Arc::new(SimHost::new(7)));
    let volume = Arc::new(MemoryStorage::with_bytes("volume", &vec![0; SIZE as usize]));
    let open = OpenOptions { write: true, ..OpenOptions::default() };
    let image = if sidecar {
        Image::create_sidecar(&*file, &*volume, &*host, options).unwrap();
        Image::open_sidecar(file.clone(), volume, host, &open).unwrap()
    } else {
        Image::create(&*file, &*host, options).unwrap();
        Image::open(file.clone(), host, &open).unwrap()
    };
    let below = Arc::new(MemoryStorage::with_bytes("below", &vec![1; SIZE as usize]));
    image.set_below(Some(Arc::new(lvd::chain::RawDevice::new(below, false).unwrap())));
    image.write_at(&[7; 9000], 10_000).unwrap();
    image.close().unwrap();
    hostile::pack(&file.contents())
}

#[test]
fn sound_files_come_through() {
    seeds().iter().for_each(|seed| hostile::open(seed));
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

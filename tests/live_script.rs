//! What the fuzz target `live` does, from fixed seeds.

use lvd::testing::choices::Random;
use lvd::testing::live_script::Script;

fn script(seed: u64) -> Script {
    let mut random = Random(seed);
    let length = 200 + random.below(1200);
    let input: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
    Script::of(&input).expect("long enough")
}

#[test]
fn disks_whose_layers_change_agree_with_naive_disks() {
    for seed in 0..3000 {
        let script = script(seed);
        if std::panic::catch_unwind(|| script.play()).is_err() {
            panic!("seed {seed}: {script:?}");
        }
    }
}

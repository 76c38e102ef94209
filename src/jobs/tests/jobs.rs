//! Each job run to its end.

use super::*;
use crate::format::State;

const SEEDS: u64 = 120;

#[test]
fn stream_keeps_the_view_and_needs_only_the_base() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let depth = 2 + random.below(3) as usize;
        let mut scene = Scene::new(&mut random, depth);
        let base = (1..=depth).nth(random.below(depth as u64) as usize).filter(|base| *base < depth);
        let chain = scene.files.open(scene.top(), 0).unwrap();
        let before = chain.image(0).unwrap().header();
        let job = Job::new(Stream::new(&chain, base).unwrap(), host());
        finish(&job, 1 + random.below(100_000)).unwrap();
        let mut view = vec![0; chain.size() as usize];
        chain.read_at(&mut view, 0).unwrap();
        assert!(view == scene.views[0], "seed {seed}: the open disk changed");
        chain.close().unwrap();
        let between = 1..base.unwrap_or(depth);
        scene.names[between].iter().for_each(|name| drop(scene.files.files.remove(name)));
        assert!(scene.files.view(scene.top()).unwrap() == scene.views[0], "seed {seed}");
        let chain = scene.files.open(scene.top(), 0).unwrap();
        assert_eq!(chain.layers.len(), base.map_or(1, |base| 1 + depth - base));
        assert_eq!(chain.image(0).unwrap().complete(), base.is_none());
        // Whoever lies on the top goes on doing so (an epoch that was open is another matter).
        assert!(chain.image(0).unwrap().epoch() == before.epoch || before.state != State::Closed, "seed {seed}");
        let report = chain.image(0).unwrap().check().unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        // Going on: the image takes writes as before.
        for _ in 0..3 {
            change(&mut random, &chain, &mut scene.views[0]);
        }
        chain.close().unwrap();
        assert!(scene.files.view(scene.top()).unwrap() == scene.views[0], "seed {seed}");
    }
}

#[test]
fn merge_keeps_the_view_and_gives_it_to_the_base() {
    for seed in 0..2 * SEEDS {
        let mut random = Random::new(seed);
        let depth = 2 + random.below(3) as usize;
        let scene = Scene::new(&mut random, depth);
        let top = random.below(depth as u64 - 1) as usize;
        let base = top + 1 + random.below((depth - top - 1) as u64) as usize;
        let empty = random.below(2) == 0;
        let chain = scene.files.open(scene.top(), base).unwrap();
        let job = Job::new(Merge::new(&chain, top, base, empty).unwrap(), host());
        finish(&job, 1 + random.below(100_000)).unwrap();
        let mut view = vec![0; chain.size() as usize];
        chain.read_at(&mut view, 0).unwrap();
        assert!(view == scene.views[0], "seed {seed}: the open disk changed");
        chain.close().unwrap();
        check_merged(&scene, top, base, &format!("seed {seed}"));
        let chain = scene.files.open(scene.top(), base).unwrap();
        let image = chain.image(top).unwrap();
        assert!(!empty || image.check().unwrap().present_blocks == 0);
    }
}

/// What holds once layer `top` was merged into `base`.
fn check_merged(scene: &Scene, top: usize, base: usize, context: &str) {
    for above in 0..=top {
        let view = scene.files.view(&scene.names[above]).unwrap();
        assert!(view == scene.views[above], "{context}: layer {above}");
    }
    let merged = merged_view(scene, top, base);
    assert!(scene.files.view(&scene.names[base]).unwrap() == merged, "{context}: the base");
    for between in top + 1..base {
        let refused = scene.files.view(&scene.names[between]).unwrap_err();
        assert_eq!(refused.violation(), Some(crate::Violation::Marked), "{context}: {refused}");
    }
}

/// The base after a merge: the top's view, and what the base has behind it.
pub(super) fn merged_view(scene: &Scene, top: usize, base: usize) -> Vec<u8> {
    let mut merged = scene.views[top].clone();
    merged.extend(scene.views[base].iter().skip(merged.len()));
    merged
}

/// A merge stops half way, and somebody copies the top alone: the copy would be another child of the marked base, which
/// nobody could open. It was made all the same once.
#[test]
fn the_top_of_an_unfinished_merge_is_not_copied_alone() {
    let mut random = Random::new(3);
    let mut scene = Scene::of_images(&mut random, 2);
    let chain = scene.files.open(scene.top(), 1).unwrap();
    Job::new(Merge::new(&chain, 0, 1, false).unwrap(), host()).step(1).unwrap();
    drop(chain);
    let source = scene.files.open(scene.top(), 0).unwrap();
    let parent = source.image(0).unwrap().header().parent.clone();
    let options = CreateOptions { virtual_size: source.size(), parent, copy_mark: true, ..Default::default() };
    Image::create(&*scene.files.add("copy.lvd"), &*host(), &options).unwrap();
    let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
    let target = scene.files.open_with("copy.lvd", &options, &Fuse::new(u64::MAX)).unwrap();
    let refused = Mirror::top(&source, &target).unwrap_err();
    assert_eq!(refused.violation(), Some(crate::Violation::Marked), "{refused}");
}

/// A merge of the top into the lowest layer stops half way, and the top is merged into the layer between. That one, which then
/// had all that the top has, was refused to whoever opened it alone: the lowest layer was still marked.
#[test]
fn an_unfinished_merge_is_finished_before_another_one_of_its_top() {
    let mut random = Random::new(3);
    let scene = Scene::of_images(&mut random, 3);
    let chain = scene.files.open(scene.top(), 2).unwrap();
    Job::new(Merge::new(&chain, 0, 2, false).unwrap(), host()).step(1).unwrap();
    drop(chain);
    let chain = scene.files.open(scene.top(), 2).unwrap();
    let refused = Merge::new(&chain, 0, 1, false).unwrap_err();
    assert_eq!(refused.violation(), Some(crate::Violation::Marked), "{refused}");
    assert!(refused.to_string().starts_with(&scene.names[2]), "{refused}");
    finish(&Job::new(Merge::new(&chain, 0, 2, false).unwrap(), host()), 1 << 20).unwrap();
    chain.close().unwrap();
    check_merged(&scene, 0, 2, "the merge that was finished");
}

/// The vector of a short layer in the middle, as QEMU's commit had it wrong once: the base holds `A-A-AAAA`, the
/// middle, four blocks long, `BB-B`, the top `C--C--C-`.
#[test]
fn a_short_middle_layer_hides_the_base() {
    const BLOCK: u64 = 4096;
    let mut files = Files::default();
    for (index, text) in ["C--C--C-", "BB-B", "A-A-AAAA"].into_iter().enumerate().rev() {
        let size = text.len() as u64 * BLOCK;
        let name = format!("layer{index}.lvd");
        let parent = (index < 2).then(|| {
            let below = format!("layer{}.lvd", index + 1);
            let chain = files.open_with(&below, &ChainOptions::default(), &Fuse::new(u64::MAX)).unwrap();
            chain.layers[0].link(size.min(chain.size()), below).unwrap()
        });
        let options = CreateOptions { virtual_size: size, parent, ..CreateOptions::default() };
        Image::create(&*files.add(&name), &*host(), &options).unwrap();
        let chain = files.open(&name, 0).unwrap();
        for (block, letter) in text.bytes().enumerate().filter(|(_, letter)| *letter != b'-') {
            chain.write_at(&[letter; BLOCK as usize], block as u64 * BLOCK).unwrap();
        }
        chain.close().unwrap();
    }
    let letters = |name: &str| {
        let view = files.view(name).unwrap();
        view.chunks(BLOCK as usize).map(|block| if block[0] == 0 { '0' } else { block[0] as char }).collect::<String>()
    };
    assert_eq!(letters("layer0.lvd"), "CBAC00C0");
    let chain = files.open("layer0.lvd", 2).unwrap();
    finish(&Job::new(Merge::new(&chain, 0, 2, false).unwrap(), host()), 1 << 20).unwrap();
    chain.close().unwrap();
    assert_eq!(letters("layer0.lvd"), "CBAC00C0");
    assert_eq!(letters("layer2.lvd"), "CBAC00C0");
}

#[test]
fn mirror_copies_everything_or_the_top() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let depth = 1 + random.below(3) as usize;
        let mut scene = Scene::new(&mut random, depth);
        let source = scene.files.open_with(scene.top(), &ChainOptions::default(), &Fuse::new(0)).unwrap();
        let fresh = random.below(2) == 0;
        let budget = 1 + random.below(100_000);
        let kind = random.below(if depth > 1 { 3 } else { 2 });
        let name = if kind == 0 { "copy.raw" } else { "copy.lvd" };
        let file = scene.files.add(name);
        if kind > 0 {
            let link = source.image(0).ok().and_then(|image| image.header().parent.clone());
            let parent = link.filter(|_| kind == 2);
            let options = CreateOptions { virtual_size: source.size(), parent, copy_mark: true, ..Default::default() };
            Image::create(&*file, &*host(), &options).unwrap();
            assert_eq!(scene.files.view(name).unwrap_err().violation(), Some(crate::Violation::Copying));
        } else if !fresh {
            file.write_at(&vec![0x5a; random.below(200_000) as usize], 0).unwrap();
        }
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        let target = scene.files.open_with(name, &options, &Fuse::new(u64::MAX)).unwrap();
        if kind == 1 && !fresh {
            target.write_at(&vec![0x5a; source.size() as usize / 2], 0).unwrap();
        }
        let mirror = match kind {
            2 => Mirror::top(&source, &target).unwrap(),
            _ => Mirror::full(source.top(), target.layers[0].clone(), fresh).unwrap(),
        };
        finish(&Job::new(mirror, host()), budget).unwrap();
        if kind == 2 {
            let (from, to) = (source.image(0).unwrap().check().unwrap(), target.image(0).unwrap().check().unwrap());
            assert!(to.present_blocks << 12 <= from.present_blocks * source.image(0).unwrap().granule());
        }
        target.close().unwrap();
        assert!(scene.files.view(name).unwrap() == scene.views[0], "seed {seed}, kind {kind}");
    }
}

#[test]
fn rebase_keeps_the_view() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let depth = 2 + random.below(2) as usize;
        let mut scene = Scene::new(&mut random, depth);
        let mut other = Scene::new(&mut random, 1);
        // A parent that is like the old one in parts.
        let view = scene.views[1].clone();
        let name = other.names[0].replace("layer0", "other");
        let chain = other.files.open(other.top(), 0).unwrap();
        let same = random.range(chain.size().min(view.len() as u64), 100_000);
        chain.write_at(&view[same.start as usize..same.end as usize], same.start).unwrap();
        chain.close().unwrap();
        let file = other.files.files.remove(&other.names[0]).unwrap();
        scene.files.files.insert(name.clone(), Arc::new(file.copy(&name)));
        other.names[0] = name.clone();

        let chain = scene.files.open(scene.top(), 0).unwrap();
        let parent = scene.files.open_with(&name, &ChainOptions::default(), &Fuse::new(u64::MAX)).unwrap();
        let job = Job::new(Rebase::new(&chain, &parent, name.clone()).unwrap(), host());
        finish(&job, 1 + random.below(100_000)).unwrap();
        let mut view = vec![0; chain.size() as usize];
        chain.read_at(&mut view, 0).unwrap();
        assert!(view == scene.views[0], "seed {seed}: the open disk changed");
        chain.close().unwrap();
        scene.names[1..].iter().for_each(|name| drop(scene.files.files.remove(name)));
        assert!(scene.files.view(scene.top()).unwrap() == scene.views[0], "seed {seed}");
    }
}

/// Copy-on-read into a raw volume: the stream makes the volume whole, and the sidecar says so.
#[test]
fn a_stream_fills_a_volume_through_its_sidecar() {
    let mut random = Random::new(11);
    let mut scene = Scene::new(&mut random, 1);
    let below = scene.files.open_with(scene.top(), &ChainOptions::default(), &Fuse::new(u64::MAX)).unwrap();
    let size = below.size() + 5000;
    let parent = Some(below.layers[0].link(below.size(), scene.names[0].clone()).unwrap());
    let (sidecar, volume) = (scene.files.add("sidecar"), scene.files.add("volume"));
    volume.write_at(&vec![0xee; size as usize], 0).unwrap();
    let options = CreateOptions { virtual_size: size, parent, ..CreateOptions::default() };
    Image::create_sidecar(&*sidecar, &*volume, &*host(), &options).unwrap();
    let options = ChainOptions { write: true, ..ChainOptions::default() };
    let policy = ByName(&scene.files, Fuse::new(0));
    let chain = Chain::open_sidecar(sidecar, volume.clone(), host(), &policy, &options).unwrap();
    let mut view = scene.views[0].clone();
    view.resize(size as usize, 0);
    for _ in 0..5 {
        change(&mut random, &chain, &mut view);
    }
    finish(&Job::new(Stream::new(&chain, None).unwrap(), host()), 30_000).unwrap();
    chain.close().unwrap();
    assert!(chain.image(0).unwrap().complete());
    assert!(volume.contents() == view);
}

#[test]
fn an_unsafe_rebase_changes_the_link_alone() {
    let mut random = Random::new(7);
    let mut scene = Scene::new(&mut random, 2);
    let moved = scene.files.files.remove(&scene.names[1]).unwrap();
    scene.files.files.insert("moved".into(), moved);
    let file = scene.files.files[scene.top()].clone();
    let options = crate::image::OpenOptions { write: true, ..Default::default() };
    let image = Image::open(file, host(), &options).unwrap();
    let (link, epoch) = (image.header().parent.clone().unwrap(), image.epoch());
    rebase_unsafe(&image, Parent { hint: "moved".into(), ..link }).unwrap();
    image.close().unwrap();
    assert_eq!(image.epoch(), epoch);
    assert!(scene.files.view(scene.top()).unwrap() == scene.views[0]);
}

#[test]
fn compare_finds_the_first_difference() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let scene = Scene::new(&mut random, 1 + seed as usize % 3);
        let one = scene.files.open_with(scene.top(), &ChainOptions::default(), &Fuse::new(0)).unwrap();
        let mut bytes = scene.views[0].clone();
        bytes.resize((bytes.len() as u64 + random.below(3) * random.below(9000)) as usize, 0);
        if random.below(3) > 0 && !bytes.is_empty() {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 0x80;
        }
        let raw = Arc::new(MemoryStorage::with_bytes("raw", &bytes));
        let other: Arc<dyn BlockDevice> = Arc::new(RawDevice::new(raw, false).unwrap());
        let mut longer = scene.views[0].clone();
        longer.resize(bytes.len().max(longer.len()), 0);
        let expected = longer.iter().zip(&bytes).position(|(a, b)| a != b).map(|at| at as u64);
        assert_eq!(compare(one.top(), other.clone(), false).unwrap(), expected, "seed {seed}");
        assert_eq!(compare(other.clone(), one.top(), false).unwrap(), expected, "seed {seed}");
        let sizes = (one.size() != other.size()).then_some(one.size().min(other.size()));
        let strict = expected.into_iter().chain(sizes).min();
        assert_eq!(compare(one.top(), other.clone(), true).unwrap(), strict, "seed {seed}");
        let work = Arc::new(Compare::new(one.top(), other, false));
        finish(&Job::new(work.clone(), host()), 4096).unwrap();
        assert_eq!(work.first_difference(), expected);
    }
}

//! Each job stopped at every change of any file, and run again.

use super::jobs::merged_view;
use super::*;
use crate::switch::{Step, without_step};
use crate::violation::Violation;

/// Builds a job on files as they are.
type Begin<'a> = dyn Fn(&Scene, &Arc<Fuse>) -> Result<(Chain, Job)> + 'a;

/// Runs a job so that it is stopped after 0, 1, 2, … changes, looks, and lets the same job finish.
///
/// `stopped` looks at what a fresh reader finds, `finished` too, at the
/// end of all.
fn stop_everywhere(
    scene: &Scene,
    begin: &Begin<'_>,
    stopped: &dyn Fn(&Scene, &str),
    finished: &dyn Fn(&Scene, &str),
) -> u64 {
    for changes in 0.. {
        let scene = scene.copy();
        let context = format!("stopped after {changes} changes");
        let fuse = Fuse::new(changes);
        let whole = begin(&scene, &fuse).and_then(|(chain, job)| finish(&job, 20_000).and_then(|_| chain.close()));
        let done = whole.is_ok() && !fuse.burnt();
        stopped(&scene, &context);
        // The second run is stopped too, somewhere else, before the third is let through.
        for changes in [changes / 2 + 3, u64::MAX] {
            let again = begin(&scene, &Fuse::new(changes));
            let result = again.and_then(|(chain, job)| finish(&job, 20_000).and_then(|_| chain.close()));
            assert!(changes != u64::MAX || result.is_ok(), "{context}: the job does not finish: {result:?}");
            stopped(&scene, &context);
        }
        finished(&scene, &context);
        if done {
            return changes;
        }
    }
    unreachable!("some number of changes suffices")
}

fn writable(last: usize) -> ChainOptions {
    ChainOptions { write: true, write_also: Some(last), ..ChainOptions::default() }
}

#[test]
fn a_stream_may_stop_anywhere() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let scene = Scene::new(&mut random, 3);
        let base = scene.names[2].clone();
        let to_base = seed % 2 == 0;
        let begin = |scene: &Scene, fuse: &Arc<Fuse>| {
            let chain = scene.files.open_with(scene.top(), &writable(0), fuse)?;
            let index = chain.layers.iter().position(|layer| layer.name() == base);
            let job = Job::new(Stream::new(&chain, index.filter(|_| to_base))?, host());
            Ok((chain, job))
        };
        let same = |scene: &Scene, context: &str| {
            for (name, view) in scene.names.iter().zip(&scene.views) {
                assert!(scene.files.view(name).unwrap() == *view, "seed {seed}, {context}: {name}");
            }
        };
        let changes = stop_everywhere(&scene, &begin, &same, &same);
        assert!(changes > 0);
    }
}

#[test]
fn a_merge_may_stop_anywhere() {
    for seed in 0..48 {
        let mut random = Random::new(seed);
        let scene = Scene::new(&mut random, 2 + seed as usize % 3);
        let depth = scene.names.len() as u64;
        let top = random.below(depth - 1);
        let base = (top + 1 + random.below(depth - top - 1)) as usize;
        let top = top as usize;
        let (top_name, base_name) = (scene.names[top].clone(), scene.names[base].clone());
        let begin = |scene: &Scene, fuse: &Arc<Fuse>| {
            let chain = scene.files.open_with(scene.top(), &writable(base), fuse)?;
            let index = |name: &str| chain.layers.iter().position(|layer| layer.name() == name).unwrap();
            let merge = Merge::new(&chain, index(&top_name), index(&base_name), seed % 2 == 0)?;
            let job = Job::new(merge, host());
            Ok((chain, job))
        };
        let merged = merged_view(&scene, top, base);
        let raw = base_name.ends_with(".raw");
        let stopped = |scene: &Scene, context: &str| {
            for index in 0..=top {
                let view = scene.files.view(&scene.names[index]).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(view == scene.views[index], "seed {seed}, {context}: layer {index}");
            }
            // Whatever else opens shows what it showed, or what the merge makes of it; a raw base cannot say.
            for index in (top + 1..=base).filter(|index| *index < base || !raw) {
                match scene.files.view(&scene.names[index]) {
                    Ok(view) if index == base && view == merged => {}
                    Ok(view) => assert!(view == scene.views[index], "seed {seed}, {context}: layer {index}"),
                    Err(error) => assert!(
                        matches!(error.violation(), Some(Violation::Marked | Violation::ParentMatches)),
                        "{context}: {error}"
                    ),
                }
            }
        };
        let finished = |scene: &Scene, context: &str| {
            assert!(scene.files.view(&base_name).unwrap() == merged, "seed {seed}, {context}: the base");
        };
        stop_everywhere(&scene, &begin, &stopped, &finished);
    }
}

#[test]
fn a_mirror_is_no_copy_until_it_is_one() {
    for seed in 0..4 {
        let mut random = Random::new(200 + seed);
        let mut scene = Scene::new(&mut random, 2);
        let shallow = seed % 2 == 0;
        let source = scene.files.open_with(scene.top(), &ChainOptions::default(), &Fuse::new(0)).unwrap();
        let parent = source.image(0).unwrap().header().parent.clone().filter(|_| shallow);
        let options = CreateOptions { virtual_size: source.size(), parent, copy_mark: true, ..Default::default() };
        Image::create(&*scene.files.add("copy.lvd"), &*host(), &options).unwrap();
        let begin = |scene: &Scene, fuse: &Arc<Fuse>| {
            let source = scene.files.open_with(scene.top(), &ChainOptions::default(), fuse)?;
            let options = ChainOptions { ignore_marks: true, ..writable(0) };
            let target = scene.files.open_with("copy.lvd", &options, fuse)?;
            if target.image(0)?.header().copy_mark.is_none() {
                // The run before was stopped after it had finished.
                let nothing = Job::new(Compare::new(source.top(), target.top(), true), host());
                return Ok((target, nothing));
            }
            let job = match shallow {
                true => Mirror::top(&source, &target)?,
                false => Mirror::full(source.top(), target.layers[0].clone(), false)?,
            };
            Ok((target, Job::new(job, host())))
        };
        let stopped = |scene: &Scene, context: &str| match scene.files.view("copy.lvd") {
            Ok(view) => assert!(view == scene.views[0], "seed {seed}, {context}"),
            Err(error) => assert_eq!(error.violation(), Some(Violation::Copying), "{context}: {error}"),
        };
        let finished = |scene: &Scene, context: &str| {
            assert!(scene.files.view("copy.lvd").unwrap() == scene.views[0], "seed {seed}, {context}");
        };
        stop_everywhere(&scene, &begin, &stopped, &finished);
    }
}

/// Skipped, each of these shows as soon as a process is killed at the wrong moment. (What only a power loss shows, the
/// simulator looks for.)
#[test]
fn steps_of_the_jobs_are_needed() {
    let steps: [(Step, fn()); 7] = [
        (Step::AllPresent, a_stream_may_stop_anywhere),
        (Step::MarkBase, a_merge_may_stop_anywhere),
        (Step::SealBase, a_merge_may_stop_anywhere),
        (Step::ClearMarkLast, a_merge_may_stop_anywhere),
        (Step::ZerosPastShort, a_merge_may_stop_anywhere),
        (Step::MarkBetween, a_merge_may_stop_anywhere),
        (Step::CopyMark, a_mirror_is_no_copy_until_it_is_one),
    ];
    for (step, test) in steps {
        assert!(without_step(step, || std::panic::catch_unwind(test)).is_err(), "nothing misses {step}");
    }
}

//! Chains and jobs on files: parents found by their hints, locks, jobs driven by several threads.

use lvd::chain::{Chain, ChainOptions, ParentsInDirectories};
use lvd::image::{CreateOptions, Image};
use lvd::jobs::{Job, Merge, Mirror, Rebase, Stream, compare, drive};
use lvd::storage::{Create, FileOptions, FileStorage, Host, OsHost, Storage};
use lvd::{BlockDevice, Error, Result, Violation};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const SIZE: u64 = (3 << 20) + 513;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

fn file(path: &Path, write: bool, create: Create) -> Arc<dyn Storage> {
    let options = FileOptions { write, create, ..FileOptions::default() };
    Arc::new(FileStorage::open(path, &options).unwrap())
}

fn open(directory: &Path, name: &str, options: &ChainOptions) -> Result<Chain> {
    let path = directory.join(name);
    let write = options.write || options.write_also.is_some();
    let storage = file(&path, write, Create::No);
    if name.ends_with(".raw") {
        return Chain::open_raw(storage, host(), options);
    }
    let policy = ParentsInDirectories::new(directory, [directory]);
    Chain::open(storage, host(), &policy, options)
}

fn reader() -> ChainOptions {
    ChainOptions::default()
}

fn writer(last: usize) -> ChainOptions {
    ChainOptions { write: true, write_also: Some(last), ..ChainOptions::default() }
}

/// An overlay `name` on `parent`, which `hint` leads to.
fn overlay(directory: &Path, name: &str, parent: &str, hint: &str) {
    let below = open(directory, parent, &reader()).unwrap();
    let parent = Some(below.layers[0].link(below.size().min(SIZE), hint.into()).unwrap());
    let options = CreateOptions { virtual_size: SIZE, parent, ..CreateOptions::default() };
    Image::create(&*file(&directory.join(name), true, Create::New), &*host(), &options).unwrap();
}

/// Writes blocks of `byte`, each `step`th from the `first` on.
fn write_blocks(directory: &Path, name: &str, byte: u8, first: u64, step: u64) {
    let chain = open(directory, name, &writer(0)).unwrap();
    for at in (first * 4096..SIZE - 9000).step_by((step * 4096) as usize) {
        chain.write_at(&[byte; 5000], at).unwrap();
    }
    chain.close().unwrap();
}

fn view(directory: &Path, name: &str) -> Vec<u8> {
    let chain = open(directory, name, &reader()).unwrap();
    let mut bytes = vec![0; chain.size() as usize];
    chain.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Several threads, one job.
fn run(job: &Job) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| drive(job, |_| {}))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
    assert!(job.progress().finished);
}

/// `base/disk.raw` below `mid/mid.lvd` below `top.lvd`, in directories of their own.
fn scene() -> tempfile::TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    fs::create_dir(directory.join("base")).unwrap();
    fs::create_dir(directory.join("mid")).unwrap();
    let raw: Vec<u8> = (0..SIZE - 70_000).map(|at| if at / 65_536 % 3 == 0 { 0 } else { 17 }).collect();
    fs::write(directory.join("base/disk.raw"), raw).unwrap();
    overlay(directory, "mid/mid.lvd", "base/disk.raw", "../base/disk.raw");
    write_blocks(directory, "mid/mid.lvd", 34, 0, 40);
    overlay(directory, "top.lvd", "mid/mid.lvd", "mid/mid.lvd");
    write_blocks(directory, "top.lvd", 51, 7, 33);
    temporary
}

#[test]
fn a_stream_ends_on_the_base_or_on_nothing() {
    let temporary = scene();
    let directory = temporary.path();
    let before = view(directory, "top.lvd");
    let chain = open(directory, "top.lvd", &writer(0)).unwrap();
    run(&Job::new(Stream::new(&chain, Some(2)).unwrap(), host()));
    chain.close().unwrap();
    drop(chain);
    fs::remove_file(directory.join("mid/mid.lvd")).unwrap();
    let chain = open(directory, "top.lvd", &writer(0)).unwrap();
    assert_eq!(chain.image(0).unwrap().header().parent.as_ref().unwrap().hint, "base/disk.raw");
    assert!(view_of(&chain) == before);
    run(&Job::new(Stream::new(&chain, None).unwrap(), host()));
    chain.close().unwrap();
    drop(chain);
    fs::remove_file(directory.join("base/disk.raw")).unwrap();
    assert!(view(directory, "top.lvd") == before);
    // Complete: raw from its data offset on, for whoever reads raw.
    let chain = open(directory, "top.lvd", &reader()).unwrap();
    let (_, offset) = chain.image(0).unwrap().data_location();
    let bytes = fs::read(directory.join("top.lvd")).unwrap();
    assert!(bytes[offset as usize..][..SIZE as usize] == before);
}

fn view_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_merge_leaves_the_view_in_the_base() {
    let temporary = scene();
    let directory = temporary.path();
    let before = view(directory, "top.lvd");
    let chain = open(directory, "top.lvd", &writer(2)).unwrap();
    run(&Job::new(Merge::new(&chain, 0, 2, true).unwrap(), host()));
    chain.close().unwrap();
    drop(chain);
    assert!(fs::read(directory.join("base/disk.raw")).unwrap() == before);
    assert!(view(directory, "top.lvd") == before);
    let chain = open(directory, "top.lvd", &reader()).unwrap();
    assert_eq!(chain.layers.len(), 2);
    assert_eq!(chain.image(0).unwrap().check().unwrap().present_blocks, 0);
    let error = open(directory, "mid/mid.lvd", &reader()).unwrap_err();
    assert_eq!(error.violation(), Some(Violation::Marked));
}

#[test]
fn a_disk_is_converted_there_and_back() {
    let temporary = scene();
    let directory = temporary.path();
    let before = view(directory, "top.lvd");
    let chain = open(directory, "top.lvd", &reader()).unwrap();
    let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
    Image::create(&*file(&directory.join("copy.lvd"), true, Create::New), &*host(), &options).unwrap();
    let marked = ChainOptions { ignore_marks: true, ..writer(0) };
    let copy = open(directory, "copy.lvd", &marked).unwrap();
    run(&Job::new(Mirror::full(chain.top(), copy.layers[0].clone(), true).unwrap(), host()));
    copy.close().unwrap();
    drop(copy);
    assert!(view(directory, "copy.lvd") == before);
    let copy = open(directory, "copy.lvd", &reader()).unwrap();
    drop(file(&directory.join("back.raw"), true, Create::New));
    let back = open(directory, "back.raw", &writer(0)).unwrap();
    run(&Job::new(Mirror::full(copy.top(), back.layers[0].clone(), true).unwrap(), host()));
    back.close().unwrap();
    assert_eq!(compare(chain.top(), back.top(), true).unwrap(), None);
    assert!(view_of(&back) == before);
    let allocated = file(&directory.join("back.raw"), false, Create::No).allocated().unwrap().unwrap();
    assert!(allocated < SIZE * 9 / 10, "zeros became holes: {allocated}");
    back.write_at(&[99], SIZE - 1).unwrap();
    assert_eq!(compare(chain.top(), back.top(), true).unwrap(), Some(SIZE - 1));
}

#[test]
fn a_disk_moves_to_another_parent() {
    let temporary = scene();
    let directory = temporary.path();
    let before = view(directory, "top.lvd");
    fs::copy(directory.join("base/disk.raw"), directory.join("other.raw")).unwrap();
    let chain = open(directory, "top.lvd", &writer(0)).unwrap();
    let other = open(directory, "other.raw", &reader()).unwrap();
    run(&Job::new(Rebase::new(&chain, &other, "other.raw".into()).unwrap(), host()));
    chain.close().unwrap();
    drop((chain, other));
    fs::remove_dir_all(directory.join("mid")).unwrap();
    fs::remove_dir_all(directory.join("base")).unwrap();
    assert!(view(directory, "top.lvd") == before);
}

#[test]
fn a_hint_does_not_lead_out_of_the_directories() {
    let temporary = scene();
    let directory = temporary.path();
    let open_within = |allowed: &[&str]| {
        let policy = ParentsInDirectories::new(directory, allowed.iter().map(|name| directory.join(name)));
        Chain::open(file(&directory.join("top.lvd"), false, Create::No), host(), &policy, &reader())
    };
    assert!(open_within(&["mid", "base"]).is_ok());
    assert!(matches!(open_within(&["mid"]), Err(Error::Denied(_))));
    assert!(matches!(open_within(&[]), Err(Error::Denied(_))));
    // Nor does a symbolic link that lies within.
    fs::rename(directory.join("base/disk.raw"), directory.join("disk.raw")).unwrap();
    std::os::unix::fs::symlink("../disk.raw", directory.join("base/disk.raw")).unwrap();
    assert!(matches!(open_within(&["mid", "base"]), Err(Error::Denied(_))));
    assert!(open_within(&["."]).is_ok());
}

#[test]
fn layers_in_use_are_locked() {
    let temporary = scene();
    let directory = temporary.path();
    let held = open(directory, "top.lvd", &reader()).unwrap();
    assert!(open(directory, "top.lvd", &reader()).is_ok());
    assert!(open(directory, "mid/mid.lvd", &reader()).is_ok());
    for (name, options) in [("top.lvd", writer(0)), ("mid/mid.lvd", writer(0)), ("base/disk.raw", writer(0))] {
        assert!(matches!(open(directory, name, &options), Err(Error::Locked { .. })), "{name}");
    }
    drop(held);
    let held = open(directory, "top.lvd", &writer(1)).unwrap();
    for name in ["top.lvd", "mid/mid.lvd"] {
        assert!(matches!(open(directory, name, &reader()), Err(Error::Locked { .. })), "{name}");
    }
    assert!(open(directory, "base/disk.raw", &reader()).is_ok());
    drop(held);
    assert!(open(directory, "top.lvd", &writer(2)).is_ok());
}

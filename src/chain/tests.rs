//! Which chains open, and which are refused by which rule.

use super::*;
use crate::device::BlockDevice;
use crate::format::{Decision, Identity, MergeMark, Parent, ParentFormat, Uuid};
use crate::image::{CreateOptions, Group, Image, OpenOptions};
use crate::storage::{FileId, LockMode, MemoryStorage, OsHost, Storage};
use crate::sync::{Mutex, lock};
use crate::violation::Violation;

const SIZE: u64 = 64 << 10;

fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// A memory storage that keeps a diary: `w` and `r` for locks taken, `R` for the first read.
#[derive(Debug)]
struct Watched {
    inner: Arc<MemoryStorage>,
    diary: Mutex<String>,
}

impl Watched {
    fn new(inner: &Arc<MemoryStorage>) -> Arc<Watched> {
        Arc::new(Watched { inner: inner.clone(), diary: Mutex::default() })
    }

    fn diary(&self) -> String {
        lock(&self.diary).clone()
    }

    fn note(&self, event: char) {
        let mut diary = lock(&self.diary);
        if !diary.ends_with(event) {
            diary.push(event);
        }
    }
}

impl Storage for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.note('R');
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Err(Error::Denied("opening writes".into()))
    }

    fn sync(&self) -> Result<()> {
        Err(Error::Denied("opening syncs".into()))
    }

    fn sync_directory(&self) -> Result<()> {
        self.sync()
    }

    fn set_size(&self, _size: u64) -> Result<()> {
        self.sync()
    }

    fn punch(&self, _range: Range<u64>) -> Result<()> {
        self.sync()
    }

    fn write_zeroes(&self, _range: Range<u64>) -> Result<()> {
        self.sync()
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        self.note(if mode == LockMode::Exclusive { 'w' } else { 'r' });
        Ok(())
    }

    fn id(&self) -> Option<FileId> {
        self.inner.id()
    }
}

/// An image, empty, on `parent`.
fn image(name: &str, parent: Option<Parent>) -> Arc<MemoryStorage> {
    let file = Arc::new(MemoryStorage::new(name));
    let options = CreateOptions { virtual_size: SIZE, parent, ..CreateOptions::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    file
}

fn link_to(file: &Arc<MemoryStorage>) -> Parent {
    let header = Image::read_header(&**file).unwrap();
    Parent {
        identity: Some(Identity { uuid: header.uuid, epoch: header.epoch }),
        format: ParentFormat::Lvd,
        visible_length: SIZE,
        hint: file.name().into(),
    }
}

/// Opens `files`, the top first.
fn open_with(files: &[&Arc<MemoryStorage>], options: &ChainOptions) -> Result<Chain> {
    let parents = files[1..].iter().map(|file| (*file).clone() as Arc<dyn Storage>);
    Chain::open(files[0].clone(), host(), &GivenParents::new(parents), options)
}

fn open(files: &[&Arc<MemoryStorage>]) -> Result<Chain> {
    open_with(files, &ChainOptions::default())
}

fn refused(result: Result<Chain>) -> Violation {
    result.unwrap_err().violation().unwrap()
}

/// Opens one image for writing and changes it.
fn with_image(file: &Arc<MemoryStorage>, body: impl FnOnce(&Image) -> Result<()>) {
    let options = OpenOptions { write: true, ignore_marks: true, ..OpenOptions::default() };
    let image = Image::open(file.clone(), host(), &options).unwrap();
    body(&image).unwrap();
    image.close().unwrap();
}

#[test]
fn every_layer_is_locked_before_it_is_read() {
    let base = image("base", None);
    let mid = image("mid", Some(link_to(&base)));
    let top = image("top", Some(link_to(&mid)));
    for (options, locks) in [
        (ChainOptions::default(), ["rR", "rR", "rR"]),
        (ChainOptions { write: true, ..Default::default() }, ["wR", "rR", "rR"]),
        (ChainOptions { write: true, write_also: Some(1), ..Default::default() }, ["wR", "wR", "rR"]),
        (ChainOptions { write_also: Some(2), ..Default::default() }, ["wR", "wR", "wR"]),
    ] {
        let watched = [&top, &mid, &base].map(Watched::new);
        let parents = watched[1..].iter().map(|file| file.clone() as Arc<dyn Storage>);
        let chain = Chain::open(watched[0].clone(), host(), &GivenParents::new(parents), &options).unwrap();
        assert_eq!([0, 1, 2].map(|index| watched[index].diary()), locks);
        assert_eq!([0, 1, 2].map(|index| chain.layers[index].writable()), locks.map(|lock| lock.starts_with('w')));
    }
}

#[test]
fn no_parent_opens_without_a_policy_for_it() {
    let base = image("base", None);
    let top = image("top", Some(link_to(&base)));
    for policy in [&NoParents as &dyn ParentPolicy, &GivenParents::default()] {
        let refused = Chain::open(top.clone(), host(), policy, &ChainOptions::default());
        assert!(matches!(refused, Err(Error::Denied(_))), "{policy:?}");
    }
    assert_eq!(Chain::open(base, host(), &NoParents, &ChainOptions::default()).unwrap().layers.len(), 1);
}

#[test]
fn a_parent_matches_by_uuid_and_epoch() {
    let base = image("base", None);
    let top = image("top", Some(link_to(&base)));
    assert!(open(&[&top, &base]).is_ok());
    let trusting = ChainOptions { trust_links: true, ..ChainOptions::default() };
    assert_eq!(refused(open(&[&top, &image("other", None)])), Violation::ParentMatches);
    assert!(open_with(&[&top, &image("other", None)], &trusting).is_ok());
    // Filling, sealing and closing without a change keep the epoch; a change does not.
    with_image(&base, |image| image.fill(0..SIZE).map(drop));
    assert!(open(&[&top, &base]).is_ok());
    with_image(&base, |image| image.write_at(&[1], 0));
    assert_eq!(refused(open(&[&top, &base])), Violation::ParentMatches);
    assert!(open_with(&[&top, &base], &trusting).is_ok());
}

#[test]
fn a_parent_that_was_not_closed_matches_no_link_and_gets_none() {
    let base = image("base", None);
    let top = image("top", Some(link_to(&base)));
    let options = OpenOptions { write: true, ..OpenOptions::default() };
    let killed = Image::open(base.clone(), host(), &options).unwrap();
    killed.write_at(&[1], 0).unwrap();
    drop(killed);
    assert_eq!(refused(open(&[&top, &base])), Violation::ParentMatches);
    let chain = open(&[&base]).unwrap();
    assert_eq!(chain.layers[0].link(SIZE, "base".into()).unwrap_err().violation(), Some(Violation::ParentMatches));
    open_with(&[&base], &ChainOptions { write: true, ..Default::default() }).unwrap().close().unwrap();
    let chain = open(&[&base]).unwrap();
    assert!(chain.layers[0].link(SIZE, "base".into()).is_ok());
    assert!(chain.layers[0].link(SIZE + 1, "base".into()).is_err());
}

#[test]
fn a_marked_file_opens_only_below_its_child() {
    let base = image("base", None);
    let mid = image("mid", Some(link_to(&base)));
    let top = image("top", Some(link_to(&mid)));
    let sibling = image("sibling", Some(link_to(&mid)));
    let child_uuid = link_to(&top).identity.unwrap().uuid;
    for file in [&mid, &base] {
        let child_epoch = link_to(file).identity.unwrap().epoch;
        with_image(file, |image| image.set_merge_mark(Some(MergeMark { child_uuid, child_epoch })));
    }
    assert!(open(&[&top, &mid, &base]).is_ok());
    for files in [&[&base] as &[_], &[&mid, &base], &[&sibling, &mid, &base]] {
        assert_eq!(refused(open(files)), Violation::Marked);
        let looking = ChainOptions { ignore_marks: true, ..ChainOptions::default() };
        assert!(open_with(files, &looking).is_ok());
    }
    // A link to the epoch that the file has now.
    let new = image("new", Some(link_to(&mid)));
    assert_eq!(refused(open(&[&new, &mid, &base])), Violation::Marked);
    with_image(&top, |image| image.relink(Some(link_to(&base)), None));
    assert!(open(&[&top, &base]).is_ok());
    // A link to neither epoch.
    let strange = Identity { epoch: Uuid([7; 16]), ..link_to(&base).identity.unwrap() };
    with_image(&top, |image| image.relink(Some(Parent { identity: Some(strange), ..link_to(&base) }), None));
    assert_eq!(refused(open(&[&top, &base])), Violation::Marked);
}

#[test]
fn a_copy_that_is_none_does_not_open() {
    let file = Arc::new(MemoryStorage::new("copy"));
    let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
    Image::create(&*file, &*host(), &options).unwrap();
    let top = image("top", Some(link_to(&file)));
    assert_eq!(refused(open(&[&file])), Violation::Copying);
    assert_eq!(refused(open(&[&top, &file])), Violation::Copying);
    assert!(open_with(&[&top, &file], &ChainOptions { ignore_marks: true, ..Default::default() }).is_ok());
    with_image(&file, Image::clear_copy_mark);
    assert!(open(&[&top, &file]).is_ok());
}

#[test]
fn a_parent_is_long_enough() {
    let raw = Arc::new(MemoryStorage::with_bytes("raw", &[1; 1000]));
    let link =
        |visible_length| Parent { identity: None, format: ParentFormat::Raw, visible_length, hint: "raw".into() };
    let chain = open(&[&image("top", Some(link(999))), &raw]).unwrap();
    let mut bytes = [9; 1001];
    chain.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..999] == [1; 999] && bytes[999..] == [0, 0]);
    assert!(!chain.layers[1].verified());
    assert!(open(&[&image("top", Some(link(1000))), &raw]).is_ok());
    assert_eq!(refused(open(&[&image("top", Some(link(1001))), &raw])), Violation::VisibleLength);
    let base = image("base", None);
    let top = image("top", Some(link_to(&base)));
    with_image(&base, |image| image.resize(SIZE - 1));
    let trusting = ChainOptions { trust_links: true, ..ChainOptions::default() };
    assert_eq!(refused(open_with(&[&top, &base], &trusting)), Violation::VisibleLength);
}

#[test]
fn a_chain_has_no_cycle_and_an_end() {
    // Files that each name the next: first by what the host tells them apart by, then by nothing but the depth.
    let base = image("base", None);
    let top = image("top", Some(link_to(&base)));
    with_image(&base, |image| image.seal());
    assert_eq!(refused(open(&[&top, &top])), Violation::Cycle);
    let mut files = vec![image("0", None)];
    for number in 1..5 {
        files.insert(0, image(&number.to_string(), Some(link_to(&files[0]))));
    }
    let files: Vec<_> = files.iter().collect();
    for depth in 1..7 {
        let result = open_with(&files, &ChainOptions { depth, ..ChainOptions::default() });
        match depth {
            ..5 => assert_eq!(refused(result), Violation::Cycle),
            _ => assert_eq!(result.unwrap().layers.len(), 5),
        }
    }
}

#[test]
fn a_copy_of_a_layer_may_be_one_itself() {
    let base = image("base", None);
    let copy = Arc::new(base.copy("copy"));
    let top = image("top", Some(link_to(&base)));
    with_image(&copy, |image| image.write_at(&[1], 0));
    let above = image("above", Some(link_to(&copy)));
    assert!(open(&[&above, &copy]).is_ok());
    assert_eq!(refused(open(&[&top, &copy])), Violation::ParentMatches);
}

#[test]
fn a_foreign_parent_is_not_supported_and_not_opened() {
    let link = Parent { identity: None, format: ParentFormat::Qcow2, visible_length: SIZE, hint: "x.qcow2".into() };
    let top = image("top", Some(link));
    let error = open(&[&top]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("qcow2"), "{error}");
}

#[test]
fn a_sidecar_is_a_top() {
    let base = image("base", None);
    with_image(&base, |image| image.write_at(&[3; 100], 0));
    let volume = Arc::new(MemoryStorage::with_bytes("volume", &[0xee; SIZE as usize]));
    let sidecar = Arc::new(MemoryStorage::new("sidecar"));
    let options = CreateOptions { virtual_size: SIZE, parent: Some(link_to(&base)), ..CreateOptions::default() };
    Image::create_sidecar(&*sidecar, &*volume, &*host(), &options).unwrap();
    let open = || {
        let parents = GivenParents::new([base.clone() as Arc<dyn Storage>]);
        let options = ChainOptions { write: true, ..ChainOptions::default() };
        Chain::open_sidecar(sidecar.clone(), volume.clone(), host(), &parents, &options).unwrap()
    };
    let chain = open();
    chain.write_at(&[4; 10], 5000).unwrap();
    chain.close().unwrap();
    let mut bytes = vec![9; SIZE as usize];
    open().read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..100] == [3; 100] && bytes[100..5000].iter().all(|byte| *byte == 0));
    assert!(bytes[5000..5010] == [4; 10] && bytes[5010..].iter().all(|byte| *byte == 0));
}

#[test]
fn extents_tell_the_depth() {
    let base = image("base", None);
    with_image(&base, |image| image.write_at(&[1; 4096], 0));
    let mid = image("mid", Some(link_to(&base)));
    with_image(&mid, |image| image.write_at(&[1; 4096], 8192));
    let top = image("top", Some(link_to(&mid)));
    let chain = open(&[&top, &mid, &base]).unwrap();
    let found = |at| {
        let extent = chain.extent(at, SIZE).unwrap();
        (extent.depth, extent.present, extent.range.end)
    };
    assert_eq!(found(0), (2, true, 4096));
    assert_eq!(found(4096), (2, true, 8192));
    assert_eq!(found(8192), (1, true, 12288));
}

#[test]
fn a_raw_device_stays_failed() {
    #[derive(Debug)]
    struct Failing(MemoryStorage, Mutex<u32>);
    impl Storage for Failing {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn size(&self) -> Result<u64> {
            self.0.size()
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            self.0.read_at(buffer, offset)
        }
        fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
            self.0.write_at(data, offset)
        }
        fn sync(&self) -> Result<()> {
            *lock(&self.1) += 1;
            Err(Error::io("failing", "cannot sync", std::io::Error::other("the disk is gone")))
        }
        fn sync_directory(&self) -> Result<()> {
            Ok(())
        }
        fn set_size(&self, size: u64) -> Result<()> {
            self.0.set_size(size)
        }
        fn punch(&self, range: Range<u64>) -> Result<()> {
            self.0.punch(range)
        }
        fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
            self.0.write_zeroes(range)
        }
        fn lock(&self, _mode: LockMode) -> Result<()> {
            Ok(())
        }
    }
    let storage = Arc::new(Failing(MemoryStorage::with_bytes("failing", &[1; 513]), Mutex::new(0)));
    let raw = RawDevice::new(storage.clone(), true).unwrap();
    raw.write_at(&[2; 513], 0).unwrap();
    assert!(raw.write_at(&[2; 2], 512).is_err());
    assert!(matches!(raw.flush(), Err(Error::Io { .. })));
    assert!(matches!(raw.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(raw.write_at(&[3], 0), Err(Error::Poisoned { .. })));
    assert!(matches!(raw.discard(0..1), Err(Error::Poisoned { .. })));
    assert!(matches!(raw.set_size(9), Err(Error::Poisoned { .. })));
    assert_eq!(*lock(&storage.1), 1, "a failed barrier was tried again");
    let mut byte = [0];
    raw.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [2]);
    let reader = RawDevice::new(storage, false).unwrap();
    assert!(matches!(reader.write_at(&[3], 0), Err(Error::Denied(_))));
    assert!(reader.flush().is_ok());
}

/// The file of a group, as its creator left it, and a disk that is in it.
fn in_group(decision: Decision) -> (Arc<MemoryStorage>, Arc<MemoryStorage>, Uuid) {
    let file = Arc::new(MemoryStorage::new("group"));
    let group = Group::create(file.clone(), host()).unwrap();
    if decision == Decision::Moved {
        group.decide().unwrap();
    }
    let disk = image("disk", None);
    with_image(&disk, |image| image.set_group_mark(Some(group.uuid())));
    (file, disk, group.uuid())
}

fn by_group(file: &Arc<MemoryStorage>) -> ChainOptions {
    let group = Some(Arc::new(Group::open(file.clone(), host()).unwrap()));
    ChainOptions { write: true, group, ..ChainOptions::default() }
}

/// A process decided and was killed; the decision was in the page cache alone. The next one opened the disk by it and wrote,
/// and a power loss took the decision back: the other side of the disk could be written too.
#[test]
fn what_a_group_says_is_durable_before_a_disk_is_written() {
    let (file, disk, _) = in_group(Decision::Undecided);
    assert_eq!(refused(open_with(&[&disk], &ChainOptions { write: true, ..Default::default() })), Violation::Moved);
    let watched = Watched::new(&file);
    let group = Some(Arc::new(Group::open(watched.clone(), host()).unwrap()));
    let options = ChainOptions { write: true, group, ..ChainOptions::default() };
    let chain = open_with(&[&disk], &options).unwrap();
    // The group's file takes no write: so none comes to the disk either.
    let before = Image::read_header(&*disk).unwrap();
    assert!(chain.write_at(&[1], 0).is_err());
    assert_eq!(Image::read_header(&*disk).unwrap(), before);
    drop(chain);
    let chain = open_with(&[&disk], &by_group(&file)).unwrap();
    chain.write_at(&[1], 0).unwrap();
    assert_eq!(Image::read_header(&*disk).unwrap().group_mark, None);
}

/// What is found undecided may have been written to since.
#[test]
fn only_who_made_a_group_decides() {
    let (file, _, _) = in_group(Decision::Undecided);
    let found = Group::open(file.clone(), host()).unwrap();
    assert!(matches!(found.decide(), Err(Error::Denied(_))));
    assert!(matches!(Group::create(file.clone(), host()), Err(Error::Invalid(_))), "somebody may rely on it");
    assert_eq!(Group::open(file, host()).unwrap().decision(), Decision::Undecided);
}

#[test]
fn a_disk_that_has_moved_is_only_read() {
    let (file, disk, _) = in_group(Decision::Moved);
    assert_eq!(refused(open_with(&[&disk], &by_group(&file))), Violation::Moved);
    assert!(open(&[&disk]).is_ok());
    let looking = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
    let chain = open_with(&[&disk], &looking).unwrap();
    chain.write_at(&[1], 0).unwrap();
    chain.close().unwrap();
    assert!(Image::read_header(&*disk).unwrap().group_mark.is_some(), "an override leaves the mark");
}

#[test]
fn a_copy_is_one_once_its_group_has_moved() {
    for decision in [Decision::Undecided, Decision::Moved] {
        let (file, _, group) = in_group(decision);
        let copy = Arc::new(MemoryStorage::new("copy"));
        let options = CreateOptions { virtual_size: SIZE, copy_mark: true, ..CreateOptions::default() };
        Image::create(&*copy, &*host(), &options).unwrap();
        assert_eq!(refused(open_with(&[&copy], &by_group(&file))), Violation::Copying);
        with_image(&copy, |image| image.set_copy_group(group));
        assert_eq!(refused(open(&[&copy])), Violation::Copying);
        let chain = open_with(&[&copy], &by_group(&file));
        if decision == Decision::Undecided {
            assert_eq!(refused(chain), Violation::Copying);
            continue;
        }
        let chain = chain.unwrap();
        chain.flush().unwrap();
        assert!(Image::read_header(&*copy).unwrap().copy_mark.is_some(), "nothing was written");
        chain.write_at(&[1], 0).unwrap();
        chain.close().unwrap();
        assert!(open(&[&copy]).is_ok());
    }
}

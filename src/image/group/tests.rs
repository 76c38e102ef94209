//! Who decides for a group, and what its decision makes of the marks that name it.

use super::*;
use crate::device::BlockDevice;
use crate::image::{CreateOptions, Image, OpenOptions};
use crate::storage::{MemoryStorage, OsHost};

fn host() -> Arc<OsHost> {
    Arc::new(OsHost::default())
}

fn disk() -> Arc<MemoryStorage> {
    let file = Arc::new(MemoryStorage::new("disk.lvd"));
    Image::create(&*file, &*host(), &CreateOptions { virtual_size: 1 << 20, ..CreateOptions::default() }).unwrap();
    file
}

fn open(file: &Arc<MemoryStorage>, group: Option<&Arc<Group>>) -> Result<Image> {
    let options = OpenOptions { write: true, group: group.cloned(), ..OpenOptions::default() };
    Image::open(file.clone(), host(), &options)
}

#[test]
fn only_an_empty_file_becomes_a_group_and_only_its_maker_decides() {
    let file = Arc::new(MemoryStorage::new("move.lvg"));
    file.write_at(&[0], 0).unwrap();
    let refused = Group::create(file.clone(), host()).unwrap_err().to_string();
    assert_eq!(refused, "move.lvg: the file of a new group has to be empty");
    assert_eq!(file.contents(), [0], "nothing is lost");
    file.set_size(0).unwrap();
    let group = Group::create(file.clone(), host()).unwrap();
    assert_eq!((group.name(), group.decision()), ("move.lvg", Decision::Undecided));
    let other = Group::open(file.clone(), host()).unwrap();
    let refused = other.decide().unwrap_err().to_string();
    assert_eq!(refused, "move.lvg: whoever made the group has not decided, so nobody does");
    assert_eq!(Group::open(file.clone(), host()).unwrap().decision(), Decision::Undecided);
    group.decide().unwrap();
    group.settle().unwrap();
    let reopened = Group::open(file, host()).unwrap();
    assert_eq!((reopened.uuid(), reopened.decision()), (group.uuid(), Decision::Moved));
    let refused = Group::open(disk(), host()).unwrap_err().to_string();
    assert_eq!(refused, "disk.lvd: not the file of a group");
}

#[test]
fn a_decision_is_about_the_marks_of_its_own_group() {
    let [ours, other] = ["ours.lvg", "other.lvg"].map(|name| {
        let file = Arc::new(MemoryStorage::new(name));
        Arc::new(Group::create(file, host()).unwrap())
    });
    let said = |result: Result<Image>| result.unwrap_err().to_string();

    // A copy that a job fills, and then one whose group says when it is one.
    let copy = disk();
    open(&copy, None).unwrap().set_copy_mark().unwrap();
    let filling = said(open(&copy, Some(&ours)));
    assert!(filling.contains("it is not a copy yet: the job that fills it has not finished"), "{filling}");
    let options = OpenOptions { write: true, ignore_marks: true, ..OpenOptions::default() };
    Image::open(copy.clone(), host(), &options).unwrap().set_copy_group(ours.uuid()).unwrap();
    for given in [None, Some(&other)] {
        let unknown = said(open(&copy, given));
        assert!(unknown.contains(&format!("give the file of group {}, which says so", ours.uuid())), "{unknown}");
    }
    let undecided = said(open(&copy, Some(&ours)));
    assert!(undecided.contains(&format!("it is not a copy yet: group {} has not moved", ours.uuid())), "{undecided}");

    // The disk that it is made of: void is what names the group at hand, when something is written.
    let source = disk();
    open(&source, None).unwrap().set_group_mark(Some(ours.uuid())).unwrap();
    assert!(said(open(&source, Some(&other))).contains("the disk may have moved"));
    let image = open(&source, Some(&ours)).unwrap();
    image.write_at(&[1; 512], 0).unwrap();
    assert_eq!(image.header().group_mark, None);
    image.set_group_mark(Some(other.uuid())).unwrap();
    assert_eq!(image.header().group_mark, Some(GroupMark { group: other.uuid() }));
    image.set_group_mark(None).unwrap();
    image.close().unwrap();
    open(&source, None).unwrap().set_group_mark(Some(ours.uuid())).unwrap();

    ours.decide().unwrap();
    let moved = said(open(&source, Some(&ours)));
    assert!(moved.contains(&format!("the disk has moved, with group {}", ours.uuid())), "{moved}");
    let image = open(&copy, Some(&ours)).unwrap();
    assert_eq!(image.header().copy_mark, Some(CopyMark { group: ours.uuid() }));
    image.write_at(&[1; 512], 0).unwrap();
    assert_eq!(image.header().copy_mark, None);
    image.set_copy_group(other.uuid()).unwrap();
    assert_eq!(image.header().copy_mark, Some(CopyMark { group: other.uuid() }));
}

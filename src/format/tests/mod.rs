//! What the format promises: every header comes back, every rule refuses, no bytes panic.

mod properties;
mod rules;
mod slots;
mod structures;

use super::*;

pub(super) const UUID: Uuid = Uuid([1; 16]);
pub(super) const EPOCH: Uuid = Uuid([2; 16]);
pub(super) const MIB: u64 = 1 << 20;

/// A complete image of 1 MiB.
pub(super) fn image() -> Header {
    Header::new(Kind::Image, UUID, EPOCH, MIB, 192 << 10)
}

/// An allocation section for a disk of 1 MiB.
pub(super) fn allocation() -> Section {
    Section {
        id: Uuid([3; 16]),
        kind: SectionKind::Allocation,
        granularity_shift: 12,
        required: true,
        offset: 128 << 10,
        length: 4096,
        covered: MIB,
    }
}

/// A link to an LVD parent.
pub(super) fn parent() -> Parent {
    let identity = Some(Identity { uuid: Uuid([4; 16]), epoch: Uuid([5; 16]) });
    Parent { identity, format: ParentFormat::Lvd, visible_length: MIB, hint: "base.lvd".into() }
}

/// An image of 1 MiB above a parent.
pub(super) fn overlay() -> Header {
    Header { sections: vec![allocation()], parent: Some(parent()), ..image() }
}

/// The file of a group that has not decided.
pub(super) fn group() -> Header {
    Header { decision: Some(Decision::Undecided), ..Header::new(Kind::Group, UUID, EPOCH, 0, 0) }
}

/// An image that is in a group.
pub(super) fn grouped() -> Header {
    let mut header = image();
    header.set_group_mark(Some(GroupMark { group: UUID }));
    header
}

/// The allocation bitmap of a raw volume.
pub(super) fn sidecar() -> Header {
    let host = Some(HostRecord { format: HostFormat::Raw, length: MIB, former: Uuid::NIL });
    Header { kind: Kind::Sidecar, data_offset: 0, host, sections: vec![allocation()], ..image() }
}

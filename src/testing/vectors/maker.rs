//! Makes a file by hand, and knows what a guest reads from it.

use super::sparse::{Sparse, sixteen};
use super::vector::{Case, Disk, Facts, Held, Stretch, Verdict};
use crate::format::{
    BITS_PER_SECTOR, Decision, Header, HostFormat, HostRecord, Identity, Kind, Parent, ParentFormat, Section,
    SectionKind, Uuid, seal,
};
use crate::limits::{SECTOR_SIZE, SLOT_SIZE, SLOTS_END};
use std::collections::BTreeSet;
use std::ops::Range;

/// Data areas start on multiples of this.
const DATA_ALIGNMENT: u64 = 64 << 10;
/// Disks up to this size are hashed as a whole.
const MAX_HASHED: u64 = 64 << 20;

/// A file in the making.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    /// What both slots will hold.
    pub(super) header: Header,
    /// The file: data at once, bits and slots at [`finish`](Maker::finish).
    pub(super) file: Sparse,
    /// The volume of a sidecar.
    pub(super) volume: Option<Sparse>,
    /// What a guest reads.
    pub(super) disk: Sparse,
    /// Sectors of the allocation section that nobody can read.
    pub(super) bad: BTreeSet<u64>,
    present: BTreeSet<u64>,
    tag: String,
}

/// An identity that is the same in every run.
pub(super) fn id(label: &str) -> Uuid {
    Uuid(sixteen(&format!("lvd vectors 1: {label}")))
}

/// `range` of a disk whose every sector begins and ends with `tag` and its own offset.
pub(super) fn tagged(tag: &str, range: Range<u64>) -> Vec<u8> {
    let sectors = range.start / SECTOR_SIZE..range.end.div_ceil(SECTOR_SIZE);
    let mut bytes = Vec::new();
    for sector in sectors.clone() {
        let line = format!("{tag:4.4}:{:011x}", sector * SECTOR_SIZE);
        let line = &line.as_bytes()[..16];
        bytes.extend_from_slice(line);
        bytes.resize(bytes.len() + SECTOR_SIZE as usize - 32, 0);
        bytes.extend_from_slice(line);
    }
    let from = (range.start - sectors.start * SECTOR_SIZE) as usize;
    bytes[from..from + (range.end - range.start) as usize].to_vec()
}

/// A raw file of `length` bytes whose sectors within `ranges` carry `tag`.
pub(super) fn raw(tag: &str, length: u64, ranges: &[Range<u64>]) -> Sparse {
    let mut bytes = Sparse::new(length);
    for range in ranges {
        bytes.write(range.start, &tagged(tag, range.clone()));
    }
    bytes
}

impl Maker {
    fn new(tag: &str, kind: Kind, size: u64, data_offset: u64) -> Maker {
        let header = Header::new(kind, id(tag), id(&format!("{tag}, epoch 1")), size, data_offset);
        Maker {
            header,
            file: Sparse::new(data_offset + if kind == Kind::Image { size } else { 0 }),
            volume: None,
            disk: Sparse::new(size),
            bad: BTreeSet::new(),
            present: BTreeSet::new(),
            tag: tag.into(),
        }
    }

    /// A complete image of zeros. `tag` names its identity and, with four letters, its data.
    pub(super) fn complete(tag: &str, size: u64) -> Maker {
        Maker::new(tag, Kind::Image, size, SLOTS_END)
    }

    /// An overlay without a parent that holds nothing.
    pub(super) fn overlay(tag: &str, size: u64, shift: u8) -> Maker {
        let section = section(tag, size, shift, SLOTS_END);
        let data_offset = section.range().end.next_multiple_of(DATA_ALIGNMENT);
        let mut maker = Maker::new(tag, Kind::Image, size, data_offset);
        maker.header.sections.push(section);
        maker
    }

    /// A sidecar that says of nothing that its volume of zeros holds it.
    pub(super) fn sidecar(tag: &str, size: u64, shift: u8) -> Maker {
        let section = section(tag, size, shift, SLOTS_END);
        let mut maker = Maker::new(tag, Kind::Sidecar, size, 0);
        maker.file.set_len(section.range().end);
        maker.header.sections.push(section);
        maker.header.host = Some(HostRecord { format: HostFormat::Raw, length: size, former: Uuid::NIL });
        maker.volume = Some(Sparse::new(size));
        maker
    }

    /// The file of a group that has not decided.
    pub(super) fn group(tag: &str) -> Maker {
        let mut maker = Maker::new(tag, Kind::Group, 0, 0);
        maker.file.set_len(SLOTS_END);
        maker.header.decision = Some(Decision::Undecided);
        maker
    }

    /// Puts `parent`, a file of that name, below. Comes before any data.
    pub(super) fn over(mut self, parent: &Maker, name: &str, visible: u64) -> Maker {
        let identity = Identity { uuid: parent.header.uuid, epoch: parent.header.epoch };
        self.link(Some(identity), ParentFormat::Lvd, name, visible);
        self.disk.copy(&parent.disk, 0..visible);
        self
    }

    /// Puts a raw file below. Comes before any data.
    pub(super) fn over_raw(self, parent: &Sparse, name: &str, visible: u64) -> Maker {
        self.over_foreign(ParentFormat::Raw, parent, name, visible)
    }

    /// Puts a file below that nothing identifies and that shows `disk`. Comes before any data.
    pub(super) fn over_foreign(mut self, format: ParentFormat, disk: &Sparse, name: &str, visible: u64) -> Maker {
        self.link(None, format, name, visible);
        self.disk.copy(disk, 0..visible);
        self
    }

    fn link(&mut self, identity: Option<Identity>, format: ParentFormat, name: &str, visible: u64) {
        self.header.parent = Some(Parent { identity, format, visible_length: visible, hint: name.into() });
    }

    /// The guest writes `range`; blocks become present with what was around it.
    pub(super) fn data(mut self, range: Range<u64>) -> Maker {
        self.disk.write(range.start, &tagged(&self.tag, range.clone()));
        self.take(range);
        self
    }

    /// The guest zeroes `range`; blocks become present.
    pub(super) fn zeros(mut self, range: Range<u64>) -> Maker {
        self.disk.zero(range.clone());
        self.take(range);
        self
    }

    /// The guest writes `range` with `byte`; blocks become present with what was around it.
    pub(super) fn bytes(mut self, range: Range<u64>, byte: u8) -> Maker {
        self.disk.write(range.start, &vec![byte; (range.end - range.start) as usize]);
        self.take(range);
        self
    }

    /// Blocks become present as they read.
    pub(super) fn filled(mut self, range: Range<u64>) -> Maker {
        self.take(range);
        self
    }

    /// Data without a bit: what a crash leaves of a write that was not committed. No guest sees it.
    pub(super) fn garbage(mut self, range: Range<u64>) -> Maker {
        let at = self.header.data_offset + range.start;
        let bytes = tagged("junk", range);
        self.data_file().write(at, &bytes);
        self
    }

    /// The blocks that `range` touches come to lie here, as the guest reads them.
    fn take(&mut self, range: Range<u64>) {
        let granule = self.header.granule();
        let blocks = range.start / granule..range.end.div_ceil(granule);
        let bytes = blocks.start * granule..(blocks.end * granule).min(self.header.virtual_size);
        let data_offset = self.header.data_offset;
        let content = self.disk.clone();
        let file = self.data_file();
        file.zero(data_offset + bytes.start..data_offset + bytes.end);
        for (at, piece) in content.pieces() {
            let (from, to) = (bytes.start.max(at), bytes.end.min(at + piece.len() as u64));
            if from < to {
                file.write(data_offset + from, &piece[(from - at) as usize..(to - at) as usize]);
            }
        }
        self.present.extend(blocks);
    }

    fn data_file(&mut self) -> &mut Sparse {
        self.volume.as_mut().unwrap_or(&mut self.file)
    }

    /// Sets the bit of a block without any data: bits past the end, say.
    pub(super) fn set_bit(mut self, block: u64) -> Maker {
        self.present.insert(block);
        self
    }

    /// The next header of the same file: sequence and epoch of their own.
    pub(super) fn next(&self) -> Maker {
        let mut next = self.clone();
        next.header.sequence += 1;
        next.header.epoch = id(&format!("{}, epoch {}", self.tag, next.header.sequence));
        next
    }

    /// The file offset of a sector of the allocation section.
    pub(super) fn sector_at(&self, sector: u64) -> u64 {
        self.header.allocation().expect("the file has an allocation section").offset + sector * SECTOR_SIZE
    }

    /// Seals the bits into their sectors.
    pub(super) fn seal_bits(&mut self) {
        let Some(&section) = self.header.allocation() else { return };
        let sectors: BTreeSet<u64> = self.present.iter().map(|block| block / BITS_PER_SECTOR).collect();
        for sector in sectors {
            let mut bytes = [0; SECTOR_SIZE as usize];
            let first = sector * BITS_PER_SECTOR;
            for block in self.present.range(first..first + BITS_PER_SECTOR) {
                let bit = block - first;
                bytes[(bit / 8) as usize] |= 1 << (bit % 8);
            }
            seal(&mut bytes, section.id, sector);
            self.file.write(section.offset + sector * SECTOR_SIZE, &bytes);
        }
    }

    /// Writes a slot.
    pub(super) fn slot(&mut self, number: u64, bytes: &[u8]) {
        let length = self.file.len();
        self.file.zero(number * SLOT_SIZE..(number + 1) * SLOT_SIZE);
        self.file.write(number * SLOT_SIZE, bytes);
        self.file.set_len(length);
    }

    /// The bytes of the header as the library writes them.
    pub(super) fn encoded(&self) -> Vec<u8> {
        self.header.encode().unwrap_or_else(|rule| panic!("{} makes a right header: {rule}", self.tag))
    }

    /// The file, its bits sealed and its header in both slots.
    pub(super) fn finish(&mut self) -> Sparse {
        self.seal_bits();
        let bytes = self.encoded();
        self.slot(0, &bytes);
        self.slot(1, &bytes);
        self.file.clone()
    }

    /// What the header says.
    pub(super) fn facts(&self) -> Facts {
        crate::conformance::facts(&self.header)
    }

    /// What a guest reads.
    pub(super) fn expected(&self) -> Disk {
        let mut bytes = self.disk.clone();
        let extents = self.extents();
        let unreadable: Vec<_> = extents.iter().filter(|extent| extent.held == Held::Unreadable).collect();
        unreadable.iter().for_each(|extent| bytes.zero(extent.offset..extent.offset + extent.length));
        let size = self.header.virtual_size;
        let sha256 = (unreadable.is_empty() && size <= MAX_HASHED).then(|| bytes.sha256());
        Disk { size, sha256, dump: None, extents: Some(extents), bytes }
    }

    /// Opening this file as `name` shows all of it; `damaged` if sectors are bad.
    pub(super) fn opens(&self, name: &str) -> Case {
        let damaged = !self.bad.is_empty();
        let verdict = if damaged { Verdict::Damaged } else { Verdict::Valid };
        let broken: &[_] = if damaged { &[crate::violation::Violation::SealedSector] } else { &[] };
        Case { header: Some(self.facts()), disk: Some(self.expected()), ..Case::new(name, verdict, broken) }
    }

    fn extents(&self) -> Vec<Stretch> {
        let size = self.header.virtual_size;
        let granule = self.header.granule();
        let mut changes = BTreeSet::from([0, size]);
        changes.extend(self.present.iter().flat_map(|block| [block * granule, (block + 1) * granule]));
        let sector = |number: u64| number * BITS_PER_SECTOR * granule;
        changes.extend(self.bad.iter().flat_map(|&number| [sector(number), sector(number + 1)]));
        let edges: Vec<u64> = changes.into_iter().filter(|&at| at <= size).collect();
        let mut extents: Vec<Stretch> = Vec::new();
        for pair in edges.windows(2) {
            let (offset, length, block) = (pair[0], pair[1] - pair[0], pair[0] / granule);
            let held = match () {
                () if self.header.allocation().is_none() => Held::Here,
                () if self.bad.contains(&(block / BITS_PER_SECTOR)) => Held::Unreadable,
                () if self.present.contains(&block) => Held::Here,
                () => Held::Below,
            };
            match extents.last_mut() {
                Some(last) if last.held == held => last.length += length,
                _ => extents.push(Stretch { offset, length, held }),
            }
        }
        extents
    }
}

/// An allocation section at `offset`.
pub(super) fn section(tag: &str, size: u64, shift: u8, offset: u64) -> Section {
    Section {
        id: id(&format!("{tag}, allocation")),
        kind: SectionKind::Allocation,
        granularity_shift: shift,
        required: true,
        offset,
        length: Section::needed_length(size, shift),
        covered: size,
    }
}

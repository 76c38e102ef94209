//! Files that name one another as parents: rightly, wrongly, in circles. What opens is what `spec/chain.md` lets, and reads
//! as its layers do one by one.

use super::files::Files;
use super::span::Size;
use crate::bitmap::Page;
use crate::chain::{Chain, ChainOptions, ParentPolicy};
use crate::device::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::format::{
    CopyMark, Header, HostFormat, HostRecord, Identity, Kind, MergeMark, Parent, ParentFormat, Section, SectionKind,
    Uuid,
};
use crate::limits::{SLOT_SIZE, SLOTS_END};
use crate::storage::Storage;
use crate::sync::{Mutex, lock};
use crate::testing::host::SimHost;
use crate::testing::qed;
use arbitrary::{Arbitrary, Unstructured};
use std::collections::BTreeSet;
use std::sync::Arc;

const PAGE: u64 = 4096;
const MOST_FILES: usize = 6;

/// Files, and how the first of them is opened.
#[derive(Debug, Arbitrary)]
pub struct Links {
    /// The first is a volume with its sidecar, if it is an image.
    sidecar: bool,
    files: [File; MOST_FILES],
    write: bool,
    write_also: Option<u8>,
    depth: u8,
    trust_links: bool,
    ignore_marks: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct File {
    sort: Sort,
    size: Size,
    /// The blocks that an overlay holds.
    present: u16,
    link: Option<Link>,
    /// The file whose disk is being merged into it, and whether the mark has the file's own epoch.
    merge_mark: Option<(u8, bool)>,
    copy_mark: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Sort {
    Image,
    /// As [`Sort::Image`]: most files are.
    Overlay,
    Raw,
    Qed,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct Link {
    to: u8,
    format: Option<Format>,
    identity: Named,
    visible: Visible,
}

/// What the parent is said to be, if not what it is.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Format {
    Lvd,
    Raw,
    Qed,
    Other,
}

/// Who the parent is said to be.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Named {
    Right,
    AlsoRight,
    /// As before a merge.
    MergeEpoch,
    OtherEpoch,
    OtherUuid,
    Nobody,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Visible {
    All,
    Part(u16),
    /// More than there is, as far as the child is long enough to ask for it.
    More,
}

/// Gives what the hint names, and notes what it was asked for.
#[derive(Debug)]
struct Noted<'a>(&'a Files, Mutex<Vec<String>>);

impl ParentPolicy for Noted<'_> {
    fn open(&self, link: &Parent, _: &str, write: bool) -> Result<Arc<dyn Storage>> {
        lock(&self.1).push(link.hint.clone());
        self.0.open(&link.hint, write)
    }
}

/// A file, and what it is opened as.
type Layer = (usize, ParentFormat);

/// Why a chain may be refused: by a rule, or without blame for a file.
type Reasons = BTreeSet<Option<&'static str>>;

impl Links {
    /// The files that some bytes describe.
    pub fn of(input: &[u8]) -> Option<Links> {
        Links::arbitrary_take_rest(Unstructured::new(input)).ok()
    }

    /// Opens them.
    ///
    /// # Panics
    /// If something opens that should not, is refused that should open or for another reason, or reads wrong.
    pub fn follow(&self) {
        let mut files = Files::default();
        (0..MOST_FILES).for_each(|number| self.make(&mut files, number));
        let (layers, reasons) = self.walk();
        let (noted, before) = (Noted(&files, Mutex::default()), files.all_changes());
        let opened = self.open(&files, &noted);
        assert_eq!(files.all_changes(), before, "an open writes nothing");
        let asked = lock(&noted.1).clone();
        let along: Vec<String> = layers[1..].iter().map(|(number, _)| self.hint(*number)).collect();
        assert!(along.starts_with(&asked), "{asked:?} were opened along {along:?}");
        match opened {
            Err(error) => {
                let reason = error.violation().map(|rule| rule.id());
                assert!(reasons.contains(&reason), "{error}: {reason:?}, instead of {reasons:?}");
                assert!(reason.is_some() || matches!(error, Error::Denied(_)), "{error}");
            }
            Ok(chain) => {
                assert!(reasons.is_empty(), "opened, against {reasons:?}");
                assert_eq!((chain.layers.len(), asked.len()), (layers.len(), along.len()));
                self.read(&files, &chain, &layers);
            }
        }
    }

    fn sidecar(&self) -> bool {
        self.sidecar && self.file(0).image()
    }

    fn file(&self, number: usize) -> &File {
        &self.files[number]
    }

    fn hint(&self, number: usize) -> String {
        match self.file(number).sort {
            _ if number == 0 && self.sidecar() => "0.volume.lvb".into(),
            Sort::Image | Sort::Overlay => format!("{number}.lvd"),
            Sort::Raw => format!("{number}.raw"),
            Sort::Qed => format!("{number}.qed"),
        }
    }

    fn size(&self, number: usize) -> u64 {
        let file = self.file(number);
        let size = file.size.few_bytes();
        if file.sort == Sort::Qed { size / 512 * 512 } else { size }
    }

    /// The link of an overlay.
    fn link(&self, number: usize) -> Option<(usize, Parent)> {
        let file = self.file(number);
        let link = file.link.filter(|_| file.image())?;
        let to = usize::from(link.to) % MOST_FILES;
        let parent = self.file(to);
        let format = match (link.format, parent.sort) {
            (None, Sort::Image | Sort::Overlay) | (Some(Format::Lvd), _) => ParentFormat::Lvd,
            (None, Sort::Raw) | (Some(Format::Raw), _) => ParentFormat::Raw,
            (None, Sort::Qed) | (Some(Format::Qed), _) => ParentFormat::Qed,
            (Some(Format::Other), _) => ParentFormat::Qcow2,
        };
        let (uuid, epoch) = (uuid(to), epoch(to));
        let other = Uuid([0xee; 16]);
        let identity = match link.identity {
            Named::Right | Named::AlsoRight if !parent.image() => None,
            Named::Right | Named::AlsoRight => Some(Identity { uuid, epoch }),
            Named::MergeEpoch => Some(Identity { uuid, epoch: merge_epoch(to) }),
            Named::OtherEpoch => Some(Identity { uuid, epoch: other }),
            Named::OtherUuid => Some(Identity { uuid: other, epoch }),
            Named::Nobody => None,
        };
        let wanted = match link.visible {
            Visible::All => self.size(to),
            Visible::Part(bytes) => self.size(to).min(bytes.into()),
            Visible::More => self.size(to) + 1,
        };
        let visible_length = wanted.min(self.size(number));
        Some((to, Parent { identity, format, visible_length, hint: self.hint(to) }))
    }

    fn merge_mark(&self, number: usize) -> Option<MergeMark> {
        let (child, own) = self.file(number).merge_mark.filter(|_| self.file(number).image())?;
        let child_epoch = if own { epoch(number) } else { merge_epoch(number) };
        Some(MergeMark { child_uuid: uuid(usize::from(child) % MOST_FILES), child_epoch })
    }

    // The files.

    fn make(&self, files: &mut Files, number: usize) {
        let (name, size, file) = (self.hint(number), self.size(number), self.file(number));
        let storage = files.create(&name);
        let data: Vec<u8> = (0..size).map(|at| own_byte(number, at)).collect();
        let write = |bytes: &[u8], offset| storage.write_at(bytes, offset).expect("memory is written");
        match file.sort {
            Sort::Raw => write(&data, 0),
            Sort::Qed => write(&qed_file(size), 0),
            Sort::Image | Sort::Overlay => {
                let header = self.header(number);
                if let Some(section) = header.allocation() {
                    let page = Page::new();
                    (0..16).filter(|block| self.holds(number, block * PAGE)).for_each(|block| {
                        page.set_range(block..block + 1).expect("a new page has no broken sector");
                    });
                    write(&page.encode(section.id, 0), section.offset);
                }
                let slot = header.encode().expect("the header keeps the rules");
                write(&slot, 0);
                write(&slot, SLOT_SIZE);
                if header.kind == Kind::Image {
                    write(&data, header.data_offset);
                    storage.set_size(header.data_end().max(SLOTS_END)).expect("memory has any size");
                } else {
                    storage.set_size(SLOTS_END + PAGE).expect("memory has any size");
                    let volume = files.create("0.volume");
                    volume.write_at(&data, 0).expect("memory is written");
                }
            }
        }
    }

    fn header(&self, number: usize) -> Header {
        let (size, sidecar) = (self.size(number), number == 0 && self.sidecar());
        let kind = if sidecar { Kind::Sidecar } else { Kind::Image };
        let parent = self.link(number).map(|(_, parent)| parent);
        let mut header = Header::new(kind, uuid(number), epoch(number), size, 0);
        let length = Section::needed_length(size, 12);
        if self.overlay(number) {
            let (id, kind) = (Uuid([0xc0 + number as u8; 16]), SectionKind::Allocation);
            let (offset, covered) = (SLOTS_END, size);
            header.sections =
                vec![Section { id, kind, granularity_shift: 12, required: true, offset, length, covered }];
        }
        if sidecar {
            header.host = Some(HostRecord { format: HostFormat::Raw, length: size, former: Uuid::NIL });
        } else {
            header.data_offset = SLOTS_END + PAGE;
        }
        let copy_mark = self.file(number).copy_mark.then_some(CopyMark { group: Uuid::NIL });
        Header { parent, merge_mark: self.merge_mark(number), copy_mark, ..header }
    }

    /// Whether it has bits.
    fn overlay(&self, number: usize) -> bool {
        self.file(number).link.is_some() || self.file(number).sort == Sort::Overlay
    }

    fn holds(&self, number: usize, at: u64) -> bool {
        !self.overlay(number) || self.file(number).present >> (at / PAGE) & 1 == 1
    }

    // What should come of them.

    /// The layers that the links lead along, and why the last of them may not be opened: there is no reason if the
    /// chain ends with it.
    fn walk(&self) -> (Vec<Layer>, Reasons) {
        let mut layers = vec![(0, self.file(0).format())];
        let mut reasons = self.alone(0, None, &layers);
        while reasons.is_empty() {
            let (child, seen_as) = *layers.last().expect("the first");
            let Some((to, link)) = self.link(child).filter(|_| seen_as == ParentFormat::Lvd) else { break };
            if layers.len() >= usize::from(self.depth % 8) {
                reasons.insert(Some("CHN-02"));
            }
            if link.format == ParentFormat::Qcow2 {
                reasons.insert(Some("REC-07"));
            }
            if layers.iter().any(|(number, _)| *number == to) {
                reasons.insert(Some("CHN-02"));
            }
            reasons.extend(self.alone(to, Some(&link), &layers));
            layers.push((to, link.format));
        }
        (layers, reasons)
    }

    /// Why a file may not become the next layer.
    fn alone(&self, number: usize, link: Option<&Parent>, above: &[Layer]) -> Reasons {
        let (file, mut reasons) = (self.file(number), Reasons::new());
        let index = link.map_or(0, |_| above.len());
        let write = index == 0 && self.write || self.write_also.is_some_and(|last| index <= usize::from(last % 8));
        let format = link.map_or_else(|| file.format(), |link| link.format);
        match (format, file.format()) {
            (ParentFormat::Qed, _) if write => drop(reasons.insert(None)),
            (ParentFormat::Raw, _)
            | (ParentFormat::Lvd, ParentFormat::Lvd)
            | (ParentFormat::Qed, ParentFormat::Qed) => {}
            (ParentFormat::Lvd, _) => drop(reasons.insert(Some("HDR-02"))),
            (ParentFormat::Qed, _) => drop(reasons.insert(Some("QED-01"))),
            _ => {}
        }
        let image = format == ParentFormat::Lvd && file.image();
        if image && !self.ignore_marks {
            if file.copy_mark {
                reasons.insert(Some("CHN-06"));
            }
            if self.merge_mark(number).is_some_and(|mark| !self.below_its_child(number, &mark, link, above)) {
                reasons.insert(Some("CHN-04"));
            }
        }
        let Some(link) = link else { return reasons };
        if image && number == 0 && self.sidecar() {
            // A sidecar is no parent.
            reasons.insert(None);
        }
        let right = match link.identity {
            None => !image,
            Some(identity) => {
                let mark = self.merge_mark(number).map(|mark| mark.child_epoch);
                let epochs = [Some(epoch(number)), mark];
                image && identity.uuid == uuid(number) && epochs.contains(&Some(identity.epoch))
            }
        };
        if !right && !self.trust_links {
            reasons.insert(Some("CHN-03"));
        }
        if link.visible_length > self.seen_size(number, format) {
            reasons.insert(Some("CHN-05"));
        }
        reasons
    }

    fn below_its_child(&self, number: usize, mark: &MergeMark, link: Option<&Parent>, above: &[Layer]) -> bool {
        let names = link.and_then(|link| link.identity).is_some_and(|identity| {
            identity.uuid == uuid(number) && [epoch(number), mark.child_epoch].contains(&identity.epoch)
        });
        // The UUID of an LVD layer: others have none.
        let lvd = |format: ParentFormat| format == ParentFormat::Lvd;
        names && above.iter().any(|(above, format)| lvd(*format) && uuid(*above) == mark.child_uuid)
    }

    /// Bytes of a file's disk, or of the file.
    fn seen_size(&self, number: usize, format: ParentFormat) -> u64 {
        match format {
            ParentFormat::Raw => self.raw_size(number),
            _ => self.size(number),
        }
    }

    fn raw_size(&self, number: usize) -> u64 {
        match self.file(number).sort {
            Sort::Raw => self.size(number),
            Sort::Qed => qed_file(self.size(number)).len() as u64,
            _ if number == 0 && self.sidecar() => SLOTS_END + PAGE,
            _ => self.header(number).data_end(),
        }
    }

    /// The disk that `layers` make, the first on top.
    fn view(&self, files: &Files, layers: &[Layer]) -> Vec<u8> {
        let Some(&(number, seen_as)) = layers.first() else { return Vec::new() };
        let size = self.size(number);
        match seen_as {
            ParentFormat::Raw => files.keep(&self.hint(number)).contents(),
            ParentFormat::Qed => {
                let file = qed_file(size);
                (0..size).map(|at| qed::naive(&file, &[], at).expect("a sound image")).collect()
            }
            _ => {
                let visible = self.link(number).map_or(0, |(_, link)| link.visible_length);
                let below = self.view(files, &layers[1..]);
                let shown = |at: u64| below.get(at as usize).filter(|_| at < visible).copied().unwrap_or(0);
                (0..size).map(|at| if self.holds(number, at) { own_byte(number, at) } else { shown(at) }).collect()
            }
        }
    }

    // What comes of them.

    fn open(&self, files: &Files, policy: &Noted<'_>) -> Result<Chain> {
        let options = ChainOptions {
            write: self.write,
            write_also: self.write_also.map(|last| usize::from(last % 8)),
            depth: usize::from(self.depth % 8),
            trust_links: self.trust_links,
            ignore_marks: self.ignore_marks,
            ..ChainOptions::default()
        };
        let write = self.write || self.write_also.is_some();
        let (top, host) = (files.open(&self.hint(0), write)?, Arc::new(SimHost::new(1)));
        match self.file(0).sort {
            Sort::Raw => Chain::open_raw(top, host, &options),
            Sort::Qed => Chain::open_qed(top, host, policy, &options),
            _ if self.sidecar() => Chain::open_sidecar(top, files.open("0.volume", write)?, host, policy, &options),
            _ => Chain::open(top, host, policy, &options),
        }
    }

    /// It reads as its layers do, extent for extent; and again when something was written to it and it was closed.
    fn read(&self, files: &Files, chain: &Chain, layers: &[Layer]) {
        assert_eq!(chain.size(), self.size(0));
        let mut expected = self.view(files, layers);
        agrees(chain, &expected);
        if chain.layers[0].writable() && !expected.is_empty() {
            let start = expected.len() / 3;
            let data = vec![0x99; expected.len().div_ceil(2) - start];
            chain.write_at(&data, start as u64).expect("written");
            expected[start..start + data.len()].fill(0x99);
            agrees(chain, &expected);
            chain.close().expect("closed");
            let again = self.open(files, &Noted(files, Mutex::default())).expect("what was closed opens");
            agrees(&again, &expected);
        }
    }
}

impl File {
    fn image(&self) -> bool {
        matches!(self.sort, Sort::Image | Sort::Overlay)
    }

    fn format(&self) -> ParentFormat {
        match self.sort {
            Sort::Image | Sort::Overlay => ParentFormat::Lvd,
            Sort::Raw => ParentFormat::Raw,
            Sort::Qed => ParentFormat::Qed,
        }
    }
}

/// The bytes, and extents that cover them once.
fn agrees(disk: &Chain, expected: &[u8]) {
    let mut bytes = vec![0xaa; expected.len()];
    disk.read_at(&mut bytes, 0).expect("memory is read");
    assert!(bytes == expected, "byte {:?} is wrong", bytes.iter().zip(expected).position(|(one, other)| one != other));
    let mut at = 0;
    while at < disk.size() {
        let extent = disk.extent(at, disk.size()).expect("memory is read");
        let range = extent.range.start as usize..extent.range.end as usize;
        assert!(extent.range.start == at && range.end > range.start && range.end <= expected.len(), "{range:?}");
        assert!(extent.depth < disk.layers.len(), "{extent:?}");
        let zeros = expected[range.clone()].iter().all(|byte| *byte == 0);
        assert!(extent.kind == ExtentKind::Data || zeros, "{range:?} are no zeros");
        at = extent.range.end;
    }
}

fn uuid(number: usize) -> Uuid {
    Uuid([0x10 + number as u8; 16])
}

fn epoch(number: usize) -> Uuid {
    Uuid([0x20 + number as u8; 16])
}

fn merge_epoch(number: usize) -> Uuid {
    Uuid([0x30 + number as u8; 16])
}

/// What a file holds of its own at an offset of its disk: never zero.
fn own_byte(number: usize, at: u64) -> u8 {
    (number as u8) << 5 | (at / 512 % 16) as u8 | 0x10
}

fn qed_file(size: u64) -> Vec<u8> {
    qed::build(size, 1, false, &[qed::Cluster::Data, qed::Cluster::Zeros, qed::Cluster::Absent])
}

//! Vectors of QED images below an overlay: what their tables show, and what refuses them.

use super::IMAGE;
use super::chn::refused;
use super::maker::{Maker, id, raw, tagged};
use super::sparse::Sparse;
use super::vector::{Case, Held, Role, Stretch, Vector, Verdict};
use crate::format::{Identity, ParentFormat};
use crate::limits::MAX_HINT;
use crate::violation::Violation as V;
use Verdict::{Damaged, Invalid, Refused, Unsupported};

pub(super) const QED: &str = "base.qed";
const RAW: &str = "base.raw";
/// Clusters of most images here.
pub(super) const CLUSTER: u64 = 4096;
/// Entries of their tables.
pub(super) const ENTRIES: u64 = 512;
/// Bytes of the disk that one of their L2 tables speaks of.
pub(super) const REACH: u64 = CLUSTER * ENTRIES;
const BACKING_FILE: u64 = 1;
pub(super) const NEED_CHECK: u64 = 2;
const BACKING_RAW: u64 = 4;
/// An entry of zeros.
pub(super) const ZEROS: u64 = 1;

pub(super) fn all() -> Vec<Vector> {
    [content(), geometry(), entries(), headers(), backing(), links()].concat()
}

/// A QED image in the making. Tables and clusters lie in the order in which they are needed.
#[derive(Debug, Clone)]
pub(super) struct Qed {
    cluster: u64,
    /// Bytes of a table.
    table: u64,
    pub(super) file: Sparse,
    /// What a guest reads.
    disk: Sparse,
}

impl Qed {
    /// An empty disk of `size` bytes.
    pub(super) fn new(size: u64) -> Qed {
        Qed::of(size, CLUSTER, 1, 1)
    }

    /// The same, in clusters of `cluster` bytes; tables and header are that many clusters.
    fn of(size: u64, cluster: u64, table: u64, header: u64) -> Qed {
        let (l1, table) = (header * cluster, table * cluster);
        let mut qed = Qed { cluster, table, file: Sparse::new(l1 + table), disk: Sparse::new(size) };
        qed.put(0, b"QED\0");
        for (at, field) in [(4, cluster), (8, table / cluster), (12, header)] {
            qed.put(at, &(field as u32).to_le_bytes());
        }
        qed.put(40, &l1.to_le_bytes());
        qed.put(48, &size.to_le_bytes());
        qed
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.file.write(at, bytes);
    }

    /// The same image with other bytes in one place.
    pub(super) fn with(mut self, at: u64, bytes: &[u8]) -> Qed {
        self.put(at, bytes);
        self
    }

    fn features(self, features: u64) -> Qed {
        self.with(16, &features.to_le_bytes())
    }

    /// Puts the image over a file of that name, said to be raw.
    pub(super) fn over(mut self, name: &[u8], backing: &Sparse) -> Qed {
        let visible = backing.len().min(self.disk.len());
        self.disk.copy(backing, 0..visible);
        let place = [64u32.to_le_bytes(), (name.len() as u32).to_le_bytes()].concat();
        self.features(BACKING_FILE | BACKING_RAW).with(56, &place).with(64, name)
    }

    /// Bytes at the end of the file, for a table or a cluster.
    fn place(&mut self, bytes: u64) -> u64 {
        let at = self.file.len();
        self.file.set_len(at + bytes);
        at
    }

    fn number(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.file.read(at, 8).try_into().unwrap_or_default())
    }

    /// Where the entry of a cluster of the disk lies, in an L2 table that is made if need be.
    fn entry(&mut self, cluster: u64) -> u64 {
        let entries = self.table / 8;
        let l1 = self.number(40) + cluster / entries * 8;
        if self.number(l1) == 0 {
            let table = self.place(self.table);
            self.put(l1, &table.to_le_bytes());
        }
        self.number(l1) + cluster % entries * 8
    }

    /// Writes the entry of a cluster of the disk.
    pub(super) fn enter(mut self, cluster: u64, entry: u64) -> Qed {
        let at = self.entry(cluster);
        self.with(at, &entry.to_le_bytes())
    }

    /// The image holds these clusters; their first bytes are tagged, those behind them zeros.
    fn data(mut self, clusters: impl IntoIterator<Item = u64>) -> Qed {
        for cluster in clusters {
            let entry = self.entry(cluster);
            let at = self.place(self.cluster);
            self.put(entry, &at.to_le_bytes());
            let disk = cluster * self.cluster..((cluster + 1) * self.cluster).min(self.disk.len());
            let bytes = tagged("qed ", disk.start..disk.end.min(disk.start + CLUSTER));
            self.put(at, &bytes);
            self.disk.zero(disk.clone());
            self.disk.write(disk.start, &bytes);
        }
        self
    }

    /// These clusters are zeros.
    fn zeros(mut self, clusters: impl IntoIterator<Item = u64>) -> Qed {
        for cluster in clusters {
            self = self.enter(cluster, ZEROS);
            self.disk.zero(cluster * self.cluster..((cluster + 1) * self.cluster).min(self.disk.len()));
        }
        self
    }
}

/// An overlay of the size of `qed`, with its second block its own.
fn overlay(qed: &Qed) -> Maker {
    sized(qed, qed.disk.len(), qed.disk.len()).data(4096..8192)
}

/// An overlay of `size` bytes that sees `visible` of `qed`.
pub(super) fn sized(qed: &Qed, size: u64, visible: u64) -> Maker {
    Maker::overlay("top ", size, 12).over_foreign(ParentFormat::Qed, &qed.disk, QED, visible)
}

/// An overlay over `qed` opens.
pub(super) fn shows(name: &str, purpose: &str, rules: &[&str], mut top: Maker, qed: Qed) -> Vector {
    super::opens(name, purpose, &[], &mut top).also(rules).file(QED, Role::Parent, qed.file)
}

/// An overlay over what `change` makes of a small image does not open.
fn broken(name: &str, purpose: &str, verdict: Verdict, rule: V, change: impl FnOnce(Qed) -> Qed) -> Vector {
    let qed = small();
    let mut top = overlay(&qed);
    refused(name, purpose, verdict, &[rule], &mut [(IMAGE, &mut top)]).file(QED, Role::Parent, change(qed).file)
}

/// Sixteen clusters, some of each kind.
fn small() -> Qed {
    Qed::new(16 * CLUSTER).data([0, 1, 3]).zeros([4, 5])
}

fn content() -> Vec<Vector> {
    let mixed = small();
    let uneven = Qed::new(15 * CLUSTER + 512).data([2, 15]);
    let scattered = Qed::new(2 * REACH + 16 * CLUSTER)
        .data([REACH / CLUSTER + 1, REACH / CLUSTER, 2 * REACH / CLUSTER - 1])
        .data((0..4).rev())
        .zeros([2 * REACH / CLUSTER - 2]);
    // The first entry of the only L2 table.
    let mut twice = small().enter(8, small().number(2 * CLUSTER));
    twice.disk.write(8 * CLUSTER, &tagged("qed ", 0..CLUSTER));
    let long = Qed::new(16 * CLUSTER).data(0..16);
    vec![
        shows(
            "qed-mixed",
            "Clusters of data, of zeros, and none.",
            &["QED-01", "QED-02", "QED-03", "QED-04", "QED-05", "QED-09", "CHN-09"],
            overlay(&mixed),
            mixed,
        ),
        shows("qed-uneven", "The disk ends within a cluster.", &["QED-04", "QED-09"], overlay(&uneven), uneven),
        shows(
            "qed-scattered",
            "Three L2 tables, the third missing; clusters of the file in another order than those of the disk.",
            &["QED-09"],
            overlay(&scattered),
            scattered,
        ),
        shows("qed-shared", "Two entries lead to one cluster.", &["QED-09"], overlay(&twice), twice),
        shows(
            "qed-empty",
            "A disk of no bytes below one of some.",
            &["QED-04"],
            sized(&Qed::new(0), 8192, 0).data(0..100),
            Qed::new(0),
        ),
        shows(
            "qed-visible",
            "Less of the image is seen than there is, up to within a cluster.",
            &["CHN-05", "ALC-05"],
            sized(&long, 20 * CLUSTER, 9 * CLUSTER + 100).data(0..100),
            long,
        ),
        shows(
            "qed-need_check",
            "The image needs a check: it is read as it is.",
            &["QED-02", "QED-11"],
            overlay(&small()),
            small().features(NEED_CHECK),
        ),
        shows(
            "qed-optional_features",
            "All compatible and self-clearing features are set, and without a backing file that it would be raw.",
            &["QED-02", "QED-06"],
            overlay(&small()),
            small().features(BACKING_RAW).with(24, &[0xff; 16]).with(56, &[0xff; 8]),
        ),
    ]
}

fn geometry() -> Vec<Vector> {
    let wide = Qed::of(64 << 20, 8192, 16, 3).data([0, 700]).zeros([1, 701]);
    let large = Qed::of(128 << 20, 64 << 20, 1, 1).data([1]);
    let longest = Qed::new(ENTRIES * REACH).data([0, ENTRIES * ENTRIES - 1]);
    let rule = &["QED-03", "QED-04", "QED-09"];
    vec![
        shows("qed-tables_of_16", "Tables of 16 clusters of 8 KiB, a header of three.", rule, overlay(&wide), wide),
        shows("qed-cluster_64m", "The largest clusters.", rule, overlay(&large), large),
        shows("qed-full_reach", "The largest disk that the tables reach.", rule, overlay(&longest), longest),
    ]
}

/// Entries that lead nowhere: what needs them cannot be read.
fn entries() -> Vec<Vector> {
    let end = small().file.len();
    let bad = [
        ("misaligned", 2 * CLUSTER + 512, "A cluster within a cluster."),
        ("past_end", end, "A cluster that begins where the file ends."),
        ("far", 1 << 49, "A cluster far past the end of the file."),
        ("overflow", u64::MAX - CLUSTER + 1, "A cluster whose end has no number."),
    ];
    let mut vectors: Vec<Vector> = bad
        .map(|(name, entry, purpose)| {
            let qed = small().enter(2, entry).enter(6, entry);
            unreadable(&format!("qed-entry-{name}"), purpose, qed, &[2..3, 6..7])
        })
        .to_vec();
    let headed = Qed::of(16 * CLUSTER, CLUSTER, 1, 2).data([0, 1]).enter(3, CLUSTER);
    vectors.push(unreadable("qed-entry-in_header", "A cluster in the header.", headed, &[3..4]));
    let mut cut = Qed::new(16 * CLUSTER).data(0..16).features(NEED_CHECK);
    cut.file.set_len(cut.file.len() - CLUSTER - 1);
    let purpose = "The image needs a check; its file ends within the last cluster but one.";
    vectors.push(unreadable("qed-entry-cut", purpose, cut, &[14..16]).also(&["QED-11"]));
    for (name, entry, purpose) in [
        ("zeros", ZEROS, "The entry of zeros in the L1 table, where it is none."),
        ("misaligned", 2 * CLUSTER + 8, "An L2 table within a cluster."),
        ("past_end", 1 << 40, "An L2 table past the end of the file."),
    ] {
        let clusters = ENTRIES..ENTRIES + 16;
        let qed = Qed::new(clusters.end * CLUSTER).data([0, 1]).with(CLUSTER + 8, &entry.to_le_bytes());
        vectors.push(unreadable(&format!("qed-table-{name}"), purpose, qed, &[clusters]));
    }
    vectors
}

/// An overlay over `qed` opens, but for these clusters, which are absent in it and cannot be read.
fn unreadable(name: &str, purpose: &str, mut qed: Qed, clusters: &[std::ops::Range<u64>]) -> Vector {
    clusters.iter().for_each(|part| qed.disk.zero(part.start * CLUSTER..part.end * CLUSTER));
    lost(shows(name, purpose, &[], overlay(&qed), qed), clusters)
}

/// The same of a vector that opens, where these clusters are zeros.
pub(super) fn lost(vector: Vector, clusters: &[std::ops::Range<u64>]) -> Vector {
    let bytes: Vec<_> = clusters.iter().map(|part| part.start * CLUSTER..part.end * CLUSTER).collect();
    let mut vector = vector.also(&["QED-05", "QED-10"]);
    let case = &mut vector.cases[0];
    (case.result, case.broken) = (Damaged, vec![V::QedPlace.id().into()]);
    let disk = case.disk.as_mut().expect("it opens");
    disk.sha256 = None;
    let stretch =
        |part: std::ops::Range<u64>, held| Stretch { offset: part.start, length: part.end - part.start, held };
    let extents = disk.extents.as_mut().expect("it says who holds what");
    let last = extents.pop().expect("the overlay ends with what lies below");
    let (mut at, end) = (last.offset, last.offset + last.length);
    for part in bytes {
        extents.push(stretch(at..part.start, Held::Below));
        at = part.end;
        extents.push(stretch(part, Held::Unreadable));
    }
    extents.push(stretch(at..end, Held::Below));
    extents.retain(|stretch| stretch.length > 0);
    vector
}

fn headers() -> Vec<Vector> {
    let word = |number: u64| (number as u32).to_le_bytes();
    let long = |number: u64| number.to_le_bytes();
    let mut vectors = vec![
        broken("qed-magic", "Another magic.", Invalid, V::QedMagic, |qed| qed.with(3, b"1")),
        broken("qed-raw_below", "The link says QED; the file is raw.", Invalid, V::QedMagic, |qed| Qed {
            file: raw("raw ", 65_536, &[0..4096]),
            ..qed
        })
        .also(&["CHN-08"]),
        broken("qed-feature", "A feature that nobody knows.", Unsupported, V::QedFeature, |qed| qed.features(8)),
        broken("qed-feature-high", "The last feature.", Unsupported, V::QedFeature, |qed| qed.features(1 << 63)),
    ];
    for (name, at, number, purpose) in [
        ("cluster_0", 4, 0, "Clusters of no bytes."),
        ("cluster_2k", 4, 2048, "A cluster is less than the least."),
        ("cluster_128m", 4, 128 << 20, "A cluster is more than the most."),
        ("cluster_12k", 4, 12_288, "A cluster is no power of two."),
        ("table_0", 8, 0, "Tables of no clusters."),
        ("table_3", 8, 3, "A table is no power of two."),
        ("table_32", 8, 32, "A table is more than the most."),
    ] {
        let change = |qed: Qed| qed.with(at, &word(number));
        let vector = broken(&format!("qed-{name}"), purpose, Invalid, V::QedGeometry, change);
        vectors.push(match name {
            // So large that the L1 table does not end within the file either, or so uneven that it lies in no place for one.
            "cluster_128m" | "table_32" | "cluster_12k" => vector.or(V::QedPlace),
            // Such tables reach nothing, and what begins where is hard to tell.
            "cluster_0" => vector.or(V::QedSize).or(V::QedPlace),
            "table_0" => vector.or(V::QedSize),
            _ => vector,
        });
    }
    for (name, size, purpose) in [
        ("uneven", 16 * CLUSTER + 1, "The disk is no multiple of 512 bytes."),
        ("past_reach", ENTRIES * REACH + 512, "The disk goes on past the reach of the tables."),
        ("largest", u64::MAX - 511, "The largest size that a number holds."),
    ] {
        let change = |qed: Qed| qed.with(48, &long(size));
        vectors.push(broken(&format!("qed-size-{name}"), purpose, Invalid, V::QedSize, change));
    }
    let (change, most) = (|qed: Qed| qed.with(4, &word(64 << 20)).with(48, &long((1 << 60) + 512)), 192 << 20);
    let long_file = |qed: Qed| {
        let mut qed = change(qed).with(40, &long(64 << 20));
        qed.file.set_len(most);
        qed
    };
    vectors.push(broken(
        "qed-size-past_2_60",
        "The tables reach it, but no disk is so large.",
        Invalid,
        V::QedSize,
        long_file,
    ));
    for (name, offset, purpose) in [
        ("in_header", 0, "The L1 table lies in the header."),
        ("misaligned", CLUSTER + 512, "The L1 table lies across clusters."),
        ("past_end", 1 << 40, "The L1 table lies past the end of the file."),
        ("overflow", u64::MAX - CLUSTER + 1, "The end of the L1 table has no number."),
    ] {
        let change = |qed: Qed| qed.with(40, &long(offset));
        vectors.push(broken(&format!("qed-l1-{name}"), purpose, Invalid, V::QedPlace, change));
    }
    vectors.push(broken(
        "qed-l1-on_header",
        "No header is counted; the L1 table lies on it.",
        Invalid,
        V::QedPlace,
        |qed| qed.with(12, &[0]).with(40, &long(0)),
    ));
    vectors.push(broken("qed-l1-cut", "The file ends within the L1 table.", Invalid, V::QedPlace, |mut qed| {
        qed.file.set_len(2 * CLUSTER - 1);
        qed
    }));
    vectors
}

/// Images with a backing file.
fn backing() -> Vec<Vector> {
    let below = raw("raw ", 6 * CLUSTER + 700, &[0..6 * CLUSTER + 700]);
    let qed = small().over(RAW.as_bytes(), &below);
    let drawn = Qed::new(16 * CLUSTER).over(RAW.as_bytes(), &below).data([0, 1, 3]).zeros([4, 5]);
    let with_backing = |vector: Vector| vector.file(RAW, Role::Parent, below.clone());
    let mut three = with_backing(shows(
        "qed-backing",
        "A raw backing file shows where there is no cluster, as far as it goes; zeros hide it.",
        &["QED-06", "QED-07", "QED-08", "QED-09"],
        overlay(&drawn),
        drawn.clone(),
    ));
    three.cases.push(Case { depth: Some(3), ..three.cases[0].clone() });
    three.cases.push(Case { depth: Some(2), ..Case::new(IMAGE, Refused, &[V::Cycle]) });
    let longer = raw("raw ", 20 * CLUSTER, &[0..20 * CLUSTER]);
    let over_longer = Qed::new(16 * CLUSTER).over(b"/etc/passwd", &longer).data([3]);
    let disguised = small().file;
    let over_disguised = Qed::new(16 * CLUSTER).over(RAW.as_bytes(), &disguised).data([3]);
    let longest = vec![b'n'; MAX_HINT];
    let named = Qed::of(16 * CLUSTER, CLUSTER, 1, 2).over(&longest, &below).data([3]);
    let unnamed = Qed::new(16 * CLUSTER).over(b"", &below).data([3]);
    let nobody = |mut vector: Vector| {
        vector.cases[0].broken = vec!["CHN-01".into()];
        vector.also(&["CHN-01", "QED-08"])
    };
    let name = |name: &'static [u8]| move |qed: Qed| qed.over(name, &Sparse::new(0));
    let mut itself = broken("qed-backing-itself", "An image that is its own backing file.", Refused, V::Cycle, |qed| {
        qed.over(QED.as_bytes(), &Sparse::new(0))
    });
    itself.cases[0].parents = vec![QED.into(), QED.into()];
    let mut unsaid = broken(
        "qed-backing-unsaid",
        "Nothing says in which format the backing file is.",
        Refused,
        V::QedBacking,
        |_| qed.clone().features(BACKING_FILE),
    );
    unsaid = with_backing(unsaid);
    vec![
        three,
        shows(
            "qed-backing-longer",
            "The backing file is longer than the disk; its name, which leads elsewhere, is text.",
            &["QED-08", "CHN-01"],
            overlay(&over_longer),
            over_longer,
        )
        .file(RAW, Role::Parent, longer),
        shows(
            "qed-backing-with_magic",
            "A raw backing file begins with QED's magic: it is raw, since the image says so.",
            &["QED-07", "CHN-08"],
            overlay(&over_disguised),
            over_disguised,
        )
        .file(RAW, Role::Parent, disguised),
        with_backing(shows("qed-name-empty", "A name of no bytes.", &["QED-06"], overlay(&unnamed), unnamed)),
        with_backing(shows("qed-name-4096", "The longest name.", &["QED-06"], overlay(&named), named)),
        unsaid,
        nobody(broken("qed-backing-not_given", "The caller gives no backing file.", Refused, V::Cycle, |_| qed)),
        itself,
        broken("qed-name-past_header", "The name goes on past the header.", Invalid, V::QedName, |qed| {
            qed.over(RAW.as_bytes(), &Sparse::new(0)).with(56, &4089u32.to_le_bytes())
        }),
        broken("qed-name-4097", "The name is a byte longer than the longest.", Invalid, V::QedName, |_| {
            let name = vec![b'n'; MAX_HINT + 1];
            Qed::of(16 * CLUSTER, CLUSTER, 1, 2).over(&name, &Sparse::new(0))
        }),
        broken("qed-name-nul", "The name holds a NUL.", Invalid, V::QedName, name(b"base\0raw")),
        broken("qed-name-not_utf8", "The name is no UTF-8.", Invalid, V::QedName, name(b"base\xff.raw")),
    ]
}

/// Links that do not suit the image.
fn links() -> Vec<Vector> {
    let qed = small();
    let mut past = sized(&qed, 17 * CLUSTER, 16 * CLUSTER);
    past.header.parent.as_mut().expect("it has a parent").visible_length += 1;
    let mut named = overlay(&qed);
    named.header.parent.as_mut().expect("it has a parent").identity =
        Some(Identity { uuid: id("qed"), epoch: id("qed, epoch 1") });
    let purpose = "The link names a UUID; a QED image has none.";
    let identity = refused("qed-link-identity", purpose, Refused, &[V::ParentMatches], &mut [(IMAGE, &mut named)]);
    let trusting = Case { trust_links: true, ..named.opens(IMAGE) };
    let purpose = "The visible length is a byte more than the image has.";
    vec![
        refused("qed-visible-past_image", purpose, Refused, &[V::VisibleLength], &mut [(IMAGE, &mut past)]).file(
            QED,
            Role::Parent,
            qed.file.clone(),
        ),
        identity.case(trusting).file(QED, Role::Parent, qed.file),
    ]
}

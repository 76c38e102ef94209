//! Vectors of chains: which files parents may be, how much of them is seen, how deep a chain may go.

use super::IMAGE;
use super::maker::{Maker, id, raw};
use super::sparse::Sparse;
use super::vector::{Case, Flag, Held, Role, Vector, Verdict};
use crate::format::{Identity, ParentFormat};
use crate::violation::Violation as V;
use Verdict::{Invalid, Refused, Unsupported};

pub(super) const BASE: &str = "base.lvd";
pub(super) const MIDDLE: &str = "middle.lvd";
const RAW: &str = "base.raw";

pub(super) fn all() -> Vec<Vector> {
    [layers(), lengths(), shape(), formats(), policy()].concat()
}

/// A complete image of eight pages, all of them data.
pub(super) fn base() -> Maker {
    Maker::complete("base", 32_768).data(0..32_768)
}

/// An overlay with one block of its own.
pub(super) fn over(base: &Maker) -> Maker {
    Maker::overlay("top ", 32_768, 12).over(base, BASE, 32_768).data(4096..8192).garbage(8192..12_288)
}

/// Files from the top down, and the case that all of it can be read.
pub(super) fn chain(name: &str, purpose: &str, rules: &[V], makers: &mut [(&str, &mut Maker)]) -> Vector {
    let mut vector = Vector::new(name, purpose, rules);
    for (number, (file, maker)) in makers.iter_mut().enumerate() {
        vector = vector.file(file, if number == 0 { Role::Image } else { Role::Parent }, maker.finish());
    }
    vector.case(makers[0].1.opens(makers[0].0))
}

/// The same, but it does not open.
pub(super) fn refused(
    name: &str,
    purpose: &str,
    verdict: Verdict,
    rules: &[V],
    makers: &mut [(&str, &mut Maker)],
) -> Vector {
    let mut vector = chain(name, purpose, rules, makers);
    vector.cases = vec![Case::new(makers[0].0, verdict, rules)];
    vector
}

fn layers() -> Vec<Vector> {
    let mut bottom = base();
    let mut coarse = Maker::overlay("midl", 32_768, 16).over(&bottom, BASE, 32_768);
    coarse.header.uuid = id("middle");
    let mut fine =
        Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..16_384).zeros(20_480..24_576);
    let mut top = Maker::overlay("top ", 32_768, 13).over(&fine, MIDDLE, 32_768).data(0..100).zeros(12_288..12_388);
    let mut top_of_coarse = Maker::overlay("top ", 32_768, 12).over(&coarse, MIDDLE, 32_768).data(0..4096);
    let raw_base = raw("raw ", 32_768, &[0..5000, 30_000..32_768]);
    let mut on_raw = Maker::overlay("top ", 32_768, 12).over_raw(&raw_base, RAW, 32_768).data(4096..8192);
    let mut twin = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(0..4096);
    twin.header.uuid = bottom.header.uuid;
    let mut on_twin = Maker::overlay("top ", 32_768, 12).over(&twin, MIDDLE, 32_768).data(8192..12_288);
    vec![
        chain(
            "chn-two",
            "An overlay with one block of its own over a complete image.",
            &[V::ParentMatches],
            &mut [(IMAGE, &mut over(&bottom)), (BASE, &mut bottom.clone())],
        )
        .also(&["ALC-03", "ALC-04"]),
        chain(
            "chn-three",
            "Three layers in blocks of 8, 4 KiB and none; zeros hide data.",
            &[V::ParentMatches],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut fine), (BASE, &mut bottom.clone())],
        ),
        chain(
            "chn-three-coarse_middle",
            "The middle holds nothing, in blocks larger than its disk.",
            &[V::Granularity],
            &mut [(IMAGE, &mut top_of_coarse), (MIDDLE, &mut coarse), (BASE, &mut bottom.clone())],
        ),
        chain(
            "chn-same_uuid",
            "Two layers have one UUID, as copies do: that is no cycle.",
            &[V::Cycle],
            &mut [(IMAGE, &mut on_twin), (MIDDLE, &mut twin), (BASE, &mut bottom)],
        ),
        chain("chn-raw", "An overlay over a raw file.", &[], &mut [(IMAGE, &mut on_raw)]).also(&["CHN-09"]).file(
            RAW,
            Role::Parent,
            raw_base,
        ),
    ]
}

fn lengths() -> Vec<Vector> {
    let sized = |name: &str, purpose: &str, child: u64, parent: u64, visible: u64| {
        let base = raw("raw ", parent, &[0..parent]);
        let mut top = Maker::overlay("top ", child, 12).over_raw(&base, RAW, visible).data(0..100);
        chain(name, purpose, &[V::VisibleLength], &mut [(IMAGE, &mut top)]).also(&["ALC-05"]).file(
            RAW,
            Role::Parent,
            base,
        )
    };
    let mut bottom = base();
    let mut narrow = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 10_000);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&narrow, MIDDLE, 20_000).data(4096..8192);
    let mut too_long = Maker::overlay("top ", 65_536, 12).over(&bottom, BASE, 32_768);
    too_long.header.parent.as_mut().expect("it has a parent").visible_length = 32_769;
    let mut over_cut_raw = Maker::overlay("top ", 32_768, 12).over_raw(&raw("raw ", 20_000, &[]), RAW, 20_000);
    vec![
        sized("chn-parent-shorter", "The parent ends within a block of the child.", 32_768, 10_000, 10_000),
        sized("chn-parent-longer", "The parent is longer than the child.", 10_000, 32_768, 10_000),
        sized("chn-parent-one_byte", "A parent of one byte.", 8192, 1, 1),
        sized("chn-visible-less", "Less of the parent is seen than there is, as after a shrink.", 32_768, 32_768, 6000),
        sized("chn-visible-0", "Nothing of the parent is seen.", 32_768, 32_768, 0),
        chain(
            "chn-visible-through_two",
            "What the middle hides the top does not see.",
            &[V::VisibleLength],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut narrow), (BASE, &mut bottom.clone())],
        )
        .also(&["ALC-05"]),
        refused(
            "chn-visible-past_parent",
            "The visible length is a byte more than the parent has.",
            Refused,
            &[V::VisibleLength],
            &mut [(IMAGE, &mut too_long), (BASE, &mut bottom)],
        ),
        refused(
            "chn-visible-past_raw",
            "The raw parent has lost its last byte.",
            Refused,
            &[V::VisibleLength],
            &mut [(IMAGE, &mut over_cut_raw)],
        )
        .file(RAW, Role::Parent, raw("raw ", 19_999, &[]))
        .also(&["CHN-09"]),
    ]
}

/// Cycles and depth.
fn shape() -> Vec<Vector> {
    let mut itself = Maker::overlay("self", 8192, 12);
    let identity = itself.clone();
    itself = itself.over(&identity, IMAGE, 8192);
    let mut first = Maker::overlay("frst", 8192, 12);
    let mut second = Maker::overlay("scnd", 8192, 12).over(&first, IMAGE, 8192);
    first = first.over(&second.clone(), MIDDLE, 8192);
    let mut bottom = base();
    let mut middle = Maker::overlay("midl", 32_768, 12).over(&bottom, BASE, 32_768).data(8192..12_288);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&middle, MIDDLE, 32_768);
    let deep = Case { depth: Some(2), ..Case::new(IMAGE, Refused, &[V::Cycle]) };
    let enough = Case { depth: Some(3), ..top.opens(IMAGE) };
    let returning = |mut vector: Vector, parents: &[&str]| {
        vector.cases[0].parents = parents.iter().map(|&name| name.into()).collect();
        vector
    };
    vec![
        returning(
            refused(
                "chn-cycle-self",
                "An image that is its own parent.",
                Refused,
                &[V::Cycle],
                &mut [(IMAGE, &mut itself)],
            ),
            &[IMAGE],
        ),
        returning(
            refused(
                "chn-cycle-two",
                "Two images that are each other's parents.",
                Refused,
                &[V::Cycle],
                &mut [(IMAGE, &mut first), (MIDDLE, &mut second)],
            ),
            &[MIDDLE, IMAGE],
        ),
        chain(
            "chn-depth",
            "Three layers where the caller allows three, and where it allows two.",
            &[V::Cycle],
            &mut [(IMAGE, &mut top), (MIDDLE, &mut middle), (BASE, &mut bottom)],
        )
        .case(enough)
        .case(deep),
        depth_65(),
    ]
}

/// A chain one deeper than an implementation allows whose caller says nothing.
fn depth_65() -> Vector {
    let mut below = Maker::complete("base", 4096).data(0..512);
    let purpose = "65 layers: without a word from the caller the lower 64 open, all 65 do not.";
    let mut vector = Vector::new("chn-depth-65", purpose, &[V::Cycle]).flag(Flag::Policy);
    let mut name = "layer-64.lvd".to_string();
    let mut parents = Vec::new();
    vector = vector.file(&name, Role::Parent, below.finish());
    for number in (0..64).rev() {
        let mut layer = Maker::overlay(&format!("l{number:03}"), 4096, 12).over(&below, &name, 4096);
        parents.insert(0, name);
        name = format!("layer-{number:02}.lvd");
        vector = vector.file(&name, if number == 0 { Role::Image } else { Role::Parent }, layer.finish());
        if number == 1 {
            vector = vector.case(Case { parents: parents.clone(), ..layer.opens(&name) });
        }
        below = layer;
    }
    let refused = Case { parents: parents.clone(), ..Case::new(&name, Refused, &[V::Cycle]) };
    let allowed = Case { parents, depth: Some(65), ..below.opens(&name) };
    vector.case(refused).case(allowed)
}

fn formats() -> Vec<Vector> {
    let foreign = |format: ParentFormat| {
        let mut top = Maker::overlay("top ", 8192, 12).over_raw(&Sparse::new(0), RAW, 0);
        top.header.parent.as_mut().expect("it has a parent").format = format;
        let purpose = format!("A parent in the format {format}, which is named and not described.");
        refused(&format!("chn-format-{format}"), &purpose, Unsupported, &[V::ParentFormat], &mut [(IMAGE, &mut top)])
            .file(RAW, Role::Parent, raw("raw ", 8192, &[0..512]))
    };
    let mut vectors = [ParentFormat::Qcow2, ParentFormat::Vmdk].map(foreign).to_vec();
    let below = raw("raw ", 8192, &[0..512]);
    let mut named = Maker::overlay("top ", 8192, 12).over_raw(&below, RAW, 8192);
    named.header.parent.as_mut().expect("it has a parent").identity =
        Some(Identity { uuid: id("raw"), epoch: id("raw, epoch 1") });
    let purpose = "The link names a UUID; a raw file has none.";
    vectors.push(
        refused("chn-raw-with_identity", purpose, Refused, &[V::ParentMatches], &mut [(IMAGE, &mut named)]).file(
            RAW,
            Role::Parent,
            below,
        ),
    );
    let disguised = base().finish();
    let mut on_disguised = Maker::overlay("top ", 131_072, 12).over_raw(&disguised, RAW, 131_072).data(4096..8192);
    vectors.push(
        chain(
            "chn-raw-with_magic",
            "A raw parent begins with the magic: it is raw, since the link says so.",
            &[],
            &mut [(IMAGE, &mut on_disguised)],
        )
        .also(&["CHN-08"])
        .file(RAW, Role::Parent, disguised),
    );
    let mut on_raw = over(&base());
    vectors.push(
        refused(
            "chn-lvd-without_header",
            "The link says that the parent is an image; it is a raw file.",
            Invalid,
            &[V::Magic],
            &mut [(IMAGE, &mut on_raw)],
        )
        .also(&["CHN-08"])
        .file(BASE, Role::Parent, raw("base", 200_000, &[0..512])),
    );
    let mut damaged = base().finish();
    for slot in [0, 65_536] {
        damaged.write(slot + 40, b"rot");
    }
    vectors.push(
        refused(
            "chn-parent-header_damaged",
            "Both header slots of the parent are torn.",
            Invalid,
            &[V::HeaderChecksum],
            &mut [(IMAGE, &mut on_raw)],
        )
        .file(BASE, Role::Parent, damaged),
    );
    vectors.push(bad_parent());
    vectors
}

/// Blocks of the child that lie in a parent whose bits cannot be read cannot be read either.
fn bad_parent() -> Vector {
    let mut parent = Maker::overlay("base", 32_768, 12).data(0..32_768);
    let mut top = Maker::overlay("top ", 32_768, 12).over(&parent, BASE, 16_384).data(4096..8192);
    parent.finish();
    parent.file.write(parent.sector_at(0) + 9, &[0x99]);
    let rule = V::SealedSector;
    let purpose = "The bits of the parent are bad: of the child, what the parent would show cannot be read.";
    let mut vector = chain("chn-parent-bits_damaged", purpose, &[rule], &mut [(IMAGE, &mut top)])
        .also(&["PAG-04"])
        .file(BASE, Role::Parent, parent.file);
    let case = &mut vector.cases[0];
    (case.result, case.broken) = (Verdict::Damaged, vec![rule.id().into()]);
    let disk = case.disk.as_mut().expect("it opens");
    disk.sha256 = None;
    let extents = [
        (0, 4096, Held::Unreadable),
        (4096, 4096, Held::Here),
        (8192, 8192, Held::Unreadable),
        (16_384, 16_384, Held::Below),
    ];
    disk.extents = Some(extents.map(|(offset, length, held)| super::vector::Stretch { offset, length, held }).into());
    disk.bytes.zero(0..4096);
    disk.bytes.zero(8192..16_384);
    vector
}

fn policy() -> Vec<Vector> {
    let bottom = base();
    let mut top = over(&bottom);
    let nobody = |mut vector: Vector| {
        vector.cases[0].broken = vec!["CHN-01".into()];
        vector.also(&["CHN-01"])
    };
    let mut below = base();
    below.header.ro_compat = 4;
    let mut writable = over(&below);
    let mut read_only = chain(
        "chn-parent-ro_compat",
        "A parent with a feature unknown to writers: nobody writes to a parent.",
        &[V::ReadOnlyFeature],
        &mut [(IMAGE, &mut writable), (BASE, &mut below)],
    );
    read_only.cases.push(Case { write: true, ..writable.opens(IMAGE) });
    vec![
        nobody(refused(
            "chn-parent-not_given",
            "The caller gives no file for the parent: the image does not open.",
            Refused,
            &[],
            &mut [(IMAGE, &mut top)],
        )),
        read_only,
        hinted("chn-hint-empty", "The link has no hint; the caller gives the parent all the same.", ""),
        hinted("chn-hint-4096", "The longest hint.", &"h".repeat(4096)),
        hinted("chn-hint-unicode", "A hint in several scripts.", "b\u{e4}se \u{2014} \u{57fa}\u{790e} \u{1f4be}.lvd"),
        hinted(
            "chn-hint-path",
            "A hint that leads elsewhere is text: the parent is the file that is given.",
            "/etc/passwd",
        ),
    ]
}

/// An overlay whose link has that hint.
fn hinted(name: &str, purpose: &str, hint: &str) -> Vector {
    let mut bottom = base();
    let mut top = over(&bottom);
    top.header.parent.as_mut().expect("it has a parent").hint = hint.into();
    chain(name, purpose, &[V::Hint, V::ParentFormat], &mut [(IMAGE, &mut top), (BASE, &mut bottom)]).also(&["CHN-01"])
}

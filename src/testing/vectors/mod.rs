//! Conformance vectors: small files and what every implementation must make of them.
//!
//! `testdata/` is what [`render`](text::render) makes of [`all`]; `testdata/README.md` explains it to whoever
//! writes another implementation. The files are made by hand ([`maker`], [`draft`]), so that they do not change
//! with this library, but for those that show what a writer leaves after a crash.
//!
//! | module | vectors |
//! |---|---|
//! | [`hdr`], [`slots`] | fields of the fixed header; which of the two slots counts |
//! | [`rec`], [`sec`] | records; the place and size of sections |
//! | [`pag`] | sealed sectors, whole and damaged |
//! | [`alc`] | what a reader reads; geometry and limits |
//! | [`sid`] | a sidecar and its volume |
//! | [`grp`] | the file of a group, and the disks in it |
//! | [`bmp`], [`int`], [`epo`] | dirty bitmaps; intents; bitmaps beside volumes and images |
//! | [`chn`], [`link`] | parents, visible lengths, depth; identities and marks |
//! | [`qed`] | parents in the format QED |
//! | [`crash`] | what a crash leaves |
//! | [`lost`] | what the crash simulator's power losses leave |
//! | [`wrt`], [`job`] | what a writer, and jobs, must leave behind |
//! | [`made`] | what this writer does |
//! | [`sweep`] | of the areas up to [`qed`]: one field after the other |

mod alc;
mod bmp;
mod chn;
mod crash;
mod dirty;
pub(super) mod draft;
mod epo;
mod grp;
mod hdr;
mod host;
mod int;
mod job;
mod link;
pub mod lost;
mod made;
mod maker;
mod pag;
mod qed;
mod rec;
pub mod run;
mod script;
mod sec;
mod sid;
mod slots;
pub mod sparse;
mod sweep;
pub mod text;
pub mod vector;
mod wrt;

pub use vector::Vector;

use crate::violation::Violation;
use draft::Draft;
use maker::Maker;
use vector::{Case, Role, Verdict};

/// The name of the file that a case opens.
const IMAGE: &str = "image.lvd";

/// Every vector, in the order of their names.
pub fn all() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = Vec::new();
    for area in [
        hdr::all,
        slots::all,
        rec::all,
        sec::all,
        pag::all,
        alc::all,
        sid::all,
        grp::all,
        bmp::all,
        int::all,
        epo::all,
        chn::all,
        link::all,
        qed::all,
        crash::all,
        wrt::all,
        job::all,
        made::all,
        sweep::all,
    ] {
        vectors.extend(area());
    }
    for vector in &mut vectors {
        vector.give_parents();
        vector.sum_up();
    }
    // These name the parents of each file.
    vectors.extend(lost::all());
    vectors.sort_by(|a, b| a.name.cmp(&b.name));
    vectors
}

/// A complete image of three pages, the second of zeros, that most vectors start from.
fn plain() -> Maker {
    Maker::complete("disk", 12_288).data(0..1536).data(10_752..12_288)
}

/// An overlay of eight blocks without a parent, of which two are present.
fn sparse_overlay() -> Maker {
    Maker::overlay("over", 32_768, 12).data(4096..8192).data(28_672..32_768).garbage(8192..8704)
}

/// A vector of one image that opens.
fn opens(name: &str, purpose: &str, rules: &[Violation], maker: &mut Maker) -> Vector {
    let file = maker.finish();
    Vector::new(name, purpose, rules).file(IMAGE, Role::Image, file).case(maker.opens(IMAGE))
}

/// A vector of one image, both of whose slots hold what `change` made of a right header.
fn broken(
    name: &str,
    purpose: &str,
    rule: Violation,
    verdict: Verdict,
    maker: Maker,
    change: impl FnOnce(&mut Draft),
) -> Vector {
    let mut draft = Draft::of(&maker.header);
    change(&mut draft);
    refused(name, purpose, rule, verdict, maker, &draft.slot())
}

/// A vector of one image, both of whose slots hold `slot`.
fn refused(name: &str, purpose: &str, rule: Violation, verdict: Verdict, mut maker: Maker, slot: &[u8]) -> Vector {
    maker.seal_bits();
    maker.slot(0, slot);
    maker.slot(1, slot);
    Vector::new(name, purpose, &[rule]).file(IMAGE, Role::Image, maker.file).case(Case::new(IMAGE, verdict, &[rule]))
}

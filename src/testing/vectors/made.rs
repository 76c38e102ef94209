//! Vectors that this library wrote: what its own writer leaves is what a reader must understand.
//!
//! They change when the order of its writes does; what is read from them does not.

use super::IMAGE;
use super::host::Seeded;
use super::maker::tagged;
use super::sparse::Sparse;
use super::vector::{Case, Disk, Flag, Held, Role, Stretch, Vector, Verdict};
use crate::chain::{Chain, ChainOptions, GivenParents, Layer};
use crate::conformance::facts;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::image::{CreateOptions, Image, OpenOptions};
use crate::jobs::{Job, Merge, Stream, drive};
use crate::storage::{Host, MemoryStorage, Storage};
use crate::sync::Arc;
use std::ops::Range;

const BASE: &str = "base.lvd";
const SIZE: u64 = 100_000;

pub(super) fn all() -> Vec<Vector> {
    let makers: [fn() -> Result<Vector>; 8] = [complete, overlay, unclosed, sidecar, streamed, merged, grown, shrunk];
    makers.iter().map(|make| make().expect("memory fails nowhere").flag(Flag::Written)).collect()
}

/// A file, the host that made it, and what a guest reads.
struct Made {
    storage: Arc<MemoryStorage>,
    host: Arc<Seeded>,
    disk: Sparse,
}

impl Made {
    fn new(name: &str, seed: &'static str, options: &CreateOptions, below: Option<&Made>) -> Result<Made> {
        let (storage, host) = (Arc::new(MemoryStorage::new(name)), Arc::new(Seeded::new(seed)));
        let mut disk = Sparse::new(options.virtual_size);
        let mut options = options.clone();
        if let Some(below) = below {
            let visible = below.disk.len().min(options.virtual_size);
            options.parent = Some(Layer::Lvd(Arc::new(below.image(false)?)).link(visible, BASE.into())?);
            disk.copy(&below.disk, 0..visible);
        }
        Image::create(&*storage, &*host, &options)?;
        Ok(Made { storage, host, disk })
    }

    fn image(&self, write: bool) -> Result<Image> {
        Image::open(self.storage.clone(), self.host.clone(), &OpenOptions { write, ..OpenOptions::default() })
    }

    fn chain(&self, below: &[&Made], write_also: usize) -> Result<Chain> {
        let parents = below.iter().map(|made| made.storage.clone() as Arc<dyn Storage>);
        let options = ChainOptions { write: true, write_also: Some(write_also), ..ChainOptions::default() };
        Chain::open(self.storage.clone(), self.host.clone(), &GivenParents::new(parents), &options)
    }

    fn write(&mut self, device: &dyn BlockDevice, tag: &str, range: Range<u64>) -> Result<()> {
        let bytes = tagged(tag, range.clone());
        self.disk.write(range.start, &bytes);
        device.write_at(&bytes, range.start)
    }

    fn zero(&mut self, device: &dyn BlockDevice, range: Range<u64>) -> Result<()> {
        self.disk.zero(range.clone());
        device.write_zeroes(range, true)
    }

    /// The case that all of it can be read, its present stretches being `held`.
    fn opens(&self, name: &str, held: &[Range<u64>]) -> Result<Case> {
        self.case(name, &*Image::read_header(&*self.storage).map(Box::new)?, held)
    }

    fn case(&self, name: &str, header: &crate::format::Header, held: &[Range<u64>]) -> Result<Case> {
        let size = header.virtual_size;
        let mut extents: Vec<Stretch> = Vec::new();
        let mut add = |range: Range<u64>, held| {
            if !range.is_empty() {
                extents.push(Stretch { offset: range.start, length: range.end - range.start, held });
            }
        };
        let mut at = 0;
        for range in held {
            add(at..range.start, Held::Below);
            add(range.clone(), Held::Here);
            at = range.end;
        }
        add(at..size, Held::Below);
        let disk = Disk {
            size,
            sha256: Some(self.disk.sha256()),
            dump: None,
            extents: Some(extents),
            bytes: self.disk.clone(),
        };
        Ok(Case { header: Some(facts(header)), disk: Some(disk), ..Case::new(name, Verdict::Valid, &[]) })
    }
}

/// What a storage holds.
pub(super) fn content(storage: &dyn Storage) -> Result<Sparse> {
    let size = storage.size()?;
    let (mut bytes, mut at) = (Sparse::new(size), 0);
    while at < size {
        let Some(range) = storage.next_data(at..size)? else { break };
        let mut piece = vec![0; (range.end - range.start) as usize];
        storage.read_at(&mut piece, range.start)?;
        bytes.write(range.start, &piece);
        at = range.end;
    }
    Ok(bytes)
}

fn sized(virtual_size: u64) -> CreateOptions {
    CreateOptions { virtual_size, ..CreateOptions::default() }
}

/// A complete image with data in its first and last pages.
fn base(seed: &'static str) -> Result<Made> {
    let mut made = Made::new(BASE, seed, &sized(SIZE), None)?;
    let image = made.image(true)?;
    made.write(&image, "base", 0..10_000)?;
    made.write(&image, "base", 65_536..SIZE)?;
    image.close()?;
    Ok(made)
}

/// An overlay over it with writes and zeros, its last session closed or not.
fn over(base: &Made, close: bool) -> Result<Made> {
    let mut made = Made::new(IMAGE, "over", &sized(SIZE), Some(base))?;
    let chain = made.chain(&[base], 0)?;
    let top = chain.top();
    made.write(&*top, "over", 5000..5100)?;
    made.write(&*top, "over", 20_480..24_576)?;
    made.zero(&*top, 65_536..69_632)?;
    top.flush()?;
    if close {
        chain.close()?;
    }
    Ok(made)
}

/// The stretches that [`over`] makes present.
const OVER: [Range<u64>; 3] = [4096..8192, 20_480..24_576, 65_536..69_632];

fn complete() -> Result<Vector> {
    let made = base("complete")?;
    Ok(Vector::new("made-complete", "Created, written, closed.", &[])
        .also(&["ORD-10", "ORD-51"])
        .file(IMAGE, Role::Image, content(&*made.storage)?)
        .case(made.opens(IMAGE, std::slice::from_ref(&(0..SIZE)))?))
}

fn pair(name: &str, purpose: &str, rules: &[&str], top: &Made, base: &Made, held: &[Range<u64>]) -> Result<Vector> {
    Ok(Vector::new(name, purpose, &[])
        .also(rules)
        .file(IMAGE, Role::Image, content(&*top.storage)?)
        .file(BASE, Role::Parent, content(&*base.storage)?)
        .case(top.opens(IMAGE, held)?))
}

fn overlay() -> Result<Vector> {
    let base = base("overlay")?;
    let purpose = "An overlay, written, zeroed, flushed, closed.";
    pair("made-overlay", purpose, &["ORD-40", "ORD-41", "ORD-51"], &over(&base, true)?, &base, &OVER)
}

fn unclosed() -> Result<Vector> {
    let base = base("unclosed")?;
    let purpose = "An overlay, written, zeroed, flushed; then the process ended.";
    pair("made-overlay_unclosed", purpose, &["ORD-41", "ORD-50"], &over(&base, false)?, &base, &OVER)
}

fn streamed() -> Result<Vector> {
    let base = base("streamed")?;
    let made = over(&base, true)?;
    let chain = made.chain(&[&base], 0)?;
    drive(&Job::new(Stream::new(&chain, None)?, made.host.clone()), |_| {})?;
    chain.close()?;
    Ok(Vector::new("made-streamed", "The overlay after a stream: complete, and in need of nobody.", &[])
        .also(&["ORD-70", "ORD-71"])
        .file(IMAGE, Role::Image, content(&*made.storage)?)
        .case(made.opens(IMAGE, std::slice::from_ref(&(0..SIZE)))?))
}

fn merged() -> Result<Vector> {
    let mut base = base("merged")?;
    let made = over(&base, true)?;
    let chain = made.chain(&[&base], 1)?;
    drive(&Job::new(Merge::new(&chain, 0, 1, false)?, made.host.clone()), |_| {})?;
    chain.close()?;
    base.disk = made.disk.clone();
    let purpose = "The overlay after a merge into its base: both read the same, with the top and without it.";
    let vector = pair("made-merged", purpose, &["ORD-81", "ORD-82", "CHN-03"], &made, &base, &OVER)?;
    Ok(vector.case(base.opens(BASE, std::slice::from_ref(&(0..SIZE)))?))
}

fn sidecar() -> Result<Vector> {
    let base = base("below a sidecar")?;
    let host: Arc<dyn Host> = Arc::new(Seeded::new("sidecar"));
    let sidecar = Arc::new(MemoryStorage::new("sidecar.lvb"));
    let volume = Arc::new(MemoryStorage::new("volume.raw"));
    volume.set_size(SIZE)?;
    let parent = Some(Layer::Lvd(Arc::new(base.image(false)?)).link(SIZE, BASE.into())?);
    Image::create_sidecar(&*sidecar, &*volume, &*host, &CreateOptions { parent, ..sized(SIZE) })?;
    let policy = GivenParents::new([base.storage.clone() as Arc<dyn Storage>]);
    let options = ChainOptions { write: true, ..ChainOptions::default() };
    let chain = Chain::open_sidecar(sidecar.clone(), volume.clone(), host, &policy, &options)?;
    chain.image(0)?.fill(0..12_288)?;
    chain.top().flush()?;
    let case = base.case("sidecar.lvb", &Image::read_header(&*sidecar)?, std::slice::from_ref(&(0..12_288)))?;
    Ok(Vector::new("made-sidecar", "A volume that is being filled from an image; the process ended.", &[])
        .also(&["ORD-45", "ORD-50"])
        .file("sidecar.lvb", Role::Sidecar, content(&*sidecar)?)
        .file("volume.raw", Role::Volume, content(&*volume)?)
        .file(BASE, Role::Parent, content(&*base.storage)?)
        .case(Case { volume: Some("volume.raw".into()), ..case }))
}

/// Growing an overlay beyond what one page of bits covers moves its section.
fn grown() -> Result<Vector> {
    let mut made = Made::new(IMAGE, "grown", &CreateOptions { allocation: true, ..sized(SIZE) }, None)?;
    let image = made.image(true)?;
    made.write(&image, "grow", 4096..8192)?;
    let size = 31_744 * 4096 + 5000;
    made.disk.set_len(size);
    image.resize(size)?;
    made.write(&image, "grow", size - 904..size)?;
    image.close()?;
    let held = [4096..8192, size - 904..size];
    let mut case = made.opens(IMAGE, &held)?;
    // Half a minute of hashing helps nobody.
    case.disk.as_mut().expect("it opens").sha256 = None;
    Ok(Vector::new("made-grown", "An overlay that grew until its bits needed a second page.", &[])
        .also(&["ORD-60", "ORD-61", "ORD-62"])
        .file(IMAGE, Role::Image, content(&*made.storage)?)
        .case(case))
}

fn shrunk() -> Result<Vector> {
    let base = base("shrunk")?;
    let mut made = over(&base, true)?;
    let chain = made.chain(&[&base], 0)?;
    chain.image(0)?.resize(22_000)?;
    chain.close()?;
    made.disk.set_len(22_000);
    let purpose = "An overlay that shrank into one of its blocks.";
    pair("made-shrunk", purpose, &["ORD-63", "ALC-06"], &made, &base, &[4096..8192, 20_480..22_000])
}

//! Creating: a file becomes an image at the moment its first header is durable.

use super::Image;
use crate::error::{Error, Result};
use crate::format::{CopyMark, Header, HostFormat, HostRecord, Kind, Parent, Section, SectionKind, Uuid};
use crate::limits::{MAX_SIZE, PAGE_SIZE, SLOT_SIZE, SLOTS_END};
use crate::storage::{Host, Storage};
use crate::switch::{Step, skipped};

/// New data areas start on a multiple of this many bytes, as hosts like it.
const DATA_ALIGNMENT: u64 = 64 << 10;

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes of a block as a power of two, where there is an allocation bitmap.
    pub granularity_shift: u8,
    /// What lies below. With a parent there is always an allocation bitmap.
    pub parent: Option<Parent>,
    /// An allocation bitmap even without a parent: what is not written reads as zeros, whatever the host holds.
    pub allocation: bool,
    /// Begin as "not a copy yet" (CHN-06).
    pub copy_mark: bool,
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions { virtual_size: 0, granularity_shift: 12, parent: None, allocation: false, copy_mark: false }
    }
}

impl Image {
    /// Makes `file` an image, durably. What the file held before is lost.
    ///
    /// # Errors
    /// `Invalid` for sizes and granules outside the limits, `NoSpace`, `Io`.
    pub fn create(file: &dyn Storage, host: &dyn Host, options: &CreateOptions) -> Result<()> {
        // A complete image claims the bytes that lie in its data area: on a host where those are not zeros a bitmap masks them.
        let allocation = options.allocation || options.parent.is_some() || !file.zeros_when_new();
        let mut header = new_header(Kind::Image, host, options);
        let mut end = SLOTS_END;
        if allocation {
            end = add_allocation(&mut header, host, options, end)?;
        }
        header.data_offset = end.next_multiple_of(DATA_ALIGNMENT);
        let length = header.data_offset.saturating_add(options.virtual_size);
        write_new(file, &header, end, length)
    }

    /// Makes `sidecar` the allocation sidecar of the raw `volume`, none of whose blocks counts as written yet.
    ///
    /// # Errors
    /// As [`Image::create`].
    pub fn create_sidecar(
        sidecar: &dyn Storage,
        volume: &dyn Storage,
        host: &dyn Host,
        options: &CreateOptions,
    ) -> Result<()> {
        let mut header = new_header(Kind::Sidecar, host, options);
        if volume.size()? < options.virtual_size {
            return Err(Error::Invalid(format!("{}: shorter than the disk it is to hold", volume.name())));
        }
        header.host = Some(HostRecord { format: HostFormat::Raw, length: options.virtual_size, former: Uuid::NIL });
        let end = add_allocation(&mut header, host, options, SLOTS_END)?;
        write_new(sidecar, &header, end, end)
    }

    /// Makes `sidecar` the sidecar of the raw `volume`, which stays the whole disk: for bitmaps.
    ///
    /// # Errors
    /// As [`Image::create`].
    pub fn create_beside(sidecar: &dyn Storage, volume: &dyn Storage, host: &dyn Host) -> Result<()> {
        let size = volume.size()?;
        let mut header =
            new_header(Kind::Sidecar, host, &CreateOptions { virtual_size: size, ..CreateOptions::default() });
        let former = Uuid(volume.fingerprint()?);
        header.host = Some(HostRecord { format: HostFormat::Raw, length: size, former });
        write_new(sidecar, &header, SLOTS_END, SLOTS_END)
    }

    /// Makes `sidecar` a sidecar of `image`: bitmaps are added to it once it is attached.
    ///
    /// # Errors
    /// As [`Image::create`].
    pub fn create_beside_image(sidecar: &dyn Storage, image: &Image) -> Result<()> {
        let of = image.header();
        let mut header = Header::new(Kind::Sidecar, of.uuid, of.epoch, of.virtual_size, 0);
        header.host = Some(HostRecord { format: HostFormat::Lvd, length: of.virtual_size, former: Uuid::NIL });
        write_new(sidecar, &header, SLOTS_END, SLOTS_END)
    }
}

fn new_header(kind: Kind, host: &dyn Host, options: &CreateOptions) -> Header {
    Header {
        parent: options.parent.clone(),
        copy_mark: options.copy_mark.then_some(CopyMark { group: Uuid::NIL }),
        ..Header::new(kind, Uuid(host.random()), Uuid(host.random()), options.virtual_size, 0)
    }
}

/// Adds an empty allocation section at `offset`, and says where it ends.
fn add_allocation(header: &mut Header, host: &dyn Host, options: &CreateOptions, offset: u64) -> Result<u64> {
    let (size, shift) = (options.virtual_size, options.granularity_shift);
    if size > MAX_SIZE || !crate::limits::GRANULARITY_SHIFTS.contains(&shift) {
        return Err(Error::Invalid(format!("no image has {size} bytes in granules of 2^{shift}")));
    }
    let length = Section::needed_length(size, shift);
    header.sections.push(Section {
        id: Uuid(host.random()),
        kind: SectionKind::Allocation,
        granularity_shift: shift,
        required: true,
        offset,
        length,
        covered: size,
    });
    Ok(offset + length)
}

/// Space first, then the header that names it, then the name of the file.
pub(super) fn write_new(file: &dyn Storage, header: &Header, metadata_end: u64, length: u64) -> Result<()> {
    let bytes =
        header.encode().map_err(|violation| Error::Invalid(format!("{}: no such image: {violation}", file.name())))?;
    let old = file.size()?;
    if !file.zeros_when_new() && old < length {
        return Err(Error::NoSpace { file: file.name().into() });
    }
    if old > 0 {
        // An older image goes before what its headers name: half of it is no image that anybody had.
        file.punch(0..SLOTS_END)?;
        file.sync()?;
    }
    if file.zeros_when_new() {
        // What an older file held would else be the new disk's content.
        file.set_size(0)?;
        file.set_size(length)?;
    }
    if !skipped(Step::ZeroedSpace) {
        // Slots of an older image, and what an older file or a block device holds where the bits will be.
        file.punch(0..metadata_end.next_multiple_of(PAGE_SIZE))?;
        file.sync()?;
    }
    file.write_at(&bytes, 0)?;
    file.write_at(&bytes, SLOT_SIZE)?;
    file.sync()?;
    if skipped(Step::DirectoryEntry) { Ok(()) } else { file.sync_directory() }
}

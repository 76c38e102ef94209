//! Opening: the header decides, and nothing is written.

use super::dirty::Bitmaps;
use super::group::{Group, check_place};
use super::order::Order;
use super::{Image, Layout};
use crate::error::{Error, Result};
use crate::format::{Chosen, Header, HostFormat, Kind, State, Uuid, choose, header_length};
use crate::limits::{PAGE_SIZE, SLOT_SIZE};
use crate::range_lock::RangeLocks;
use crate::storage::{Host, Storage};
use crate::switch::require;
use crate::sync::{Arc, RwLock, write};
use crate::violation::Violation;

/// How to open an image.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// For writing too.
    pub write: bool,
    /// Memory for allocation pages, in bytes.
    pub cache_bytes: u64,
    /// Open even what is being merged into, is not yet a copy or may have moved (CHN-04, CHN-06, GRP-06): for jobs and for
    /// looking.
    pub ignore_marks: bool,
    /// The group by whose decision marked files are opened (CHN-06, GRP-06).
    pub group: Option<Arc<Group>>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { write: false, cache_bytes: 16 << 20, ignore_marks: false, group: None }
    }
}

impl Image {
    /// Reads the header of `file` without opening an image on it. Writes nothing.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn read_header(file: &dyn Storage) -> Result<Header> {
        let header = read_slots(file)?.header;
        header.check_size(file.size()?).map_err(|flaw| flaw.into_error(file.name(), None))?;
        Ok(header)
    }

    /// Opens the image in `file`. Locks are the caller's; nothing is written before the first change.
    ///
    /// # Errors
    /// `Corrupt` with the broken rule, `Unsupported` for a newer file, `Denied` for a marked file or a
    /// sidecar, `Io`.
    pub fn open(file: Arc<dyn Storage>, host: Arc<dyn Host>, options: &OpenOptions) -> Result<Image> {
        let chosen = read_slots(&*file)?;
        let other = match chosen.header.kind {
            Kind::Image => None,
            Kind::Sidecar => Some("a sidecar; it opens together with the volume it serves"),
            Kind::Group => Some("the file of a group; the disks of the group are opened by it"),
        };
        if let Some(other) = other {
            return Err(Error::Denied(format!("{}: {other}", file.name())));
        }
        Image::assemble(file.clone(), file, host, chosen, false, options)
    }

    /// Opens the raw `volume` through the allocation section in `sidecar`: copy-on-read into a volume. Without one
    /// the whole disk lies in the volume.
    ///
    /// # Errors
    /// As [`Image::open`]; `Corrupt` with a SID rule when sidecar and volume do not fit.
    pub fn open_sidecar(
        sidecar: Arc<dyn Storage>,
        volume: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        options: &OpenOptions,
    ) -> Result<Image> {
        let chosen = read_slots(&*sidecar)?;
        let named = match (&chosen.header.kind, &chosen.header.host) {
            (Kind::Sidecar, Some(named)) if named.format == HostFormat::Raw => named.length,
            _ => return Err(Error::Denied(format!("{}: not the sidecar of a volume", sidecar.name()))),
        };
        let fits = volume.size()? >= named;
        require(fits, Violation::HostLength, |rule| Error::corrupt(sidecar.name(), None, rule))?;
        let header = &chosen.header;
        let former = header.host.map_or(Uuid::NIL, |host| host.former);
        let distrust = header.state == State::Closed && !former.is_nil() && former.0 != volume.fingerprint()?;
        Image::assemble(sidecar, volume, host, chosen, distrust, options)
    }

    /// Opens the sidecar that holds bitmaps of `image`, for [`attach`](Image::attach).
    ///
    /// # Errors
    /// As [`Image::open`]; `Refused` if it is not this image's (EPO-04). If it is, and does not fit the image's content,
    /// its bitmaps are stale.
    pub fn open_beside(
        sidecar: Arc<dyn Storage>,
        image: &Image,
        host: Arc<dyn Host>,
        options: &OpenOptions,
    ) -> Result<Image> {
        let chosen = read_slots(&*sidecar)?;
        let (header, of) = (&chosen.header, image.header());
        let fits = of.kind == Kind::Image;
        let Some(named) = header.host.filter(|host| fits && host.format == HostFormat::Lvd) else {
            return Err(Error::Denied(format!("{}: not the sidecar of an image", sidecar.name())));
        };
        require(header.uuid == of.uuid, Violation::SidecarOfImage, |rule| {
            Error::refused(sidecar.name(), format!("it is the sidecar of another image than {}", image.name()), rule)
        })?;
        let distrust = ![header.epoch, named.former].contains(&of.epoch);
        Image::assemble(sidecar.clone(), sidecar, host, chosen, distrust, options)
    }

    /// Has the bitmaps of `sidecar`, opened for this image, follow it from now on.
    ///
    /// # Errors
    /// `Invalid` if the two do not belong together, or a bitmap has the name of another.
    pub fn attach(&self, sidecar: Arc<Image>) -> Result<()> {
        let names: Vec<String> = self.bitmaps().into_iter().map(|info| info.name).collect();
        if let Some(twice) = sidecar.bitmaps().iter().find(|info| names.contains(&info.name)) {
            return Err(Error::Invalid(format!("{}: there is a bitmap {:?} already", sidecar.name(), twice.name)));
        }
        if sidecar.uuid() != self.uuid() || self.writable && !sidecar.writable() {
            return Err(Error::Invalid(format!("{}: not opened as a sidecar of {}", sidecar.name(), self.name())));
        }
        self.order.add_beside(sidecar.clone());
        write(&self.layout).beside.push(sidecar);
        Ok(())
    }

    fn assemble(
        file: Arc<dyn Storage>,
        data: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        chosen: Chosen,
        distrust: bool,
        options: &OpenOptions,
    ) -> Result<Image> {
        let header = &chosen.header;
        check_marks(file.name(), header, options)?;
        header.check_size(file.size()?).map_err(|flaw| flaw.into_error(file.name(), None))?;
        if options.write {
            header.writable().map_err(|flaw| flaw.into_error(file.name(), None))?;
            if file.read_only() || data.read_only() {
                return Err(Error::Denied(format!("{}: the file is read-only", file.name())));
            }
        }
        Ok(Image {
            layout: RwLock::new(Layout::new(header, &file, options.cache_bytes, Bitmaps::new(header, &file, distrust))),
            ranges: RangeLocks::default(),
            order: Order::new(file.clone(), data.clone(), host, chosen, distrust, options.group.clone()),
            writable: options.write,
            cache_bytes: options.cache_bytes,
            file,
            data,
        })
    }
}

/// Reads both slots and chooses (HDR-06). A file shorter than a slot has nothing there.
pub(super) fn read_slots(file: &dyn Storage) -> Result<Chosen> {
    let (first, second) = (read_slot(file, 0)?, read_slot(file, SLOT_SIZE)?);
    choose(&first, &second).map_err(|flaw| flaw.into_error(file.name(), None))
}

/// The pages of a slot that its header takes. Nearly always that is one.
fn read_slot(file: &dyn Storage, at: u64) -> Result<Vec<u8>> {
    let mut slot = vec![0; PAGE_SIZE as usize];
    file.read_at(&mut slot, at)?;
    let length = header_length(&slot).next_multiple_of(PAGE_SIZE as usize);
    if length > slot.len() {
        slot.resize(length, 0);
        file.read_at(&mut slot[PAGE_SIZE as usize..], at + PAGE_SIZE)?;
    }
    Ok(slot)
}

/// The marks of a file that is opened on its own; a chain judges its parents itself.
fn check_marks(name: &str, header: &Header, options: &OpenOptions) -> Result<()> {
    if options.ignore_marks {
        return Ok(());
    }
    let merging = "a merge into it was not finished";
    require(header.merge_mark.is_none(), Violation::Marked, |rule| Error::refused(name, merging, rule))?;
    check_place(name, header, options.write, options.group.as_deref())
}

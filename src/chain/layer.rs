//! One layer of a chain, whatever its format.

use crate::chain::RawDevice;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::foreign::Foreign;
use crate::format::{Identity, Kind, Parent, ParentFormat, State};
use crate::image::Image;
use crate::storage::{LockMode, Storage};
use crate::switch::{Step, skipped};
use crate::sync::Arc;
use crate::violation::Violation;

/// One layer. Clones share the same open file.
#[derive(Debug, Clone)]
pub enum Layer {
    /// An LVD image, or a raw volume with an allocation sidecar.
    Lvd(Arc<Image>),
    /// A raw file or block device, which nothing identifies.
    Raw(Arc<RawDevice>),
    /// An image in a format of others, which is only read and which nothing identifies.
    Foreign(Arc<dyn Foreign>),
}

impl Layer {
    /// The disk that this layer shows.
    pub fn device(&self) -> Arc<dyn BlockDevice> {
        match self {
            Layer::Lvd(image) => image.clone(),
            Layer::Raw(raw) => raw.clone(),
            Layer::Foreign(image) => image.clone(),
        }
    }

    /// The same, borrowed.
    pub fn as_device(&self) -> &dyn BlockDevice {
        match self {
            Layer::Lvd(image) => &**image,
            Layer::Raw(raw) => &**raw,
            Layer::Foreign(image) => &**image,
        }
    }

    /// The LVD image, if it is one.
    pub fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Layer::Lvd(image) => Some(image),
            Layer::Raw(_) | Layer::Foreign(_) => None,
        }
    }

    /// Bytes of the disk that this layer shows.
    pub fn size(&self) -> u64 {
        match self {
            Layer::Lvd(image) => image.size(),
            Layer::Raw(raw) => raw.size(),
            Layer::Foreign(image) => image.size(),
        }
    }

    /// How errors name it.
    pub fn name(&self) -> &str {
        match self {
            Layer::Lvd(image) => image.name(),
            Layer::Raw(raw) => raw.storage().name(),
            Layer::Foreign(image) => image.storage().name(),
        }
    }

    /// Whether changes are allowed.
    pub fn writable(&self) -> bool {
        match self {
            Layer::Lvd(image) => image.writable(),
            Layer::Raw(raw) => raw.writable(),
            Layer::Foreign(_) => false,
        }
    }

    /// Whether a link to it can name its content: LVD images carry an identity, other layers stay unverified.
    pub fn verified(&self) -> bool {
        matches!(self, Layer::Lvd(_))
    }

    /// Bytes of the disk at which pieces of work on this layer should start and end.
    pub fn granule(&self) -> u64 {
        match self {
            Layer::Lvd(image) => image.granule(),
            Layer::Raw(_) | Layer::Foreign(_) => crate::limits::PAGE_SIZE,
        }
    }

    /// A parent link to this layer as it is now, showing `visible_length` bytes of it, found by `hint`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is more than it has, or if it is a volume beside a sidecar, which no link can name;
    /// [`Error::Refused`] if its epoch is open: a link may name only
    /// content that stays as it is. The host's, since what a link names is durable.
    pub fn link(&self, visible_length: u64, hint: String) -> Result<Parent> {
        if visible_length > self.size() {
            let (name, size) = (self.name(), self.size());
            return Err(Error::Invalid(format!(
                "{name}: {visible_length} bytes of it cannot be visible: it has {size}"
            )));
        }
        self.secure()?;
        let (format, identity) = match self {
            Layer::Lvd(image) => (ParentFormat::Lvd, Some(self.identity(image)?)),
            Layer::Raw(_) => (ParentFormat::Raw, None),
            Layer::Foreign(image) => (image.format(), None),
        };
        Ok(Parent { identity, format, visible_length, hint })
    }

    /// What a link calls `image`, which is this layer.
    fn identity(&self, image: &Image) -> Result<Identity> {
        let header = image.header();
        if header.kind == Kind::Sidecar {
            return Err(Error::Invalid(format!("{}: a volume with its sidecar cannot be a parent", self.name())));
        }
        if header.state == State::Writing && !skipped(Step::SealBase) {
            let why = "it was not closed, so what it holds has no name yet; open it for writing once and close it";
            return Err(Error::refused(self.name(), why, Violation::ParentMatches));
        }
        Ok(Identity { uuid: header.uuid, epoch: header.epoch })
    }

    /// The link to what it lies on, if it lies on anything.
    ///
    /// # Errors
    /// [`Error::Refused`] if a foreign image does not say in which format that is.
    pub(crate) fn parent_link(&self) -> Result<Option<Parent>> {
        match self {
            Layer::Lvd(image) => Ok(image.header().parent.clone()),
            Layer::Raw(_) => Ok(None),
            Layer::Foreign(image) => image.link(),
        }
    }

    /// Sets the device that what it does not hold is read from.
    pub(crate) fn set_below(&self, below: Arc<dyn BlockDevice>) {
        match self {
            Layer::Lvd(image) => image.set_below(Some(below)),
            Layer::Raw(_) => {}
            Layer::Foreign(image) => image.set_below(below),
        }
    }

    /// Makes durable what it shows: a process that was killed may have left it in the page cache alone (CHN-07).
    pub(crate) fn secure(&self) -> Result<()> {
        match self {
            Layer::Lvd(image) if image.writable() => image.flush(),
            Layer::Lvd(image) => {
                image.data_location().0.sync()?;
                image.storage().sync()
            }
            Layer::Raw(raw) => raw.storage().sync(),
            Layer::Foreign(image) => image.storage().sync(),
        }
    }

    /// Changes how its files are held against others.
    ///
    /// # Errors
    /// [`Error::Locked`], or the host's.
    pub(crate) fn lock(&self, mode: LockMode) -> Result<()> {
        self.files().iter().try_for_each(|file| file.lock(mode))
    }

    /// Whether requests to it, the layers below aside, go to another machine.
    pub fn is_far(&self) -> bool {
        match self {
            Layer::Lvd(image) => image.storage().is_far() || image.data_location().0.is_far(),
            Layer::Raw(raw) => raw.storage().is_far(),
            Layer::Foreign(image) => image.storage().is_far(),
        }
    }

    /// Whether `storage` is one of its files.
    pub(crate) fn is_in(&self, storage: &dyn Storage) -> bool {
        storage.id().is_some_and(|id| self.files().iter().any(|file| file.id() == Some(id)))
    }

    /// The file, or the sidecar and its volume.
    pub(crate) fn files(&self) -> Vec<Arc<dyn Storage>> {
        match self {
            Layer::Lvd(image) => {
                let (file, data) = (image.storage().clone(), image.data_location().0);
                if Arc::ptr_eq(&file, &data) { vec![file] } else { vec![file, data] }
            }
            Layer::Raw(raw) => vec![raw.storage().clone()],
            Layer::Foreign(image) => vec![image.storage().clone()],
        }
    }

    /// Flushes and closes it, if it was opened for writing.
    ///
    /// # Errors
    /// The host's, or [`Error::Poisoned`].
    pub fn close(&self) -> Result<()> {
        match self {
            _ if !self.writable() => Ok(()),
            Layer::Lvd(image) => image.close(),
            Layer::Raw(raw) => raw.flush(),
            Layer::Foreign(_) => Ok(()),
        }
    }
}

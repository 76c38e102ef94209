//! Opening a chain: lock, read the header, check the link, and on to the parent that the policy gives.

use crate::chain::{Chain, Layer, ParentPolicy, RawDevice};
use crate::error::{Error, Result};
use crate::foreign::Qed;
use crate::format::{Header, Parent, ParentFormat, Uuid};
use crate::image::{Group, Image, OpenOptions, check_place};
use crate::limits::DEFAULT_DEPTH;
use crate::storage::{FileId, Host, LockMode, Storage};
use crate::switch::require;
use crate::sync::Arc;
use crate::violation::Violation;

/// How a chain is opened.
#[derive(Debug, Clone)]
pub struct ChainOptions {
    /// Opens the top for writing.
    pub write: bool,
    /// Opens the layers from the top down to this one for writing, as merging into it asks for.
    pub write_also: Option<usize>,
    /// Most layers that the chain may have.
    pub depth: usize,
    /// Takes a parent that is not the one, or not in the epoch, that its child names (CHN-03).
    pub trust_links: bool,
    /// Opens files that are being merged into, are no copies yet or may have moved (CHN-04, CHN-06, GRP-06).
    pub ignore_marks: bool,
    /// The group by whose decision marked files are opened (CHN-06, GRP-06).
    pub group: Option<Arc<Group>>,
    /// Most bytes of bitmap, or of tables, kept in memory for each layer.
    pub cache_bytes: u64,
}

impl Default for ChainOptions {
    fn default() -> ChainOptions {
        ChainOptions {
            write: false,
            write_also: None,
            depth: DEFAULT_DEPTH,
            trust_links: false,
            ignore_marks: false,
            group: None,
            cache_bytes: 16 << 20,
        }
    }
}

impl Chain {
    /// Opens the image `top` and all layers below it, those as `policy` gives them.
    ///
    /// Takes an exclusive lock on what is opened for writing and a shared one on everything else, each before the
    /// file's header is read. Writes nothing.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Refused`] for what CHN-02 to CHN-06 forbid; what opening an image, or the policy,
    /// meets.
    pub fn open(
        top: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        policy: &dyn ParentPolicy,
        options: &ChainOptions,
    ) -> Result<Chain> {
        let mut opening = Opening::new(host, options);
        opening.lock(&top)?;
        let image = Image::open(top.clone(), opening.host.clone(), &opening.image_options())?;
        opening.add_image(top.name(), image, None)?;
        opening.parents(policy)
    }

    /// Opens the raw volume `volume` by its allocation sidecar, and the layers below.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_sidecar(
        sidecar: Arc<dyn Storage>,
        volume: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        policy: &dyn ParentPolicy,
        options: &ChainOptions,
    ) -> Result<Chain> {
        let mut opening = Opening::new(host, options);
        opening.lock(&sidecar)?;
        opening.lock(&volume)?;
        let name = sidecar.name().to_string();
        let image = Image::open_sidecar(sidecar, volume, opening.host.clone(), &opening.image_options())?;
        opening.add_image(&name, image, None)?;
        opening.parents(policy)
    }

    /// A chain of one raw layer.
    ///
    /// # Errors
    /// [`Error::Locked`], or the host's.
    pub fn open_raw(top: Arc<dyn Storage>, host: Arc<dyn Host>, options: &ChainOptions) -> Result<Chain> {
        let mut opening = Opening::new(host, options);
        opening.lock(&top)?;
        let raw = RawDevice::new(top, opening.write())?;
        Ok(Chain { layers: vec![Layer::Raw(Arc::new(raw))], host: opening.host })
    }

    /// Opens the QED image `top`, and below it its backing file, as `policy` gives it.
    ///
    /// # Errors
    /// [`Error::Denied`] for writing; [`Error::Refused`] for what CHN-02 and QED-07 forbid; [`Error::Locked`]; what
    /// opening the image, or the policy, meets.
    pub fn open_qed(
        top: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        policy: &dyn ParentPolicy,
        options: &ChainOptions,
    ) -> Result<Chain> {
        let mut opening = Opening::new(host, options);
        opening.lock(&top)?;
        let name = top.name().to_string();
        let layer = opening.qed(top)?;
        opening.push(&name, layer);
        opening.parents(policy)
    }
}

/// A chain that is being opened, as far as it has come.
struct Opening<'a> {
    host: Arc<dyn Host>,
    options: &'a ChainOptions,
    layers: Vec<Layer>,
    /// Names of the layers' files, for hints and errors.
    names: Vec<String>,
    /// What the host tells the files so far apart by, and which layer each is.
    seen: Vec<(FileId, usize)>,
    /// UUIDs of the layers so far.
    uuids: Vec<Uuid>,
}

impl<'a> Opening<'a> {
    fn new(host: Arc<dyn Host>, options: &'a ChainOptions) -> Opening<'a> {
        Opening { host, options, layers: Vec::new(), names: Vec::new(), seen: Vec::new(), uuids: Vec::new() }
    }

    /// Whether the layer that comes next is opened for writing.
    fn write(&self) -> bool {
        let index = self.layers.len();
        (index == 0 && self.options.write) || self.options.write_also.is_some_and(|last| index <= last)
    }

    fn image_options(&self) -> OpenOptions {
        // The marks are checked here, where it is known through which link the image is opened.
        let (cache_bytes, group) = (self.options.cache_bytes, self.options.group.clone());
        OpenOptions { write: self.write(), cache_bytes, ignore_marks: true, group }
    }

    /// Locks a file, after making sure that it is not in the chain already: the second lock would wait for the first.
    fn lock(&mut self, storage: &Arc<dyn Storage>) -> Result<()> {
        if let Some(id) = storage.id() {
            if let Some((_, index)) = self.seen.iter().find(|(seen, _)| *seen == id) {
                let why = format!("it is layer {index} of the chain already");
                require(false, Violation::Cycle, |rule| Error::refused(storage.name(), why, rule))?;
            }
            self.seen.push((id, self.layers.len()));
        }
        storage.lock(if self.write() { LockMode::Exclusive } else { LockMode::Shared })
    }

    /// Adds `image` as the next layer, opened through `link` (`None`: as the top).
    fn add_image(&mut self, name: &str, image: Image, link: Option<&Parent>) -> Result<()> {
        let header = image.header();
        self.check_marks(name, &header, link)?;
        if let Some(link) = link {
            self.check_identity(link, &header)?;
            self.check_visible(name, link, header.virtual_size)?;
            if self.options.write && header.merge_mark.is_some() {
                // What a merge that was interrupted has left may be in the page cache alone (ORD-85).
                image.storage().sync()?;
            }
        }
        self.uuids.push(header.uuid);
        self.push(name, Layer::Lvd(Arc::new(image)));
        Ok(())
    }

    fn push(&mut self, name: &str, layer: Layer) {
        if let Some(child) = self.layers.last() {
            child.set_below(layer.device());
        }
        self.names.push(name.to_string());
        self.layers.push(layer);
    }

    /// Opens the parents of the last layer, down to the lowest.
    fn parents(mut self, policy: &dyn ParentPolicy) -> Result<Chain> {
        while let Some(link) = self.layers.last().map(Layer::parent_link).transpose()?.flatten() {
            self.parent(&link, policy)?;
        }
        Ok(Chain { layers: self.layers, host: self.host })
    }

    fn parent(&mut self, link: &Parent, policy: &dyn ParentPolicy) -> Result<()> {
        let child_name = self.names.last().cloned().unwrap_or_default();
        let depth = self.options.depth;
        require(self.layers.len() < depth, Violation::Cycle, |rule| {
            Error::refused(&child_name, format!("its chain has more than {depth} layers"), rule)
        })?;
        if matches!(link.format, ParentFormat::Qcow2 | ParentFormat::Vmdk) {
            let what = format!("a parent in the format {:?}", link.format).to_lowercase();
            return Err(Error::Unsupported { file: child_name, what, violation: Violation::ParentFormat });
        }
        let storage = policy.open(link, &child_name, self.write())?;
        let name = storage.name().to_string();
        self.lock(&storage)?;
        let layer = match link.format {
            ParentFormat::Lvd => {
                let image = Image::open(storage, self.host.clone(), &self.image_options())?;
                return self.add_image(&name, image, Some(link));
            }
            ParentFormat::Qed => self.qed(storage)?,
            _ => Layer::Raw(Arc::new(RawDevice::new(storage, self.write())?)),
        };
        // CHN-03: nothing about it could be what an identity names.
        self.check_accepted(link.identity.is_none(), "its parent is to have an identity, and has none")?;
        self.check_visible(&name, link, layer.size())?;
        self.push(&name, layer);
        Ok(())
    }

    /// Opens a QED image as the next layer.
    fn qed(&self, storage: Arc<dyn Storage>) -> Result<Layer> {
        if self.write() {
            return Err(Error::Denied(format!("{}: a QED image is only read", storage.name())));
        }
        Ok(Layer::Foreign(Arc::new(Qed::open(storage, self.options.cache_bytes)?)))
    }

    /// CHN-04, CHN-06 and GRP-06: a marked file opens only as its mark allows.
    fn check_marks(&self, name: &str, header: &Header, link: Option<&Parent>) -> Result<()> {
        if self.options.ignore_marks {
            return Ok(());
        }
        check_place(name, header, self.write(), self.options.group.as_deref())?;
        let Some(mark) = &header.merge_mark else { return Ok(()) };
        let beneath = self.uuids.contains(&mark.child_uuid);
        let allowed = beneath
            && link.is_some_and(|link| names(link, header, header.epoch) || names(link, header, mark.child_epoch));
        require(allowed, Violation::Marked, |rule| {
            let why = format!("{} is being merged into it: run that merge again to finish it", mark.child_uuid);
            Error::refused(name, why, rule)
        })
    }

    /// CHN-03: the parent holds what the child lies on.
    fn check_identity(&self, link: &Parent, parent: &Header) -> Result<()> {
        let accepted = names(link, parent, parent.epoch)
            || parent.merge_mark.as_ref().is_some_and(|mark| names(link, parent, mark.child_epoch));
        let same = link.identity.as_ref().is_some_and(|identity| identity.uuid == parent.uuid);
        let why = match same {
            true => "its parent has been changed since the image was made",
            false => "another file is in its parent's place",
        };
        self.check_accepted(accepted, why)
    }

    fn check_accepted(&self, accepted: bool, why: &str) -> Result<()> {
        require(accepted || self.options.trust_links, Violation::ParentMatches, |rule| {
            let name = self.names.last().map(String::as_str).unwrap_or_default();
            Error::refused(name, why, rule)
        })
    }

    /// CHN-05: the parent is long enough.
    fn check_visible(&self, name: &str, link: &Parent, size: u64) -> Result<()> {
        let visible = link.visible_length;
        require(visible <= size, Violation::VisibleLength, |rule| {
            Error::refused(name, format!("its child wants {visible} bytes of it, it has {size}"), rule)
        })
    }
}

/// Whether `link` names `parent` in `epoch`.
fn names(link: &Parent, parent: &Header, epoch: Uuid) -> bool {
    link.identity.as_ref().is_some_and(|named| named.uuid == parent.uuid && named.epoch == epoch)
}

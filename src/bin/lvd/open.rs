//! Opening files as the user named them: disks with the chains below them, and new files to copy into.

use crate::args::{Access, Cache, Format, Opening, OutputFormat};
use lvd::chain::{Chain, ChainOptions, Layer, ParentPolicy, ParentsInDirectories, RawDevice, joined_hint};
use lvd::foreign::Qed;
use lvd::format::{HostFormat, Parent};
use lvd::image::{CreateOptions, Group, Image, OpenOptions};
use lvd::nbd::client::{NbdBitmap, NbdStorage};
use lvd::nbd::{self, Uri};
use lvd::storage::{Create, FileOptions, FileStorage, Host, LockMode, OsHost, Storage};
use lvd::{Error, Result, Violation};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time and random bytes of the operating system.
pub fn host() -> Arc<dyn Host> {
    Arc::new(OsHost::default())
}

/// Whether this command has reached for an export across what may be a network.
static FAR: AtomicBool = AtomicBool::new(false);

/// Whether requests may take long because they go to a server: it pays then to have many under way.
pub fn is_far() -> bool {
    FAR.load(Ordering::Relaxed)
}

/// The URI that a name is, if it is one.
pub fn uri(name: &Path) -> Result<Option<Uri>> {
    let name = name.to_str().filter(|name| Uri::is_one(name));
    name.map(Uri::parse).transpose()
}

/// Whether there is something to be opened. Of an export only its server knows.
pub fn exists(name: &Path) -> bool {
    name.to_str().is_some_and(Uri::is_one) || name.exists()
}

/// Opens a file, which is there, or an export.
pub fn storage(name: &Path, write: bool, access: &Access, lock: Option<LockMode>) -> Result<Arc<dyn Storage>> {
    if let Some(uri) = uri(name)? {
        return export(&uri, write, access);
    }
    let options = FileOptions { write, direct: access.cache == Cache::None, lock, ..FileOptions::default() };
    Ok(Arc::new(FileStorage::open(name, &options)?))
}

fn export(uri: &Uri, write: bool, access: &Access) -> Result<Arc<dyn Storage>> {
    FAR.store(true, Ordering::Relaxed);
    let reconnect = Duration::from_secs(access.reconnect);
    Ok(Arc::new(NbdStorage::open(uri, nbd::client::Options { write, reconnect, ..Default::default() })?))
}

/// Opens the dirty bitmap `name` of an export.
pub fn bitmap(export: &Path, name: &str) -> Result<NbdBitmap> {
    let place = export.display();
    let uri = uri(export)?.ok_or_else(|| Error::Invalid(format!("{place}: it is not the URI of an export")))?;
    FAR.store(true, Ordering::Relaxed);
    NbdBitmap::open(&uri, name, nbd::client::Options::default())
}

/// Whether both are one file, or one export.
pub fn same_file(first: &dyn Storage, second: &dyn Storage) -> bool {
    match (first.id(), second.id()) {
        (None, None) => first.name() == second.name(),
        (first, second) => first == second,
    }
}

/// Whether a file carries LVD's magic. Nothing else is ever concluded from a file's content.
pub fn recognisable(storage: &dyn Storage) -> Result<bool> {
    has_magic(Image::read_header(storage), Violation::Magic)
}

/// Whether a header was there to be read, sound or not.
fn has_magic<T>(header: Result<T>, magic: Violation) -> Result<bool> {
    match header {
        Ok(_) => Ok(true),
        Err(error) if error.violation() == Some(magic) => Ok(false),
        Err(error) if error.violation().is_some() => Ok(true),
        Err(error) => Err(error),
    }
}

/// What `path` is: what the user says, or LVD if it is recognisable; nothing is guessed.
pub fn format_of(storage: &dyn Storage, said: Option<Format>, option: &str) -> Result<Format> {
    match said {
        Some(format) => Ok(format),
        None if recognisable(storage)? => Ok(Format::Lvd),
        None => {
            let name = storage.name();
            // A guest can write this magic too: what the file is only the user knows.
            let like = match has_magic(Qed::read_facts(storage), Violation::QedMagic)? {
                true => format!("if it is a QED image, as it seems, say so with {option} qed"),
                false => format!("if it is a raw disk, say so with {option} raw"),
            };
            Err(Error::Invalid(format!("{name}: not an LVD image; {like}")))
        }
    }
}

/// Opens parents where their hints lead, from the child's directory on: the user named the chain by naming its top. Of an
/// image that somebody else has made that says nothing good, and the user names the directories too.
#[derive(Debug, Clone)]
struct Hints {
    access: Access,
}

impl ParentPolicy for Hints {
    fn open(&self, link: &Parent, child: &str, write: bool) -> Result<Arc<dyn Storage>> {
        if link.hint.is_empty() {
            return Err(Error::Denied(format!(
                "{child}: does not say where its parent is; give it one with rebase -u"
            )));
        }
        let path = beside(Path::new(child), &link.hint);
        if let Some(uri) = path.to_str().filter(|path| Uri::is_one(path) && !self.access.remote) {
            // Whom this machine talks to is not for an image to say.
            let uri = uri.escape_debug();
            return Err(Error::Denied(format!("{child}: says that its parent is {uri}: allow that with --remote")));
        }
        if self.access.parents_in.is_empty() || path.to_str().is_some_and(Uri::is_one) {
            return storage(&path, write, &self.access, None);
        }
        let here = std::env::current_dir().map_err(|error| Error::io(".", "cannot tell where it is", error))?;
        let policy = ParentsInDirectories::new(here, &self.access.parents_in);
        policy.direct(self.access.cache == Cache::None).open(link, child, write)
    }
}

/// Where a hint in `child` leads. An image on a server leads to exports of the same server, or to URIs: the files of this
/// machine, the places of its sockets and its certificates are not for it to name.
pub fn beside(child: &Path, hint: &str) -> PathBuf {
    match child.to_str().filter(|child| Uri::is_one(child)) {
        Some(child) => joined_hint(child, hint).into(),
        None if Uri::is_one(hint) => hint.into(),
        None => child.parent().unwrap_or(Path::new("")).join(hint),
    }
}

/// Opens the group that the user named, if any.
pub fn group(opening: &Opening, write: bool) -> Result<Option<Arc<Group>>> {
    let open = |path: &PathBuf| Group::open(storage(path, write, &opening.access, None)?, host()).map(Arc::new);
    opening.group.as_ref().map(open).transpose()
}

/// Has the bitmaps in `sidecar` follow the top of `chain`.
fn attach(chain: &Chain, sidecar: Arc<dyn Storage>, write: bool) -> Result<()> {
    sidecar.lock(if write { LockMode::Exclusive } else { LockMode::Shared })?;
    let image = chain.image(0)?;
    let options = OpenOptions { write, ..OpenOptions::default() };
    image.attach(Arc::new(Image::open_beside(sidecar, image, host(), &options)?))
}

/// A disk with all its layers.
#[derive(Debug)]
pub struct Disk {
    chain: Chain,
}

impl Disk {
    /// Opens the disk at `path`.
    pub fn open(path: &Path, opening: &Opening, write: bool) -> Result<Disk> {
        Disk::open_down_to(path, opening, write, None)
    }

    /// Opens it with the layers down to number `write_also` for writing, as a merge needs it.
    pub fn open_down_to(path: &Path, opening: &Opening, write: bool, write_also: Option<usize>) -> Result<Disk> {
        let options = ChainOptions {
            write,
            write_also,
            trust_links: opening.trust_links,
            ignore_marks: opening.ignore_marks,
            group: group(opening, write)?,
            ..ChainOptions::default()
        };
        let policy = Hints { access: opening.access.clone() };
        let top = storage(path, write, &opening.access, None)?;
        if let Some(sidecar) = &opening.sidecar {
            let sidecar = storage(sidecar, write, &opening.access, None)?;
            // The sidecar says what it is beside; the volume is the guest's, and may say anything.
            if Image::read_header(&*sidecar)?.host.is_some_and(|host| host.format == HostFormat::Lvd) {
                let chain = Chain::open(top, host(), &policy, &options)?;
                attach(&chain, sidecar, write)?;
                return Ok(Disk { chain });
            }
            return Ok(Disk { chain: Chain::open_sidecar(sidecar, top, host(), &policy, &options)? });
        }
        let chain = match format_of(&*top, opening.format, "-f")? {
            Format::Lvd => Chain::open(top, host(), &policy, &options)?,
            Format::Raw => Chain::open_raw(top, host(), &options)?,
            Format::Qed => Chain::open_qed(top, host(), &policy, &options)?,
        };
        Ok(Disk { chain })
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn into_chain(self) -> Chain {
        self.chain
    }

    pub fn top(&self) -> Result<&Layer> {
        self.chain.layer(0)
    }

    /// The clean end of what was opened for writing.
    pub fn close(&self) -> Result<()> {
        self.chain.close()
    }

    /// The number of the layer in the file at `path`.
    pub fn layer_in(&self, path: &Path) -> Result<usize> {
        layer_in(&self.chain, path)
    }
}

/// The number of the layer of `chain` in the file at `path`.
pub fn layer_in(chain: &Chain, path: &Path) -> Result<usize> {
    let wanted = storage(path, false, &Access::default(), None)?;
    let found = chain.layers.iter().position(|layer| same_file(&**file_of(layer), &*wanted));
    found.ok_or_else(|| Error::Invalid(format!("{}: not a layer of the chain of {}", path.display(), chain.name())))
}

/// The file that a layer lies in.
pub fn file_of(layer: &Layer) -> &Arc<dyn Storage> {
    match layer {
        Layer::Lvd(image) => image.storage(),
        Layer::Raw(raw) => raw.storage(),
        Layer::Foreign(image) => image.storage(),
    }
}

/// A file that something new is put into. What it held before is lost, as with qemu-img.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    /// Made by this command, so taken away again if the command fails.
    made: bool,
}

impl Target {
    /// Makes the file, or opens the one that is there, held against everybody else.
    pub fn open(path: &Path, access: &Access) -> Result<Target> {
        if let Some(uri) = uri(path)? {
            return Ok(Target { path: path.to_owned(), storage: export(&uri, true, access)?, made: false });
        }
        let made = fs::symlink_metadata(path).is_err();
        let create = if made { Create::New } else { Create::No };
        let (direct, lock) = (access.cache == Cache::None, Some(LockMode::Exclusive));
        let storage = FileStorage::open(path, &FileOptions { write: true, create, direct, lock })?;
        Ok(Target { path: path.to_owned(), storage: Arc::new(storage), made })
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Refuses a target in which a layer of `source` lies. Of files their locks have told already.
    pub fn refuse_source(&self, source: &Disk) -> Result<()> {
        let layers = &source.chain.layers;
        match layers.iter().any(|layer| same_file(&**file_of(layer), &*self.storage)) {
            true => Err(Error::Invalid(format!("{}: it is what is copied, or a layer below it", self.storage.name()))),
            false => Ok(()),
        }
    }

    /// Makes the file an LVD image.
    pub fn create(&self, options: &CreateOptions) -> Result<()> {
        Image::create(&*self.storage, &*host(), options)
    }

    /// Opens the image that was just made in it, copy mark or not.
    pub fn image(&self) -> Result<Arc<Image>> {
        let options = OpenOptions { write: true, ignore_marks: true, ..OpenOptions::default() };
        Image::open(self.storage.clone(), host(), &options).map(Arc::new)
    }

    /// Makes it what a disk of `size` bytes is copied into, and says whether that is known to read as zeros.
    pub fn layer(&self, format: OutputFormat, size: u64) -> Result<(Layer, bool)> {
        match format {
            OutputFormat::Lvd => {
                self.create(&CreateOptions { virtual_size: size, copy_mark: true, ..CreateOptions::default() })?;
                Ok((Layer::Lvd(self.image()?), true))
            }
            OutputFormat::Raw => {
                let fresh = self.storage.zeros_when_new();
                if fresh {
                    self.storage.set_size(0)?;
                }
                Ok((Layer::Raw(Arc::new(RawDevice::new(self.storage.clone(), true)?)), fresh))
            }
        }
    }

    /// The chain whose top was just made in it.
    pub fn chain(&self, access: &Access) -> Result<Chain> {
        let options = ChainOptions { write: true, ignore_marks: true, ..ChainOptions::default() };
        Chain::open(self.storage.clone(), host(), &Hints { access: access.clone() }, &options)
    }

    /// Whether the name still leads to the file that was opened, and not to what somebody has put there since.
    fn is_still_there(&self) -> bool {
        let found = fs::symlink_metadata(&self.path).map(|found| (found.dev(), found.ino()));
        self.storage.id().is_none_or(|id| found.is_ok_and(|found| found == id))
    }

    /// Does `work` with it; a file that this command made goes if that fails.
    pub fn keep_if<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = work();
        if result.is_err() && self.made && self.is_still_there() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&self.path);
        }
        result
    }
}

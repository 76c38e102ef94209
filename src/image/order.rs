//! The order of writes and barriers: every promise about a crash is kept here, line by line with `spec/ordering.md`.

use super::alloc::Allocation;
use super::{Group, Image};
use crate::error::{Error, Result};
use crate::format::{Chosen, Header, HostFormat, Section, State, Uuid};
use crate::limits::{PAGE_SIZE, SECTOR_SIZE, SLOT_SIZE};
use crate::storage::{Host, Storage};
use crate::switch::{Step, skipped};
use crate::sync::{Arc, AtomicBool, AtomicU8, Condvar, Mutex, OnceLock, Ordering, lock, wait};
use std::ops::Range;
use std::time::Duration;

/// Bytes of a section that are in memory at once when it is copied.
pub(super) const COPY_CHUNK: u64 = 1 << 20;

/// What an open image has changed since it was opened or sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Session {
    /// Nothing.
    None,
    /// Absent blocks were filled from below: the content is the same, and so is the epoch.
    Filling,
    /// The content.
    Writing,
}

/// The header as it is on disk, and what is known of the slots.
#[derive(Debug)]
struct Slots {
    header: Arc<Header>,
    /// The bytes of the newest header.
    bytes: Vec<u8>,
    /// Where the slot lies that holds the newest barriered header.
    newest: u64,
    /// The other slot held the same at open.
    equal: bool,
    /// The newest header found at open did not say closed.
    unclean: bool,
    /// This open has synced its files and rewritten what it found (ORD-20 to 23).
    begun: bool,
}

impl Slots {
    /// Where the other slot lies.
    fn other(&self) -> u64 {
        SLOT_SIZE - self.newest
    }
}

#[derive(Debug, Default)]
struct Rounds {
    started: u64,
    ended: u64,
    running: bool,
}

/// Writes the header and the bits of one image, in order.
#[derive(Debug)]
pub(super) struct Order {
    /// Holds header and sections.
    file: Arc<dyn Storage>,
    /// Holds the guest's data: the same file, or the volume beside a sidecar.
    data: Arc<dyn Storage>,
    host: Arc<dyn Host>,
    slots: Mutex<Slots>,
    session: AtomicU8,
    /// Something was written since the last barrier.
    changed: AtomicBool,
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
    poison: OnceLock<String>,
    /// The bitmaps that record are stale, though their epoch is the header's: it must not go on agreeing.
    distrust: AtomicBool,
    /// Sidecars of the image: they are told of each new epoch before it is.
    beside: Mutex<Vec<Arc<Image>>>,
    /// What it has decided this open relies on.
    group: Option<Arc<Group>>,
}

impl Order {
    pub(super) fn new(
        file: Arc<dyn Storage>,
        data: Arc<dyn Storage>,
        host: Arc<dyn Host>,
        found: Chosen,
        distrust: bool,
        group: Option<Arc<Group>>,
    ) -> Order {
        let Chosen { header, bytes, slot, equal } = found;
        let (newest, unclean) = (slot as u64 * SLOT_SIZE, header.state != State::Closed);
        Order {
            file,
            data,
            host,
            slots: Mutex::new(Slots { header: Arc::new(header), bytes, newest, equal, unclean, begun: false }),
            session: AtomicU8::new(Session::None as u8),
            changed: AtomicBool::new(false),
            rounds: Mutex::default(),
            round_ended: Condvar::new(),
            poison: OnceLock::new(),
            distrust: AtomicBool::new(distrust),
            beside: Mutex::default(),
            group,
        }
    }

    /// The newest header.
    pub(super) fn header(&self) -> Arc<Header> {
        lock(&self.slots).header.clone()
    }

    /// Why nothing is written any more, if so.
    pub(super) fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    pub(super) fn session(&self) -> Session {
        match self.session.load(Ordering::Acquire) {
            0 => Session::None,
            1 => Session::Filling,
            _ => Session::Writing,
        }
    }

    /// Notes that guest data was written, zeroed or punched: the next flush owes it a barrier.
    pub(super) fn wrote(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Refuses once a metadata write or a barrier has failed.
    pub(super) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Poisoned { file: self.file.name().into(), cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// After a failure here nobody knows what the host holds: a barrier that failed is never tried again.
    fn poisoning<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            let _ = self.poison.set(error.to_string());
        }
        result
    }

    /// Begins a session, or raises the one there is, before the first change of its kind.
    pub(super) fn begin(&self, session: Session) -> Result<()> {
        self.check_poison()?;
        if self.session() >= session {
            return Ok(());
        }
        let mut slots = lock(&self.slots);
        if self.session() >= session {
            return Ok(());
        }
        let session = self.at_least(session, &slots.header);
        let mut header = (*slots.header).clone();
        self.enter(&mut header, session);
        if session == Session::Writing && !skipped(Step::EpochAtStart) {
            self.renew(&mut slots, &mut header)?;
        }
        self.update(&mut slots, header)?;
        self.session.store(session as u8, Ordering::Release);
        Ok(())
    }

    /// Changes the header in one update, with the session that the change belongs to.
    ///
    /// `Session::None` keeps state and epoch; `Session::Writing` replaces the epoch.
    pub(super) fn change_header(&self, session: Session, edit: impl FnOnce(&mut Header)) -> Result<()> {
        self.check_poison()?;
        let mut slots = lock(&self.slots);
        let session = self.at_least(session, &slots.header);
        let mut header = (*slots.header).clone();
        edit(&mut header);
        self.enter(&mut header, session);
        if session == Session::Writing {
            self.renew(&mut slots, &mut header)?;
        }
        self.update(&mut slots, header)?;
        self.session.fetch_max(session as u8, Ordering::AcqRel);
        Ok(())
    }

    /// ORD-53: the epoch that an unclean writing session left named many contents, so whatever comes after it
    /// is a writing session.
    fn at_least(&self, session: Session, found: &Header) -> Session {
        let unclean = self.session() == Session::None && found.state == State::Writing;
        if unclean && session == Session::Filling { Session::Writing } else { session }
    }

    /// Makes the header say `session`, unless it says more already.
    fn enter(&self, header: &mut Header, session: Session) {
        if session > self.session() {
            header.state = if session == Session::Writing { State::Writing } else { State::Filling };
        }
    }

    /// ORD-32: afterwards both slots hold the newest header, durably; what only an older one names is free.
    pub(super) fn settle(&self) -> Result<()> {
        if skipped(Step::EqualSlots) {
            return Ok(());
        }
        self.poisoning(self.file.sync())
    }

    /// A header update. The header is durable afterwards; the other slot equals it at the next barrier.
    fn update(&self, slots: &mut Slots, mut header: Header) -> Result<()> {
        header.sequence += 1;
        if let Some(group) = &self.group {
            group.drop_void_marks(&mut header);
        }
        let bytes = header.encode().map_err(|violation| {
            Error::Invalid(format!("{}: the new header would break a rule ({violation})", self.file.name()))
        })?;
        let result = self.begin_files(slots).and_then(|()| {
            if !skipped(Step::OtherSlot) {
                slots.newest = slots.other();
            }
            self.file.write_at(&bytes, slots.newest)?;
            if !skipped(Step::HeaderBarrier) {
                self.file.sync()?;
            }
            self.file.write_at(&bytes, slots.other())
        });
        self.poisoning(result)?;
        if header.epoch != slots.header.epoch {
            // Now it does not agree: a header that was drafted and not written is none.
            self.distrust.store(false, Ordering::Release);
        }
        slots.header = Arc::new(header);
        slots.bytes = bytes;
        Ok(())
    }

    /// ORD-20 to 23, GRP-08: what an earlier session left may be in the page cache alone, and after a failed barrier
    /// the cache calls it clean. Written again as it was, it is either there already or there now.
    fn begin_files(&self, slots: &mut Slots) -> Result<()> {
        if slots.begun {
            return Ok(());
        }
        if let (Some(group), false) = (&self.group, skipped(Step::GroupSettled)) {
            group.secure_found()?;
        }
        if !skipped(Step::RewriteHeader) {
            self.file.write_at(&slots.bytes, slots.newest)?;
            if slots.equal {
                // One of the two is durable, and bytes that do not change cannot hurt it.
                self.file.write_at(&slots.bytes, slots.other())?;
            }
        }
        if slots.unclean && !skipped(Step::RewritePages) {
            self.rewrite_pages(&slots.header.sections)?;
            for file in [&self.file, &self.data].into_iter().filter(|file| file.zeros_when_new()) {
                file.set_size(file.size()?)?;
            }
        }
        if !skipped(Step::SessionSync) {
            self.sync_both()?;
        }
        if !slots.equal && !skipped(Step::MendSlot) {
            self.mend(&slots.bytes, slots.other())?;
        }
        slots.begun = true;
        Ok(())
    }

    /// Makes the slot at `offset` equal to the newest header. In it may be sectors of one that never arrived whole: neither
    /// these bytes nor those of the next header may make it whole.
    fn mend(&self, newest: &[u8], offset: u64) -> Result<()> {
        if !skipped(Step::EmptySlot) {
            let mut page = vec![0; PAGE_SIZE as usize];
            self.file.read_at(&mut page, offset)?;
            page[..SECTOR_SIZE as usize].fill(0);
            self.file.write_at(&page, offset)?;
            self.file.sync()?;
        }
        self.file.write_at(newest, offset)?;
        self.file.sync()
    }

    /// What this open has found, and may have shown to a guest, is durable afterwards: a flush owes that even if
    /// nothing was written, since a process that was killed has left it in the page cache.
    pub(super) fn secure_found(&self) -> Result<()> {
        self.check_poison()?;
        let mut slots = lock(&self.slots);
        let result = self.begin_files(&mut slots);
        self.poisoning(result)
    }

    /// Of every section whose kind is known, as far as the file reaches.
    fn rewrite_pages(&self, sections: &[Section]) -> Result<()> {
        let size = self.file.size()?;
        for section in sections.iter().filter(|section| section.kind.known()) {
            copy_data(&*self.file, section.offset..section.range().end.min(size), section.offset)?;
        }
        Ok(())
    }

    fn sync_both(&self) -> Result<()> {
        self.data.sync()?;
        if Arc::ptr_eq(&self.data, &self.file) { Ok(()) } else { self.file.sync() }
    }

    /// Returns once everything that was written before the call is durable: group commit.
    ///
    /// Calls that come while a round runs share the next one (ORD-42: that round's barrier starts after them).
    pub(super) fn flush(&self, allocation: Option<&Allocation>) -> Result<()> {
        let mut rounds = lock(&self.rounds);
        let wanted = rounds.started + 1;
        while rounds.ended < wanted {
            if rounds.running {
                rounds = wait(&self.round_ended, rounds);
                continue;
            }
            rounds.running = true;
            rounds.started += 1;
            drop(rounds);
            let result = self.check_poison().and_then(|()| self.poisoning(self.commit(allocation)));
            rounds = lock(&self.rounds);
            rounds.running = false;
            rounds.ended = rounds.started;
            self.round_ended.notify_all();
            result?;
        }
        drop(rounds);
        self.check_poison()
    }

    /// One round. Only one runs at a time, and it ends with a barrier, so no page is written again before
    /// its last write is durable.
    fn commit(&self, allocation: Option<&Allocation>) -> Result<()> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let take = || allocation.map(Allocation::take_dirty).unwrap_or_default();
        let (mut pages, late) = if skipped(Step::SnapshotFirst) { (Vec::new(), true) } else { (take(), false) };
        let barrier = if pages.is_empty() && !late { Step::FlushPresent } else { Step::DataBarrier };
        if !skipped(barrier) {
            self.data.sync()?;
        }
        if late {
            pages = take();
        }
        if pages.is_empty() {
            return Ok(());
        }
        let pieces: Vec<(u64, &[u8])> = pages.iter().map(|(at, page)| (*at, &page[..])).collect();
        self.file.write_batch(&pieces)?;
        if !skipped(Step::BitsBarrier) {
            self.file.sync()?;
        }
        if let Some(allocation) = allocation {
            allocation.committed();
        }
        Ok(())
    }

    /// A barrier on data and metadata, for procedures that write outside a commit.
    pub(super) fn barrier(&self) -> Result<()> {
        self.poisoning(self.sync_both())
    }

    /// Passes on the result of a metadata write outside a commit; a failure poisons.
    pub(super) fn metadata<T>(&self, result: Result<T>) -> Result<T> {
        self.poisoning(result)
    }

    /// Gives the header a new epoch, which the bitmaps that record and are valid name in the same update (EPO-01).
    fn renew(&self, slots: &mut Slots, header: &mut Header) -> Result<()> {
        let old = header.epoch;
        header.epoch = self.random();
        self.carry(header, old);
        if skipped(Step::SidecarFirst) {
            return Ok(());
        }
        let beside = lock(&self.beside).clone();
        if !beside.is_empty() {
            // Else the sidecars may name an epoch that the image loses, and the one that it then has no more.
            let begun = self.begin_files(slots);
            self.poisoning(begun)?;
        }
        beside.iter().try_for_each(|sidecar| sidecar.order.follow(old, header.epoch, header.state))
    }

    fn carry(&self, header: &mut Header, old: Uuid) {
        if !self.distrusts() && !skipped(Step::CarryBitmaps) {
            header.carry_bitmaps(old, header.epoch);
        }
    }

    /// In a sidecar of an image: the image, now in the epoch `former`, is about to have another one (EPO-05), or has an older
    /// one again.
    pub(super) fn follow(&self, former: Uuid, epoch: Uuid, state: State) -> Result<()> {
        self.check_poison()?;
        let mut slots = lock(&self.slots);
        let mut header = (*slots.header).clone();
        let old = std::mem::replace(&mut header.epoch, epoch);
        header.state = state;
        if let Some(host) = &mut header.host {
            host.former = former;
        }
        if !skipped(Step::StaleStays) {
            // The image was rolled back to what they name, and they have been told of nothing since.
            header.carry_bitmaps(epoch, self.random());
        }
        self.carry(&mut header, old);
        self.update(&mut slots, header)
    }

    /// Tells `sidecar` of each new epoch from now on.
    pub(super) fn add_beside(&self, sidecar: Arc<Image>) {
        lock(&self.beside).push(sidecar);
    }

    /// Whether the bitmaps that record are stale whatever their epoch says.
    pub(super) fn distrusts(&self) -> bool {
        self.distrust.load(Ordering::Acquire)
    }

    /// A new random identity.
    pub(super) fn random(&self) -> Uuid {
        Uuid(self.host.random())
    }

    /// The time, from some fixed instant on.
    pub(super) fn now(&self) -> Duration {
        self.host.now()
    }

    /// What the header will be after a seal, for [`seal_as`](Self::seal_as).
    ///
    /// A sidecar of an image has the image's epoch, which is sealed. Its former one goes: what a bitmap is about to forget
    /// was changed under it (EPO-06).
    pub(super) fn sealed_header(&self) -> Result<Header> {
        let mut slots = lock(&self.slots);
        let mut header = (*slots.header).clone();
        header.state = State::Closed;
        match &mut header.host {
            Some(host) if host.format == HostFormat::Lvd && !skipped(Step::DropFormer) => host.former = Uuid::NIL,
            Some(host) if host.format == HostFormat::Lvd => {}
            // What was sealed before has not changed, and whatever names it, names it still.
            _ if slots.header.state != State::Writing && !self.distrusts() => {}
            _ => self.renew(&mut slots, &mut header)?,
        }
        Ok(header)
    }

    /// Ends the session, or makes a seal point without one, with the header that the caller has drafted from
    /// [`sealed_header`](Self::sealed_header). All is durable already.
    pub(super) fn seal_as(&self, mut header: Header) -> Result<()> {
        self.check_poison()?;
        let mut slots = lock(&self.slots);
        self.note_fingerprint(&mut header)?;
        self.update(&mut slots, header)?;
        slots.unclean = false;
        self.session.store(Session::None as u8, Ordering::Release);
        drop(slots);
        self.settle()
    }

    /// Notes what the volume beside a sidecar looks like at a clean end (EPO-07). The header has another epoch by then if the
    /// volume looked otherwise before (EPO-02).
    fn note_fingerprint(&self, header: &mut Header) -> Result<()> {
        if let (Some(host), false) = (&mut header.host, Arc::ptr_eq(&self.file, &self.data)) {
            host.former = Uuid(self.data.fingerprint()?);
        }
        Ok(())
    }

    /// Ends the session cleanly: all is durable, and the epoch names exactly this content (law E).
    pub(super) fn seal(&self, allocation: Option<&Allocation>) -> Result<()> {
        if self.session() == Session::None {
            return self.check_poison();
        }
        if !skipped(Step::FlushAtClose) {
            self.flush(allocation)?;
        }
        self.check_poison()?;
        let mut slots = lock(&self.slots);
        let mut header = (*slots.header).clone();
        header.state = State::Closed;
        let changed = self.session() == Session::Writing && !skipped(Step::EpochAtClose);
        if changed || self.distrusts() {
            self.renew(&mut slots, &mut header)?;
        }
        self.note_fingerprint(&mut header)?;
        self.update(&mut slots, header)?;
        slots.unclean = false;
        self.session.store(Session::None as u8, Ordering::Release);
        drop(slots);
        self.poisoning(self.file.sync())
    }
}

/// Copies what `range` of the file holds to `to`, piece by piece. Holes are passed over.
pub(super) fn copy_data(file: &dyn Storage, range: Range<u64>, to: u64) -> Result<()> {
    let (mut at, mut chunk) = (range.start, Vec::new());
    while let Some(data) = file.next_data(at..range.end)? {
        at = data.end.min(data.start + COPY_CHUNK);
        chunk.resize((at - data.start) as usize, 0);
        file.read_at(&mut chunk, data.start)?;
        file.write_at(&chunk, to + (data.start - range.start))?;
    }
    Ok(())
}

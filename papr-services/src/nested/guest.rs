//! Nested guests of one partition: ids with a generation, quotas, hardware LPIDs, settings, vCPUs.
//!
//! The surprising fact: nothing frees a guest but its last user. Deleting takes it out of the registry and out of the
//! hardware; its memory, its LPID and its share of the quotas come back when the last `Arc` goes, because each is
//! owned by a field that gives itself back.
//!
//! The order of locks is in [`isa::lock::rank`]. No lock is held while a guest runs, or while a thread is waited for.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::{Gra, Nra};
use isa::lock::{Mutex, rank};
use isa::pte::{ROOT_BYTES, pate_process_table, pate_root};

use super::Env;
use super::buffer::{Bad, Item};
use super::element::{Place, Words};
use super::pool::TableQuota;
use super::quota::{Account, Charge, Lease};
pub use super::quota::{Lpids, Quotas};
use super::shadow::{FirstTables, Shadow};
use super::vcpu::{Slot, VCPU_BYTES, Vcpu};
use crate::error::HCode;
use crate::host::{Flush, Host};
use crate::level::Level;
use crate::sync::{AtomicBool, AtomicU32, fence};

/// Highest vCPU id.
pub const MAX_VCPU_ID: u16 = 2047;

/// What a partition sets for all vCPUs of a guest. A run works with a copy from its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) level: Level,
    /// Added to the partition's time base.
    pub(super) tb_offset: u64,
    /// Root of the guest's tree in the partition's memory.
    pub(super) table: Option<Gra>,
    /// Process table in the guest's memory.
    process_table: Nra,
    process_table_bytes: u64,
    pub(super) stage: Stage,
}

/// How far a guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has never run, and has no shadow tables.
    New,
    /// It has tables, and the hardware knows them.
    Furnished,
    /// It left the hardware for good.
    Retired,
}

/// A nested guest.
pub struct Guest {
    id: u32,
    /// Its tables. Before [`Self::lease`] in drop order: the LPID is free only after them.
    pub(super) shadow: Shadow,
    pub(super) settings: Mutex<Settings, rank::GuestSettings>,
    vcpus: Mutex<BTreeMap<u16, Arc<Slot>>, rank::GuestVcpus>,
    /// vCPUs that are in a run.
    running: AtomicU32,
    /// No run starts any more, and those under way end.
    dying: AtomicBool,
    /// Pages whose faults the partition saw, see [`Guest::reflects`].
    reflected: [AtomicU64; REFLECTED],
    lease: Lease,
    _charge: Charge,
}

/// Pages that a guest remembers as reflected.
const REFLECTED: usize = 32;
/// Heap bytes of a guest: itself with reference counts, and its slot.
const GUEST_BYTES: u64 = (size_of::<Guest>() + 16 + size_of::<Entry>()) as u64;

impl Guest {
    /// The id the partition knows it by: never its LPID, never 0, below 2^31.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its hardware LPID, for as long as this exists.
    #[must_use]
    pub fn lpid(&self) -> u32 {
        self.lease.lpid
    }

    /// Its tables.
    #[must_use]
    pub fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// Whether runs must end because it is being deleted.
    pub(super) fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// A vCPU's slot.
    pub(super) fn vcpu(&self, id: u64) -> Option<Arc<Slot>> {
        let id = u16::try_from(id).ok()?;
        self.vcpus.lock().get(&id).cloned()
    }

    /// Makes a vCPU.
    ///
    /// # Errors
    /// H_P3 for an id that no vCPU can have, H_IN_USE for one that exists, H_NOT_ENOUGH_RESOURCES beyond the quotas.
    pub(super) fn create_vcpu(&self, id: u64) -> Result<(), HCode> {
        let id = u16::try_from(id)
            .ok()
            .filter(|id| *id <= MAX_VCPU_ID)
            .ok_or(HCode::H_P3)?;
        let mut vcpus = self.vcpus.lock();
        if vcpus.contains_key(&id) {
            return Err(HCode::H_IN_USE);
        }
        let charge = Charge::new(&self._charge.account, VCPU_BYTES, 1)
            .ok_or(HCode::H_NOT_ENOUGH_RESOURCES)?;
        vcpus.insert(id, Arc::new(Slot::new(Vcpu::new(charge))));
        Ok(())
    }

    /// Counts a run in, unless the guest is being deleted.
    pub(super) fn begin_run(&self) -> bool {
        // A full barrier between the two, as in `stop_runs`: either it sees this run, or this sees it dying.
        self.running.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if self.dying.load(Ordering::Acquire) {
            self.end_run();
            return false;
        }
        true
    }

    /// Counts a run out.
    pub(super) fn end_run(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) != 0
    }

    /// Lets no run begin any more, and kicks the threads that have one: it ends at their next exit, which is now.
    fn stop_runs<H: Host>(&self, host: &H) {
        self.dying.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.is_running() {
            return;
        }
        // A run that is not seen here yet sees `dying` before it enters the guest.
        for runner in self.vcpus.lock().values().filter_map(|slot| slot.runner()) {
            host.kick(runner);
        }
    }

    /// Reads a guest-wide element.
    pub(super) fn read(&self, place: Place) -> Words {
        let settings = *self.settings.lock();
        match place {
            Place::Constant(value) => [value, 0, 0],
            Place::LogicalPvr => [settings.level.logical_pvr().into(), 0, 0],
            Place::TbOffset => [settings.tb_offset, 0, 0],
            Place::PartitionTable => match settings.table {
                Some(root) => [root.0, isa::pte::ADDRESS_BITS.into(), ROOT_BYTES],
                None => [0; 3],
            },
            Place::ProcessTable => [settings.process_table.0, settings.process_table_bytes, 0],
            Place::Nothing
            | Place::Register { .. }
            | Place::Gpr
            | Place::Vsr
            | Place::RunInput
            | Place::RunOutput
            | Place::Vpa
            | Place::Counter(_) => [0; 3],
        }
    }

    /// Applies guest-wide values, all of them accepted by their rules, and tells the hardware.
    ///
    /// # Errors
    /// The element of a level that would change under a running vCPU; nothing is applied then.
    pub(super) fn apply<'a, H: Host, V: Iterator<Item = (Item<'a>, Words)>>(
        &self,
        env: &Env<'_, H>,
        values: impl Fn() -> V,
    ) -> Result<(), Bad> {
        let mut settings = self.settings.lock();
        let changes_level = |(item, words): &(Item<'a>, Words)| {
            matches!(item.element.place, Place::LogicalPvr)
                && Level::from_logical_pvr(words[0]).is_some_and(|level| level != settings.level)
        };
        if self.is_running()
            && let Some((item, _)) = values().find(changes_level)
        {
            return Err(item.refuse(HCode::H_INVALID_ELEMENT_VALUE));
        }
        let (mut tree_changed, mut entry_changed) = (false, false);
        for (item, words) in values() {
            let [first, second, _] = words;
            match item.element.place {
                Place::LogicalPvr => {
                    settings.level = Level::from_logical_pvr(first).unwrap_or(settings.level);
                }
                Place::TbOffset => settings.tb_offset = first,
                Place::PartitionTable => {
                    settings.table = Some(Gra(first));
                    tree_changed = true;
                }
                Place::ProcessTable => {
                    settings.process_table = Nra(first);
                    settings.process_table_bytes = second;
                    entry_changed = true;
                }
                Place::Nothing
                | Place::Constant(_)
                | Place::Register { .. }
                | Place::Gpr
                | Place::Vsr
                | Place::RunInput
                | Place::RunOutput
                | Place::Vpa
                | Place::Counter(_) => {}
            }
        }
        // vCPUs that run on other threads lose their translations by the flushes below and fault into the new tables.
        if settings.stage == Stage::Retired || settings.table.is_none() {
            return Ok(());
        }
        if tree_changed {
            self.shadow.set_table(settings.table, env.host);
        }
        if tree_changed || entry_changed {
            self.publish(env, &settings);
        }
        Ok(())
    }

    /// Tells the hardware where its tables are, if it has any yet.
    fn publish<H: Host>(&self, env: &Env<'_, H>, settings: &Settings) {
        let Some(root) = self.shadow.root_ra() else {
            return;
        };
        let size_field = settings
            .process_table_bytes
            .trailing_zeros()
            .saturating_sub(12);
        let entry = [
            pate_root(root.0),
            pate_process_table(settings.process_table.0, size_field.into()),
        ];
        env.host.set_partition_table_entry(self.lpid(), entry);
    }

    /// Gives it the tables to run with, unless another of its vCPUs was faster; whether it has some. `make` is called under the
    /// lock, so that of two vCPUs that ask at the same time none is refused what the other is about to bring.
    fn furnish<H: Host>(
        &self,
        env: &Env<'_, H>,
        make: impl FnOnce() -> Option<FirstTables>,
    ) -> bool {
        let mut settings = self.settings.lock();
        if settings.stage == Stage::New {
            let Some(tables) = make() else {
                return false;
            };
            self.shadow.furnish(tables);
            settings.stage = Stage::Furnished;
            self.publish(env, &settings);
        }
        true
    }

    /// Takes it out of the hardware, for good. No vCPU is in a run.
    fn retire<H: Host>(&self, env: &Env<'_, H>) {
        let mut settings = self.settings.lock();
        settings.stage = Stage::Retired;
        env.host.set_partition_table_entry(self.lpid(), [0; 2]);
        self.shadow.retire(env.host);
    }

    /// Whether a fault on the page of `address`, which goes to the partition now, went there before: then it is
    /// probably memory-mapped input/output, which no table will ever satisfy, and the partition wants the registers
    /// of the access too. A wrong guess costs a few elements more or less in an output buffer.
    pub(super) fn reflects(&self, address: Nra) -> bool {
        let page = address.0 >> 12;
        let slot = usize::try_from(page).unwrap_or(0) % REFLECTED;
        let tag = page.wrapping_add(1);
        self.reflected
            .get(slot)
            .is_some_and(|seen| seen.swap(tag, Ordering::Relaxed) == tag)
    }
}

/// A place for a guest. The generation makes ids of earlier guests in the same place fail.
struct Entry {
    generation: u32,
    guest: Option<Arc<Guest>>,
}

/// Bits of an id that hold the place, which begins at 1; the generation, from 1, lies above. LPIDs have no more bits
/// than this, so no id is ever an LPID.
const PLACE_BITS: u32 = 12;
const GENERATIONS: u32 = 1 << (31 - PLACE_BITS);

/// The guests of one partition.
pub(super) struct Registry {
    pub(super) account: Arc<Account>,
    pub(super) tables: Arc<TableQuota>,
    lpids: Arc<Lpids>,
    entries: Mutex<Vec<Entry>, rank::Guests>,
}

impl Registry {
    pub(super) fn new(quotas: Quotas, tables: Arc<TableQuota>, lpids: Arc<Lpids>) -> Self {
        Self {
            account: Account::new(quotas),
            tables,
            lpids,
            entries: Mutex::new(Vec::new()),
        }
    }

    fn place(id: u64) -> Option<(usize, u32)> {
        let id = u32::try_from(id).ok()?;
        let place = id & ((1 << PLACE_BITS) - 1);
        Some((
            usize::try_from(place).ok()?.checked_sub(1)?,
            id >> PLACE_BITS,
        ))
    }

    /// The guest of an id, dying or not.
    fn find(&self, id: u64) -> Option<Arc<Guest>> {
        let (place, generation) = Self::place(id)?;
        let entries = self.entries.lock();
        let entry = entries
            .get(place)
            .filter(|entry| entry.generation == generation)?;
        entry.guest.clone()
    }

    /// The guest of an id, if it lives.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Guest>> {
        self.find(id).filter(|guest| !guest.is_dying())
    }

    /// Tables for a guest that runs for the first time. Where others have taken all, one after the other loses its own
    /// until there is room: a full pool means more faults, not fewer guests.
    ///
    /// # Errors
    /// H_NOT_ENOUGH_RESOURCES: there is none to be had; the guest is as it was.
    pub(super) fn furnish<H: Host>(&self, env: &Env<'_, H>, guest: &Guest) -> Result<(), HCode> {
        let make = || FirstTables::new(&self.tables).ok();
        if guest.furnish(env, make) {
            return Ok(());
        }
        let entries = self.entries.lock();
        let mut guests = entries.iter().filter_map(|entry| entry.guest.as_ref());
        let take = || {
            guests.find_map(|other| {
                other.shadow.take_back(env.host);
                make()
            })
        };
        if guest.furnish(env, take) {
            Ok(())
        } else {
            Err(HCode::H_NOT_ENOUGH_RESOURCES)
        }
    }

    /// Makes a guest.
    ///
    /// # Errors
    /// H_NOT_ENOUGH_RESOURCES: quota, ids or LPIDs are used up.
    pub(super) fn create<H: Host>(&self, env: &Env<'_, H>, level: Level) -> Result<u32, HCode> {
        let full = HCode::H_NOT_ENOUGH_RESOURCES;
        let charge = Charge::new(&self.account, GUEST_BYTES, 0).ok_or(full)?;
        let lease = self.lpids.lease().ok_or(full)?;
        let lpid = lease.lpid;
        let shadow = Shadow::new(self.tables.clone(), lpid);
        // The LPID may have had a guest before; nothing of that one is left when this one first runs.
        env.host.set_partition_table_entry(lpid, [0; 2]);
        env.host.flush(Flush::Partition { lpid });

        let mut entries = self.entries.lock();
        let place = match entries.iter().position(|entry| entry.guest.is_none()) {
            Some(place) => place,
            None if entries.len()
                < usize::from(self.account.quotas.guests.min(Quotas::MAX_GUESTS)) =>
            {
                entries.try_reserve(1).map_err(|_| full)?;
                entries.push(Entry {
                    generation: 0,
                    guest: None,
                });
                entries.len().saturating_sub(1)
            }
            None => return Err(full),
        };
        let number = u32::try_from(place).map_err(|_| full)?.saturating_add(1);
        let entry = entries.get_mut(place).ok_or(full)?;
        entry.generation = match entry.generation.saturating_add(1) {
            GENERATIONS.. => 1,
            next => next,
        };
        let id = (entry.generation << PLACE_BITS) | number;
        let settings = Settings {
            level,
            tb_offset: 0,
            table: None,
            process_table: Nra(0),
            process_table_bytes: 4096,
            stage: Stage::New,
        };
        entry.guest = Some(Arc::new(Guest {
            id,
            shadow,
            settings: Mutex::new(settings),
            vcpus: Mutex::new(BTreeMap::new()),
            running: AtomicU32::new(0),
            dying: AtomicBool::new(false),
            reflected: [const { AtomicU64::new(0) }; REFLECTED],
            lease,
            _charge: charge,
        }));
        Ok(id)
    }

    /// Deletes a guest. Its vCPUs that are in a run are stopped first, by a kick of their threads. Where a kick takes
    /// longer than this call may, their runs end later, at the latest when the hypervisor decrementer of the thread
    /// runs out, and the caller asks again.
    ///
    /// # Errors
    /// H_P2 when there is none of that id, H_BUSY while a vCPU still runs.
    pub(super) fn delete<H: Host>(&self, env: &Env<'_, H>, id: u64) -> Result<(), HCode> {
        let guest = self.find(id).ok_or(HCode::H_P2)?;
        guest.stop_runs(env.host);
        if env.host.wait_until(|| !guest.is_running()) {
            self.remove(env, id).map(drop)
        } else {
            Err(HCode::H_BUSY)
        }
    }

    /// Takes a guest that has no run out of the registry and out of the hardware. Answers whether it was there.
    fn remove<H: Host>(&self, env: &Env<'_, H>, id: u64) -> Result<bool, HCode> {
        let (place, generation) = Self::place(id).ok_or(HCode::H_P2)?;
        let taken = self
            .entries
            .lock()
            .get_mut(place)
            .filter(|entry| entry.generation == generation)
            .and_then(|entry| entry.guest.take());
        // Another thread may have been faster.
        if let Some(guest) = &taken {
            guest.retire(env);
        }
        Ok(taken.is_some())
    }

    /// Deletes all guests; answers how many.
    ///
    /// # Errors
    /// H_BUSY when some still run; the others are gone.
    pub(super) fn delete_all<H: Host>(&self, env: &Env<'_, H>) -> Result<u32, HCode> {
        // One at a time, so that the lock is not held while hardware is told and threads are waited for.
        let places = self.entries.lock().len();
        let guest = |place: usize| {
            let entries = self.entries.lock();
            entries.get(place).and_then(|entry| entry.guest.clone())
        };
        for guest in (0..places).filter_map(guest) {
            guest.stop_runs(env.host);
        }
        // Who is not dying was made since, in the place of one that is gone.
        let doomed = || {
            (0..places)
                .filter_map(guest)
                .filter(|guest| guest.is_dying())
        };
        let all = env
            .host
            .wait_until(|| !doomed().any(|guest| guest.is_running()));
        let (mut deleted, mut left): (u32, bool) = (0, false);
        for guest in doomed() {
            // Once it was seen without a run, what is seen of one is about to find that there are none any more, so this
            // takes no time. But it may have come to its place since, and be dying because somebody else said so.
            let ended = || !guest.is_running();
            if (all && env.host.wait_until(ended)) || ended() {
                let was_there = self.remove(env, guest.id().into())?;
                deleted = deleted.saturating_add(was_there.into());
            } else {
                left = true;
            }
        }
        if left {
            Err(HCode::H_BUSY)
        } else {
            Ok(deleted)
        }
    }
}

#[cfg(test)]
impl Registry {
    /// As if so many guests had lived in a place.
    pub(super) fn set_generation(&self, place: usize, generation: u32) {
        self.entries.lock()[place].generation = generation;
    }
}

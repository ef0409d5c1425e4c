//! Nested guests (L2): what a partition runs through the nested API, version 2 (`H_GUEST_*`).
//!
//! This tree owns everything of a nested guest: its state, its shadow tables, and the calls about them. The
//! partition sees none of the tables here; it keeps a tree of its own in its memory, which is composed with ours.
//!
//! | call | here |
//! |---|---|
//! | H_GUEST_GET_CAPABILITIES, H_GUEST_SET_CAPABILITIES | [`Nested::get_capabilities`], [`Nested::set_capabilities`] |
//! | H_GUEST_CREATE, H_GUEST_CREATE_VCPU, H_GUEST_DELETE | [`Nested::create`], [`Nested::create_vcpu`], [`Nested::delete`] |
//! | H_GUEST_GET_STATE, H_GUEST_SET_STATE | [`Nested::get_state`], [`Nested::set_state`] |
//! | H_GUEST_RUN_VCPU | [`Nested::run`], [`run::Running`] |
//! | H_GUEST_COPY_MEMORY | not offered: its arguments are not public |
//!
//! The surprising fact: a second H_GUEST_SET_CAPABILITIES succeeds and deletes every guest. Linux calls it whenever
//! its module is loaded, so guests that exist then belong to a kernel that is gone. A kernel started by kexec that never
//! loads the module is noticed earlier: it registers a process table where one is ([`Nested::reset`]).

pub mod buffer;
pub mod element;
pub mod guest;
pub mod invalidate;
pub mod pool;
pub mod quota;
pub mod rule;
pub mod run;
pub mod shadow;
pub mod vcpu;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use isa::addr::Gra;

use self::buffer::{Bad, Item, Items, Purpose};
use self::element::{Counter, Limits, Own, Place, Scope, Words};
use self::guest::{Guest, Lpids, Quotas, Registry};
use self::pool::TableQuota;
use crate::error::{Answer, HCode, Outputs, Refusal};
use crate::guest_ram::GuestRam;
use crate::host::Host;
use crate::level::Level;

/// The partition that calls, and the machine.
pub struct Env<'a, H> {
    /// The partition's memory.
    pub ram: &'a GuestRam,
    /// The machine.
    pub host: &'a H,
    /// The partition's hardware LPID.
    pub lpid: u32,
}

/// What is decided for a partition's nested guests.
pub struct NestedConfig {
    /// The partition's own level: guests have at most this one.
    pub level: Level,
    /// What the partition runs with: guests have at most this.
    pub own: Own,
    /// Limits.
    pub quotas: Quotas,
}

/// The nested API of one partition.
pub struct Nested {
    level: Level,
    own: Own,
    registry: Registry,
    /// Levels that the partition chose; 0 before it did.
    chosen: AtomicU64,
    /// How often it left guests behind.
    left: AtomicU32,
}

/// Flags of GET_STATE and SET_STATE.
mod flag {
    /// Elements of the guest; the vCPU does not matter.
    pub(super) const GUEST_WIDE: u64 = 1 << 63;
    /// Elements of the hypervisor; guest and vCPU do not matter.
    pub(super) const HOST_WIDE: u64 = 1 << 62;
}

/// Refuses reserved flags: the code tells the first of them.
fn only_flags(flags: u64, known: u64) -> Result<(), HCode> {
    let reserved = flags & !known;
    match u8::try_from(reserved.leading_zeros()) {
        Ok(bit @ 0..64) => Err(HCode::H_UNSUPPORTED_FLAG(bit)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// `token` of the first H_GUEST_CREATE. No other is ever given out, because guests are made in one go.
const NEW_GUEST: u64 = !0;

impl Nested {
    /// No guests yet. `tables` is the partition's share of table memory, `lpids` the machine's free LPIDs.
    #[must_use]
    pub fn new(config: &NestedConfig, tables: Arc<TableQuota>, lpids: Arc<Lpids>) -> Self {
        Self {
            level: config.level,
            own: config.own,
            registry: Registry::new(config.quotas, tables, lpids),
            chosen: AtomicU64::new(0),
            left: AtomicU32::new(0),
        }
    }

    /// A live guest of this partition, for H_RPT_INVALIDATE.
    #[must_use]
    pub fn guest(&self, id: u64) -> Option<Arc<Guest>> {
        self.registry.get(id)
    }

    fn limits<'a, H>(&self, env: &Env<'a, H>) -> Limits<'a> {
        Limits {
            ram: env.ram,
            own: self.own,
            levels: self.chosen.load(Ordering::Acquire),
        }
    }

    /// H_GUEST_GET_CAPABILITIES: r4 is the levels that a guest can have.
    ///
    /// # Errors
    /// H_PARAMETER for flags.
    pub fn get_capabilities(&self, flags: u64) -> Answer {
        if flags != 0 {
            return Err(HCode::H_PARAMETER.into());
        }
        Ok([self.level.offered()].into())
    }

    /// H_GUEST_SET_CAPABILITIES: chooses levels, and deletes all guests.
    ///
    /// # Errors
    /// H_PARAMETER for flags; H_P2 for levels that are not offered, or none, with 1 in r4 (bad bitmaps) and 0 in r5
    /// (the first of them); H_BUSY while a guest of the partition still runs.
    pub fn set_capabilities<H: Host>(
        &self,
        env: &Env<'_, H>,
        flags: u64,
        capabilities: u64,
    ) -> Answer {
        if flags != 0 {
            return Err(HCode::H_PARAMETER.into());
        }
        if capabilities == 0 || capabilities & !self.level.offered() != 0 {
            return Err(Refusal::with(HCode::H_P2, [1, 0]));
        }
        self.registry.delete_all(env)?;
        self.chosen.store(capabilities, Ordering::Release);
        Ok(Outputs::NONE)
    }

    /// Forgets all guests and the choice of levels: the partition's kernel is gone. Says so when it left guests behind.
    ///
    /// # Errors
    /// H_BUSY while a vCPU runs on another thread: to be repeated.
    pub fn reset<H: Host>(&self, env: &Env<'_, H>) -> Result<(), HCode> {
        /// How often it is said: nothing keeps a partition from doing so for ever.
        const MOST_LINES: u32 = 64;
        let deleted = self.registry.delete_all(env)?;
        self.chosen.store(0, Ordering::Release);
        if deleted != 0 && self.left.fetch_add(1, Ordering::Relaxed) < MOST_LINES {
            log::info!(
                "partition {}: nested guests deleted with their kernel: {deleted}; in use: {} bytes of heap, {} of tables",
                env.lpid,
                self.registry.account.heap(),
                self.registry.tables.in_use(),
            );
        }
        Ok(())
    }

    /// H_GUEST_CREATE: r4 is the new guest's id.
    ///
    /// # Errors
    /// H_STATE before capabilities were set, H_NOT_ENOUGH_RESOURCES beyond quotas. These are codes that Linux
    /// understands here; it takes an unknown one for success. H_P2 for a token and the code of a reserved flag go to
    /// callers that Linux is not.
    pub fn create<H: Host>(&self, env: &Env<'_, H>, flags: u64, token: u64) -> Answer {
        only_flags(flags, 0)?;
        let chosen = self.chosen.load(Ordering::Acquire);
        if chosen == 0 {
            return Err(HCode::H_STATE.into());
        }
        if token != NEW_GUEST {
            return Err(HCode::H_P2.into());
        }
        // The partition's own level or, when it did not choose that, the highest it chose.
        let level = Level::highest(chosen).ok_or(HCode::H_STATE)?;
        let id = self.registry.create(env, level)?;
        Ok([id.into()].into())
    }

    /// H_GUEST_CREATE_VCPU.
    ///
    /// # Errors
    /// H_P2, H_P3 for bad ids, H_IN_USE when it exists, H_NOT_ENOUGH_RESOURCES beyond quotas.
    pub fn create_vcpu(&self, flags: u64, guest: u64, vcpu: u64) -> Answer {
        only_flags(flags, 0)?;
        self.registry
            .get(guest)
            .ok_or(HCode::H_P2)?
            .create_vcpu(vcpu)?;
        Ok(Outputs::NONE)
    }

    /// H_GUEST_DELETE.
    ///
    /// # Errors
    /// H_P2 for an unknown id; H_BUSY while a vCPU runs: ask again.
    pub fn delete<H: Host>(&self, env: &Env<'_, H>, flags: u64, guest: u64) -> Answer {
        /// The id does not matter: all of them.
        const ALL: u64 = 1 << 63;
        only_flags(flags, ALL)?;
        if flags & ALL != 0 {
            self.registry.delete_all(env)?;
        } else {
            self.registry.delete(env, guest)?;
        }
        Ok(Outputs::NONE)
    }

    /// H_GUEST_GET_STATE: writes the values of the elements in the buffer.
    ///
    /// # Errors
    /// Bad flags, ids, buffer; H_IN_USE while the vCPU runs; a refused element with its index in r4.
    pub fn get_state<H: Host>(
        &self,
        env: &Env<'_, H>,
        flags: u64,
        guest: u64,
        vcpu: u64,
        buffer: Gra,
        size: u64,
    ) -> Answer {
        only_flags(flags, flag::GUEST_WIDE | flag::HOST_WIDE)?;
        let fill = |bytes: &[u8], scope, read: &dyn Fn(&Item<'_>) -> Words| {
            buffer::get(env.ram, buffer, bytes, scope, read)
        };
        match (flags & flag::GUEST_WIDE != 0, flags & flag::HOST_WIDE != 0) {
            (true, true) => return Err(HCode::H_PARAMETER.into()),
            (false, true) => {
                let bytes = buffer::copy(env.ram, buffer, size)?;
                fill(&bytes, Scope::Host, &|item| {
                    self.host_wide(item.element.place)
                })?;
            }
            (true, false) => {
                let guest = self.registry.get(guest).ok_or(HCode::H_P2)?;
                let bytes = buffer::copy(env.ram, buffer, size)?;
                fill(&bytes, Scope::Guest, &|item| guest.read(item.element.place))?;
            }
            (false, false) => {
                let guest = self.registry.get(guest).ok_or(HCode::H_P2)?;
                let slot = guest.vcpu(vcpu).ok_or(HCode::H_P3)?;
                let bytes = buffer::copy(env.ram, buffer, size)?;
                slot.with(|vcpu| {
                    fill(&bytes, Scope::Thread, &|item| {
                        item.element.read(vcpu, item.number)
                    })
                })
                .ok_or(HCode::H_IN_USE)??;
            }
        }
        Ok(Outputs::NONE)
    }

    /// H_GUEST_SET_STATE: sets all elements of the buffer or, when one is refused, none.
    ///
    /// # Errors
    /// Bad flags, ids, buffer; H_IN_USE while the vCPU runs; a refused element with its index in r4. A new level while a vCPU
    /// of the guest runs is refused so, too.
    pub fn set_state<H: Host>(
        &self,
        env: &Env<'_, H>,
        flags: u64,
        guest: u64,
        vcpu: u64,
        buffer: Gra,
        size: u64,
    ) -> Answer {
        only_flags(flags, flag::GUEST_WIDE)?;
        let guest = self.registry.get(guest).ok_or(HCode::H_P2)?;
        let limits = self.limits(env);
        if flags & flag::GUEST_WIDE != 0 {
            let bytes = buffer::copy(env.ram, buffer, size)?;
            let purpose = Purpose::Set(Scope::Guest);
            for item in Items::new(&bytes, purpose) {
                item.and_then(|item| item.accepted(&limits))
                    .map_err(Bad::by_index)?;
            }
            // Every element was accepted, so nothing is left out here.
            let values = || {
                Items::new(&bytes, purpose).filter_map(|item| {
                    let item = item.ok()?;
                    Some((item, item.accepted(&limits).ok()?))
                })
            };
            guest.apply(env, values).map_err(Bad::by_index)?;
        } else {
            let slot = guest.vcpu(vcpu).ok_or(HCode::H_P3)?;
            let bytes = buffer::copy(env.ram, buffer, size)?;
            slot.with(|vcpu| buffer::set_vcpu(vcpu, &bytes, Purpose::Set(Scope::Thread), &limits))
                .ok_or(HCode::H_IN_USE)?
                .map_err(Bad::by_index)?;
        }
        Ok(Outputs::NONE)
    }

    fn host_wide(&self, place: Place) -> Words {
        let Place::Counter(counter) = place else {
            return [0; 3];
        };
        let (account, tables) = (&self.registry.account, &self.registry.tables);
        let value = match counter {
            Counter::Heap => account.heap(),
            Counter::HeapMax => account.heap_max(),
            Counter::Tables => tables.in_use(),
            Counter::TablesMax => tables.limit(),
            Counter::Reclaimed => tables.reclaimed(),
        };
        [value, 0, 0]
    }
}

#[cfg(all(test, feature = "model"))]
mod model;
#[cfg(test)]
mod tests;

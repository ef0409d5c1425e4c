//! The chip's cached copies of the tables: how to change them, to bring memory up to date, to wait for events in flight.
//!
//! Owns the sequences that need a chip's lock: cache watch, scrub, sync, kill of indirect descriptors, table
//! descriptors (reference/hardware.md 5.6). All waits end. The surprising fact: the watch is a transaction on the chip's
//! own copy: it loads the entry, and the commit says whether the chip changed it meanwhile, so nothing is lost.

use isa::barrier::sync as memory_barrier;
use isa::timebase::Deadline;

use super::controller::Locked;
use super::memory::TableMemory;
use super::registers::{self as regs, Ic, Windows};
use super::tables::{Eas, End, Entry, Nvp, Table, Vsd};
use super::{Unit, XiveError};
use crate::mmio::{Mmio, Reg};

/// How long a scrub or a kill may take. They take microseconds; the rest is for being held up between two looks.
const FLUSH_PATIENCE_MS: u64 = 20;
/// How long queues in front of the tables may take to drain.
const SYNC_PATIENCE_MS: u64 = 200;
/// How often an update is tried against a chip that keeps changing the entry.
const WATCH_TRIES: u32 = 10;

/// One of the two caches with a watch.
#[derive(Clone, Copy)]
struct Watch {
    spec: Reg<Ic>,
    data: u64,
    flush_poll: Reg<Ic>,
    flush_control: Reg<Ic>,
    unit: Unit,
}

const END_WATCH: Watch = Watch {
    spec: regs::VC_ENDC_WATCH_SPEC,
    data: regs::VC_ENDC_WATCH_DATA,
    flush_poll: regs::VC_ENDC_FLUSH_POLL,
    flush_control: regs::VC_ENDC_FLUSH_CTRL,
    unit: Unit::EndCache,
};

const NVP_WATCH: Watch = Watch {
    spec: regs::PC_NXC_WATCH_SPEC,
    data: regs::PC_NXC_WATCH_DATA,
    flush_poll: regs::PC_NXC_FLUSH_POLL,
    flush_control: regs::PC_NXC_FLUSH_CTRL,
    unit: Unit::NvpCache,
};

impl Watch {
    const fn data(self, n: u64) -> Reg<Ic> {
        Reg::new(self.data + 8 * n)
    }
}

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    fn ic(&self) -> &W::Ic {
        self.chip.windows.ic()
    }

    /// Waits until `register` has none of `bits`.
    fn until_clear(&self, register: Reg<Ic>, bits: u64, unit: Unit) -> Result<(), XiveError> {
        Deadline::after_ms(FLUSH_PATIENCE_MS)
            .wait_for(|| (self.ic().read64(register) & bits == 0).then_some(()))
            .ok_or(XiveError::Stuck(unit))?;
        memory_barrier();
        Ok(())
    }

    /// Makes the chip forget its copy of an assignment, which was changed in memory.
    pub(crate) fn scrub_eas(&self, index: u32) -> Result<(), XiveError> {
        memory_barrier();
        // Block 4 bits, index 28 bits, both compared in full.
        let block = u64::from(self.chip.block) << 60;
        let entry = block | u64::from(index) << 32 | 0xffff_ffff;
        self.ic().write64(regs::VC_EASC_FLUSH_POLL, entry);
        self.until_clear(regs::VC_EASC_FLUSH_CTRL, regs::FLUSH_VALID, Unit::EasCache)
    }

    fn scrub(&self, watch: Watch, index: u32) -> Result<(), XiveError> {
        // Block 4 bits from bit 4, index 24 bits, both compared in full.
        let block = u64::from(self.chip.block) << 56;
        let entry = block | u64::from(index) << 32 | 0x0fff_ffff;
        self.ic().write64(watch.flush_poll, entry);
        self.until_clear(watch.flush_control, regs::FLUSH_VALID, watch.unit)
    }

    /// Brings memory up to date with the chip's copy of an event descriptor.
    pub(crate) fn scrub_end(&self, index: u32) -> Result<(), XiveError> {
        self.scrub(END_WATCH, index)
    }

    /// Brings memory up to date with the chip's copy of a virtual processor.
    pub(crate) fn scrub_nvp(&self, index: u32) -> Result<(), XiveError> {
        self.scrub(NVP_WATCH, index)
    }

    /// Brings memory up to date with what was committed to the chip's copy.
    fn settle(&self, watch: Watch, index: u32) -> Result<(), XiveError> {
        self.scrub(watch, index)
            .map_err(|_| XiveError::Unsettled(watch.unit))
    }

    fn spec(&self, index: u32) -> u64 {
        u64::from(self.chip.block) << regs::WATCH_BLOCK_SHIFT | u64::from(index)
    }

    /// Changes an entry in the chip's cache and in memory; `change` sees what the chip has. [`XiveError::Unsettled`] when the
    /// chip has it, but memory may not.
    fn update<K>(
        &self,
        watch: Watch,
        index: u32,
        change: impl Fn(Entry<K>) -> Entry<K>,
    ) -> Result<(), XiveError> {
        let ic = self.ic();
        memory_barrier();
        for _ in 0..WATCH_TRIES {
            ic.write64(watch.spec, self.spec(index) | regs::WATCH_FULL);
            // Loading the first doubleword is what fills the others.
            let mut old = [0; 4];
            for (n, doubleword) in (0..).zip(&mut old) {
                *doubleword = ic.read64(watch.data(n));
            }
            let new = change(Entry::from_doublewords(old)).doublewords();
            // Storing the first doubleword is what commits.
            for (n, doubleword) in [0, 1, 2, 3].into_iter().zip(new).rev() {
                ic.write64(watch.data(n), doubleword);
            }
            let refused = regs::WATCH_FULL | regs::WATCH_CONFLICT;
            if ic.read64(watch.spec) & refused != refused {
                return self.settle(watch, index);
            }
        }
        Err(XiveError::Busy)
    }

    /// Changes an event descriptor.
    ///
    /// # Errors
    /// [`XiveError::Busy`] when the chip keeps changing it too; nothing was changed. [`XiveError::Unsettled`].
    pub(crate) fn update_end(
        &self,
        index: u32,
        change: impl Fn(End) -> End,
    ) -> Result<(), XiveError> {
        self.update(END_WATCH, index, change)
    }

    /// Changes a virtual processor.
    ///
    /// # Errors
    /// [`XiveError::Busy`] when the chip keeps changing it too; nothing was changed. [`XiveError::Unsettled`].
    pub(crate) fn update_nvp(
        &self,
        index: u32,
        change: impl Fn(Nvp) -> Nvp,
    ) -> Result<(), XiveError> {
        self.update(NVP_WATCH, index, change)
    }

    /// Changes where a descriptor escalates to. A light watch: the chip may go on using the rest of the descriptor, so
    /// there is no conflict to look for.
    pub(crate) fn update_escalation(
        &self,
        index: u32,
        change: impl Fn(Eas) -> Eas,
    ) -> Result<(), XiveError> {
        let (ic, watch) = (self.ic(), END_WATCH);
        memory_barrier();
        ic.write64(watch.spec, self.spec(index));
        let first = ic.read64(watch.data(0));
        let new = change(Eas(ic.read64(watch.data(2))));
        ic.write64(watch.data(2), new.0);
        ic.write64(watch.data(0), first);
        // The load makes sure that the commit has arrived.
        let _ = ic.read64(watch.spec);
        self.settle(watch, index)
    }

    /// Waits until all events that are on their way through this chip have reached their queues.
    pub(crate) fn sync(&self) -> Result<(), XiveError> {
        let ic = self.ic();
        for port in 0..regs::QUEUES {
            ic.write64(regs::sync_port(port), 0);
        }
        let done = Deadline::after_ms(SYNC_PATIENCE_MS)
            .wait_for(|| {
                let done = ic.read64(regs::VC_SYNC_DONE);
                (done & regs::SYNC_DONE_ALL == regs::SYNC_DONE_ALL).then_some(done)
            })
            .ok_or(XiveError::Stuck(Unit::Sync))?;
        ic.write64(regs::VC_SYNC_DONE, done & !regs::SYNC_DONE_ALL);
        // The clear must have arrived before the next sync starts.
        let _ = ic.read64(regs::VC_SYNC_DONE);
        memory_barrier();
        Ok(())
    }

    /// Makes the chip forget which pages the indirect tables of events and virtual processors have.
    pub(crate) fn kill_indirect(&self) -> Result<(), XiveError> {
        let ic = self.ic();
        memory_barrier();
        let end = (Table::End as u64) << regs::VC_KILL_TABLE_SHIFT;
        ic.write64(regs::VC_KILL_MASK, 0);
        ic.write64(regs::VC_KILL, regs::KILL_VALID | end);
        self.until_clear(regs::VC_KILL, regs::KILL_VALID, Unit::VcKill)?;
        let nvp = (Table::Nvp as u64) << regs::PC_KILL_TABLE_SHIFT;
        ic.write64(regs::PC_KILL_MASK, 0);
        ic.write64(regs::PC_KILL, regs::KILL_VALID | nvp);
        self.until_clear(regs::PC_KILL, regs::KILL_VALID, Unit::PcKill)
    }

    /// Tells the chip where a table of block (or chip, or queue) `which` is.
    pub(crate) fn set_table(&self, table: Table, which: u8, vsd: Vsd) {
        let address =
            (table as u64) << regs::VSD_TABLE_SHIFT | u64::from(which) << regs::VSD_BLOCK_SHIFT;
        self.ic().write64(regs::VC_VSD_ADDRESS, address);
        self.ic().write64(regs::VC_VSD_DATA, vsd.0);
        if !table.is_vc_only() {
            self.ic().write64(regs::PC_VSD_ADDRESS, address);
            self.ic().write64(regs::PC_VSD_DATA, vsd.0);
        }
    }
}

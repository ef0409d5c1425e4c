//! Virtual processors: blocks of them, their state, and the one escalation that may stand for all their queues.
//!
//! Owns the operations on [`Nvp`]. A block has the same indexes on each of the chips that it is spread over. The
//! surprising fact: that a processor gathers its escalations is recorded nowhere in it, only in its last queue.

use isa::addr::Ra;

use super::controller::{Locked, PRIORITIES};
use super::memory::TableMemory;
use super::registers::Windows;
use super::tables::{End, Index, Nvp, end, nvp};
use super::vp_blocks::MIN_ORDER;
use super::{HW_THREADS, HW_VP_BASE, Xive, XiveError};

/// How a virtual processor is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpSetup {
    /// All its queues escalate through one source, that of priority 7, which is no queue then.
    pub single_escalation: bool,
    /// Address of a pair of lines for reports, 0 for none; aligned to 256.
    pub report: Ra,
}

/// A virtual processor as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VpInfo {
    /// It is in use.
    pub enabled: bool,
    /// All its queues escalate through one source.
    pub single_escalation: bool,
    /// The chip saves and restores its context.
    pub save_restore: bool,
    /// What names it in a thread's context, without the valid bit.
    pub cam: u32,
    /// Address of its lines for reports, 0 for none.
    pub report: Ra,
}

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    /// Makes the last queue of `ends` gather the escalations of the others, or stops that.
    fn gather(&self, ends: Index, enable: bool) -> Result<(), XiveError> {
        let last = ends.plus(PRIORITIES - 1);
        let old = self.load_end(last.index)?;
        let gathers = old.has(&end::SILENT);
        if enable && old.has(&end::VALID) && !gathers {
            return Err(XiveError::Gathering);
        }
        if enable {
            let gatherer = |old: End| {
                [
                    end::VALID,
                    end::SILENT,
                    end::ESCALATE,
                    end::BACKLOG,
                    end::ESCALATE_TO_END,
                ]
                .iter()
                .fold(old, |new, flag| new.with(flag, 1))
                .with(&end::ESN, 0b01)
                .with(&end::ESE, 0b00)
            };
            // Not touched when it gathers already: its buffer may be holding an escalation.
            if !gathers {
                self.update_end(last.index, gatherer)?;
            }
        } else if gathers {
            self.update_end(last.index, |_| End::off())?;
        }
        for priority in 0..PRIORITIES - 1 {
            let at = ends.plus(priority);
            let old = self.load_end(at.index)?;
            if enable {
                let new = |old: End| {
                    old.with(&end::UNCONDITIONAL, 1)
                        .with(&end::ESCALATE_TO_END, 1)
                        .with(&end::TO_BLOCK, last.block.into())
                        .with(&end::TO_INDEX, last.index)
                };
                if new(old) != old {
                    self.update_end(at.index, new)?;
                }
            } else if old.has(&end::UNCONDITIONAL) {
                self.update_end(at.index, |old| {
                    old.with(&end::UNCONDITIONAL, 0).with(&end::ESCALATE, 0)
                })?;
            }
        }
        Ok(())
    }

    /// Gives a virtual processor of a new block its event descriptors.
    fn populate(&mut self, index: u32) -> Result<(), XiveError> {
        let ends = self.allocate_ends()?;
        let made = self.update_nvp(index, |_| Nvp::default().with_ends(ends));
        if made.is_err() {
            self.free_ends(ends)?;
        }
        made
    }

    /// Takes a virtual processor's event descriptors back.
    fn depopulate(&mut self, index: u32) -> Result<(), XiveError> {
        let Some(ends) = self.load_nvp(index)?.ends() else {
            return Ok(());
        };
        self.update_nvp(index, |_| Nvp::default())?;
        self.free_ends(ends)
    }
}

impl<W: Windows, T: TableMemory> Xive<W, T> {
    fn with_vp<R>(
        &self,
        vp: Index,
        body: impl FnOnce(&Locked<'_, W, T>, Nvp, Index) -> Result<R, XiveError>,
    ) -> Result<R, XiveError> {
        let chip = self.controller(vp.block).map_err(|_| XiveError::NoVp)?;
        let locked = chip.lock(&self.tables);
        let (nvp, ends) = locked.allocated_nvp(vp.index)?;
        body(&locked, nvp, ends)
    }

    /// The blocks over which virtual processors are spread.
    fn vp_range(&self) -> core::ops::Range<u8> {
        0..1 << self.vp_blocks_log2()
    }

    /// Allocates 2^`order` virtual processors, at least two, on each of 2^[`vp_blocks_log2`](Self::vp_blocks_log2)
    /// blocks; answers the first index, a multiple of 2^`order`.
    ///
    /// # Errors
    /// [`XiveError::NoPages`]: [`donate`](Self::donate) a page to each of these blocks and try again;
    /// [`XiveError::Full`].
    pub fn allocate_vps(&self, order: u8) -> Result<u32, XiveError> {
        let order = order.max(MIN_ORDER);
        let vps = self.vps.lock();
        let first = vps.allocate(&self.tables, order).ok_or(XiveError::Full)?;
        let count = 1 << order;
        let made = self.vp_range().try_for_each(|block| {
            let mut chip = self.controller(block)?.lock(&self.tables);
            chip.provide_nvps(first, count)?;
            chip.provide_ends(count)
        });
        let made = made.and_then(|()| self.populate(first, count));
        if let Err(error) = made {
            self.depopulate(first, count)?;
            vps.free(&self.tables, first, order);
            return Err(error);
        }
        Ok(first)
    }

    fn populate(&self, first: u32, count: u32) -> Result<(), XiveError> {
        self.vp_range().try_for_each(|block| {
            let mut chip = self.controller(block)?.lock(&self.tables);
            (first..first + count).try_for_each(|index| chip.populate(index))
        })
    }

    fn depopulate(&self, first: u32, count: u32) -> Result<(), XiveError> {
        for block in self.vp_range() {
            let mut chip = self.controller(block)?.lock(&self.tables);
            for index in first..first + count {
                match chip.depopulate(index) {
                    // No page, so nothing to take back.
                    Ok(()) | Err(XiveError::NoVp) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Frees what [`allocate_vps`](Self::allocate_vps) gave, with the same order.
    ///
    /// # Errors
    /// [`XiveError::NoVp`] when it is no such block; [`XiveError::Active`] when one of them is enabled.
    pub fn free_vps(&self, first: u32, order: u8) -> Result<(), XiveError> {
        let vps = self.vps.lock();
        let is_threads = first == HW_VP_BASE && 1 << order == HW_THREADS;
        if is_threads || !vps.is_allocated(&self.tables, first, order) {
            return Err(XiveError::NoVp);
        }
        let count = 1 << order;
        for block in self.vp_range() {
            let chip = self.controller(block)?.lock(&self.tables);
            for index in first..first + count {
                if chip.load_nvp(index)?.has(&nvp::VALID) {
                    return Err(XiveError::Active);
                }
            }
        }
        self.depopulate(first, count)?;
        vps.free(&self.tables, first, order);
        Ok(())
    }

    /// Describes a virtual processor.
    ///
    /// # Errors
    /// [`XiveError::NoVp`].
    pub fn vp(&self, vp: Index) -> Result<VpInfo, XiveError> {
        self.with_vp(vp, |chip, nvp, ends| {
            let save_restore = chip.chip.capabilities.save_restore;
            let hardware = if save_restore {
                super::tima::WORD2_HARDWARE
            } else {
                0
            };
            let last = chip.load_end(ends.plus(PRIORITIES - 1).index)?;
            Ok(VpInfo {
                enabled: nvp.has(&nvp::VALID),
                single_escalation: last.has(&end::SILENT),
                save_restore,
                cam: u32::from(vp.block) << 24 | vp.index | hardware,
                report: nvp.report(),
            })
        })
    }

    /// Enables a virtual processor, or with `None` disables it.
    ///
    /// # Errors
    /// [`XiveError::NoVp`]; [`XiveError::BadAddress`]; [`XiveError::Gathering`] when priority 7 is in use as a queue;
    /// [`XiveError::Busy`].
    pub fn set_vp(&self, vp: Index, setup: Option<VpSetup>) -> Result<(), XiveError> {
        self.with_vp(vp, |chip, _, ends| {
            let Some(setup) = setup else {
                chip.gather(ends, false)?;
                return chip.update_nvp(vp.index, |mut old| {
                    old.words[0] = 0;
                    old.with_report(Ra(0))
                });
            };
            if !setup.report.is_aligned(256) || setup.report.0 >= 1 << 60 {
                return Err(XiveError::BadAddress);
            }
            chip.gather(ends, setup.single_escalation)?;
            let save_restore = chip.chip.capabilities.save_restore;
            chip.update_nvp(vp.index, |old| {
                let new = old.with(&nvp::VALID, 1).with_report(setup.report);
                if !save_restore {
                    return new;
                }
                new.with(&nvp::PRIVILEGE, 0)
                    .with(&nvp::CPPR, 0xff)
                    .with(&nvp::HARDWARE, 1)
            })
        })
    }

    /// The saved state of a virtual processor as words 0 and 1 of its ring: CPPR, pending priorities, least favoured
    /// backlog in bytes 1 to 3.
    ///
    /// # Errors
    /// [`XiveError::NoVp`]; [`XiveError::Disabled`].
    pub fn vp_state(&self, vp: Index) -> Result<u64, XiveError> {
        self.with_vp(vp, |chip, _, _| {
            chip.scrub_nvp(vp.index)?;
            let nvp = chip.load_nvp(vp.index)?;
            if !nvp.has(&nvp::VALID) {
                return Err(XiveError::Disabled);
            }
            let byte = |field, shift| u64::from(nvp.get(field)) << shift;
            Ok(byte(&nvp::CPPR, 48) | byte(&nvp::IPB, 40) | byte(&nvp::LSMFB, 32))
        })
    }

    /// The words of a virtual processor, for people.
    ///
    /// # Errors
    /// [`XiveError::NoVp`].
    pub fn dump_vp(&self, vp: Index) -> Result<Nvp, XiveError> {
        self.with_vp(vp, |chip, _, _| {
            chip.scrub_nvp(vp.index)?;
            chip.load_nvp(vp.index)
        })
    }

    /// A ring of a thread's context, for people: 0 user, 1 operating system, 2 pool, 3 physical. Words 0, 1 and 2.
    ///
    /// # Errors
    /// [`XiveError::NoVp`] when there is no such thread.
    pub fn dump_ring(&self, pir: u32, ring: u8) -> Result<(u64, u32), XiveError> {
        use super::registers::thread_context;
        use crate::mmio::Mmio;

        let vp = self.thread_vp(pir)?;
        let (block, local) = self.thread(pir)?;
        debug_assert_eq!(block, vp.block);
        let chip = self.controller(block)?.lock(&self.tables);
        let ic = chip.chip.windows.ic();
        let at = u64::from(ring & 3) * 0x10;
        let first = ic.read64(thread_context(local, at));
        // Of the physical ring's word 2 only the first byte can be loaded.
        let second = if ring & 3 == 3 {
            u32::from(ic.read8(thread_context(local, at + 8))) << 24
        } else {
            ic.read32(thread_context(local, at + 8))
        };
        Ok((first, second))
    }
}

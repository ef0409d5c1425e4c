//! What a firmware that hosts a partition does with its virtual processors and sources: OPAL leaves that to the kernel.
//!
//! Owns the state of a virtual processor that begins anew, its report lines, and the operations on a source's pages. The
//! surprising fact: a virtual processor without report lines has them at real address 0, where a guest's acknowledgement
//! to its "even line" (a byte store in its own page of the thread management area) would write, so every one that a guest
//! gets has lines somewhere.

use isa::addr::Ra;

use super::controller::Locked;
use super::memory::TableMemory;
use super::registers::{PAGE, Windows, esb};
use super::tables::{Index, nvp};
use super::{Xive, XiveError};
use crate::mmio::{Mmio, Reg};

/// P and Q of a source: off.
pub const PQ_OFF: u64 = 0b01;

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    /// A register of a source's management page.
    fn management(&self, index: u32, offset: u64) -> Result<Reg<super::registers::Esb>, XiveError> {
        // Only sources that are in use have pages that answer.
        self.eas(index)?;
        if offset >= PAGE || !offset.is_multiple_of(8) {
            return Err(XiveError::BadAddress);
        }
        Ok(Reg::new(u64::from(index) * 2 * PAGE + PAGE + offset))
    }
}

impl<W: Windows, T: TableMemory> Xive<W, T> {
    fn with_source<R>(
        &self,
        source: Index,
        body: impl FnOnce(&Locked<'_, W, T>) -> Result<R, XiveError>,
    ) -> Result<R, XiveError> {
        let chip = self.controller(source.block);
        body(&chip.map_err(|_| XiveError::NoSource)?.lock(&self.tables))
    }

    fn with_nvp(
        &self,
        vp: Index,
        body: impl FnOnce(&Locked<'_, W, T>) -> Result<(), XiveError>,
    ) -> Result<(), XiveError> {
        let chip = self.controller(vp.block).map_err(|_| XiveError::NoVp)?;
        let locked = chip.lock(&self.tables);
        locked.allocated_nvp(vp.index)?;
        body(&locked)
    }

    /// Gives each block's tables `pages` pages of their own region, once. What is there is enough for a machine's threads.
    ///
    /// # Errors
    /// [`XiveError::Full`].
    pub fn provision(&self, pages: u64) -> Result<(), XiveError> {
        for chip in self.controllers() {
            let (spare, bytes) = chip.memory.spare();
            if pages * PAGE > bytes {
                return Err(XiveError::Full);
            }
            let mut locked = chip.lock(&self.tables);
            for page in 0..pages {
                locked.donate(Ra(spare.0 + page * PAGE))?;
            }
        }
        Ok(())
    }

    /// Lines for reports that nobody asked for: writes there harm nobody.
    #[must_use]
    pub fn discarded_reports(&self) -> Ra {
        let first = self.controllers().next();
        first.map_or(Ra(0), |chip| chip.memory.reports().0)
    }

    /// Makes a virtual processor as it is at first: enabled, nothing pending, nothing let through, its reports at
    /// `report`. It must be on no thread.
    ///
    /// # Errors
    /// [`XiveError::NoVp`]; [`XiveError::Active`] when a thread has it; [`XiveError::BadAddress`]; [`XiveError::Busy`].
    pub fn renew_vp(&self, vp: Index, report: Ra) -> Result<(), XiveError> {
        if report.0 == 0 || !report.is_aligned(256) || report.0 >= 1 << 60 {
            return Err(XiveError::BadAddress);
        }
        self.with_nvp(vp, |chip| {
            let save_restore = chip.chip.capabilities.save_restore;
            chip.scrub_nvp(vp.index)?;
            if chip.load_nvp(vp.index)?.has(&nvp::CHECKED_OUT) {
                return Err(XiveError::Active);
            }
            chip.update_nvp(vp.index, |mut old| {
                old.words[2] = 0;
                old.with(&nvp::VALID, 1)
                    .with(&nvp::PRIVILEGE, 0)
                    .with(&nvp::HARDWARE, u32::from(save_restore))
                    .with_report(report)
            })
        })
    }

    /// Moves the report lines of a virtual processor, which a thread may have.
    ///
    /// # Errors
    /// [`XiveError::NoVp`]; [`XiveError::BadAddress`]; [`XiveError::Busy`].
    pub fn set_report(&self, vp: Index, report: Ra) -> Result<(), XiveError> {
        if report.0 == 0 || !report.is_aligned(256) || report.0 >= 1 << 60 {
            return Err(XiveError::BadAddress);
        }
        self.with_nvp(vp, |chip| {
            chip.update_nvp(vp.index, |old| old.with_report(report))
        })
    }

    /// Triggers a source of the controller's own pages, as a device would.
    ///
    /// # Errors
    /// [`XiveError::NoSource`].
    pub fn trigger(&self, source: Index) -> Result<(), XiveError> {
        self.with_source(source, |chip| {
            chip.eas(source.index)?;
            let page = Reg::new(u64::from(source.index) * 2 * PAGE);
            chip.chip.windows.esb().write64(page, 0);
            Ok(())
        })
    }

    /// Loads from the management page of a source of the controller's own pages: the offset says what that does.
    ///
    /// # Errors
    /// [`XiveError::NoSource`]; [`XiveError::BadAddress`].
    pub fn esb_load(&self, source: Index, offset: u64) -> Result<u64, XiveError> {
        self.with_source(source, |chip| {
            let register = chip.management(source.index, offset)?;
            Ok(chip.chip.windows.esb().read64(register))
        })
    }

    /// Stores to the management page of a source of the controller's own pages.
    ///
    /// # Errors
    /// [`XiveError::NoSource`]; [`XiveError::BadAddress`].
    pub fn esb_store(&self, source: Index, offset: u64, value: u64) -> Result<(), XiveError> {
        self.with_source(source, |chip| {
            let register = chip.management(source.index, offset)?;
            chip.chip.windows.esb().write64(register, value);
            Ok(())
        })
    }

    /// Turns a source of the controller's own pages off: what it sends is lost.
    ///
    /// # Errors
    /// [`XiveError::NoSource`].
    pub fn turn_source_off(&self, source: Index) -> Result<(), XiveError> {
        self.esb_load(source, esb::SET_OFF).map(drop)
    }
}

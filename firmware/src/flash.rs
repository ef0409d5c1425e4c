//! The machine's flash: found behind the BMC, its table read, partitions by name.
//!
//! Generic over the bus like [`crate::machine`]. Surprising fact: everything in it may have been written by anybody, and
//! the BMC may take it away at any time, so a machine without flash boots like one with.
#![forbid(unsafe_code)]

use core::fmt;

use nest::hiomap::{FirmwareSpace, Hiomap, HiomapError};
use nest::ipmi::IpmiError;
use nest::lpc::IoSpace;
use pnor_image::ffs::{self, Found, Search};
use pnor_image::flash::Flash;

use crate::machine::Devices;

/// The flash of a machine, as a medium.
pub struct SystemFlash<L: 'static>(pub &'static Devices<L>);

impl<L> fmt::Debug for SystemFlash<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemFlash")
    }
}

/// Where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first byte in flash.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
}

impl<L: IoSpace + FirmwareSpace> SystemFlash<L> {
    /// Looks for the flash and its table, and says what is there; `None` when there is nothing to work with.
    pub fn start(machine: &'static Devices<L>) -> Option<(Self, Found)> {
        let driver = match machine.with_bmc(Hiomap::start)? {
            Ok(driver) => driver,
            Err(error) => {
                log::info!("no flash: {error}");
                return None;
            }
        };
        let (size, version) = (driver.size(), driver.version());
        *machine.flash_driver().lock() = Some(driver);
        let mut flash = Self(machine);
        let found = match ffs::find(&mut flash, Search::Usual) {
            Err(error) => {
                log::warn!("flash: {error}");
                return None;
            }
            Ok(Err(notes)) => {
                for (at, note) in notes {
                    if let Err(error) = note {
                        log::info!("flash of {} MiB, at {at:#x}: {error}", size >> 20);
                    }
                }
                return None;
            }
            Ok(Ok(found)) => found,
        };
        log::info!(
            "flash of {} MiB (HIOMAP {version}), {} partitions",
            size >> 20,
            found.table.entries.len()
        );
        // A damaged table has thousands of bad entries.
        const SHOWN: usize = 8;
        for problem in found.problems.iter().take(SHOWN) {
            log::warn!("flash: {problem}");
        }
        if let Some(more) = found.problems.len().checked_sub(SHOWN).filter(|n| *n > 0) {
            log::warn!("flash: {more} more");
        }
        for (at, note) in &found.notes {
            match note {
                Err(error) => log::warn!("flash, table at {at:#x}: {error}"),
                Ok(problems) => {
                    for problem in problems.iter().take(SHOWN) {
                        log::warn!("flash, table at {at:#x}: {problem}");
                    }
                }
            }
        }
        Some((flash, found))
    }

    /// Does something with driver and BMC.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Hiomap, &mut nest::bt::Bt<&'static L>) -> Result<T, HiomapError>,
    ) -> Result<T, HiomapError> {
        let absent = HiomapError::Bmc(IpmiError::Busy);
        let mut driver = self.0.flash_driver().lock();
        let driver = driver.as_mut().ok_or(absent)?;
        self.0.with_bmc(|bmc| work(driver, bmc)).ok_or(absent)?
    }

    /// Writes from `at` on, and returns when the flash has it.
    ///
    /// # Errors
    /// The driver's; part of it may be written.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<(), HiomapError> {
        self.with(|driver, bmc| driver.write(bmc, self.0.bus(), at, from))
    }
}

impl<L: IoSpace + FirmwareSpace> Flash for SystemFlash<L> {
    type Error = HiomapError;

    fn size(&self) -> u64 {
        self.0
            .flash_driver()
            .lock()
            .as_ref()
            .map_or(0, Hiomap::size)
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), HiomapError> {
        self.with(|driver, bmc| driver.read(bmc, self.0.bus(), at, buffer))
    }
}

/// The place of a partition without code bytes: those need more than reading and writing.
pub fn plain_partition(found: &Found, name: &str) -> Option<Place> {
    let entry = found.table.get(name)?;
    if entry.user.has_ecc() {
        log::warn!("flash: {name} has ECC, which is not expected there");
        return None;
    }
    let (at, length) = found.table.extent(entry);
    Some(Place { at, length })
}

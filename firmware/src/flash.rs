//! The machine's flash: found behind the BMC, its table read, partitions by name.
//!
//! Generic over the bus like [`crate::machine`]. Surprising fact: everything in it may have been written by anybody, and
//! the BMC may take it away at any time, so a machine without flash boots like one with.
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::Range;

use nest::bt::Asker;
use nest::hiomap::{Data, FirmwareSpace, Hiomap, HiomapError, Job, Link, Progress};
use nest::ipmi::{Event, IpmiError, Request, Response};
use nest::lock::lock_within;
use nest::lpc::IoSpace;
use pnor_image::ffs::{self, Entry, Found, Kind, Origin, Search, flags};
use pnor_image::flash::Flash;

use crate::machine::{Devices, PATIENCE};

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
        let mut driver = lock_within(self.0.flash_driver(), PATIENCE).ok_or(absent)?;
        let driver = driver.as_mut().ok_or(absent)?;
        self.0.with_bmc(|bmc| work(driver, bmc)).ok_or(absent)?
    }

    /// Works on a job and waits for nothing; `None` when somebody else is using the flash, or there is none.
    pub fn advance(
        &self,
        job: &mut Job,
        data: &mut Data<'_>,
    ) -> Option<Result<Progress, HiomapError>> {
        let mut driver = self.0.flash_driver().try_lock()?;
        let driver = driver.as_mut()?;
        Some(driver.advance(job, &mut Unwaited(self.0), data))
    }

    /// Bytes of the flash and of an erase block; `None` when there is none.
    pub fn geometry(&self) -> Option<(u64, u64)> {
        let driver = self.0.flash_driver().lock();
        driver
            .as_ref()
            .map(|driver| (driver.size(), driver.erase_size()))
    }

    /// Makes what is read next come from the BMC again, whatever window is open.
    pub fn forget_window(&self) {
        if let Some(driver) = self.0.flash_driver().lock().as_mut() {
            driver.forget_window();
        }
    }

    /// Bytes of an erase block.
    #[must_use]
    pub fn erase_size(&self) -> u64 {
        self.0
            .flash_driver()
            .lock()
            .as_ref()
            .map_or(1, Hiomap::erase_size)
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

/// The way to the BMC for who comes back. Its events are the kernel's to ask for, which tells of those for the flash.
struct Unwaited<L: 'static>(&'static Devices<L>);

impl<L: IoSpace> Link for Unwaited<L> {
    const ATTEMPTS: u32 = 2;

    fn begin(&mut self, request: &Request<'_>) -> Result<(), IpmiError> {
        self.0.bmc_begin(Asker::Flash, request)
    }

    fn poll(&mut self) -> Option<Result<Response, IpmiError>> {
        self.0.bmc_poll(Asker::Flash)
    }

    fn event(&mut self) -> Result<Option<Event>, IpmiError> {
        Ok(None)
    }
}

/// The place of a partition without code bytes: those need more than reading and writing.
pub fn plain_partition(found: &Found, name: &str) -> Option<Place> {
    let entry = found.table.get(name)?;
    let wrong = if entry.user.has_ecc() {
        Some("has ECC, which is not expected there")
    } else if entry.kind != Kind::Data {
        Some("is no partition with content")
    } else if tables(found).any(|table| overlap(&table, &(u64::from(entry.base)..entry.end()))) {
        Some("lies where the table of partitions is")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        log::warn!("flash: {name} {wrong}: it is not used");
        return None;
    }
    let (at, length) = found.table.extent(entry);
    Some(Place { at, length })
}

/// The same for one that the firmware writes.
pub fn writable_partition(found: &Found, name: &str) -> Option<Place> {
    let place = plain_partition(found, name)?;
    let is_read_only = |entry: &Entry| entry.user.misc & flags::READ_ONLY != 0;
    if found.table.get(name).is_some_and(is_read_only) {
        log::warn!("flash: {name} is not to be written: it is not used");
        return None;
    }
    Some(place)
}

/// The blocks that hold tables: at the beginning, where this one was found, and what it says of others.
fn tables(found: &Found) -> impl Iterator<Item = Range<u64>> {
    let blocks = u64::from(found.table.table_blocks);
    let at = match found.origin {
        Origin::First => 0,
        Origin::Copy(at) | Origin::OtherSide(at) => at / u64::from(found.table.block_size.max(1)),
    };
    let named = found.table.entries.iter().filter(|entry| {
        entry.kind == Kind::Table
            || [ffs::OWN_NAME, ffs::BACKUP_NAME, ffs::OTHER_SIDE_NAME]
                .iter()
                .any(|name| entry.name == **name)
    });
    [0..blocks, at..at.saturating_add(blocks)]
        .into_iter()
        .chain(named.map(|entry| u64::from(entry.base)..entry.end()))
}

const fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnor_image::ffs::{Name, Table};

    fn entry(name: &str, base: u32, size: u32) -> Entry {
        Entry::new(Name::new(name).unwrap(), base, size)
    }

    /// A table of eight blocks, its copy, and one more entry.
    fn found(entry_of_interest: Entry) -> Found {
        let mut own = entry(ffs::OWN_NAME, 0, 8);
        own.kind = Kind::Table;
        Found {
            table: Table {
                block_size: 0x1000,
                block_count: 0x2000,
                table_blocks: 8,
                entries: vec![own, entry(ffs::BACKUP_NAME, 0x1ff8, 8), entry_of_interest],
            },
            origin: Origin::First,
            problems: vec![],
            notes: vec![],
        }
    }

    #[test]
    fn only_partitions_with_content_of_their_own_are_read_and_written() {
        let good = entry("NVRAM", 8, 0x10);
        let place = Some(Place {
            at: 0x8000,
            length: 0x1_0000,
        });
        assert_eq!(writable_partition(&found(good), "NVRAM"), place);
        assert_eq!(writable_partition(&found(good), "NVRAM2"), None);
        let mut read_only = good;
        read_only.user.misc = flags::READ_ONLY;
        assert_eq!(writable_partition(&found(read_only), "NVRAM"), None);
        assert_eq!(plain_partition(&found(read_only), "NVRAM"), place);
        let mut logical = good;
        logical.kind = Kind::Logical;
        let mut with_ecc = good;
        with_ecc.user.integrity = flags::ECC;
        let bad = [
            logical,
            with_ecc,
            entry("NVRAM", 7, 0x10),
            entry("NVRAM", 0, 1),
            entry("NVRAM", 0x1ff0, 9),
        ];
        for bad in bad {
            assert_eq!(plain_partition(&found(bad), "NVRAM"), None, "{bad:?}");
        }
        let copied = Found {
            origin: Origin::OtherSide(0x9000),
            ..found(good)
        };
        assert_eq!(plain_partition(&copied, "NVRAM"), None);
    }
}

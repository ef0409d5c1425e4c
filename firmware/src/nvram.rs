//! NVRAM: the settings that outlive a boot, in their partition of the flash, or in memory when there is none.
//!
//! What is read is kept; what is written goes to the flash at once. A damaged NVRAM is repaired with all that is
//! sound kept (`pnor_image::nvram`). Surprising fact: it is read in pieces when somebody asks, since a read of all of it would
//! take longer than the rest of boot.
#![forbid(unsafe_code)]

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use nest::hiomap::{FirmwareSpace, HiomapError};
use nest::lpc::IoSpace;
use pnor_image::flash::Flash as _;
use pnor_image::nvram::{self as format, Outcome, Settings};

use crate::flash::{Place, SystemFlash};

/// Bytes that are read at a time.
const PIECE: usize = 0x1000;
/// Bytes without flash: the firmware's partition, the kernel's, and some that are free.
const IN_MEMORY: usize = 0x1_2000;
/// More than this is cropped, as skiboot does it.
const LARGEST: usize = 1 << 20;

/// How often a damaged one is read at most, to be read the same twice.
const READS: usize = 3;

/// Where NVRAM lasts.
pub trait Store: Send {
    /// Makes what is read next owe nothing to what was read before.
    fn renew(&mut self);

    /// Reads from the place `at` of NVRAM on.
    ///
    /// # Errors
    /// The medium's.
    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), HiomapError>;

    /// Writes from the place `at` of NVRAM on, and returns when it will last.
    ///
    /// # Errors
    /// The medium's; part of it may be written.
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), HiomapError>;
}

/// A partition of the flash.
#[derive(Debug)]
pub struct InFlash<L: 'static> {
    /// The flash.
    pub flash: SystemFlash<L>,
    /// The partition.
    pub place: Place,
}

impl<L: IoSpace + FirmwareSpace + Sync> Store for InFlash<L> {
    fn renew(&mut self) {
        self.flash.forget_window();
    }

    fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), HiomapError> {
        self.flash.read(self.place.at + at as u64, into)
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), HiomapError> {
        self.flash.write(self.place.at + at as u64, from)
    }
}

/// A range that is not within NVRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvramError {
    /// The range is not within it.
    Outside,
    /// The flash did not do it.
    Flash(HiomapError),
}

/// The contents, and where they last.
pub struct Nvram {
    bytes: Vec<u8>,
    /// For each [`PIECE`] whether it was read.
    known: Vec<bool>,
    store: Option<Box<dyn Store>>,
}

impl fmt::Debug for Nvram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nvram of {:#x} bytes", self.bytes.len())
    }
}

impl Nvram {
    /// Freshly formatted, in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        let mut bytes = vec![0; IN_MEMORY];
        let formatted = format::format(&mut bytes);
        debug_assert!(formatted.is_ok(), "large enough");
        Self {
            known: vec![true; IN_MEMORY.div_ceil(PIECE)],
            bytes,
            store: None,
        }
    }

    /// The NVRAM in a store of `length` bytes; repaired if it is not sound, formatted if it is empty.
    ///
    /// # Errors
    /// The store cannot be read or written, does not read the same twice, or is too small: then it is left alone, and NVRAM is
    /// in memory.
    pub fn open(store: Box<dyn Store>, length: u64) -> Result<Self, String> {
        let length = usize::try_from(length).unwrap_or(LARGEST).min(LARGEST);
        let mut nvram = Self {
            bytes: vec![0; length],
            known: vec![false; length.div_ceil(PIECE)],
            store: Some(store),
        };
        let told = |error| alloc::format!("{error}");
        // A BMC that restarts meanwhile can make anything of what is read: nothing is written before it was read the same
        // again, through another window.
        let mut before = Vec::new();
        let mut reads = 0;
        let damage = loop {
            let Err(damage) = nvram.walk().map_err(told)? else {
                return Ok(nvram);
            };
            nvram.know(0..length).map_err(told)?;
            if nvram.bytes == before {
                break damage;
            }
            reads += 1;
            if reads == READS {
                return Err(String::from("it reads differently each time"));
            }
            before.clone_from(&nvram.bytes);
            nvram.forget();
        };
        let outcome =
            format::repair(&mut nvram.bytes).map_err(|error| alloc::format!("{error}"))?;
        match outcome {
            Outcome::Sound => {}
            Outcome::Formatted => log::warn!("NVRAM: {damage}; formatted"),
            Outcome::Repaired { kept, dropped } => {
                log::warn!("NVRAM: {damage}; repaired, {kept} partitions kept, {dropped} dropped");
            }
        }
        nvram.write_changes(&before).map_err(told)?;
        Ok(nvram)
    }

    /// Whether it lasts.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        self.store.is_some()
    }

    /// Bytes of it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none of it, which does not happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The settings of the firmware that are text; of those that are there twice, the first counts and comes first.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        // The firmware's partition was read when it was looked at.
        let settings = Settings::of(&self.bytes, format::FIRMWARE);
        settings
            .into_iter()
            .flat_map(Settings::iter)
            .filter_map(|(name, value)| {
                Some((
                    core::str::from_utf8(name).ok()?,
                    core::str::from_utf8(value).ok()?,
                ))
            })
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`NvramError`].
    pub fn read(&mut self, range: Range<usize>) -> Result<&[u8], NvramError> {
        if range.start > range.end || range.end > self.bytes.len() {
            return Err(NvramError::Outside);
        }
        self.know(range.clone()).map_err(NvramError::Flash)?;
        self.bytes.get(range).ok_or(NvramError::Outside)
    }

    /// Changes a part of it: `fill` gets the place for the new bytes. When it succeeds, the flash has them.
    ///
    /// # Errors
    /// `fill`'s, as the inner one, and [`NvramError`]. What `fill` wrote is to be read back even if the flash did not take it.
    pub fn write<E>(
        &mut self,
        range: Range<usize>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, NvramError> {
        // The pieces at both ends are changed in part.
        self.read(range.clone())?;
        let place = self
            .bytes
            .get_mut(range.clone())
            .ok_or(NvramError::Outside)?;
        if let Err(error) = fill(place) {
            return Ok(Err(error));
        }
        if let Some(store) = &mut self.store {
            store.write(range.start, place).map_err(NvramError::Flash)?;
        }
        Ok(Ok(()))
    }

    /// Forgets what was read.
    fn forget(&mut self) {
        if let Some(store) = &mut self.store {
            store.renew();
            self.known.fill(false);
        }
    }

    /// Reads what of a range was not read yet.
    fn know(&mut self, range: Range<usize>) -> Result<(), HiomapError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        let (first, end) = (range.start / PIECE, range.end.div_ceil(PIECE));
        for index in first..end {
            if self.known.get(index).copied().unwrap_or(true) {
                continue;
            }
            let at = index * PIECE;
            let end = (at + PIECE).min(self.bytes.len());
            if let Some(piece) = self.bytes.get_mut(at..end) {
                store.read(at, piece)?;
            }
            if let Some(known) = self.known.get_mut(index) {
                *known = true;
            }
        }
        Ok(())
    }

    /// Looks at all headers and at the firmware's settings; what is not sound about them.
    fn walk(&mut self) -> Result<Result<(), format::Damage>, HiomapError> {
        let mut at = 0;
        let (mut has_firmware, mut has_common) = (false, false);
        while at + format::HEADER_SIZE <= self.bytes.len() {
            self.know(at..at + format::HEADER_SIZE)?;
            let partition = match format::partition_at(&self.bytes, at) {
                Ok(partition) => partition,
                Err(damage) => return Ok(Err(damage)),
            };
            let end = at + partition.length;
            if partition.id == format::FIRMWARE {
                has_firmware = true;
                self.know(at..end)?;
                if self.bytes.get(end - 1) != Some(&0) {
                    return Ok(Err(format::Damage::NoEnd));
                }
            }
            has_common |= partition.id == format::COMMON;
            at = end;
        }
        Ok(match (has_firmware, has_common) {
            (true, true) => Ok(()),
            (false, _) => Err(format::Damage::Missing(format::FIRMWARE)),
            (_, false) => Err(format::Damage::Missing(format::COMMON)),
        })
    }

    /// Writes every piece that is not as it was.
    fn write_changes(&mut self, before: &[u8]) -> Result<(), HiomapError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        for (index, (new, old)) in self
            .bytes
            .chunks(PIECE)
            .zip(before.chunks(PIECE))
            .enumerate()
        {
            if new != old {
                store.write(index * PIECE, new)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const SIZE: usize = 0x2_0000;

    /// A store that counts, and can fail.
    #[derive(Clone)]
    struct Medium {
        bytes: Arc<Mutex<Vec<u8>>>,
        reads: Arc<Mutex<Vec<usize>>>,
        broken: Arc<Mutex<bool>>,
        /// How many windows read as if the flash were empty.
        glitches: Arc<Mutex<usize>>,
    }

    impl Medium {
        fn new(bytes: Vec<u8>) -> Self {
            Self {
                bytes: Arc::new(Mutex::new(bytes)),
                reads: Arc::default(),
                broken: Arc::default(),
                glitches: Arc::default(),
            }
        }

        fn formatted() -> Self {
            let mut bytes = vec![0; SIZE];
            format::format(&mut bytes).unwrap();
            format::set(&mut bytes, format::FIRMWARE, "nidus,mode", Some(b"papr")).unwrap();
            Self::new(bytes)
        }

        fn check(&self) -> Result<(), HiomapError> {
            if *self.broken.lock().unwrap() {
                Err(HiomapError::Lost)
            } else {
                Ok(())
            }
        }
    }

    impl Store for Medium {
        fn renew(&mut self) {
            let mut glitches = self.glitches.lock().unwrap();
            *glitches = glitches.saturating_sub(1);
        }
        fn read(&mut self, at: usize, into: &mut [u8]) -> Result<(), HiomapError> {
            self.check()?;
            self.reads.lock().unwrap().push(at);
            if *self.glitches.lock().unwrap() > 0 {
                into.fill(0xff);
                return Ok(());
            }
            into.copy_from_slice(&self.bytes.lock().unwrap()[at..at + into.len()]);
            Ok(())
        }
        fn write(&mut self, at: usize, from: &[u8]) -> Result<(), HiomapError> {
            self.check()?;
            self.bytes.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    fn open(medium: &Medium) -> Nvram {
        Nvram::open(Box::new(medium.clone()), SIZE as u64).expect("opened")
    }

    fn fill(with: u8) -> impl FnOnce(&mut [u8]) -> Result<(), ()> {
        move |place| {
            place.fill(with);
            Ok(())
        }
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        let medium = Medium::formatted();
        let mut nvram = open(&medium);
        assert_eq!(
            nvram.settings().collect::<Vec<_>>(),
            [("nidus,mode", "papr")]
        );
        // The firmware's partition, and the headers of the two others.
        assert_eq!(*medium.reads.lock().unwrap(), [0, 0x1000, 0x11000]);
        nvram.read(0x1010..0x3001).expect("read");
        nvram.read(0x2000..0x2008).expect("read");
        assert_eq!(
            *medium.reads.lock().unwrap(),
            [0, 0x1000, 0x11000, 0x2000, 0x3000]
        );
    }

    #[test]
    fn what_is_written_lasts() {
        let medium = Medium::formatted();
        let mut nvram = open(&medium);
        assert_eq!(nvram.write(0x4ff0..0x5010, fill(7)), Ok(Ok(())));
        assert_eq!(medium.bytes.lock().unwrap()[0x4ff0..0x5010], [7; 0x20]);
        assert_eq!(open(&medium).read(0x4ff0..0x5010), Ok(&[7; 0x20][..]));
        assert_eq!(nvram.write(0x10..0x20, |_| Err("no")), Ok(Err("no")));
        for range in [
            SIZE - 1..SIZE + 1,
            SIZE + 1..SIZE + 1,
            usize::MAX..usize::MAX,
        ] {
            assert_eq!(nvram.read(range.clone()), Err(NvramError::Outside));
            assert_eq!(nvram.write(range, fill(1)), Err(NvramError::Outside));
        }
    }

    #[test]
    fn damage_is_repaired_in_the_store_too() {
        let medium = Medium::formatted();
        medium.bytes.lock().unwrap()[0x1001] ^= 1;
        let nvram = open(&medium);
        assert_eq!(nvram.settings().count(), 1);
        assert!(format::check(&medium.bytes.lock().unwrap()).is_ok());
        let empty = Medium::new(vec![0xff; SIZE]);
        assert_eq!(open(&empty).settings().count(), 0);
        assert!(format::check(&empty.bytes.lock().unwrap()).is_ok());
    }

    #[test]
    fn what_is_read_wrongly_is_not_taken_for_damage() {
        let medium = Medium::formatted();
        let sound = medium.bytes.lock().unwrap().clone();
        *medium.glitches.lock().unwrap() = 1;
        assert_eq!(open(&medium).settings().count(), 1);
        assert_eq!(*medium.bytes.lock().unwrap(), sound);
        // Damaged, and another damage is seen first.
        medium.bytes.lock().unwrap()[0x1001] ^= 1;
        *medium.glitches.lock().unwrap() = 1;
        assert_eq!(
            open(&medium).settings().count(),
            1,
            "repaired, not formatted"
        );
        // Each time something else.
        struct Wavering(Medium, u8);
        impl Store for Wavering {
            fn renew(&mut self) {
                self.1 += 1;
            }
            fn read(&mut self, _: usize, into: &mut [u8]) -> Result<(), HiomapError> {
                into.fill(self.1);
                Ok(())
            }
            fn write(&mut self, at: usize, from: &[u8]) -> Result<(), HiomapError> {
                self.0.write(at, from)
            }
        }
        let before = medium.bytes.lock().unwrap().clone();
        let wavering = Box::new(Wavering(medium.clone(), 0));
        let refused = Nvram::open(wavering, SIZE as u64);
        assert!(refused.is_err_and(|text| text.contains("differently")));
        assert_eq!(*medium.bytes.lock().unwrap(), before);
    }

    #[test]
    fn a_store_that_is_too_small_or_broken_is_left_alone() {
        let small = Medium::new(vec![0xff; 0x8000]);
        let refused = Nvram::open(Box::new(small.clone()), 0x8000);
        assert!(refused.is_err_and(|text| text.contains("needs")));
        assert_eq!(*small.bytes.lock().unwrap(), [0xff; 0x8000]);
        let medium = Medium::formatted();
        let mut nvram = open(&medium);
        *medium.broken.lock().unwrap() = true;
        assert!(Nvram::open(Box::new(medium.clone()), SIZE as u64).is_err());
        assert_eq!(
            nvram.read(0x2000..0x2001),
            Err(NvramError::Flash(HiomapError::Lost))
        );
        assert_eq!(
            nvram.write(0..1, fill(1)),
            Err(NvramError::Flash(HiomapError::Lost))
        );
        *medium.broken.lock().unwrap() = false;
        assert!(nvram.read(0x2000..0x2001).is_ok());
    }

    #[test]
    fn without_flash_it_is_in_memory() {
        let mut nvram = Nvram::in_memory();
        assert!(!nvram.lasts());
        assert_eq!(
            format::check(nvram.read(0..IN_MEMORY).expect("all")).map(|found| found.len()),
            Ok(3)
        );
        assert_eq!(nvram.write(0x1100..0x1108, fill(7)), Ok(Ok(())));
        assert_eq!(
            nvram.read(0x10ff..0x1109),
            Ok(&[0, 7, 7, 7, 7, 7, 7, 7, 7, 0][..])
        );
    }
}

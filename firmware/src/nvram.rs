//! NVRAM: the settings that outlive a boot, in their partition of the flash, or in memory when there is none.
//!
//! What is read is kept; what is written goes to the flash at once, with a journal in free space, so that a write that is
//! cut off leaves the old or the new NVRAM. A damaged NVRAM is repaired with all that is sound kept (`pnor_image::nvram`).
//! Surprising fact: it is read in pieces when somebody asks, since a read of all of it would take longer than the rest of boot.
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
use pnor_image::nvram::journal::{self, Blocks, Medium, Recovered};
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
type Store = Box<dyn Medium<Error = HiomapError> + Send>;

/// A partition of the flash.
#[derive(Debug)]
pub struct InFlash<L: 'static> {
    /// The flash.
    pub flash: SystemFlash<L>,
    /// The partition.
    pub place: Place,
}

impl<L: IoSpace + FirmwareSpace + Sync> InFlash<L> {
    /// The erase blocks that it lies in.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        let length = usize::try_from(self.place.length).unwrap_or(LARGEST);
        Blocks::new(self.place.at, self.flash.erase_size(), length.min(LARGEST))
    }
}

impl<L: IoSpace + FirmwareSpace + Sync> Medium for InFlash<L> {
    type Error = HiomapError;

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

/// Why NVRAM was not read or written.
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
    store: Option<Store>,
    /// The erase blocks that it lies in.
    blocks: Blocks,
    /// What nobody uses, when that was last known.
    spare: Range<usize>,
    /// What may be otherwise in the store, because a write failed; whole erase blocks.
    uncertain: Range<usize>,
    /// Said that writes are not safe from being cut off.
    warned: bool,
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
            blocks: Blocks::new(0, 1, 0),
            spare: 0..0,
            uncertain: 0..0,
            warned: false,
        }
    }

    /// The NVRAM in a store, in these erase blocks. A write that was cut off is finished first. Then it is repaired if it is
    /// not sound, formatted if it is empty.
    ///
    /// # Errors
    /// The store cannot be read or written, does not read the same twice, or is too small: then it is left alone, and NVRAM is
    /// in memory.
    pub fn open(store: Store, blocks: Blocks) -> Result<Self, String> {
        let told = |error| alloc::format!("{error}");
        let length = blocks.length();
        let mut nvram = Self {
            bytes: vec![0; length],
            known: vec![false; length.div_ceil(PIECE)],
            store: Some(store),
            blocks,
            spare: length..length,
            uncertain: 0..0,
            warned: false,
        };
        // A BMC that restarts meanwhile can make anything of what is read: nothing is written before it was read the same
        // again, through another window.
        let mut before = Vec::new();
        let mut reads = 0;
        let damage = loop {
            nvram.settle().map_err(told)?;
            let damage = match nvram.walk().map_err(told)? {
                Ok(spare) => {
                    nvram.spare = spare;
                    return Ok(nvram);
                }
                Err(damage) => damage,
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
        nvram.spare = format::unclaimed(&before);
        nvram.save(0..0, 0, &before).map_err(told)?;
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

    /// Changes a part of it: `fill` gets the place for the new bytes. When it succeeds, the flash has them; if it is cut off,
    /// the flash has all of them or none.
    ///
    /// # Errors
    /// `fill`'s, as the inner one, and [`NvramError`]. What `fill` wrote is to be read back even if the flash did not take it;
    /// the next write brings it there.
    pub fn write<E>(
        &mut self,
        range: Range<usize>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, NvramError> {
        if range.start > range.end || range.end > self.bytes.len() {
            return Err(NvramError::Outside);
        }
        let span = self.span(&range);
        let before = self.stored(&span).map_err(NvramError::Flash)?;
        let place = self
            .bytes
            .get_mut(range.clone())
            .ok_or(NvramError::Outside)?;
        if let Err(error) = fill(place) {
            return Ok(Err(error));
        }
        self.save(range, span.start, &before)
            .map_err(NvramError::Flash)?;
        Ok(Ok(()))
    }

    /// The erase blocks that have to do with a write to `range`.
    fn span(&self, range: &Range<usize>) -> Range<usize> {
        let own = self.blocks.cover(range.clone());
        if self.uncertain.is_empty() {
            return own;
        }
        own.start.min(self.uncertain.start)..own.end.max(self.uncertain.end)
    }

    /// What the store holds in these erase blocks, among which are all that are uncertain.
    fn stored(&mut self, span: &Range<usize>) -> Result<Vec<u8>, HiomapError> {
        self.know(span.clone())?;
        let mut held = self.bytes.get(span.clone()).unwrap_or_default().to_vec();
        if let Some(store) = &mut self.store
            && !self.uncertain.is_empty()
        {
            journal::recover(&mut **store, &self.blocks)?;
            let start = self.uncertain.start - span.start;
            if let Some(place) = held.get_mut(start..start + self.uncertain.len()) {
                store.read(self.uncertain.start, place)?;
            }
        }
        Ok(held)
    }

    /// Brings to the store what was changed: `written` by somebody, in erase blocks from `at` on, which hold `before` there.
    fn save(&mut self, written: Range<usize>, at: usize, before: &[u8]) -> Result<(), HiomapError> {
        let span = at..at + before.len();
        if self.store.is_none() || span.is_empty() {
            return Ok(());
        }
        self.uncertain = span.clone();
        let spare = match self.walk()? {
            Ok(spare) => spare,
            // Linux makes a partition header by header. In between, what was free still is, but for what was written.
            Err(_) if written.end > self.spare.start => written.end..self.spare.end,
            Err(_) => self.spare.clone(),
        };
        // The journal must not be where something was or will be.
        let common = spare.start.max(self.spare.start)..self.spare.end.min(spare.end);
        self.forget_pieces(&common, &span);
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        let new = self.bytes.get(span.clone()).unwrap_or_default();
        let is_safe = journal::change(&mut **store, &self.blocks, &common, at, before, new)?;
        self.forget_pieces(&common, &(0..0));
        self.uncertain = 0..0;
        self.spare = spare;
        if !is_safe && !self.warned {
            self.warned = true;
            log::warn!("NVRAM has too little free space: writes that are cut off may damage it");
        }
        Ok(())
    }

    /// Finishes a write that was cut off.
    fn settle(&mut self) -> Result<(), HiomapError> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        match journal::recover(&mut **store, &self.blocks)? {
            Recovered::Nothing => {}
            Recovered::Finished => log::info!("NVRAM: a write that was cut off is finished"),
            Recovered::Dropped => {
                log::warn!("NVRAM: a write that was cut off is dropped: others have written since");
            }
        }
        Ok(())
    }

    /// Forgets what was read.
    fn forget(&mut self) {
        if let Some(store) = &mut self.store {
            store.renew();
            self.known.fill(false);
        }
    }

    /// Forgets what was read of a range, but for the pieces in which something of `kept` is: a journal is laid over it.
    fn forget_pieces(&mut self, range: &Range<usize>, kept: &Range<usize>) {
        let has = |of: &Range<usize>, at: usize| at < of.end && of.start < at + PIECE;
        for (index, known) in self.known.iter_mut().enumerate() {
            let at = index * PIECE;
            *known &= !has(range, at) || has(kept, at);
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

    /// Looks at all headers and at the firmware's settings: the free space at the end, or what is not sound about them.
    fn walk(&mut self) -> Result<Result<Range<usize>, format::Damage>, HiomapError> {
        let mut at = 0;
        let (mut has_firmware, mut has_common) = (false, false);
        let all = self.bytes.len();
        let mut spare = all..all;
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
            spare = if partition.id == format::FREE {
                at + format::HEADER_SIZE..all
            } else {
                all..all
            };
            at = end;
        }
        Ok(match (has_firmware, has_common) {
            (true, true) => Ok(spare),
            (false, _) => Err(format::Damage::Missing(format::FIRMWARE)),
            (_, false) => Err(format::Damage::Missing(format::COMMON)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const SIZE: usize = 0x2_0000;

    /// A store that counts, and can fail, at once or after so many bytes.
    #[derive(Clone)]
    struct Chip {
        bytes: Arc<Mutex<Vec<u8>>>,
        reads: Arc<Mutex<Vec<usize>>>,
        broken: Arc<Mutex<bool>>,
        /// How many windows read as if the flash were empty.
        glitches: Arc<Mutex<usize>>,
        left: Arc<Mutex<usize>>,
    }

    impl Chip {
        fn new(bytes: Vec<u8>) -> Self {
            Self {
                bytes: Arc::new(Mutex::new(bytes)),
                reads: Arc::default(),
                broken: Arc::default(),
                glitches: Arc::default(),
                left: Arc::new(Mutex::new(usize::MAX)),
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

    impl Medium for Chip {
        type Error = HiomapError;

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
            let mut left = self.left.lock().unwrap();
            let count = from.len().min(*left);
            *left -= count;
            self.bytes.lock().unwrap()[at..at + count].copy_from_slice(&from[..count]);
            if count < from.len() {
                *self.broken.lock().unwrap() = true;
            }
            self.check()
        }
    }

    fn blocks() -> Blocks {
        Blocks::new(0x8000, 0x1000, SIZE)
    }

    fn open(chip: &Chip) -> Nvram {
        Nvram::open(Box::new(chip.clone()), blocks()).expect("opened")
    }

    fn fill(with: u8) -> impl FnOnce(&mut [u8]) -> Result<(), ()> {
        move |place| {
            place.fill(with);
            Ok(())
        }
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        let chip = Chip::formatted();
        let mut nvram = open(&chip);
        assert_eq!(
            nvram.settings().collect::<Vec<_>>(),
            [("nidus,mode", "papr")]
        );
        // Whether there is a journal, the firmware's partition, and the headers of the two others.
        assert_eq!(
            *chip.reads.lock().unwrap(),
            [SIZE - 128, 0, 0x1000, 0x11000]
        );
        nvram.read(0x1010..0x3001).expect("read");
        nvram.read(0x2000..0x2008).expect("read");
        assert_eq!(
            *chip.reads.lock().unwrap(),
            [SIZE - 128, 0, 0x1000, 0x11000, 0x2000, 0x3000]
        );
    }

    #[test]
    fn what_is_written_lasts() {
        let chip = Chip::formatted();
        let mut nvram = open(&chip);
        assert_eq!(nvram.write(0x4ff0..0x5010, fill(7)), Ok(Ok(())));
        assert_eq!(chip.bytes.lock().unwrap()[0x4ff0..0x5010], [7; 0x20]);
        assert_eq!(open(&chip).read(0x4ff0..0x5010), Ok(&[7; 0x20][..]));
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
        let chip = Chip::formatted();
        chip.bytes.lock().unwrap()[0x1001] ^= 1;
        let nvram = open(&chip);
        assert_eq!(nvram.settings().count(), 1);
        assert!(format::check(&chip.bytes.lock().unwrap()).is_ok());
        let empty = Chip::new(vec![0xff; SIZE]);
        assert_eq!(open(&empty).settings().count(), 0);
        assert!(format::check(&empty.bytes.lock().unwrap()).is_ok());
    }

    #[test]
    fn what_is_read_wrongly_is_not_taken_for_damage() {
        let chip = Chip::formatted();
        let sound = chip.bytes.lock().unwrap().clone();
        *chip.glitches.lock().unwrap() = 1;
        assert_eq!(open(&chip).settings().count(), 1);
        assert_eq!(*chip.bytes.lock().unwrap(), sound);
        // Damaged, and another damage is seen first.
        chip.bytes.lock().unwrap()[0x1001] ^= 1;
        *chip.glitches.lock().unwrap() = 1;
        assert_eq!(open(&chip).settings().count(), 1, "repaired, not formatted");
        // Each time something else.
        struct Wavering(Chip, u8);
        impl Medium for Wavering {
            type Error = HiomapError;

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
        let before = chip.bytes.lock().unwrap().clone();
        let wavering = Box::new(Wavering(chip.clone(), 0));
        let refused = Nvram::open(wavering, blocks());
        assert!(refused.is_err_and(|text| text.contains("differently")));
        assert_eq!(*chip.bytes.lock().unwrap(), before);
    }

    #[test]
    fn a_store_that_is_too_small_or_broken_is_left_alone() {
        let small = Chip::new(vec![0xff; 0x8000]);
        let refused = Nvram::open(Box::new(small.clone()), Blocks::new(0x8000, 0x1000, 0x8000));
        assert!(refused.is_err_and(|text| text.contains("needs")));
        assert_eq!(*small.bytes.lock().unwrap(), [0xff; 0x8000]);
        let chip = Chip::formatted();
        let mut nvram = open(&chip);
        *chip.broken.lock().unwrap() = true;
        assert!(Nvram::open(Box::new(chip.clone()), blocks()).is_err());
        assert_eq!(
            nvram.read(0x2000..0x2001),
            Err(NvramError::Flash(HiomapError::Lost))
        );
        assert_eq!(
            nvram.write(0..1, fill(1)),
            Err(NvramError::Flash(HiomapError::Lost))
        );
        *chip.broken.lock().unwrap() = false;
        assert!(nvram.read(0x2000..0x2001).is_ok());
    }

    /// What is left when the power goes after so many bytes of some work, and comes again.
    fn cut_after(bytes: usize, chip: &Chip, work: impl FnOnce(&mut Nvram)) -> Vec<u8> {
        let chip = Chip::new(chip.bytes.lock().unwrap().clone());
        let mut nvram = open(&chip);
        *chip.left.lock().unwrap() = bytes;
        work(&mut nvram);
        let rest = Chip::new(chip.bytes.lock().unwrap().clone());
        open(&rest);
        rest.bytes.lock().unwrap()[..0x12000].to_vec()
    }

    #[test]
    fn a_write_that_is_cut_off_leaves_the_old_or_the_new() {
        let chip = Chip::formatted();
        let old = chip.bytes.lock().unwrap()[..0x12000].to_vec();
        let mut new = old.clone();
        new[0x1800..0x4800].fill(7);
        let (mut olds, mut news) = (0, 0);
        for bytes in (0..60_000).step_by(59) {
            let left = cut_after(bytes, &chip, |nvram| {
                let _ = nvram.write(0x1800..0x4800, fill(7));
            });
            assert!(left == old || left == new, "after {bytes} bytes");
            olds += usize::from(left == old);
            news += usize::from(left == new);
        }
        assert!(olds > 100 && news > 100, "{olds} {news}");
    }

    /// Header by header, as Linux does it: in between the headers make no sense.
    #[test]
    fn a_partition_that_is_being_made_is_damage_to_nothing_else() {
        let chip = Chip::formatted();
        let mut new = chip.bytes.lock().unwrap()[0x11000..0x11010].to_vec();
        new[0..2].copy_from_slice(&[0xa0, 0]);
        new[2..4].copy_from_slice(&0x100_u16.to_be_bytes());
        new[4..].copy_from_slice(b"lnx,oops-log");
        let sum = new.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
        new[1] = u8::try_from((sum & 0xff) + (sum >> 8)).unwrap();
        let make = |nvram: &mut Nvram| {
            let put = |place: &mut [u8]| {
                place.copy_from_slice(&new);
                Ok::<(), ()>(())
            };
            let _ = nvram.write(0x11000..0x11010, put);
            // A free partition behind it, not yet; this one has to be safe all the same.
            let _ = nvram.write(0x2000..0x3000, fill(9));
        };
        for bytes in (0..20_000).step_by(97) {
            let left = cut_after(bytes, &chip, make);
            assert_eq!(left[..0x1000], chip.bytes.lock().unwrap()[..0x1000]);
            let common = &left[0x2000..0x3000];
            assert!(common.iter().all(|byte| *byte == common[0]), "{bytes}");
        }
    }

    #[test]
    fn a_repair_that_is_cut_off_can_be_made_again() {
        let chip = Chip::formatted();
        {
            let mut bytes = chip.bytes.lock().unwrap();
            format::set(&mut bytes, format::COMMON, "a", Some(b"b")).unwrap();
            // The header in front is lost, so everything moves.
            bytes[0] ^= 1;
        }
        for bytes in (0..20_000).step_by(173) {
            let torn = Chip::new(chip.bytes.lock().unwrap().clone());
            *torn.left.lock().unwrap() = bytes;
            let _ = Nvram::open(Box::new(torn.clone()), blocks());
            let rest = Chip::new(torn.bytes.lock().unwrap().clone());
            open(&rest);
            let bytes = rest.bytes.lock().unwrap();
            assert!(format::check(&bytes).is_ok());
            let common = Settings::of(&bytes, format::COMMON).unwrap();
            assert_eq!(common.get("a"), Some(&b"b"[..]));
        }
    }

    #[test]
    fn what_failed_is_written_by_the_next_write() {
        let chip = Chip::formatted();
        for bytes in [0, 100, 5_000, 9_000, 13_000] {
            let mut nvram = open(&chip);
            let (first, second) = (0x2000..0x4000, 0x8000..0x8010);
            let value = u8::try_from(bytes / 100 + 1).unwrap();
            *chip.left.lock().unwrap() = bytes;
            let failed = Err(NvramError::Flash(HiomapError::Lost));
            assert_eq!(nvram.write(first.clone(), fill(value)), failed);
            assert_eq!(nvram.write(second.clone(), fill(value)), failed);
            *chip.left.lock().unwrap() = usize::MAX;
            *chip.broken.lock().unwrap() = false;
            assert_eq!(nvram.read(first.clone()), Ok(&[value; 0x2000][..]));
            assert_eq!(nvram.write(second.clone(), fill(value)), Ok(Ok(())));
            assert_eq!(chip.bytes.lock().unwrap()[first], [value; 0x2000]);
            assert_eq!(chip.bytes.lock().unwrap()[second], [value; 0x10]);
        }
    }

    /// The journal is laid over free space. Who makes a partition of that finds in it what he has written, to the last byte.
    #[test]
    fn what_a_journal_was_laid_over_is_written_anew() {
        let chip = Chip::formatted();
        let mut nvram = open(&chip);
        // All of it is known, and the free space is zeroes.
        nvram.read(0..SIZE).expect("read");
        assert_eq!(nvram.write(0x2000..0x3000, fill(9)), Ok(Ok(())));
        assert_eq!(nvram.write(SIZE - 0x2000..SIZE, fill(0)), Ok(Ok(())));
        let ends_in_zeroes = |count: usize| {
            let bytes = chip.bytes.lock().unwrap();
            bytes[SIZE - count..].iter().all(|byte| *byte == 0)
        };
        assert!(ends_in_zeroes(0x2000));
        // A write that goes there and needs the journal: that is laid over free space, so what is left there counts.
        assert_eq!(nvram.write(0x11010..SIZE, fill(3)), Ok(Ok(())));
        let held = chip.bytes.lock().unwrap()[0x11010..].to_vec();
        assert!(nvram.read(0x11010..SIZE) == Ok(&held[..]));
        // A write that failed in the middle of its journal, and is made up for by the next.
        *chip.left.lock().unwrap() = 0x1100;
        assert!(nvram.write(0x2000..0x3000, fill(5)).is_err());
        *chip.left.lock().unwrap() = usize::MAX;
        *chip.broken.lock().unwrap() = false;
        for _ in 0..2 {
            assert_eq!(nvram.write(SIZE - 0x3000..SIZE, fill(0)), Ok(Ok(())));
        }
        assert!(ends_in_zeroes(0x3000));
        assert_eq!(chip.bytes.lock().unwrap()[0x2000], 5);
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

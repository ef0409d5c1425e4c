//! Checked access to a partition's memory, which the partition may change at any time.
//!
//! A range is checked once, against the list of extents, when it is used; data is copied, never lent. Memory is
//! words of 8 bytes that are read and written atomically, so a guest that writes at the same time is defined
//! behaviour and no value is torn inside an aligned doubleword.

use core::slice::Iter;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use isa::addr::{Gra, Ra};

use crate::sync::point;

/// Most extents a partition can have.
pub const MAX_EXTENTS: usize = 16;

/// A run of a partition's memory: `memory` as the partition sees it at `gra`, which is `ra` to the machine.
#[derive(Clone, Copy)]
pub struct Extent {
    /// First address in the partition, a multiple of 64 KiB.
    pub gra: Gra,
    /// First real address, congruent to `gra` modulo 1 GiB so that every leaf size can map it.
    pub ra: Ra,
    /// The memory, as words in memory order.
    pub memory: &'static [AtomicU64],
}

impl Extent {
    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        (self.memory.len() as u64).saturating_mul(8)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }
}

/// A range that is not memory of the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// First byte asked for.
    pub gra: Gra,
    /// Bytes asked for.
    pub len: u64,
}

/// A list of extents that cannot be a partition's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadExtents {
    /// More than [`MAX_EXTENTS`].
    TooMany,
    /// Not ascending, overlapping, empty, not 64 KiB aligned, or beyond the address space.
    Misplaced,
}

/// A partition's memory.
pub struct GuestRam {
    /// Ascending by `gra`, not overlapping.
    extents: ArrayVec<Extent, MAX_EXTENTS>,
}

const SMALLEST_UNIT: u64 = 64 << 10;
const ADDRESS_SPACE: u64 = 1 << 52;

impl GuestRam {
    /// Takes a list of extents, ascending by guest address.
    ///
    /// # Errors
    /// [`BadExtents`], when they overlap or are not aligned.
    pub fn new(list: &[Extent]) -> Result<Self, BadExtents> {
        let mut extents = ArrayVec::new();
        let mut end = 0;
        for extent in list {
            let aligned = [extent.gra.0, extent.ra.0, extent.len()]
                .iter()
                .all(|v| v & (SMALLEST_UNIT - 1) == 0);
            let next = extent
                .gra
                .0
                .checked_add(extent.len())
                .filter(|next| *next <= ADDRESS_SPACE);
            match next {
                Some(next) if aligned && !extent.is_empty() && extent.gra.0 >= end => end = next,
                _ => return Err(BadExtents::Misplaced),
            }
            extents.try_push(*extent).map_err(|_| BadExtents::TooMany)?;
        }
        Ok(Self { extents })
    }

    /// The extents, ascending.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// One past the highest address.
    #[must_use]
    pub fn end(&self) -> Gra {
        self.extents
            .last()
            .map_or(Gra(0), |e| Gra(e.gra.0.saturating_add(e.len())))
    }

    fn find(&self, gra: Gra) -> Option<(&Extent, u64)> {
        let candidate = self
            .extents
            .partition_point(|e| e.gra <= gra)
            .checked_sub(1)?;
        let extent = self.extents.get(candidate)?;
        let offset = gra.0.checked_sub(extent.gra.0)?;
        (offset < extent.len()).then_some((extent, offset))
    }

    /// Whether `[gra, gra + len)` is memory of the partition, gaps excluded. An empty range needs a valid start.
    #[must_use]
    pub fn contains(&self, gra: Gra, len: u64) -> bool {
        let Some(end) = gra.0.checked_add(len) else {
            return false;
        };
        let mut at = gra;
        loop {
            let Some((extent, offset)) = self.find(at) else {
                return false;
            };
            let next = at.0.saturating_add(extent.len().saturating_sub(offset));
            if next >= end {
                return true;
            }
            at = Gra(next);
        }
    }

    /// Where `gra` lies in the machine, and how many bytes from there are contiguous in both spaces.
    #[must_use]
    pub fn translate(&self, gra: Gra) -> Option<(Ra, u64)> {
        let (extent, offset) = self.find(gra)?;
        Some((
            Ra(extent.ra.0.checked_add(offset)?),
            extent.len().checked_sub(offset)?,
        ))
    }

    /// The doubleword at `gra`, which must be a multiple of 8: for atomic updates (page tables, VPAs).
    ///
    /// # Errors
    /// [`OutOfRange`] when it is not memory, or not aligned.
    pub fn word(&self, gra: Gra) -> Result<&'static AtomicU64, OutOfRange> {
        point();
        let err = OutOfRange { gra, len: 8 };
        let (extent, offset) = self.find(gra).filter(|_| gra.is_aligned(8)).ok_or(err)?;
        let index = usize::try_from(offset >> 3).map_err(|_| err)?;
        extent.memory.get(index).ok_or(err)
    }

    /// `count` doublewords from `gra`, which must be a multiple of 8: part of a table. `None` when they are not all in
    /// one extent.
    #[must_use]
    pub fn words(&self, gra: Gra, count: usize) -> Option<&'static [AtomicU64]> {
        point();
        let (extent, offset) = self.find(gra).filter(|_| gra.is_aligned(8))?;
        let start = usize::try_from(offset >> 3).ok()?;
        extent.memory.get(start..start.checked_add(count)?)
    }

    /// Reads a big-endian doubleword, atomically; `gra` must be a multiple of 8.
    ///
    /// # Errors
    /// [`OutOfRange`] when it is not memory, or not aligned.
    pub fn read_be64(&self, gra: Gra) -> Result<u64, OutOfRange> {
        Ok(u64::from_be(self.word(gra)?.load(Ordering::Acquire)))
    }

    /// Copies out, at any alignment and across extents. Nothing is copied unless all of it is memory.
    ///
    /// # Errors
    /// [`OutOfRange`] when any byte is not memory.
    pub fn read(&self, gra: Gra, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        let err = OutOfRange {
            gra,
            len: buffer.len() as u64,
        };
        if !self.contains(gra, err.len) {
            return Err(err);
        }
        let mut rest = buffer;
        let mut at = gra;
        let mut words = [].iter();
        while !rest.is_empty() {
            let word = self.next_word(&mut words, at).ok_or(err)?;
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            let skip = place_in_word(at);
            let count = 8usize.saturating_sub(skip).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            if let Ok(whole) = <&mut [u8; 8]>::try_from(&mut *now) {
                *whole = bytes;
            } else {
                for (to, from) in now.iter_mut().zip(bytes.iter().skip(skip)) {
                    *to = *from;
                }
            }
            rest = later;
            at = at.checked_add(count as u64).ok_or(err)?;
        }
        Ok(())
    }

    /// Copies in, at any alignment and across extents. Nothing is written unless all of it is memory; neighbouring
    /// bytes that the guest writes at the same time are kept.
    ///
    /// # Errors
    /// [`OutOfRange`] when any byte is not memory.
    pub fn write(&self, gra: Gra, data: &[u8]) -> Result<(), OutOfRange> {
        let err = OutOfRange {
            gra,
            len: data.len() as u64,
        };
        if !self.contains(gra, err.len) {
            return Err(err);
        }
        let mut rest = data;
        let mut at = gra;
        let mut words = [].iter();
        while !rest.is_empty() {
            let word = self.next_word(&mut words, at).ok_or(err)?;
            let skip = place_in_word(at);
            let count = 8usize.saturating_sub(skip).min(rest.len());
            let (now, later) = rest.split_at(count);
            if let Ok(whole) = <[u8; 8]>::try_from(now) {
                word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
            } else {
                let merge = |old: u64| {
                    let mut bytes = old.to_ne_bytes();
                    for (to, from) in bytes.iter_mut().skip(skip).zip(now) {
                        *to = *from;
                    }
                    u64::from_ne_bytes(bytes)
                };
                let mut old = word.load(Ordering::Relaxed);
                while let Err(seen) = word.compare_exchange_weak(
                    old,
                    merge(old),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    old = seen;
                }
            }
            rest = later;
            at = at.checked_add(count as u64).ok_or(err)?;
        }
        Ok(())
    }

    /// The word that holds the byte at `at`: the next of `words`, which run to the end of an extent, or the first of
    /// the extent that follows. Extents are looked up once per run, not per word.
    fn next_word(
        &self,
        words: &mut Iter<'static, AtomicU64>,
        at: Gra,
    ) -> Option<&'static AtomicU64> {
        words.next().or_else(|| {
            let (extent, offset) = self.find(at)?;
            *words = extent
                .memory
                .get(usize::try_from(offset >> 3).ok()?..)?
                .iter();
            words.next()
        })
    }
}

/// Where a byte lies in its doubleword.
fn place_in_word(at: Gra) -> usize {
    let [low, ..] = at.0.to_le_bytes();
    usize::from(low & 7)
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use core::sync::atomic::AtomicU64;

    use isa::addr::{Gra, Ra};
    use proptest::prelude::*;

    use super::{BadExtents, Extent, GuestRam, OutOfRange};

    /// Memory for tests, zeroed.
    pub(crate) fn memory(bytes: usize) -> &'static [AtomicU64] {
        Box::leak(
            (0..bytes / 8)
                .map(|_| AtomicU64::new(0))
                .collect::<Vec<_>>()
                .into_boxed_slice(),
        )
    }

    /// A partition with one extent at 0.
    pub(crate) fn flat(bytes: usize) -> GuestRam {
        GuestRam::new(&[Extent {
            gra: Gra(0),
            ra: Ra(1 << 30),
            memory: memory(bytes),
        }])
        .unwrap()
    }

    fn two_extents_and_a_hole() -> GuestRam {
        GuestRam::new(&[
            Extent {
                gra: Gra(0),
                ra: Ra(0x4000_0000),
                memory: memory(0x1_0000),
            },
            Extent {
                gra: Gra(0x1_0000),
                ra: Ra(0x8001_0000),
                memory: memory(0x1_0000),
            },
            Extent {
                gra: Gra(0x4_0000),
                ra: Ra(0x9004_0000),
                memory: memory(0x1_0000),
            },
        ])
        .unwrap()
    }

    #[test]
    fn wrapping_range_is_refused() {
        let ram = flat(0x1_0000);
        assert!(!ram.contains(Gra(0x1000), u64::MAX));
        assert_eq!(
            ram.read(Gra(u64::MAX), &mut [0; 2]),
            Err(OutOfRange {
                gra: Gra(u64::MAX),
                len: 2
            })
        );
    }

    #[test]
    fn copies_cross_extents_but_not_holes() {
        let ram = two_extents_and_a_hole();
        ram.write(Gra(0xfffd), &[1, 2, 3, 4, 5]).unwrap();
        let mut back = [0; 5];
        ram.read(Gra(0xfffd), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4, 5]);
        assert!(ram.write(Gra(0x1_fffe), &[9; 4]).is_err());
        ram.read(Gra(0x1_fffe), &mut back[..2]).unwrap();
        assert_eq!(back[..2], [0, 0], "a refused write leaves no trace");
    }

    #[test]
    fn translation_ends_with_the_extent() {
        let ram = two_extents_and_a_hole();
        assert_eq!(
            ram.translate(Gra(0x1_8000)),
            Some((Ra(0x8001_8000), 0x8000))
        );
        assert_eq!(ram.translate(Gra(0x2_0000)), None);
        assert_eq!(ram.end(), Gra(0x5_0000));
    }

    #[test]
    fn misplaced_extents_are_refused() {
        let e = |gra, bytes| Extent {
            gra: Gra(gra),
            ra: Ra(0),
            memory: memory(bytes),
        };
        assert_eq!(
            GuestRam::new(&[e(0x1_0000, 0x1_0000), e(0, 0x1_0000)]).err(),
            Some(BadExtents::Misplaced)
        );
        assert_eq!(
            GuestRam::new(&[e(0, 0x1000)]).err(),
            Some(BadExtents::Misplaced)
        );
        assert_eq!(GuestRam::new(&[e(0, 0)]).err(), Some(BadExtents::Misplaced));
    }

    #[test]
    fn words_are_aligned() {
        let ram = flat(0x1_0000);
        assert!(ram.word(Gra(4)).is_err());
        ram.write(Gra(8), &0x1122_3344_5566_7788u64.to_be_bytes())
            .unwrap();
        assert_eq!(ram.read_be64(Gra(8)), Ok(0x1122_3344_5566_7788));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_nothing_else_changed(at in 0u64..0x200, data in prop::collection::vec(any::<u8>(), 0..64)) {
            let ram = flat(0x1_0000);
            ram.write(Gra(at), &data).unwrap();
            let mut all = [0u8; 0x300];
            ram.read(Gra(0), &mut all).unwrap();
            let at = usize::try_from(at).unwrap();
            prop_assert_eq!(&all[at..at + data.len()], &data[..]);
            prop_assert!(all[..at].iter().chain(&all[at + data.len()..]).all(|b| *b == 0));
        }
    }
}

//! Memory of the kernel as OPAL calls see it: which addresses are memory that a kernel may hand to the firmware.
//!
//! [`OsMap`] holds the memory of the machine less what the firmware keeps; [`OsMemory`] is what copies, implemented
//! where real memory is. Data is copied, never lent: other threads of the kernel may write it at any time.
//!
//! The surprising fact: kernels pass addresses of their linear map (0xc...) as well as real ones, because real mode
//! ignores the top four bits. Here only these two forms are let through.

use arrayvec::ArrayVec;
use isa::addr::Ra;

use crate::args::OsAddr;
use crate::error::OpalError;

/// Most ranges a map has: one per chip, and holes.
pub const MAX_RANGES: usize = 32;

/// An address range that is not the kernel's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPointer {
    /// First byte asked for.
    pub addr: OsAddr,
    /// Bytes asked for.
    pub len: u64,
}

impl From<BadPointer> for OpalError {
    fn from(_: BadPointer) -> Self {
        Self::OPAL_PARAMETER
    }
}

/// Ranges that cannot be made into a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRanges {
    /// More than [`MAX_RANGES`].
    TooMany,
    /// Empty, not ascending, overlapping or beyond the address space.
    Misplaced,
}

/// A range of real memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    /// One past the last byte.
    end: u64,
}

/// The memory that a kernel may point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsMap {
    /// Ascending, not empty, not overlapping.
    ranges: ArrayVec<Range, MAX_RANGES>,
}

impl OsMap {
    /// Takes the machine's memory as (first byte, bytes), ascending.
    ///
    /// # Errors
    /// [`BadRanges`].
    pub fn new(memory: &[(Ra, u64)]) -> Result<Self, BadRanges> {
        let mut ranges = ArrayVec::<Range, MAX_RANGES>::new();
        for &(start, len) in memory {
            let end = start.0.checked_add(len).ok_or(BadRanges::Misplaced)?;
            let free_from = ranges.last().map_or(0, |last| last.end);
            if len == 0 || start.0 < free_from || end > NIBBLE {
                return Err(BadRanges::Misplaced);
            }
            ranges
                .try_push(Range {
                    start: start.0,
                    end,
                })
                .map_err(|_| BadRanges::TooMany)?;
        }
        Ok(Self { ranges })
    }

    /// This map without `len` bytes at `start`, which the firmware keeps.
    ///
    /// # Errors
    /// [`BadRanges`], when the hole splits one range too many or is beyond the address space.
    pub fn without(&self, start: Ra, len: u64) -> Result<Self, BadRanges> {
        let end = start.0.checked_add(len).ok_or(BadRanges::Misplaced)?;
        let mut ranges = ArrayVec::new();
        for range in &self.ranges {
            let before = Range {
                start: range.start,
                end: range.end.min(start.0),
            };
            let after = Range {
                start: range.start.max(end),
                end: range.end,
            };
            let pieces = if len == 0 {
                [*range, EMPTY]
            } else {
                [before, after]
            };
            for piece in pieces.into_iter().filter(|piece| piece.start < piece.end) {
                ranges.try_push(piece).map_err(|_| BadRanges::TooMany)?;
            }
        }
        Ok(Self { ranges })
    }

    /// The real address of `len` bytes that are the kernel's; a length of 0 still needs a good address.
    ///
    /// # Errors
    /// [`BadPointer`], which is OPAL_PARAMETER.
    pub fn check(&self, addr: OsAddr, len: u64) -> Result<Ra, BadPointer> {
        let bad = BadPointer { addr, len };
        let real = addr.0 & (NIBBLE - 1);
        if addr.0 != real && addr.0 != real | LINEAR_MAP {
            return Err(bad);
        }
        let end = real.checked_add(len.max(1)).ok_or(bad)?;
        let inside = self
            .ranges
            .iter()
            .any(|range| range.start <= real && end <= range.end);
        if inside { Ok(Ra(real)) } else { Err(bad) }
    }
}

/// One past the highest real address that an effective address can mean: real mode ignores the top four bits.
const NIBBLE: u64 = 1 << 60;
const LINEAR_MAP: u64 = 0xc << 60;
const EMPTY: Range = Range { start: 0, end: 0 };

/// Copies between the firmware and memory of the kernel. Each call checks its whole range first.
pub trait OsMemory {
    /// Whether `len` bytes are the kernel's.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn check(&self, addr: OsAddr, len: u64) -> Result<(), BadPointer>;

    /// Copies out of the kernel's memory.
    ///
    /// # Errors
    /// [`BadPointer`]; nothing was copied.
    fn read(&self, addr: OsAddr, into: &mut [u8]) -> Result<(), BadPointer>;

    /// Copies into the kernel's memory.
    ///
    /// # Errors
    /// [`BadPointer`]; nothing was copied.
    fn write(&self, addr: OsAddr, from: &[u8]) -> Result<(), BadPointer>;

    /// Reads a big-endian doubleword.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn read_be64(&self, addr: OsAddr) -> Result<u64, BadPointer> {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Writes a byte.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn write_u8(&self, addr: OsAddr, value: u8) -> Result<(), BadPointer> {
        self.write(addr, &[value])
    }

    /// Writes a big-endian halfword.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn write_be16(&self, addr: OsAddr, value: u16) -> Result<(), BadPointer> {
        self.write(addr, &value.to_be_bytes())
    }

    /// Writes a big-endian word.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn write_be32(&self, addr: OsAddr, value: u32) -> Result<(), BadPointer> {
        self.write(addr, &value.to_be_bytes())
    }

    /// Writes a big-endian doubleword.
    ///
    /// # Errors
    /// [`BadPointer`].
    fn write_be64(&self, addr: OsAddr, value: u64) -> Result<(), BadPointer> {
        self.write(addr, &value.to_be_bytes())
    }
}

/// Memory of a kernel for tests: one range from 0.
#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the map is smaller than a usize"
)]
pub(crate) mod fake {
    use std::sync::Mutex;
    use std::vec;
    use std::vec::Vec;

    use super::{BadPointer, OsMap, OsMemory};
    use crate::args::OsAddr;
    use isa::addr::Ra;

    pub(crate) struct Memory {
        map: OsMap,
        bytes: Mutex<Vec<u8>>,
    }

    impl Memory {
        pub(crate) fn new(len: usize) -> Self {
            Self {
                map: OsMap::new(&[(Ra(0), len as u64)]).unwrap(),
                bytes: Mutex::new(vec![0; len]),
            }
        }

        pub(crate) fn fill(&self, value: u8) {
            self.bytes.lock().unwrap().fill(value);
        }

        pub(crate) fn bytes(&self, addr: OsAddr, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.read(addr, &mut bytes).unwrap();
            bytes
        }
    }

    impl OsMemory for Memory {
        fn check(&self, addr: OsAddr, len: u64) -> Result<(), BadPointer> {
            self.map.check(addr, len).map(drop)
        }

        fn read(&self, addr: OsAddr, into: &mut [u8]) -> Result<(), BadPointer> {
            let start = self.map.check(addr, into.len() as u64)?.0 as usize;
            into.copy_from_slice(&self.bytes.lock().unwrap()[start..start + into.len()]);
            Ok(())
        }

        fn write(&self, addr: OsAddr, from: &[u8]) -> Result<(), BadPointer> {
            let start = self.map.check(addr, from.len() as u64)?.0 as usize;
            self.bytes.lock().unwrap()[start..start + from.len()].copy_from_slice(from);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BadRanges, MAX_RANGES, OsMap};
    use crate::args::OsAddr;
    use isa::addr::Ra;

    const MIB: u64 = 1 << 20;

    /// 1 GiB at 0 and at 16 TiB; the firmware keeps 64 MiB at 768 MiB.
    fn map() -> OsMap {
        OsMap::new(&[(Ra(0), 1024 * MIB), (Ra(1 << 44), 1024 * MIB)])
            .unwrap()
            .without(Ra(768 * MIB), 64 * MIB)
            .unwrap()
    }

    #[test]
    fn both_forms_of_an_address_mean_the_same() {
        for addr in [0x1000, 0xc000_0000_0000_1000] {
            assert_eq!(map().check(OsAddr(addr), 8), Ok(Ra(0x1000)));
        }
        for top in (1..16).filter(|top| *top != 0xc) {
            assert!(map().check(OsAddr(top << 60 | 0x1000), 8).is_err());
        }
    }

    #[test]
    fn the_firmware_and_what_is_no_memory_are_refused() {
        let map = map();
        let ok = |addr: u64, len| map.check(OsAddr(addr), len).is_ok();
        assert!(ok(768 * MIB - 8, 8) && !ok(768 * MIB - 7, 8));
        assert!(!ok(768 * MIB, 1) && !ok(800 * MIB, 8) && !ok(832 * MIB - 1, 1));
        assert!(ok(832 * MIB, 1) && ok(1024 * MIB - 1, 1) && !ok(1024 * MIB - 1, 2));
        assert!(!ok(1024 * MIB, 0), "an empty range needs an address too");
        assert!(ok(1 << 44, 1024 * MIB) && !ok(1 << 44, 1024 * MIB + 1));
        assert!(!ok(700 * MIB, 200 * MIB), "a range that spans the firmware");
        assert!(!ok(0, u64::MAX) && !ok(u64::MAX, 1) && !ok((1 << 60) - 1, u64::MAX));
    }

    #[test]
    fn bad_lists_are_refused() {
        let new = |list: &[(u64, u64)]| {
            OsMap::new(
                &list
                    .iter()
                    .map(|(a, l)| (Ra(*a), *l))
                    .collect::<std::vec::Vec<_>>(),
            )
        };
        assert_eq!(new(&[(0, 0)]), Err(BadRanges::Misplaced));
        assert_eq!(new(&[(0, 16), (8, 16)]), Err(BadRanges::Misplaced));
        assert_eq!(new(&[(u64::MAX, 2)]), Err(BadRanges::Misplaced));
        assert_eq!(new(&[(1 << 60, 8)]), Err(BadRanges::Misplaced));
        let many: std::vec::Vec<_> = (0..=MAX_RANGES as u64).map(|i| (i * 16, 8)).collect();
        assert_eq!(new(&many), Err(BadRanges::TooMany));
        let full = new(&many[..MAX_RANGES]).unwrap();
        assert_eq!(full.without(Ra(2), 2), Err(BadRanges::TooMany));
        assert!(full.without(Ra(0), 8).is_ok());
    }

    proptest! {
        /// A hole takes out exactly its bytes.
        #[test]
        fn holes_take_what_they_cover(start in 0_u64..40, len in 0_u64..40, at in 0_u64..80) {
            let whole = OsMap::new(&[(Ra(4), 30), (Ra(40), 20)]).unwrap();
            let map = whole.without(Ra(start), len).unwrap();
            let kept = whole.check(OsAddr(at), 1).is_ok() && !(start..start + len).contains(&at);
            prop_assert_eq!(map.check(OsAddr(at), 1).is_ok(), kept);
            let ascending = map.ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
            prop_assert!(ascending);
        }
    }
}

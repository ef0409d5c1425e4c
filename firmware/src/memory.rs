//! Who owns which memory: the firmware's reserved block, the pool for tables, and what a partition gets.
//!
//! Pure arithmetic on the ranges that the tree names; nothing here touches memory. Surprising fact: a partition's real
//! addresses and the machine's agree modulo 1 GiB in every extent, so that leaves of each size can map them, which is
//! why the low memory (below the firmware's block) comes back to the partition in a hole-y place high up.
//!
//! | real address | use |
//! |---|---|
//! | 0 .. 64 KiB | vectors and guest exit code |
//! | 64 KiB .. 16 MiB | unused: smaller than a memory block of the partition |
//! | 16 MiB .. 768 MiB | before the hand-over: tree, kernel and initrd as loaded; then the partition's |
//! | 768 MiB .. | image, then (from + 6 MiB) heap, memory console, thread blocks, (from 832 MiB) table pool, (up to 1 GiB) interrupt tables |
//! | 1 GiB .. | the partition's |
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use isa::addr::{Gra, Ra};
use nest::xive::REGION;

/// 64 KiB at 0: the vectors' and the guest exit code's, in every mode.
pub const LOW_SIZE: u64 = 0x1_0000;
/// Where the image is linked and the firmware's block starts.
pub const FIRMWARE: u64 = 0x3000_0000;
/// The heap of the firmware.
pub const HEAP: Range<u64> = 0x3060_0000..0x3100_0000;
/// The memory console, control structure and both buffers.
pub const MEMORY_CONSOLE: Range<u64> = 0x3100_0000..0x3110_0000;
/// A word that a reset leaves alone, for [`crate::files`].
pub const NOTE: u64 = 0x3110_0000;
/// Blocks of threads other than the boot thread, 64 KiB each.
pub const THREAD_BLOCKS: Range<u64> = 0x3120_0000..0x3400_0000;
/// Where the table pool starts; [`Plan::pool`] says where it ends.
pub const POOL: u64 = 0x3400_0000;
/// Where a partition's first extent starts.
pub const PARTITION: u64 = 0x4000_0000;
/// Memory that a partition needs at least, from 0.
pub const LEAST: u64 = 2 << 30;

/// The firmware's block by use, up to `end` of the pool; each part begins where the one before it ends.
#[must_use]
pub fn firmware_parts(end: u64) -> [(&'static str, Range<u64>); 5] {
    [
        ("code", FIRMWARE..HEAP.start),
        ("heap", HEAP),
        ("data", HEAP.end..THREAD_BLOCKS.start),
        ("stacks", THREAD_BLOCKS),
        ("allocs-memory", POOL..end.max(POOL)),
    ]
}

const MIB: u64 = 1 << 20;
/// Least size of the table pool.
const LEAST_POOL: u64 = 16 * MIB;
const GIB: u64 = 1 << 30;
/// Extents start and end at multiples of this: the partition's tree describes memory in blocks of 16 MiB and would leave
/// out what is in no whole one.
const UNIT: u64 = 16 * MIB;

/// A run of memory that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// The chip it hangs on, as the tree calls it.
    pub chip: u32,
}

/// A run of a partition's memory: what it sees at `gra` is at `ra`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionExtent {
    /// Guest real address.
    pub gra: Gra,
    /// Real address, congruent to `gra` modulo 1 GiB.
    pub ra: Ra,
    /// Bytes.
    pub len: u64,
}

impl PartitionExtent {
    /// Where the partition sees `range` of real addresses, if this extent has all of it.
    #[must_use]
    pub fn sees(&self, range: &Range<u64>) -> Option<Gra> {
        let offset = range.start.checked_sub(self.ra.0)?;
        let is_inside = range.end.checked_sub(self.ra.0)? <= self.len;
        is_inside.then(|| self.gra.checked_add(offset))?
    }
}

/// Why the memory does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// No memory from 0 at all, or less than the firmware's own block needs.
    NoRoomForFirmware {
        /// Contiguous bytes from 0.
        found: u64,
    },
    /// Less than [`LEAST`] from 0.
    TooSmall {
        /// Contiguous bytes from 0.
        found: u64,
    },
    /// Something else claims memory inside the firmware's block.
    Claimed {
        /// The claimed range's first byte.
        base: u64,
        /// The claimed range's length.
        len: u64,
    },
    /// Ranges in the tree overlap or leave the address space.
    Nonsense {
        /// First byte of the range.
        base: u64,
        /// Its length.
        len: u64,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoomForFirmware { found } => write!(
                f,
                "found {} MiB of memory from address 0, the firmware itself needs 1024 MiB: give the machine more memory",
                found / MIB
            ),
            Self::TooSmall { found } => write!(
                f,
                "found {} MiB of memory from address 0, papr mode needs {} MiB: give the machine more memory (QEMU: -m 2G)",
                found / MIB,
                LEAST / MIB
            ),
            Self::Claimed { base, len } => write!(
                f,
                "the device tree reserves {base:#x}..{:#x}, which the firmware needs: load it elsewhere",
                base.saturating_add(*len)
            ),
            Self::Nonsense { base, len } => {
                write!(
                    f,
                    "the device tree's memory at {base:#x}, {len:#x} bytes, overlaps or leaves the address space"
                )
            }
        }
    }
}

/// What the firmware keeps and what is left. Evidence that the ranges have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All memory, ascending, neighbours of one chip merged.
    pub ram: Vec<Region>,
    /// Bytes from 0 without a hole.
    pub contiguous: u64,
    /// What others have reserved, ascending.
    pub reserved: Vec<Range<u64>>,
}

impl Plan {
    /// Checks the tree's ranges against each other and against the firmware's block.
    ///
    /// # Errors
    /// [`MemoryError`] but never `TooSmall`: that is the mode's business.
    pub fn new(mut ram: Vec<Region>, mut reserved: Vec<Range<u64>>) -> Result<Self, MemoryError> {
        ram.retain(|region| region.len > 0);
        ram.sort_unstable_by_key(|region| region.base);
        let mut end = 0;
        let mut contiguous = 0;
        for &Region { base, len, .. } in &ram {
            let nonsense = MemoryError::Nonsense { base, len };
            if base < end || base % LOW_SIZE != 0 || len % LOW_SIZE != 0 {
                return Err(nonsense);
            }
            end = base
                .checked_add(len)
                .filter(|end| *end <= 1 << 52)
                .ok_or(nonsense)?;
            if base == contiguous {
                contiguous = end;
            }
        }
        if contiguous < PARTITION {
            return Err(MemoryError::NoRoomForFirmware { found: contiguous });
        }
        reserved.retain(|range| range.start < range.end);
        reserved.sort_unstable_by_key(|range| range.start);
        let ours = [0..LOW_SIZE, FIRMWARE..PARTITION];
        for range in &reserved {
            if ours
                .iter()
                .any(|own| range.start < own.end && own.start < range.end)
            {
                return Err(MemoryError::Claimed {
                    base: range.start,
                    len: range.end - range.start,
                });
            }
        }
        Ok(Self {
            ram,
            contiguous,
            reserved,
        })
    }

    /// All memory of the machine, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ram
            .iter()
            .fold(0, |sum, region| sum.saturating_add(region.len))
    }

    /// The tables of the interrupt controllers of that many chips, when a partition uses them: the end of the firmware's
    /// block. `None` when they would leave no room for the [`pool`](Self::pool).
    #[must_use]
    pub fn interrupt_tables(chips: usize) -> Option<Range<u64>> {
        let size = u64::try_from(chips).ok()?.checked_mul(REGION)?;
        let start = PARTITION.checked_sub(size)?;
        (start >= POOL + LEAST_POOL).then_some(start..PARTITION)
    }

    /// The pool for translation tables and nested guests' state: 1/64 of the memory, from 16 MiB up to the tables of the
    /// interrupt controllers of `chips` chips.
    #[must_use]
    pub fn pool(&self, chips: usize) -> Range<u64> {
        let end = Self::interrupt_tables(chips).map_or(PARTITION, |tables| tables.start);
        let size = (self.total() / 64).clamp(LEAST_POOL, end - POOL);
        POOL..POOL + size / UNIT * UNIT
    }

    /// The memory of the one partition, ascending by guest address, at most `most` extents.
    ///
    /// First what lies above 1 GiB, from guest address 0; then the low memory, so high that both addresses agree modulo
    /// 1 GiB; then whatever is further away. Reserved ranges are left out.
    ///
    /// # Errors
    /// [`MemoryError::TooSmall`].
    pub fn partition_extents(&self, most: usize) -> Result<Vec<PartitionExtent>, MemoryError> {
        if self.contiguous < LEAST {
            return Err(MemoryError::TooSmall {
                found: self.contiguous,
            });
        }
        let mut near = self.unreserved(PARTITION..self.contiguous).into_iter();
        // The first extent is what the partition boots in: it has to start at guest address 0.
        let first = near.next().filter(|run| run.start == PARTITION);
        let Some(first) = first.filter(|run| run.end - run.start >= LEAST - PARTITION) else {
            return Err(MemoryError::TooSmall {
                found: self.contiguous,
            });
        };
        let mut runs = Vec::from([first]);
        runs.extend(self.unreserved(UNIT..FIRMWARE));
        runs.extend(near);
        for region in &self.ram {
            if region.base >= self.contiguous {
                runs.extend(self.unreserved(region.base..region.base.saturating_add(region.len)));
            }
        }
        let mut extents = Vec::new();
        let mut end = 0_u64;
        for run in runs.into_iter().take(most) {
            let gra = if extents.is_empty() {
                0
            } else {
                end.next_multiple_of(GIB) + run.start % GIB
            };
            let len = run.end - run.start;
            extents.push(PartitionExtent {
                gra: Gra(gra),
                ra: Ra(run.start),
                len,
            });
            end = gra + len;
        }
        Ok(extents)
    }

    /// `range` without what is reserved, in whole units.
    fn unreserved(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let mut add = |run: Range<u64>| {
            let run = run.start.next_multiple_of(UNIT)..run.end / UNIT * UNIT;
            if run.start < run.end {
                runs.push(run);
            }
        };
        let mut at = range.start;
        for taken in &self.reserved {
            if taken.end > at && taken.start < range.end {
                if taken.start > at {
                    add(at..taken.start);
                }
                at = taken.end;
            }
        }
        if at < range.end {
            add(at..range.end);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine(bytes: u64) -> Plan {
        Plan::new(
            vec![Region {
                base: 0,
                len: bytes,
                chip: 0,
            }],
            vec![],
        )
        .unwrap()
    }

    #[test]
    fn the_parts_of_the_firmware_leave_no_gap() {
        let parts = firmware_parts(POOL + 64 * MIB);
        assert_eq!(parts[0].1.start, FIRMWARE);
        for pair in parts.windows(2) {
            assert_eq!(pair[0].1.end, pair[1].1.start, "{}", pair[1].0);
        }
        assert!(MEMORY_CONSOLE.start >= parts[2].1.start && MEMORY_CONSOLE.end <= parts[2].1.end);
        assert_eq!(parts[4].1.end, POOL + 64 * MIB);
    }

    #[test]
    fn a_partition_gets_what_is_above_then_what_is_below() {
        let extents = machine(4 * GIB).partition_extents(16).unwrap();
        let first = PartitionExtent {
            gra: Gra(0),
            ra: Ra(GIB),
            len: 3 * GIB,
        };
        let second = PartitionExtent {
            gra: Gra(3 * GIB + UNIT),
            ra: Ra(UNIT),
            len: FIRMWARE - UNIT,
        };
        assert_eq!(extents, [first, second]);
    }

    #[test]
    fn memory_of_other_chips_follows() {
        let far = 1 << 44;
        let ram = vec![
            Region {
                base: far,
                len: 4 * GIB,
                chip: 1,
            },
            Region {
                base: 0,
                len: 2 * GIB,
                chip: 0,
            },
        ];
        let extents = Plan::new(ram, vec![])
            .unwrap()
            .partition_extents(16)
            .unwrap();
        assert_eq!(extents.len(), 3);
        assert_eq!((extents[2].gra, extents[2].ra), (Gra(2 * GIB), Ra(far)));
    }

    #[test]
    fn too_little_memory_is_named() {
        assert_eq!(
            machine(GIB).partition_extents(16),
            Err(MemoryError::TooSmall { found: GIB })
        );
        let small = Plan::new(
            vec![Region {
                base: 0,
                len: GIB / 2,
                chip: 0,
            }],
            vec![],
        );
        assert_eq!(
            small,
            Err(MemoryError::NoRoomForFirmware { found: GIB / 2 })
        );
        assert!(Plan::new(vec![], vec![]).is_err());
        let text = MemoryError::TooSmall { found: GIB }.to_string();
        assert!(
            text.contains("found 1024 MiB") && text.contains("needs 2048 MiB"),
            "{text}"
        );
    }

    #[test]
    fn the_pool_grows_with_the_machine_within_its_limits() {
        assert_eq!(machine(GIB).pool(1), POOL..POOL + 16 * MIB);
        assert_eq!(machine(4 * GIB).pool(2), POOL..POOL + 64 * MIB);
        assert_eq!(machine(1 << 40).pool(1), POOL..PARTITION - 16 * MIB);
        // So many chips that their tables have no room.
        assert_eq!(machine(1 << 40).pool(12), POOL..PARTITION);
        assert_eq!(machine(1 << 40).pool(usize::MAX), POOL..PARTITION);
    }

    #[test]
    fn a_reservation_in_the_firmware_is_refused() {
        let ram = vec![Region {
            base: 0,
            len: 4 * GIB,
            chip: 0,
        }];
        let error = Plan::new(ram, Vec::from([0x3100_0000..0x3100_1000; 1])).unwrap_err();
        assert_eq!(
            error,
            MemoryError::Claimed {
                base: 0x3100_0000,
                len: 0x1000
            }
        );
    }

    proptest! {
        #[test]
        fn extents_are_sound(
            gibs in 2u64..64, far in proptest::option::of((0u64..1 << 20, 1u64..64)),
            taken in proptest::collection::vec((0u64..64 * GIB, 1u64..GIB), 0..6),
        ) {
            let mut ram = vec![Region { base: 0, len: gibs * GIB, chip: 0 }];
            if let Some((at, len)) = far {
                ram.push(Region { base: (1 << 44) + at * LOW_SIZE, len: len * GIB, chip: 1 });
            }
            let reserved: Vec<_> = taken.iter().map(|(base, len)| *base..base + len).collect();
            let Ok(plan) = Plan::new(ram.clone(), reserved.clone()) else { return Ok(()) };
            let Ok(extents) = plan.partition_extents(16) else { return Ok(()) };
            prop_assert!(extents.len() <= 16);
            prop_assert_eq!((extents[0].gra, extents[0].ra), (Gra(0), Ra(GIB)));
            let mut end = 0;
            for (n, e) in extents.iter().enumerate() {
                prop_assert_eq!(e.gra.0 % GIB, e.ra.0 % GIB);
                prop_assert!(e.gra.0 >= end && e.len > 0 && e.len % UNIT == 0 && e.ra.0 % UNIT == 0);
                end = e.gra.0 + e.len;
                let real = e.ra.0..e.ra.0 + e.len;
                prop_assert!(ram.iter().any(|r| r.base <= real.start && real.end <= r.base + r.len));
                prop_assert!(real.start >= LOW_SIZE);
                prop_assert!(real.end <= FIRMWARE || real.start >= PARTITION);
                prop_assert!(reserved.iter().all(|r| r.end <= real.start || real.end <= r.start));
                for other in &extents[n + 1..] {
                    prop_assert!(other.ra.0 >= real.end || other.ra.0 + other.len <= real.start);
                }
            }
        }

        #[test]
        fn nonsense_never_panics(
            ram in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            reserved in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        ) {
            let ram = ram.into_iter().map(|(base, len)| Region { base: base & !0xffff, len: len & !0xffff, chip: 0 }).collect();
            if let Ok(plan) = Plan::new(ram, reserved.into_iter().map(|(a, b)| a..b).collect()) {
                let _ = (plan.pool(1), plan.partition_extents(16));
            }
        }
    }
}

//! The memory that the interrupt controller of one chip needs, and how the firmware gets at it.
//!
//! Owns the layout of a chip's region ([`XiveMemory`], asked for from the memory plan) and the one place that loads and
//! stores in tables that the chip uses at the same time ([`RealTables`]). The surprising fact: the chip works on cached
//! copies of events and virtual processors; what is in memory is right only after a scrub ([`super::cache`]).

use isa::addr::Ra;

use super::registers::PAGE;

/// 16 MiB: the unit in which the chip tracks who has a cache line. The queues' overflow pages want one of their own.
pub const REGION: u64 = 16 << 20;

/// Interrupt sources of a chip, log2.
pub const SOURCES_LOG2: u32 = 20;
/// Event descriptors of a chip, log2.
pub const ENDS_LOG2: u32 = 23;
/// Virtual processors of a chip, log2: each has eight event descriptors.
pub const VPS_LOG2: u32 = ENDS_LOG2 - 3;
/// Entries of 32 bytes on a page of an indirect table.
pub const PER_PAGE: u32 = 2048;

/// A chip's region: [`REGION`] bytes, aligned to as much, that nothing else uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XiveMemory {
    base: Ra,
}

/// A region that is not aligned, or beyond what the tables can address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misplaced;

/// Where things are in the region.
macro_rules! layout {
    ($( $(#[doc = $doc:literal])* $name:ident $at:literal .. $end:literal; )*) => { impl XiveMemory { $(
        $(#[doc = $doc])*
        #[must_use]
        pub(crate) const fn $name(self) -> (Ra, u64) {
            (Ra(self.base.0 + $at), $end - $at)
        }
    )* } };
}

layout! {
    /// Overflow of the VC's queues, a page each.
    overflow      0x0000_0000 .. 0x0007_0000;
    /// P and Q of the sources, two bits each.
    esb           0x0008_0000 .. 0x000c_0000;
    /// What syncs report: 512 bytes for each of 128 threads, and a page more.
    sync          0x000c_0000 .. 0x000e_0000;
    /// Descriptors of the pages of event descriptors.
    end_pages     0x000e_0000 .. 0x000f_0000;
    /// Descriptors of the pages of virtual processors.
    nvp_pages     0x000f_0000 .. 0x0010_0000;
    /// First page of event descriptors: those of the hardware threads.
    end_first     0x0010_0000 .. 0x0011_0000;
    /// First page of virtual processors: those of the hardware threads.
    nvp_first     0x0011_0000 .. 0x0012_0000;
    /// Ours: which sets of eight event descriptors are taken, a bit each.
    end_sets      0x0012_0000 .. 0x0014_0000;
    /// Ours: pages that were given and are not used yet, 8 bytes each.
    donated       0x0014_0000 .. 0x0015_0000;
    /// Ours: where reports go that nobody asked for.
    reports       0x0015_0000 .. 0x0016_0000;
    /// Ours, on the first chip only: blocks of virtual processors.
    vp_blocks     0x0020_0000 .. 0x0030_0000;
    /// Ours: pages for the tables, where no kernel gives any.
    spare         0x0030_0000 .. 0x0080_0000;
    /// Assignments, 8 bytes for each source.
    eas           0x0080_0000 .. 0x0100_0000;
}

impl XiveMemory {
    /// The region at `base`.
    ///
    /// # Errors
    /// [`Misplaced`], when it is not aligned to its size or out of the tables' reach.
    pub const fn new(base: Ra) -> Result<Self, Misplaced> {
        if base.0 == 0 || !base.is_aligned(REGION) || base.0 >= 1 << 55 {
            return Err(Misplaced);
        }
        Ok(Self { base })
    }
}

/// Loads and stores in the controller's tables. Values are numbers: memory is big-endian.
pub trait TableMemory {
    /// Loads 8 bytes.
    fn load(&self, at: Ra) -> u64;
    /// Stores 8 bytes, at once.
    fn store(&self, at: Ra, value: u64);

    /// Fills `bytes`, a multiple of 8, with copies of a byte.
    fn fill(&self, at: Ra, bytes: u64, value: u8) {
        let value = u64::from(value) * 0x0101_0101_0101_0101;
        for offset in (0..bytes).step_by(8) {
            self.store(Ra(at.0 + offset), value);
        }
    }
}

impl<T: TableMemory + ?Sized> TableMemory for &T {
    fn load(&self, at: Ra) -> u64 {
        (**self).load(at)
    }
    fn store(&self, at: Ra, value: u64) {
        (**self).store(at, value);
    }
    fn fill(&self, at: Ra, bytes: u64, value: u8) {
        (**self).fill(at, bytes, value);
    }
}

#[cfg(target_arch = "powerpc64")]
pub use real::RealTables;

#[cfg(target_arch = "powerpc64")]
mod real {
    #![expect(unsafe_code, reason = "the tables are shared with the chip")]

    use isa::addr::Ra;

    use super::TableMemory;

    /// Tables in real memory.
    #[derive(Debug)]
    pub struct RealTables(());

    impl RealTables {
        /// Access to the tables of a [`Xive`](crate::xive::Xive).
        ///
        /// # Safety
        /// Every region and every page that is given to the controller must be memory that only it uses from then on,
        /// and its users must run in real mode.
        #[must_use]
        pub const unsafe fn new() -> Self {
            Self(())
        }
    }

    impl TableMemory for RealTables {
        fn load(&self, at: Ra) -> u64 {
            // SAFETY: the driver only loads from what it was given, by the promise of `new`; all its offsets are
            // multiples of 8.
            u64::from_be(unsafe {
                core::ptr::with_exposed_provenance::<u64>(address(at)).read_volatile()
            })
        }

        fn store(&self, at: Ra, value: u64) {
            let pointer = core::ptr::with_exposed_provenance_mut::<u64>(address(at));
            // SAFETY: as for `load`.
            unsafe { pointer.write_volatile(value.to_be()) };
        }

        fn fill(&self, at: Ra, bytes: u64, value: u8) {
            let block = isa::cache::BLOCK as u64;
            if value == 0 && at.is_aligned(block) && bytes.is_multiple_of(block) {
                // SAFETY: whole blocks of what the driver was given, by the promise of `new`.
                return unsafe { isa::cache::zero(at.0, bytes) };
            }
            let value = u64::from_ne_bytes([value; 8]);
            for offset in (0..bytes).step_by(8) {
                self.store(Ra(at.0 + offset), value);
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]
    const fn address(at: Ra) -> usize {
        at.0 as usize
    }
}

/// Bytes of a page that a kernel gives.
pub const DONATED_PAGE: u64 = PAGE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_all_is_aligned_to_its_size() {
        let memory = XiveMemory::new(Ra(0x3400_0000)).unwrap();
        let parts = [
            memory.overflow(),
            memory.esb(),
            memory.sync(),
            memory.end_pages(),
            memory.nvp_pages(),
            memory.end_first(),
            memory.nvp_first(),
            memory.end_sets(),
            memory.donated(),
            memory.reports(),
            memory.vp_blocks(),
            memory.spare(),
            memory.eas(),
        ];
        for pair in parts.windows(2) {
            assert!(pair[0].0.0 + pair[0].1 <= pair[1].0.0);
        }
        for (at, bytes) in &parts[1..] {
            // The spare pages are no table: each is aligned to itself.
            let unit = if at.0 == memory.spare().0.0 {
                PAGE
            } else {
                *bytes
            };
            assert!(unit.is_power_of_two() && at.is_aligned(unit), "{at}");
        }
        let last = parts[parts.len() - 1];
        assert!(last.0.0 + last.1 <= 0x3400_0000 + REGION);
        assert_eq!(memory.esb().1 * 4, 1 << SOURCES_LOG2);
        assert_eq!(memory.eas().1 / 8, 1 << SOURCES_LOG2);
        assert_eq!(memory.end_sets().1 * 8, 1 << VPS_LOG2);
        assert_eq!(
            memory.end_pages().1 / 8 / 2 * u64::from(PER_PAGE),
            1 << ENDS_LOG2
        );
    }

    #[test]
    fn bad_places_are_refused() {
        assert_eq!(XiveMemory::new(Ra(0)), Err(Misplaced));
        assert_eq!(XiveMemory::new(Ra(REGION / 2)), Err(Misplaced));
        assert_eq!(XiveMemory::new(Ra(1 << 55)), Err(Misplaced));
    }
}

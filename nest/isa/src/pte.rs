//! Radix page-table formats (Power ISA 3.1, book III, 6.7.10): bits, sizes and the partition-table entry.
//! Formats only: walking and building is `papr_services::radix`.

use bitflags::bitflags;

bitflags! {
    /// A radix entry, directory or leaf, as a number (tables hold it big-endian).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Pte: u64 {
        /// Entry is valid.
        const VALID = 0x8000_0000_0000_0000;
        /// Entry is a leaf.
        const LEAF = 0x4000_0000_0000_0000;
        /// Reference.
        const R = 0x100;
        /// Change.
        const C = 0x80;
        /// Attribute: strong access order.
        const SAO = 0x10;
        /// Attribute: non-idempotent input/output.
        const IO = 0x20;
        /// Privileged access only; has no meaning in partition scope.
        const PRIVILEGED = 0x8;
        /// Read.
        const READ = 0x4;
        /// Write; implies read.
        const WRITE = 0x2;
        /// Execute.
        const EXECUTE = 0x1;
        const _ = !0;
    }
}

/// Real page number of a leaf.
pub const RPN: u64 = 0x01ff_ffff_ffff_f000;
/// Next table of a directory entry.
pub const NEXT_TABLE: u64 = 0x0fff_ffff_ffff_ff00;
/// Log2 of the next table's entries, in a directory entry.
pub const NEXT_SIZE: u64 = 0x1f;

/// Address bits of the partition-scoped space.
pub const ADDRESS_BITS: u32 = 52;
/// Log2 of the root table's entries.
pub const ROOT_BITS: u32 = 13;
/// Bytes of the root table, also its alignment.
pub const ROOT_BYTES: u64 = 8 << ROOT_BITS;

/// Sizes a leaf can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB.
    Size4K = 12,
    /// 64 KiB.
    Size64K = 16,
    /// 2 MiB.
    Size2M = 21,
    /// 1 GiB.
    Size1G = 30,
}

impl PageSize {
    /// All sizes, small to large.
    pub const ALL: [Self; 4] = [Self::Size4K, Self::Size64K, Self::Size2M, Self::Size1G];

    /// Log2 of the bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self as u32
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The AP encoding of `tlbie` and of `ibm,processor-radix-AP-encodings`.
    #[must_use]
    pub const fn ap(self) -> u64 {
        match self {
            Self::Size4K => 0,
            Self::Size64K => 5,
            Self::Size2M => 1,
            Self::Size1G => 2,
        }
    }

    /// The bit of this size in the page-size argument of H_RPT_INVALIDATE.
    #[must_use]
    pub const fn rpt_bit(self) -> u64 {
        match self {
            Self::Size4K => 1,
            Self::Size64K => 2,
            Self::Size2M => 4,
            Self::Size1G => 8,
        }
    }

    /// The size with this shift, if it is one of ours.
    #[must_use]
    pub const fn from_shift(shift: u32) -> Option<Self> {
        match shift {
            12 => Some(Self::Size4K),
            16 => Some(Self::Size64K),
            21 => Some(Self::Size2M),
            30 => Some(Self::Size1G),
            _ => None,
        }
    }
}

/// First doubleword of a partition-table entry for a 52-bit radix tree with a 2^13-entry root at `root` (a real
/// address, 64 KiB aligned): HR, RTS = 52 - 31 = 0x15 in its two parts, RPDS = 13.
#[must_use]
pub const fn pate_root(root: u64) -> u64 {
    (1 << 63) | (2 << 61) | (5 << 5) | (root & NEXT_TABLE) | ROOT_BITS as u64
}

/// Second doubleword of a partition-table entry: process table at `base`, of 2^(12 + `size_field`) bytes.
#[must_use]
pub const fn pate_process_table(base: u64, size_field: u64) -> u64 {
    (base & 0x0fff_ffff_ffff_f000) | (size_field & 0x1f)
}

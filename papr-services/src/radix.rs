//! Radix trees: one walker for every tree and every memory, and in `own` the builder of a partition's own tree.
//!
//! The walker is generic over the memory that holds the tree ([`TableMem`]): the firmware's table pool, a
//! partition's memory, or memory that is itself seen [`Through`] another tree. A walk reads at most four entries,
//! whatever the memory holds: each level has its own [`Level`], and there is no way back up.
//!
//! Geometry is the one that POWER9 and later have (Power ISA 3.1 book III 6.7.10; RTS = 52 bits): a root of 2^13
//! entries, two levels of 2^9, and a last level of 2^9 entries of 4 KiB or 2^5 entries of 64 KiB. The surprising
//! fact: the last choice is made per directory entry, so one tree mixes both.

mod own;

use core::sync::atomic::Ordering;

use isa::addr::Gra;
use isa::pte::{self, PageSize, Pte};

pub use self::own::{BuildError, PageKind, PartitionTree, build_partition_tree};
use crate::guest_ram::GuestRam;

/// Memory that holds a tree. Entries are big-endian doublewords; this trait deals in their values.
pub trait TableMem {
    /// How this memory is addressed: `Ra` for ours, `Gra` for a partition's.
    type At: Copy + From<u64> + Into<u64>;

    /// Reads the entry at `at`, a multiple of 8. `None`: not memory.
    fn read_entry(&self, at: Self::At) -> Option<u64>;
}

/// A tree whose entries can be changed.
pub trait TableMemMut: TableMem {
    /// Replaces the whole entry at `at` if it still is `current`.
    ///
    /// # Errors
    /// [`Changed`], when it was something else, or when the memory forbids the change.
    fn compare_exchange(&self, at: Self::At, current: u64, new: u64) -> Result<(), Changed>;
}

/// A tree that can get more tables.
pub trait GrowTables: TableMemMut {
    /// Makes a zeroed table for `level` and puts its directory entry into the empty entry at `at`. Answers the entry
    /// that is there now (someone else's, when that came first), or `None` when there is no memory for a table.
    fn grow(&self, at: Self::At, level: Level) -> Option<u64>;
}

/// An entry was not what the caller had read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed;

/// What a table's entries are: its place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 2^13 entries of 512 GiB, never leaves.
    Root,
    /// 2^9 entries of 1 GiB.
    Gigabytes,
    /// 2^9 entries of 2 MiB.
    Megabytes,
    /// 2^5 leaves of 64 KiB.
    Pages64K,
    /// 2^9 leaves of 4 KiB.
    Pages4K,
}

impl Level {
    /// Log2 of the bytes that one entry covers.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Root => 39,
            Self::Gigabytes => 30,
            Self::Megabytes => 21,
            Self::Pages64K => 16,
            Self::Pages4K => 12,
        }
    }

    /// Log2 of the number of entries.
    #[must_use]
    pub const fn index_bits(self) -> u32 {
        match self {
            Self::Root => pte::ROOT_BITS,
            Self::Gigabytes | Self::Megabytes | Self::Pages4K => 9,
            Self::Pages64K => 5,
        }
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(self) -> u64 {
        1_u64.wrapping_shl(self.index_bits())
    }

    /// Bytes of a table, also its alignment.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        8_u64.wrapping_shl(self.index_bits())
    }

    /// Bytes that one entry covers.
    #[must_use]
    pub const fn span(self) -> u64 {
        1_u64.wrapping_shl(self.shift())
    }

    /// The size of a leaf in this table; none in the root.
    #[must_use]
    pub const fn page_size(self) -> Option<PageSize> {
        PageSize::from_shift(self.shift())
    }

    /// Whether entries of this level are leaves or empty, never directories.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::Pages64K | Self::Pages4K)
    }

    /// The table below this one on the way to leaves of `size`.
    const fn towards(self, size: PageSize) -> Option<Self> {
        match self {
            Self::Root => Some(Self::Gigabytes),
            Self::Gigabytes => Some(Self::Megabytes),
            Self::Megabytes => Some(match size {
                PageSize::Size4K => Self::Pages4K,
                PageSize::Size64K | PageSize::Size2M | PageSize::Size1G => Self::Pages64K,
            }),
            Self::Pages64K | Self::Pages4K => None,
        }
    }

    /// The table that a directory entry of this level leads to. `None`: its size is none that belongs here, or its
    /// address is not a multiple of the size.
    #[must_use]
    pub const fn follow(self, directory: u64) -> Option<(Self, u64)> {
        let level = match (self, directory & pte::NEXT_SIZE) {
            (Self::Root, 9) => Self::Gigabytes,
            (Self::Gigabytes, 9) => Self::Megabytes,
            (Self::Megabytes, 9) => Self::Pages4K,
            (Self::Megabytes, 5) => Self::Pages64K,
            _ => return None,
        };
        let base = directory & pte::NEXT_TABLE;
        if base & level.bytes().wrapping_sub(1) == 0 {
            Some((level, base))
        } else {
            None
        }
    }

    /// Where the entry for `address` is in the table at `base`, which is aligned to its size.
    #[must_use]
    pub const fn entry_at(self, base: u64, address: u64) -> u64 {
        let index = address.wrapping_shr(self.shift()) & self.entries().wrapping_sub(1);
        base | (index << 3)
    }
}

/// Whether an entry is valid.
#[must_use]
pub const fn is_valid(entry: u64) -> bool {
    entry & Pte::VALID.bits() != 0
}

/// Whether an entry is a valid leaf.
#[must_use]
pub const fn is_leaf(entry: u64) -> bool {
    const BOTH: u64 = Pte::VALID.union(Pte::LEAF).bits();
    entry & BOTH == BOTH
}

/// Whether an entry leads to a table.
#[must_use]
pub const fn is_directory(entry: u64) -> bool {
    is_valid(entry) && !is_leaf(entry)
}

/// Where a tree begins: the address of its root table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root<At> {
    /// The root table, a multiple of 64 KiB.
    pub base: At,
}

impl<At: From<u64>> Root<At> {
    /// The root in the first doubleword of a partition- or process-table entry. `None`, when that describes another
    /// geometry than ours, or a misaligned root.
    #[must_use]
    pub fn decode(word: u64) -> Option<Self> {
        const GEOMETRY: u64 = pte::pate_root(0) & !(1 << 63);
        const FIELDS: u64 = (3 << 61) | (7 << 5) | 0x1f;
        let base = word & pte::NEXT_TABLE;
        (word & FIELDS == GEOMETRY && base & pte::ROOT_BYTES.wrapping_sub(1) == 0)
            .then(|| Self { base: base.into() })
    }
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf<At> {
    /// The translated address, to the byte.
    pub at: At,
    /// Where the leaf is.
    pub entry_at: At,
    /// The leaf.
    pub entry: u64,
    /// Its size.
    pub size: PageSize,
}

impl<At> Leaf<At> {
    /// The leaf's bits.
    #[must_use]
    pub const fn pte(&self) -> Pte {
        Pte::from_bits_retain(self.entry)
    }
}

/// Why a walk ended without a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault<At> {
    /// The address has more than 52 bits.
    AddressTooLarge,
    /// No valid entry.
    NotMapped {
        /// Table with the empty entry.
        level: Level,
        /// The empty entry.
        at: At,
    },
    /// The entry is not in memory.
    Unreadable {
        /// Table it belongs to.
        level: Level,
        /// Where it should be.
        at: At,
    },
    /// The root is misaligned, or a directory entry has a size that does not belong there or a misaligned address.
    BadTable {
        /// Table that holds the entry.
        level: Level,
        /// The entry, or the root.
        at: At,
    },
    /// A leaf in the root, or one whose page is not a multiple of its size.
    BadLeaf {
        /// Table that holds the leaf.
        level: Level,
        /// The leaf.
        at: At,
    },
}

/// Translates `address`, reading at most four entries.
///
/// # Errors
/// [`Fault`] says where and why.
pub fn walk<M: TableMem>(
    mem: &M,
    root: Root<M::At>,
    address: impl Into<u64>,
) -> Result<Leaf<M::At>, Fault<M::At>> {
    let address = address.into();
    if address >> pte::ADDRESS_BITS != 0 {
        return Err(Fault::AddressTooLarge);
    }
    let (mut level, mut base) = (Level::Root, root.base.into());
    if base & level.bytes().wrapping_sub(1) != 0 {
        return Err(Fault::BadTable {
            level,
            at: root.base,
        });
    }
    loop {
        let at = M::At::from(level.entry_at(base, address));
        let entry = mem.read_entry(at).ok_or(Fault::Unreadable { level, at })?;
        if !is_valid(entry) {
            return Err(Fault::NotMapped { level, at });
        }
        if is_leaf(entry) {
            let (page, offset) = (entry & pte::RPN, level.span().wrapping_sub(1));
            return match level.page_size() {
                Some(size) if page & offset == 0 => Ok(Leaf {
                    at: (page | (address & offset)).into(),
                    entry_at: at,
                    entry,
                    size,
                }),
                _ => Err(Fault::BadLeaf { level, at }),
            };
        }
        // Ends: `follow` only leads to a smaller span, and nowhere from the last level.
        (level, base) = level.follow(entry).ok_or(Fault::BadTable { level, at })?;
    }
}

/// Memory seen through another tree: how a nested guest's own tables are reached.
pub struct Through<'a, M: TableMem> {
    /// Memory that holds the outer tree, and everything that it maps.
    pub mem: &'a M,
    /// The outer tree.
    pub root: Root<M::At>,
}

impl<M: TableMem> TableMem for Through<'_, M> {
    type At = u64;

    fn read_entry(&self, at: u64) -> Option<u64> {
        let leaf = walk(self.mem, self.root, at).ok()?;
        let readable = leaf.pte().intersects(Pte::READ.union(Pte::WRITE));
        self.mem.read_entry(leaf.at).filter(|_| readable)
    }
}

// Loads are relaxed: the order that a walk needs is that of dependent loads, and every value is checked.
impl TableMem for GuestRam {
    type At = Gra;

    fn read_entry(&self, at: Gra) -> Option<u64> {
        Some(u64::from_be(self.word(at).ok()?.load(Ordering::Relaxed)))
    }
}

impl TableMemMut for GuestRam {
    fn compare_exchange(&self, at: Gra, current: u64, new: u64) -> Result<(), Changed> {
        self.word(at)
            .map_err(|_| Changed)?
            .compare_exchange(
                current.to_be(),
                new.to_be(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .map(|_| ())
            .map_err(|_| Changed)
    }
}

/// Where a leaf can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<At> {
    /// An entry that is empty or a leaf of `size`, which is smaller than asked for where a table of smaller pages
    /// already is.
    Slot {
        /// The entry.
        at: At,
        /// Its value.
        entry: u64,
        /// Size of a leaf there.
        size: PageSize,
    },
    /// Something coarser is in the way: a larger leaf, or a table of 64 KiB leaves where a 4 KiB leaf shall go. It
    /// must be removed, and a flush run, before a smaller leaf can be placed.
    Blocked {
        /// Its entry.
        at: At,
        /// The value.
        entry: u64,
    },
}

/// Why there is no place for a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// A table was needed and there is no memory for one.
    OutOfTables,
    /// The tree is damaged: the memory has no such entry, or an entry is malformed.
    BadTree,
}

/// Finds the entry for a leaf of `size` (or smaller, see [`Place::Slot`]) that maps `address`, making tables on the
/// way. Tables made are kept even when the end is an error.
///
/// # Errors
/// [`NoPlace`].
pub fn place<M: GrowTables>(
    mem: &M,
    root: Root<M::At>,
    address: impl Into<u64>,
    size: PageSize,
) -> Result<Place<M::At>, NoPlace> {
    let address = address.into();
    let mut size = size;
    let (mut level, mut base) = (Level::Root, root.base.into());
    loop {
        let at = M::At::from(level.entry_at(base, address));
        let mut entry = mem.read_entry(at).ok_or(NoPlace::BadTree)?;
        let fits = level.page_size() == Some(size);
        if !is_valid(entry) {
            if fits {
                return Ok(Place::Slot { at, entry, size });
            }
            let below = level.towards(size).ok_or(NoPlace::BadTree)?;
            entry = mem.grow(at, below).ok_or(NoPlace::OutOfTables)?;
        }
        if is_leaf(entry) {
            return Ok(if fits {
                Place::Slot { at, entry, size }
            } else {
                Place::Blocked { at, entry }
            });
        }
        (level, base) = level.follow(entry).ok_or(NoPlace::BadTree)?;
        if level == Level::Pages64K && size == PageSize::Size4K {
            return Ok(Place::Blocked { at, entry });
        }
        if let Some(largest) = level.page_size() {
            size = size.min(largest);
        }
    }
}

#[cfg(test)]
mod tests;

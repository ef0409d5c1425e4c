//! The partition-scoped tree that L1 builds for its L2, in L1 memory (nested.md 4.1).
//! Owns a bump allocation of table pages; a case that wants fresh tables makes a new tree.

use isa::pte::{NEXT_TABLE, PageSize, Pte, ROOT_BYTES, pate_root};

use crate::mem;
use crate::mem::layout::{TABLES, TABLES_END};

/// Read, write, execute, referenced and changed: an ordinary leaf.
pub(crate) const ALL: Pte = Pte::READ
    .union(Pte::WRITE)
    .union(Pte::EXECUTE)
    .union(Pte::R)
    .union(Pte::C);

/// A tree under construction.
pub(crate) struct Tree {
    /// L1 real address of the root.
    pub root: u64,
    next: u64,
}

/// Reads an entry.
#[must_use]
pub(crate) fn entry(at: u64) -> Pte {
    Pte::from_bits_retain(u64::from_be(mem::read64(at)))
}

/// Writes an entry.
pub(crate) fn set_entry(at: u64, value: u64) {
    mem::write64(at, value.to_be());
}

/// Makes a process table at `table` whose process 0 sees the first GiB one to one. Addresses are of the guest whose
/// table it is: its real 0 lies at `base` of L1's memory.
pub(crate) fn identity_process(base: u64, table: u64, root: u64, directory: u64) {
    mem::fill(base + table, 4096, 0);
    mem::fill(base + root, ROOT_BYTES, 0);
    mem::fill(base + directory, 4096, 0);
    // Without the host-radix bit of a partition-table entry.
    set_entry(base + table, pate_root(root) & !(1 << 63));
    set_entry(base + root, Pte::VALID.bits() | directory | 9);
    set_entry(base + directory, (Pte::VALID | Pte::LEAF | ALL).bits());
}

/// Shift of the address bits that index the root.
const ROOT_SHIFT: u32 = 39;

impl Tree {
    /// An empty tree at the start of the tables.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::at(TABLES)
    }

    /// An empty tree with its root at `root` (64 KiB aligned), tables behind it.
    #[must_use]
    pub(crate) fn at(root: u64) -> Self {
        mem::fill(root, ROOT_BYTES, 0);
        Self {
            root,
            next: root + ROOT_BYTES,
        }
    }

    /// A zeroed table of `bytes`, aligned to its size.
    pub(crate) fn table(&mut self, bytes: u64) -> u64 {
        let at = self.next.next_multiple_of(bytes.max(256));
        assert!(at + bytes <= TABLES_END, "payload bug: out of tables");
        mem::fill(at, bytes, 0);
        self.next = at + bytes;
        at
    }

    /// Address of the entry that covers `nra` at the level of `size`, tables made on the way.
    pub(crate) fn slot(&mut self, nra: u64, size: PageSize) -> u64 {
        let levels: &[(u32, u32)] = match size {
            PageSize::Size1G => &[(9, 30)],
            PageSize::Size2M => &[(9, 30), (9, 21)],
            PageSize::Size64K => &[(9, 30), (9, 21), (5, 16)],
            PageSize::Size4K => &[(9, 30), (9, 21), (9, 12)],
        };
        let mut at = self.root + ((nra >> ROOT_SHIFT) & 0x1fff) * 8;
        for (bits, shift) in levels {
            let mut directory = entry(at).bits();
            if directory & Pte::VALID.bits() == 0 {
                directory = Pte::VALID.bits() | self.table(8 << bits) | u64::from(*bits);
                set_entry(at, directory);
            }
            let index = (nra >> shift) & ((1 << bits) - 1);
            at = (directory & NEXT_TABLE) + index * 8;
        }
        at
    }

    /// Maps one page; the address of its leaf.
    pub(crate) fn map(&mut self, nra: u64, l1: u64, size: PageSize, rights: Pte) -> u64 {
        let at = self.slot(nra, size);
        set_entry(at, (Pte::VALID | Pte::LEAF | rights).bits() | l1);
        at
    }

    /// Maps a range by pages of one size.
    pub(crate) fn map_range(&mut self, nra: u64, l1: u64, bytes: u64, size: PageSize, rights: Pte) {
        for offset in (0..bytes).step_by(size.bytes() as usize) {
            self.map(nra + offset, l1 + offset, size, rights);
        }
    }
}

//! Fault-around: with the page that faulted go those beside it that the partition maps too, so that a guest which
//! walks through its memory leaves once per block and not once per page.
//!
//! The surprising fact: nothing is guessed about what the guest will do. Only pages whose leaf in the partition's tree
//! has R already are taken, so that one which was aged still shows its next access, and none gets a right that the
//! partition did not give.

use core::sync::atomic::Ordering;

use isa::addr::{Gra, Ra};
use isa::pte::{self, PageSize, Pte};

use super::Shadow;
use super::composition::Composition;
use crate::guest_ram::GuestRam;
use crate::radix::{Leaf, is_leaf};

/// Entries of a block, which is aligned to its size: 128 bytes, a cache line of both trees, and no more than the
/// smallest table has.
const BLOCK: usize = 16;
/// Bytes of a block.
const BYTES: u64 = (BLOCK * size_of::<u64>()) as u64;
/// One of these makes a leaf useful.
const RIGHTS: Pte = Pte::READ.union(Pte::WRITE).union(Pte::EXECUTE);

impl Shadow {
    /// Fills empty entries beside the one at `at`, in which `leaf` was just put. The lock is held, as for
    /// the page itself: an invalidation that comes after the partition's change finds what is put here.
    pub(super) fn around(&self, ram: &GuestRam, leaf: &Leaf<Gra>, at: Ra) {
        let size = leaf.size;
        if size == PageSize::Size1G {
            return;
        }
        let mask = BYTES.wrapping_sub(1);
        let theirs_at = Gra(leaf.entry_at.0 & !mask);
        let theirs = ram.words(theirs_at, BLOCK);
        let ours = self.quota.pool().neighbours(Ra(at.0 & !mask), BLOCK);
        let (Some(theirs), Some(ours)) = (theirs, ours) else {
            return;
        };
        for (place, (theirs, ours)) in (theirs_at.0..).step_by(8).zip(theirs.iter().zip(ours)) {
            if ours.load(Ordering::Relaxed) != 0 {
                continue;
            }
            let entry = u64::from_be(theirs.load(Ordering::Relaxed));
            let page = Gra(entry & pte::RPN);
            let neighbour = Leaf {
                at: page,
                entry_at: Gra(place),
                entry,
                size,
            };
            let usable = is_leaf(entry)
                && page.is_aligned(size.bytes())
                && neighbour.pte().contains(Pte::R)
                && neighbour.pte().intersects(RIGHTS);
            if usable
                && let Some(page) = Composition::new(ram, &neighbour)
                && page.size == size
            {
                let new = page.leaf(size).to_be();
                let put = ours.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed);
                if put.is_ok() {
                    self.count(size);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use isa::addr::Nra;

    use super::super::tests::{Partition, Tlb, furnished, leaves, quota};
    use super::super::{Access, Outcome, PageFault, Shadow};
    use super::*;

    /// Leaf with all rights, R and C.
    const ALL: u64 = 1 << 63 | 1 << 62 | 0x187;
    const C: u64 = 0x80;
    const R: u64 = 0x100;

    fn new(partition: &Partition, host: &Tlb) -> Shadow {
        let shadow = furnished(&quota(4, u64::MAX), 7);
        shadow.set_table(Some(partition.root), host);
        shadow
    }

    fn load(nra: u64) -> PageFault {
        PageFault {
            nra: Nra(nra),
            access: Access::Load,
            table_walk: false,
        }
    }

    fn mapped(shadow: &Shadow) -> Vec<u64> {
        leaves(shadow).iter().map(|(nra, ..)| *nra).collect()
    }

    #[test]
    fn a_walk_through_memory_faults_once_per_block() {
        let (partition, host) = (Partition::flat(), Tlb::default());
        let shadow = new(&partition, &host);
        for page in 0..64 {
            partition.map(page << 12, PageSize::Size4K, ALL | page << 12);
        }
        let mut faults = 0;
        for page in 0..64 {
            if !mapped(&shadow).contains(&(page << 12)) {
                faults += 1;
                let outcome = shadow.fault(&partition.ram, &load(page << 12), &host);
                assert_eq!(outcome, Outcome::Resolved);
            }
        }
        assert_eq!((faults, shadow.installed().size_4k), (4, 64));
        for (nra, entry, size) in leaves(&shadow) {
            assert_eq!(size, PageSize::Size4K);
            assert_eq!(entry, ALL | ((1 << 30) + nra), "its own page, all rights");
        }
    }

    #[test]
    fn what_the_partition_did_not_give_is_not_taken() {
        let (partition, host) = (Partition::flat(), Tlb::default());
        let shadow = new(&partition, &host);
        let page = |n: u64| n << 12;
        partition.map(page(4), PageSize::Size4K, ALL | page(4));
        // Aged; no rights; not dirty; not memory; and the next block.
        partition.map(page(5), PageSize::Size4K, (ALL | page(5)) & !R);
        partition.map(page(6), PageSize::Size4K, (ALL | page(6)) & !7);
        partition.map(page(7), PageSize::Size4K, (ALL | page(7)) & !C);
        partition.map(page(8), PageSize::Size4K, ALL | 1 << 40);
        partition.map(page(16), PageSize::Size4K, ALL | page(16));
        let outcome = shadow.fault(&partition.ram, &load(page(4)), &host);
        assert_eq!(outcome, Outcome::Resolved);
        assert_eq!(mapped(&shadow), [page(4), page(7)]);
        let (_, clean, _) = leaves(&shadow)[1];
        assert_eq!(clean & 0x187, 0x105, "read and execute, referenced");
        // The aged one is still seen when it is used.
        let aged = partition.map(page(5), PageSize::Size4K, (ALL | page(5)) & !R);
        let outcome = shadow.fault(&partition.ram, &load(page(5)), &host);
        assert_eq!(outcome, Outcome::Resolved);
        assert_eq!(partition.ram.read_be64(aged).map(|e| e & R), Ok(R));
    }

    #[test]
    fn what_is_there_stays_and_an_invalidation_takes_neighbours_too() {
        let (partition, host) = (Partition::flat(), Tlb::default());
        let shadow = new(&partition, &host);
        partition.map(0x1000, PageSize::Size4K, ALL | 0x1000);
        partition.map(0x2000, PageSize::Size4K, ALL | 0x2000);
        let _ = shadow.fault(&partition.ram, &load(0x1000), &host);
        // The partition moved a page and did not say so yet.
        partition.map(0x2000, PageSize::Size4K, ALL | 0x9000);
        shadow.invalidate(Nra(0x1000), Nra(0x2000), &host);
        let _ = shadow.fault(&partition.ram, &load(0x1000), &host);
        assert_eq!(leaves(&shadow)[1].1, ALL | ((1 << 30) + 0x2000));
        shadow.invalidate(Nra(0x2000), Nra(0x3000), &host);
        assert_eq!(mapped(&shadow), [0x1000]);
        let _ = shadow.fault(&partition.ram, &load(0x2000), &host);
        assert_eq!(leaves(&shadow)[1].1, ALL | ((1 << 30) + 0x9000));
    }

    #[test]
    fn larger_pages_have_neighbours_of_their_size() {
        let (partition, host) = (Partition::flat(), Tlb::default());
        let shadow = new(&partition, &host);
        for page in 0..8 {
            partition.map(page << 16, PageSize::Size64K, ALL | page << 16);
        }
        let _ = shadow.fault(&partition.ram, &load(0x3_4567), &host);
        assert_eq!(shadow.installed().size_64k, 8);
        partition.map(1 << 30, PageSize::Size2M, ALL);
        partition.map((1 << 30) + (1 << 21), PageSize::Size2M, ALL | 1 << 21);
        let _ = shadow.fault(&partition.ram, &load(1 << 30), &host);
        assert_eq!(shadow.installed().size_2m, 2);
    }
}

//! Laws of the walker and the builder.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::Cell;

use isa::addr::{Gra, Ra};
use isa::pte::{PageSize, Pte, pate_root};
use proptest::prelude::*;

use super::{
    BuildError, Fault, Leaf, Level, PageKind, Place, Root, TableMem, Through, build_partition_tree,
    place, walk,
};
use crate::guest_ram::tests::memory;
use crate::guest_ram::{Extent, GuestRam};
use crate::nested::pool::TablePool;

const V: u64 = 1 << 63;
const L: u64 = 1 << 62;

/// A few entries; all else is not memory.
#[derive(Default)]
struct Sparse {
    entries: BTreeMap<u64, u64>,
    reads: Cell<u32>,
}

impl Sparse {
    fn of(entries: &[(u64, u64)]) -> Self {
        Self {
            entries: entries.iter().copied().collect(),
            reads: Cell::new(0),
        }
    }
}

impl TableMem for Sparse {
    type At = u64;
    fn read_entry(&self, at: u64) -> Option<u64> {
        self.reads.set(self.reads.get() + 1);
        self.entries.get(&at).copied()
    }
}

/// Every entry is a hash of its address, made a plausible directory most of the time.
struct Noise {
    seed: u64,
    reads: Cell<u32>,
}

impl TableMem for Noise {
    type At = u64;
    fn read_entry(&self, at: u64) -> Option<u64> {
        self.reads.set(self.reads.get() + 1);
        let mut x = (at ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 29;
        match x % 8 {
            0 => Some(x),
            1 => None,
            2 => Some(V | L | (x & 0x01ff_ffff_c000_01ff)),
            3 => Some(V | (x & 0x0fff_ffff_ffff_ff00) | 5),
            _ => Some(V | (x & 0x0fff_ffff_ffff_f000) | 9),
        }
    }
}

const ROOT: u64 = 0x10_0000;

#[test]
fn four_levels_give_a_4k_page() {
    let mem = Sparse::of(&[
        (ROOT + 8, V | 0x20_0000 | 9),
        (0x20_0000 + 8 * 2, V | 0x20_1000 | 9),
        (0x20_1000 + 8 * 3, V | 0x20_2000 | 9),
        (0x20_2000 + 8 * 4, V | L | 0x1234_5000 | 0x187),
    ]);
    let address = (1_u64 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 0x678;
    assert_eq!(
        walk(&mem, Root { base: ROOT }, address),
        Ok(Leaf {
            at: 0x1234_5678,
            entry_at: 0x20_2020,
            entry: V | L | 0x1234_5000 | 0x187,
            size: PageSize::Size4K,
        })
    );
    assert_eq!(mem.reads.get(), 4);
}

#[test]
fn a_table_of_32_holds_64k_pages() {
    let mem = Sparse::of(&[
        (ROOT, V | 0x20_0000 | 9),
        (0x20_0000, V | 0x20_1000 | 9),
        (0x20_1000, V | 0x20_2100 | 5),
        (0x20_2108, V | L | 0x7_0000 | 4),
    ]);
    let leaf = walk(&mem, Root { base: ROOT }, 0x1_2345_u64).unwrap();
    assert_eq!((leaf.at, leaf.size), (0x7_2345, PageSize::Size64K));
}

#[test]
fn faults_name_the_entry() {
    let root = Root { base: ROOT };
    let level = Level::Root;
    let at = ROOT;
    let fault = |entries: &[(u64, u64)], address: u64| {
        walk(&Sparse::of(entries), root, address).unwrap_err()
    };
    assert_eq!(fault(&[], 1 << 52), Fault::AddressTooLarge);
    assert_eq!(fault(&[], 0), Fault::Unreadable { level, at });
    assert_eq!(fault(&[(at, !V)], 0), Fault::NotMapped { level, at });
    assert_eq!(
        fault(&[(at, V | L)], 0),
        Fault::BadLeaf { level, at },
        "512 GiB leaf"
    );
    for size in (0..32).filter(|s| *s != 9) {
        assert_eq!(
            fault(&[(at, V | 0x20_0000 | size)], 0),
            Fault::BadTable { level, at },
            "size {size}"
        );
    }
    assert_eq!(
        fault(&[(at, V | 0x20_0800 | 9)], 0),
        Fault::BadTable { level, at },
        "misaligned table"
    );
    assert_eq!(
        walk(&Sparse::default(), Root { base: 0x1000 }, 0_u64),
        Err(Fault::BadTable { level, at: 0x1000 })
    );

    let at = 0x20_0000;
    let level = Level::Gigabytes;
    let with = |entry| fault(&[(ROOT, V | at | 9), (at, entry)], 0);
    assert_eq!(
        with(V | L | 0x20_0000),
        Fault::BadLeaf { level, at },
        "1 GiB leaf at 2 MiB"
    );
    assert_eq!(with(V | 0x30_0000 | 5), Fault::BadTable { level, at });

    // A directory where only leaves can be.
    let entries = [
        (ROOT, V | 0x20_0000 | 9),
        (0x20_0000, V | 0x20_1000 | 9),
        (0x20_1000, V | 0x20_2000 | 9),
        (0x20_2000, V | 0x20_3000 | 9),
    ];
    assert_eq!(
        fault(&entries, 0),
        Fault::BadTable {
            level: Level::Pages4K,
            at: 0x20_2000
        }
    );
}

#[test]
fn a_root_is_decoded_only_with_our_geometry() {
    assert_eq!(
        Root::<Gra>::decode(pate_root(0x3_0000)),
        Some(Root {
            base: Gra(0x3_0000)
        })
    );
    assert_eq!(
        Root::<Gra>::decode(pate_root(0x3_0000) ^ 1),
        None,
        "root of another size"
    );
    assert_eq!(
        Root::<Gra>::decode(pate_root(0x3_0000) ^ (1 << 5)),
        None,
        "other address bits"
    );
    assert_eq!(Root::<Gra>::decode(pate_root(0x3_8000)), None, "misaligned");
}

fn pool(chunks: usize) -> TablePool {
    TablePool::new(Ra(0x7000_0000), memory(chunks << 16)).unwrap()
}

fn extent(gra: u64, ra: u64, bytes: u64) -> Extent {
    // Only the length counts for a tree; one piece of memory serves all.
    static WORDS: spin::Once<&'static [core::sync::atomic::AtomicU64]> = spin::Once::new();
    let words = WORDS.call_once(|| memory(64 << 20));
    Extent {
        gra: Gra(gra),
        ra: Ra(ra),
        memory: &words[..usize::try_from(bytes / 8).unwrap()],
    }
}

#[test]
fn partition_tree_uses_the_largest_leaves() {
    let pool = pool(8);
    let extents = [
        extent(0, 0x4000_0000, 4 << 20),
        extent(6 << 20, 0x8003_0000, 0x3_0000),
    ];
    let tree = build_partition_tree(&pool, &extents).unwrap();
    let at = |gra: u64| walk(&pool, tree.root(), gra).map(|l| (l.at.0, l.size, l.entry & 0x1ff));
    assert_eq!(at(0), Ok((0x4000_0000, PageSize::Size2M, 0x187)));
    assert_eq!(at(0x3f_ffff), Ok((0x403f_ffff, PageSize::Size2M, 0x187)));
    assert!(matches!(at(0x40_0000), Err(Fault::NotMapped { .. })));
    assert_eq!(
        at((6 << 20) + 0x2_1234),
        Ok((0x8005_1234, PageSize::Size64K, 0x187))
    );
    assert!(matches!(
        at((6 << 20) + 0x3_0000),
        Err(Fault::NotMapped { .. })
    ));
    assert_eq!(tree.partition_table_word(), pate_root(tree.root().base.0));
    tree.free(&pool);
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn overlapping_extents_and_an_empty_pool_are_errors_that_leave_nothing() {
    let pool = pool(2);
    let twice = [extent(0, 0, 2 << 20), extent(0x1_0000, 0, 0x1_0000)];
    assert_eq!(
        build_partition_tree(&pool, &twice).err(),
        Some(BuildError::BadExtents)
    );
    let odd = [extent(0x1000, 0, 0x1_0000)];
    assert_eq!(
        build_partition_tree(&pool, &odd).err(),
        Some(BuildError::BadExtents)
    );
    let wide: Vec<_> = (0..20).map(|i| extent(i << 39, 0, 0x1_0000)).collect();
    assert_eq!(
        build_partition_tree(&pool, &wide).err(),
        Some(BuildError::OutOfTables)
    );
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn pages_beside_the_memory_are_mapped_all_or_not_at_all() {
    let pool = pool(8);
    let tree = build_partition_tree(&pool, &[extent(0, 0, 2 << 20)]).unwrap();
    let page = |n: u64| Gra((1 << 40) + (n << 16));
    let mapped = |n| walk(&pool, tree.root(), page(n)).map(|leaf| leaf.at.0);
    let map = |list: &[u64]| {
        let pages = list.iter().map(|n| (page(*n), Ra(n << 16)));
        tree.map_pages(&pool, pages, PageKind::Device)
    };
    // The last one is there already.
    assert_eq!(map(&[1, 2, 3, 1]), Err(BuildError::BadExtents));
    for n in 1..4 {
        assert!(matches!(mapped(n), Err(Fault::NotMapped { .. })), "{n}");
    }
    assert_eq!(map(&[1, 2, 3]), Ok(()));
    assert_eq!(mapped(3), Ok(3 << 16));
    assert_eq!(map(&[4, 3]), Err(BuildError::BadExtents));
    assert!(mapped(4).is_err());
    assert_eq!(mapped(3), Ok(3 << 16), "which was not of this call");
}

#[test]
fn smaller_tables_are_kept_and_coarser_things_block() {
    let pool = pool(4);
    let tree = build_partition_tree(
        &pool,
        &[extent(0, 0, 0x1_0000), extent(1 << 30, 1 << 30, 2 << 20)],
    )
    .unwrap();
    let place = |address: u64, size| place(&pool, tree.root(), address, size).unwrap();
    assert!(matches!(
        place(0x10_0000, PageSize::Size1G),
        Place::Slot {
            entry: 0,
            size: PageSize::Size64K,
            ..
        }
    ));
    assert!(
        matches!(place(0, PageSize::Size4K), Place::Blocked { .. }),
        "table of 64 KiB leaves"
    );
    assert!(
        matches!(place(1 << 30, PageSize::Size64K), Place::Blocked { .. }),
        "larger leaf"
    );
    assert!(matches!(
        place(1 << 30, PageSize::Size1G),
        Place::Slot {
            entry: 1..,
            size: PageSize::Size2M,
            ..
        }
    ));
    tree.free(&pool);
}

proptest! {
    #[test]
    fn any_walk_ends_within_four_reads(seed: u64, root: u64, address: u64) {
        let mem = Noise { seed, reads: Cell::new(0) };
        for root in [root, root & !0xffff] {
            for address in [address, address & ((1 << 52) - 1)] {
                mem.reads.set(0);
                let _ = walk(&mem, Root { base: root }, address);
                prop_assert!(mem.reads.get() <= 4);
            }
        }
    }

    #[test]
    fn any_walk_through_another_tree_ends_within_twenty_reads(seed: u64, outer: u64, inner: u64, address: u64) {
        let mem = Noise { seed, reads: Cell::new(0) };
        let through = Through { mem: &mem, root: Root { base: outer & !0xffff } };
        let _ = walk(&through, Root { base: inner & 0xf_ffff_ffff_0000 }, address & ((1 << 52) - 1));
        prop_assert!(mem.reads.get() <= 20);
    }

    #[test]
    fn random_words_as_guest_memory_never_panic(words in prop::collection::vec(any::<u64>(), 64), address: u64) {
        let ram = crate::guest_ram::tests::flat(0x2_0000);
        for (i, word) in words.iter().enumerate() {
            ram.write(Gra(i as u64 * 8), &word.to_be_bytes()).unwrap();
        }
        let _ = walk(&ram, Root { base: Gra(0) }, address & 0x1ff_ffff_ffff);
    }

    /// What is mapped is what a walk finds, and what `GuestRam` says.
    #[test]
    fn tree_and_extents_agree(
        // Gap before and length of each extent in 64 KiB units, and where its memory is.
        layout in prop::collection::vec((0_u64..70, 1_u64..200, 0_u64..0x10_0000), 1..5),
        probes in prop::collection::vec(0_u64..(80 << 20), 32),
    ) {
        let mut at = 0;
        let mut extents = Vec::new();
        for (gap, len, ra) in layout {
            at += gap << 16;
            // Half of them such that large leaves fit.
            let ra = if ra % 2 == 0 { (ra << 30) + at } else { ra << 16 };
            extents.push(extent(at, ra, len << 16));
            at += len << 16;
        }
        let ram = GuestRam::new(&extents).unwrap();
        let pool = pool(4);
        let tree = build_partition_tree(&pool, &extents).unwrap();
        for gra in probes {
            let found = walk(&pool, tree.root(), gra);
            match ram.translate(Gra(gra)) {
                Some((ra, _)) => {
                    let leaf = found.unwrap();
                    prop_assert_eq!(leaf.at, ra);
                    let rights = Pte::READ | Pte::WRITE | Pte::EXECUTE | Pte::R | Pte::C;
                    prop_assert!(leaf.pte().contains(rights));
                }
                None => {
                    let not_mapped = matches!(found, Err(Fault::NotMapped { .. }));
                    prop_assert!(not_mapped);
                }
            }
        }
        tree.free(&pool);
        prop_assert_eq!(pool.bytes_in_use(), 0);
    }

    /// An entry read through a tree is the entry at the translated address.
    #[test]
    fn reading_through_a_tree_composes(page in 0_u64..16, offset in 0_u64..512) {
        let pool = pool(4);
        let tree = build_partition_tree(&pool, &[extent(0, 0x7000_0000, 0x1_0000)]).unwrap();
        // The mapped memory is the pool itself, so both sides read the same words.
        let through = Through { mem: &pool, root: tree.root() };
        let at = page * 4096 + offset * 8;
        prop_assert_eq!(through.read_entry(at), pool.read_entry(Ra(0x7000_0000 + at)));
        prop_assert_eq!(through.read_entry(at + 0x1_0000), None);
        tree.free(&pool);
    }
}

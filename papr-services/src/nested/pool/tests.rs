//! Laws of the pool: tables do not overlap, are zero, and all memory comes back whole.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use isa::addr::Ra;
use proptest::prelude::*;

use super::{BadPool, Table, TablePool, TableQuota, TableSize};
use crate::guest_ram::tests::memory;
use crate::radix::{Changed, GrowTables, Level, TableMem, TableMemMut};

const BASE: u64 = 0x7000_0000;
const LEAF: u64 = 0xc000_0000_0000_0187;

fn pool(chunks: usize) -> TablePool {
    let words = memory(chunks << 16);
    for word in words {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    TablePool::new(Ra(BASE), words).unwrap()
}

#[test]
fn misplaced_regions_are_refused() {
    assert_eq!(
        TablePool::new(Ra(0x1000), memory(0x1_0000)).err(),
        Some(BadPool::Misplaced)
    );
    assert_eq!(
        TablePool::new(Ra(0), memory(0x1_1000)).err(),
        Some(BadPool::Misplaced)
    );
    assert_eq!(
        TablePool::new(Ra(!0xffff), memory(0x1_0000)).err(),
        Some(BadPool::Misplaced)
    );
    assert_eq!(
        TablePool::new(Ra(0), &[])
            .unwrap()
            .allocate(Level::Pages64K),
        None
    );
}

#[test]
fn a_chunk_is_cut_into_256_pieces_and_becomes_whole_again() {
    let pool = pool(1);
    let pieces: Vec<_> = core::iter::from_fn(|| pool.allocate(Level::Pages64K)).collect();
    assert_eq!(pieces.len(), 256);
    assert_eq!(pool.allocate(Level::Root), None);
    pieces.into_iter().for_each(|piece| pool.free(piece));
    let root = pool.allocate(Level::Root).unwrap();
    assert_eq!(root.ra(), Ra(BASE));
    assert_eq!(pool.bytes_in_use(), 0x1_0000);
}

#[test]
fn entries_outside_the_pool_are_not_memory() {
    let pool = pool(1);
    assert_eq!(pool.read_entry(Ra(BASE - 8)), None);
    assert_eq!(pool.read_entry(Ra(BASE + 4)), None);
    assert_eq!(pool.read_entry(Ra(BASE + 0x1_0000)), None);
    assert_eq!(
        pool.compare_exchange(Ra(BASE + 0x1_0000), 0, LEAF),
        Err(Changed)
    );
}

#[test]
fn directories_are_written_by_link_and_unlink_only() {
    let pool = pool(2);
    let root = pool.allocate(Level::Root).unwrap();
    let page = pool.allocate(Level::Gigabytes).unwrap();
    let (at, ra) = (root.ra(), page.ra());
    assert_eq!(
        pool.compare_exchange(at, 0, (1 << 63) | ra.0 | 9),
        Err(Changed)
    );
    let entry = pool.link(at, page).unwrap();
    assert_eq!(entry, (1 << 63) | ra.0 | 9);
    assert_eq!(pool.compare_exchange(at, entry, LEAF), Err(Changed));
    let other = pool.allocate(Level::Gigabytes).unwrap();
    let other = pool.link(at, other).unwrap_err();
    assert_eq!(
        pool.grow(at, Level::Gigabytes),
        Some(entry),
        "the first one stays"
    );
    assert_eq!(pool.unlink(at, entry | 0x10_0000), None);
    let page = pool.unlink(at, entry).unwrap();
    assert_eq!((page.ra(), page.size()), (ra, TableSize::Page));
    assert_eq!(pool.unlink(at, entry), None);
    [root, page, other]
        .into_iter()
        .for_each(|table| pool.free(table));
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn a_quota_ends_before_the_pool_and_the_pool_before_a_large_quota() {
    let pool = Arc::new(pool(2));
    let small = TableQuota::new(Arc::clone(&pool), 0x1_0000 + 0x1000);
    let root = small.allocate(Level::Root).unwrap();
    let page = small.allocate(Level::Pages4K).unwrap();
    assert_eq!(small.allocate(Level::Pages64K), None);
    assert_eq!(small.in_use(), small.limit());
    let large = TableQuota::new(Arc::clone(&pool), u64::MAX);
    assert_eq!(large.allocate(Level::Root), None);
    assert_eq!(large.in_use(), 0, "a refused table is not counted");
    small.free(page);
    small.free(root);
    assert_eq!((small.in_use(), pool.bytes_in_use()), (0, 0));
}

fn any_level() -> impl Strategy<Value = Level> {
    prop_oneof![
        Just(Level::Root),
        Just(Level::Pages4K),
        Just(Level::Pages64K)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn tables_never_overlap_are_zero_and_all_come_back(
        steps in prop::collection::vec((any_level(), any::<prop::sample::Index>(), any::<bool>()), 0..120),
    ) {
        let pool = pool(3);
        let mut held: Vec<Table> = Vec::new();
        for (level, which, free) in steps {
            if free && !held.is_empty() {
                let table = held.swap_remove(which.index(held.len()));
                pool.free(table);
                continue;
            }
            let Some(table) = pool.allocate(level) else { continue };
            let (start, end) = (table.ra().0, table.ra().0 + level.bytes());
            prop_assert_eq!(start % level.bytes(), 0);
            prop_assert!(start >= BASE && end <= BASE + (3 << 16));
            prop_assert!(held.iter().all(|t| end <= t.ra().0 || t.ra().0 + t.size().bytes() <= start));
            for at in (start..end).step_by(8) {
                prop_assert_eq!(pool.read_entry(Ra(at)), Some(0));
                pool.compare_exchange(Ra(at), 0, LEAF).unwrap();
            }
            held.push(table);
            let sum: u64 = held.iter().map(|t| t.size().bytes()).sum();
            prop_assert_eq!(pool.bytes_in_use(), sum);
        }
        held.into_iter().for_each(|table| pool.free(table));
        prop_assert_eq!(pool.bytes_in_use(), 0);
        let roots: Vec<_> = core::iter::from_fn(|| pool.allocate(Level::Root)).collect();
        prop_assert_eq!(roots.len(), 3, "no fragment is left behind");
    }
}

//! Laws of the shadow tables, against a model of a partition's tree, a model of a TLB, and hostile memory.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use isa::addr::{Ea, Gra, Nra, Ra};
use isa::pte::{PageSize, Pte};
use proptest::prelude::*;

use super::{Access, FirstTables, LeafCounts, OutOfTables, Outcome, PageFault, Shadow, cause};
use crate::guest_ram::tests::memory;
use crate::guest_ram::{Extent, GuestRam};
use crate::host::fakes::no_devices;
use crate::host::{Flush, Host};
use crate::nested::pool::{TablePool, TableQuota};
use crate::radix::{self, Leaf, Level, TableMem, is_directory, is_leaf};

const LPID: u32 = 7;
const V: u64 = 1 << 63;
const L: u64 = 1 << 62;
/// Leaf with everything set, and with nothing but rights.
const RWX_RC: u64 = V | L | 0x187;
const RWX: u64 = V | L | 0x7;

/// A TLB: what hardware could have remembered. It forgets what a flush names, and nothing else.
#[derive(Default)]
pub(crate) struct Tlb {
    cached: Mutex<Vec<(Nra, Leaf<Ra>)>>,
    pub(crate) flushes: Mutex<Vec<Flush>>,
}

impl Tlb {
    /// An access of the guest's: hardware walks and remembers.
    fn touch(&self, shadow: &Shadow, nra: Nra) {
        if let Ok(leaf) = shadow_leaf(shadow, nra) {
            self.cached.lock().unwrap().push((nra, leaf));
        }
    }

    /// Whether every translation that may be in use is one that the tables still give, right by right.
    fn is_coherent(&self, shadow: &Shadow) -> bool {
        self.cached.lock().unwrap().iter().all(|(nra, old)| {
            shadow_leaf(shadow, *nra).is_ok_and(|now| {
                now.at == old.at && old.entry & !now.entry & 0x1ff == 0 && now.size >= old.size
            })
        })
    }

    pub(crate) fn flush_count(&self) -> usize {
        self.flushes.lock().unwrap().len()
    }
}

impl Host for Tlb {
    fn timebase(&self) -> u64 {
        0
    }
    fn flush(&self, flush: Flush) {
        self.flushes.lock().unwrap().push(flush);
        let mut cached = self.cached.lock().unwrap();
        match flush {
            Flush::Partition { lpid: LPID } => cached.clear(),
            Flush::Range {
                lpid: LPID,
                start,
                end,
                size,
            } => {
                // One tlbie per page: it finds entries of that page and size, or smaller ones in it.
                assert!(
                    start < end && start.is_aligned(size.bytes()) && end.is_aligned(size.bytes())
                );
                assert!((end.0 - start.0) / size.bytes() <= super::PAGES_PER_FLUSH);
                cached.retain(|(nra, leaf)| *nra < start || *nra >= end || leaf.size > size);
            }
            // Process-scoped: no business of this cache.
            Flush::Nothing | Flush::Process { .. } | Flush::ProcessRange { .. } => {}
            Flush::Partition { .. } | Flush::Range { .. } => panic!("of another guest: {flush:?}"),
        }
    }
    fn set_partition_table_entry(&self, _: u32, _: [u64; 2]) {}
    no_devices!();
    fn interrupt_pending(&self) -> bool {
        false
    }
    fn vcpu(&self) -> u32 {
        0
    }
    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        done()
    }
    fn kick(&self, _: u32) {}
}

fn shadow_leaf(shadow: &Shadow, nra: Nra) -> Result<Leaf<Ra>, radix::Fault<Ra>> {
    radix::walk(shadow, shadow.tree().unwrap(), nra)
}

/// All leaves of the shadow, by address.
pub(crate) fn leaves(shadow: &Shadow) -> Vec<(u64, u64, PageSize)> {
    fn below(
        shadow: &Shadow,
        level: Level,
        base: u64,
        first: u64,
        out: &mut Vec<(u64, u64, PageSize)>,
    ) {
        for index in 0..level.entries() {
            let nra = first + index * level.span();
            let entry = shadow.read_entry(Ra(base + index * 8)).unwrap();
            if is_leaf(entry) {
                out.push((nra, entry, level.page_size().expect("no leaf in the root")));
            } else if is_directory(entry) {
                let (next, table) = level.follow(entry).expect("a well-formed tree");
                below(shadow, next, table, nra, out);
            }
        }
    }
    let mut out = Vec::new();
    if let Some(tree) = shadow.tree() {
        below(shadow, Level::Root, tree.base.0, 0, &mut out);
    }
    out
}

/// A partition's memory with a tree in it that the test edits as a kernel does.
pub(crate) struct Partition {
    pub(crate) ram: GuestRam,
    next: Cell<u64>,
    pub(crate) root: Gra,
}

/// Memory of partitions that are gone: it is for ever, and property tests make many.
static USED: Mutex<Vec<&'static [AtomicU64]>> = Mutex::new(Vec::new());

impl Drop for Partition {
    fn drop(&mut self) {
        let extents = self.ram.extents().iter();
        let words = extents.map(|extent| extent.memory);
        USED.lock()
            .unwrap()
            .extend(words.filter(|memory| memory.len() == (4 << 20) / 8));
    }
}

/// Where the trees are; below is what pages point to.
const TABLES: u64 = 0x10_0000;

impl Partition {
    fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            next: Cell::new(TABLES + 0x1_0000),
            root: Gra(TABLES),
        }
    }

    /// Flat, 4 MiB at real 1 GiB.
    pub(crate) fn flat() -> Self {
        let words = USED.lock().unwrap().pop();
        let memory = words.unwrap_or_else(|| memory(4 << 20));
        for word in memory {
            word.store(0, Ordering::Relaxed);
        }
        let (gra, ra) = (Gra(0), Ra(1 << 30));
        Self::new(GuestRam::new(&[Extent { gra, ra, memory }]).unwrap())
    }

    /// Puts a leaf in, making tables, and replacing what is coarser.
    pub(crate) fn map(&self, nra: u64, size: PageSize, entry: u64) -> Gra {
        let (mut level, mut base) = (Level::Root, self.root.0);
        loop {
            let at = Gra(level.entry_at(base, nra));
            if level.page_size() == Some(size) {
                self.set(at, entry);
                return at;
            }
            let mut directory = self.ram.read_be64(at).unwrap();
            let below = match level {
                Level::Root => Level::Gigabytes,
                Level::Gigabytes => Level::Megabytes,
                _ if size == PageSize::Size64K => Level::Pages64K,
                _ => Level::Pages4K,
            };
            if level.follow(directory).is_none_or(|(l, _)| l != below) || !is_directory(directory) {
                let table = self.next.get().next_multiple_of(below.bytes());
                self.next.set(table + below.bytes());
                directory = V | table | u64::from(below.index_bits());
                self.set(at, directory);
            }
            (level, base) = level.follow(directory).unwrap();
        }
    }

    pub(crate) fn set(&self, at: Gra, entry: u64) {
        self.ram.write(at, &entry.to_be_bytes()).unwrap();
    }

    fn entry(&self, at: Gra) -> u64 {
        self.ram.read_be64(at).unwrap()
    }
}

pub(crate) fn pool(chunks: usize) -> Arc<TablePool> {
    Arc::new(TablePool::new(Ra(0x70_0000_0000), memory(chunks << 16)).unwrap())
}

pub(crate) fn quota(chunks: usize, limit: u64) -> Arc<TableQuota> {
    Arc::new(TableQuota::new(pool(chunks), limit))
}

/// The tables of a guest that has run, and nothing in them.
pub(crate) fn furnished(quota: &Arc<TableQuota>, lpid: u32) -> Shadow {
    let shadow = Shadow::new(Arc::clone(quota), lpid);
    shadow.furnish(FirstTables::new(quota).unwrap());
    shadow
}

/// What a guest uses that has run.
const MINIMUM: u64 = 0x1_0000 + 3 * 0x1000 + 0x100;

fn new_shadow(partition: &Partition, host: &Tlb) -> Shadow {
    let shadow = furnished(&quota(4, u64::MAX), LPID);
    shadow.set_table(Some(partition.root), host);
    shadow
}

fn fault(nra: u64, access: Access) -> PageFault {
    PageFault {
        nra: Nra(nra),
        access,
        table_walk: false,
    }
}

fn reflected(cause: u32) -> Outcome {
    Outcome::Reflect { cause, asdr: None }
}

#[test]
fn registers_give_the_fault() {
    let ea = Ea(0xc000_0000_0000_1234);
    let load = PageFault::data(0xf000_0000_8765_4000, ea, cause::NO_TRANSLATION);
    assert_eq!((load.nra, load.access), (Nra(0x8765_4234), Access::Load));
    let store = PageFault::data(0x4000, ea, cause::PROTECTION | cause::STORE);
    assert_eq!((store.nra, store.access), (Nra(0x4234), Access::Store));
    let table = PageFault::data(0x4018, ea, cause::TABLE | cause::STORE);
    assert_eq!(
        (table.nra, table.access, table.table_walk),
        (Nra(0x4018), Access::Load, true)
    );
    let fetch = PageFault::fetch(0x4000, ea, 0x8000_0000_4000_0000);
    assert_eq!((fetch.nra, fetch.access), (Nra(0x4234), Access::Fetch));
    let update = PageFault::fetch(0x4000, ea, u64::from(cause::HSRR1_UPDATE));
    assert_eq!(update.access, Access::Store);
}

#[test]
fn every_size_is_composed_and_counted() {
    // L1 real 0 is at real 1 GiB, so that all sizes are congruent; 1 GiB does not fit into 4 MiB of memory.
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    l1.map(0x1000, PageSize::Size4K, RWX_RC | 0x3000);
    l1.map(0x4_0000 + (1 << 21), PageSize::Size64K, RWX_RC | 0x2_0000);
    l1.map(1 << 30, PageSize::Size2M, RWX_RC);
    l1.map(5 << 30, PageSize::Size1G, RWX_RC);
    for (nra, ra, size) in [
        (0x1234, 0x4000_3234, PageSize::Size4K),
        ((1 << 21) + 0x4_5678, 0x4002_5678, PageSize::Size64K),
        ((1 << 30) + 0x12_3456, 0x4012_3456, PageSize::Size2M),
        ((5 << 30) + 0x34_5678, 0x4034_5678, PageSize::Size2M),
    ] {
        assert_eq!(
            shadow.fault(&l1.ram, &fault(nra, Access::Load), &host),
            Outcome::Resolved
        );
        let leaf = shadow_leaf(&shadow, Nra(nra)).unwrap();
        assert_eq!(
            (leaf.at, leaf.size, leaf.entry & !isa::pte::RPN),
            (Ra(ra), size, RWX_RC)
        );
    }
    let counts = LeafCounts {
        size_4k: 1,
        size_64k: 1,
        size_2m: 2,
        size_1g: 0,
    };
    assert_eq!(shadow.installed(), counts);
    assert_eq!(host.flush_count(), 0, "adding leaves needs no flush");
    // Beyond the partition's memory, within its leaf.
    assert_eq!(
        shadow.fault(&l1.ram, &fault((5 << 30) + (4 << 20), Access::Load), &host),
        reflected(cause::UNSUPPORTED_MMU)
    );
}

#[test]
fn extents_that_are_not_congruent_give_smaller_leaves() {
    let words = memory(4 << 20);
    let (near, far) = words.split_at((2 << 20) / 8);
    let ram = |second| {
        let extents = [(0, 0x4000_0000, near), (2 << 20, second, far)];
        GuestRam::new(&extents.map(
            |(gra, ra, memory): (u64, u64, &'static [AtomicU64])| Extent {
                gra: Gra(gra),
                ra: Ra(ra),
                memory,
            },
        ))
    };
    let host = Tlb::default();
    let l1 = Partition::new(ram(0x8001_0000).unwrap());
    let shadow = new_shadow(&l1, &host);
    l1.map(0, PageSize::Size2M, RWX_RC | (2 << 20));
    l1.map(2 << 20, PageSize::Size2M, RWX_RC);
    assert_eq!(
        shadow.fault(&l1.ram, &fault(0x1_2345, Access::Load), &host),
        Outcome::Resolved
    );
    let leaf = shadow_leaf(&shadow, Nra(0x1_2345)).unwrap();
    assert_eq!((leaf.at, leaf.size), (Ra(0x8002_2345), PageSize::Size64K));
    assert_eq!(
        shadow.fault(&l1.ram, &fault(2 << 20, Access::Load), &host),
        Outcome::Resolved
    );
    assert_eq!(
        shadow_leaf(&shadow, Nra(2 << 20)).unwrap().size,
        PageSize::Size2M
    );
}

#[test]
fn software_and_attribute_bits_stay_behind() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    // SW0, SW, SAO, non-idempotent, privileged.
    l1.map(0, PageSize::Size4K, RWX_RC | 0x2000_0000_0000_0e38 | 0x5000);
    assert_eq!(
        shadow.fault(&l1.ram, &fault(0, Access::Fetch), &host),
        Outcome::Resolved
    );
    assert_eq!(
        shadow_leaf(&shadow, Nra(0)).unwrap().entry,
        RWX_RC | 0x4000_5000
    );
}

#[test]
fn r_and_c_are_set_in_the_partition_when_used_and_w_comes_with_c() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    let at = l1.map(0, PageSize::Size4K, RWX | 0x5000);
    assert_eq!(
        shadow.fault(&l1.ram, &fault(0, Access::Load), &host),
        Outcome::Resolved
    );
    assert_eq!(l1.entry(at), RWX | 0x5000 | 0x100);
    assert_eq!(
        shadow_leaf(&shadow, Nra(0)).unwrap().entry,
        V | L | 0x105 | 0x4000_5000
    );
    assert_eq!(
        shadow.fault(&l1.ram, &fault(0, Access::Store), &host),
        Outcome::Resolved
    );
    assert_eq!(l1.entry(at), RWX | 0x5000 | 0x180);
    assert_eq!(
        shadow_leaf(&shadow, Nra(0)).unwrap().entry,
        RWX_RC | 0x4000_5000
    );
    assert_eq!(host.flush_count(), 0, "widening needs no flush");
    assert_eq!(shadow.installed().size_4k, 1);
}

#[test]
fn codes_of_reflected_faults() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    let go = |nra, access| shadow.fault(&l1.ram, &fault(nra, access), &host);
    assert_eq!(go(0, Access::Load), reflected(cause::NO_TRANSLATION));
    assert_eq!(
        go(0, Access::Store),
        reflected(cause::NO_TRANSLATION | cause::STORE)
    );
    assert_eq!(go(1 << 52, Access::Load), reflected(cause::NO_TRANSLATION));
    let at = l1.map(0, PageSize::Size4K, V | L | 0x5000 | 0x184);
    assert_eq!(
        go(0, Access::Store),
        reflected(cause::PROTECTION | cause::STORE)
    );
    assert_eq!(go(0, Access::Fetch), reflected(cause::NO_EXECUTE));
    l1.set(at, V | L | 0x5000 | 0x181);
    assert_eq!(
        go(0, Access::Load),
        reflected(cause::PROTECTION),
        "execute only"
    );
    l1.set(at, V | 0x5000 | 9);
    assert_eq!(
        go(0, Access::Load),
        reflected(cause::UNSUPPORTED_MMU),
        "directory among leaves"
    );
    l1.set(at, RWX | (4 << 20));
    assert_eq!(
        go(0, Access::Store),
        reflected(cause::UNSUPPORTED_MMU | cause::STORE),
        "not memory"
    );
    assert_eq!(
        l1.entry(at),
        RWX | (4 << 20),
        "R and C are not set for a page that is not memory"
    );
    let big = l1.map(1 << 30, PageSize::Size1G, RWX_RC | 0x1000);
    assert_eq!(
        go(1 << 30, Access::Load),
        reflected(cause::UNSUPPORTED_MMU),
        "misaligned page"
    );
    l1.set(big, V | 0x4000_0000 | 9);
    assert_eq!(
        go((1 << 30) + (3 << 21), Access::Store),
        Outcome::Reflect {
            cause: cause::TABLE | cause::STORE,
            asdr: Some(0x4000_0018)
        }
    );
    l1.set(l1.root, RWX_RC);
    assert_eq!(
        go(0, Access::Load),
        reflected(cause::UNSUPPORTED_MMU),
        "leaf of 512 GiB"
    );
    let table = PageFault {
        table_walk: true,
        ..fault(1 << 40, Access::Load)
    };
    assert_eq!(
        shadow.fault(&l1.ram, &table, &host),
        reflected(cause::NO_TRANSLATION | cause::TABLE)
    );
    shadow.set_table(None, &host);
    assert_eq!(go(0, Access::Load), reflected(cause::NO_TRANSLATION));
    assert!(leaves(&shadow).is_empty());
    assert_eq!(shadow.installed(), LeafCounts::default());
}

#[test]
fn a_misaligned_or_absent_root_is_not_followed() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    shadow.set_table(Some(Gra(0x8000)), &host);
    let load = fault(0, Access::Load);
    assert_eq!(
        shadow.fault(&l1.ram, &load, &host),
        reflected(cause::UNSUPPORTED_MMU)
    );
    shadow.set_table(Some(Gra(0x100_0000)), &host);
    let unreadable = Outcome::Reflect {
        cause: cause::TABLE,
        asdr: Some(0x100_0000),
    };
    assert_eq!(shadow.fault(&l1.ram, &load, &host), unreadable);
}

#[test]
fn a_stale_leaf_goes_with_a_flush_when_the_partition_took_the_page_away() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    let at = l1.map(0, PageSize::Size4K, RWX_RC | 0x5000);
    let go = |access| shadow.fault(&l1.ram, &fault(0, access), &host);
    assert_eq!(go(Access::Load), Outcome::Resolved);
    host.touch(&shadow, Nra(0));
    l1.set(at, 0);
    assert_eq!(go(Access::Load), reflected(cause::NO_TRANSLATION));
    assert!(leaves(&shadow).is_empty() && host.is_coherent(&shadow));
    assert_eq!(host.flush_count(), 1);

    // Another page, with fewer rights: by way of an empty entry.
    l1.set(at, RWX_RC | 0x5000);
    assert_eq!(go(Access::Load), Outcome::Resolved);
    host.touch(&shadow, Nra(0));
    l1.set(at, V | L | 0x184 | 0x6000);
    assert_eq!(go(Access::Load), Outcome::Resolved);
    assert!(host.is_coherent(&shadow));
    assert_eq!(
        shadow_leaf(&shadow, Nra(0)).unwrap().entry,
        V | L | 0x104 | 0x4000_6000
    );

    // A store that the partition has to allow first: the leaf is good as it is and stays...
    let flushes = host.flush_count();
    assert_eq!(
        go(Access::Store),
        reflected(cause::PROTECTION | cause::STORE)
    );
    assert_eq!((leaves(&shadow).len(), host.flush_count()), (1, flushes));

    // ...unless the page is another one by now.
    l1.set(at, V | L | 0x184 | 0x7000);
    let not_yet = reflected(cause::PROTECTION | cause::STORE);
    assert_eq!(go(Access::Store), not_yet);
    let now = (leaves(&shadow).len(), host.flush_count());
    assert_eq!(now, (0, flushes + 1));
}

#[test]
fn a_larger_leaf_makes_way_and_smaller_tables_stay() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    let go = |nra| {
        assert_eq!(
            shadow.fault(&l1.ram, &fault(nra, Access::Store), &host),
            Outcome::Resolved
        );
    };
    let large = l1.map(0, PageSize::Size2M, RWX_RC);
    go(0);
    host.touch(&shadow, Nra(0x4000));
    l1.map(0x5000, PageSize::Size4K, RWX_RC | 0x9000);
    go(0x5000);
    assert!(host.is_coherent(&shadow));
    assert_eq!(
        leaves(&shadow),
        [(0x5000, RWX_RC | 0x4000_9000, PageSize::Size4K)]
    );
    // Large again: the table of small leaves is kept, and used.
    l1.set(large, RWX_RC);
    go(0x6000);
    assert_eq!(
        leaves(&shadow).last(),
        Some(&(0x6000, RWX_RC | 0x4000_6000, PageSize::Size4K))
    );
    // 64 KiB leaves make way for 4 KiB leaves.
    shadow.invalidate_all(&host);
    l1.map(0, PageSize::Size64K, RWX_RC | 0x1_0000);
    go(0x3000);
    host.touch(&shadow, Nra(0x3000));
    l1.map(0x3000, PageSize::Size4K, RWX_RC | 0x1_0000);
    go(0x3000);
    assert!(host.is_coherent(&shadow));
    assert_eq!(
        leaves(&shadow),
        [(0x3000, RWX_RC | 0x4001_0000, PageSize::Size4K)]
    );
    let used = shadow.quota.in_use();
    assert_eq!(
        used, MINIMUM,
        "the first tables do, and that of 64 KiB leaves is back in the reserve"
    );
}

#[test]
fn invalidation_takes_leaves_of_any_size_and_says_what_to_flush() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    l1.map(0, PageSize::Size2M, RWX_RC);
    for page in 0..64 {
        l1.map(
            (2 << 20) + page * 0x1000,
            PageSize::Size4K,
            RWX_RC | (page * 0x1000),
        );
    }
    let fill = || {
        for nra in (0..64).map(|page| (2 << 20) + page * 0x1000).chain([0]) {
            assert_eq!(
                shadow.fault(&l1.ram, &fault(nra, Access::Load), &host),
                Outcome::Resolved
            );
        }
        host.flushes.lock().unwrap().clear();
    };
    let range = |start, end, size| Flush::Range {
        lpid: LPID,
        start: Nra(start),
        end: Nra(end),
        size,
    };
    fill();
    shadow.invalidate(Nra(0x1000), Nra(0x2000), &host);
    assert_eq!(
        *host.flushes.lock().unwrap(),
        [range(0, 2 << 20, PageSize::Size2M)]
    );
    assert_eq!(leaves(&shadow).len(), 64);
    shadow.invalidate(Nra(0x20_0000), Nra(0x20_2001), &host);
    assert_eq!(
        host.flushes.lock().unwrap()[1],
        range(0x20_0000, 0x20_3000, PageSize::Size4K)
    );
    shadow.invalidate(Nra(0x20_0000), Nra(0x20_3000), &host);
    shadow.invalidate(Nra(0x20_3000), Nra(0x20_3000), &host);
    shadow.invalidate(Nra(1 << 51), Nra(u64::MAX), &host);
    assert_eq!(host.flush_count(), 2, "nothing there, nothing to flush");
    fill();
    shadow.invalidate(Nra(0x20_0000), Nra(0x22_2000), &host);
    assert_eq!(
        *host.flushes.lock().unwrap(),
        [Flush::Partition { lpid: LPID }],
        "34 pages"
    );
    fill();
    shadow.invalidate(Nra(0x1f_0000), Nra(0x20_1000), &host);
    let whole = [Flush::Partition { lpid: LPID }];
    assert_eq!(*host.flushes.lock().unwrap(), whole, "two sizes");
    fill();
    shadow.invalidate(Nra(0x10_0000), Nra(0x40_0000), &host);
    assert_eq!(
        *host.flushes.lock().unwrap(),
        [Flush::Partition { lpid: LPID }],
        "a table went"
    );
    assert!(leaves(&shadow).is_empty());
}

#[test]
fn a_fault_does_not_wait_for_an_invalidation() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = new_shadow(&l1, &host);
    let _invalidation = shadow.state.lock();
    assert_eq!(
        shadow.fault(&l1.ram, &fault(0, Access::Load), &host),
        Outcome::Retry
    );
}

#[test]
fn tables_return_when_a_guest_ends() {
    let quota = quota(4, u64::MAX);
    let (l1, host) = (Partition::flat(), Tlb::default());
    let shadow = furnished(&quota, LPID);
    assert_eq!(quota.in_use(), MINIMUM);
    shadow.set_table(Some(l1.root), &host);
    let _ = shadow.root_ra();
    for nra in [0, 1 << 21, 1 << 30, 1 << 40] {
        l1.map(nra, PageSize::Size4K, RWX_RC);
        assert_eq!(
            shadow.fault(&l1.ram, &fault(nra, Access::Load), &host),
            Outcome::Resolved
        );
    }
    assert!(quota.in_use() > MINIMUM);
    shadow.retire(&host);
    assert_eq!(
        host.flushes.lock().unwrap().last(),
        Some(&Flush::Partition { lpid: LPID })
    );
    assert_eq!(quota.in_use(), MINIMUM);
    drop(shadow);
    assert_eq!((quota.in_use(), quota.pool().bytes_in_use()), (0, 0));
    assert_eq!(quota.reclaimed(), 0);
}

#[test]
fn a_guest_that_hardware_may_use_keeps_its_memory() {
    let quota = quota(4, u64::MAX);
    let shadow = furnished(&quota, LPID);
    let _ = shadow.root_ra();
    drop(shadow);
    assert!(quota.in_use() >= 0x1_0000);
}

#[test]
fn reclaim_takes_some_tables_in_turn() {
    let (l1, host) = (Partition::flat(), Tlb::default());
    let room = 40;
    let quota = quota(4, MINIMUM + room * 0x1000);
    let shadow = furnished(&quota, LPID);
    shadow.set_table(Some(l1.root), &host);
    let touch = |region: u64| {
        let nra = region << 21;
        l1.map(nra, PageSize::Size4K, RWX_RC | 0x5000);
        assert_eq!(
            shadow.fault(&l1.ram, &fault(nra, Access::Load), &host),
            Outcome::Resolved
        );
    };
    // Two directories and the reserve's three pages come on top.
    let fits = room + 1;
    (0..fits).for_each(touch);
    assert_eq!((quota.reclaimed(), host.flush_count()), (0, 0));
    touch(fits);
    assert_eq!((quota.reclaimed(), host.flush_count()), (8 * 0x1000, 1));
    let first = || leaves(&shadow).first().map(|(nra, ..)| nra >> 21);
    assert_eq!(first(), Some(8), "the hand begins at the bottom");
    (fits + 1..fits + 9).for_each(touch);
    assert_eq!(quota.reclaimed(), 16 * 0x1000);
    assert_eq!(first(), Some(16), "and goes on");
}

#[test]
fn a_guest_needs_its_reserve_to_begin() {
    let quota = quota(4, MINIMUM - 1);
    assert_eq!(FirstTables::new(&quota).err(), Some(OutOfTables));
    assert_eq!(quota.in_use(), 0);
}

/// Several vCPUs fault while the partition clears R, takes the page away and invalidates: all faults end, and what is
/// left obeys the laws.
#[test]
fn faults_and_invalidations_on_several_threads_end_well() {
    const ROUNDS: usize = 500;
    let (l1, host) = (Partition::flat(), Tlb::default());
    let quota = quota(4, MINIMUM);
    let shadow = furnished(&quota, LPID);
    shadow.set_table(Some(l1.root), &host);
    let nras = [0, 1 << 21, 2 << 21, 1 << 30];
    let leaves_at = nras.map(|nra| l1.map(nra, PageSize::Size4K, RWX | 0x5000));
    let ram = &l1.ram;
    std::thread::scope(|threads| {
        for access in [Access::Load, Access::Store] {
            let (shadow, host) = (&shadow, &host);
            threads.spawn(move || {
                for i in 0..ROUNDS {
                    let outcome = shadow.fault(ram, &fault(nras[i % 4], access), host);
                    assert!(
                        matches!(outcome, Outcome::Resolved | Outcome::Retry)
                            || matches!(outcome, Outcome::Reflect { cause, .. } if cause & cause::NO_TRANSLATION != 0)
                    );
                }
            });
        }
        for i in 0..ROUNDS {
            let word = ram.word(leaves_at[i % 4]).unwrap();
            let with = |bits: u64| (RWX | bits | 0x5000).to_be();
            word.store(if i % 3 == 0 { 0 } else { with(0) }, Ordering::Relaxed);
            shadow.invalidate(Nra(nras[i % 4]), Nra(nras[i % 4] + 1), &host);
            if i % 3 == 0 {
                assert_eq!(
                    word.load(Ordering::Relaxed),
                    0,
                    "R or C stored after the invalidation"
                );
                word.store(with(0), Ordering::Relaxed);
            }
        }
    });
    for (nra, entry, _) in leaves(&shadow) {
        let theirs = l1.entry(leaves_at[nras.iter().position(|n| *n == nra).unwrap()]);
        assert_eq!(entry & 0x187 & !theirs, 0);
    }
    drop(shadow);
    assert_eq!(quota.in_use(), 0);
}

/// One mapping of the model: address, size, and the partition's leaf.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    nra: u64,
    size: PageSize,
    entry: u64,
}

/// Few addresses, so that mappings of all sizes meet.
fn any_mapping() -> impl Strategy<Value = Mapping> {
    let size = prop_oneof![
        4 => Just(PageSize::Size4K),
        3 => Just(PageSize::Size64K),
        2 => Just(PageSize::Size2M),
        1 => Just(PageSize::Size1G)
    ];
    let nra = (0_u64..2, 0_u64..2, 0_u64..3, 0_u64..3)
        .prop_map(|(g, m, k, p)| (g << 30) + (m << 21) + (k << 16) + (p << 12));
    // Memory ends at 4 MiB; some pages lie behind it, some on the tables themselves.
    (nra, size, 0_u64..5 << 20, prop::bits::u64::masked(0x38f)).prop_map(
        |(nra, size, gra, bits)| {
            let mask = !(size.bytes() - 1);
            Mapping {
                nra: nra & mask,
                size,
                entry: V | L | (gra & mask & 0x01ff_ffff_ffff_f000) | bits,
            }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Map(Mapping),
    /// Clears bits of a leaf, or all of it, and invalidates it.
    Narrow(prop::sample::Index, u64),
    Fault(u64, Access),
    Invalidate(u64, u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let nra = (0_u64..2, 0_u64..2, 0_u64..3, 0_u64..3, 0_u64..0x1000)
        .prop_map(|(g, m, k, p, o)| (g << 30) + (m << 21) + (k << 16) + (p << 12) + o);
    let access = prop_oneof![Just(Access::Load), Just(Access::Store), Just(Access::Fetch)];
    prop_oneof![
        3 => any_mapping().prop_map(Step::Map),
        1 => (any::<prop::sample::Index>(), prop_oneof![Just(!0), Just(0x80), Just(0x102), Just(0x100)])
            .prop_map(|(i, bits)| Step::Narrow(i, bits)),
        8 => (nra.clone(), access).prop_map(|(n, a)| Step::Fault(n, a)),
        1 => (nra, prop_oneof![0_u64..0x2000, 0_u64..0x40_0000, 0_u64..0x8000_0000]).prop_map(|(n, l)| Step::Invalidate(n, l)),
    ]
}

/// A model of the partition's tree: which mapping is in force for an address. Mapping at one size hides what a tree
/// can no longer hold there.
#[derive(Default)]
struct Model(BTreeMap<(u64, u8), (Mapping, Gra)>);

impl Model {
    fn map(&mut self, new: Mapping, at: Gra) {
        // A leaf replaces a directory with all below it, a table the leaf above it, and a table of one kind of small
        // pages the table of the other kind.
        let overlaps = |old: &Mapping| {
            let unit = match (old.size, new.size) {
                (PageSize::Size4K, PageSize::Size64K) | (PageSize::Size64K, PageSize::Size4K) => {
                    2 << 20
                }
                (a, b) => a.max(b).bytes(),
            };
            old.nra / unit == new.nra / unit
        };
        self.0.retain(|_, (old, _)| !overlaps(old));
        self.0.insert((new.nra, new.size as u8), (new, at));
    }

    fn find(&self, nra: u64) -> Option<(Mapping, Gra)> {
        self.0
            .values()
            .copied()
            .find(|(m, _)| m.nra <= nra && nra < m.nra + m.size.bytes())
    }
}

/// What must happen for a fault, said once more and naively.
fn expected(model: &Model, l1: &Partition, nra: u64, access: Access) -> Outcome {
    let store = if access == Access::Store {
        cause::STORE
    } else {
        0
    };
    let Some((mapping, at)) = model.find(nra) else {
        return reflected(cause::NO_TRANSLATION | store);
    };
    let entry = l1.entry(at);
    if (entry & 0x01ff_ffff_ffff_f000) + (nra - mapping.nra) >= 4 << 20 {
        return reflected(cause::UNSUPPORTED_MMU | store);
    }
    match access {
        Access::Load if entry & 6 == 0 => reflected(cause::PROTECTION),
        Access::Store if entry & 2 == 0 => reflected(cause::PROTECTION | cause::STORE),
        Access::Fetch if entry & 1 == 0 => reflected(cause::NO_EXECUTE),
        Access::Load | Access::Store | Access::Fetch => Outcome::Resolved,
    }
}

/// Composition and C property, for a shadow that is up to date.
fn check_leaf(
    model: &Model,
    l1: &Partition,
    nra: u64,
    entry: u64,
    size: PageSize,
) -> Result<(), TestCaseError> {
    let Some((mapping, at)) = model.find(nra) else {
        return Err(TestCaseError::fail("shadow leaf where nothing is mapped"));
    };
    let theirs = l1.entry(at);
    prop_assert!(size <= mapping.size);
    let gra = (theirs & 0x01ff_ffff_ffff_f000) + (nra - mapping.nra);
    prop_assert!(gra + size.bytes() <= 4 << 20);
    prop_assert_eq!(entry & 0x01ff_ffff_ffff_f000, 0x4000_0000 + gra);
    prop_assert_eq!((0x4000_0000 + gra) % size.bytes(), 0);
    prop_assert!(entry & Pte::R.bits() != 0 && theirs & Pte::R.bits() != 0);
    let implied = if theirs & 2 != 0 { 4 } else { 0 };
    prop_assert_eq!(
        entry & 7 & !(theirs | implied),
        0,
        "more rights than the partition gave"
    );
    prop_assert_eq!(entry & 2 != 0, entry & 0x80 != 0);
    prop_assert!(
        entry & 2 == 0 || theirs & 0x80 != 0,
        "W without the partition's C"
    );
    Ok(())
}

fn run_steps(steps: Vec<Step>, limit: u64) -> Result<(), TestCaseError> {
    let (l1, host, mut model) = (Partition::flat(), Tlb::default(), Model::default());
    let quota = quota(4, limit);
    let shadow = furnished(&quota, LPID);
    shadow.set_table(Some(l1.root), &host);
    for step in steps {
        match step {
            Step::Map(new) => {
                let at = l1.map(new.nra, new.size, new.entry);
                let wide = if new.size <= PageSize::Size64K {
                    2 << 20
                } else {
                    new.size.bytes()
                };
                // The partition invalidates what it replaced: more than a page when tables came or went.
                let start = model
                    .0
                    .values()
                    .filter(|(m, _)| m.nra <= new.nra && new.nra < m.nra + m.size.bytes())
                    .map(|(m, _)| m.nra)
                    .fold(new.nra & !(wide - 1), u64::min);
                let end = model
                    .0
                    .values()
                    .filter(|(m, _)| m.nra <= new.nra && new.nra < m.nra + m.size.bytes())
                    .map(|(m, _)| m.nra + m.size.bytes())
                    .fold((new.nra & !(wide - 1)) + wide, u64::max);
                model.map(new, at);
                shadow.invalidate(Nra(start), Nra(end), &host);
            }
            Step::Narrow(which, bits) => {
                if model.0.is_empty() {
                    continue;
                }
                let key = *model.0.keys().nth(which.index(model.0.len())).unwrap();
                let (mapping, at) = model.0[&key];
                l1.set(at, l1.entry(at) & !bits);
                if l1.entry(at) & V == 0 {
                    model.0.remove(&key);
                }
                shadow.invalidate(Nra(mapping.nra), Nra(mapping.nra + 1), &host);
                let end = mapping.nra + mapping.size.bytes();
                shadow.invalidate(Nra(mapping.nra), Nra(end), &host);
            }
            Step::Fault(nra, access) => {
                let outcome = shadow.fault(&l1.ram, &fault(nra, access), &host);
                prop_assert_eq!(outcome, expected(&model, &l1, nra, access));
                if outcome == Outcome::Resolved {
                    let leaf = shadow_leaf(&shadow, Nra(nra)).unwrap();
                    let right = match access {
                        Access::Load => 4,
                        Access::Store => 2,
                        Access::Fetch => 1,
                    };
                    prop_assert!(leaf.entry & right != 0, "the access would fault again");
                    host.touch(&shadow, Nra(nra));
                }
            }
            Step::Invalidate(start, len) => {
                shadow.invalidate(Nra(start), Nra(start + len), &host);
                for (nra, _, size) in leaves(&shadow) {
                    prop_assert!(len == 0 || nra + size.bytes() <= start || nra >= start + len);
                }
            }
        }
        prop_assert!(host.is_coherent(&shadow), "a change without its flush");
        prop_assert!(quota.in_use() <= limit);
    }
    for (nra, entry, size) in leaves(&shadow) {
        check_leaf(&model, &l1, nra, entry, size)?;
    }
    shadow.retire(&host);
    drop(shadow);
    prop_assert_eq!((quota.in_use(), quota.pool().bytes_in_use()), (0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn faults_follow_the_model_and_leaves_obey_the_laws(steps in prop::collection::vec(any_step(), 1..120)) {
        run_steps(steps, u64::MAX)?;
    }

    #[test]
    fn the_same_with_no_table_to_spare(steps in prop::collection::vec(any_step(), 1..120)) {
        run_steps(steps, MINIMUM)?;
    }

    /// With its reserve alone a guest gets on, whatever it touches.
    #[test]
    fn reclaim_makes_progress(
        pages in prop::collection::vec((0_u64..4, 0_u64..600, 0_u64..600, any::<bool>()), 1..50),
        spare in 0_u64..6,
    ) {
        let (l1, host) = (Partition::flat(), Tlb::default());
        let limit = MINIMUM + spare * 0x1000;
        let quota = quota(4, limit);
        let shadow = furnished(&quota, LPID);
        shadow.set_table(Some(l1.root), &host);
        for (t, g, m, small) in pages {
            let nra = (t << 39) + ((g % 3) << 30) + (m << 21);
            let (size, page) = if small { (PageSize::Size4K, 0x1000) } else { (PageSize::Size64K, 0x1_0000) };
            if l1.next.get() > 0x3f_0000 {
                break;
            }
            l1.map(nra, size, RWX_RC | page);
            prop_assert_eq!(shadow.fault(&l1.ram, &fault(nra, Access::Store), &host), Outcome::Resolved);
            host.touch(&shadow, Nra(nra));
            prop_assert_eq!(shadow_leaf(&shadow, Nra(nra)).unwrap().at, Ra(0x4000_0000 + page));
            prop_assert!(host.is_coherent(&shadow));
            prop_assert!(quota.in_use() <= limit);
        }
        prop_assert_eq!(quota.reclaimed() % 0x100, 0);
        shadow.retire(&host);
        drop(shadow);
        prop_assert_eq!(quota.in_use(), 0);
    }

    /// Whatever a partition has in its memory, its guests reach nothing but that memory.
    #[test]
    fn hostile_trees_cannot_escape(
        seed: u64,
        accesses in prop::collection::vec((any::<u64>(), 0_u8..3), 1..100),
    ) {
        let l1 = Partition::flat();
        let host = Tlb::default();
        // Tables that are plausible enough to be followed, and lead everywhere.
        let mut x = seed | 1;
        for at in (TABLES..TABLES + 0x4_0000).step_by(8) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let entry = match x >> 61 {
                0 => x,
                1 => V | L | (x & 0x01ff_ffff_c03f_ffff),
                2 => V | L | (x & 0x0000_0000_007f_f1ff),
                3 => V | L | (x & 0x0000_0000_0060_01ff),
                4 => V | (TABLES + (x & 0x3_ff00)) | 5,
                _ => V | (TABLES + (x & 0x3_f000)) | 9,
            };
            l1.set(Gra(at), entry);
        }
        let before: Vec<u64> = (0..TABLES).step_by(8).map(|a| l1.entry(Gra(a))).collect();
        let shadow = new_shadow(&l1, &host);
        for (nra, access) in accesses {
            let access = [Access::Load, Access::Store, Access::Fetch][usize::from(access)];
            let _ = shadow.fault(&l1.ram, &fault(nra & 0x001f_ffff_ffff_ffff, access), &host);
        }
        for (nra, entry, size) in leaves(&shadow) {
            let ra = entry & 0x01ff_ffff_ffff_f000;
            prop_assert!(ra >= 0x4000_0000 && ra + size.bytes() <= 0x4040_0000, "{:#x}: {:#x}", nra, entry);
            prop_assert_eq!(entry & !0x01ff_ffff_ffff_f1ff, V | L, "bits that are not ours");
        }
        // Only R and C of entries in the tables were written.
        let after: Vec<u64> = (0..TABLES).step_by(8).map(|a| l1.entry(Gra(a))).collect();
        prop_assert!(before == after);
    }
}

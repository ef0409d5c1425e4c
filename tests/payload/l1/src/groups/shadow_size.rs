//! How much memory L2's shadow costs, what happens when the pool is used up, and large leaves that lie only partly in
//! L1's memory. The surprising fact: L1's tables may alias, so a tree of four pages maps terabytes.

use isa::pte::{PageSize, Pte};

use super::nested_args::{guest_or_fail, setup};
use super::shadow::{GPR5, TLB, faults, invalidate, loads};
use crate::elements::id;
use crate::guest::{self, Guest, program};
use crate::mem::layout::{L2_MEMORY, L2_MEMORY_SIZE, PAGES, TABLES};
use crate::radix::{ALL, Tree, set_entry};
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::{mem, probe, say};

const AT: u64 = 0x1_0000_0000;
const TABLES_USED: u16 = id::HEAP + 2;
const TABLES_MAX: u16 = id::HEAP + 3;
const RECLAIMED: u16 = id::HEAP + 4;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let before = guest::counter(TABLES_USED);
    let Some(mut g) = guest_or_fail("shadow-size") else {
        return;
    };
    table_sizes(&mut g, machine);
    partly_outside(&mut g);
    case("shadow-size/delete", g.end(), 0);
    case("shadow-size/returned", guest::counter(TABLES_USED), before);
    reclaim();
    case(
        "shadow-size/returned-after-reclaim",
        guest::counter(TABLES_USED),
        before,
    );
}

/// L2 loads from `count` addresses, `step` apart.
fn touch(g: &Guest, at: u64, count: u64, step: u64) -> i64 {
    let elements = [(GPR5, at), (id::GPR0 + 6, count), (id::GPR0 + 7, step)];
    g.start(program::TOUCH, &elements)
}

/// Leaves are shadowed at their own size: what tables cost shows it.
fn table_sizes(g: &mut Guest, machine: &Machine) {
    case("shadow-size/first", touch(g, 0, 1, 8), 0xc00);
    let mut grows = |name: &str, size: PageSize, place: u64, count: u64, most: u64| {
        let at = AT + (place << 30);
        let step = size.bytes();
        let frame = if size == PageSize::Size1G { 0 } else { PAGES };
        for n in 0..count {
            g.tree.map(at + n * step, frame + n * step, size, ALL);
        }
        let before = guest::counter(TABLES_USED);
        case(
            format_args!("shadow-size/{name}"),
            touch(g, at, count, step),
            0xc00,
        );
        let grown = guest::counter(TABLES_USED).wrapping_sub(before);
        if !holds(format_args!("shadow-size/{name}-tables"), grown <= most) {
            say!("shadow-size/{name}: {grown} bytes of tables, at most {most} expected");
        }
    };
    // A gigabyte of its own each: one directory of 2M entries, and leaf tables only where leaves are small.
    grows("4K", PageSize::Size4K, 0, 512, 2 * 4096);
    grows("64K", PageSize::Size64K, 1, 32, 2 * 4096);
    grows("2M", PageSize::Size2M, 2, 16, 4096);
    if machine.memory >= 1 << 30 {
        grows("1G", PageSize::Size1G, 3, 1, 0);
    } else {
        skip("shadow-size/1G", "the partition has less than 1 GiB");
    }
}

/// A 1G leaf over the end of the first memory node: what is memory works, what is not does not.
fn partly_outside(g: &mut Guest) {
    let inside = (1u64..16).map(|n| n << 30).find_map(|giga| {
        // A gigabyte that begins outside and goes on in memory.
        let mut steps = (1u64..512).map(|n| n << 21);
        match probe::load(giga) {
            Err(_) => Some((giga, steps.find(|s| probe::load(giga + s).is_ok())?)),
            Ok(_) => None,
        }
    });
    let Some((giga, step)) = inside else {
        skip("shadow-size/partly", "memory has no hole");
        return;
    };
    let at = AT + (8 << 30);
    g.tree.map(at, giga, PageSize::Size1G, ALL);
    let value = probe::load(giga + step).unwrap_or(0);
    loads(g, "partly-inside", at + step, value);
    faults(g, "partly-outside", at, 0x8_0000);
    loads(g, "partly-inside-again", at + step, value);
}

/// More tables than the pool has: some go, everything works, the counter says so; another guest works, too.
fn reclaim() {
    let limit = guest::counter(TABLES_MAX);
    let count = limit / 4096 + limit / 16384;
    let Some(mut g) = guest_or_fail("shadow-size") else {
        return;
    };
    // One leaf table for all 2 MiB regions, one directory for all gigabytes.
    let (leaves, directory) = (g.tree.table(4096), g.tree.table(4096));
    let valid = Pte::VALID.bits();
    for n in 0..512 {
        let leaf = (Pte::VALID | Pte::LEAF | ALL).bits() | (PAGES + n * 0x1000);
        set_entry(leaves + 8 * n, leaf);
        set_entry(directory + 8 * n, valid | leaves | 9);
    }
    for n in 0..count.div_ceil(512) {
        set_entry(
            g.tree.slot(AT + (n << 30), PageSize::Size1G),
            valid | directory | 9,
        );
    }
    mem::write64(PAGES, 0x5e5e);
    let before = guest::counter(RECLAIMED);
    case(
        "shadow-size/reclaim-touch",
        touch(&g, AT, count, 2 << 20),
        0xc00,
    );
    let after = guest::counter(RECLAIMED);
    let used = guest::counter(TABLES_USED);
    say!(
        "shadow-size: {count} tables touched, {} bytes reclaimed, {used} of {limit} in use",
        after - before
    );
    holds("shadow-size/reclaim-counted", after > before);
    holds("shadow-size/reclaim-in-limit", used <= limit);
    for n in [0, 1, count / 2, count - 1] {
        loads(&g, format_args!("reclaim-{n}"), AT + n * (2 << 20), 0x5e5e);
    }
    // Invalidation finds what is left of it.
    mem::write64(PAGES + 0x1000, 0x6f6f);
    let first = (Pte::VALID | Pte::LEAF | ALL).bits() | (PAGES + 0x1000);
    set_entry(leaves, first);
    case(
        "shadow-size/reclaim-invalidate",
        invalidate(&g, TLB, u64::MAX, 0, u64::MAX),
        0,
    );
    for n in [0, count / 2, count - 1] {
        loads(
            &g,
            format_args!("reclaim-moved-{n}"),
            AT + n * (2 << 20),
            0x6f6f,
        );
    }
    // Fill it again; a second guest gets its share.
    case("shadow-size/refill", touch(&g, AT, count, 2 << 20), 0xc00);
    let mut tree = Tree::at(TABLES + 0x20_0000);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    match Guest::with_tree(tree) {
        Ok(second) => {
            case("shadow-size/second-guest", second.run(), 0xc00);
            case("shadow-size/first-guest", g.start(program::SC, &[]), 0xc00);
            case("shadow-size/second-delete", second.end(), 0);
        }
        Err(code) => {
            case("shadow-size/second-guest", code, 0);
        }
    }
    case("shadow-size/reclaim-delete", g.end(), 0);
}

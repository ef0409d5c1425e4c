//! Rights of L1's leaves as L2 meets them, and trees that are wrong: outside memory, misaligned, bad sizes, circles.

use isa::pte::{PageSize, Pte};

use super::nested_args::{guest_or_fail, setup};
use super::shadow::{GPR5, PAT, PWC, TLB, faults, invalidate, load, loads, store};
use crate::elements::id;
use crate::guest::{Guest, program};
use crate::mem;
use crate::mem::layout::PAGES;
use crate::radix::{ALL, set_entry};
use crate::report::{case, one_of};
use crate::start::Machine;

const AT: u64 = 0x10_0000_0000;
const STORE: u64 = 0x0200_0000;
const PROTECTION: u64 = 0x0800_0000;
const NO_EXECUTE: u64 = 0x1000_0000;
const BAD_TREE: u64 = 0x0008_0000;
const BAD_ENTRY: u64 = 0x0002_0000;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(mut g) = guest_or_fail("shadow-rights") else {
        return;
    };
    rights(&mut g);
    leaves(&mut g, machine);
    tables(&mut g, machine);
    case("shadow-rights/delete", g.end(), 0);
}

/// Every combination of read, write, execute: what L2 can do, and how L1 hears of what it cannot.
fn rights(g: &mut Guest) {
    for n in 0..8u64 {
        let bits = Pte::from_bits_retain(n);
        let at = AT + n * 0x1_0000;
        g.tree
            .map(at, PAGES, PageSize::Size4K, bits | Pte::R | Pte::C);
        mem::install(PAGES, &[0x22, 0x00, 0x00, 0x44, 0x00, 0x00, 0x00, 0x48]); // sc 1; b .
        let (write, execute) = (n & 2 != 0, n & 1 != 0);
        let read = n & 4 != 0 || write;
        let label = ["none", "x", "w", "wx", "r", "rx", "rw", "rwx"][n as usize];
        let (exit, _) = load(g, at);
        case(
            format_args!("shadow-rights/{label}-load"),
            exit,
            if read { 0xc00 } else { 0xe00 },
        );
        if !read {
            case(
                format_args!("shadow-rights/{label}-load-cause"),
                g.element(id::HDSISR),
                PROTECTION,
            );
        }
        let exit = store(g, at + 0x100, n);
        case(
            format_args!("shadow-rights/{label}-store"),
            exit,
            if write { 0xc00 } else { 0xe00 },
        );
        if !write {
            let cause = g.element(id::HDSISR);
            case(
                format_args!("shadow-rights/{label}-store-cause"),
                cause,
                PROTECTION | STORE,
            );
        }
        let exit = g.start(program::JUMP, &[(GPR5, at)]);
        case(
            format_args!("shadow-rights/{label}-fetch"),
            exit,
            if execute { 0xc00 } else { 0xe20 },
        );
        if !execute {
            let cause = g.element(id::MSR) & 0x7800_0000;
            case(
                format_args!("shadow-rights/{label}-fetch-cause"),
                cause,
                NO_EXECUTE,
            );
        }
    }
}

/// Leaves that point where L1 has nothing.
fn leaves(g: &mut Guest, machine: &Machine) {
    let mut n = 16u64;
    let mut next = || {
        n += 1;
        AT + (n << 30)
    };
    for (name, frame, size) in [
        ("far", 0x0001_0000_0000_0000, PageSize::Size4K),
        ("behind-memory", machine.memory, PageSize::Size4K),
        ("behind-memory-64K", machine.memory, PageSize::Size64K),
        ("top", isa::pte::RPN & !0xfff, PageSize::Size4K),
    ] {
        let at = next();
        g.tree.map(at, frame, size, ALL);
        faults(g, format_args!("leaf-{name}"), at, BAD_TREE);
        let exit = store(g, at, 1);
        case(format_args!("shadow-rights/leaf-{name}-store"), exit, 0xe00);
        let exit = g.start(program::JUMP, &[(GPR5, at)]);
        one_of(
            format_args!("shadow-rights/leaf-{name}-fetch"),
            exit,
            &[0xe20, 0xe00],
        );
    }
    // Large leaves that only begin in memory: the part inside works, the part outside does not.
    if machine.memory.is_multiple_of(1 << 21) {
        let at = next();
        g.tree
            .map(at, machine.memory - (1 << 21), PageSize::Size2M, ALL);
        let (exit, _) = load(g, at + (1 << 21) - 8);
        case("shadow-rights/leaf-last-2M", exit, 0xc00);
    }
    let at = next();
    g.tree
        .map(at, machine.memory & !((1 << 30) - 1), PageSize::Size1G, ALL);
    faults(g, "leaf-1G-outside-part", at + (1 << 30) - 8, BAD_TREE);
    for (name, frame, size) in [
        ("2M", PAGES + 0x1000, PageSize::Size2M),
        ("64K", PAGES + 0x1000, PageSize::Size64K),
        ("1G", 1 << 21, PageSize::Size1G),
    ] {
        let at = next();
        g.tree.map(at, frame, size, ALL);
        faults(g, format_args!("leaf-misaligned-{name}"), at, BAD_TREE);
    }
    let at = 1u64 << 45;
    set_entry(
        g.tree.root + (at >> 39) * 8,
        (Pte::VALID | Pte::LEAF | ALL).bits(),
    );
    faults(g, "leaf-512G", at, BAD_TREE);
    // Attributes that L1 copies from its user mappings do not matter.
    for (name, bits) in [
        ("sao", 0x10u64),
        ("io", 0x20),
        ("tolerant", 0x30),
        ("privileged", 8),
        ("software", 0xe00 | 1 << 61),
    ] {
        let at = next();
        g.tree.map(
            at,
            PAGES,
            PageSize::Size4K,
            ALL | Pte::from_bits_retain(bits),
        );
        mem::write64(PAGES, bits);
        loads(g, format_args!("leaf-attribute-{name}"), at, bits);
    }
}

/// Directory entries that lead nowhere.
fn tables(g: &mut Guest, machine: &Machine) {
    let valid = Pte::VALID.bits();
    let good = g.tree.table(4096);
    let mut n = 64u64;
    for (name, level, directory, causes) in [
        ("size-0", 2, valid | good, &[BAD_TREE][..]),
        ("size-8", 2, valid | good | 8, &[BAD_TREE]),
        ("size-10", 2, valid | good | 10, &[BAD_TREE]),
        ("size-31", 2, valid | good | 31, &[BAD_TREE]),
        ("size-5-for-directories", 1, valid | good | 5, &[BAD_TREE]),
        ("misaligned", 2, valid | (good + 0x100) | 9, &[BAD_TREE]),
        ("far", 2, valid | 1 << 48 | 9, &[BAD_ENTRY, BAD_TREE]),
        (
            "behind-memory",
            2,
            valid | machine.memory | 9,
            &[BAD_ENTRY, BAD_TREE],
        ),
        (
            "top",
            2,
            valid | 0x0fff_ffff_ffff_f000 | 9,
            &[BAD_ENTRY, BAD_TREE],
        ),
    ] {
        n += 1;
        let at = AT + (n << 30);
        let size = if level == 1 {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        };
        let slot = g.tree.slot(at, size);
        set_entry(slot, directory);
        let (exit, _) = load(g, at);
        if case(format_args!("shadow-rights/table-{name}"), exit, 0xe00) {
            one_of(
                format_args!("shadow-rights/table-{name}-cause"),
                g.element(id::HDSISR),
                causes,
            );
        }
    }
    // A directory that contains itself: four levels, then it must be a leaf or nothing.
    let at = AT + (90u64 << 30);
    let circle = g.tree.table(4096);
    for i in 0..512 {
        set_entry(circle + 8 * i, valid | circle | 9);
    }
    let slot = g.tree.slot(at, PageSize::Size1G);
    set_entry(slot, valid | circle | 9);
    faults(g, "table-circle", at, BAD_TREE);
    // A table over L2's own memory, or over the tree's root: L1's problem only, it must end.
    set_entry(slot, valid | g.tree.root | 9);
    let (exit, _) = load(g, at);
    case("shadow-rights/table-root-as-table", exit, 0xe00);
    // Repaired, the guest goes on.
    set_entry(slot, 0);
    let slot = g.tree.slot(at, PageSize::Size4K);
    set_entry(slot, (valid | Pte::LEAF.bits() | ALL.bits()) | PAGES);
    case(
        "shadow-rights/repaired-call",
        invalidate(g, TLB | PWC | PAT, u64::MAX, 0, u64::MAX),
        0,
    );
    mem::write64(PAGES, 0x9a9a);
    loads(g, "repaired", at, 0x9a9a);
}

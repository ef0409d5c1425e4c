//! L2's memory through every leaf size of L1's tree; changes of the tree with and without invalidation; R and C.

use isa::pte::{PageSize, Pte};
use papr_services::table::number::H_RPT_INVALIDATE;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{Guest, program};
use crate::hcall::hcall;
use crate::mem;
use crate::mem::layout::PAGES;
use crate::radix::{ALL, entry, set_entry};
use crate::report::{case, holds, skip};
use crate::start::Machine;

/// H_RPT_INVALIDATE types.
pub(super) const NESTED: u64 = 1;
pub(super) const TLB: u64 = 2;
pub(super) const PWC: u64 = 4;
pub(super) const PAT: u64 = 8;

pub(super) const GPR4: u16 = id::GPR0 + 4;
pub(super) const GPR5: u16 = id::GPR0 + 5;

/// L2 real addresses for the cases; each size has its own gigabyte.
const AT: u64 = 0x1_0000_0000;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(mut g) = guest_or_fail("shadow") else {
        return;
    };
    sizes(&mut g, machine);
    upgrades(&mut g);
    unmapping(&mut g);
    reuse(&mut g);
    collapse(&mut g);
    references(&mut g);
    let _ = g.end();
    growth();
}

/// L2 loads from `at`: exit and value.
pub(super) fn load(g: &Guest, at: u64) -> (i64, u64) {
    let exit = g.start(
        program::LOAD,
        &[(GPR5, at), (GPR4, 0xdead), (id::GPR0 + 3, 0x1230)],
    );
    (exit, g.gpr(4))
}

/// L2 stores to `at`: the exit.
pub(super) fn store(g: &Guest, at: u64, value: u64) -> i64 {
    g.start(
        program::STORE,
        &[(GPR5, at), (GPR4, value), (id::GPR0 + 3, 0x1230)],
    )
}

/// One case: L2 loads this.
pub(super) fn loads(g: &Guest, name: impl core::fmt::Display, at: u64, want: u64) {
    let (exit, value) = load(g, at);
    if case(format_args!("shadow/{name}"), exit, 0xc00) {
        case(format_args!("shadow/{name}-value"), value, want);
    }
}

/// One case: L2 cannot load there.
pub(super) fn faults(g: &Guest, name: impl core::fmt::Display, at: u64, cause: u64) {
    let (exit, _) = load(g, at);
    if case(format_args!("shadow/{name}"), exit, 0xe00) {
        case(
            format_args!("shadow/{name}-cause"),
            g.element(id::HDSISR),
            cause,
        );
        case(format_args!("shadow/{name}-hdar"), g.element(id::HDAR), at);
    }
}

/// Invalidates a range of L2 real memory.
pub(super) fn invalidate(g: &Guest, kind: u64, sizes: u64, start: u64, end: u64) -> i64 {
    hcall(
        H_RPT_INVALIDATE,
        [g.id, 1, NESTED | kind, sizes, start, end],
    )
    .code()
}

fn name(size: PageSize) -> &'static str {
    match size {
        PageSize::Size4K => "4K",
        PageSize::Size64K => "64K",
        PageSize::Size2M => "2M",
        PageSize::Size1G => "1G",
    }
}

fn sizes(g: &mut Guest, machine: &Machine) {
    for (n, size) in (0u64..).zip([PageSize::Size4K, PageSize::Size64K, PageSize::Size2M]) {
        let (at, bytes) = (AT + (n << 30), size.bytes());
        // Three pages in another order than in L1's memory.
        for (place, frame) in [(0u64, 2u64), (1, 0), (2, 1)] {
            g.tree
                .map(at + place * bytes, PAGES + frame * bytes, size, ALL);
            for offset in [0, bytes / 2 + 8, bytes - 8] {
                mem::write64(
                    PAGES + frame * bytes + offset,
                    frame << 32 | offset | 0x7 << 60,
                );
            }
        }
        for (place, frame) in [(0u64, 2u64), (1, 0), (2, 1)] {
            for offset in [0, bytes / 2 + 8, bytes - 8] {
                let want = frame << 32 | offset | 0x7 << 60;
                loads(
                    g,
                    format_args!("{}-page-{place}-at-{offset:#x}", name(size)),
                    at + place * bytes + offset,
                    want,
                );
            }
        }
        let to = at + bytes + 0x10;
        if case(
            format_args!("shadow/{}-store", name(size)),
            store(g, to, 0x5151),
            0xc00,
        ) {
            case(
                format_args!("shadow/{}-stored", name(size)),
                mem::read64(PAGES + 0x10),
                0x5151,
            );
        }
        faults(
            g,
            format_args!("{}-behind", name(size)),
            at + 3 * bytes,
            0x4000_0000,
        );
    }
    if machine.memory >= 1 << 30 {
        let at = AT + (3 << 30);
        g.tree.map(at, 0, PageSize::Size1G, ALL);
        mem::write64(PAGES + 0x123_4560, 0x1616);
        loads(g, "1G", at + PAGES + 0x123_4560, 0x1616);
        let exit = store(g, at + PAGES + 0x123_4560, 0x1717);
        case("shadow/1G-store", exit, 0xc00);
        case("shadow/1G-stored", mem::read64(PAGES + 0x123_4560), 0x1717);
        set_entry(g.tree.slot(at, PageSize::Size1G), 0);
        case(
            "shadow/1G-invalidate",
            invalidate(g, TLB, 8, at, at + (1 << 30)),
            0,
        );
        faults(g, "1G-gone", at + PAGES, 0x4000_0000);
    } else {
        skip("shadow/1G", "the partition has less than 1 GiB");
    }
    // 4K leaves and 64K leaves side by side under one directory page.
    let at = AT + (4 << 30);
    g.tree.map(at, PAGES, PageSize::Size4K, ALL);
    g.tree
        .map(at + 0x20_0000, PAGES + 0x1_0000, PageSize::Size64K, ALL);
    g.tree
        .map(at + 0x40_0000, PAGES + 0x20_0000, PageSize::Size2M, ALL);
    for (n, (place, frame)) in (1u64..).zip([(0, 0), (0x20_0000, 0x1_0000), (0x40_0000, 0x20_0000)])
    {
        mem::write64(PAGES + frame + 0x40, n);
        loads(g, format_args!("mixed-{n}"), at + place + 0x40, n);
    }
    // The top of the 52-bit space.
    let at = (1u64 << 52) - 0x1000;
    g.tree.map(at, PAGES, PageSize::Size4K, ALL);
    mem::write64(PAGES + 0x88, 0x8888);
    loads(g, "top-of-space", at + 0x88, 0x8888);
    // An access across two leaves that are not neighbours in L1's memory.
    let at = AT + (5 << 30);
    g.tree.map(at, PAGES + 0x5000, PageSize::Size4K, ALL);
    g.tree
        .map(at + 0x1000, PAGES + 0x1000, PageSize::Size4K, ALL);
    mem::write32(PAGES + 0x5ffc, 0x2222_2222);
    mem::write32(PAGES + 0x1000, 0x1111_1111);
    loads(g, "across-pages", at + 0xffc, 0x1111_1111_2222_2222);
}

/// L1 adds rights without telling anybody.
fn upgrades(g: &mut Guest) {
    let at = AT + (6 << 30);
    faults(g, "upgrade-absent", at, 0x4000_0000);
    mem::write64(PAGES, 0x61);
    let read = Pte::READ | Pte::R;
    let leaf = g.tree.map(at, PAGES, PageSize::Size4K, read);
    loads(g, "upgrade-present", at, 0x61);
    let exit = store(g, at, 0x62);
    if case("shadow/upgrade-store", exit, 0xe00) {
        case(
            "shadow/upgrade-store-cause",
            g.element(id::HDSISR),
            0x0a00_0000,
        );
        case("shadow/upgrade-store-nothing", mem::read64(PAGES), 0x61);
    }
    set_entry(leaf, entry(leaf).bits() | (Pte::WRITE | Pte::C).bits());
    // Goes on where it left, with no other call between.
    case("shadow/upgrade-store-again", g.run(), 0xc00);
    case("shadow/upgrade-stored", mem::read64(PAGES), 0x62);
    let exit = g.start(program::JUMP, &[(GPR5, at)]);
    if case("shadow/upgrade-fetch", exit, 0xe20) {
        case(
            "shadow/upgrade-fetch-cause",
            g.element(id::MSR) & 0x7800_0000,
            0x1000_0000,
        );
    }
    // `sc 1; b .` for the fetch.
    mem::install(PAGES, &[0x22, 0x00, 0x00, 0x44, 0x00, 0x00, 0x00, 0x48]);
    set_entry(leaf, entry(leaf).bits() | Pte::EXECUTE.bits());
    case("shadow/upgrade-fetch-again", g.run(), 0xc00);
    case("shadow/upgrade-fetch-nia", g.element(id::NIA), at + 4);
}

/// L1 takes pages away and says so: at every size, by the ways Linux uses.
fn unmapping(g: &mut Guest) {
    for (n, size) in (0u64..).zip([PageSize::Size4K, PageSize::Size64K, PageSize::Size2M]) {
        let (at, bytes) = (AT + ((7 + n) << 30), size.bytes());
        for (way, kind, sizes, start, end) in [
            ("page", TLB, size.rpt_bit(), at, at + bytes),
            ("page-any-size", TLB, u64::MAX, at, at + bytes),
            (
                "range",
                TLB,
                size.rpt_bit(),
                at - 4 * bytes,
                at + 40 * bytes,
            ),
            ("everything", TLB, u64::MAX, 0, u64::MAX),
            ("all-kinds", TLB | PWC | PAT, u64::MAX, 0, u64::MAX),
        ] {
            let label = name(size);
            let leaf = g.tree.map(at, PAGES, size, ALL);
            g.tree.map(at + bytes, PAGES + bytes, size, ALL);
            mem::write64(PAGES, 0x70 + n);
            mem::write64(PAGES + bytes, 0x80 + n);
            loads(g, format_args!("unmap-{label}-{way}-before"), at, 0x70 + n);
            loads(
                g,
                format_args!("unmap-{label}-{way}-neighbour-before"),
                at + bytes,
                0x80 + n,
            );
            set_entry(leaf, 0);
            case(
                format_args!("shadow/unmap-{label}-{way}-call"),
                invalidate(g, kind, sizes, start, end),
                0,
            );
            faults(g, format_args!("unmap-{label}-{way}"), at, 0x4000_0000);
            loads(
                g,
                format_args!("unmap-{label}-{way}-neighbour"),
                at + bytes,
                0x80 + n,
            );
            case(
                format_args!("shadow/unmap-{label}-{way}-store"),
                store(g, at, 1),
                0xe00,
            );
        }
    }
}

/// The same L2 page over another L1 page, and the other way round.
fn reuse(g: &mut Guest) {
    let at = AT + (10 << 30);
    let leaf = g.tree.map(at, PAGES, PageSize::Size4K, ALL);
    for round in 0..4u64 {
        let frame = PAGES + round * 0x1000;
        mem::write64(frame, 0x900 + round);
        set_entry(leaf, (Pte::VALID | Pte::LEAF | ALL).bits() | frame);
        case(
            "shadow/reuse-invalidate",
            invalidate(g, TLB, 1, at, at + 0x1000),
            0,
        );
        loads(g, format_args!("reuse-{round}"), at, 0x900 + round);
    }
    // Rights taken away.
    set_entry(leaf, entry(leaf).bits() & !Pte::WRITE.bits());
    case(
        "shadow/downgrade-invalidate",
        invalidate(g, TLB, 1, at, at + 0x1000),
        0,
    );
    if case("shadow/downgrade", store(g, at, 1), 0xe00) {
        case("shadow/downgrade-cause", g.element(id::HDSISR), 0x0a00_0000);
    }
    loads(g, "downgrade-readable", at, 0x903);
}

/// A table of small pages becomes one large page, as Linux does it: PWC over everything.
fn collapse(g: &mut Guest) {
    let at = AT + (11 << 30);
    for n in 0..4 {
        g.tree.map(
            at + n * 0x1000,
            PAGES + (n ^ 1) * 0x1000,
            PageSize::Size4K,
            ALL,
        );
        mem::write64(PAGES + n * 0x1000, 0xa0 + n);
    }
    for n in 0..4 {
        loads(
            g,
            format_args!("collapse-small-{n}"),
            at + n * 0x1000,
            0xa0 + (n ^ 1),
        );
    }
    let large = g.tree.slot(at, PageSize::Size2M);
    set_entry(large, (Pte::VALID | Pte::LEAF | ALL).bits() | PAGES);
    case(
        "shadow/collapse-call",
        invalidate(g, PWC, u64::MAX, 0, u64::MAX),
        0,
    );
    for n in 0..4 {
        loads(
            g,
            format_args!("collapse-large-{n}"),
            at + n * 0x1000,
            0xa0 + n,
        );
    }
}

/// R and C in L1's leaves are set by the firmware, as hardware would: R by any access, C by a store that may be done.
fn references(g: &mut Guest) {
    let at = AT + (12 << 30);
    let rights = Pte::READ | Pte::WRITE | Pte::EXECUTE;
    let bits = |leaf: u64| entry(leaf).bits() & (Pte::R | Pte::C).bits();
    let (r, c) = (Pte::R.bits(), Pte::C.bits());
    let map = |g: &mut Guest, n: u64, rights| {
        g.tree.map(
            at + n * 0x1000,
            PAGES + n * 0x1000,
            PageSize::Size4K,
            rights,
        )
    };
    let leaf = map(g, 0, rights);
    mem::write64(PAGES, 0xb0);
    loads(g, "rc-load", at, 0xb0);
    case("shadow/rc-load-sets-R", bits(leaf), r);
    case("shadow/rc-store", store(g, at, 0xb1), 0xc00);
    case("shadow/rc-store-sets-C", bits(leaf), r | c);
    case("shadow/rc-stored", mem::read64(PAGES), 0xb1);
    let leaf = map(g, 1, rights);
    case("shadow/rc-first-store", store(g, at + 0x1000, 0xb2), 0xc00);
    case("shadow/rc-first-store-sets-both", bits(leaf), r | c);
    let leaf = map(g, 2, Pte::READ);
    case("shadow/rc-read-only-store", store(g, at + 0x2000, 1), 0xe00);
    case("shadow/rc-read-only-C-stays", bits(leaf) & c, 0);
    // Dirty logging: C cleared, the page invalidated, the next store shows again.
    let leaf = map(g, 3, rights | Pte::R | Pte::C);
    case("shadow/dirty-store", store(g, at + 0x3000, 0xb3), 0xc00);
    set_entry(leaf, entry(leaf).bits() & !c);
    case(
        "shadow/dirty-call",
        invalidate(g, TLB, 1, at + 0x3000, at + 0x4000),
        0,
    );
    loads(g, "dirty-load", at + 0x3000, 0xb3);
    case("shadow/dirty-load-C-stays", bits(leaf), r);
    case(
        "shadow/dirty-store-again",
        store(g, at + 0x3000, 0xb4),
        0xc00,
    );
    case("shadow/dirty-store-again-sets-C", bits(leaf), r | c);
    // The other bits of the leaf stay what L1 made them: software bits among them.
    let leaf = map(g, 4, rights | Pte::from_bits_retain(0x2000_0000_0000_0e00));
    let before = entry(leaf).bits();
    case("shadow/software-bits", store(g, at + 0x4000, 0xb5), 0xc00);
    case(
        "shadow/software-bits-stay",
        entry(leaf).bits(),
        before | r | c,
    );
    holds(
        "shadow/software-bits-stored",
        mem::read64(PAGES + 0x4000) == 0xb5,
    );
}

/// Many pages of every size: the tables grow, and all goes away with the guest.
fn growth() {
    let before = crate::guest::counter(id::HEAP + 2);
    let Some(mut g) = guest_or_fail("shadow") else {
        return;
    };
    g.tree
        .map_range(AT, PAGES, 0x40_0000, PageSize::Size4K, ALL);
    let all = [(GPR5, AT), (id::GPR0 + 6, 0x400), (id::GPR0 + 7, 0x1000)];
    case(
        "shadow/touch-1024-pages",
        g.start(program::TOUCH, &all),
        0xc00,
    );
    let used = crate::guest::counter(id::HEAP + 2);
    holds("shadow/tables-grew", used > before);
    case(
        "shadow/everything-away",
        invalidate(&g, TLB | PWC | PAT, u64::MAX, 0, u64::MAX),
        0,
    );
    case("shadow/touch-again", g.start(program::TOUCH, &all), 0xc00);
    case(
        "shadow/write-1024-pages",
        g.start(
            program::WRITE,
            &[all[0], all[1], all[2], (id::GPR0 + 8, 0x77)],
        ),
        0xc00,
    );
    let written = (0..0x400u64).all(|n| mem::read64(PAGES + n * 0x1000) == 0x77);
    holds("shadow/written", written);
    // The way a dying guest goes: its tree is freed before anything is said.
    mem::fill(g.tree.root, isa::pte::ROOT_BYTES, 0xff);
    case(
        "shadow/dead-tree-invalidate",
        invalidate(&g, TLB | PWC | PAT, u64::MAX, 0, u64::MAX),
        0,
    );
    case("shadow/dead-tree-delete", g.end(), 0);
    case(
        "shadow/tables-returned",
        crate::guest::counter(id::HEAP + 2),
        before,
    );
}

//! Several L2s and vCPUs in turn on one thread: each has its own registers, debug registers and counters, and L1's
//! debug registers are L1's again after a run.

use papr_services::table::number::{H_GUEST_CREATE_VCPU, H_SET_MODE};

use super::nested_args::{guest_or_fail, setup};
use super::nested_registers::{L2_DUMP, L2_LOAD, set_patterns};
use crate::elements::id;
use crate::guest::{self, Guest, program};
use crate::hcall::hcall;
use crate::low::DUMP;
use crate::mem::layout::{L2_MEMORY, L2_MEMORY_SIZE, TABLES};
use crate::radix::{ALL, Tree};
use crate::registers::{self, SPRS, gpr_value, vsr_value};
use crate::report::{case, holds, one_of};
use crate::start::Machine;
use crate::{mem, probe};
use isa::pte::PageSize;

const GPR4: u16 = id::GPR0 + 4;
const GPR5: u16 = id::GPR0 + 5;
const DAWR0: u16 = 0x1030;
/// Stores and loads, translated or not, by the supervisor.
const WATCH: u64 = 0x6a;

pub(super) fn run(_: &Machine) {
    if !setup() {
        return;
    }
    turns();
    let Some(g) = guest_or_fail("nested-switch") else {
        return;
    };
    l2_watchpoint(&g);
    l2_breakpoint(&g);
    l1_watchpoint(&g);
    performance(&g);
    case("nested-switch/delete", g.end(), 0);
}

/// First register in L2's dump that is not the pattern of `seed`: GPR n, 0x100 + SPR, 0x200 + VSR; 0xfff for none.
fn first_wrong(seed: u64) -> u64 {
    let gpr = (0..32).find(|n| registers::gpr(L2_DUMP, *n) != gpr_value(seed, *n));
    let spr = SPRS.iter().find(|s| {
        let got = s.seen(registers::special(L2_DUMP, s.index));
        // The last call left through SRR0/1.
        got != s.value(seed) && !matches!(s.name, "SRR0" | "SRR1")
    });
    let vsr = (0..64).find(|n| registers::vsr(L2_DUMP, *n) != vsr_value(seed, *n));
    gpr.or(spr.map(|s| 0x100 + s.index))
        .or(vsr.map(|n| 0x200 + n))
        .unwrap_or(0xfff)
}

/// Two guests, one of them with two vCPUs, in turn.
fn turns() {
    let Some(a) = guest_or_fail("nested-switch") else {
        return;
    };
    // The other guest's tree: the same memory, tables of its own.
    let mut tree = Tree::at(TABLES + 0x20_0000);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    let b = match Guest::with_tree(tree) {
        Ok(b) => b,
        Err(code) => {
            case("nested-switch/second-guest", code, 0);
            return;
        }
    };
    let second = hcall(H_GUEST_CREATE_VCPU, [0, a.id, 1]).code();
    // The run buffers of both vCPUs are the same memory, which is allowed.
    case("nested-switch/vcpu-1", second | a.set_buffers(1), 0);
    let all: [(&str, &Guest, u64, u64); 3] =
        [("a0", &a, 0, 100), ("b0", &b, 0, 200), ("a1", &a, 1, 300)];
    for (name, g, vcpu, seed) in all {
        case(
            format_args!("nested-switch/{name}-set"),
            set_patterns(g, vcpu, seed),
            0,
        );
    }
    for round in 0..4 {
        for (name, g, vcpu, seed) in all {
            registers::fill(L2_LOAD, seed + round + 1);
            mem::fill(L2_DUMP, 0x700, 0);
            let nia = guest::set(g.id, vcpu, id::NIA, program::DUMP_LOAD).code();
            case(format_args!("nested-switch/{name}-nia-{round}"), nia, 0);
            case(
                format_args!("nested-switch/{name}-run-{round}"),
                g.run_vcpu(vcpu),
                0xc00,
            );
            case(
                format_args!("nested-switch/{name}-first-wrong-{round}"),
                first_wrong(seed + round),
                0xfff,
            );
        }
    }
    case("nested-switch/delete-a", a.end(), 0);
    // The other guest is not touched by that.
    registers::fill(L2_LOAD, 999);
    let nia = guest::set(b.id, 0, id::NIA, program::DUMP_LOAD).code();
    case("nested-switch/b-lives", nia, 0);
    case("nested-switch/b-runs", b.run(), 0xc00);
    case("nested-switch/b-first-wrong", first_wrong(204), 0xfff);
    case("nested-switch/delete-b", b.end(), 0);
}

/// A watchpoint that L1 sets for L2 stops L2, and only L2.
fn l2_watchpoint(g: &Guest) {
    let at = DUMP + 0x80;
    let elements = [(DAWR0, at), (id::DAWRX0, WATCH), (GPR5, at), (GPR4, 0x77)];
    mem::write64(L2_MEMORY + at, 0);
    case(
        "nested-switch/l2-watch",
        g.start(program::STORE, &elements),
        0xc00,
    );
    case("nested-switch/l2-watch-vector", g.gpr(3), 0x300);
    case("nested-switch/l2-watch-at", g.gpr(4), program::STORE);
    case("nested-switch/l2-watch-dar", g.element(0x1029), at);
    case(
        "nested-switch/l2-watch-dsisr",
        g.element(0x2002) & 0x40_0000,
        0x40_0000,
    );
    case(
        "nested-switch/l2-watch-not-stored",
        mem::read64(L2_MEMORY + at),
        0,
    );
    // The same address in L1: an interrupt here would end the program.
    mem::write64(at, 1);
    case("nested-switch/l2-watch-not-l1", mem::read64(at), 1);
    let off = [
        (DAWR0, 0),
        (id::DAWRX0, 0),
        (GPR5, at),
        (GPR4, 0x78),
        (id::GPR0 + 3, 0x1230),
    ];
    case(
        "nested-switch/l2-watch-off",
        g.start(program::STORE, &off),
        0xc00,
    );
    case("nested-switch/l2-watch-off-r3", g.gpr(3), 0x1230);
    case(
        "nested-switch/l2-watch-off-stored",
        mem::read64(L2_MEMORY + at),
        0x78,
    );
}

/// An instruction breakpoint in L2 (CIABR): trace interrupt behind the instruction.
fn l2_breakpoint(g: &Guest) {
    let at = program::READ_TB;
    let elements = [(id::CIABR, at | 2), (id::GPR0 + 3, 0x1230)];
    case("nested-switch/l2-break", g.start(at, &elements), 0xc00);
    case("nested-switch/l2-break-vector", g.gpr(3), 0xd00);
    // Behind the instruction; the model points at it.
    one_of("nested-switch/l2-break-at", g.gpr(4), &[at + 4, at]);
    let off = [(id::CIABR, 0), (id::GPR0 + 3, 0x1230)];
    case("nested-switch/l2-break-off", g.start(at, &off), 0xc00);
    case("nested-switch/l2-break-off-r3", g.gpr(3), 0x1230);
}

/// L1's own watchpoint: not L2's, and still there after a run.
fn l1_watchpoint(g: &Guest) {
    // An address that both use: L2 loads from the same effective address.
    let at = DUMP + 0x90;
    let mode = |address, kind| hcall(H_SET_MODE, [0, 2, address, kind]).code();
    let watched = || probe::load(at).err().map_or(0, |t| t.vector);
    mem::write64(at, 5);
    case("nested-switch/l1-watch-set", mode(at, WATCH & !0x40), 0);
    case("nested-switch/l1-watch", watched(), 0x300);
    case(
        "nested-switch/l1-watch-dsisr",
        probe::last().dsisr & 0x40_0000,
        0x40_0000,
    );
    let elements = [(GPR5, at), (id::GPR0 + 3, 0x1230)];
    case(
        "nested-switch/l1-watch-run",
        g.start(program::LOAD, &elements),
        0xc00,
    );
    case("nested-switch/l1-watch-not-l2", g.gpr(3), 0x1230);
    case("nested-switch/l1-watch-kept", watched(), 0x300);
    case("nested-switch/l1-watch-off", mode(0, 0), 0);
    case("nested-switch/l1-watch-gone", watched(), 0);
}

/// Instruction counts of L2 (PMC5): they move while L2 runs and not while L1 does.
fn performance(g: &Guest) {
    const MMCR0: u16 = 0x103b;
    const PMC5: u16 = 0x200b;
    let before = probe::mfspr::<791>().unwrap_or(1);
    let elements = [
        (MMCR0, 0x200),
        (PMC5, 0),
        // L2 waits by its own decrementer: it runs that long however late it begins.
        (id::GPR0 + 5, guest::LONG),
    ];
    case(
        "nested-switch/pmu",
        g.start(program::TIMER, &elements),
        0xc00,
    );
    let counted = guest::get(g.id, 0, PMC5);
    holds("nested-switch/pmu-counted", counted > 1000);
    let start = probe::time_base();
    while probe::time_base().wrapping_sub(start) < 100_000 {}
    case(
        "nested-switch/pmu-stands",
        guest::get(g.id, 0, PMC5),
        counted,
    );
    case(
        "nested-switch/pmu-not-l1",
        probe::mfspr::<791>().unwrap_or(0),
        before,
    );
    let frozen = guest::set(g.id, 0, MMCR0, 0x8000_0200).code();
    case("nested-switch/pmu-freeze", frozen, 0);
}

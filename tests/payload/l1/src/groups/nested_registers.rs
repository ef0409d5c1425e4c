//! All registers through a run: what L1 set is what L2 has, what L2 left is what L1 gets, a new vCPU has nothing of
//! L1, and L1 has all of its own back.

use super::isolation::clean;
use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{self, Guest, L2_MSR, program};
use crate::low::{DUMP, LOAD};
use crate::mem::{self, layout};
use crate::registers::{self, SPRS, VSCR, gpr_value, vsr_value};
use crate::report::{case, holds};
use crate::start::Machine;
use papr_services::table::number::H_GUEST_RUN_VCPU;

/// L2's areas as L1 sees them.
pub(super) const L2_DUMP: u64 = layout::L2_MEMORY + DUMP;
pub(super) const L2_LOAD: u64 = layout::L2_MEMORY + LOAD;

pub(super) fn run(_: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-registers") else {
        return;
    };
    set_by_l1(&g);
    left_by_l2(&g);
    kept_between_runs(&g);
    case("nested-registers/delete", g.end(), 0);
    nothing_of_l1();
}

/// Puts the patterns of `seed` into every element of a vCPU.
pub(super) fn set_patterns(g: &Guest, vcpu: u64, seed: u64) -> i64 {
    let code = g.prepare(vcpu, program::DUMP_LOAD);
    let set = guest::set_with(0, g.id, vcpu, |w| {
        for n in 0..32 {
            w.u64(id::GPR0 + n as u16, gpr_value(seed, n));
        }
        for spr in SPRS {
            w.element(spr.element, spr.value(seed));
        }
        w.u32(0x2003, 1);
        for n in 0..64 {
            w.words(id::VSR0 + n as u16, &vsr_value(seed, n));
        }
    });
    if code != 0 { code } else { set.code() }
}

/// L2 dumps what it was given.
fn set_by_l1(g: &Guest) {
    registers::fill(L2_LOAD, 22);
    case("nested-registers/set", set_patterns(g, 0, 11), 0);
    case("nested-registers/run", g.run(), 0xc00);
    for n in 0..32 {
        let (got, want) = (registers::gpr(L2_DUMP, n), gpr_value(11, n));
        case(format_args!("nested-registers/l2-has-r{n}"), got, want);
    }
    for spr in SPRS {
        let got = spr.seen(registers::special(L2_DUMP, spr.index));
        case(
            format_args!("nested-registers/l2-has-{}", spr.name),
            got,
            spr.value(11),
        );
    }
    let wrong = (0..64).find(|n| registers::vsr(L2_DUMP, *n) != vsr_value(11, *n));
    case(
        "nested-registers/l2-has-vsr-first-wrong",
        wrong.unwrap_or(64),
        64,
    );
    let vscr = registers::special(L2_DUMP, VSCR) & 0xffff_ffff;
    case("nested-registers/l2-has-VSCR", vscr, 1);
    let msr = registers::special(L2_DUMP, registers::MSR);
    case("nested-registers/l2-has-MSR", msr, L2_MSR.bits());
}

/// L1 gets what L2 loaded before it left.
fn left_by_l2(g: &Guest) {
    for n in 0..32 {
        case(
            format_args!("nested-registers/l1-gets-r{n}"),
            g.gpr(n),
            gpr_value(22, u64::from(n)),
        );
    }
    for spr in SPRS {
        let got = spr.seen(guest::get(g.id, 0, spr.element));
        // `sc 1` itself leaves through SRR0/1: what they hold then is not L2's.
        if !matches!(spr.name, "SRR0" | "SRR1") {
            case(
                format_args!("nested-registers/l1-gets-{}", spr.name),
                got,
                spr.value(22),
            );
        }
    }
    let wrong = (0..64u16).find(|n| {
        let [high, low] = vsr_value(22, u64::from(*n));
        let got = guest::get(g.id, 0, id::VSR0 + n);
        got != high || u64::from_be(mem::read64(layout::BUFFER + 16)) != low
    });
    case(
        "nested-registers/l1-gets-vsr-first-wrong",
        wrong.map_or(64, u64::from),
        64,
    );
}

/// L1 changes nothing but where L2 goes on; L1's own registers hold other values meanwhile and survive.
fn kept_between_runs(g: &Guest) {
    let code = guest::set(g.id, 0, id::NIA, program::DUMP_LOAD).code();
    case("nested-registers/again", code, 0);
    mem::fill(L2_DUMP, 0x700, 0);
    // L1's values: patterns of its own, first loaded and dumped to see what they read back as.
    registers::fill(LOAD, 33);
    registers::round_trip();
    let mut l1 = [0u64; 224];
    for (i, slot) in (0u64..).zip(l1.iter_mut()) {
        *slot = mem::read64(DUMP + 8 * i);
    }
    registers::call(H_GUEST_RUN_VCPU, [0, g.id, 0, 0, 0, 0, 0, 0, 0]);
    let (code, reason) = (registers::gpr(DUMP, 3), registers::gpr(DUMP, 4));
    for n in (14..32).chain([2, 13]) {
        let (got, want) = (registers::gpr(DUMP, n), gpr_value(33, n));
        case(format_args!("nested-registers/l1-keeps-r{n}"), got, want);
    }
    for spr in SPRS {
        if matches!(spr.name, "SRR0" | "SRR1" | "LR" | "CTR" | "XER" | "CR") {
            continue;
        }
        let got = registers::special(DUMP, spr.index);
        let want = l1[32 + spr.index as usize];
        case(
            format_args!("nested-registers/l1-keeps-{}", spr.name),
            got,
            want,
        );
    }
    let vsrs = (0..64).find(|n| registers::vsr(DUMP, *n) != vsr_value(33, *n));
    case(
        "nested-registers/l1-keeps-vsr-first-wrong",
        vsrs.unwrap_or(64),
        64,
    );
    let msr = registers::special(DUMP, registers::MSR);
    case(
        "nested-registers/l1-keeps-MSR",
        msr,
        crate::probe::MSR.bits(),
    );
    clean();
    case("nested-registers/again-code", code, 0);
    case("nested-registers/again-reason", reason, 0xc00);
    // And L2 still had what it left (22), although L1 had 33 in the same registers between.
    for n in 0..32 {
        let got = registers::gpr(L2_DUMP, n);
        case(
            format_args!("nested-registers/l2-kept-r{n}"),
            got,
            gpr_value(22, n),
        );
    }
    for spr in SPRS {
        if !matches!(spr.name, "SRR0" | "SRR1") {
            let got = spr.seen(registers::special(L2_DUMP, spr.index));
            case(
                format_args!("nested-registers/l2-kept-{}", spr.name),
                got,
                spr.value(22),
            );
        }
    }
    let wrong = (0..64).find(|n| registers::vsr(L2_DUMP, *n) != vsr_value(22, *n));
    case(
        "nested-registers/l2-kept-vsr-first-wrong",
        wrong.unwrap_or(64),
        64,
    );
}

/// A vCPU that was only told where to start sees reset values, not what L1 has in its registers.
fn nothing_of_l1() {
    let Some(g) = guest_or_fail("nested-registers") else {
        return;
    };
    registers::fill(L2_LOAD, 22);
    case(
        "nested-registers/fresh",
        g.prepare(0, program::DUMP_LOAD),
        0,
    );
    registers::fill(LOAD, 44);
    registers::call(H_GUEST_RUN_VCPU, [0, g.id, 0, 0, 0, 0, 0, 0, 0]);
    let reason = registers::gpr(DUMP, 4);
    clean();
    case("nested-registers/fresh-run", reason, 0xc00);
    let gprs = (0..32).find(|n| registers::gpr(L2_DUMP, *n) != 0);
    case(
        "nested-registers/fresh-gpr-first-wrong",
        gprs.unwrap_or(32),
        32,
    );
    for spr in SPRS {
        let want = match spr.name {
            "PPR" => 3 << 50,
            "MMCR0" => 0x8000_0200,
            "MMCRA" => 0x20_0000_0000,
            "CTRL" => 1,
            "FSCR" => 0x3184, // set by `prepare`
            _ => 0,
        };
        let got = spr.seen(registers::special(L2_DUMP, spr.index));
        case(
            format_args!("nested-registers/fresh-{}", spr.name),
            got,
            want,
        );
    }
    let vsrs = (0..64).find(|n| registers::vsr(L2_DUMP, *n) != [0, 0]);
    case(
        "nested-registers/fresh-vsr-first-wrong",
        vsrs.unwrap_or(64),
        64,
    );
    holds(
        "nested-registers/fresh-vtb-small",
        registers::special(L2_DUMP, registers::VTB) < 512_000_000,
    );
    case("nested-registers/fresh-delete", g.end(), 0);
}

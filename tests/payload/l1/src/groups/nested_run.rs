//! A tiny L2 through each exit reason of nested.md 3.3, with the elements that come with it (3.4).

use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::{Msr, TRANSACTION_BITS};
use papr_services::table::number::{H_CPPR, H_GUEST_CREATE, H_IPI, H_RPT_INVALIDATE};

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::gsb::Writer;
use crate::guest::{self, GUEST_WIDE, Guest, L2_HFSCR, L2_MSR, OUTPUT_SIZE, program};
use crate::hcall::hcall;
use crate::low::DUMP;
use crate::mem::layout::{L2_MEMORY, RUN_OUTPUT};
use crate::report::{case, holds, one_of, skip};
use crate::start::Machine;
use crate::{gsb, mem, probe, radix, registers};

/// Not mapped in L2.
const HOLE: u64 = 0x4000_0000;
const NO_TRANSLATION: u64 = 0x4000_0000;
const STORE: u64 = 0x0200_0000;
const GPR3: u16 = id::GPR0 + 3;
const GPR4: u16 = id::GPR0 + 4;
const GPR5: u16 = id::GPR0 + 5;

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-run") else {
        return;
    };
    hypercall(&g);
    storage(&g);
    fetch(&g);
    emulation(&g);
    facility(&g);
    timer(&g);
    unspecified(&g, machine);
    problem_state(&g);
    own_hypercalls(&g);
    resumes(&g);
    buffers(&g);
    case("nested-run/delete", g.end(), 0);
}

/// Starts, expects an exit, and checks that the output parses.
fn exit(g: &Guest, name: &str, nia: u64, elements: &[(u16, u64)], want: i64) -> bool {
    let got = g.start(nia, elements);
    holds(
        format_args!("nested-run/{name}-output"),
        gsb::parses(RUN_OUTPUT, OUTPUT_SIZE),
    );
    case(format_args!("nested-run/{name}"), got, want)
}

fn out(g: &Guest, name: &str, what: &str, id: u16, want: u64) {
    // Both from the output and by GET: they must agree.
    let by_get = guest::get(g.id, 0, id);
    case(
        format_args!("nested-run/{name}-{what}"),
        g.output(id).unwrap_or(!want),
        want,
    );
    case(format_args!("nested-run/{name}-{what}-get"), by_get, want);
}

fn hypercall(g: &Guest) {
    let args: [(u16, u64); 10] = core::array::from_fn(|n| (GPR3 + n as u16, 0x1_0000 + n as u64));
    if exit(g, "hypercall", program::SC, &args, 0xc00) {
        for n in 0..10u16 {
            let want = 0x1_0000 + u64::from(n);
            case(
                format_args!("nested-run/hypercall-r{}", n + 3),
                g.output(GPR3 + n).unwrap_or(0),
                want,
            );
        }
        case(
            "nested-run/hypercall-nia",
            g.element(id::NIA),
            program::SC + 4,
        );
        case(
            "nested-run/hypercall-msr",
            g.element(id::MSR) & !0x783f_0000,
            L2_MSR.bits(),
        );
        // What H_CEDE would cost another call each.
        holds(
            "nested-run/hypercall-enriched-msr",
            g.output(id::MSR).is_some(),
        );
        holds(
            "nested-run/hypercall-enriched-dec",
            g.output(id::DEC_EXPIRY).is_some(),
        );
    }
}

fn storage(g: &Guest) {
    let at = HOLE + 0x1238;
    if exit(g, "load", program::LOAD, &[(GPR5, at), (GPR4, 0x44)], 0xe00) {
        out(g, "load", "hdar", id::HDAR, at);
        out(g, "load", "hdsisr", id::HDSISR, NO_TRANSLATION);
        case(
            "nested-run/load-asdr",
            g.element(id::ASDR) & !0xfff,
            at & !0xfff,
        );
        out(g, "load", "nia", id::NIA, program::LOAD);
        case(
            "nested-run/load-msr",
            g.element(id::MSR) & !0x783f_0000,
            L2_MSR.bits(),
        );
        case("nested-run/load-r4-unchanged", g.gpr(4), 0x44);
    }
    if exit(
        g,
        "store",
        program::STORE,
        &[(GPR5, at), (GPR4, 0x55)],
        0xe00,
    ) {
        out(g, "store", "hdar", id::HDAR, at);
        out(g, "store", "hdsisr", id::HDSISR, NO_TRANSLATION | STORE);
        out(g, "store", "nia", id::NIA, program::STORE);
        case("nested-run/store-r4", g.gpr(4), 0x55);
    }
    // Beyond the 52 bits that L2 real addresses have.
    let far = 1u64 << 53;
    let got = g.start(program::LOAD, &[(GPR5, far)]);
    one_of("nested-run/load-beyond-52-bits", got, &[0xe00, 0xc00]);
}

fn fetch(g: &Guest) {
    let at = HOLE + 0x2000;
    if exit(g, "fetch", program::JUMP, &[(GPR5, at)], 0xe20) {
        out(g, "fetch", "nia", id::NIA, at);
        case(
            "nested-run/fetch-cause",
            g.element(id::MSR) & 0x7800_0000,
            NO_TRANSLATION,
        );
        case("nested-run/fetch-asdr", g.element(id::ASDR) & !0xfff, at);
    }
}

fn emulation(g: &Guest) {
    if exit(g, "illegal", program::ILLEGAL, &[], 0xe40) {
        out(g, "illegal", "heir", id::HEIR, 0x00dd_dd00);
        out(g, "illegal", "nia", id::NIA, program::ILLEGAL);
        case(
            "nested-run/illegal-msr",
            g.element(id::MSR) & !0x783f_0000,
            L2_MSR.bits(),
        );
        let len = gsb::iterate(RUN_OUTPUT, OUTPUT_SIZE)
            .find(|e| e.0 == id::HEIR)
            .map_or(0, |e| e.1);
        case("nested-run/illegal-heir-length", u64::from(len), 8);
    }
    if exit(g, "illegal-prefixed", program::ILLEGAL_PREFIXED, &[], 0xe40) {
        out(
            g,
            "illegal-prefixed",
            "heir",
            id::HEIR,
            0x07f0_0000_00dd_dd00,
        );
        case(
            "nested-run/illegal-prefixed-msr",
            g.element(id::MSR) & 0x2000_0000,
            0x2000_0000,
        );
    }
    // A hypervisor register: no exit without EVIRT, L2's own privileged interrupt; or emulation assistance.
    let got = g.start(program::HV_SPR, &[]);
    if one_of("nested-run/hypervisor-register", got, &[0xc00, 0xe40]) && got == 0xc00 {
        case("nested-run/hypervisor-register-vector", g.gpr(3), 0x700);
        case(
            "nested-run/hypervisor-register-at",
            g.gpr(4),
            program::HV_SPR,
        );
    }
}

fn facility(g: &Guest) {
    let cause = |g: &Guest| g.element(id::HFSCR) >> 56;
    if exit(g, "msgsndp", program::MSGSNDP, &[], 0xf80) {
        case("nested-run/msgsndp-cause", cause(g), 0xa);
        holds(
            "nested-run/msgsndp-hfscr-in-output",
            g.output(id::HFSCR).is_some(),
        );
        out(g, "msgsndp", "nia", id::NIA, program::MSGSNDP);
    }
    let without = |bit: Hfscr| (id::HFSCR, L2_HFSCR.difference(bit).bits());
    if exit(g, "bhrb", program::BHRB, &[without(Hfscr::BHRB)], 0xf80) {
        case("nested-run/bhrb-cause", cause(g), 4);
        // Demand-enabled: the same instruction again, allowed now.
        let all = L2_HFSCR.union(Hfscr::BHRB).bits();
        let ret = guest::set(g.id, 0, id::HFSCR, all).code();
        case("nested-run/bhrb-enable", ret, 0);
        case("nested-run/bhrb-again", g.run(), 0xc00);
    }
    match g.start(program::EBB, &[without(Hfscr::EBB)]) {
        0xc00 => skip(
            "nested-run/ebb",
            "the model reads BESCR whatever HFSCR says",
        ),
        got => {
            case("nested-run/ebb", got, 0xf80);
            case("nested-run/ebb-cause", cause(g), 7);
        }
    }
}

fn timer(g: &Guest) {
    let start = probe::time_base();
    if exit(
        g,
        "expiry",
        program::LOOP,
        &[(id::HDEC_EXPIRY, guest::soon(200_000))],
        0x980,
    ) {
        let took = probe::time_base().wrapping_sub(start);
        holds(
            "nested-run/expiry-in-time",
            (200_000..400_000_000).contains(&took),
        );
        case("nested-run/expiry-nia", g.element(id::NIA), program::LOOP);
    }
    for (name, expiry) in [
        ("due", probe::time_base().wrapping_sub(1)),
        ("long-due", probe::time_base().wrapping_sub(1 << 40)),
        ("now", probe::time_base()),
    ] {
        if exit(g, name, program::SC, &[(id::HDEC_EXPIRY, expiry)], 0x980) {
            case(
                format_args!("nested-run/{name}-not-entered"),
                g.element(id::NIA),
                program::SC,
            );
        }
    }
    let far = probe::time_base().wrapping_add(1 << 62);
    exit(
        g,
        "expiry-far",
        program::SC,
        &[(id::HDEC_EXPIRY, far)],
        0xc00,
    );
}

/// An interrupt that waits for L1 ends the run at once, and is still there afterwards.
fn unspecified(g: &Guest, machine: &Machine) {
    // L1's own decrementer is not L1's concern while it runs a guest.
    probe::set_decrementer(1);
    exit(g, "decrementer-of-l1", program::SC, &[], 0xc00);
    probe::set_decrementer(probe::FAR);
    if machine.controller.is_some() {
        // These are in the group of exploitation mode.
        return;
    }
    hcall(H_CPPR, [255]);
    hcall(H_IPI, [machine.server, 4]);
    let before = probe::interrupts();
    if exit(g, "pending", program::SC, &[], 0) {
        case(
            "nested-run/pending-not-entered",
            g.element(id::NIA),
            program::SC,
        );
        case(
            "nested-run/pending-not-delivered",
            probe::interrupts(),
            before,
        );
        let vector = probe::wait_interrupt(51_200_000).map_or(0, |t| t.vector);
        case("nested-run/pending-delivered-later", vector, 0x500);
    }
    hcall(H_IPI, [machine.server, 0xff]);
    hcall(H_CPPR, [0]);
    // Masked for L1: no reason to leave.
    hcall(H_IPI, [machine.server, 4]);
    exit(g, "masked", program::SC, &[], 0xc00);
    hcall(H_IPI, [machine.server, 0xff]);
}

fn problem_state(g: &Guest) {
    // Problem state is always translated: a process table in L2's memory, process 0 one to one.
    radix::identity_process(L2_MEMORY, 0x8_0000, 0x9_0000, 0xa_0000);
    let table = guest::set_wide(g.id, id::PROCESS_TABLE, &[0x8_0000, 4096]).code();
    case("nested-run/process-table", table, 0);
    if exit(g, "user-sc1", program::USER_SC, &[(id::PIDR, 0)], 0xc00) {
        case("nested-run/user-sc1-vector", g.gpr(3), 0x700);
        case("nested-run/user-sc1-at", g.gpr(4), program::USER_SC_AT);
        case("nested-run/user-sc1-cause", g.gpr(5) & 0xf_0000, 0x4_0000);
        case(
            "nested-run/user-sc1-PR",
            g.gpr(5) & Msr::PR.bits(),
            Msr::PR.bits(),
        );
    }
    // Interrupt-little-endian off: L2 gets its interrupts big-endian. Its vectors are little-endian, so the first
    // word of 0x700 is read as another instruction; what matters is LE in its MSR.
    let mut lpcr = Lpcr::LD;
    lpcr.remove(Lpcr::ILE);
    let got = g.start(
        program::USER_SC,
        &[
            (id::LPCR, lpcr.bits()),
            (id::HDEC_EXPIRY, guest::soon(guest::BOUND)),
        ],
    );
    holds(
        "nested-run/user-sc1-big-endian",
        matches!(got, 0xe40 | 0xc00 | 0x980 | 0xe00 | 0xe20),
    );
    case(
        "nested-run/user-sc1-big-endian-LE",
        g.element(id::MSR) & Msr::LE.bits(),
        0,
    );
}

/// Hypercalls that L2 makes: its own invalidations are answered below L1, everything else is L1's.
fn own_hypercalls(g: &Guest) {
    let call = |name: &str, args: [u64; 7], answer: u64| {
        let elements: [(u16, u64); 7] = core::array::from_fn(|n| (GPR3 + n as u16, args[n]));
        if exit(g, name, program::CALL, &elements, 0xc00) {
            case(format_args!("nested-run/{name}-call"), g.gpr(3), 0x4244);
            case(format_args!("nested-run/{name}-answer"), g.gpr(4), answer);
        }
    };
    let all = u64::MAX;
    call("l2-invalidate", [H_RPT_INVALIDATE, 1, 1, 2, all, 0, all], 0);
    call(
        "l2-invalidate-everything",
        [H_RPT_INVALIDATE, 0, 1, 14, all, 0, all],
        0,
    );
    call(
        "l2-invalidate-range",
        [H_RPT_INVALIDATE, 1, 1, 2, 1, 0x1000, 0x3000],
        0,
    );
    call(
        "l2-invalidate-backwards",
        [H_RPT_INVALIDATE, 1, 1, 2, all, 0x3000, 0x1000],
        (-58i64).cast_unsigned(),
    );
    // Nested invalidation by L2 is for L1 to judge.
    for (name, number, kind) in [
        ("l2-nested-invalidate", H_RPT_INVALIDATE, 1u64),
        ("l2-create", H_GUEST_CREATE, 0),
    ] {
        let elements = [(GPR3, number), (GPR4, 5), (GPR5, 1), (id::GPR0 + 6, kind)];
        if exit(g, name, program::SC, &elements, 0xc00) {
            case(format_args!("nested-run/{name}-number"), g.gpr(3), number);
        }
    }
}

/// A run without any input goes on where the last one ended; problem state and system calls are L2's own business.
fn resumes(g: &Guest) {
    exit(g, "calls", program::CALLS, &[(GPR3, 0x123)], 0xc00);
    for n in 0..5 {
        let code = guest::set(g.id, 0, GPR3, 0x200 + n).code();
        case("nested-run/calls-set", code, 0);
        case("nested-run/calls-again", g.run(), 0xc00);
        case("nested-run/calls-r3", g.gpr(3), 0x200 + n);
    }
    if exit(g, "sc0", program::SYSCALL, &[], 0xc00) {
        case("nested-run/sc0-vector", g.gpr(3), 0xc00);
        case("nested-run/sc0-at", g.gpr(4), program::SYSCALL + 4);
    }
    let offset = 1u64 << 40;
    case(
        "nested-run/tb-offset",
        guest::set_wide(g.id, id::TB_OFFSET, &[offset]).code(),
        0,
    );
    let before = probe::time_base();
    if exit(g, "time-base", program::READ_TB, &[], 0xc00) {
        let after = probe::time_base();
        let seen = g.gpr(4).wrapping_sub(offset);
        holds(
            "nested-run/time-base-offset",
            seen.wrapping_sub(before) <= after.wrapping_sub(before),
        );
    }
    case(
        "nested-run/tb-offset-back",
        guest::set_wide(g.id, id::TB_OFFSET, &[0]).code(),
        0,
    );
    let before = probe::time_base();
    holds(
        "nested-run/time-base-of-l1",
        probe::time_base().wrapping_sub(before) < 512_000_000,
    );
    let kept = guest::get_with(GUEST_WIDE, g.id, 0, id::TB_OFFSET).unwrap_or(1);
    case("nested-run/tb-offset-kept", kept, 0);
}

/// Odd run buffers, and timers at the ends of their range.
fn buffers(g: &Guest) {
    let place = |input: u64, output: u64| {
        guest::set_with(0, g.id, 0, |w| {
            w.words(id::RUN_INPUT, &[input, 4096])
                .words(id::RUN_OUTPUT, &[output, OUTPUT_SIZE]);
        })
        .code()
    };
    // One buffer for both: it is read before it is written.
    case("nested-run/same-buffer", place(RUN_OUTPUT, RUN_OUTPUT), 0);
    let code = g.prepare(0, program::SC);
    case("nested-run/same-buffer-prepare", code, 0);
    Writer::new(RUN_OUTPUT).u64(GPR3, 0x4321);
    case("nested-run/same-buffer-run", g.run(), 0xc00);
    case("nested-run/same-buffer-r3", g.gpr(3), 0x4321);
    holds(
        "nested-run/same-buffer-output",
        gsb::parses(RUN_OUTPUT, OUTPUT_SIZE),
    );
    // Over L2's own memory, and at an odd address across pages.
    let odd = L2_MEMORY + 0x6_0fff;
    mem::write32(odd + 0x8000, 0);
    case("nested-run/odd-buffers", place(odd + 0x8000, odd), 0);
    mem::fill(odd, OUTPUT_SIZE, 0xa7);
    case(
        "nested-run/odd-buffers-run",
        g.start(program::SC, &[]),
        0xc00,
    );
    holds(
        "nested-run/odd-buffers-output",
        gsb::parses(odd, OUTPUT_SIZE),
    );
    let used = gsb::iterate(odd, OUTPUT_SIZE)
        .last()
        .map_or(4, |(_, len, value)| value + u64::from(len) - odd);
    let padding = (used..OUTPUT_SIZE).all(|i| mem::read8(odd + i) == 0xa7);
    holds("nested-run/padding-untouched", padding);
    case("nested-run/buffers-back", g.set_buffers(0), 0);
    let now = probe::time_base();
    for (name, dec) in [
        ("dec-far-future", now.wrapping_add(1 << 62)),
        ("dec-far-past", now.wrapping_sub(1 << 62)),
        ("dec-lowest", 1 << 63),
        ("dec-all-ones", u64::MAX),
    ] {
        exit(g, name, program::SC, &[(id::DEC_EXPIRY, dec)], 0xc00);
    }
    // Nothing of what L1 may not give gets into L2's MSR.
    let msr = L2_MSR.bits() | 0x783f_0000 | TRANSACTION_BITS;
    if exit(g, "msr", program::DUMP_LOAD, &[(id::MSR, msr)], 0xc00) {
        let seen = registers::special(L2_MEMORY + DUMP, registers::MSR);
        case("nested-run/msr-seen", seen, L2_MSR.bits());
    }
}

//! What is delivered into L2: its decrementer, external interrupts (LPCR[MER]), doorbells; and time going in and out.

use isa::lpcr::Lpcr;
use isa::msr::Msr;
use papr_services::table::number::{H_GUEST_RUN_VCPU, H_REGISTER_VPA};

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{self, Guest, L2_MSR, program};
use crate::hcall::hcall;
use crate::mem::layout::VPA;
use crate::report::{case, holds};
use crate::start::Machine;
use crate::{mem, probe};

const GPR5: u16 = id::GPR0 + 5;
const WITH_EE: u64 = L2_MSR.union(Msr::EE).bits();
const MER: u64 = Lpcr::ILE.union(Lpcr::LD).union(Lpcr::MER).bits();

pub(super) fn run(machine: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-entry") else {
        return;
    };
    decrementer(&g);
    small_decrementer(&g);
    external(&g);
    doorbell(&g);
    relocated(&g);
    counters(&g);
    run_flags(&g);
    time_of_l1(&g);
    enabled_in_l1(&g);
    vpa_counters(&g, machine);
    case("nested-entry/delete", g.end(), 0);
}

/// Runs with a bound of a second or so; L2's vectors call with r3 = vector, r4 = SRR0, r5 = SRR1.
fn start(g: &Guest, name: &str, nia: u64, elements: &[(u16, u64)]) -> bool {
    let bound = (id::HDEC_EXPIRY, guest::soon(guest::BOUND));
    let code = g.prepare(0, nia);
    let set = guest::set_with(0, g.id, 0, |w| {
        w.u64(bound.0, bound.1);
        for (id, value) in elements {
            w.element(*id, *value);
        }
    });
    case(
        format_args!("nested-entry/{name}-set"),
        code | set.code(),
        0,
    );
    case(format_args!("nested-entry/{name}"), g.run(), 0xc00)
}

fn vector(g: &Guest, name: &str, vector: u64, at: u64) {
    case(format_args!("nested-entry/{name}-vector"), g.gpr(3), vector);
    case(format_args!("nested-entry/{name}-at"), g.gpr(4), at);
    case(
        format_args!("nested-entry/{name}-EE"),
        g.gpr(5) & Msr::EE.bits(),
        Msr::EE.bits(),
    );
    case(
        format_args!("nested-entry/{name}-cause"),
        g.gpr(5) & 0x783f_0000,
        0,
    );
}

fn decrementer(g: &Guest) {
    let elements = [(id::MSR, WITH_EE), (id::DEC_EXPIRY, guest::soon(100_000))];
    if start(g, "dec", program::LOOP, &elements) {
        vector(g, "dec", 0x900, program::LOOP);
    }
    // Already due at entry.
    let elements = [
        (id::MSR, WITH_EE),
        (id::DEC_EXPIRY, probe::time_base().wrapping_sub(5)),
    ];
    if start(g, "dec-due", program::LOOP, &elements) {
        vector(g, "dec-due", 0x900, program::LOOP);
    }
    // Set by L2 itself.
    if start(g, "dec-own", program::TIMER, &[(GPR5, 50_000)]) {
        vector(g, "dec-own", 0x900, program::TIMER + 16);
    }
    // What L2 set comes back in L1's time, whatever the offset.
    for (name, offset) in [("plain", 0u64), ("offset", 1 << 40)] {
        let code = guest::set_wide(g.id, id::TB_OFFSET, &[offset]).code();
        case("nested-entry/dec-read-offset", code, 0);
        let before = probe::time_base();
        if start(g, "dec-read", program::SET_DEC, &[(GPR5, 1 << 30)]) {
            let after = probe::time_base();
            let expiry = g.element(id::DEC_EXPIRY).wrapping_sub(1 << 30);
            holds(
                format_args!("nested-entry/dec-expiry-{name}"),
                expiry.wrapping_sub(before) <= after.wrapping_sub(before),
            );
        }
        // What L1 set is what L2 reads: expiry minus now.
        let expiry = guest::soon(1 << 34);
        if start(
            g,
            "dec-given",
            program::READ_TB,
            &[(id::DEC_EXPIRY, expiry)],
        ) {
            let left = g.gpr(5);
            holds(
                format_args!("nested-entry/dec-given-{name}"),
                left <= 1 << 34 && left > 1 << 33,
            );
        }
    }
    case(
        "nested-entry/offset-back",
        guest::set_wide(g.id, id::TB_OFFSET, &[0]).code(),
        0,
    );
}

/// Without LPCR[LD] the decrementer has 32 bits.
fn small_decrementer(g: &Guest) {
    let small = (id::LPCR, Lpcr::ILE.bits());
    if start(g, "dec-32", program::TIMER, &[small, (GPR5, 50_000)]) {
        vector(g, "dec-32", 0x900, program::TIMER + 16);
    }
    let before = probe::time_base();
    if start(
        g,
        "dec-32-read",
        program::SET_DEC,
        &[small, (GPR5, 0x4000_0000)],
    ) {
        let after = probe::time_base();
        let set = g.element(id::DEC_EXPIRY).wrapping_sub(0x4000_0000);
        holds(
            "nested-entry/dec-32-expiry",
            set.wrapping_sub(before) <= after.wrapping_sub(before),
        );
    }
    // Negative: it was due before it was set.
    if start(
        g,
        "dec-32-negative",
        program::SET_DEC,
        &[small, (GPR5, 0xffff_f000)],
    ) {
        let after = probe::time_base();
        let due = g.element(id::DEC_EXPIRY);
        holds(
            "nested-entry/dec-32-negative-expiry",
            after.wrapping_sub(due).cast_signed() > 0x1000 - 1,
        );
    }
    // Further away than it can count.
    let far = guest::soon(1 << 40);
    if start(
        g,
        "dec-32-far",
        program::READ_TB,
        &[small, (id::DEC_EXPIRY, far)],
    ) {
        let left = g.gpr(5);
        holds(
            "nested-entry/dec-32-far-left",
            left <= 0x7fff_ffff && left > 0x4000_0000,
        );
    }
}

fn external(g: &Guest) {
    if start(
        g,
        "mer",
        program::LOOP,
        &[(id::MSR, WITH_EE), (id::LPCR, MER)],
    ) {
        vector(g, "mer", 0x500, program::LOOP);
    }
    // Before the first instruction.
    let elements = [(id::MSR, WITH_EE), (id::LPCR, MER), (id::GPR0 + 3, 0x321)];
    if start(g, "mer-first", program::SC, &elements) {
        vector(g, "mer-first", 0x500, program::SC);
    }
    // Off at entry, on later: it waits for that.
    if start(
        g,
        "mer-later",
        program::ENABLE,
        &[(id::LPCR, MER), (id::GPR0 + 6, 0)],
    ) {
        vector(g, "mer-later", 0x500, program::ENABLE + 16);
        case("nested-entry/mer-later-came-so-far", g.gpr(6), 0x77);
    }
    // Level: still there in the next run while L1 says so, gone when L1 does not.
    if start(
        g,
        "mer-level",
        program::LOOP,
        &[(id::MSR, WITH_EE), (id::LPCR, MER)],
    ) {
        vector(g, "mer-level", 0x500, program::LOOP);
    }
    let elements = [(id::MSR, WITH_EE), (GPR5, 0)];
    case(
        "nested-entry/mer-off",
        u64::from(start(g, "mer-off", program::SC, &elements)),
        1,
    );
    case(
        "nested-entry/mer-off-nia",
        g.element(id::NIA),
        program::SC + 4,
    );
    // With EE off for good it never comes.
    if start(
        g,
        "mer-masked",
        program::SC,
        &[(id::LPCR, MER), (id::GPR0 + 3, 0x321)],
    ) {
        case("nested-entry/mer-masked-r3", g.gpr(3), 0x321);
    }
    if start(
        g,
        "mer-stale",
        program::ENABLE,
        &[(id::DEC_EXPIRY, guest::soon(200_000))],
    ) {
        case("nested-entry/mer-stale-vector", g.gpr(3), 0x900);
    }
}

fn doorbell(g: &Guest) {
    if start(
        g,
        "doorbell",
        program::LOOP,
        &[(id::MSR, WITH_EE), (id::DPDES, 1)],
    ) {
        vector(g, "doorbell", 0xa00, program::LOOP);
        case(
            "nested-entry/doorbell-consumed",
            guest::get(g.id, 0, id::DPDES),
            0,
        );
    }
    if start(
        g,
        "doorbell-later",
        program::ENABLE,
        &[(id::DPDES, 1), (id::GPR0 + 6, 0)],
    ) {
        vector(g, "doorbell-later", 0xa00, program::ENABLE + 16);
        case("nested-entry/doorbell-later-came-so-far", g.gpr(6), 0x77);
    }
    // Not consumed: it stays.
    if start(
        g,
        "doorbell-kept",
        program::SC,
        &[(id::DPDES, 1), (id::GPR0 + 3, 0x321)],
    ) {
        case("nested-entry/doorbell-kept-r3", g.gpr(3), 0x321);
        case(
            "nested-entry/doorbell-kept-value",
            guest::get(g.id, 0, id::DPDES),
            1,
        );
    }
    case(
        "nested-entry/doorbell-off",
        guest::set(g.id, 0, id::DPDES, 0).code(),
        0,
    );
    // None of L2's doorbells reaches L1.
    let before = probe::interrupts();
    case(
        "nested-entry/doorbell-not-l1",
        probe::wait_interrupt(20_000).map_or(0, |t| t.vector),
        0,
    );
    case(
        "nested-entry/doorbell-not-l1-count",
        probe::interrupts(),
        before,
    );
}

/// AIL = 3 relocates only with translation on; in real mode the vector stays.
fn relocated(g: &Guest) {
    let lpcr = MER | 3 << 23;
    if start(
        g,
        "ail-real-mode",
        program::LOOP,
        &[(id::MSR, WITH_EE), (id::LPCR, lpcr)],
    ) {
        vector(g, "ail-real-mode", 0x500, program::LOOP);
    }
}

/// Lets L2 wait by its own decrementer, so that it runs that long however late it begins: the exit reason, 0xc00.
fn wait_in_l2(g: &Guest, ticks: u64, elements: &[(u16, u64)]) -> i64 {
    let code = g.prepare(0, program::TIMER);
    let set = guest::set_with(0, g.id, 0, |w| {
        w.element(GPR5, ticks);
        for (id, value) in elements {
            w.element(*id, *value);
        }
    });
    match code | set.code() {
        0 => g.run(),
        code => code,
    }
}

/// VTB and PURR go on while L2 runs, and not while it does not.
fn counters(g: &Guest) {
    const VTB: u16 = 0x102b;
    const PURR: u16 = 0x1033;
    const SPURR: u16 = 0x1034;
    let start = probe::time_base();
    // The emulator has one register for PURR and SPURR.
    let elements = [(VTB, 1000), (PURR, 1000), (SPURR, 1000)];
    let exit = wait_in_l2(g, guest::LONG, &elements);
    let elapsed = probe::time_base().wrapping_sub(start);
    case("nested-entry/counters", exit, 0xc00);
    let (vtb, purr) = (guest::get(g.id, 0, VTB), guest::get(g.id, 0, PURR));
    let counted = 1000 + guest::LONG / 2..=1000 + elapsed;
    holds("nested-entry/vtb-counted", counted.contains(&vtb));
    holds("nested-entry/purr-counted", counted.contains(&purr));
    let start = probe::time_base();
    while probe::time_base().wrapping_sub(start) < 100_000 {}
    case("nested-entry/vtb-stands", guest::get(g.id, 0, VTB), vtb);
    case("nested-entry/purr-stands", guest::get(g.id, 0, PURR), purr);
}

/// The flags of H_GUEST_RUN_VCPU: an external interrupt, a doorbell, a system reset, each for this run.
fn run_flags(g: &Guest) {
    let bound = || guest::soon(guest::BOUND);
    let run = |bit: u32| {
        let ret = hcall(H_GUEST_RUN_VCPU, [1 << (63 - bit), g.id, 0]);
        if ret.code() == 0 {
            ret.r(4).cast_signed()
        } else {
            ret.code()
        }
    };
    for (name, bit, place) in [("flag-external", 0, 0x500), ("flag-doorbell", 1, 0xa00)] {
        let code = g.prepare(0, program::LOOP);
        let set = guest::set_with(0, g.id, 0, |w| {
            w.u64(id::MSR, WITH_EE).u64(id::HDEC_EXPIRY, bound());
        });
        case(
            format_args!("nested-entry/{name}-set"),
            code | set.code(),
            0,
        );
        if case(format_args!("nested-entry/{name}"), run(bit), 0xc00) {
            vector(g, name, place, program::LOOP);
        }
        // Once.
        let code = g.prepare(0, program::ENABLE);
        let expiry = guest::set(g.id, 0, id::HDEC_EXPIRY, guest::soon(guest::LONG)).code();
        case(
            format_args!("nested-entry/{name}-once-set"),
            code | expiry,
            0,
        );
        case(format_args!("nested-entry/{name}-once"), g.run(), 0x980);
    }
    let code = g.prepare(0, program::SC);
    case("nested-entry/flag-reset-set", code, 0);
    if case("nested-entry/flag-reset", run(2), 0xc00) {
        case("nested-entry/flag-reset-vector", g.gpr(3), 0x100);
        case("nested-entry/flag-reset-at", g.gpr(4), program::SC);
    }
}

/// L1's clocks go on while L2 runs: its decrementer, its used time.
fn time_of_l1(g: &Guest) {
    const PURR: u32 = 309;
    let purr = || probe::mfspr::<PURR>().unwrap_or(0);
    probe::set_decrementer(1 << 40);
    let start = probe::time_base();
    let (dec, used) = (probe::decrementer(), purr());
    let exit = wait_in_l2(g, guest::LONG, &[]);
    let fell = dec.wrapping_sub(probe::decrementer());
    let used = purr().wrapping_sub(used);
    let elapsed = probe::time_base().wrapping_sub(start);
    case("nested-entry/l1-clocks", exit, 0xc00);
    let near = guest::LONG / 2..=elapsed;
    holds("nested-entry/l1-decrementer-goes-on", near.contains(&fell));
    holds("nested-entry/l1-purr-goes-on", near.contains(&used));
    // It became due meanwhile.
    probe::set_decrementer(50_000);
    let before = probe::interrupts();
    case(
        "nested-entry/l1-dec-due",
        wait_in_l2(g, guest::LONG, &[]),
        0xc00,
    );
    case("nested-entry/l1-dec-due-waits", probe::interrupts(), before);
    let taken = probe::wait_interrupt(10_000).map_or(0, |t| t.vector);
    case("nested-entry/l1-dec-due-taken", taken, 0x900);
    probe::set_decrementer(probe::FAR);
}

/// L1 with interrupts enabled: what became due meanwhile comes as soon as the call returns, and the call has its answer.
fn enabled_in_l1(g: &Guest) {
    let code = g.prepare(0, program::TIMER);
    let wait = guest::set(g.id, 0, GPR5, 2 * guest::LONG).code();
    case("nested-entry/l1-enabled-set", code | wait, 0);
    probe::set_decrementer(guest::LONG);
    let before = probe::interrupts();
    probe::set_msr(probe::MSR | Msr::EE);
    let ret = hcall(H_GUEST_RUN_VCPU, [0, g.id, 0]);
    probe::set_msr(probe::MSR);
    case("nested-entry/l1-enabled-code", ret.code(), 0);
    case("nested-entry/l1-enabled-reason", ret.r(4), 0xc00);
    case(
        "nested-entry/l1-enabled-once",
        probe::interrupts() - before,
        1,
    );
    case(
        "nested-entry/l1-enabled-vector",
        probe::last().vector,
        0x900,
    );
    probe::set_decrementer(probe::FAR);
}

/// Ticks of switches and of L2, which L1's VPA counts when it asks for them.
fn vpa_counters(g: &Guest, machine: &Machine) {
    let register = |kind: u64, at| hcall(H_REGISTER_VPA, [kind << 45, machine.server, at]).code();
    mem::fill(VPA, 0x400, 0);
    mem::write16(VPA + 4, 0x400u16.to_be());
    case("nested-entry/vpa", register(1, VPA), 0);
    let read = || [0x1a0, 0x1a8, 0x1b0].map(|at| u64::from_be(mem::read64(VPA + at)));
    let run = || wait_in_l2(g, guest::LONG, &[]);
    case("nested-entry/vpa-off-run", run(), 0xc00);
    case("nested-entry/vpa-off", read().iter().sum(), 0u64);
    mem::write8(VPA + 0xbc, 1);
    let begin = probe::time_base();
    case("nested-entry/vpa-on-run", run(), 0xc00);
    let elapsed = probe::time_base().wrapping_sub(begin);
    let [to_l2, to_l1, ran] = read();
    // Three parts of the run, and no tick in two of them.
    holds(
        "nested-entry/vpa-switches",
        to_l2 > 0 && to_l1 > 0 && to_l2 + to_l1 + ran <= elapsed,
    );
    holds("nested-entry/vpa-runtime", ran >= guest::LONG);
    case("nested-entry/vpa-again-run", run(), 0xc00);
    holds("nested-entry/vpa-adds-up", read()[2] >= ran + guest::LONG);
    case("nested-entry/vpa-deregister", register(5, 0), 0);
    mem::write8(VPA + 0xbc, 0);
}

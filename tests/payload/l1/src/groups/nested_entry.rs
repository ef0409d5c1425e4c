//! What is delivered into L2: its decrementer, external interrupts (LPCR[MER]), doorbells; and time going in and out.

use isa::lpcr::Lpcr;
use isa::msr::Msr;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::guest::{self, Guest, L2_MSR, program};
use crate::probe;
use crate::report::{case, holds};
use crate::start::Machine;

const GPR5: u16 = id::GPR0 + 5;
const WITH_EE: u64 = L2_MSR.union(Msr::EE).bits();
const MER: u64 = Lpcr::ILE.union(Lpcr::LD).union(Lpcr::MER).bits();

pub(super) fn run(_: &Machine) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("nested-entry") else {
        return;
    };
    decrementer(&g);
    external(&g);
    doorbell(&g);
    relocated(&g);
    counters(&g);
    case("nested-entry/delete", g.end(), 0);
}

/// Runs with a bound of a second or so; L2's vectors call with r3 = vector, r4 = SRR0, r5 = SRR1.
fn start(g: &Guest, name: &str, nia: u64, elements: &[(u16, u64)]) -> bool {
    let bound = (id::HDEC_EXPIRY, guest::soon(512_000_000));
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

fn external(g: &Guest) {
    if start(
        g,
        "mer",
        program::LOOP,
        &[(id::MSR, WITH_EE), (id::LPCR, MER)],
    ) {
        vector(g, "mer", 0x500, program::LOOP);
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

/// VTB and PURR go on while L2 runs, and not while it does not.
fn counters(g: &Guest) {
    const VTB: u16 = 0x102b;
    const PURR: u16 = 0x1033;
    let elements = [
        (VTB, 1000),
        (PURR, 1000),
        (id::HDEC_EXPIRY, guest::soon(300_000)),
    ];
    let code = g.prepare(0, program::LOOP);
    let set = guest::set_with(0, g.id, 0, |w| {
        for (id, value) in elements {
            w.u64(id, value);
        }
    });
    case("nested-entry/counters-set", code | set.code(), 0);
    case("nested-entry/counters", g.run(), 0x980);
    let (vtb, purr) = (guest::get(g.id, 0, VTB), guest::get(g.id, 0, PURR));
    holds(
        "nested-entry/vtb-counted",
        vtb > 1000 && vtb < 1000 + 512_000_000,
    );
    holds(
        "nested-entry/purr-counted",
        purr > 1000 && purr < 1000 + 512_000_000,
    );
    let start = probe::time_base();
    while probe::time_base().wrapping_sub(start) < 100_000 {}
    case("nested-entry/vtb-stands", guest::get(g.id, 0, VTB), vtb);
    case("nested-entry/purr-stands", guest::get(g.id, 0, PURR), purr);
}

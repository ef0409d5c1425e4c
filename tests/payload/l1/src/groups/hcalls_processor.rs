//! The hypercalls that concern the calling processor: its areas, sleep and waking, modes, process table.
//! The rows are in `hcalls`; this file is its second half.

use papr_services::error::HCode;
use papr_services::table::number as nr;

use super::hcalls::{OUTSIDE, P2, P3, P4, PARAMETER, RESOURCE, WRAPS};
use crate::hcall::hcall;
use crate::mem::layout::{PROCESS_TABLE, VPA};
use crate::report::{case, holds, one_of};
use crate::start::Machine;
use crate::{mem, probe};

pub(super) fn vpa(machine: &Machine) {
    let me = machine.server;
    let register = |kind: u64, proc, at| hcall(nr::H_REGISTER_VPA, [kind << 45, proc, at]).code();
    mem::fill(VPA, 0x2000, 0);
    let area = |size: u16| mem::write16(VPA + 4, size.to_be());
    let shadow = VPA + 0x1000;
    mem::write32(shadow + 4, 0x400u32.to_be());
    area(0x400);
    case(
        "hcall/H_REGISTER_VPA-dtl-first",
        register(2, me, shadow),
        RESOURCE,
    );
    case(
        "hcall/H_REGISTER_VPA-slb-first",
        register(3, me, shadow),
        RESOURCE,
    );
    for (name, kind, proc, at) in [
        ("kind-0", 0, me, VPA),
        ("kind-4", 4, me, VPA),
        ("processor", 1, 0x7fff, VPA),
        ("null", 1, me, 0),
        ("misaligned", 1, me, VPA + 64),
        ("crosses-4k", 1, me, VPA + 0xf80),
        ("outside", 1, me, OUTSIDE),
        ("wraps", 1, me, WRAPS),
    ] {
        mem::write16(VPA + 0xf84, 0x400u16.to_be());
        case(
            format_args!("hcall/H_REGISTER_VPA-{name}"),
            register(kind, proc, at),
            PARAMETER,
        );
    }
    area(632);
    case(
        "hcall/H_REGISTER_VPA-short",
        register(1, me, VPA),
        PARAMETER,
    );
    area(0x400);
    case("hcall/H_REGISTER_VPA", register(1, me, VPA), 0);
    case(
        "hcall/H_REGISTER_VPA-shared-bit",
        u64::from(mem::read8(VPA + 9) & 2),
        0,
    );
    case("hcall/H_REGISTER_VPA-again", register(1, me, VPA), 0);
    case("hcall/H_REGISTER_VPA-slb", register(3, me, shadow), 0);
    case(
        "hcall/H_REGISTER_VPA-off-in-use",
        register(5, me, 0),
        RESOURCE,
    );
    case("hcall/H_REGISTER_VPA-slb-off", register(7, me, 0), 0);
    mem::write32(shadow + 4, 40u32.to_be());
    case(
        "hcall/H_REGISTER_VPA-dtl-short",
        register(2, me, shadow),
        PARAMETER,
    );
    mem::write32(shadow + 4, 0x1000u32.to_be());
    case("hcall/H_REGISTER_VPA-dtl", register(2, me, shadow), 0);
    case("hcall/H_REGISTER_VPA-dtl-off", register(6, me, 0), 0);
    case("hcall/H_REGISTER_VPA-off", register(5, me, 0), 0);
    case("hcall/H_REGISTER_VPA-off-again", register(5, me, 0), 0);
    case(
        "hcall/H_REGISTER_VPA-flag-bits",
        hcall(nr::H_REGISTER_VPA, [1 << 45 | 1, me, VPA]).code(),
        PARAMETER,
    );
}

/// What the firmware writes into the areas when the processor is given up: yield count and dispatch trace log.
pub(super) fn areas(machine: &Machine) {
    const ENTRY: u64 = 48;
    let me = machine.server;
    let log = VPA + 0x1000;
    let register = |kind: u64, at| hcall(nr::H_REGISTER_VPA, [kind << 45, me, at]).code();
    mem::fill(VPA, 0x2000, 0);
    mem::write16(VPA + 4, 0x400u16.to_be());
    mem::write32(log + 4, (4 * ENTRY as u32).to_be());
    // What an earlier owner of the memory left does not count.
    mem::write32(VPA + 0x100, 7u32.to_be());
    mem::write64(VPA + 0x218, 0x77);
    case("hcall/areas-vpa", register(1, VPA), 0);
    case("hcall/areas-log", register(2, log), 0);
    // Voluntary waits are logged.
    mem::write8(VPA + 0xb8, 1);
    let yields = || u64::from(u32::from_be(mem::read32(VPA + 0x100)));
    let index = || u64::from_be(mem::read64(VPA + 0x218));
    case("hcall/areas-yields-even", yields() % 2, 0);
    case("hcall/areas-log-index-0", index(), 0);
    let sleep = || {
        probe::set_decrementer(100_000);
        let code = hcall(nr::H_CEDE, []).code();
        probe::set_decrementer(probe::FAR);
        probe::set_msr(probe::MSR);
        code
    };
    for n in 1..=6u64 {
        let (before, start) = (yields(), probe::time_base());
        case(format_args!("hcall/areas-cede-{n}"), sleep(), 0);
        let after = yields();
        holds(
            format_args!("hcall/areas-yields-{n}"),
            after > before && after % 2 == 0,
        );
        case(format_args!("hcall/areas-log-index-{n}"), index(), n);
        // A ring of four.
        let entry = log + (n - 1) % 4 * ENTRY;
        let time = u64::from_be(mem::read64(entry + 0x10));
        let now = probe::time_base();
        holds(
            format_args!("hcall/areas-log-time-{n}"),
            (start..=now).contains(&time),
        );
    }
    let behind = (0..8).map(|n| mem::read64(log + 4 * ENTRY + 8 * n)).sum();
    case("hcall/areas-log-stays-inside", behind, 0u64);
    mem::write8(VPA + 0xb8, 0);
    case("hcall/areas-cede-unlogged", sleep(), 0);
    case("hcall/areas-not-logged", index(), 6);
    case("hcall/areas-log-off", register(6, 0), 0);
    mem::fill(log, 0x100, 0);
    mem::write8(VPA + 0xb8, 1);
    case("hcall/areas-cede-without-log", sleep(), 0);
    let written = (0..32).map(|n| mem::read64(log + 8 * n)).sum();
    case("hcall/areas-log-let-go", written, 0u64);
    case("hcall/areas-vpa-off", register(5, 0), 0);
    let last = yields();
    case("hcall/areas-cede-without-vpa", sleep(), 0);
    case("hcall/areas-vpa-let-go", yields(), last);
}

pub(super) fn cede(_: &Machine) {
    probe::set_decrementer(2_000_000);
    let (start, before) = (probe::time_base(), probe::interrupts());
    case("hcall/H_CEDE", hcall(nr::H_CEDE, []).code(), 0);
    let slept = probe::time_base().wrapping_sub(start);
    let woken = probe::interrupts() > before && probe::last().vector == 0x900;
    holds(
        "hcall/H_CEDE-until-the-decrementer",
        woken && slept < 512_000_000,
    );
    probe::set_decrementer(probe::FAR);
    probe::set_msr(probe::MSR);
}

pub(super) fn confer(_: &Machine) {
    case(
        "hcall/H_CONFER-all",
        hcall(nr::H_CONFER, [u64::MAX, 0]).code(),
        0,
    );
    case(
        "hcall/H_CONFER-unknown",
        hcall(nr::H_CONFER, [0x7fff, 0]).code(),
        PARAMETER,
    );
}

pub(super) fn prod(machine: &Machine) {
    case(
        "hcall/H_PROD-unknown",
        hcall(nr::H_PROD, [0x7fff]).code(),
        PARAMETER,
    );
    case(
        "hcall/H_PROD-self",
        hcall(nr::H_PROD, [machine.server]).code(),
        0,
    );
    // Bounded by the decrementer, in case the flag was lost.
    probe::set_decrementer(1_000_000_000);
    let (start, before) = (probe::time_base(), probe::interrupts());
    case("hcall/H_PROD-then-H_CEDE", hcall(nr::H_CEDE, []).code(), 0);
    let slept = probe::time_base().wrapping_sub(start);
    holds(
        "hcall/H_PROD-wakes-at-once",
        slept < 500_000_000 && probe::interrupts() == before,
    );
    probe::set_decrementer(probe::FAR);
    probe::set_msr(probe::MSR);
}

pub(super) fn characteristics(_: &Machine) {
    let ret = hcall(nr::H_GET_CPU_CHARACTERISTICS, []);
    case("hcall/H_GET_CPU_CHARACTERISTICS", ret.code(), 0);
    // Bits 0..11 are defined; an L0 address or a leftover would show above or below.
    let undefined = ret.r(4) & 0x000f_ffff_ffff_ffff | ret.r(5) & 0x000f_ffff_ffff_ffff;
    case("hcall/H_GET_CPU_CHARACTERISTICS-bits", undefined, 0);
}

pub(super) fn poll_pending(_: &Machine) {
    one_of(
        "hcall/H_POLL_PENDING",
        hcall(nr::H_POLL_PENDING, []).code(),
        &[0, 17],
    );
}

pub(super) fn random(_: &Machine) {
    let (a, b) = (hcall(nr::H_RANDOM, []), hcall(nr::H_RANDOM, []));
    case("hcall/H_RANDOM", a.code() | b.code(), 0);
    holds("hcall/H_RANDOM-differs", a.r(4) != b.r(4));
}

pub(super) fn set_mode(_: &Machine) {
    let mode = |flags, resource, v1, v2| hcall(nr::H_SET_MODE, [flags, resource, v1, v2]).code();
    for (name, flags, resource, v1, v2, want) in [
        ("ciabr-off", 0, 1, 0, 0, 0),
        (
            "ciabr-flags",
            1,
            1,
            0,
            0,
            HCode::H_UNSUPPORTED_FLAG(63).code(),
        ),
        ("ciabr-value2", 0, 1, 0, 1, P4),
        ("ciabr-hypervisor", 0, 1, 0x1003, 0, P3),
        ("dawr0-off", 0, 2, 0, 0xfc00, 0),
        ("dawr0-hypervisor", 0, 2, 0, 4, P4),
        (
            "dawr0-flags",
            1,
            2,
            0,
            0,
            HCode::H_UNSUPPORTED_FLAG(63).code(),
        ),
        ("dawr1-off", 0, 5, 0, 0xfc00, 0),
        ("dawr1-hypervisor", 0, 5, 0, 4, P4),
        ("ail-1", 1, 3, 0, 0, HCode::H_UNSUPPORTED_FLAG(63).code()),
        ("ail-2", 2, 3, 0, 0, HCode::H_UNSUPPORTED_FLAG(62).code()),
        ("ail-value1", 0, 3, 1, 0, P3),
        ("ail-value2", 0, 3, 0, 1, P4),
        ("ail-3", 3, 3, 0, 0, 0),
        ("ail-0", 0, 3, 0, 0, 0),
        ("le-2", 2, 4, 0, 0, HCode::H_UNSUPPORTED_FLAG(62).code()),
        ("le-value1", 1, 4, 1, 0, P3),
        ("le-value2", 1, 4, 0, 1, P4),
        ("le", 1, 4, 0, 0, 0),
        ("resource-0", 0, 0, 0, 0, P2),
        ("resource-6", 0, 6, 0, 0, P2),
        ("resource-huge", 0, 1 << 32 | 4, 0, 0, P2),
    ] {
        case(
            format_args!("hcall/H_SET_MODE-{name}"),
            mode(flags, resource, v1, v2),
            want,
        );
    }
}

pub(super) fn proc_table(_: &Machine) {
    let register =
        |flags, base, page, size| hcall(nr::H_REGISTER_PROC_TBL, [flags, base, page, size]).code();
    mem::fill(PROCESS_TABLE, 0x1000, 0);
    for (name, flags, base, page, size, want) in [
        ("flags", 0x3d, PROCESS_TABLE, 0, 0, PARAMETER),
        ("flags-high", 1 << 63 | 0x1d, PROCESS_TABLE, 0, 0, PARAMETER),
        ("misaligned", 0x1d, PROCESS_TABLE + 0x10, 0, 0, P2),
        ("base-high", 0x1d, 1 << 60, 0, 0, P2),
        ("page-size", 0x1d, PROCESS_TABLE, 1, 0, P3),
        ("size", 0x1d, PROCESS_TABLE, 0, 25, P4),
        ("size-huge", 0x1d, PROCESS_TABLE, 0, 1 << 32, P4),
        ("register", 0x1d, PROCESS_TABLE, 0, 0, 0),
        ("deregister", 0x10, 0, 0, 0, 0),
        ("register-again", 0x1d, PROCESS_TABLE, 0, 0, 0),
    ] {
        case(
            format_args!("hcall/H_REGISTER_PROC_TBL-{name}"),
            register(flags, base, page, size),
            want,
        );
    }
}

pub(super) fn sys_reset(machine: &Machine) {
    let signal = |target| hcall(nr::H_SIGNAL_SYS_RESET, [target]).code();
    case(
        "hcall/H_SIGNAL_SYS_RESET-unknown",
        signal(0x7fff),
        PARAMETER,
    );
    case(
        "hcall/H_SIGNAL_SYS_RESET-minus-3",
        signal((-3i64).cast_unsigned()),
        PARAMETER,
    );
    case(
        "hcall/H_SIGNAL_SYS_RESET-others",
        signal((-2i64).cast_unsigned()),
        0,
    );
    for (name, target) in [("self", machine.server), ("all", u64::MAX)] {
        let trap = probe::call_expecting_interrupt(nr::H_SIGNAL_SYS_RESET, target);
        case(
            format_args!("hcall/H_SIGNAL_SYS_RESET-{name}"),
            trap.map_or(0, |t| t.vector),
            0x100,
        );
    }
}

//! What a call leaves alone: registers, machine state, the byte order of its caller.

use isa::msr::Msr;
use opal_calls::calls::token as t;

use crate::call::{REGISTERS, code, mark, registers, with_msr};
use crate::mem::layout::{BUFFER, SCRATCH};
use crate::mem::{self, read64, write64};
use crate::report::{case, holds, skip};
use crate::start::Machine;

/// What stands where in the area of `asm/registers.S`.
const GPRS: core::ops::RangeInclusive<u64> = 13..=30;
const SPRS: u64 = 0x100;
const SPR_COUNT: u64 = 35;
/// HSPRG0, HSPRG1 and the like have numbers of their own in that file; these are for a reader.
const SPR_NAMES: [&str; SPR_COUNT as usize] = [
    "TAR", "DSCR", "SPRG0", "SPRG1", "SPRG2", "SPRG3", "HSPRG1", "VRSAVE", "DAR", "DSISR", "AMR",
    "EBBHR", "EBBRR", "PMC1", "PMC2", "HSPRG0", "LPCR", "HFSCR", "FSCR", "LPIDR", "PIDR", "PTCR",
    "PSSCR", "HRMOR", "HMEER", "PCR", "HID0", "AMOR", "IAMR", "UAMOR", "MMCR0", "CIABR", "DAWR0",
    "DAWRX0", "PPR",
];
const CR: u64 = 0x2f8;
const VSRS: u64 = 0x300;
/// CR2 to CR4.
const CR_KEPT: u64 = 0x00ff_f000;

pub(super) fn run(machine: &Machine) {
    mem::write_be64(SCRATCH, 64);
    let calls = [
        ("test", t::OPAL_TEST, [0; 8], 0xfeed_f00d),
        ("check-token", t::OPAL_CHECK_TOKEN, [0; 8], 1),
        (
            "poll-events",
            t::OPAL_POLL_EVENTS,
            [SCRATCH, 0, 0, 0, 0, 0, 0, 0],
            0,
        ),
        ("unknown", 181, [u64::MAX; 8], code::PARAMETER),
        (
            "console-space",
            t::OPAL_CONSOLE_WRITE_BUFFER_SPACE,
            [0, SCRATCH, 0, 0, 0, 0, 0, 0],
            0,
        ),
        ("xive-sync", t::OPAL_XIVE_SYNC, [0; 8], 0),
        (
            "xscom-read",
            t::OPAL_XSCOM_READ,
            [0, 0xf000f, SCRATCH, 0, 0, 0, 0, 0],
            0,
        ),
    ];
    for (name, token, args, want) in calls {
        fill(token);
        let got = registers(token, &args, BUFFER);
        case(format_args!("abi/{name}"), got, want);
        kept(name);
    }
    let call = |set, clear| {
        mark(t::OPAL_TEST);
        with_msr(t::OPAL_TEST, [0; 8], set, clear)
    };
    if machine.on_skiboot {
        skip(
            "abi/little-endian-caller",
            "skiboot is entered big-endian only",
        );
    } else {
        let got = call(Msr::empty(), Msr::empty());
        case("abi/little-endian-caller", got, 0xfeed_f00d);
    }
    case(
        "abi/without-machine-checks",
        call(Msr::empty(), Msr::LE | Msr::ME),
        0xfeed_f00d,
    );
    case(
        "abi/without-recovery",
        call(Msr::empty(), Msr::LE | Msr::RI),
        0xfeed_f00d,
    );
}

/// Numbers that differ from each other and from call to call.
fn pattern(seed: u64, n: u64) -> u64 {
    (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(0x0101_0305_0709_0b0d)
}

fn fill(seed: u64) {
    for at in (0..REGISTERS).step_by(8) {
        write64(BUFFER + at, pattern(seed, at));
    }
    // PMCs would count on.
    write64(BUFFER + CR, pattern(seed, CR) & 0xffff_ffff);
}

fn kept(name: &str) {
    let same = |at: u64| read64(BUFFER + at) == read64(BUFFER + REGISTERS + at);
    holds(
        format_args!("abi/{name}-keeps-gprs"),
        GPRS.map(|n| 8 * n).all(same),
    );
    let cr = |base: u64| read64(BUFFER + base + CR) & CR_KEPT;
    holds(format_args!("abi/{name}-keeps-cr"), cr(0) == cr(REGISTERS));
    let vsrs = (VSRS..VSRS + 1024).step_by(8).all(same);
    holds(format_args!("abi/{name}-keeps-vsrs"), vsrs);
    let changed = (0..SPR_COUNT).find(|n| !same(SPRS + 8 * n));
    match changed.and_then(|n| SPR_NAMES.get(n as usize)) {
        None => holds(format_args!("abi/{name}-keeps-sprs"), true),
        Some(spr) => holds(format_args!("abi/{name}-keeps-sprs-but-{spr}"), false),
    };
}

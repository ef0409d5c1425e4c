//! Interrupts of L1: external ones through the XICS calls (those of exploitation mode are in `xive`), the decrementer, `sc 1` from problem state.

use papr_services::table::number as nr;

use crate::hcall::hcall;
use crate::mem::layout::{PROCESS_DIRECTORY, PROCESS_ROOT, PROCESS_TABLE};
use crate::report::{case, holds};
use crate::start::Machine;
use crate::{guest, probe, radix};

/// Ticks in which an interrupt that is due comes: 0.5 s. A thread of the emulator may have to wait for a processor that long;
/// the firmware's own look at what is due comes later, after a second.
const SOON: u64 = 256_000_000;

pub(super) fn run(machine: &Machine) {
    probe::set_decrementer(probe::FAR);
    let has_xics = machine.controller.is_none();
    if has_xics {
        inter_processor(machine);
        priorities(machine);
    }
    decrementer();
    cede();
    if has_xics {
        cede_pending(machine);
    }
    problem_state();
}

/// Vector of the next interrupt, 0 when none comes.
fn next(ticks: u64) -> u64 {
    probe::wait_interrupt(ticks).map_or(0, |t| t.vector)
}

fn inter_processor(machine: &Machine) {
    let me = machine.server;
    hcall(nr::H_CPPR, [255]);
    case("interrupts/none", next(10_000), 0);
    case("interrupts/H_IPI-self", hcall(nr::H_IPI, [me, 4]).code(), 0);
    case(
        "interrupts/pending",
        hcall(nr::H_POLL_PENDING, []).code(),
        17,
    );
    let poll = hcall(nr::H_IPOLL, [me]);
    case("interrupts/H_IPOLL", poll.r(4) & 0xffff_ffff, 0xff00_0002);
    case("interrupts/H_IPOLL-mfrr", poll.r(5), 4);
    case("interrupts/external", next(SOON), 0x500);
    case("interrupts/external-again", next(SOON), 0x500);
    let xirr = hcall(nr::H_XIRR, []).r(4);
    case("interrupts/H_XIRR", xirr & 0xffff_ffff, 0xff00_0002);
    case("interrupts/accepted", next(10_000), 0);
    case(
        "interrupts/mfrr-off",
        hcall(nr::H_IPI, [me, 0xff]).code(),
        0,
    );
    case("interrupts/H_EOI", hcall(nr::H_EOI, [xirr]).code(), 0);
    case("interrupts/gone", next(10_000), 0);
    // Ended without taking the request away: it comes again.
    hcall(nr::H_IPI, [me, 3]);
    let xirr = hcall(nr::H_XIRR_X, [255]);
    case("interrupts/H_XIRR_X", xirr.r(4) & 0xff_ffff, 2);
    let age = probe::time_base().wrapping_sub(xirr.r(5));
    holds("interrupts/H_XIRR_X-time", age < SOON);
    hcall(nr::H_EOI, [xirr.r(4)]);
    case("interrupts/level", next(SOON), 0x500);
    hcall(nr::H_IPI, [me, 0xff]);
    case("interrupts/taken-away", next(10_000), 0);
}

fn priorities(machine: &Machine) {
    let me = machine.server;
    hcall(nr::H_CPPR, [4]);
    hcall(nr::H_IPI, [me, 4]);
    case("interrupts/same-priority-waits", next(10_000), 0);
    case(
        "interrupts/spurious",
        hcall(nr::H_XIRR, []).r(4) & 0xff_ffff,
        0,
    );
    hcall(nr::H_CPPR, [5]);
    case("interrupts/higher-priority-comes", next(SOON), 0x500);
    hcall(nr::H_CPPR, [0]);
    case("interrupts/masked", next(10_000), 0);
    hcall(nr::H_IPI, [me, 0xff]);
    hcall(nr::H_CPPR, [255]);
    case("interrupts/withdrawn", next(10_000), 0);
}

fn decrementer() {
    let start = probe::time_base();
    probe::set_decrementer(20_000);
    let came = next(SOON);
    let took = probe::time_base().wrapping_sub(start);
    case("interrupts/decrementer", came, 0x900);
    holds(
        "interrupts/decrementer-in-time",
        (20_000..SOON).contains(&took),
    );
    // Due with interrupts off: it waits.
    probe::set_decrementer(10);
    let before = probe::interrupts();
    let start = probe::time_base();
    while probe::time_base().wrapping_sub(start) < 10_000 {}
    hcall(nr::H_POLL_PENDING, []);
    case("interrupts/decrementer-waits", probe::interrupts(), before);
    case("interrupts/decrementer-after-hcall", next(SOON), 0x900);
    // Large decrementer: more than 32 bits hold.
    probe::set_decrementer(1 << 40);
    let left = probe::decrementer();
    holds(
        "interrupts/decrementer-56-bits",
        left > 1 << 39 && left <= 1 << 40,
    );
    probe::set_decrementer(probe::FAR);
}

fn cede() {
    // Asleep until the decrementer, delivered when the call returns with EE on.
    let before = probe::interrupts();
    let start = probe::time_base();
    probe::set_decrementer(500_000);
    case("interrupts/H_CEDE", hcall(nr::H_CEDE, []).code(), 0);
    holds(
        "interrupts/H_CEDE-slept",
        probe::time_base().wrapping_sub(start) >= 400_000,
    );
    holds(
        "interrupts/H_CEDE-woke-by-decrementer",
        probe::interrupts() > before && probe::last().vector == 0x900,
    );
    probe::set_msr(probe::MSR);
    probe::set_decrementer(probe::FAR);
}

/// An interrupt that already waits.
fn cede_pending(machine: &Machine) {
    let me = machine.server;
    hcall(nr::H_CPPR, [255]);
    hcall(nr::H_IPI, [me, 4]);
    let before = probe::interrupts();
    probe::set_decrementer(guest::BOUND);
    case("interrupts/H_CEDE-pending", hcall(nr::H_CEDE, []).code(), 0);
    // It has not slept until the decrementer, which is then negative.
    let left = probe::decrementer().cast_signed();
    holds("interrupts/H_CEDE-at-once", left > 0);
    holds(
        "interrupts/H_CEDE-external",
        probe::interrupts() > before && probe::last().vector == 0x500,
    );
    probe::set_msr(probe::MSR);
    hcall(nr::H_IPI, [me, 0xff]);
    hcall(nr::H_CPPR, [0]);
    probe::set_decrementer(probe::FAR);
}

fn problem_state() {
    // Problem state is always translated.
    radix::identity_process(0, PROCESS_TABLE, PROCESS_ROOT, PROCESS_DIRECTORY);
    let register = hcall(nr::H_REGISTER_PROC_TBL, [0x1d, PROCESS_TABLE, 0, 0]).code();
    case("interrupts/process-table", register, 0);
    hcall(nr::H_RPT_INVALIDATE, [0, 1, 14, u64::MAX, 0, u64::MAX]);
    let trap = probe::sc1_in_problem_state();
    case(
        "interrupts/sc1-problem-state",
        trap.map_or(0, |t| t.vector),
        0x700,
    );
    if let Some(trap) = trap {
        case(
            "interrupts/sc1-problem-state-privileged",
            trap.srr1 & 0xf_0000,
            0x4_0000,
        );
        case(
            "interrupts/sc1-problem-state-PR",
            trap.srr1 & 0x4000,
            0x4000,
        );
        let word = probe::load(trap.srr0).unwrap_or(0) & 0xffff_ffff;
        case("interrupts/sc1-problem-state-SRR0", word, 0x4400_0022);
    }
    let trap = probe::sc0();
    case("interrupts/sc0", trap.map_or(0, |t| t.vector), 0xc00);
}

//! XIVE exploitation mode: the H_INT_* calls with good and bad arguments, interrupts that come and go by loads and
//! stores alone, what H_CEDE and a nested guest make of them, and the count of exits that all that costs.

use papr_services::table::number as nr;

use super::hcalls::FUNCTION;
use super::nested_args::{guest_or_fail, setup};
use super::{xive_arguments, xive_console, xive_threads};
use crate::elements::id;
use crate::exploitation::{self, Controller, PRIORITY, QUEUE, Source, esb, route};
use crate::guest::{self, program};
use crate::hcall::hcall;
use crate::mem::layout::BUFFER;
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::{mem, probe};

/// Ticks that are long for an interrupt that is due: 0.1 s.
const SOON: u64 = 51_200_000;
/// Ticks that are enough to see that none comes.
const NONE: u64 = 10_000;
/// Data for the queue.
const EISN: u64 = 0x1234_5678;
/// The generation of a queue's first round.
const FIRST: u64 = 0x8000_0000;

pub(super) fn run(machine: &Machine) {
    let Some(controller) = machine.controller else {
        if holds("xive/offered", machine.wants_xics) {
            absent();
        }
        return;
    };
    let me = machine.server;
    probe::set_decrementer(probe::FAR);
    case("xive/reset", hcall(nr::H_INT_RESET, [0]).code(), 0);
    xive_arguments::run(machine, &controller);
    let [first, count] = controller.lisns;
    holds("xive/lisns", count >= 4);
    let [Some(source), Some(last)] = [first, first + count - 1].map(Source::new) else {
        holds("xive/source", false);
        return;
    };
    case("xive/off-at-first", source.load(esb::GET), 0b01);
    case("xive/last-off-at-first", last.load(esb::GET), 0b01);
    if !holds("xive/route", route(me, QUEUE, &source, EISN)) {
        return;
    }
    let page = hcall(nr::H_INT_GET_QUEUE_INFO, [0, me, PRIORITY]).r(4);
    // Each event notifies: the buffer of notifications is off.
    let state = probe::load(page + esb::GET).map_or(u64::MAX, u64::swap_bytes);
    case("xive/queue-page", state, 0b01);
    comes_and_goes(machine, &controller, &source);
    priorities(&controller, &source);
    second_event(&controller, &source);
    queue_wraps(&controller, me, &source);
    reports(&controller, me, &source);
    sleep(&controller, &source);
    nested(&controller, &source);
    no_exits(machine, &controller, &source);
    xive_threads::run(machine, &controller);
    xive_console::run(machine, &controller);
    holds("xive/route-for-reset", route(me, QUEUE, &source, EISN));
    reset(&controller, me, &source);
}

/// The other kind of controller: every call says so.
fn absent() {
    for number in (nr::H_INT_GET_SOURCE_INFO..=nr::H_INT_RESET).step_by(4) {
        let code = hcall(number, [0, 0, 0, 0, 0]).code();
        case(format_args!("xive/absent-{number:#x}"), code, FUNCTION);
    }
    skip("xive/all", "the partition has XICS");
}

/// Vector of the next interrupt, 0 when none comes.
fn next(ticks: u64) -> u64 {
    // Not the decrementer's.
    probe::set_decrementer(probe::FAR);
    probe::wait_interrupt(ticks).map_or(0, |t| t.vector)
}

/// One interrupt from trigger to end.
fn comes_and_goes(machine: &Machine, controller: &Controller, source: &Source) {
    let config = hcall(nr::H_INT_GET_SOURCE_CONFIG, [0, source.lisn]);
    let got = [config.r(4), config.r(5), config.r(6)];
    holds("xive/routed", got == [machine.server, PRIORITY, EISN]);
    controller.set_priority(0xff);
    source.trigger();
    case("xive/off-sends-nothing", next(NONE), 0);
    case("xive/turned-on", source.load(esb::SET_00), 0b01);
    case("xive/none", next(NONE), 0);
    source.trigger();
    case("xive/external", next(SOON), 0x500);
    case("xive/external-again", next(SOON), 0x500);
    case("xive/pending", source.load(esb::GET), 0b10);
    case("xive/acknowledge", controller.acknowledge(), 0x8006);
    case("xive/acknowledged", next(NONE), 0);
    case("xive/acknowledge-none", controller.acknowledge(), 0x0006);
    case("xive/entry", exploitation::entry(QUEUE, 0), FIRST | EISN);
    case("xive/entry-next", exploitation::entry(QUEUE, 1), 0);
    case("xive/eoi", source.load(esb::EOI), 0);
    controller.set_priority(0xff);
    case("xive/ended", next(NONE), 0);
    case("xive/ready", source.load(esb::GET), 0b00);
    let queue = hcall(nr::H_INT_GET_QUEUE_CONFIG, [1, machine.server, PRIORITY]);
    let got = [queue.r(4), queue.r(5), queue.r(6), queue.r(7)];
    holds("xive/queue", got == [3, QUEUE, 16, 1]);
    case(
        "xive/sync",
        hcall(nr::H_INT_SYNC, [0, source.lisn]).code(),
        0,
    );
    let by_call = hcall(nr::H_INT_ESB, [0, source.lisn, esb::SET_01, 0]);
    case("xive/esb-call", by_call.r(4), 0b00);
    hcall(nr::H_INT_ESB, [1, source.lisn, esb::SET_00, 0]);
    case("xive/esb-call-store", source.load(esb::GET), 0b00);
}

/// Takes an interrupt that is there, and ends it.
fn take(controller: &Controller, source: &Source) {
    controller.acknowledge();
    source.load(esb::EOI);
    controller.set_priority(0xff);
}

fn priorities(controller: &Controller, source: &Source) {
    controller.set_priority(6);
    source.trigger();
    case("xive/same-priority-waits", next(NONE), 0);
    case(
        "xive/waits-unacknowledged",
        controller.acknowledge(),
        0x0006,
    );
    controller.set_priority(7);
    case("xive/less-favoured-takes-it", next(SOON), 0x500);
    controller.set_priority(0);
    case("xive/closed", next(NONE), 0);
    controller.set_priority(0xff);
    case("xive/open", next(SOON), 0x500);
    take(controller, source);
}

/// What comes before the end comes again behind it; and an end by a store.
fn second_event(controller: &Controller, source: &Source) {
    source.trigger();
    source.trigger();
    case("xive/queued", source.load(esb::GET), 0b11);
    case("xive/first-of-two", next(SOON), 0x500);
    controller.acknowledge();
    controller.set_priority(0xff);
    case("xive/one-at-a-time", next(NONE), 0);
    source.store(esb::STORE_EOI);
    case("xive/second-of-two", next(SOON), 0x500);
    take(controller, source);
    case("xive/two-ended", source.load(esb::GET), 0b00);
}

/// The queue's generation changes when it begins anew.
fn queue_wraps(controller: &Controller, me: u64, source: &Source) {
    let entries = 1024;
    let set = hcall(nr::H_INT_SET_QUEUE_CONFIG, [1, me, PRIORITY, QUEUE, 12]);
    case("xive/small-queue", set.code(), 0);
    mem::fill(QUEUE, 4096, 0);
    for _ in 0..entries + 3 {
        source.trigger();
        source.load(esb::EOI);
    }
    case("xive/wrapped", exploitation::entry(QUEUE, 2), EISN);
    case(
        "xive/not-wrapped",
        exploitation::entry(QUEUE, 3),
        FIRST | EISN,
    );
    let queue = hcall(nr::H_INT_GET_QUEUE_CONFIG, [1, me, PRIORITY]);
    case("xive/wrapped-generation", queue.r(4), 1);
    case("xive/wrapped-position", queue.r(7), 3);
    case(
        "xive/behind-the-queue",
        exploitation::entry(QUEUE, entries),
        0,
    );
    take(controller, source);
    holds("xive/route-again", route(me, QUEUE, source, EISN));
}

/// An acknowledgement that reports to memory.
fn reports(controller: &Controller, me: u64, source: &Source) {
    mem::fill(BUFFER, 512, 0);
    let where_to = |me| hcall(nr::H_INT_GET_OS_REPORTING_LINE, [0, me]).r(4);
    case("xive/no-report", where_to(me), u64::MAX);
    // Without lines of its own, what it reports must reach no memory of anybody: the firmware lives on.
    source.trigger();
    let _ = probe::store8_outside(controller.os + 0xc10, 0);
    take(controller, source);
    let set = hcall(nr::H_INT_SET_OS_REPORTING_LINE, [0, BUFFER]);
    case("xive/set-report", set.code(), 0);
    case("xive/reports-to", where_to(me), BUFFER);
    source.trigger();
    let _ = probe::store8_outside(controller.os + 0xc10, 0);
    case(
        "xive/reported",
        u64::from(u16::from_be(mem::read16(BUFFER))),
        0x8006,
    );
    case("xive/reported-inside", mem::read64(BUFFER + 256), 0);
    take(controller, source);
    let set = hcall(nr::H_INT_SET_OS_REPORTING_LINE, [0, u64::MAX]);
    case("xive/unset-report", set.code(), 0);
    case("xive/unset", where_to(me), u64::MAX);
}

/// H_CEDE with an interrupt that is there, and one that is held back.
fn sleep(controller: &Controller, source: &Source) {
    source.trigger();
    case(
        "xive/H_POLL_PENDING",
        hcall(nr::H_POLL_PENDING, []).code(),
        17,
    );
    let before = probe::interrupts();
    probe::set_decrementer(guest::BOUND);
    case("xive/H_CEDE-pending", hcall(nr::H_CEDE, []).code(), 0);
    // It has not slept until the decrementer, which is then negative.
    let left = probe::decrementer().cast_signed();
    holds("xive/H_CEDE-at-once", left > 0);
    holds(
        "xive/H_CEDE-external",
        probe::interrupts() > before && probe::last().vector == 0x500,
    );
    probe::set_msr(probe::MSR);
    take(controller, source);
    // Held back, it does not end the wait.
    controller.set_priority(6);
    source.trigger();
    case(
        "xive/H_POLL_PENDING-held",
        hcall(nr::H_POLL_PENDING, []).code(),
        0,
    );
    // The clock first: nothing makes the wait look shorter.
    let start = probe::time_base();
    probe::set_decrementer(500_000);
    case("xive/H_CEDE-held", hcall(nr::H_CEDE, []).code(), 0);
    let slept = probe::time_base().wrapping_sub(start);
    holds("xive/H_CEDE-slept", slept >= 400_000);
    case("xive/H_CEDE-decrementer", probe::last().vector, 0x900);
    probe::set_msr(probe::MSR);
    probe::set_decrementer(probe::FAR);
    controller.set_priority(0xff);
    case("xive/H_CEDE-came-later", next(SOON), 0x500);
    take(controller, source);
}

/// An interrupt of the partition ends its nested guest's run, and is still there.
fn nested(controller: &Controller, source: &Source) {
    if !setup() {
        return;
    }
    let Some(g) = guest_or_fail("xive") else {
        return;
    };
    case("xive/nested", g.start(program::SC, &[]), 0xc00);
    source.trigger();
    let before = probe::interrupts();
    case("xive/nested-pending", g.start(program::SC, &[]), 0);
    case("xive/nested-not-entered", g.element(id::NIA), program::SC);
    case("xive/nested-not-delivered", probe::interrupts(), before);
    case("xive/nested-delivered-later", next(SOON), 0x500);
    take(controller, source);
    // Held back: no reason to leave.
    controller.set_priority(0);
    source.trigger();
    case("xive/nested-held", g.start(program::SC, &[]), 0xc00);
    controller.set_priority(0xff);
    case("xive/nested-held-comes", next(SOON), 0x500);
    take(controller, source);
    case("xive/nested-end", g.end(), 0);
}

/// A hundred interrupts to this thread cost no exit but those of the firmware's own clock.
fn no_exits(machine: &Machine, controller: &Controller, source: &Source) {
    let Some(exits) = machine.exits else {
        holds("xive/exit-counters", false);
        return;
    };
    let me = machine.server;
    let start = exits.read(me);
    hcall(nr::H_POLL_PENDING, []);
    hcall(nr::H_POLL_PENDING, []);
    let before = exits.read(me);
    let mut came = 0;
    for _ in 0..100 {
        source.trigger();
        came += u64::from(probe::wait_interrupt(SOON).is_some());
        take(controller, source);
    }
    let after = exits.read(me);
    case("xive/hundred", came, 100);
    for (n, name) in exits.names().enumerate() {
        match name {
            "hypercall" => case("xive/exits-count", before[n] - start[n], 2),
            // The firmware looks after each thread now and then.
            "timer" => continue,
            _ => true,
        };
        case(format_args!("xive/no-exit-{name}"), after[n] - before[n], 0);
    }
    // For reading only.
    let trap = probe::store_outside(exits.page(), 0).err();
    case(
        "xive/counters-read-only",
        trap.map_or(0, |t| t.vector),
        0x200,
    );
}

/// H_INT_RESET takes everything back.
fn reset(controller: &Controller, me: u64, source: &Source) {
    hcall(nr::H_INT_SET_OS_REPORTING_LINE, [0, BUFFER]);
    case("xive/reset-all", hcall(nr::H_INT_RESET, [0]).code(), 0);
    case("xive/reset-off", source.load(esb::GET), 0b01);
    let config = hcall(nr::H_INT_GET_SOURCE_CONFIG, [0, source.lisn]);
    case("xive/reset-masked", config.r(5), 0xff);
    case("xive/reset-eisn", config.r(6), 0);
    let queue = hcall(nr::H_INT_GET_QUEUE_CONFIG, [1, me, PRIORITY]);
    case("xive/reset-queue", queue.r(6), 0);
    let report = hcall(nr::H_INT_GET_OS_REPORTING_LINE, [0, me]).r(4);
    case("xive/reset-report", report, u64::MAX);
    mem::fill(QUEUE, 64, 0);
    source.load(esb::SET_00);
    source.trigger();
    case("xive/reset-routed-nowhere", next(NONE), 0);
    case("xive/reset-queue-still", exploitation::entry(QUEUE, 0), 0);
    source.load(esb::SET_01);
    controller.set_priority(0);
}

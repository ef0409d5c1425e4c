//! The interrupt of a device, the console's, in exploitation mode: it reaches a vCPU without an exit of that vCPU, and the
//! firmware learns of the input by an interrupt of its own, not by looking again and again. A part of the group `xive`.
//!
//! Somebody has to type: whoever says `keyboard` in the arguments types when [`ASK`] comes. The surprising fact: the vCPU that
//! takes the interrupt is not the one whose thread looks after the console, so the firmware's own exit for the UART is seen
//! apart from it.

use core::sync::atomic::{AtomicU64, Ordering};

use papr_services::table::number as nr;

use crate::exploitation::{
    self, Controller, Exits, PRIORITY, QUEUE, QUEUE_BYTES, Source, esb, route,
};
use crate::hcall::hcall;
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::threads::{Crew, wait};
use crate::{probe, say};

/// What is said when somebody shall type; `scripts/src/payload.rs` waits for it.
const ASK: &str = "payload: type something";
/// The vCPU that takes the interrupt; vCPU 0 has the thread that looks after the console.
const OTHER: usize = 1;
/// Data for the queue.
const EISN: u64 = 77;
/// The generation of a queue's first round, and the state of a context with an event.
const FIRST: u64 = 0x8000_0000;
const EVENT: u64 = 0x8000;
/// Ticks of a second.
const SECOND: u64 = 512_000_000;

static AREA: AtomicU64 = AtomicU64::new(0);
static PAGES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// The other thread took the interrupt.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// The other thread looks at its context.
static READY: AtomicU64 = AtomicU64::new(0);

fn get(of: &AtomicU64) -> u64 {
    of.load(Ordering::SeqCst)
}

pub(super) fn run(machine: &Machine, controller: &Controller) {
    let (Some(exits), Some(number)) = (machine.exits, machine.console_source) else {
        holds("xive/console-source", false);
        return;
    };
    if !machine.has_keyboard {
        skip("xive/console", "nobody types, as the arguments have it");
        return;
    }
    let Some(crew) = Crew::start(&machine.rtas) else {
        holds("xive/console-threads-start", false);
        return;
    };
    if crew.size() < 2 {
        skip("xive/console", "the partition has one processor");
    } else if let Some(source) = Source::new(number.into()) {
        interrupt(&exits, controller, &source, &crew);
    } else {
        holds("xive/console-pages", false);
    }
    case("xive/console-dismiss", crew.dismiss(), true);
    case("xive/console-reset", hcall(nr::H_INT_RESET, [0]).code(), 0);
}

fn interrupt(exits: &Exits, controller: &Controller, source: &Source, crew: &Crew) {
    let queue = QUEUE + QUEUE_BYTES;
    let routed = route(OTHER as u64, queue, source, EISN);
    holds("xive/console-routed", routed);
    AREA.store(controller.os, Ordering::SeqCst);
    for (kept, page) in PAGES.iter().zip(source.pages()) {
        kept.store(page, Ordering::SeqCst);
    }
    TAKEN.store(0, Ordering::SeqCst);
    READY.store(0, Ordering::SeqCst);
    source.load(esb::SET_00);
    let start = probe::time_base();
    let before = [0, OTHER].map(|vcpu| exits.read(vcpu as u64));
    let done = crew.together(type_and_take);
    let after = [0, OTHER].map(|vcpu| exits.read(vcpu as u64));
    let seconds = probe::time_base().wrapping_sub(start) / SECOND;
    holds("xive/console-came", done && get(&TAKEN) == 1);
    case(
        "xive/console-entry",
        exploitation::entry(queue, 0),
        FIRST | EISN,
    );
    let typed = hcall(nr::H_GET_TERM_CHAR, [0]);
    holds("xive/console-typed", typed.code() == 0 && typed.r(4) > 0);
    for (n, name) in exits.names().enumerate() {
        let [firmwares, takers] = [0, 1].map(|vcpu| after[vcpu][n] - before[vcpu][n]);
        // A thread is looked after once a second at least, and a busy host may hold up either clock.
        let rarely = |count: u64| count <= 2 * seconds + 2;
        let good = match name {
            "timer" => rarely(firmwares) && rarely(takers),
            // The firmware's own interrupt, of its thread only.
            "virtualization" => firmwares > 0 && takers == 0,
            "hypercall" => takers == 0,
            _ => (firmwares, takers) == (0, 0),
        };
        if !holds(format_args!("xive/console-exits-{name}"), good) {
            say!(
                "xive console: in {seconds} s {firmwares} on the firmware's thread, {takers} on the other"
            );
        }
    }
}

fn type_and_take(number: usize) {
    if number == OTHER {
        let controller = Controller {
            os: get(&AREA),
            lisns: [0, 0],
        };
        controller.set_priority(0xff);
        READY.store(1, Ordering::SeqCst);
        let came = wait(|| controller.acknowledge() == EVENT | PRIORITY);
        Source::at([get(&PAGES[0]), get(&PAGES[1])]).load(esb::EOI);
        controller.set_priority(0);
        TAKEN.store(u64::from(came), Ordering::SeqCst);
    } else if number == 0 {
        wait(|| get(&READY) == 1);
        say!("{ASK}");
        // No call: nothing but an interrupt tells the firmware of the input.
        wait(|| get(&TAKEN) == 1);
    }
}

//! Interrupts between threads in exploitation mode, by loads and stores alone. A part of the group `xive`.
//!
//! The surprising fact: the other thread takes no interrupt (the vectors save to one place), it looks at its context until
//! one is presented. That is the same path but for the last step.

use core::sync::atomic::{AtomicU64, Ordering};

use papr_services::table::number as nr;

use super::nested_args::{guest_or_fail, setup};
use crate::elements::id;
use crate::exploitation::{self, Controller, QUEUE, QUEUE_BYTES, Source, esb, route};
use crate::guest::{self, program};
use crate::hcall::hcall;
use crate::probe;
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::threads::{Crew, wait};

/// Interrupts each way.
const ROUNDS: u64 = 500;
/// The other thread's number among the crew, and its server.
const OTHER: usize = 1;
/// The state of a context with an event, in what an acknowledgement answers.
const EVENT: u64 = 0x8000;
/// The generation of a queue's first round.
const FIRST: u64 = 0x8000_0000;

/// What both threads use, so that neither has to ask: the area's page, and the pages of the sources that go to the other
/// thread and come back.
static AREA: AtomicU64 = AtomicU64::new(0);
static THERE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static BACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Interrupts that came, at the first thread and at the other.
static CAME: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

pub(super) fn run(machine: &Machine, controller: &Controller) {
    let [first, _] = controller.lisns;
    let [Some(there), Some(back)] = [first + 2, first + 3].map(Source::new) else {
        holds("xive/threads-sources", false);
        return;
    };
    let Some(crew) = Crew::start(&machine.rtas) else {
        holds("xive/threads-start", false);
        return;
    };
    if crew.size() < 2 {
        skip("xive/threads", "the partition has one processor");
        return;
    }
    let queue = QUEUE + QUEUE_BYTES;
    holds("xive/threads-there", route(OTHER as u64, queue, &there, 1));
    holds("xive/threads-back", route(machine.server, QUEUE, &back, 2));
    for source in [&there, &back] {
        source.load(esb::SET_00);
    }
    AREA.store(controller.os, Ordering::SeqCst);
    for (kept, source) in [(&THERE, &there), (&BACK, &back)] {
        for (kept, page) in kept.iter().zip(source.pages()) {
            kept.store(page, Ordering::SeqCst);
        }
    }
    case("xive/threads-warm-up", play(&crew, 1), true);
    let vcpus = [machine.server, OTHER as u64];
    let read = || {
        machine
            .exits
            .map(|exits| vcpus.map(|vcpu| exits.read(vcpu)))
    };
    let before = read();
    let played = play(&crew, ROUNDS);
    let after = read();
    case("xive/threads-play", played, true);
    case(
        "xive/threads-entries",
        exploitation::entry(queue, ROUNDS),
        FIRST | 1,
    );
    if let (Some(exits), Some(before), Some(after)) = (machine.exits, before, after) {
        for (thread, (before, after)) in before.iter().zip(&after).enumerate() {
            for (n, name) in exits.names().enumerate() {
                // The firmware looks after its console, and bounds the turns of guests.
                if name != "timer" {
                    let name = format_args!("xive/threads-{thread}-no-exit-{name}");
                    case(name, after[n] - before[n], 0);
                }
            }
        }
    } else {
        holds("xive/threads-exit-counters", false);
    }
    nested(&crew);
    wakes(&crew);
    // A thread that stopped is no target that loses interrupts for ever: started anew it is as at first.
    case("xive/threads-dismiss", crew.dismiss(), true);
    there.trigger();
    let again = Crew::start(&machine.rtas);
    if let Some(crew) = again {
        there.load(esb::EOI);
        case("xive/threads-again", play(&crew, 3), true);
        case("xive/threads-dismiss-again", crew.dismiss(), true);
    } else {
        holds("xive/threads-start-again", false);
    }
    case("xive/threads-reset", hcall(nr::H_INT_RESET, [0]).code(), 0);
}

/// How often the other thread is woken, how soon it should be (0.5 s), and how often it must be that soon. The firmware
/// looks after a sleeping thread each second anyway, which alone would do it in half of the rounds.
const WAKES: u64 = 20;
const PROMPT: u64 = 256_000_000;
const PROMPT_WAKES: u64 = 16;
static TRIGGERED: AtomicU64 = AtomicU64::new(0);
static WOKE: AtomicU64 = AtomicU64::new(0);

/// An interrupt wakes a vCPU from H_CEDE.
fn wakes(crew: &Crew) {
    let mut prompt = 0;
    for _ in 0..WAKES {
        let done = crew.together(sleep_and_wake);
        let [woke, triggered] = [&WOKE, &TRIGGERED].map(|time| time.load(Ordering::SeqCst));
        prompt += u64::from(done && woke > triggered && woke - triggered < PROMPT);
    }
    holds("xive/threads-wakes-from-H_CEDE", prompt >= PROMPT_WAKES);
}

/// The other thread takes an interrupt here, the first one none meanwhile.
fn sleep_and_wake(number: usize) {
    let load = |of: &AtomicU64| of.load(Ordering::SeqCst);
    let [trigger, management] = &THERE;
    let there = Source::at([load(trigger), load(management)]);
    if number == OTHER {
        let controller = Controller {
            os: load(&AREA),
            lisns: [0, 0],
        };
        probe::set_decrementer(probe::FAR);
        controller.set_priority(0xff);
        hcall(nr::H_CEDE, []);
        WOKE.store(probe::time_base(), Ordering::SeqCst);
        probe::set_msr(probe::MSR);
        controller.acknowledge();
        there.load(esb::EOI);
        controller.set_priority(0);
    } else if number == 0 {
        let start = probe::time_base();
        while probe::time_base().wrapping_sub(start) < ALONE {}
        TRIGGERED.store(probe::time_base(), Ordering::SeqCst);
        there.trigger();
    }
}

/// Runs of a nested guest that the other thread's interrupt ends. The guest has interrupts disabled: that does not count.
const RUNS: u64 = 10;
/// Ticks that the guest has alone before: 1 ms.
const ALONE: u64 = 512_000;
static GUEST: AtomicU64 = AtomicU64::new(0);
/// Why the last run ended.
static REASON: AtomicU64 = AtomicU64::new(0);

/// An interrupt of the partition reaches its vCPU while that runs a nested guest.
fn nested(crew: &Crew) {
    if !setup() {
        return;
    }
    let Some(guest) = guest_or_fail("xive") else {
        return;
    };
    GUEST.store(guest.id, Ordering::SeqCst);
    let mut ended = 0;
    for _ in 0..RUNS {
        let deadline = guest::soon(guest::BOUND);
        let ready = guest.prepare(0, program::LOOP) == 0
            && guest::set(guest.id, 0, id::HDEC_EXPIRY, deadline).code() == 0;
        let done = ready && crew.together(interrupt_a_guest);
        ended += u64::from(done && REASON.load(Ordering::SeqCst) == 0);
    }
    case("xive/threads-nested-interrupted", ended, RUNS);
    case("xive/threads-nested-end", guest.end(), 0);
}

fn interrupt_a_guest(number: usize) {
    let load = |of: &AtomicU64| of.load(Ordering::SeqCst);
    let [trigger, management] = &BACK;
    let back = Source::at([load(trigger), load(management)]);
    if number == OTHER {
        let start = probe::time_base();
        while probe::time_base().wrapping_sub(start) < ALONE {}
        back.trigger();
    } else if number == 0 {
        let controller = Controller {
            os: load(&AREA),
            lisns: [0, 0],
        };
        controller.set_priority(0xff);
        let run = hcall(nr::H_GUEST_RUN_VCPU, [0, load(&GUEST), 0]);
        let came = controller.acknowledge() & EVENT != 0;
        let good = run.code() == 0 && came;
        REASON.store(if good { run.r(4) } else { u64::MAX }, Ordering::SeqCst);
        back.load(esb::EOI);
        controller.set_priority(0);
    }
}

/// Sends `rounds` interrupts to the other thread, each of which it answers by one.
fn play(crew: &Crew, rounds: u64) -> bool {
    ROUNDS_LEFT.store(rounds, Ordering::SeqCst);
    for came in &CAME {
        came.store(0, Ordering::SeqCst);
    }
    let finished = crew.together(job);
    finished
        && CAME
            .iter()
            .all(|came| came.load(Ordering::SeqCst) == rounds)
}

static ROUNDS_LEFT: AtomicU64 = AtomicU64::new(0);

fn job(number: usize) {
    if number > OTHER {
        return;
    }
    let load = |of: &AtomicU64| of.load(Ordering::SeqCst);
    let controller = Controller {
        os: load(&AREA),
        lisns: [0, 0],
    };
    controller.set_priority(0xff);
    let [there, back] =
        [&THERE, &BACK].map(|[trigger, management]| Source::at([load(trigger), load(management)]));
    for _ in 0..load(&ROUNDS_LEFT) {
        let (mine, send) = if number == OTHER {
            (there, Some(back))
        } else {
            there.trigger();
            (back, None)
        };
        if !wait(|| controller.acknowledge() & EVENT != 0) {
            return;
        }
        mine.load(esb::EOI);
        controller.set_priority(0xff);
        if let Some(came) = CAME.get(number) {
            came.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(source) = send {
            source.trigger();
        }
    }
    controller.set_priority(0);
}

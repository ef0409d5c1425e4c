//! How soon a thread leaves its guest when the firmware wants it back, whatever the guest's MSR[EE]: the end of a nested
//! guest that loops with interrupts disabled, and an interrupt for a vCPU of the partition that does.
//!
//! The figures are printed, not judged: how long an emulated thread waits for a processor says nothing. What is judged is
//! why the thread left: by an interrupt of the firmware's own, as a rule once for each time that it was wanted, not by a timer.

use core::fmt::Display;
use core::sync::atomic::{AtomicU64, Ordering};

use papr_services::table::number::{H_CPPR, H_GUEST_DELETE, H_IPI};

use super::nested_args::setup;
use crate::elements::id;
use crate::exploitation::Exits;
use crate::guest::{self, Guest, program};
use crate::hcall::hcall;
use crate::low::DUMP;
use crate::mem::layout::L2_MEMORY;
use crate::report::{holds, skip};
use crate::start::Machine;
use crate::threads::{Crew, wait};
use crate::{mem, probe, say};

/// How often each is tried.
const ROUNDS: usize = 100;
/// The thread that is wanted.
const OTHER: usize = 1;
/// The reason of exits that is expected, and the one that is not.
const OWN: &str = "virtualization";
const TIMER: &str = "timer";
/// Where L2 stores what, so that it is known to run.
const SIGN: u64 = DUMP + 0x400;
const ALIVE: u64 = 0x4c4f_4f50;

static GUEST: AtomicU64 = AtomicU64::new(0);
/// When the thread was wanted, and when it came.
static WANTED: AtomicU64 = AtomicU64::new(0);
static CAME: AtomicU64 = AtomicU64::new(0);
/// All went as it should.
static ENOUGH: AtomicU64 = AtomicU64::new(0);

fn get(of: &AtomicU64) -> u64 {
    of.load(Ordering::SeqCst)
}

pub(super) fn run(machine: &Machine) {
    let Some(exits) = machine.exits else {
        holds("kick/exit-counters", false);
        return;
    };
    let Some(crew) = Crew::start(&machine.rtas) else {
        holds("kick/threads-start", false);
        return;
    };
    if crew.size() < 2 {
        skip("kick/threads", "the partition has one thread");
    } else {
        if setup() {
            ends_a_guest(&exits, &crew);
        }
        if machine.controller.is_none() {
            interrupts_a_vcpu(&exits, &crew);
        } else {
            skip(
                "kick/vcpu",
                "its interrupts come without the firmware in exploitation mode",
            );
        }
    }
    holds("kick/threads-stop", crew.dismiss());
}

/// The time from the wish to its effect, of each round.
struct Delays([u64; ROUNDS]);

impl Delays {
    fn say(&mut self, what: impl Display) {
        self.0.sort_unstable();
        let [least, middle, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|n| self.0[n]);
        say!("kick {what}: {ROUNDS} rounds, ticks: least {least}, median {middle}, most {most}");
    }
}

/// Index of a reason among the counters.
fn place(exits: &Exits, reason: &str) -> usize {
    let place = exits.names().position(|name| name == reason);
    place.unwrap_or(Exits::MOST - 1)
}

/// A nested guest is deleted while another thread runs it.
fn ends_a_guest(exits: &Exits, crew: &Crew) {
    let [own, timer] = [OWN, TIMER].map(|reason| place(exits, reason));
    let mut delays = Delays([0; ROUNDS]);
    let before = exits.read_nested(OTHER as u64);
    let mut good = 0;
    for delay in &mut delays.0 {
        let Some(guest) = looping_guest() else { break };
        GUEST.store(guest.id, Ordering::SeqCst);
        let done = crew.together(run_and_delete);
        *delay = get(&CAME).wrapping_sub(get(&WANTED));
        good += u64::from(done && get(&ENOUGH) == 1);
    }
    let after = exits.read_nested(OTHER as u64);
    let [owns, timers] = [own, timer].map(|n| after[n] - before[n]);
    delays.say("of a nested guest with EE=0");
    say!("kick: {owns} exits because the thread was wanted, {timers} by the timer");
    let half = ROUNDS as u64 / 2;
    holds("kick/deleted-guests-left", good == 2 * half);
    // A thread that is in the firmware just then needs no exit.
    holds("kick/left-because-wanted", owns > half);
    holds("kick/not-by-the-timer", timers < half);
}

/// A guest that stores for ever, with interrupts disabled.
fn looping_guest() -> Option<Guest> {
    let guest = Guest::new().ok()?;
    mem::write64(L2_MEMORY + SIGN, 0);
    let ready = guest.prepare(0, program::FLOOD) == 0
        && [(5, SIGN), (7, 0), (8, ALIVE)]
            .into_iter()
            .all(|(gpr, value)| guest::set(guest.id, 0, id::GPR0 + gpr, value).code() == 0);
    ready.then_some(guest)
}

fn run_and_delete(number: usize) {
    if number == OTHER {
        guest::run(get(&GUEST));
        CAME.store(probe::time_base(), Ordering::SeqCst);
    } else if number == 0 {
        // Its store comes late where the thread has to wait for a processor.
        let runs = wait(|| mem::read64(L2_MEMORY + SIGN) == ALIVE);
        WANTED.store(probe::time_base(), Ordering::SeqCst);
        let gone = wait(|| hcall(H_GUEST_DELETE, [0, get(&GUEST)]).code() != 1);
        ENOUGH.store(u64::from(runs && gone), Ordering::SeqCst);
    }
}

/// An interrupt by XICS for a vCPU that has interrupts disabled: the firmware notes that it waits, and the vCPU goes on.
fn interrupts_a_vcpu(exits: &Exits, crew: &Crew) {
    let own = place(exits, OWN);
    let mut delays = Delays([0; ROUNDS]);
    let mut good = 0;
    for delay in &mut delays.0 {
        EXITS.store(exits.read(OTHER as u64)[own], Ordering::SeqCst);
        COUNTERS.store(exits.address(OTHER as u64, own), Ordering::SeqCst);
        let done = crew.together(spin_and_interrupt);
        *delay = get(&CAME).wrapping_sub(get(&WANTED));
        good += u64::from(done && get(&ENOUGH) == 1);
    }
    delays.say("of a vCPU with EE=0");
    holds("kick/vcpu-left-because-wanted", good == ROUNDS as u64);
}

/// What the counter was, and where it is.
static EXITS: AtomicU64 = AtomicU64::new(0);
static COUNTERS: AtomicU64 = AtomicU64::new(0);
/// The other thread spins.
static SPINS: AtomicU64 = AtomicU64::new(0);

fn spin_and_interrupt(number: usize) {
    const PRIORITY: u64 = 4;
    const NOTHING: u64 = 0xff;
    let counts = || probe::load(get(&COUNTERS)).map_or(0, u64::swap_bytes);
    if number == OTHER {
        hcall(H_CPPR, [NOTHING]);
        SPINS.store(1, Ordering::SeqCst);
        wait(|| get(&SPINS) == 0);
    } else if number == 0 {
        let spins = wait(|| get(&SPINS) == 1);
        WANTED.store(probe::time_base(), Ordering::SeqCst);
        hcall(H_IPI, [OTHER as u64, PRIORITY]);
        let left = wait(|| counts() > get(&EXITS));
        CAME.store(probe::time_base(), Ordering::SeqCst);
        hcall(H_IPI, [OTHER as u64, NOTHING]);
        ENOUGH.store(u64::from(spins && left), Ordering::SeqCst);
        SPINS.store(0, Ordering::SeqCst);
    }
}

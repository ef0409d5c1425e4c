//! Races of RUN, CREATE and DELETE, and vCPUs that move between threads or are woken by one.

use core::sync::atomic::{AtomicU64, Ordering};

use isa::msr::Msr;
use papr_services::table::number::{
    H_CPPR, H_EOI, H_GUEST_CREATE_VCPU, H_GUEST_DELETE, H_GUEST_RUN_VCPU, H_IPI, H_XIRR,
};

use super::{BUSY, Caller, IN_USE, NOT_ENOUGH, P2, P3, TALLY, waits};
use crate::elements::id;
use crate::exploitation::{self, Controller, QUEUE, QUEUE_BYTES, Source, esb};
use crate::guest::program;
use crate::hcall::hcall;
use crate::low::DUMP;
use crate::mem::layout::L2_MEMORY;
use crate::report::holds;
use crate::start::Machine;
use crate::{gsb, mem, probe};

/// vCPU ids, sparse on purpose: the lowest, one between, the highest.
const VCPUS: [u64; 3] = [0, 771, 2047];
/// Run because of something else than the guest.
const INTERRUPTED: u64 = 0;
const TIMER: u64 = 0x980;
const HYPERCALL: u64 = 0xc00;

/// Why runs of these programs end.
const REASONS: &[u64] = &[INTERRUPTED, TIMER, HYPERCALL];

/// Deletes a guest that others run: what each call answered, and how long it was until it was gone.
fn delete(guest: u64) -> i64 {
    let start = probe::time_base();
    let code = loop {
        let code = hcall(H_GUEST_DELETE, [0, guest]).code();
        if code != BUSY {
            break code;
        }
        TALLY.count(&TALLY.refused);
    };
    TALLY.took(probe::time_base().wrapping_sub(start));
    code
}

/// The first thread makes guests and deletes them while the others run their vCPUs: two threads run the same one. The
/// others go on until they are told that it is gone.
pub(super) fn run_and_delete(number: usize) {
    let mut me = Caller::new(number);
    if number == 0 {
        for round in TALLY.rounds() {
            let guest = match me.make(&VCPUS) {
                Ok(guest) => guest,
                Err(code) => {
                    TALLY.allow(0x10, code, &[]);
                    break;
                }
            };
            // vCPUs that call all the time, and some that only a kick gets out.
            let is_calling = round % 8 < 7;
            let (nia, msr) = match is_calling {
                true => (program::CALLS, 0),
                false => (program::LOOP, Msr::EE.bits()),
            };
            for vcpu in VCPUS {
                TALLY.allow(0x11, me.prepare(guest, vcpu, nia, msr, &[]), &[0]);
            }
            TALLY.guest.store(guest, Ordering::SeqCst);
            if waits(round) {
                TALLY.meet(guest);
                me.pause(100_000);
            } else if me.below(2) == 0 {
                me.pause(20_000);
            }
            if is_calling && me.below(8) == 0 {
                let ret = hcall(H_GUEST_RUN_VCPU, [0, guest, VCPUS[1]]);
                TALLY.allow(0x16, ret.code(), &[0, IN_USE]);
                TALLY.reason(0x17, ret.code(), ret.r(4), REASONS);
            }
            TALLY.allow(0x12, delete(guest), &[0]);
            // It is gone: an id is not used again so soon.
            TALLY.allow(0x13, me.run(0, guest, 0).0, &[P2]);
            TALLY.count(&TALLY.changes);
        }
        TALLY.over.store(true, Ordering::SeqCst);
        return;
    }
    let vcpu = VCPUS[number % 2];
    let mut gone = 0;
    while !TALLY.is_over() {
        let guest = TALLY.guest.load(Ordering::SeqCst);
        if guest != gone {
            TALLY.met.store(guest, Ordering::SeqCst);
            let (code, reason) = me.run(0, guest, vcpu);
            TALLY.allow(0x14, code, &[0, P2, IN_USE]);
            TALLY.reason(0x15, code, reason, REASONS);
            if code == P2 {
                gone = guest;
            }
        }
    }
}

/// Ids that some thread made lately.
static RECENT: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// All threads make guests and vCPUs, run them, and delete their own and others'.
pub(super) fn create_and_delete(number: usize) {
    let mut me = Caller::new(number);
    let rounds = TALLY.rounds.load(Ordering::SeqCst);
    let mut round = 0;
    while round < rounds && !(number != 0 && TALLY.is_over()) {
        round += 1;
        let place = &RECENT[me.below(8) as usize];
        match me.make(&[]) {
            Ok(guest) => {
                let old = place.swap(guest, Ordering::SeqCst);
                let vcpu = VCPUS[me.below(3) as usize];
                let made = hcall(H_GUEST_CREATE_VCPU, [0, guest, vcpu]).code();
                TALLY.allow(0x20, made, &[0, P2, IN_USE]);
                // A run that is about to be refused has it meanwhile. Unprepared it would end for any reason.
                let prepare = || me.prepare(guest, vcpu, program::CALLS, 0, &[]);
                let prepared = core::iter::repeat_with(prepare).find(|code| *code != IN_USE);
                TALLY.allow(0x21, prepared.unwrap_or(0), &[0, P2, P3]);
                // Only now can it run.
                TALLY.allow(0x22, me.set_buffers(guest, vcpu), &[0, P2, P3, IN_USE]);
                if old != 0 {
                    TALLY.allow(0x23, delete(old), &[0, P2]);
                    TALLY.count(&TALLY.changes);
                }
            }
            // Somebody deleted it before it was complete.
            Err(code) => TALLY.allow(0x24, code, &[P2, NOT_ENOUGH]),
        }
        let guest = RECENT[me.below(8) as usize].load(Ordering::SeqCst);
        let vcpu = VCPUS[me.below(3) as usize];
        let made = hcall(H_GUEST_CREATE_VCPU, [0, guest, vcpu]).code();
        TALLY.allow(0x25, made, &[0, P2, IN_USE]);
        // Not complete, or already deleted, or run by another thread.
        let (code, reason) = me.run(0, guest, vcpu);
        TALLY.allow(0x26, code, &[0, P2, P3, IN_USE, -82, -84, -86]);
        TALLY.reason(0x27, code, reason, REASONS);
        if number == 1 && me.below(64) == 0 {
            let all = hcall(H_GUEST_DELETE, [1 << 63, 0]).code();
            TALLY.allow(0x28, all, &[0, BUSY]);
        }
        if number == 0 {
            TALLY.count(&TALLY.changes);
        }
    }
    if number == 0 {
        TALLY.over.store(true, Ordering::SeqCst);
        // The others may still make one; what they leave goes with the last of them.
    }
    let all = hcall(H_GUEST_DELETE, [1 << 63, 0]).code();
    TALLY.allow(0x29, all, &[0, BUSY]);
    FINISHED.fetch_add(1, Ordering::SeqCst);
    if number == 0 {
        let finished = || FINISHED.load(Ordering::SeqCst) == THREADS.load(Ordering::SeqCst);
        TALLY.must(0x2b, crate::threads::wait(finished));
        let all = hcall(H_GUEST_DELETE, [1 << 63, 0]).code();
        TALLY.allow(0x2a, all, &[0]);
        FINISHED.store(0, Ordering::SeqCst);
        for place in &RECENT {
            place.store(0, Ordering::SeqCst);
        }
    }
}

/// Threads of the race, and those that have finished.
pub(super) static THREADS: AtomicU64 = AtomicU64::new(0);
static FINISHED: AtomicU64 = AtomicU64::new(0);

/// Where L2 counts.
const COUNTER: u64 = DUMP + 0x100;
/// Exits that the threads saw.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// All threads run the same vCPU, which counts in a register and in its memory: no thread sees an old state of it.
pub(super) fn migrate(number: usize) {
    let me = Caller::new(number);
    if number == 0 {
        let made = me.make(&[VCPUS[2]]);
        let guest = made.unwrap_or(0);
        TALLY.allow(0x30, made.err().unwrap_or(0), &[0]);
        mem::write64(L2_MEMORY + COUNTER, 0);
        SEEN.store(0, Ordering::SeqCst);
        let start = [(4, 0), (6, COUNTER)];
        let prepared = me.prepare(guest, VCPUS[2], program::COUNT, 0, &start);
        TALLY.allow(0x31, prepared, &[0]);
        TALLY.guest.store(guest, Ordering::SeqCst);
        for _ in TALLY.rounds() {
            count_on(&me, guest);
            TALLY.count(&TALLY.changes);
        }
        TALLY.over.store(true, Ordering::SeqCst);
        // Who has not seen that yet runs it once more, however late.
        let others = THREADS.load(Ordering::SeqCst) - 1;
        let finished = || FINISHED.load(Ordering::SeqCst) == others;
        TALLY.must(0x32, crate::threads::wait(finished));
        FINISHED.store(0, Ordering::SeqCst);
        // A run that ended between the count and the call has counted what nobody saw.
        let before = SEEN.load(Ordering::SeqCst);
        let called = crate::threads::wait(|| {
            count_on(&me, guest);
            SEEN.load(Ordering::SeqCst) != before
        });
        TALLY.must(0x3a, called);
        let seen = SEEN.load(Ordering::SeqCst);
        let asked = me.get(guest, VCPUS[2], &[id::GPR0 + 4]);
        TALLY.allow(0x38, asked, &[0]);
        let counted = gsb::find(me.buffer(), 4096, id::GPR0 + 4);
        TALLY.must(0x39, counted == Some(seen));
        let in_memory = mem::read64(L2_MEMORY + COUNTER);
        TALLY.must(0x33, in_memory == seen);
        TALLY.allow(0x34, delete(guest), &[0]);
        return;
    }
    while !TALLY.is_over() {
        let guest = TALLY.guest.load(Ordering::SeqCst);
        if guest != 0 {
            count_on(&me, guest);
        }
    }
    FINISHED.fetch_add(1, Ordering::SeqCst);
}

fn count_on(me: &Caller, guest: u64) {
    match me.run(0, guest, VCPUS[2]) {
        (0, HYPERCALL) => {
            SEEN.fetch_add(1, Ordering::SeqCst);
        }
        (0, reason) => TALLY.reason(0x35, 0, reason, REASONS),
        (P2, _) => TALLY.must(0x36, TALLY.is_over()),
        (code, _) => TALLY.allow(0x37, code, &[IN_USE]),
    }
}

/// How the second thread is interrupted in exploitation mode: the area's page, and the source's; 0 with XICS.
static AREA: AtomicU64 = AtomicU64::new(0);
static SOURCE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The interrupt from the first thread to the second, by whatever controller the partition has.
#[derive(Clone, Copy)]
enum Line {
    Xics,
    Xive(Controller, Source),
}

/// Lets the first thread interrupt the second.
pub(super) fn prepare_line(machine: &Machine) {
    let Some(controller) = machine.controller else {
        return;
    };
    let [first, _] = controller.lisns;
    let made = Source::new(first + 1)
        .filter(|source| exploitation::route(1, QUEUE + QUEUE_BYTES, source, 1));
    if holds("race/line", made.is_some())
        && let Some(source) = made
    {
        source.load(esb::SET_00);
        for (kept, page) in SOURCE.iter().zip(source.pages()) {
            kept.store(page, Ordering::SeqCst);
        }
        AREA.store(controller.os, Ordering::SeqCst);
    }
}

impl Line {
    const PRIORITY: u64 = 4;
    const IDLE: u64 = 0xff;

    fn get() -> Self {
        let load = |of: &AtomicU64| of.load(Ordering::SeqCst);
        match load(&AREA) {
            0 => Self::Xics,
            os => Self::Xive(
                Controller { os, lisns: [0, 0] },
                Source::at([load(&SOURCE[0]), load(&SOURCE[1])]),
            ),
        }
    }

    /// Lets interrupts through to the calling thread.
    fn open(self) -> i64 {
        match self {
            Self::Xics => hcall(H_CPPR, [Self::IDLE]).code(),
            Self::Xive(controller, _) => {
                controller.set_priority(0xff);
                0
            }
        }
    }

    fn raise(self) -> i64 {
        match self {
            Self::Xics => hcall(H_IPI, [1, Self::PRIORITY]).code(),
            Self::Xive(_, source) => {
                source.trigger();
                0
            }
        }
    }

    /// Takes the interrupt, if it is there; whether it was.
    fn take(self) -> bool {
        match self {
            Self::Xics => {
                let xirr = hcall(H_XIRR, []).r(4);
                if xirr & 0xff_ffff == 2 {
                    TALLY.allow(0x49, hcall(H_IPI, [1, Self::IDLE]).code(), &[0]);
                    TALLY.allow(0x4a, hcall(H_EOI, [xirr]).code(), &[0]);
                    return true;
                }
                TALLY.must(0x4b, xirr & 0xff_ffff == 0);
                false
            }
            Self::Xive(controller, source) => {
                let event = controller.acknowledge() & 0x8000 != 0;
                if event {
                    source.load(esb::EOI);
                    controller.set_priority(0xff);
                }
                event
            }
        }
    }
}

/// Doorbells that L2 took.
static RUNG: AtomicU64 = AtomicU64::new(0);

/// The first thread interrupts the second, which runs a vCPU that does nothing: the run ends, the second thread takes
/// its interrupt and runs the vCPU on with a doorbell, which that takes. So L1 passes doorbells between vCPUs of L2.
pub(super) fn doorbell(number: usize) {
    const DOORBELL: u64 = 1 << 62;
    let line = Line::get();
    let mut me = Caller::new(number);
    match number {
        0 => {
            let made = me.make(&[VCPUS[1]]);
            let guest = made.unwrap_or(0);
            TALLY.allow(0x40, made.err().unwrap_or(0), &[0]);
            RUNG.store(0, Ordering::SeqCst);
            TALLY.guest.store(guest, Ordering::SeqCst);
            for round in TALLY.rounds().map(|round| round + 1) {
                me.pause(50_000);
                let start = probe::time_base();
                TALLY.allow(0x41, line.raise(), &[0]);
                let came = crate::threads::wait(|| RUNG.load(Ordering::SeqCst) == round);
                TALLY.must(0x42, came);
                TALLY.took(probe::time_base().wrapping_sub(start));
                if !came {
                    break;
                }
                TALLY.count(&TALLY.changes);
            }
            TALLY.guest.store(0, Ordering::SeqCst);
            TALLY.over.store(true, Ordering::SeqCst);
            TALLY.allow(0x43, delete(guest), &[0]);
        }
        1 => {
            TALLY.allow(0x44, line.open(), &[0]);
            let mut flags = 0;
            while !TALLY.is_over() {
                let guest = TALLY.guest.load(Ordering::SeqCst);
                if guest == 0 {
                    continue;
                }
                let vcpu = VCPUS[1];
                let prepared = me.prepare(guest, vcpu, program::LOOP, Msr::EE.bits(), &[]);
                TALLY.allow(0x45, prepared, &[0, P2]);
                let (code, reason) = me.run(flags, guest, vcpu);
                TALLY.allow(0x46, code, &[0, P2]);
                if code != 0 {
                    continue;
                }
                if flags != 0 {
                    // Its vector says by a hypercall which interrupt it was. The buffers are the first thread's.
                    let output = Caller::new(0).output();
                    let vector = gsb::find(output, 4096, id::GPR0 + 3);
                    TALLY.reason(0x47, 0, reason, &[HYPERCALL]);
                    TALLY.must(0x4c, vector == Some(0xa00));
                    flags = 0;
                    RUNG.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                TALLY.must(0x48, reason == INTERRUPTED);
                // Nothing is there when the run ended because the guest is being deleted.
                if line.take() {
                    flags = DOORBELL;
                }
            }
        }
        _ => {}
    }
}

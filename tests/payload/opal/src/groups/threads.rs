//! Several hardware threads: started, told to call at the same time, kept out, reset inside of calls, given back.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isa::msr::Msr;
use opal_calls::calls::token as t;

use super::reentry;
use crate::call::{call, code, mark, quietly};
use crate::mem::layout::SCRATCH;
use crate::mem::{self, read_be64, read8, write_be64};
use crate::report::{case, holds, one_of, skip};
use crate::start::Machine;
use crate::thread::{
    self, PATIENCE, Thread, boot, give_back, others, secondary_address, start, wait,
};

const P: u64 = SCRATCH;
/// Rounds of the hammer.
const ROUNDS: u64 = 128;

pub(super) fn run(machine: &Machine) {
    call(t::OPAL_XIVE_RESET, [1]);
    let got = call(t::OPAL_START_CPU, [0xfff, secondary_address()]);
    case("threads/start-nobody", got, code::PARAMETER);
    let ids = &machine.threads[1..machine.thread_count];
    if ids.is_empty() {
        skip("threads/others", "this machine has one thread");
        return;
    }
    for (index, &pir) in (1..).zip(ids) {
        let (answer, came) = start(index, pir);
        case(format_args!("threads/start-{index}"), answer, code::SUCCESS);
        holds(format_args!("threads/thread-{index}-came"), came);
    }
    for (n, thread) in (1..).zip(others()) {
        let pir = thread.pir.load(Ordering::Relaxed);
        holds(
            format_args!("threads/thread-{n}-has-its-number"),
            thread.entry_r3.load(Ordering::Relaxed) == pir,
        );
        let msr = thread.entry_msr.load(Ordering::Relaxed);
        case(
            format_args!("threads/thread-{n}-msr"),
            msr,
            (Msr::SF | Msr::HV).bits(),
        );
        let got = call(t::OPAL_QUERY_CPU_STATUS, [pir, P]);
        case(format_args!("threads/thread-{n}-query"), got, code::SUCCESS);
        case(
            format_args!("threads/thread-{n}-is-started"),
            u64::from(read8(P)),
            1,
        );
        let got = call(t::OPAL_START_CPU, [pir, secondary_address()]);
        case(
            format_args!("threads/thread-{n}-start-again"),
            got,
            code::WRONG_STATE,
        );
    }
    let got = call(t::OPAL_REINIT_CPUS, [2]);
    case("threads/reinit-while-they-run", got, code::WRONG_STATE);
    hammer();
    interrupts();
    quiesce(machine);
    resets(machine);
    give_all_back(machine);
}

/// Lets all others do a task; tells whether they ended in time.
fn all(task: thread::Task) -> bool {
    for thread in others() {
        thread.wrong.store(0, Ordering::Relaxed);
        thread.rounds.store(0, Ordering::Relaxed);
        thread.run(task);
    }
    task(boot());
    wait(PATIENCE, || others().all(Thread::is_idle))
}

/// Reports what the threads noted.
fn report(name: &str) {
    for (n, thread) in (0..).zip(core::iter::once(boot()).chain(others())) {
        let wrong = thread.wrong.swap(0, Ordering::Relaxed);
        case(format_args!("threads/{name}-thread-{n}-wrong"), wrong, 0);
        if wrong > 0 {
            let [token, got] = [0, 1].map(|n: usize| thread.first_wrong[n].load(Ordering::Relaxed));
            case(
                format_args!("threads/{name}-thread-{n}-token-{token}"),
                got.cast_signed(),
                0,
            );
        }
        holds(
            format_args!("threads/{name}-thread-{n}-called"),
            thread.rounds.swap(0, Ordering::Relaxed) > 0,
        );
    }
}

/// Calls of all kinds, good and bad, on all threads at the same time.
fn hammer() {
    boot().rounds.store(0, Ordering::Relaxed);
    boot().wrong.store(0, Ordering::Relaxed);
    holds("threads/hammer-ends", all(hammer_task));
    report("hammer");
}

fn hammer_task(thread: &'static Thread) {
    let out = thread.outputs();
    let me = thread.pir.load(Ordering::Relaxed);
    let expect = |token: u64, args: [u64; 3], want: &[i64]| {
        let got = quietly(token, args);
        thread.note(token, got, want.contains(&got));
        got
    };
    let mut queue = 0;
    for round in 0..ROUNDS {
        expect(t::OPAL_CHECK_TOKEN, [round % 181, 0, 0], &[0, 1]);
        expect(t::OPAL_POLL_EVENTS, [out, 0, 0], &[code::SUCCESS]);
        expect(
            t::OPAL_CONSOLE_WRITE_BUFFER_SPACE,
            [0, out, 0],
            &[code::SUCCESS],
        );
        expect(t::OPAL_GET_MSG, [out, 72, 0], &[code::RESOURCE]);
        expect(t::OPAL_QUERY_CPU_STATUS, [me, out, 0], &[code::SUCCESS]);
        thread.note(t::OPAL_QUERY_CPU_STATUS, 0, read8(out) == 1);
        write_be64(out, 0);
        expect(t::OPAL_XSCOM_READ, [0, 0xf000f, out], &[code::SUCCESS]);
        thread.note(t::OPAL_XSCOM_READ, 0, read_be64(out) != 0);
        expect(t::OPAL_XIVE_SYNC, [0, 0, 0], &[code::SUCCESS]);
        expect(t::OPAL_XIVE_GET_VP_STATE, [me, out, 0], &[code::SUCCESS]);
        expect(t::OPAL_XIVE_FREE_IRQ, [1, 0, 0], &[code::PARAMETER]);
        expect(round << 8 | 0xff, [u64::MAX; 3], &[code::PARAMETER]);
        if round % 16 == 0 {
            expect(
                t::OPAL_START_CPU,
                [me, secondary_address(), 0],
                &[code::WRONG_STATE],
            );
            let girq = quietly(t::OPAL_XIVE_ALLOCATE_IRQ, [0xffff_ffff]);
            thread.note(t::OPAL_XIVE_ALLOCATE_IRQ, girq, girq >= 0x10);
            let route = [girq.cast_unsigned(), me, 0xff, round];
            let got = quietly(t::OPAL_XIVE_SET_IRQ_CONFIG, route);
            thread.note(t::OPAL_XIVE_SET_IRQ_CONFIG, got, got == code::SUCCESS);
            let block = quietly(t::OPAL_XIVE_ALLOCATE_VP_BLOCK, [3]);
            thread.note(t::OPAL_XIVE_ALLOCATE_VP_BLOCK, block, block > 0);
            expect(
                t::OPAL_XIVE_FREE_VP_BLOCK,
                [block.cast_unsigned(), 0, 0],
                &[code::SUCCESS],
            );
            expect(
                t::OPAL_XIVE_FREE_IRQ,
                [girq.cast_unsigned(), 0, 0],
                &[code::SUCCESS],
            );
            let flags = queue & 1;
            queue += 1;
            let setup = [me, 5, out, 12 * flags, flags];
            let got = quietly(t::OPAL_XIVE_SET_QUEUE_INFO, setup);
            thread.note(t::OPAL_XIVE_SET_QUEUE_INFO, got, got == code::SUCCESS);
        }
    }
    quietly(t::OPAL_XIVE_SET_QUEUE_INFO, [me, 5, 0, 0, 0]);
}

/// Interrupts that all threads allocate at the same time are different ones.
fn interrupts() {
    fn allocate(thread: &'static Thread) {
        for slot in &thread.found {
            let girq = quietly(t::OPAL_XIVE_ALLOCATE_IRQ, [0xffff_ffff]);
            thread.note(t::OPAL_XIVE_ALLOCATE_IRQ, girq, girq >= 0x10);
            slot.store(girq.cast_unsigned(), Ordering::Relaxed);
        }
    }
    fn free(thread: &'static Thread) {
        for slot in &thread.found {
            let got = quietly(t::OPAL_XIVE_FREE_IRQ, [slot.load(Ordering::Relaxed)]);
            thread.note(t::OPAL_XIVE_FREE_IRQ, got, got == code::SUCCESS);
        }
    }
    holds("threads/allocate-ends", all(allocate));
    let numbers = || {
        core::iter::once(boot())
            .chain(others())
            .flat_map(|thread| &thread.found)
            .map(|slot| slot.load(Ordering::Relaxed))
    };
    let twice = numbers()
        .enumerate()
        .any(|(n, number)| numbers().skip(n + 1).any(|other| other == number));
    holds("threads/allocated-interrupts-differ", !twice);
    report("allocate");
    holds("threads/free-ends", all(free));
    report("free");
}

static STOP: AtomicBool = AtomicBool::new(false);
static TESTS: AtomicU64 = AtomicU64::new(0);
static BUSY: AtomicU64 = AtomicU64::new(0);
static OTHER: AtomicU64 = AtomicU64::new(0);

/// Calls until it is told to stop, and counts the answers.
fn call_on(thread: &'static Thread) {
    while !STOP.load(Ordering::Relaxed) {
        // On skiboot OPAL_TEST writes to the log.
        let got = quietly(t::OPAL_CHECK_TOKEN, [0]);
        thread.rounds.fetch_add(1, Ordering::Relaxed);
        match got {
            1 => TESTS.fetch_add(1, Ordering::SeqCst),
            code::BUSY => BUSY.fetch_add(1, Ordering::SeqCst),
            _ => OTHER.fetch_add(1, Ordering::SeqCst),
        };
    }
}

fn quiesce(machine: &Machine) {
    const OTHERS: u64 = u64::MAX;
    const HOLD: u64 = 1;
    const REJECT: u64 = 2;
    const LOCK_BREAK: u64 = 3;
    const RESUME: u64 = 4;
    let change = |kind, target| call(t::OPAL_QUIESCE, [kind, target]);
    if machine.on_skiboot {
        for name in ["unknown-*", "resume-nothing", "break-nothing", "oneself"] {
            skip(
                format_args!("quiesce/{name}"),
                "skiboot acts on what it refuses, and its answer depends on what came before",
            );
        }
    } else {
        case("quiesce/unknown-kind", change(9, OTHERS), code::PARAMETER);
        case(
            "quiesce/unknown-thread",
            change(HOLD, 0xfff),
            code::PARAMETER,
        );
        case("quiesce/resume-nothing", change(RESUME, OTHERS), code::BUSY);
        case(
            "quiesce/break-nothing",
            change(LOCK_BREAK, OTHERS),
            code::BUSY,
        );
        case(
            "quiesce/oneself",
            change(HOLD, machine.threads[0]),
            code::PARAMETER,
        );
    }
    STOP.store(false, Ordering::SeqCst);
    for thread in others() {
        thread.run(call_on);
    }
    let moves = |counter: &AtomicU64| {
        let before = counter.load(Ordering::SeqCst);
        wait(PATIENCE, || counter.load(Ordering::SeqCst) > before + 10)
    };
    // One answer each may be on its way, for as long as the host keeps that thread waiting.
    let rests = |counter: &AtomicU64| {
        wait(PATIENCE, || {
            let before = counter.load(Ordering::SeqCst);
            !wait(50, || counter.load(Ordering::SeqCst) != before)
        })
    };
    holds("quiesce/they-call", moves(&TESTS));
    case("quiesce/reject", change(REJECT, OTHERS), code::SUCCESS);
    holds("quiesce/rejected", moves(&BUSY) && rests(&TESTS));
    case("quiesce/reject-again", change(REJECT, OTHERS), code::BUSY);
    case("quiesce/own-calls-go-on", call(t::OPAL_CHECK_TOKEN, [0]), 1);
    case(
        "quiesce/break-locks",
        change(LOCK_BREAK, OTHERS),
        code::SUCCESS,
    );
    case("quiesce/resume", change(RESUME, OTHERS), code::SUCCESS);
    holds("quiesce/resumed", moves(&TESTS) && rests(&BUSY));
    case("quiesce/hold", change(HOLD, OTHERS), code::SUCCESS);
    holds("quiesce/held", rests(&TESTS) && rests(&BUSY));
    case("quiesce/release", change(RESUME, OTHERS), code::SUCCESS);
    holds("quiesce/released", moves(&TESTS));
    let one = machine.threads[1];
    case("quiesce/hold-one", change(HOLD, one), code::SUCCESS);
    let held = others().next().map(|thread| &thread.rounds);
    holds("quiesce/one-is-held", held.is_some_and(rests));
    if machine.thread_count > 2 {
        holds("quiesce/the-others-are-not", moves(&TESTS));
    }
    case(
        "quiesce/break-locks-of-one",
        change(LOCK_BREAK, OTHERS),
        code::BUSY,
    );
    case("quiesce/release-one", change(RESUME, one), code::SUCCESS);
    holds("quiesce/one-goes-on", held.is_some_and(moves));
    STOP.store(true, Ordering::SeqCst);
    holds(
        "quiesce/they-stop",
        wait(PATIENCE, || others().all(Thread::is_idle)),
    );
    case("quiesce/no-other-answer", OTHER.load(Ordering::SeqCst), 0);
}

/// System resets of a thread that is in the firmware most of the time; its handler calls the firmware.
fn resets(machine: &Machine) {
    let signal = |target| call(t::OPAL_SIGNAL_SYSTEM_RESET, [target]);
    case("reset/oneself", signal(machine.threads[0]), code::PARAMETER);
    for target in [u64::MAX, u64::MAX - 1] {
        case(
            format_args!("reset/all-{:#x}", target & 0xff),
            signal(target),
            code::CONSTRAINED,
        );
    }
    if machine.on_skiboot {
        skip(
            "reset/*",
            "skiboot stops when a nested call comes at the wrong place",
        );
        return;
    }
    let Some(target) = others().next() else {
        return;
    };
    let pir = target.pir.load(Ordering::Relaxed);
    reentry::prepare(machine);
    target.set_handler(reentry::handler);
    target.wrong.store(0, Ordering::Relaxed);
    target.interrupts.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::SeqCst);
    OTHER.store(0, Ordering::SeqCst);
    target.run(call_on);
    let (mut refused, mut lost) = (0_u64, 0_u64);
    for round in 1..=200 {
        let got = signal(pir);
        refused += u64::from(got != code::SUCCESS);
        if !wait(PATIENCE, || {
            target.interrupts.load(Ordering::SeqCst) >= round
        }) {
            lost += 1;
            break;
        }
    }
    case("reset/refused", refused, 0);
    case("reset/lost", lost, 0);
    STOP.store(true, Ordering::SeqCst);
    holds(
        "reset/the-thread-goes-on",
        wait(PATIENCE, || target.is_idle()),
    );
    target.set_handler(thread::count);
    let wrong = target.wrong.swap(0, Ordering::Relaxed);
    case("reset/nested-calls-wrong", wrong, 0);
    if wrong > 0 {
        let [token, got] = [0, 1].map(|n: usize| target.first_wrong[n].load(Ordering::Relaxed));
        case(
            format_args!("reset/first-wrong-token-{token}"),
            got.cast_signed(),
            0,
        );
    }
    case(
        "reset/interrupted-calls-wrong",
        OTHER.load(Ordering::SeqCst),
        0,
    );
    // The same thread can be reset while it idles in the firmware's care no more: it is the kernel's.
    one_of("reset/again", signal(pir), &[code::SUCCESS]);
    holds(
        "reset/came-again",
        wait(PATIENCE, || target.interrupts.load(Ordering::SeqCst) > 200),
    );
}

fn give_all_back(machine: &Machine) {
    let pirs: [u64; 16] = {
        let mut pirs = [0; 16];
        for (slot, thread) in pirs.iter_mut().zip(others()) {
            *slot = thread.pir.load(Ordering::Relaxed);
        }
        pirs
    };
    mark(t::OPAL_RETURN_CPU);
    for thread in others() {
        thread.run(give_back);
    }
    for (n, &pir) in (1..).zip(&pirs[..machine.thread_count - 1]) {
        let back = wait(PATIENCE, || {
            mem::write8(P, 0xaa);
            call(t::OPAL_QUERY_CPU_STATUS, [pir, P]) == code::SUCCESS && read8(P) == 0
        });
        holds(format_args!("threads/thread-{n}-returns"), back);
    }
    case(
        "threads/reinit-when-they-are-back",
        call(t::OPAL_REINIT_CPUS, [2]),
        code::SUCCESS,
    );
    // A thread that was given back can be started again.
    let (answer, came) = start(1, pirs[0]);
    case("threads/start-again", answer, code::SUCCESS);
    holds("threads/came-again", came);
    for thread in others() {
        thread.run(give_back);
    }
    let back = wait(PATIENCE, || {
        call(t::OPAL_QUERY_CPU_STATUS, [pirs[0], P]) == code::SUCCESS && read8(P) == 0
    });
    holds("threads/returns-again", back);
    case(
        "threads/xive-reset",
        call(t::OPAL_XIVE_RESET, [0]),
        code::SUCCESS,
    );
}

//! Calls from inside of calls: a decrementer interrupt, let in against the ABI, stands for the machine check or system
//! reset that no kernel can keep out. Its handler calls the firmware on the same thread, and may be interrupted itself.
//! The group `threads` does the same with system resets.
//!
//! The surprising fact: whether a call has begun is not what the address says. The firmware's first and last
//! instructions are outside of what it counts, so an answer may be either that of a nested call or an ordinary one.

use core::sync::atomic::{AtomicU64, Ordering};

use isa::msr::Msr;
use opal_calls::calls::token as t;

use crate::call::{code, quietly, with_msr};
use crate::mem::layout::{BUFFER, SCRATCH};
use crate::mem::{self, write_be64};
use crate::processor::{FAR, set_decrementer};
use crate::report::{case, holds, skip};
use crate::say;
use crate::start::Machine;
use crate::thread::{self, Thread};

/// Interrupts that came while the firmware ran.
static INSIDE: AtomicU64 = AtomicU64::new(0);
/// Of these, how many found that a call which must not nest was refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Interrupts that came while a handler was in the firmware.
static DEEP: AtomicU64 = AtomicU64::new(0);
/// Calls that were refused for want of a stack.
static TOO_DEEP: AtomicU64 = AtomicU64::new(0);
/// Handlers under way.
static LEVEL: AtomicU64 = AtomicU64::new(0);
/// Ticks until a handler is interrupted itself, 0 for never.
static AGAIN: AtomicU64 = AtomicU64::new(0);
/// Where the firmware is.
static FIRMWARE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Calls that may nest, with outputs of their own, and their answers.
const NESTING: [(u64, [u64; 2], i64); 4] = [
    (t::OPAL_CHECK_TOKEN, [t::OPAL_TEST, 0], 1),
    (t::OPAL_CHECK_TOKEN, [181, 0], 0),
    (t::OPAL_POLL_EVENTS, [SCRATCH + 0x1000, 0], code::SUCCESS),
    (
        t::OPAL_CONSOLE_WRITE_BUFFER_SPACE,
        [0, SCRATCH + 0x1040],
        code::SUCCESS,
    ),
];

/// What is done in every interrupt.
pub(super) extern "C" fn handler(thread: &'static Thread, srr0: u64, srr1: u64) {
    set_decrementer(FAR);
    let [start, end] = [0, 1].map(|n: usize| FIRMWARE[n].load(Ordering::Relaxed));
    let is_inside = (start..end).contains(&srr0);
    let level = LEVEL.fetch_add(1, Ordering::SeqCst);
    if srr1 & Msr::RI.bits() == 0 {
        // HSRR0/1 hold what must not be lost: a kernel cannot go on here, it can only go back.
        LEVEL.fetch_sub(1, Ordering::SeqCst);
        thread.interrupts.fetch_add(1, Ordering::SeqCst);
        return;
    }
    if is_inside {
        INSIDE.fetch_add(1, Ordering::Relaxed);
    }
    if level > 0 && is_inside {
        DEEP.fetch_add(1, Ordering::Relaxed);
    }
    let again = AGAIN.load(Ordering::Relaxed);
    let set = if again != 0 && level == 0 {
        set_decrementer(again);
        Msr::EE
    } else {
        Msr::empty()
    };
    for (token, [a, b], want) in NESTING {
        let got = with_msr(token, [a, b, 0, 0, 0, 0, 0, 0], set, Msr::LE);
        let is_refused = got == code::INTERNAL_ERROR && level > 0 && is_inside;
        if is_refused {
            TOO_DEEP.fetch_add(1, Ordering::Relaxed);
        }
        thread.note(token, got, got == want || is_refused);
    }
    set_decrementer(FAR);
    // One that must not nest.
    let got = quietly(t::OPAL_GET_MSG, [SCRATCH + 0x1080, 72]);
    let is_refused = got == code::INTERNAL_ERROR;
    if is_refused {
        REFUSED.fetch_add(1, Ordering::Relaxed);
    }
    let may_be = got == code::RESOURCE || is_refused && (is_inside || level > 0);
    thread.note(t::OPAL_GET_MSG, got, may_be);
    LEVEL.fetch_sub(1, Ordering::SeqCst);
    // Last: whoever waits for it may send the next one.
    thread.interrupts.fetch_add(1, Ordering::SeqCst);
}

/// Says where the firmware is, for [`handler`].
pub(super) fn prepare(machine: &Machine) {
    let [base, _, size] = machine.opal;
    FIRMWARE[0].store(base, Ordering::Relaxed);
    FIRMWARE[1].store(base + size, Ordering::Relaxed);
}

pub(super) fn run(machine: &Machine) {
    if machine.on_skiboot {
        skip(
            "reentry/*",
            "skiboot stops at the third level, and drops fast reboot at the second",
        );
        return;
    }
    prepare(machine);
    let boot = thread::boot();
    boot.set_handler(handler);
    for (name, again) in [("nested", 0), ("twice-nested", 40)] {
        for counter in [&INSIDE, &REFUSED, &DEEP, &TOO_DEEP] {
            counter.store(0, Ordering::Relaxed);
        }
        boot.wrong.store(0, Ordering::Relaxed);
        AGAIN.store(again, Ordering::Relaxed);
        let wrong = calls();
        case(
            format_args!("reentry/{name}-interrupted-calls-wrong"),
            wrong,
            0,
        );
        let inner = boot.wrong.load(Ordering::Relaxed);
        case(format_args!("reentry/{name}-calls-wrong"), inner, 0);
        if inner > 0 {
            let [token, got] = [0, 1].map(|n: usize| boot.first_wrong[n].load(Ordering::Relaxed));
            case(
                format_args!("reentry/{name}-first-wrong-token-{token}"),
                got.cast_signed(),
                0,
            );
        }
        say!(
            "payload: {name}: {} interrupts inside, {} refusals, {} deeper, {} too deep",
            INSIDE.load(Ordering::Relaxed),
            REFUSED.load(Ordering::Relaxed),
            DEEP.load(Ordering::Relaxed),
            TOO_DEEP.load(Ordering::Relaxed)
        );
        let some = |counter: &AtomicU64| counter.load(Ordering::Relaxed) > 0;
        holds(format_args!("reentry/{name}-came-inside"), some(&INSIDE));
        holds(
            format_args!("reentry/{name}-refused-what-must-not-nest"),
            some(&REFUSED),
        );
        if again != 0 {
            holds("reentry/third-level-came", some(&DEEP));
            holds("reentry/third-level-was-refused", some(&TOO_DEEP));
        }
    }
    boot.set_handler(thread::count);
    case(
        "reentry/afterwards",
        quietly(t::OPAL_TEST, [0]),
        0xfeed_f00d,
    );
    case(
        "reentry/nothing-counted",
        quietly(t::OPAL_GET_MSG, [BUFFER, 72]),
        code::RESOURCE,
    );
}

/// Calls of several kinds with an interrupt after more and more ticks; how many answered wrongly.
fn calls() -> u64 {
    let mut wrong = 0;
    for round in 0..3000_u64 {
        let delay = round % 600 + 1;
        write_be64(SCRATCH, 0);
        mem::fill(BUFFER, 64, 0);
        let (token, args, want) = match round % 5 {
            0 => (t::OPAL_TEST, [0, 0, 0], 0xfeed_f00d),
            1 => (t::OPAL_POLL_EVENTS, [SCRATCH, 0, 0], code::SUCCESS),
            2 => (t::OPAL_READ_NVRAM, [BUFFER, 64, 0], code::SUCCESS),
            3 => (t::OPAL_XSCOM_READ, [0, 0xf000f, SCRATCH], code::SUCCESS),
            _ => (
                t::OPAL_CONSOLE_WRITE_BUFFER_SPACE,
                [0, SCRATCH, 0],
                code::SUCCESS,
            ),
        };
        let [a, b, c] = args;
        set_decrementer(delay);
        let got = with_msr(token, [a, b, c, 0, 0, 0, 0, 0], Msr::EE, Msr::LE);
        set_decrementer(FAR);
        let has_output = match round % 5 {
            2 => mem::read8(BUFFER) == 0x51,
            3 => mem::read_be64(SCRATCH) != 0,
            4 => mem::read_be64(SCRATCH) >= 64,
            _ => true,
        };
        if got != want || !has_output {
            wrong += 1;
            say!(
                "payload: token {token} interrupted after {delay} ticks: {got}, output {has_output}"
            );
        }
    }
    wrong
}

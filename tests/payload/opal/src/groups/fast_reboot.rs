//! Fast reboots: from the boot thread, again from another one, and one whose copy of the kernel was damaged, which has to
//! become a full one. The program starts anew each time, so how far it came, and whether all was well, stands in memory.
//! Only when named, in a boot of its own, with `nidus.fast-reboot=keep` or from the flash, of which there is no copy.

use core::sync::atomic::Ordering;

use opal_calls::calls::token as t;
use opal_calls::error::OpalError;

use super::flash;
use crate::call::{call, code, quietly};
use crate::mem::layout::{BUFFER, DIARY};
use crate::mem::{damage, read_be64, write_be64};
use crate::processor::{relax, time_base};
use crate::report::case;
use crate::say;
use crate::start::Machine;
use crate::thread::{self, PATIENCE, Thread, give_back, others, wait};

/// Says that memory holds this diary. Behind it: starts so far, whether a case failed, the time base of the last one.
const MAGIC: u64 = 0x6e69_6475_735f_6672;
const STARTS: u64 = DIARY + 8;
const FAILED: u64 = DIARY + 16;
const TIME: u64 = DIARY + 24;

const FAST: u64 = 4;

pub(super) fn run(machine: &Machine) {
    if read_be64(DIARY) != MAGIC {
        for (at, value) in [(DIARY, MAGIC), (STARTS, 0), (FAILED, 0), (TIME, 0)] {
            write_be64(at, value);
        }
    }
    let starts = read_be64(STARTS);
    write_be64(STARTS, starts + 1);
    say!(
        "payload: start {starts}, fast reboots {}",
        machine.fast_reboots
    );
    check("time-goes-on", time_base() > read_be64(TIME));
    match starts {
        0 => {
            check("none-yet", machine.fast_reboots == 0);
            start_others(machine);
            // One in the firmware, one in calls all the time, the rest where no interrupt reaches them.
            for (n, thread) in others().enumerate() {
                thread.run(match n {
                    0 => give_back,
                    1 => calls_for_ever,
                    _ => spins_for_ever,
                });
            }
            let is_busy = |thread: &Thread| thread.rounds.load(Ordering::Relaxed) > 0;
            check(
                "a-thread-is-in-calls",
                wait(PATIENCE, || others().any(is_busy)),
            );
            again();
            check("came-back-to-its-caller", false);
        }
        1 => {
            check("one", machine.fast_reboots == 1);
            start_others(machine);
            operation_first();
            match others().next() {
                Some(thread) => thread.run(|thread| {
                    let code = again();
                    thread.note(t::OPAL_CEC_REBOOT2, code, false);
                }),
                None => check("there-is-another-thread", false),
            }
            // This thread has nothing to do with it, and is interrupted in the middle of nothing.
            check("another-thread-reboots", wait(PATIENCE, || false));
        }
        2 if machine.kept == 0 => {
            check("two", machine.fast_reboots == 2);
            start_others(machine);
            // From the flash: nothing that could be damaged.
            case("fast-reboot/starts-before", starts, 2);
        }
        2 => {
            check("two", machine.fast_reboots == 2);
            start_others(machine);
            damage(machine.kept + 0x1000);
            again();
            check("came-back-from-damage", false);
        }
        _ => {
            start_others(machine);
            case("fast-reboot/starts-before", starts, 3);
            case(
                "fast-reboot/damage-makes-it-a-full-one",
                machine.fast_reboots,
                0,
            );
        }
    }
    // Of this start too: a failed call comes here at once.
    case("fast-reboot/failed", read_be64(FAILED), 0);
    write_be64(DIARY, 0);
}

/// What has to hold at a start that is not the last: the cases are those of the last one.
fn check(name: &str, statement: bool) {
    say!("payload: {name}: {statement}");
    if !statement {
        write_be64(FAILED, read_be64(FAILED) + 1);
    }
}

/// Starts the machine anew; the answer, if it comes back.
fn again() -> i64 {
    write_be64(TIME, time_base());
    call(t::OPAL_CEC_REBOOT2, [FAST, 0])
}

/// While the flash is read, the machine asks for patience; nobody else polls here.
fn operation_first() {
    const TOKEN: u64 = 11;
    let got = call(t::OPAL_FLASH_READ, [0, 0, BUFFER, 0x8000, TOKEN]);
    check(
        "the-flash-is-read",
        got == OpalError::OPAL_ASYNC_COMPLETION.code(),
    );
    check("an-operation-comes-first", again() == code::BUSY_EVENT);
    check("it-ends", flash::completion(TOKEN) == code::SUCCESS);
}

fn start_others(machine: &Machine) {
    let ids = &machine.threads[1..machine.thread_count];
    check("there-are-four-threads", ids.len() == 3);
    for (index, &pir) in (1..).zip(ids) {
        check(
            "a-thread-comes",
            thread::start(index, pir) == (code::SUCCESS, true),
        );
    }
    let has_its_number = |thread: &Thread| {
        thread.entry_r3.load(Ordering::Relaxed) == thread.pir.load(Ordering::Relaxed)
    };
    check("threads-are-told-apart", others().all(has_its_number));
}

fn calls_for_ever(thread: &'static Thread) {
    loop {
        let got = quietly(t::OPAL_POLL_EVENTS, [0]);
        thread.note(t::OPAL_POLL_EVENTS, got, got == code::SUCCESS);
    }
}

fn spins_for_ever(_: &'static Thread) {
    loop {
        relax();
    }
}

//! How the kernel was entered: registers against the tree, and the machine state.

use core::sync::atomic::Ordering;

use isa::msr::Msr;

use crate::call::quietly;
use crate::mem::peek;
use crate::processor;
use crate::report::{case, holds, skip};
use crate::start::Machine;
use crate::thread;

pub(super) fn run(machine: &Machine) {
    let [r3, r8, r9, msr] = machine.entry;
    let [base, entry, size] = machine.opal;
    holds("entry/tree-aligned", r3.is_multiple_of(8));
    holds("entry/r8-is-the-base", r8 == base);
    holds("entry/r9-is-the-entry", r9 == entry);
    holds("entry/entry-inside", (base..base + size).contains(&entry));
    case("entry/msr", msr, (Msr::SF | Msr::HV).bits());
    let pir = thread::boot().pir.load(Ordering::Relaxed);
    holds(
        "entry/boot-thread-in-the-tree",
        machine.threads[..machine.thread_count].contains(&pir),
    );
    holds("entry/thread-stays", processor::pir() == pir);
    case("entry/empty-call", quietly(0, [1]), 0xfeed_f00d);
    if machine.on_skiboot {
        skip("entry/boot-stack", "skiboot does not measure it");
    } else {
        let small = |(used, size)| 0 < used && used <= size / 4 * 3;
        holds(
            "entry/boot-stack",
            boot_stack(machine.log).is_some_and(small),
        );
    }
}

/// How much of its stack the firmware needed to boot, and how much there is, in bytes, as its log says.
fn boot_stack(log: u64) -> Option<(u64, u64)> {
    const LINE: &[u8] = b"boot stack of thread ";
    // Addresses of the text and of its length in the control structure.
    let (text, length) = (
        peek(log + 8).swap_bytes(),
        peek(log + 32).swap_bytes() >> 32,
    );
    let byte = |at: u64| peek(text + at) as u8;
    let mut lines = (0..length).filter(|at| (*at..).zip(LINE).all(|(at, is)| byte(at) == *is));
    let mut rest = (lines.next()?..length)
        .map(byte)
        .skip_while(|byte| *byte != b':');
    let mut number = || {
        let digits = rest.by_ref().skip_while(|byte| !byte.is_ascii_digit());
        digits
            .take_while(u8::is_ascii_digit)
            .fold(0, |all, digit| all * 10 + u64::from(digit - b'0'))
    };
    Some((number(), number()))
}

//! How the kernel was entered: registers against the tree, and the machine state.

use core::sync::atomic::Ordering;

use isa::msr::Msr;

use crate::call::quietly;
use crate::processor;
use crate::report::{case, holds};
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
}

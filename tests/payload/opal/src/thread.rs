//! The hardware threads as the payload uses them: started by OPAL_START_CPU, given a task, sent back with
//! OPAL_RETURN_CPU. Owns what the vectors save.
#![expect(unsafe_code, reason = "entry symbol, assembly files")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use opal_calls::calls::token;

use crate::call::{self, call, quietly};
use crate::mem::layout::{OUTPUTS, STACKS};
use crate::mem::{self, low};
use crate::processor::{self, relax, time_base};

/// One hardware thread. The vectors know it by HSPRG0.
#[repr(C)]
pub(crate) struct Thread {
    /// Saved by the vectors, as the next two.
    pub(crate) r31: AtomicU64,
    /// r1.
    pub(crate) r1: AtomicU64,
    /// CR.
    pub(crate) cr: AtomicU64,
    /// Vector of the last interrupt.
    pub(crate) vector: AtomicU64,
    /// SRR0 or HSRR0 of it.
    pub(crate) srr0: AtomicU64,
    /// SRR1 or HSRR1 of it.
    pub(crate) srr1: AtomicU64,
    /// DAR at it.
    pub(crate) dar: AtomicU64,
    /// DSISR at it.
    pub(crate) dsisr: AtomicU64,
    /// Top of its stack.
    pub(crate) stack: AtomicU64,
    /// Top of the stack for interrupts.
    pub(crate) emergency: AtomicU64,
    /// Function for system resets and decrementer interrupts.
    pub(crate) handler: AtomicU64,
    /// Function for all other interrupts.
    pub(crate) fatal: AtomicU64,
    /// PIR.
    pub(crate) pir: AtomicU64,
    state: AtomicU32,
    /// MSR with which the firmware entered it.
    pub(crate) entry_msr: AtomicU64,
    /// r3 with which the firmware entered it.
    pub(crate) entry_r3: AtomicU64,
    task: AtomicU64,
    /// Calls that a task made.
    pub(crate) rounds: AtomicU64,
    /// Answers that were not what they should have been.
    pub(crate) wrong: AtomicU64,
    /// The first of them: token, answer.
    pub(crate) first_wrong: [AtomicU64; 2],
    /// What a task found.
    pub(crate) found: [AtomicU64; 8],
    /// Interrupts that the handler served.
    pub(crate) interrupts: AtomicU64,
}

/// States of a thread.
mod state {
    /// The firmware's.
    pub(super) const AWAY: u32 = 0;
    /// Waits for a task.
    pub(super) const IDLE: u32 = 1;
    /// Runs one.
    pub(super) const BUSY: u32 = 2;
}

/// What serves an interrupt: where it came, and with which SRR1.
pub(crate) type Handler = extern "C" fn(&'static Thread, srr0: u64, srr1: u64);

/// What a thread can be told to do. The number is what stands in `task`.
pub(crate) type Task = fn(&'static Thread);

impl Thread {
    const fn new() -> Self {
        #[expect(
            clippy::declare_interior_mutable_const,
            reason = "a value to copy, not a place to share"
        )]
        const ZERO: AtomicU64 = AtomicU64::new(0);
        Self {
            r31: ZERO,
            r1: ZERO,
            cr: ZERO,
            vector: ZERO,
            srr0: ZERO,
            srr1: ZERO,
            dar: ZERO,
            dsisr: ZERO,
            stack: ZERO,
            emergency: ZERO,
            handler: ZERO,
            fatal: ZERO,
            pir: ZERO,
            state: AtomicU32::new(state::AWAY),
            entry_msr: ZERO,
            entry_r3: ZERO,
            task: ZERO,
            rounds: ZERO,
            wrong: ZERO,
            first_wrong: [ZERO; 2],
            found: [ZERO; 8],
            interrupts: ZERO,
        }
    }

    /// 4 KiB of memory for outputs of its calls.
    pub(crate) fn outputs(&self) -> u64 {
        let index = THREADS
            .iter()
            .position(|thread| core::ptr::eq(thread, self));
        OUTPUTS + index.unwrap_or(0) as u64 * 0x1000
    }

    /// Notes an answer: right or wrong.
    pub(crate) fn note(&self, token: u64, got: i64, is_right: bool) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        if !is_right && self.wrong.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_wrong[0].store(token, Ordering::Relaxed);
            self.first_wrong[1].store(got.cast_unsigned(), Ordering::Relaxed);
        }
    }

    /// Says what serves its system resets and decrementer interrupts.
    pub(crate) fn set_handler(&self, handler: Handler) {
        self.handler
            .store(handler as *const () as u64, Ordering::SeqCst);
    }

    /// Gives it a task; it has to be idle.
    pub(crate) fn run(&self, task: Task) {
        self.task.store(task as *const () as u64, Ordering::Relaxed);
        self.state.store(state::BUSY, Ordering::SeqCst);
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.load(Ordering::SeqCst) == state::IDLE
    }

    fn address(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }
}

/// The threads; the first is the boot thread.
static THREADS: [Thread; 16] = [const { Thread::new() }; 16];

/// The boot thread.
pub(crate) fn boot() -> &'static Thread {
    &THREADS[0]
}

/// The others that run the payload.
pub(crate) fn others() -> impl Iterator<Item = &'static Thread> {
    let started = |thread: &&Thread| thread.state.load(Ordering::SeqCst) != state::AWAY;
    THREADS.iter().skip(1).filter(started)
}

/// Prepares a thread: stacks, handlers.
fn prepare(index: usize, pir: u64) -> &'static Thread {
    let thread = &THREADS[index];
    let base = STACKS + index as u64 * 0x1_0000;
    thread.stack.store(base + 0x1_0000 - 256, Ordering::Relaxed);
    thread
        .emergency
        .store(base + 0x8000 - 256, Ordering::Relaxed);
    thread.set_handler(count);
    let fatal: extern "C" fn(&'static Thread) -> ! = crate::start::unexpected_interrupt;
    thread
        .fatal
        .store(fatal as *const () as u64, Ordering::Relaxed);
    thread.pir.store(pir, Ordering::Relaxed);
    thread
}

/// The usual handler: counts.
pub(crate) extern "C" fn count(thread: &'static Thread, _: u64, _: u64) {
    processor::set_decrementer(processor::FAR);
    thread.interrupts.fetch_add(1, Ordering::SeqCst);
}

/// Installs the vectors and makes this the boot thread.
pub(crate) fn init() {
    mem::install(low::VECTORS, mem::vectors());
    let boot = prepare(0, processor::pir());
    boot.state.store(state::BUSY, Ordering::SeqCst);
    processor::set_thread(boot.address());
    processor::set_decrementer(processor::FAR);
    processor::set_msr();
}

/// Milliseconds in ticks of the time base.
pub(crate) const fn ms(ms: u64) -> u64 {
    ms * 512_000
}

/// Milliseconds that another thread, or a device, may take: they are played by a host that others use as well.
pub(crate) const PATIENCE: u64 = 60_000;

/// Waits until something holds, `limit_ms` at most; tells whether it does.
pub(crate) fn wait(limit_ms: u64, mut holds: impl FnMut() -> bool) -> bool {
    let start = time_base();
    loop {
        if holds() {
            return true;
        }
        if time_base().wrapping_sub(start) > ms(limit_ms) {
            return false;
        }
        relax();
    }
}

/// Where threads enter the payload.
pub(crate) fn secondary_address() -> u64 {
    unsafe extern "C" {
        fn secondary_entry();
    }
    secondary_entry as *const () as u64
}

/// Starts a thread with OPAL_START_CPU: the answer, and whether it came.
pub(crate) fn start(index: usize, pir: u64) -> (i64, bool) {
    let thread = prepare(index, pir);
    mem::write64(low::NEWCOMER, thread.address());
    let code = call(token::OPAL_START_CPU, [pir, secondary_address()]);
    let came = code == call::code::SUCCESS && wait(PATIENCE, || thread.is_idle());
    (code, came)
}

/// Where the assembly comes with a new thread.
pub(crate) extern "C" fn secondary_start(thread: &'static Thread, r3: u64, msr: u64) -> ! {
    processor::set_decrementer(processor::FAR);
    processor::set_msr();
    thread.entry_r3.store(r3, Ordering::Relaxed);
    thread.entry_msr.store(msr, Ordering::Relaxed);
    thread.state.store(state::IDLE, Ordering::SeqCst);
    loop {
        if thread.state.load(Ordering::SeqCst) == state::BUSY {
            let task = thread.task.load(Ordering::Relaxed) as usize;
            // SAFETY: `run` is the only writer of the word, and stores a `Task`.
            let task = unsafe { core::mem::transmute::<usize, Task>(task) };
            task(thread);
            thread.state.store(state::IDLE, Ordering::SeqCst);
        }
        relax();
    }
}

/// The task that gives the thread back to the firmware.
pub(crate) fn give_back(thread: &'static Thread) {
    thread.state.store(state::AWAY, Ordering::SeqCst);
    // Comes back only if it is refused.
    let code = quietly(token::OPAL_RETURN_CPU, []);
    thread.note(token::OPAL_RETURN_CPU, code, false);
    thread.state.store(state::BUSY, Ordering::SeqCst);
}

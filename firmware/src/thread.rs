//! What the firmware keeps per hardware thread, and how running code finds it.
//!
//! Owns the layout of a thread's block: [`Thread`] at the base, a normal stack, an emergency stack. Surprising fact:
//! r13 and HSPRG0 both hold the address of the block for as long as the thread is the firmware's, so an exception vector
//! finds the block with one instruction and Rust without any; the compiler never touches r13 (it is the thread pointer
//! of the ABI).

use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::stack::{Kind, Stack};

/// Size of a thread's block: 64 KiB, aligned to itself.
pub const BLOCK_SIZE: usize = 0x1_0000;
/// Where the normal stack starts (grows down), from the base of the block. Below it: 40 KiB less the `Thread`.
pub const NORMAL_STACK_TOP: usize = 0xa000;
/// Where the emergency stack starts (grows down to the normal one's top): 24 KiB for exceptions of the firmware.
pub const EMERGENCY_STACK_TOP: usize = BLOCK_SIZE - 0x100;

/// One hardware thread's state. At the base of its block; only atomics, so that any thread may look at any other's.
///
/// Assembly reaches the fields by `offset_of!` operands.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Thread {
    /// Scratch of the exception vectors: what the interrupted code had in r10.
    pub scratch_r10: AtomicU64,
    /// Scratch of the exception vectors: r11.
    pub scratch_r11: AtomicU64,
    /// Scratch of the exception vectors: r12.
    pub scratch_r12: AtomicU64,
    /// Scratch of the exception vectors: CR.
    pub scratch_cr: AtomicU64,
    /// Scratch of the exception vectors: come-from address register.
    pub scratch_cfar: AtomicU64,
    /// Scratch of the exception vectors: r1 of the firmware when it took an exception itself.
    pub scratch_r1: AtomicU64,
    /// Where an exception of the firmware puts its frame (address of the top).
    pub emergency_stack: AtomicU64,
    /// Where this thread's normal stack starts (address of the top).
    pub normal_stack: AtomicU64,
    /// The guest context in the registers, for the guest exit path; 0 when none is.
    pub guest_context: AtomicU64,
    /// The firmware's r1 while a guest runs, for the guest exit path.
    pub host_stack: AtomicU64,
    /// Free for the guest entry and exit path.
    pub guest_scratch: [AtomicU64; 6],
    /// How many exceptions of the firmware are being reported: 0 in normal life.
    pub exception_depth: AtomicU32,
    /// The processor id register.
    pub pir: AtomicU32,
    /// Which locks it holds, see [`isa::lock`].
    #[cfg(debug_assertions)]
    pub locks_held: AtomicU64,
}

/// Memory for one thread. The boot thread's and the parked threads' are static, the others come from the memory stage.
#[repr(C, align(65536))]
pub struct ThreadBlock {
    /// What is known of the thread.
    pub thread: Thread,
    stacks: [AtomicU64; (BLOCK_SIZE - size_of::<Thread>()) / 8],
}

const _: () = assert!(size_of::<ThreadBlock>() == BLOCK_SIZE);

impl ThreadBlock {
    /// A block of zeroes, which is how bss has it when entry/head.S fills in the stacks.
    #[expect(
        clippy::declare_interior_mutable_const,
        reason = "the initial value of array elements, never borrowed"
    )]
    pub const ZERO: Self = {
        const Z: AtomicU64 = AtomicU64::new(0);
        Self {
            thread: Thread {
                scratch_r10: Z,
                scratch_r11: Z,
                scratch_r12: Z,
                scratch_cr: Z,
                scratch_cfar: Z,
                scratch_r1: Z,
                emergency_stack: Z,
                normal_stack: Z,
                guest_context: Z,
                host_stack: Z,
                guest_scratch: [Z; 6],
                exception_depth: AtomicU32::new(0),
                pir: AtomicU32::new(0),
                #[cfg(debug_assertions)]
                locks_held: Z,
            },
            stacks: [Z; (BLOCK_SIZE - size_of::<Thread>()) / 8],
        }
    };
}

impl ThreadBlock {
    /// The stacks of the thread whose block this is.
    #[must_use]
    pub fn stacks(&'static self, pir: u32) -> [Stack; 2] {
        let (normal, rest) = self.stacks.split_at(NORMAL_WORDS);
        let (emergency, _) = rest.split_at((EMERGENCY_STACK_TOP - NORMAL_STACK_TOP) / 8);
        [(Kind::Normal, normal), (Kind::Emergency, emergency)].map(|(kind, words)| Stack {
            kind,
            pir,
            words,
        })
    }
}

/// Words of the normal stack.
const NORMAL_WORDS: usize = (NORMAL_STACK_TOP - size_of::<Thread>()) / 8;

/// The range of addresses that hold both stacks of the block at `thread`, for whoever walks a back chain.
#[must_use]
pub fn stack_range(thread: &Thread) -> core::ops::Range<u64> {
    let base = core::ptr::from_ref(thread) as u64;
    base..base.saturating_add(BLOCK_SIZE as u64)
}

/// The processor id of this thread.
#[must_use]
pub fn pir() -> u32 {
    #[cfg(target_os = "none")]
    return u32::try_from(isa::spr::mfspr::<isa::spr::Pir>().0 & 0xffff_ffff).unwrap_or(0);
    #[cfg(not(target_os = "none"))]
    return 0;
}

/// The thread that runs this.
#[cfg(target_os = "none")]
#[must_use]
#[expect(
    unsafe_code,
    reason = "r13 is the firmware's own convention, set before any Rust runs"
)]
pub fn this_thread() -> &'static Thread {
    let thread: *const Thread;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mr {t}, 13", t = out(reg) thread, options(nomem, nostack, preserves_flags));
    };
    // SAFETY: r13 holds the address of this thread's block from before the first line of Rust on (entry/head.S, park.S), and
    // blocks live for ever.
    unsafe { &*thread }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn stacks_end_where_threads_start_on_them() {
        let block: &'static ThreadBlock = Box::leak(Box::new(ThreadBlock::ZERO));
        let base = core::ptr::from_ref(block).addr();
        let [normal, emergency] = block.stacks(3);
        let ends = |stack: &Stack| {
            let range = stack.words.as_ptr_range();
            (range.start.addr() - base, range.end.addr() - base)
        };
        assert_eq!(ends(&normal), (size_of::<Thread>(), NORMAL_STACK_TOP));
        assert_eq!(ends(&emergency), (NORMAL_STACK_TOP, EMERGENCY_STACK_TOP));
        block.thread.pir.store(1, Ordering::Relaxed);
        assert!(
            normal
                .words
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0)
        );
    }
}

//! The assembly of OPAL calls and of the jump into a kernel. See `entry.S` for the register contracts.
#![expect(unsafe_code, reason = "the assembly seam of OPAL mode")]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::spr::{self, Hid0, mfspr, mtspr};
use opal_calls::calls::MAX_ARGS;
use opal_calls::entry::{Bar, Entry, MAX_DEPTH};
use opal_calls::error::OpalError;

use super::serve;
use super::threads::{self, MAX_PIR, OpalThread};

/// What the entry code keeps of a call on the thread's stack.
#[repr(C, align(16))]
struct StackFrame {
    /// Back chain, CR, LR and the rest of the ABI's header, for what we call.
    header: [u64; 4],
    r1: u64,
    r2: u64,
    r13: u64,
    cr: u64,
    lr: u64,
    msr: u64,
    thread: u64,
    request: Request,
}

/// A call as it came in.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Request {
    /// r0.
    pub(super) token: u64,
    /// r3 to r10.
    pub(super) regs: [u64; MAX_ARGS],
}

/// The [`OpalThread`] of each hardware thread by PIR, 0 for one that may not call: all that the entry code has.
pub(super) static BY_PIR: [AtomicU64; MAX_PIR] = [const { AtomicU64::new(0) }; MAX_PIR];

/// The thread with this PIR.
pub(super) fn by_pir(pir: u32) -> Option<&'static OpalThread> {
    let slot = BY_PIR.get(usize::try_from(pir).ok()?)?;
    let thread: *const OpalThread =
        core::ptr::with_exposed_provenance(usize::try_from(slot.load(Ordering::Acquire)).ok()?);
    // SAFETY: null, or the address of an object that lives for ever (`super::start`).
    unsafe { thread.as_ref() }
}

const _: () = assert!(
    OpalThread::ENTRY_OFFSET + Entry::DEPTH_OFFSET == 0,
    "entry.S counts calls with lwarx at the block's address"
);

core::arch::global_asm!(
    include_str!("entry.S"),
    by_pir = sym BY_PIR,
    max_pir = const MAX_PIR,
    max_depth = const MAX_DEPTH,
    hold = const Bar::Hold as u32,
    busy = const OpalError::OPAL_BUSY.code(),
    internal_error = const OpalError::OPAL_INTERNAL_ERROR.code(),
    frame_size = const size_of::<StackFrame>(),
    f_r1 = const offset_of!(StackFrame, r1),
    f_r2 = const offset_of!(StackFrame, r2),
    f_r13 = const offset_of!(StackFrame, r13),
    f_cr = const offset_of!(StackFrame, cr),
    f_lr = const offset_of!(StackFrame, lr),
    f_msr = const offset_of!(StackFrame, msr),
    f_thread = const offset_of!(StackFrame, thread),
    f_token = const offset_of!(StackFrame, request) + offset_of!(Request, token),
    f_regs = const offset_of!(StackFrame, request) + offset_of!(Request, regs),
    bar = const OpalThread::ENTRY_OFFSET + Entry::BAR_OFFSET,
    normal_stack = const OpalThread::NORMAL_STACK_OFFSET,
    emergency_stack = const OpalThread::EMERGENCY_STACK_OFFSET,
    thread = const OpalThread::THREAD_OFFSET,
    opal_call = sym opal_call,
    opal_returned = sym opal_returned,
);

unsafe extern "C" {
    fn opal_entry();
    fn opal_launch(r3: u64, address: u64, r7: u64, r8: u64, r9: u64, msr: u64) -> !;
    fn opal_restart(thread: u64) -> !;
}

/// Where kernels enter: `opal-entry-address`.
pub(super) fn entry_address() -> u64 {
    opal_entry as *const () as u64
}

/// Where entry.S comes with a call, on a stack of the thread.
extern "C" fn opal_call(request: &Request, thread: &'static OpalThread) -> u64 {
    serve::call(request, thread)
}

/// Where [`give_up_stack`] comes, on a fresh stack.
extern "C" fn opal_returned(thread: &'static OpalThread) -> ! {
    threads::wait_for_work(thread)
}

/// Drops all that is on the thread's stack and waits for work: the thread is the firmware's again.
pub(super) fn give_up_stack(thread: &'static OpalThread) -> ! {
    // SAFETY: the stack is the thread's own; nothing on it is used again, and nothing on it is owed a drop that matters.
    unsafe { opal_restart(core::ptr::from_ref(thread).expose_provenance() as u64) }
}

/// What a kernel finds in its registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) r3: u64,
    pub(super) r7: u64,
    pub(super) r8: u64,
    pub(super) r9: u64,
    /// 64-bit mode, unless the kernel is a 32-bit one.
    pub(super) is_64_bit: bool,
}

/// Enters the kernel at `address`, big-endian, in real mode, with EE=ME=RI=0.
pub(super) fn launch(address: u64, with: Launch) -> ! {
    const SF: u64 = isa::ppc_bit(0);
    const HV: u64 = isa::ppc_bit(3);
    let msr = if with.is_64_bit { SF | HV } else { HV };
    // SAFETY: from here on the machine is the kernel's, which is what OPAL mode is for. The firmware's own memory is named in the
    // tree, and this thread's stack is not in use any more.
    unsafe { opal_launch(with.r3, address, with.r7, with.r8, with.r9, msr) }
}

/// Makes exceptions that go to the hypervisor little-endian or big-endian on this thread's core. Code of the firmware
/// that runs with its own vectors must not be under way: they are little-endian.
pub(super) fn set_exception_endianness(little: bool) {
    /// HILE.
    const LITTLE: u64 = isa::ppc_bit(4);
    let hid0 = mfspr::<Hid0>().0 & !LITTLE | if little { LITTLE } else { 0 };
    isa::barrier::sync();
    // SAFETY: says only how exceptions are taken; the vectors are the kernel's, and it asked for this.
    unsafe { mtspr(Hid0(hid0)) };
    isa::barrier::isync();
}

/// Brings the registers that a kernel expects in a known state to it.
pub(super) fn reset_for_kernel() {
    /// LPCR[DPFD] = 4 and nothing else: what kernels are used to.
    const LPCR: isa::lpcr::Lpcr = isa::lpcr::Lpcr::from_bits_retain(0x0040_0000_0000_0000);
    // SAFETY: translation is off; nothing wakes or interrupts the firmware any more on this thread.
    unsafe { mtspr(LPCR) };
    clear_authority();
}

/// Clears AMR, IAMR and PCR.
pub(super) fn clear_authority() {
    // SAFETY: no storage key is in use in real mode.
    unsafe { mtspr(spr::Amr(0)) };
    // SAFETY: as above.
    unsafe { mtspr(spr::Iamr(0)) };
    // SAFETY: allows all instructions of the processor.
    unsafe { mtspr(spr::Pcr(0)) };
    isa::barrier::isync();
}

/// Drops all cached translations of the machine.
pub(super) fn flush_translations() {
    isa::barrier::ptesync();
    // SAFETY: drops cached copies only. IS=3: all entries; RIC=2: tables' caches too; first process-scoped, then
    // partition-scoped, radix, and then hash.
    unsafe {
        core::arch::asm!(
            "tlbie {all}, {zero}, 2, 1, 1",
            "tlbie {all}, {zero}, 2, 0, 1",
            "tlbie {all}, {zero}, 2, 0, 0",
            "eieio",
            "tlbsync",
            all = in(reg_nonzero) 0xc00_u64,
            zero = in(reg_nonzero) 0_u64,
            options(nostack)
        );
    };
    isa::barrier::ptesync();
}

/// Sleeps until a doorbell, or shorter.
pub(super) fn doze() {
    /// Wake on a directed hypervisor doorbell; large decrementer, so that it does not run down.
    const LPCR: u64 = 0x0040_0000_0002_8000;
    // SAFETY: translation is off; only how the thread wakes changes.
    unsafe { mtspr(isa::lpcr::Lpcr::from_bits_retain(LPCR)) };
    isa::barrier::isync();
    // SAFETY: a decrementer that has run down would end every stop at once; let it run for years.
    unsafe { mtspr(spr::Dec(u64::MAX >> 9)) };
    // SAFETY: stop0 lite (EC = ESL = 0): loses nothing, goes on with the next instruction.
    unsafe { mtspr(spr::Psscr(0x300)) };
    isa::barrier::sync();
    isa::barrier::isync();
    // SAFETY: as said.
    unsafe { core::arch::asm!("stop", options(nostack)) };
    crate::threads::clear_doorbell();
}

//! The assembly of the image and the functions it calls. See `head.S`, `vectors.S`, `park.S` for the register contracts.
//!
//! Note for whoever adds assembly: the target has its vector features off so that the compiler makes no vector code, but
//! the assembler takes every POWER10 instruction all the same (tried: lxv, stxv, lxvp, plxv, mtvscr, mfvscr, mffs, mtfsf,
//! lfd, stop, hrfid, stbcix, tlbie with five operands, ptesync, msgsync). It lacks msgsnd and msgclr: `.long` those.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use isa::lpcr::Lpcr;
use isa::spr::{self, Spr};
use nest::chip::Chip;

use crate::boot;
use crate::chips;
use crate::console;
use crate::entry::park::{MAX_THREADS, PARK_SLOTS, PARKED, ParkSlot};
use crate::exception::{self, Cause, Dump, FRAME_SIZE, Frame};
use crate::opal::gather;
use crate::stack::{self, Kind, Stack};
use crate::stop;
use crate::thread::{self, EMERGENCY_STACK_TOP, Thread, ThreadBlock};
use crate::threads;

static BOOT_BLOCK: ThreadBlock = ThreadBlock::ZERO;
/// What boot runs on, and the boot thread's vCPU afterwards: descriptions of all chips and of the tree pass through, which are
/// larger than the stacks that calls have.
static BOOT_STACK: BootStack = BootStack([const { AtomicU64::new(0) }; BOOT_STACK_SIZE / 8]);
/// Bytes; a multiple of 64 KiB, as head.S adds it.
const BOOT_STACK_SIZE: usize = 0x4_0000;
static PARKED_BLOCK: ThreadBlock = ThreadBlock::ZERO;

/// Memory for a stack.
#[repr(C, align(65536))]
struct BootStack([AtomicU64; BOOT_STACK_SIZE / 8]);

impl BootStack {
    /// Its addresses.
    fn range(&self) -> core::ops::Range<u64> {
        let base = self.0.as_ptr().expose_provenance() as u64;
        base..base + BOOT_STACK_SIZE as u64
    }
}

core::arch::global_asm!(
    include_str!("head.S"),
    include_str!("vectors.S"),
    include_str!("park.S"),
    boot_block = sym BOOT_BLOCK,
    boot_stack = sym BOOT_STACK,
    boot_stack_size = const BOOT_STACK_SIZE,
    parked_block = sym PARKED_BLOCK,
    parked = sym PARKED,
    park_slots = sym PARK_SLOTS,
    max_threads = const MAX_THREADS,
    slot_size = const size_of::<ParkSlot>(),
    slot_thread = const offset_of!(ParkSlot, thread),
    slot_pir = const offset_of!(ParkSlot, pir),
    slot_present = const offset_of!(ParkSlot, present),
    boot_entry = sym boot_entry,
    secondary_entry = sym secondary_entry,
    firmware_exception = sym firmware_exception,
    emergency_top = const EMERGENCY_STACK_TOP,
    stack_header = const 96,
    frame_size = const FRAME_SIZE,
    t_r10 = const offset_of!(Thread, scratch_r10),
    t_r11 = const offset_of!(Thread, scratch_r11),
    t_r12 = const offset_of!(Thread, scratch_r12),
    t_cr = const offset_of!(Thread, scratch_cr),
    t_cfar = const offset_of!(Thread, scratch_cfar),
    t_r1 = const offset_of!(Thread, scratch_r1),
    t_emergency_stack = const offset_of!(Thread, emergency_stack),
    t_normal_stack = const offset_of!(Thread, normal_stack),
    t_exception_depth = const offset_of!(Thread, exception_depth),
    t_pir = const offset_of!(Thread, pir),
    f_gpr = const offset_of!(Frame, gpr),
    f_pc = const offset_of!(Frame, pc),
    f_msr = const offset_of!(Frame, msr),
    f_cr = const offset_of!(Frame, cr),
    f_lr = const offset_of!(Frame, lr),
    f_ctr = const offset_of!(Frame, ctr),
    f_xer = const offset_of!(Frame, xer),
    f_vector = const offset_of!(Frame, vector),
    f_depth = const offset_of!(Frame, depth),
);

/// The stacks of the thread that boots.
pub fn boot_stacks() -> impl Iterator<Item = Stack> {
    let pir = thread::pir();
    let boot = Stack {
        kind: Kind::Boot,
        pir,
        words: &BOOT_STACK.0,
    };
    [boot].into_iter().chain(BOOT_BLOCK.stacks(pir))
}

/// Where the elected thread comes from head.S, on the boot thread's stack.
extern "C" fn boot_entry(tree: u64, loaded_at: u64) -> ! {
    // A parked thread's exception is printed from this block's emergency stack.
    let parked = &PARKED_BLOCK.thread;
    let top = core::ptr::from_ref(&PARKED_BLOCK).expose_provenance() + EMERGENCY_STACK_TOP;
    parked.emergency_stack.store(top as u64, Ordering::Release);
    super::heap::start();
    gather::remember_first_data();
    // head.S let only these processors in.
    let Some(chip) = chips::identify(spr::mfspr()) else {
        stop::attention()
    };
    init_thread(chip);
    boot::boot(boot::Entry { tree, loaded_at }, chip)
}

/// Where a parked thread comes when it gets a Thread of its own.
extern "C" fn secondary_entry(thread: &'static Thread) -> ! {
    // head.S let only these processors in.
    match chips::identify(spr::mfspr()) {
        Some(chip) => init_thread(chip),
        None => stop::attention(),
    }
    threads::work(thread)
}

/// Brings this thread's control registers to what the firmware runs with. HILE was set before (head.S).
fn init_thread(chip: &Chip) {
    let setup = chip.core_setup(spr::mfspr());
    set(spr::Hid0(spr::mfspr::<spr::Hid0>().0 | setup.hid0_set));
    set(spr::Hmeer(spr::mfspr::<spr::Hmeer>().0 | setup.hmeer_set));
    set(spr::Rpr(setup.rpr));
    set(spr::Tscr(setup.tscr));
    set(spr::Dscr(setup.dscr));
    // Wake-up causes stay; external interrupts of a partition never come to the firmware.
    let lpcr = spr::mfspr::<Lpcr>() & Lpcr::PECE;
    set(lpcr | Lpcr::HEIC | Lpcr::from_bits_retain(DEFAULT_PREFETCH_DEPTH));
    set(spr::Pcr(0));
    set(spr::Amr(0));
    set(spr::Iamr(0));
    isa::barrier::isync();
}

/// LPCR[DPFD] = 4.
const DEFAULT_PREFETCH_DEPTH: u64 = 0x0040_0000_0000_0000;

fn set<S: Spr>(value: S) {
    // SAFETY: `init_thread` passes documented values of control registers that say nothing about where memory is or who may
    // interrupt; the firmware runs with translation off and EE=0.
    unsafe { spr::mtspr(value) };
}

/// Where vectors.S comes with an exception of the firmware, on the emergency stack.
extern "C" fn firmware_exception(frame: &Frame) -> ! {
    let cause = Cause {
        dar: spr::mfspr::<spr::Dar>().0,
        dsisr: spr::mfspr::<spr::Dsisr>().0,
        hdar: spr::mfspr::<spr::Hdar>().0,
        hdsisr: spr::mfspr::<spr::Hdsisr>().0,
        heir: spr::mfspr::<spr::Heir>().0,
        pir: u64::from(thread::pir()),
    };
    if frame.depth > 1 {
        console::emergency(format_args!(
            "another exception while reporting one: {:#x} at {:#x}\n",
            frame.vector & !2,
            frame.pc
        ));
        stop::attention()
    }
    console::emergency(format_args!("\n{}", Dump(frame, cause)));
    let [_, r1, ..] = frame.gpr;
    trace(frame.pc, r1);
    stop::attention()
}

/// Prints `pc` and the return addresses up the back chain from the stack frame at `r1`, and what may be the reason for it all.
fn trace(pc: u64, r1: u64) {
    let boot = BOOT_STACK.range();
    let stack = if boot.contains(&r1) {
        boot
    } else {
        thread::stack_range(thread::this_thread())
    };
    console::emergency(format_args!(
        "back-trace (names: addr2line -e nidus.elf):\n  {pc:016x}\n"
    ));
    // SAFETY: `back_trace` reads aligned doublewords inside `stack` only, which is memory of this thread's block, or boot's stack.
    let read =
        |at: u64| unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() };
    for address in exception::back_trace(r1, &stack, read) {
        console::emergency(format_args!("  {address:016x}\n"));
    }
    if let Some(stack) = stack::overflowed() {
        console::emergency(format_args!("the {stack} has overflowed\n"));
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    static PANICS: AtomicU8 = AtomicU8::new(0);
    if PANICS.fetch_add(1, Ordering::Relaxed) > 0 {
        stop::attention()
    }
    let us = isa::timebase::now().to_us();
    console::emergency(format_args!(
        "\n[{:5}.{:06} {:04x}] firmware {info}\n",
        us / 1_000_000,
        us % 1_000_000,
        thread::pir()
    ));
    let (pc, r1): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        core::arch::asm!("mr {0}, 1", "mflr {1}", out(reg) r1, out(reg) pc, options(nomem, nostack));
    };
    trace(pc, r1);
    stop::attention()
}

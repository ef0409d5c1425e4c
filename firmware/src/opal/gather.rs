//! Gathering all threads for a fast reboot, out of whatever the kernel does with them, and entering the image anew.
//!
//! A system reset brings each thread to a vector of ours; there it brings its registers to what they are after a reset and
//! waits, outside of all memory that the next boot writes. Surprising fact: up to [`begin_again`] the machine can still be
//! rebooted in the ordinary way, but never again be the kernel's: its vectors are gone.
#![expect(unsafe_code, reason = "the assembly seam of fast reboots")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use isa::lpcr::{Hfscr, Lpcr};
use isa::spr::{self, Spr, mtspr};
use spin::Once;

use super::entry::{self, BY_PIR};
use super::threads::{MAX_PIR, OpalThread};
use super::xive;
use crate::entry::ram;
use crate::fdt;

core::arch::global_asm!(
    include_str!("gather.S"),
    by_pir = sym BY_PIR,
    max_pir = const MAX_PIR,
    normal_stack = const OpalThread::NORMAL_STACK_OFFSET,
    thread = const OpalThread::THREAD_OFFSET,
    opal_gathered = sym opal_gathered,
);

unsafe extern "C" {
    static opal_landing: u8;
    static opal_landing_end: u8;
    static opal_waiting_room: u8;
    static opal_waiting_room_end: u8;
    static __image_start: u8;
    static __data_start: u8;
    static __image_end: u8;
    fn opal_begin_again(tree: u64, gate: u64, room: u64, data: u64) -> !;
}

/// Where the next boot finds its tree; as QEMU's machines have it.
const TREE_AT: u64 = 0x100_0000;
/// Below here a payload is in the way of image, tree or waiting room.
pub(super) const LOWEST_PAYLOAD: u64 = TREE_AT + fdt::MAX_SIZE as u64;
/// The system reset vector.
const LANDING_AT: u64 = 0x100;
/// Above the image as a loader places it, below the tree, not in the way of a payload.
const ROOM_AT: u64 = 0xff_0000;
const GATE_AT: usize = 0xff_0100;

const _: () = assert!(ROOM_AT + 0x100 == GATE_AT as u64);

/// The words of `.data` as they are in the file.
static FIRST_DATA: Once<Box<[u64]>> = Once::new();

/// Keeps what the image's variables are before anybody changes them, for who enters the image anew.
pub(crate) fn remember_first_data() {
    let start = (&raw const __data_start).expose_provenance();
    let end = (&raw const __image_end).expose_provenance();
    let words: Vec<u64> = (start..end)
        .step_by(8)
        .map(|at| {
            // SAFETY: memory of the image; one thread runs, and what lies there are plain words to whoever copies them.
            unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() }
        })
        .collect();
    FIRST_DATA.call_once(|| words.into_boxed_slice());
}

/// The words of the image that never change: code and constants.
pub(super) fn constant_part() -> impl Iterator<Item = u64> {
    let start = (&raw const __image_start).expose_provenance();
    let end = (&raw const __data_start).expose_provenance();
    (start..end).step_by(8).map(|at| {
        // SAFETY: memory of the image, aligned to 8 bytes; volatile, since nobody promises that a kernel has left it alone.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() }
    })
}

/// The bytes between two labels of the assembly, as words.
fn code(of: Range<*const u8>) -> Vec<u64> {
    let (start, end) = (of.start.expose_provenance(), of.end.expose_provenance());
    let word = |at: usize| {
        // SAFETY: code of the image, aligned to 8 bytes, followed by more code.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at).read() }
    };
    (start..end).step_by(8).map(word).collect()
}

/// The gate of the waiting room.
fn gate() -> &'static AtomicU32 {
    let gate: *const AtomicU32 = core::ptr::with_exposed_provenance(GATE_AT);
    // SAFETY: memory that is the kernel's no more (`prepare`); an atomic, for which every bit pattern is a value.
    unsafe { &*gate }
}

/// Takes the vectors from the kernel: from here on a thread that is reset comes to the firmware. `None`, and nothing
/// done, when memory is not what the constants above say.
pub(super) fn prepare() -> Option<()> {
    let landing = code(&raw const opal_landing..&raw const opal_landing_end);
    let room = code(&raw const opal_waiting_room..&raw const opal_waiting_room_end);
    ram::overwrite(ROOM_AT, &room)?;
    gate().store(0, Ordering::Relaxed);
    ram::overwrite(LANDING_AT, &landing)?;
    isa::barrier::sync();
    // SAFETY: orders the stores before fetches of the same addresses; the instruction cache snoops, so any one will do.
    unsafe { core::arch::asm!("icbi 0, {0}", in(reg_nonzero) LANDING_AT, options(nostack)) };
    isa::barrier::sync();
    isa::barrier::isync();
    Some(())
}

/// Puts the tree of the next boot in its place; `None` when it is too large for it.
pub(super) fn put_tree(blob: &[u8]) -> Option<()> {
    if blob.len() > fdt::MAX_SIZE {
        return None;
    }
    let words: Vec<u64> = blob.chunks(8).map(word_of).collect();
    ram::overwrite(TREE_AT, &words)
}

/// Up to eight bytes as memory has them.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_ne_bytes(word)
}

/// Where gather.S comes with a thread that was reset, on its empty stack.
extern "C" fn opal_gathered(thread: &'static OpalThread) -> ! {
    reset_registers();
    xive::quiet_thread();
    wait(thread.gathered())
}

/// Waits for the gate; `arrived` becomes 1 when the thread needs nothing of the firmware's memory any more.
fn wait(arrived: &AtomicU32) -> ! {
    let arrived = core::ptr::from_ref(arrived).expose_provenance();
    // SAFETY: the waiting room is in place (`prepare`) and needs nothing but its three registers; this stack is not used again.
    unsafe {
        core::arch::asm!(
            "mtctr {room}",
            "bctr",
            room = in(reg) ROOM_AT,
            in("r3") TREE_AT,
            in("r4") GATE_AT,
            in("r5") arrived,
            options(noreturn)
        )
    }
}

/// Puts the image where a loader puts it and lets all threads enter it. They all wait, tree and payload are in place.
pub(super) fn begin_again() -> ! {
    let data = FIRST_DATA.get().map_or(0, |data| data.as_ptr().addr());
    // SAFETY: no thread uses the firmware's memory any more but this one, whose stack is not used again.
    unsafe { opal_begin_again(TREE_AT, GATE_AT as u64, ROOM_AT, data as u64) }
}

/// Brings the registers of this thread that a kernel changes, and that a boot does not set itself, to what they are after
/// a reset.
pub(super) fn reset_registers() {
    /// MMCR0[FC]: no counter runs.
    const FROZEN: u64 = isa::ppc_bit(32);
    /// LPCR[DPFD] = 4, as kernels are given it.
    const LPCR: Lpcr = Lpcr::from_bits_retain(0x0040_0000_0000_0000);
    set(LPCR);
    set(spr::Lpidr(0));
    set(spr::Pidr(0));
    set(spr::Ptcr(0));
    set(spr::Amor(0));
    set(spr::Uamor(0));
    set(Hfscr::empty());
    set(spr::Fscr(0));
    set(spr::Ciabr(0));
    set(spr::Dawrx0(0));
    set(spr::Dawrx1(0));
    set(spr::Dexcr(0));
    set(spr::Hdexcr(0));
    set(spr::Mmcr0(FROZEN));
    set(spr::Mmcr1(0));
    set(spr::Mmcr2(0));
    set(spr::Mmcr3(0));
    set(spr::Mmcra(0));
    // No XSCOM of this thread is under way, so the outcome of the last one may go with the causes.
    set(spr::Hmer(0));
    entry::clear_authority();
}

fn set<S: Spr>(value: S) {
    // SAFETY: translation is off and EE=0; nothing of a partition, a program or a debugger is in force from here on, which is what
    // these registers are about.
    unsafe { mtspr(value) };
}

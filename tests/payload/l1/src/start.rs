//! From the entry code to the groups, and to the end: panics and interrupts that nobody expected.
#![expect(unsafe_code, reason = "entry symbol, allocator, assembly files")]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use papr_services::table::number::H_SET_MODE;

use crate::exploitation::{Controller, Exits};
use crate::groups;
use crate::hcall::hcall;
use crate::mem::{self, layout};
use crate::rtas::{self, Rtas};
use crate::tree::Tree;
use crate::{console, probe, report, say};

core::arch::global_asm!(include_str!("asm/entry.S"));
core::arch::global_asm!(include_str!("asm/vectors.S"));
core::arch::global_asm!(concat!(
    include_str!("asm/registers.S"),
    include_str!("asm/l2.S")
));

/// The payload has no heap: `papr-services` links `alloc`, what is used of it here never allocates.
struct NoHeap;

// SAFETY: an allocator that never gives memory out.
unsafe impl GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: NoHeap = NoHeap;

/// What the groups know of the machine.
pub(crate) struct Machine {
    /// RTAS calls and their tokens.
    pub rtas: Rtas,
    /// Bytes of L1 real memory from 0.
    pub memory: u64,
    /// Hardware server number of this thread.
    pub server: u64,
    /// Interrupt source of the console.
    pub console_source: Option<u32>,
    /// The interrupt controller in exploitation mode; `None`: XICS by hypercalls.
    pub controller: Option<Controller>,
    /// Whether the arguments ask for XICS, or say that it is to be expected.
    pub wants_xics: bool,
    /// Whether somebody types on the console when asked to: `keyboard` in the arguments.
    pub has_keyboard: bool,
    /// Where exits are counted.
    pub exits: Option<Exits>,
    /// `seed=` of the arguments, for random cases.
    pub seed: u64,
    /// `rounds=` of the arguments, for races; 0 without it.
    pub rounds: u64,
    /// `race=` of the arguments: the names of races, separated by commas; all without it.
    pub races: Option<&'static str>,
    /// `cpu-version` of the first processor in the tree; 0 without one.
    pub cpu_version: u32,
}

/// Called by the entry code: little-endian, 64-bit, real mode, with a stack.
///
/// SAFETY: the name is the entry code's only reference; nothing else in the image has it.
#[unsafe(no_mangle)]
extern "C" fn payload_start(tree_address: u64) -> ! {
    report::init(console::SINK);
    probe::init(unexpected_interrupt);
    let little = hcall(H_SET_MODE, [1, 4, 0, 0]).code();
    say!("payload: L1 program of the tests, H_SET_MODE little-endian: {little}");
    let tree = mem::tree(tree_address).and_then(Tree::new);
    let args = rtas::bootargs(tree.as_ref());
    let number = |prefix| {
        let mut words = args.split_whitespace();
        words
            .find_map(|word| word.strip_prefix(prefix)?.parse().ok())
            .unwrap_or(0)
    };
    let says = |wanted| args.split_whitespace().any(|word| word == wanted);
    let machine = Machine {
        seed: number("seed="),
        rounds: number("rounds="),
        controller: Controller::new(tree.as_ref()),
        races: args
            .split_whitespace()
            .find_map(|w| w.strip_prefix("race=")),
        // The kernel's own word, and what says so when the firmware's was taken out.
        wants_xics: says("xive=off") || says("expect=xics"),
        has_keyboard: says("keyboard"),
        exits: Exits::new(tree.as_ref()),
        rtas: Rtas::new(tree.as_ref()),
        memory: memory(tree.as_ref()),
        console_source: tree.and_then(|t| t.number(&["vdevice", "vty"], "interrupts")),
        server: processor(tree.as_ref(), "ibm,ppc-interrupt-server#s").into(),
        cpu_version: processor(tree.as_ref(), "cpu-version"),
    };
    if let Some(token) = machine.rtas.token("power-off") {
        POWER_OFF.store(token, Ordering::Relaxed);
    }
    say!(
        "payload: tree at {tree_address:#x}, memory {:#x}, server {}, arguments: {args}",
        machine.memory,
        machine.server
    );
    let rtas_end = u64::from(machine.rtas.base) + u64::from(machine.rtas.size);
    let clear = |start: u64, end: u64| end <= layout::START || start >= layout::END;
    if machine.memory < layout::END
        || mem::image_end() > layout::START
        || !clear(u64::from(machine.rtas.base), rtas_end)
        || !clear(tree_address, tree_address + 0x1_0000)
    {
        say!("payload: memory at 16 MiB to 128 MiB is not free; nothing was tried");
        report::failure();
    } else {
        groups::run(&machine, args);
    }
    end()
}

/// Memory of the first `memory` node; two cells address, two cells size.
fn memory(tree: Option<&Tree<'static>>) -> u64 {
    let reg = tree.and_then(|t| t.property(&["memory"], "reg"));
    let cell = |n| Some(u64::from(crate::tree::cell(reg?, n)?));
    match (cell(2), cell(3)) {
        (Some(high), Some(low)) => high << 32 | low,
        // No tree: QEMU's own pseries machine with its client interface, 512 MiB by default.
        _ => 0x2000_0000,
    }
}

/// A number of the first processor, which is the thread that runs; without a tree it is 0.
fn processor(tree: Option<&Tree<'static>>, property: &str) -> u32 {
    let names = [
        "PowerPC,POWER9",
        "PowerPC,POWER10",
        "PowerPC,Power11",
        "PowerPC,POWER11",
        "cpu",
    ];
    let number = |name| tree?.number(&["cpus", name], property);
    names.into_iter().find_map(number).unwrap_or(0)
}

/// Token of power-off, also for the paths that do not have the tree at hand; none is 0.
static POWER_OFF: AtomicU32 = AtomicU32::new(0);

/// Prints the summary and turns the partition off.
fn end() -> ! {
    report::summary();
    let token = POWER_OFF.load(Ordering::Relaxed);
    let (code, status) = rtas::call(token, &[u32::MAX, u32::MAX], 1);
    say!("payload: still here after power-off: {code}, status {status}");
    loop {
        core::hint::spin_loop();
    }
}

extern "C" fn unexpected_interrupt(vector: u64) -> ! {
    let t = probe::last();
    report::failure();
    say!(
        "payload FAILED: interrupt {vector:#x} at {:#x}, SRR1 {:#x}, DAR {:#x}, DSISR {:#x}",
        t.srr0,
        t.srr1,
        t.dar,
        t.dsisr
    );
    end()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::failure();
    say!("payload FAILED: {info}");
    end()
}

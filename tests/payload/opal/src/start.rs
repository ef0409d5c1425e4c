//! From the entry code to the groups, and to the end: panics and interrupts that nobody expected.
#![expect(unsafe_code, reason = "allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::sync::atomic::Ordering;

use opal_calls::calls::token;
use payload_common::tree::{Tree, cell, text};

use crate::call::{self, SINK, quietly};
use crate::groups;
use crate::mem::{self, layout, low};
use crate::thread::{self, Thread};
use crate::{report, say};

/// The payload has no heap: `opal-calls` links `alloc`, what is used of it here never allocates.
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

/// Most hardware threads that the payload uses.
pub(crate) const MOST_THREADS: usize = 16;

/// What the groups know of the machine.
pub(crate) struct Machine {
    /// Registers at the first instruction: r3, r8, r9, MSR.
    pub(crate) entry: [u64; 4],
    /// `opal-base-address`, `opal-entry-address`, `opal-runtime-size`.
    pub(crate) opal: [u64; 3],
    /// First address behind the memory of the first chip.
    pub(crate) memory_end: u64,
    /// Hardware threads of the tree, the boot thread first.
    pub(crate) threads: [u64; MOST_THREADS],
    /// How many of them there are.
    pub(crate) thread_count: usize,
    /// Whether this is skiboot: what it would not survive is left out.
    pub(crate) on_skiboot: bool,
    /// Bytes of NVRAM by the tree, 0 without.
    pub(crate) nvram: u64,
    /// Bytes of the flash and of its erase blocks by the tree, 0 without.
    pub(crate) flash: [u64; 2],
    /// A node of the tree: the interrupt controller.
    pub(crate) phandle: u64,
    /// Whether the tree has a nest MMU.
    pub(crate) has_nest_mmu: bool,
    /// Fast reboots since the machine was reset, as Nidus tells itself.
    pub(crate) fast_reboots: u64,
    /// Where the firmware keeps a copy of this program, 0 when it does not.
    pub(crate) kept: u64,
    /// The control structure of the memory console.
    pub(crate) log: u64,
    /// Whether it has sensors.
    pub(crate) has_sensors: bool,
    /// An interrupt of the firmware itself.
    pub(crate) isn: u64,
}

/// Called by the entry code: little-endian, 64-bit, real mode, with a stack; r3, r8, r9, MSR and time base as they
/// were at the first instruction.
pub(crate) extern "C" fn payload_start(r3: u64, r8: u64, r9: u64, msr: u64, began: u64) -> ! {
    let Some(tree) = mem::tree(r3).and_then(Tree::new) else {
        // Nobody can be told.
        loop {
            core::hint::spin_loop();
        }
    };
    let opal = [
        "opal-base-address",
        "opal-entry-address",
        "opal-runtime-size",
    ]
    .map(|name| wide(tree.property(&["ibm,opal"], name)));
    mem::write64(low::OPAL_BASE, opal[0]);
    mem::write64(low::OPAL_ENTRY, opal[1]);
    thread::init();
    report::init(SINK);
    let little = call::call(token::OPAL_REINIT_CPUS, [2]);
    say!("payload: OPAL program of the tests, exceptions little-endian: {little}");
    let args = tree.property(&["chosen"], "bootargs").and_then(text);
    let args = args.unwrap_or_default();
    let mut machine = Machine {
        entry: [r3, r8, r9, msr],
        opal,
        memory_end: 0,
        threads: [0; MOST_THREADS],
        thread_count: 1,
        on_skiboot: is_skiboot(&tree),
        nvram: number(&tree, &["ibm,opal", "nvram"], "#bytes"),
        flash: [
            wide(tree.property(&["ibm,opal", "flash"], "reg")),
            number(&tree, &["ibm,opal", "flash"], "ibm,flash-block-size"),
        ],
        phandle: number(&tree, &["ibm,opal"], "interrupt-parent"),
        has_nest_mmu: false,
        fast_reboots: number(&tree, &["chosen"], "nidus,fast-reboot"),
        kept: 0,
        log: wide(tree.property(&["ibm,opal"], "ibm,opal-memcons")),
        has_sensors: false,
        isn: number(&tree, &["ibm,opal"], "opal-interrupts"),
    };
    machine.threads[0] = thread::boot().pir.load(Ordering::Relaxed);
    look_around(&tree, &mut machine);
    say!(
        "payload: tree at {r3:#x}, OPAL at {:#x}, memory to {:#x}, {} threads, skiboot {}, arguments: {args}",
        opal[1],
        machine.memory_end,
        machine.thread_count,
        machine.on_skiboot
    );
    say!("bench reset-to-kernel ticks={began} count=1");
    let tree_end = r3 + 0x10_0000;
    if machine.memory_end < layout::END
        || mem::image_end() > layout::START
        || opal[0] < layout::END
        || (r3 < layout::END && tree_end > layout::START)
    {
        say!("payload: memory at 32 MiB to 64 MiB is not free; nothing was tried");
        report::failure();
    } else {
        groups::run(&machine, args);
    }
    end()
}

/// A doubleword property, 0 without.
fn wide(bytes: Option<&[u8]>) -> u64 {
    let cell = |n| Some(u64::from(cell(bytes?, n)?));
    match (cell(0), cell(1)) {
        (Some(high), Some(low)) => high << 32 | low,
        _ => 0,
    }
}

fn number(tree: &Tree<'_>, path: &[&str], name: &str) -> u64 {
    tree.number(path, name).unwrap_or(0).into()
}

/// Nidus says so in `/ibm,opal/firmware`; whatever else that is has skiboot's manners.
fn is_skiboot(tree: &Tree<'_>) -> bool {
    let version = tree.property(&["ibm,opal", "firmware"], "version");
    version
        .and_then(text)
        .is_none_or(|version| !version.starts_with("nidus"))
}

/// Finds memory and threads.
fn look_around(tree: &Tree<'_>, machine: &mut Machine) {
    tree.children(&[], |node, name, value| {
        if node.starts_with("memory@") && name == "reg" {
            let end = wide(Some(value)) + wide(value.get(8..));
            if machine.memory_end == 0 || wide(Some(value)) == 0 {
                machine.memory_end = end;
            }
        }
    });
    tree.children(&["reserved-memory"], |node, name, value| {
        if node.starts_with("ibm,firmware-payload@") && name == "reg" {
            machine.kept = wide(Some(value));
        }
    });
    tree.children(&["xscom"], |node, _, _| {
        machine.has_nest_mmu |= node.starts_with("nmmu@");
    });
    tree.children(&["ibm,opal", "sensors"], |_, _, _| {
        machine.has_sensors = true;
    });
    tree.children(&["cpus"], |_, name, value| {
        if name == "ibm,ppc-interrupt-server#s" {
            for index in 0..value.len() / 4 {
                let pir = u64::from(cell(value, index).unwrap_or(0));
                let count = machine.thread_count;
                if !machine.threads[..count].contains(&pir) && count < MOST_THREADS {
                    machine.threads[count] = pir;
                    machine.thread_count += 1;
                }
            }
        }
    });
}

/// Prints the summary and turns the machine off; polls until it is, as a kernel does.
fn end() -> ! {
    report::summary();
    let code = quietly(token::OPAL_CEC_POWER_DOWN, [0]);
    if code != 0 {
        say!("payload: OPAL_CEC_POWER_DOWN: {code}");
    }
    loop {
        quietly(token::OPAL_POLL_EVENTS, [0]);
    }
}

/// Where the vectors come with what nobody expected.
pub(crate) extern "C" fn unexpected_interrupt(thread: &'static Thread) -> ! {
    report::failure();
    let value = |word: &core::sync::atomic::AtomicU64| word.load(Ordering::Relaxed);
    say!(
        "payload FAILED: interrupt {:#x} on thread {:#x} at {:#x}, (H)SRR1 {:#x}, DAR {:#x}, DSISR {:#x}",
        value(&thread.vector),
        value(&thread.pir),
        value(&thread.srr0),
        value(&thread.srr1),
        value(&thread.dar),
        value(&thread.dsisr)
    );
    end()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::failure();
    say!("payload FAILED: {info}");
    end()
}

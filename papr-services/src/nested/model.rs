//! The agreement between threads about a guest, under every order of the threads: faults against invalidations, changes
//! of the tree and of its tables, runs against deletions.
//!
//! What runs is the code of this crate, with locks and atomics of loom: `cargo test -p papr-services --features model
//! model::`. Only the machine is modelled: a TLB that forgets when it is told, doorbells that end a stay in the guest. The
//! surprising fact: a lost kick shows as a deletion that waits for ever, for here nothing else ends a run.

mod runs;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::sync::atomic::{AtomicU64, Ordering};

use isa::addr::{Ea, Gra, Nra, Ra};
use isa::pte::Pte;
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::pool::{TablePool, TableQuota};
use super::shadow::{FirstTables, Outcome, PageFault, Shadow, cause};
use crate::guest_ram::{Extent, GuestRam};
use crate::host::fakes::no_devices;
use crate::host::{Flush, Host};
use crate::radix::{self, Leaf, Root};

const LPID: u32 = 7;
/// The page that is about, in the guest.
const AT: Nra = Nra(0x1000);
/// Its two places in the partition's memory.
const OLD: u64 = 0x4_0000;
const NEW: u64 = 0x5_0000;
/// The partition's tree: a root, a second root, and two tables of each of the levels below.
const ROOTS: [u64; 2] = [0x1_0000, 0x6_0000];
const GIGABYTES: [u64; 2] = [0x2_0000, 0x2_1000];
const MEGABYTES: [u64; 2] = [0x2_2000, 0x2_3000];
const PAGES: [u64; 2] = [0x2_4000, 0x2_5000];
const MEMORY: usize = 0x8_0000;
const fn leaf(frame: u64, bits: Pte) -> u64 {
    Pte::VALID.bits() | Pte::LEAF.bits() | bits.bits() | frame
}

const fn directory(table: u64) -> u64 {
    Pte::VALID.bits() | table | 9
}

const fn rights() -> Pte {
    Pte::READ.union(Pte::WRITE)
}

const fn all() -> Pte {
    rights().union(Pte::R).union(Pte::C)
}

/// What hardware knows, and what became of the memory that it used.
#[derive(Default)]
struct Hardware {
    tlb: Option<Leaf<Ra>>,
    /// A page of the partition that the guest must not reach any more.
    gone: Option<Ra>,
    /// Stores that arrived.
    stores: Vec<Ra>,
    /// Valid partition-table entries that were written, and how often it was cleared.
    entries: (u32, u32),
}

/// The machine, with one thread for each vCPU of the partition.
struct Machine {
    hardware: Mutex<Hardware>,
    doorbells: [(Mutex<bool>, Condvar); 3],
    /// Whether flushes, and kicks, do what they should.
    flushes: bool,
    kicks: bool,
    /// Whether a call waits for other threads.
    waits: bool,
}

impl Machine {
    fn new() -> Self {
        Self {
            hardware: Mutex::new(Hardware::default()),
            doorbells: [(); 3].map(|()| (Mutex::new(false), Condvar::new())),
            flushes: true,
            kicks: true,
            waits: true,
        }
    }

    /// The guest runs until somebody kicks the thread.
    fn stay_in_guest(&self, vcpu: usize) {
        let (rung, bell) = &self.doorbells[vcpu];
        let mut rung = rung.lock().unwrap();
        while !*rung {
            rung = bell.wait(rung).unwrap();
        }
        *rung = false;
    }

    /// A store of the guest: through the TLB, or through the tables into the TLB. False is a storage interrupt.
    fn store(&self, shadow: &Shadow) -> bool {
        let mut hardware = self.hardware.lock().unwrap();
        if hardware.tlb.is_none() {
            let root = Root {
                base: shadow.root_ra().unwrap(),
            };
            let walked = radix::walk(shadow, root, AT).ok();
            hardware.tlb = walked.filter(|leaf| leaf.pte().contains(Pte::WRITE));
        }
        let Some(leaf) = hardware.tlb else {
            return false;
        };
        assert_ne!(
            Some(leaf.at),
            hardware.gone,
            "a store to a page that is gone"
        );
        hardware.stores.push(leaf.at);
        true
    }
}

impl Host for Machine {
    fn timebase(&self) -> u64 {
        1 << 40
    }
    fn flush(&self, _: Flush) {
        let mut hardware = self.hardware.lock().unwrap();
        if self.flushes {
            hardware.tlb = None;
        }
    }
    fn set_partition_table_entry(&self, _: u32, pate: [u64; 2]) {
        let mut hardware = self.hardware.lock().unwrap();
        match pate {
            [0, 0] => hardware.entries.1 += 1,
            _ => hardware.entries.0 += 1,
        }
        hardware.tlb = None;
    }
    no_devices!();
    fn vcpu(&self) -> u32 {
        VCPU.with(|vcpu| vcpu.get())
    }
    fn kick(&self, vcpu: u32) {
        if self.kicks {
            let (rung, bell) = &self.doorbells[vcpu as usize];
            *rung.lock().unwrap() = true;
            bell.notify_one();
        }
    }
    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        loop {
            if done() {
                return true;
            }
            if !self.waits {
                return false;
            }
            thread::yield_now();
        }
    }
    fn interrupt_pending(&self) -> bool {
        false
    }
}

loom::thread_local! {
    /// The vCPU of the partition that a thread is.
    static VCPU: Cell<u32> = Cell::new(0);
}

/// Memory for one model after the other: it is for ever. A test has a thread of its own, on which loom runs all of its.
fn words(bytes: usize, kept: &OnceCell<&'static [AtomicU64]>) -> &'static [AtomicU64] {
    let words = *kept.get_or_init(|| {
        Box::leak(
            (0..bytes / 8)
                .map(|_| AtomicU64::new(0))
                .collect::<Vec<_>>()
                .into_boxed_slice(),
        )
    });
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
    words
}

std::thread_local! {
    static RAM: OnceCell<&'static [AtomicU64]> = const { OnceCell::new() };
    static POOL: OnceCell<&'static [AtomicU64]> = const { OnceCell::new() };
}

fn partition() -> GuestRam {
    let ram = GuestRam::new(&[Extent {
        gra: Gra(0),
        ra: Ra(1 << 30),
        memory: RAM.with(|kept| words(MEMORY, kept)),
    }])
    .unwrap();
    for n in [0, 1] {
        set(&ram, ROOTS[n], directory(GIGABYTES[n]));
        set(&ram, GIGABYTES[n], directory(MEGABYTES[n]));
        set(&ram, MEGABYTES[n], directory(PAGES[n]));
    }
    ram
}

fn set(ram: &GuestRam, at: u64, entry: u64) {
    crate::sync::point();
    ram.write(Gra(at), &entry.to_be_bytes()).unwrap();
}

fn ra(frame: u64) -> Ra {
    Ra((1 << 30) + frame)
}

fn tables() -> Arc<TableQuota> {
    tables_of(u64::MAX)
}

/// The same, of which so many bytes can be had.
fn tables_of(limit: u64) -> Arc<TableQuota> {
    let memory = POOL.with(|kept| words(4 << 16, kept));
    let pool = TablePool::new(Ra(0x70_0000_0000), memory).unwrap();
    Arc::new(TableQuota::new(Arc::new(pool), limit))
}

/// Tries the orders of threads that interrupt each other at most this often where they need not.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// A guest whose page is mapped, without a partition around it.
struct Faulting {
    ram: GuestRam,
    machine: Machine,
    shadow: Shadow,
}

impl Faulting {
    /// The page is in its old place; the entry has these bits.
    fn new(machine: Machine, bits: Pte) -> Arc<Self> {
        let ram = partition();
        set(&ram, PAGES[0] + 8, leaf(OLD, bits));
        set(&ram, PAGES[1] + 8, leaf(NEW, bits));
        let tables = tables();
        let shadow = Shadow::new(tables.clone(), LPID);
        shadow.furnish(FirstTables::new(&tables).unwrap());
        shadow.set_table(Some(Gra(ROOTS[0])), &machine);
        Arc::new(Self {
            ram,
            machine,
            shadow,
        })
    }

    /// The guest stores, and faults as often as it must; it gives up when others keep it from it.
    fn store(&self) {
        for _ in 0..3 {
            if self.machine.store(&self.shadow) {
                return;
            }
            let fault = PageFault::data(AT.0, Ea(AT.0), cause::NO_TRANSLATION | cause::STORE);
            match self.shadow.fault(&self.ram, &fault, &self.machine) {
                Outcome::Resolved => {}
                Outcome::Retry => thread::yield_now(),
                Outcome::Reflect { .. } => return,
            }
        }
    }

    /// From now on no store goes to the old place.
    fn old_is_gone(&self) {
        self.machine.hardware.lock().unwrap().gone = Some(ra(OLD + (AT.0 & 0xfff)));
    }

    /// Runs `change` beside vCPUs that store, then looks at what is left.
    fn against(self: &Arc<Self>, vcpus: usize, change: impl FnOnce(&Self)) {
        let others: Vec<_> = (0..vcpus)
            .map(|_| {
                let world = self.clone();
                thread::spawn(move || world.store())
            })
            .collect();
        change(self);
        for other in others {
            other.join().unwrap();
        }
        self.store();
        let last = self.machine.hardware.lock().unwrap().stores.last().copied();
        assert_eq!(last, Some(ra(NEW)));
        self.shadow.retire(&self.machine);
    }
}

fn moved_page(machine: Machine, vcpus: usize, bits: Pte) {
    Faulting::new(machine, bits).against(vcpus, |world| {
        set(&world.ram, PAGES[0] + 8, leaf(NEW, bits));
        world
            .shadow
            .invalidate(AT, Nra(AT.0 + 0x1000), &world.machine);
        world.old_is_gone();
    });
}

#[test]
fn no_store_reaches_a_page_that_was_invalidated() {
    check(3, || moved_page(Machine::new(), 1, all()));
}

#[test]
fn nor_when_two_vcpus_fault_on_it() {
    check(2, || moved_page(Machine::new(), 2, all()));
}

#[test]
fn nor_when_the_fault_sets_r_and_c() {
    check(3, || moved_page(Machine::new(), 1, rights()));
}

/// The test of the tests: the same without flushes.
#[test]
#[should_panic = "a store to a page that is gone"]
fn without_a_flush_a_store_reaches_it() {
    check(3, || {
        let machine = Machine {
            flushes: false,
            ..Machine::new()
        };
        moved_page(machine, 1, all());
    });
}

#[test]
fn no_store_goes_through_a_tree_that_was_replaced() {
    check(3, || {
        Faulting::new(Machine::new(), all()).against(1, |world| {
            world.shadow.set_table(Some(Gra(ROOTS[1])), &world.machine);
            world.old_is_gone();
        });
    });
}

/// The partition replaces a table of leaves and drops its walk cache; then the old table is other memory, which no fault
/// changes.
#[test]
fn no_r_or_c_appears_in_a_table_that_was_replaced() {
    check(3, || {
        let world = Faulting::new(Machine::new(), rights());
        let junk = leaf(OLD, rights());
        world.against(1, |world| {
            set(&world.ram, MEGABYTES[0], directory(PAGES[1]));
            world.shadow.invalidate_all(&world.machine);
            world.old_is_gone();
            set(&world.ram, PAGES[0] + 8, junk);
        });
        assert_eq!(world.ram.read_be64(Gra(PAGES[0] + 8)), Ok(junk));
    });
}

//! The costs of `bench` over the older nesting API (`H_ENTER_NESTED`), for a hypervisor that is measured beside this
//! firmware and has no other: Linux with KVM. Lines as `bench` has them, under the same names.
//!
//! The surprise: with this API the caller keeps the state of its guest and hands over all of it at each entry, so there
//! is no cheaper run with fewer elements. Formats: nested.md 5.

use isa::lpcr::Lpcr;
use isa::pte::{PageSize, pate_process_table, pate_root};

use super::bench::{common, time};
use super::bench_nested::{self, Nested};
use crate::guest::{L2_HFSCR, L2_MSR, far, program};
use crate::hcall::hcall;
use crate::mem;
use crate::mem::layout::{BUFFER, BUFFER2, L2_MEMORY, L2_MEMORY_SIZE, PROCESS_TABLE, TABLES};
use crate::radix::{ALL, Tree, set_entry};
use crate::report::case;
use crate::start::Machine;

const H_SET_PARTITION_TABLE: u64 = 0xf800;
const H_ENTER_NESTED: u64 = 0xf804;
const H_TLB_INVALIDATE: u64 = 0xf808;

/// `hv_guest_state`, version 2.
const STATE: u64 = BUFFER;
/// `pt_regs`.
const REGS: u64 = BUFFER2;
const NIP: u64 = REGS + 0x100;
const MSR: u64 = REGS + 0x108;
/// The guest's number in the partition table.
const LPID: u64 = 1;

fn gpr(n: u64, value: u64) {
    mem::write64(REGS + n * 8, value);
}

/// Enters the guest: the trap that ended it, or a refusal.
fn enter() -> i64 {
    hcall(H_ENTER_NESTED, [STATE, REGS]).code()
}

/// Enters the guest at a program.
fn start(nip: u64) -> i64 {
    mem::write64(NIP, nip);
    mem::write64(MSR, L2_MSR.bits());
    enter()
}

/// Drops all that the hypervisor keeps of the guest's translations: RIC = 2, IS = 2, R.
fn invalidate_all() -> i64 {
    hcall(H_TLB_INVALIDATE, [2 << 18 | 1 << 16, LPID, 2 << 10]).code()
}

/// Drops one 4K page: RIC = 0, IS = 0, AP of 4K.
fn invalidate_page(at: u64) -> i64 {
    hcall(H_TLB_INVALIDATE, [1 << 16, LPID, at & !0xfff]).code()
}

pub(super) fn run(_: &Machine) {
    common();
    mem::fill(PROCESS_TABLE, 4096, 0);
    mem::fill(L2_MEMORY, L2_MEMORY_SIZE, 0);
    mem::install(L2_MEMORY, mem::l2_image());
    let mut tree = Tree::at(TABLES);
    tree.map_range(0, L2_MEMORY, L2_MEMORY_SIZE, PageSize::Size4K, ALL);
    set_entry(PROCESS_TABLE + LPID * 16, pate_root(tree.root));
    set_entry(PROCESS_TABLE + LPID * 16 + 8, pate_process_table(0, 0));
    let table = hcall(H_SET_PARTITION_TABLE, [PROCESS_TABLE]).code();
    case("bench-v1/partition-table", table, 0);
    if table != 0 {
        return;
    }
    mem::fill(STATE, 0xf8, 0);
    mem::fill(REGS, 0x180, 0);
    mem::write64(STATE, 2);
    // The number and the vCPU's token are 32 bits each.
    mem::write64(STATE + 0x08, LPID);
    mem::write64(
        STATE + 0x10,
        (Lpcr::ILE | Lpcr::LD | Lpcr::UPRT | Lpcr::HR).bits(),
    );
    mem::write64(STATE + 0x20, u64::MAX);
    mem::write64(STATE + 0x30, L2_HFSCR.bits());
    mem::write64(STATE + 0x58, far());
    case("bench-v1/invalidate", invalidate_all(), 0);
    case("bench-v1/calls", start(program::CALLS), 0xc00);
    time("run-minimal", 200, || {
        enter();
    });
    time("run-32-dirty", 200, || {
        for n in 0..32 {
            gpr(n, 0x1230);
        }
        enter();
    });
    bench_nested::run(&mut Guest { tree });
    let [small, ..] = &bench_nested::TOUCHES;
    time("invalidate-page", 16, || {
        invalidate_page(small.at);
    });
}

/// The guest: its state is in the two structures.
struct Guest {
    tree: Tree,
}

impl Nested for Guest {
    fn start(&mut self, program: u64, r5: [u64; 3]) -> i64 {
        for (n, value) in (5..).zip(r5) {
            gpr(n, value);
        }
        start(program)
    }

    fn resume(&mut self) -> i64 {
        enter()
    }

    fn emulate(&mut self, value: u64) -> i64 {
        mem::write64(NIP, mem::read64(NIP) + 4);
        gpr(4, value);
        enter()
    }

    fn fault_address(&self) -> u64 {
        mem::read64(STATE + 0x98)
    }

    fn tree(&mut self) -> &mut Tree {
        &mut self.tree
    }

    fn invalidate(&mut self, start: u64, end: u64) {
        for page in (start..end).step_by(0x1000) {
            invalidate_page(page);
        }
    }

    fn invalidate_all(&mut self) {
        invalidate_all();
    }
}

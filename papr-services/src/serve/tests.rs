//! Every served row with good and bad arguments, through [`hypercall`], on a model of the machine.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::sync::atomic::Ordering;

use isa::addr::{Gra, Ra};
use isa::context::{Changed, GuestContext};
use isa::lpcr::Lpcr;
use isa::msr::{Msr, PROGRAM_PRIVILEGED};
use proptest::prelude::*;

use super::{After, hypercall};
use crate::error::HCode;
use crate::guest_ram::GuestRam;
use crate::guest_ram::tests::{flat, memory};
use crate::host::fakes::Machine;
use crate::host::{Flush, ProcessFlush};
use crate::level::Level;
use crate::nested::guest::{Lpids, Quotas};
use crate::nested::pool::{TablePool, TableQuota};
use crate::partition::{Characteristics, NestedShare, Partition, Policy, RunState, Stop};
use crate::table::{TABLE, number};
use crate::{rtas, term};

/// Bytes of the test partition.
pub(crate) const MEMORY: u64 = 1 << 20;
const ROOT: u64 = 0xc000_0000_1234_00ad;

/// A partition with this many vCPUs, and a machine under it.
pub(crate) struct World {
    pub(crate) partition: Partition,
    pub(crate) machine: Machine,
    pub(crate) vcpu: GuestContext,
}

impl World {
    pub(crate) fn new(vcpus: u16) -> Self {
        Self::with_ram(vcpus, flat(usize::try_from(MEMORY).unwrap()))
    }

    pub(crate) fn with_ram(vcpus: u16, ram: GuestRam) -> Self {
        let pool = TablePool::new(Ra(0x7000_0000), memory(1 << 18)).unwrap();
        let share = NestedShare {
            quotas: Quotas {
                guests: 4,
                vcpus: 8,
                heap_bytes: 1 << 20,
            },
            tables: Arc::new(TableQuota::new(Arc::new(pool), 1 << 20)),
            lpids: Arc::new(Lpids::new(2..64)),
        };
        let policy = Policy {
            level: Level::Power10,
            name: String::from("test"),
            random: true,
            characteristics: Characteristics::POWER10,
        };
        let vcpus = NonZeroU16::new(vcpus).unwrap();
        let partition = Partition::new(ram, 1, ROOT, vcpus, policy, share);
        let mut vcpu = partition.boot_context(Gra(0x40_0000), Gra(0x40_0000), Gra(0x100_0000));
        vcpu.changed = Changed::empty();
        vcpu.nia = 0x1_0004;
        Self {
            partition,
            machine: Machine::new(),
            vcpu,
        }
    }

    /// Makes a call from vCPU 0.
    pub(crate) fn after(&mut self, number: u64, args: &[u64]) -> After {
        self.vcpu.gpr[3] = number;
        self.vcpu.gpr[4..13].fill(0xdead);
        self.vcpu.gpr[4..4 + args.len()].copy_from_slice(args);
        hypercall(&mut self.vcpu, 0, &self.partition, &self.machine)
    }

    /// Makes a call that answers at once: r3.
    pub(crate) fn call(&mut self, number: u64, args: &[u64]) -> i64 {
        assert!(matches!(self.after(number, args), After::Resume));
        self.vcpu.gpr[3].cast_signed()
    }

    /// Makes a call that succeeds: `N` outputs.
    pub(crate) fn get<const N: usize>(&mut self, number: u64, args: &[u64]) -> [u64; N] {
        assert_eq!(self.call(number, args), 0);
        self.vcpu.gpr[4..4 + N].try_into().unwrap()
    }

    pub(crate) fn prepare_entry(&mut self) {
        self.partition
            .prepare_entry(&mut self.vcpu, 0, &self.machine);
    }
}

use HCode::{
    H_BUSY, H_FUNCTION, H_HARDWARE, H_P2, H_P3, H_P4, H_PARAMETER, H_PENDING, H_UNSUPPORTED_FLAG,
};

const ONES: u64 = u64::MAX;
const VTY: u64 = term::UNIT as u64;

/// Calls that answer a code from a fresh partition with one vCPU, whatever went before.
#[rustfmt::skip]
const CASES: &[(u64, &[u64], Result<(), HCode>)] = &[
    (number::H_SET_SPRG0, &[ONES], Ok(())),
    (number::H_PAGE_INIT, &[0, 0x1000, 0], Ok(())),
    (number::H_PAGE_INIT, &[0x8000, 0x1000, 0x123], Ok(())),
    (number::H_PAGE_INIT, &[0xc000, 0x1000, 0x2000], Ok(())),
    (number::H_PAGE_INIT, &[0x80_0000, 0x1000, 0], Ok(())),
    (number::H_PAGE_INIT, &[0x8000, 0x1001, 0], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[0x8000, MEMORY, 0], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[0x8000, ONES & !0xfff, 0], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[0x4000, 0x1000, 0x2008], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[0x4000, 0x1000, MEMORY], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[1, 0x1000, 0], Err(H_PARAMETER)),
    (number::H_PAGE_INIT, &[1 << 33, 0x1000, 0], Err(H_PARAMETER)),
    (number::H_LOGICAL_CACHE_LOAD, &[3, 0], Err(H_PARAMETER)),
    (number::H_LOGICAL_CACHE_LOAD, &[8, MEMORY - 7], Err(H_PARAMETER)),
    (number::H_LOGICAL_CACHE_LOAD, &[8, ONES], Err(H_PARAMETER)),
    (number::H_LOGICAL_CACHE_STORE, &[0, 0, 0], Err(H_PARAMETER)),
    (number::H_LOGICAL_CACHE_STORE, &[4, MEMORY - 3, 0], Err(H_PARAMETER)),
    (number::H_GET_TERM_CHAR, &[1], Err(H_PARAMETER)),
    (number::H_GET_TERM_CHAR, &[VTY | 1 << 32], Err(H_PARAMETER)),
    (number::H_PUT_TERM_CHAR, &[2, 1, 0, 0], Err(H_PARAMETER)),
    (number::H_PUT_TERM_CHAR, &[VTY, 17, 0, 0], Err(H_PARAMETER)),
    (number::H_PUT_TERM_CHAR, &[VTY, ONES, 0, 0], Err(H_PARAMETER)),
    (number::H_PUT_TERM_CHAR, &[VTY, 0, 0, 0], Ok(())),
    // Not in exploitation mode: what they do there has tests of its own.
    (number::H_INT_GET_SOURCE_INFO, &[0, 0], Err(H_FUNCTION)),
    (number::H_INT_SET_SOURCE_CONFIG, &[0, 0, 0, 6, 0], Err(H_FUNCTION)),
    (number::H_INT_GET_SOURCE_CONFIG, &[0, 0], Err(H_FUNCTION)),
    (number::H_INT_GET_QUEUE_INFO, &[0, 0, 6], Err(H_FUNCTION)),
    (number::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 16], Err(H_FUNCTION)),
    (number::H_INT_GET_QUEUE_CONFIG, &[0, 0, 6], Err(H_FUNCTION)),
    (number::H_INT_SET_OS_REPORTING_LINE, &[0, 0], Err(H_FUNCTION)),
    (number::H_INT_GET_OS_REPORTING_LINE, &[0, 0], Err(H_FUNCTION)),
    (number::H_INT_ESB, &[0, 0, 0, 0], Err(H_FUNCTION)),
    (number::H_INT_SYNC, &[0, 0], Err(H_FUNCTION)),
    (number::H_INT_RESET, &[0], Err(H_FUNCTION)),
    (number::H_EOI, &[0xff00_0000 | 0x1234], Err(H_PARAMETER)),
    (number::H_EOI, &[0xff00_0000], Ok(())),
    (number::H_EOI, &[0xff00_0002], Ok(())),
    (number::H_CPPR, &[0xff], Ok(())),
    (number::H_IPI, &[1, 0], Err(H_PARAMETER)),
    (number::H_IPI, &[1 << 32, 0], Err(H_PARAMETER)),
    (number::H_IPI, &[0, 0xff], Ok(())),
    (number::H_IPOLL, &[1], Err(H_PARAMETER)),
    (number::H_IPOLL, &[1 << 32], Err(H_PARAMETER)),
    (number::H_REGISTER_VPA, &[1 << 45, 1, 0x1000], Err(H_PARAMETER)),
    (number::H_CONFER, &[0x8000_0000, 0], Err(H_PARAMETER)),
    (number::H_CONFER, &[ONES, 0], Ok(())),
    (number::H_PROD, &[1], Err(H_PARAMETER)),
    (number::H_PROD, &[ONES], Err(H_PARAMETER)),
    (number::H_POLL_PENDING, &[], Ok(())),
    (number::H_SET_MODE, &[0, 1, 0x1000, 0], Ok(())),
    (number::H_SET_MODE, &[1, 1, 0x1000, 0], Err(H_UNSUPPORTED_FLAG(63))),
    (number::H_SET_MODE, &[0, 1, 0x1003, 0], Err(H_P3)),
    (number::H_SET_MODE, &[0, 1, 0x1000, 1], Err(H_P4)),
    (number::H_SET_MODE, &[0, 2, 0x1000, 0xfc00], Ok(())),
    (number::H_SET_MODE, &[0, 2, 0x1000, 4], Err(H_P4)),
    (number::H_SET_MODE, &[1 << 63, 2, 0x1000, 0], Err(H_UNSUPPORTED_FLAG(0))),
    (number::H_SET_MODE, &[0, 5, 0x1000, 0x27], Err(H_P4)),
    (number::H_SET_MODE, &[2, 5, 0x1000, 0], Err(H_UNSUPPORTED_FLAG(62))),
    (number::H_SET_MODE, &[3, 3, 0, 0], Ok(())),
    (number::H_SET_MODE, &[0, 3, 0, 0], Ok(())),
    (number::H_SET_MODE, &[1, 3, 0, 0], Err(H_UNSUPPORTED_FLAG(63))),
    (number::H_SET_MODE, &[2, 3, 0, 0], Err(H_UNSUPPORTED_FLAG(62))),
    (number::H_SET_MODE, &[4, 3, 0, 0], Err(H_UNSUPPORTED_FLAG(61))),
    (number::H_SET_MODE, &[3, 3, 1, 0], Err(H_P3)),
    (number::H_SET_MODE, &[3, 3, 0, 1], Err(H_P4)),
    (number::H_SET_MODE, &[0, 4, 0, 0], Ok(())),
    (number::H_SET_MODE, &[2, 4, 0, 0], Err(H_UNSUPPORTED_FLAG(62))),
    (number::H_SET_MODE, &[1, 4, 1, 0], Err(H_P3)),
    (number::H_SET_MODE, &[1, 4, 0, 1], Err(H_P4)),
    (number::H_SET_MODE, &[0, 0, 0, 0], Err(H_P2)),
    (number::H_SET_MODE, &[0, 6, 0, 0], Err(H_P2)),
    (number::H_SET_MODE, &[ONES, ONES, 0, 0], Err(H_P2)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0000, 0, 7], Ok(())),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0, 0, 0], Ok(())),
    (number::H_REGISTER_PROC_TBL, &[0x3d, 0x8_0000, 0, 7], Err(H_PARAMETER)),
    (number::H_REGISTER_PROC_TBL, &[0x1b, 0x8_0000, 0, 7], Err(H_PARAMETER)),
    (number::H_REGISTER_PROC_TBL, &[0x19, 0x8_0000, 0, 7], Err(H_PARAMETER)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0800, 0, 0], Err(H_P2)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 1 << 60, 0, 0], Err(H_P2)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, MEMORY - 0x1000, 0, 1], Err(H_P2)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0000, 5, 7], Err(H_P3)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0000, 0, 25], Err(H_P4)),
    (number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0000, 0, ONES], Err(H_P4)),
    (number::H_REGISTER_PROC_TBL, &[0x10, ONES, ONES, ONES], Ok(())),
    (number::H_REGISTER_PROC_TBL, &[0x01, 0, 0, 0], Ok(())),
    (number::H_SIGNAL_SYS_RESET, &[1], Err(H_PARAMETER)),
    (number::H_SIGNAL_SYS_RESET, &[ONES - 2], Err(H_PARAMETER)),
    (number::H_SIGNAL_SYS_RESET, &[ONES - 1], Ok(())),
    (number::H_RANDOM, &[], Err(H_HARDWARE)),
    (number::H_RPT_INVALIDATE, &[1, 1, 2, ONES, 0, ONES], Ok(())),
    (number::H_RPT_INVALIDATE, &[1 << 32, 1, 2, ONES, 0, ONES], Err(H_PARAMETER)),
    (number::H_RPT_INVALIDATE, &[1, 0, 2, ONES, 0, ONES], Err(H_P2)),
    (number::H_RPT_INVALIDATE, &[1, 1, 0x10, ONES, 0, ONES], Err(H_P3)),
    (number::H_RPT_INVALIDATE, &[1, 1, 2, 0x10, 0, ONES], Err(H_P4)),
    (number::H_RPT_INVALIDATE, &[1, 1, 2, ONES, 2, 1], Err(HCode::H_P5)),
    (number::H_RPT_INVALIDATE, &[1, 2, 3, ONES, 0, ONES], Err(H_P2)),
    (number::H_RPT_INVALIDATE, &[1, 1, 3, ONES, 0, ONES], Ok(())),
    (number::H_GUEST_GET_CAPABILITIES, &[1], Err(H_PARAMETER)),
    (number::H_GUEST_SET_CAPABILITIES, &[1, 0], Err(H_PARAMETER)),
    (number::H_GUEST_CREATE, &[0, ONES], Err(HCode::H_STATE)),
    (number::H_GUEST_CREATE_VCPU, &[0, 1, 0], Err(H_P2)),
    (number::H_GUEST_GET_STATE, &[0, 1, 0, 0, 4], Err(H_P2)),
    (number::H_GUEST_SET_STATE, &[0, 1, 0, 0, 4], Err(H_P2)),
    (number::H_GUEST_RUN_VCPU, &[0, 1, 0], Err(H_P2)),
    (number::H_GUEST_DELETE, &[0, 1], Err(H_P2)),
    (number::H_RTAS, &[MEMORY], Err(H_PARAMETER)),
    (number::H_RTAS, &[ONES], Err(H_PARAMETER)),
    // Absent rows, and no rows at all.
    (number::H_ENTER, &[], Err(H_FUNCTION)),
    (number::H_PUT_TCE, &[], Err(H_FUNCTION)),
    (number::H_GUEST_COPY_MEMORY, &[], Err(H_FUNCTION)),
    (number::H_ENTER_NESTED, &[], Err(H_FUNCTION)),
    (0, &[], Err(H_FUNCTION)),
    (0x1234_5678, &[], Err(H_FUNCTION)),
    (0xf000 | 1 << 32, &[0], Err(H_FUNCTION)),
    (ONES, &[], Err(H_FUNCTION)),
];

#[test]
fn codes_are_exact() {
    let mut world = World::new(1);
    for (number, args, code) in CASES {
        let expected = code.map_or_else(HCode::code, |()| 0);
        assert_eq!(
            world.call(*number, args),
            expected,
            "{number:#x} {args:#x?}"
        );
    }
}

#[test]
fn the_answer_and_nothing_else_is_written() {
    let mut world = World::new(1);
    world.machine.random.lock().push_back(0x1122_3344);
    let before = world.vcpu.clone();
    assert_eq!(world.get(number::H_RANDOM, &[]), [0x1122_3344]);
    assert_eq!(world.vcpu.gpr[5..13], [0xdead; 8]);
    assert_eq!(world.vcpu.gpr[..3], before.gpr[..3]);
    assert_eq!(world.vcpu.gpr[13..], before.gpr[13..]);
    assert_eq!((world.vcpu.nia, world.vcpu.msr), (before.nia, before.msr));
}

#[test]
fn problem_state_has_no_hypercalls() {
    let mut world = World::new(1);
    world.vcpu.msr |= (Msr::PR | Msr::IR | Msr::DR).bits();
    let args = world.vcpu.gpr;
    world.vcpu.gpr[3] = number::H_CEDE;
    let after = hypercall(&mut world.vcpu, 0, &world.partition, &world.machine);
    assert!(matches!(after, After::Resume));
    assert_eq!((world.vcpu.nia, world.vcpu.srr0), (0x700, 0x1_0000));
    assert_ne!(world.vcpu.srr1 & PROGRAM_PRIVILEGED, 0);
    assert_eq!(world.vcpu.gpr[4..], args[4..]);
}

#[test]
fn sprg0_is_the_callers() {
    let mut world = World::new(1);
    world.call(number::H_SET_SPRG0, &[77]);
    assert_eq!(world.vcpu.sprg[0], 77);
    assert!(world.vcpu.changed.contains(Changed::SPRG0));
}

#[test]
fn pages_are_zeroed_and_copied() {
    let mut world = World::new(1);
    let ram = &world.partition.ram;
    ram.write(Gra(0x1000), &[0xaa; 0x3000]).unwrap();
    ram.write(Gra(0x2ffe), &[1, 2]).unwrap();
    world.call(number::H_PAGE_INIT, &[0x4000, 0x1000, 0x2000]);
    let read = |world: &World, at| {
        let mut bytes = [0; 0x1000];
        world.partition.ram.read(Gra(at), &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(&world, 0x1000), read(&world, 0x2000));
    world.call(number::H_PAGE_INIT, &[0x8000, 0x1000, 0]);
    assert_eq!(read(&world, 0x1000), [0; 0x1000]);
    assert_eq!(read(&world, 0x2000)[0xffd..], [0xaa, 1, 2]);
    world.call(number::H_PAGE_INIT, &[0, 0x3000, 0]);
    assert_eq!(read(&world, 0x3000), [0xaa; 0x1000]);
}

#[test]
fn loads_and_stores_are_big_endian_and_exact() {
    let mut world = World::new(1);
    let call = [8, 0x1_0001, 0x0102_0304_0506_0708];
    assert_eq!(world.call(number::H_LOGICAL_CACHE_STORE, &call), 0);
    for (size, value) in [(1, 1), (2, 0x102), (4, 0x102_0304), (8, call[2])] {
        assert_eq!(
            world.get(number::H_LOGICAL_CACHE_LOAD, &[size, 0x1_0001]),
            [value]
        );
    }
    world.call(number::H_LOGICAL_CACHE_STORE, &[2, 0x1_0001, ONES]);
    assert_eq!(
        world.get(number::H_LOGICAL_CACHE_LOAD, &[8, 0x1_0001]),
        [0xffff_0304_0506_0708]
    );
}

#[test]
fn terminal_output_is_all_or_nothing() {
    let mut world = World::new(1);
    let text = [0x6162_6364_6566_6768, 0x696a_6b6c_6d6e_6f70];
    world.call(number::H_PUT_TERM_CHAR, &[0, 16, text[0], text[1]]);
    world.call(number::H_PUT_TERM_CHAR, &[VTY, 3, text[0], text[1]]);
    assert_eq!(*world.machine.output.lock(), b"abcdefghijklmnopabc");
    world.machine.output_room.store(2, Ordering::Relaxed);
    let call = [VTY, 3, text[0], 0];
    assert_eq!(world.call(number::H_PUT_TERM_CHAR, &call), H_BUSY.code());
    assert_eq!(world.machine.output.lock().len(), 19);
    assert_eq!(
        world.call(number::H_PUT_TERM_CHAR, &[VTY, 2, text[0], 0]),
        0
    );
}

#[test]
fn terminal_input_interrupts_once_until_it_was_read_empty() {
    let mut world = World::new(1);
    let source = term::SOURCE;
    let xics = world.partition.interrupts.xics().unwrap();
    xics.set_xive(source, 0, 5).unwrap();
    world.call(number::H_CPPR, &[0xff]);
    let accept = |world: &mut World| {
        let [xirr] = world.get(number::H_XIRR, &[]);
        world.call(number::H_EOI, &[xirr]);
        xirr
    };
    world.machine.type_in(b"0123456789abcdefXY");
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(world.machine.take_kicks(), [0]);
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(accept(&mut world), 0xff00_0000 | u64::from(source));
    assert_eq!(accept(&mut world), 0xff00_0000);
    let text = |s: &[u8; 8]| u64::from_be_bytes(*s);
    assert_eq!(
        world.get(number::H_GET_TERM_CHAR, &[VTY]),
        [16, text(b"01234567"), text(b"89abcdef")]
    );
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(accept(&mut world), 0xff00_0000, "still being read");
    assert_eq!(
        world.get(number::H_GET_TERM_CHAR, &[0]),
        [2, text(b"XY\0\0\0\0\0\0"), 0]
    );
    assert_eq!(world.get(number::H_GET_TERM_CHAR, &[VTY]), [0, 0, 0]);
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(accept(&mut world), 0xff00_0000 | u64::from(source));
}

#[test]
fn cede_enables_interrupts_and_waits() {
    let mut world = World::new(1);
    assert!(matches!(world.after(number::H_CEDE, &[]), After::Cede));
    assert_eq!(world.vcpu.gpr[3], 0);
    assert_ne!(world.vcpu.msr & Msr::EE.bits(), 0);
}

#[test]
fn a_pending_interrupt_ends_cede_at_once() {
    let mut world = World::new(1);
    world.call(number::H_CPPR, &[0xff]);
    world.call(number::H_IPI, &[0, 4]);
    assert_eq!(world.call(number::H_POLL_PENDING, &[]), H_PENDING.code());
    assert_eq!(world.call(number::H_CEDE, &[]), 0);
    assert_ne!(world.vcpu.msr & Msr::EE.bits(), 0);
}

#[test]
fn a_prod_is_remembered_once() {
    let mut world = World::new(1);
    world.call(number::H_PROD, &[0]);
    assert_eq!(world.call(number::H_CEDE, &[]), 0);
    world.prepare_entry();
    assert!(matches!(world.after(number::H_CEDE, &[]), After::Cede));
    world.prepare_entry();
    world.call(number::H_PROD, &[0]);
    assert_eq!(world.call(number::H_CONFER, &[0, 0]), 0);
    world.prepare_entry();
    assert!(matches!(
        world.after(number::H_CONFER, &[0, 0]),
        After::Cede
    ));
}

#[test]
fn a_prod_wakes_another_vcpu() {
    let mut world = World::new(2);
    world.call(number::H_PROD, &[1]);
    assert_eq!(world.machine.take_kicks(), [1]);
    assert!(world.partition.vcpu(1).unwrap().is_wanted());
    assert!(!world.partition.vcpu(0).unwrap().is_wanted());
}

#[test]
fn system_reset_comes_after_the_answer() {
    let mut world = World::new(2);
    assert_eq!(world.call(number::H_SIGNAL_SYS_RESET, &[ONES]), 0);
    assert!(
        !world.partition.vcpu(1).unwrap().is_wanted(),
        "it is stopped"
    );
    let delivered = |world: &mut World| {
        world.vcpu.nia = 0x1_0004;
        world.prepare_entry();
        world.vcpu.nia == 0x100
    };
    assert!(delivered(&mut world));
    assert_eq!((world.vcpu.srr0, world.vcpu.gpr[3]), (0x1_0004, 0));
    assert_eq!(world.call(number::H_SIGNAL_SYS_RESET, &[ONES - 1]), 0);
    assert!(!delivered(&mut world), "all others");
    assert!(!world.partition.is_wanted_back(0));
    assert_eq!(world.call(number::H_SIGNAL_SYS_RESET, &[0]), 0);
    assert!(
        world.partition.is_wanted_back(0),
        "a nested guest does not keep the vCPU"
    );
    assert!(delivered(&mut world));
    assert!(!delivered(&mut world), "only once");
    assert!(!world.partition.is_wanted_back(0));
    assert_eq!(
        world.call(number::H_SIGNAL_SYS_RESET, &[1]),
        H_PARAMETER.code()
    );
}

#[test]
fn set_mode_changes_what_it_says() {
    let mut world = World::new(1);
    world.call(number::H_SET_MODE, &[0, 1, 0x1235_0001, 0]);
    assert_eq!(world.vcpu.ciabr, 0x1235_0001);
    world.call(number::H_SET_MODE, &[0, 2, 0x2007, 0xffff_ffff_ffff_fffb]);
    world.call(number::H_SET_MODE, &[0, 5, 0x3000, 0x23]);
    assert_eq!(world.vcpu.dawr, [0x2000, 0x3000]);
    assert_eq!(world.vcpu.dawrx, [0xfc7b, 0x23]);
    assert!(world.vcpu.changed.contains(Changed::DEBUG));
    world.vcpu.changed = Changed::empty();

    let chosen = |world: &mut World| {
        world.prepare_entry();
        world.vcpu.lpcr & (Lpcr::AIL | Lpcr::ILE)
    };
    assert_eq!(chosen(&mut world), Lpcr::empty());
    assert_eq!(world.vcpu.changed, Changed::empty());
    world.call(number::H_SET_MODE, &[1, 4, 0, 0]);
    assert_eq!(chosen(&mut world), Lpcr::ILE);
    world.call(number::H_SET_MODE, &[3, 3, 0, 0]);
    assert_eq!(chosen(&mut world), Lpcr::ILE | Lpcr::AIL);
    assert!(world.vcpu.changed.contains(Changed::CONTROL));
    let later = world.partition.start_context(Gra(0), 0);
    assert_eq!(later.lpcr, world.vcpu.lpcr, "vCPUs that start later too");
    world.call(number::H_SET_MODE, &[0, 3, 0, 0]);
    world.call(number::H_SET_MODE, &[0, 4, 0, 0]);
    assert_eq!(chosen(&mut world), Lpcr::empty());
}

/// A kernel that kexec started registers a process table where that of the last one is.
#[test]
fn guests_go_with_their_kernel() {
    let mut world = World::new(2);
    let table: [u64; 4] = [0x1d, 0x8_0000, 0, 7];
    assert_eq!(world.call(number::H_REGISTER_PROC_TBL, &table), 0);
    let levels = world.get::<1>(number::H_GUEST_GET_CAPABILITIES, &[0]);
    let choose: [u64; 2] = [0, levels[0]];
    assert_eq!(world.call(number::H_GUEST_SET_CAPABILITIES, &choose), 0);
    let [guest] = world.get(number::H_GUEST_CREATE, &[0, ONES]);
    // All but a new table leaves them.
    for flags in [0x00, 0x01] {
        world.call(number::H_REGISTER_PROC_TBL, &[flags, 0, 0, 0]);
    }
    assert!(world.partition.nested.guest(guest).is_some());
    assert_eq!(world.call(number::H_REGISTER_PROC_TBL, &table), 0);
    assert!(world.partition.nested.guest(guest).is_none());
    let state = HCode::H_STATE.code();
    assert_eq!(world.call(number::H_GUEST_CREATE, &[0, ONES]), state);
}

#[test]
fn the_process_table_reaches_the_machine() {
    let mut world = World::new(1);
    world.call(number::H_REGISTER_PROC_TBL, &[0x1d, 0x8_0000, 0, 7]);
    world.call(number::H_REGISTER_PROC_TBL, &[0, 0, 0, 0]);
    world.prepare_entry();
    assert!(!world.vcpu.lpcr.contains(Lpcr::GTSE));
    world.call(number::H_REGISTER_PROC_TBL, &[0x1, 0, 0, 0]);
    world.prepare_entry();
    assert!(world.vcpu.lpcr.contains(Lpcr::GTSE));
    world.call(number::H_REGISTER_PROC_TBL, &[0x10, 0, 0, 0]);
    assert_eq!(
        *world.machine.entries.lock(),
        [(1, [ROOT, 0x8_0007]), (1, [ROOT, 0])]
    );
}

#[test]
fn characteristics_are_the_policys() {
    let mut world = World::new(1);
    let says = Characteristics::POWER10;
    assert_eq!(
        world.get(number::H_GET_CPU_CHARACTERISTICS, &[]),
        [says.character, says.behaviour]
    );
    assert_eq!(says.behaviour >> 62, 0b10, "no L1 data cache flush");
}

#[test]
fn interrupts_come_and_end_through_the_calls() {
    let mut world = World::new(2);
    world.call(number::H_CPPR, &[0x1_00ff]);
    world.call(number::H_IPI, &[0, 0x1_0004]);
    assert!(world.machine.take_kicks().is_empty(), "it is the caller");
    assert_eq!(world.get(number::H_IPOLL, &[0]), [0xff00_0002, 4]);
    let now = world.machine.timebase.load(Ordering::Relaxed);
    let [xirr, since] = world.get(number::H_XIRR_X, &[0]);
    assert_eq!(xirr, 0xff00_0002);
    assert!(since < now && since > now - 3);
    assert_eq!(world.get(number::H_XIRR, &[]), [0x0400_0000]);
    world.call(number::H_IPI, &[0, 0xff]);
    world.call(number::H_EOI, &[ONES << 32 | xirr]);
    assert_eq!(world.get(number::H_XIRR, &[]), [0xff00_0000]);
    // Server 1 lets nothing in yet.
    world.call(number::H_IPI, &[1, 4]);
    assert!(world.machine.take_kicks().is_empty());
    assert_eq!(world.get(number::H_IPOLL, &[1]), [0, 4]);
    hypercall_of(&world, 1, number::H_CPPR, &[0xff]);
    world.call(number::H_IPI, &[1, 3]);
    assert!(world.machine.take_kicks().is_empty(), "its line was up");
    world.call(number::H_IPI, &[1, 0xff]);
    world.call(number::H_IPI, &[1, 3]);
    assert_eq!(world.machine.take_kicks(), [1]);
}

/// Makes a call from another vCPU.
fn hypercall_of(world: &World, id: u32, number: u64, args: &[u64]) {
    let mut vcpu = world.partition.start_context(Gra(0), 0);
    vcpu.gpr[3] = number;
    vcpu.gpr[4..4 + args.len()].copy_from_slice(args);
    let after = hypercall(&mut vcpu, id, &world.partition, &world.machine);
    assert!(matches!(after, After::Resume));
}

#[test]
fn nested_calls_reach_the_nested_api() {
    let mut world = World::new(1);
    let [levels] = world.get(number::H_GUEST_GET_CAPABILITIES, &[0]);
    assert_eq!(levels, 0x6000_0000_0000_0000);
    assert_eq!(
        world.call(number::H_GUEST_SET_CAPABILITIES, &[0, 1]),
        H_P2.code()
    );
    assert_eq!(world.vcpu.gpr[4..6], [1, 0]);
    world.call(number::H_GUEST_SET_CAPABILITIES, &[0, levels]);
    let [guest] = world.get(number::H_GUEST_CREATE, &[0, ONES]);
    assert_eq!(world.call(number::H_GUEST_CREATE_VCPU, &[0, guest, 0]), 0);
    assert_eq!(
        world.call(number::H_GUEST_RUN_VCPU, &[0, guest, 0]),
        HCode::H_INPUT_BUFFER_NOT_DEFINED.code()
    );
    assert_eq!(world.call(number::H_GUEST_DELETE, &[0, guest]), 0);
}

#[test]
fn invalidation_reaches_the_callers_translations() {
    let mut world = World::new(1);
    world.call(number::H_RPT_INVALIDATE, &[7, 1, 2, ONES, 0, ONES]);
    let flushes = world.machine.flushes.lock();
    let process = Flush::Process {
        lpid: 1,
        pid: 7,
        what: ProcessFlush::Tlb,
    };
    assert_eq!(*flushes, [process]);
}

#[test]
fn rtas_ends_the_partition() {
    let mut world = World::new(1);
    for (name, args, stop) in [
        ("power-off", vec![ONES, ONES], Stop::PowerOff),
        ("ibm,power-off-ups", vec![], Stop::PowerOff),
        ("system-reboot", vec![], Stop::Reboot),
    ] {
        rtas::tests::block(&world, name, &args, 1);
        match world.after(number::H_RTAS, &[rtas::tests::BLOCK]) {
            After::Stop(got) => assert_eq!(got, stop),
            _ => panic!("{name} returned"),
        }
    }
}

#[test]
fn no_served_row_is_without_a_case() {
    // Rows whose good and bad arguments are in tests of their own.
    let elsewhere = [
        number::H_XIRR,
        number::H_XIRR_X,
        number::H_CEDE,
        number::H_GET_CPU_CHARACTERISTICS,
    ];
    let missing: Vec<_> = TABLE
        .iter()
        .filter(|row| row.served && !elsewhere.contains(&row.number))
        .filter(|row| !CASES.iter().any(|(number, ..)| *number == row.number))
        .map(|row| row.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Numbers that hurt: edges of memory, of fields, of arithmetic.
fn hostile() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..64,
        2 => any::<u64>(),
        2 => (0u64..64).prop_map(|bit| 1 << bit),
        2 => (0u64..64).prop_map(|bit| (1 << bit) - 1),
        2 => (0u64..0x40).prop_map(|x| MEMORY - 0x20 + x),
        2 => (0u64..0x2000).prop_map(|x| x * 0x1000),
        1 => Just(VTY),
        1 => Just(rtas::tests::BLOCK),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_call_panics_or_answers_more_than_its_row(
        calls in prop::collection::vec((any::<prop::sample::Index>(), prop::array::uniform9(hostile())), 64),
        noise in prop::collection::vec((0u64..MEMORY - 64, any::<[u8; 32]>()), 16),
    ) {
        let served: Vec<_> = TABLE.iter().filter(|row| row.served).collect();
        let mut world = World::new(2);
        world.machine.random.lock().extend([1, 2, 3]);
        for (at, bytes) in noise {
            world.partition.ram.write(Gra(at), &bytes).unwrap();
        }
        for (row, args) in calls {
            let row = row.get(&served);
            let after = world.after(row.number, &args);
            if matches!(after, After::Resume) {
                let past = 4 + row.outputs;
                let kept = &args[row.outputs..];
                prop_assert_eq!(&world.vcpu.gpr[past..13], kept, "{}", row.name);
            }
            if let After::Enter(running) = after {
                let env = world.partition.env(&world.machine);
                let _ = running.finish(crate::nested::run::Exit::Interrupted, &env);
            }
            world.prepare_entry();
            prop_assert!(world.vcpu.lpcr.contains(Lpcr::GUEST_BASE));
            prop_assert!(!world.vcpu.machine_state().contains(Msr::HV));
            prop_assert!(matches!(world.partition.vcpu(0).unwrap().run_state(), RunState::Running));
        }
    }
}

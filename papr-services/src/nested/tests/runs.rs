//! H_GUEST_RUN_VCPU: checks, registers that are composed, every exit with its output.

use alloc::vec;
use alloc::vec::Vec;

use isa::addr::Gra;
use isa::context::GuestContext;
use isa::lpcr::{Hfscr, Lpcr};
use isa::msr::{Msr, PREFIXED, PROGRAM_PRIVILEGED, SRR1_CAUSE};
use isa::pte::Pte;
use proptest::prelude::*;

use super::{
    GUEST_WIDE, INPUT, OUTPUT, OWN, RAM, ROOT, World, code, double, gsb, pair, parse,
    partition_table, word,
};
use crate::error::{HCode, Refusal};
use crate::host::{Flush, ProcessFlush};
use crate::nested::element::{self, Access, LPCR_SETTABLE, MSR_SETTABLE, Scope};
use crate::nested::run::{Exit, Running, Start, Verdict};
use crate::nested::shadow::cause;

/// The machine state of a kernel with translation on.
const KERNEL: u64 = Msr::SF.bits()
    | Msr::EE.bits()
    | Msr::ME.bits()
    | Msr::IR.bits()
    | Msr::DR.bits()
    | Msr::RI.bits()
    | Msr::LE.bits();

impl World {
    /// Runs vCPU 0 with an input; `Err` is the code and what is in r4.
    pub(super) fn run_with(
        &self,
        guest: u64,
        flags: u64,
        elements: &[(u16, Vec<u8>)],
    ) -> Result<Start, (i64, Vec<u64>)> {
        self.ram.write(Gra(INPUT), &gsb(elements)).unwrap();
        self.nested
            .run(&self.env(), flags, guest, 0)
            .map_err(|refusal| (refusal.code.code(), refusal.outputs.as_slice().to_vec()))
    }

    pub(super) fn enter(&self, guest: u64, elements: &[(u16, Vec<u8>)]) -> Running {
        self.enter_with(guest, 0, elements)
    }

    fn enter_with(&self, guest: u64, flags: u64, elements: &[(u16, Vec<u8>)]) -> Running {
        match self.run_with(guest, flags, elements) {
            Ok(Start::Enter(running)) => running,
            Ok(Start::Done(exit)) => panic!("did not enter: {exit:?}"),
            Err(refusal) => panic!("did not enter: {refusal:?}"),
        }
    }

    /// Ends a run as the firmware does, and reads the output buffer as Linux does.
    pub(super) fn leave(&self, mut running: Running, exit: Exit) -> Vec<(u16, Vec<u8>)> {
        self.ram.write(Gra(OUTPUT), &[0xff; 1024]).unwrap();
        running.context().cr = 0x1234;
        assert_eq!(running.finish(exit, &self.env()), (0, exit as u64));
        parse(&self.bytes(OUTPUT, 1024).unwrap())
    }

    fn verdict(&self, running: &mut Running, trap: u64) -> Verdict {
        running.context().trap = trap;
        running.after_exit(&self.env())
    }

    /// Maps a page of the guest below 2 MiB in the partition's tree.
    fn map(&self, page: u64, to: u64, rights: Pte) {
        let put = |at: u64, entry: u64| self.ram.write(Gra(at), &entry.to_be_bytes()).unwrap();
        let valid = Pte::VALID.bits();
        put(ROOT, valid | (ROOT + 0x1_0000) | 9);
        put(ROOT + 0x1_0000, valid | (ROOT + 0x1_1000) | 9);
        put(ROOT + 0x1_1000, valid | (ROOT + 0x1_2000) | 9);
        put(
            ROOT + 0x1_2000 + (page >> 12) * 8,
            (Pte::VALID | Pte::LEAF | rights).bits() | to,
        );
    }
}

fn ids(output: &[(u16, Vec<u8>)]) -> Vec<u16> {
    let mut ids: Vec<u16> = output.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids
}

fn value(output: &[(u16, Vec<u8>)], id: u16) -> u64 {
    let (_, bytes) = output.iter().find(|(i, _)| *i == id).unwrap();
    bytes
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

pub(super) fn never() -> (u16, Vec<u8>) {
    (0x1020, double(u64::MAX))
}

#[test]
fn checks_come_in_their_order() {
    let world = World::new();
    let guest = world.create().unwrap();
    let run = || {
        world
            .nested
            .run(&world.env(), 0, guest, 0)
            .err()
            .map(|r| r.code.code())
    };
    assert_eq!(run(), Some(HCode::H_P3.code()));
    world.nested.create_vcpu(0, guest, 0).unwrap();
    assert_eq!(run(), Some(-82));
    world
        .set(0, guest, 0, &[(0x0c00, pair(INPUT, 4096))])
        .unwrap();
    assert_eq!(run(), Some(-84));
    world
        .set(0, guest, 0, &[(0x0c01, pair(OUTPUT, 1023))])
        .unwrap();
    assert_eq!(run(), Some(-85));
    world
        .set(0, guest, 0, &[(0x0c01, pair(OUTPUT, 1024))])
        .unwrap();
    assert_eq!(run(), Some(-86));
    world
        .set(GUEST_WIDE, guest, 0, &[partition_table(ROOT)])
        .unwrap();
    assert_eq!(run(), None);
}

#[test]
fn a_refused_run_leaves_the_vcpu_idle_and_unchanged() {
    let world = World::new();
    let guest = world.ready();
    let refused = world.run_with(
        guest,
        0,
        &[(0x1003, double(7)), (0x1022, double(Msr::HV.bits()))],
    );
    assert_eq!(
        refused.err(),
        Some((-81, vec![16])),
        "r4 is the offset of the element"
    );
    assert_eq!(world.value(0, guest, 0, 0x1003), 0);
    assert!(world.run_with(guest, 0, &[]).is_ok());
}

#[test]
fn input_errors_tell_the_offset() {
    let world = World::new();
    let guest = world.ready();
    let one = (0x1003, double(7));
    for (elements, expected) in [
        (vec![one.clone(), (0x1054, double(1))], (-79, vec![16])),
        (vec![(0x0c00, pair(INPUT, 4096))], (-79, vec![4])),
        (
            vec![one.clone(), (0x0c01, pair(OUTPUT, 4096))],
            (-79, vec![16]),
        ),
        (vec![(0x0c02, double(!0))], (-79, vec![4])),
        (vec![(0x0004, double(0))], (-79, vec![4])),
        (vec![(0x0800, double(0))], (-79, vec![4])),
        (vec![(0xf000, double(0))], (-79, vec![4])),
        (
            vec![one.clone(), one.clone(), (0x2000, double(0))],
            (-80, vec![28]),
        ),
        (vec![(0, vec![1; 7]), (0x102c, double(1))], (-81, vec![15])),
    ] {
        assert_eq!(
            world.run_with(guest, 0, &elements).err(),
            Some(expected),
            "{elements:x?}"
        );
    }
    // The registered size ends inside the second element.
    world
        .set(0, guest, 0, &[(0x0c00, pair(INPUT, 20))])
        .unwrap();
    assert_eq!(
        world.run_with(guest, 0, &[one.clone(), one.clone()]).err(),
        Some((-83, vec![16]))
    );
    world.set(0, guest, 0, &[(0x0c00, pair(INPUT, 4))]).unwrap();
    assert_eq!(world.run_with(guest, 0, &[one]).err(), Some((-83, vec![4])));
}

#[test]
fn the_first_run_of_linux_is_accepted() {
    let world = World::new();
    let guest = world.ready();
    let skipped = [0x1020, 0x1026, 0x104f, 0x0c00, 0x0c01, 0x0c02];
    let mut list: Vec<_> = (0..=u16::MAX)
        .filter(|id| !skipped.contains(id))
        .filter_map(|id| element::find(id).map(|(element, _)| (id, element)))
        .filter(|(_, e)| e.scope == Scope::Thread && e.access == Access::RW)
        .map(|(id, element)| (id, vec![0; element.len.into()]))
        .collect();
    assert_eq!(list.len(), 81 + 15 + 64);
    let amor = list.iter_mut().find(|(id, _)| *id == 0x1048).unwrap();
    amor.1 = double(!0);
    list.push(never());
    list.push((0x102c, double(0x0040_0000_0382_0400)));
    assert_eq!((list.len(), gsb(&list).len()), (162, 2400));
    let running = world.enter(guest, &list);
    assert_eq!(running.vcpu.context.amor, OWN.amor);
    world.leave(running, Exit::Interrupted);
    assert_eq!(
        world.value(0, guest, 0, 0x102c),
        0x0040_0000_0382_0400,
        "the second LPCR wins"
    );
}

#[test]
fn a_vcpu_in_a_run_is_in_use() {
    let world = World::new();
    let guest = world.ready();
    let running = world.enter(guest, &[]);
    let in_use = HCode::H_IN_USE.code();
    assert_eq!(world.run_with(guest, 0, &[]).err(), Some((in_use, vec![])));
    assert_eq!(
        code(&world.set(0, guest, 0, &[(0x1000, double(1))])),
        in_use
    );
    assert_eq!(
        world.get(0, guest, 0, &[0x1000]).map_err(|c| c.code()),
        Err(in_use)
    );
    assert_eq!(code(&world.nested.create_vcpu(0, guest, 0)), in_use);
    assert_eq!(
        code(&world.set(GUEST_WIDE, guest, 0, &[(4, double(1 << 24))])),
        0,
        "guest-wide goes on"
    );
    assert_eq!(
        code(&world.set(GUEST_WIDE, guest, 0, &[(3, word(0x0f00_0006))])),
        0,
        "the same level is no change"
    );
    let both = [(4, double(2 << 24)), (3, word(0x0f00_0005))];
    assert_eq!(
        world.set(GUEST_WIDE, guest, 0, &both).err(),
        Some(Refusal::with(HCode::H_INVALID_ELEMENT_VALUE, [1])),
        "another level is not accepted under a running vCPU"
    );
    assert_eq!(
        world.value(GUEST_WIDE, guest, 0, 4),
        1 << 24,
        "nor the rest"
    );
    assert_eq!(running.vcpu.context.tb_offset, 0, "a run keeps its offset");
    world.leave(running, Exit::Interrupted);
    assert_eq!(
        code(&world.set(GUEST_WIDE, guest, 0, &[(3, word(0x0f00_0005))])),
        0
    );
    let running = world.enter(guest, &[]);
    assert_eq!(running.vcpu.context.tb_offset, 1 << 24);
    world.leave(running, Exit::Interrupted);
}

#[test]
fn deleting_a_guest_kicks_the_threads_that_run_it_and_no_other() {
    let world = World::new();
    let kicks = || core::mem::take(&mut *world.machine.kicks.borrow_mut());
    let guest = world.ready();
    assert_eq!(code(&world.nested.create_vcpu(0, guest, 2047)), 0);
    world.machine.vcpu.set(3);
    let running = world.enter(guest, &[never()]);
    assert!(!running.is_wanted_back(&world.machine));
    world.machine.vcpu.set(0);
    let busy = HCode::H_BUSY.code();
    assert_eq!(code(&world.nested.delete(&world.env(), 0, guest)), busy);
    assert_eq!(kicks(), [3], "the idle vCPU has no thread");
    assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), busy);
    assert_eq!(kicks(), [3], "as often as it is asked for");
    world.leave(running, Exit::Interrupted);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, guest)), 0);
    assert_eq!(kicks(), []);
}

#[test]
fn deleting_a_running_guest_ends_it_first() {
    let world = World::new();
    let start = world.counters();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never()]);
    let busy = HCode::H_BUSY.code();
    assert_eq!(code(&world.nested.delete(&world.env(), 0, guest)), busy);
    assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), busy);
    assert_eq!(
        code(
            &world
                .nested
                .set_capabilities(&world.env(), 0, 0x6000_0000_0000_0000)
        ),
        busy
    );
    assert_eq!(world.nested.reset(&world.env()), Err(HCode::H_BUSY));
    assert_eq!(
        world.run_with(guest, 0, &[]).err(),
        Some((HCode::H_P2.code(), vec![])),
        "no new run"
    );
    assert!(running.is_wanted_back(&world.machine));
    for trap in [0x500, 0x980, 0xe80, 0xea0] {
        assert_eq!(
            world.verdict(&mut running, trap),
            Verdict::Leave(Exit::Interrupted)
        );
    }
    world.leave(running, Exit::Interrupted);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, guest)), 0);
    assert_eq!(world.counters(), start);
}

#[test]
fn an_expiry_that_passed_ends_the_run_at_once() {
    let world = World::new();
    let guest = world.ready();
    world.machine.time.set(1000);
    for (expiry, due) in [
        (999, true),
        (1000, true),
        (0, true),
        ((1 << 63) + 1001, true),
        (1 << 63, false),
        (1001, false),
        (u64::MAX, false),
    ] {
        world.ram.write(Gra(OUTPUT), &[0xff; 1024]).unwrap();
        match world.run_with(
            guest,
            0,
            &[(0x1020, double(expiry)), (0x1003, double(expiry))],
        ) {
            Ok(Start::Done(exit)) => {
                assert!(due && exit == Exit::Timer);
                assert_eq!(ids(&parse(&world.bytes(OUTPUT, 1024).unwrap())), [0x102a]);
            }
            Ok(Start::Enter(running)) => {
                assert!(!due && running.deadline() == expiry);
                world.leave(running, Exit::Interrupted);
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
        assert_eq!(
            world.value(0, guest, 0, 0x1003),
            expiry,
            "the input counts all the same"
        );
    }
}

#[test]
fn an_interrupt_of_the_partition_comes_first() {
    let world = World::new();
    let guest = world.ready();
    world.machine.pending.set(true);
    assert!(matches!(
        world.run_with(guest, 0, &[never()]),
        Ok(Start::Done(Exit::Interrupted))
    ));
    world.machine.pending.set(false);
    let mut running = world.enter(guest, &[never()]);
    for trap in [0x500, 0xe80, 0xea0, 0x980] {
        assert_eq!(
            world.verdict(&mut running, trap),
            Verdict::Resume,
            "the firmware's own"
        );
    }
    world.machine.pending.set(true);
    for trap in [0x500, 0xe80, 0xea0, 0x980] {
        assert_eq!(
            world.verdict(&mut running, trap),
            Verdict::Leave(Exit::Interrupted)
        );
    }
    assert_eq!(ids(&world.leave(running, Exit::Interrupted)), [0x102a]);
}

#[test]
fn the_timer_ends_a_run_when_it_is_due() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[(0x1020, double(5000))]);
    assert_eq!(world.verdict(&mut running, 0x980), Verdict::Resume);
    world.machine.time.set(4999);
    assert_eq!(world.verdict(&mut running, 0x980), Verdict::Resume);
    world.machine.time.set(5000);
    assert_eq!(
        world.verdict(&mut running, 0x980),
        Verdict::Leave(Exit::Timer)
    );
    running.context().dec_expiry = 77;
    let output = world.leave(running, Exit::Timer);
    assert_eq!((ids(&output), value(&output, 0x102a)), (vec![0x102a], 77));
}

#[test]
fn a_hypercall_brings_its_registers() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(
        guest,
        &[never(), (0x1022, double(KERNEL)), (0x1021, double(0x2004))],
    );
    for (number, gpr) in (0u64..).zip(&mut running.context().gpr) {
        *gpr = 0x100 + number;
    }
    assert_eq!(
        world.verdict(&mut running, 0xc00),
        Verdict::Leave(Exit::Hypercall)
    );
    let output = world.leave(running, Exit::Hypercall);
    assert_eq!(
        ids(&output),
        [
            &(0x1003..=0x100c).collect::<Vec<_>>()[..],
            &[0x1022, 0x102a]
        ]
        .concat()
    );
    for number in 3..13 {
        assert_eq!(value(&output, 0x1000 + number), 0x100 + u64::from(number));
    }
    assert_eq!(value(&output, 0x1022), KERNEL);
    assert_eq!(world.value(0, guest, 0, 0x1021), 0x2004, "after the sc");
    assert_eq!(
        world.value(0, guest, 0, 0x2000),
        0x1234,
        "registers saved last are read"
    );
}

#[test]
fn a_guest_flushes_its_own_processes_without_its_partition() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never(), (0x1022, double(KERNEL))]);
    // H_RPT_INVALIDATE of process 5: all threads, translations, 4 KiB, everything.
    let call = [0x448, 5, 1, 2, 1, 0, !0];
    world.machine.flushes.borrow_mut().clear();
    running.context().gpr[3..10].copy_from_slice(&call);
    assert_eq!(world.verdict(&mut running, 0xc00), Verdict::Resume);
    assert_eq!(running.context().gpr[3], 0);
    let flush = Flush::Process {
        lpid: running.guest.shadow.lpid(),
        pid: 5,
        what: ProcessFlush::Tlb,
    };
    assert_eq!(*world.machine.flushes.borrow(), [flush]);
    running.context().gpr[3..10].copy_from_slice(&[0x448, 5, 0, 2, 1, 0, !0]);
    assert_eq!(world.verdict(&mut running, 0xc00), Verdict::Resume);
    assert_eq!(running.context().gpr[3].cast_signed(), HCode::H_P2.code());
    // About a guest of its own: the partition's business.
    running.context().gpr[3..10].copy_from_slice(&[0x448, 5, 1, 3, 1, 0, !0]);
    let leave = Verdict::Leave(Exit::Hypercall);
    assert_eq!(world.verdict(&mut running, 0xc00), leave);
    assert_eq!(world.machine.flushes.borrow().len(), 1);
}

#[test]
fn problem_state_has_no_hypercalls() {
    let world = World::new();
    let guest = world.ready();
    let user = KERNEL | Msr::PR.bits();
    let mut running = world.enter(
        guest,
        &[
            never(),
            (0x1022, double(user)),
            (0x1021, double(0x2004)),
            (0x102c, double((Lpcr::AIL | Lpcr::ILE).bits())),
        ],
    );
    assert_eq!(world.verdict(&mut running, 0xc00), Verdict::Resume);
    let context = running.context();
    assert_eq!(context.nia, 0xc000_0000_0000_4700);
    assert_eq!(
        (context.srr0, context.srr1),
        (0x2000, user | PROGRAM_PRIVILEGED)
    );
    assert_eq!(
        context.msr,
        (Msr::SF | Msr::ME | Msr::IR | Msr::DR | Msr::LE).bits()
    );
    world.leave(running, Exit::Interrupted);
}

#[test]
fn a_fault_that_the_tree_answers_stays_here() {
    let world = World::new();
    let guest = world.ready();
    world.map(
        0x5000,
        0x20_0000,
        Pte::READ | Pte::WRITE | Pte::EXECUTE | Pte::R | Pte::C,
    );
    let mut running = world.enter(
        guest,
        &[never(), (0x1022, double(KERNEL)), (0x1021, double(0x5010))],
    );
    let flushes = world.machine.flushes.borrow().len();
    let context = running.context();
    (context.asdr, context.hdar, context.hdsisr) = (
        0x5000,
        0xc000_0000_0000_5008,
        (cause::NO_TRANSLATION | cause::STORE).into(),
    );
    context.msr = KERNEL | PREFIXED;
    assert_eq!(world.verdict(&mut running, 0xe00), Verdict::Resume);
    assert_eq!(
        running.context().msr,
        KERNEL,
        "no cause bit gets into the machine state"
    );
    let context = running.context();
    (context.asdr, context.msr) = (0x5000, KERNEL | u64::from(cause::NO_TRANSLATION));
    assert_eq!(world.verdict(&mut running, 0xe20), Verdict::Resume);
    assert_eq!(
        world.machine.flushes.borrow().len(),
        flushes,
        "installing needs no flush"
    );
    assert_eq!(running.guest.shadow().installed().size_4k, 1);
    world.leave(running, Exit::Interrupted);
    for id in [0xf000, 0xf001, 0xf003] {
        assert_eq!(
            world.value(0, guest, 0, id),
            0,
            "the partition sees nothing of it"
        );
    }
}

fn data_fault(context: &mut GuestContext, asdr: u64, hdsisr: u32) {
    (context.asdr, context.hdar, context.hdsisr) = (asdr, 0xc000_0000_0000_0123, hdsisr.into());
    context.msr = KERNEL | PREFIXED;
}

#[test]
fn a_data_fault_that_the_tree_does_not_answer_goes_to_the_partition() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(
        guest,
        &[never(), (0x1021, double(0x8000)), (0x2001, word(9))],
    );
    data_fault(
        running.context(),
        0x7000,
        cause::NO_TRANSLATION | cause::STORE,
    );
    assert_eq!(
        world.verdict(&mut running, 0xe00),
        Verdict::Leave(Exit::DataStorage)
    );
    let output = world.leave(running, Exit::DataStorage);
    assert_eq!(
        ids(&output),
        [0x1021, 0x1022, 0x102a, 0x2001, 0xf000, 0xf001, 0xf003]
    );
    assert_eq!(value(&output, 0xf000), 0xc000_0000_0000_0123);
    assert_eq!(
        value(&output, 0xf001),
        (cause::NO_TRANSLATION | cause::STORE).into()
    );
    assert_eq!(value(&output, 0xf003), 0x7000);
    assert_eq!(value(&output, 0x1022), KERNEL | PREFIXED, "the raw image");
    assert_eq!(value(&output, 0x2001), 9);
    assert_eq!(world.value(0, guest, 0, 0xf003), 0x7000);
    // The next run drops what was no machine state.
    let running = world.enter(guest, &[]);
    assert_eq!(running.vcpu.context.msr, KERNEL);
    world.leave(running, Exit::Interrupted);
}

#[test]
fn a_page_that_the_partition_maps_is_there_when_the_guest_comes_back() {
    let world = World::new();
    let guest = world.ready();
    let all = Pte::READ | Pte::WRITE | Pte::EXECUTE | Pte::R | Pte::C;
    let asks = |page, how| {
        let mut running = world.enter(guest, &[never()]);
        data_fault(running.context(), page, how);
        let verdict = world.verdict(&mut running, 0xe00);
        assert_eq!(verdict, Verdict::Leave(Exit::DataStorage));
        world.leave(running, Exit::DataStorage);
    };
    let leaves_after = || {
        let running = world.enter(guest, &[]);
        let leaves = running.guest.shadow().installed().size_4k;
        world.leave(running, Exit::Interrupted);
        leaves
    };
    asks(0x5000, cause::NO_TRANSLATION | cause::STORE);
    world.map(0x5000, 0x20_0000, all);
    assert_eq!(leaves_after(), 1, "without another fault");
    assert_eq!(leaves_after(), 1, "once");
    // Not yet mapped, and mapped without what a store needs: the guest's own access decides.
    asks(0x7000, cause::NO_TRANSLATION | cause::STORE);
    assert_eq!(leaves_after(), 1);
    asks(0x9000, cause::NO_TRANSLATION | cause::STORE);
    world.map(0x9000, 0x20_0000, all - Pte::C);
    assert_eq!(leaves_after(), 1);
}

#[test]
fn a_page_that_is_reflected_twice_brings_all_registers() {
    let world = World::new();
    let guest = world.ready();
    let fault = |page| {
        let mut running = world.enter(guest, &[never()]);
        data_fault(running.context(), page, cause::NO_TRANSLATION);
        assert_eq!(
            world.verdict(&mut running, 0xe00),
            Verdict::Leave(Exit::DataStorage)
        );
        ids(&world.leave(running, Exit::DataStorage)).contains(&0x1000)
    };
    assert!(!fault(0x7000), "a page on its way in");
    assert!(fault(0x7000), "a device");
    assert!(!fault(0x9000));
    assert!(fault(0x7000) && fault(0x9000) && fault(0x7000));
}

#[test]
fn an_instruction_fault_has_its_cause_in_the_msr() {
    let world = World::new();
    let guest = world.ready();
    world.map(0x5000, 0x20_0000, Pte::READ | Pte::R);
    for (nia, asdr, told) in [
        (0x7004, 0x7000, cause::NO_TRANSLATION),
        (0x5004, 0x5000, cause::NO_EXECUTE),
    ] {
        let mut running = world.enter(guest, &[never(), (0x1021, double(nia))]);
        let context = running.context();
        (context.asdr, context.msr) = (asdr, KERNEL | u64::from(cause::NO_TRANSLATION));
        assert_eq!(
            world.verdict(&mut running, 0xe20),
            Verdict::Leave(Exit::InstructionStorage)
        );
        let output = world.leave(running, Exit::InstructionStorage);
        assert_eq!(ids(&output), [0x1021, 0x1022, 0x102a, 0xf000, 0xf003]);
        assert_eq!(value(&output, 0x1022), KERNEL | u64::from(told));
        assert_eq!(
            (value(&output, 0xf003), value(&output, 0xf000)),
            (asdr, nia)
        );
    }
}

#[test]
fn no_store_bit_gets_into_the_msr() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never(), (0x1021, double(0x7004))]);
    let context = running.context();
    (context.asdr, context.msr) = (
        0x7000,
        KERNEL | u64::from(cause::NO_TRANSLATION | cause::HSRR1_UPDATE | cause::TABLE),
    );
    assert_eq!(
        world.verdict(&mut running, 0xe20),
        Verdict::Leave(Exit::InstructionStorage)
    );
    let output = world.leave(running, Exit::InstructionStorage);
    let told = value(&output, 0x1022);
    assert_eq!(told & !SRR1_CAUSE, KERNEL, "0x02000000 is MSR[VEC]");
    assert!(told & u64::from(cause::HSRR1_UPDATE) != 0);
}

#[test]
fn emulation_brings_the_instruction() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never()]);
    running.context().heir = 0x0600_0000_1234_5678;
    assert_eq!(
        world.verdict(&mut running, 0xe40),
        Verdict::Leave(Exit::EmulationAssist)
    );
    let output = world.leave(running, Exit::EmulationAssist);
    assert_eq!(ids(&output), [0x1021, 0x1022, 0x102a, 0xf002]);
    let (_, heir) = output.iter().find(|(id, _)| *id == 0xf002).unwrap();
    assert_eq!(*heir, double(0x0600_0000_1234_5678), "8 bytes");
    assert_eq!(world.value(0, guest, 0, 0xf002), 0x0600_0000_1234_5678);
}

#[test]
fn facilities_bring_their_cause() {
    let world = World::new();
    let guest = world.ready();
    for (facility, all) in [(0x0a, true), (0x03, false), (0x07, false)] {
        let mut running = world.enter(guest, &[never(), (0x102d, double(0x2103))]);
        running.context().hfscr |= Hfscr::from_bits_retain(facility << 56);
        assert_eq!(
            world.verdict(&mut running, 0xf80),
            Verdict::Leave(Exit::FacilityUnavailable)
        );
        let output = world.leave(running, Exit::FacilityUnavailable);
        assert_eq!(value(&output, 0x102d), facility << 56 | 0x2103);
        assert_eq!(ids(&output).contains(&0x1000), all, "{facility:#x}");
        assert_eq!(
            ids(&output)
                .iter()
                .filter(|id| **id >= 0x1020)
                .collect::<Vec<_>>(),
            [&0x1021, &0x1022, &0x102a, &0x102d, &0x2001]
        );
    }
}

#[test]
fn machine_checks_bring_where_and_how() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never()]);
    assert_eq!(
        world.verdict(&mut running, 0x200),
        Verdict::Leave(Exit::MachineCheck)
    );
    assert_eq!(
        ids(&world.leave(running, Exit::MachineCheck)),
        [0x1021, 0x1022, 0x102a]
    );
}

#[test]
fn interrupts_of_the_machine_alone_resume() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never()]);
    for trap in [0x100, 0xe60, 0xf00, 0x1500, 0, !0] {
        assert_eq!(
            world.verdict(&mut running, trap),
            Verdict::Resume,
            "{trap:#x}"
        );
    }
    world.leave(running, Exit::Interrupted);
}

#[test]
fn an_external_interrupt_is_a_level() {
    let world = World::new();
    let guest = world.ready();
    let mer = Lpcr::MER | Lpcr::AIL | Lpcr::ILE;
    // Enabled: delivered at once, and no window is needed while the handler runs... but it stays up.
    let mut running = world.enter(
        guest,
        &[
            never(),
            (0x1022, double(KERNEL)),
            (0x1021, double(0x2000)),
            (0x102c, double(mer.bits())),
        ],
    );
    let context = running.context();
    assert_eq!(
        (context.nia, context.srr0, context.srr1),
        (0xc000_0000_0000_4500, 0x2000, KERNEL)
    );
    assert_eq!(context.msr & Msr::EE.bits(), 0);
    assert!(
        !context.lpcr.contains(Lpcr::MER),
        "the hardware's MER is the firmware's choice"
    );
    assert!(running.wants_external_window());
    // The handler enables interrupts: the window opens, by whichever vector the firmware armed.
    for trap in [0x500, 0xe80] {
        running.context().msr = KERNEL;
        running.context().nia = 0x3000;
        assert!(!running.wants_external_window());
        assert_eq!(world.verdict(&mut running, trap), Verdict::Resume);
        assert_eq!(
            (running.context().nia, running.context().srr0),
            (0xc000_0000_0000_4500, 0x3000)
        );
    }
    world.leave(running, Exit::Hypercall);
    // The partition takes it back.
    let mut running = world.enter(
        guest,
        &[
            never(),
            (0x1022, double(KERNEL)),
            (0x1021, double(0x4000)),
            (0x102c, double((mer - Lpcr::MER).bits())),
        ],
    );
    assert!(!running.wants_external_window());
    assert_eq!(world.verdict(&mut running, 0x500), Verdict::Resume);
    assert_eq!(running.context().nia, 0x4000);
    world.leave(running, Exit::Interrupted);
}

#[test]
fn run_flags_are_for_this_run() {
    let world = World::new();
    let guest = world.ready();
    let off = KERNEL & !Msr::EE.bits();
    // External interrupt: waits for the guest to enable it, then is gone.
    let mut running = world.enter_with(
        guest,
        1 << 63,
        &[never(), (0x1022, double(off)), (0x1021, double(0x2000))],
    );
    assert!(running.wants_external_window());
    assert_eq!(running.context().nia, 0x2000);
    running.context().msr = KERNEL;
    assert_eq!(world.verdict(&mut running, 0x500), Verdict::Resume);
    assert_eq!(running.context().nia, 0x500);
    assert!(!running.wants_external_window());
    world.leave(running, Exit::Interrupted);
    let running = world.enter_with(guest, 1 << 63, &[(0x1022, double(off))]);
    world.leave(running, Exit::Interrupted);
    let running = world.enter(guest, &[]);
    assert!(!running.wants_external_window(), "not taken, not kept");
    world.leave(running, Exit::Interrupted);
    // Doorbell.
    let running = world.enter_with(guest, 1 << 62, &[]);
    assert_eq!(running.vcpu.context.dpdes, 1);
    world.leave(running, Exit::Interrupted);
    assert_eq!(
        world.value(0, guest, 0, 0x1053),
        1,
        "what the guest did not take is read back"
    );
    // System reset: at once, never relocated.
    let mut running = world.enter_with(
        guest,
        1 << 61,
        &[
            (0x1022, double(KERNEL)),
            (0x1021, double(0x6000)),
            (0x102c, double(Lpcr::AIL.bits())),
        ],
    );
    let context = running.context();
    assert_eq!(
        (context.nia, context.srr0, context.msr),
        (0x100, 0x6000, (Msr::SF | Msr::ME).bits())
    );
    world.leave(running, Exit::Interrupted);
}

#[test]
fn buffers_that_vanished_are_reported() {
    let world = World::new();
    let guest = world.ready();
    let slot = world.nested.guest(guest).unwrap().vcpu(0).unwrap();
    slot.with(|vcpu| vcpu.input.as_mut().unwrap().gra = Gra(RAM))
        .unwrap();
    assert_eq!(world.run_with(guest, 0, &[]).err(), Some((-82, vec![])));
    slot.with(|vcpu| vcpu.input.as_mut().unwrap().gra = Gra(INPUT))
        .unwrap();
    let mut running = world.enter(guest, &[never()]);
    running.vcpu.output.as_mut().unwrap().gra = Gra(RAM);
    assert_eq!(
        running.finish(Exit::Hypercall, &world.env()),
        ((-84i64).cast_unsigned(), 0)
    );
    assert_eq!(
        world.run_with(guest, 0, &[]).err(),
        Some((-84, vec![])),
        "the vCPU is idle again"
    );
    let due = [(0x1020, double(0))];
    slot.with(|vcpu| vcpu.output.as_mut().unwrap().gra = Gra(OUTPUT))
        .unwrap();
    assert!(matches!(
        world.run_with(guest, 0, &due),
        Ok(Start::Done(Exit::Timer))
    ));
}

#[test]
fn run_buffers_may_overlap() {
    let world = World::new();
    let guest = world.ready();
    world
        .set(0, guest, 0, &[(0x0c01, pair(INPUT, 1024))])
        .unwrap();
    let running = world.enter(guest, &[never(), (0x1003, double(5))]);
    assert_eq!(running.finish(Exit::Interrupted, &world.env()), (0, 0));
    assert_eq!(ids(&parse(&world.bytes(INPUT, 1024).unwrap())), [0x102a]);
    assert_eq!(world.value(0, guest, 0, 0x1003), 5);
}

#[test]
fn levels_compose_what_the_hardware_gets() {
    let world = World::new();
    let guest = world.ready();
    let reserved = !(0xf000_0000_0000_0000 | 0x1e);
    for (pvr, pcr, prefix) in [
        (0x0f00_0006, reserved, true),
        (0x0f00_0005, reserved | 0x10, false),
    ] {
        world.set(GUEST_WIDE, guest, 0, &[(3, word(pvr))]).unwrap();
        let list = [never(), (0x102d, double(0x2103)), (0x102e, double(0x3184))];
        let running = world.enter(guest, &list);
        let context = &running.vcpu.context;
        assert_eq!(
            context.pcr,
            pcr | OWN.pcr,
            "never weaker than the partition's"
        );
        assert_eq!(context.hfscr.contains(Hfscr::PREFIX), prefix);
        let fscr = if prefix { 0x3184 } else { 0x1184 };
        assert_eq!(context.fscr, fscr, "no facility that the level lacks");
        world.leave(running, Exit::Interrupted);
        assert_eq!(
            world.value(0, guest, 0, 0x102d),
            0x2103,
            "the element reads as written"
        );
    }
}

#[test]
fn whatever_is_asked_the_hardware_gets_no_more_than_allowed() {
    let world = World::new();
    let guest = world.ready();
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    let words = || {
        prop_oneof![
            any::<u64>(),
            (0u32..64).prop_map(|bit| 1 << bit),
            any::<u64>().prop_map(|v| v & LPCR_SETTABLE)
        ]
    };
    let cases = (words(), words(), words(), words(), words(), any::<bool>());
    runner
        .run(&cases, |(lpcr, msr, hfscr, amor, hdexcr, old)| {
            let level = if old { 0x0f00_0005 } else { 0x0f00_0006 };
            world
                .set(GUEST_WIDE, guest, 0, &[(3, word(level))])
                .unwrap();
            let list = [
                (0x102c, lpcr),
                (0x1022, msr),
                (0x102d, hfscr),
                (0x1048, amor),
                (0x104f, hdexcr),
            ];
            // Each alone, so that a refusal of one hides no other.
            for (id, value) in list {
                let Ok(start) = world.run_with(guest, 0, &[never(), (id, double(value))]) else {
                    continue;
                };
                let Start::Enter(running) = start else {
                    panic!("nothing is due")
                };
                let context = &running.vcpu.context;
                let chosen = (Lpcr::DPFD | Lpcr::ILE | Lpcr::AIL | Lpcr::LD | Lpcr::GTSE).bits();
                prop_assert_eq!(context.lpcr.bits() & !chosen, Lpcr::GUEST_BASE.bits());
                prop_assert!(!context.lpcr.intersects(Lpcr::MER | Lpcr::LPES));
                prop_assert_eq!(context.msr & !MSR_SETTABLE, Msr::ME.bits());
                prop_assert_eq!(context.hfscr.bits() & !OWN.hfscr, 0);
                prop_assert!(!(old && context.hfscr.contains(Hfscr::PREFIX)));
                prop_assert_eq!(context.amor & !OWN.amor, 0);
                prop_assert_eq!(context.hdexcr & OWN.hdexcr, OWN.hdexcr);
                prop_assert_eq!(context.pcr & OWN.pcr, OWN.pcr);
                world.leave(running, Exit::Interrupted);
            }
            Ok(())
        })
        .unwrap();
}

/// Any bytes as input: an answer, and the vCPU is idle afterwards.
#[test]
fn hostile_inputs_are_answered() {
    let world = World::new();
    let guest = world.ready();
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    runner
        .run(
            &(prop::collection::vec(any::<u8>(), 0..200), 0u64..8),
            |(bytes, flags)| {
                world.ram.write(Gra(INPUT), &[0; 256]).unwrap();
                world.ram.write(Gra(INPUT), &bytes).unwrap();
                match world.nested.run(&world.env(), flags << 61, guest, 0) {
                    Ok(Start::Enter(running)) => drop(world.leave(running, Exit::Timer)),
                    Ok(Start::Done(_)) => {}
                    Err(refusal) => prop_assert!(
                        refusal.code.code() < 0 && refusal.outputs.as_slice().len() == 1
                    ),
                }
                prop_assert!(world.get(0, guest, 0, &[0x1000]).is_ok());
                Ok(())
            },
        )
        .unwrap();
}

/// `sc 1` with H_RPT_INVALIDATE, arguments from r4.
fn invalidate(world: &World, running: &mut Running, args: [u64; 6]) -> (Verdict, u64) {
    let gpr = &mut running.context().gpr;
    gpr[3] = 0x448;
    gpr[4..10].copy_from_slice(&args);
    world.machine.flushes.borrow_mut().clear();
    let verdict = world.verdict(running, 0xc00);
    (verdict, running.context().gpr[3])
}

#[test]
fn a_guest_invalidates_its_own_processes_here() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never(), (0x1021, double(0x2004))]);
    let lpid = running.guest.lpid();
    let all = [77, 1, 0xe, u64::MAX, 0, u64::MAX];
    assert_eq!(invalidate(&world, &mut running, all), (Verdict::Resume, 0));
    assert_eq!(
        *world.machine.flushes.borrow(),
        [Flush::Process {
            lpid,
            pid: 77,
            what: ProcessFlush::All
        }],
        "its own LPID, not the partition's"
    );
    assert_eq!(running.context().nia, 0x2004);
    let backwards = [77, 1, 2, 1, 0x2000, 0x1000];
    assert_eq!(
        invalidate(&world, &mut running, backwards),
        (Verdict::Resume, HCode::H_P5.code().cast_unsigned())
    );
    // About a guest of its own, which only the partition can say something about.
    let nested = [0x1001, 1, 0xf, u64::MAX, 0, u64::MAX];
    assert_eq!(
        invalidate(&world, &mut running, nested),
        (Verdict::Leave(Exit::Hypercall), 0x448)
    );
    assert!(world.machine.flushes.borrow().is_empty());
    // From problem state it is no call at all.
    running.context().msr = KERNEL | Msr::PR.bits();
    assert_eq!(
        invalidate(&world, &mut running, all),
        (Verdict::Resume, 0x448)
    );
    assert_eq!(running.context().srr0, 0x2000);
    assert!(world.machine.flushes.borrow().is_empty());
    world.leave(running, Exit::Interrupted);
}

#[test]
fn the_partitions_hypercalls_are_not_served_for_its_guests() {
    let world = World::new();
    let guest = world.ready();
    let mut running = world.enter(guest, &[never()]);
    for number in [
        0x460, 0x464, 0x470, 0x480, 0x488, 0xf800, 0xf804, 0xe0, 0x58, 0xf000, 0, !0,
    ] {
        running.context().gpr[3] = number;
        assert_eq!(
            world.verdict(&mut running, 0xc00),
            Verdict::Leave(Exit::Hypercall),
            "{number:#x}"
        );
    }
    world.leave(running, Exit::Hypercall);
}

#[test]
fn an_interrupt_that_rises_during_a_fault_ends_the_run() {
    let world = World::new();
    let guest = world.ready();
    world.map(0x5000, 0x20_0000, Pte::READ | Pte::R);
    let mut running = world.enter(guest, &[never(), (0x1022, double(KERNEL))]);
    data_fault(running.context(), 0x5000, cause::NO_TRANSLATION);
    world.machine.pending.set(true);
    assert_eq!(
        world.verdict(&mut running, 0xe00),
        Verdict::Leave(Exit::Interrupted)
    );
    assert_eq!(
        running.guest.shadow().installed().size_4k,
        1,
        "the fault is solved all the same"
    );
    assert_eq!(
        running.context().msr,
        KERNEL,
        "the cause of a fault that the partition does not see"
    );
    world.leave(running, Exit::Interrupted);
}

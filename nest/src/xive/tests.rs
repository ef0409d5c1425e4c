//! The driver against the model of two chips.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::vec::Vec;

use isa::addr::Ra;

use super::memory::TableMemory;
use super::model::{CAP, Memory, Model, Scoms, trigger};
use super::registers as regs;
use super::tables::{End, Index, Nvp, Table, end, nvp};
use super::{
    ChipSetup, HW_VP_BASE, Pages, Queue, Route, Source, Unit, VpSetup, Xive, XiveError, XiveMemory,
};
use crate::chip::AddressMap;
use crate::scom::{ChipIndex, ScomError};

const MAP: AddressMap = AddressMap {
    chip_shift: 44,
    lpc: Ra(0),
    xscom: Ra(0),
    psihb: Ra(0x0006_0302_0300_0000),
    psihb_esb: Ra(0x0006_0302_0200_0000),
    xive_ic: Ra(0x0006_0302_0000_0000),
    xive_tm: Ra(0x0006_0302_0318_0000),
    xive_nvc: Ra(0x0006_0302_0800_0000),
    xive_nvpg: Ra(0x0006_0400_0000_0000),
    xive_esb: Ra(0x0006_0500_0000_0000),
    xive_end: Ra(0x0006_0600_0000_0000),
};

/// The second chip is number 2 of the machine, so that block and chip differ.
const CHIPS: [u8; 2] = [0, 2];

struct Machine {
    memory: Rc<Memory>,
    chips: Vec<Rc<Model>>,
    xive: Xive<Rc<Model>, Rc<Memory>>,
    scoms: Scoms,
}

impl TableMemory for Rc<Memory> {
    fn load(&self, at: Ra) -> u64 {
        (**self).load(at)
    }
    fn store(&self, at: Ra, value: u64) {
        (**self).store(at, value);
    }
    fn fill(&self, at: Ra, bytes: u64, value: u8) {
        (**self).fill(at, bytes, value);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "two chips")]
fn setups(chips: &[Rc<Model>]) -> Vec<ChipSetup<Rc<Model>>> {
    let setup = |(n, windows): (u64, &Rc<Model>)| ChipSetup {
        chip: ChipIndex(CHIPS[n as usize]),
        windows: Rc::clone(windows),
        memory: XiveMemory::new(Ra(0x3400_0000 + n * super::REGION)).unwrap(),
        is_fused: false,
    };
    (0..).zip(chips).map(setup).collect()
}

fn machine(count: usize) -> Machine {
    let memory = Rc::new(Memory::default());
    let chips: Vec<_> = (0..count).map(|_| Model::new(Rc::clone(&memory))).collect();
    let mut scoms = Scoms::default();
    let xive = Xive::start(&mut scoms, &MAP, setups(&chips), Rc::clone(&memory)).unwrap();
    for (chip, _) in CHIPS.iter().zip(&chips) {
        for local in [0, 1, 0x45] {
            let pir = u32::from(*chip) << 8 | local;
            xive.add_thread(pir).unwrap();
            if local != 1 {
                xive.enable_thread(pir).unwrap();
            }
        }
    }
    Machine {
        memory,
        chips,
        xive,
        scoms,
    }
}

/// Memory that the tests use for queues and pages.
const FREE: u64 = 0x5000_0000;

const QUEUE: Queue = Queue {
    memory: Some((Ra(FREE), 16)),
    always_notify: true,
    escalate: false,
};

fn route(vp: Index, priority: u8, data: u32) -> Route {
    Route {
        vp,
        priority: Some(priority),
        data,
    }
}

fn donate(machine: &Machine, pages: u64) {
    for n in 0..pages {
        for block in 0..machine.xive.blocks() {
            let page = FREE + 0x100_0000 * (1 + u64::from(block)) + n * 0x1_0000;
            machine.xive.donate(block, Ra(page)).unwrap();
        }
    }
}

#[test]
fn addresses_are_set_off_then_on() {
    let machine = machine(2);
    for (chip, base) in [(0, 0), (2, 2 << 44)] {
        let writes: Vec<_> = machine
            .scoms
            .writes
            .iter()
            .filter(|write| write.0 == chip)
            .collect();
        let writes: Vec<_> = writes.iter().map(|write| (write.1, write.2)).collect();
        assert_eq!(
            writes,
            [
                (0x201_0812, 1 << 59),
                (0x201_0808, 0),
                (0x201_0808, 3 << 62 | base | 0x0006_0302_0000_0000),
                (0x201_0809, 0),
                (0x201_0809, 3 << 62 | 0x0006_0302_0318_0000),
                (0x201_080c, 0),
                (0x201_080c, 3 << 62 | base | 0x0006_0400_0000_0000 | 13),
                (0x201_080a, 0),
                (0x201_080a, 3 << 62 | base | 0x0006_0500_0000_0000 | 13),
                (0x201_080b, 0),
                (0x201_080b, 3 << 62 | base | 0x0006_0600_0000_0000 | 16),
            ]
        );
    }
}

#[test]
fn the_second_chip_is_block_1_and_each_knows_the_other() {
    let machine = machine(2);
    let [first, second] = &machine.chips[..] else {
        panic!()
    };
    // 8 priorities, override, block, save and restore.
    assert_eq!(first.register(regs::CQ_CFG), 0x0030_8000_0200_0000);
    assert_eq!(second.register(regs::CQ_CFG), 0x0030_8100_0200_0000);
    assert_eq!(first.table(Table::Eas, 0), 0x8000_0000_3480_000b);
    assert_eq!(second.table(Table::Eas, 1), 0x8000_0000_3580_000b);
    assert_eq!(
        second.table(Table::Eas, 0),
        0,
        "assignments are never remote"
    );
    assert_eq!(first.table(Table::End, 0) >> 62, 2);
    assert_eq!(first.table(Table::End, 1), 0xc006_0600_0000_001c | 2 << 44);
    assert_eq!(second.table(Table::Nvp, 0), 0xc006_0400_0000_0019);
    // By chip, not by block.
    assert_eq!(first.table(Table::Ic, 2), 0xc006_0302_0000_000d | 2 << 44);
    assert_eq!(first.table(Table::Ic, 1), 0);
    assert_eq!(machine.xive.block_of(ChipIndex(2)), Some(1));
    assert_eq!(machine.xive.block_of(ChipIndex(1)), None);
    assert_eq!(machine.xive.chip_of(1), Some(ChipIndex(2)));
    assert_eq!(machine.xive.vp_blocks_log2(), 1);
}

#[test]
fn a_chip_that_is_none_or_does_not_answer_is_named() {
    let start = |model: &Rc<Model>, scoms: &mut Scoms| {
        let memory = Rc::new(Memory::default());
        Xive::start(scoms, &MAP, setups(&[Rc::clone(model)]), memory).map(drop)
    };
    let model = Model::new(Rc::default());
    model.cap.set(1 << 60);
    assert_eq!(
        start(&model, &mut Scoms::default()),
        Err(XiveError::Generation(1))
    );
    let mut dead = Scoms {
        fails: Some(ScomError::Offline),
        ..Scoms::default()
    };
    let failed = Err(XiveError::Scom(ScomError::Offline));
    assert_eq!(start(&model, &mut dead), failed);
    let none = Xive::start(
        &mut Scoms::default(),
        &MAP,
        Vec::<ChipSetup<Rc<Model>>>::new(),
        Rc::<Memory>::default(),
    );
    assert_eq!(none.map(drop).unwrap_err(), XiveError::NoBlock);
}

#[test]
fn threads_are_where_the_hardware_puts_them() {
    let machine = machine(2);
    let vp = machine.xive.thread_vp(0x245).unwrap();
    assert_eq!((vp.block, vp.index), (1, HW_VP_BASE + 0x45));
    assert_eq!(machine.xive.thread_of_vp(vp), Some(0x245));
    for pir in [2, 0x145, 0x280, 0x345, 0xffff, u32::MAX] {
        assert_eq!(
            machine.xive.thread_vp(pir),
            Err(XiveError::NoVp),
            "{pir:#x}"
        );
    }
    assert_eq!(machine.xive.add_thread(0x100), Err(XiveError::NoVp));
    assert_eq!(machine.xive.enable_thread(0x245), Ok(()));
    // Bit 0x45 & 0x3f of the second register: fused core 8.
    let enabled = machine.chips[1].register(regs::TCTXT_EN1);
    assert_eq!(enabled, 1 << (63 - 5));
    assert_eq!(machine.chips[1].register(regs::TCTXT_EN0), 1 << 63);
}

#[test]
fn an_event_goes_from_source_to_queue() {
    let machine = machine(2);
    let (xive, chips) = (&machine.xive, &machine.chips);
    let vp = xive.thread_vp(0x201).unwrap();
    xive.set_queue(vp, 6, Some(QUEUE)).unwrap();
    let index = xive.allocate_source(0).unwrap();
    let source = Source::Interrupt(index);
    assert_eq!(
        chips[0].pq(index.index),
        0b01,
        "off until the kernel wants it"
    );
    let masked = xive.route(source).unwrap();
    assert_eq!((masked.priority, masked.data), (None, 0x10));
    xive.set_route(source, route(vp, 6, 0x77)).unwrap();
    let now = xive.route(source).unwrap();
    assert_eq!((now.vp, now.priority, now.data), (Some(vp), Some(6), 0x77));

    chips[1].running.borrow_mut().insert(vp.index);
    chips[0].set_pq(index.index, 0);
    trigger(chips, index);
    assert_eq!(chips[1].notified.borrow()[..], [(vp.index, 6)]);
    assert_eq!(machine.memory.load(Ra(FREE)) >> 32, 0x8000_0077);
    assert_eq!(xive.queue_position(vp, 6), Ok((true, 1)), "needs a scrub");

    // Routed elsewhere: the chip must not use what it remembers.
    let other = xive.thread_vp(0).unwrap();
    let queue = Queue {
        memory: Some((Ra(FREE + 0x1_0000), 12)),
        ..QUEUE
    };
    xive.set_queue(other, 0, Some(queue)).unwrap();
    chips[0].running.borrow_mut().insert(other.index);
    xive.set_route(source, route(other, 0, 0x78)).unwrap();
    chips[0].set_pq(index.index, 0);
    trigger(chips, index);
    assert_eq!(machine.memory.load(Ra(FREE + 0x1_0000)) >> 32, 0x8000_0078);

    let mask = Route {
        priority: None,
        ..route(other, 0, 0x78)
    };
    xive.set_route(source, mask).unwrap();
    chips[0].set_pq(index.index, 0);
    trigger(chips, index);
    assert_eq!(xive.queue_position(other, 0), Ok((true, 1)), "nothing came");
    assert_eq!(xive.route(source).unwrap().vp, Some(other));
}

#[test]
fn both_chips_are_synced_when_a_route_leaves_one() {
    let machine = machine(2);
    let xive = &machine.xive;
    let source = Source::Interrupt(xive.allocate_source(0).unwrap());
    let [near, far] = [0x001, 0x201].map(|pir| xive.thread_vp(pir).unwrap());
    let syncs = || [0, 1].map(|n: usize| machine.chips[n].syncs.get() / 7);
    xive.set_route(source, route(far, 0, 1)).unwrap();
    assert_eq!(syncs(), [1, 0], "it led nowhere before");
    xive.set_route(source, route(near, 0, 1)).unwrap();
    assert_eq!(syncs(), [2, 1]);
    xive.set_route(source, route(near, 1, 1)).unwrap();
    assert_eq!(syncs(), [3, 1]);
}

#[test]
fn sources_that_lead_nowhere_are_refused() {
    let machine = machine(1);
    let xive = &machine.xive;
    let vp = xive.thread_vp(0).unwrap();
    let at = |block, index| Index { block, index };
    for index in [
        at(0, 0),
        at(0, 0x10),
        at(0, 1 << 20),
        at(0, u32::MAX),
        at(1, 0x10),
        at(255, 0),
    ] {
        let source = Source::Interrupt(index);
        assert_eq!(xive.route(source), Err(XiveError::NoSource), "{index:?}");
        assert_eq!(
            xive.set_route(source, route(vp, 0, 0)),
            Err(XiveError::NoSource)
        );
        assert_eq!(xive.free_source(index), Err(XiveError::NoSource));
    }
    for index in [at(0, 1 << 23), at(0, 1 << 22), at(0, u32::MAX), at(3, 8)] {
        assert_eq!(
            xive.route(Source::Escalation(index)),
            Err(XiveError::NoSource)
        );
    }
    assert!(xive.source(Source::Interrupt(at(0, 1 << 20))).is_err());
    assert!(xive.source(Source::Escalation(at(0, 1 << 23))).is_err());
    let source = Source::Interrupt(xive.allocate_source(0).unwrap());
    let bad_vp = |block, index| xive.set_route(source, route(at(block, index), 0, 0));
    assert_eq!(bad_vp(0, 0), Err(XiveError::NoVp));
    assert_eq!(bad_vp(0, 1 << 20), Err(XiveError::NoVp));
    assert_eq!(bad_vp(0, 0xff_ffff), Err(XiveError::NoVp));
    assert_eq!(bad_vp(9, HW_VP_BASE), Err(XiveError::NoVp));
    assert_eq!(
        xive.set_route(source, route(vp, 8, 0)),
        Err(XiveError::NoPriority)
    );
    assert_eq!(
        xive.set_route(source, route(vp, 255, 0)),
        Err(XiveError::NoPriority)
    );
}

#[test]
fn interrupts_are_given_once_and_off_when_freed() {
    let machine = machine(1);
    let xive = &machine.xive;
    let given: Vec<_> = (0..100).map(|_| xive.allocate_source(0).unwrap()).collect();
    assert_eq!(given[0].index, 0x10);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 100);
    machine.chips[0].set_pq(given[7].index, 0b10);
    xive.free_source(given[7]).unwrap();
    assert_eq!(machine.chips[0].pq(given[7].index), 0b01);
    assert_eq!(
        xive.free_source(given[7]),
        Err(XiveError::NoSource),
        "twice"
    );
    assert_eq!(xive.allocate_source(0), Ok(given[7]), "the lowest is next");
    assert_eq!(xive.allocate_source(1), Err(XiveError::NoBlock));
}

#[test]
fn devices_have_sources_of_their_own() {
    let machine = machine(1);
    let xive = &machine.xive;
    let base = Ra(0x0006_0302_0200_0000);
    let pages = Pages::Device {
        base,
        level: true,
        store_eoi: true,
    };
    let psi = xive.reserve_sources(0, 16, pages).unwrap();
    assert_eq!(psi.index, (1 << 20) - 16);
    let phb = Pages::Controller { level: false };
    let phb = xive.reserve_sources(0, 4096, phb).unwrap();
    assert_eq!(phb.index, (1 << 20) - 8192, "aligned to its size");
    let info = xive.source(Source::Interrupt(psi.plus(3))).unwrap();
    assert_eq!(info.management, Ra(base.0 + 3 * 0x1_0000));
    assert!(info.level && info.store_eoi && info.trigger.is_none() && info.shift == 16);
    let info = xive.source(Source::Interrupt(phb)).unwrap();
    let page = MAP.xive_esb.0 + u64::from(phb.index) * 0x2_0000;
    assert_eq!(
        (info.management, info.trigger),
        (Ra(page + 0x1_0000), Some(Ra(page)))
    );
    assert!(!info.level && info.store_eoi && info.shift == 17);
    assert_eq!(
        xive.free_source(psi),
        Err(XiveError::NoSource),
        "not the kernel's"
    );
    assert_eq!(Xive::<Rc<Model>, Rc<Memory>>::notify_base(psi), 0x000f_fff0);
    for bad in [0, 3, 1 << 20] {
        assert_eq!(xive.reserve_sources(0, bad, pages), Err(XiveError::Full));
    }
    // After a reset they are masked, and still there.
    let vp = xive.thread_vp(0).unwrap();
    xive.set_route(Source::Interrupt(phb), route(vp, 0, 5))
        .unwrap();
    machine.chips[0].set_pq(phb.index, 0);
    xive.reset().unwrap();
    assert_eq!(xive.route(Source::Interrupt(phb)).unwrap().priority, None);
    assert_eq!(machine.chips[0].pq(phb.index), 0b01);
    let escalation = Source::Escalation(Index { block: 0, index: 8 });
    let info = xive.source(escalation).unwrap();
    assert_eq!(
        info.management,
        Ra(MAP.xive_end.0 + 8 * 0x2_0000 + 0x1_0000)
    );
    assert!(info.trigger.is_none() && !info.store_eoi);
}

#[test]
fn queues_are_what_was_asked_for() {
    let machine = machine(1);
    let xive = &machine.xive;
    let vp = xive.thread_vp(1).unwrap();
    let off = xive.queue(vp, 3).unwrap();
    assert!(!off.enabled && off.queue.is_some_and(|queue| queue.memory.is_none()));
    assert_eq!(xive.queue_position(vp, 3), Err(XiveError::Disabled));
    assert_eq!(
        xive.set_queue_position(vp, 3, true, 0),
        Err(XiveError::Disabled)
    );
    let asked = Queue {
        escalate: true,
        ..QUEUE
    };
    xive.set_queue(vp, 3, Some(asked)).unwrap();
    let found = xive.queue(vp, 3).unwrap();
    assert!(found.enabled);
    assert_eq!(found.queue, Some(asked));
    assert_eq!(found.escalation.index, 2 * 8 + 3, "the second thread's set");
    assert_eq!(found.management, Ra(MAP.xive_end.0 + 19 * 0x2_0000));
    let entry = machine.chips[0].end_entry(19);
    assert_eq!(
        entry.words[0], 0x8690_0000,
        "valid, queue, always, backlog, escalate"
    );
    assert_eq!(
        entry.words[1], 0x5040_0000,
        "both buffers as they were, generation 1"
    );
    assert_eq!(entry.words[6..], [HW_VP_BASE + 1, 0x0003_0000]);

    assert_eq!(xive.set_queue_position(vp, 3, false, 0x3fff), Ok(()));
    assert_eq!(xive.queue_position(vp, 3), Ok((false, 0x3fff)));
    assert_eq!(
        xive.set_queue_position(vp, 3, false, 0x4000),
        Err(XiveError::BadAddress)
    );

    xive.set_queue(vp, 3, None).unwrap();
    assert_eq!(machine.chips[0].end_entry(19), End::off());
    for memory in [
        (Ra(FREE + 0x1000), 16),
        (Ra(FREE), 11),
        (Ra(FREE), 28),
        (Ra(1 << 57), 12),
    ] {
        let bad = Queue {
            memory: Some(memory),
            ..QUEUE
        };
        assert_eq!(xive.set_queue(vp, 3, Some(bad)), Err(XiveError::BadAddress));
    }
    assert_eq!(
        xive.set_queue(vp, 8, Some(QUEUE)),
        Err(XiveError::NoPriority)
    );
    assert_eq!(xive.queue(vp, 8), Err(XiveError::NoPriority));
}

#[test]
fn a_changing_entry_is_tried_again_but_not_for_ever() {
    let machine = machine(1);
    let vp = machine.xive.thread_vp(0).unwrap();
    machine.chips[0].conflicts.set(9);
    assert_eq!(machine.xive.set_queue(vp, 0, Some(QUEUE)), Ok(()));
    machine.chips[0].conflicts.set(10);
    let before = machine.chips[0].end_entry(9);
    assert_eq!(
        machine.xive.set_queue(vp, 1, Some(QUEUE)),
        Err(XiveError::Busy)
    );
    assert_eq!(machine.chips[0].end_entry(9), before);
}

#[test]
fn a_chip_that_hangs_is_an_error() {
    let machine = machine(1);
    let (xive, chip) = (&machine.xive, &machine.chips[0]);
    let vp = xive.thread_vp(0).unwrap();
    let source = Source::Interrupt(xive.allocate_source(0).unwrap());
    let hang = |reg: crate::mmio::Reg<regs::Ic>| chip.stuck.set(Some(reg.offset()));
    hang(regs::VC_SYNC_DONE);
    assert_eq!(xive.sync(0), Err(XiveError::Stuck(Unit::Sync)));
    let late = xive.set_route(source, route(vp, 3, 0));
    assert_eq!(late, Err(XiveError::Unsettled(Unit::Sync)));
    assert_eq!(xive.route(source).unwrap().priority, Some(3), "it is done");
    chip.stuck.set(None);
    let mask = Route {
        priority: None,
        ..route(vp, 0, 0)
    };
    xive.set_route(source, mask).unwrap();
    hang(regs::VC_EASC_FLUSH_CTRL);
    let failed = xive.set_route(source, route(vp, 0, 0));
    assert_eq!(failed, Err(XiveError::Stuck(Unit::EasCache)));
    assert_eq!(xive.route(source).unwrap().priority, None, "as before");
    hang(regs::VC_ENDC_FLUSH_CTRL);
    let late = xive.set_queue(vp, 0, Some(QUEUE));
    assert_eq!(late, Err(XiveError::Unsettled(Unit::EndCache)));
    hang(regs::PC_NXC_FLUSH_CTRL);
    assert_eq!(xive.vp_state(vp), Err(XiveError::Stuck(Unit::NvpCache)));
    hang(regs::PC_KILL);
    assert_eq!(xive.reset(), Err(XiveError::Stuck(Unit::PcKill)));
    chip.stuck.set(None);
    assert_eq!(xive.reset(), Ok(()), "and it works again");
}

#[test]
fn blocks_of_processors_need_pages_on_every_chip() {
    let machine = machine(2);
    let xive = &machine.xive;
    // The first page of each table is the firmware's: blocks fit on it until the threads' come, then pages are needed.
    let small = xive.allocate_vps(2).unwrap();
    assert_eq!(small, 0);
    for block in [0, 1] {
        let info = xive.vp(Index { block, index: 3 }).unwrap();
        assert!(!info.enabled && info.save_restore && !info.single_escalation);
        assert_eq!(info.cam, 0x4000_0003 | u32::from(block) << 24);
    }
    assert!(xive.vp(Index { block: 0, index: 4 }).is_err());
    assert_eq!(xive.allocate_vps(11), Err(XiveError::NoPages));
    for (page, error) in [
        (0x1_0001, XiveError::BadAddress),
        (0, XiveError::BadAddress),
        (1 << 56, XiveError::BadAddress),
    ] {
        assert_eq!(xive.donate(0, Ra(page)), Err(error));
    }
    assert_eq!(xive.donate(2, Ra(FREE)), Err(XiveError::NoBlock));
    let mut asked = 0;
    let large = loop {
        match xive.allocate_vps(11) {
            Ok(first) => break first,
            Err(error) => assert_eq!(error, XiveError::NoPages),
        }
        asked += 1;
        donate_one(&machine, asked);
        assert!(asked < 20, "it must end");
    };
    assert_eq!(large, 2048);
    assert_eq!(
        asked, 9,
        "one page of processors, eight of event descriptors"
    );
    // All event descriptors differ.
    let mut sets = BTreeSet::new();
    for block in [0, 1] {
        for index in (0..4).chain(2048..4096) {
            assert!(sets.insert((
                block,
                xive.queue(Index { block, index }, 0).unwrap().escalation
            )));
        }
    }
    assert_eq!(xive.free_vps(2048, 10), Err(XiveError::NoVp));
    assert_eq!(xive.free_vps(0, 11), Err(XiveError::NoVp));
    assert_eq!(xive.free_vps(HW_VP_BASE, 7), Err(XiveError::NoVp));
    let one = Index {
        block: 1,
        index: 3000,
    };
    let setup = VpSetup {
        single_escalation: false,
        report: Ra(0),
    };
    xive.set_vp(one, Some(setup)).unwrap();
    assert_eq!(xive.free_vps(2048, 11), Err(XiveError::Active));
    xive.set_vp(one, None).unwrap();
    assert_eq!(xive.free_vps(2048, 11), Ok(()));
    assert_eq!(xive.vp(one), Err(XiveError::NoVp));
    assert_eq!(xive.allocate_vps(11), Ok(2048), "with the pages it has");
}

fn donate_one(machine: &Machine, n: u64) {
    for block in 0..machine.xive.blocks() {
        let page = FREE + 0x100_0000 * (1 + u64::from(block)) + n * 0x1_0000;
        machine.xive.donate(block, Ra(page)).unwrap();
    }
}

#[test]
fn an_event_for_a_processor_that_does_not_run_escalates() {
    let machine = machine(2);
    let (xive, chips) = (&machine.xive, &machine.chips);
    donate(&machine, 4);
    let first = xive.allocate_vps(1).unwrap();
    let guest = Index {
        block: 1,
        index: first,
    };
    let setup = VpSetup {
        single_escalation: true,
        report: Ra(FREE + 0x300),
    };
    xive.set_vp(guest, Some(setup)).unwrap();
    let info = xive.vp(guest).unwrap();
    assert!(info.enabled && info.single_escalation && info.report == setup.report);
    let gathering = Queue {
        escalate: true,
        ..QUEUE
    };
    assert_eq!(
        xive.set_queue(guest, 7, Some(gathering)),
        Err(XiveError::Gathering)
    );
    assert_eq!(xive.queue(guest, 7).unwrap().queue, None);
    xive.set_queue(guest, 2, Some(gathering)).unwrap();
    let escalation = xive.queue(guest, 2).unwrap().escalation;
    assert_eq!(escalation, xive.queue(guest, 7).unwrap().escalation);
    let own = Source::Escalation(Index {
        index: escalation.index - 5,
        ..escalation
    });
    assert_eq!(xive.route(own), Err(XiveError::NoSource), "not on its own");

    // The host hears of it.
    let host = xive.thread_vp(0x200).unwrap();
    let host_queue = Queue {
        memory: Some((Ra(FREE + 0x1_0000), 16)),
        ..QUEUE
    };
    xive.set_queue(host, 5, Some(host_queue)).unwrap();
    chips[1].running.borrow_mut().insert(host.index);
    xive.set_route(Source::Escalation(escalation), route(host, 5, 0x99))
        .unwrap();
    let told = xive.route(Source::Escalation(escalation)).unwrap();
    assert_eq!(
        (told.vp, told.priority, told.data),
        (Some(host), Some(5), 0x99)
    );
    let source = xive.allocate_source(1).unwrap();
    xive.set_route(Source::Interrupt(source), route(guest, 2, 0x11))
        .unwrap();
    chips[1].set_pq(source.index, 0);
    trigger(chips, source);
    assert_eq!(
        machine.memory.load(Ra(FREE)) >> 32,
        0x8000_0011,
        "the guest's queue"
    );
    assert_eq!(
        machine.memory.load(Ra(FREE + 0x1_0000)) >> 32,
        0x8000_0099,
        "the host's"
    );
    assert_eq!(chips[1].notified.borrow()[..], [(host.index, 5)]);
    // CPPR 0xff as it was set up, and the pending priority.
    assert_eq!(xive.vp_state(guest), Ok(0x00ff_2000_0000_0000));

    // Enabling it once more must not lose the escalation that is pending.
    xive.set_vp(guest, Some(setup)).unwrap();
    assert_eq!(chips[1].end_entry(escalation.index).get(&end::ESE), 0b10);
    xive.set_vp(guest, None).unwrap();
    assert_eq!(chips[1].end_entry(escalation.index), End::off());
    assert!(
        !chips[1]
            .end_entry(escalation.index - 5)
            .has(&end::UNCONDITIONAL)
    );
    assert_eq!(xive.vp_state(guest), Err(XiveError::Disabled));
    let bad = VpSetup {
        report: Ra(0x80),
        ..setup
    };
    assert_eq!(xive.set_vp(guest, Some(bad)), Err(XiveError::BadAddress));
}

#[test]
fn a_last_queue_in_use_cannot_gather() {
    let machine = machine(1);
    let xive = &machine.xive;
    let first = xive.allocate_vps(1).unwrap();
    let vp = Index {
        block: 0,
        index: first,
    };
    xive.set_queue(vp, 7, Some(QUEUE)).unwrap();
    let setup = VpSetup {
        single_escalation: true,
        report: Ra(0),
    };
    assert_eq!(xive.set_vp(vp, Some(setup)), Err(XiveError::Gathering));
    assert!(!xive.vp(vp).unwrap().enabled);
}

#[test]
fn reset_leaves_the_threads_and_nothing_else() {
    let machine = machine(2);
    let (xive, chips) = (&machine.xive, &machine.chips);
    donate(&machine, 12);
    let first = xive.allocate_vps(11).unwrap();
    let small = xive.allocate_vps(1).unwrap();
    let setup = VpSetup {
        single_escalation: true,
        report: Ra(0),
    };
    for index in [first, small] {
        xive.set_vp(Index { block: 1, index }, Some(setup)).unwrap();
    }
    let thread = xive.thread_vp(0x201).unwrap();
    xive.set_queue(thread, 6, Some(QUEUE)).unwrap();
    let source = xive.allocate_source(1).unwrap();
    xive.set_route(Source::Interrupt(source), route(thread, 6, 1))
        .unwrap();
    chips[1].set_pq(source.index, 0);
    for chip in chips {
        chip.contexts.borrow_mut().clear();
    }

    xive.reset().unwrap();
    assert_eq!(chips[1].pq(source.index), 0b01);
    assert_eq!(
        xive.route(Source::Interrupt(source)),
        Err(XiveError::NoSource)
    );
    assert_eq!(
        xive.vp(Index {
            block: 1,
            index: first
        }),
        Err(XiveError::NoVp)
    );
    assert_eq!(
        xive.vp(Index {
            block: 1,
            index: small
        }),
        Err(XiveError::NoVp)
    );
    assert!(!xive.queue(thread, 6).unwrap().enabled);
    assert!(xive.vp(thread).unwrap().enabled);
    let pushed: Vec<_> = chips[1]
        .contexts
        .borrow()
        .iter()
        .map(|(at, v)| (*at, *v))
        .collect();
    let at = |local: u64| (256 + local) * 0x1_0000 + 0x38;
    assert_eq!(
        pushed,
        [(at(0), 0x80), (at(0x45), 0x80)],
        "thread 1 never came"
    );
    let mut pulled = Vec::new();
    for local in [0, 0x45] {
        for ring in [0x10, 0x20] {
            pulled.push((256 + local) * 0x1_0000 + 0x808 + ring);
        }
    }
    assert_eq!(
        chips[1].pulls.borrow()[..],
        pulled,
        "while their processors are still there"
    );
    assert_eq!(
        xive.allocate_vps(11),
        Err(XiveError::NoPages),
        "donations are forgotten"
    );
    assert_eq!(xive.allocate_vps(1), Ok(0));
    assert_eq!(xive.allocate_source(1).unwrap().index, 0x10);
    assert_eq!(
        chips[0].nvp_entry(HW_VP_BASE),
        Nvp::default()
            .with(&nvp::VALID, 1)
            .with_ends(Index { block: 0, index: 8 })
    );
}

#[test]
fn without_save_and_restore_the_hypervisor_does_it() {
    let memory = Rc::new(Memory::default());
    let chips = std::vec![Model::new(Rc::clone(&memory))];
    chips[0].cap.set(CAP & !regs::CAP_SAVE_RESTORE);
    let xive = Xive::start(&mut Scoms::default(), &MAP, setups(&chips), memory).unwrap();
    let first = xive.allocate_vps(1).unwrap();
    let vp = Index {
        block: 0,
        index: first,
    };
    let setup = VpSetup {
        single_escalation: false,
        report: Ra(0),
    };
    xive.set_vp(vp, Some(setup)).unwrap();
    assert_eq!(chips[0].nvp_entry(first).words[0], 1 << 31);
    assert_eq!(xive.vp(vp).unwrap().cam, first);
    assert_eq!(
        xive.capabilities(0).map(|can| can.save_restore),
        Some(false)
    );
}

#[test]
fn a_host_of_partitions_has_pages_of_its_own() {
    let machine = machine(2);
    assert_eq!(machine.xive.allocate_vps(9), Err(XiveError::NoPages));
    assert_eq!(machine.xive.provision(81), Err(XiveError::Full));
    machine.xive.provision(16).unwrap();
    let first = machine.xive.allocate_vps(9).unwrap();
    for block in 0..2 {
        let index = first + 511;
        assert!(!machine.xive.vp(Index { block, index }).unwrap().enabled);
    }
    let reports = machine.xive.discarded_reports();
    assert_eq!(reports, Ra(0x3415_0000));
}

#[test]
fn a_virtual_processor_begins_anew() {
    let machine = machine(2);
    machine.xive.provision(4).unwrap();
    let index = machine.xive.allocate_vps(2).unwrap();
    let vp = Index { block: 1, index };
    let report = Ra(FREE + 0x100);
    machine.xive.renew_vp(vp, report).unwrap();
    let used = machine.chips[1]
        .nvp_entry(index)
        .with(&nvp::CPPR, 0xff)
        .with(&nvp::IPB, 0x02)
        .with(&nvp::LSMFB, 0x05);
    machine.chips[1].put_nvp(index, used);
    machine.xive.renew_vp(vp, report).unwrap();
    let fresh = machine.chips[1].nvp_entry(index);
    assert!(fresh.has(&nvp::VALID) && fresh.has(&nvp::HARDWARE));
    assert_eq!((fresh.words[2], fresh.report()), (0, report));
    assert_eq!(fresh.ends(), used.ends());
    // Not while a thread has it; but its reports may move.
    machine.chips[1].put_nvp(index, used.with(&nvp::CHECKED_OUT, 1));
    assert_eq!(machine.xive.renew_vp(vp, report), Err(XiveError::Active));
    machine.xive.set_report(vp, Ra(FREE)).unwrap();
    let moved = machine.chips[1].nvp_entry(index);
    assert_eq!(moved, used.with(&nvp::CHECKED_OUT, 1).with_report(Ra(FREE)));
    // Nowhere is no place: it would be real address 0.
    for bad in [0, FREE + 0x80, 1 << 60] {
        let bad = Ra(bad);
        assert_eq!(machine.xive.renew_vp(vp, bad), Err(XiveError::BadAddress));
        assert_eq!(machine.xive.set_report(vp, bad), Err(XiveError::BadAddress));
    }
    let nobody = Index {
        block: 1,
        index: index + 64,
    };
    let refused = machine.xive.renew_vp(nobody, report);
    assert_eq!(refused, Err(XiveError::NoVp));
}

#[test]
fn pages_of_sources_are_reached() {
    let machine = machine(1);
    let source = machine.xive.allocate_source(0).unwrap();
    let (chip, index) = (&machine.chips[0], source.index);
    assert_eq!(machine.xive.esb_store(source, 0xd00, 0b00), Ok(()));
    machine.xive.trigger(source).unwrap();
    assert_eq!(chip.pq(index), 0b10);
    assert_eq!(machine.xive.esb_load(source, 0xd00), Ok(0b10));
    assert_eq!(machine.xive.turn_source_off(source), Ok(()));
    assert_eq!(chip.pq(index), 0b01);
    for offset in [4, 0x1_0000, u64::MAX] {
        let refused = machine.xive.esb_load(source, offset);
        assert_eq!(refused, Err(XiveError::BadAddress));
    }
    // A source that nobody has has no pages.
    machine.xive.free_source(source).unwrap();
    let none = Err(XiveError::NoSource);
    assert_eq!(machine.xive.esb_load(source, 0), none.map(|()| 0));
    assert_eq!(machine.xive.esb_store(source, 0, 0), none);
    assert_eq!(machine.xive.trigger(source), none);
    let beyond = Index { block: 7, ..source };
    assert_eq!(machine.xive.trigger(beyond), none);
}

mod tima {
    use isa::addr::Ra;

    use super::super::tima::{Acknowledged, Presented, Tima};
    use crate::fakes::{Expect, Step};
    use crate::mmio::{CiMmio, Mmio16, Reg};
    use crate::xive::XiveError;
    use crate::xive::registers::{TIMA_BYTES, Tima as Window};
    use isa::cix;

    /// The script has no halfwords: the test that needs them uses the other fake.
    impl Mmio16<Window> for Expect {
        fn read16(&self, reg: Reg<Window>) -> u16 {
            panic!("load of a halfword at {reg:?}")
        }
    }

    #[test]
    fn the_context_is_pushed_before_its_priority_is_touched() {
        let bus = Expect::new([
            Step::Get8(0x1_0038, 0),
            Step::Put8(0x1_0038, 0x80),
            Step::Get8(0x1_0038, 0x80),
            Step::Put8(0x1_0031, 0),
            // It is there already.
            Step::Get8(0x1_0038, 0x80),
            Step::Get8(0x1_0038, 0x80),
            Step::Put8(0x1_0031, 0),
        ]);
        assert_eq!(Tima::new(&bus).push_physical(), Ok(()));
        assert_eq!(Tima::new(&bus).push_physical(), Ok(()));
        let bus = Expect::new([
            Step::Get8(0x1_0038, 0),
            Step::Put8(0x1_0038, 0x80),
            Step::Get8(0x1_0038, 0),
        ]);
        assert_eq!(Tima::new(&bus).push_physical(), Err(XiveError::NotPushed));
    }

    #[test]
    fn contexts_go_in_and_out() {
        let bus = Expect::new([
            Step::Put32(0x1_0020, 0xff),
            Step::Put32(0x1_0028, 0xc000_0123),
            Step::Put32(0x1_0018, 0xc100_0007),
            Step::Get32(0x1_0818, 0),
            // Another kernel comes.
            Step::Get8(0x1_0038, 0x80),
            Step::Put8(0x1_0031, 0),
            Step::Get32(0x1_0028, 0xc000_0123),
            Step::Get32(0x1_0828, 0),
            // And once more, with nothing there.
            Step::Get8(0x1_0038, 0),
            Step::Get32(0x1_0028, 0x4000_0123),
        ]);
        let tima = Tima::new(&bus);
        tima.push_pool(0x4000_0123);
        tima.push_os(0x4100_0007);
        tima.pull_os();
        tima.quiet();
        tima.quiet();
    }

    #[test]
    fn a_guests_context_is_looked_at_and_dropped() {
        let bus = Expect::new([
            Step::Get32(0x1_0010, 0x80ff_0000),
            Step::Get32(0x1_0010, 0x00ff_8000),
            Step::Get32(0x1_0018, 0xc100_0007),
            Step::Get32(0x1_0818, 0),
            Step::Get32(0x1_0018, 0x4100_0007),
        ]);
        let tima = Tima::new(&bus);
        assert!(tima.os_presents());
        assert!(!tima.os_presents());
        tima.drop_os();
        tima.drop_os();
    }

    #[test]
    fn an_acknowledge_says_what_it_was() {
        // SAFETY: the host's fake device space has no owner.
        #[expect(unsafe_code, reason = "the window is the host's fake")]
        let bus = unsafe { CiMmio::<Window>::new(Ra(0x7000_0000), TIMA_BYTES) };
        let answer = |raw: u16| {
            cix::fake::store(0x7001_0830, raw.to_be_bytes());
            Tima::new(&bus).acknowledge()
        };
        let expect = |presented, priority| Acknowledged {
            presented,
            priority,
        };
        assert_eq!(answer(0x8006), expect(Presented::Physical, 6));
        assert_eq!(answer(0x4002), expect(Presented::Pool, 2));
        assert_eq!(answer(0x00ff), expect(Presented::Nothing, 0xff));
        assert_eq!(answer(0xc000), expect(Presented::Level, 0));
    }
}

//! The calls against controllers that remember what they were asked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec::Vec;

use isa::addr::Ra;
use proptest::prelude::*;

use super::ids::{At, Source};
use super::{Controllers, Dump, Fault, Queue, QueueInfo, Route, SourceInfo, VpInfo, VpSetup, Xive};
use crate::args::{ChipId, Girq, OsAddr, VpId};
use crate::error::{OpalError, SUCCESS};
use crate::os_memory::OsMemory;
use crate::os_memory::fake::Memory;

/// What a controller was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Route(Source, At, Option<u8>, u32),
    Queue(At, u8, Option<Queue>),
    Position(At, u8, bool, u32),
    Vp(At, Option<VpSetup>),
    Allocate(u8),
    Free(u32, u8),
    FreeSource(At),
    Donate(u8, Ra),
    Sync(u8),
    Reset,
    Dump(Dump),
}

/// Two chips, 0 and 2; threads 0 and 1 of each.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<Asked>>,
    fault: Mutex<Option<Fault>>,
    routes: Mutex<BTreeMap<u32, Route>>,
    gathers: bool,
    /// Sources that each controller has left.
    left: Mutex<[u32; 2]>,
}

impl Fake {
    fn ask(&self, what: Asked) -> Result<(), Fault> {
        self.asked.lock().unwrap().push(what);
        self.fault.lock().unwrap().map_or(Ok(()), Err)
    }

    fn last(&self) -> Option<Asked> {
        self.asked.lock().unwrap().last().copied()
    }
}

const fn at(block: u8, index: u32) -> At {
    At { block, index }
}

const QUEUE: Queue = Queue {
    memory: Some((Ra(0x1_0000), 16)),
    always_notify: true,
    escalate: false,
};

impl Controllers for Fake {
    fn spread(&self) -> u8 {
        1
    }
    fn chip_of(&self, block: u8) -> Option<ChipId> {
        [ChipId(0), ChipId(2)].get(usize::from(block)).copied()
    }
    fn block_of(&self, chip: ChipId) -> Option<u8> {
        (0..2).find(|block| self.chip_of(*block) == Some(chip))
    }
    fn this_chip(&self) -> ChipId {
        ChipId(2)
    }
    fn blocks(&self) -> u8 {
        2
    }
    fn thread_vp(&self, pir: u32) -> Option<At> {
        let block = self.block_of(ChipId(pir >> 8))?;
        (pir & 0xff < 2).then(|| at(block, 0x80 + (pir & 0xff)))
    }
    fn thread_of(&self, vp: At) -> Option<u32> {
        let thread = vp.index.checked_sub(0x80).filter(|thread| *thread < 2)?;
        Some(self.chip_of(vp.block)?.0 << 8 | thread)
    }
    fn source(&self, source: Source) -> Result<SourceInfo, Fault> {
        match source {
            Source::Interrupt(At { block, index }) if index < 0x100 => Ok(SourceInfo {
                management: Ra(0x6_0500_0001_0000),
                trigger: Some(Ra(0x6_0500_0000_0000)),
                shift: 17,
                level: false,
                store_eoi: true,
                chip: self.chip_of(block).ok_or(Fault::NoSuch)?,
            }),
            Source::Interrupt(_) => Err(Fault::NoSuch),
            Source::Escalation(_) => Ok(SourceInfo {
                management: Ra(0x6_0600_0001_0000),
                trigger: None,
                shift: 17,
                level: true,
                store_eoi: false,
                chip: ChipId(0),
            }),
        }
    }
    fn route(&self, source: Source) -> Result<Route, Fault> {
        self.source(source)?;
        let routes = self.routes.lock().unwrap();
        let known = source.encode().and_then(|number| routes.get(&number));
        Ok(known.copied().unwrap_or(Route {
            vp: None,
            priority: None,
            lirq: 0,
        }))
    }
    fn set_route(
        &self,
        source: Source,
        vp: At,
        priority: Option<u8>,
        lirq: u32,
    ) -> Result<(), Fault> {
        self.source(source)?;
        self.ask(Asked::Route(source, vp, priority, lirq))?;
        let route = Route {
            vp: Some(vp),
            priority,
            lirq,
        };
        self.routes
            .lock()
            .unwrap()
            .insert(source.encode().unwrap(), route);
        Ok(())
    }
    fn allocate_source(&self, block: u8) -> Result<At, Fault> {
        let mut left = self.left.lock().unwrap();
        let left = left.get_mut(usize::from(block)).ok_or(Fault::NoSuch)?;
        *left = left.checked_sub(1).ok_or(Fault::Full)?;
        Ok(at(block, 0x10 + *left))
    }
    fn free_source(&self, source: At) -> Result<(), Fault> {
        self.ask(Asked::FreeSource(source))
    }
    fn sync(&self, block: u8) -> Result<(), Fault> {
        self.chip_of(block).ok_or(Fault::NoSuch)?;
        self.ask(Asked::Sync(block))
    }
    fn queue(&self, vp: At, priority: u8) -> Result<QueueInfo, Fault> {
        assert!(priority < 8);
        Ok(QueueInfo {
            enabled: true,
            queue: (!self.gathers).then_some(QUEUE),
            management: Ra(0x6_0600_0000_0000),
            escalation: at(vp.block, 8),
        })
    }
    fn set_queue(&self, vp: At, priority: u8, queue: Option<Queue>) -> Result<(), Fault> {
        self.ask(Asked::Queue(vp, priority, queue))
    }
    fn queue_position(&self, _: At, _: u8) -> Result<(bool, u32), Fault> {
        self.fault.lock().unwrap().map_or(Ok((true, 0x123)), Err)
    }
    fn set_queue_position(
        &self,
        vp: At,
        priority: u8,
        generation: bool,
        entry: u32,
    ) -> Result<(), Fault> {
        self.ask(Asked::Position(vp, priority, generation, entry))
    }
    fn donate(&self, block: u8, page: Ra) -> Result<(), Fault> {
        self.ask(Asked::Donate(block, page))
    }
    fn allocate_vps(&self, order: u8) -> Result<u32, Fault> {
        self.ask(Asked::Allocate(order))?;
        Ok(0x4_0000)
    }
    fn free_vps(&self, first: u32, order: u8) -> Result<(), Fault> {
        self.ask(Asked::Free(first, order))
    }
    fn vp(&self, vp: At) -> Result<VpInfo, Fault> {
        Ok(VpInfo {
            enabled: true,
            single_escalation: true,
            save_restore: vp.block == 0,
            cam: 0x4000_0080 | u32::from(vp.block) << 24,
            report: Ra(0x5_0000),
        })
    }
    fn set_vp(&self, vp: At, setup: Option<VpSetup>) -> Result<(), Fault> {
        self.ask(Asked::Vp(vp, setup))
    }
    fn vp_state(&self, _: At) -> Result<u64, Fault> {
        self.fault
            .lock()
            .unwrap()
            .map_or(Ok(0x00ff_8000_0000_0000), Err)
    }
    fn reset(&self) -> Result<(), Fault> {
        self.ask(Asked::Reset)
    }
    fn dump(&self, what: Dump) -> Result<(), Fault> {
        self.ask(Asked::Dump(what))
    }
}

const MEMORY: usize = 0x40_0000;
const PARAMETER: crate::error::Answer = Err(OpalError::OPAL_PARAMETER);

fn ready(fake: Fake) -> (Xive<Fake>, Memory) {
    let xive = Xive::new(fake);
    assert_eq!(xive.reset(1), SUCCESS);
    (xive, Memory::new(MEMORY))
}

/// Where outputs go: addresses of the linear map.
const OUT: [OsAddr; 5] = [
    OsAddr(0xc000_0000_0000_1000),
    OsAddr(0x1008),
    OsAddr(0x1010),
    OsAddr(0x1018),
    OsAddr(0x1020),
];
const NULL: OsAddr = OsAddr(0);
const BEYOND: OsAddr = OsAddr(MEMORY as u64 - 2);

#[test]
fn nothing_works_before_a_kernel_has_reset() {
    let (xive, os) = (Xive::new(Fake::default()), Memory::new(MEMORY));
    let vp = VpId(0);
    let [a, b, c, d, e] = OUT;
    let answers = [
        xive.get_irq_info(&os, Girq(16), a, b, c, d, e),
        xive.get_irq_config(&os, Girq(16), a, b, c),
        xive.set_irq_config(Girq(16), vp, 0, 0),
        xive.get_queue_info(&os, vp, 0, a, b, c, d, e),
        xive.set_queue_info(&os, vp, 0, a, 0, 1),
        xive.get_queue_state(&os, vp, 0, a, b),
        xive.set_queue_state(vp, 0, 0, 0),
        xive.donate_page(&os, ChipId(0), OsAddr(0x1_0000)),
        xive.allocate_vp_block(4),
        xive.free_vp_block(vp),
        xive.get_vp_info(&os, vp, a, b, c, d),
        xive.set_vp_info(&os, vp, 1, NULL),
        xive.get_vp_state(&os, vp, a),
        xive.allocate_irq(ChipId(0)),
        xive.free_irq(Girq(16)),
        xive.sync(1, 16),
        xive.dump(4, 0),
    ];
    for answer in answers {
        assert_eq!(answer, Err(OpalError::OPAL_WRONG_STATE));
    }
    assert!(xive.controllers().last().is_none());
    for option in [2, 4, 1 << 63, u64::MAX] {
        assert_eq!(xive.reset(option), PARAMETER);
    }
    *xive.controllers().fault.lock().unwrap() = Some(Fault::Stuck);
    assert_eq!(xive.reset(1), Err(OpalError::OPAL_HARDWARE));
    assert_eq!(xive.free_irq(Girq(16)), Err(OpalError::OPAL_WRONG_STATE));
    *xive.controllers().fault.lock().unwrap() = None;
    assert_eq!(xive.reset(0), SUCCESS, "there is one mode");
    assert_eq!(xive.free_irq(Girq(16)), SUCCESS);
}

#[test]
fn sources_are_described() {
    let (xive, os) = ready(Fake::default());
    let [flags, eoi, trigger, shift, chip] = OUT;
    let ask = |girq| xive.get_irq_info(&os, Girq(girq), flags, eoi, trigger, shift, chip);
    assert_eq!(ask(0x0100_0020), SUCCESS);
    assert_eq!(os.read_be64(flags), Ok(0x41));
    assert_eq!(os.read_be64(eoi), Ok(0x6_0500_0001_0000));
    assert_eq!(os.read_be64(trigger), Ok(0x6_0500_0000_0000));
    assert_eq!(os.bytes(shift, 4), [0, 0, 0, 17]);
    assert_eq!(os.bytes(chip, 4), [0, 0, 0, 2]);
    assert_eq!(ask(0x1000_0008), SUCCESS);
    assert_eq!(os.read_be64(flags), Ok(4));
    assert_eq!(os.read_be64(trigger), Ok(0));
    for bad in [0x100, 0x0200_0000, 0x2000_0010, u32::MAX] {
        assert_eq!(ask(bad), PARAMETER, "{bad:#x}");
    }
    // The flags are needed, the rest is not.
    assert_eq!(
        xive.get_irq_info(&os, Girq(16), NULL, eoi, trigger, shift, chip),
        PARAMETER
    );
    os.fill(0xee);
    assert_eq!(
        xive.get_irq_info(&os, Girq(16), flags, NULL, NULL, NULL, NULL),
        SUCCESS
    );
    assert_eq!(os.bytes(eoi, 8), [0xee; 8]);
    os.fill(0xee);
    assert_eq!(
        xive.get_irq_info(&os, Girq(16), flags, eoi, trigger, shift, BEYOND),
        PARAMETER
    );
    assert_eq!(os.bytes(flags, 8), [0xee; 8], "all or nothing");
}

#[test]
fn interrupts_are_routed_to_threads_and_to_guests() {
    let (xive, os) = ready(Fake::default());
    let [vp, priority, lirq, ..] = OUT;
    let config = || {
        assert_eq!(
            xive.get_irq_config(&os, Girq(16), vp, priority, lirq),
            SUCCESS
        );
        let lirq = u32::from_be_bytes(os.bytes(lirq, 4).try_into().unwrap());
        (os.read_be64(vp).unwrap(), os.bytes(priority, 1)[0], lirq)
    };
    assert_eq!(config(), (0, 0xff, 0));
    assert_eq!(xive.set_irq_config(Girq(16), VpId(0x201), 6, 77), SUCCESS);
    let asked = Asked::Route(Source::Interrupt(at(0, 16)), at(1, 0x81), Some(6), 77);
    assert_eq!(xive.controllers().last(), Some(asked));
    assert_eq!(config(), (0x201, 6, 77));
    assert_eq!(
        xive.set_irq_config(Girq(16), VpId(0x201), 0xff, 77),
        SUCCESS
    );
    assert_eq!(config(), (0x201, 0xff, 77));
    // One of a block of 8, the second on chip 1.
    assert_eq!(
        xive.set_irq_config(Girq(16), VpId(0x4300_0105), 0, 1),
        SUCCESS
    );
    let asked = Asked::Route(Source::Interrupt(at(0, 16)), at(1, 0x81), Some(0), 1);
    assert_eq!(xive.controllers().last(), Some(asked));
    assert_eq!(
        xive.set_irq_config(Girq(16), VpId(0x4300_0005), 0, 1),
        SUCCESS
    );
    // Two on each chip: 0x4200_0000 | base 0 | chip 1 | 1.
    assert_eq!(config().0, 0x4200_0003);
    for bad in [8, 9, 0x7f, 0xfe] {
        assert_eq!(xive.set_irq_config(Girq(16), VpId(0), bad, 0), PARAMETER);
    }
    for bad in [
        2,
        0x100,
        0x302,
        0x8000_0000,
        0x6000_0000,
        0x4100_0000,
        1 << 32,
    ] {
        assert_eq!(
            xive.set_irq_config(Girq(16), VpId(bad), 0, 0),
            PARAMETER,
            "{bad:#x}"
        );
    }
    for missing in 0..3 {
        let mut outs = [vp, priority, lirq];
        outs[missing] = NULL;
        let [vp, priority, lirq] = outs;
        assert_eq!(
            xive.get_irq_config(&os, Girq(16), vp, priority, lirq),
            PARAMETER
        );
    }
}

#[test]
fn queues_are_the_kernel_s_memory() {
    let (xive, os) = ready(Fake::default());
    let set = |page, size, flags| xive.set_queue_info(&os, VpId(1), 7, OsAddr(page), size, flags);
    let asked = |queue| Some(Asked::Queue(at(0, 0x81), 7, queue));
    for (size, page) in [(12, 0x1000), (16, 0x1_0000), (21, 0x20_0000)] {
        assert_eq!(set(page | 0xc << 60, size, 7), SUCCESS);
        let queue = Queue {
            memory: Some((Ra(page), u32::try_from(size).unwrap())),
            always_notify: true,
            escalate: true,
        };
        assert_eq!(xive.controllers().last(), asked(Some(queue)));
    }
    assert_eq!(set(0x1234, 0, 1), SUCCESS);
    let bare = Queue {
        memory: None,
        always_notify: false,
        escalate: false,
    };
    assert_eq!(xive.controllers().last(), asked(Some(bare)));
    assert_eq!(
        set(u64::MAX, 99, 0),
        SUCCESS,
        "off: the rest is not looked at"
    );
    assert_eq!(xive.controllers().last(), asked(None));
    for (page, size, flags) in [
        (0x1_1000, 16, 1),
        (0x3f_f000, 16, 1),
        (MEMORY as u64, 12, 1),
        (0, 24, 1),
        (0x1_0000, 13, 1),
        (0x1_0000, 64, 1),
        (0x1_0000, u64::MAX, 1),
        (0x1_0000, 16, 9),
        (0x1000_0000_0000_0000, 16, 1),
    ] {
        assert_eq!(
            set(page, size, flags),
            PARAMETER,
            "{page:#x} {size} {flags}"
        );
    }
    assert_eq!(
        xive.set_queue_info(&os, VpId(1), 8, OsAddr(0), 0, 1),
        PARAMETER
    );
    assert_eq!(
        xive.set_queue_info(&os, VpId(1), 256, OsAddr(0), 0, 1),
        PARAMETER
    );
}

#[test]
fn queues_are_described() {
    let (xive, os) = ready(Fake::default());
    let [page, size, eoi, escalation, flags] = OUT;
    let ask = |xive: &Xive<Fake>| {
        let vp = VpId(0x200);
        assert_eq!(
            xive.get_queue_info(&os, vp, 0, page, size, eoi, escalation, flags),
            SUCCESS
        );
        [page, size, eoi, flags].map(|at| os.read_be64(at).unwrap())
    };
    assert_eq!(ask(&xive), [0x1_0000, 16, 0x6_0600_0000_0000, 3]);
    assert_eq!(os.bytes(escalation, 4), [0x11, 0, 0, 8]);
    let wants = xive.get_queue_info(&os, VpId(0), 0, NULL, NULL, eoi, escalation, NULL);
    assert_eq!(wants, SUCCESS, "as Linux asks");
    let (xive, _) = ready(Fake {
        gathers: true,
        ..Fake::default()
    });
    assert_eq!(ask(&xive), [0; 4]);
    assert_eq!(os.bytes(escalation, 4), [0x11, 0, 0, 8]);
}

#[test]
fn positions_are_read_and_set() {
    let (xive, os) = ready(Fake::default());
    let [toggle, index, ..] = OUT;
    assert_eq!(
        xive.get_queue_state(&os, VpId(0), 3, toggle, index),
        SUCCESS
    );
    assert_eq!(os.bytes(toggle, 4), [0, 0, 0, 1]);
    assert_eq!(os.bytes(index, 4), [0, 0, 1, 0x23]);
    assert_eq!(
        xive.get_queue_state(&os, VpId(0), 3, NULL, index),
        PARAMETER
    );
    assert_eq!(
        xive.get_queue_state(&os, VpId(0), 3, toggle, NULL),
        PARAMETER
    );
    assert_eq!(xive.set_queue_state(VpId(0), 3, 1, 5), SUCCESS);
    let asked = Asked::Position(at(0, 0x80), 3, true, 5);
    assert_eq!(xive.controllers().last(), Some(asked));
    assert_eq!(xive.set_queue_state(VpId(0), 3, 2, 5), PARAMETER);
    *xive.controllers().fault.lock().unwrap() = Some(Fault::Disabled);
    let off = Err(OpalError::OPAL_WRONG_STATE);
    assert_eq!(xive.get_queue_state(&os, VpId(0), 3, toggle, index), off);
    assert_eq!(xive.set_queue_state(VpId(0), 3, 0, 5), off);
}

#[test]
fn blocks_of_processors_have_a_least_size() {
    let (xive, _) = ready(Fake::default());
    for (order, number, local) in [
        (0, 0x4208_0000, 1),
        (2, 0x4208_0000, 1),
        (3, 0x4308_0000, 2),
        (11, 0x4b08_0000, 10),
    ] {
        assert_eq!(xive.allocate_vp_block(order), Ok(number), "{order}");
        assert_eq!(xive.controllers().last(), Some(Asked::Allocate(local)));
        assert_eq!(xive.free_vp_block(VpId(number.into())), SUCCESS);
        assert_eq!(
            xive.controllers().last(),
            Some(Asked::Free(0x4_0000, local))
        );
    }
    for order in [32, 255, 256, u32::MAX] {
        assert_eq!(xive.allocate_vp_block(order), Err(OpalError::OPAL_RESOURCE));
    }
    // Not the first of its block, a thread's, groups.
    for bad in [0x4208_0002, 0, 0x201, 0x4100_0000, 0xc208_0000] {
        assert_eq!(xive.free_vp_block(VpId(bad)), PARAMETER, "{bad:#x}");
    }
    for (fault, code) in [
        (Fault::NoSuch, OpalError::OPAL_PARAMETER),
        (Fault::Disabled, OpalError::OPAL_WRONG_STATE),
        (Fault::Active, OpalError::OPAL_XIVE_FREE_ACTIVE),
        (Fault::Full, OpalError::OPAL_RESOURCE),
        (Fault::NoPages, OpalError::OPAL_XIVE_PROVISIONING),
        (Fault::Busy, OpalError::OPAL_BUSY),
        (Fault::Stuck, OpalError::OPAL_HARDWARE),
    ] {
        *xive.controllers().fault.lock().unwrap() = Some(fault);
        assert_eq!(xive.allocate_vp_block(3), Err(code));
        assert_eq!(xive.free_vp_block(VpId(0x4208_0000)), Err(code));
    }
}

#[test]
fn donated_pages_are_whole_pages_of_the_kernel() {
    let (xive, os) = ready(Fake::default());
    let donate = |chip, page| xive.donate_page(&os, ChipId(chip), OsAddr(page));
    assert_eq!(donate(2, 0xc000_0000_0002_0000), SUCCESS);
    assert_eq!(
        xive.controllers().last(),
        Some(Asked::Donate(1, Ra(0x2_0000)))
    );
    for (chip, page) in [
        (1, 0x2_0000),
        (u32::MAX, 0x2_0000),
        (0, 0x2_1000),
        (0, MEMORY as u64),
    ] {
        assert_eq!(donate(chip, page), PARAMETER, "{chip} {page:#x}");
    }
}

#[test]
fn processors_are_set_up_and_described() {
    let (xive, os) = ready(Fake::default());
    let [flags, cam, report, chip, _] = OUT;
    assert_eq!(
        xive.get_vp_info(&os, VpId(0x200), flags, cam, report, chip),
        SUCCESS
    );
    assert_eq!(os.read_be64(flags), Ok(3));
    assert_eq!(os.read_be64(cam), Ok(0x4100_0080));
    assert_eq!(os.read_be64(report), Ok(0x5_0000));
    assert_eq!(os.bytes(chip, 4), [0, 0, 0, 2]);
    assert_eq!(
        xive.get_vp_info(&os, VpId(0), NULL, cam, NULL, NULL),
        SUCCESS
    );
    let set = |vp, flags, report| xive.set_vp_info(&os, VpId(vp), flags, OsAddr(report));
    let setup = VpSetup {
        single_escalation: true,
        report: Ra(0x3_0100),
    };
    assert_eq!(set(0, 7, 0x3_0100), SUCCESS);
    assert_eq!(
        xive.controllers().last(),
        Some(Asked::Vp(at(0, 0x80), Some(setup)))
    );
    assert_eq!(set(0, 0, 0), SUCCESS);
    assert_eq!(
        xive.controllers().last(),
        Some(Asked::Vp(at(0, 0x80), None))
    );
    assert_eq!(
        set(0x200, 5, 0),
        PARAMETER,
        "that chip cannot save and restore"
    );
    for (flags, report) in [
        (9, 0),
        (1, 0x80),
        (1, MEMORY as u64),
        (1, MEMORY as u64 - 0x80),
    ] {
        assert_eq!(set(0, flags, report), PARAMETER, "{flags} {report:#x}");
    }
    assert_eq!(xive.get_vp_state(&os, VpId(0), flags), SUCCESS);
    assert_eq!(os.read_be64(flags), Ok(0x00ff_8000_0000_0000));
    assert_eq!(xive.get_vp_state(&os, VpId(0), NULL), PARAMETER);
}

#[test]
fn any_chip_is_this_one_first() {
    let (xive, _) = ready(Fake {
        left: Mutex::new([1, 1]),
        ..Fake::default()
    });
    assert_eq!(
        xive.allocate_irq(ChipId(u32::MAX)),
        Ok(0x0100_0010),
        "chip 2"
    );
    assert_eq!(xive.allocate_irq(ChipId(2)), Err(OpalError::OPAL_RESOURCE));
    assert_eq!(xive.allocate_irq(ChipId(u32::MAX)), Ok(0x10));
    assert_eq!(
        xive.allocate_irq(ChipId(u32::MAX)),
        Err(OpalError::OPAL_RESOURCE)
    );
    assert_eq!(xive.allocate_irq(ChipId(1)), PARAMETER);
    assert_eq!(xive.free_irq(Girq(0x0100_0010)), SUCCESS);
    assert_eq!(
        xive.controllers().last(),
        Some(Asked::FreeSource(at(1, 0x10)))
    );
    assert_eq!(xive.free_irq(Girq(0x1100_0010)), PARAMETER, "an escalation");
}

#[test]
fn syncs_reach_the_source_or_the_queue() {
    let (xive, _) = ready(Fake::default());
    assert_eq!(xive.sync(1, 0x0100_0010), SUCCESS);
    assert_eq!(xive.controllers().last(), Some(Asked::Sync(1)));
    assert_eq!(xive.set_irq_config(Girq(0x10), VpId(0x200), 0, 0), SUCCESS);
    assert_eq!(xive.sync(2, 0x10), SUCCESS);
    assert_eq!(xive.controllers().last(), Some(Asked::Sync(1)));
    assert_eq!(xive.sync(2, 0x11), SUCCESS, "leads nowhere");
    assert_eq!(xive.sync(0, u32::MAX), SUCCESS);
    for (kind, id) in [
        (1, 0x0200_0000),
        (1, u32::MAX),
        (2, 0x1000),
        (3, 0x2000_0000),
    ] {
        assert_eq!(xive.sync(kind, id), PARAMETER, "{kind} {id:#x}");
    }
}

#[test]
fn dumps_name_a_ring_or_a_processor() {
    let (xive, _) = ready(Fake::default());
    for (kind, what) in [
        (0, Dump::Ring(0x201, 3)),
        (1, Dump::Ring(0x201, 2)),
        (2, Dump::Ring(0x201, 1)),
        (3, Dump::Ring(0x201, 0)),
        (4, Dump::Vp(at(1, 0x81))),
    ] {
        assert_eq!(xive.dump(kind, 0x201), SUCCESS);
        assert_eq!(xive.controllers().last(), Some(Asked::Dump(what)));
    }
    assert_eq!(xive.dump(5, 0), PARAMETER);
    assert_eq!(xive.dump(4, 0x999), PARAMETER);
}

proptest! {
    /// Whatever a kernel passes, controllers are only named what can exist and get only memory of the kernel.
    #[test]
    fn hostile_arguments_do_no_harm(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) {
        let (xive, os) = ready(Fake::default());
        let girq = Girq((a & 0xffff_ffff) as u32);
        let word = |value: u64| (value & 0xffff_ffff) as u32;
        let (p, q, r, s, t) = (OsAddr(b), OsAddr(c), OsAddr(d), OsAddr(e), OsAddr(f));
        let _ = xive.get_irq_info(&os, girq, p, q, r, s, t);
        let _ = xive.get_irq_config(&os, girq, p, q, r);
        let _ = xive.set_irq_config(girq, VpId(b), (c & 0xff) as u8, word(d));
        let _ = xive.get_queue_info(&os, VpId(a), word(f), p, q, r, s, t);
        let _ = xive.set_queue_info(&os, VpId(a), word(b) & 15, q, d & 31, e & 15);
        let _ = xive.get_queue_state(&os, VpId(a), word(b), q, r);
        let _ = xive.set_queue_state(VpId(a), word(b), word(c), word(d));
        let _ = xive.donate_page(&os, ChipId(word(a)), p);
        let _ = xive.allocate_vp_block(word(a) & 63);
        let _ = xive.free_vp_block(VpId(a));
        let _ = xive.get_vp_info(&os, VpId(a), p, q, r, s);
        let _ = xive.set_vp_info(&os, VpId(a), b & 15, q);
        let _ = xive.get_vp_state(&os, VpId(a), p);
        let _ = xive.allocate_irq(ChipId(word(a)));
        let _ = xive.free_irq(girq);
        let _ = xive.sync(word(b), girq.0);
        let _ = xive.dump(word(b) & 7, girq.0);
        for asked in xive.controllers().asked.lock().unwrap().iter() {
            if let Asked::Queue(_, priority, Some(Queue { memory: Some((page, log2)), .. })) = asked {
                prop_assert!(*priority < 8 && page.0 + (1 << log2) <= MEMORY as u64);
            }
            if let Asked::Donate(_, page) = asked {
                prop_assert!(page.0 + 0x1_0000 <= MEMORY as u64);
            }
        }
    }
}

//! The H_INT_* calls through the table, on controllers that note what they were told.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use isa::addr::{Gra, Ra};
use proptest::prelude::*;
use spin::Mutex;

use super::{Exploitation, Fault, Hardware, Queue, Route, sources};
use crate::error::HCode;
use crate::guest_ram::GuestRam;
use crate::guest_ram::tests::flat;
use crate::serve::tests::{MEMORY, World};
use crate::table::number as nr;
use crate::term;

/// What the controllers were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Route(u32, Option<Route>),
    SetQueue(u32, u8, Option<Queue>),
    Report(u32, Option<Ra>),
    Load(u32, u64),
    Store(u32, u64, u64),
    Off(u32),
    Sync,
    Start(u32),
    Trigger(u32),
}

#[derive(Default)]
struct Notes {
    told: Mutex<Vec<Told>>,
    fault: Mutex<Option<Fault>>,
    presents: Mutex<bool>,
    late: Mutex<bool>,
}

impl Notes {
    fn note(&self, told: Told) -> Result<(), Fault> {
        self.told.lock().push(told);
        self.fault.lock().map_or(Ok(()), Err)
    }

    fn take(&self) -> Vec<Told> {
        core::mem::take(&mut self.told.lock())
    }
}

impl Hardware for Arc<Notes> {
    fn route(&self, lisn: u32, route: Option<Route>) -> Result<(), Fault> {
        self.note(Told::Route(lisn, route))
    }
    fn set_queue(&self, server: u32, priority: u8, queue: Option<Queue>) -> Result<(), Fault> {
        self.note(Told::SetQueue(server, priority, queue))
    }
    fn queue_position(&self, _: u32, _: u8) -> Result<(bool, u32), Fault> {
        self.fault.lock().map_or(Ok((true, 0x123)), Err)
    }
    fn set_report(&self, server: u32, lines: Option<Ra>) -> Result<(), Fault> {
        self.note(Told::Report(server, lines))
    }
    fn esb_load(&self, lisn: u32, offset: u64) -> Result<u64, Fault> {
        self.note(Told::Load(lisn, offset)).map(|()| 0b10)
    }
    fn esb_store(&self, lisn: u32, offset: u64, value: u64) -> Result<(), Fault> {
        self.note(Told::Store(lisn, offset, value))
    }
    fn turn_off(&self, lisn: u32) -> Result<(), Fault> {
        self.note(Told::Off(lisn))
    }
    fn sync(&self) -> Result<(), Fault> {
        self.note(Told::Sync)?;
        match *self.late.lock() {
            true => Err(Fault::Failed),
            false => Ok(()),
        }
    }
    fn start(&self, server: u32) -> Result<(), Fault> {
        self.note(Told::Start(server))
    }
    fn trigger(&self, lisn: u32) {
        let _ = self.note(Told::Trigger(lisn));
    }
    fn presents(&self) -> bool {
        *self.presents.lock()
    }
}

/// A partition of three vCPUs in exploitation mode.
fn world_with(ram: GuestRam) -> (World, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let mut world = World::with_ram(3, ram);
    let vcpus = NonZeroU16::new(3).unwrap();
    let xive = Exploitation::new(vcpus, true, Box::new(Arc::clone(&notes)));
    world.partition = world.partition.with_exploitation(xive);
    (world, notes)
}

fn world() -> (World, Arc<Notes>) {
    world_with(flat(usize::try_from(MEMORY).unwrap()))
}

const ONES: u64 = u64::MAX;
const VTY: u64 = term::SOURCE as u64;

/// Calls, what they answer in a fresh partition, and what the controllers are told.
#[rustfmt::skip]
const REFUSED: &[(u64, &[u64], HCode)] = {
    use HCode::{H_P2, H_P3, H_P4, H_P5, H_PARAMETER};
    &[
        (nr::H_INT_GET_SOURCE_INFO, &[1, 0], H_PARAMETER),
        (nr::H_INT_GET_SOURCE_INFO, &[1 << 63, 0], H_PARAMETER),
        (nr::H_INT_GET_SOURCE_INFO, &[0, 16], H_P2),
        (nr::H_INT_GET_SOURCE_INFO, &[0, VTY + 1], H_P2),
        (nr::H_INT_GET_SOURCE_INFO, &[0, 1 << 32], H_P2),
        (nr::H_INT_SET_SOURCE_CONFIG, &[4, 0, 0, 6, 0], H_PARAMETER),
        (nr::H_INT_SET_SOURCE_CONFIG, &[1 << 63, 0, 0, 6, 0], H_PARAMETER),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 16, 0, 6, 0], H_P2),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, ONES, 0, 6, 0], H_P2),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 0, 3, 6, 0], H_P3),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 0, 1 << 32, 6, 0], H_P3),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 0, 0, 7, 0], H_P4),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 0, 0, 0x106, 0], H_P4),
        (nr::H_INT_SET_SOURCE_CONFIG, &[0, 0, 9, 8, 0], H_P4),
        (nr::H_INT_SET_SOURCE_CONFIG, &[2, 0, 0, 6, 1 << 31], H_P5),
        (nr::H_INT_SET_SOURCE_CONFIG, &[2, 0, 0, 6, ONES], H_P5),
        (nr::H_INT_GET_SOURCE_CONFIG, &[1, 0], H_PARAMETER),
        (nr::H_INT_GET_SOURCE_CONFIG, &[0, 99], H_P2),
        (nr::H_INT_GET_QUEUE_INFO, &[1, 0, 6], H_PARAMETER),
        (nr::H_INT_GET_QUEUE_INFO, &[0, 3, 6], H_P2),
        (nr::H_INT_GET_QUEUE_INFO, &[0, 1 << 32, 6], H_P2),
        (nr::H_INT_GET_QUEUE_INFO, &[0, 0, 7], H_P3),
        (nr::H_INT_GET_QUEUE_INFO, &[0, 0, 0xff], H_P3),
        (nr::H_INT_SET_QUEUE_CONFIG, &[2, 0, 6, 0, 16], H_PARAMETER),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 3, 6, 0, 16], H_P2),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 7, 0, 16], H_P3),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0x8000, 16], H_P4),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, MEMORY, 16], H_P4),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, ONES & !0xffff, 16], H_P4),
        // Memory at its start, but not to its end.
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 21], H_P4),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 13], H_P5),
        (nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 6, 0, 1 << 32 | 16], H_P5),
        (nr::H_INT_GET_QUEUE_CONFIG, &[2, 0, 6], H_PARAMETER),
        (nr::H_INT_GET_QUEUE_CONFIG, &[0, 3, 6], H_P2),
        (nr::H_INT_GET_QUEUE_CONFIG, &[0, 0, 8], H_P3),
        (nr::H_INT_SET_OS_REPORTING_LINE, &[1, 0], H_PARAMETER),
        (nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0x80], H_P2),
        (nr::H_INT_SET_OS_REPORTING_LINE, &[0, MEMORY], H_P2),
        (nr::H_INT_SET_OS_REPORTING_LINE, &[0, ONES - 0xff], H_P2),
        (nr::H_INT_GET_OS_REPORTING_LINE, &[1, 0], H_PARAMETER),
        (nr::H_INT_GET_OS_REPORTING_LINE, &[0, 3], H_P2),
        (nr::H_INT_ESB, &[2, 0, 0x800, 0], H_PARAMETER),
        (nr::H_INT_ESB, &[0, 16, 0x800, 0], H_P2),
        (nr::H_INT_ESB, &[0, 0, 0x804, 0], H_P3),
        (nr::H_INT_ESB, &[0, 0, 0x1_0000, 0], H_P3),
        (nr::H_INT_ESB, &[1, 0, ONES, 0], H_P3),
        (nr::H_INT_SYNC, &[1, 0], H_PARAMETER),
        (nr::H_INT_SYNC, &[0, 16], H_P2),
        (nr::H_INT_RESET, &[1], H_PARAMETER),
    ]
};

#[test]
fn bad_arguments_have_their_codes_and_reach_nothing() {
    let (mut world, notes) = world();
    for (number, args, code) in REFUSED {
        let got = world.call(*number, args);
        assert_eq!(got, code.code(), "{number:#x} {args:x?}");
        assert_eq!(notes.take(), [], "{number:#x} {args:x?}");
    }
}

#[test]
fn sources_say_where_they_are() {
    let (mut world, _) = world();
    let info = world.get(nr::H_INT_GET_SOURCE_INFO, &[0, 5]);
    let page = 0x0006_0100_0000_0000 + 10 * 0x1_0000;
    assert_eq!(info, [1, page + 0x1_0000, page, 16]);
    let all: Vec<_> = sources(NonZeroU16::new(40).unwrap()).collect();
    assert_eq!(all.len(), 41);
    assert_eq!(all[39..], [39, term::SOURCE]);
}

#[test]
fn routes_are_kept_and_told() {
    let (mut world, notes) = world();
    let get = |world: &mut World| world.get::<3>(nr::H_INT_GET_SOURCE_CONFIG, &[0, VTY]);
    assert_eq!(get(&mut world), [0, 0xff, 0]);
    let route = |server, priority, eisn| {
        Told::Route(
            term::SOURCE,
            Some(Route {
                server,
                priority,
                eisn,
            }),
        )
    };
    let masked = Told::Route(term::SOURCE, None);
    for (args, answer, told) in [
        ([2, VTY, 1, 6, 0x42], [1, 6, 0x42], route(1, 6, 0x42)),
        // Without the flag the data stays.
        ([0, VTY, 2, 5, 0x99], [2, 5, 0x42], route(2, 5, 0x42)),
        // Masked, with the route kept.
        ([1, VTY, 2, 4, 0], [2, 0xff, 0x42], masked),
        ([0, VTY, 2, 4, 0], [2, 4, 0x42], route(2, 4, 0x42)),
        // Masked by priority: whatever the other arguments are.
        ([2, VTY, 99, 0xff, ONES], [2, 0xff, 0], masked),
    ] {
        assert_eq!(world.call(nr::H_INT_SET_SOURCE_CONFIG, &args), 0);
        assert_eq!(get(&mut world), answer, "{args:x?}");
        assert_eq!(notes.take(), [told, Told::Sync], "{args:x?}");
    }
}

#[test]
fn queues_are_memory_of_the_partition() {
    let (mut world, notes) = world();
    let get = |world: &mut World, flags| world.get::<4>(nr::H_INT_GET_QUEUE_CONFIG, &[flags, 2, 6]);
    assert_eq!(get(&mut world, 1), [0, 0, 0, 0]);
    let (base, _) = world.partition.ram.translate(Gra(0)).unwrap();
    for (args, answer, always_notify) in [
        ([1, 2, 6, 0x1_0000, 16], [1, 0x1_0000, 16, 0], true),
        (
            [0, 2, 6, MEMORY - 0x1000, 12],
            [0, MEMORY - 0x1000, 12, 0],
            false,
        ),
    ] {
        assert_eq!(world.call(nr::H_INT_SET_QUEUE_CONFIG, &args), 0);
        assert_eq!(get(&mut world, 0), answer);
        assert_eq!(get(&mut world, 1)[0], answer[0] | 2);
        assert_eq!(get(&mut world, 1)[3], 0x123);
        let queue = Queue {
            memory: Ra(base.0 + args[3]),
            log2: u32::try_from(args[4]).unwrap(),
            always_notify,
        };
        assert_eq!(notes.take(), [Told::SetQueue(2, 6, Some(queue))]);
    }
    assert_eq!(world.call(nr::H_INT_SET_QUEUE_CONFIG, &[1, 2, 6, 7, 0]), 0);
    assert_eq!(get(&mut world, 1), [0, 0, 0, 0]);
    assert_eq!(notes.take(), [Told::SetQueue(2, 6, None)]);
    let page: [u64; 2] = world.get(nr::H_INT_GET_QUEUE_INFO, &[0, 2, 6]);
    assert_eq!(page, [0x0006_0200_0000_0000 + 22 * 0x1_0000, 16]);
}

#[test]
fn reports_go_to_memory_or_nowhere() {
    let (mut world, notes) = world();
    let (base, _) = world.partition.ram.translate(Gra(0)).unwrap();
    let get = |world: &mut World, of| world.get::<1>(nr::H_INT_GET_OS_REPORTING_LINE, &[0, of]);
    assert_eq!(get(&mut world, 0), [ONES]);
    assert_eq!(world.call(nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0x300]), 0);
    assert_eq!(notes.take(), [Told::Report(0, Some(Ra(base.0 + 0x300)))]);
    assert_eq!((get(&mut world, 0), get(&mut world, 1)), ([0x300], [ONES]));
    assert_eq!(world.call(nr::H_INT_SET_OS_REPORTING_LINE, &[0, ONES]), 0);
    assert_eq!(notes.take(), [Told::Report(0, None)]);
    assert_eq!(get(&mut world, 0), [ONES]);
}

#[test]
fn pages_are_reached_by_calls_too() {
    let (mut world, notes) = world();
    assert_eq!(world.get(nr::H_INT_ESB, &[0, 3, 0xc00, 9]), [0b10]);
    assert_eq!(world.get(nr::H_INT_ESB, &[1, VTY, 0x400, 9]), [ONES]);
    assert_eq!(world.call(nr::H_INT_SYNC, &[0, VTY]), 0);
    let told = [
        Told::Load(3, 0xc00),
        Told::Store(term::SOURCE, 0x400, 9),
        Told::Sync,
    ];
    assert_eq!(notes.take(), told);
}

#[test]
fn reset_takes_everything_back() {
    let (mut world, notes) = world();
    assert_eq!(world.call(nr::H_INT_SET_SOURCE_CONFIG, &[2, 4, 1, 6, 7]), 0);
    assert_eq!(world.call(nr::H_INT_SET_QUEUE_CONFIG, &[1, 1, 5, 0, 12]), 0);
    assert_eq!(world.call(nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0]), 0);
    notes.take();
    assert_eq!(world.call(nr::H_INT_RESET, &[0]), 0);
    let told = notes.take();
    for lisn in sources(NonZeroU16::new(3).unwrap()) {
        for wanted in [Told::Off(lisn), Told::Route(lisn, None)] {
            assert!(told.contains(&wanted), "{wanted:?}");
        }
    }
    let syncs: Vec<usize> = (0..told.len())
        .filter(|at| told[*at] == Told::Sync)
        .collect();
    assert_eq!(syncs, [told.len() - 3], "once, after all sources");
    let last = [Told::Report(0, None), Told::SetQueue(1, 5, None)];
    assert_eq!(told[told.len() - 2..], last);
    assert_eq!(
        world.get(nr::H_INT_GET_SOURCE_CONFIG, &[0, 4]),
        [0, 0xff, 0]
    );
    assert_eq!(
        world.get(nr::H_INT_GET_QUEUE_CONFIG, &[0, 1, 5]),
        [0, 0, 0, 0]
    );
    assert_eq!(world.get(nr::H_INT_GET_OS_REPORTING_LINE, &[0, 0]), [ONES]);
}

#[test]
fn a_reset_that_was_refused_is_repeated_in_full() {
    let (mut world, notes) = world();
    assert_eq!(world.call(nr::H_INT_SET_QUEUE_CONFIG, &[1, 1, 5, 0, 12]), 0);
    assert_eq!(world.call(nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0]), 0);
    *notes.fault.lock() = Some(Fault::Busy);
    let busy = HCode::H_LONG_BUSY_ORDER_1_MSEC.code();
    assert_eq!(world.call(nr::H_INT_RESET, &[0]), busy);
    *notes.fault.lock() = None;
    notes.take();
    assert_eq!(world.call(nr::H_INT_RESET, &[0]), 0);
    let told = notes.take();
    for wanted in [Told::Report(0, None), Told::SetQueue(1, 5, None)] {
        assert!(told.contains(&wanted), "{wanted:?}");
    }
}

#[test]
fn a_route_is_as_wanted_although_events_are_late() {
    let (mut world, notes) = world();
    *notes.late.lock() = true;
    let hardware = HCode::H_HARDWARE.code();
    assert_eq!(world.call(nr::H_INT_SET_SOURCE_CONFIG, &[2, 4, 1, 6, 7]), 0);
    assert_eq!(world.get(nr::H_INT_GET_SOURCE_CONFIG, &[0, 4]), [1, 6, 7]);
    assert_eq!(world.call(nr::H_INT_SYNC, &[0, 4]), hardware);
    // Its memory is wanted back: here it matters.
    assert_eq!(world.call(nr::H_INT_RESET, &[0]), hardware);
}

#[test]
fn a_vcpu_that_starts_again_reports_nowhere() {
    let (mut world, notes) = world();
    assert_eq!(world.call(nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0x300]), 0);
    assert_eq!(world.call(nr::H_INT_SET_QUEUE_CONFIG, &[1, 0, 5, 0, 12]), 0);
    notes.take();
    let xive = world.partition.interrupts.xive().unwrap();
    *notes.fault.lock() = Some(Fault::Failed);
    assert_eq!(xive.vcpu_starts(0), Err(Fault::Failed));
    *notes.fault.lock() = None;
    assert_eq!(xive.vcpu_starts(0), Ok(()));
    assert_eq!(xive.vcpu_starts(3), Err(Fault::Failed));
    assert_eq!(notes.take(), [Told::Start(0), Told::Start(0)]);
    assert_eq!(world.get(nr::H_INT_GET_OS_REPORTING_LINE, &[0, 0]), [ONES]);
    let queue = world.get(nr::H_INT_GET_QUEUE_CONFIG, &[0, 0, 5]);
    assert_eq!(queue, [1, 0, 12, 0], "its queues stay");
}

#[test]
fn what_the_controllers_refuse_is_not_remembered() {
    let (mut world, notes) = world();
    for (fault, code) in [
        (Fault::Busy, HCode::H_LONG_BUSY_ORDER_1_MSEC),
        (Fault::Failed, HCode::H_HARDWARE),
    ] {
        *notes.fault.lock() = Some(fault);
        let calls: [(u64, &[u64]); 6] = [
            (nr::H_INT_SET_SOURCE_CONFIG, &[2, 4, 1, 6, 7]),
            (nr::H_INT_SET_QUEUE_CONFIG, &[1, 1, 5, 0, 12]),
            (nr::H_INT_SET_OS_REPORTING_LINE, &[0, 0]),
            (nr::H_INT_ESB, &[0, 0, 0, 0]),
            (nr::H_INT_SYNC, &[0, 0]),
            (nr::H_INT_RESET, &[0]),
        ];
        for (number, args) in calls {
            assert_eq!(world.call(number, args), code.code(), "{number:#x}");
        }
    }
    *notes.fault.lock() = None;
    assert_eq!(
        world.get(nr::H_INT_GET_SOURCE_CONFIG, &[0, 4]),
        [0, 0xff, 0]
    );
    assert_eq!(
        world.get(nr::H_INT_GET_QUEUE_CONFIG, &[0, 1, 5]),
        [0, 0, 0, 0]
    );
    assert_eq!(world.get(nr::H_INT_GET_OS_REPORTING_LINE, &[0, 0]), [ONES]);
}

#[test]
fn a_partition_has_one_kind_of_controller() {
    let function = HCode::H_FUNCTION.code();
    let (mut exploitation, _) = world();
    let mut xics = World::new(1);
    for number in (nr::H_INT_GET_SOURCE_INFO..=nr::H_INT_RESET).step_by(4) {
        assert_eq!(xics.call(number, &[0; 5]), function);
    }
    for number in [
        nr::H_EOI,
        nr::H_CPPR,
        nr::H_IPI,
        nr::H_IPOLL,
        nr::H_XIRR,
        nr::H_XIRR_X,
    ] {
        assert_eq!(exploitation.call(number, &[0, 0]), function);
    }
}

#[test]
fn the_console_triggers_its_source_and_again_after_a_reset() {
    let (mut world, notes) = world();
    world.partition.console_input_arrived(&world.machine);
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(notes.take(), [Told::Trigger(term::SOURCE)]);
    assert_eq!(world.call(nr::H_INT_RESET, &[0]), 0);
    notes.take();
    world.partition.console_input_arrived(&world.machine);
    assert_eq!(notes.take(), [Told::Trigger(term::SOURCE)]);
    assert_eq!(world.machine.take_kicks(), [0u32; 0]);
}

#[test]
fn what_is_presented_ends_a_wait() {
    use crate::serve::After;
    let (mut world, notes) = world();
    assert!(matches!(world.after(nr::H_CEDE, &[]), After::Cede));
    assert_eq!(world.call(nr::H_POLL_PENDING, &[]), 0);
    *notes.presents.lock() = true;
    assert!(matches!(world.after(nr::H_CEDE, &[]), After::Resume));
    let pending = HCode::H_PENDING.code();
    assert_eq!(world.call(nr::H_POLL_PENDING, &[]), pending);
    // But nothing is to be delivered by the firmware.
    assert!(!world.partition.interrupt_pending(0));
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20_u64,
        Just(0xff),
        Just(VTY),
        (0..17_u64).prop_map(|n| n << 16),
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn the_controllers_are_told_of_what_exists_only(
        calls in prop::collection::vec((0..11_u64, [number(), number(), number(), number(), number()]), 1..60),
    ) {
        let (mut world, notes) = world();
        let (base, bytes) = world.partition.ram.translate(Gra(0)).unwrap();
        let known: Vec<u32> = sources(NonZeroU16::new(3).unwrap()).collect();
        for (call, args) in calls {
            world.call(nr::H_INT_GET_SOURCE_INFO + 4 * call, &args);
        }
        for told in notes.take() {
            match told {
                Told::Route(lisn, route) => {
                    prop_assert!(known.contains(&lisn));
                    if let Some(Route { server, priority, eisn }) = route {
                        prop_assert!(server < 3 && priority < 7 && eisn >> 31 == 0);
                    }
                }
                Told::SetQueue(server, priority, queue) => {
                    prop_assert!(server < 3 && priority < 7);
                    if let Some(Queue { memory, log2, .. }) = queue {
                        prop_assert!(memory >= base && memory.is_aligned(1 << log2));
                        prop_assert!(memory.0 + (1 << log2) <= base.0 + bytes);
                    }
                }
                Told::Report(server, lines) => {
                    prop_assert!(server == 0);
                    if let Some(lines) = lines {
                        prop_assert!(lines >= base && lines.is_aligned(256));
                        prop_assert!(lines.0 + 256 <= base.0 + bytes);
                    }
                }
                Told::Load(lisn, offset) | Told::Store(lisn, offset, _) => {
                    prop_assert!(known.contains(&lisn) && offset < 0x1_0000 && offset % 8 == 0);
                }
                Told::Off(lisn) | Told::Trigger(lisn) => prop_assert!(known.contains(&lisn)),
                Told::Sync => {}
                Told::Start(_) => prop_assert!(false, "no call does that"),
            }
        }
    }
}

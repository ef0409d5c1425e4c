//! Capabilities, creation, deletion, ids, quotas and counters.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use isa::context::GuestContext;
use isa::pte::{pate_process_table, pate_root};
use proptest::prelude::*;

use super::runs::never;
use super::{
    GUEST_WIDE, HOST_WIDE, QUOTAS, ROOT, World, code, double, gsb, pair, partition_table, word,
};
use crate::error::{HCode, Outputs};
use crate::host::fakes::no_devices;
use crate::host::{Flush, Host};
use crate::level::Level;
use crate::nested::Env;
use crate::nested::buffer::{Items, Purpose};
use crate::nested::element::Scope;
use crate::nested::guest::Quotas;
use crate::nested::run::{Exit, Running};

#[test]
fn capabilities_are_checked() {
    let world = World::raw(Level::Power10, QUOTAS, 8 << 20, 2..64);
    let (nested, env) = (&world.nested, world.env());
    assert_eq!(
        nested.get_capabilities(0),
        Ok([0x6000_0000_0000_0000].into())
    );
    assert_eq!(nested.get_capabilities(1), Err(HCode::H_PARAMETER.into()));
    assert_eq!(
        code(&nested.set_capabilities(&env, 1, 0x6000_0000_0000_0000)),
        HCode::H_PARAMETER.code()
    );
    for bad in [
        0,
        1,
        !0,
        0x8000_0000_0000_0000,
        0x1000_0000_0000_0000,
        0x7000_0000_0000_0000,
    ] {
        let refusal = nested.set_capabilities(&env, 0, bad).unwrap_err();
        assert_eq!(
            (refusal.code, refusal.outputs.as_slice()),
            (HCode::H_P2, &[1, 0][..]),
            "{bad:#x}"
        );
    }
    assert_eq!(
        world.create(),
        Err(HCode::H_STATE),
        "a refused choice is none"
    );
    for good in [
        0x2000_0000_0000_0000,
        0x4000_0000_0000_0000,
        0x6000_0000_0000_0000,
    ] {
        assert_eq!(nested.set_capabilities(&env, 0, good), Ok(Outputs::NONE));
    }
}

#[test]
fn loading_the_module_again_deletes_leftovers() {
    let world = World::new();
    let start = world.counters();
    let old = world.ready();
    assert_eq!(
        code(
            &world
                .nested
                .set_capabilities(&world.env(), 0, 0x6000_0000_0000_0000)
        ),
        0
    );
    assert_eq!(world.counters(), start);
    assert_eq!(code(&world.set(0, old, 0, &[])), HCode::H_P2.code());
    let new = world.ready();
    assert_ne!(new, old);
}

#[test]
fn create_has_only_codes_that_linux_knows() {
    let before = World::raw(Level::Power10, QUOTAS, 8 << 20, 2..64);
    assert_eq!(before.create(), Err(HCode::H_STATE));
    let world = World::new();
    let create = |flags, token| code(&world.nested.create(&world.env(), flags, token));
    assert_eq!(create(1 << 63, !0), -256);
    assert_eq!(create(1, !0), -319);
    for token in [0, 1, !1, 1 << 63] {
        assert_eq!(
            create(0, token),
            HCode::H_P2.code(),
            "no token was ever given out"
        );
    }
    for _ in 0..QUOTAS.guests {
        world.create().unwrap();
    }
    assert_eq!(world.create(), Err(HCode::H_NOT_ENOUGH_RESOURCES));
}

#[test]
fn ids_are_never_lpids_and_never_come_back() {
    let world = World::new();
    let mut seen = Vec::new();
    for _ in 0..200 {
        let id = world.create().unwrap();
        let guest = world.nested.guest(id).unwrap();
        assert!(id > 0xfff && id < 1 << 31 && !seen.contains(&id));
        assert_ne!(u64::from(guest.lpid()), id);
        assert!(guest.lpid() >= 2);
        seen.push(id);
        drop(guest);
        assert_eq!(code(&world.nested.delete(&world.env(), 0, id)), 0);
    }
}

#[test]
fn generations_wrap_past_zero() {
    let world = World::new();
    let first = world.create().unwrap();
    assert_eq!(code(&world.nested.delete(&world.env(), 0, first)), 0);
    world.nested.registry.set_generation(0, (1 << 19) - 2);
    let last = world.create().unwrap();
    assert_eq!(last, 0x7fff_f001, "the last generation is below 2^31");
    assert_eq!(code(&world.nested.delete(&world.env(), 0, last)), 0);
    assert_eq!(
        world.create(),
        Ok(first),
        "all generations were used in between, 0 is none"
    );
}

#[test]
fn unknown_and_stale_ids_are_refused_alike() {
    let world = World::new();
    let stale = world.ready();
    assert_eq!(code(&world.nested.delete(&world.env(), 0, stale)), 0);
    let live = world.ready();
    for id in [
        stale,
        0,
        1,
        live & 0xfff,
        live ^ 1 << 12,
        live | 1 << 32,
        live | 1 << 63,
        !0,
        1 << 31,
    ] {
        let nested = &world.nested;
        let p2 = HCode::H_P2.code();
        assert!(nested.guest(id).is_none());
        assert_eq!(code(&nested.create_vcpu(0, id, 0)), p2, "{id:#x}");
        assert_eq!(code(&world.set(0, id, 0, &[])), p2);
        assert_eq!(code(&world.set(GUEST_WIDE, id, 0, &[])), p2);
        assert_eq!(code(&world.get_raw(0, id, 0, &gsb(&[]))), p2);
        assert_eq!(code(&world.get_raw(GUEST_WIDE, id, 0, &gsb(&[]))), p2);
        assert_eq!(
            nested.run(&world.env(), 0, id, 0).err().map(|r| r.code),
            Some(HCode::H_P2)
        );
        assert_eq!(code(&nested.delete(&world.env(), 0, id)), p2);
    }
    assert_eq!(code(&world.set(0, live, 0, &[])), 0);
}

#[test]
fn vcpu_ids_are_sparse_and_bounded() {
    let world = World::new();
    let guest = world.create().unwrap();
    let create = |flags, vcpu| code(&world.nested.create_vcpu(flags, guest, vcpu));
    for vcpu in [2047, 0, 1024, 8] {
        assert_eq!(create(0, vcpu), 0);
        assert_eq!(create(0, vcpu), HCode::H_IN_USE.code());
    }
    for vcpu in [2048, 0x1_0000, 1 << 32, 1 << 63, !0] {
        assert_eq!(create(0, vcpu), HCode::H_P3.code(), "{vcpu:#x}");
    }
    assert_eq!(create(1 << 62, 3), -257);
    for vcpu in [1, 2048, 0x1_0000, 1 << 32, !0] {
        assert_eq!(code(&world.set(0, guest, vcpu, &[])), HCode::H_P3.code());
        assert_eq!(
            code(&world.get_raw(0, guest, vcpu, &gsb(&[]))),
            HCode::H_P3.code()
        );
        let run = world.nested.run(&world.env(), 0, guest, vcpu);
        assert_eq!(run.err().map(|r| r.code), Some(HCode::H_P3));
        assert_eq!(
            code(&world.set(GUEST_WIDE, guest, vcpu, &[])),
            0,
            "guest-wide: the vCPU does not matter"
        );
    }
}

#[test]
fn flags_are_exact() {
    let world = World::new();
    let guest = world.ready();
    let empty = gsb(&[]);
    for bit in 0..64u8 {
        let flags = 1 << (63 - bit);
        let unsupported = -256 - i64::from(bit);
        let set = code(&world.set_raw(flags, guest, 0, &empty));
        assert_eq!(set, if bit == 0 { 0 } else { unsupported });
        let get = code(&world.get_raw(flags, guest, 0, &empty));
        assert_eq!(get, if bit < 2 { 0 } else { unsupported });
        if bit > 0 {
            assert_eq!(
                code(&world.nested.delete(&world.env(), flags, guest)),
                unsupported
            );
        }
        if bit > 2 {
            let run = world.nested.run(&world.env(), flags, guest, 0);
            assert_eq!(run.err().map(|r| r.code.code()), Some(unsupported));
        }
    }
    assert_eq!(
        code(&world.get_raw(GUEST_WIDE | HOST_WIDE, guest, 0, &empty)),
        HCode::H_PARAMETER.code()
    );
}

#[test]
fn quotas_bound_guests_vcpus_heap_lpids_and_tables() {
    let world = World::new();
    let guest = world.create().unwrap();
    for vcpu in 0..QUOTAS.vcpus {
        assert_eq!(code(&world.nested.create_vcpu(0, guest, vcpu.into())), 0);
    }
    let full = HCode::H_NOT_ENOUGH_RESOURCES;
    let other = world.create().unwrap();
    assert_eq!(
        code(&world.nested.create_vcpu(0, other, 0)),
        full.code(),
        "vCPUs of all guests count"
    );

    let heap = World::raw(
        Level::Power10,
        Quotas {
            heap_bytes: 8 << 10,
            ..QUOTAS
        },
        8 << 20,
        2..64,
    );
    heap.nested
        .set_capabilities(&heap.env(), 0, 0x6000_0000_0000_0000)
        .unwrap();
    let guest = heap.create().unwrap();
    let codes: Vec<i64> = (0..6)
        .map(|vcpu| code(&heap.nested.create_vcpu(0, guest, vcpu)))
        .collect();
    assert_eq!((codes[0], codes[5]), (0, full.code()));
    let [used, max, ..] = heap.counters();
    assert!(used <= max && max == 8 << 10);

    for (tables, lpids, guests) in [
        (8 << 20, 2..4, 2),
        (8 << 20, 2..2, 0),
        // Without tables a guest can be made, but not run.
        (0, 2..5, 3),
    ] {
        let world = World::raw(Level::Power10, QUOTAS, tables, lpids);
        world
            .nested
            .set_capabilities(&world.env(), 0, 0x6000_0000_0000_0000)
            .unwrap();
        let start = world.counters();
        let made: Vec<_> = core::iter::repeat_with(|| world.create())
            .take_while(Result::is_ok)
            .collect();
        assert_eq!(made.len(), guests);
        assert_eq!(world.create(), Err(full));
        assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), 0);
        assert_eq!(world.counters(), start, "a refused guest costs nothing");
    }
}

#[test]
fn counters_return_to_their_start() {
    let world = World::new();
    let start = world.counters();
    assert_eq!(start, [0, QUOTAS.heap_bytes, 0, 8 << 20, 0]);
    let run = |guest| {
        let running = world.enter(guest, &[never()]);
        world.leave(running, Exit::Interrupted);
    };
    let one = world.ready();
    run(one);
    let with_one = world.counters();
    assert!(
        with_one[0] > size_of::<GuestContext>() as u64,
        "at least the registers"
    );
    assert!(with_one[2] >= 0x1_0000, "a root at least");
    let two = world.ready();
    run(two);
    let with_two = world.counters();
    assert_eq!(with_two[0], 2 * with_one[0]);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, one)), 0);
    assert_eq!(world.counters(), with_one);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, two)), 0);
    assert_eq!(world.counters(), start);
}

#[test]
fn delete_all_needs_no_id() {
    let world = World::new();
    let start = world.counters();
    let delete_all = || code(&world.nested.delete(&world.env(), 1 << 63, 0x1234));
    assert_eq!(delete_all(), 0, "nothing to delete");
    let ids: Vec<u64> = (0..4).map(|_| world.create().unwrap()).collect();
    assert_eq!(delete_all(), 0);
    assert_eq!(world.counters(), start);
    for id in ids {
        assert_eq!(
            code(&world.nested.delete(&world.env(), 0, id)),
            HCode::H_P2.code()
        );
    }
    world.create().unwrap();
}

/// A machine where another thread deletes the guest of a world while this one waits, makes one in its place, and runs that.
struct Meddler<'a> {
    world: &'a World,
    guest: u64,
    running: RefCell<Option<Running>>,
}

impl Host for Meddler<'_> {
    fn timebase(&self) -> u64 {
        self.world.machine.timebase()
    }
    fn flush(&self, flush: Flush) {
        self.world.machine.flush(flush);
    }
    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]) {
        self.world.machine.set_partition_table_entry(lpid, pate);
    }
    no_devices!();
    fn vcpu(&self) -> u32 {
        1
    }
    fn kick(&self, _: u32) {}
    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        let is_done = done();
        let mut running = self.running.borrow_mut();
        if running.is_none() {
            let (world, env) = (self.world, self.world.env());
            assert_eq!(code(&world.nested.delete(&env, 0, self.guest)), 0);
            let next = world.ready();
            *running = Some(world.enter(next, &[never()]));
            let busy = code(&world.nested.delete(&env, 0, next));
            assert_eq!(busy, HCode::H_BUSY.code());
        }
        is_done
    }
    fn interrupt_pending(&self) -> bool {
        false
    }
}

#[test]
fn delete_all_leaves_a_guest_alone_that_came_meanwhile_and_runs() {
    let world = World::new();
    let host = Meddler {
        guest: world.ready(),
        world: &world,
        running: RefCell::new(None),
    };
    let env = Env {
        ram: &world.ram,
        host: &host,
        lpid: 1,
    };
    let all = world.nested.delete(&env, 1 << 63, 0);
    assert_eq!(code(&all), HCode::H_BUSY.code());
    let running = host.running.into_inner().unwrap();
    let lpid = running.guest.lpid();
    let root = running.guest.shadow().root_ra().unwrap();
    let entry = world.machine.entries.borrow()[&lpid];
    assert_eq!(entry[0], pate_root(root.0), "the hardware still has it");
    world.leave(running, Exit::Interrupted);
    assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), 0);
    assert_eq!(world.counters()[2], 0);
}

#[test]
fn tables_come_with_the_first_run_and_a_run_that_gets_none_loses_nothing() {
    // For one guest.
    let world = World::raw(Level::Power10, QUOTAS, 0x2_0000, 2..64);
    let chosen = Level::Power10.offered();
    world
        .nested
        .set_capabilities(&world.env(), 0, chosen)
        .unwrap();
    let (one, two) = (world.ready(), world.ready());
    let start = world.counters();
    assert_eq!(start[2], 0, "no tables before the first run");
    let running = world.enter(one, &[never()]);
    assert_eq!(world.counters()[2], 0x1_0000 + 3 * 0x1000 + 0x100);
    world.leave(running, Exit::Interrupted);

    let guest = world.nested.guest(two).unwrap();
    world.machine.entries.borrow_mut().clear();
    let input = [never(), (0x1003, double(0x77))];
    for _ in 0..2 {
        let refused = world.run_with(two, 0, &input).err();
        let full = HCode::H_NOT_ENOUGH_RESOURCES.code();
        assert_eq!(refused, Some((full, vec![])));
    }
    assert_eq!(world.value(0, two, 0, 0x1003), 0, "the input waits");
    assert!(world.machine.entries.borrow().is_empty());
    assert_eq!(guest.shadow().root_ra(), None);
    // The other one still runs, and goes.
    let running = world.enter(one, &[never()]);
    world.leave(running, Exit::Interrupted);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, one)), 0);
    // Then there is room.
    let running = world.enter(two, &input);
    assert!(guest.shadow().root_ra().is_some());
    world.leave(running, Exit::Interrupted);
    assert_eq!(world.value(0, two, 0, 0x1003), 0x77);
    drop(guest);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, two)), 0);
    assert_eq!(world.counters()[2], 0);
}

#[test]
fn hardware_follows_the_tables() {
    let world = World::new();
    let id = world.ready();
    let guest = world.nested.guest(id).unwrap();
    let lpid = guest.lpid();
    let entry = || world.machine.entries.borrow().get(&lpid).copied();
    assert_eq!(entry(), Some([0; 2]), "no table yet");
    world
        .set(
            GUEST_WIDE,
            id,
            0,
            &[partition_table(ROOT), (6, pair(0, 4096))],
        )
        .unwrap();
    assert_eq!(entry(), Some([0; 2]), "it has not run");
    let running = world.enter(id, &[never()]);
    world.leave(running, Exit::Interrupted);
    let root = guest.shadow().root_ra().unwrap();
    assert_ne!(root.0, 0);
    assert_eq!(entry(), Some([pate_root(root.0), pate_process_table(0, 0)]));
    world
        .set(
            GUEST_WIDE,
            id,
            0,
            &[partition_table(ROOT), (6, pair(0x100_0000, 0x100_0000))],
        )
        .unwrap();
    assert_eq!(
        entry(),
        Some([pate_root(root.0), pate_process_table(0x100_0000, 12)])
    );
    world.machine.flushes.borrow_mut().clear();
    world.machine.entries.borrow_mut().clear();
    world
        .set(GUEST_WIDE, id, 0, &[(4, double(1 << 24))])
        .unwrap();
    assert!(
        world.machine.flushes.borrow().is_empty() && entry().is_none(),
        "a time base offset is no table"
    );
    drop(guest);
    assert_eq!(code(&world.nested.delete(&world.env(), 0, id)), 0);
    assert_eq!(entry(), Some([0; 2]));
    assert!(
        world
            .machine
            .flushes
            .borrow()
            .contains(&Flush::Partition { lpid })
    );
}

#[test]
fn a_deleted_guest_that_someone_holds_stays_out_of_the_hardware() {
    let world = World::new();
    let id = world.ready();
    let held = world.nested.guest(id).unwrap();
    assert_eq!(code(&world.nested.delete(&world.env(), 0, id)), 0);
    let bytes = gsb(&[partition_table(ROOT)]);
    let purpose = Purpose::Set(Scope::Guest);
    held.apply(&world.env(), || {
        Items::new(&bytes, purpose).map(|item| (item.unwrap(), [ROOT, 52, 65536]))
    })
    .unwrap();
    assert_eq!(
        world.machine.entries.borrow().get(&held.lpid()),
        Some(&[0; 2])
    );
    let other = world.create().unwrap();
    assert_ne!(
        world.nested.guest(other).unwrap().lpid(),
        held.lpid(),
        "its LPID is taken until it goes"
    );
}

#[test]
fn reset_starts_over() {
    let world = World::new();
    let start = world.counters();
    world.ready();
    assert_eq!(world.nested.reset(&world.env()), Ok(()));
    assert_eq!(world.create(), Err(HCode::H_STATE));
    assert_eq!(world.counters(), start);
}

#[test]
fn a_level_is_set_for_good_until_changed() {
    let world = World::new();
    let guest = world.create().unwrap();
    world
        .set(GUEST_WIDE, guest, 0, &[(3, word(0x0f00_0005))])
        .unwrap();
    assert_eq!(world.value(GUEST_WIDE, guest, 0, 3), 0x0f00_0005);
}

/// What a partition can do to guests.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Vcpu(usize, u64),
    Delete(usize),
    DeleteAll,
    Reload,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Create),
        6 => (0usize..6, 0u64..2100).prop_map(|(guest, vcpu)| Step::Vcpu(guest, vcpu)),
        4 => (0usize..6).prop_map(Step::Delete),
        1 => Just(Step::DeleteAll),
        1 => Just(Step::Reload),
    ]
}

#[test]
fn any_life_leaves_the_counters_as_they_were() {
    let world = World::new();
    let start = world.counters();
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    runner
        .run(&prop::collection::vec(steps(), 0..40), |steps| {
            let mut ids = Vec::new();
            for step in steps {
                match step {
                    Step::Create => ids.extend(world.create().ok()),
                    Step::Vcpu(guest, vcpu) => {
                        let id = ids.get(guest).copied().unwrap_or(0);
                        let _ = world.nested.create_vcpu(0, id, vcpu);
                    }
                    Step::Delete(guest) => {
                        let id = ids.get(guest).copied().unwrap_or(0);
                        let gone = world.nested.guest(id).is_none();
                        prop_assert_eq!(
                            code(&world.nested.delete(&world.env(), 0, id)),
                            if gone { -55 } else { 0 }
                        );
                    }
                    Step::DeleteAll => {
                        prop_assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), 0);
                    }
                    Step::Reload => prop_assert_eq!(
                        code(&world.nested.set_capabilities(
                            &world.env(),
                            0,
                            0x6000_0000_0000_0000
                        )),
                        0
                    ),
                }
                let [heap, heap_max, tables, tables_max, _] = world.counters();
                prop_assert!(heap <= heap_max && tables <= tables_max);
            }
            prop_assert_eq!(code(&world.nested.delete(&world.env(), 1 << 63, 0)), 0);
            prop_assert_eq!(world.counters(), start);
            Ok(())
        })
        .unwrap();
}

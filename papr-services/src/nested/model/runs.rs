//! Runs of a guest's vCPUs against its deletion. The surprising fact: only the deletion's kick ends a run here.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use isa::addr::Gra;
use loom::thread;

use super::{Machine, ROOTS, VCPU, check, partition, tables, tables_of};
use crate::error::HCode;
use crate::guest_ram::GuestRam;
use crate::level::Level;
use crate::nested::guest::{Lpids, Quotas};
use crate::nested::pool::TableQuota;
use crate::nested::run::{Exit, Start};
use crate::nested::tests::{GUEST_WIDE, OWN, gsb, pair, partition_table};
use crate::nested::{Env, Nested, NestedConfig};

/// Run buffers of the guest.
const INPUT: u64 = 0x3_0000;
const OUTPUT: u64 = 0x3_1000;
const BUFFER: u64 = 0x3_2000;

/// What a guest has from its first run on.
const FIRST_TABLES: u64 = 0x1_0000 + 3 * 0x1000 + 0x100;

/// A partition with a guest that can run.
struct Running {
    ram: GuestRam,
    machine: Machine,
    tables: Arc<TableQuota>,
    nested: Nested,
    guest: u64,
}

impl Running {
    fn new(machine: Machine) -> Arc<Self> {
        Self::with(machine, tables())
    }

    fn with(machine: Machine, tables: Arc<TableQuota>) -> Arc<Self> {
        let config = NestedConfig {
            level: Level::Power10,
            own: OWN,
            quotas: Quotas {
                guests: 2,
                vcpus: 4,
                heap_bytes: 1 << 20,
            },
        };
        let mut world = Self {
            ram: partition(),
            nested: Nested::new(&config, tables.clone(), Arc::new(Lpids::new(2..8))),
            machine,
            tables,
            guest: 0,
        };
        let chosen = Level::Power10.offered();
        world
            .nested
            .set_capabilities(&world.env(), 0, chosen)
            .unwrap();
        world.guest = world.nested.create(&world.env(), 0, !0).unwrap().as_slice()[0];
        world.nested.create_vcpu(0, world.guest, 0).unwrap();
        world.set(GUEST_WIDE, &[partition_table(ROOTS[0]), (6, pair(0, 4096))]);
        world.set(
            0,
            &[
                (0x0c00, pair(INPUT, 4096)),
                (0x0c01, pair(OUTPUT, 4096)),
                (0x1020, vec![0xff; 8]),
            ],
        );
        Arc::new(world)
    }

    fn env(&self) -> Env<'_, Machine> {
        Env {
            ram: &self.ram,
            host: &self.machine,
            lpid: 1,
        }
    }

    fn set(&self, flags: u64, elements: &[(u16, Vec<u8>)]) {
        self.set_at(flags, 0, elements);
    }

    fn set_at(&self, flags: u64, vcpu: u64, elements: &[(u16, Vec<u8>)]) {
        let bytes = gsb(elements);
        self.ram.write(Gra(BUFFER), &bytes).unwrap();
        let size = bytes.len() as u64;
        self.nested
            .set_state(&self.env(), flags, self.guest, vcpu, Gra(BUFFER), size)
            .unwrap();
    }

    /// A thread of the partition runs the guest's vCPU as the firmware does, until it is stopped.
    fn run(&self, vcpu: u32) -> Result<(), HCode> {
        VCPU.with(|own| own.set(vcpu));
        match self.nested.run(&self.env(), 0, self.guest, 0) {
            Ok(Start::Enter(running)) => {
                while !running.is_wanted_back(&self.machine) {
                    self.machine.stay_in_guest(vcpu as usize);
                }
                assert_eq!(running.finish(Exit::Interrupted, &self.env()), (0, 0));
                Ok(())
            }
            Ok(Start::Done(exit)) => panic!("nothing is due: {exit:?}"),
            Err(refusal) => Err(refusal.code),
        }
    }

    /// The same with a vCPU of the guest that leaves at once.
    fn enter(&self, vcpu: u32, guests: u64) -> Result<(), HCode> {
        VCPU.with(|own| own.set(vcpu));
        match self.nested.run(&self.env(), 0, self.guest, guests) {
            Ok(Start::Enter(running)) => {
                assert_eq!(running.finish(Exit::Interrupted, &self.env()), (0, 0));
                Ok(())
            }
            Ok(Start::Done(exit)) => panic!("nothing is due: {exit:?}"),
            Err(refusal) => Err(refusal.code),
        }
    }

    fn delete(&self) -> Result<(), HCode> {
        let deleted = self.nested.delete(&self.env(), 0, self.guest);
        deleted.map(drop).map_err(|refusal| refusal.code)
    }

    /// Nothing is left of the guest; `ran` if it was in the hardware.
    fn is_gone(&self, ran: bool) {
        assert_eq!(self.run(0), Err(HCode::H_P2));
        let used = (self.nested.registry.account.heap(), self.tables.in_use());
        assert_eq!(used, (0, 0));
        let (set, cleared) = self.machine.hardware.lock().unwrap().entries;
        // Cleared once when it was made, for whoever had the id before.
        assert_eq!((set, cleared), (ran.into(), 2), "in and out once");
    }
}

fn run_against_delete(machine: Machine) {
    let world = Running::new(machine);
    let other = world.clone();
    let runner = thread::spawn(move || other.run(1));
    assert_eq!(world.delete(), Ok(()));
    let ran = runner.join().unwrap();
    assert!(matches!(ran, Ok(()) | Err(HCode::H_P2)), "{ran:?}");
    world.is_gone(ran.is_ok());
}

#[test]
fn a_deletion_ends_every_run() {
    check(3, || run_against_delete(Machine::new()));
}

/// The test of the tests: without kicks the deletion waits for ever.
#[test]
#[should_panic = "maximum number of branches"]
fn without_a_kick_it_would_not() {
    check(3, || {
        run_against_delete(Machine {
            kicks: false,
            ..Machine::new()
        });
    });
}

#[test]
fn a_deletion_of_all_guests_ends_every_run() {
    check(3, || {
        let world = Running::new(Machine::new());
        let other = world.clone();
        let runner = thread::spawn(move || other.run(1));
        assert!(world.nested.delete(&world.env(), 1 << 63, 0).is_ok());
        let ran = runner.join().unwrap();
        assert!(matches!(ran, Ok(()) | Err(HCode::H_P2)), "{ran:?}");
        world.is_gone(ran.is_ok());
    });
}

#[test]
fn two_runs_of_one_vcpu_and_a_deletion() {
    check(2, || {
        let world = Running::new(Machine::new());
        let runners = [1, 2].map(|vcpu| {
            let other = world.clone();
            thread::spawn(move || other.run(vcpu))
        });
        assert_eq!(world.delete(), Ok(()));
        let mut entered = false;
        for runner in runners {
            let ran = runner.join().unwrap();
            assert!(
                matches!(ran, Ok(()) | Err(HCode::H_P2 | HCode::H_IN_USE)),
                "{ran:?}"
            );
            entered |= ran.is_ok();
        }
        world.is_gone(entered);
    });
}

#[test]
fn two_first_runs_make_tables_once() {
    check(2, || {
        // There are no more than these.
        let world = Running::with(Machine::new(), tables_of(FIRST_TABLES));
        world.nested.create_vcpu(0, world.guest, 1).unwrap();
        let element = |id, at| (id, pair(at, 4096));
        world.set_at(0, 1, &[element(0x0c00, INPUT), element(0x0c01, OUTPUT)]);
        let other = world.clone();
        let runner = thread::spawn(move || other.enter(1, 1));
        let ran = [world.enter(2, 0), runner.join().unwrap()];
        assert_eq!(ran, [Ok(()); 2]);
        assert_eq!(world.tables.in_use(), FIRST_TABLES);
        assert_eq!(world.delete(), Ok(()));
        world.is_gone(true);
    });
}

#[test]
fn deletions_that_do_not_wait_are_repeated() {
    check(2, || {
        let machine = Machine {
            waits: false,
            ..Machine::new()
        };
        let world = Running::new(machine);
        let (one, two) = (world.clone(), world.clone());
        let runner = thread::spawn(move || one.run(1));
        let deleter = thread::spawn(move || two.delete());
        let mine = world.delete();
        let theirs = deleter.join().unwrap();
        for answer in [mine, theirs] {
            let allowed = matches!(answer, Ok(()) | Err(HCode::H_BUSY | HCode::H_P2));
            assert!(allowed, "{answer:?}");
        }
        let ran = runner.join().unwrap();
        assert!(matches!(ran, Ok(()) | Err(HCode::H_P2)), "{ran:?}");
        if mine.is_err() && theirs.is_err() {
            assert_eq!(world.delete(), Ok(()), "nobody runs it any more");
        }
        world.is_gone(ran.is_ok());
    });
}

//! Calls from several threads at once. No order is fixed; what is checked holds in every order: each call has an
//! answer that its row of codes allows, a vCPU is in one run at most, and nothing is left at the end.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;

use isa::addr::{Gra, Ra};

use super::{GUEST_WIDE, OWN, QUOTAS, ROOT, gsb, pair, partition_table};
use crate::error::{Answer, HCode};
use crate::guest_ram::GuestRam;
use crate::guest_ram::tests::{flat, memory};
use crate::host::fakes::no_devices;
use crate::host::{Flush, Host};
use crate::level::Level;
use crate::nested::guest::Lpids;
use crate::nested::pool::{TablePool, TableQuota};
use crate::nested::run::{Exit, Start, Verdict};
use crate::nested::{Env, Nested, NestedConfig};

/// A machine whose threads share a clock, which goes on whenever somebody looks.
#[derive(Default)]
struct Clock(AtomicU64);

impl Host for Clock {
    fn timebase(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn flush(&self, _flush: Flush) {}
    fn set_partition_table_entry(&self, _lpid: u32, _pate: [u64; 2]) {}
    no_devices!();
    fn vcpu(&self) -> u32 {
        0
    }
    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        (0..1000).any(|_| {
            thread::yield_now();
            done()
        })
    }
    fn kick(&self, _vcpu: u32) {}
    fn interrupt_pending(&self) -> bool {
        false
    }
}

const THREADS: u64 = 4;
const STEPS: u64 = 4000;

/// One thread of the partition, with buffers of its own.
struct Caller<'a> {
    env: Env<'a, Clock>,
    nested: &'a Nested,
    /// Ids that some thread made, dead or alive.
    ids: &'a Mutex<Vec<u64>>,
    /// vCPUs that are in a run.
    running: &'a Mutex<BTreeSet<(u64, u64)>>,
    number: u64,
    seed: u64,
}

impl Caller<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64: any mixture of steps will do.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % limit
    }

    fn buffer(&self) -> u64 {
        0x1_0000 * (1 + self.number)
    }

    fn set(&self, flags: u64, guest: u64, vcpu: u64, elements: &[(u16, Vec<u8>)]) -> Answer {
        let bytes = gsb(elements);
        self.env.ram.write(Gra(self.buffer()), &bytes).unwrap();
        let size = bytes.len() as u64;
        self.nested
            .set_state(&self.env, flags, guest, vcpu, Gra(self.buffer()), size)
    }

    fn run(&self, guest: u64, vcpu: u64) {
        let input = gsb(&[(
            0x1020,
            (self.env.host.timebase() + 20).to_be_bytes().to_vec(),
        )]);
        self.env
            .ram
            .write(Gra(self.buffer() + 0x4000), &input)
            .unwrap();
        match self.nested.run(&self.env, 0, guest, vcpu) {
            Ok(Start::Enter(mut running)) => {
                assert!(
                    self.running.lock().unwrap().insert((guest, vcpu)),
                    "in one run at most"
                );
                running.context().trap = 0x980;
                let exit = loop {
                    if let Verdict::Leave(exit) = running.after_exit(&self.env) {
                        break exit;
                    }
                };
                self.running.lock().unwrap().remove(&(guest, vcpu));
                assert_eq!(running.finish(exit, &self.env).0, 0);
            }
            Ok(Start::Done(exit)) => assert_eq!(exit, Exit::Timer),
            Err(refusal) => allowed(
                &Err(refusal),
                &[
                    HCode::H_P2,
                    HCode::H_P3,
                    HCode::H_IN_USE,
                    HCode::H_INPUT_BUFFER_NOT_DEFINED,
                    HCode::H_OUTPUT_BUFFER_NOT_DEFINED,
                    HCode::H_PARTITION_PAGE_TABLE_NOT_DEFINED,
                ],
            ),
        }
    }

    fn step(&mut self) {
        let known = self.ids.lock().unwrap().clone();
        let guest = match known.len() as u64 {
            0 => 0,
            len => known[usize::try_from(self.below(len)).unwrap()],
        };
        let vcpu = self.below(2);
        let unknown = [HCode::H_P2, HCode::H_P3, HCode::H_IN_USE];
        match self.below(16) {
            0..2 => match self.nested.create(&self.env, 0, !0) {
                Ok(out) => {
                    let id = out.as_slice()[0];
                    let mut ids = self.ids.lock().unwrap();
                    assert!(!ids.contains(&id), "an id comes once");
                    ids.push(id);
                }
                refused => allowed(&refused, &[HCode::H_NOT_ENOUGH_RESOURCES]),
            },
            2..4 => allowed(
                &self.nested.create_vcpu(0, guest, vcpu),
                &[HCode::H_P2, HCode::H_IN_USE, HCode::H_NOT_ENOUGH_RESOURCES],
            ),
            4..6 => {
                allowed(
                    &self.set(
                        GUEST_WIDE,
                        guest,
                        0,
                        &[partition_table(ROOT), (6, pair(0, 4096))],
                    ),
                    &[HCode::H_P2],
                );
                let buffers = [
                    (0x0c00, pair(self.buffer() + 0x4000, 4096)),
                    (0x0c01, pair(self.buffer() + 0x8000, 4096)),
                ];
                allowed(&self.set(0, guest, vcpu, &buffers), &unknown);
            }
            6 => allowed(
                &self.set(
                    GUEST_WIDE,
                    guest,
                    0,
                    &[(3, 0x0f00_0005u32.to_be_bytes().to_vec())],
                ),
                &[HCode::H_P2, HCode::H_INVALID_ELEMENT_VALUE],
            ),
            7 => allowed(
                &self.nested.delete(&self.env, 0, guest),
                &[HCode::H_P2, HCode::H_BUSY],
            ),
            8 if self.below(20) == 0 => {
                allowed(&self.nested.delete(&self.env, 1 << 63, 0), &[HCode::H_BUSY]);
            }
            9 => {
                let bytes = gsb(&[(0x1003, [0; 8].to_vec())]);
                self.env.ram.write(Gra(self.buffer()), &bytes).unwrap();
                let size = bytes.len() as u64;
                allowed(
                    &self
                        .nested
                        .get_state(&self.env, 0, guest, vcpu, Gra(self.buffer()), size),
                    &unknown,
                );
            }
            _ => self.run(guest, vcpu),
        }
    }
}

#[track_caller]
fn allowed(answer: &Answer, codes: &[HCode]) {
    if let Err(refusal) = answer {
        assert!(codes.contains(&refusal.code), "{refusal:?}");
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let pool = TablePool::new(Ra(0x40_0000_0000), memory(1 << 20)).unwrap();
    let tables = Arc::new(TableQuota::new(Arc::new(pool), 1 << 20));
    let config = NestedConfig {
        level: Level::Power10,
        own: OWN,
        quotas: QUOTAS,
    };
    let nested = Nested::new(&config, tables.clone(), Arc::new(Lpids::new(2..64)));
    let ram: GuestRam = flat(0x40_0000);
    let (clock, ids, running) = (Clock::default(), Mutex::default(), Mutex::default());
    let env = || Env {
        ram: &ram,
        host: &clock,
        lpid: 1,
    };
    nested
        .set_capabilities(&env(), 0, Level::Power10.offered())
        .unwrap();
    thread::scope(|scope| {
        for number in 0..THREADS {
            let mut caller = Caller {
                env: env(),
                nested: &nested,
                ids: &ids,
                running: &running,
                number,
                seed: 0x9e37_79b9 + number,
            };
            scope.spawn(move || (0..STEPS).for_each(|_| caller.step()));
        }
    });
    assert!(ids.lock().unwrap().len() > 10, "guests came and went");
    assert_eq!(nested.delete(&env(), 1 << 63, 0), Ok([0; 0].into()));
    assert_eq!((nested.registry.account.heap(), tables.in_use()), (0, 0));
    for id in ids.lock().unwrap().iter() {
        assert!(nested.guest(*id).is_none());
    }
}

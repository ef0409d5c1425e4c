//! The nested API against a model of the machine: one partition, one thread.

mod buffers;
mod elements;
mod life;
mod runs;
mod threads;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use isa::addr::{Gra, Ra};

use super::element::{self, Own};
use super::guest::{Lpids, Quotas};
use super::pool::{TablePool, TableQuota};
use super::{Env, Nested, NestedConfig};
use crate::error::{Answer, HCode};
use crate::guest_ram::tests::{flat, memory};
use crate::guest_ram::{GuestRam, OutOfRange};
use crate::host::fakes::no_devices;
use crate::host::{Flush, Host};
use crate::level::Level;

/// What the machine was asked for.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) time: Cell<u64>,
    pub(super) pending: Cell<bool>,
    pub(super) flushes: RefCell<Vec<Flush>>,
    pub(super) entries: RefCell<BTreeMap<u32, [u64; 2]>>,
    /// The vCPU of the partition that calls.
    pub(super) vcpu: Cell<u32>,
    pub(super) kicks: RefCell<Vec<u32>>,
}

impl Host for Machine {
    fn timebase(&self) -> u64 {
        self.time.get()
    }

    fn flush(&self, flush: Flush) {
        self.flushes.borrow_mut().push(flush);
    }

    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]) {
        self.entries.borrow_mut().insert(lpid, pate);
    }

    no_devices!();

    fn interrupt_pending(&self) -> bool {
        self.pending.get()
    }

    fn vcpu(&self) -> u32 {
        self.vcpu.get()
    }

    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        done()
    }

    fn kick(&self, vcpu: u32) {
        self.kicks.borrow_mut().push(vcpu);
    }
}

/// Bytes of the partition's memory.
pub(super) const RAM: u64 = 0x40_0000;
/// Where tests put buffers of GET and SET.
pub(super) const BUFFER: u64 = 0x1_0000;
/// Run buffers of a guest made by [`World::ready`].
pub(super) const INPUT: u64 = 0x3_0000;
pub(super) const OUTPUT: u64 = 0x4_0000;
/// The root of the guest's tree.
pub(super) const ROOT: u64 = 0x10_0000;
/// What partitions have.
pub(super) const OWN: Own = Own {
    hfscr: 0x219f,
    amor: 0xffff_ffff_ffff_fff0,
    hdexcr: 0x0800_0000,
    pcr: 0x4000_0000_0000_0000,
};
pub(super) const QUOTAS: Quotas = Quotas {
    guests: 4,
    vcpus: 6,
    heap_bytes: 1 << 20,
};

pub(super) const GUEST_WIDE: u64 = 1 << 63;
pub(super) const HOST_WIDE: u64 = 1 << 62;

/// A partition and its machine.
pub(super) struct World {
    pub(super) ram: GuestRam,
    pub(super) machine: Machine,
    pub(super) nested: Nested,
}

impl World {
    /// At a level, with capabilities chosen.
    pub(super) fn at(level: Level, chosen: u64) -> Self {
        let world = Self::raw(level, QUOTAS, 8 << 20, 2..4096);
        assert_eq!(
            world
                .nested
                .set_capabilities(&world.env(), 0, chosen)
                .map(drop),
            Ok(())
        );
        world
    }

    /// A POWER10 partition with capabilities chosen.
    pub(super) fn new() -> Self {
        Self::at(Level::Power10, Level::Power10.offered())
    }

    /// Before capabilities were chosen.
    pub(super) fn raw(
        level: Level,
        quotas: Quotas,
        tables: u64,
        lpids: core::ops::Range<u32>,
    ) -> Self {
        let pool = TablePool::new(Ra(0x40_0000_0000), memory(1 << 20)).unwrap();
        let tables = TableQuota::new(Arc::new(pool), tables);
        let config = NestedConfig {
            level,
            own: OWN,
            quotas,
        };
        Self {
            ram: flat(usize::try_from(RAM).unwrap()),
            machine: Machine::default(),
            nested: Nested::new(&config, Arc::new(tables), Arc::new(Lpids::new(lpids))),
        }
    }

    pub(super) fn env(&self) -> Env<'_, Machine> {
        Env {
            ram: &self.ram,
            host: &self.machine,
            lpid: 1,
        }
    }

    pub(super) fn create(&self) -> Result<u64, HCode> {
        self.nested
            .create(&self.env(), 0, !0)
            .map(|out| out.as_slice()[0])
            .map_err(|r| r.code)
    }

    /// A guest with a tree, and vCPU 0 with run buffers.
    pub(super) fn ready(&self) -> u64 {
        let guest = self.create().unwrap();
        self.nested.create_vcpu(0, guest, 0).unwrap();
        self.set(GUEST_WIDE, guest, 0, &[partition_table(ROOT)])
            .unwrap();
        self.set(
            0,
            guest,
            0,
            &[
                (element::RUN_INPUT.id, pair(INPUT, 4096)),
                (element::RUN_OUTPUT.id, pair(OUTPUT, 1024)),
            ],
        )
        .unwrap();
        guest
    }

    pub(super) fn set(
        &self,
        flags: u64,
        guest: u64,
        vcpu: u64,
        elements: &[(u16, Vec<u8>)],
    ) -> Answer {
        self.set_raw(flags, guest, vcpu, &gsb(elements))
    }

    pub(super) fn set_raw(&self, flags: u64, guest: u64, vcpu: u64, bytes: &[u8]) -> Answer {
        self.ram.write(Gra(BUFFER), bytes).unwrap();
        self.nested.set_state(
            &self.env(),
            flags,
            guest,
            vcpu,
            Gra(BUFFER),
            bytes.len() as u64,
        )
    }

    pub(super) fn get_raw(&self, flags: u64, guest: u64, vcpu: u64, bytes: &[u8]) -> Answer {
        self.ram.write(Gra(BUFFER), bytes).unwrap();
        self.nested.get_state(
            &self.env(),
            flags,
            guest,
            vcpu,
            Gra(BUFFER),
            bytes.len() as u64,
        )
    }

    /// Reads elements; the values sent are junk.
    pub(super) fn get(
        &self,
        flags: u64,
        guest: u64,
        vcpu: u64,
        ids: &[u16],
    ) -> Result<Vec<Vec<u8>>, HCode> {
        let list: Vec<_> = ids
            .iter()
            .map(|id| {
                (
                    *id,
                    vec![0xa5; element::find(*id).map_or(8, |(e, _)| e.len.into())],
                )
            })
            .collect();
        let bytes = gsb(&list);
        self.get_raw(flags, guest, vcpu, &bytes)
            .map_err(|refusal| refusal.code)?;
        let back = self.bytes(BUFFER, bytes.len()).unwrap();
        let back = parse(&back);
        assert_eq!(back.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        Ok(back.into_iter().map(|(_, value)| value).collect())
    }

    /// Reads one element of up to 8 bytes.
    pub(super) fn value(&self, flags: u64, guest: u64, vcpu: u64, id: u16) -> u64 {
        let values = self.get(flags, guest, vcpu, &[id]).unwrap();
        values[0]
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, OutOfRange> {
        let mut bytes = vec![0; len];
        self.ram.read(Gra(at), &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn counters(&self) -> [u64; 5] {
        let ids = [0x800, 0x801, 0x802, 0x803, 0x804];
        ids.map(|id| self.value(HOST_WIDE, 0, 0, id))
    }
}

/// A guest state buffer.
pub(super) fn gsb(elements: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = u32::try_from(elements.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    for (id, value) in elements {
        bytes.extend(id.to_be_bytes());
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// What Linux makes of a buffer: count, ids and lengths must be right.
pub(super) fn parse(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let count = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let mut at = 4;
    let mut list = Vec::new();
    for _ in 0..count {
        let id = u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
        let len: usize = u16::from_be_bytes(bytes[at + 2..at + 4].try_into().unwrap()).into();
        at += 4;
        if id != 0 {
            assert_eq!(
                element::find(id).map(|(e, _)| usize::from(e.len)),
                Some(len),
                "{id:#x}"
            );
        }
        list.push((id, bytes[at..at + len].to_vec()));
        at += len;
    }
    list
}

pub(super) fn word(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(super) fn double(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

pub(super) fn pair(first: u64, second: u64) -> Vec<u8> {
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

pub(super) fn partition_table(root: u64) -> (u16, Vec<u8>) {
    let value = [root, 52, 65536]
        .iter()
        .flat_map(|w: &u64| w.to_be_bytes())
        .collect();
    (element::PARTITION_TABLE.id, value)
}

/// The code of an answer; 0 for success.
pub(super) fn code(answer: &Answer) -> i64 {
    answer
        .as_ref()
        .map_or_else(|refusal| refusal.code.code(), |_| 0)
}

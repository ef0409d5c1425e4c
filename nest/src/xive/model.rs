//! A model of XIVE2 chips for tests: tables in memory, caches that hold changes back until they are scrubbed, events
//! that go from source to queue.
//!
//! Stricter than the emulator where the driver could be lazy: a stale assignment is used until it is scrubbed, a changed
//! entry reaches memory only by a scrub, and accesses that no chip answers fail the test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::vec::Vec;

use isa::addr::Ra;

use super::memory::TableMemory;
use super::registers::{self as regs, EndEsb, Esb, Ic, PAGE, Windows, esb};
use super::tables::{Eas, End, Entry, Index, Nvp, Table, end, low8, low32, nvp};
use crate::mmio::{Mmio, Reg};
use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

const CHUNK: u64 = 4096;

/// Memory, zero where nothing was stored.
#[derive(Default)]
pub(crate) struct Memory {
    chunks: RefCell<HashMap<u64, Box<[u64; 512]>>>,
}

impl TableMemory for Memory {
    fn load(&self, at: Ra) -> u64 {
        assert!(at.is_aligned(8) && at.0 >= PAGE, "load at {at}");
        let chunks = self.chunks.borrow();
        let chunk = chunks.get(&(at.0 / CHUNK));
        chunk.map_or(0, |chunk| chunk[(at.0 % CHUNK / 8) as usize])
    }

    fn store(&self, at: Ra, value: u64) {
        assert!(at.is_aligned(8) && at.0 >= PAGE, "store at {at}");
        let mut chunks = self.chunks.borrow_mut();
        let chunk = chunks
            .entry(at.0 / CHUNK)
            .or_insert_with(|| Box::new([0; 512]));
        chunk[(at.0 % CHUNK / 8) as usize] = value;
    }

    fn fill(&self, at: Ra, bytes: u64, value: u8) {
        assert!(at.is_aligned(8) && bytes.is_multiple_of(8));
        if !at.is_aligned(CHUNK) || !bytes.is_multiple_of(CHUNK) {
            let value = u64::from_ne_bytes([value; 8]);
            (0..bytes)
                .step_by(8)
                .for_each(|offset| self.store(Ra(at.0 + offset), value));
            return;
        }
        let mut chunks = self.chunks.borrow_mut();
        for chunk in at.0 / CHUNK..(at.0 + bytes) / CHUNK {
            if value == 0 {
                chunks.remove(&chunk);
            } else {
                chunks.insert(chunk, Box::new([u64::from_ne_bytes([value; 8]); 512]));
            }
        }
    }
}

/// One chip.
pub(crate) struct Model {
    memory: Rc<Memory>,
    registers: RefCell<HashMap<u64, u64>>,
    tables: RefCell<HashMap<(u8, u64), u64>>,
    eas: RefCell<HashMap<u32, Eas>>,
    /// Entries that differ from memory.
    ends: RefCell<HashMap<u32, End>>,
    nvps: RefCell<HashMap<u32, Nvp>>,
    pq: RefCell<HashMap<u32, u8>>,
    /// Virtual processors that run.
    pub(crate) running: RefCell<HashSet<u32>>,
    /// Virtual processors that were notified, with the priority.
    pub(crate) notified: RefCell<Vec<(u32, u32)>>,
    /// How many of the next commits of a watch meet a change of the chip.
    pub(crate) conflicts: Cell<u32>,
    /// A register that never becomes ready.
    pub(crate) stuck: Cell<Option<u64>>,
    /// What the chip says that it can.
    pub(crate) cap: Cell<u64>,
    /// Stores into threads' contexts.
    pub(crate) contexts: RefCell<BTreeMap<u64, u8>>,
    /// Pulls of threads' contexts.
    pub(crate) pulls: RefCell<Vec<u64>>,
    /// Syncs that were done.
    pub(crate) syncs: Cell<u32>,
}

/// What QEMU's chip says.
pub(crate) const CAP: u64 = 0x2000_1200_76f0_00fc;

impl Model {
    pub(crate) fn new(memory: Rc<Memory>) -> Rc<Self> {
        Rc::new(Self {
            memory,
            registers: RefCell::default(),
            tables: RefCell::default(),
            eas: RefCell::default(),
            ends: RefCell::default(),
            nvps: RefCell::default(),
            pq: RefCell::default(),
            running: RefCell::default(),
            notified: RefCell::default(),
            conflicts: Cell::new(0),
            stuck: Cell::new(None),
            cap: Cell::new(CAP),
            contexts: RefCell::default(),
            pulls: RefCell::default(),
            syncs: Cell::new(0),
        })
    }

    pub(crate) fn register(&self, reg: Reg<Ic>) -> u64 {
        self.registers
            .borrow()
            .get(&reg.offset())
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn table(&self, table: Table, which: u64) -> u64 {
        let tables = self.tables.borrow();
        tables.get(&(table as u8, which)).copied().unwrap_or(0)
    }

    fn block(&self) -> u64 {
        self.register(regs::CQ_CFG) >> regs::CFG_BLOCK_SHIFT & 0x7f
    }

    fn entry_at(&self, table: Table, index: u32) -> Option<u64> {
        let vsd = self.table(table, self.block());
        assert_eq!(vsd >> 62, 2, "an exclusive table");
        assert_ne!(vsd & 0x80, 0, "an indirect table");
        let page = self.memory.load(Ra(
            (vsd & 0x00ff_ffff_ffff_f000) + u64::from(index / 2048) * 8
        ));
        if page == 0 {
            return None;
        }
        assert_eq!(
            (page >> 62, page & 0xff),
            (2, 4),
            "an exclusive page of 64 KiB"
        );
        Some((page & 0x00ff_ffff_ffff_f000) + u64::from(index % 2048) * 32)
    }

    fn load_entry<K>(&self, table: Table, index: u32) -> Entry<K> {
        let at = self.entry_at(table, index).expect("the entry has a page");
        Entry::from_doublewords(core::array::from_fn(|n| {
            self.memory.load(Ra(at + n as u64 * 8))
        }))
    }

    fn store_entry<K>(&self, table: Table, index: u32, entry: Entry<K>) {
        let at = self.entry_at(table, index).expect("the entry has a page");
        for (n, doubleword) in (0..).zip(entry.doublewords()) {
            self.memory.store(Ra(at + n * 8), doubleword);
        }
    }

    pub(crate) fn end_entry(&self, index: u32) -> End {
        let cached = self.ends.borrow().get(&index).copied();
        cached.unwrap_or_else(|| self.load_entry(Table::End, index))
    }

    pub(crate) fn nvp_entry(&self, index: u32) -> Nvp {
        let cached = self.nvps.borrow().get(&index).copied();
        cached.unwrap_or_else(|| self.load_entry(Table::Nvp, index))
    }

    pub(crate) fn put_nvp(&self, index: u32, nvp: Nvp) {
        self.nvps.borrow_mut().insert(index, nvp);
    }

    pub(crate) fn pq(&self, index: u32) -> u8 {
        // As the table was filled.
        self.pq.borrow().get(&index).copied().unwrap_or(0b01)
    }

    pub(crate) fn set_pq(&self, index: u32, pq: u8) {
        self.pq.borrow_mut().insert(index, pq);
    }

    fn watch(&self, base: u64, offset: u64, value: Option<u64>) -> u64 {
        let (is_end, spec) = (
            base == PAGE,
            self.registers.borrow().get(&(base + 0x500)).copied(),
        );
        let spec = spec.unwrap_or(0);
        let index = low32(spec) & 0xff_ffff;
        assert_eq!(spec >> 32 & 0xf, self.block());
        let data = |n: u64| base + 0x520 + 8 * n;
        let Some(value) = value else {
            if offset == data(0) {
                let entry = if is_end {
                    self.end_entry(index).doublewords()
                } else {
                    self.nvp_entry(index).doublewords()
                };
                let mut registers = self.registers.borrow_mut();
                registers.extend(
                    (0..)
                        .zip(entry)
                        .map(|(n, doubleword)| (data(n), doubleword)),
                );
            }
            return self.registers.borrow().get(&offset).copied().unwrap_or(0);
        };
        self.registers.borrow_mut().insert(offset, value);
        if offset == data(0) {
            if let Some(left) = self.conflicts.get().checked_sub(1)
                && spec & regs::WATCH_FULL != 0
            {
                self.conflicts.set(left);
                let refused = spec | regs::WATCH_CONFLICT;
                self.registers.borrow_mut().insert(base + 0x500, refused);
                return 0;
            }
            let entry = core::array::from_fn(|n| {
                self.registers
                    .borrow()
                    .get(&data(n as u64))
                    .copied()
                    .unwrap_or(0)
            });
            if is_end {
                self.ends
                    .borrow_mut()
                    .insert(index, Entry::from_doublewords(entry));
            } else {
                self.nvps
                    .borrow_mut()
                    .insert(index, Entry::from_doublewords(entry));
            }
        }
        0
    }

    fn flush(&self, offset: u64, value: u64) {
        let index = low32(value >> 32);
        if offset == regs::VC_EASC_FLUSH_POLL.offset() {
            assert_eq!((value >> 60, low32(value)), (self.block(), u32::MAX));
            self.eas.borrow_mut().remove(&(index & 0x0fff_ffff));
            return;
        }
        assert_eq!((value >> 56, low32(value)), (self.block(), 0x0fff_ffff));
        let index = index & 0xff_ffff;
        if offset == regs::VC_ENDC_FLUSH_POLL.offset() {
            if let Some(entry) = self.ends.borrow_mut().remove(&index) {
                self.store_entry(Table::End, index, entry);
            }
        } else if let Some(entry) = self.nvps.borrow_mut().remove(&index) {
            self.store_entry(Table::Nvp, index, entry);
        }
    }

    /// The assignment that the chip uses: it keeps what it loaded.
    fn assignment(&self, index: u32) -> Eas {
        let base = self.table(Table::Eas, self.block()) & 0x00ff_ffff_ffff_f000;
        let mut cache = self.eas.borrow_mut();
        *cache
            .entry(index)
            .or_insert_with(|| Eas(self.memory.load(Ra(base + u64::from(index) * 8))))
    }
}

impl Windows for Rc<Model> {
    type Ic = Model;
    type Esb = Model;
    type End = Model;

    fn ic(&self) -> &Model {
        self
    }
    fn esb(&self) -> &Model {
        self
    }
    fn end(&self) -> &Model {
        self
    }
}

macro_rules! no_access {
    ($kind:ty: $($read:ident $write:ident $ty:ty),*) => { $(
        fn $read(&self, reg: Reg<$kind>) -> $ty {
            panic!("{} at {reg:?}", stringify!($read))
        }
        fn $write(&self, reg: Reg<$kind>, _: $ty) {
            panic!("{} at {reg:?}", stringify!($write))
        }
    )* };
}

impl Mmio<Ic> for Model {
    fn read64(&self, reg: Reg<Ic>) -> u64 {
        let offset = reg.offset();
        if self.stuck.get() == Some(offset) {
            return if offset == regs::VC_SYNC_DONE.offset() {
                0
            } else {
                1 << 63
            };
        }
        match offset {
            _ if offset == regs::CQ_CAP.offset() => self.cap.get(),
            _ if offset == regs::VC_SYNC_DONE.offset() => regs::SYNC_DONE_ALL,
            0x1_0520..0x1_0540 => self.watch(PAGE, offset, None),
            0x2_0520..0x2_0540 => self.watch(2 * PAGE, offset, None),
            0..0x4_0000 => self.register(reg),
            _ if offset >= 256 * PAGE => 0x0123_4567_89ab_cdef,
            _ => panic!("load at {offset:#x}"),
        }
    }

    fn write64(&self, reg: Reg<Ic>, value: u64) {
        let offset = reg.offset();
        let kind = offset & !(PAGE - 1);
        match offset {
            0x1_0008 | 0x2_0008 => {
                let address = self.registers.borrow()[&(kind)];
                let key = (low8(address >> 48), address >> 32 & 0xf);
                if kind == PAGE {
                    self.tables.borrow_mut().insert(key, value);
                } else {
                    assert_eq!(self.tables.borrow()[&key], value, "PC and VC agree");
                }
            }
            0x1_0308 | 0x1_0408 | 0x2_0408 => self.flush(offset, value),
            0x1_0520..0x1_0540 => {
                self.watch(PAGE, offset, Some(value));
            }
            0x2_0520..0x2_0540 => {
                self.watch(2 * PAGE, offset, Some(value));
            }
            0x1_0010 | 0x2_0010 => {
                assert_eq!(value >> 63, 1);
                let mut registers = self.registers.borrow_mut();
                registers.insert(offset, value & !(1 << 63));
            }
            0x3_0000..0x4_0000 if offset & 0x1f == 0x10 => {
                *self
                    .registers
                    .borrow_mut()
                    .entry(offset - 0x10)
                    .or_default() |= value;
            }
            0x3_0000..0x4_0000 if offset & 0x1f == 0x18 => {
                *self
                    .registers
                    .borrow_mut()
                    .entry(offset - 0x18)
                    .or_default() &= !value;
            }
            0..0x4_0000 => {
                self.registers.borrow_mut().insert(offset, value);
            }
            0x6_0000..0x6_0400 => self.syncs.set(self.syncs.get() + 1),
            _ => panic!("store at {offset:#x}"),
        }
    }

    fn write8(&self, reg: Reg<Ic>, value: u8) {
        assert!(reg.offset() >= 256 * PAGE, "store of a byte at {reg:?}");
        self.contexts.borrow_mut().insert(reg.offset(), value);
    }

    fn read8(&self, reg: Reg<Ic>) -> u8 {
        assert!(reg.offset() >= 256 * PAGE, "load of a byte at {reg:?}");
        let contexts = self.contexts.borrow();
        contexts.get(&reg.offset()).copied().unwrap_or(0)
    }

    fn read32(&self, reg: Reg<Ic>) -> u32 {
        let offset = reg.offset();
        assert!(offset >= 256 * PAGE, "load of a word at {reg:?}");
        if offset & 0x800 != 0 {
            let local = low32(offset / PAGE) - 256;
            let thread = super::HW_VP_BASE + local;
            assert!(self.nvp_entry(thread).has(&nvp::VALID));
            self.pulls.borrow_mut().push(offset);
        }
        // Every ring is valid.
        0x8000_0000
    }

    fn write32(&self, reg: Reg<Ic>, _: u32) {
        panic!("store of a word at {reg:?}")
    }
}

impl Mmio<Esb> for Model {
    no_access!(Esb: read8 write8 u8, read32 write32 u32);

    fn read64(&self, reg: Reg<Esb>) -> u64 {
        let offset = reg.offset();
        let index = low32(offset / (2 * PAGE));
        assert_eq!((offset / PAGE) & 1, 1, "a load from a trigger page");
        let old = self.pq(index);
        match offset % PAGE {
            esb::SET_OFF => self.set_pq(index, 0b01),
            other => panic!("operation {other:#x}"),
        }
        old.into()
    }

    /// What a trigger leads to is [`trigger`]'s: here it is noted in P and Q alone.
    fn write64(&self, reg: Reg<Esb>, value: u64) {
        let (page, offset) = (reg.offset() / PAGE, reg.offset() % PAGE);
        let index = low32(page / 2);
        match (page & 1, offset) {
            (0, 0) if self.pq(index) == 0b00 => self.set_pq(index, 0b10),
            (0, 0) => {}
            (1, esb::SET_OFF) => self.set_pq(index, low8(value) & 0b11),
            _ => panic!("store at {reg:?}"),
        }
    }
}

impl Mmio<EndEsb> for Model {
    no_access!(EndEsb: read8 write8 u8, read32 write32 u32, read64 write64 u64);
}

/// The SCOM registers of all chips: they keep what was written.
#[derive(Default)]
pub(crate) struct Scoms {
    pub(crate) writes: Vec<(u8, u32, u64)>,
    pub(crate) fails: Option<ScomError>,
}

impl Scom for Scoms {
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
        panic!("read of {address:?} on {chip:?}")
    }

    fn write(&mut self, chip: ChipIndex, address: ScomAddr, value: u64) -> Result<(), ScomError> {
        self.writes.push((chip.0, address.0, value));
        self.fails.map_or(Ok(()), Err)
    }
}

/// Triggers a source, as its device would.
pub(crate) fn trigger(chips: &[Rc<Model>], source: Index) {
    let chip = &chips[usize::from(source.block)];
    match chip.pq(source.index) {
        0b00 => chip.set_pq(source.index, 0b10),
        0b10 => return chip.set_pq(source.index, 0b11),
        _ => return,
    }
    let eas = chip.assignment(source.index);
    assert!(eas.is_valid(), "an event of a source that is not in use");
    if !eas.is_masked() {
        event(chips, eas);
    }
}

/// An event on its way to a descriptor.
fn event(chips: &[Rc<Model>], eas: Eas) {
    let at = eas.end();
    let chip = &chips[usize::from(at.block)];
    let mut entry = chip.end_entry(at.index);
    assert!(
        entry.has(&end::VALID),
        "an event for a descriptor that is not in use"
    );
    if let Some((queue, log2)) = entry.queue() {
        let (position, generation) = (entry.get(&end::OFFSET), entry.get(&end::GENERATION));
        let word = u64::from(generation) << 31 | u64::from(eas.data());
        let place = Ra(queue.0 + u64::from(position / 2) * 8);
        let shift = if position.is_multiple_of(2) { 32 } else { 0 };
        let others = chip.memory.load(place) & !(0xffff_ffff << shift);
        chip.memory.store(place, others | word << shift);
        let next = (position + 1) % (1 << (log2 - 2));
        let generation = if next == 0 {
            1 - generation
        } else {
            generation
        };
        entry = entry
            .with(&end::OFFSET, next)
            .with(&end::GENERATION, generation);
        chip.ends.borrow_mut().insert(at.index, entry);
    }
    let priority = entry.get(&end::PRIORITY);
    if !entry.has(&end::SILENT) {
        assert!(entry.has(&end::ALWAYS_NOTIFY), "coalescing is not modelled");
        let vp = entry.vp();
        let presenter = &chips[usize::from(vp.block)];
        if presenter.running.borrow().contains(&vp.index) {
            presenter.notified.borrow_mut().push((vp.index, priority));
            return;
        }
        let nvp = presenter.nvp_entry(vp.index);
        assert!(
            nvp.has(&nvp::VALID),
            "an event for a processor that is not in use"
        );
        let pending = nvp.get(&nvp::IPB) | 0x80 >> priority;
        presenter.put_nvp(vp.index, nvp.with(&nvp::IPB, pending));
    }
    let unconditional = entry.has(&end::UNCONDITIONAL);
    if unconditional || entry.has(&end::ESCALATE) {
        if !unconditional {
            match entry.get(&end::ESE) {
                0b00 => {
                    let pending = entry.with(&end::ESE, 0b10);
                    chip.ends.borrow_mut().insert(at.index, pending);
                }
                _ => return,
            }
        }
        event(chips, entry.escalation());
    }
}

//! Bringing the controllers up: addresses, configuration, tables, then the threads (reference/hardware.md 5.6).
//!
//! Owns the order. The surprising fact: an address register takes a new value only when its valid bit rises, so all are
//! reset first, and a reboot of the emulator, which keeps them, cannot leave old windows behind.

use isa::addr::Ra;

use super::controller::{Controller, Locked, State};
use super::memory::{TableMemory, VPS_LOG2};
use super::registers::{self as regs, PAGE, Windows, scom};
use super::tables::{End, Index, Nvp, Table, Vsd, low8, nvp};
use super::vp_blocks::VpBlocks;
use super::{
    Capabilities, END_BYTES, ESB_BYTES, HW_THREADS, HW_VP_BASE, MAX_CHIPS, NVPG_BYTES, Xive,
    XiveError, XiveMemory, tima,
};
use crate::chip::AddressMap;
use crate::lock::Mutex;
use crate::mmio::{Mmio, Reg};
use crate::scom::{ChipIndex, Scom, ScomAddr};

/// What a chip's controller is set up with.
#[derive(Debug)]
pub struct ChipSetup<W> {
    /// Which chip.
    pub chip: ChipIndex,
    /// Its windows.
    pub windows: W,
    /// Its memory.
    pub memory: XiveMemory,
    /// Whether its cores are fused.
    pub is_fused: bool,
}

/// Entries of the set translations.
const TRANSLATIONS: u8 = 16;

impl<W: Windows, T: TableMemory> Xive<W, T> {
    /// Sets the controllers of all chips up; the first is block 0. Threads come later, one by one
    /// ([`add_thread`](Self::add_thread)).
    ///
    /// # Errors
    /// Of the first chip that fails: without its interrupts a chip is of no use.
    pub fn start(
        scom: &mut impl Scom,
        map: &AddressMap,
        chips: impl IntoIterator<Item = ChipSetup<W>>,
        tables: T,
    ) -> Result<Self, XiveError> {
        let mut chips = chips.into_iter().peekable();
        let first = chips.peek().ok_or(XiveError::NoBlock)?;
        let (vp_blocks, _) = first.memory.vp_blocks();
        let vps = VpBlocks::new(&tables, vp_blocks);
        Self::reserve_threads(&vps, &tables);
        // One object from here on: it is large.
        let mut xive = Self {
            chips: [const { None }; MAX_CHIPS],
            blocks: 0,
            tables,
            vps: Mutex::new(vps),
        };
        for setup in chips {
            let slot = xive.chips.get_mut(usize::from(xive.blocks));
            let slot = slot.ok_or(XiveError::NoBlock)?;
            *slot = Some(start_chip(scom, map, xive.blocks, setup, &xive.tables)?);
            xive.blocks += 1;
        }
        xive.connect();
        Ok(xive)
    }

    /// Keeps the virtual processors of hardware threads out of the blocks that are given out.
    pub(super) fn reserve_threads(vps: &VpBlocks, tables: &T) {
        let order = low8(HW_THREADS.ilog2().into());
        let reserved = vps.reserve(tables, HW_VP_BASE, order);
        debug_assert!(reserved, "nothing was allocated yet");
    }

    /// Tells each controller where the others' are.
    fn connect(&self) {
        for chip in self.controllers() {
            let locked = chip.lock(&self.tables);
            for other in self.controllers().filter(|other| other.block != chip.block) {
                let window = |base, bytes| Vsd::forward(other.at(base), bytes);
                let map = &other.map;
                locked.set_table(Table::Esb, other.block, window(map.xive_esb, ESB_BYTES));
                locked.set_table(Table::End, other.block, window(map.xive_end, END_BYTES));
                locked.set_table(Table::Nvp, other.block, window(map.xive_nvpg, NVPG_BYTES));
                locked.set_table(Table::Ic, other.chip.0, window(map.xive_ic, regs::IC_BYTES));
                let (sync, bytes) = other.memory.sync();
                locked.set_table(Table::Sync, other.chip.0, Vsd::forward(sync, bytes));
            }
        }
    }

    /// Makes a core answer for the thread management area, whose address is the same on all chips. Small cores, so twice
    /// for a fused one.
    ///
    /// # Errors
    /// [`XiveError::Scom`].
    pub fn add_core(
        &self,
        scom: &mut impl Scom,
        chip: ChipIndex,
        core: u8,
    ) -> Result<(), XiveError> {
        let block = self.block_of(chip).ok_or(XiveError::NoBlock)?;
        let base = self.controller(block)?.map.xive_tm.0;
        let address = scom::ncu_spec_bar(core & 0x1f);
        Ok(scom.write(chip, address, base | regs::SPEC_BAR_VALID_256K)?)
    }

    /// Gives a hardware thread its virtual processor and its event descriptors.
    ///
    /// # Errors
    /// [`XiveError::NoVp`] when the PIR names no thread of a chip with a controller.
    pub fn add_thread(&self, pir: u32) -> Result<Index, XiveError> {
        let (block, local) = self.thread(pir)?;
        let chip = self.controller(block)?;
        let locked = chip.lock(&self.tables);
        let ends = chip.thread_ends(local);
        locked.turn_ends_off(ends)?;
        let index = HW_VP_BASE + u32::from(local);
        locked.update_nvp(index, |_| {
            Nvp::default().with(&nvp::VALID, 1).with_ends(ends)
        })?;
        Ok(Index { block, index })
    }

    /// Enables the context of a hardware thread in the chip. Each thread does it for itself, then pushes its context
    /// ([`tima::Tima::push_physical`]).
    ///
    /// # Errors
    /// [`XiveError::NotEnabled`] when the chip does not.
    pub fn enable_thread(&self, pir: u32) -> Result<(), XiveError> {
        let (block, _) = self.thread(pir)?;
        self.controller(block)?
            .lock(&self.tables)
            .enable_context(pir)
    }
}

/// Moves an address register's window: off, then on at the new place.
fn set_bar(
    scom: &mut impl Scom,
    chip: ChipIndex,
    register: ScomAddr,
    value: u64,
) -> Result<(), XiveError> {
    scom.write(chip, register, 0)?;
    Ok(scom.write(chip, register, value | regs::BAR_VALID_64K)?)
}

/// The range field of a window of `bytes`.
fn range(bytes: u64) -> u64 {
    u64::from(bytes.ilog2() - 24)
}

fn start_chip<W: Windows, T: TableMemory>(
    scom: &mut impl Scom,
    map: &AddressMap,
    block: u8,
    setup: ChipSetup<W>,
    tables: &T,
) -> Result<Controller<W>, XiveError> {
    let chip = setup.chip;
    let at = |base: Ra| map.of_chip(base, chip).0;
    scom.write(chip, scom::RST_CTL, regs::RST_PB_BAR)?;
    set_bar(scom, chip, scom::IC_BAR, at(map.xive_ic))?;
    set_bar(scom, chip, scom::TM_BAR, map.xive_tm.0)?;

    let capabilities = configure(setup.windows.ic(), block, setup.is_fused)?;
    let controller = Controller {
        windows: setup.windows,
        chip,
        block,
        memory: setup.memory,
        map: *map,
        capabilities,
        state: Mutex::new(State::new()),
    };
    let locked = controller.lock(tables);
    locked.set_translations();
    locked.clear_memory();
    let bars = [
        (scom::NVPG_BAR, map.xive_nvpg, NVPG_BYTES),
        (scom::ESB_BAR, map.xive_esb, ESB_BYTES),
        (scom::END_BAR, map.xive_end, END_BYTES),
    ];
    for (register, base, bytes) in bars {
        set_bar(scom, chip, register, at(base) | range(bytes))?;
    }
    locked.set_tables();
    drop(locked);
    Ok(controller)
}

/// Sets the mode of operation; answers what the controller can do.
fn configure(
    ic: &impl Mmio<regs::Ic>,
    block: u8,
    is_fused: bool,
) -> Result<Capabilities, XiveError> {
    let cap = ic.read64(regs::CQ_CAP);
    let generation = low8(cap >> regs::CAP_GENERATION_SHIFT);
    if generation != 2 {
        return Err(XiveError::Generation(generation));
    }
    let capabilities = Capabilities {
        save_restore: cap & regs::CAP_SAVE_RESTORE != 0,
        store_eoi: cap & regs::CAP_STORE_EOI != 0,
        phb_pq_disable: cap & regs::CAP_PHB_PQ_DISABLE != 0,
        phb_abt: cap & regs::CAP_PHB_ABT != 0,
    };
    // Thread ids of 7 bits: the field stays 0.
    let mut wanted = regs::CFG_8_PRIORITIES
        | regs::CFG_BLOCK_OVERRIDE
        | u64::from(block) << regs::CFG_BLOCK_SHIFT;
    if capabilities.save_restore {
        wanted |= regs::CFG_SAVE_RESTORE;
    }
    ic.write64(regs::CQ_CFG, wanted);
    let found = ic.read64(regs::CQ_CFG);
    if found != wanted {
        return Err(XiveError::Config { wanted, found });
    }
    ic.write64(regs::CQ_FIRMASK_OR, regs::FIR_VC_INFO);
    ic.write64(regs::CQ_FIRMASK_OR, regs::FIR_BAD_ACCESS);
    let tctxt = ic.read64(regs::TCTXT_CFG) & !regs::TCTXT_FUSED;
    let fused = if is_fused { regs::TCTXT_FUSED } else { 0 };
    ic.write64(regs::TCTXT_CFG, tctxt | fused);
    // A third of the cache for PCI when the host bridges leave their P and Q to it.
    let esbc = ic.read64(regs::VC_ESBC_CFG);
    let esbc = if capabilities.phb_pq_disable {
        esbc & !regs::ESBC_MAX_MODIFIED | regs::ESBC_SPLIT | regs::ESBC_HASH | 0xe
    } else {
        esbc & !regs::ESBC_SPLIT
    };
    ic.write64(regs::VC_ESBC_CFG, esbc);
    Ok(capabilities)
}

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    /// All sets of all windows belong to this block.
    fn set_translations(&self) {
        let ic = self.chip.windows.ic();
        for table in [0_u64, 2, 3] {
            ic.write64(
                regs::CQ_TAR,
                regs::TAR_AUTOINC | table << regs::TAR_TABLE_SHIFT,
            );
            for _ in 0..TRANSLATIONS {
                ic.write64(regs::CQ_TDR, regs::TDR_VALID | u64::from(self.chip.block));
            }
        }
    }

    /// Brings the region to its first state: all sources off and without assignment, the first pages in place.
    fn clear_memory(&self) {
        let memory = self.chip.memory;
        let fill = |(at, bytes): (Ra, u64), value| self.tables.fill(at, bytes, value);
        fill(memory.overflow(), 0);
        fill(memory.esb(), 0x55);
        fill(memory.sync(), 0);
        fill(memory.end_pages(), 0);
        fill(memory.nvp_pages(), 0);
        fill(memory.nvp_first(), 0);
        fill(memory.end_sets(), 0);
        fill(memory.eas(), 0);
        self.clear_end_page(memory.end_first().0);
        let first = |pages: (Ra, u64), page: (Ra, u64)| {
            let vsd = Vsd::memory(page.0, page.1).firmware();
            self.tables.store(pages.0, vsd.0);
        };
        first(memory.end_pages(), memory.end_first());
        first(memory.nvp_pages(), memory.nvp_first());
        isa::barrier::sync();
    }

    /// Tells the controller where its own tables are.
    fn set_tables(&self) {
        let (chip, memory) = (self.chip, self.chip.memory);
        let direct = |(at, bytes): (Ra, u64)| Vsd::memory(at, bytes);
        let indirect = |(at, bytes): (Ra, u64)| Vsd::indirect(at, bytes);
        self.set_table(Table::Esb, chip.block, direct(memory.esb()));
        self.set_table(Table::Eas, chip.block, direct(memory.eas()));
        self.set_table(Table::End, chip.block, indirect(memory.end_pages()));
        self.set_table(Table::Nvp, chip.block, indirect(memory.nvp_pages()));
        let window = Vsd::memory(chip.at(chip.map.xive_ic), regs::IC_BYTES);
        self.set_table(Table::Ic, chip.chip.0, window);
        self.set_table(Table::Sync, chip.chip.0, direct(memory.sync()));
        for queue in 0..regs::QUEUES {
            let page = Ra(memory.overflow().0.0 + queue * PAGE);
            self.set_table(Table::Erq, low8(queue), Vsd::memory(page, PAGE));
            let register = regs::vc_queue_config(queue);
            let config = chip.windows.ic().read64(register) & !regs::QUEUE_MEMORY_SIZE;
            chip.windows
                .ic()
                .write64(register, config | regs::QUEUE_MEMORY_64K);
        }
    }

    /// Resets and enables a thread's context.
    pub(super) fn enable_context(&self, pir: u32) -> Result<(), XiveError> {
        let ic = self.chip.windows.ic();
        let (register, bit) = regs::thread_enable(pir);
        let at = |offset| Reg::new(register.offset() + offset);
        ic.write64(at(regs::EN_RESET), bit);
        ic.write64(at(regs::EN_SET), bit);
        if ic.read64(register) & bit == 0 {
            return Err(XiveError::NotEnabled);
        }
        Ok(())
    }

    /// The threads of this chip that enabled their contexts, with the event descriptors of each.
    fn enabled_threads(&self) -> impl Iterator<Item = (u8, Index)> {
        let threads = (0..HW_THREADS).map(|local| low8(local.into()));
        threads.filter_map(|local| {
            let (_, ends) = self.allocated_nvp(HW_VP_BASE + u32::from(local)).ok()?;
            let (register, bit) = regs::thread_enable(self.pir(local));
            (self.chip.windows.ic().read64(register) & bit != 0).then_some((local, ends))
        })
    }

    fn pir(&self, local: u8) -> u32 {
        u32::from(self.chip.chip.0) << 8 | u32::from(local)
    }

    /// Takes the guests' and the pool's contexts off the threads of this chip. While their virtual processors are still
    /// there: the chip saves the state.
    pub(super) fn pull_contexts(&self) {
        let ic = self.chip.windows.ic();
        for (local, _) in self.enabled_threads() {
            for ring in [tima::OS, tima::POOL] {
                let word = ic.read32(regs::thread_context(local, ring + tima::WORD2));
                if word & tima::WORD2_VALID != 0 {
                    let _ = ic.read32(regs::thread_context(local, ring + tima::PULL));
                }
            }
        }
    }

    /// Brings the contexts of the threads of this chip to their first state: nothing but the physical one.
    pub(super) fn reset_contexts(&self) -> Result<(), XiveError> {
        let ic = self.chip.windows.ic();
        let mut outcome = Ok(());
        for (local, ends) in self.enabled_threads() {
            let done = self.enable_context(self.pir(local)).and_then(|()| {
                // The emulator's context outlives the reset, and does not take another push.
                let context = regs::thread_context(local, tima::PHYSICAL_VALID);
                if ic.read8(context) & tima::VALID == 0 {
                    ic.write8(context, tima::VALID);
                }
                self.update_nvp(HW_VP_BASE + u32::from(local), |_| {
                    Nvp::default().with(&nvp::VALID, 1).with_ends(ends)
                })
            });
            outcome = outcome.and(done);
        }
        outcome
    }
}

const _: () = assert!(HW_VP_BASE + HW_THREADS <= 1 << VPS_LOG2);
// Event descriptors of the threads are on the first page.
const _: () = assert!((1 + HW_THREADS) * 8 <= super::memory::PER_PAGE);

/// Entries of 32 bytes, as the tables' pages count them.
const _: () = assert!(size_of::<End>() == 32);

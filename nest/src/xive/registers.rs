//! The register windows of one chip's XIVE2 and what is in them (reference/hardware.md 5.2, 5.3, 5.5).
//!
//! Owns the offsets and the [`Windows`] trait through which the driver reaches them. All of it is big-endian and 8 bytes
//! wide but for the thread contexts. The surprising fact: comments elsewhere swap the VC and PC pages; VC is page 1.

use isa::addr::Ra;
use isa::ppc_bit;

use crate::chip::AddressMap;
use crate::mmio::{CiMmio, Mmio, Mmio16, Reg};
use crate::scom::{ChipIndex, ScomAddr};

/// Pages of all windows are 64 KiB.
pub const PAGE_SHIFT: u32 = 16;
pub(crate) const PAGE: u64 = 1 << PAGE_SHIFT;

/// The interrupt controller's own window: registers, notify port, sync, thread contexts of the chip.
#[derive(Debug)]
pub enum Ic {}
/// Event state buffers of interrupt sources: two pages each, trigger then management.
#[derive(Debug)]
pub enum Esb {}
/// Event state buffers of event notification descriptors: two pages each, notification then escalation.
#[derive(Debug)]
pub enum EndEsb {}
/// The thread management area: four pages, each with the registers of the thread that accesses it.
#[derive(Debug)]
pub enum Tima {}

/// Bytes of the IC window: 512 pages.
pub const IC_BYTES: u64 = 512 * PAGE;
/// Bytes of the thread management area.
pub const TIMA_BYTES: u64 = 4 * PAGE;

/// The windows of one chip.
pub trait Windows {
    /// Bus to the IC window.
    type Ic: Mmio<Ic>;
    /// Bus to the sources' pages.
    type Esb: Mmio<Esb>;
    /// Bus to the descriptors' pages.
    type End: Mmio<EndEsb>;

    /// The IC window.
    fn ic(&self) -> &Self::Ic;
    /// The sources' pages.
    fn esb(&self) -> &Self::Esb;
    /// The descriptors' pages.
    fn end(&self) -> &Self::End;
}

/// The windows of the machine, by cache-inhibited accesses.
#[derive(Debug)]
pub struct CiWindows {
    ic: CiMmio<Ic>,
    esb: CiMmio<Esb>,
    end: CiMmio<EndEsb>,
}

impl CiWindows {
    /// The windows of chip `index` where `map` has them.
    ///
    /// # Safety
    /// As [`CiMmio::new`]: the map must be this machine's, and nobody else may use these windows.
    #[must_use]
    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    pub unsafe fn new(map: &AddressMap, index: ChipIndex) -> Self {
        let at = |base| map.of_chip(base, index);
        Self {
            // SAFETY: the caller vouches for the map.
            ic: unsafe { CiMmio::new(at(map.xive_ic), IC_BYTES) },
            // SAFETY: the caller vouches for the map.
            esb: unsafe { CiMmio::new(at(map.xive_esb), super::ESB_BYTES) },
            // SAFETY: the caller vouches for the map.
            end: unsafe { CiMmio::new(at(map.xive_end), super::END_BYTES) },
        }
    }
}

impl Windows for CiWindows {
    type Ic = CiMmio<Ic>;
    type Esb = CiMmio<Esb>;
    type End = CiMmio<EndEsb>;

    fn ic(&self) -> &CiMmio<Ic> {
        &self.ic
    }
    fn esb(&self) -> &CiMmio<Esb> {
        &self.esb
    }
    fn end(&self) -> &CiMmio<EndEsb> {
        &self.end
    }
}

/// The thread management area of the calling thread.
///
/// # Safety
/// As [`CiMmio::new`], once the driver has set the area's BARs.
#[must_use]
#[expect(unsafe_code, reason = "hands the caller's promise on")]
pub unsafe fn tima(map: &AddressMap) -> CiMmio<Tima> {
    // SAFETY: the caller vouches for the map.
    unsafe { CiMmio::new(map.xive_tm, TIMA_BYTES) }
}

const fn cq(offset: u64) -> Reg<Ic> {
    Reg::new(offset)
}

const fn vc(offset: u64) -> Reg<Ic> {
    Reg::new(PAGE + offset)
}

const fn pc(offset: u64) -> Reg<Ic> {
    Reg::new(2 * PAGE + offset)
}

const fn tctxt(offset: u64) -> Reg<Ic> {
    Reg::new(3 * PAGE + offset)
}

/// Registers that are set before the IC window exists.
pub(crate) mod scom {
    use super::ScomAddr;

    const BASE: ScomAddr = ScomAddr(0x0201_0800);
    pub(crate) const IC_BAR: ScomAddr = BASE.plus(0x08);
    pub(crate) const TM_BAR: ScomAddr = BASE.plus(0x09);
    pub(crate) const ESB_BAR: ScomAddr = BASE.plus(0x0a);
    pub(crate) const END_BAR: ScomAddr = BASE.plus(0x0b);
    pub(crate) const NVPG_BAR: ScomAddr = BASE.plus(0x0c);
    pub(crate) const RST_CTL: ScomAddr = BASE.plus(0x12);

    /// The address a core answers for as thread management area, in its cache's non-cacheable unit.
    pub(crate) fn ncu_spec_bar(core: u8) -> ScomAddr {
        let core = u32::from(core);
        ScomAddr((0x20 + (core >> 2)) << 24 | 0x1_0000 | 1 << (15 - (core & 3)) | 0x650)
    }
}

/// In [`scom::RST_CTL`]: all BARs to zero.
pub(crate) const RST_PB_BAR: u64 = ppc_bit(4);
/// A BAR is in force, and its pages are 64 KiB.
pub(crate) const BAR_VALID_64K: u64 = ppc_bit(0) | ppc_bit(1);
/// In the cores' BAR: in force, 256 KiB.
pub(crate) const SPEC_BAR_VALID_256K: u64 = ppc_bit(0) | ppc_bit(1);

pub(crate) const CQ_CAP: Reg<Ic> = cq(0x10);
pub(crate) const CAP_GENERATION_SHIFT: u32 = 60;
pub(crate) const CAP_SAVE_RESTORE: u64 = ppc_bit(38);
pub(crate) const CAP_PHB_PQ_DISABLE: u64 = ppc_bit(56);
pub(crate) const CAP_PHB_ABT: u64 = ppc_bit(57);
pub(crate) const CAP_STORE_EOI: u64 = ppc_bit(59);

pub(crate) const CQ_CFG: Reg<Ic> = cq(0x18);
/// Eight priorities per virtual processor.
pub(crate) const CFG_8_PRIORITIES: u64 = 3 << (63 - 11);
/// The block id below replaces the chip's topology index.
pub(crate) const CFG_BLOCK_OVERRIDE: u64 = ppc_bit(16);
pub(crate) const CFG_BLOCK_SHIFT: u32 = 63 - 23;
pub(crate) const CFG_SAVE_RESTORE: u64 = ppc_bit(38);

pub(crate) const CQ_TAR: Reg<Ic> = cq(0x80);
pub(crate) const CQ_TDR: Reg<Ic> = cq(0x88);
pub(crate) const TAR_AUTOINC: u64 = ppc_bit(0);
pub(crate) const TAR_TABLE_SHIFT: u32 = 63 - 15;
pub(crate) const TDR_VALID: u64 = ppc_bit(0);

/// Sets bits of the mask of the fault isolation register.
pub(crate) const CQ_FIRMASK_OR: Reg<Ic> = cq(0x1a8);
/// A load or store to nowhere: guests can do that on a trigger page, so it must not stop the chip.
pub(crate) const FIR_BAD_ACCESS: u64 = ppc_bit(19);
/// "Info" errors of the VC.
pub(crate) const FIR_VC_INFO: u64 = 7;

pub(crate) const VC_VSD_ADDRESS: Reg<Ic> = vc(0x00);
pub(crate) const VC_VSD_DATA: Reg<Ic> = vc(0x08);
pub(crate) const PC_VSD_ADDRESS: Reg<Ic> = pc(0x00);
pub(crate) const PC_VSD_DATA: Reg<Ic> = pc(0x08);
pub(crate) const VSD_TABLE_SHIFT: u32 = 63 - 15;
pub(crate) const VSD_BLOCK_SHIFT: u32 = 63 - 31;

pub(crate) const VC_KILL: Reg<Ic> = vc(0x10);
pub(crate) const VC_KILL_MASK: Reg<Ic> = vc(0x18);
pub(crate) const VC_KILL_TABLE_SHIFT: u32 = 63 - 15;
pub(crate) const PC_KILL: Reg<Ic> = pc(0x10);
pub(crate) const PC_KILL_MASK: Reg<Ic> = pc(0x18);
/// Not where the VC has it.
pub(crate) const PC_KILL_TABLE_SHIFT: u32 = 63 - 27;
/// The operation is under way.
pub(crate) const KILL_VALID: u64 = ppc_bit(0);

/// Number of the VC's queues that can overflow into memory.
pub(crate) const QUEUES: u64 = 7;

/// Configuration of queue `n`.
pub(crate) const fn vc_queue_config(n: u64) -> Reg<Ic> {
    vc(0xb8 + 8 * n)
}
/// Overflow into memory, of 64 KiB.
pub(crate) const QUEUE_MEMORY_64K: u64 = ppc_bit(38) | 4 << (63 - 47);
pub(crate) const QUEUE_MEMORY_SIZE: u64 = 0x3f << (63 - 47);

pub(crate) const VC_ESBC_CFG: Reg<Ic> = vc(0x240);
pub(crate) const ESBC_HASH: u64 = ppc_bit(40);
pub(crate) const ESBC_SPLIT: u64 = ppc_bit(56);
pub(crate) const ESBC_MAX_MODIFIED: u64 = 0x1f;

pub(crate) const VC_EASC_FLUSH_CTRL: Reg<Ic> = vc(0x300);
pub(crate) const VC_EASC_FLUSH_POLL: Reg<Ic> = vc(0x308);
pub(crate) const VC_ENDC_FLUSH_CTRL: Reg<Ic> = vc(0x400);
pub(crate) const VC_ENDC_FLUSH_POLL: Reg<Ic> = vc(0x408);
pub(crate) const PC_NXC_FLUSH_CTRL: Reg<Ic> = pc(0x400);
pub(crate) const PC_NXC_FLUSH_POLL: Reg<Ic> = pc(0x408);
/// The flush is under way.
pub(crate) const FLUSH_VALID: u64 = ppc_bit(0);

pub(crate) const VC_SYNC_DONE: Reg<Ic> = vc(0x420);
pub(crate) const SYNC_DONE_ALL: u64 = 0x7f << 57;

pub(crate) const VC_ENDC_WATCH_SPEC: Reg<Ic> = vc(0x500);
pub(crate) const VC_ENDC_WATCH_DATA: u64 = PAGE + 0x520;
pub(crate) const PC_NXC_WATCH_SPEC: Reg<Ic> = pc(0x500);
pub(crate) const PC_NXC_WATCH_DATA: u64 = 2 * PAGE + 0x520;
pub(crate) const WATCH_CONFLICT: u64 = ppc_bit(0);
pub(crate) const WATCH_FULL: u64 = ppc_bit(8);
pub(crate) const WATCH_BLOCK_SHIFT: u32 = 63 - 31;

pub(crate) const TCTXT_EN0: Reg<Ic> = tctxt(0x00);
pub(crate) const TCTXT_EN1: Reg<Ic> = tctxt(0x20);
/// From the enable register: writes set bits.
pub(crate) const EN_SET: u64 = 0x10;
/// From the enable register: writes clear bits.
pub(crate) const EN_RESET: u64 = 0x18;
pub(crate) const TCTXT_CFG: Reg<Ic> = tctxt(0x140);
pub(crate) const TCTXT_FUSED: u64 = ppc_bit(0);

/// The notify port of the PSI host bridge, in the IC window.
pub const NOTIFY_PSI: u64 = 4 * PAGE + 0x930;

/// The notify port of PCI host bridge `n` of a chip, in the IC window. They differ so that they spread over cache lines.
#[must_use]
pub const fn notify_phb(n: u8) -> u64 {
    let within = if n == 0 { 0x800 } else { 0x900 + 8 * n as u64 };
    4 * PAGE + within
}

/// Port `n` of the sync page; a store of anything starts that sync.
pub(crate) const fn sync_port(n: u64) -> Reg<Ic> {
    Reg::new(6 * PAGE + 0x80 * n)
}

/// Register `offset` of the context of the chip's thread `local`, as privileged as the hardware page.
pub(crate) const fn thread_context(local: u8, offset: u64) -> Reg<Ic> {
    Reg::new((256 + local as u64) * PAGE + offset)
}

/// Which registers enable a thread, and its bit there.
pub(crate) const fn thread_enable(pir: u32) -> (Reg<Ic>, u64) {
    let register = if pir >> 3 & 0xf < 8 {
        TCTXT_EN0
    } else {
        TCTXT_EN1
    };
    (register, ppc_bit(pir & 0x3f))
}

/// Operations on an event state buffer's management page.
pub(crate) mod esb {
    /// Load: P and Q, and then off.
    pub(crate) const SET_OFF: u64 = 0xd00;
}

/// Where the thread management area is on every chip.
#[must_use]
pub fn tima_base(map: &AddressMap) -> Ra {
    map.xive_tm
}

/// Convenience bound: a window that can also be loaded from by halfwords.
pub trait TimaBus: Mmio<Tima> + Mmio16<Tima> {}
impl<M: Mmio<Tima> + Mmio16<Tima>> TimaBus for M {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_second_half_have_their_own_register() {
        assert_eq!(thread_enable(0).0.offset(), TCTXT_EN0.offset());
        assert_eq!(thread_enable(0).1, 1 << 63);
        assert_eq!(thread_enable(0x17c).0.offset(), TCTXT_EN1.offset());
        assert_eq!(thread_enable(0x17c).1, 1 << (63 - 0x3c));
        assert_eq!(thread_enable(0x3f).0.offset(), TCTXT_EN0.offset());
        assert_eq!(thread_enable(0x40).0.offset(), TCTXT_EN1.offset());
    }

    #[test]
    fn every_core_has_a_bar() {
        assert_eq!(scom::ncu_spec_bar(0), ScomAddr(0x2001_8650));
        assert_eq!(scom::ncu_spec_bar(3), ScomAddr(0x2001_1650));
        assert_eq!(scom::ncu_spec_bar(31), ScomAddr(0x2701_1650));
    }

    #[test]
    fn notify_ports_differ() {
        let ports = (0..6).map(notify_phb).chain([NOTIFY_PSI]);
        let ports: std::collections::BTreeSet<_> = ports.collect();
        assert_eq!(ports.len(), 7);
        assert!(ports.contains(&0x4_0908) && ports.contains(&0x4_0800));
    }
}

//! The PSI host bridge's interrupts: on these chips it collects those of the chip's small units and of LPC
//! (reference/hardware.md 4).
//!
//! Owns the bridge's registers and its sources' pages. All sources are levels. The surprising fact: they come out of a
//! reset unmasked in the emulator, so each is turned off before the bridge learns where to send events.

use isa::addr::Ra;
use isa::ppc_bit;

use crate::chip::AddressMap;
use crate::mmio::{CiMmio, Mmio, Reg};
use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

/// The bridge's registers.
#[derive(Debug)]
pub enum Psihb {}
/// Its sources' pages.
#[derive(Debug)]
pub enum PsihbEsb {}

/// Bytes of the register window.
pub const WINDOW: u64 = 1 << 20;
/// Bytes of the sources' pages.
pub const ESB_WINDOW: u64 = PAGE * PsiSource::ALL.len() as u64;
const PAGE: u64 = 1 << 16;

/// Sources to reserve in the interrupt controller: 14 are used, and their number's low 4 bits say which.
pub const SOURCES: u32 = 16;

const CR: Reg<Psihb> = Reg::new(0x20);
/// Stores end interrupts.
const CR_STORE_EOI: u64 = ppc_bit(12);
const INTERRUPT_CONTROL: Reg<Psihb> = Reg::new(0x58);
const CONTROL_RESET: u64 = ppc_bit(1);
const ESB_CI_BASE: Reg<Psihb> = Reg::new(0x60);
const ESB_NOTIFY: Reg<Psihb> = Reg::new(0x68);
const IVT_OFFSET: Reg<Psihb> = Reg::new(0x70);
const LEVELS: Reg<Psihb> = Reg::new(0x78);
const VALID: u64 = 1;
const PAGES_64K: u64 = ppc_bit(1);

/// Address register, by SCOM.
const BAR: ScomAddr = ScomAddr(0x0301_1d0a);

/// In a source's page. Loads answer the two bits of state as they were, and set them.
const SET_READY: u64 = 0xc00;
const SET_OFF: u64 = 0xd00;
const END_OF_INTERRUPT: u64 = 0;

/// What has a source here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PsiSource {
    /// The link to a service processor.
    Link = 0,
    /// On-chip controller.
    Occ = 1,
    /// FSI.
    Fsi = 2,
    /// LPC host controller: errors.
    Lpc = 3,
    /// Local error.
    LocalError = 4,
    /// Global error.
    GlobalError = 5,
    /// External pin: TPM.
    External = 6,
    /// LPC serial interrupts of line 0.
    Serial0 = 7,
    /// Of line 1.
    Serial1 = 8,
    /// Of line 2.
    Serial2 = 9,
    /// Of line 3.
    Serial3 = 10,
    /// All I2C masters.
    I2c = 11,
    /// DIO.
    Dio = 12,
    /// Self-boot engine.
    Sbe = 13,
}

impl PsiSource {
    /// All of them, by number.
    pub const ALL: [Self; 14] = [
        Self::Link,
        Self::Occ,
        Self::Fsi,
        Self::Lpc,
        Self::LocalError,
        Self::GlobalError,
        Self::External,
        Self::Serial0,
        Self::Serial1,
        Self::Serial2,
        Self::Serial3,
        Self::I2c,
        Self::Dio,
        Self::Sbe,
    ];

    /// The source of LPC's line `line & 3`.
    #[must_use]
    pub const fn serial(line: u8) -> Self {
        match line & 3 {
            0 => Self::Serial0,
            1 => Self::Serial1,
            2 => Self::Serial2,
            _ => Self::Serial3,
        }
    }

    /// The source with that number, of which the low 4 bits count.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.get((number & (SOURCES - 1)) as usize).copied()
    }
}

/// Where the bridge sends its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    /// Port of the interrupt controller.
    pub port: Ra,
    /// Name of the first source there.
    pub base: u32,
    /// Stores end interrupts.
    pub store_eoi: bool,
}

/// The bridge of one chip.
#[derive(Debug)]
pub struct Psi<M, E> {
    registers: M,
    pages: E,
    pages_at: Ra,
}

impl Psi<CiMmio<Psihb>, CiMmio<PsihbEsb>> {
    /// The bridge of chip `index` where `map` has it. Touches nothing.
    ///
    /// # Safety
    /// As [`CiMmio::new`]: the map must be this machine's, and nobody else may use these windows.
    #[must_use]
    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    pub unsafe fn at(map: &AddressMap, index: ChipIndex) -> Self {
        let pages_at = map.of_chip(map.psihb_esb, index);
        // SAFETY: the caller vouches for the map.
        let registers = unsafe { CiMmio::new(map.of_chip(map.psihb, index), WINDOW) };
        // SAFETY: the caller vouches for the map.
        let pages = unsafe { CiMmio::new(pages_at, ESB_WINDOW) };
        Self::new(registers, pages, pages_at)
    }
}

/// Makes a chip answer at its bridge's registers.
///
/// # Errors
/// Of the SCOM access.
pub fn enable_window(
    scom: &mut impl Scom,
    map: &AddressMap,
    chip: ChipIndex,
) -> Result<(), ScomError> {
    scom.write(chip, BAR, map.of_chip(map.psihb, chip).0 | VALID)
}

impl<M: Mmio<Psihb>, E: Mmio<PsihbEsb>> Psi<M, E> {
    /// The bridge with these windows, the second of which is at `pages_at`.
    pub const fn new(registers: M, pages: E, pages_at: Ra) -> Self {
        Self {
            registers,
            pages,
            pages_at,
        }
    }

    /// Where the sources' pages are.
    #[must_use]
    pub const fn pages_at(&self) -> Ra {
        self.pages_at
    }

    /// Connects the bridge to the interrupt controller, all sources off.
    pub fn start(&self, notify: Notify) {
        let base = self.pages_at.0 | PAGES_64K | VALID;
        self.registers.write64(ESB_CI_BASE, base);
        let _ = self.registers.read64(ESB_CI_BASE);
        let cr = self.registers.read64(CR);
        let store_eoi = if notify.store_eoi { CR_STORE_EOI } else { 0 };
        self.registers.write64(CR, cr & !CR_STORE_EOI | store_eoi);
        self.mask_all();
        self.registers
            .write64(IVT_OFFSET, u64::from(notify.base) << 32);
        self.registers.write64(ESB_NOTIFY, notify.port.0 | VALID);
        self.registers.write64(INTERRUPT_CONTROL, CONTROL_RESET);
        // Method 0: by the pages and the notify port.
        self.registers.write64(INTERRUPT_CONTROL, 0);
    }

    fn load(&self, source: u8, operation: u64) -> u64 {
        let page = u64::from(source) * PAGE;
        self.pages.read64(Reg::new(page + operation))
    }

    /// Turns all sources off: before a new kernel, and at the start.
    pub fn mask_all(&self) {
        // The pages after these belong to nobody, and a load from there is a machine check.
        for source in PsiSource::ALL {
            self.mask(source);
        }
    }

    /// Turns a source off. A level that nobody serves would come again for ever.
    pub fn mask(&self, source: PsiSource) {
        let _ = self.load(source as u8, SET_OFF);
    }

    /// Lets a source through from now on.
    pub fn unmask(&self, source: PsiSource) {
        let _ = self.load(source as u8, SET_READY);
    }

    /// Ends an interrupt; it comes again if the level is still there.
    pub fn end_of_interrupt(&self, source: PsiSource) {
        let _ = self.load(source as u8, END_OF_INTERRUPT);
    }

    /// Whether the level of a source is raised, masked or not. For people: QEMU has no such register and says yes.
    pub fn is_raised(&self, source: PsiSource) -> bool {
        self.registers.read64(LEVELS) & ppc_bit(u32::from(source as u8)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Expect, Step};
    use std::vec::Vec;

    const AT: Ra = Ra(0x0006_0302_0200_0000);

    #[test]
    fn sources_are_off_before_the_bridge_may_send() {
        let registers = Expect::new([
            Step::Put64(0x60, 0x4006_0302_0200_0001),
            Step::Get64(0x60, 0x4006_0302_0200_0001),
            Step::Get64(0x20, 0x1),
            Step::Put64(0x20, 0x0008_0000_0000_0001),
            Step::Put64(0x70, 0x100f_fff0_0000_0000),
            Step::Put64(0x68, 0x0006_0302_0004_0931),
            Step::Put64(0x58, 0x4000_0000_0000_0000),
            Step::Put64(0x58, 0),
        ]);
        let off: Vec<_> = (0..14)
            .map(|n| Step::Get64(n * 0x1_0000 + 0xd00, 0))
            .collect();
        let psi = Psi::new(&registers, Expect::new(off), AT);
        psi.start(Notify {
            port: Ra(0x0006_0302_0004_0930),
            base: 0x100f_fff0,
            store_eoi: true,
        });
    }

    #[test]
    fn a_source_has_its_page_and_its_level() {
        let pages = Expect::new([
            Step::Get64(0x7_0c00, 1),
            Step::Get64(0x7_0000, 0),
            Step::Get64(0xd_0d00, 0),
        ]);
        let registers = Expect::new([Step::Get64(0x78, 1 << 56), Step::Get64(0x78, 1 << 55)]);
        let psi = Psi::new(registers, pages, AT);
        psi.unmask(PsiSource::Serial0);
        psi.end_of_interrupt(PsiSource::serial(4));
        psi.mask(PsiSource::Sbe);
        assert!(psi.is_raised(PsiSource::Serial0));
        assert!(!psi.is_raised(PsiSource::Serial0));
    }

    #[test]
    fn numbers_name_sources() {
        for (n, source) in (0..).zip(PsiSource::ALL) {
            assert_eq!(PsiSource::of_number(0xf_fff0 | n), Some(source));
            assert_eq!(source as u32, n);
        }
        assert_eq!(PsiSource::of_number(14), None);
        assert_eq!(PsiSource::of_number(15), None);
    }

    #[test]
    fn the_address_register_names_the_chip_s_window() {
        let map = AddressMap {
            chip_shift: 44,
            lpc: Ra(0),
            xscom: Ra(0),
            psihb: Ra(0x0006_0302_0300_0000),
            psihb_esb: AT,
            xive_ic: Ra(0),
            xive_tm: Ra(0),
            xive_nvc: Ra(0),
            xive_nvpg: Ra(0),
            xive_esb: Ra(0),
            xive_end: Ra(0),
        };
        let mut bus = Expect::new([Step::ScomPut(2, 0x301_1d0a, 0x0006_2302_0300_0001)]);
        assert_eq!(enable_window(&mut bus, &map, ChipIndex(2)), Ok(()));
    }
}

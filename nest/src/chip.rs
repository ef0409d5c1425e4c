//! What differs between chips and between machines, as tables.
//!
//! Owns the types; the values are in the `platform-*` crates and the choice is the firmware's. Drivers take the piece
//! they need, never the chip. The surprising fact: nothing on a chip but the processor version tells POWER10 from
//! Power11, and QEMU's two POWER10 machines give the same device tree.

use isa::addr::Ra;
use isa::spr::Pvr;

/// Everything that differs between chips.
#[derive(Debug)]
pub struct Chip {
    /// As the boot line has it: "P10 generation processor".
    pub generation: &'static str,
    /// Processor version family, the upper half word of PVR.
    pub pvr_family: u32,
    /// The family's logical version, what a partition may be told to be.
    pub logical_pvr: u32,
    /// Names of this generation in the device tree.
    pub names: Names,
    /// Where its devices are.
    pub map: AddressMap,
    /// Hardware threads of a small core; a fused core is two.
    pub threads_per_small_core: u8,
    /// Time base ticks per second.
    pub timebase_hz: u64,
    /// The MMU.
    pub mmu: Mmu,
    /// What a thread's control registers are set to.
    pub core: CoreSetup,
    /// Known errors of the chip, each with what to do about it.
    pub errata: &'static [&'static dyn Erratum],
}

/// Names of a generation in the device tree.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Node name of a processor.
    pub cpu: &'static str,
    /// `compatible` of an XSCOM node.
    pub xscom: &'static str,
    /// `compatible` of a chip TOD node.
    pub chiptod: &'static str,
}

/// Real addresses of chip 0; chip n's are n << [`chip_shift`](Self::chip_shift) further.
#[derive(Clone, Copy, Debug)]
pub struct AddressMap {
    /// Log2 of the step from chip to chip.
    pub chip_shift: u32,
    /// OPB window: 4 GiB.
    pub lpc: Ra,
    /// XSCOM window: 16 GiB.
    pub xscom: Ra,
    /// PSI host bridge registers.
    pub psihb: Ra,
    /// PSI host bridge interrupt pages.
    pub psihb_esb: Ra,
    /// XIVE interrupt controller registers.
    pub xive_ic: Ra,
    /// XIVE thread management area. The same address on every chip.
    pub xive_tm: Ra,
    /// XIVE virtual processor groups' crowds.
    pub xive_nvc: Ra,
    /// XIVE virtual processors and groups.
    pub xive_nvpg: Ra,
    /// XIVE event state pages.
    pub xive_esb: Ra,
    /// XIVE event queue pages.
    pub xive_end: Ra,
}

impl AddressMap {
    /// Where chip `index` has what chip 0 has at `base`.
    #[must_use]
    pub fn of_chip(&self, base: Ra, index: crate::scom::ChipIndex) -> Ra {
        Ra(base.0 + (u64::from(index.0) << self.chip_shift))
    }
}

/// The radix MMU.
#[derive(Clone, Copy, Debug)]
pub struct Mmu {
    /// `ibm,processor-radix-AP-encodings`: actual page size code in the top 3 bits, log2 of the size below.
    pub radix_ap_encodings: &'static [u32],
    /// Bits of a logical partition id.
    pub lpid_bits: u32,
    /// Bits of a process id.
    pub pid_bits: u32,
}

/// Values of a thread's control registers before anything else runs on it (reference/hardware.md 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreSetup {
    /// Bits to set in HID0; the interrupts' endianness is the firmware's affair.
    pub hid0_set: u64,
    /// Bits to set in HMEER.
    pub hmeer_set: u64,
    /// Relative priorities of the threads of a core.
    pub rpr: u64,
    /// Thread switch control.
    pub tscr: u64,
    /// Default of the data stream control.
    pub dscr: u64,
}

/// A known error of a chip and what to do about it. The list of a chip is also its documentation.
pub trait Erratum: Sync + core::fmt::Debug {
    /// Its number.
    fn name(&self) -> &'static str;
    /// What goes wrong without it, in a line.
    fn why(&self) -> &'static str;
    /// Whether this revision has it.
    fn applies(&self, revision: (u8, u8)) -> bool;
    /// Changes what the control registers of a thread are set to.
    fn core(&self, setup: &mut CoreSetup) {
        let _ = setup;
    }
}

impl Chip {
    /// Whether this is the chip of that processor version.
    #[must_use]
    pub const fn is(&self, pvr: Pvr) -> bool {
        pvr.family() == self.pvr_family
    }

    /// The control registers of a thread of this chip at that revision, errata applied.
    #[must_use]
    pub fn core_setup(&self, pvr: Pvr) -> CoreSetup {
        let mut setup = self.core;
        for erratum in self
            .errata
            .iter()
            .filter(|erratum| erratum.applies(pvr.revision()))
        {
            erratum.core(&mut setup);
        }
        setup
    }
}

/// A board, or QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    /// For people.
    pub name: &'static str,
    /// Root `compatible` strings of it; one is enough.
    pub compatible: &'static [&'static str],
    /// Whether it is an emulator: links have no settling time, clocks need no synchronisation, units may be missing.
    pub is_emulated: bool,
}

impl Machine {
    /// The first of `machines` that has one of the root node's `compatible` strings.
    pub fn find<'a>(
        machines: &'a [Self],
        compatible: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<&'a Self> {
        machines.iter().find(|machine| {
            let mut strings = compatible.clone();
            strings.any(|string| machine.compatible.contains(&string))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOARD: Machine = Machine {
        name: "board",
        compatible: &["x,board", "x,board-2"],
        is_emulated: false,
    };
    const ANY: Machine = Machine {
        name: "any",
        compatible: &["x,any"],
        is_emulated: false,
    };

    #[test]
    fn the_first_machine_that_matches_wins() {
        let find = |compatible: &[&str]| {
            Machine::find(&[BOARD, ANY], compatible.iter().copied()).map(|machine| machine.name)
        };
        assert_eq!(find(&["x,any", "x,board-2"]), Some("board"));
        assert_eq!(find(&["y", "x,any"]), Some("any"));
        assert_eq!(find(&["x"]), None);
        assert_eq!(find(&[]), None);
    }
}

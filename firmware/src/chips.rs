//! The chips and machines that this image knows: the only place that knows all of them.
//!
//! Surprising fact: both chips are in every image; which one it is, the processor version register says.
#![forbid(unsafe_code)]

use isa::spr::Pvr;
use nest::chip::{Chip, Machine};

/// All chips.
pub const CHIPS: &[&Chip] = &[&platform_p10::P10, &platform_p11::P11];

/// The chip of a processor version, if we know it.
#[must_use]
pub fn identify(pvr: Pvr) -> Option<&'static Chip> {
    CHIPS.iter().copied().find(|chip| chip.is(pvr))
}

/// The machine that has one of the root's `compatible` strings, if we know it.
#[must_use]
pub fn board<S: AsRef<str>>(compatible: &[S]) -> Option<&'static Machine> {
    let is_here = |known: &&str| compatible.iter().any(|entry| entry.as_ref() == *known);
    platform_p10::MACHINES
        .iter()
        .chain(platform_p11::MACHINES)
        .find(|machine| machine.compatible.iter().any(is_here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_version_names_its_chip() {
        let name = |pvr| identify(Pvr(pvr)).map(|chip| chip.generation);
        assert_eq!(name(0x0080_1200), Some("P10 generation processor"));
        assert_eq!(name(0x0082_1200), Some("Power11 generation processor"));
        assert_eq!(name(0x004e_1200), None);
    }

    #[test]
    fn both_of_qemus_machines_are_known() {
        for name in ["qemu,powernv10", "qemu,powernv11"] {
            let found = board(&[name, "ibm,powernv"]);
            assert!(found.is_some_and(|machine| machine.is_emulated), "{name}");
        }
        assert!(board(&["x,unknown"]).is_none());
    }
}

//! Known errors of POWER10 that the firmware must do something about. Power11 has them too.
//!
//! Not here, because they are how the unit is driven on every chip: HW822317 (XSCOM, in its driver).

use nest::chip::{CoreSetup, Erratum};

/// Core recovery does not work in the core: it must be left to the quad management engine.
///
/// The other half of the measure, masking core FIR bit 28 on every primary thread, needs SCOM and comes with core
/// bring-up; until then a failing core checkstops, which QEMU cannot do.
#[derive(Debug)]
pub struct Hw570622;

/// The erratum.
pub const HW570622: Hw570622 = Hw570622;

/// HID0 bit 5: core recovery disabled.
const DISABLE_RECOVERY: u64 = isa::ppc_bit(5);

impl Erratum for Hw570622 {
    fn name(&self) -> &'static str {
        "HW570622"
    }

    fn why(&self) -> &'static str {
        "core recovery must be disabled in HID0"
    }

    fn applies(&self, _revision: (u8, u8)) -> bool {
        true
    }

    fn core(&self, setup: &mut CoreSetup) {
        setup.hid0_set |= DISABLE_RECOVERY;
    }
}

#[cfg(test)]
mod tests {
    use crate::P10;
    use isa::spr::Pvr;

    #[test]
    fn recovery_is_disabled_on_every_revision() {
        for revision in [0x0080_1100, 0x0080_1200, 0x0080_0201] {
            assert_eq!(
                P10.core_setup(Pvr(revision)).hid0_set,
                0x0400_0000_0000_0000
            );
        }
        assert_eq!(P10.core.hid0_set, 0, "the table itself has none");
    }

    #[test]
    fn xscom_interrupts_are_never_enabled() {
        let xscom = isa::ppc_bit(8) | isa::ppc_bit(9) | 7 << 40;
        assert_eq!(P10.core.hmeer_set & xscom, 0);
    }
}

//! OPAL_NMMU_SET_PTCR: where the nest MMUs, which translate for accelerators, find the partition table.
//!
//! The surprising fact: the value is the kernel's own business, as its PTCR is. A wrong one stops the machine as soon as an
//! accelerator translates, and nobody but the kernel can tell a wrong one from a right one.

use crate::args::ChipId;
use crate::error::{Answer, OpalError, SUCCESS};

/// The nest MMUs of the machine.
pub trait NestMmus {
    /// How many there are.
    fn count(&self) -> usize;

    /// The chip of one of them.
    fn chip(&self, unit: usize) -> Option<ChipId>;

    /// Sets the partition table of one of them.
    ///
    /// # Errors
    /// Why its register was not reached.
    fn set(&self, unit: usize, ptcr: u64) -> Result<(), OpalError>;
}

/// All chips, as argument.
const ALL: u64 = u64::MAX;

/// Sets the partition table of the nest MMUs of `chip`, or of all chips.
///
/// # Errors
/// OPAL_UNSUPPORTED: no nest MMU is there. Else of the first whose register was not reached; the rest is as it was.
pub fn set_ptcr(units: &impl NestMmus, chip: u64, ptcr: u64) -> Answer {
    let mut answer = Err(OpalError::OPAL_UNSUPPORTED);
    for unit in 0..units.count() {
        let is_meant = |id: ChipId| chip == ALL || chip == u64::from(id.0);
        if units.chip(unit).is_some_and(is_meant) {
            units.set(unit, ptcr)?;
            answer = SUCCESS;
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::vec::Vec;

    use super::{NestMmus, set_ptcr};
    use crate::args::ChipId;
    use crate::error::{OpalError, SUCCESS};

    /// Two units on chip 0, one on chip 2, and those that fail.
    struct Units {
        chips: Vec<u32>,
        broken: Option<usize>,
        set: RefCell<Vec<(usize, u64)>>,
    }

    impl Units {
        fn new(chips: &[u32], broken: Option<usize>) -> Self {
            Self {
                chips: chips.to_vec(),
                broken,
                set: RefCell::default(),
            }
        }
    }

    impl NestMmus for Units {
        fn count(&self) -> usize {
            self.chips.len()
        }
        fn chip(&self, unit: usize) -> Option<ChipId> {
            self.chips.get(unit).copied().map(ChipId)
        }
        fn set(&self, unit: usize, ptcr: u64) -> Result<(), OpalError> {
            if self.broken == Some(unit) {
                return Err(OpalError::OPAL_XSCOM_TIMEOUT);
            }
            self.set.borrow_mut().push((unit, ptcr));
            Ok(())
        }
    }

    #[test]
    fn one_chip_or_all() {
        let units = Units::new(&[0, 0, 2], None);
        assert_eq!(set_ptcr(&units, 0, 5), SUCCESS);
        assert_eq!(set_ptcr(&units, u64::MAX, 6), SUCCESS);
        assert_eq!(
            *units.set.borrow(),
            [(0, 5), (1, 5), (0, 6), (1, 6), (2, 6)]
        );
    }

    #[test]
    fn chips_without_are_refused() {
        let units = Units::new(&[0, 2], None);
        for chip in [1, 3, 1 << 32, u64::MAX - 1] {
            assert_eq!(set_ptcr(&units, chip, 5), Err(OpalError::OPAL_UNSUPPORTED));
        }
        let none = Units::new(&[], None);
        assert_eq!(
            set_ptcr(&none, u64::MAX, 5),
            Err(OpalError::OPAL_UNSUPPORTED)
        );
        assert!(units.set.borrow().is_empty());
    }

    #[test]
    fn a_register_that_is_not_reached_is_told() {
        let units = Units::new(&[0, 1, 2], Some(1));
        let answer = set_ptcr(&units, u64::MAX, 5);
        assert_eq!(answer, Err(OpalError::OPAL_XSCOM_TIMEOUT));
        assert_eq!(*units.set.borrow(), [(0, 5)]);
    }
}

//! The numbers by which a kernel names interrupts and virtual processors (reference/opal.md 3.3).
//!
//! Owns both encodings. The surprising fact: virtual processors of a block are spread over the chips, so the block's
//! number (of a controller) sits in the middle of the index, at a place that depends on the size of the allocation.

use crate::args::{Girq, VpId};

/// An entry of a controller's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// The controller.
    pub block: u8,
    /// The entry.
    pub index: u32,
}

/// An interrupt source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An interrupt.
    Interrupt(At),
    /// The escalation of an event descriptor.
    Escalation(At),
}

const ESCALATION: u32 = 1 << 28;
const INDEX: u32 = 0xff_ffff;

impl Source {
    /// What a number names, if it can name anything.
    #[must_use]
    pub fn decode(girq: Girq) -> Option<Self> {
        let at = At {
            block: u8::try_from(girq.0 >> 24 & 0xf).ok()?,
            index: girq.0 & INDEX,
        };
        match girq.0 >> 28 {
            0 => Some(Self::Interrupt(at)),
            1 => Some(Self::Escalation(at)),
            _ => None,
        }
    }

    /// Its number; `None` when it has none.
    #[must_use]
    pub fn encode(self) -> Option<u32> {
        let (at, kind) = match self {
            Self::Interrupt(at) => (at, 0),
            Self::Escalation(at) => (at, ESCALATION),
        };
        let fits = at.block < 16 && at.index <= INDEX;
        fits.then(|| kind | u32::from(at.block) << 24 | at.index)
    }
}

const GROUP: u64 = 1 << 31;
const VIRTUAL: u64 = 1 << 30;
const ERROR: u64 = 1 << 29;
const ORDER_SHIFT: u32 = 24;

/// A virtual processor as a kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vp {
    /// That of a hardware thread, by PIR.
    Thread(u32),
    /// One of a block of 2^`order`.
    Virtual {
        /// Where.
        at: At,
        /// Log2 of the block's size, on all chips together.
        order: u8,
    },
}

impl Vp {
    /// What a number names, if it can name anything; virtual processors are spread over 2^`spread` controllers.
    #[must_use]
    pub fn decode(vp: VpId, spread: u8) -> Option<Self> {
        let number = u32::try_from(vp.0).ok()?;
        if vp.0 & (GROUP | ERROR) != 0 {
            return None;
        }
        let order = u8::try_from(number >> ORDER_SHIFT & 0x1f).ok()?;
        let index = number & INDEX;
        if vp.0 & VIRTUAL == 0 {
            return (order == 0).then_some(Self::Thread(index));
        }
        // At least two on each controller.
        let local = order.checked_sub(spread).filter(|local| *local > 0)?;
        let below = low_bits(local);
        let at = At {
            block: u8::try_from(index.checked_shr(local.into()).unwrap_or(0) & low_bits(spread))
                .ok()?,
            index: index >> spread & !below | index & below,
        };
        Some(Self::Virtual { at, order })
    }

    /// The number of a virtual processor; `None` when it has none.
    #[must_use]
    pub fn encode(at: At, order: u8, spread: u8) -> Option<u32> {
        let local = order.checked_sub(spread).filter(|local| *local > 0)?;
        if order > 31 || u32::from(at.block) > low_bits(spread) {
            return None;
        }
        let below = low_bits(local);
        let base = u64::from(at.index & !below) << spread;
        let block = u64::from(at.block) << local;
        let index = base | block | u64::from(at.index & below);
        let index = u32::try_from(index).ok().filter(|index| *index <= INDEX)?;
        let kind = u32::try_from(VIRTUAL).ok()?;
        Some(kind | u32::from(order) << ORDER_SHIFT | index)
    }
}

/// The lowest `n` bits.
fn low_bits(n: u8) -> u32 {
    1_u32
        .checked_shl(n.into())
        .map_or(u32::MAX, |bit| bit.wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{At, Source, Vp};
    use crate::args::{Girq, VpId};

    #[test]
    fn interrupts_have_a_kind_a_block_and_an_index() {
        let at = At {
            block: 3,
            index: 0x12_3456,
        };
        assert_eq!(
            Source::decode(Girq(0x0312_3456)),
            Some(Source::Interrupt(at))
        );
        assert_eq!(
            Source::decode(Girq(0x1312_3456)),
            Some(Source::Escalation(at))
        );
        for bad in [0x2000_0000, 0x4000_0010, 0x8000_0000, u32::MAX] {
            assert_eq!(Source::decode(Girq(bad)), None);
        }
    }

    #[test]
    fn blocks_of_processors_are_spread() {
        // 16 processors on 4 chips: chip in bits 2 and 3.
        let vp = |number| Vp::decode(VpId(number), 2);
        let at = |block, index| Vp::Virtual {
            at: At { block, index },
            order: 4,
        };
        assert_eq!(vp(0x4400_0000), Some(at(0, 0)));
        assert_eq!(vp(0x4400_0003), Some(at(0, 3)));
        assert_eq!(vp(0x4400_0004), Some(at(1, 0)));
        assert_eq!(vp(0x4400_000f), Some(at(3, 3)));
        assert_eq!(vp(0x4400_0010), Some(at(0, 4)));
        assert_eq!(vp(0x4200_0000), None, "one on each chip is too few");
        assert_eq!(vp(0x45), Some(Vp::Thread(0x45)));
        for bad in [
            0xc400_0000,
            0x6400_0000,
            0x8000_0000,
            0x0100_0000,
            1 << 32,
            u64::MAX,
        ] {
            assert_eq!(vp(bad), None, "{bad:#x}");
        }
    }

    proptest! {
        #[test]
        fn processors_come_back(number: u64, spread in 0_u8..5) {
            for number in [number, number & 0x5fff_ffff, number & 0x1fff_ffff | 1 << 30] {
                match Vp::decode(VpId(number), spread) {
                    None => {}
                    Some(Vp::Thread(pir)) => prop_assert_eq!(u64::from(pir), number),
                    Some(Vp::Virtual { at, order }) => {
                        prop_assert!(u32::from(at.block) < 1 << spread);
                        prop_assert_eq!(Vp::encode(at, order, spread).map(u64::from), Some(number));
                    }
                }
            }
        }

        #[test]
        fn places_come_back(block in 0_u8..16, index in 0_u32..1 << 20, order in 0_u8..40, spread in 0_u8..5) {
            let at = At { block, index };
            if let Some(number) = Vp::encode(at, order, spread) {
                prop_assert_eq!(Vp::decode(VpId(number.into()), spread), Some(Vp::Virtual { at, order }));
            } else {
                prop_assert!(order > 24 || order <= spread || u32::from(block) >= 1 << spread);
            }
        }

        #[test]
        fn sources_come_back(number: u32) {
            if let Some(source) = Source::decode(Girq(number)) {
                prop_assert_eq!(source.encode(), Some(number));
            }
        }
    }
}

//! Addresses, one type per address space, so that an address of one guest cannot reach another's memory.
//!
//! | type | space |
//! |---|---|
//! | [`Ea`] | effective: what an instruction computes |
//! | [`Ra`] | real: what the memory bus sees |
//! | [`Gra`] | real as a partition (L1) sees it |
//! | [`Nra`] | real as a nested guest (L2) sees it |

macro_rules! address {
    ($(#[doc = $doc:literal])* $name:ident) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// This address plus `bytes`; `None` when it would leave the address space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Whether this is a multiple of `align`, which is a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & align.wrapping_sub(1) == 0
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for u64 {
            fn from(address: $name) -> u64 {
                address.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// Effective address.
    Ea
}
address! {
    /// Real address of the machine.
    Ra
}
address! {
    /// Guest real address: real memory as a partition (L1) sees it. An allegation until it was looked up in the
    /// partition's extents.
    Gra
}
address! {
    /// Nested real address: real memory as a nested guest (L2) sees it.
    Nra
}

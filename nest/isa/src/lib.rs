//! The processor as types: addresses, registers and instructions of POWER10 and Power11.
//!
//! Everything that touches the real processor has a fake on the host, chosen by target, so that the crates
//! above build and test on any machine. Nothing here knows a device, a chip or a contract.
#![cfg_attr(target_os = "none", no_std)]

pub mod addr;
pub mod barrier;
pub mod cache;
pub mod cix;
pub mod context;
pub mod lock;
pub mod lpcr;
pub mod msr;
pub mod priority;
pub mod pte;
pub mod spr;
pub mod tfmr;
pub mod timebase;

/// The mask of bit `n` in the manuals' numbering (0 is the most significant bit of 64).
#[must_use]
pub const fn ppc_bit(n: u32) -> u64 {
    1 << (63 - n)
}

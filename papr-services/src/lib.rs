//! The PAPR contract and the logic of the hypervisor: what a partition (L1) can ask for, and the nested guests (L2)
//! that it runs.
//!
//! Pure logic: no device, no assembly, no unsafe code. Hardware is reached through [`host::Host`], guest memory
//! through [`guest_ram::GuestRam`]. Nothing a partition or a nested guest does can panic here: the lints below see
//! to it.
//!
//! Start at [`table`], the list of hypercalls, and at `serve`, which answers them.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::wildcard_enum_match_arm
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod device_tree;
pub mod error;
pub mod exit_counters;
pub mod guest_ram;
pub mod host;
pub mod interrupt;
pub mod level;
mod memory_calls;
pub mod nested;
pub mod partition;
pub mod radix;
pub mod rtas;
pub mod serve;
mod set_mode;
mod sync;
pub mod table;
pub mod term;
pub mod tree;
pub mod vpa;
pub mod xive;

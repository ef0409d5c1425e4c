//! The OPAL contract, and those of its services that are pure logic: what a kernel that owns the machine asks of
//! the firmware.
//!
//! No device, no assembly, no unsafe code; memory of the kernel is reached through [`os_memory`]. Nothing a kernel
//! passes can panic here: the lints below see to it. Calls come from all threads at once, so every service takes
//! `&self`.
//!
//! Start at [`calls`], the list of calls. The surprising fact: a row that is not served yet decodes to nothing
//! because its variant holds a value of an empty type; marking it `served` is what makes a handler necessary.
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

pub mod args;
pub mod async_token;
pub mod calls;
pub mod console;
pub mod device_tree;
pub mod entry;
pub mod error;
pub mod events;
pub mod flash;
pub mod hmi;
pub mod host_sync;
pub mod i2c;
pub mod ipmi;
pub mod lock;
pub mod messages;
pub mod nest_mmu;
pub mod os_memory;
pub mod power;
pub mod quiesce;
pub mod sensors;
pub mod table;
pub mod trace;
pub mod xive;

//! OPAL mode: the kernel owns the machine and calls the firmware for what only firmware can do.
//!
//! `kernel`, `tree`, `cpu_features`, `nvram`, `clock` and `threads` are tested on the host; the rest exists on the machine
//! only. The life of a call: `entry.S` -> [`serve`] -> a service -> `entry.S`. Surprising fact: after the jump into the
//! kernel the exception vectors are the kernel's, so a fault of ours in a call is reported by the kernel.

pub mod clock;
mod cpu_features;
pub mod fast_reboot;
pub mod flash;
pub mod i2c;
pub mod ipmi;
pub mod kernel;
pub mod nvram;
pub mod occ;
pub mod sensors;
pub mod subtrees;
pub mod threads;
pub mod tree;
pub mod units;

#[cfg(target_os = "none")]
mod bridges;
#[cfg(target_os = "none")]
mod buses;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub(crate) mod gather;
#[cfg(target_os = "none")]
mod maintenance;
#[cfg(target_os = "none")]
mod poll;
#[cfg(target_os = "none")]
mod reboot;
#[cfg(target_os = "none")]
mod serve;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod xive;

#[cfg(target_os = "none")]
pub use start::{Handover, start};

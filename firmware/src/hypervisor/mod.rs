//! The resident hypervisor (L0): makes the partition, then runs it and its nested guests until it stops.
//!
//! `exits`, `terminal` and `topology` are pure and tested on the host; the rest exists on the machine only. The life of an exit:
//! vector (`entry/vectors.S`) -> `enter.S` -> [`run`] -> `papr_services` -> `registers` -> `enter.S`.

pub mod exits;
pub mod terminal;
pub mod topology;

#[cfg(target_os = "none")]
mod enter;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod idle;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod own;
#[cfg(target_os = "none")]
mod partition_table;
#[cfg(target_os = "none")]
mod random;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod timer;
#[cfg(target_os = "none")]
mod tlb;
#[cfg(target_os = "none")]
mod window;

#[cfg(target_os = "none")]
pub use start::start;

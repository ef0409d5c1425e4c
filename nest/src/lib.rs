//! The chip around the cores: buses and devices, one driver per file, each generic over its bus.
//!
//! Buses are traits ([`mmio::Mmio`], [`scom::Scom`], [`lpc::IoSpace`], [`ipmi::Transport`]); the implementation for the
//! machine is tens of lines, the one for tests is a script that the driver must follow step by step (`fakes`).
//! No driver allocates, none waits without a deadline on the time base, and none asks which chip it is on: what differs
//! between chips is a field of [`chip::Chip`], whose values are in the `platform-*` crates.
#![cfg_attr(target_os = "none", no_std)]

pub mod bt;
pub mod chip;
pub mod chiptod;
pub mod core_control;
#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
pub mod hiomap;
pub mod i2c;
pub mod ipmi;
pub mod lock;
pub mod lpc;
pub mod mmio;
pub mod occ;
pub mod occ_sensors;
pub mod psi;
pub mod rtc;
pub mod scom;
pub mod uart;
pub mod xive;
pub mod xscom;

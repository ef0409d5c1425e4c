//! The firmware: boot list, wiring of contracts to devices, the run loop.
//!
//! A library that builds for the host too, where `cargo test` runs all of it but the assembly; the binary `nidus` adds
//! nothing. See `ARCHITECTURE.md`. Surprising fact: nothing here is ever linked at its load address; the assembly in
//! `entry` moves the image to 0x30000000 before the first line of Rust runs.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

#[cfg(target_os = "none")]
pub mod boot;
pub mod chips;
pub mod command_line;
pub mod console;
#[cfg(target_os = "none")]
pub mod controllers;
pub mod entry;
pub mod exception;
pub mod fdt;
pub mod files;
pub mod flash;
pub mod handover;
pub mod hypervisor;
pub mod inputs;
pub mod machine;
pub mod memory;
pub mod nvram;
pub mod opal;
pub mod payload;
pub mod settings;
pub mod stack;
pub mod stages;
pub mod stop;
pub mod thread;
pub mod threads;
#[cfg(target_os = "none")]
pub mod time_base;

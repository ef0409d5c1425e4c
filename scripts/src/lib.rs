//! The logic behind the developer's verbs: `setup`, `run`, `test`, `image`, `check`, `bench`.
//!
//! Everything here runs on the host and may use `std`; decisions are pure functions with tests, and processes and
//! files are at the edge. The shell files beside `src` only call this crate.

pub mod bench;
pub mod boot;
pub mod cases;
pub mod check;
pub mod command;
pub mod console;
pub mod counters;
pub mod cpio;
pub mod debian;
mod flash_boot;
mod forms;
pub mod fuzz;
pub mod image;
pub mod initramfs;
pub mod kills;
pub mod levels;
pub mod linux;
pub mod machine;
pub mod milestone;
pub mod modinfo;
pub mod needed;
pub mod opal;
pub mod payload;
pub mod pnor;
pub mod run;
pub mod runner;
pub mod setup;
pub mod table;
pub mod test;
mod tiny_elf;
pub mod tools;
pub mod trees;
mod wrong;

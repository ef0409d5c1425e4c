//! The logic behind the developer's verbs: `setup`, `run`, `test`, `image`, `check`, `bench`.
//!
//! Everything here runs on the host and may use `std`; decisions are pure functions with tests, and processes and
//! files are at the edge. The shell files beside `src` only call this crate.

pub mod command;
pub mod debian;
pub mod modinfo;
pub mod setup;
pub mod tools;

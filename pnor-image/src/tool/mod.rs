//! The tool: images of a whole flash, as files on a development machine.
//!
//! It is a library too, so that `scripts/image` builds its image by the same code. The surprise: every verb works on the
//! whole image in memory and replaces the file at the end, so an interrupted run leaves the old image.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "sizes of files in memory; overflow stops the tool, as it is built with checks"
)]

pub mod build;
pub mod command;
pub mod diff;
pub mod image;
pub mod json;
pub mod layout;
pub mod map;
pub mod report;

#[cfg(test)]
mod tests;

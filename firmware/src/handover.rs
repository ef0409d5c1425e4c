//! What boot hands to the hypervisor: everything it has found and made, as values.
//!
//! Surprising fact: the kernel is not in the partition's memory yet. [`Payload::place`] puts it there, when the partition's
//! [`GuestRam`] exists; then
//! [`boot::announce_payload`](crate::boot) prints the line that tests wait for, just before the first entry.
//!
//! [`GuestRam`]: papr_services::guest_ram::GuestRam
//! [`Payload::place`]: crate::payload::Payload::place
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use isa::addr::Ra;
use nest::chip::{Chip, Machine as Board};
use papr_services::guest_ram::Extent;
use papr_services::level::Level;

use crate::inputs::Inputs;
use crate::machine::Machine;
use crate::payload::Payload;
use crate::thread::ThreadBlock;

/// Memory that is the firmware's own, as words: the pool for translation tables and nested guests' state.
///
/// Made once by the memory stage. What it holds at first is unspecified.
#[derive(Clone, Copy, Debug)]
pub struct OwnMemory {
    /// Where it lies, a multiple of 16 MiB.
    pub ra: Ra,
    /// The memory, in memory order.
    pub words: &'static [AtomicU64],
}

/// All that the run loop needs.
pub struct Handover {
    /// The tree's facts: processors, time base frequency, chips.
    pub inputs: Inputs,
    /// The chip as a table.
    pub chip: &'static Chip,
    /// The board as a table, if one knows it.
    pub board: Option<&'static Board>,
    /// Processor version register of this machine's threads.
    pub pvr: isa::spr::Pvr,
    /// Console, clock, power: the devices.
    pub machine: &'static Machine,
    /// The partition's memory, ascending by guest address; the first starts at 0.
    pub extents: Vec<Extent>,
    /// Pool for translation tables and nested guests' state.
    pub pool: OwnMemory,
    /// Blocks for the parked threads.
    pub blocks: Vec<&'static ThreadBlock>,
    /// Kernel and initrd, checked.
    pub payload: Payload,
    /// Whether the partition gets XIVE exploitation mode, if the machine's controllers work; else XICS calls.
    pub exploitation: bool,
    /// Most bytes of tables of the partition's nested guests, if the pool is not to be the only limit.
    pub tables: Option<u64>,
    /// The kernel's command line without the firmware's words.
    pub bootargs: String,
    /// The level of the partition.
    pub level: Level,
}

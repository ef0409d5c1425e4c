//! Power11: POWER10, except for what is written here.
//!
//! The surprising fact: the public sources know no other differences (reference/hardware.md 11); even the chip id
//! register reads the same, only the processor version differs.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

use nest::chip::{Chip, Machine, Names};

/// The chip.
pub const P11: Chip = Chip {
    generation: "Power11 generation processor",
    pvr_family: 0x82,
    logical_pvr: 0x0f00_0007,
    names: Names {
        cpu: "PowerPC,POWER11",
        xscom: "ibm,power11-xscom",
        chiptod: "ibm,power11-chiptod",
    },
    ..platform_p10::P10
};

/// The machines, most specific first.
pub const MACHINES: &[Machine] = &[Machine {
    name: "QEMU powernv11",
    compatible: &["qemu,powernv11"],
    is_emulated: true,
}];

//! POWER10 as a table: addresses, names, core setup, errata, and the machines that carry it.
//!
//! No code runs here but errata. The surprising fact: `powernv10` and `powernv10-rainier` of QEMU give byte-identical
//! device trees, so the second is not a machine of its own here; its only difference is what answers on I2C.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

mod errata;

use isa::addr::Ra;
use isa::timebase;
use nest::chip::{AddressMap, Chip, CoreSetup, Machine, Mmu, Names};

pub use errata::HW570622;

/// The chip.
pub const P10: Chip = Chip {
    generation: "P10 generation processor",
    pvr_family: 0x80,
    logical_pvr: 0x0f00_0006,
    names: Names {
        cpu: "PowerPC,POWER10",
        xscom: "ibm,power10-xscom",
        chiptod: "ibm,power10-chiptod",
    },
    // reference/hardware.md 1.2.
    map: AddressMap {
        chip_shift: 44,
        lpc: Ra(0x0006_0300_0000_0000),
        xscom: Ra(0x0006_03fc_0000_0000),
        psihb: Ra(0x0006_0302_0300_0000),
        psihb_esb: Ra(0x0006_0302_0200_0000),
        xive_ic: Ra(0x0006_0302_0000_0000),
        xive_tm: Ra(0x0006_0302_0318_0000),
        xive_nvc: Ra(0x0006_0302_0800_0000),
        xive_nvpg: Ra(0x0006_0400_0000_0000),
        xive_esb: Ra(0x0006_0500_0000_0000),
        xive_end: Ra(0x0006_0600_0000_0000),
    },
    threads_per_small_core: 4,
    timebase_hz: timebase::FREQUENCY,
    mmu: Mmu {
        // 4 KiB, 64 KiB, 2 MiB, 1 GiB.
        radix_ap_encodings: &[0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e],
        lpid_bits: 12,
        pid_bits: 20,
    },
    // reference/hardware.md 7.1.
    core: CoreSetup {
        hid0_set: 0,
        // Malfunction alert, recovery done, timer facility, timer shadow transfer, SPURR scale, recovery again.
        hmeer_set: 0xae10_0000_0000_0000,
        rpr: 0x0000_0103_070f_1f3f,
        tscr: 0x8028_7880,
        dscr: 0x10,
    },
    errata: &[&HW570622],
};

/// The machines, most specific first.
pub const MACHINES: &[Machine] = &[
    Machine {
        name: "QEMU powernv10",
        compatible: &["qemu,powernv10"],
        is_emulated: true,
    },
    Machine {
        name: "Rainier",
        compatible: &["ibm,rainier", "ibm,rainier-2s2u", "ibm,rainier-2s4u"],
        is_emulated: false,
    },
];

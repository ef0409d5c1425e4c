//! The PowerNV device tree: what the firmware was given, with what OPAL adds (reference/opal.md 4).
//!
//! Pure: tree in, tree out. What this module knows of is the machine as a whole; units and services add their nodes
//! themselves, as [`Describe`]s. Surprising fact: nothing that is taken over is believed, it is only passed on; what the firmware
//! itself says replaces what stood there.
#![forbid(unsafe_code)]

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use nest::chip::Chip;
use opal_calls::messages;
use papr_services::level::Level;
use papr_services::partition::Characteristics;
use papr_services::tree::{Bytes, Node, Tree};

pub use draft::{Describe, Draft, Phandles};
pub use given::copy;
pub use interrupts::Interrupts;
pub use psi::{Bridge, Bridges};

mod caches;
mod cpus;
mod draft;
mod fw_features;
mod given;
mod idle;
mod interrupts;
mod psi;
mod reserved;
#[cfg(test)]
mod tests;

/// How often the kernel looks for events without an interrupt.
const HEARTBEAT_MS: u32 = 200;
/// Bytes that the console takes at once.
pub const CONSOLE_BUFFER: u32 = 0x1000;

/// What the firmware says about itself.
#[derive(Clone)]
pub struct Description<'a> {
    /// The processor.
    pub chip: &'a Chip,
    /// Whether the machine is QEMU's model, whose radix MMU cannot do all that is said of the processor's.
    pub is_qemu: bool,
    /// The level that was asked for. A kernel in hypervisor state is not bound by it: it has the chip, and the features
    /// of `ibm,powerpc-cpu-features`. `cpu-version` tells it, and programs that look there, which levels to offer guests.
    pub level: Option<Level>,
    /// PIR of the thread that enters the kernel.
    pub boot_cpu: u32,
    /// PIRs of threads that did not come up.
    pub missing: &'a [u32],
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initrd is, if the firmware loaded one; what the given tree says of one stands otherwise.
    pub initrd: Option<&'a Range<u64>>,
    /// What the firmware keeps, by use, ascending and without gaps.
    pub firmware: &'a [(&'a str, Range<u64>)],
    /// Where OPAL calls enter.
    pub entry: u64,
    /// What a fast reboot would do: "okay", or why there is none.
    pub fast_reboot: &'a str,
    /// What the processor needs against speculation attacks.
    pub characteristics: Characteristics,
    /// The memory console's control structure.
    pub memory_console: u64,
    /// The interrupt controllers.
    pub interrupts: Interrupts<'a>,
    /// What else describes itself.
    pub units: Vec<&'a dyn Describe>,
}

impl Description<'_> {
    /// Adds all this to the tree that the firmware was given.
    #[must_use]
    pub fn apply(&self, given: Node) -> Tree {
        let mut draft = Draft::new(given);
        draft.root.node("chosen", |node| {
            node.set("bootargs", self.bootargs)
                .set("linux,stdout-path", "/ibm,opal/consoles/serial@0")
                .set("ibm,architecture-vec-5", Bytes(&cpus::FORM_1));
            if let Some(initrd) = self.initrd {
                node.set("linux,initrd-start", initrd.start)
                    .set("linux,initrd-end", initrd.end);
            }
        });
        given::correct_devices(&mut draft.root);
        given::remove_unserved(&mut draft.root);
        cpus::describe_memory(&mut draft.root);
        cpus::Cpus {
            chip: self.chip,
            is_qemu: self.is_qemu,
            level: self.level,
            missing: self.missing,
        }
        .describe(&mut draft);
        self.interrupts.describe(&mut draft);
        let (controller, events) = (draft.controller, draft.events);
        draft.opal(|node| {
            self.opal(node, events);
            node.set("interrupt-parent", controller);
        });
        for unit in &self.units {
            unit.describe(&mut draft);
        }
        reserved::describe(&mut draft.root, self.firmware);
        let (start, size) = self.kept();
        Tree {
            root: draft.root,
            reserved: [(start, size)].into(),
            boot_cpu: self.boot_cpu,
        }
    }

    /// Start and bytes of what the firmware keeps.
    fn kept(&self) -> (u64, u64) {
        let start = self.firmware.first().map_or(0, |(_, part)| part.start);
        let end = self.firmware.last().map_or(start, |(_, part)| part.end);
        (start, end.saturating_sub(start))
    }

    fn opal(&self, node: &mut Node, events: u32) {
        const LEVEL: u32 = 1;
        let (start, size) = self.kept();
        let served = self.interrupts.served;
        let numbers: Vec<u32> = served.iter().map(|(number, _)| *number).collect();
        let interrupts: Vec<[u32; 2]> = numbers.iter().map(|n| [*n, LEVEL]).collect();
        let names: Vec<&str> = served.iter().map(|(_, name)| *name).collect();
        node.set("#address-cells", 0_u32)
            .set("#size-cells", 0_u32)
            .set("compatible", "ibm,opal-v3")
            .set("opal-msg-async-num", 16_u32)
            .set("opal-msg-size", messages::ANNOUNCED)
            .set("opal-base-address", start)
            .set("opal-entry-address", self.entry)
            .set("opal-runtime-size", size)
            .set("ibm,associativity-reference-points", cpus::REFERENCE_POINTS)
            .set("ibm,opal-memcons", self.memory_console)
            .set("ibm,heartbeat-ms", HEARTBEAT_MS)
            .set("fast-reboot", self.fast_reboot)
            .set("opal-interrupts", &numbers[..])
            .set("opal-interrupts-names", names.clone())
            .set("interrupts", &interrupts[..])
            .set("interrupt-names", names);
        node.node("event", |node| {
            node.set("compatible", "ibm,opal-event")
                .set("#address-cells", 0_u32)
                .set("#interrupt-cells", 1_u32)
                .set("interrupt-controller", ())
                .set("phandle", events);
        });
        node.node("firmware", |node| {
            let version = format!("nidus-{}", env!("CARGO_PKG_VERSION"));
            node.set("compatible", "ibm,opal-firmware")
                .set("version", &version);
        });
        node.node("consoles", |node| {
            node.set("#address-cells", 1_u32).set("#size-cells", 0_u32);
            node.node("serial@0", |node| {
                node.set("compatible", "ibm,opal-console-raw")
                    .set("#write-buffer-size", CONSOLE_BUFFER)
                    .set("reg", 0_u32)
                    .set("device_type", "serial");
            });
        });
        fw_features::describe(node, self.characteristics);
        node.node("power-mgt", idle::describe);
    }
}

//! The PSI host bridges, and how the serial interrupts of LPC get to the interrupt controller through them.
//!
//! Surprising fact: no driver looks for these nodes. They make the interrupts of the devices of LPC lead somewhere, whoever
//! reads the tree.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use nest::psi::{PsiSource, WINDOW};
use papr_services::tree::Node;

use super::{Describe, Draft};
use crate::opal::units::is_compatible;

/// A bridge.
#[derive(Clone, Copy, Debug)]
pub struct Bridge {
    /// Its chip.
    pub chip: u32,
    /// Its registers.
    pub at: u64,
    /// The number of its first source.
    pub first: u32,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Bridges {
    /// The bridges.
    pub bridges: Vec<Bridge>,
    /// The serial interrupts that are routed, all to the bridge of chip 0: number, and source there.
    pub serial: Vec<(u32, PsiSource)>,
}

const LEVEL: u32 = 1;

impl Describe for Bridges {
    fn describe(&self, draft: &mut Draft) {
        for bridge in &self.bridges {
            let phandle = draft.phandles.allocate();
            let controller = draft.controller;
            let name = format!("psi@{:x}", bridge.at);
            draft.root.node(&name, |node| {
                let sources = PsiSource::ALL.map(|source| {
                    let source = source as u32;
                    [source, controller, bridge.first + source, LEVEL]
                });
                node.set("reg", [bridge.at, WINDOW])
                    .set("compatible", ["ibm,psi", "ibm,power9-psi"])
                    .set("ibm,chip-id", bridge.chip)
                    .set("#address-cells", 0_u32)
                    .set("#interrupt-cells", 1_u32)
                    .set("interrupt-parent", controller)
                    .set("interrupts", [bridge.first, LEVEL])
                    .set("interrupt-map", sources)
                    .set("phandle", phandle);
            });
            if bridge.chip == 0 {
                self.connect_lpc(&mut draft.root, phandle);
            }
        }
    }
}

impl Bridges {
    /// Says on the bus of chip 0 where its interrupts go.
    fn connect_lpc(&self, root: &mut Node, bridge: u32) {
        let Some((opb, bus)) = bus_of_first_chip(root) else {
            return;
        };
        // Space and address of the device do not matter.
        let route = |(irq, source): &(u32, PsiSource)| [0, 0, *irq, bridge, *source as u32];
        let map: Vec<[u32; 5]> = self.serial.iter().map(route).collect();
        root.node(&opb, |opb| {
            opb.node(&bus, |bus| {
                bus.set("#interrupt-cells", 1_u32)
                    .set("interrupt-map", map)
                    .set("interrupt-map-mask", [0_u32, 0, 0xff]);
            });
        });
    }
}

/// The names of the LPC bus of chip 0 and of the node that it is in.
fn bus_of_first_chip(root: &Node) -> Option<(String, String)> {
    let is_bus = |node: &&Node| is_compatible(node, "ibm,power9-lpc");
    root.children()
        .iter()
        .filter(|opb| opb.cell("ibm,chip-id") == Some(0))
        .find_map(|opb| {
            let bus = opb.children().iter().find(is_bus)?;
            Some((opb.name().into(), bus.name().into()))
        })
}

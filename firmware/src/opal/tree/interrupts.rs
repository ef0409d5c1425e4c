//! The interrupt controllers, as kernels that exploit them themselves find them (reference/opal.md 4.6).
//!
//! Surprising fact: all chips together are one node; a kernel asks OPAL for everything that differs between them.

use alloc::format;

use nest::xive::Capabilities;

use super::{Describe, Draft};

/// The interrupt controllers, all of them together.
#[derive(Clone, Debug)]
pub struct Interrupts<'a> {
    /// The thread management area.
    pub area: u64,
    /// Their chips, by block.
    pub chips: &'a [u32],
    /// What all of them can do.
    pub capabilities: Capabilities,
    /// Numbers and names of the interrupts that the firmware serves, all of them levels.
    pub served: &'a [(u32, &'a str)],
}

/// Bytes of a page of the thread management area, and of one that a kernel gives for tables.
const PAGE: u64 = 0x1_0000;

impl Describe for Interrupts<'_> {
    fn describe(&self, draft: &mut Draft) {
        let phandle = draft.controller;
        let name = format!("interrupt-controller@{:x}", self.area);
        draft.root.node(&name, |node| {
            let pages = [0, 1, 2, 3].map(|page| [self.area.saturating_add(page * PAGE), PAGE]);
            node.set("reg", pages)
                .set(
                    "compatible",
                    ["ibm,opal-xive-pe", "ibm,opal-xive-vc", "ibm,opal-intc"],
                )
                .set("interrupt-controller", ())
                .set("#address-cells", 0_u32)
                .set("#interrupt-cells", 2_u32)
                .set("ibm,xive-eq-sizes", [12_u32, 16, 21, 24])
                .set("ibm,xive-#priorities", 8_u32)
                .set("single-escalation-support", ())
                .set("ibm,xive-provision-page-size", 0x1_0000_u32)
                .set("ibm,xive-provision-chips", self.chips)
                .set("phandle", phandle);
            if self.capabilities.store_eoi {
                node.set("store-eoi", ());
            }
            if self.capabilities.save_restore {
                node.set("vp-save-restore", ());
            }
        });
    }
}

//! Sensors for the kernel: the node below which each would stand.
//!
//! Surprising fact: the node is there although no sensor is; without it kernels complain, as if sensors were missing.
#![forbid(unsafe_code)]

use papr_services::tree::Node;

/// Adds `/ibm,opal/sensors`.
pub fn describe(root: &mut Node) {
    root.node("ibm,opal", |opal| {
        opal.node("sensors", |node| {
            node.set("compatible", "ibm,opal-sensor")
                .set("#address-cells", 1_u32)
                .set("#size-cells", 0_u32);
        });
    });
}

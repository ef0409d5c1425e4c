//! The interrupt controller in the tree: XICS or XIVE, never both, and the page of exit counters.
//!
//! The surprising fact: a kernel takes XIVE because the node `ibm,power-ivpe` is there, whatever its command line says
//! when option vector 5 says "XIVE only"; so who chooses is who writes the tree.

use core::num::NonZeroU16;

use super::phandle;
use crate::exit_counters;
use crate::tree::Node;
use crate::xive::{self, QUEUE_SIZES, area_page, place};

/// The function set of the XICS calls.
pub(super) const XICS_SET: &str = "hcall-interrupt";
/// RTAS calls that are about XICS.
pub(super) const XICS_CALLS: [&str; 4] =
    ["ibm,get-xive", "ibm,set-xive", "ibm,int-on", "ibm,int-off"];

/// LoPAR B.6.9.2.
pub(super) fn xics(root: &mut Node, vcpus: u32) {
    root.node("interrupt-controller", |node| {
        node.set("device_type", "PowerPC-External-Interrupt-Presentation")
            .set("compatible", "IBM,ppc-xicp")
            .set("interrupt-controller", ())
            .set("#address-cells", 0u32)
            .set("#interrupt-cells", 2u32)
            .set("ibm,interrupt-server-ranges", [0, vcpus])
            .set("phandle", phandle::INTERRUPTS);
    });
}

/// LoPAR B.6.9.3: the pages of the thread management area, first the users', then the operating system's; the sizes of
/// queues; the numbers that are free for inter-processor interrupts.
pub(super) fn xive(root: &mut Node, vcpus: u32) {
    const PAGE: u64 = 1 << place::SHIFT;
    let [user, os] = [place::USER_PAGE, place::OS_PAGE].map(area_page);
    let count = u16::try_from(vcpus).ok().and_then(NonZeroU16::new);
    let ipis = xive::ipis(count.unwrap_or(NonZeroU16::MIN));
    // Pairs of the first and the count: from 7 on they are the hypervisor's.
    let reserved = [
        u32::from(xive::PRIORITIES),
        0xff_u32.saturating_sub(xive::PRIORITIES.into()),
    ];
    root.set("ibm,plat-res-int-priorities", reserved);
    root.at("interrupt-controller", user.0, PAGE, |node| {
        node.set("reg", [user.0, PAGE, os.0, PAGE])
            .set("device_type", "power-ivpe")
            .set("compatible", "ibm,power-ivpe")
            .set("interrupt-controller", ())
            .set("#address-cells", 0u32)
            .set("#interrupt-cells", 2u32)
            .set("ibm,xive-eq-sizes", QUEUE_SIZES)
            .set("ibm,xive-lisn-ranges", [0, ipis])
            .set("phandle", phandle::INTERRUPTS);
    });
}

/// Where a partition finds how often it left: see [`exit_counters`].
pub(super) fn exit_counters(root: &mut Node) {
    let bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let place = exit_counters::PLACE.0;
    root.at(
        "exit-counters",
        place,
        exit_counters::BYTES as u64,
        |node| {
            node.set("compatible", "nidus,exit-counters")
                .set("reasons", exit_counters::REASONS.map(|(name, _)| name))
                .set("bytes-per-vcpu", bytes(exit_counters::BYTES_PER_VCPU));
        },
    );
}

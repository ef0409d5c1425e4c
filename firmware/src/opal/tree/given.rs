//! What the firmware was given: taken over, and corrected where it speaks of devices behind the firmware.

use alloc::string::String;
use alloc::vec::Vec;

use papr_services::tree::{Bytes, Node};

use crate::fdt;

/// An editable copy of the tree below `from`.
pub fn copy(from: &fdt::Node<'_>, to: &mut Node) {
    for property in from.properties() {
        to.set(property.name, Bytes(property.value));
    }
    for child in from.children() {
        to.node(child.name, |node| copy(&child, node));
    }
}

/// Corrects what the given tree says of devices behind the firmware: those that it drives itself are reserved, since a
/// kernel finds no way to their bus; and no I2C bus is served by OPAL so far.
pub(super) fn correct_devices(node: &mut Node) {
    const OURS: [&[u8]; 2] = [b"ns16550", b"ipmi-bt"];
    const NOT_SERVED: &[u8] = b"ibm,opal-i2c";
    let compatible = node.property("compatible").unwrap_or(&[]).to_vec();
    let names = || compatible.split_inclusive(|byte| *byte == 0);
    let bare = |name: &[u8]| name.strip_suffix(b"\0").unwrap_or(name).to_vec();
    if names().any(|name| OURS.contains(&bare(name).as_slice())) {
        node.set("status", "reserved");
    }
    let served: Vec<u8> = names()
        .filter(|name| bare(name) != NOT_SERVED)
        .flatten()
        .copied()
        .collect();
    if served.len() < compatible.len() {
        node.set("compatible", Bytes(&served));
    }
    for name in names_of_children(node) {
        node.node(&name, correct_devices);
    }
}

/// Takes out what a kernel would use with calls that are not served: dumps with memory preserved.
pub(super) fn remove_unserved(root: &mut Node) {
    if let Some(opal) = root.child_mut("ibm,opal") {
        opal.remove_child("dump");
    }
}

fn names_of_children(node: &Node) -> Vec<String> {
    let children = node.children().iter();
    children.map(|child| child.name().into()).collect()
}

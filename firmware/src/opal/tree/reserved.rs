//! The memory that kernels leave alone, in each of the forms that they look for.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use papr_services::tree::{Bytes, Node};

/// Adds what the firmware keeps to `/reserved-memory`, by use.
pub(super) fn describe(root: &mut Node, firmware: &[(&str, Range<u64>)]) {
    root.node("reserved-memory", |node| {
        node.set("#address-cells", 2_u32)
            .set("#size-cells", 2_u32)
            .set("ranges", ());
        for (name, part) in firmware {
            let length = part.end.saturating_sub(part.start);
            node.at(&format!("ibm,firmware-{name}"), part.start, length, |_| {});
        }
    });
    add_reserved_names(root);
}

/// The same regions once more, in the form that kernels without `/reserved-memory` read.
fn add_reserved_names(root: &mut Node) {
    let (mut names, mut ranges) = (Vec::new(), Vec::new());
    for child in root
        .child("reserved-memory")
        .map_or(&[][..], Node::children)
    {
        if let Some(reg) = child.property("reg").filter(|reg| reg.len() == 16) {
            names.push(String::from(child.name()));
            ranges.extend_from_slice(reg);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    root.set("reserved-names", names)
        .set("reserved-ranges", Bytes(&ranges));
}

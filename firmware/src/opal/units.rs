//! What the given tree says of units of the chips that are reached by SCOM: which there are, and where.
//!
//! Pure. Surprising fact: a chip id is taken for the chip's place on the fabric, which holds on all machines that are known.
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;

use nest::scom::{ChipIndex, ScomAddr};
use papr_services::tree::Node;

/// A unit of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its chip.
    pub chip: ChipIndex,
    /// Its first register.
    pub base: ScomAddr,
}

/// Whether one of a node's `compatible` strings is `name`.
#[must_use]
pub fn is_compatible(node: &Node, name: &str) -> bool {
    node.property("compatible").is_some_and(|list| {
        list.split(|byte| *byte == 0)
            .any(|entry| entry == name.as_bytes())
    })
}

/// The chips' nodes, with the chip of each.
fn chips(root: &Node) -> impl Iterator<Item = (ChipIndex, &Node)> {
    root.children().iter().filter_map(|node| {
        let id = node.cell("ibm,chip-id").filter(|id| *id < 16)?;
        let chip = ChipIndex(u8::try_from(id).ok()?);
        is_compatible(node, "ibm,xscom").then_some((chip, node))
    })
}

/// The node of a chip, to edit.
pub fn chip_mut(root: &mut Node, chip: ChipIndex) -> Option<&mut Node> {
    let name = chips(root)
        .find(|(found, _)| *found == chip)
        .map(|(_, node)| String::from(node.name()))?;
    root.child_mut(&name)
}

/// The first register of a unit's node.
fn base(node: &Node) -> Option<ScomAddr> {
    let base = node.property("reg")?.first_chunk().copied()?;
    // The top bit marks addresses of another kind.
    let base = u32::from_be_bytes(base);
    (base >> 31 == 0).then_some(ScomAddr(base))
}

/// The units with this `compatible` string, with their nodes.
#[must_use]
pub fn find<'a>(root: &'a Node, name: &str) -> Vec<(Unit, &'a Node)> {
    let mut found = Vec::new();
    for (chip, node) in chips(root) {
        for unit in node.children().iter().filter(|n| is_compatible(n, name)) {
            if let Some(base) = base(unit) {
                found.push((Unit { chip, base }, unit));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use papr_services::tree::Bytes;

    #[test]
    fn units_are_found_with_their_chips() {
        let mut root = Node::default();
        for chip in [0_u32, 2, 16] {
            root.node(&format!("xscom@{chip}"), |node| {
                node.set("compatible", ["ibm,xscom", "ibm,power10-xscom"])
                    .set("ibm,chip-id", chip);
                node.node("nmmu@2010c40", |node| {
                    node.set("compatible", "ibm,power9-nest-mmu")
                        .set("reg", [0x201_0c40_u32, 0x20]);
                });
                for bad in [&[][..], &[1, 2], &[0x80, 0, 0, 0]] {
                    node.node(&format!("nmmu@bad{}", bad.len()), |node| {
                        node.set("compatible", "ibm,power9-nest-mmu")
                            .set("reg", Bytes(bad));
                    });
                }
            });
        }
        let found: Vec<_> = find(&root, "ibm,power9-nest-mmu")
            .into_iter()
            .map(|(unit, _)| unit)
            .collect();
        let unit = |chip| Unit {
            chip: ChipIndex(chip),
            base: ScomAddr(0x201_0c40),
        };
        assert_eq!(found, [unit(0), unit(2)], "no chip has number 16");
        assert!(find(&root, "ibm,power9").is_empty());
    }
}

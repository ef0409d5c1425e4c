//! The kernel's tree, kept so that the kernel can ask for parts of it again.
//!
//! Surprising fact: flattening needs memory, so one part is flattened at a time, however many threads ask.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use nest::lock::Mutex;
use opal_calls::args::Phandle;
use opal_calls::device_tree::Subtrees;
use opal_calls::error::OpalError;
use papr_services::tree::{Node, Tree};

/// The tree that the kernel was given.
#[derive(Debug)]
pub struct KeptTree(Mutex<Node>);

impl KeptTree {
    /// Keeps this one.
    #[must_use]
    pub const fn new(root: Node) -> Self {
        Self(Mutex::new(root))
    }
}

fn find(node: &Node, phandle: u32) -> Option<&Node> {
    if node.cell("phandle") == Some(phandle) {
        return Some(node);
    }
    node.children()
        .iter()
        .find_map(|child| find(child, phandle))
}

impl Subtrees for KeptTree {
    fn flatten(&self, node: Phandle) -> Option<Result<Vec<u8>, OpalError>> {
        let root = self.0.lock();
        let part = Tree {
            root: find(&root, node.0)?.clone(),
            ..Tree::default()
        };
        Some(part.flatten().map_err(|_| OpalError::OPAL_INTERNAL_ERROR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::Fdt;

    #[test]
    fn a_part_comes_with_all_below_it() {
        let mut root = Node::default();
        root.set("phandle", 1_u32).node("a", |a| {
            a.set("phandle", 2_u32).node("b", |b| {
                b.set("phandle", 3_u32).set("text", "hello");
            });
        });
        let tree = KeptTree::new(root);
        let blob = tree.flatten(Phandle(2)).unwrap().unwrap();
        let part = Fdt::new(&blob).unwrap();
        assert!(part.find("/b").is_some() && part.find("/a").is_none());
        assert!(tree.flatten(Phandle(4)).is_none());
    }
}

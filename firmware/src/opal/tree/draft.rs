//! A tree in the making, and what adds to it: each unit describes itself, in its own file.
//!
//! Surprising fact: the numbers of the two interrupt parents are given out before their nodes exist, so that units can
//! come in any order.

use papr_services::tree::Node;

/// Gives out numbers for `phandle`.
#[derive(Debug)]
pub struct Phandles(u32);

impl Phandles {
    /// Numbers above all that `tree` has.
    #[must_use]
    pub fn after(tree: &Node) -> Self {
        fn highest(node: &Node) -> u32 {
            // The two highest values are reserved by the format.
            let own = node
                .cell("phandle")
                .filter(|p| *p < u32::MAX - 1)
                .unwrap_or(0);
            node.children().iter().map(highest).fold(own, u32::max)
        }
        Self(highest(tree))
    }

    /// The next one.
    pub fn allocate(&mut self) -> u32 {
        self.0 = self.0.saturating_add(1);
        self.0
    }
}

/// A tree in the making.
#[derive(Debug)]
pub struct Draft {
    /// The root.
    pub root: Node,
    /// For nodes that others refer to.
    pub phandles: Phandles,
    /// The interrupt controller: two cells, number and 1 for a level.
    pub controller: u32,
    /// `/ibm,opal/event`: one cell, the number of an OPAL event.
    pub events: u32,
}

impl Draft {
    /// Goes on with a tree that was given.
    #[must_use]
    pub fn new(given: Node) -> Self {
        let mut phandles = Phandles::after(&given);
        Self {
            root: given,
            controller: phandles.allocate(),
            events: phandles.allocate(),
            phandles,
        }
    }

    /// Adds to `/ibm,opal`.
    pub fn opal(&mut self, build: impl FnOnce(&mut Node)) {
        self.root.node("ibm,opal", build);
    }
}

/// A unit of the machine or a service of the firmware that kernels find by nodes of its own.
pub trait Describe {
    /// Adds them.
    fn describe(&self, draft: &mut Draft);
}

//! Which virtual processors are taken: a buddy allocator over the index space that all chips share.
//!
//! Owns one byte per node of a binary tree in the first chip's region: the order of the largest free block below the
//! node plus one, or 0. The surprising fact: it also says exactly what was allocated (a full node whose halves were
//! never touched), so a block cannot be freed in another size than it was given.

use isa::addr::Ra;

use super::memory::{TableMemory, VPS_LOG2};
use super::tables::low8;

/// Smallest block, log2: two virtual processors of each chip.
pub(crate) const MIN_ORDER: u8 = 1;
/// Largest block, log2.
const MAX_ORDER: u8 = 20;
const _: () = assert!(MAX_ORDER as u32 == VPS_LOG2);

/// The allocator.
#[derive(Debug)]
pub(crate) struct VpBlocks {
    base: Ra,
}

/// A node: its order and its place among those of that order.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    order: u8,
    at: u32,
}

impl Node {
    const ROOT: Self = Self {
        order: MAX_ORDER,
        at: 0,
    };

    /// The node of a block.
    fn of(index: u32, order: u8) -> Option<Self> {
        let in_range = (MIN_ORDER..=MAX_ORDER).contains(&order) && index < 1 << MAX_ORDER;
        let aligned = in_range && index & ((1 << order) - 1) == 0;
        aligned.then(|| Self {
            order,
            at: index >> order,
        })
    }

    /// Its byte: the root is byte 1, the halves of byte n are 2n and 2n + 1.
    fn byte(self) -> u64 {
        (1 << (MAX_ORDER - self.order)) + u64::from(self.at)
    }

    fn halves(self) -> Option<[Self; 2]> {
        let order = self.order.checked_sub(1).filter(|o| *o >= MIN_ORDER)?;
        Some([0, 1].map(|half| Self {
            order,
            at: self.at * 2 + half,
        }))
    }

    fn parent(self) -> Option<Self> {
        (self.order < MAX_ORDER).then(|| Self {
            order: self.order + 1,
            at: self.at / 2,
        })
    }
}

impl VpBlocks {
    /// All free.
    pub(crate) fn new(memory: &impl TableMemory, base: Ra) -> Self {
        let blocks = Self { base };
        blocks.clear(memory);
        blocks
    }

    /// Frees everything.
    pub(crate) fn clear(&self, memory: &impl TableMemory) {
        // The nodes of an order are neighbours; those of the top orders share a doubleword.
        for order in (MIN_ORDER..=MAX_ORDER).rev() {
            let first = Node { order, at: 0 }.byte();
            if first < 8 {
                for byte in first..2 * first {
                    self.set_byte(memory, byte, order + 1);
                }
            } else {
                memory.fill(Ra(self.base.0 + first), first, order + 1);
            }
        }
    }

    fn place(&self, byte: u64) -> (Ra, u32) {
        let shift = 8 * (7 - u32::from(low8(byte & 7)));
        (Ra(self.base.0 + (byte & !7)), shift)
    }

    fn get(&self, memory: &impl TableMemory, node: Node) -> u8 {
        let (at, shift) = self.place(node.byte());
        low8(memory.load(at) >> shift)
    }

    fn set_byte(&self, memory: &impl TableMemory, byte: u64, value: u8) {
        let (at, shift) = self.place(byte);
        let others = memory.load(at) & !(0xff << shift);
        memory.store(at, others | u64::from(value) << shift);
    }

    fn set(&self, memory: &impl TableMemory, node: Node, value: u8) {
        self.set_byte(memory, node.byte(), value);
    }

    /// Brings the nodes above `node` up to date.
    fn update(&self, memory: &impl TableMemory, mut node: Node) {
        while let Some(parent) = node.parent() {
            let Some(halves) = parent.halves() else {
                return;
            };
            let [left, right] = halves.map(|half| self.get(memory, half));
            // Two free halves are one free whole.
            let whole = left == parent.order && right == parent.order;
            let largest = if whole {
                parent.order + 1
            } else {
                left.max(right)
            };
            self.set(memory, parent, largest);
            node = parent;
        }
    }

    /// Takes a block of 2^`order`; answers its first index.
    pub(crate) fn allocate(&self, memory: &impl TableMemory, order: u8) -> Option<u32> {
        let order = order.max(MIN_ORDER);
        if order > MAX_ORDER || self.get(memory, Node::ROOT) <= order {
            return None;
        }
        let mut node = Node::ROOT;
        while node.order > order {
            let [left, right] = node.halves()?;
            // The tighter half that has room: large blocks stay whole.
            let fits = |half| Some(self.get(memory, half)).filter(|free| *free > order);
            node = match (fits(left), fits(right)) {
                (Some(a), Some(b)) if b < a => right,
                (Some(_), _) => left,
                (None, Some(_)) => right,
                (None, None) => return None,
            };
        }
        self.set(memory, node, 0);
        self.update(memory, node);
        Some(node.at << order)
    }

    /// Takes that very block, if it is free.
    pub(crate) fn reserve(&self, memory: &impl TableMemory, index: u32, order: u8) -> bool {
        let Some(target) = Node::of(index, order) else {
            return false;
        };
        let mut node = Node::ROOT;
        loop {
            if self.get(memory, node) <= order {
                return false;
            }
            if node == target {
                break;
            }
            let Some(halves) = node.halves() else {
                return false;
            };
            node = halves[usize::from(index >> (node.order - 1) & 1 == 1)];
        }
        self.set(memory, target, 0);
        self.update(memory, target);
        true
    }

    /// Whether exactly this block was allocated and not freed since.
    pub(crate) fn is_allocated(&self, memory: &impl TableMemory, index: u32, order: u8) -> bool {
        let Some(node) = Node::of(index, order) else {
            return false;
        };
        if self.get(memory, node) != 0 {
            return false;
        }
        match node.halves() {
            None => true,
            Some(halves) => halves
                .into_iter()
                .all(|half| self.get(memory, half) == half.order + 1),
        }
    }

    /// Gives a block back. `false`: it was not allocated like this, nothing changed.
    pub(crate) fn free(&self, memory: &impl TableMemory, index: u32, order: u8) -> bool {
        if !self.is_allocated(memory, index, order) {
            return false;
        }
        let Some(node) = Node::of(index, order) else {
            return false;
        };
        self.set(memory, node, order + 1);
        self.update(memory, node);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xive::model::Memory;

    fn blocks(memory: &Memory) -> VpBlocks {
        VpBlocks::new(memory, Ra(0x20_0000))
    }

    #[test]
    fn blocks_are_aligned_and_never_overlap() {
        let memory = Memory::default();
        let blocks = blocks(&memory);
        assert!(blocks.reserve(&memory, 128, 7));
        assert!(!blocks.reserve(&memory, 128, 7));
        let mut taken = std::vec![(128_u32, 7_u8)];
        let mut seed = 12345_u32;
        for round in 0..600_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if seed >> 30 == 0 && taken.len() > 1 {
                let (index, order) = taken.remove(1 + (seed >> 8) as usize % (taken.len() - 1));
                assert!(blocks.is_allocated(&memory, index, order));
                assert!(!blocks.free(&memory, index, order + 1), "round {round}");
                assert!(order == 1 || !blocks.free(&memory, index, order - 1));
                assert!(blocks.free(&memory, index, order));
                assert!(!blocks.free(&memory, index, order));
                continue;
            }
            let order = 1 + (seed >> 20 & 7) as u8;
            let index = blocks.allocate(&memory, order).unwrap();
            assert_eq!(index % (1 << order), 0);
            for (other, size) in &taken {
                assert!(index + (1 << order) <= *other || other + (1 << size) <= index);
            }
            taken.push((index, order));
        }
        for (index, order) in taken {
            assert!(blocks.free(&memory, index, order));
        }
        assert_eq!(blocks.allocate(&memory, 20), Some(0), "all is one again");
        assert_eq!(blocks.allocate(&memory, 1), None);
    }

    #[test]
    fn odd_requests_are_refused() {
        let memory = Memory::default();
        let blocks = blocks(&memory);
        assert_eq!(blocks.allocate(&memory, 21), None);
        assert_eq!(blocks.allocate(&memory, 255), None);
        assert_eq!(blocks.allocate(&memory, 0), Some(0), "the least is two");
        assert!(blocks.is_allocated(&memory, 0, 1));
        for (index, order) in [
            (2, 1),
            (0, 0),
            (0, 2),
            (1, 1),
            (1 << 20, 1),
            (0, 21),
            (0, 255),
        ] {
            assert!(!blocks.free(&memory, index, order), "{index} {order}");
        }
    }
}

//! What a fast reboot starts again with: the kernel's file and its initrd, kept aside while the kernel runs, and the tree.
//!
//! A fast reboot is a boot: the image is put where a loader puts it, tree and payload too, and all threads enter it at
//! once (`gather.rs`). Nothing is brought back to its first state by hand but the machine's registers, so nothing can be
//! forgotten there. Surprising fact: without being asked for it (`nidus.fast-reboot=keep`) nothing is kept, and then a
//! payload that QEMU loaded is gone: kernels are executed where they were loaded, and use that memory later.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crc::{CRC_64_XZ, Crc, Table};
use papr_services::tree::{Node, Tree, TreeError};

use super::tree;
use crate::fdt::{Fdt, FdtError};
use crate::payload::Loaded;

/// In `/chosen` of the tree that the firmware gives itself: how many fast reboots there were since the last real one.
pub const COUNT: &str = "nidus,fast-reboot";
/// Copies begin at multiples of this, as what kernels leave alone does.
const PAGE: u64 = 0x1_0000;

/// A part of the payload and its copy.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// For people.
    pub name: &'static str,
    /// Where it was loaded.
    pub home: Loaded,
    /// The copy; as long.
    pub copy: Loaded,
    sum: u64,
}

/// There is not so much room for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes that would be needed.
    pub needed: u64,
    /// Bytes that there are.
    pub found: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        write!(
            f,
            "kernel and initrd have {} MiB, there is room for {} MiB",
            self.needed.div_ceil(MIB),
            self.found / MIB
        )
    }
}

/// Where in `room` the copies of parts with these lengths go, one after the other.
///
/// # Errors
/// [`NoRoom`].
pub fn places(room: &Range<u64>, lengths: &[u64]) -> Result<Vec<Range<u64>>, NoRoom> {
    let mut places = Vec::new();
    let mut at = room.start.next_multiple_of(PAGE);
    let begin = at;
    for length in lengths {
        let end = at.saturating_add(*length);
        places.push(at..end);
        at = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    }
    if at > room.end {
        return Err(NoRoom {
            needed: at - begin,
            found: room.end.saturating_sub(begin),
        });
    }
    Ok(places)
}

impl Piece {
    /// Copies `home` to `copy`, which the caller made as long.
    #[must_use]
    pub fn keep(name: &'static str, home: Loaded, copy: Loaded) -> Self {
        put(home.words, copy.words);
        Self {
            name,
            home,
            copy,
            sum: sum(copy.words),
        }
    }

    /// Whether the copy is what it was. A kernel is asked to leave it alone, no more than that.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        sum(self.copy.words) == self.sum
    }

    /// Puts the part back where it was loaded.
    pub fn put_back(&self) {
        put(self.copy.words, self.home.words);
    }
}

fn put(from: &[AtomicU64], to: &[AtomicU64]) {
    for (to, from) in to.iter().zip(from) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The CRC of memory.
fn sum(words: &[AtomicU64]) -> u64 {
    sum_of(words.iter().map(|word| word.load(Ordering::Relaxed)))
}

/// The CRC of words as memory has them.
pub fn sum_of(words: impl Iterator<Item = u64>) -> u64 {
    const CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);
    let mut digest = CRC.digest();
    let mut bytes = [0; 4096];
    let mut words = words.peekable();
    while words.peek().is_some() {
        let mut filled = 0;
        for (to, word) in bytes.chunks_exact_mut(8).zip(&mut words) {
            to.copy_from_slice(&word.to_ne_bytes());
            filled += 8;
        }
        digest.update(bytes.get(..filled).unwrap_or(&[]));
    }
    digest.finalize()
}

/// Why the tree of the next start cannot be made.
#[derive(Debug)]
pub enum NoTree {
    /// The given one cannot be read, which it could at boot.
    Given(FdtError),
    /// The new one cannot be written.
    Written(TreeError),
}

/// The tree of the next start: the given one, with the count in it.
///
/// # Errors
/// [`NoTree`].
pub fn next_tree(given: &[u8]) -> Result<Vec<u8>, NoTree> {
    let fdt = Fdt::new(given).map_err(NoTree::Given)?;
    let mut root = Node::default();
    tree::copy(&fdt.root(), &mut root);
    let mut count = 0;
    root.node("chosen", |chosen| {
        count = chosen.cell(COUNT).unwrap_or(0).saturating_add(1);
        chosen.set(COUNT, count);
    });
    let tree = Tree {
        root,
        reserved: fdt.reservations().collect(),
        // Whoever wins the election boots.
        boot_cpu: 0,
    };
    tree.flatten().map_err(NoTree::Written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;

    fn memory(words: &[u64]) -> Loaded {
        let words: Vec<AtomicU64> = words.iter().copied().map(AtomicU64::new).collect();
        Loaded {
            base: 0,
            words: words.leak(),
        }
    }

    fn said(loaded: Loaded) -> Vec<u64> {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        loaded.words.iter().map(load).collect()
    }

    #[test]
    fn copies_follow_each_other_in_whole_pages() {
        let room = 0x3500_1000..0x4000_0000;
        assert_eq!(
            places(&room, &[0x1_0008, 0, 0x10]).unwrap(),
            [
                0x3501_0000..0x3502_0008,
                0x3503_0000..0x3503_0000,
                0x3503_0000..0x3503_0010
            ]
        );
        assert_eq!(places(&room, &[0x0aff_0000]).unwrap().len(), 1);
        let NoRoom { needed, found } = places(&room, &[0x0aff_0001]).unwrap_err();
        assert_eq!((needed, found), (0x0b00_0000, 0x0aff_0000));
        assert!(places(&room, &[u64::MAX, u64::MAX]).is_err());
        let text = places(&room, &[1 << 30]).unwrap_err();
        assert_eq!(
            text.to_string(),
            "kernel and initrd have 1024 MiB, there is room for 175 MiB"
        );
    }

    #[test]
    fn a_part_comes_back_and_a_damaged_copy_is_noticed() {
        let before: Vec<u64> = (0..1000).map(|n| n * 0x0101_0101_0101).collect();
        let (home, copy) = (memory(&before), memory(&[0; 1000]));
        let piece = Piece::keep("kernel", home, copy);
        for word in home.words {
            word.store(0xdead, Ordering::Relaxed);
        }
        assert!(piece.is_whole(), "the original does not matter");
        piece.put_back();
        assert_eq!(said(home), before);
        for at in [0, 511, 512, 999] {
            let word = &copy.words[at];
            word.fetch_xor(1 << 40, Ordering::Relaxed);
            assert!(!piece.is_whole(), "{at}");
            word.fetch_xor(1 << 40, Ordering::Relaxed);
        }
        assert!(piece.is_whole());
    }

    #[test]
    fn the_sum_sees_order_and_zeroes() {
        let of = |words: &[u64]| sum(memory(words).words);
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[0]), of(&[0, 0]));
    }

    #[test]
    fn the_tree_counts() {
        let mut tree = Tree {
            reserved: [(0x1000, 0x2000)].into(),
            ..Tree::default()
        };
        tree.root
            .set("compatible", "ibm,powernv")
            .node("memory@0", |node| {
                node.set("device_type", "memory")
                    .set("reg", [0_u64, 1 << 32]);
            });
        let given = tree.flatten().unwrap();
        let first = next_tree(&given).unwrap();
        let second = next_tree(&first).unwrap();
        for (blob, count) in [(&first, 1), (&second, 2)] {
            let fdt = Fdt::new(blob).unwrap();
            let chosen = fdt.find("/chosen").unwrap();
            assert_eq!(chosen.property(COUNT).and_then(|p| p.u32()), Some(count));
            assert_eq!(fdt.reservations().collect::<Vec<_>>(), [(0x1000, 0x2000)]);
            assert!(fdt.find("/memory@0").is_some());
            // Without processors it is no machine, which is as far as it was before.
            assert!(Inputs::read(fdt).is_err());
        }
        assert!(next_tree(&given[..30]).is_err());
    }
}

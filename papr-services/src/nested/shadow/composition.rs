//! Composition: a page of the partition's tree and the extent that it lies in, as one leaf. Rights and size are the
//! lesser of both; attributes and all other bits of the partition's leaf stay behind.

use isa::addr::{Gra, Ra};
use isa::pte::{self, PageSize, Pte};

use crate::guest_ram::GuestRam;
use crate::radix::Leaf;

/// A page of the partition's tree composed with the partition's extents.
pub(super) struct Composition {
    /// The byte that the walk was for.
    ra: Ra,
    /// Largest leaf that maps it.
    pub(super) size: PageSize,
    /// A leaf's bits but its page number.
    bits: Pte,
    /// Whether the partition's leaf has R.
    referenced: bool,
}

impl Composition {
    /// `None`: the page is not memory of the partition.
    pub(super) fn new(ram: &GuestRam, leaf: &Leaf<Gra>) -> Option<Self> {
        let (ra, _) = ram.translate(leaf.at)?;
        // Extents begin and end at multiples of 64 KiB in both spaces, so that only larger leaves need a look.
        let size = [PageSize::Size1G, PageSize::Size2M]
            .into_iter()
            .filter(|size| *size <= leaf.size)
            .find(|size| fits(ram, leaf.at, *size))
            .unwrap_or(leaf.size.min(PageSize::Size64K));
        let theirs = leaf.pte();
        let mut bits = Pte::VALID | Pte::LEAF | Pte::R | theirs & Pte::EXECUTE;
        if theirs.intersects(Pte::READ | Pte::WRITE) {
            bits |= Pte::READ;
        }
        if theirs.contains(Pte::WRITE | Pte::C) {
            bits |= Pte::WRITE | Pte::C;
        }
        Some(Self {
            ra,
            size,
            bits,
            referenced: theirs.contains(Pte::R),
        })
    }

    /// The leaf of `size`, which is not more than `self.size`.
    pub(super) const fn leaf(&self, size: PageSize) -> u64 {
        self.bits.bits() | (self.ra.0 & !size.bytes().wrapping_sub(1) & pte::RPN)
    }

    /// Whether a shadow leaf gives no more than this.
    pub(super) fn covers(&self, shadow: &Leaf<Ra>) -> bool {
        self.referenced
            && shadow.at == self.ra
            && shadow.size <= self.size
            && shadow.entry & !pte::RPN & !self.bits.bits() == 0
    }
}

/// Whether the whole page of `size` around `at` is one piece of machine memory, aligned to it.
fn fits(ram: &GuestRam, at: Gra, size: PageSize) -> bool {
    let first = Gra(at.0 & !size.bytes().wrapping_sub(1));
    ram.translate(first)
        .is_some_and(|(ra, run)| ra.is_aligned(size.bytes()) && run >= size.bytes())
}

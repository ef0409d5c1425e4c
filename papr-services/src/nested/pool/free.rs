//! Which tables of a pool are free: chunks of 64 KiB, cut into pages, cut into pieces.
//!
//! Cutting is by sixteenths at both steps, so one [`Tier`] does both: a bitmap of free children per parent, a list of
//! parents that have some, and a parent whose children are all free goes back where it came from. The surprising fact:
//! nothing here touches the tables themselves. All of it is O(1); its arrays are allocated when the pool is made, never
//! later.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::TableSize;

const NONE: u32 = u32::MAX;
/// Children of a parent.
const PARTS: u32 = 16;

/// One step of cutting: parents and which of their sixteen children are free.
struct Tier {
    /// Free children; 0 for a parent that is not cut, or all of whose children are used.
    free: Box<[u16]>,
    /// Neighbours in the list of parents with free children.
    links: Box<[(u32, u32)]>,
    head: u32,
}

impl Tier {
    fn new(parents: u32) -> Self {
        let parents = usize::try_from(parents).unwrap_or(0);
        Self {
            free: vec![0; parents].into_boxed_slice(),
            links: vec![(NONE, NONE); parents].into_boxed_slice(),
            head: NONE,
        }
    }

    fn free_of(&mut self, parent: u32) -> Option<&mut u16> {
        self.free.get_mut(usize::try_from(parent).ok()?)
    }

    fn links_of(&mut self, parent: u32) -> Option<&mut (u32, u32)> {
        self.links.get_mut(usize::try_from(parent).ok()?)
    }

    fn enlist(&mut self, parent: u32) {
        let next = self.head;
        if let Some(links) = self.links_of(parent) {
            *links = (NONE, next);
            self.head = parent;
        }
        if let Some((previous, _)) = self.links_of(next) {
            *previous = parent;
        }
    }

    fn delist(&mut self, parent: u32) {
        let Some((previous, next)) = self.links_of(parent).copied() else {
            return;
        };
        match self.links_of(previous) {
            Some((_, forward)) => *forward = next,
            None => self.head = next,
        }
        if let Some((back, _)) = self.links_of(next) {
            *back = previous;
        }
    }

    /// A free child of a parent that is already cut.
    fn take(&mut self) -> Option<u32> {
        let parent = self.head;
        let free = self.free_of(parent)?;
        let child = free.trailing_zeros();
        *free &= free.wrapping_sub(1);
        if *free == 0 {
            self.delist(parent);
        }
        parent.checked_mul(PARTS)?.checked_add(child)
    }

    /// Cuts a parent: all of its children are free.
    fn cut(&mut self, parent: u32) {
        if let Some(free) = self.free_of(parent) {
            *free = u16::MAX;
            self.enlist(parent);
        }
    }

    /// Takes a child back; answers its parent when that is whole again, and forgets it.
    fn give(&mut self, child: u32) -> Option<u32> {
        let (parent, bit) = (child / PARTS, 1_u16.wrapping_shl(child % PARTS));
        let free = self.free_of(parent)?;
        let before = *free;
        *free |= bit;
        if *free == u16::MAX {
            *free = 0;
            if before != 0 {
                self.delist(parent);
            }
            return Some(parent);
        }
        if before == 0 {
            self.enlist(parent);
        }
        None
    }
}

/// Which tables are free.
pub(super) struct FreeTables {
    /// Whole chunks, by number; its capacity is all of them.
    chunks: Vec<u32>,
    /// Chunks cut into pages.
    pages: Tier,
    /// Pages cut into pieces.
    pieces: Tier,
    /// Bytes that are in tables.
    pub(super) in_use: u64,
}

impl FreeTables {
    pub(super) fn new(chunks: u32) -> Self {
        Self {
            // Low ones first.
            chunks: (0..chunks).rev().collect(),
            pages: Tier::new(chunks),
            pieces: Tier::new(chunks.saturating_mul(PARTS)),
            in_use: 0,
        }
    }

    /// A free table, as an offset in the pool.
    pub(super) fn take(&mut self, size: TableSize) -> Option<u64> {
        let number = match size {
            TableSize::Chunk => self.chunks.pop(),
            TableSize::Page => self.take_page(),
            TableSize::Piece => self.take_piece(),
        }?;
        self.in_use = self.in_use.saturating_add(size.bytes());
        Some(u64::from(number).wrapping_shl(size.shift()))
    }

    fn take_page(&mut self) -> Option<u32> {
        self.pages.take().or_else(|| {
            let chunk = self.chunks.pop()?;
            self.pages.cut(chunk);
            self.pages.take()
        })
    }

    fn take_piece(&mut self) -> Option<u32> {
        self.pieces.take().or_else(|| {
            let page = self.take_page()?;
            self.pieces.cut(page);
            self.pieces.take()
        })
    }

    pub(super) fn give(&mut self, offset: u64, size: TableSize) {
        let Ok(number) = u32::try_from(offset.wrapping_shr(size.shift())) else {
            return;
        };
        self.in_use = self.in_use.saturating_sub(size.bytes());
        let page = match size {
            TableSize::Chunk => return self.chunks.push(number),
            TableSize::Page => Some(number),
            TableSize::Piece => self.pieces.give(number),
        };
        if let Some(chunk) = page.and_then(|page| self.pages.give(page)) {
            self.chunks.push(chunk);
        }
    }
}

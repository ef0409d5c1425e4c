//! A partition's own tree: its memory, mapped by the largest leaves that its extents allow.
//!
//! The surprising fact: it is never walked by software. Calls look addresses up in the list of extents; the tree is
//! for hardware alone.

use isa::addr::{Gra, Ra};
use isa::pte::{self, PageSize, Pte};

use super::{Changed, Level, NoPlace, Place, Root, TableMemMut, place};
use crate::guest_ram::Extent;
use crate::nested::pool::{Table, TablePool};

/// A partition's own tree, made once from its extents. Holes are not mapped.
#[must_use = "the tables of the tree are lost with it"]
#[derive(Debug)]
pub struct PartitionTree {
    root: Table,
}

impl PartitionTree {
    /// Where it begins, for walks.
    #[must_use]
    pub fn root(&self) -> Root<Ra> {
        Root {
            base: self.root.ra(),
        }
    }

    /// First doubleword of the partition-table entry for it.
    #[must_use]
    pub fn partition_table_word(&self) -> u64 {
        pte::pate_root(self.root.ra().0)
    }

    /// Maps a page of 64 KiB of something that is not the partition's memory. Before the partition first runs: nothing is
    /// flushed.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn map_page(
        &self,
        pool: &TablePool,
        gra: Gra,
        ra: Ra,
        kind: PageKind,
    ) -> Result<(), BuildError> {
        map_leaf(pool, self.root(), gra, ra, PageSize::Size64K, kind.pte())
    }

    /// Maps such pages, all or none.
    ///
    /// # Errors
    /// [`BuildError`]; the tables made on the way stay the tree's.
    pub fn map_pages<I: Iterator<Item = (Gra, Ra)> + Clone>(
        &self,
        pool: &TablePool,
        pages: I,
        kind: PageKind,
    ) -> Result<(), BuildError> {
        for (done, (gra, ra)) in pages.clone().enumerate() {
            if let Err(error) = self.map_page(pool, gra, ra, kind) {
                for (gra, _) in pages.take(done) {
                    unmap_page(pool, self.root(), gra);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives all its tables back. The partition-table entry is gone and a flush has run: that is the caller's part.
    pub fn free(self, pool: &TablePool) {
        pool.free_tree(self.root, Level::Root);
    }
}

/// Why a partition's tree could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// The pool has no table left.
    OutOfTables,
    /// Two extents overlap, or one lies outside the 52-bit space or on no 64 KiB boundary.
    BadExtents,
}

/// What every leaf of a partition's own memory has. R and C are set from the start, so that no storage interrupt
/// comes for them; the partition does not see these.
const OWN_MEMORY: Pte = Pte::VALID
    .union(Pte::LEAF)
    .union(Pte::R)
    .union(Pte::C)
    .union(Pte::READ)
    .union(Pte::WRITE)
    .union(Pte::EXECUTE);

/// What a page is that is mapped besides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Registers of a device: loads and stores in order, each once.
    Device,
    /// Memory that the partition can only read.
    ReadOnly,
}

impl PageKind {
    const fn pte(self) -> Pte {
        let leaf = Pte::VALID.union(Pte::LEAF).union(Pte::R).union(Pte::READ);
        match self {
            Self::Device => leaf.union(Pte::C).union(Pte::WRITE).union(Pte::IO),
            Self::ReadOnly => leaf,
        }
    }
}

/// Builds the tree of a partition: every extent with the largest leaves that its two addresses allow.
///
/// # Errors
/// [`BuildError`]; no table is kept then.
pub fn build_partition_tree(
    pool: &TablePool,
    extents: &[Extent],
) -> Result<PartitionTree, BuildError> {
    let tree = PartitionTree {
        root: pool.allocate(Level::Root).ok_or(BuildError::OutOfTables)?,
    };
    match extents
        .iter()
        .try_for_each(|extent| map_extent(pool, tree.root(), extent))
    {
        Ok(()) => Ok(tree),
        Err(error) => {
            tree.free(pool);
            Err(error)
        }
    }
}

fn map_extent(pool: &TablePool, root: Root<Ra>, extent: &Extent) -> Result<(), BuildError> {
    const SIZES: [PageSize; 3] = [PageSize::Size1G, PageSize::Size2M, PageSize::Size64K];
    let (mut gra, mut ra, mut rest) = (extent.gra, extent.ra, extent.len());
    while rest != 0 {
        let size = SIZES
            .into_iter()
            .find(|s| rest >= s.bytes() && gra.is_aligned(s.bytes()) && ra.is_aligned(s.bytes()))
            .ok_or(BuildError::BadExtents)?;
        let end = gra.checked_add(size.bytes());
        let next_ra = ra.checked_add(size.bytes());
        let (Some(end), Some(next_ra)) = (end, next_ra) else {
            return Err(BuildError::BadExtents);
        };
        map_leaf(pool, root, gra, ra, size, OWN_MEMORY)?;
        (gra, ra, rest) = (end, next_ra, rest.saturating_sub(size.bytes()));
    }
    Ok(())
}

/// Maps one leaf where nothing is mapped.
fn map_leaf(
    pool: &TablePool,
    root: Root<Ra>,
    gra: Gra,
    ra: Ra,
    size: PageSize,
    pte: Pte,
) -> Result<(), BuildError> {
    let end = gra.0.checked_add(size.bytes());
    let fits = end.is_some_and(|end| end <= 1 << pte::ADDRESS_BITS) && ra.0 & !pte::RPN == 0;
    if !fits || !gra.is_aligned(size.bytes()) || !ra.is_aligned(size.bytes()) {
        return Err(BuildError::BadExtents);
    }
    match place(pool, root, gra, size) {
        Ok(Place::Slot {
            at,
            entry: 0,
            size: there,
        }) if there == size => pool
            .compare_exchange(at, 0, pte.bits() | ra.0)
            .map_err(|Changed| BuildError::BadExtents),
        Err(NoPlace::OutOfTables) => Err(BuildError::OutOfTables),
        Ok(Place::Slot { .. } | Place::Blocked { .. }) | Err(NoPlace::BadTree) => {
            Err(BuildError::BadExtents)
        }
    }
}

/// Takes a page of 64 KiB away that was just mapped, so all of its tables are there.
fn unmap_page(pool: &TablePool, root: Root<Ra>, gra: Gra) {
    if let Ok(Place::Slot { at, entry, size }) = place(pool, root, gra, PageSize::Size64K)
        && size == PageSize::Size64K
    {
        // Nobody else writes a tree that is not in use yet.
        let _ = pool.compare_exchange(at, entry, 0);
    }
}

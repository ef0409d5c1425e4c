//! Placeholder: no shadow tables yet, so no guest can be made (H_NOT_ENOUGH_RESOURCES) outside of tests.

use alloc::sync::Arc;

use isa::addr::{Gra, Ra};

use super::pool::{Table, TableQuota};
use crate::host::Flush;
use crate::radix::Level;

/// There is no memory for a table.
pub struct OutOfTables;

/// Shadow tables of a guest.
pub struct Shadow {
    quota: Arc<TableQuota>,
    root: Option<Table>,
    lpid: u32,
}

impl Shadow {
    /// None yet.
    ///
    /// # Errors
    /// Always, outside of tests.
    pub fn new(quota: Arc<TableQuota>, lpid: u32) -> Result<Self, OutOfTables> {
        if !cfg!(test) {
            return Err(OutOfTables);
        }
        let root = quota.allocate(Level::Root).ok_or(OutOfTables)?;
        Ok(Self {
            quota,
            root: Some(root),
            lpid,
        })
    }

    /// Where its root lies.
    #[must_use]
    pub fn root_ra(&self) -> Ra {
        self.root.as_ref().map_or(Ra(0), Table::ra)
    }

    /// Another tree is shadowed.
    pub fn set_table(&self, _root: Option<Gra>) -> Flush {
        Flush::Partition { lpid: self.lpid }
    }

    /// Drops all.
    pub fn clear(&self) -> Flush {
        Flush::Partition { lpid: self.lpid }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if let Some(root) = self.root.take() {
            self.quota.free(root);
        }
    }
}

//! Storage interrupts of nested guests: what they say, and what the partition is told about them (nested.md 2.4 and
//! 4.2). The surprising fact: ASDR holds only the page; the low bits are those of the effective address, unless the
//! access was to one of the guest's own tables.

use isa::addr::{Ea, Gra, Nra};
use isa::pte::Pte;

use crate::radix;

/// Cause bits of a storage interrupt, in HDSISR and in HSRR1 (nested.md 2.4).
pub mod cause {
    /// No translation.
    pub const NO_TRANSLATION: u32 = 0x4000_0000;
    /// No execute right (instruction storage).
    pub const NO_EXECUTE: u32 = 0x1000_0000;
    /// No right to read or write.
    pub const PROTECTION: u32 = 0x0800_0000;
    /// The access was a store.
    pub const STORE: u32 = 0x0200_0000;
    /// Malformed tree.
    pub const UNSUPPORTED_MMU: u32 = 0x0008_0000;
    /// The access was to a table; or, for the partition, an entry of its own tree is not in its memory.
    pub const TABLE: u32 = 0x0002_0000;
    /// In HSRR1 only: memory could not be updated.
    pub const HSRR1_UPDATE: u32 = 0x0001_0000;
}

/// Access that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data load.
    Load,
    /// Data store.
    Store,
    /// Instruction fetch.
    Fetch,
}

/// A storage interrupt of a nested guest that partition scope caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address, exact to the page.
    pub nra: Nra,
    /// What was tried.
    pub access: Access,
    /// It was the guest's own process table or tree that could not be read.
    pub table_walk: bool,
}

/// ASDR bits that are not an address.
const ASDR_TOP: u64 = 0xf << 60;

impl PageFault {
    /// The fault of a hypervisor data storage interrupt.
    #[must_use]
    pub const fn data(asdr: u64, hdar: Ea, hdsisr: u32) -> Self {
        let table_walk = hdsisr & cause::TABLE != 0;
        let access = if hdsisr & cause::STORE != 0 && !table_walk {
            Access::Store
        } else {
            Access::Load
        };
        Self {
            nra: address(asdr, hdar, table_walk),
            access,
            table_walk,
        }
    }

    /// The fault of a hypervisor instruction storage interrupt.
    #[must_use]
    pub const fn fetch(asdr: u64, nia: Ea, hsrr1: u64) -> Self {
        let table_walk = hsrr1 & cause::TABLE as u64 != 0;
        let access = if hsrr1 & cause::HSRR1_UPDATE as u64 != 0 {
            Access::Store
        } else if table_walk {
            Access::Load
        } else {
            Access::Fetch
        };
        Self {
            nra: address(asdr, nia, table_walk),
            access,
            table_walk,
        }
    }
}

/// ASDR has the page; the low bits are those of the effective address, unless the access was to a table.
const fn address(asdr: u64, effective: Ea, table_walk: bool) -> Nra {
    let real = asdr & !ASDR_TOP;
    if table_walk {
        Nra(real)
    } else {
        Nra((real & !0xfff) | (effective.0 & 0xfff))
    }
}

/// How a fault ends.
#[must_use = "a reflected fault goes to the partition"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page is mapped: resume the guest.
    Resolved,
    /// Someone changes the tables: resume the guest, it may fault again.
    Retry,
    /// The partition's tree does not allow the access: the partition gets the fault.
    Reflect {
        /// Cause bits, for HDSISR or HSRR1.
        cause: u32,
        /// When not the guest's address: what ASDR shall be.
        asdr: Option<u64>,
    },
}

/// What an access needs: one of these rights, these of R and C, and the cause when the right is missing.
pub(super) const fn needs(access: Access) -> (Pte, Pte, u32) {
    match access {
        // Write implies read.
        Access::Load => (Pte::READ.union(Pte::WRITE), Pte::R, cause::PROTECTION),
        Access::Store => (Pte::WRITE, Pte::R.union(Pte::C), cause::PROTECTION),
        Access::Fetch => (Pte::EXECUTE, Pte::R, cause::NO_EXECUTE),
    }
}

pub(super) fn reflect(fault: &PageFault, bits: u32) -> Outcome {
    let store = if fault.access == Access::Store {
        cause::STORE
    } else {
        0
    };
    let table = if fault.table_walk { cause::TABLE } else { 0 };
    Outcome::Reflect {
        cause: bits | store | table,
        asdr: None,
    }
}

pub(super) fn reflect_walk(fault: &PageFault, error: radix::Fault<Gra>) -> Outcome {
    match error {
        radix::Fault::NotMapped { .. } | radix::Fault::AddressTooLarge => {
            reflect(fault, cause::NO_TRANSLATION)
        }
        radix::Fault::BadTable { .. } | radix::Fault::BadLeaf { .. } => {
            reflect(fault, cause::UNSUPPORTED_MMU)
        }
        radix::Fault::Unreadable { at, .. } => match reflect(fault, cause::TABLE) {
            Outcome::Reflect { cause, .. } => Outcome::Reflect {
                cause,
                asdr: Some(at.0),
            },
            other @ (Outcome::Resolved | Outcome::Retry) => other,
        },
    }
}

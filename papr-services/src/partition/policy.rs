//! What is decided for a partition before it starts, and never changes: level, name, what it is told of speculation, and what its nested
//! guests may use.
//!
//! The surprise: what is said of speculation is hostboot's account of the processor; nothing else here depends on it.

use alloc::string::String;
use alloc::sync::Arc;

use crate::level::Level;
use crate::nested::guest::{Lpids, Quotas};
use crate::nested::pool::TableQuota;

/// What H_GET_CPU_CHARACTERISTICS says about speculation (LoPAR 14.5.6.12): bits in the manuals' numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Characteristics {
    /// What the processor has.
    pub character: u64,
    /// What the kernel should do.
    pub behaviour: u64,
}

impl Characteristics {
    /// POWER10 and Power11: they need no L1 data cache flush and no store-forwarding barrier; they do need the
    /// speculation barrier after bounds checks, and branch-cache and link-stack flushes, of which the hardware assists
    /// the first only (so says hostboot of POWER10 in the sample that skiboot keeps, `hdata/test/p10-rainier.dts`).
    pub const POWER10: Self = Self {
        // ori 31,31,0 is a barrier; branch hints are honoured; bcctr flush assist.
        character: isa::ppc_bit(0) | isa::ppc_bit(5) | isa::ppc_bit(9),
        // Favour security; bounds-check barrier; flush count cache and link stack; no flush on entry or user access;
        // no store-forwarding barrier.
        behaviour: isa::ppc_bit(0)
            | isa::ppc_bit(2)
            | isa::ppc_bit(5)
            | isa::ppc_bit(6)
            | isa::ppc_bit(7)
            | isa::ppc_bit(8)
            | isa::ppc_bit(9),
    };
}

/// What is decided for a partition before it starts, and never changes.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Processor level.
    pub level: Level,
    /// The partition's name.
    pub name: String,
    /// Whether random numbers are offered (H_RANDOM and its node).
    pub random: bool,
    /// Answer of H_GET_CPU_CHARACTERISTICS.
    pub characteristics: Characteristics,
}

/// What a partition may use for nested guests.
pub struct NestedShare {
    /// Limits.
    pub quotas: Quotas,
    /// Its share of table memory.
    pub tables: Arc<TableQuota>,
    /// The machine's free LPIDs.
    pub lpids: Arc<Lpids>,
}

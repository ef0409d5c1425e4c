//! The guest state elements as the caller knows them, independent of the firmware's table (nested.md 2.3): ids,
//! lengths, scopes, access.

/// Who an element belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// One value per guest.
    Guest,
    /// One per vCPU.
    Thread,
    /// One per partition.
    Host,
}

/// An element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// Id.
    pub id: u16,
    /// Bytes of the value.
    pub len: u16,
    /// Scope.
    pub scope: Scope,
    /// Whether SET takes it.
    pub writable: bool,
}

/// How a value that was set comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Exactly.
    Exact,
    /// A rule of its own: see the cases.
    Special,
}

/// Names of ids that several cases use.
pub(crate) mod id {
    pub(crate) const HOST_STATE_SIZE: u16 = 0x0001;
    pub(crate) const RUN_OUTPUT_MIN: u16 = 0x0002;
    pub(crate) const LOGICAL_PVR: u16 = 0x0003;
    pub(crate) const TB_OFFSET: u16 = 0x0004;
    pub(crate) const PARTITION_TABLE: u16 = 0x0005;
    pub(crate) const PROCESS_TABLE: u16 = 0x0006;
    pub(crate) const HEAP: u16 = 0x0800;
    pub(crate) const TABLES: u16 = 0x0802;
    pub(crate) const RUN_INPUT: u16 = 0x0c00;
    pub(crate) const RUN_OUTPUT: u16 = 0x0c01;
    pub(crate) const VPA: u16 = 0x0c02;
    pub(crate) const GPR0: u16 = 0x1000;
    pub(crate) const HDEC_EXPIRY: u16 = 0x1020;
    pub(crate) const NIA: u16 = 0x1021;
    pub(crate) const MSR: u16 = 0x1022;
    pub(crate) const XER: u16 = 0x1024;
    pub(crate) const DEC_EXPIRY: u16 = 0x102a;
    pub(crate) const LPCR: u16 = 0x102c;
    pub(crate) const HFSCR: u16 = 0x102d;
    pub(crate) const FSCR: u16 = 0x102e;
    pub(crate) const CIABR: u16 = 0x1032;
    pub(crate) const PPR: u16 = 0x103a;
    pub(crate) const AMOR: u16 = 0x1048;
    pub(crate) const HDEXCR: u16 = 0x104f;
    pub(crate) const CTRL: u16 = 0x1052;
    pub(crate) const DPDES: u16 = 0x1053;
    pub(crate) const PIDR: u16 = 0x2001;
    pub(crate) const DAWRX0: u16 = 0x2005;
    pub(crate) const DAWRX1: u16 = 0x2006;
    pub(crate) const VSR0: u16 = 0x3000;
    pub(crate) const HDAR: u16 = 0xf000;
    pub(crate) const HDSISR: u16 = 0xf001;
    pub(crate) const HEIR: u16 = 0xf002;
    pub(crate) const ASDR: u16 = 0xf003;
}

/// The element of an id.
#[must_use]
pub(crate) fn lookup(id: u16) -> Option<Element> {
    let (len, scope, writable) = match id {
        0x0001 | 0x0002 => (8, Scope::Guest, false),
        0x0003 => (4, Scope::Guest, true),
        0x0004 => (8, Scope::Guest, true),
        0x0005 => (24, Scope::Guest, true),
        0x0006 => (16, Scope::Guest, true),
        0x0800..=0x0804 => (8, Scope::Host, false),
        0x0c00 | 0x0c01 => (16, Scope::Thread, true),
        0x0c02 | 0x1000..=0x1053 => (8, Scope::Thread, true),
        0x2000..=0x200e => (4, Scope::Thread, true),
        0x3000..=0x303f => (16, Scope::Thread, true),
        0xf000 | 0xf002 | 0xf003 => (8, Scope::Thread, false),
        0xf001 => (4, Scope::Thread, false),
        _ => return None,
    };
    Some(Element {
        id,
        len,
        scope,
        writable,
    })
}

/// Every element.
pub(crate) fn all() -> impl Iterator<Item = Element> {
    (0..=u16::MAX).filter_map(lookup)
}

/// How an element's value comes back.
#[must_use]
pub(crate) fn rule(id: u16) -> Rule {
    match id {
        id::MSR
        | id::LPCR
        | id::HFSCR
        | id::CIABR
        | id::AMOR
        | id::HDEXCR
        | id::DPDES
        | id::CTRL
        | id::DAWRX0
        | id::DAWRX1
        | 0x0001..=0x0c02
        | 0xf000.. => Rule::Special,
        _ => Rule::Exact,
    }
}

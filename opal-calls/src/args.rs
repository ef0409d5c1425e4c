//! The arguments of OPAL calls as types: a register becomes one of these and is never a bare integer again.
//!
//! Every register value is some value of each type; a bad id or pointer is found where it is looked up. The
//! surprising fact: narrow arguments are cut from the low bits, because kernels extend them with sign or with zeros
//! as their own prototype happens to say.

/// Makes an argument out of a register.
pub trait FromReg {
    /// What kind of argument it is.
    const CLASS: Class;

    /// The argument in `raw`.
    fn from_reg(raw: u64) -> Self;
}

/// What can be wrong with an argument: tells a test what to try, and a reader of a trace what a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A plain number.
    Value,
    /// Names something that may not exist.
    Id,
    /// An address that the kernel claims is its memory.
    Pointer,
}

macro_rules! integers {
    ($($ty:ident by $mask:literal;)*) => { $(
        impl FromReg for $ty {
            const CLASS: Class = Class::Value;

            #[expect(clippy::allow_attributes, reason = "only some of the types make the cast lossy")]
            #[allow(clippy::cast_possible_truncation, reason = "the mask keeps what fits")]
            fn from_reg(raw: u64) -> Self {
                (raw & $mask) as Self
            }
        }
    )* };
}

integers! {
    u64 by 0xffff_ffff_ffff_ffff;
    u32 by 0xffff_ffff;
    u16 by 0xffff;
    u8 by 0xff;
}

impl FromReg for i64 {
    const CLASS: Class = Class::Value;

    fn from_reg(raw: u64) -> Self {
        raw.cast_signed()
    }
}

impl FromReg for i32 {
    const CLASS: Class = Class::Value;

    fn from_reg(raw: u64) -> Self {
        u32::from_reg(raw).cast_signed()
    }
}

impl FromReg for bool {
    const CLASS: Class = Class::Value;

    fn from_reg(raw: u64) -> Self {
        u8::from_reg(raw) != 0
    }
}

macro_rules! arguments {
    ($( $(#[doc = $doc:literal])* $name:ident ( $raw:ty ) $class:ident; )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $raw);

        impl FromReg for $name {
            const CLASS: Class = Class::$class;

            fn from_reg(raw: u64) -> Self {
                Self(FromReg::from_reg(raw))
            }
        }
    )* };
}

arguments! {
    /// Address of memory of the kernel, real or in its linear map. An allegation until
    /// [`OsMap::check`](crate::os_memory::OsMap::check) looked at it.
    OsAddr(u64) Pointer;
    /// Terminal number; only 0 exists.
    Term(i64) Id;
    /// Hardware thread, by PIR.
    Server(u64) Id;
    /// Hardware thread by PIR, or -1 for all but the caller; other negative values mean nothing.
    ServerOrOthers(i32) Id;
    /// Processor chip, as `ibm,chip-id`.
    ChipId(u32) Id;
    /// Interrupt source number of the firmware's own sources, as in `opal-interrupts`.
    Isn(u32) Id;
    /// Global interrupt number of the XIVE: block << 24 | index; bit 28 marks an escalation.
    Girq(u32) Id;
    /// Virtual processor of the XIVE (opal.md 3.3).
    VpId(u64) Id;
    /// PCI host bridge, as `ibm,opal-phbid`.
    PhbId(u64) Id;
    /// PCI host bridge, or slot: phbid | slot << 48.
    PciId(u64) Id;
    /// Partitionable endpoint of a PCI host bridge.
    Pe(u64) Id;
    /// PCI bus << 8 | device << 3 | function.
    Bdfn(u64) Id;
    /// Number that the kernel gives an operation whose end it wants to hear of.
    AsyncToken(u64) Id;
    /// Sensor, group of sensors or power limit, as in the device tree.
    Handle(u32) Id;
    /// Node of the device tree.
    Phandle(u32) Id;
    /// Flash device, as `ibm,opal-id`.
    FlashId(u64) Id;
    /// I2C bus, as `ibm,opal-id`.
    I2cBus(u32) Id;
    /// IPMI interface; only 0 exists.
    IpmiInterface(u64) Id;
}

impl ServerOrOthers {
    /// The one thread that is meant; `None` for any negative value.
    #[must_use]
    pub fn server(self) -> Option<Server> {
        u64::try_from(self.0).ok().map(Server)
    }

    /// Whether all threads but the caller are meant.
    #[must_use]
    pub const fn is_others(self) -> bool {
        self.0 == -1
    }
}

#[cfg(test)]
mod tests {
    use super::{ChipId, FromReg, Server, ServerOrOthers, Term};

    #[test]
    fn narrow_arguments_ignore_the_high_half() {
        assert_eq!(u8::from_reg(0x1234_5678_9abc_def0), 0xf0);
        assert_eq!(u16::from_reg(0x1234_5678_9abc_def0), 0xdef0);
        assert_eq!(ChipId::from_reg(0xffff_ffff_0000_0003), ChipId(3));
        assert_eq!(ChipId::from_reg(u64::MAX), ChipId(0xffff_ffff));
        assert!(bool::from_reg(0x2) && !bool::from_reg(0x100));
    }

    #[test]
    fn others_is_minus_one_however_it_was_extended() {
        for raw in [u64::MAX, 0xffff_ffff] {
            let target = ServerOrOthers::from_reg(raw);
            assert!(target.is_others());
            assert_eq!(target.server(), None);
        }
        assert_eq!(ServerOrOthers(-2).server(), None);
        assert!(!ServerOrOthers(-2).is_others());
        assert_eq!(ServerOrOthers::from_reg(7).server(), Some(Server(7)));
    }

    #[test]
    fn terminals_are_signed() {
        assert_eq!(Term::from_reg(u64::MAX), Term(-1));
    }
}

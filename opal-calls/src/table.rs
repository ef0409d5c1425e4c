//! The shape of the OPAL table: what a row holds, and the macro that makes constants, decoding and data of the rows.
//!
//! The rows themselves are in [`crate::calls`]. A row says whether the firmware has a handler (`served`, `absent`, or
//! `unused` for a number that never had a meaning) and what the machine must have for the call to exist.
//!
//! The surprising fact: the variant of a row that is not served holds an [`Absent`], a type without values. It can
//! neither be made nor matched, so a `match` over the calls needs exactly one arm per served row:
//!
//! ```
//! mod contract {
//!     opal_calls::opal_calls! {
//!         #[doc = " Has a handler."] 0 OPAL_HERE(arg: u64) served Always;
//!         #[doc = " Has none."]      1 OPAL_GONE(arg: u64) absent Always;
//!     }
//! }
//! fn serve(call: contract::Call) -> u64 {
//!     match call {
//!         contract::Call::OPAL_HERE { arg, .. } => arg,
//!     }
//! }
//! assert_eq!(contract::Call::decode(0, [7; 8]).map(serve), Some(7));
//! assert!(contract::Call::decode(1, [7; 8]).is_none());
//! ```
//!
//! A row that becomes served does not compile until it has an arm:
//!
//! ```compile_fail,E0004
//! mod contract {
//!     opal_calls::opal_calls! {
//!         #[doc = " Has a handler."] 0 OPAL_HERE(arg: u64) served Always;
//!         #[doc = " Has none."]      1 OPAL_GONE(arg: u64) served Always;
//!     }
//! }
//! fn serve(call: contract::Call) -> u64 {
//!     match call {
//!         contract::Call::OPAL_HERE { arg, .. } => arg,
//!     }
//! }
//! ```

use crate::args::Class;

/// Marks the variant of a served row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served;

/// Marks the variant of any other row: there is no value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {}

/// Whether a call has a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has one.
    Served,
    /// It has none: OPAL_UNSUPPORTED.
    Absent,
    /// The number never had a meaning: OPAL_PARAMETER.
    Unused,
}

/// What a machine must have for a call to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Facility {
    /// Nothing in particular.
    Always,
    /// A console.
    Console,
    /// A clock that keeps the date.
    Rtc,
    /// NVRAM.
    Nvram,
    /// A XIVE2 interrupt controller.
    Xive,
    /// PCI host bridges.
    Phb,
    /// A nest MMU.
    Nmmu,
    /// An LPC bus that the kernel may use.
    Lpc,
    /// A way to a BMC that speaks IPMI.
    Ipmi,
    /// I2C buses.
    I2c,
    /// Flash.
    Flash,
    /// Processor runtime diagnostics.
    Prd,
    /// Sensors.
    Sensors,
    /// An on-chip controller that takes commands.
    Occ,
    /// In-memory counters (an IMA catalogue).
    Imc,
    /// OpenCAPI links.
    OpenCapi,
    /// NX coprocessors.
    Nx,
    /// Memory-preserving IPL.
    Mpipl,
    /// Secure variables.
    Secvar,
    /// Idle states that lose registers, which something has to restore. None is offered.
    DeepStop,
    /// A flexible service processor: not on these machines.
    Fsp,
    /// A chip before POWER10: not on these machines.
    OlderChip,
    /// Never implemented by anyone, or withdrawn: not on any machine.
    Never,
}

impl Facility {
    /// Whether a POWER10 or Power11 machine can have it.
    #[must_use]
    pub const fn can_exist(self) -> bool {
        !matches!(self, Self::Fsp | Self::OlderChip | Self::Never)
    }

    const fn bit(self) -> u32 {
        1_u32.wrapping_shl(self as u32)
    }
}

/// What this machine has. Filled where devices are wired to services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facilities(u32);

impl Facilities {
    /// A machine with nothing in particular.
    pub const NONE: Self = Self(Facility::Always.bit());

    /// This and `facility`, unless that cannot exist.
    #[must_use]
    pub const fn with(self, facility: Facility) -> Self {
        if facility.can_exist() {
            Self(self.0 | facility.bit())
        } else {
            self
        }
    }

    /// Whether the machine has it.
    #[must_use]
    pub const fn has(self, facility: Facility) -> bool {
        self.0 & facility.bit() != 0
    }
}

/// How a call behaves at entry and exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// May be called from a machine check or system reset that interrupted another call on the same thread.
    pub reentrant: bool,
    /// Tells the kernel of events itself: one that is raised inside needs no interrupt.
    pub reports_events: bool,
    /// May not come back to its caller.
    pub no_return: bool,
    /// Takes long by nature: nobody is told.
    pub slow: bool,
}

impl Flags {
    /// An ordinary call.
    pub const NONE: Self = Self {
        reentrant: false,
        reports_events: false,
        no_return: false,
        slow: false,
    };
}

/// One argument as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Name.
    pub name: &'static str,
    /// Its Rust type.
    pub ty: &'static str,
    /// What can be wrong with it.
    pub class: Class,
}

/// One call as data.
#[derive(Debug)]
pub struct Row {
    /// Number in r0.
    pub token: u64,
    /// Name as in the public header.
    pub name: &'static str,
    /// Arguments, r3 first.
    pub args: &'static [Arg],
    /// Whether there is a handler.
    pub state: State,
    /// What the machine must have.
    pub needs: Facility,
    /// Behaviour at entry and exit.
    pub flags: Flags,
    /// What it does.
    pub doc: &'static str,
}

impl Row {
    /// Whether a kernel on a machine with `have` can call it: the answer of OPAL_CHECK_TOKEN.
    #[must_use]
    pub const fn is_served(&self, have: Facilities) -> bool {
        matches!(self.state, State::Served) && have.has(self.needs)
    }

    /// Whether it may answer OPAL_ASYNC_COMPLETION: it takes the number for that.
    #[must_use]
    pub fn is_async(&self) -> bool {
        self.args.iter().any(|arg| arg.ty == "AsyncToken")
    }
}

/// Makes `token`, `Call` and `TABLE` of rows `TOKEN NAME(arg: Type, ...) state Facility [flags];`.
#[macro_export]
#[doc(hidden)]
macro_rules! opal_calls {
    (@presence served) => { $crate::table::Served };
    (@presence $other:ident) => { $crate::table::Absent };

    (@state served) => { $crate::table::State::Served };
    (@state absent) => { $crate::table::State::Absent };
    (@state unused) => { $crate::table::State::Unused };

    (@decode served $regs:ident $C:ident $($arg:ident)*) => {
        Some(Self::$C {
            $($arg: $crate::args::FromReg::from_reg($regs.next()?),)*
            presence: $crate::table::Served,
        })
    };
    (@decode $other:ident $regs:ident $C:ident $($arg:ident)*) => { None };

    ($( $(#[doc = $doc:literal])*
        $token:literal $C:ident ( $($arg:ident : $ty:ty),* ) $state:ident $needs:ident $([$($flag:ident)*])? ; )*) => {
        /// API tokens (r0).
        pub mod token {
            $( $(#[doc = $doc])* pub const $C: u64 = $token; )*
        }

        /// A call with its arguments decoded.
        #[expect(non_camel_case_types, reason = "the ABI's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call {
            $( $(#[doc = $doc])* $C {
                $( #[doc = concat!("Argument `", stringify!($arg), "`.")] $arg: $ty, )*
                /// Makes the variant possible, or impossible when the row is not served.
                presence: $crate::opal_calls!(@presence $state),
            }, )*
        }

        impl Call {
            /// Decodes r0 and r3..=r10. `None`: there is no handler.
            #[must_use]
            pub fn decode(token: u64, regs: [u64; 8]) -> Option<Self> {
                let mut regs = regs.into_iter();
                let _ = &mut regs;
                match token {
                    $( $token => $crate::opal_calls!(@decode $state regs $C $($arg)*), )*
                    _ => None,
                }
            }
        }

        /// The table, in the order of the rows.
        pub static TABLE: &[$crate::table::Row] = &[ $( $crate::table::Row {
            token: $token,
            name: stringify!($C),
            args: &[ $( $crate::table::Arg {
                name: stringify!($arg),
                ty: stringify!($ty),
                class: <$ty as $crate::args::FromReg>::CLASS,
            } ),* ],
            state: $crate::opal_calls!(@state $state),
            needs: $crate::table::Facility::$needs,
            flags: $crate::table::Flags { $($($flag: true,)*)? ..$crate::table::Flags::NONE },
            doc: concat!($($doc),*),
        } ),* ];
    };
}

#[cfg(test)]
mod tests {
    use super::{Facilities, Facility};

    #[expect(
        unreachable_pub,
        dead_code,
        reason = "the macro is made for a public module; an absent row is never made"
    )]
    mod contract {
        use crate::args::{ChipId, OsAddr};

        crate::opal_calls! {
            /// First.
            0 OPAL_FIRST(chip: ChipId, buf: OsAddr) served Always [reentrant no_return];
            /// Not there.
            1 OPAL_SECOND(token: u64) absent Always;
            /// Third.
            2 OPAL_THIRD() served Xive;
        }
    }
    use contract::{Call, TABLE, token};

    /// Three rows, two arms: it compiles because the second row is absent.
    fn serve(call: Call) -> u64 {
        match call {
            Call::OPAL_FIRST { chip, buf, .. } => u64::from(chip.0) + buf.0,
            Call::OPAL_THIRD { .. } => 3,
        }
    }

    #[test]
    fn arguments_come_from_r3_up() {
        let call = Call::decode(token::OPAL_FIRST, [1, 20, 300, 0, 0, 0, 0, 0]);
        assert_eq!(call.map(serve), Some(21));
        assert_eq!(Call::decode(token::OPAL_THIRD, [0; 8]).map(serve), Some(3));
    }

    #[test]
    fn what_is_not_served_does_not_decode() {
        assert_eq!(Call::decode(token::OPAL_SECOND, [0; 8]), None);
        assert_eq!(Call::decode(3, [0; 8]), None);
    }

    #[test]
    fn presence_needs_a_handler_and_the_machine() {
        let bare = Facilities::NONE;
        let served = |have| {
            TABLE
                .iter()
                .map(|row| row.is_served(have))
                .collect::<std::vec::Vec<_>>()
        };
        assert_eq!(served(bare), [true, false, false]);
        assert_eq!(served(bare.with(Facility::Xive)), [true, false, true]);
    }

    #[test]
    fn no_machine_has_what_cannot_exist() {
        for facility in [Facility::Fsp, Facility::OlderChip, Facility::Never] {
            assert!(!Facilities::NONE.with(facility).has(facility));
        }
    }

    #[test]
    fn flags_are_those_of_the_row() {
        let flags = TABLE[0].flags;
        assert!(flags.reentrant && flags.no_return && !flags.slow && !flags.reports_events);
        assert!(!TABLE[2].flags.reentrant);
    }
}

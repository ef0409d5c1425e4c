//! The return codes of hypercalls, with PAPR's numbers and names (LoPAR 14.1.1 and the nested API's additions).
//!
//! [`HCode`] is what goes to r3. A handler returns `Result<Outputs, Refusal>`; codes that are not failures but carry
//! outputs too (H_PARTIAL, H_LONG_BUSY...) are refusals as well: r3 is not H_SUCCESS.

/// Declares the codes once: name, number, documentation.
macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $name:ident = $value:literal; )*) => {
        /// A code in r3 other than H_SUCCESS.
        #[expect(non_camel_case_types, reason = "the ABI's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum HCode {
            $( $(#[doc = $doc])* $name, )*
            /// A reserved flag bit was set; the bit in IBM numbering (0 is the most significant).
            H_UNSUPPORTED_FLAG(u8),
        }

        impl HCode {
            /// The number for r3.
            #[must_use]
            pub fn code(self) -> i64 {
                match self {
                    $( Self::$name => $value, )*
                    Self::H_UNSUPPORTED_FLAG(bit) => (-256_i64).saturating_sub(i64::from(bit)),
                }
            }
        }

        /// Every code but the flag range, for tables and tests.
        pub const CODES: &[(&str, i64)] = &[ $( (stringify!($name), $value) ),* ];
    };
}

codes! {
    /// Try again at once.
    H_BUSY = 1;
    /// The resource is closed.
    H_CLOSED = 2;
    /// Not available now.
    H_NOT_AVAILABLE = 3;
    /// Done within limits.
    H_CONSTRAINED = 4;
    /// Done in part.
    H_PARTIAL = 5;
    /// Under way.
    H_IN_PROGRESS = 14;
    /// An interrupt is pending.
    H_PENDING = 17;
    /// Continue without waiting.
    H_CONTINUE = 18;
    /// Try again in 1 ms.
    H_LONG_BUSY_ORDER_1_MSEC = 9900;
    /// Try again in 10 ms.
    H_LONG_BUSY_ORDER_10_MSEC = 9901;
    /// Try again in 100 ms.
    H_LONG_BUSY_ORDER_100_MSEC = 9902;
    /// Hardware, or an invariant of the firmware, failed.
    H_HARDWARE = -1;
    /// No such function.
    H_FUNCTION = -2;
    /// Not from this state of the processor.
    H_PRIVILEGE = -3;
    /// A parameter (the first one, in newer calls) is bad.
    H_PARAMETER = -4;
    /// Not in this mode.
    H_BAD_MODE = -5;
    /// Not found.
    H_NOT_FOUND = -7;
    /// Out of memory.
    H_NO_MEM = -9;
    /// Not authorised.
    H_AUTHORITY = -10;
    /// Not permitted.
    H_PERMISSION = -11;
    /// Dropped.
    H_DROPPED = -12;
    /// A resource is in use or missing.
    H_RESOURCE = -16;
    /// Not enough resources.
    H_NOT_ENOUGH_RESOURCES = -44;
    /// Aborted.
    H_ABORTED = -54;
    /// Second parameter is bad.
    H_P2 = -55;
    /// Third parameter is bad.
    H_P3 = -56;
    /// Fourth parameter is bad.
    H_P4 = -57;
    /// Fifth parameter is bad.
    H_P5 = -58;
    /// Sixth parameter is bad.
    H_P6 = -59;
    /// Nothing to do.
    H_NOOP = -63;
    /// Too big.
    H_TOO_BIG = -64;
    /// Unsupported.
    H_UNSUPPORTED = -67;
    /// Overlap.
    H_OVERLAP = -68;
    /// Not in this state.
    H_STATE = -75;
    /// In use.
    H_IN_USE = -77;
    /// Guest state element id is unknown, or not allowed here.
    H_INVALID_ELEMENT_ID = -79;
    /// Guest state element has the wrong size.
    H_INVALID_ELEMENT_SIZE = -80;
    /// Guest state element has a forbidden value.
    H_INVALID_ELEMENT_VALUE = -81;
    /// The run input buffer was never set.
    H_INPUT_BUFFER_NOT_DEFINED = -82;
    /// The run input buffer ends inside an element.
    H_INPUT_BUFFER_TOO_SMALL = -83;
    /// The run output buffer was never set, or is gone.
    H_OUTPUT_BUFFER_NOT_DEFINED = -84;
    /// The run output buffer is smaller than the reported minimum.
    H_OUTPUT_BUFFER_TOO_SMALL = -85;
    /// The guest has no partition table.
    H_PARTITION_PAGE_TABLE_NOT_DEFINED = -86;
    /// The vCPU's state is not owned by the hypervisor.
    H_GUEST_VCPU_STATE_NOT_HV_OWNED = -87;
}

/// Most outputs any served call has, from r4. The convention allows nine (to r12); a short array is cheap to move.
pub const MAX_OUTPUTS: usize = 4;

/// Output registers from r4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    values: [u64; MAX_OUTPUTS],
    count: usize,
}

impl Outputs {
    /// No output.
    pub const NONE: Self = Self {
        values: [0; MAX_OUTPUTS],
        count: 0,
    };

    /// The outputs, r4 first.
    #[must_use]
    pub fn as_slice(&self) -> &[u64] {
        self.values.get(..self.count).unwrap_or(&[])
    }
}

impl<const N: usize> From<[u64; N]> for Outputs {
    fn from(values: [u64; N]) -> Self {
        const { assert!(N <= MAX_OUTPUTS) };
        let mut out = Self {
            values: [0; MAX_OUTPUTS],
            count: N,
        };
        for (slot, value) in out.values.iter_mut().zip(values) {
            *slot = value;
        }
        out
    }
}

/// A call that ends with something else than H_SUCCESS: the code, and what goes with it from r4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For r3.
    pub code: HCode,
    /// From r4; empty for most codes.
    pub outputs: Outputs,
}

impl Refusal {
    /// A code with outputs, for example the index of a bad element.
    #[must_use]
    pub fn with(code: HCode, outputs: impl Into<Outputs>) -> Self {
        Self {
            code,
            outputs: outputs.into(),
        }
    }
}

impl From<HCode> for Refusal {
    fn from(code: HCode) -> Self {
        Self {
            code,
            outputs: Outputs::NONE,
        }
    }
}

/// What a handler answers.
pub type Answer = Result<Outputs, Refusal>;

#[cfg(test)]
mod tests {
    use super::{CODES, HCode, Outputs};

    #[test]
    fn codes_are_unique() {
        for (i, (name, value)) in CODES.iter().enumerate() {
            assert!(
                CODES[..i].iter().all(|(n, v)| n != name && v != value),
                "{name}"
            );
        }
    }

    #[test]
    fn unsupported_flag_counts_from_the_top() {
        assert_eq!(HCode::H_UNSUPPORTED_FLAG(0).code(), -256);
        assert_eq!(HCode::H_UNSUPPORTED_FLAG(63).code(), -319);
    }

    #[test]
    fn outputs_keep_their_count() {
        assert_eq!(Outputs::from([1, 2]).as_slice(), &[1, 2]);
        assert_eq!(Outputs::NONE.as_slice(), &[0u64; 0]);
    }
}

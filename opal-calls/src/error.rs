//! The return codes of OPAL calls, with the ABI's numbers and names, and how an answer becomes r3.
//!
//! The surprising fact: not every negative code is a failure (OPAL_ASYNC_COMPLETION), and not every success is zero:
//! several calls answer a count, a number or a time. [`Answer`] keeps the two apart, since a success has 32 bits.

/// Declares the codes once: name, number, documentation.
macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $name:ident = $value:literal; )*) => {
        /// A code in r3 other than success.
        #[expect(non_camel_case_types, reason = "the ABI's own names")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i64)]
        pub enum OpalError {
            $( $(#[doc = $doc])* $name = $value, )*
        }

        impl OpalError {
            /// The number for r3.
            #[must_use]
            pub const fn code(self) -> i64 {
                self as i64
            }

            /// The name, as the ABI spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$name => stringify!($name), )*
                }
            }
        }

        /// Every code.
        pub const CODES: &[OpalError] = &[ $( OpalError::$name ),* ];
    };
}

codes! {
    /// An argument is bad, or the token.
    OPAL_PARAMETER = -1;
    /// Try again later.
    OPAL_BUSY = -2;
    /// Done in part.
    OPAL_PARTIAL = -3;
    /// Not within these limits.
    OPAL_CONSTRAINED = -4;
    /// The other side is not there.
    OPAL_CLOSED = -5;
    /// Hardware failed.
    OPAL_HARDWARE = -6;
    /// This machine or firmware cannot do it.
    OPAL_UNSUPPORTED = -7;
    /// Not allowed.
    OPAL_PERMISSION = -8;
    /// The buffer, or memory of the firmware, is too small.
    OPAL_NO_MEM = -9;
    /// Nothing left to give.
    OPAL_RESOURCE = -10;
    /// An invariant of the firmware failed.
    OPAL_INTERNAL_ERROR = -11;
    /// Try again after OPAL_POLL_EVENTS.
    OPAL_BUSY_EVENT = -12;
    /// The PCI host bridge, or the endpoint, is frozen.
    OPAL_HARDWARE_FROZEN = -13;
    /// Not in this state.
    OPAL_WRONG_STATE = -14;
    /// Under way: a message will come.
    OPAL_ASYNC_COMPLETION = -15;
    /// Nothing there.
    OPAL_EMPTY = -16;
    /// I2C: time-out.
    OPAL_I2C_TIMEOUT = -17;
    /// I2C: invalid command.
    OPAL_I2C_INVALID_CMD = -18;
    /// I2C: parity error on the local bus.
    OPAL_I2C_LBUS_PARITY = -19;
    /// I2C: back-end overrun.
    OPAL_I2C_BKEND_OVERRUN = -20;
    /// I2C: back-end access error.
    OPAL_I2C_BKEND_ACCESS = -21;
    /// I2C: arbitration lost.
    OPAL_I2C_ARBT_LOST = -22;
    /// I2C: the device did not acknowledge.
    OPAL_I2C_NACK_RCVD = -23;
    /// I2C: error at stop.
    OPAL_I2C_STOP_ERR = -24;
    /// XSCOM: partial good.
    OPAL_XSCOM_PARTIAL_GOOD = -25;
    /// XSCOM: no such register.
    OPAL_XSCOM_ADDR_ERROR = -26;
    /// XSCOM: clock error.
    OPAL_XSCOM_CLOCK_ERROR = -27;
    /// XSCOM: parity error.
    OPAL_XSCOM_PARITY_ERROR = -28;
    /// XSCOM: time-out.
    OPAL_XSCOM_TIMEOUT = -29;
    /// XSCOM: the centaur is offline.
    OPAL_XSCOM_CTR_OFFLINED = -30;
    /// XIVE: donate a page and try again.
    OPAL_XIVE_PROVISIONING = -31;
    /// XIVE: a virtual processor of the block is still valid.
    OPAL_XIVE_FREE_ACTIVE = -32;
    /// Time-out.
    OPAL_TIMEOUT = -33;
}

impl OpalError {
    /// XSCOM: the unit is busy. The ABI's alias.
    pub const OPAL_XSCOM_BUSY: Self = Self::OPAL_BUSY;
    /// XSCOM: the chiplet is off. The ABI's alias.
    pub const OPAL_XSCOM_CHIPLET_OFF: Self = Self::OPAL_WRONG_STATE;
}

/// What a handler answers. A success is at most 32 bits wide, so it can never read as an error in r3.
pub type Answer = Result<u32, OpalError>;

/// Success without a value.
pub const SUCCESS: Answer = Ok(0);

/// The value of r3 for an answer.
#[must_use]
pub fn to_r3(answer: Answer) -> u64 {
    match answer {
        Ok(value) => u64::from(value),
        Err(error) => error.code().cast_unsigned(),
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::String;

    use super::{CODES, OpalError, SUCCESS, to_r3};

    /// `name value` of each `OPAL_*` return code, taken from the public header (open-power/skiboot,
    /// include/opal-api.h).
    const GOLDEN: &str = include_str!("../../tests/golden/opal-codes.txt");

    #[test]
    fn codes_are_those_of_the_public_header() {
        let mut ours = String::from("OPAL_SUCCESS,0\n");
        for code in CODES {
            ours += &format!("{},{}\n", code.name(), code.code());
        }
        assert_eq!(ours, GOLDEN);
    }

    #[test]
    fn answers_become_r3() {
        assert_eq!(to_r3(SUCCESS), 0);
        assert_eq!(to_r3(Ok(0xfeed_f00d)), 0xfeed_f00d);
        assert_eq!(to_r3(Err(OpalError::OPAL_PARAMETER)), u64::MAX);
        assert_eq!(to_r3(Err(OpalError::OPAL_TIMEOUT)), 0_u64.wrapping_sub(33));
    }
}

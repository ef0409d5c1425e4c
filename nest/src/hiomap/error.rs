//! Why the flash cannot be used.
//!
//! Surprising fact: most of these pass. A BMC that restarts refuses, is silent, and lets the bus go unanswered, in this order.

use core::fmt;

use crate::ipmi::IpmiError;
use crate::lpc::{FwError, OutOfRange};

/// Why the flash cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiomapError {
    /// The BMC did not answer, or refused.
    Bmc(IpmiError),
    /// It speaks a version that is not known.
    Version(u8),
    /// Its answer makes no sense: what of it.
    Nonsense(&'static str),
    /// The window was not accessed as it should: what was read is not what the flash has.
    Bus(FwError),
    /// The range is not within the flash.
    Outside,
    /// An erase that does not begin and end at an erase block.
    Misaligned,
    /// The BMC keeps the flash for itself, or its daemon is down: try again later.
    Lost,
    /// The whole operation took longer than it may.
    TooSlow,
}

impl HiomapError {
    /// Whether the BMC may only have restarted, or closed the window: then another window is worth a try.
    pub(super) const fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Bmc(IpmiError::Refused(_)) | Self::Bus(FwError::Bus(..))
        )
    }
}

impl From<IpmiError> for HiomapError {
    fn from(error: IpmiError) -> Self {
        Self::Bmc(error)
    }
}

impl From<FwError> for HiomapError {
    fn from(error: FwError) -> Self {
        match error {
            FwError::OutOfRange => OutOfRange.into(),
            FwError::Bus(..) => Self::Bus(error),
        }
    }
}

impl From<OutOfRange> for HiomapError {
    fn from(_: OutOfRange) -> Self {
        Self::Nonsense("a window outside the LPC space")
    }
}

impl fmt::Display for HiomapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bmc(error) => write!(f, "the BMC: {error}"),
            Self::Version(version) => write!(f, "the BMC speaks version {version} of HIOMAP"),
            Self::Nonsense(what) => write!(f, "the BMC answers nonsense: {what}"),
            Self::Bus(error) => write!(f, "the window: {error}"),
            Self::Outside => f.write_str("outside the flash"),
            Self::Misaligned => f.write_str("not whole erase blocks"),
            Self::Lost => f.write_str("the BMC has taken the flash for itself"),
            Self::TooSlow => f.write_str("the BMC takes too long"),
        }
    }
}

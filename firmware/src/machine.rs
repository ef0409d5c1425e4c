//! The devices that the firmware itself uses: console UART, clock, BMC. Interim: a UART only, polled.
#![expect(unsafe_code, reason = "interim access to the UART")]

use core::fmt;

use isa::cix;
use papr_services::host::{DateTime, DeviceError};

use crate::console::Sink;

/// What the BMC can do with the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Off.
    Off,
    /// Off and on again.
    Reset,
}

/// Why it was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerError {
    /// There is no BMC.
    NoBmc,
}

impl fmt::Display for PowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBmc => write!(f, "there is no BMC"),
        }
    }
}

/// The devices.
#[derive(Debug)]
pub struct Machine {
    uart: u64,
}

/// The machine's devices, found at their usual places.
pub static MACHINE: Machine = Machine {
    uart: 0x0006_0300_d001_03f8,
};

impl Machine {
    /// Writes console bytes; how many were taken.
    pub fn console_write(&self, bytes: &[u8]) -> usize {
        for byte in bytes {
            // SAFETY: the UART's line status and data ports.
            while unsafe { cix::load8(self.uart + 5) } & 0x20 == 0 {}
            // SAFETY: as above.
            unsafe { cix::store8(self.uart, *byte) };
        }
        bytes.len()
    }

    /// Takes console input; how many bytes were stored.
    pub fn console_read(&self, buffer: &mut [u8]) -> usize {
        let mut count = 0;
        for place in buffer {
            // SAFETY: the UART's line status and data ports.
            if unsafe { cix::load8(self.uart + 5) } & 1 == 0 {
                break;
            }
            // SAFETY: as above.
            *place = unsafe { cix::load8(self.uart) };
            count += 1;
        }
        count
    }

    /// Reads the clock.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn read_clock(&self) -> Result<DateTime, DeviceError> {
        Err(DeviceError)
    }

    /// Sets the clock.
    ///
    /// # Errors
    /// There is none, or it does not answer.
    pub fn set_clock(&self, _: DateTime) -> Result<(), DeviceError> {
        Err(DeviceError)
    }

    /// Asks the BMC; returns only if it did not happen.
    ///
    /// # Errors
    /// Why not.
    pub fn power(&self, _: PowerAction) -> Result<(), PowerError> {
        Err(PowerError::NoBmc)
    }

    /// Tells the BMC how far boot has come.
    pub fn progress(&self, _: u8) {}
}

impl Sink for Machine {
    fn write(&self, bytes: &[u8]) {
        self.console_write(bytes);
    }
    fn write_emergency(&self, bytes: &[u8]) {
        self.console_write(bytes);
    }
}

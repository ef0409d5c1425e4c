//! The virtual terminal (LoPAR 16.3): up to 16 characters per call, packed big-endian in two registers.
//!
//! Its input interrupt is a message, not a level: one is sent when input arrives and none again until the partition
//! has read the terminal empty, so that a partition that does not read is not interrupted for ever.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Answer, HCode, Outputs};
use crate::host::Host;

/// Unit address of the terminal in the tree.
pub const UNIT: u32 = 0x7100_0000;

/// Interrupt source of the terminal.
pub const SOURCE: u32 = 0x1100;

/// Most characters per call.
const CHARACTERS: usize = 16;

/// The virtual terminal of a partition.
pub struct Term {
    /// An interrupt for input was sent and the input was not read to its end.
    notified: AtomicBool,
}

/// Unit 0 is the first terminal, whatever its address.
fn check(unit: u64) -> Result<(), HCode> {
    match unit {
        0 => Ok(()),
        other if other == u64::from(UNIT) => Ok(()),
        _ => Err(HCode::H_PARAMETER),
    }
}

impl Term {
    pub(crate) const fn new() -> Self {
        Self {
            notified: AtomicBool::new(false),
        }
    }

    /// Writes characters, all or none.
    pub(crate) fn put<H: Host>(host: &H, unit: u64, len: u64, high: u64, low: u64) -> Answer {
        check(unit)?;
        let packed = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        let bytes = usize::try_from(len)
            .ok()
            .and_then(|len| packed.get(..len))
            .ok_or(HCode::H_PARAMETER)?;
        if host.console_write(bytes) < bytes.len() {
            return Err(HCode::H_BUSY.into());
        }
        Ok(Outputs::NONE)
    }

    /// Reads characters: count, then the characters.
    pub(crate) fn get<H: Host>(&self, host: &H, unit: u64) -> Answer {
        check(unit)?;
        let mut packed = [0; CHARACTERS];
        // Cleared before reading: input that comes after the read sends a new interrupt.
        let notified = self.notified.swap(false, Ordering::AcqRel);
        let count = host.console_read(&mut packed).min(CHARACTERS);
        if notified && count == CHARACTERS {
            // There may be more; the reader comes again without being told.
            self.notified.store(true, Ordering::Release);
        }
        for spare in packed.iter_mut().skip(count) {
            *spare = 0;
        }
        let packed = u128::from_be_bytes(packed);
        let [high, low] = [packed >> 64, packed & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).unwrap_or(0));
        Ok([count as u64, high, low].into())
    }

    /// Forgets that an interrupt was sent: who had it is gone.
    pub(crate) fn forget(&self) {
        self.notified.store(false, Ordering::Release);
    }

    /// Whether input that arrived now needs an interrupt.
    pub(crate) fn notify(&self) -> bool {
        !self.notified.swap(true, Ordering::AcqRel)
    }
}

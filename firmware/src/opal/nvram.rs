//! NVRAM in memory, formatted as kernels expect it (CHRP partitions, reference/opal.md 7.8).
//!
//! Surprising fact: it does not last. The machine keeps what a kernel writes until the power goes or the firmware
//! starts again; the flash is not driven yet.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use opal_calls::args::OsAddr;
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::os_memory::OsMemory;

use super::tree::{Describe, Draft};

/// Bytes: the firmware's partition, the kernel's, and some that are free.
const SIZE: usize = 0x1_2000;

/// Signature, bytes, name.
const PARTITIONS: [(u8, usize, &[u8; 12]); 3] = [
    (0x51, 0x1000, b"ibm,skiboot\0"),
    (0x70, 0x1_0000, b"common\0\0\0\0\0\0"),
    (0x7f, 0x1000, b"wwwwwwwwwwww"),
];
const UNIT: usize = 16;

/// The contents.
#[derive(Debug)]
pub struct Nvram(Vec<u8>);

impl Nvram {
    /// Freshly formatted.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = Vec::with_capacity(SIZE);
        for (signature, length, name) in PARTITIONS {
            let units = u16::try_from(length / UNIT).unwrap_or(u16::MAX);
            let end = bytes.len() + length;
            bytes.extend_from_slice(&[signature, checksum(signature, units, name)]);
            bytes.extend_from_slice(&units.to_be_bytes());
            bytes.extend_from_slice(name);
            bytes.resize(end, 0);
        }
        Self(bytes)
    }

    fn range(&mut self, offset: u64, size: u64) -> Result<&mut [u8], OpalError> {
        let bad = OpalError::OPAL_PARAMETER;
        let start = usize::try_from(offset).map_err(|_| bad)?;
        let end = usize::try_from(offset.checked_add(size).ok_or(bad)?).map_err(|_| bad)?;
        self.0.get_mut(start..end).ok_or(bad)
    }

    /// OPAL_READ_NVRAM.
    ///
    /// # Errors
    /// OPAL_PARAMETER: outside the NVRAM, or a bad buffer.
    pub fn read(&mut self, os: &impl OsMemory, buf: OsAddr, size: u64, offset: u64) -> Answer {
        os.write(buf, self.range(offset, size)?)?;
        SUCCESS
    }

    /// OPAL_WRITE_NVRAM.
    ///
    /// # Errors
    /// OPAL_PARAMETER: outside the NVRAM, or a bad buffer.
    pub fn write(&mut self, os: &impl OsMemory, buf: OsAddr, size: u64, offset: u64) -> Answer {
        os.read(buf, self.range(offset, size)?)?;
        SUCCESS
    }
}

impl Describe for Nvram {
    fn describe(&self, draft: &mut Draft) {
        draft.opal(|opal| {
            opal.node("nvram", |node| {
                node.set("compatible", "ibm,opal-nvram")
                    .set("#bytes", u32::try_from(self.0.len()).unwrap_or(u32::MAX));
            });
        });
    }
}

impl Default for Nvram {
    fn default() -> Self {
        Self::new()
    }
}

/// The sum of the header's bytes, carries added in again.
fn checksum(signature: u8, units: u16, name: &[u8; 12]) -> u8 {
    let bytes = [signature]
        .into_iter()
        .chain(units.to_be_bytes())
        .chain(*name);
    bytes.fold(0, |sum: u8, byte| {
        let (sum, carry) = sum.overflowing_add(byte);
        sum + u8::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opal_calls::os_memory::BadPointer;
    use std::sync::Mutex;

    struct Memory(Mutex<Vec<u8>>);

    impl OsMemory for Memory {
        fn check(&self, addr: OsAddr, len: u64) -> Result<(), BadPointer> {
            let end = addr.0.checked_add(len);
            (end.is_some_and(|end| end <= self.0.lock().unwrap().len() as u64))
                .then_some(())
                .ok_or(BadPointer { addr, len })
        }
        fn read(&self, addr: OsAddr, into: &mut [u8]) -> Result<(), BadPointer> {
            self.check(addr, into.len() as u64)?;
            let at = usize::try_from(addr.0).unwrap();
            into.copy_from_slice(&self.0.lock().unwrap()[at..at + into.len()]);
            Ok(())
        }
        fn write(&self, addr: OsAddr, from: &[u8]) -> Result<(), BadPointer> {
            self.check(addr, from.len() as u64)?;
            let at = usize::try_from(addr.0).unwrap();
            self.0.lock().unwrap()[at..at + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    #[test]
    fn partitions_fill_it_and_their_sums_are_right() {
        let nvram = Nvram::new();
        assert_eq!(nvram.0.len(), SIZE);
        let (mut at, mut names) = (0, Vec::new());
        while at < SIZE {
            let header = &nvram.0[at..at + 16];
            let sum = header[..1]
                .iter()
                .chain(&header[2..])
                .fold(0_u16, |sum, byte| {
                    let sum = sum + u16::from(*byte);
                    (sum & 0xff) + (sum >> 8)
                });
            assert_eq!(u16::from(header[1]), sum);
            names.push(header[0]);
            at += usize::from(u16::from_be_bytes([header[2], header[3]])) * 16;
        }
        assert_eq!((at, names), (SIZE, vec![0x51, 0x70, 0x7f]));
    }

    #[test]
    fn what_is_written_is_read_and_nothing_beyond() {
        let memory = Memory(Mutex::new(vec![7; 64]));
        let mut nvram = Nvram::new();
        assert_eq!(nvram.write(&memory, OsAddr(0), 8, 0x1100), SUCCESS);
        assert_eq!(nvram.read(&memory, OsAddr(32), 16, 0x10fc), SUCCESS);
        assert_eq!(
            memory.0.lock().unwrap()[32..48],
            [0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0]
        );
        let bad = Err(OpalError::OPAL_PARAMETER);
        for (buf, size, offset) in [
            (0, 8, SIZE as u64 - 7),
            (0, 1, u64::MAX),
            (0, u64::MAX, 1),
            (60, 8, 0),
        ] {
            assert_eq!(nvram.read(&memory, OsAddr(buf), size, offset), bad);
            assert_eq!(nvram.write(&memory, OsAddr(buf), size, offset), bad);
        }
    }
}

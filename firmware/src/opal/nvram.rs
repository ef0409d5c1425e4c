//! The calls and the node of NVRAM; where it lasts is [`crate::nvram`]'s matter.
//!
//! Surprising fact: a write that succeeded is in the flash; one that did not is read back all the same, until the next boot.
#![forbid(unsafe_code)]

use core::ops::Range;

use opal_calls::args::OsAddr;
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::os_memory::OsMemory;

use super::tree::{Describe, Draft};
use crate::nvram::{Nvram, NvramError};

fn range(offset: u64, size: u64) -> Result<Range<usize>, OpalError> {
    let bad = OpalError::OPAL_PARAMETER;
    let start = usize::try_from(offset).map_err(|_| bad)?;
    let end = usize::try_from(offset.checked_add(size).ok_or(bad)?).map_err(|_| bad)?;
    Ok(start..end)
}

const fn code(error: NvramError) -> OpalError {
    match error {
        NvramError::Outside => OpalError::OPAL_PARAMETER,
        NvramError::Flash(_) => OpalError::OPAL_HARDWARE,
    }
}

impl Nvram {
    /// OPAL_READ_NVRAM.
    ///
    /// # Errors
    /// OPAL_PARAMETER: outside the NVRAM, or a bad buffer. OPAL_HARDWARE: the flash does not answer.
    pub fn serve_read(
        &mut self,
        os: &impl OsMemory,
        buf: OsAddr,
        size: u64,
        offset: u64,
    ) -> Answer {
        os.write(buf, self.read(range(offset, size)?).map_err(code)?)?;
        SUCCESS
    }

    /// OPAL_WRITE_NVRAM.
    ///
    /// # Errors
    /// OPAL_PARAMETER: outside the NVRAM, or a bad buffer. OPAL_HARDWARE: the flash does not take it.
    pub fn serve_write(
        &mut self,
        os: &impl OsMemory,
        buf: OsAddr,
        size: u64,
        offset: u64,
    ) -> Answer {
        self.write(range(offset, size)?, |place| os.read(buf, place))
            .map_err(code)??;
        SUCCESS
    }
}

impl Describe for Nvram {
    fn describe(&self, draft: &mut Draft) {
        draft.opal(|opal| {
            opal.node("nvram", |node| {
                node.set("compatible", "ibm,opal-nvram")
                    .set("#bytes", u32::try_from(self.len()).unwrap_or(u32::MAX));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opal_calls::os_memory::BadPointer;
    use std::sync::Mutex;
    use std::vec::Vec;

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
    fn what_is_written_is_read_and_nothing_beyond() {
        let memory = Memory(Mutex::new(vec![7; 64]));
        let mut nvram = Nvram::in_memory();
        assert_eq!(nvram.serve_write(&memory, OsAddr(0), 8, 0x1100), SUCCESS);
        assert_eq!(nvram.serve_read(&memory, OsAddr(32), 16, 0x10fc), SUCCESS);
        assert_eq!(
            memory.0.lock().unwrap()[32..48],
            [0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0, 0]
        );
        let bad = Err(OpalError::OPAL_PARAMETER);
        let nvram_size = nvram.len() as u64;
        for (buf, size, offset) in [
            (0, 8, nvram_size - 7),
            (0, 1, u64::MAX),
            (0, u64::MAX, 1),
            (60, 8, 0),
        ] {
            assert_eq!(nvram.serve_read(&memory, OsAddr(buf), size, offset), bad);
            assert_eq!(nvram.serve_write(&memory, OsAddr(buf), size, offset), bad);
        }
    }
}

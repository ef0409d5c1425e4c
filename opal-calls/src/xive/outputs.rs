//! What the XIVE calls write into the kernel's memory, and the pointers they take.
//!
//! The surprising fact: most output pointers may be 0, which is memory too: it means that the kernel does not want the
//! value.

use arrayvec::ArrayVec;
use isa::addr::Ra;

use crate::args::OsAddr;
use crate::error::{Answer, OpalError, SUCCESS};
use crate::os_memory::OsMemory;

/// One thing to write into the kernel's memory.
#[derive(Clone, Copy)]
pub(super) enum Out {
    U8(OsAddr, u8),
    U32(OsAddr, u32),
    U64(OsAddr, u64),
}

impl Out {
    const fn place(self) -> (OsAddr, u64) {
        match self {
            Self::U8(at, _) => (at, 1),
            Self::U32(at, _) => (at, 4),
            Self::U64(at, _) => (at, 8),
        }
    }

    const fn is_wanted(self) -> bool {
        self.place().0.0 != 0
    }

    fn write(self, os: &impl OsMemory) -> Result<(), OpalError> {
        match self {
            Self::U8(at, value) => os.write_u8(at, value)?,
            Self::U32(at, value) => os.write_be32(at, value)?,
            Self::U64(at, value) => os.write_be64(at, value)?,
        }
        Ok(())
    }
}

/// Writes what is wanted, all or nothing.
pub(super) fn answer<const N: usize>(os: &impl OsMemory, outs: [Out; N]) -> Answer {
    let wanted: ArrayVec<Out, N> = outs.into_iter().filter(|out| out.is_wanted()).collect();
    for out in &wanted {
        let (at, len) = out.place();
        os.check(at, len)?;
    }
    for out in wanted {
        out.write(os)?;
    }
    SUCCESS
}

/// Refuses a pointer that the call cannot do without.
pub(super) fn needed(pointer: OsAddr) -> Result<(), OpalError> {
    if pointer.0 == 0 {
        return Err(OpalError::OPAL_PARAMETER);
    }
    Ok(())
}

/// The real address of `len` bytes of the kernel's memory.
pub(super) fn real(os: &impl OsMemory, addr: OsAddr, len: u64) -> Result<Ra, OpalError> {
    os.check(addr, len)?;
    // Real, or in the linear map: the check lets nothing else through.
    Ok(Ra(addr.0 & 0x0fff_ffff_ffff_ffff))
}

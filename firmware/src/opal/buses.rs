//! The calls that let a kernel at buses of the chip: LPC and SCOM.
//!
//! Surprising fact: what a kernel asks for here is done, whatever it does to the machine; it owns it.
#![forbid(unsafe_code)]

use nest::lpc::{ByteSpace, FwError, ProbeError};
use nest::scom::{ChipIndex, Scom as _, ScomAddr, ScomError};
use opal_calls::args::{ChipId, OsAddr};
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::nest_mmu::NestMmus;
use opal_calls::os_memory::OsMemory as _;

use super::serve::{Opal, SharedScom};
use super::units::Unit;

/// The nest MMUs, and the way to their registers.
pub(super) struct NestMmuUnits<'a>(pub(super) &'a [Unit], pub(super) &'a SharedScom);

impl NestMmus for NestMmuUnits<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn chip(&self, unit: usize) -> Option<ChipId> {
        self.0.get(unit).map(|unit| ChipId(unit.chip.0.into()))
    }

    fn set(&self, unit: usize, ptcr: u64) -> Result<(), OpalError> {
        const PTCR: u32 = 0xb;
        let unit = self.0.get(unit).ok_or(OpalError::OPAL_INTERNAL_ERROR)?;
        self.1
            .lock()
            .write(unit.chip, unit.base.plus(PTCR), ptcr)
            .map_err(scom_code)
    }
}

impl Opal {
    pub(super) fn lpc_read(
        &self,
        chip: ChipId,
        space: u32,
        addr: u32,
        size: u32,
    ) -> Result<u32, OpalError> {
        let mut bytes = [0; 4];
        let part = lpc_part(&mut bytes, chip, size)?;
        let bus = self.machine.bus();
        match LpcSpace::of(space)? {
            LpcSpace::Bytes(space) => bus.probe_bytes(space, addr, part).map_err(probe_code)?,
            LpcSpace::Firmware => {
                bus.fw_read(addr, part).map_err(fw_code)?;
                part.reverse();
            }
        }
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn lpc_write(
        &self,
        chip: ChipId,
        space: u32,
        addr: u32,
        data: u32,
        size: u32,
    ) -> Answer {
        let mut bytes = data.to_le_bytes();
        let part = lpc_part(&mut bytes, chip, size)?;
        let bus = self.machine.bus();
        match LpcSpace::of(space)? {
            LpcSpace::Bytes(space) => bus
                .probe_write_bytes(space, addr, part)
                .map_err(probe_code)?,
            LpcSpace::Firmware => {
                part.reverse();
                bus.fw_write(addr, part).map_err(fw_code)?;
            }
        }
        SUCCESS
    }
}

impl Opal {
    pub(super) fn xscom_read(&self, chip: ChipId, address: u64, value: OsAddr) -> Answer {
        self.os.check(value, 8)?;
        let (chip, address) = scom_place(chip, address)?;
        let read = self.xscom.lock().read(chip, address).map_err(scom_code)?;
        self.os.write_be64(value, read)?;
        SUCCESS
    }

    pub(super) fn xscom_write(&self, chip: ChipId, address: u64, value: u64) -> Answer {
        let (chip, address) = scom_place(chip, address)?;
        self.xscom
            .lock()
            .write(chip, address, value)
            .map_err(scom_code)?;
        SUCCESS
    }
}

/// The spaces of the bus.
enum LpcSpace {
    Bytes(ByteSpace),
    Firmware,
}

impl LpcSpace {
    /// The one with this number in the ABI.
    const fn of(number: u32) -> Result<Self, OpalError> {
        match number {
            0 => Ok(Self::Bytes(ByteSpace::Memory)),
            1 => Ok(Self::Bytes(ByteSpace::Io)),
            2 => Ok(Self::Firmware),
            _ => Err(OpalError::OPAL_PARAMETER),
        }
    }
}

const fn probe_code(error: ProbeError) -> OpalError {
    match error {
        ProbeError::OutOfRange => OpalError::OPAL_PARAMETER,
        ProbeError::NoAnswer => OpalError::OPAL_HARDWARE,
    }
}

const fn fw_code(error: FwError) -> OpalError {
    match error {
        FwError::OutOfRange => OpalError::OPAL_PARAMETER,
        FwError::Bus(..) => OpalError::OPAL_HARDWARE,
    }
}

/// The bytes of an access: 1, 2 or 4 on the one bus that is driven. IO and memory cycles of the bus are bytes, lowest
/// address first, least significant first.
fn lpc_part(bytes: &mut [u8; 4], chip: ChipId, size: u32) -> Result<&mut [u8], OpalError> {
    let size = match size {
        1 => 1,
        2 => 2,
        4 => 4,
        _ => return Err(OpalError::OPAL_PARAMETER),
    };
    if chip != ChipId(0) {
        return Err(OpalError::OPAL_PARAMETER);
    }
    bytes.get_mut(..size).ok_or(OpalError::OPAL_PARAMETER)
}

/// Chip ids are places on the fabric on all machines that are known. Indirect addresses are not driven.
fn scom_place(chip: ChipId, address: u64) -> Result<(ChipIndex, ScomAddr), OpalError> {
    if address >> 63 != 0 {
        return Err(OpalError::OPAL_UNSUPPORTED);
    }
    let chip = u8::try_from(chip.0).map_err(|_| OpalError::OPAL_PARAMETER)?;
    let address = u32::try_from(address).map_err(|_| OpalError::OPAL_PARAMETER)?;
    Ok((ChipIndex(chip), ScomAddr(address)))
}

pub(super) const fn scom_code(error: ScomError) -> OpalError {
    match error {
        ScomError::Busy => OpalError::OPAL_XSCOM_BUSY,
        ScomError::Offline => OpalError::OPAL_XSCOM_CHIPLET_OFF,
        ScomError::PartialGood => OpalError::OPAL_XSCOM_PARTIAL_GOOD,
        ScomError::Address => OpalError::OPAL_XSCOM_ADDR_ERROR,
        ScomError::Clock => OpalError::OPAL_XSCOM_CLOCK_ERROR,
        ScomError::Parity => OpalError::OPAL_XSCOM_PARITY_ERROR,
        ScomError::Timeout => OpalError::OPAL_XSCOM_TIMEOUT,
        ScomError::NoAnswer => OpalError::OPAL_HARDWARE,
        ScomError::NoChip | ScomError::BadAddress => OpalError::OPAL_PARAMETER,
    }
}

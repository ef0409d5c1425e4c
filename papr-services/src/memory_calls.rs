//! Hypercalls that touch the partition's own memory: H_PAGE_INIT, H_LOGICAL_CACHE_LOAD and H_LOGICAL_CACHE_STORE
//! (LoPAR 14.5.4.2 and 14.5.4.4).

use isa::addr::Gra;
use isa::ppc_bit;

use crate::error::{Answer, HCode, Outputs};
use crate::guest_ram::{GuestRam, OutOfRange};

impl From<OutOfRange> for HCode {
    fn from(_: OutOfRange) -> Self {
        Self::H_PARAMETER
    }
}

const PAGE: u64 = 0x1000;
const ZERO: u64 = ppc_bit(48);
const COPY: u64 = ppc_bit(49);
/// Instruction cache made coherent with the page: it always is on these processors.
const INSTRUCTION_CACHE: u64 = ppc_bit(40) | ppc_bit(41);

/// A page of the partition.
fn page(ram: &GuestRam, at: Gra) -> Result<(), HCode> {
    if at.is_aligned(PAGE) && ram.contains(at, PAGE) {
        Ok(())
    } else {
        Err(HCode::H_PARAMETER)
    }
}

pub(crate) fn page_init(ram: &GuestRam, flags: u64, destination: Gra, source: Gra) -> Answer {
    if flags & !(ZERO | COPY | INSTRUCTION_CACHE) != 0 {
        return Err(HCode::H_PARAMETER.into());
    }
    page(ram, destination)?;
    let copy = flags & COPY != 0;
    if copy {
        page(ram, source)?;
    }
    if !copy && flags & ZERO == 0 {
        return Ok(Outputs::NONE);
    }
    // A copy overwrites every byte that was to be zeroed.
    let mut piece = [0; 256];
    for offset in (0..PAGE).step_by(piece.len()) {
        let (Some(from), Some(to)) = (source.checked_add(offset), destination.checked_add(offset))
        else {
            return Err(HCode::H_PARAMETER.into());
        };
        if copy {
            ram.read(from, &mut piece).map_err(HCode::from)?;
        }
        ram.write(to, &piece).map_err(HCode::from)?;
    }
    Ok(Outputs::NONE)
}

/// Bytes of a load or store.
fn width(size: u64) -> Result<usize, HCode> {
    match size {
        1 => Ok(1),
        2 => Ok(2),
        4 => Ok(4),
        8 => Ok(8),
        _ => Err(HCode::H_PARAMETER),
    }
}

pub(crate) fn cache_load(ram: &GuestRam, size: u64, at: Gra) -> Answer {
    let mut bytes = [0; 8];
    let skip = 8_usize.saturating_sub(width(size)?);
    let (_, field) = bytes.split_at_mut(skip);
    ram.read(at, field).map_err(HCode::from)?;
    Ok([u64::from_be_bytes(bytes)].into())
}

pub(crate) fn cache_store(ram: &GuestRam, size: u64, at: Gra, value: u64) -> Answer {
    let bytes = value.to_be_bytes();
    let skip = 8_usize.saturating_sub(width(size)?);
    let (_, field) = bytes.split_at(skip);
    ram.write(at, field).map_err(HCode::from)?;
    Ok(Outputs::NONE)
}

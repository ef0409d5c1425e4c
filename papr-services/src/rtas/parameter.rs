//! System parameters (LoPAR 7.3.16): short texts about the partition. None can be changed.

use alloc::format;
use alloc::string::String;

use isa::addr::Gra;

use super::{Status, Values};
use crate::partition::Partition;

/// Characteristics of shared processor partitions, as text.
const SPLPAR_CHARACTERISTICS: u32 = 20;
/// The partition's name.
const NAME: u32 = 55;

fn text(partition: &Partition, parameter: u32) -> Option<String> {
    let vcpus = partition.vcpus().len();
    match parameter {
        // Entitlement is in hundredths of a processor: these are dedicated.
        SPLPAR_CHARACTERISTICS => Some(format!(
            "MaxEntCap={},DesMem={},DesProcs={vcpus},MaxPlatProcs={vcpus}",
            vcpus.saturating_mul(100),
            partition.memory_bytes() >> 20,
        )),
        NAME => Some(partition.policy.name.clone()),
        _ => None,
    }
}

/// Writes length (16 bits, NUL included) and value, cut to the buffer.
pub(super) fn get(
    partition: &Partition,
    parameter: u32,
    buffer: Gra,
    len: u32,
) -> Result<Values, Status> {
    let text = text(partition, parameter).ok_or(Status::PARAMETER)?;
    let room = usize::try_from(len)
        .ok()
        .filter(|room| *room >= 2)
        .ok_or(Status::BAD_BUFFER)?;
    let mut value = alloc::vec::Vec::new();
    let size = u16::try_from(text.len().saturating_add(1)).map_err(|_| Status::HARDWARE)?;
    value.extend_from_slice(&size.to_be_bytes());
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    value.truncate(room);
    partition
        .ram
        .write(buffer, &value)
        .map_err(|_| Status::BAD_BUFFER)?;
    Ok(Values::new())
}

/// None can be changed.
pub(super) fn set(parameter: u32) -> Status {
    match parameter {
        SPLPAR_CHARACTERISTICS | NAME => Status::NOT_AUTHORISED,
        _ => Status::PARAMETER,
    }
}

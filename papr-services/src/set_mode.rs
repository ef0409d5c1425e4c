//! H_SET_MODE (LoPAR 14.5.4.8.5): debug registers of the calling vCPU, byte order and place of interrupts of all.

use isa::context::{Changed, GuestContext};
use isa::lpcr::Lpcr;

use crate::error::{Answer, HCode, Outputs};
use crate::partition::Partition;

/// DAWRX: the hypervisor's accesses match.
const DAWRX_HYPERVISOR: u64 = 4;
/// DAWRX fields that a partition may set: length, DW, DR, WT, WTI, and matches in privileged and problem state.
pub(crate) const DAWRX_PARTITION: u64 = 0xfc00 | 0x78 | 3;
/// CIABR: which state matches; 3 is the hypervisor.
const CIABR_STATE: u64 = 3;

/// The code for reserved flag bits; `bad` has at least one.
fn flag(bad: u64) -> HCode {
    HCode::H_UNSUPPORTED_FLAG(u8::try_from(bad.leading_zeros()).unwrap_or(63))
}

fn no_flags(flags: u64) -> Result<(), HCode> {
    if flags == 0 { Ok(()) } else { Err(flag(flags)) }
}

fn no_values(value1: u64, value2: u64) -> Result<(), HCode> {
    match (value1, value2) {
        (0, 0) => Ok(()),
        (0, _) => Err(HCode::H_P4),
        _ => Err(HCode::H_P3),
    }
}

pub(crate) fn set_mode(
    vcpu: &mut GuestContext,
    partition: &Partition,
    flags: u64,
    resource: u64,
    value1: u64,
    value2: u64,
) -> Answer {
    match resource {
        1 => ciabr(vcpu, flags, value1, value2)?,
        2 => dawr(vcpu, 0, flags, value1, value2)?,
        3 => {
            let ail = match flags {
                0 => Lpcr::empty(),
                3 => Lpcr::AIL,
                // 1 is reserved; 2 (0x18000) went with POWER10.
                _ => return Err(flag(flags).into()),
            };
            no_values(value1, value2)?;
            partition.choose(Lpcr::AIL, ail);
        }
        4 => {
            let ile = match flags {
                0 => Lpcr::empty(),
                1 => Lpcr::ILE,
                _ => return Err(flag(flags).into()),
            };
            no_values(value1, value2)?;
            partition.choose(Lpcr::ILE, ile);
        }
        5 => dawr(vcpu, 1, flags, value1, value2)?,
        _ => return Err(HCode::H_P2.into()),
    }
    Ok(Outputs::NONE)
}

fn ciabr(vcpu: &mut GuestContext, flags: u64, value1: u64, value2: u64) -> Result<(), HCode> {
    no_flags(flags)?;
    if value1 & CIABR_STATE == CIABR_STATE {
        return Err(HCode::H_P3);
    }
    if value2 != 0 {
        return Err(HCode::H_P4);
    }
    vcpu.ciabr = value1;
    vcpu.changed |= Changed::DEBUG;
    Ok(())
}

fn dawr(
    vcpu: &mut GuestContext,
    which: usize,
    flags: u64,
    value1: u64,
    value2: u64,
) -> Result<(), HCode> {
    no_flags(flags)?;
    if value2 & DAWRX_HYPERVISOR != 0 {
        return Err(HCode::H_P4);
    }
    if let (Some(dawr), Some(dawrx)) = (vcpu.dawr.get_mut(which), vcpu.dawrx.get_mut(which)) {
        *dawr = value1 & !7;
        *dawrx = value2 & DAWRX_PARTITION;
    }
    vcpu.changed |= Changed::DEBUG;
    Ok(())
}

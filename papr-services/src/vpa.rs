//! Areas that a vCPU registers in the partition's memory (LoPAR 14.11.3): the virtual processor area, the dispatch
//! trace log and the SLB shadow buffer. All of them are big-endian.
//!
//! The surprising fact: the yield count in the VPA tells by its parity whether the vCPU is dispatched (even) or not
//! (odd), and other vCPUs read it without asking. Here a vCPU has a thread of its own, so it is odd only in H_CEDE.

use isa::addr::Gra;

use crate::error::{Answer, HCode, Outputs};
use crate::guest_ram::GuestRam;

/// Offsets in the VPA.
mod offset {
    /// 16 bits: size, by the partition.
    pub(super) const SIZE: u64 = 0x04;
    /// Status byte: [`super::SHARED_PROCESSOR`].
    pub(super) const STATUS: u64 = 0x09;
    /// Which events the dispatch trace log gets, by the partition.
    pub(super) const LOG_MASK: u64 = 0xb8;
    /// Whether the partition wants the three nested counters.
    pub(super) const NESTED_COUNTERS: u64 = 0xbc;
    /// 32 bits.
    pub(super) const YIELD_COUNT: u64 = 0x100;
    /// Three doublewords of time base ticks: into nested guests, out of them, in them.
    pub(super) const NESTED_TIMES: [u64; 3] = [0x1a0, 0x1a8, 0x1b0];
    /// 64 bits: entries ever written to the dispatch trace log.
    pub(super) const LOG_INDEX: u64 = 0x218;
}

/// Status: the vCPU shares its processor. Never set here: without it, spinning kernels do not confer.
const SHARED_PROCESSOR: u8 = 0x02;
/// Log mask: voluntary waits, that is H_CEDE.
const LOG_CEDE: u8 = 1;

const VPA_ALIGNMENT: u64 = 128;
const VPA_SMALLEST: u64 = 640;
const LOG_ENTRY: u64 = 48;
const SHADOW_SMALLEST: u64 = 8;
const PAGE: u64 = 0x1000;

/// Why a vCPU is dispatched, as the dispatch trace log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// External interrupt.
    External = 0,
    /// H_PROD.
    Prod = 2,
    /// Decrementer.
    Decrementer = 3,
    /// System reset.
    SystemReset = 4,
}

/// Preempt reason in the log: H_CEDE.
const PREEMPTED_BY_CEDE: u8 = 2;

/// A dispatch trace log.
#[derive(Clone, Copy, Debug)]
struct Log {
    area: Gra,
    /// Whole entries that fit.
    entries: u64,
    /// Entries ever written.
    index: u64,
}

/// What a vCPU registered. Every area was checked to be memory of the partition.
#[derive(Debug, Default)]
pub struct Registrations {
    vpa: Option<Gra>,
    log: Option<Log>,
    shadow: Option<Gra>,
}

fn read<const N: usize>(ram: &GuestRam, area: Gra, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    ram.read(area.checked_add(offset)?, &mut bytes).ok()?;
    Some(bytes)
}

/// Writes to an area that was checked when it was registered, so that a refusal cannot happen.
fn write(ram: &GuestRam, area: Gra, offset: u64, bytes: &[u8]) {
    if let Some(at) = area.checked_add(offset) {
        let _ = ram.write(at, bytes);
    }
}

/// A range that is memory, and does not cross a page where that is asked.
fn check(ram: &GuestRam, area: Gra, len: u64, in_one_page: bool) -> Result<(), HCode> {
    let last = area
        .0
        .checked_add(len.saturating_sub(1))
        .ok_or(HCode::H_PARAMETER)?;
    let crosses = area.0 / PAGE != last / PAGE;
    if in_one_page && crosses || !ram.contains(area, len) {
        return Err(HCode::H_PARAMETER);
    }
    Ok(())
}

/// The 32-bit size in the second word of a log or a shadow buffer.
fn size32(ram: &GuestRam, area: Gra) -> Result<u64, HCode> {
    let size = read(ram, area, 4).ok_or(HCode::H_PARAMETER)?;
    Ok(u32::from_be_bytes(size).into())
}

impl Registrations {
    /// H_REGISTER_VPA: `flags` holds the sub-function in bits 16 to 18 and nothing else.
    pub(crate) fn register(&mut self, ram: &GuestRam, flags: u64, area: Gra) -> Answer {
        const SHIFT: u32 = 45;
        let function = flags >> SHIFT;
        if function << SHIFT != flags {
            return Err(HCode::H_PARAMETER.into());
        }
        match function {
            1 => self.register_vpa(ram, area)?,
            2 => self.register_log(ram, area)?,
            3 => self.register_shadow(ram, area)?,
            // The VPA goes last.
            5 if self.log.is_some() || self.shadow.is_some() => {
                return Err(HCode::H_RESOURCE.into());
            }
            5 => self.vpa = None,
            6 => self.log = None,
            7 => self.shadow = None,
            _ => return Err(HCode::H_PARAMETER.into()),
        }
        Ok(Outputs::NONE)
    }

    fn register_vpa(&mut self, ram: &GuestRam, area: Gra) -> Result<(), HCode> {
        if area.0 == 0 || !area.is_aligned(VPA_ALIGNMENT) {
            return Err(HCode::H_PARAMETER);
        }
        let size = read(ram, area, offset::SIZE).ok_or(HCode::H_PARAMETER)?;
        let size = u64::from(u16::from_be_bytes(size));
        if size < VPA_SMALLEST {
            return Err(HCode::H_PARAMETER);
        }
        check(ram, area, size, true)?;
        let [status] = read(ram, area, offset::STATUS).ok_or(HCode::H_PARAMETER)?;
        write(ram, area, offset::STATUS, &[status & !SHARED_PROCESSOR]);
        // Even: it is dispatched, it made this call or waits for its start.
        write(ram, area, offset::YIELD_COUNT, &0_u32.to_be_bytes());
        self.vpa = Some(area);
        Ok(())
    }

    fn register_log(&mut self, ram: &GuestRam, area: Gra) -> Result<(), HCode> {
        if area.0 == 0 {
            return Err(HCode::H_PARAMETER);
        }
        let size = size32(ram, area)?;
        let entries = size / LOG_ENTRY;
        if entries == 0 {
            return Err(HCode::H_PARAMETER);
        }
        check(ram, area, size, false)?;
        let vpa = self.vpa.ok_or(HCode::H_RESOURCE)?;
        write(ram, vpa, offset::LOG_INDEX, &0_u64.to_be_bytes());
        self.log = Some(Log {
            area,
            entries,
            index: 0,
        });
        Ok(())
    }

    fn register_shadow(&mut self, ram: &GuestRam, area: Gra) -> Result<(), HCode> {
        if area.0 == 0 {
            return Err(HCode::H_PARAMETER);
        }
        let size = size32(ram, area)?;
        if size < SHADOW_SMALLEST {
            return Err(HCode::H_PARAMETER);
        }
        check(ram, area, size, true)?;
        self.vpa.ok_or(HCode::H_RESOURCE)?;
        self.shadow = Some(area);
        Ok(())
    }

    /// Moves the yield count on to the next odd (not dispatched) or even (dispatched) value.
    fn count_yield(&self, ram: &GuestRam, dispatched: bool) {
        let Some(vpa) = self.vpa else { return };
        let Some(count) = read(ram, vpa, offset::YIELD_COUNT) else {
            return;
        };
        let next = u32::from_be_bytes(count).wrapping_add(1);
        let next = match (next.is_multiple_of(2), dispatched) {
            (true, true) | (false, false) => next,
            // The partition changed it; the parity is what counts.
            (true, false) | (false, true) => next.wrapping_add(1),
        };
        write(ram, vpa, offset::YIELD_COUNT, &next.to_be_bytes());
    }

    /// The vCPU gives its processor away.
    pub(crate) fn ceded(&self, ram: &GuestRam) {
        self.count_yield(ram, false);
    }

    /// The vCPU `id` has its processor again: counts it, and logs it if the partition asked for that. `at` is where
    /// it goes on and its MSR.
    pub(crate) fn dispatched(
        &mut self,
        ram: &GuestRam,
        id: u32,
        why: Dispatch,
        now: u64,
        (nia, msr): (u64, u64),
    ) {
        self.count_yield(ram, true);
        let (Some(vpa), Some(log)) = (self.vpa, self.log.as_mut()) else {
            return;
        };
        let [mask] = read(ram, vpa, offset::LOG_MASK).unwrap_or([0]);
        if mask & LOG_CEDE == 0 {
            return;
        }
        let [.., id_high, id_low] = id.to_be_bytes();
        // Reasons, processor, then three waiting times: none was stolen from a vCPU with a thread of its own.
        let head = [why as u8, PREEMPTED_BY_CEDE, id_high, id_low];
        let slot = log.index.checked_rem(log.entries).unwrap_or(0);
        let entry = slot.saturating_mul(LOG_ENTRY);
        let fields = [(0x10, now), (0x18, 0), (0x20, nia), (0x28, msr)];
        write(ram, log.area, entry, &head);
        write(ram, log.area, entry.saturating_add(4), &[0; 12]);
        for (offset, value) in fields {
            let at = entry.saturating_add(offset);
            write(ram, log.area, at, &value.to_be_bytes());
        }
        // The entry is there before the index says so: words of guest memory are written relaxed.
        core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
        log.index = log.index.wrapping_add(1);
        write(ram, vpa, offset::LOG_INDEX, &log.index.to_be_bytes());
    }

    /// Adds to the three nested counters, if the partition wants them.
    pub(crate) fn count_nested_run(&self, ram: &GuestRam, times: [u64; 3]) {
        let Some(vpa) = self.vpa else { return };
        if read(ram, vpa, offset::NESTED_COUNTERS).unwrap_or([0]) == [0] {
            return;
        }
        for (offset, ticks) in offset::NESTED_TIMES.into_iter().zip(times) {
            if let Some(old) = read(ram, vpa, offset) {
                let sum = u64::from_be_bytes(old).wrapping_add(ticks);
                write(ram, vpa, offset, &sum.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;

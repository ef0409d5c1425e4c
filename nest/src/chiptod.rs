//! The chips' time of day (TOD) and how a core's time base is set from it (reference/hardware.md 7.7).
//!
//! Owns the TOD's registers and the steps of the time facility management register (TFMR). The surprising fact: a core's time
//! base does not tick while it is being set, so nothing here waits by it; every wait is a number of reads that the caller gives.

use core::fmt;

use isa::ppc_bit;
use isa::tfmr::{CORE_ERRORS, CORRUPT, MISSED, STUCK_ERRORS, THREAD_ERRORS, VALID};

use crate::core_control::Place;
use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

const STATUS: ScomAddr = ScomAddr(0x4_0008);
const ENABLE_STEP_CHECKERS: ScomAddr = ScomAddr(0x4_0013);
const SEND_TO_ALL: ScomAddr = ScomAddr(0x4_0015);
const INVALIDATE_OTHERS: ScomAddr = ScomAddr(0x4_0016);
const MOVE_TO_TIME_BASE: ScomAddr = ScomAddr(0x4_0017);
const LOAD_MODE: ScomAddr = ScomAddr(0x4_0018);
const LOAD: ScomAddr = ScomAddr(0x4_0021);
const STATE: ScomAddr = ScomAddr(0x4_0024);
const TARGET: ScomAddr = ScomAddr(0x4_0027);
const ERRORS: ScomAddr = ScomAddr(0x4_0030);

/// What is written to a register that only triggers.
const TRIGGER: u64 = ppc_bit(0);
/// Of `STATUS`.
const ACTIVE_MASTER: u64 = ppc_bit(23);
/// Of `STATE`.
const RUNNING: u64 = ppc_bit(4);
/// Of `ERRORS`: what firmware clears before it starts the TOD.
const FIRMWARE_ERRORS: u64 =
    ppc_bit(13) | ppc_bit(18) | ppc_bit(22) | ppc_bit(32) | ppc_bit(33) | ppc_bit(34) | ppc_bit(35);
/// Of `TARGET`: the upper word is the SCOM address of the core's register.
const BY_ADDRESS: u64 = ppc_bit(35);

// TFMR: how the time base is stepped, and orders to it.
const SYNC_BIT_4: u64 = ppc_bit(11);
const ECLIPZ: u64 = ppc_bit(14);
const LOAD_TOD_MODE: u64 = ppc_bit(16);
const MOVE: u64 = ppc_bit(18);
const CLEAR_ERRORS: u64 = ppc_bit(24);
const STATE_SHIFT: u32 = 63 - 31;
const STATE_ERROR: u64 = 9;
const TOD_INTERRUPT: u64 = ppc_bit(51);

/// The TFMR of the thread that runs this.
pub trait TimeFacility {
    /// Reads it.
    fn read(&mut self) -> u64;
    /// Writes it: control bits as given, errors that are 1 are cleared.
    fn write(&mut self, value: u64);
}

/// How often a register may be read before a wait is given up.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Reads of a chip's register, each about a microsecond.
    pub scom: u32,
    /// Reads of TFMR.
    pub tfmr: u32,
}

impl Patience {
    /// For the machine: tenths of a second.
    pub const MACHINE: Self = Self {
        scom: 200_000,
        tfmr: 1_000_000,
    };
}

/// Why the time base could not be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TodError {
    /// A register of the TOD was not reached. At first sight of a machine: it has none.
    Scom(ScomError),
    /// No chip is the active master, or several are: the topology has not been configured.
    Masters(u32),
    /// The TOD of this chip does not run.
    NotRunning(ChipIndex),
    /// TFMR reports itself corrupt, or the state machine in error, in this step.
    Broken(Step, u64),
    /// The step did not end; what TFMR said last.
    Timeout(Step, u64),
}

/// A step of setting a core's time base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Errors are cleared.
    Clear,
    /// The time base becomes "not set".
    Unset,
    /// No interrupt of the TOD is pending.
    Quiet,
    /// The TOD's value arrives.
    Move,
    /// The time base is valid.
    Check,
}

impl From<ScomError> for TodError {
    fn from(error: ScomError) -> Self {
        Self::Scom(error)
    }
}

impl fmt::Display for TodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scom(error) => write!(f, "time of day not reached ({error})"),
            Self::Masters(count) => write!(f, "{count} chips are master of the time of day"),
            Self::NotRunning(chip) => write!(f, "the time of day of chip {} does not run", chip.0),
            Self::Broken(step, tfmr) => write!(f, "step {step:?} failed, TFMR {tfmr:#018x}"),
            Self::Timeout(step, tfmr) => write!(f, "step {step:?} does not end, TFMR {tfmr:#018x}"),
        }
    }
}

/// Whether a value of TFMR says that the time base is valid and has no error.
#[must_use]
pub const fn is_good(tfmr: u64) -> bool {
    tfmr & VALID != 0 && tfmr & CORE_ERRORS == 0
}

/// The control bits of TFMR for a processor clock, in Hz.
///
/// The steps of the TOD come at 32 MHz; the longest time between two is 2.4 quarters of that, in processor clocks.
#[must_use]
pub const fn control(clock_hz: u64) -> u64 {
    const LARGEST: u64 = 0xff;
    let cycles = clock_hz.saturating_mul(240) / 32_000_000 / 400;
    let cycles = if cycles > LARGEST { LARGEST } else { cycles };
    cycles << 56 | SYNC_BIT_4 | ECLIPZ
}

/// The chip that all others follow.
///
/// # Errors
/// [`TodError::Scom`] when a chip has no TOD, [`TodError::Masters`] when there is not exactly one master.
pub fn master(
    scom: &mut impl Scom,
    chips: impl IntoIterator<Item = ChipIndex>,
) -> Result<ChipIndex, TodError> {
    let (mut found, mut count) = (None, 0);
    for chip in chips {
        if scom.read(chip, STATUS)? & ACTIVE_MASTER != 0 {
            found = Some(chip);
            count += 1;
        }
    }
    found.filter(|_| count == 1).ok_or(TodError::Masters(count))
}

/// Whether a chip's TOD runs.
///
/// # Errors
/// [`TodError::Scom`].
pub fn is_running(scom: &mut impl Scom, chip: ChipIndex) -> Result<bool, TodError> {
    Ok(scom.read(chip, STATE)? & RUNNING != 0)
}

/// Starts the TOD of the master at `time` (in ticks of the time base), and those of all chips from it. All time bases must
/// then be set anew.
///
/// # Errors
/// [`TodError::Scom`], and [`TodError::NotRunning`] with the first chip whose TOD does not start.
pub fn start(
    scom: &mut impl Scom,
    master: ChipIndex,
    chips: impl IntoIterator<Item = ChipIndex>,
    time: u64,
    patience: Patience,
) -> Result<(), TodError> {
    /// One step before the next synchronisation.
    const LAST_STEP: u64 = 0x1ff0;
    const SYNC: u64 = 0x1fff;
    scom.write(master, ERRORS, FIRMWARE_ERRORS)?;
    scom.write(master, ENABLE_STEP_CHECKERS, TRIGGER)?;
    scom.write(master, LOAD_MODE, TRIGGER)?;
    scom.write(master, INVALIDATE_OTHERS, TRIGGER)?;
    scom.write(master, LOAD, time & !SYNC | LAST_STEP)?;
    wait_running(scom, master, patience)?;
    scom.write(master, SEND_TO_ALL, TRIGGER)?;
    for chip in chips {
        wait_running(scom, chip, patience)?;
    }
    Ok(())
}

fn wait_running(scom: &mut impl Scom, chip: ChipIndex, patience: Patience) -> Result<(), TodError> {
    for _ in 0..patience.scom.max(1) {
        if is_running(scom, chip)? {
            return Ok(());
        }
    }
    Err(TodError::NotRunning(chip))
}

/// Sets the time base of the core of the calling thread from its chip's TOD, which must run. `control` is of [`control`];
/// `target` is the core that the TOD has to address.
///
/// # Errors
/// Any [`TodError`]; the time base is then valid only if TFMR says so.
pub fn move_to_time_base(
    scom: &mut impl Scom,
    tfmr: &mut impl TimeFacility,
    target: Place,
    control: u64,
    patience: Patience,
) -> Result<(), TodError> {
    let chip = target.chip;
    // While the time base still is what it is: nothing has happened yet if this fails.
    if !is_running(scom, chip)? {
        return Err(TodError::NotRunning(chip));
    }
    let address = u64::from(target.time_of_day().0) << 32 | BY_ADDRESS;
    scom.write(chip, TARGET, address)?;

    let stuck = tfmr.read() & STUCK_ERRORS;
    tfmr.write(control);
    // The order to clear counts only when it is given twice.
    tfmr.write(control | CLEAR_ERRORS | MISSED | stuck);
    tfmr.write(control | CLEAR_ERRORS);
    wait_clear(tfmr, Step::Clear, CLEAR_ERRORS, patience)?;
    tfmr.write(control | THREAD_ERRORS | CORRUPT);
    tfmr.write(control | LOAD_TOD_MODE);
    wait_clear(tfmr, Step::Unset, LOAD_TOD_MODE, patience)?;
    wait_clear(tfmr, Step::Quiet, TOD_INTERRUPT, patience)?;
    // The core must be ready before the TOD sends.
    tfmr.write(control | MOVE);
    scom.write(chip, MOVE_TO_TIME_BASE, TRIGGER)?;
    wait_clear(tfmr, Step::Move, MOVE, patience)?;
    let last = tfmr.read();
    if is_good(last) {
        Ok(())
    } else {
        Err(TodError::Broken(Step::Check, last))
    }
}

/// Reads TFMR until `bit` is 0.
fn wait_clear(
    tfmr: &mut impl TimeFacility,
    step: Step,
    bit: u64,
    patience: Patience,
) -> Result<(), TodError> {
    let mut last = 0;
    for _ in 0..patience.tfmr.max(1) {
        last = tfmr.read();
        // An error that is about to be cleared says nothing.
        let state = last >> STATE_SHIFT & 0xf;
        if last & CORRUPT != 0 || step != Step::Clear && state == STATE_ERROR {
            return Err(TodError::Broken(step, last));
        }
        if last & bit == 0 {
            return Ok(());
        }
    }
    Err(TodError::Timeout(step, last))
}

#[cfg(test)]
mod tests;

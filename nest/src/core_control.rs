//! A core's threads controlled from outside: the direct controls (reference/opal.md 8.6, hardware.md 2.4).
//!
//! Owns the special wake-up that a sleeping core needs before its registers answer, and the system reset of one thread. The
//! surprising fact: a wake-up request that was not answered in time must stay; taking it back can hang the core.

use core::fmt;

use isa::timebase::{self, Ticks};

use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

/// Where a hardware thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its chip.
    pub chip: ChipIndex,
    /// Its small core, 0 to 31.
    pub core: u8,
    /// Its number there, 0 to 3.
    pub thread: u8,
}

impl Place {
    /// The place of a PIR; on fused cores its lowest bit says which of the two small ones. `None` for one that no chip has.
    #[must_use]
    pub fn of_pir(pir: u32, is_fused: bool) -> Option<Self> {
        let chip = ChipIndex(u8::try_from(pir >> 8).ok().filter(|chip| *chip < 16)?);
        let local = u8::try_from(pir & 0xff)
            .ok()
            .filter(|local| *local < 0x80)?;
        let (core, thread) = if is_fused {
            ((local >> 3) * 2 + (local & 1), local >> 1 & 3)
        } else {
            (local >> 2, local & 3)
        };
        Some(Self { chip, core, thread })
    }

    fn register(self, region: u32, register: u32) -> ScomAddr {
        let core = u32::from(self.core);
        ScomAddr((0x20 + (core >> 2)) << 24 | region | 0x8000 >> (core & 3) | register)
    }

    fn spwu(self) -> ScomAddr {
        self.register(QME, 0x83c)
    }

    /// The core's register to which the time of day is sent.
    pub(crate) fn time_of_day(self) -> ScomAddr {
        self.register(EC, 0x4a3)
    }
}

/// Registers of the core itself.
const EC: u32 = 0x2_0000;
/// Registers of its power management engine.
const QME: u32 = 0xe_0000;

const WAKE_UP_REQUEST: u64 = isa::ppc_bit(0);
const WAKE_UP_DONE_REQUEST: u64 = isa::ppc_bit(4);
const GATED: u64 = isa::ppc_bit(0);
const AWAKE: u64 = isa::ppc_bit(1);

const STEP: Ticks = Ticks::from_us(100);
/// How often it is looked whether a core is awake: for a tenth of a second.
const LOOKS: u32 = 1000;

/// Why a thread could not be controlled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    /// A register was not reached.
    Scom(ScomError),
    /// The core did not wake up in time.
    Asleep,
    /// The core is switched off.
    Gated,
}

impl From<ScomError> for ControlError {
    fn from(error: ScomError) -> Self {
        Self::Scom(error)
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scom(error) => write!(f, "register not reached ({error})"),
            Self::Asleep => f.write_str("the core does not wake up"),
            Self::Gated => f.write_str("the core is switched off"),
        }
    }
}

/// Resets one thread: it goes on at its system reset vector, whatever it did.
///
/// # Errors
/// [`ControlError`]; the thread was not reset.
pub fn system_reset(scom: &mut impl Scom, at: Place) -> Result<(), ControlError> {
    let reset = isa::ppc_bit(4 + 8 * u32::from(at.thread & 3));
    wake_up(scom, at)?;
    let done = scom.write(at.chip, at.register(EC, 0x449), reset);
    let let_go = scom.write(at.chip, at.spwu(), 0);
    Ok(done.and(let_go)?)
}

/// Reads the errors of a core (its fault isolation register).
///
/// # Errors
/// [`ControlError`]; a core that is asleep has not stopped because of an error.
pub fn read_errors(scom: &mut impl Scom, at: Place) -> Result<u64, ControlError> {
    wake_up(scom, at)?;
    let errors = scom.read(at.chip, at.register(EC, 0x440));
    let let_go = scom.write(at.chip, at.spwu(), 0);
    Ok(errors.and_then(|errors| let_go.map(|()| errors))?)
}

/// The errors of a core, after which it may have stopped; all of them when its registers are not reached, several times.
pub fn errors_of(scom: &mut impl Scom, at: Place) -> u64 {
    /// One access can fail without the core having to do with it.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        match read_errors(scom, at) {
            Ok(errors) => return errors,
            // Nothing that sleeps has stopped.
            Err(ControlError::Asleep | ControlError::Gated) => return 0,
            Err(ControlError::Scom(_)) => {}
        }
    }
    u64::MAX
}

/// Wakes a core up and keeps it awake until the request is taken back.
fn wake_up(scom: &mut impl Scom, at: Place) -> Result<(), ControlError> {
    let state = at.register(QME, 0x82c);
    scom.write(at.chip, at.spwu(), WAKE_UP_REQUEST)?;
    // Counted: the time base may stand still, and that can be what a core is asked about.
    let mut looks = 0;
    let seen = loop {
        let seen = scom.read(at.chip, state)?;
        if seen & AWAKE != 0 {
            break seen;
        }
        looks += 1;
        if looks > LOOKS {
            return Err(ControlError::Asleep);
        }
        timebase::delay(STEP);
    };
    // A core can say that it is gated although it is up; then the request itself is marked done.
    if seen & GATED != 0 && scom.read(at.chip, at.spwu())? & WAKE_UP_DONE_REQUEST == 0 {
        scom.write(at.chip, at.spwu(), 0)?;
        return Err(ControlError::Gated);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// A core whose state register answers this, and what was written.
    struct Core {
        state: u64,
        spwu: u64,
        /// Reads that fail before the first that does not.
        fails: u32,
        written: Vec<(ChipIndex, u32, u64)>,
    }

    impl Scom for Core {
        fn read(&mut self, _: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
            if self.fails > 0 {
                self.fails -= 1;
                return Err(ScomError::Parity);
            }
            Ok(match address.0 & 0xfff {
                0x82c => self.state,
                0x83c => self.spwu,
                0x440 => 0x123,
                _ => return Err(ScomError::Address),
            })
        }
        fn write(&mut self, chip: ChipIndex, at: ScomAddr, value: u64) -> Result<(), ScomError> {
            self.written.push((chip, at.0, value));
            Ok(())
        }
    }

    fn core(state: u64, spwu: u64) -> Core {
        Core {
            state,
            spwu,
            fails: 0,
            written: Vec::new(),
        }
    }

    const CHIP: ChipIndex = ChipIndex(1);
    const PLACE: Place = Place {
        chip: CHIP,
        core: 6,
        thread: 2,
    };

    #[test]
    fn places_follow_the_pir() {
        assert_eq!(Place::of_pir(0x11a, false), Some(PLACE));
        // Core 3 of the fused ones, its even half, thread 2.
        assert_eq!(Place::of_pir(0x11c, true), Some(PLACE));
        assert_eq!(Place::of_pir(0x11d, true).map(|place| place.core), Some(7));
        assert_eq!(Place::of_pir(0x180, false), None);
        assert_eq!(Place::of_pir(0x1000, false), None);
    }

    #[test]
    fn a_reset_wakes_the_core_and_lets_it_go() {
        let mut bus = core(AWAKE, 0);
        assert_eq!(system_reset(&mut bus, PLACE), Ok(()));
        let spwu = 0x210e_283c;
        assert_eq!(
            bus.written,
            [
                (CHIP, spwu, 1 << 63),
                (CHIP, 0x2102_2449, 1 << (63 - 20)),
                (CHIP, spwu, 0)
            ]
        );
    }

    #[test]
    fn errors_are_read_of_a_core_that_is_awake() {
        let mut bus = core(AWAKE, 0);
        assert_eq!(read_errors(&mut bus, PLACE), Ok(0x123));
        assert_eq!(bus.written.last(), Some(&(CHIP, 0x210e_283c, 0)));
        let mut bus = core(AWAKE | GATED, 0);
        assert_eq!(read_errors(&mut bus, PLACE), Err(ControlError::Gated));
    }

    #[test]
    fn only_a_core_that_is_never_reached_counts_as_stopped() {
        for (fails, errors) in [(0, 0x123), (4, 0x123), (5, u64::MAX)] {
            let mut bus = Core {
                fails,
                ..core(AWAKE, 0)
            };
            assert_eq!(errors_of(&mut bus, PLACE), errors, "{fails}");
        }
        let mut bus = core(AWAKE | GATED, 0);
        assert_eq!(errors_of(&mut bus, PLACE), 0);
    }

    #[test]
    fn a_core_that_does_not_wake_keeps_the_request() {
        timebase::fake::set_step(Ticks::from_ms(1));
        let mut bus = core(0, 0);
        assert_eq!(system_reset(&mut bus, PLACE), Err(ControlError::Asleep));
        assert_eq!(bus.written.len(), 1);
        // Its patience is a tenth of a second, and no less when readings of the clock are far apart.
        let start = timebase::fake::peek();
        timebase::fake::set_step(Ticks::from_us(1));
        assert_eq!(system_reset(&mut bus, PLACE), Err(ControlError::Asleep));
        assert!(timebase::fake::peek().since(start) >= Ticks::from_ms(100));
    }

    #[test]
    fn a_gated_core_is_left_alone_unless_the_request_is_done() {
        let mut bus = core(AWAKE | GATED, 0);
        assert_eq!(system_reset(&mut bus, PLACE), Err(ControlError::Gated));
        assert_eq!(bus.written.last().map(|write| write.2), Some(0));
        let mut bus = core(AWAKE | GATED, WAKE_UP_DONE_REQUEST);
        assert_eq!(system_reset(&mut bus, PLACE), Ok(()));
    }
}

//! XSCOM: SCOM by loads and stores of the processor, with the outcome in HMER.
//!
//! Owns the protocol of reference/hardware.md 2.2. The engine allows one access in the whole machine (erratum HW822317),
//! which is why [`Scom`] takes `&mut self`: the firmware keeps one [`Xscom`] behind one lock. The surprising facts: a
//! write of HMER ANDs; its status is right only at the second read after DONE (HW822317 again); and an error leaves the
//! engine stuck until it is reset. QEMU reports a missing register as FAIL with status 0.

use isa::addr::Ra;
use isa::spr::{self, Hmer, Pir};
use isa::timebase::{self, Deadline, Ticks};
use isa::{cix, ppc_bit};

use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

/// What the protocol needs of the processor: the access and the outcome register.
pub trait XscomBus {
    /// 8-byte load of the register's address.
    fn load(&self, chip: ChipIndex, address: ScomAddr) -> u64;
    /// 8-byte store.
    fn store(&self, chip: ChipIndex, address: ScomAddr, value: u64);
    /// Reads HMER.
    fn hmer(&self) -> u64;
    /// Writes HMER: bits that are 0 in `value` become 0.
    fn and_hmer(&self, value: u64);
    /// The chip that this thread runs on.
    fn this_chip(&self) -> ChipIndex;
}

/// The machine's XSCOM windows, by cache-inhibited accesses in hypervisor real mode.
#[derive(Debug)]
pub struct CiXscom {
    base: Ra,
    chip_shift: u32,
}

impl CiXscom {
    /// Chip 0's window at `base`, the others' each 2^`chip_shift` further.
    ///
    /// # Safety
    /// The windows must be there, for every chip that the [`Xscom`] above is told of, and its users must run in
    /// hypervisor real mode. A SCOM can do anything to the machine: drivers answer for what they write.
    #[must_use]
    #[expect(unsafe_code, reason = "promise about device windows")]
    pub const unsafe fn new(base: Ra, chip_shift: u32) -> Self {
        Self { base, chip_shift }
    }

    fn at(&self, chip: ChipIndex, address: ScomAddr) -> u64 {
        self.base.0 + (u64::from(chip.0) << self.chip_shift) + (u64::from(address.0) << 3)
    }
}

#[expect(unsafe_code, reason = "device access and HMER")]
impl XscomBus for CiXscom {
    fn load(&self, chip: ChipIndex, address: ScomAddr) -> u64 {
        // SAFETY: an address in a window that `new`'s caller vouched for.
        unsafe { cix::load64(self.at(chip, address)) }
    }

    fn store(&self, chip: ChipIndex, address: ScomAddr, value: u64) {
        // SAFETY: an address in a window that `new`'s caller vouched for.
        unsafe { cix::store64(self.at(chip, address), value) }
    }

    fn hmer(&self) -> u64 {
        spr::mfspr::<Hmer>().0
    }

    fn and_hmer(&self, value: u64) {
        // SAFETY: clears the outcome of the last XSCOM; nothing else reads those bits.
        unsafe { spr::mtspr(Hmer(value)) }
    }

    fn this_chip(&self) -> ChipIndex {
        ChipIndex(spr::mfspr::<Pir>().chip())
    }
}

const FAIL: u64 = ppc_bit(8);
const DONE: u64 = ppc_bit(9);
const STATUS_SHIFT: u32 = 63 - 23;
const STATUS: u64 = 7 << STATUS_SHIFT;
const BEFORE_ACCESS: u64 = !(FAIL | DONE | STATUS);

/// Written with 0 on this thread's chip, then the two of the target, they bring the engine back after an error.
const LOG: ScomAddr = ScomAddr(0x9_0018);
const RECEIVE_ERRORS: [ScomAddr; 2] = [ScomAddr(0x9_0012), ScomAddr(0x9_0013)];

/// A busy engine is tried this often, and reset once in a while.
const BUSY_TRIES: u32 = 3000;
const BUSY_RESET_EVERY: u32 = 1000;
const SETTLE: Ticks = Ticks::from_us(10);
/// The network's own time-out is far below this.
const PATIENCE_MS: u64 = 100;

/// What HMER said after an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Success,
    Busy,
    Failed(ScomError),
}

/// The XSCOM engine of the machine.
#[derive(Debug)]
pub struct Xscom<B> {
    bus: B,
    /// Bit n (LSB): chip n is there.
    chips: u16,
}

impl<B: XscomBus> Xscom<B> {
    /// The engine of a machine with these chips.
    pub fn new(bus: B, chips: impl IntoIterator<Item = ChipIndex>) -> Self {
        let chips = chips
            .into_iter()
            .filter(|chip| chip.0 < 16)
            .fold(0, |mask, chip| mask | 1 << chip.0);
        Self { bus, chips }
    }

    fn check(&self, chip: ChipIndex, address: ScomAddr) -> Result<(), ScomError> {
        if chip.0 >= 16 || self.chips & 1 << chip.0 == 0 {
            return Err(ScomError::NoChip);
        }
        if address.0 > 0x7fff_ffff {
            return Err(ScomError::BadAddress);
        }
        Ok(())
    }

    /// Does `access` until the engine accepts it.
    fn transact<T>(&self, chip: ChipIndex, access: impl Fn(&B) -> T) -> Result<T, ScomError> {
        for attempt in 1..=BUSY_TRIES {
            self.bus.and_hmer(BEFORE_ACCESS);
            let value = access(&self.bus);
            match self.outcome() {
                Outcome::Success => return Ok(value),
                Outcome::Busy if attempt % BUSY_RESET_EVERY == 0 => {
                    self.reset(chip);
                    timebase::delay(SETTLE);
                }
                Outcome::Busy => {}
                Outcome::Failed(error) => {
                    self.reset(chip);
                    return Err(error);
                }
            }
        }
        Err(ScomError::Busy)
    }

    fn outcome(&self) -> Outcome {
        let done = Deadline::after_ms(PATIENCE_MS)
            .wait_for(|| (self.bus.hmer() & DONE != 0).then_some(()));
        if done.is_none() {
            return Outcome::Failed(ScomError::NoAnswer);
        }
        // HW822317: the status may come one cycle after DONE.
        let hmer = self.bus.hmer();
        if hmer & FAIL == 0 {
            return Outcome::Success;
        }
        match (hmer & STATUS) >> STATUS_SHIFT {
            1 => Outcome::Busy,
            2 => Outcome::Failed(ScomError::Offline),
            3 => Outcome::Failed(ScomError::PartialGood),
            5 => Outcome::Failed(ScomError::Clock),
            6 => Outcome::Failed(ScomError::Parity),
            7 => Outcome::Failed(ScomError::Timeout),
            // 4; and QEMU's 0, which has no status.
            _ => Outcome::Failed(ScomError::Address),
        }
    }

    /// Frees the engine after an error. Its own outcome does not matter: the next access tells, and QEMU has none of
    /// these registers.
    fn reset(&self, target: ChipIndex) {
        let this = self.bus.this_chip();
        let writes = [
            (this, LOG),
            (target, RECEIVE_ERRORS[0]),
            (target, RECEIVE_ERRORS[1]),
        ];
        for (chip, address) in writes {
            self.bus.and_hmer(BEFORE_ACCESS);
            self.bus.store(chip, address, 0);
            let _ = self.outcome();
        }
    }
}

impl<B: XscomBus> Scom for Xscom<B> {
    fn read(&mut self, chip: ChipIndex, address: ScomAddr) -> Result<u64, ScomError> {
        self.check(chip, address)?;
        self.transact(chip, |bus| bus.load(chip, address))
    }

    fn write(&mut self, chip: ChipIndex, address: ScomAddr, value: u64) -> Result<(), ScomError> {
        self.check(chip, address)?;
        self.transact(chip, |bus| bus.store(chip, address, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Expect;
    use crate::fakes::Step::{self, AndHmer, Hmer, ScomGet, ScomPut};

    const CLEAR: Step = AndHmer(!0x00c0_0700_0000_0000);
    const IDLE: u64 = 0;
    const GOOD: u64 = 0x0040_0000_0000_0000;
    const BAD: u64 = 0x00c0_0000_0000_0000;
    const CHIP: ChipIndex = ChipIndex(2);

    fn status(code: u64) -> u64 {
        BAD | code << 40
    }

    fn reset() -> Vec<Step> {
        [(0, 0x9_0018), (2, 0x9_0012), (2, 0x9_0013)]
            .into_iter()
            .flat_map(|(chip, address)| [CLEAR, ScomPut(chip, address, 0), Hmer(GOOD), Hmer(GOOD)])
            .collect()
    }

    fn engine(script: Vec<Step>) -> Xscom<Expect> {
        Xscom::new(Expect::new(script), [ChipIndex(0), CHIP, ChipIndex(99)])
    }

    #[test]
    fn a_read_clears_waits_and_looks_twice() {
        let script = vec![
            CLEAR,
            ScomGet(2, 0xf000f, 0x22),
            Hmer(IDLE),
            Hmer(GOOD),
            Hmer(GOOD),
        ];
        assert_eq!(engine(script).read(CHIP, ScomAddr(0xf000f)), Ok(0x22));
    }

    #[test]
    fn the_second_look_decides() {
        let mut script = vec![CLEAR, ScomPut(2, 5, 1), Hmer(GOOD), Hmer(status(7))];
        script.extend(reset());
        assert_eq!(
            engine(script).write(CHIP, ScomAddr(5), 1),
            Err(ScomError::Timeout)
        );
    }

    #[test]
    fn every_error_resets_the_engine_and_has_its_name() {
        let errors = [
            (0, ScomError::Address),
            (2, ScomError::Offline),
            (3, ScomError::PartialGood),
            (4, ScomError::Address),
            (5, ScomError::Clock),
            (6, ScomError::Parity),
            (7, ScomError::Timeout),
        ];
        for (code, error) in errors {
            let mut script = vec![
                CLEAR,
                ScomGet(2, 5, 0),
                Hmer(status(code)),
                Hmer(status(code)),
            ];
            script.extend(reset());
            assert_eq!(engine(script).read(CHIP, ScomAddr(5)), Err(error));
        }
    }

    #[test]
    fn a_busy_engine_is_tried_again_and_reset_now_and_then() {
        let busy = [CLEAR, ScomGet(2, 5, 0), Hmer(status(1)), Hmer(status(1))];
        let mut script = vec![];
        for attempt in 1..=1001 {
            script.extend(busy);
            if attempt == 1000 {
                script.extend(reset());
            }
        }
        script.extend([CLEAR, ScomGet(2, 5, 8), Hmer(GOOD), Hmer(GOOD)]);
        assert_eq!(engine(script).read(CHIP, ScomAddr(5)), Ok(8));
    }

    #[test]
    fn an_engine_that_stays_busy_is_given_up() {
        let mut script = vec![];
        for attempt in 1..=3000 {
            script.extend([CLEAR, ScomPut(2, 5, 0), Hmer(status(1)), Hmer(status(1))]);
            if attempt % 1000 == 0 {
                script.extend(reset());
            }
        }
        assert_eq!(
            engine(script).write(CHIP, ScomAddr(5), 0),
            Err(ScomError::Busy)
        );
    }

    #[test]
    fn a_dead_engine_does_not_hang_us() {
        timebase::fake::set_step(Ticks::from_ms(60));
        let dead = [Hmer(0), Hmer(0)];
        let mut script = vec![CLEAR, ScomGet(2, 5, 0)];
        script.extend(dead);
        for (chip, address) in [(0, 0x9_0018), (2, 0x9_0012), (2, 0x9_0013)] {
            script.extend([CLEAR, ScomPut(chip, address, 0)]);
            script.extend(dead);
        }
        assert_eq!(
            engine(script).read(CHIP, ScomAddr(5)),
            Err(ScomError::NoAnswer)
        );
    }

    #[test]
    fn a_dead_engine_and_a_dead_clock_do_not_hang_us() {
        struct Dead;
        impl XscomBus for Dead {
            fn load(&self, _: ChipIndex, _: ScomAddr) -> u64 {
                0
            }
            fn store(&self, _: ChipIndex, _: ScomAddr, _: u64) {}
            fn hmer(&self) -> u64 {
                0
            }
            fn and_hmer(&self, _: u64) {}
            fn this_chip(&self) -> ChipIndex {
                CHIP
            }
        }
        timebase::fake::set_step(Ticks(0));
        let answer = Xscom::new(Dead, [CHIP]).read(CHIP, ScomAddr(5));
        assert_eq!(answer, Err(ScomError::NoAnswer));
    }

    #[test]
    fn what_cannot_be_there_is_not_accessed() {
        let mut engine = engine(vec![]);
        assert_eq!(
            engine.read(ChipIndex(1), ScomAddr(0)),
            Err(ScomError::NoChip)
        );
        assert_eq!(
            engine.read(ChipIndex(99), ScomAddr(0)),
            Err(ScomError::NoChip)
        );
        assert_eq!(
            engine.write(CHIP, ScomAddr(0x8000_0000), 0),
            Err(ScomError::BadAddress)
        );
    }

    #[test]
    fn modify_is_a_read_and_a_write() {
        let script = vec![
            CLEAR,
            ScomGet(2, 5, 0xf0),
            Hmer(GOOD),
            Hmer(GOOD),
            CLEAR,
            ScomPut(2, 5, 0xc1),
            Hmer(GOOD),
            Hmer(GOOD),
        ];
        assert_eq!(engine(script).modify(CHIP, ScomAddr(5), 0x30, 1), Ok(0xf0));
    }

    #[test]
    fn the_window_steps_by_chip_and_register() {
        #[expect(unsafe_code, reason = "the host's fake device space")]
        // SAFETY: the host's fake device space has no owner.
        let bus = unsafe { CiXscom::new(Ra(0x6_03fc_0000_0000), 44) };
        bus.store(ChipIndex(1), ScomAddr(0xf000f), 7);
        assert_eq!(cix::fake::load(0x6_13fc_0078_0078), 7u64.to_be_bytes());
    }
}

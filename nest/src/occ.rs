//! The on-chip controller (OCC), which keeps frequency, power and temperature: the memory that it shares with the firmware
//! (OpenPOWER "OCC OpenPWR FW Interfaces", layout 0xA0; reference/hardware.md 8.3).
//!
//! Owns the layout: the table of pstates, written once; limits that change; one command at a time and its response. All of it
//! is written by another processor, so every value is checked. The surprising fact: pstate 0 is the fastest, a greater number
//! is slower.

use core::sync::atomic::{AtomicU8, Ordering, fence};

use crate::scom::{ChipIndex, Scom, ScomAddr};

/// Where the shared area is in the chip's HOMER memory, and its bytes.
pub const AREA: core::ops::Range<u64> = 0xe_2000..0xe_6000;

/// The address registers of the OCC's bridge to memory, one after the other: bases and masks of its windows.
const PBA_BAR: ScomAddr = ScomAddr(0x0101_0cda);
const PBA_MASK: ScomAddr = ScomAddr(0x0101_0cde);
/// The mask when nobody has set it.
const MASK_UNSET: u64 = 0x0000_01ff_fff0_0000;
/// What of the base is an address of memory. Above it are devices.
const MEMORY: u64 = 0x0003_ffff_fff0_0000;

/// Where HOMER memory is; `None` when the chip has none.
pub fn homer(scom: &mut impl Scom, chip: ChipIndex) -> Option<u64> {
    const HOMER: u32 = 0;
    window(scom, chip, HOMER, AREA.end)
}

/// Where the memory of the bridge's `n`-th window is, if it has at least this size.
pub(crate) fn window(scom: &mut impl Scom, chip: ChipIndex, n: u32, least: u64) -> Option<u64> {
    let base = scom.read(chip, PBA_BAR.plus(n)).ok()?;
    let mask = scom.read(chip, PBA_MASK.plus(n)).ok()?;
    let is_set = base != 0 && base & !MEMORY == 0 && mask != MASK_UNSET;
    let size = (mask | 0xf_ffff).checked_add(1)?;
    (is_set && size >= least).then_some(base)
}

/// Most pstates of a table.
pub const MAX_PSTATES: usize = 256;

// The static part.
const VALID: usize = 0;
const VERSION: usize = 1;
const ROLE: usize = 2;
const PSTATE_MIN: usize = 3;
const PSTATE_FIXED: usize = 4;
const PSTATE_BASE: usize = 5;
const PSTATE_ULTRA_TURBO: usize = 6;
const PSTATE_FMAX: usize = 7;
const PSTATES: usize = 24;
const PSTATE_SIZE: usize = 8;
const CORE_MAX: usize = PSTATES + MAX_PSTATES * PSTATE_SIZE;
/// Cores of a chip.
const CORES: usize = 32;
const LAYOUT: u8 = 0xa0;

// The part that changes.
const DYNAMIC: usize = 0xb80;
const STATE: usize = DYNAMIC;
const WOF_ENABLED: usize = DYNAMIC + 4;
const RATIO: usize = DYNAMIC + 8;
const HARD_MIN_CAP: usize = DYNAMIC + 10;
const MAX_CAP: usize = DYNAMIC + 12;
const CURRENT_CAP: usize = DYNAMIC + 14;
const SOFT_MIN_CAP: usize = DYNAMIC + 16;
const COMMAND: usize = DYNAMIC + 128;
const RESPONSE: usize = COMMAND + 4096;

// Command and response begin alike.
const FLAG: usize = 0;
const REQUEST_ID: usize = 1;
const CODE: usize = 2;
const STATUS: usize = 3;
const LENGTH: usize = 4;
const DATA: usize = 6;
const COMMAND_READY: u8 = 0x80;
const RESPONSE_READY: u8 = 1;
const IN_PROGRESS: u8 = 2;

/// A frequency that a core can run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pstate {
    /// Its number.
    pub id: u8,
    /// Its frequency.
    pub mhz: u32,
}

/// The pstates of a chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The slowest.
    pub min: u8,
    /// What is promised under all conditions.
    pub nominal: u8,
    /// The fastest that is there for all cores at once.
    pub turbo: u8,
    /// The fastest that few cores can have.
    pub ultra_turbo: u8,
    /// The fastest that is allowed now.
    pub max: u8,
}

/// A limit of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// The least that can be asked for.
    SoftMin,
    /// The most.
    Max,
    /// What holds.
    Current,
    /// The least that is kept whatever happens.
    HardMin,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Limits the machine's power, in watts; 0 for no limit. Only the first chip's controller takes it.
    SetCap(u16),
    /// How much of a cut is the processor's, in percent.
    SetRatio(u8),
}

/// Why a command has no good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OccError {
    /// The controller does not run.
    NotRunning,
    /// It is not the one that takes this command.
    NotMaster,
    /// It is at another command.
    Busy,
    /// It refused, with this status.
    Refused(u8),
}

/// The controller of one chip.
#[derive(Debug)]
pub struct Occ<'a> {
    area: &'a [AtomicU8],
    request: u8,
}

impl<'a> Occ<'a> {
    /// The controller behind a shared area; `None` when its layout is not the one known here, or nothing is in it yet.
    #[must_use]
    pub fn new(area: &'a [AtomicU8]) -> Option<Self> {
        let occ = Self { area, request: 0 };
        let long_enough = area.len() as u64 >= AREA.end - AREA.start;
        (long_enough && occ.is_valid() && occ.get(VERSION) == LAYOUT).then_some(occ)
    }

    fn get(&self, at: usize) -> u8 {
        self.area
            .get(at)
            .map_or(0, |byte| byte.load(Ordering::Relaxed))
    }

    fn put(&self, at: usize, value: u8) {
        if let Some(byte) = self.area.get(at) {
            byte.store(value, Ordering::Relaxed);
        }
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.get(at), self.get(at + 1)])
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from(self.get16(at)) << 16 | u32::from(self.get16(at + 2))
    }

    fn is_valid(&self) -> bool {
        self.get(VALID) == 1
    }

    /// Which pstates there are and mean something; `None` when they contradict each other.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        let ultra_turbo = self.get(PSTATE_ULTRA_TURBO);
        let wof = self.get(WOF_ENABLED) != 0;
        let max = if wof {
            ultra_turbo
        } else {
            self.get(PSTATE_FMAX)
        };
        // A greater number is slower.
        let limits = Limits {
            min: self.get(PSTATE_MIN),
            nominal: self.get(PSTATE_FIXED).max(max),
            turbo: self.get(PSTATE_BASE),
            ultra_turbo,
            max,
        };
        let order = [limits.max, limits.nominal, limits.min];
        let turbos = [limits.ultra_turbo, limits.turbo, limits.min];
        let is_sound = limits.max < limits.min
            && order.is_sorted()
            && turbos.is_sorted()
            && self.is_sound(limits);
        is_sound.then_some(limits)
    }

    /// Whether the table has each limit, and a slower frequency, none of them 0, for each greater number.
    fn is_sound(&self, limits: Limits) -> bool {
        let has = |id| self.pstates(limits).any(|pstate| pstate.id == id);
        let pairs = self.pstates(limits).zip(self.pstates(limits).skip(1));
        [limits.max, limits.nominal, limits.min]
            .into_iter()
            .all(has)
            && self.pstates(limits).all(|pstate| pstate.mhz != 0)
            && pairs
                .into_iter()
                .all(|(a, b)| a.id < b.id && a.mhz >= b.mhz)
    }

    /// The pstates from `max` to `min`, fastest first.
    pub fn pstates(&self, limits: Limits) -> impl Iterator<Item = Pstate> {
        (0..MAX_PSTATES)
            .map(|n| PSTATES + n * PSTATE_SIZE)
            .filter(|at| self.get(at + 1) != 0)
            .map(|at| Pstate {
                id: self.get(at),
                mhz: self.get32(at + 4) / 1000,
            })
            .filter(move |pstate| (limits.max..=limits.min).contains(&pstate.id))
    }

    /// The fastest pstate with 1, 2, ... cores at work.
    pub fn core_max(&self) -> impl Iterator<Item = u8> {
        (0..CORES).map(|core| self.get(CORE_MAX + core))
    }

    /// A limit of power in watts; `None` while the controller has nothing to say.
    #[must_use]
    pub fn cap(&self, which: Cap) -> Option<u16> {
        let at = match which {
            Cap::SoftMin => SOFT_MIN_CAP,
            Cap::Max => MAX_CAP,
            Cap::Current => CURRENT_CAP,
            Cap::HardMin => HARD_MIN_CAP,
        };
        // Either least may be the lower one, but one above the most is no range.
        let least = self.get16(SOFT_MIN_CAP).max(self.get16(HARD_MIN_CAP));
        (self.is_valid() && least <= self.get16(MAX_CAP)).then(|| self.get16(at))
    }

    /// How much of a cut is the processor's, in percent; `None` while the controller has nothing to say.
    #[must_use]
    pub fn ratio(&self) -> Option<u8> {
        self.is_valid()
            .then(|| self.get(RATIO))
            .filter(|percent| *percent <= 100)
    }

    /// Gives the controller a command: [`Occ::poll`] says how it ended.
    ///
    /// # Errors
    /// [`OccError`] but for [`OccError::Refused`].
    pub fn begin(&mut self, command: Command) -> Result<(), OccError> {
        const OBSERVATION: u8 = 2;
        const ACTIVE: u8 = 3;
        const CHARACTERIZATION: u8 = 5;
        const MASTER: u8 = 1;
        let state = self.get(STATE);
        if !self.is_valid() || ![OBSERVATION, ACTIVE, CHARACTERIZATION].contains(&state) {
            return Err(OccError::NotRunning);
        }
        let [high, low] = match command {
            Command::SetCap(watts) => watts.to_be_bytes(),
            Command::SetRatio(percent) => [percent, 0],
        };
        let (code, length) = match command {
            Command::SetCap(_) if self.get(ROLE) != MASTER => return Err(OccError::NotMaster),
            Command::SetCap(_) => (0xd1, 2),
            Command::SetRatio(_) => (0xd2, 1),
        };
        let busy = self.get(COMMAND + FLAG) & COMMAND_READY != 0
            || self.get(RESPONSE + FLAG) & IN_PROGRESS != 0;
        if busy {
            return Err(OccError::Busy);
        }
        self.request = self.request.wrapping_add(1);
        self.put(RESPONSE + FLAG, 0);
        for (at, value) in [
            (REQUEST_ID, self.request),
            (CODE, code),
            (LENGTH, 0),
            (LENGTH + 1, length),
            (DATA, high),
            (DATA + 1, low),
        ] {
            self.put(COMMAND + at, value);
        }
        // The command is whole before it is announced.
        fence(Ordering::SeqCst);
        self.put(COMMAND + FLAG, COMMAND_READY);
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// How the last command ended, once; `None` while it is under way.
    pub fn poll(&mut self) -> Option<Result<(), OccError>> {
        if self.get(RESPONSE + FLAG) != RESPONSE_READY {
            return None;
        }
        // The response is looked at after its flag.
        fence(Ordering::SeqCst);
        if self.get(RESPONSE + REQUEST_ID) != self.request {
            return None;
        }
        let status = self.get(RESPONSE + STATUS);
        self.put(RESPONSE + FLAG, 0);
        Some(match status {
            0 => Ok(()),
            status => Err(OccError::Refused(status)),
        })
    }

    /// Withdraws a command that has taken too long.
    pub fn abandon(&mut self) {
        self.put(COMMAND + FLAG, 0);
        self.put(RESPONSE + FLAG, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Expect;
    use crate::fakes::Step::ScomGet;

    /// A chip with five pstates, as QEMU has it.
    fn area() -> Vec<AtomicU8> {
        let area: Vec<AtomicU8> = (0..0x4000).map(|_| AtomicU8::new(0)).collect();
        let set = |at: usize, bytes: &[u8]| {
            for (byte, value) in area[at..].iter().zip(bytes) {
                byte.store(*value, Ordering::Relaxed);
            }
        };
        set(0, &[1, 0xa0, 1, 4, 3, 2, 0, 1, 1]);
        let frequencies = [4_200_000_u32, 4_000_000, 3_800_000, 3_000_000, 2_000_000];
        for (id, khz) in (0_u8..).zip(frequencies) {
            let at = PSTATES + usize::from(id) * PSTATE_SIZE;
            set(at, &[id, 1, 0, 0]);
            set(at + 4, &khz.to_be_bytes());
        }
        set(CORE_MAX, &[1, 2]);
        set(
            DYNAMIC,
            &[3, 0, 1, 0, 1, 0, 0, 0, 30, 0, 0, 10, 0, 100, 0, 90, 0, 20],
        );
        area
    }

    fn byte(area: &[AtomicU8], at: usize) -> u8 {
        area[at].load(Ordering::Relaxed)
    }

    #[test]
    fn homer_is_where_the_bridge_says() {
        let find = |base, mask| {
            let mut bus =
                Expect::new([ScomGet(1, 0x0101_0cda, base), ScomGet(1, 0x0101_0cde, mask)]);
            homer(&mut bus, ChipIndex(1))
        };
        assert_eq!(find(0x300f_fd80_0000, 0x30_0000), Some(0x300f_fd80_0000));
        assert_eq!(find(0, 0x30_0000), None);
        assert_eq!(find(0x300f_fd80_0000, MASK_UNSET), None);
        assert_eq!(find(0x0006_0300_0000_0000, 0x30_0000), None, "a device");
    }

    #[test]
    fn pstates_are_read() {
        let area = area();
        let occ = Occ::new(&area).unwrap();
        let limits = occ.limits().unwrap();
        let expected = Limits {
            min: 4,
            nominal: 3,
            turbo: 2,
            ultra_turbo: 0,
            max: 0,
        };
        assert_eq!(limits, expected);
        let mhz: Vec<_> = occ.pstates(limits).map(|p| (p.id, p.mhz)).collect();
        assert_eq!(mhz, [(0, 4200), (1, 4000), (2, 3800), (3, 3000), (4, 2000)]);
        assert_eq!(occ.core_max().take(3).collect::<Vec<_>>(), [1, 2, 0]);
        area[WOF_ENABLED].store(0, Ordering::Relaxed);
        area[PSTATES + 2 * 8 + 1].store(0, Ordering::Relaxed);
        let limits = occ.limits().unwrap();
        let ids: Vec<_> = occ.pstates(limits).map(|p| p.id).collect();
        assert_eq!(
            ids,
            [1, 3, 4],
            "without the fastest and the one that is none"
        );
    }

    #[test]
    fn nonsense_is_no_controller() {
        for (at, value) in [(VALID, 0), (VALID, 2), (VERSION, 0x90)] {
            let area = area();
            area[at].store(value, Ordering::Relaxed);
            assert!(Occ::new(&area).is_none());
        }
        assert!(Occ::new(&area()[..0x3000]).is_none());
        for (at, value) in [(PSTATE_MIN, 0), (PSTATE_FIXED, 5), (PSTATE_ULTRA_TURBO, 9)] {
            let area = area();
            area[at].store(value, Ordering::Relaxed);
            assert_eq!(Occ::new(&area).unwrap().limits(), None);
        }
        // Turbo slower than the slowest, or faster than ultra turbo; a limit that the table lacks, a frequency of 0, one
        // that rises, the same number twice.
        let entry = |id: usize, at: usize| PSTATES + id * PSTATE_SIZE + at;
        for (changes, why) in [
            (&[(PSTATE_BASE, 5)][..], "turbo"),
            (&[(PSTATE_ULTRA_TURBO, 3)], "ultra turbo"),
            (&[(entry(4, 1), 0)], "no slowest"),
            (&[(entry(3, 1), 0)], "no nominal"),
            (&[(entry(0, 1), 0)], "no fastest"),
            (&[(entry(4, 5), 0), (entry(4, 6), 0), (entry(4, 7), 0)], "0"),
            (&[(entry(4, 4), 1)], "rises"),
            (&[(entry(1, 0), 2)], "twice"),
        ] {
            let area = area();
            for (at, value) in changes {
                area[*at].store(*value, Ordering::Relaxed);
            }
            assert_eq!(Occ::new(&area).unwrap().limits(), None, "{why}");
        }
    }

    #[test]
    fn limits_of_power() {
        let area = area();
        let occ = Occ::new(&area).unwrap();
        let caps = [Cap::SoftMin, Cap::Max, Cap::Current, Cap::HardMin].map(|cap| occ.cap(cap));
        assert_eq!(caps, [Some(20), Some(100), Some(90), Some(10)]);
        assert_eq!(occ.ratio(), Some(30));
        area[VALID].store(0, Ordering::Relaxed);
        assert_eq!((occ.cap(Cap::Max), occ.ratio()), (None, None));
        area[VALID].store(1, Ordering::Relaxed);
        area[RATIO].store(101, Ordering::Relaxed);
        area[MAX_CAP + 1].store(19, Ordering::Relaxed);
        assert_eq!((occ.cap(Cap::Max), occ.ratio()), (None, None));
    }

    #[test]
    fn a_command_and_its_response() {
        let area = area();
        let mut occ = Occ::new(&area).unwrap();
        assert_eq!(occ.begin(Command::SetCap(0x1234)), Ok(()));
        let sent: Vec<u8> = (0..8).map(|n| byte(&area, COMMAND + n)).collect();
        assert_eq!(sent, [0x80, 1, 0xd1, 0, 0, 2, 0x12, 0x34]);
        assert_eq!(occ.begin(Command::SetRatio(5)), Err(OccError::Busy));
        assert_eq!(occ.poll(), None);
        let answer = |id, status| {
            area[RESPONSE + REQUEST_ID].store(id, Ordering::Relaxed);
            area[RESPONSE + STATUS].store(status, Ordering::Relaxed);
            area[COMMAND + FLAG].store(0, Ordering::Relaxed);
            area[RESPONSE + FLAG].store(RESPONSE_READY, Ordering::Relaxed);
        };
        answer(9, 0);
        assert_eq!(occ.poll(), None, "of another request");
        answer(1, 0);
        assert_eq!(occ.poll(), Some(Ok(())));
        assert_eq!(occ.poll(), None);
        assert_eq!(occ.begin(Command::SetRatio(5)), Ok(()));
        answer(2, 0x11);
        assert_eq!(occ.poll(), Some(Err(OccError::Refused(0x11))));
    }

    #[test]
    fn commands_go_to_who_can_take_them() {
        let area = area();
        let mut occ = Occ::new(&area).unwrap();
        area[ROLE].store(0, Ordering::Relaxed);
        assert_eq!(occ.begin(Command::SetCap(1)), Err(OccError::NotMaster));
        for state in [0, 1, 4, 6, 0xff] {
            area[STATE].store(state, Ordering::Relaxed);
            assert_eq!(occ.begin(Command::SetRatio(1)), Err(OccError::NotRunning));
        }
        area[STATE].store(3, Ordering::Relaxed);
        assert_eq!(occ.begin(Command::SetRatio(1)), Ok(()));
        occ.abandon();
        assert_eq!(occ.begin(Command::SetRatio(2)), Ok(()));
    }
}

//! The real-time clock: an MC146818 behind LPC IO 0x70/0x71. Boards usually have the BMC's SEL time instead.
//!
//! Owns the clock's registers and [`DateTime`]. The surprising fact: the clock changes under the reader, so a reading
//! counts only when no update was in progress and a second reading agrees.

use core::fmt;

use isa::timebase::Deadline;

use crate::lpc::IoSpace;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const A: u8 = 0xa;
const B: u8 = 0xb;
const D: u8 = 0xd;

/// In A: an update is in progress or about to be.
const UPDATE_IN_PROGRESS: u8 = 0x80;
/// In A: the oscillator runs at 32.768 kHz; the low bits are the usual periodic rate.
const RUNNING: u8 = 0x26;
/// In B: updates are held, values may be set.
const SET: u8 = 0x80;
/// In B: values are binary, not BCD.
const BINARY: u8 = 4;
/// In B: hours count to 24.
const HOURS_24: u8 = 2;
/// In D: the clock did not lose power.
const VALID: u8 = 0x80;
/// In HOURS, when they count to 12.
const PM: u8 = 0x80;

/// The clock keeps two digits of the year.
const CENTURY: u16 = 2000;
/// An update takes 2.2 ms.
const PATIENCE_MS: u64 = 20;

/// A date and time of day, Gregorian, no time zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DateTime {
    /// 1970 and later.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// Why there is no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RtcError {
    /// No clock answers.
    Absent,
    /// The clock lost power: its time means nothing until it is set.
    LostPower,
    /// The clock never stopped updating, or no two readings agreed.
    Unsteady,
    /// The clock holds, or was given, what is no date.
    NoDate,
}

impl fmt::Display for RtcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "no clock answers",
            Self::LostPower => "clock lost power",
            Self::Unsteady => "clock does not settle",
            Self::NoDate => "not a date",
        })
    }
}

impl DateTime {
    /// Whether every field is in range and the month has that day.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.year >= 1970
            && (1..=12).contains(&self.month)
            && (1..=days_in_month(self.year, self.month)).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }

    /// Seconds since 1970; `None` for an invalid date.
    #[must_use]
    pub fn to_unix(&self) -> Option<u64> {
        self.is_valid().then(|| {
            let clock =
                u64::from(self.hour) * 3600 + u64::from(self.minute) * 60 + u64::from(self.second);
            self.days() * 86_400 + clock
        })
    }

    /// From seconds since 1970; `None` beyond the year 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Option<Self> {
        let mut days = seconds / 86_400;
        let mut year = 1970;
        while days >= days_in_year(year) {
            days -= days_in_year(year);
            year += 1;
            if year > 9999 {
                return None;
            }
        }
        let mut month = 1;
        while days >= u64::from(days_in_month(year, month)) {
            days -= u64::from(days_in_month(year, month));
            month += 1;
        }
        let part = |divisor: u64, modulus: u64| u8::try_from(seconds / divisor % modulus).ok();
        Some(Self {
            year,
            month,
            day: u8::try_from(days + 1).ok()?,
            hour: part(3600, 24)?,
            minute: part(60, 60)?,
            second: part(1, 60)?,
        })
    }

    /// Days from 1 January 1970 to this valid date.
    fn days(&self) -> u64 {
        let years: u64 = (1970..self.year).map(days_in_year).sum();
        let months: u64 = (1..self.month)
            .map(|month| u64::from(days_in_month(self.year, month)))
            .sum();
        years + months + u64::from(self.day) - 1
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
        )
    }
}

fn is_leap(year: u16) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u16) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The clock.
#[derive(Debug)]
pub struct Rtc<B> {
    bus: B,
}

impl<B: IoSpace> Rtc<B> {
    /// Finds the clock. It may still have lost power: then it can be set but not read.
    ///
    /// # Errors
    /// [`RtcError::Absent`].
    pub fn start(bus: B) -> Result<Self, RtcError> {
        bus.outb(INDEX, D);
        match bus.probe(DATA) {
            // The low bits of D always read as zero.
            Some(d) if d & !VALID == 0 => Ok(Self { bus }),
            _ => Err(RtcError::Absent),
        }
    }

    /// Reads date and time.
    ///
    /// # Errors
    /// As [`RtcError`] says.
    pub fn read(&mut self) -> Result<DateTime, RtcError> {
        if self.get(D) & VALID == 0 {
            return Err(RtcError::LostPower);
        }
        let deadline = Deadline::after_ms(PATIENCE_MS);
        let registers = deadline
            .wait_for(|| {
                let values = || {
                    let settled = self.get(A) & UPDATE_IN_PROGRESS == 0;
                    let registers = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR];
                    settled.then(|| registers.map(|register| self.get(register)))
                };
                // Right behind each other, so that a reader who is slow to look again does not find another second each time.
                let [first, second] = [values()?, values()?];
                (first == second).then_some(second)
            })
            .ok_or(RtcError::Unsteady)?;
        decode(registers, self.get(B)).ok_or(RtcError::NoDate)
    }

    /// Sets date and time, and starts the clock if it stood still.
    ///
    /// # Errors
    /// [`RtcError::NoDate`] for an invalid date or one outside 2000 to 2099; the clock is unchanged.
    pub fn set(&mut self, to: &DateTime) -> Result<(), RtcError> {
        let year = to
            .year
            .checked_sub(CENTURY)
            .and_then(|year| u8::try_from(year).ok());
        let Some(year) = year.filter(|year| *year < 100 && to.is_valid()) else {
            return Err(RtcError::NoDate);
        };
        // 1 January 1970 was a Thursday; Sunday is 1.
        let weekday = u8::try_from((to.days() + 4) % 7).unwrap_or(0) + 1;
        self.put(B, SET | HOURS_24);
        self.put(A, RUNNING);
        for (register, value) in [
            (SECONDS, to.second),
            (MINUTES, to.minute),
            (HOURS, to.hour),
            (WEEKDAY, weekday),
            (DAY, to.day),
            (MONTH, to.month),
            (YEAR, year),
        ] {
            self.put(register, (value / 10) * 16 + value % 10);
        }
        self.put(B, HOURS_24);
        Ok(())
    }

    fn get(&self, register: u8) -> u8 {
        self.bus.outb(INDEX, register);
        self.bus.inb(DATA)
    }

    fn put(&self, register: u8, value: u8) {
        self.bus.outb(INDEX, register);
        self.bus.outb(DATA, value);
    }
}

/// Makes a date of the registers in the form that `mode` (B) says. `None` for anything that is no date.
fn decode(registers: [u8; 6], mode: u8) -> Option<DateTime> {
    let number = |value: u8| {
        if mode & BINARY != 0 {
            return Some(value);
        }
        let (tens, ones) = (value >> 4, value & 0xf);
        (tens < 10 && ones < 10).then_some(tens * 10 + ones)
    };
    let [second, minute, hour, day, month, year] = registers;
    let hour = if mode & HOURS_24 != 0 {
        number(hour)?
    } else {
        let of_12 = number(hour & !PM).filter(|hour| (1..=12).contains(hour))?;
        of_12 % 12 + if hour & PM != 0 { 12 } else { 0 }
    };
    let year = number(year).filter(|year| *year < 100)?;
    let date = DateTime {
        year: CENTURY + u16::from(year),
        month: number(month)?,
        day: number(day)?,
        hour,
        minute: number(minute)?,
        second: number(second)?,
    };
    date.is_valid().then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Expect;
    use crate::fakes::Step::{self, In, Out, Probe};
    use isa::timebase::{self, Ticks};

    const DATE: DateTime = DateTime {
        year: 2026,
        month: 11,
        day: 21,
        hour: 14,
        minute: 5,
        second: 59,
    };

    fn get(register: u8, value: u8) -> [Step; 2] {
        [Out(INDEX, register), In(DATA, value)]
    }

    fn reading(values: [u8; 6]) -> Vec<Step> {
        let registers = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR];
        let mut script = get(A, RUNNING).to_vec();
        script.extend(
            registers
                .into_iter()
                .zip(values)
                .flat_map(|(register, value)| get(register, value)),
        );
        script
    }

    fn clock(script: impl IntoIterator<Item = Step>) -> Rtc<Expect> {
        let bus = Expect::new([Out(INDEX, D), Probe(DATA, Some(VALID))]);
        bus.then(script);
        Rtc::start(bus).expect("present")
    }

    #[test]
    fn an_absent_clock_is_found_out() {
        for answer in [None, Some(0xff)] {
            let bus = Expect::new([Out(INDEX, D), Probe(DATA, answer)]);
            assert_eq!(Rtc::start(bus).err(), Some(RtcError::Absent));
        }
    }

    #[test]
    fn a_time_counts_when_two_readings_agree() {
        let mut script = get(D, VALID).to_vec();
        script.extend(get(A, UPDATE_IN_PROGRESS));
        script.extend(reading([0x58, 0x05, 0x14, 0x21, 0x11, 0x26]));
        script.extend(reading([0x59, 0x05, 0x14, 0x21, 0x11, 0x26]));
        script.extend(get(A, UPDATE_IN_PROGRESS)); // what was read before an update does not count
        script.extend(reading([0x59, 0x05, 0x14, 0x21, 0x11, 0x26]));
        script.extend(reading([0x59, 0x05, 0x14, 0x21, 0x11, 0x26]));
        script.extend(get(B, HOURS_24));
        assert_eq!(clock(script).read(), Ok(DATE));
    }

    #[test]
    fn a_clock_that_never_settles_is_given_up() {
        timebase::fake::set_step(Ticks::from_ms(15));
        let mut script = get(D, VALID).to_vec();
        for _ in 0..2 {
            script.extend(get(A, UPDATE_IN_PROGRESS));
        }
        assert_eq!(clock(script).read(), Err(RtcError::Unsteady));
    }

    #[test]
    fn a_clock_without_power_has_no_time() {
        assert_eq!(clock(get(D, 0)).read(), Err(RtcError::LostPower));
    }

    #[test]
    fn all_register_forms_are_understood() {
        assert_eq!(
            decode([59, 5, 14, 21, 11, 26], HOURS_24 | BINARY),
            Some(DATE)
        );
        assert_eq!(decode([0x59, 5, 0x82, 0x21, 0x11, 0x26], 0), Some(DATE));
        assert_eq!(decode([59, 5, 0x82, 21, 11, 26], BINARY), Some(DATE));
        let midnight = decode([0, 0, 0x12, 1, 1, 0], 0).map(|date| date.hour);
        assert_eq!(midnight, Some(0));
        let noon = decode([0, 0, 0x92, 1, 1, 0], 0).map(|date| date.hour);
        assert_eq!(noon, Some(12));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        let good = [0x59, 0x05, 0x14, 0x21, 0x11, 0x26];
        for (place, value) in [
            (0, 0x60),
            (0, 0x5a),
            (1, 0x99),
            (2, 0x24),
            (3, 0),
            (3, 0x31),
            (4, 0x13),
            (5, 0xff),
        ] {
            let mut bad = good;
            bad[place] = value;
            assert_eq!(decode(bad, HOURS_24), None, "register {place} = {value:#x}");
        }
        assert_eq!(decode([0, 0, 0, 0x21, 0x11, 0x26], 0), None, "hour 0 of 12");
        assert_eq!(
            decode([0, 0, 0, 29, 2, 25], BINARY | HOURS_24),
            None,
            "no leap year"
        );
    }

    #[test]
    fn setting_holds_the_clock_meanwhile() {
        let put = |register, value| [Out(INDEX, register), Out(DATA, value)];
        let script = [
            put(B, SET | HOURS_24),
            put(A, RUNNING),
            put(SECONDS, 0x59),
            put(MINUTES, 0x05),
            put(HOURS, 0x14),
            put(WEEKDAY, 7),
            put(DAY, 0x21),
            put(MONTH, 0x11),
            put(YEAR, 0x26),
            put(B, HOURS_24),
        ];
        assert_eq!(clock(script.concat()).set(&DATE), Ok(()));
    }

    #[test]
    fn an_impossible_date_is_not_set() {
        let mut clock = clock([]);
        for bad in [
            DateTime { year: 1999, ..DATE },
            DateTime { year: 2100, ..DATE },
            DateTime { month: 0, ..DATE },
            DateTime { day: 31, ..DATE },
            DateTime { hour: 24, ..DATE },
        ] {
            assert_eq!(clock.set(&bad), Err(RtcError::NoDate));
        }
    }

    #[test]
    fn unix_time_converts_both_ways() {
        assert_eq!(DATE.to_unix(), Some(1_795_269_959));
        for seconds in [
            0,
            951_782_400,
            1_709_164_800,
            1_795_269_959,
            4_102_444_799,
            u64::from(u32::MAX),
        ] {
            assert_eq!(
                DateTime::from_unix(seconds).and_then(|date| date.to_unix()),
                Some(seconds)
            );
        }
        assert_eq!(DateTime::from_unix(u64::MAX), None);
        assert_eq!(DATE.to_string(), "2026-11-21 14:05:59");
    }
}

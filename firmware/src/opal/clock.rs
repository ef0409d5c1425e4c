//! Date and time as OPAL_RTC_READ and OPAL_RTC_WRITE have them: packed decimal.
//!
//! The date is 0xYYYYMMDD; the time has hours, minutes, seconds in its top three bytes. Surprising fact: what a
//! kernel sets is checked here, digit by digit, since hexadecimal digits are no decimal ones.
#![forbid(unsafe_code)]

use papr_services::host::DateTime;

use super::tree::{Describe, Draft};

/// A clock that keeps the date.
#[derive(Clone, Copy, Debug)]
pub struct Rtc;

impl Describe for Rtc {
    fn describe(&self, draft: &mut Draft) {
        draft.opal(|opal| {
            opal.node("rtc", |node| {
                node.set("compatible", "ibm,opal-rtc");
            });
        });
    }
}

/// `number`, below 100, as two decimal digits.
fn digits(number: u8) -> u8 {
    (number / 10 % 10) * 16 + number % 10
}

/// Two decimal digits as a number.
fn number(digits: u8) -> Option<u8> {
    let (tens, ones) = (digits >> 4, digits & 15);
    (tens < 10 && ones < 10).then(|| tens * 10 + ones)
}

/// Date and time as the call stores them.
#[must_use]
pub fn to_bcd(time: &DateTime) -> (u32, u64) {
    let half = |part: u16| digits(u8::try_from(part % 100).unwrap_or(0));
    let date = [
        half(time.year / 100),
        half(time.year),
        digits(time.month),
        digits(time.day),
    ];
    let clock = [
        digits(time.hour),
        digits(time.minute),
        digits(time.second),
        0,
        0,
        0,
        0,
        0,
    ];
    (u32::from_be_bytes(date), u64::from_be_bytes(clock))
}

/// Date and time that the call was given; `None` when they are no decimal digits or no time of day.
#[must_use]
pub fn from_bcd(date: u32, clock: u64) -> Option<DateTime> {
    let [century, year, month, day] = date.to_be_bytes();
    let [hour, minute, second, ..] = clock.to_be_bytes();
    let time = DateTime {
        year: u16::from(number(century)?) * 100 + u16::from(number(year)?),
        month: number(month)?,
        day: number(day)?,
        hour: number(hour)?,
        minute: number(minute)?,
        second: number(second)?,
    };
    let is_time = (1..=12).contains(&time.month)
        && (1..=days(time.year, time.month)).contains(&time.day)
        && time.hour < 24
        && time.minute < 60
        && time.second < 60;
    is_time.then_some(time)
}

/// Days of a month of the Gregorian calendar.
const fn days(year: u16, month: u8) -> u8 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        let bcd = (0x2026_1121, 0x0359_0700_0000_0000);
        let time = from_bcd(bcd.0, bcd.1).unwrap();
        assert_eq!((time.year, time.month, time.day), (2026, 11, 21));
        assert_eq!((time.hour, time.minute, time.second), (3, 59, 7));
        assert_eq!(to_bcd(&time), bcd);
    }

    #[test]
    fn leap_days_are_days() {
        for date in [0x2028_0229, 0x2000_0229] {
            assert!(from_bcd(date, 0).is_some(), "{date:x}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (date, clock) in [
            (0x2026_1a21, 0),
            (0x2026_1321, 0),
            (0x2026_0000, 0),
            (0x2026_0132, 0),
            (0x2026_0229, 0),
            (0x2100_0229, 0),
            (0x2026_0431, 0),
            (0x2026_0101, 0x2400_0000_0000_0000),
            (0x2026_0101, 0x0060_0000_0000_0000),
            (0x2026_0101, 0x000a_0000_0000_0000),
        ] {
            assert!(from_bcd(date, clock).is_none(), "{date:x} {clock:x}");
        }
    }
}

//! The sensors of the machine, as each on-chip controller (OCC) copies them to memory (reference/hardware.md 8.4): currents,
//! voltages, temperatures, powers.
//!
//! Owns the layout of that block: a header, one name per sensor, and two buffers of readings. All of it is written by another
//! processor, so every offset is checked. The surprising fact: the controller fills one buffer while the other is read, and
//! may do the next round during a read; so a reading counts only if its buffer is still the valid one afterwards.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering, fence};

use crate::occ;
use crate::scom::{ChipIndex, Scom};

/// Where the first controller's block is in the memory that all of them share.
const FIRST: u64 = 0x58_0000;
/// Bytes of a block.
pub const SIZE: u64 = 0x2_5800;

/// Where the block of the `n`-th controller is, by the bridge of `chip`; `None` when there is no such memory.
pub fn block(scom: &mut impl Scom, chip: ChipIndex, n: u8) -> Option<Range<u64>> {
    /// Of the bridge's windows, the one for what the controllers share.
    const COMMON: u32 = 2;
    let at = FIRST + u64::from(n) * SIZE;
    let base = occ::window(scom, chip, COMMON, at + SIZE)?;
    Some(base + at..base + at + SIZE)
}

// The header.
const VALID: usize = 0;
const VERSION: usize = 1;
const COUNT: usize = 2;
const READING_VERSION: usize = 4;
const NAMES: usize = 8;
const NAMES_VERSION: usize = 12;
const NAME_LENGTH: usize = 13;
const PING: usize = 16;
const PONG: usize = 20;

// A name.
const NAME_SIZE: usize = 48;
const NAME_BYTES: usize = 16;
const FREQUENCY: usize = 22;
const SCALE: usize = 26;
const KIND: usize = 30;
const LOCATION: usize = 32;
const STRUCTURE: usize = 34;
const READING: usize = 35;

// A reading.
const READING_SIZE: usize = 48;
const TIMESTAMP: usize = 2;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In mA.
    Current,
    /// In mV.
    Voltage,
    /// In degrees Celsius.
    Temperature,
    /// In W; its accumulator, an energy, in uJ.
    Power,
}

/// Where it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// The whole machine.
    System,
    /// The chip.
    Processor,
    /// Memory of the chip.
    Memory,
    /// A voltage regulator.
    Regulator,
    /// A core, which the name numbers.
    Core,
    /// Some cores and their caches.
    Quad,
    /// Anything else.
    Other,
}

/// What can be read of a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The last sample.
    Sample,
    /// The least since the controller started.
    Min,
    /// The greatest.
    Max,
    /// The least since somebody cleared it.
    ClearedMin,
    /// The greatest.
    ClearedMax,
    /// The sum of all samples.
    Accumulator,
}

/// A sensor that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sensor {
    /// Its number.
    pub id: u16,
    /// What is measured.
    pub kind: Kind,
    /// Where.
    pub location: Location,
    name: [u8; NAME_BYTES],
    frequency: u32,
    scale: u32,
    reading: usize,
}

impl Sensor {
    /// The controller's name for it: letters and digits.
    #[must_use]
    pub fn name(&self) -> &str {
        let good = |byte: &u8| byte.is_ascii_alphanumeric();
        let length = self.name.iter().take_while(|byte| good(byte)).count();
        core::str::from_utf8(&self.name[..length]).unwrap_or_default()
    }

    /// The number in the name: of the core, for example.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        let digits = self
            .name()
            .trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit());
        digits.get(..end.unwrap_or(digits.len()))?.parse().ok()
    }

    /// A raw value in the unit of the kind. Factors are `mantissa << 8 | exponent`, of ten.
    fn scaled(&self, raw: u64, attribute: Attribute) -> Option<u64> {
        let is_energy = self.kind == Kind::Power && attribute == Attribute::Accumulator;
        let (unit, factor) = match self.kind {
            _ if is_energy => (1_000_000, self.frequency),
            Kind::Current => (1000, self.scale),
            Kind::Voltage | Kind::Temperature | Kind::Power => (1, self.scale),
        };
        let mantissa = u128::from(factor >> 8);
        let exponent = factor.to_be_bytes()[3].cast_signed();
        let power = 10_u128.checked_pow(exponent.unsigned_abs().into())?;
        let value = u128::from(raw) * unit;
        // Samples are multiplied by their factor; a sum of powers is divided by how often they were taken.
        let value = if is_energy {
            value.checked_div(mantissa)?
        } else {
            value.checked_mul(mantissa)?
        };
        let value = if (exponent > 0) == is_energy {
            value / power
        } else {
            value.checked_mul(power)?
        };
        u64::try_from(value).ok()
    }
}

/// Why there is no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorError {
    /// No sensor has this number.
    Absent,
    /// The controller has no reading now, or none that means something.
    NoReading,
}

/// The block of one controller.
#[derive(Debug)]
pub struct Sensors<'a> {
    area: &'a [AtomicU8],
    count: u16,
    names: usize,
    buffers: [usize; 2],
}

impl<'a> Sensors<'a> {
    /// The sensors in a block; `None` when its layout is not the one known here, or leaves the block.
    #[must_use]
    pub fn new(area: &'a [AtomicU8]) -> Option<Self> {
        let bytes = Bytes(area);
        let header = [VALID, VERSION, READING_VERSION, NAMES_VERSION];
        let is_known = header.iter().all(|at| bytes.get8(*at) == Some(1))
            && bytes.get8(NAME_LENGTH).map(usize::from) == Some(NAME_SIZE);
        if !is_known {
            return None;
        }
        let offset = |at| usize::try_from(bytes.get32(at)?).ok();
        let sensors = Self {
            area,
            count: bytes.get16(COUNT)?,
            names: offset(NAMES)?,
            buffers: [offset(PING)?, offset(PONG)?],
        };
        let end = sensors.names + usize::from(sensors.count) * NAME_SIZE;
        let is_inside = |at: usize| at != 0 && at < area.len();
        let are_inside = end <= area.len() && is_inside(sensors.names);
        (are_inside && sensors.buffers.into_iter().all(is_inside)).then_some(sensors)
    }

    /// All that can be read.
    pub fn each(&self) -> impl Iterator<Item = Sensor> {
        (0..self.count).filter_map(|id| self.find(id))
    }

    fn find(&self, id: u16) -> Option<Sensor> {
        /// A reading with all attributes, not a mere counter.
        const FULL: u8 = 1;
        let bytes = Bytes(self.area);
        let at = self.names + usize::from(Some(id).filter(|id| *id < self.count)?) * NAME_SIZE;
        if bytes.get8(at + STRUCTURE)? != FULL {
            return None;
        }
        let mut name = [0; NAME_BYTES];
        for (n, byte) in name.iter_mut().enumerate() {
            *byte = bytes.get8(at + n)?;
        }
        Some(Sensor {
            id,
            kind: match bytes.get16(at + KIND)? {
                2 => Kind::Current,
                4 => Kind::Voltage,
                8 => Kind::Temperature,
                0x80 => Kind::Power,
                _ => return None,
            },
            location: match bytes.get16(at + LOCATION)? {
                1 => Location::System,
                2 => Location::Processor,
                8 => Location::Memory,
                0x10 => Location::Regulator,
                0x40 => Location::Core,
                0x100 => Location::Quad,
                _ => Location::Other,
            },
            name,
            frequency: bytes.get32(at + FREQUENCY)?,
            scale: bytes.get32(at + SCALE)?,
            reading: usize::try_from(bytes.get32(at + READING)?).ok()?,
        })
    }

    /// Reads a sensor.
    ///
    /// # Errors
    /// [`SensorError`].
    pub fn read(&self, id: u16, attribute: Attribute) -> Result<u64, SensorError> {
        /// How often the controller may be quicker.
        const TRIES: u32 = 3;
        let sensor = self.find(id).ok_or(SensorError::Absent)?;
        let raw = (0..TRIES).find_map(|_| self.raw(&sensor, attribute));
        let raw = raw.ok_or(SensorError::NoReading)?;
        sensor.scaled(raw, attribute).ok_or(SensorError::NoReading)
    }

    /// A value of the newer of the valid buffers. A controller that is being reset says so in the header; its buffers stay as they were.
    fn raw(&self, sensor: &Sensor, attribute: Attribute) -> Option<u64> {
        let bytes = Bytes(self.area);
        if bytes.get8(VALID) != Some(1) {
            return None;
        }
        let is_valid = |buffer: usize| bytes.get8(buffer).is_some_and(|valid| valid != 0);
        let record = |buffer: usize| {
            let at = buffer.checked_add(sensor.reading)?;
            (at.checked_add(READING_SIZE)? <= self.area.len()).then_some(at)
        };
        let valid = self.buffers.into_iter().filter(|at| is_valid(*at));
        let stamped =
            valid.filter_map(|buffer| Some((bytes.get64(record(buffer)? + TIMESTAMP)?, buffer)));
        let (_, buffer) = stamped.max()?;
        // What is read was written before its buffer became valid.
        fence(Ordering::SeqCst);
        let at = record(buffer)?;
        let raw = match attribute {
            Attribute::Sample => bytes.get16(at + 10)?.into(),
            Attribute::Min => bytes.get16(at + 12)?.into(),
            Attribute::Max => bytes.get16(at + 14)?.into(),
            Attribute::ClearedMin => bytes.get16(at + 16)?.into(),
            Attribute::ClearedMax => bytes.get16(at + 18)?.into(),
            Attribute::Accumulator => bytes.get64(at + 28)?,
        };
        fence(Ordering::SeqCst);
        is_valid(buffer).then_some(raw)
    }
}

/// Big-endian values in memory that another processor writes.
struct Bytes<'a>(&'a [AtomicU8]);

impl Bytes<'_> {
    fn get8(&self, at: usize) -> Option<u8> {
        Some(self.0.get(at)?.load(Ordering::Relaxed))
    }

    fn get<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = self.get8(at.checked_add(n)?)?;
        }
        Some(bytes)
    }

    fn get16(&self, at: usize) -> Option<u16> {
        self.get(at).map(u16::from_be_bytes)
    }

    fn get32(&self, at: usize) -> Option<u32> {
        self.get(at).map(u32::from_be_bytes)
    }

    fn get64(&self, at: usize) -> Option<u64> {
        self.get(at).map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Expect;
    use crate::fakes::Step::ScomGet;

    const NAMES_AT: usize = 0x400;
    const PING_AT: usize = 0xdc00;
    const PONG_AT: usize = 0x1_8000;

    fn set(area: &[AtomicU8], at: usize, bytes: &[u8]) {
        for (byte, value) in area[at..].iter().zip(bytes) {
            byte.store(*value, Ordering::Relaxed);
        }
    }

    fn name(area: &[AtomicU8], id: usize, name: &str, factors: [u32; 2], kind: u16, place: u16) {
        let at = NAMES_AT + id * NAME_SIZE;
        set(area, at, name.as_bytes());
        set(area, at + FREQUENCY, &factors[0].to_be_bytes());
        set(area, at + SCALE, &factors[1].to_be_bytes());
        set(area, at + KIND, &kind.to_be_bytes());
        set(area, at + LOCATION, &place.to_be_bytes());
        set(area, at + STRUCTURE, &[1]);
        let reading = 8 + u32::try_from(id * READING_SIZE).unwrap();
        set(area, at + READING, &reading.to_be_bytes());
    }

    /// Sample, its extremes, accumulator at a time.
    fn reading(area: &[AtomicU8], buffer: usize, id: usize, time: u64, values: [u16; 5], sum: u64) {
        let at = buffer + 8 + id * READING_SIZE;
        set(area, at + TIMESTAMP, &time.to_be_bytes());
        for (n, value) in values.into_iter().enumerate() {
            set(area, at + 10 + 2 * n, &value.to_be_bytes());
        }
        set(area, at + 28, &sum.to_be_bytes());
    }

    fn area() -> Vec<AtomicU8> {
        let size = usize::try_from(SIZE).unwrap();
        let area: Vec<AtomicU8> = (0..size).map(|_| AtomicU8::new(0)).collect();
        set(&area, 0, &[1, 1, 0, 5, 1, 0, 0, 0]);
        set(&area, NAMES, &0x400_u32.to_be_bytes());
        set(&area, NAMES_VERSION, &[1, 0x30]);
        set(&area, PING, &0xdc00_u32.to_be_bytes());
        set(&area, PONG, &0x1_8000_u32.to_be_bytes());
        // Factors: 1, 2000 a second; 0.01; 1.
        name(&area, 0, "PWRSYS", [2 << 8 | 3, 1 << 8], 0x80, 1);
        name(&area, 1, "CURVDD", [1 << 8, 1 << 8 | 0xfe], 2, 0x10);
        name(&area, 2, "TEMPPROCTHRMC13", [1 << 8, 1 << 8], 8, 0x40);
        name(&area, 3, "UTIL", [1 << 8, 1 << 8], 0x10, 2);
        name(&area, 4, "VOLTVDD", [1 << 8, 1 << 8 | 1], 4, 2);
        reading(&area, PING_AT, 0, 7, [250, 240, 260, 245, 255], 4_000_000);
        reading(&area, PING_AT, 1, 7, [1234; 5], 0);
        reading(&area, PING_AT, 2, 7, [40; 5], 0);
        reading(&area, PING_AT, 4, 7, [90; 5], 0);
        set(&area, PING_AT, &[1]);
        area
    }

    #[test]
    fn blocks_are_where_the_bridge_says() {
        let find = |mask, n| {
            let (base, window) = (0x0101_0cdc, 0x0101_0ce0);
            let mut bus =
                Expect::new([ScomGet(1, base, 0x300f_ff80_0000), ScomGet(1, window, mask)]);
            block(&mut bus, ChipIndex(1), n)
        };
        let first = 0x300f_ffd8_0000;
        assert_eq!(find(0x70_0000, 0), Some(first..first + SIZE));
        let third = first + 2 * SIZE;
        assert_eq!(find(0x70_0000, 2), Some(third..third + SIZE));
        assert_eq!(find(0x30_0000, 0), None, "too small");
    }

    #[test]
    fn sensors_are_found_with_what_they_measure() {
        let area = area();
        let sensors = Sensors::new(&area).unwrap();
        let all: Vec<Sensor> = sensors.each().collect();
        let told: Vec<_> = all
            .iter()
            .map(|s| (s.id, s.name(), s.kind, s.location))
            .collect();
        assert_eq!(
            told,
            [
                (0, "PWRSYS", Kind::Power, Location::System),
                (1, "CURVDD", Kind::Current, Location::Regulator),
                (2, "TEMPPROCTHRMC13", Kind::Temperature, Location::Core),
                (4, "VOLTVDD", Kind::Voltage, Location::Processor),
            ]
        );
        assert_eq!((all[2].number(), all[0].number()), (Some(13), None));
    }

    #[test]
    fn readings_are_scaled() {
        let area = area();
        let sensors = Sensors::new(&area).unwrap();
        let power = [
            (Attribute::Sample, 250),
            (Attribute::Min, 240),
            (Attribute::Max, 260),
            (Attribute::ClearedMin, 245),
            (Attribute::ClearedMax, 255),
            // 4,000,000 samples of a watt, 2000 a second, are 2000 s of it.
            (Attribute::Accumulator, 2_000_000_000),
        ];
        for (attribute, value) in power {
            assert_eq!(sensors.read(0, attribute), Ok(value), "{attribute:?}");
        }
        // Amperes by 0.01, in mA; volts by 10.
        assert_eq!(sensors.read(1, Attribute::Sample), Ok(12_340));
        assert_eq!(sensors.read(4, Attribute::Sample), Ok(900));
        for id in [3, 5, u16::MAX] {
            let absent = Err(SensorError::Absent);
            assert_eq!(sensors.read(id, Attribute::Sample), absent);
        }
    }

    #[test]
    fn the_newer_valid_buffer_counts() {
        let area = area();
        let sensors = Sensors::new(&area).unwrap();
        let read = || sensors.read(0, Attribute::Sample);
        reading(&area, PONG_AT, 0, 8, [300; 5], 0);
        assert_eq!(read(), Ok(250), "not valid yet");
        set(&area, PONG_AT, &[1]);
        assert_eq!(read(), Ok(300));
        reading(&area, PING_AT, 0, 9, [310; 5], 0);
        assert_eq!(read(), Ok(310));
        set(&area, PING_AT, &[0]);
        set(&area, PONG_AT, &[0]);
        assert_eq!(read(), Err(SensorError::NoReading));
    }

    #[test]
    fn what_is_wrong_is_no_block_or_no_reading() {
        let headers: [(usize, &[u8]); 8] = [
            (VALID, &[0]),
            (VERSION, &[2]),
            (READING_VERSION, &[0]),
            (NAMES_VERSION, &[0]),
            (NAME_LENGTH, &[0x31]),
            (NAMES, &[0xff; 4]),
            (COUNT, &[0xff; 2]),
            (PING, &[0, 2, 0x58, 0]),
        ];
        for (at, bytes) in headers {
            let area = area();
            set(&area, at, bytes);
            assert!(Sensors::new(&area).is_none(), "{at}");
        }
        for length in [0, 1, 23, 0x300] {
            assert!(Sensors::new(&area()[..length]).is_none());
        }
        // A reading outside, factors that are too large or nothing, at the first sensor.
        for (at, bytes) in [
            (READING, [0xff; 4]),
            (READING, [0, 2, 0x58, 0]),
            (SCALE, [0, 0, 1, 0x7f]),
            (SCALE, [0xff, 0xff, 0xff, 20]),
        ] {
            let area = area();
            set(&area, NAMES_AT + at, &bytes);
            let sensors = Sensors::new(&area).unwrap();
            let nothing = Err(SensorError::NoReading);
            assert_eq!(
                sensors.read(0, Attribute::Sample),
                nothing,
                "{at} {bytes:?}"
            );
        }
        let area = area();
        set(&area, NAMES_AT + FREQUENCY, &[0; 4]);
        let sensors = Sensors::new(&area).unwrap();
        let nothing = Err(SensorError::NoReading);
        assert_eq!(sensors.read(0, Attribute::Accumulator), nothing);
        // A controller that stops after it was found.
        set(&area, VALID, &[0]);
        assert_eq!(sensors.read(0, Attribute::Sample), nothing);
        set(&area, VALID, &[1]);
        assert_eq!(sensors.read(0, Attribute::Sample), Ok(250));
    }
}

//! Sensors: OPAL_SENSOR_READ, OPAL_SENSOR_READ_U64.
//!
//! Owns the handles, which the tree gives to the kernel: attribute in bits 31:24, family in bits 23:21, block of sensors in bits
//! 20:16, number in bits 15:0, as skiboot has them. The surprising fact: the ABI lets a reading end in a message, for sensors that
//! take time; all that are known here are in memory, so the token is not used.

use crate::args::{Handle, OsAddr};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::os_memory::OsMemory;

/// The family of what the on-chip controllers measure.
const OCC: u32 = 6;
/// Blocks that a handle can name.
pub const MAX_BLOCKS: usize = 32;

/// What is read of a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Attribute {
    /// The last sample.
    Sample = 0,
    /// The least since the controller started.
    Min = 1,
    /// The greatest.
    Max = 2,
    /// The least since it was cleared.
    ClearedMin = 3,
    /// The greatest.
    ClearedMax = 4,
    /// The sum of the samples: an energy.
    Accumulator = 5,
}

impl Attribute {
    const ALL: [Self; 6] = [
        Self::Sample,
        Self::Min,
        Self::Max,
        Self::ClearedMin,
        Self::ClearedMax,
        Self::Accumulator,
    ];
}

/// One value of one sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The block that the sensor is in, below [`MAX_BLOCKS`].
    pub block: u8,
    /// Its number there.
    pub id: u16,
    /// What of it.
    pub attribute: Attribute,
}

impl Value {
    /// The handle.
    #[must_use]
    pub const fn handle(self) -> u32 {
        (self.attribute as u32).wrapping_shl(24)
            | OCC.wrapping_shl(21)
            | (self.block as u32 & 0x1f).wrapping_shl(16)
            | self.id as u32
    }

    fn of(handle: Handle) -> Result<Self, OpalError> {
        let [attribute, family_and_block, high, low] = handle.0.to_be_bytes();
        if u32::from(family_and_block >> 5) != OCC {
            return Err(OpalError::OPAL_UNSUPPORTED);
        }
        let attribute = Attribute::ALL
            .into_iter()
            .find(|known| *known as u32 == u32::from(attribute));
        Ok(Self {
            block: family_and_block & 0x1f,
            id: u16::from_be_bytes([high, low]),
            attribute: attribute.ok_or(OpalError::OPAL_PARAMETER)?,
        })
    }
}

/// The sensors. Nothing here waits.
pub trait Sensors {
    /// Reads a value, in the unit that the kernel expects: mA, mV, degrees Celsius, W, uJ.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such sensor. OPAL_HARDWARE: it has no reading now.
    fn read(&self, value: Value) -> Result<u64, OpalError>;
}

/// OPAL_SENSOR_READ.
///
/// # Errors
/// OPAL_PARAMETER: a bad pointer or sensor, or a value that needs 64 bits. OPAL_UNSUPPORTED: a family of sensors that does not
/// exist. OPAL_HARDWARE: no reading.
pub fn read(sensors: &impl Sensors, os: &impl OsMemory, handle: Handle, data: OsAddr) -> Answer {
    os.check(data, 4)?;
    let value = Value::of(handle)?;
    let read = u32::try_from(sensors.read(value)?).map_err(|_| OpalError::OPAL_PARAMETER)?;
    os.write_be32(data, read)?;
    SUCCESS
}

/// OPAL_SENSOR_READ_U64.
///
/// # Errors
/// As [`read`].
pub fn read_u64(
    sensors: &impl Sensors,
    os: &impl OsMemory,
    handle: Handle,
    data: OsAddr,
) -> Answer {
    os.check(data, 8)?;
    let value = Value::of(handle)?;
    os.write_be64(data, sensors.read(value)?)?;
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::{Attribute, Sensors, Value, read, read_u64};
    use crate::args::{Handle, OsAddr};
    use crate::error::{OpalError, SUCCESS};
    use crate::os_memory::fake::Memory;

    const BUF: OsAddr = OsAddr(0x1000);

    struct One(Result<u64, OpalError>);

    const KNOWN: Value = Value {
        block: 3,
        id: 0x1234,
        attribute: Attribute::ClearedMax,
    };

    impl Sensors for One {
        fn read(&self, value: Value) -> Result<u64, OpalError> {
            if value == KNOWN {
                self.0
            } else {
                Err(OpalError::OPAL_PARAMETER)
            }
        }
    }

    #[test]
    fn handles_are_as_skiboot_has_them() {
        assert_eq!(KNOWN.handle(), 0x04c3_1234);
        for attribute in Attribute::ALL {
            let value = Value { attribute, ..KNOWN };
            assert_eq!(Value::of(Handle(value.handle())), Ok(value));
        }
        for (handles, why) in [
            ([0x06c3_1234, 0xffc3_1234], OpalError::OPAL_PARAMETER),
            ([0x0403_1234, 0x04e3_1234], OpalError::OPAL_UNSUPPORTED),
        ] {
            for handle in handles {
                assert_eq!(Value::of(Handle(handle)), Err(why), "{handle:#x}");
            }
        }
    }

    #[test]
    fn a_value_is_read_in_both_sizes() {
        let os = Memory::new(0x2000);
        let handle = Handle(KNOWN.handle());
        assert_eq!(read(&One(Ok(0x1_0203)), &os, handle, BUF), SUCCESS);
        assert_eq!(os.bytes(BUF, 4), [0, 1, 2, 3]);
        assert_eq!(read_u64(&One(Ok(1 << 32)), &os, handle, BUF), SUCCESS);
        assert_eq!(os.bytes(BUF, 8), [0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_read_writes_nothing() {
        let os = Memory::new(0x2000);
        os.fill(0xaa);
        let (good, bad) = (Handle(KNOWN.handle()), Err(OpalError::OPAL_PARAMETER));
        let one = One(Ok(1 << 32));
        assert_eq!(read(&one, &os, good, BUF), bad, "too large");
        let none = Err(OpalError::OPAL_UNSUPPORTED);
        for (handle, why) in [(0, none), (KNOWN.handle() + 1, bad), (u32::MAX, none)] {
            assert_eq!(read(&one, &os, Handle(handle), BUF), why);
            assert_eq!(read_u64(&one, &os, Handle(handle), BUF), why);
        }
        for at in [0x1ffd, 0x2000, u64::MAX] {
            assert_eq!(read(&one, &os, good, OsAddr(at)), bad);
            assert_eq!(read_u64(&one, &os, good, OsAddr(at)), bad);
        }
        let none = One(Err(OpalError::OPAL_HARDWARE));
        assert_eq!(
            read_u64(&none, &os, good, BUF),
            none.0.map(|_| ()).and(SUCCESS)
        );
        assert!(os.bytes(BUF, 8).iter().all(|byte| *byte == 0xaa));
    }
}

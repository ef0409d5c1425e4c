//! I2C masters behind SCOM: one transfer at a time, moved on by [`Master::step`] (reference/opal.md appendix A).
//!
//! Owns the engine's registers, one FIFO of a few bytes for all of the engine's ports. Nothing here waits. The surprising
//! fact: a write of the reset register is a read of the status, so an engine is reset where its state is read.

use isa::ppc_bit;
use isa::timebase::{Deadline, Ticks};

use crate::scom::{ChipIndex, Scom, ScomAddr, ScomError};

const FIFO: u32 = 4;
const COMMAND: u32 = 5;
const MODE: u32 = 6;
const WATERMARK: u32 = 7;
/// Read: state. Write: resets the engine.
const STATE_AND_RESET: u32 = 0xb;
/// Write: clears errors.
const CLEAR_ERRORS: u32 = 0xc;

const WITH_START: u64 = ppc_bit(0);
const WITH_ADDRESS: u64 = ppc_bit(1);
const WITH_STOP: u64 = ppc_bit(3);
const READ: u64 = ppc_bit(15);
const ADDRESS_SHIFT: u32 = 63 - 14;
const LENGTH_SHIFT: u32 = 63 - 31;

const DIVISOR_SHIFT: u32 = 63 - 15;
const PORT_SHIFT: u32 = 63 - 21;
/// The engine stops the clock instead of losing bytes.
const PACING: u64 = ppc_bit(30);
/// Asks for service at 4 bytes, both ways.
const WATERMARKS: u64 = 4 << (63 - 19) | 4 << (63 - 27);

const DATA_REQUEST: u64 = ppc_bit(6);
const COMPLETE: u64 = ppc_bit(7);
const FIFO_COUNT_SHIFT: u32 = 63 - 31;
/// Invalid command, parity, overrun, access, arbitration, no acknowledgement; stop.
const ERRORS: u64 = 0x3f << 58 | ppc_bit(8);

/// Most bytes of a transfer, and of an offset.
pub const MAX_LENGTH: usize = 256;
/// Most bytes of an offset within a device.
pub const MAX_OFFSET: usize = 4;
/// How long a transfer may take, whatever its length; then so long for each byte.
const PATIENCE: Ticks = Ticks::from_ms(50);
const PER_BYTE: Ticks = Ticks::from_ms(1);

/// Why a transfer failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum I2cError {
    /// A register was not reached.
    Scom(ScomError),
    /// Another transfer is under way.
    Busy,
    /// It is longer than [`MAX_LENGTH`], or the offset than [`MAX_OFFSET`].
    TooLong,
    /// It did not end in time.
    Timeout,
    /// Nobody acknowledged.
    NoAnswer,
    /// Another master won the bus.
    ArbitrationLost,
    /// The bus was not free after the stop.
    Stop,
    /// The engine refused or lost something: its state.
    Engine(u64),
}

impl From<ScomError> for I2cError {
    fn from(error: ScomError) -> Self {
        Self::Scom(error)
    }
}

/// A transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Port of the engine, 0 to 63.
    pub port: u8,
    /// Of the device, 7 bits.
    pub address: u8,
    /// Place within the device; empty if it has none.
    pub offset: &'a [u8],
    /// What to do there.
    pub what: What<'a>,
}

/// What a transfer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// Reads so many bytes.
    Read(usize),
    /// Writes these bytes.
    Write(&'a [u8]),
}

/// A transfer under way.
#[derive(Clone, Debug)]
struct UnderWay {
    address: u8,
    /// What is left to be written: the offset, and the data of a write.
    out: [u8; MAX_OFFSET + MAX_LENGTH],
    out_length: usize,
    written: usize,
    /// Bytes to read after that, and those that came.
    wanted: usize,
    data: [u8; MAX_LENGTH],
    read: usize,
    /// The read has been told to the engine.
    reading: bool,
    deadline: Deadline,
}

/// One engine.
#[derive(Debug)]
pub struct Master {
    chip: ChipIndex,
    base: ScomAddr,
    /// Of the bus clock, per port the same.
    divisor: u16,
    under_way: Option<UnderWay>,
}

impl Master {
    /// The engine at `base`, driven by `clock` Hz, with a bus of `speed` Hz.
    #[must_use]
    pub fn new(chip: ChipIndex, base: ScomAddr, clock: u32, speed: u32) -> Self {
        let divisor = (clock / speed.max(1)).saturating_sub(1) / 4;
        Self {
            chip,
            base,
            divisor: u16::try_from(divisor).unwrap_or(u16::MAX),
            under_way: None,
        }
    }

    fn get(&self, scom: &mut impl Scom, register: u32) -> Result<u64, I2cError> {
        Ok(scom.read(self.chip, self.base.plus(register))?)
    }

    fn put(&self, scom: &mut impl Scom, register: u32, value: u64) -> Result<(), I2cError> {
        Ok(scom.write(self.chip, self.base.plus(register), value)?)
    }

    fn command(
        &self,
        scom: &mut impl Scom,
        address: u8,
        length: usize,
        how: u64,
    ) -> Result<(), I2cError> {
        let address = u64::from(address & 0x7f) << ADDRESS_SHIFT;
        let command = WITH_START | WITH_ADDRESS | how | address | (length as u64) << LENGTH_SHIFT;
        self.put(scom, COMMAND, command)
    }

    /// Starts a transfer.
    ///
    /// # Errors
    /// [`I2cError::Busy`], [`I2cError::TooLong`], or a register that was not reached.
    pub fn begin(&mut self, scom: &mut impl Scom, transfer: &Transfer<'_>) -> Result<(), I2cError> {
        if self.under_way.is_some() {
            return Err(I2cError::Busy);
        }
        let (data, wanted): (&[u8], usize) = match transfer.what {
            What::Read(wanted) => (&[], wanted),
            What::Write(data) => (data, 0),
        };
        let fits = transfer.offset.len() <= MAX_OFFSET && data.len().max(wanted) <= MAX_LENGTH;
        if !fits {
            return Err(I2cError::TooLong);
        }
        let mut out = [0; MAX_OFFSET + MAX_LENGTH];
        let bytes = transfer.offset.iter().chain(data);
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let out_length = transfer.offset.len() + data.len();
        let state = self.get(scom, STATE_AND_RESET)?;
        if state & ERRORS != 0 {
            self.put(scom, CLEAR_ERRORS, 0)?;
        }
        if state & COMPLETE == 0 {
            self.put(scom, STATE_AND_RESET, 0)?;
        }
        let mode = u64::from(self.divisor) << DIVISOR_SHIFT
            | u64::from(transfer.port & 0x3f) << PORT_SHIFT
            | PACING;
        self.put(scom, MODE, mode)?;
        self.put(scom, WATERMARK, WATERMARKS)?;
        let is_read = wanted != 0;
        let reading = is_read && out_length == 0;
        match (is_read, reading) {
            (true, true) => self.command(scom, transfer.address, wanted, READ | WITH_STOP)?,
            // The read follows, with another start.
            (true, false) => self.command(scom, transfer.address, out_length, 0)?,
            (false, _) => self.command(scom, transfer.address, out_length, WITH_STOP)?,
        }
        let length = PER_BYTE.0.saturating_mul((out_length + wanted) as u64);
        self.under_way = Some(UnderWay {
            address: transfer.address,
            out,
            out_length,
            written: 0,
            wanted,
            data: [0; MAX_LENGTH],
            read: 0,
            reading,
            deadline: Deadline::after(Ticks(PATIENCE.0 + length)),
        });
        Ok(())
    }

    /// Moves the transfer on. Its end, once: the bytes that were read, how many.
    pub fn step(
        &mut self,
        scom: &mut impl Scom,
    ) -> Option<Result<([u8; MAX_LENGTH], usize), I2cError>> {
        let mut under_way = self.under_way.take()?;
        // Before the look: who was held up has waited long enough, but not in vain.
        let late = under_way.deadline.has_passed();
        let end = match self.advance(scom, &mut under_way) {
            Ok(false) if !late => {
                self.under_way = Some(under_way);
                return None;
            }
            Ok(false) => Err(I2cError::Timeout),
            Ok(true) => return Some(Ok((under_way.data, under_way.read))),
            Err(error) => Err(error),
        };
        // The engine is usable for the next one, or the next one fails by itself.
        let _ = self.put(scom, CLEAR_ERRORS, 0);
        if matches!(end, Err(I2cError::Timeout)) {
            let _ = self.put(scom, STATE_AND_RESET, 0);
        }
        Some(end)
    }

    /// Moves as many bytes as the engine takes and gives now; whether the transfer is done.
    fn advance(&self, scom: &mut impl Scom, now: &mut UnderWay) -> Result<bool, I2cError> {
        // Each turn moves a byte, so there are no more than these.
        for _ in 0..=MAX_OFFSET + 2 * MAX_LENGTH {
            let state = self.get(scom, STATE_AND_RESET)?;
            if state & ERRORS != 0 {
                return Err(error_of(state));
            }
            let count = state >> FIFO_COUNT_SHIFT & 0xff;
            if now.reading && now.read < now.wanted && count != 0 {
                let byte = (self.get(scom, FIFO)? >> 56) as u8;
                if let Some(place) = now.data.get_mut(now.read) {
                    *place = byte;
                }
                now.read += 1;
            } else if !now.reading && now.written < now.out_length && state & DATA_REQUEST != 0 {
                let byte = now.out.get(now.written).copied().unwrap_or(0);
                self.put(scom, FIFO, u64::from(byte) << 56)?;
                now.written += 1;
            } else if state & COMPLETE == 0 || now.written < now.out_length {
                return Ok(false);
            } else if now.wanted != 0 && !now.reading {
                now.reading = true;
                self.command(scom, now.address, now.wanted, READ | WITH_STOP)?;
            } else {
                return Ok(now.read == now.wanted);
            }
        }
        Ok(false)
    }
}

fn error_of(state: u64) -> I2cError {
    let is = |bit| state & ppc_bit(bit) != 0;
    match () {
        () if is(5) => I2cError::NoAnswer,
        () if is(4) => I2cError::ArbitrationLost,
        () if is(8) => I2cError::Stop,
        () => I2cError::Engine(state & ERRORS),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use isa::timebase;

    /// An engine with one device at 0x63: 16 registers, addressed by one byte.
    #[derive(Default)]
    struct Engine {
        registers: [u8; 16],
        pointer: usize,
        mode: u64,
        command: u64,
        left: u64,
        errors: u64,
        fifo: VecDeque<u8>,
        is_stuck: bool,
        resets: u32,
    }

    impl Scom for Engine {
        fn read(&mut self, chip: ChipIndex, at: ScomAddr) -> Result<u64, ScomError> {
            assert_eq!((chip.0, at.0 & !0xf), (1, 0xa_1000));
            Ok(match at.0 & 0xf {
                STATE_AND_RESET => {
                    let reading = self.command & READ != 0;
                    if reading && self.left > 0 && !self.is_stuck && self.fifo.len() < 4 {
                        self.fifo.push_back(self.registers[self.pointer & 15]);
                        self.pointer += 1;
                        self.left -= 1;
                    }
                    let wants = !reading && self.left > 0 && !self.is_stuck;
                    let complete = self.left == 0 && self.fifo.is_empty();
                    self.errors
                        | if wants { DATA_REQUEST } else { 0 }
                        | if complete { COMPLETE } else { 0 }
                        | (self.fifo.len() as u64) << FIFO_COUNT_SHIFT
                }
                FIFO => u64::from(self.fifo.pop_front().expect("a byte")) << 56,
                other => panic!("read of {other:#x}"),
            })
        }
        fn write(&mut self, _: ChipIndex, at: ScomAddr, value: u64) -> Result<(), ScomError> {
            match at.0 & 0xf {
                MODE => self.mode = value,
                WATERMARK => {}
                CLEAR_ERRORS => self.errors = 0,
                STATE_AND_RESET => {
                    self.left = 0;
                    self.fifo.clear();
                    self.resets += 1;
                }
                COMMAND => {
                    self.command = value;
                    self.left = value >> LENGTH_SHIFT & 0xffff;
                    if value >> ADDRESS_SHIFT & 0x7f != 0x63 {
                        self.errors = ppc_bit(5);
                    }
                    self.fifo.clear();
                }
                FIFO => {
                    let first = self.left == self.command >> LENGTH_SHIFT & 0xffff;
                    let byte = (value >> 56) as u8;
                    if first {
                        self.pointer = byte.into();
                    } else {
                        self.registers[self.pointer & 15] = byte;
                        self.pointer += 1;
                    }
                    self.left -= 1;
                }
                other => panic!("write of {other:#x}"),
            }
            Ok(())
        }
    }

    fn master() -> Master {
        Master::new(ChipIndex(1), ScomAddr(0xa_1000), 116_625_000, 400_000)
    }

    fn run(engine: &mut Engine, transfer: &Transfer<'_>) -> Result<Vec<u8>, I2cError> {
        let mut master = master();
        master.begin(engine, transfer)?;
        loop {
            if let Some(end) = master.step(engine) {
                return end.map(|(data, length)| data[..length].to_vec());
            }
        }
    }

    const READ_TWO: Transfer<'static> = Transfer {
        port: 1,
        address: 0x63,
        offset: &[3],
        what: What::Read(2),
    };

    #[test]
    fn bytes_are_written_and_read_at_an_offset() {
        let mut engine = Engine::default();
        let write = Transfer {
            what: What::Write(&[0xaa, 0xbb]),
            ..READ_TWO
        };
        assert_eq!(run(&mut engine, &write), Ok(vec![]));
        assert_eq!(engine.registers[3..5], [0xaa, 0xbb]);
        assert_eq!(
            engine.command >> LENGTH_SHIFT & 0xffff,
            3,
            "offset and data in one"
        );
        assert_eq!(engine.mode, 72 << 48 | 1 << 42 | PACING);
        assert_eq!(run(&mut engine, &READ_TWO), Ok(vec![0xaa, 0xbb]));
        assert_ne!(engine.command & WITH_STOP, 0);
        let plain = Transfer {
            offset: &[],
            ..READ_TWO
        };
        engine.pointer = 4;
        assert_eq!(run(&mut engine, &plain), Ok(vec![0xbb, 0]));
    }

    #[test]
    fn a_device_that_is_not_there_is_told() {
        let mut engine = Engine::default();
        let nobody = Transfer {
            address: 0x20,
            ..READ_TWO
        };
        assert_eq!(run(&mut engine, &nobody), Err(I2cError::NoAnswer));
        assert_eq!(engine.errors, 0, "cleared for the next");
        assert_eq!(run(&mut engine, &READ_TWO), Ok(vec![0, 0]));
    }

    #[test]
    fn a_stuck_engine_is_reset_after_a_time() {
        timebase::fake::set_step(Ticks::from_ms(5));
        let mut engine = Engine {
            is_stuck: true,
            ..Engine::default()
        };
        assert_eq!(run(&mut engine, &READ_TWO), Err(I2cError::Timeout));
        assert_eq!(engine.resets, 1);
    }

    #[test]
    fn one_transfer_at_a_time_and_not_too_long() {
        let mut engine = Engine::default();
        let mut master = master();
        for long in [
            Transfer {
                what: What::Read(MAX_LENGTH + 1),
                ..READ_TWO
            },
            Transfer {
                offset: &[0; 5],
                ..READ_TWO
            },
        ] {
            assert_eq!(master.begin(&mut engine, &long), Err(I2cError::TooLong));
        }
        assert_eq!(master.begin(&mut engine, &READ_TWO), Ok(()));
        assert_eq!(master.begin(&mut engine, &READ_TWO), Err(I2cError::Busy));
    }

    #[test]
    fn errors_are_told_apart() {
        for (bit, error) in [
            (4, I2cError::ArbitrationLost),
            (8, I2cError::Stop),
            (1, I2cError::Engine(ppc_bit(1))),
        ] {
            assert_eq!(error_of(ppc_bit(bit) | COMPLETE), error);
        }
    }
}

//! The console UART: a 16550 behind LPC IO 0x3f8, on boards a virtual one of the BMC.
//!
//! Polled in both directions. One look at the line status serves a whole transmit FIFO (16 bytes), because each look is
//! an LPC cycle. The surprising fact: nobody may be reading at the other end, and then the virtual UART never empties;
//! so a wait is bounded, and after one time-out writes stop waiting until the transmitter moves again.

use core::fmt;

use isa::timebase::Deadline;

use crate::lpc::IoSpace;

/// Where the console is on all boards and in QEMU.
pub const CONSOLE_PORT: u16 = 0x3f8;

// Registers, from the base port.
const DATA: u16 = 0;
const DIVISOR_LOW: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const DIVISOR_HIGH: u16 = 1;
const INTERRUPT_ID: u16 = 2;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const RECEIVE_INTERRUPT: u8 = 1;
const TRANSMIT_INTERRUPT: u8 = 2;
const FIFOS_ENABLED: u8 = 0xc0;
const FIFO_ENABLE_AND_RESET: u8 = 7;
const DIVISOR_LATCH: u8 = 0x80;
const EIGHT_BITS: u8 = 3;
const DTR_AND_RTS: u8 = 3;
const RECEIVED: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// What an absent device reads as.
const NOTHING: u8 = 0xff;

/// 115200 baud from the 1.8432 MHz clock. It means nothing to a virtual UART but has to be programmed.
const DIVISOR: u8 = 1;
const FIFO_BYTES: u8 = 16;
/// A full FIFO takes 1.4 ms at 115200 baud; a BMC may be busy for longer.
const PATIENCE_MS: u64 = 100;

/// No UART answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absent;

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no UART answers")
    }
}

/// A 16550.
#[derive(Debug)]
pub struct Uart<B> {
    bus: B,
    base: u16,
    /// Bytes that the transmitter takes at once.
    depth: u8,
    /// Bytes that it takes now without another look at the line status.
    room: u8,
    /// The last wait for room was in vain.
    stalled: bool,
}

/// Which conditions of the UART at port `base` interrupt: input, and an empty transmitter. One store that nothing else
/// depends on, so it needs nobody's lock.
pub fn set_interrupts(bus: &impl IoSpace, base: u16, input: bool, output: bool) {
    let enabled = (u8::from(input) * RECEIVE_INTERRUPT) | (u8::from(output) * TRANSMIT_INTERRUPT);
    bus.outb(base + INTERRUPT_ENABLE, enabled);
}

impl<B: IoSpace> Uart<B> {
    /// Finds and initialises the console UART.
    ///
    /// # Errors
    /// [`Absent`] when nothing answers there.
    pub fn start(bus: B) -> Result<Self, Absent> {
        Self::start_at(bus, CONSOLE_PORT)
    }

    /// Finds and initialises the UART at port `base`: 115200 8N1, FIFOs on, no interrupts.
    ///
    /// # Errors
    /// [`Absent`] when nothing answers there.
    pub fn start_at(bus: B, base: u16) -> Result<Self, Absent> {
        match bus.probe(base + LINE_STATUS) {
            None | Some(NOTHING) => return Err(Absent),
            Some(_) => {}
        }
        bus.outb(base + INTERRUPT_ENABLE, 0);
        bus.outb(base + LINE_CONTROL, DIVISOR_LATCH);
        bus.outb(base + DIVISOR_LOW, DIVISOR);
        bus.outb(base + DIVISOR_HIGH, 0);
        bus.outb(base + LINE_CONTROL, EIGHT_BITS);
        bus.outb(base + MODEM_CONTROL, DTR_AND_RTS);
        bus.outb(base + FIFO_CONTROL, FIFO_ENABLE_AND_RESET);
        let has_fifo = bus.inb(base + INTERRUPT_ID) & FIFOS_ENABLED == FIFOS_ENABLED;
        Ok(Self {
            bus,
            base,
            depth: if has_fifo { FIFO_BYTES } else { 1 },
            room: 0,
            stalled: false,
        })
    }

    /// Writes what the transmitter takes now; how many bytes that was.
    pub fn try_write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for byte in bytes {
            if !self.has_room() {
                break;
            }
            self.bus.outb(self.base + DATA, *byte);
            self.room -= 1;
            sent += 1;
        }
        sent
    }

    /// Writes all bytes, waiting for the transmitter; how many bytes it took before it stopped moving.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let taken = self.try_write(rest);
            sent += taken;
            if taken == 0 && !self.wait_for_room() {
                break;
            }
        }
        sent
    }

    /// A received byte, if there is one.
    pub fn read(&mut self) -> Option<u8> {
        let status = self.status()?;
        (status & RECEIVED != 0).then(|| self.bus.inb(self.base + DATA))
    }

    /// Whether all that was written has left the FIFO.
    pub fn is_drained(&mut self) -> bool {
        self.room == self.depth
            || self
                .status()
                .is_none_or(|status| status & TRANSMITTER_EMPTY != 0)
    }

    /// The line status; `None` when the device is gone.
    fn status(&mut self) -> Option<u8> {
        match self.bus.inb(self.base + LINE_STATUS) {
            NOTHING => None,
            status => {
                if status & TRANSMITTER_EMPTY != 0 {
                    self.room = self.depth;
                    self.stalled = false;
                }
                Some(status)
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.room == 0 {
            self.status();
        }
        self.room != 0
    }

    fn wait_for_room(&mut self) -> bool {
        if self.stalled {
            return false;
        }
        let found = Deadline::after_ms(PATIENCE_MS).wait_for(|| self.has_room().then_some(()));
        self.stalled = found.is_none();
        found.is_some()
    }
}

/// Text: a line feed is preceded by a carriage return. Never fails; what a stalled line does not take is lost.
impl<B: IoSpace> fmt::Write for Uart<B> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    self.write(line.as_bytes());
                    self.write(b"\r\n");
                }
                None => {
                    self.write(part.as_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Step::{self, In, Out, Probe};
    use crate::fakes::{Expect, Step::Pass};
    use core::fmt::Write;
    use isa::timebase::{self, Ticks};

    const LSR: u16 = 0x3fd;
    const THR: u16 = 0x3f8;

    fn init() -> Vec<Step> {
        vec![
            Probe(LSR, Some(0x60)),
            Out(0x3f9, 0),
            Out(0x3fb, 0x80),
            Out(0x3f8, 1),
            Out(0x3f9, 0),
            Out(0x3fb, 3),
            Out(0x3fc, 3),
            Out(0x3fa, 7),
            In(0x3fa, 0xc1),
        ]
    }

    fn started(script: impl IntoIterator<Item = Step>) -> Uart<Expect> {
        let bus = Expect::new(init());
        bus.then(script);
        Uart::start(bus).expect("present")
    }

    #[test]
    fn interrupts_are_one_store() {
        let bus = Expect::new([Out(0x3f9, 1), Out(0x3f9, 2), Out(0x3f9, 0)]);
        set_interrupts(&bus, CONSOLE_PORT, true, false);
        set_interrupts(&bus, CONSOLE_PORT, false, true);
        set_interrupts(&bus, CONSOLE_PORT, false, false);
    }

    #[test]
    fn an_absent_uart_is_not_initialised() {
        for answer in [None, Some(0xff)] {
            assert_eq!(
                Uart::start(Expect::new([Probe(LSR, answer)])).err(),
                Some(Absent)
            );
        }
    }

    #[test]
    fn one_look_at_the_line_serves_a_fifo() {
        let mut script = vec![In(LSR, 0x60)];
        script.extend([Out(THR, b'.'); 16]);
        script.push(In(LSR, 0));
        script.push(In(LSR, 0x20));
        script.push(Out(THR, b'.'));
        let mut uart = started(script);
        assert_eq!(uart.write(&[b'.'; 17]), 17);
    }

    #[test]
    fn without_a_fifo_each_byte_waits_for_the_last() {
        let mut script = init();
        script.pop();
        script.extend([
            In(0x3fa, 1),
            In(LSR, 0x60),
            Out(THR, 1),
            In(LSR, 0x60),
            Out(THR, 2),
        ]);
        let mut uart = Uart::start(Expect::new(script)).expect("present");
        assert_eq!(uart.try_write(&[1, 2]), 2);
    }

    #[test]
    fn a_stalled_line_costs_one_wait_and_no_more() {
        let looks = |n| std::iter::repeat_n(In(LSR, 0), n);
        timebase::fake::set_step(Ticks::from_ms(30));
        let mut uart = started(looks(5));
        assert_eq!(uart.write(b"lost"), 0, "waits 100 ms, then gives up");
        uart.bus.then(looks(1));
        assert_eq!(uart.write(b"lost too"), 0, "does not wait again");
        uart.bus
            .then([Pass(Ticks::from_s(1)), In(LSR, 0x60), Out(THR, b'!')]);
        assert_eq!(uart.write(b"!"), 1, "goes on when the line does");
    }

    #[test]
    fn reading_does_not_wait() {
        let mut uart = started([In(LSR, 0x60), In(LSR, 0x61), In(THR, b'a'), In(LSR, 0xff)]);
        assert_eq!(uart.read(), None);
        assert_eq!(uart.read(), Some(b'a'));
        assert_eq!(uart.read(), None, "a vanished device has nothing to say");
    }

    #[test]
    fn text_lines_end_with_carriage_return_and_line_feed() {
        let out = |text: &[u8]| text.iter().map(|byte| Out(THR, *byte)).collect::<Vec<_>>();
        let mut uart = started([In(LSR, 0x60)]);
        uart.bus.then(out(b"a\r\n\r\nb"));
        assert_eq!(uart.write_str("a\n\nb"), Ok(()));
    }
}

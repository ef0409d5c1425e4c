//! The devices that the firmware itself uses: console UART, clock, BMC. Each behind its own lock, usable from any thread.
//!
//! Generic over the LPC bus, so that the tests drive it with a model. Surprising fact: all of them are optional but the bus:
//! a machine without BMC runs, it only cannot switch itself off.
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use isa::timebase::{self, Deadline, Ticks, delay};
use nest::bt::{self, Asker, BT_PORT, Bt};
use nest::hiomap::{Hiomap, Told};
use nest::ipmi::{self, IpmiError, Transport};
use nest::lock::{Mutex, MutexGuard, lock_within, rank};
use nest::lpc::{CiLpc, IoSpace};
use nest::rtc::{self, Rtc};
use nest::uart::{self, CONSOLE_PORT, Uart};
use papr_services::host::{DateTime, DeviceError};

use crate::console::Sink;

/// How long the BMC may take from accepting a power command to doing it.
const POWER_PATIENCE_S: u64 = 30;
/// How long others may keep a device, or NVRAM, from who waits for it: longer than their own limits let them. A processor that
/// was stopped keeps it for ever, and a kernel that crashes for that reason still writes to NVRAM.
pub const PATIENCE: Ticks = Ticks::from_s(30);
/// How long the code that talks to the BMC may keep it from a power command: as long as a BMC may take for an answer.
const BMC_PATIENCE: Ticks = Ticks::from_s(3);
/// How long the UART may take to become free, and then to send what it has.
const UART_PATIENCE: Ticks = Ticks::from_ms(100);
/// How long the UART may be taken before the console goes past its lock; less than the console's patience with a port.
const UART_STUCK: Ticks = Ticks::from_ms(300);
/// Bits of the UART's line status, for who goes past its lock.
const TRANSMITTER_EMPTY: u8 = 0x20;
const DATA_READY: u8 = 1;
/// How often a power command is tried: the BMC may be busy with itself.
const POWER_TRIES: u32 = 3;

/// What the BMC can do with the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Off.
    Off,
    /// Off and on again.
    Reset,
}

/// Why it was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerError {
    /// There is no BMC.
    NoBmc,
    /// The BMC did not take the command.
    Failed(IpmiError),
    /// The BMC took the command, but nothing happened.
    Ignored,
}

impl fmt::Display for PowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBmc => write!(f, "there is no BMC"),
            Self::Failed(error) => write!(f, "the BMC did not take the command ({error})"),
            Self::Ignored => write!(f, "the BMC took the command but did nothing"),
        }
    }
}

/// The devices behind one LPC bus.
#[derive(Debug)]
pub struct Devices<L: 'static> {
    bus: &'static L,
    uart: Mutex<Option<Uart<&'static L>>, rank::Uart>,
    /// 0, or 1 + the time base when the UART was first found taken and has been since.
    uart_taken: AtomicU64,
    clock: Mutex<Option<Rtc<&'static L>>, rank::Clock>,
    bmc: Mutex<Option<Bt<&'static L>>, rank::Bmc>,
    flash: Mutex<Option<Hiomap>, rank::Flash>,
    flash_told: Told,
}

/// The devices of the real machine.
pub type Machine = Devices<CiLpc>;

impl<L: IoSpace> Devices<L> {
    /// Finds the UART. The others are found by [`start_others`](Self::start_others), once there is a console to say so.
    pub fn start(bus: &'static L) -> Self {
        Self {
            bus,
            uart: Mutex::new(Uart::start(bus).ok()),
            uart_taken: AtomicU64::new(0),
            clock: Mutex::new(None),
            bmc: Mutex::new(None),
            flash: Mutex::new(None),
            flash_told: Told::new(),
        }
    }

    /// Finds clock and BMC, and says what is there.
    pub fn start_others(&self) {
        match Rtc::start(self.bus) {
            Ok(clock) => *self.clock.lock() = Some(clock),
            Err(error) => log::info!("real-time clock: {error}"),
        }
        match Bt::start(self.bus) {
            Ok(mut bmc) => {
                match ipmi::device_id(&mut bmc) {
                    Ok(id) => log::info!("BMC: {id:x?}"),
                    Err(error) => log::warn!("BMC: {error}"),
                }
                *self.bmc.lock() = Some(bmc);
            }
            Err(error) => {
                log::warn!("BMC: {error}: the machine can not be switched off by the firmware");
            }
        }
        if let Ok(now) = self.read_clock() {
            let DateTime {
                year,
                month,
                day,
                hour,
                minute,
                second,
            } = now;
            log::info!("it is {year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC");
        }
    }

    /// Writes console bytes; how many the UART took without waiting. All, when there is no UART.
    pub fn console_write(&self, bytes: &[u8]) -> usize {
        self.uart
            .lock()
            .as_mut()
            .map_or(bytes.len(), |uart| uart.try_write(bytes))
    }

    /// Takes console input; how many bytes were stored.
    pub fn console_read(&self, buffer: &mut [u8]) -> usize {
        let mut uart = self.uart.lock();
        let Some(uart) = uart.as_mut() else { return 0 };
        let mut count = 0;
        for place in buffer {
            let Some(byte) = uart.read() else { break };
            *place = byte;
            count += 1;
        }
        count
    }

    /// Writes a console byte if that needs no waiting, neither for the UART nor for its lock; whether it did. Without a
    /// UART it is taken, and lost.
    pub fn try_send(&self, byte: u8) -> bool {
        match self.try_uart() {
            Some(mut uart) => uart
                .as_mut()
                .is_none_or(|uart| uart.try_write(&[byte]) == 1),
            None if self.is_uart_stuck() && self.line_status() & TRANSMITTER_EMPTY != 0 => {
                self.bus.outb(CONSOLE_PORT, byte);
                true
            }
            None => false,
        }
    }

    /// Takes a console byte if one is there and that needs no waiting for the UART's lock.
    pub fn try_receive(&self) -> Option<u8> {
        match self.try_uart() {
            Some(mut uart) => uart.as_mut()?.read(),
            None if self.is_uart_stuck() && self.line_status() & DATA_READY != 0 => {
                Some(self.bus.inb(CONSOLE_PORT))
            }
            None => None,
        }
    }

    /// The UART, unless another has it.
    fn try_uart(&self) -> Option<MutexGuard<'_, Option<Uart<&'static L>>, rank::Uart>> {
        let uart = self.uart.try_lock();
        if uart.is_some() {
            self.uart_taken.store(0, Ordering::Relaxed);
        }
        uart
    }

    /// Whether the UART has been taken for so long that its holder will never let go: a machine check or system reset
    /// interrupted it, and the kernel that has its say now needs a console. Long is more than a line takes at 115200 baud.
    fn is_uart_stuck(&self) -> bool {
        let now = timebase::now();
        let since = Ticks(match self.uart_taken.load(Ordering::Relaxed) {
            0 => {
                self.uart_taken
                    .store(now.0.wrapping_add(1), Ordering::Relaxed);
                now.0
            }
            since => since.wrapping_sub(1),
        });
        now.since(since) > UART_STUCK
    }

    fn line_status(&self) -> u8 {
        const LINE_STATUS: u16 = CONSOLE_PORT + 5;
        self.bus.inb(LINE_STATUS)
    }

    /// Which conditions of the UART interrupt: input, and an empty transmitter.
    pub fn set_console_interrupts(&self, input: bool, output: bool) {
        let is_absent = self.uart.try_lock().is_some_and(|uart| uart.is_none());
        if !is_absent {
            uart::set_interrupts(self.bus, CONSOLE_PORT, input, output);
        }
    }

    /// The bus behind which the devices are.
    pub const fn bus(&self) -> &'static L {
        self.bus
    }

    /// Reads the clock: the one on the LPC bus, else the BMC's.
    ///
    /// # Errors
    /// There is none, or none knows the time.
    pub fn read_clock(&self) -> Result<DateTime, DeviceError> {
        let local = self
            .clock
            .lock()
            .as_mut()
            .and_then(|clock| clock.read().ok());
        let time = local.or_else(|| ipmi::sel_time(self.bmc.lock().as_mut()?).ok().flatten());
        let rtc::DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = time.ok_or(DeviceError)?;
        Ok(DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
        })
    }

    /// Sets the clock, and the BMC's too.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn set_clock(&self, time: DateTime) -> Result<(), DeviceError> {
        let DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = time;
        let time = rtc::DateTime {
            year,
            month,
            day,
            hour,
            minute,
            second,
        };
        let local = self
            .clock
            .lock()
            .as_mut()
            .map(|clock| clock.set(&time).is_ok());
        let remote = self
            .bmc
            .lock()
            .as_mut()
            .map(|bmc| ipmi::set_sel_time(bmc, &time).is_ok());
        // The local one counts when there is one: that is the one `read_clock` reads.
        if local.or(remote).unwrap_or(false) {
            Ok(())
        } else {
            Err(DeviceError)
        }
    }

    /// Does something with the BMC, while nobody else talks to it; `None` when there is none, or somebody keeps it for longer than
    /// [`PATIENCE`].
    pub fn with_bmc<T>(&self, work: impl FnOnce(&mut Bt<&'static L>) -> T) -> Option<T> {
        lock_within(&self.bmc, PATIENCE)?.as_mut().map(work)
    }

    /// The place of the flash's driver; [`crate::flash`] fills and uses it. Whoever holds it may ask the BMC, not the other way
    /// round.
    pub const fn flash_driver(&self) -> &Mutex<Option<Hiomap>, rank::Flash> {
        &self.flash
    }

    /// What is told of the flash by whoever asks the BMC for its events or passes somebody else's requests on. For those the
    /// flash may be busy for long: this is no lock.
    pub const fn flash_told(&self) -> &Told {
        &self.flash_told
    }

    /// From now on the flash's driver leaves the BMC's events to somebody else, who tells of them.
    pub fn share_bmc_events(&'static self) {
        if let Some(flash) = self.flash.lock().as_mut() {
            flash.listen_to(&self.flash_told);
        }
    }

    /// Whether there is a BMC.
    pub fn has_bmc(&self) -> bool {
        self.bmc.lock().is_some()
    }

    /// Lets the BMC interrupt, with its answers and its events.
    ///
    /// # Errors
    /// The BMC does not do it, or there is none.
    pub fn start_bmc_interrupts(&self) -> Result<(), IpmiError> {
        let mut bmc = self.bmc.lock();
        let bmc = bmc.as_mut().ok_or(IpmiError::Busy)?;
        bt::enable_interrupt(self.bus);
        let enabled = ipmi::enable_events(bmc);
        // That of these answers: nobody can take it yet, and as long as it is pending there is no other.
        bt::serve_interrupt(self.bus);
        enabled
    }

    /// Whether the BMC has something to say; not while another thread talks to it.
    pub fn bmc_wants_attention(&self) -> bool {
        let bmc = self.bmc.try_lock();
        bmc.is_some_and(|mut bmc| bmc.as_mut().is_some_and(Transport::wants_attention))
    }

    /// Sends the BMC a request and does not wait, not even for another thread that talks to it.
    ///
    /// # Errors
    /// As [`Bt::begin`]; [`IpmiError::Busy`] also when there is no BMC.
    pub fn bmc_begin(&self, asker: Asker, request: &ipmi::Request<'_>) -> Result<(), IpmiError> {
        let mut bmc = self.bmc.try_lock().ok_or(IpmiError::Busy)?;
        bmc.as_mut().ok_or(IpmiError::Busy)?.begin(asker, request)
    }

    /// The answer to the last request that `asker` began, once.
    pub fn bmc_poll(&self, asker: Asker) -> Option<Result<ipmi::Response, IpmiError>> {
        self.bmc.try_lock()?.as_mut()?.poll(asker)
    }

    /// Asks the BMC for `action` and waits for it to happen; so it returns only when it did not.
    ///
    /// The caller may have interrupted the code that talks to the BMC, so that is not waited for without an end.
    #[must_use = "the machine still runs"]
    pub fn power(&self, action: PowerAction) -> PowerError {
        let mut held = lock_within(&self.bmc, BMC_PATIENCE);
        let mut taken_over;
        let bmc = match held.as_deref_mut() {
            Some(bmc) => {
                if bmc.is_none() {
                    // Boot may fail before it looked for the BMC.
                    *bmc = Bt::start(self.bus).ok();
                }
                bmc
            }
            // Only a BMC that is there keeps anybody for so long.
            None => {
                taken_over = Some(Bt::take_over(self.bus, BT_PORT));
                &mut taken_over
            }
        };
        let Some(bmc) = bmc.as_mut() else {
            return PowerError::NoBmc;
        };
        let mut last = PowerError::Ignored;
        for _ in 0..POWER_TRIES {
            let answer = match action {
                PowerAction::Off => ipmi::power_off(bmc),
                PowerAction::Reset => ipmi::reboot(bmc),
            };
            match answer {
                Ok(()) => {
                    delay(Ticks::from_s(POWER_PATIENCE_S));
                    return PowerError::Ignored;
                }
                Err(error) => last = PowerError::Failed(error),
            }
        }
        last
    }

    /// Waits, but not for long, until everything written has left the UART. Nor is whoever has the UART waited for
    /// longer: the caller may have interrupted it.
    pub fn drain_console(&self) {
        let Some(mut uart) = lock_within(&self.uart, UART_PATIENCE) else {
            return;
        };
        if let Some(uart) = uart.as_mut() {
            // A time-out means that nobody reads: then nothing is lost by going on.
            let _ = Deadline::after(UART_PATIENCE).wait_for(|| uart.is_drained().then_some(()));
        }
    }
}

impl Machine {
    /// Tells the BMC how far boot has come: a byte to port 0x80.
    pub fn progress(&self, code: u8) {
        const PROGRESS_PORT: u16 = 0x80;
        let _ = self.bus.probe_write(PROGRESS_PORT, code); // nobody has to listen
    }
}

impl<L: IoSpace + Sync> Sink for Devices<L> {
    fn write(&self, bytes: &[u8]) {
        if let Some(uart) = self.uart.lock().as_mut() {
            uart.write(bytes);
        }
    }

    fn write_emergency(&self, bytes: &[u8]) {
        if let Some(mut uart) = self.uart.try_lock() {
            if let Some(uart) = uart.as_mut() {
                uart.write(bytes);
            }
            return;
        }
        // Whoever holds the lock may be the code that failed: go past it, byte by byte.
        for byte in bytes {
            let has_room = || (self.line_status() & TRANSMITTER_EMPTY != 0).then_some(());
            if Deadline::after_ms(10).wait_for(has_room).is_none() {
                return;
            }
            self.bus.outb(CONSOLE_PORT, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    /// A bus with a UART whose transmitter is always empty, and nothing else.
    #[derive(Default, Debug)]
    struct Bus {
        sent: StdMutex<Vec<u8>>,
        input: StdMutex<Vec<u8>>,
    }

    impl IoSpace for Bus {
        fn inb(&self, port: u16) -> u8 {
            match port {
                0x3f8 => self.input.lock().unwrap().remove(0),
                0x3fd => 0x60 | u8::from(!self.input.lock().unwrap().is_empty()),
                0x3fa => 0xc1,
                _ => 0xff,
            }
        }
        fn outb(&self, port: u16, value: u8) {
            if port == 0x3f8 {
                self.sent.lock().unwrap().push(value);
            }
        }
        fn probe(&self, port: u16) -> Option<u8> {
            (0x3f8..0x400).contains(&port).then(|| self.inb(port))
        }
    }

    fn machine() -> (&'static Bus, Devices<Bus>) {
        let bus: &'static Bus = Box::leak(Box::default());
        let machine = Devices::start(bus);
        bus.sent.lock().unwrap().clear(); // the divisor went the same way
        (bus, machine)
    }

    #[test]
    fn console_bytes_go_both_ways() {
        let (bus, machine) = machine();
        assert_eq!(machine.console_write(b"hello"), 5);
        machine.write(b" there");
        assert_eq!(*bus.sent.lock().unwrap(), b"hello there");
        bus.input.lock().unwrap().extend(b"abc");
        let mut buffer = [0; 2];
        assert_eq!(machine.console_read(&mut buffer), 2);
        assert_eq!(&buffer, b"ab");
        let mut buffer = [0; 2];
        assert_eq!(machine.console_read(&mut buffer), 1);
    }

    #[test]
    fn single_bytes_wait_for_nobody() {
        let (bus, machine) = machine();
        assert!(machine.try_send(b'x'));
        assert_eq!(*bus.sent.lock().unwrap(), b"x");
        bus.input.lock().unwrap().push(b'y');
        let held = machine.uart.lock();
        assert!(!machine.try_send(b'z') && machine.try_receive().is_none());
        drop(held);
        assert_eq!(machine.try_receive(), Some(b'y'));
        assert_eq!(machine.try_receive(), None);
    }

    #[test]
    fn a_console_goes_past_a_uart_that_is_never_given_back() {
        timebase::fake::set_step(Ticks::from_ms(10));
        let (bus, machine) = machine();
        let held = machine.uart.lock();
        bus.input.lock().unwrap().extend(b"in");
        let sent = (0..100).filter(|_| machine.try_send(b'x')).count();
        assert!((50..100).contains(&sent), "not at once, and then always");
        assert_eq!(machine.try_receive(), Some(b'i'));
        drop(held);
        assert_eq!(machine.try_receive(), Some(b'n'));
        let held = machine.uart.lock();
        assert!(!machine.try_send(b'x'), "another holder, another patience");
        drop(held);
    }

    /// What a reboot out of a machine check in the middle of another call finds.
    #[test]
    fn power_goes_past_held_locks() {
        timebase::fake::set_step(Ticks::from_ms(10));
        let (_, machine) = machine();
        let uart = machine.uart.lock();
        machine.drain_console();
        drop(uart);
        let bmc = machine.bmc.lock();
        // This bus has none; what matters is that the answer comes.
        assert_eq!(
            machine.power(PowerAction::Reset),
            PowerError::Failed(IpmiError::Busy)
        );
        assert_eq!(machine.with_bmc(|_| ()), None, "after a while");
        drop(bmc);
    }

    #[test]
    fn an_emergency_goes_past_a_held_lock() {
        let (bus, machine) = machine();
        let held = machine.uart.lock();
        machine.write_emergency(b"help");
        drop(held);
        assert_eq!(*bus.sent.lock().unwrap(), b"help");
    }

    #[test]
    fn without_a_bmc_and_a_clock_there_is_an_error() {
        let (_, machine) = machine();
        machine.start_others();
        assert_eq!(machine.power(PowerAction::Off), PowerError::NoBmc);
        assert_eq!(machine.read_clock(), Err(DeviceError));
        let some_time = DateTime {
            year: 2026,
            month: 1,
            day: 2,
            hour: 3,
            minute: 4,
            second: 5,
        };
        assert_eq!(machine.set_clock(some_time), Err(DeviceError));
    }
}

//! A model of the machine: keeps what it was told, answers what it was given.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spin::Mutex;

use super::{DateTime, DeviceError, Flush, Host};

/// What a [`Host`] has besides: a console that takes all and has nothing to read, no clock, and no random numbers.
macro_rules! no_devices {
    () => {
        fn console_write(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }
        fn console_read(&self, _: &mut [u8]) -> usize {
            0
        }
        fn read_clock(&self) -> Result<$crate::host::DateTime, $crate::host::DeviceError> {
            Err($crate::host::DeviceError)
        }
        fn set_clock(&self, _: $crate::host::DateTime) -> Result<(), $crate::host::DeviceError> {
            Err($crate::host::DeviceError)
        }
        fn random(&self) -> Option<u64> {
            None
        }
    };
}
pub(crate) use no_devices;

/// The model. Every field can be set before a call and looked at after it.
pub(crate) struct Machine {
    /// The time base; one tick passes at each look.
    pub(crate) timebase: AtomicU64,
    /// Flushes, in order.
    pub(crate) flushes: Mutex<Vec<Flush>>,
    /// Partition-table entries, in the order of their writing.
    pub(crate) entries: Mutex<Vec<(u32, [u64; 2])>>,
    /// What was written to the console.
    pub(crate) output: Mutex<Vec<u8>>,
    /// Bytes that the console still takes.
    pub(crate) output_room: AtomicUsize,
    /// What the console has to read.
    pub(crate) input: Mutex<VecDeque<u8>>,
    /// The clock; `None` when it is broken.
    pub(crate) clock: Mutex<Option<DateTime>>,
    /// Random numbers to come.
    pub(crate) random: Mutex<VecDeque<u64>>,
    /// What [`Host::vcpu`] answers.
    pub(crate) vcpu: AtomicU32,
    /// vCPUs that were kicked, in order.
    pub(crate) kicks: Mutex<Vec<u32>>,
    /// What [`Host::interrupt_pending`] answers.
    pub(crate) interrupt: AtomicBool,
}

impl Machine {
    /// A machine that works and has nothing to say.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            timebase: AtomicU64::new(1 << 40),
            flushes: Mutex::default(),
            entries: Mutex::default(),
            output: Mutex::default(),
            output_room: AtomicUsize::new(1 << 20),
            input: Mutex::default(),
            clock: Mutex::new(Some(DateTime {
                year: 2026,
                month: 2,
                day: 28,
                hour: 23,
                minute: 59,
                second: 58,
            })),
            random: Mutex::default(),
            vcpu: AtomicU32::new(0),
            kicks: Mutex::default(),
            interrupt: AtomicBool::new(false),
        }
    }

    /// Takes the list of kicks.
    pub(crate) fn take_kicks(&self) -> Vec<u32> {
        core::mem::take(&mut self.kicks.lock())
    }

    /// Types on the console.
    pub(crate) fn type_in(&self, text: &[u8]) {
        self.input.lock().extend(text);
    }
}

impl Host for Machine {
    fn timebase(&self) -> u64 {
        self.timebase.fetch_add(1, Ordering::Relaxed)
    }

    fn flush(&self, flush: Flush) {
        self.flushes.lock().push(flush);
    }

    fn set_partition_table_entry(&self, lpid: u32, pate: [u64; 2]) {
        self.entries.lock().push((lpid, pate));
    }

    fn console_write(&self, bytes: &[u8]) -> usize {
        let room = |left: usize| left.checked_sub(bytes.len());
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.output_room.fetch_update(set, get, room).is_err() {
            return 0;
        }
        self.output.lock().extend_from_slice(bytes);
        bytes.len()
    }

    fn console_read(&self, buffer: &mut [u8]) -> usize {
        let mut input = self.input.lock();
        let count = buffer.len().min(input.len());
        for (to, from) in buffer.iter_mut().zip(input.drain(..count)) {
            *to = from;
        }
        count
    }

    fn read_clock(&self) -> Result<DateTime, DeviceError> {
        self.clock.lock().ok_or(DeviceError)
    }

    fn set_clock(&self, time: DateTime) -> Result<(), DeviceError> {
        let mut clock = self.clock.lock();
        *clock = Some(clock.map(|_| time).ok_or(DeviceError)?);
        Ok(())
    }

    fn random(&self) -> Option<u64> {
        self.random.lock().pop_front()
    }

    fn vcpu(&self) -> u32 {
        self.vcpu.load(Ordering::Relaxed)
    }

    fn wait_until(&self, done: impl Fn() -> bool) -> bool {
        done()
    }

    fn kick(&self, vcpu: u32) {
        self.kicks.lock().push(vcpu);
    }

    fn interrupt_pending(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

//! The memory console: the firmware's whole log in a ring that the operating system and the BMC can read.
//!
//! Layout of the control structure as every reader of OPAL's `ibm,opal-memcons` knows it (all fields big-endian).
//! Surprising fact: writing needs no lock. A writer reserves its place with one atomic addition, so lines of threads that
//! write at the same time never mix; a reader may see the newest line half written.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

const MAGIC: u64 = 0x6630_6965_6772_6173;
const WRAPPED: u32 = 0x8000_0000;
/// Room for input, which nobody uses on a machine with a UART.
const INPUT: usize = 16;

/// What a reader looks for.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    magic: AtomicU64,
    output: AtomicU64,
    input: AtomicU64,
    output_size: AtomicU32,
    input_size: AtomicU32,
    /// Where the next byte goes, and whether the ring has been filled once.
    output_position: AtomicU32,
    input_produced: AtomicU32,
    input_consumed: AtomicU32,
    _reserved: AtomicU32,
}

/// The ring and its control structure.
#[derive(Debug)]
pub struct MemoryConsole {
    control: &'static Control,
    ring: &'static [AtomicU8],
    /// Bytes ever written.
    written: AtomicU64,
}

impl MemoryConsole {
    /// Makes `control` describe `buffer`, whose first byte is at `address`. The first bytes are for input.
    #[must_use]
    pub fn new(control: &'static Control, buffer: &'static [AtomicU8], address: u64) -> Self {
        let (input, ring) = buffer.split_at(INPUT.min(buffer.len()));
        let size = |bytes: &[AtomicU8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be();
        control.input.store(address.to_be(), Ordering::Relaxed);
        control.output.store(
            address.saturating_add(input.len() as u64).to_be(),
            Ordering::Relaxed,
        );
        control.output_size.store(size(ring), Ordering::Relaxed);
        control.input_size.store(size(input), Ordering::Relaxed);
        control.output_position.store(0, Ordering::Relaxed);
        control.magic.store(MAGIC.to_be(), Ordering::Release);
        Self {
            control,
            ring,
            written: AtomicU64::new(0),
        }
    }

    /// Appends `text`; only its end when it is longer than the ring.
    pub fn write(&self, text: &[u8]) {
        let size = self.ring.len() as u64;
        if size == 0 {
            return;
        }
        let start = self.written.fetch_add(text.len() as u64, Ordering::Relaxed);
        for (byte, at) in text.iter().zip(start..) {
            // The remainder is below the length, which is a usize.
            #[expect(clippy::cast_possible_truncation, reason = "below the ring's length")]
            if let Some(place) = self.ring.get((at % size) as usize) {
                place.store(*byte, Ordering::Relaxed);
            }
        }
        // Whoever stores last looks again, so the position ends as the newest.
        loop {
            let written = self.written.load(Ordering::Acquire);
            let position = u32::try_from(written % size).unwrap_or(0)
                | if written >= size { WRAPPED } else { 0 };
            self.control
                .output_position
                .store(position.to_be(), Ordering::Release);
            if self.written.load(Ordering::Acquire) == written {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(size: usize) -> MemoryConsole {
        let buffer: Box<[AtomicU8]> = (0..INPUT + size).map(|_| AtomicU8::new(0)).collect();
        MemoryConsole::new(Box::leak(Box::default()), Box::leak(buffer), 0x3100_0040)
    }

    fn text(console: &MemoryConsole) -> (Vec<u8>, u32) {
        let bytes = console
            .ring
            .iter()
            .map(|b| b.load(Ordering::Relaxed))
            .collect();
        (
            bytes,
            u32::from_be(console.control.output_position.load(Ordering::Relaxed)),
        )
    }

    #[test]
    fn the_control_structure_is_what_readers_know() {
        let console = console(100);
        assert_eq!(core::mem::offset_of!(Control, output_position), 32);
        assert_eq!(
            u64::from_be(console.control.magic.load(Ordering::Relaxed)),
            MAGIC
        );
        assert_eq!(
            u64::from_be(console.control.output.load(Ordering::Relaxed)),
            0x3100_0050
        );
        assert_eq!(
            u32::from_be(console.control.output_size.load(Ordering::Relaxed)),
            100
        );
    }

    #[test]
    fn the_ring_keeps_the_newest_and_says_so() {
        let console = console(8);
        console.write(b"abcde");
        assert_eq!(text(&console), (b"abcde\0\0\0".to_vec(), 5));
        console.write(b"fghij");
        assert_eq!(text(&console), (b"ijcdefgh".to_vec(), WRAPPED | 2));
        console.write(b"0123456789ABCDEF"); // longer than the ring
        assert_eq!(text(&console), (b"EF89ABCD".to_vec(), WRAPPED | 2));
    }

    #[test]
    fn lines_of_many_threads_do_not_mix() {
        let console: &'static MemoryConsole = Box::leak(Box::new(console(4 * 500 * 8)));
        let threads: Vec<_> = (0..4_u8)
            .map(|n| {
                std::thread::spawn(move || (0..500).for_each(|_| console.write(&[b'a' + n; 8])))
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let (bytes, position) = text(console);
        assert_eq!(position, WRAPPED);
        assert!(
            bytes
                .chunks(8)
                .all(|line| line.iter().all(|byte| *byte == line[0]))
        );
    }
}

//! The partition's terminal on the machine's console: a queue each way between hypercalls and a UART that may be slow.
//!
//! Surprising fact: both queues are bounded and neither side waits. A partition that writes faster than the UART
//! drains is told to try again; input that nobody reads stays in the UART, whose flow control is the sender's matter.

use alloc::collections::VecDeque;

/// Characters from or to the device, as far as it takes or has them now.
pub trait Device {
    /// Writes; how many were taken.
    fn write(&self, bytes: &[u8]) -> usize;
    /// Reads; how many were stored.
    fn read(&self, buffer: &mut [u8]) -> usize;
}

/// Output that waits for the device at most.
const OUTPUT: usize = 4096;
/// Input that waits for the partition at most.
const INPUT: usize = 256;

/// The queues.
#[derive(Debug, Default)]
pub struct Terminal {
    output: VecDeque<u8>,
    input: VecDeque<u8>,
}

impl Terminal {
    /// Moves what can be moved; answers whether input waits for the partition.
    pub fn pump(&mut self, device: &impl Device) -> bool {
        self.drain(device);
        while self.input.len() < INPUT {
            let mut buffer = [0; 16];
            let count = device.read(&mut buffer);
            self.input.extend(buffer.iter().take(count));
            if count < buffer.len() {
                break;
            }
        }
        !self.input.is_empty()
    }

    /// Whether there is room for more input.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.input.len() < INPUT
    }

    /// Queues output, all of it or none, and starts sending. Answers how many bytes were taken.
    pub fn write(&mut self, bytes: &[u8], device: &impl Device) -> usize {
        if self.output.is_empty() {
            let sent = device.write(bytes);
            self.output.extend(bytes.iter().skip(sent));
            return bytes.len();
        }
        self.drain(device);
        if self.output.len().saturating_add(bytes.len()) > OUTPUT {
            return 0;
        }
        self.output.extend(bytes);
        self.drain(device);
        bytes.len()
    }

    /// Takes input.
    pub fn read(&mut self, buffer: &mut [u8], device: &impl Device) -> usize {
        self.pump(device);
        let count = buffer.len().min(self.input.len());
        for (place, byte) in buffer.iter_mut().zip(self.input.drain(..count)) {
            *place = byte;
        }
        count
    }

    /// Whether output still waits.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.output.is_empty()
    }

    fn drain(&mut self, device: &impl Device) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            let sent = device.write(front).min(front.len());
            if sent == 0 {
                return;
            }
            self.output.drain(..sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::{Device, INPUT, OUTPUT, Terminal};

    /// Takes `room` bytes, then no more until it is given room again.
    #[derive(Default)]
    struct Slow {
        room: RefCell<usize>,
        seen: RefCell<Vec<u8>>,
        typed: RefCell<Vec<u8>>,
    }

    impl Device for Slow {
        fn write(&self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(*self.room.borrow());
            *self.room.borrow_mut() -= count;
            self.seen.borrow_mut().extend(&bytes[..count]);
            count
        }
        fn read(&self, buffer: &mut [u8]) -> usize {
            let mut typed = self.typed.borrow_mut();
            let count = buffer.len().min(typed.len());
            buffer[..count].copy_from_slice(&typed[..count]);
            typed.drain(..count);
            count
        }
    }

    #[test]
    fn order_is_kept_when_the_device_stalls() {
        let (mut terminal, device) = (Terminal::default(), Slow::default());
        *device.room.borrow_mut() = 2;
        assert_eq!(terminal.write(b"hello", &device), 5);
        assert_eq!(terminal.write(b" you", &device), 4);
        *device.room.borrow_mut() = 100;
        assert!(!terminal.pump(&device));
        assert_eq!(*device.seen.borrow(), b"hello you");
        assert!(terminal.is_drained());
    }

    #[test]
    fn a_full_queue_takes_nothing() {
        let (mut terminal, device) = (Terminal::default(), Slow::default());
        let mut taken = 0;
        while terminal.write(b"0123456789abcdef", &device) != 0 {
            taken += 16;
        }
        assert_eq!(taken, OUTPUT);
        *device.room.borrow_mut() = usize::MAX;
        assert_eq!(terminal.write(b"x", &device), 1);
        assert_eq!(device.seen.borrow().len(), OUTPUT + 1);
    }

    #[test]
    fn who_does_not_read_leaves_input_with_the_sender() {
        let (mut terminal, device) = (Terminal::default(), Slow::default());
        device.typed.borrow_mut().extend([b'x'; 2 * INPUT]);
        assert!(terminal.takes_input() && terminal.pump(&device));
        assert!(!terminal.takes_input());
        assert_eq!(device.typed.borrow().len(), INPUT);
        // Taking some makes room, which the same call fills up again.
        let mut buffer = [0; 16];
        assert_eq!(terminal.read(&mut buffer, &device), 16);
        assert!(terminal.takes_input());
        assert!(terminal.pump(&device) && !terminal.takes_input());
    }

    #[test]
    fn input_waits_for_its_reader() {
        let (mut terminal, device) = (Terminal::default(), Slow::default());
        device.typed.borrow_mut().extend(b"ls\n");
        assert!(terminal.pump(&device));
        let mut buffer = [0; 2];
        assert_eq!(terminal.read(&mut buffer, &device), 2);
        assert_eq!(
            (&buffer, terminal.read(&mut buffer.clone(), &device)),
            (b"ls", 1)
        );
    }
}

//! The kernel's console: what OPAL_CONSOLE_* promise, between the kernel and a serial port that is slow, may stall
//! and may be dead.
//!
//! Owns the two buffers and the flow control: output is taken while there is room and moves on whenever the port has
//! room; input is buffered, and the port's interrupt is off while the buffer is full; CONSOLE_INPUT is set while
//! input waits. These calls may nest, so all state is atomic and the lock is one that a panic can pass.
//!
//! The surprising fact: a port whose far end stopped reading must not hang the kernel. After a second without
//! progress the answer is OPAL_TIMEOUT, and the kernel drops its output; what is buffered stays, and goes out
//! first when the port comes back.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use isa::timebase::{Ticks, now};

use crate::args::{OsAddr, Server, Term};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{EventSet, Events, Raised};
use crate::lock::ThreadLock;
use crate::os_memory::OsMemory;

/// How long the port may make no progress before it counts as dead.
pub const PATIENCE: Ticks = Ticks::from_s(1);

/// Most bytes that one read hands over: a port that never runs dry must not keep the kernel in the call.
const MAX_READ: u64 = 4096;

/// Bytes that are copied at a time between the kernel and a buffer.
const CHUNK: usize = 64;

/// A serial port. Nothing here waits: what cannot be done now is refused. An implementation must not wait for a
/// lock that the calling thread may hold already.
pub trait Port {
    /// Takes a byte, unless there is no room or no port.
    fn send(&self, byte: u8) -> bool;

    /// The next byte that came in.
    fn receive(&self) -> Option<u8>;

    /// Which conditions shall interrupt: input, and room for output.
    fn set_interrupts(&self, input: bool, output: bool);
}

/// A ring of bytes. Positions only grow; each change is one exchange of a position, so that a call which interrupts
/// another one at any point finds a ring, and so does that one afterwards.
#[derive(Debug)]
struct Ring<const N: usize> {
    bytes: [AtomicU8; N],
    /// Bytes ever put in.
    head: AtomicUsize,
    /// Bytes ever taken out.
    tail: AtomicUsize,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Self {
        const { assert!(N.is_power_of_two()) };
        Self {
            bytes: [const { AtomicU8::new(0) }; N],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    fn byte(&self, position: usize) -> Option<&AtomicU8> {
        self.bytes.get(position & N.wrapping_sub(1))
    }

    fn len(&self) -> usize {
        let tail = self.tail.load(Ordering::SeqCst);
        // The head is read later, and so may have moved on by more than a ring: never report more than one.
        self.head.load(Ordering::SeqCst).wrapping_sub(tail).min(N)
    }

    fn room(&self) -> usize {
        N.saturating_sub(self.len())
    }

    /// Puts in what fits; answers how much that is.
    fn push(&self, bytes: &[u8]) -> usize {
        loop {
            let head = self.head.load(Ordering::SeqCst);
            let used = head.wrapping_sub(self.tail.load(Ordering::SeqCst));
            let count = N.saturating_sub(used).min(bytes.len());
            for (i, byte) in bytes.iter().take(count).enumerate() {
                if let Some(slot) = self.byte(head.wrapping_add(i)) {
                    slot.store(*byte, Ordering::Relaxed);
                }
            }
            if self.advance(&self.head, head, count) {
                return count;
            }
        }
    }

    /// The oldest byte and its position, for [`Ring::drop_at`].
    fn peek(&self) -> Option<(usize, u8)> {
        let tail = self.tail.load(Ordering::SeqCst);
        if tail == self.head.load(Ordering::SeqCst) {
            return None;
        }
        Some((tail, self.byte(tail)?.load(Ordering::Relaxed)))
    }

    /// Takes out the byte that [`Ring::peek`] showed, unless a call that came between has done so.
    fn drop_at(&self, position: usize) {
        self.advance(&self.tail, position, 1);
    }

    /// Takes out up to `into.len()` bytes; answers how many.
    fn pop(&self, into: &mut [u8]) -> usize {
        loop {
            let tail = self.tail.load(Ordering::SeqCst);
            let count = self
                .head
                .load(Ordering::SeqCst)
                .wrapping_sub(tail)
                .min(into.len());
            for (i, byte) in into.iter_mut().take(count).enumerate() {
                if let Some(slot) = self.byte(tail.wrapping_add(i)) {
                    *byte = slot.load(Ordering::Relaxed);
                }
            }
            if self.advance(&self.tail, tail, count) {
                return count;
            }
        }
    }

    fn advance(&self, position: &AtomicUsize, from: usize, by: usize) -> bool {
        position
            .compare_exchange(
                from,
                from.wrapping_add(by),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok()
    }
}

/// What one attempt to move output on came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is left.
    Drained,
    /// Some went out.
    Some,
    /// Nothing went out.
    None,
}

/// The console, with buffers of `OUT` and `IN` bytes, powers of two.
#[derive(Debug)]
pub struct Console<P, const OUT: usize, const IN: usize> {
    port: P,
    lock: ThreadLock,
    output: Ring<OUT>,
    input: Ring<IN>,
    /// 0, or the time base + 1 when the port was first found full.
    stalled: AtomicU64,
    /// Interrupts that are on: input, output.
    interrupts: [AtomicBool; 2],
}

impl<P: Port, const OUT: usize, const IN: usize> Console<P, OUT, IN> {
    /// A console with empty buffers. Interrupts of the port are taken to be off until the first
    /// [`Console::poll`].
    #[must_use]
    pub const fn new(port: P) -> Self {
        Self {
            port,
            lock: ThreadLock::new(),
            output: Ring::new(),
            input: Ring::new(),
            stalled: AtomicU64::new(0),
            interrupts: [const { AtomicBool::new(false) }; 2],
        }
    }

    /// OPAL_CONSOLE_WRITE, called by thread `me`.
    ///
    /// # Errors
    /// OPAL_PARAMETER, OPAL_BUSY_EVENT (no room now), OPAL_TIMEOUT (no room, and the port is dead). The count of bytes
    /// taken is stored also in the last two cases.
    pub fn write(
        &self,
        me: Server,
        os: &impl OsMemory,
        term: Term,
        len: OsAddr,
        buf: OsAddr,
    ) -> Answer {
        check_term(term)?;
        let count = os.read_be64(len)?;
        os.check(buf, count)?;
        let _guard = self.lock.take(me);
        // Makes room first: the port may have taken bytes since the last call.
        let _ = self.move_output();
        let mut done = 0_u64;
        while done < count {
            let mut chunk = [0; CHUNK];
            let wanted = usize::try_from(count.saturating_sub(done)).unwrap_or(usize::MAX);
            let size = wanted.min(CHUNK).min(self.output.room());
            let Some(chunk) = chunk.get_mut(..size).filter(|chunk| !chunk.is_empty()) else {
                break;
            };
            os.read(OsAddr(buf.0.wrapping_add(done)), chunk)?;
            let taken = self.output.push(chunk);
            if taken == 0 {
                break;
            }
            done = done.saturating_add(taken as u64);
        }
        let _ = self.move_output();
        self.update_interrupts();
        os.write_be64(len, done)?;
        if done > 0 || count == 0 {
            SUCCESS
        } else if self.is_dead() {
            Err(OpalError::OPAL_TIMEOUT)
        } else {
            Err(OpalError::OPAL_BUSY_EVENT)
        }
    }

    /// OPAL_CONSOLE_WRITE_BUFFER_SPACE, called by thread `me`.
    ///
    /// # Errors
    /// OPAL_PARAMETER, OPAL_TIMEOUT (the port is dead; the room is stored nevertheless).
    pub fn space(&self, me: Server, os: &impl OsMemory, term: Term, len: OsAddr) -> Answer {
        check_term(term)?;
        os.check(len, 8)?;
        let _guard = self.lock.take(me);
        let _ = self.move_output();
        self.update_interrupts();
        os.write_be64(len, self.output.room() as u64)?;
        if self.is_dead() {
            Err(OpalError::OPAL_TIMEOUT)
        } else {
            SUCCESS
        }
    }

    /// OPAL_CONSOLE_FLUSH, called by thread `me`.
    ///
    /// # Errors
    /// OPAL_PARAMETER; OPAL_PARTIAL (some went out), OPAL_BUSY (nothing did), OPAL_TIMEOUT (nothing has for a second).
    pub fn flush(&self, me: Server, term: Term) -> Answer {
        check_term(term)?;
        let _guard = self.lock.take(me);
        let progress = self.move_output();
        self.update_interrupts();
        match progress {
            Progress::Drained => SUCCESS,
            Progress::Some => Err(OpalError::OPAL_PARTIAL),
            Progress::None if self.is_dead() => Err(OpalError::OPAL_TIMEOUT),
            Progress::None => Err(OpalError::OPAL_BUSY),
        }
    }

    /// OPAL_CONSOLE_READ, called by thread `me`. No bytes is a success too; at most 4096 are handed over at once.
    ///
    /// # Errors
    /// OPAL_PARAMETER; no input is lost.
    pub fn read(
        &self,
        me: Server,
        os: &impl OsMemory,
        events: &Events,
        term: Term,
        len: OsAddr,
        buf: OsAddr,
    ) -> Result<Raised, OpalError> {
        check_term(term)?;
        let room = os.read_be64(len)?;
        os.check(buf, room)?;
        let room = room.min(MAX_READ);
        let _guard = self.lock.take(me);
        let mut done = 0_u64;
        while done < room {
            self.take_input();
            let mut chunk = [0; CHUNK];
            let wanted = usize::try_from(room.saturating_sub(done)).unwrap_or(usize::MAX);
            let size = chunk
                .get_mut(..wanted.min(CHUNK))
                .map_or(0, |chunk| self.input.pop(chunk));
            let Some(got) = chunk.get(..size).filter(|got| !got.is_empty()) else {
                break;
            };
            os.write(OsAddr(buf.0.wrapping_add(done)), got)?;
            done = done.saturating_add(size as u64);
        }
        self.take_input();
        self.update_interrupts();
        let raised = self.update_event(events);
        os.write_be64(len, done)?;
        Ok(raised)
    }

    /// Moves both directions on: for the port's interrupt and for pollers.
    pub fn poll(&self, me: Server, events: &Events) -> Raised {
        let _guard = self.lock.take(me);
        self.take_input();
        let _ = self.move_output();
        self.update_interrupts();
        self.update_event(events)
    }

    fn take_input(&self) {
        while self.input.room() > 0 {
            let Some(byte) = self.port.receive() else {
                break;
            };
            self.input.push(&[byte]);
        }
    }

    fn move_output(&self) -> Progress {
        let mut progress = Progress::None;
        while let Some((position, byte)) = self.output.peek() {
            if !self.port.send(byte) {
                // The first time it is full starts the clock; a byte that goes out stops it.
                let _ = self.stalled.compare_exchange(
                    0,
                    now().0.saturating_add(1),
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                );
                return progress;
            }
            self.stalled.store(0, Ordering::SeqCst);
            self.output.drop_at(position);
            progress = Progress::Some;
        }
        Progress::Drained
    }

    fn is_dead(&self) -> bool {
        match self.stalled.load(Ordering::SeqCst) {
            0 => false,
            since => now().since(Ticks(since)) > PATIENCE,
        }
    }

    /// Input interrupts while there is room for it; output while something waits to go out.
    fn update_interrupts(&self) {
        let [input, output] = &self.interrupts;
        let wanted = [self.input.room() > 0, self.output.len() > 0];
        let before = [
            input.swap(wanted[0], Ordering::SeqCst),
            output.swap(wanted[1], Ordering::SeqCst),
        ];
        if before != wanted {
            self.port.set_interrupts(wanted[0], wanted[1]);
        }
    }

    fn update_event(&self, events: &Events) -> Raised {
        events.follow(EventSet::CONSOLE_INPUT, self.input.len() > 0)
    }
}

fn check_term(term: Term) -> Result<(), OpalError> {
    if term == Term(0) {
        Ok(())
    } else {
        Err(OpalError::OPAL_PARAMETER)
    }
}

#[cfg(test)]
mod tests;

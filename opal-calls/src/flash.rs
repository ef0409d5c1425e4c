//! OPAL_FLASH_READ, _WRITE and _ERASE: the flash as it is, with all code bytes, for the kernel.
//!
//! Owns the queue of requests and their steps; the devices are the firmware's ([`Flashes`]). Nothing is accessed in the call
//! itself: each poll does pieces for about a millisecond, the oldest request first, and every request that was taken ends in
//! a message. Nobody waits for the BMC: the next poll looks again. A device that somebody else uses, or that the BMC has for
//! itself, is tried again for a while.
//!
//! The surprising fact: kernels poll only when they have a reason, so as long as a request is under way a poll answers that a
//! message waits. The kernel finds none and polls again, which is what moves the request on.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use isa::timebase::{Deadline, Ticks};

use crate::args::{AsyncToken, FlashId, OsAddr};
use crate::async_token::{ASYNC_TOKENS, Ticket};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{EventSet, Events, Raised};
use crate::lock::{Mutex, rank};
use crate::messages::Messages;
use crate::os_memory::OsMemory;

/// Most bytes of a piece, but for an erase block that is larger.
pub const PIECE: usize = 0x1_0000;
/// Bytes that are read at a time: behind a slow bus they take about a millisecond.
const READ_PIECE: u64 = 0x1000;
/// How long a poll may go on with further pieces.
const STEP: Ticks = Ticks::from_ms(1);
/// How long a device may be busy.
const PATIENCE: Ticks = Ticks::from_s(30);

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of it.
    pub size: u64,
    /// Bytes of an erase block, at least 1.
    pub erase_size: u64,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// The device is not ready: the same has to be asked again.
    Waiting,
}

/// The flash devices. Nothing here waits: who is told that the device is not ready comes back with the same job and the same
/// bytes, and is told something else before long. After an error the job is over.
pub trait Flashes {
    /// Work on a range of a device, and how far it is.
    type Job: core::fmt::Debug;

    /// What the device with this number is; `None`: there is none.
    fn device(&self, id: FlashId) -> Option<Geometry>;

    /// Work on `length` bytes of a device from the place `at` on, not begun.
    fn job(&self, id: FlashId, at: u64, length: u64) -> Self::Job;

    /// Reads.
    ///
    /// # Errors
    /// OPAL_BUSY: not now. Else why not.
    fn read(&self, job: &mut Self::Job, into: &mut [u8]) -> Result<Progress, OpalError>;

    /// Writes.
    ///
    /// # Errors
    /// OPAL_BUSY: not now. Else why not; part of it may be written.
    fn write(&self, job: &mut Self::Job, from: &[u8]) -> Result<Progress, OpalError>;

    /// Erases whole erase blocks.
    ///
    /// # Errors
    /// OPAL_BUSY: not now. Else why not; part of it may be erased.
    fn erase(&self, job: &mut Self::Job) -> Result<Progress, OpalError>;
}

/// What a request does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Reads it into the buffer.
    Read(OsAddr),
    /// Writes the buffer to it.
    Write(OsAddr),
    /// Erases it.
    Erase,
}

#[derive(Debug)]
struct Entry<J> {
    ticket: Ticket,
    id: FlashId,
    erase_size: u64,
    what: What,
    /// The next place in flash, how many bytes are still to be done, and how many are.
    at: u64,
    left: u64,
    done: u64,
    /// The piece that the device was not ready for; what is to be written is in the buffer.
    job: Option<J>,
    /// Until when the device may be busy.
    deadline: Option<Deadline>,
}

impl<J> Entry<J> {
    /// Bytes of the next piece: it ends at an erase block, so that no block is erased twice for one request.
    fn piece(&self) -> u64 {
        let most = match self.what {
            What::Read(_) => return self.left.min(READ_PIECE),
            What::Write(_) => self.erase_size.min(PIECE as u64),
            What::Erase => self.erase_size,
        };
        let into = self.at.checked_rem(most).unwrap_or(0);
        self.left.min(most.saturating_sub(into)).max(1)
    }

    /// Does the next piece, or goes on with it.
    fn step(
        &mut self,
        flashes: &impl Flashes<Job = J>,
        os: &impl OsMemory,
        buffer: &mut [u8],
    ) -> Result<Progress, OpalError> {
        let count = self.piece();
        let place = |start: OsAddr| {
            let place = start.0.checked_add(self.done).map(OsAddr);
            place.ok_or(OpalError::OPAL_PARAMETER)
        };
        let length = usize::try_from(count).map_err(|_| OpalError::OPAL_INTERNAL_ERROR)?;
        let begun = self.job.take();
        let is_new = begun.is_none();
        let mut job = begun.unwrap_or_else(|| flashes.job(self.id, self.at, count));
        // Of no use to an erase, whose length may be anything.
        let piece = buffer.get_mut(..length);
        let piece = piece.ok_or(OpalError::OPAL_INTERNAL_ERROR);
        let progress = match self.what {
            What::Read(start) => {
                let piece = piece?;
                let progress = flashes.read(&mut job, piece)?;
                if progress == Progress::Done {
                    os.write(place(start)?, piece)?;
                }
                progress
            }
            What::Write(start) => {
                let piece = piece?;
                if is_new {
                    os.read(place(start)?, piece)?;
                }
                flashes.write(&mut job, piece)?
            }
            What::Erase => flashes.erase(&mut job)?,
        };
        if progress == Progress::Waiting {
            self.job = Some(job);
            return Ok(progress);
        }
        self.at = self.at.saturating_add(count);
        self.done = self.done.saturating_add(count);
        self.left = self.left.saturating_sub(count);
        Ok(progress)
    }

    /// Goes on until `end`, or until the device has to be waited for; how it ended, if it has.
    fn work(
        &mut self,
        flashes: &impl Flashes<Job = J>,
        os: &impl OsMemory,
        buffer: &mut [u8],
        end: Deadline,
    ) -> Option<Answer> {
        while self.left > 0 {
            match self.step(flashes, os, buffer) {
                Ok(Progress::Done) => self.deadline = None,
                Ok(Progress::Waiting) => return None,
                Err(OpalError::OPAL_BUSY) => {
                    let deadline = *self
                        .deadline
                        .get_or_insert_with(|| Deadline::after(PATIENCE));
                    return (deadline.has_passed()).then_some(Err(OpalError::OPAL_HARDWARE));
                }
                Err(error) => return Some(Err(error)),
            }
            if self.left > 0 && end.has_passed() {
                return None;
            }
        }
        Some(SUCCESS)
    }
}

#[derive(Debug)]
struct Queue<J> {
    entries: VecDeque<Entry<J>>,
    /// The piece of the first of them.
    buffer: Vec<u8>,
}

/// The requests under way, in their order. `J` is a job of the devices' ([`Flashes::Job`]).
#[derive(Debug)]
pub struct Flash<J> {
    queue: Mutex<Queue<J>, rank::Operations>,
}

impl<J> Default for Flash<J> {
    fn default() -> Self {
        Self::new()
    }
}

impl<J> Flash<J> {
    /// None. Memory for them is allocated here and not later.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                entries: VecDeque::with_capacity(ASYNC_TOKENS),
                buffer: vec![0; PIECE],
            }),
        }
    }

    /// Takes a request for `size` bytes of a device from the place `at` on.
    ///
    /// # Errors
    /// OPAL_ASYNC_COMPLETION: a message will come. OPAL_PARAMETER: no such device, not within it, not whole erase blocks, a
    /// bad buffer. Else as [`Messages::begin`].
    pub fn request(
        &self,
        flashes: &impl Flashes<Job = J>,
        messages: &Messages,
        os: &impl OsMemory,
        token: AsyncToken,
        id: FlashId,
        (at, size): (u64, u64),
        what: What,
    ) -> Answer {
        let bad = OpalError::OPAL_PARAMETER;
        let Geometry {
            size: flash_size,
            erase_size,
        } = flashes.device(id).ok_or(bad)?;
        if at.checked_add(size).is_none_or(|end| end > flash_size) {
            return Err(bad);
        }
        match what {
            What::Read(buffer) | What::Write(buffer) => os.check(buffer, size)?,
            What::Erase if at.is_multiple_of(erase_size) && size.is_multiple_of(erase_size) => {}
            What::Erase => return Err(bad),
        }
        let mut queue = self.queue.lock();
        let ticket = messages.begin(token)?;
        queue.entries.push_back(Entry {
            ticket,
            id,
            erase_size,
            what,
            at,
            left: size,
            done: 0,
            job: None,
            deadline: None,
        });
        Err(OpalError::OPAL_ASYNC_COMPLETION)
    }

    /// Moves requests on for a while; the events that make a kernel poll again. May be called from a call that interrupted
    /// another one, or while another thread is at it: then it does nothing.
    pub fn poll(
        &self,
        flashes: &impl Flashes<Job = J>,
        messages: &Messages,
        events: &Events,
        os: &impl OsMemory,
    ) -> (EventSet, Raised) {
        let mut raised = Raised::default();
        let Some(mut queue) = self.queue.try_lock() else {
            return (EventSet::MSG_PENDING, raised);
        };
        if queue.entries.is_empty() {
            return (EventSet::NONE, raised);
        }
        let Queue { entries, buffer } = &mut *queue;
        let is_waited_for = entries.front().is_some_and(|entry| entry.job.is_some());
        // Who had to wait for the BMC lets others have it before the next piece.
        let end = Deadline::after(if is_waited_for { Ticks(0) } else { STEP });
        while let Some(entry) = entries.front_mut() {
            let Some(answer) = entry.work(flashes, os, buffer, end) else {
                break;
            };
            raised = raised.and(messages.complete(events, &entry.ticket, answer, &[]));
            entries.pop_front();
            if end.has_passed() {
                break;
            }
        }
        let more = if entries.is_empty() {
            EventSet::NONE
        } else {
            EventSet::MSG_PENDING
        };
        (more, raised)
    }

    /// Ends what would still write to the kernel's memory, because another kernel starts: reads. What changes the flash is
    /// better done to the end.
    pub fn stop_reads(&self, messages: &Messages, events: &Events) -> Raised {
        let mut raised = Raised::default();
        let Some(mut queue) = self.queue.try_lock() else {
            return raised;
        };
        queue.entries.retain(|entry| {
            let is_read = matches!(entry.what, What::Read(_));
            if is_read {
                let answer = Err(OpalError::OPAL_WRONG_STATE);
                raised = raised.and(messages.complete(events, &entry.ticket, answer, &[]));
            }
            !is_read
        });
        raised
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "small numbers of the test's own"
)]
mod tests;

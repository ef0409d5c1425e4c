//! Work on a range of the flash, piece by piece, each in a window; for who waits and for who comes back.
//!
//! A piece whose window was not there until its end is done again. Surprising fact: several may be at work by turns. Each
//! change of turn costs the one who comes back no more than the piece that he was at.

use core::fmt;

use isa::timebase::{Deadline, Ticks};

use super::exchange::{Link, Stop, Waited};
use super::protocol::Operation;
use super::window::{FirmwareSpace, Window, part};
use super::{Hiomap, HiomapError, event};
use crate::ipmi::Transport;

/// How often something is tried again after the BMC lost its state.
const TRIES: u32 = 2;

/// How long an operation may take, and how much longer for each MiB of it: firmware space has about 4 MiB a second, and the
/// BMC about one to write. One request may run over it, since that has a limit of its own.
const PATIENCE: Ticks = Ticks::from_s(10);
const PATIENCE_FOR_MIB: u64 = 4;
/// Most bytes between two looks at what the BMC has told, but for an erase block that is larger.
const PIECE: u64 = 0x1_0000;

/// What is done with a range, and the way to the window that it is seen through. It has to be the same each time.
pub enum Data<'a> {
    /// It is read into here.
    Read(&'a dyn FirmwareSpace, &'a mut [u8]),
    /// This is written to it.
    Write(&'a dyn FirmwareSpace, &'a [u8]),
    /// It is erased.
    Erase,
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read(..) => "Read",
            Self::Write(..) => "Write",
            Self::Erase => "Erase",
        })
    }
}

impl Data<'_> {
    /// Moves the bytes of a piece.
    fn transfer(&mut self, job: &Job, window: Window, count: u64) -> Result<(), HiomapError> {
        let place = job.place();
        let range = part(job.at, place, count).ok_or(HiomapError::Outside)?;
        match self {
            Self::Read(space, into) => {
                let piece = into.get_mut(range).ok_or(HiomapError::Outside)?;
                space.read(window.address_of(place)?, piece)?;
            }
            Self::Write(space, from) => {
                let piece = from.get(range).ok_or(HiomapError::Outside)?;
                space.write(window.address_of(place)?, piece)?;
            }
            Self::Erase => {}
        }
        Ok(())
    }
}

/// How far a piece is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Its bytes were not moved yet.
    Transfer,
    /// The BMC has to make so many bytes of this window last.
    Finish {
        window: Window,
        count: u64,
        /// It knows which: only the flush is left.
        is_marked: bool,
    },
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done.
    Done,
    /// The BMC has not answered yet: come back.
    Waiting,
}

/// Work on a range, and how far it is.
#[derive(Debug)]
pub struct Job {
    at: u64,
    length: u64,
    done: u64,
    failures: u32,
    deadline: Deadline,
    stage: Stage,
    turn: Option<u64>,
}

impl Job {
    /// Work on `length` bytes from the place `at` on.
    #[must_use]
    pub fn new(at: u64, length: u64) -> Self {
        let more = Ticks::from_s((length >> 20).saturating_mul(PATIENCE_FOR_MIB));
        Self {
            at,
            length,
            done: 0,
            failures: 0,
            deadline: Deadline::after(Ticks(PATIENCE.0.saturating_add(more.0))),
            stage: Stage::Transfer,
            turn: None,
        }
    }

    /// Where the next piece is.
    const fn place(&self) -> u64 {
        self.at + self.done
    }
}

impl Hiomap {
    /// Works on `job`, which is for `data`, until it is done or the BMC has to be waited for.
    ///
    /// # Errors
    /// As [`HiomapError`] says: it has failed, and part of it may be done.
    pub fn advance(
        &mut self,
        job: &mut Job,
        bmc: &mut impl Link,
        data: &mut Data<'_>,
    ) -> Result<Progress, HiomapError> {
        self.check(job.at, job.length)?;
        let is_aligned = |number: u64| number.is_multiple_of(self.granule);
        if matches!(data, Data::Erase) && !(is_aligned(job.at) && is_aligned(job.length)) {
            return Err(HiomapError::Misaligned);
        }
        if job.turn != Some(self.turn) {
            self.turn = self.turn.wrapping_add(1);
            job.turn = Some(self.turn);
            job.stage = Stage::Transfer;
            self.abandon();
        }
        while job.done < job.length {
            let failure = match self.piece(job, bmc, data) {
                Ok(Some(count)) => {
                    job.done += count;
                    job.failures = 0;
                    None
                }
                Ok(None) => Some(HiomapError::Lost),
                Err(Stop::Waiting) => return Ok(Progress::Waiting),
                Err(Stop::Failed(error)) => {
                    self.abandon();
                    // Who knows what the BMC has done with it.
                    self.window = None;
                    if !error.may_pass() {
                        return Err(error);
                    }
                    Some(error)
                }
            };
            job.stage = Stage::Transfer;
            if let Some(error) = failure {
                self.doubt(error);
                job.failures += 1;
                if job.failures == TRIES {
                    return Err(error);
                }
            }
            if job.done < job.length && job.deadline.has_passed() {
                return Err(HiomapError::TooSlow);
            }
        }
        Ok(Progress::Done)
    }

    /// The same for who waits for each answer.
    pub(super) fn finish(
        &mut self,
        bmc: &mut impl Transport,
        mut job: Job,
        mut data: Data<'_>,
    ) -> Result<(), HiomapError> {
        match self.advance(&mut job, &mut Waited::new(bmc), &mut data)? {
            Progress::Done => Ok(()),
            Progress::Waiting => Err(Stop::Waiting.into()),
        }
    }

    /// After this error, what was agreed with the BMC may not hold any more.
    fn doubt(&mut self, error: HiomapError) {
        self.window = None;
        if matches!(error, HiomapError::Bmc(_)) {
            self.events |= event::PROTOCOL_RESET;
        }
    }

    /// Does the next piece: how many bytes it had, or `None` if its window was not there until the end.
    fn piece(
        &mut self,
        job: &mut Job,
        bmc: &mut impl Link,
        data: &mut Data<'_>,
    ) -> Result<Option<u64>, Stop> {
        let (window, count, is_marked) = match job.stage {
            Stage::Transfer => {
                let is_read = matches!(data, Data::Read(..));
                let left = job.length - job.done;
                let window = self.window_for(bmc, job.place(), left, !is_read)?;
                // It may have been waited for, and somebody else may have taken it since.
                self.hear(bmc)?;
                if self.window != Some(window) {
                    return Ok(None);
                }
                // Whole erase blocks, so that none is erased in part.
                let most = (PIECE - PIECE % self.granule).max(self.granule);
                let count = window.left(job.place()).min(left).min(most);
                data.transfer(job, window, count)?;
                // Before the BMC makes it last: into a window that is gone, nothing was written.
                self.hear(bmc)?;
                if self.window != Some(window) {
                    return Ok(None);
                }
                if is_read {
                    return Ok(Some(count));
                }
                (window, count, false)
            }
            Stage::Finish {
                window,
                count,
                is_marked,
            } => (window, count, is_marked),
        };
        let stage = |is_marked| Stage::Finish {
            window,
            count,
            is_marked,
        };
        job.stage = stage(is_marked);
        if !is_marked {
            let range = self.range(job.place() - window.flash, count)?;
            self.mark(bmc, matches!(data, Data::Erase), range)?;
            job.stage = stage(true);
        }
        self.command(bmc, Operation::Flush, &[])?;
        self.hear(bmc)?;
        Ok((self.window == Some(window)).then_some(count))
    }

    /// Tells the BMC what of the write window was changed, or is to be erased.
    fn mark(&mut self, bmc: &mut impl Link, erases: bool, range: [u8; 4]) -> Result<(), Stop> {
        let [a, b, c, d] = range;
        let (operation, arguments) = match erases {
            true => (Operation::Erase, &range[..]),
            // Version 3 has flags here: none, so the BMC erases before it writes.
            false if self.version >= 3 => (Operation::MarkDirty, &[a, b, c, d, 0][..]),
            false => (Operation::MarkDirty, &range[..]),
        };
        self.command(bmc, operation, arguments).map(drop)
    }
}

//! A request to the BMC and its answer, for who can wait for it and for who cannot.
//!
//! Surprising fact: both go the same way. Who cannot wait is told to come back ([`Stop::Waiting`]) out of the middle of an
//! operation, and then makes the very same request again, which is not sent a second time.

use isa::timebase::{Deadline, Ticks};

use super::protocol::Operation;
use super::{Hiomap, HiomapError};
use crate::ipmi::{Event, IpmiError, Request, Response, Transport, next_event};
use crate::lpc::{FwError, OutOfRange};

/// Where the protocol's messages go: the vendor's function, and the command for it on all boards that are known.
pub(super) const NETFN: u8 = 0x3a;
pub(super) const COMMAND: u8 = 0x5a;

/// Most bytes of a message: operation, sequence, arguments.
const MOST: usize = 2 + 5;
/// How long the BMC may take no request.
const PATIENCE: Ticks = Ticks::from_s(3);

/// A way to the BMC that waits for nothing.
pub trait Link {
    /// How often a request is made that gets no answer.
    const ATTEMPTS: u32;

    /// Makes a request.
    ///
    /// # Errors
    /// [`IpmiError::Busy`]: not now. Else the request is none.
    fn begin(&mut self, request: &Request<'_>) -> Result<(), IpmiError>;

    /// The answer to the last request, once; `None` while it is to come.
    fn poll(&mut self) -> Option<Result<Response, IpmiError>>;

    /// The next event of the BMC, if there is one, and nobody else asks for them.
    ///
    /// # Errors
    /// As [`IpmiError`] says.
    fn event(&mut self) -> Result<Option<Event>, IpmiError>;
}

/// A way that waits: every answer is there at once.
pub(super) struct Waited<'a, T> {
    bmc: &'a mut T,
    answer: Option<Result<Response, IpmiError>>,
}

impl<'a, T> Waited<'a, T> {
    pub(super) const fn new(bmc: &'a mut T) -> Self {
        Self { bmc, answer: None }
    }
}

impl<T: Transport> Link for Waited<'_, T> {
    // It makes its own.
    const ATTEMPTS: u32 = 1;

    fn begin(&mut self, request: &Request<'_>) -> Result<(), IpmiError> {
        self.answer = Some(self.bmc.transact(request));
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Response, IpmiError>> {
        self.answer.take()
    }

    fn event(&mut self) -> Result<Option<Event>, IpmiError> {
        if self.bmc.wants_attention() {
            next_event(self.bmc)
        } else {
            Ok(None)
        }
    }
}

/// Why an operation does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The BMC has not answered yet.
    Waiting,
    /// It never will.
    Failed(HiomapError),
}

impl From<HiomapError> for Stop {
    fn from(error: HiomapError) -> Self {
        Self::Failed(error)
    }
}

impl From<IpmiError> for Stop {
    fn from(error: IpmiError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<FwError> for Stop {
    fn from(error: FwError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<OutOfRange> for Stop {
    fn from(error: OutOfRange) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Stop> for HiomapError {
    /// For who waits, and is never told to come back.
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Waiting => Self::Bmc(IpmiError::Timeout),
            Stop::Failed(error) => error,
        }
    }
}

/// A request without an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    data: [u8; MOST],
    length: usize,
    attempts: u32,
    is_sent: bool,
    /// Until when the BMC has to take it.
    deadline: Deadline,
}

impl Exchange {
    fn data(&self) -> &[u8] {
        self.data.get(..self.length).unwrap_or_default()
    }

    /// Whether it is this request, whatever its sequence.
    fn is_same(&self, operation: Operation, arguments: &[u8]) -> bool {
        matches!(self.data(), [o, _, a @ ..] if *o == operation as u8 && a == arguments)
    }

    fn new(operation: Operation, sequence: u8, arguments: &[u8]) -> Result<Self, HiomapError> {
        let mut data = [0; MOST];
        let (head, tail) = data.split_at_mut(2);
        head.copy_from_slice(&[operation as u8, sequence]);
        let place = tail.get_mut(..arguments.len());
        place
            .ok_or(HiomapError::Outside)?
            .copy_from_slice(arguments);
        Ok(Self {
            data,
            length: 2 + arguments.len(),
            attempts: 0,
            is_sent: false,
            deadline: Deadline::after(PATIENCE),
        })
    }

    /// Sends the request if it is not sent, and looks for the answer: `None` while there is none.
    fn step<L: Link>(&mut self, bmc: &mut L) -> Option<Result<Response, IpmiError>> {
        if !self.is_sent {
            let begun = bmc.begin(&Request {
                netfn: NETFN,
                lun: 0,
                command: COMMAND,
                data: self.data.get(..self.length).unwrap_or_default(),
            });
            match begun {
                Ok(()) => self.is_sent = true,
                Err(IpmiError::Busy) if !self.deadline.has_passed() => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let answer = bmc.poll()?;
        self.attempts += 1;
        if answer == Err(IpmiError::Timeout) && self.attempts < L::ATTEMPTS {
            self.is_sent = false;
            self.deadline = Deadline::after(PATIENCE);
            return None;
        }
        Some(answer)
    }
}

impl Hiomap {
    /// Makes a request; the answer repeats operation and sequence.
    pub(super) fn command(
        &mut self,
        bmc: &mut impl Link,
        operation: Operation,
        arguments: &[u8],
    ) -> Result<Response, Stop> {
        let mut exchange = match self.exchange.take() {
            Some(exchange) if exchange.is_same(operation, arguments) => exchange,
            _ => {
                self.sequence = self.sequence.wrapping_add(1);
                Exchange::new(operation, self.sequence, arguments)?
            }
        };
        let Some(response) = exchange.step(bmc) else {
            self.exchange = Some(exchange);
            return Err(Stop::Waiting);
        };
        let response = response?;
        if response.completion != 0 {
            return Err(IpmiError::Refused(response.completion).into());
        }
        if response.data().first_chunk::<2>() != exchange.data().first_chunk() {
            return Err(HiomapError::Nonsense("the answer to another request").into());
        }
        Ok(response)
    }

    /// Forgets a request that is under way, and what was agreed on in part.
    pub(super) fn abandon(&mut self) {
        self.exchange = None;
        self.settling = super::Settling::default();
    }
}

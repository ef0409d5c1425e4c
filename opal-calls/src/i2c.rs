//! OPAL_I2C_REQUEST: transfers with devices behind the chips' I2C masters.
//!
//! Owns the form of a request, and the queue: several buses share an engine, which does one transfer at a time. Every request
//! that is taken ends in a message. The engines are the firmware's ([`Buses`]).
//!
//! The surprising fact: no request is a success at once; kernels take that for an error.

use alloc::vec::Vec;

use arrayvec::ArrayVec;

use crate::args::{AsyncToken, I2cBus, OsAddr};
use crate::async_token::{ASYNC_TOKENS, Ticket};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{Events, Raised};
use crate::lock::{Mutex, rank};
use crate::messages::Messages;
use crate::os_memory::OsMemory;

/// Most bytes of a transfer.
pub const MAX_DATA: usize = 256;
/// Bytes of a request.
const REQUEST: usize = 24;

/// What a request does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Reads so many bytes.
    Read(usize),
    /// Writes these bytes.
    Write(Vec<u8>),
}

/// A request of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of the device, 7 bits.
    pub address: u8,
    /// Place within the device, most significant byte first; empty if it has none.
    pub offset: ArrayVec<u8, 4>,
    /// What to do there.
    pub what: What,
    /// Where the bytes come from or go to.
    buffer: OsAddr,
}

impl Request {
    /// Reads a request and, of a write, its bytes.
    ///
    /// # Errors
    /// OPAL_PARAMETER: a bad pointer, kind, length or address. OPAL_UNSUPPORTED: an address of 10 bits.
    pub fn read(os: &impl OsMemory, at: OsAddr) -> Result<Self, OpalError> {
        const TEN_BITS: u8 = 1;
        let bad = OpalError::OPAL_PARAMETER;
        let mut bytes = [0; REQUEST];
        os.read(at, &mut bytes)?;
        let [kind, flags, offset_size, _, a0, a1, _, _, tail @ ..] = bytes;
        let [o0, o1, o2, o3, s0, s1, s2, s3, buffer @ ..] = tail;
        if flags & TEN_BITS != 0 {
            return Err(OpalError::OPAL_UNSUPPORTED);
        }
        let address = u8::try_from(u16::from_be_bytes([a0, a1])).map_err(|_| bad)?;
        let size = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).map_err(|_| bad)?;
        let buffer = OsAddr(u64::from_be_bytes(buffer));
        let (is_read, has_offset) = match kind {
            0 => (true, false),
            1 => (false, false),
            2 => (true, true),
            3 => (false, true),
            _ => return Err(bad),
        };
        if flags != 0 || address >= 0x80 || size > MAX_DATA || offset_size > 4 {
            return Err(bad);
        }
        let skipped = 4_usize.saturating_sub(offset_size.into());
        let offset = [o0, o1, o2, o3].into_iter().skip(skipped);
        let what = if is_read {
            if size == 0 {
                return Err(bad);
            }
            os.check(buffer, size as u64)?;
            What::Read(size)
        } else {
            let mut data = [0; MAX_DATA];
            let data = data.get_mut(..size).ok_or(bad)?;
            if size != 0 {
                os.read(buffer, data)?;
            }
            What::Write(data.to_vec())
        };
        Ok(Self {
            address,
            offset: offset.filter(|_| has_offset).collect(),
            what,
            buffer,
        })
    }
}

/// The buses. Nothing here waits.
pub trait Buses {
    /// The engine of a bus; `None`: there is no such bus.
    fn engine(&self, bus: I2cBus) -> Option<usize>;

    /// Starts a transfer on an engine that is idle.
    ///
    /// # Errors
    /// Why it cannot start.
    fn begin(&self, bus: I2cBus, request: &Request) -> Result<(), OpalError>;

    /// The end of an engine's transfer, once, with the bytes that were read.
    fn poll(&self, engine: usize) -> Option<Result<ArrayVec<u8, MAX_DATA>, OpalError>>;
}

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    bus: I2cBus,
    engine: usize,
    request: Request,
    started: bool,
}

/// The requests under way, in their order.
#[derive(Debug)]
pub struct I2c {
    entries: Mutex<Vec<Entry>, rank::Operations>,
}

impl Default for I2c {
    fn default() -> Self {
        Self::new()
    }
}

impl I2c {
    /// None. Memory for them is allocated here and not later.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Mutex::new(Vec::with_capacity(ASYNC_TOKENS)),
        }
    }

    /// OPAL_I2C_REQUEST.
    ///
    /// # Errors
    /// OPAL_ASYNC_COMPLETION: a message will come. OPAL_PARAMETER: no such bus, and as [`Request::read`]. Else as
    /// [`Messages::begin`].
    pub fn request(
        &self,
        buses: &impl Buses,
        messages: &Messages,
        os: &impl OsMemory,
        token: AsyncToken,
        bus: I2cBus,
        request: OsAddr,
    ) -> Answer {
        let engine = buses.engine(bus).ok_or(OpalError::OPAL_PARAMETER)?;
        let request = Request::read(os, request)?;
        let mut entries = self.entries.lock();
        let ticket = messages.begin(token)?;
        entries.push(Entry {
            ticket,
            bus,
            engine,
            request,
            started: false,
        });
        Err(OpalError::OPAL_ASYNC_COMPLETION)
    }

    /// Moves the transfers on. May be called from a call that interrupted another one: then it does nothing.
    pub fn poll(
        &self,
        buses: &impl Buses,
        messages: &Messages,
        events: &Events,
        os: &impl OsMemory,
    ) -> Raised {
        let mut raised = Raised::default();
        let Some(mut entries) = self.entries.try_lock() else {
            return raised;
        };
        let mut busy = ArrayVec::<usize, ASYNC_TOKENS>::new();
        entries.retain_mut(|entry| {
            // One transfer at a time on each engine, the oldest first.
            if busy.contains(&entry.engine) {
                return true;
            }
            let begun = if entry.started {
                Ok(())
            } else {
                buses.begin(entry.bus, &entry.request)
            };
            entry.started = true;
            let end = match begun {
                Ok(()) => buses.poll(entry.engine),
                Err(error) => Some(Err(error)),
            };
            let Some(end) = end else {
                let _ = busy.try_push(entry.engine); // as many places as there are entries
                return true;
            };
            let answer = end.and_then(|data| {
                if matches!(entry.request.what, What::Read(_)) {
                    os.write(entry.request.buffer, &data)?;
                }
                SUCCESS
            });
            raised = raised.and(messages.complete(events, &entry.ticket, answer, &[]));
            false
        });
        raised
    }

    /// Whether no transfer is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.entries
            .try_lock()
            .is_some_and(|entries| entries.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::vec::Vec;

    use arrayvec::ArrayVec;
    use proptest::prelude::*;

    use super::*;
    use crate::os_memory::fake::Memory;

    type End = Result<Vec<u8>, OpalError>;

    /// Buses 1 and 2 on engine 0, bus 3 on engine 1.
    #[derive(Default)]
    struct Fake {
        begun: RefCell<Vec<(u32, Request)>>,
        refuse: Cell<bool>,
        ends: RefCell<Vec<(usize, End)>>,
    }

    impl Buses for Fake {
        fn engine(&self, bus: I2cBus) -> Option<usize> {
            match bus.0 {
                1 | 2 => Some(0),
                3 => Some(1),
                _ => None,
            }
        }
        fn begin(&self, bus: I2cBus, request: &Request) -> Result<(), OpalError> {
            if self.refuse.get() {
                return Err(OpalError::OPAL_HARDWARE);
            }
            self.begun.borrow_mut().push((bus.0, request.clone()));
            Ok(())
        }
        fn poll(&self, engine: usize) -> Option<Result<ArrayVec<u8, MAX_DATA>, OpalError>> {
            let mut ends = self.ends.borrow_mut();
            let at = ends.iter().position(|(of, _)| *of == engine)?;
            Some(ends.remove(at).1.map(|data| data.into_iter().collect()))
        }
    }

    const AT: OsAddr = OsAddr(0x100);
    const BUF: u64 = 0x200;
    const ASYNC: Answer = Err(OpalError::OPAL_ASYNC_COMPLETION);

    fn bytes(
        kind: u8,
        flags: u8,
        offset_size: u8,
        address: u16,
        offset: u32,
        size: u32,
        buffer: u64,
    ) -> Vec<u8> {
        let mut bytes = std::vec![kind, flags, offset_size, 0];
        bytes.extend(address.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(buffer.to_be_bytes());
        bytes
    }

    struct Machine {
        i2c: I2c,
        buses: Fake,
        messages: Messages,
        events: Events,
        os: Memory,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                i2c: I2c::new(),
                buses: Fake::default(),
                messages: Messages::new(),
                events: Events::new(),
                os: Memory::new(0x2000),
            }
        }
        fn ask(&self, token: u64, bus: u32, bytes: &[u8]) -> Answer {
            self.os.write(AT, bytes).unwrap();
            let (token, bus) = (AsyncToken(token), I2cBus(bus));
            self.i2c
                .request(&self.buses, &self.messages, &self.os, token, bus, AT)
        }
        fn end(&self, engine: usize, end: Result<&[u8], OpalError>) {
            let end = end.map(<[u8]>::to_vec);
            self.buses.ends.borrow_mut().push((engine, end));
        }
        fn poll(&self) {
            let _ = self
                .i2c
                .poll(&self.buses, &self.messages, &self.events, &self.os);
        }
        fn message(&self) -> Option<(u64, i64)> {
            const MSG: OsAddr = OsAddr(0x1000);
            self.messages
                .get_msg(&self.events, &self.os, MSG, 72)
                .ok()?;
            let word = |n: u64| self.os.read_be64(OsAddr(MSG.0 + 8 + 8 * n)).unwrap();
            Some((word(0), word(1).cast_signed()))
        }
    }

    #[test]
    fn a_read_at_an_offset_fills_the_buffer() {
        let m = Machine::new();
        assert_eq!(m.ask(7, 1, &bytes(2, 0, 2, 0x63, 0x1234, 3, BUF)), ASYNC);
        m.poll();
        let (bus, request) = m.buses.begun.borrow()[0].clone();
        assert_eq!((bus, request.address), (1, 0x63));
        assert_eq!(request.offset[..], [0x12, 0x34]);
        assert_eq!(request.what, What::Read(3));
        assert_eq!(m.message(), None);
        m.end(0, Ok(&[1, 2, 3]));
        m.poll();
        assert_eq!(m.message(), Some((7, 0)));
        assert_eq!(m.os.bytes(OsAddr(BUF), 3), [1, 2, 3]);
        assert!(m.i2c.is_idle());
    }

    #[test]
    fn a_write_takes_its_bytes_at_once() {
        let m = Machine::new();
        m.os.write(OsAddr(BUF), &[5, 6]).unwrap();
        assert_eq!(m.ask(7, 1, &bytes(1, 0, 4, 0x20, 9, 2, BUF)), ASYNC);
        m.os.write(OsAddr(BUF), &[0, 0]).unwrap();
        m.end(0, Err(OpalError::OPAL_I2C_NACK_RCVD));
        m.poll();
        let request = m.buses.begun.borrow()[0].1.clone();
        assert_eq!(request.what, What::Write([5, 6].to_vec()));
        assert!(request.offset.is_empty(), "raw requests have none");
        assert_eq!(m.message(), Some((7, -23)));
    }

    #[test]
    fn an_engine_does_one_after_the_other() {
        let m = Machine::new();
        let read = bytes(0, 0, 0, 0x20, 0, 1, BUF);
        for (token, bus) in [(1, 1), (2, 2), (3, 3)] {
            assert_eq!(m.ask(token, bus, &read), ASYNC);
        }
        m.poll();
        let begun = |m: &Machine| {
            m.buses
                .begun
                .borrow()
                .iter()
                .map(|b| b.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(begun(&m), [1, 3]);
        m.end(0, Ok(&[0]));
        m.poll();
        assert_eq!(begun(&m), [1, 3, 2]);
        assert_eq!(m.message(), Some((1, 0)));
        m.end(1, Ok(&[0]));
        m.end(0, Ok(&[0]));
        m.poll();
        assert_eq!([m.message(), m.message()], [Some((2, 0)), Some((3, 0))]);
        m.buses.refuse.set(true);
        assert_eq!(m.ask(4, 1, &read), ASYNC);
        m.poll();
        assert_eq!(m.message(), Some((4, -6)));
    }

    #[test]
    fn bad_requests_are_refused_and_start_nothing() {
        let m = Machine::new();
        let bad = Err(OpalError::OPAL_PARAMETER);
        let good = bytes(0, 0, 0, 0x20, 0, 1, BUF);
        for bus in [0, 4, u32::MAX] {
            assert_eq!(m.ask(1, bus, &good), bad);
        }
        for request in [
            bytes(4, 0, 0, 0x20, 0, 1, BUF),
            bytes(255, 0, 0, 0x20, 0, 1, BUF),
            bytes(0, 2, 0, 0x20, 0, 1, BUF),
            bytes(0, 0, 5, 0x20, 0, 1, BUF),
            bytes(0, 0, 0, 0x80, 0, 1, BUF),
            bytes(0, 0, 0, 0x120, 0, 1, BUF),
            bytes(0, 0, 0, 0x20, 0, 0, BUF),
            bytes(0, 0, 0, 0x20, 0, 257, BUF),
            bytes(1, 0, 0, 0x20, 0, u32::MAX, BUF),
            bytes(0, 0, 0, 0x20, 0, 2, 0x1fff),
            bytes(1, 0, 0, 0x20, 0, 2, 0x1fff),
            bytes(0, 0, 0, 0x20, 0, 1, u64::MAX),
        ] {
            assert_eq!(m.ask(1, 1, &request), bad, "{request:x?}");
        }
        let ten = bytes(0, 1, 0, 0x20, 0, 1, BUF);
        assert_eq!(m.ask(1, 1, &ten), Err(OpalError::OPAL_UNSUPPORTED));
        for at in [0x1fe9, 0x2000, u64::MAX] {
            let (token, bus) = (AsyncToken(1), I2cBus(1));
            let answer = m
                .i2c
                .request(&m.buses, &m.messages, &m.os, token, bus, OsAddr(at));
            assert_eq!(answer, bad);
        }
        assert!(m.i2c.is_idle() && m.messages.under_way() == 0);
        for token in 0..16 {
            assert_eq!(m.ask(token, 1, &good), ASYNC);
        }
        assert_eq!(m.ask(3, 1, &good), bad, "a token of one under way");
        assert_eq!(m.ask(99, 1, &good), Err(OpalError::OPAL_BUSY));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none(bytes in prop::array::uniform24(any::<u8>())) {
            let os = Memory::new(0x2000);
            os.write(AT, &bytes).unwrap();
            if let Ok(request) = Request::read(&os, AT) {
                prop_assert!(request.address < 0x80 && request.offset.len() <= 4);
            }
        }
    }
}

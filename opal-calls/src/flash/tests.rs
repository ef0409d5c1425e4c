//! Tests of the flash requests with a device in memory, which can be busy or broken.

use core::ops::Range;
use std::cell::{Cell, RefCell};
use std::vec;
use std::vec::Vec;

use isa::timebase::fake as clock;
use proptest::prelude::*;

use super::*;
use crate::os_memory::fake::Memory;

const SIZE: usize = 0x8_0000;
const BLOCK: u64 = 0x2000;
const DEVICE: FlashId = FlashId(0);
const BUF: OsAddr = OsAddr(0x1000);
const MSG: OsAddr = OsAddr(0x100);
const MEMORY: usize = 0x10_0000;
const ASYNC: Answer = Err(OpalError::OPAL_ASYNC_COMPLETION);
const BAD: Answer = Err(OpalError::OPAL_PARAMETER);

struct Fake {
    bytes: RefCell<Vec<u8>>,
    /// What was done: kind, place, length.
    log: RefCell<Vec<(char, u64, u64)>>,
    /// How an access ends other than well.
    refuse: Cell<Option<OpalError>>,
    /// How long an access takes.
    pace: Cell<Ticks>,
    /// How often who asks has to come back.
    waits: Cell<u32>,
}

#[derive(Debug)]
struct Work {
    at: u64,
    length: u64,
    waits: u32,
}

impl Fake {
    /// Where the bytes of a job are, if it is done now.
    fn access(&self, kind: char, job: &mut Work) -> Result<Option<Range<usize>>, OpalError> {
        clock::advance(self.pace.get());
        if let Some(error) = self.refuse.get() {
            return Err(error);
        }
        if let Some(waits) = job.waits.checked_sub(1) {
            job.waits = waits;
            return Ok(None);
        }
        self.log.borrow_mut().push((kind, job.at, job.length));
        Ok(Some(job.at as usize..(job.at + job.length) as usize))
    }
}

const fn progress(done: Option<()>) -> Progress {
    match done {
        Some(()) => Progress::Done,
        None => Progress::Waiting,
    }
}

impl Flashes for Fake {
    type Job = Work;

    fn device(&self, id: FlashId) -> Option<Geometry> {
        (id == DEVICE).then_some(Geometry {
            size: SIZE as u64,
            erase_size: BLOCK,
        })
    }
    fn job(&self, id: FlashId, at: u64, length: u64) -> Work {
        assert_eq!(id, DEVICE);
        let waits = self.waits.get();
        Work { at, length, waits }
    }
    fn read(&self, job: &mut Work, into: &mut [u8]) -> Result<Progress, OpalError> {
        let range = self.access('r', job)?;
        Ok(progress(range.map(|range| {
            into.copy_from_slice(&self.bytes.borrow()[range]);
        })))
    }
    fn write(&self, job: &mut Work, from: &[u8]) -> Result<Progress, OpalError> {
        let range = self.access('w', job)?;
        Ok(progress(range.map(|range| {
            self.bytes.borrow_mut()[range].copy_from_slice(from);
        })))
    }
    fn erase(&self, job: &mut Work) -> Result<Progress, OpalError> {
        assert!(job.at.is_multiple_of(BLOCK) && job.length.is_multiple_of(BLOCK));
        let range = self.access('e', job)?;
        Ok(progress(range.map(|range| {
            self.bytes.borrow_mut()[range].fill(0xff);
        })))
    }
}

struct Machine {
    flash: Flash<Work>,
    device: Fake,
    messages: Messages,
    events: Events,
    os: Memory,
}

impl Machine {
    fn new() -> Self {
        clock::set_step(Ticks::from_us(1));
        let bytes = (0..SIZE).map(|at| (at / 3 % 251) as u8).collect();
        Self {
            flash: Flash::new(),
            device: Fake {
                bytes: RefCell::new(bytes),
                log: RefCell::default(),
                refuse: Cell::new(None),
                pace: Cell::new(Ticks(0)),
                waits: Cell::new(0),
            },
            messages: Messages::new(),
            events: Events::new(),
            os: Memory::new(MEMORY),
        }
    }
    fn ask(&self, token: u64, what: What, at: u64, size: u64) -> Answer {
        let (token, range) = (AsyncToken(token), (at, size));
        (self.flash).request(
            &self.device,
            &self.messages,
            &self.os,
            token,
            DEVICE,
            range,
            what,
        )
    }
    /// Polls once; whether the kernel has a reason to poll again.
    fn poll(&self) -> bool {
        let polled = self
            .flash
            .poll(&self.device, &self.messages, &self.events, &self.os);
        !polled.0.is_empty()
    }
    fn finish(&self) -> usize {
        let mut polls = 1;
        while self.poll() {
            polls += 1;
            assert!(polls < 100_000, "it never ends");
        }
        polls
    }
    fn message(&self) -> Option<(u64, i64)> {
        let got = self.messages.get_msg(&self.events, &self.os, MSG, 72);
        got.ok()?;
        let word = |n: u64| self.os.read_be64(OsAddr(MSG.0 + 8 + 8 * n)).unwrap();
        Some((word(0), word(1).cast_signed()))
    }
}

#[test]
fn a_read_comes_in_pieces_and_ends_in_one_message() {
    let m = Machine::new();
    m.device.pace.set(Ticks::from_us(600));
    assert_eq!(m.ask(7, What::Read(BUF), 0x1234, 0x5001), ASYNC);
    assert!(m.device.log.borrow().is_empty(), "not in the call itself");
    assert!(m.poll() && m.message().is_none());
    let before = m.os.bytes(OsAddr(BUF.0 + 0x5001), 16);
    assert_eq!(m.finish(), 2, "two pieces a poll");
    assert_eq!(m.message(), Some((7, 0)));
    assert_eq!(m.message(), None);
    assert_eq!(
        m.os.bytes(BUF, 0x5001),
        m.device.bytes.borrow()[0x1234..0x1234 + 0x5001]
    );
    assert_eq!(m.os.bytes(OsAddr(BUF.0 + 0x5001), 16), before);
    assert!(!m.poll(), "nothing is left");
}

#[test]
fn a_write_ends_at_erase_blocks_so_that_none_is_written_twice() {
    let m = Machine::new();
    m.os.write(BUF, &[0x5a; 0x5000]).unwrap();
    assert_eq!(m.ask(1, What::Write(BUF), 0x1800, 0x5000), ASYNC);
    m.finish();
    assert_eq!(m.message(), Some((1, 0)));
    let log = [
        ('w', 0x1800, 0x800),
        ('w', 0x2000, 0x2000),
        ('w', 0x4000, 0x2000),
        ('w', 0x6000, 0x800),
    ];
    assert_eq!(*m.device.log.borrow(), log);
    let bytes = m.device.bytes.borrow();
    assert!(bytes[0x1800..0x6800].iter().all(|byte| *byte == 0x5a));
    assert!(bytes[0x17ff] != 0x5a && bytes[0x6800] != 0x5a);
}

#[test]
fn erasing_takes_whole_blocks_and_one_at_a_time() {
    let m = Machine::new();
    assert_eq!(m.ask(1, What::Erase, 0x2000, 0x4000), ASYNC);
    m.finish();
    assert_eq!(m.message(), Some((1, 0)));
    let log = [('e', 0x2000, BLOCK), ('e', 0x4000, BLOCK)];
    assert_eq!(*m.device.log.borrow(), log);
    for (at, size) in [(0x1000, BLOCK), (0x2000, 0x1000), (1, BLOCK), (0, 1)] {
        assert_eq!(m.ask(1, What::Erase, at, size), BAD, "{at:#x}");
    }
}

#[test]
fn requests_are_done_in_their_order_and_nothing_of_them_is_lost() {
    let m = Machine::new();
    for token in 0..16 {
        assert_eq!(m.ask(token, What::Read(BUF), 0, 0x1000), ASYNC);
    }
    let full = Err(OpalError::OPAL_BUSY);
    assert_eq!(m.ask(99, What::Read(BUF), 0, 0x1000), full);
    assert_eq!(
        m.ask(3, What::Read(BUF), 0, 1),
        BAD,
        "a token that is in use"
    );
    m.finish();
    for token in 0..16 {
        assert_eq!(m.message(), Some((token, 0)));
    }
    // Nothing to do is done too.
    assert_eq!(m.ask(5, What::Read(BUF), SIZE as u64, 0), ASYNC);
    m.finish();
    assert_eq!(m.message(), Some((5, 0)));
}

#[test]
fn bad_requests_are_refused_and_access_nothing() {
    let m = Machine::new();
    let size = SIZE as u64;
    for (at, length) in [
        (0, size + 1),
        (size, 1),
        (size - 1, 2),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
        (1 << 63, 1 << 63),
    ] {
        for what in [What::Read(BUF), What::Write(BUF), What::Erase] {
            assert_eq!(m.ask(1, what, at, length), BAD, "{at:#x} {length:#x}");
        }
    }
    let end = MEMORY as u64;
    for buffer in [end, end - 1, u64::MAX, u64::MAX - 1, 1 << 40] {
        for what in [What::Read(OsAddr(buffer)), What::Write(OsAddr(buffer))] {
            assert_eq!(m.ask(1, what, 0, 2), BAD, "{buffer:#x}");
        }
    }
    for id in [1, u64::MAX, 1 << 32] {
        let (token, id) = (AsyncToken(1), FlashId(id));
        let answer = (m.flash).request(
            &m.device,
            &m.messages,
            &m.os,
            token,
            id,
            (0, 1),
            What::Erase,
        );
        assert_eq!(answer, BAD);
    }
    assert!(!m.poll() && m.messages.under_way() == 0);
    assert!(m.device.log.borrow().is_empty());
    assert_eq!(m.ask(1, What::Read(BUF), 0, size), ASYNC, "all of it");
}

#[test]
fn a_busy_device_is_waited_for_but_not_for_ever() {
    let m = Machine::new();
    m.device.refuse.set(Some(OpalError::OPAL_BUSY));
    assert_eq!(m.ask(1, What::Read(BUF), 0, 0x2000), ASYNC);
    assert!(m.poll() && m.poll());
    clock::advance(Ticks::from_s(29));
    assert!(m.poll());
    m.device.refuse.set(None);
    m.finish();
    assert_eq!(m.message(), Some((1, 0)));
    m.device.refuse.set(Some(OpalError::OPAL_BUSY));
    assert_eq!(m.ask(1, What::Read(BUF), 0, 0x2000), ASYNC);
    assert!(m.poll());
    clock::advance(Ticks::from_s(31));
    assert!(!m.poll());
    assert_eq!(m.message(), Some((1, -6)));
}

#[test]
fn nobody_waits_for_a_device_that_is_not_ready() {
    let m = Machine::new();
    m.device.waits.set(3);
    m.os.write(BUF, &[0x5a; 0x3000]).unwrap();
    assert_eq!(m.ask(1, What::Write(BUF), 0x2000, 0x3000), ASYNC);
    assert_eq!(m.ask(2, What::Read(BUF), 0x2000, 0x10), ASYNC);
    for _ in 0..3 {
        assert!(m.poll());
        assert!(m.device.log.borrow().is_empty());
    }
    // What is under way was taken from the kernel's memory already.
    m.os.write(BUF, &[0xa5; 0x3000]).unwrap();
    assert!(m.poll());
    assert_eq!(*m.device.log.borrow(), [('w', 0x2000, 0x2000)]);
    assert_eq!(m.device.bytes.borrow()[0x2000..0x4000], [0x5a; 0x2000]);
    // After that the next one is not begun before others could ask the BMC.
    m.device.waits.set(0);
    assert!(!m.poll());
    let log = [
        ('w', 0x2000, 0x2000),
        ('w', 0x4000, 0x1000),
        ('r', 0x2000, 0x10),
    ];
    assert_eq!(*m.device.log.borrow(), log);
    assert_eq!([m.message(), m.message()], [Some((1, 0)), Some((2, 0))]);
    assert_eq!(m.device.bytes.borrow()[0x4000..0x5000], [0xa5; 0x1000]);
}

#[test]
fn a_piece_that_fails_after_a_wait_is_begun_anew() {
    let m = Machine::new();
    m.device.waits.set(1);
    m.os.write(BUF, &[1; 0x10]).unwrap();
    assert_eq!(m.ask(1, What::Write(BUF), 0, 0x10), ASYNC);
    assert!(m.poll());
    m.device.refuse.set(Some(OpalError::OPAL_BUSY));
    assert!(m.poll());
    m.device.refuse.set(None);
    m.os.write(BUF, &[2; 0x10]).unwrap();
    m.finish();
    assert_eq!(m.message(), Some((1, 0)));
    assert_eq!(m.device.bytes.borrow()[..0x10], [2; 0x10]);
}

#[test]
fn an_error_ends_a_request_and_not_the_next() {
    let m = Machine::new();
    assert_eq!(m.ask(1, What::Write(BUF), 0, 0x2000), ASYNC);
    m.device.refuse.set(Some(OpalError::OPAL_HARDWARE));
    m.finish();
    m.device.refuse.set(None);
    assert_eq!(m.ask(2, What::Write(BUF), 0, 0x2000), ASYNC);
    m.finish();
    assert_eq!([m.message(), m.message()], [Some((1, -6)), Some((2, 0))]);
}

#[test]
fn another_kernel_need_not_wait_for_reads() {
    let m = Machine::new();
    m.os.fill(0x11);
    assert_eq!(m.ask(1, What::Read(BUF), 0, 0x10000), ASYNC);
    assert_eq!(m.ask(2, What::Erase, 0, BLOCK), ASYNC);
    let _ = m.flash.stop_reads(&m.messages, &m.events);
    assert_eq!(m.messages.under_way(), 1);
    m.finish();
    assert_eq!(m.os.bytes(BUF, 0x10000), vec![0x11; 0x10000]);
    let expected = Some((1, OpalError::OPAL_WRONG_STATE.code()));
    assert_eq!([m.message(), m.message()], [expected, Some((2, 0))]);
}

proptest! {
    #[test]
    fn every_request_is_refused_or_done(
        requests in prop::collection::vec(
            (0..3_u8, 0..SIZE as u64 + 0x100, 0..0x9000_u64, 0..MEMORY as u64 + 0x100), 1..12),
    ) {
        let m = Machine::new();
        let mut flash = m.device.bytes.borrow().clone();
        for (token, (kind, at, size, buffer)) in (0..).zip(requests) {
            let buffer = OsAddr(buffer);
            let (at, size) = match kind {
                2 => (at / BLOCK * BLOCK, size / BLOCK * BLOCK),
                _ => (at, size),
            };
            let what = [What::Read(buffer), What::Write(buffer), What::Erase][usize::from(kind)];
            let within = at + size <= SIZE as u64;
            let is_good = within && (kind == 2 || m.os.check(buffer, size).is_ok());
            let answer = m.ask(token, what, at, size);
            prop_assert_eq!(answer, if is_good { ASYNC } else { BAD });
            if !is_good {
                continue;
            }
            let (from, length) = (at as usize, size as usize);
            let given = (kind == 1).then(|| m.os.bytes(buffer, length));
            m.finish();
            match kind {
                0 => prop_assert_eq!(&m.os.bytes(buffer, length)[..], &flash[from..from + length]),
                1 => flash[from..from + length].copy_from_slice(&given.unwrap()),
                _ => flash[from..from + length].fill(0xff),
            }
            prop_assert_eq!(m.message(), Some((token, 0)));
            prop_assert!(*m.device.bytes.borrow() == flash);
        }
    }
}

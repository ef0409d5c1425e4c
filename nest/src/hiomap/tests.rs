//! Tests of HIOMAP against a model of a BMC, which can also be wrong, late, or restart.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use isa::timebase::{self, Ticks};
use proptest::prelude::*;

use super::*;
use crate::ipmi::{IpmiError, Request, Response};
use crate::lpc::{FwError, Status};

const BLOCK: usize = 0x1000;
const BLOCKS: usize = 64;
/// The model's window: at 128 MiB of firmware space, eight blocks.
const WINDOW_AT: u16 = 0x8000;
const WINDOW_BLOCKS: usize = 8;

fn byte(value: usize) -> u8 {
    u8::try_from(value).expect("small")
}

/// What the BMC does instead of what it should.
type Lie = fn(&mut Vec<u8>);

/// A BMC with its flash, and the window into its memory.
struct Model {
    version: u8,
    flash: RefCell<Vec<u8>>,
    /// First block, and whether it may be written; `None` when no window is open.
    window: Option<(usize, bool)>,
    /// What is in the window.
    memory: RefCell<Vec<u8>>,
    dirty: Vec<(usize, usize)>,
    requests: Vec<Vec<u8>>,
    /// Has forgotten what was agreed.
    restarted: bool,
    lie: Option<(u8, Lie)>,
    silent: bool,
    /// How long each answer takes.
    pace: Ticks,
    /// Events that it has to tell, each a command and its first byte, and after how many more accesses to the window one comes
    /// with which the window is closed.
    events: VecDeque<[u8; 2]>,
    restarts_after: Cell<Option<u32>>,
    /// How many accesses to the window nobody will answer.
    bus_errors: Cell<u32>,
}

impl Model {
    fn new(version: u8) -> Self {
        let flash: Vec<u8> = (0..BLOCKS * BLOCK)
            .map(|at| u8::try_from(at / 7 % 251).expect("small"))
            .collect();
        Self {
            version,
            flash: RefCell::new(flash),
            window: None,
            memory: RefCell::new(vec![0xee; WINDOW_BLOCKS * BLOCK]),
            dirty: vec![],
            requests: vec![],
            restarted: false,
            lie: None,
            silent: false,
            pace: Ticks(0),
            events: VecDeque::new(),
            restarts_after: Cell::new(None),
            bus_errors: Cell::new(0),
        }
    }

    /// What becomes of an access to the window: whether it is answered, and whether the window is still there.
    fn access(&self) -> Result<bool, FwError> {
        if let Some(left) = self.bus_errors.get().checked_sub(1) {
            self.bus_errors.set(left);
            return Err(FwError::Bus(Status::NO_RESPONSE, 0xf800_0000));
        }
        let left = self.restarts_after.get();
        self.restarts_after
            .set(left.and_then(|left| left.checked_sub(1)));
        Ok(left != Some(0))
    }

    fn flash_at(&self, at: usize, length: usize) -> Vec<u8> {
        self.flash.borrow()[at..at + length].to_vec()
    }

    fn half(bytes: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
    }

    /// The answer to a request, or a completion code.
    fn serve(&mut self, data: &[u8]) -> Result<Vec<u8>, u8> {
        const BAD: u8 = 0xff;
        let (operation, arguments) = (data[0], &data[2..]);
        if self.restarted && !matches!(operation, 2 | 9) {
            return Err(BAD);
        }
        let extra = usize::from(self.version >= 3);
        let mut answer = vec![];
        match operation {
            2 => {
                self.restarted = false;
                answer.extend([self.version, 12, 5, 0]);
                answer.extend(vec![1; extra]);
            }
            3 if arguments.len() == extra => answer.extend([byte(BLOCKS), 0, 2, 0]),
            4 | 6 if arguments.len() == 4 + extra => {
                // Windows are aligned to their size, so they begin before what was asked for.
                let first = Self::half(arguments, 0) / WINDOW_BLOCKS * WINDOW_BLOCKS;
                if first >= BLOCKS {
                    // A caller that was told of a larger flash.
                    return Err(BAD);
                }
                self.window = Some((first, operation == 6));
                let content = self.flash_at(first * BLOCK, WINDOW_BLOCKS * BLOCK);
                *self.memory.borrow_mut() = content;
                answer.extend(WINDOW_AT.to_le_bytes());
                answer.extend([byte(WINDOW_BLOCKS), 0, byte(first), 0]);
            }
            7 | 10 => {
                let wanted = if operation == 7 { 4 + extra } else { 4 };
                let Some((_, true)) = self.window else {
                    return Err(BAD);
                };
                let (first, count) = (Self::half(arguments, 0), Self::half(arguments, 2));
                if arguments.len() != wanted || first + count > WINDOW_BLOCKS {
                    return Err(BAD);
                }
                if operation == 10 {
                    self.memory.borrow_mut()[first * BLOCK..(first + count) * BLOCK].fill(0xff);
                }
                self.dirty.push((first, count));
            }
            8 => {
                let Some((window, true)) = self.window else {
                    return Err(BAD);
                };
                for (first, count) in self.dirty.drain(..) {
                    let (from, to) = (first * BLOCK, (first + count) * BLOCK);
                    self.flash.borrow_mut()[window * BLOCK + from..window * BLOCK + to]
                        .copy_from_slice(&self.memory.borrow()[from..to]);
                }
            }
            9 => {}
            _ => return Err(BAD),
        }
        Ok(answer)
    }
}

impl Transport for Model {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        timebase::fake::advance(self.pace);
        if request.netfn == 6 {
            return Ok(self.tell(request));
        }
        assert!(is_of_protocol(request.netfn, request.command));
        if self.silent {
            return Err(IpmiError::Timeout);
        }
        self.requests.push(request.data.to_vec());
        let mut answer = request.data[..2].to_vec();
        let completion = match self.serve(request.data) {
            Ok(data) => {
                answer.extend(data);
                0
            }
            Err(code) => code,
        };
        if let Some((operation, lie)) = self.lie
            && operation == request.data[0]
        {
            lie(&mut answer);
        }
        Ok(Response::new(completion, &answer).expect("short"))
    }

    fn wants_attention(&mut self) -> bool {
        !self.events.is_empty()
    }
}

impl Model {
    /// Answers what it is asked about its events.
    fn tell(&mut self, request: &Request<'_>) -> Response {
        let answer = match request.command {
            0x31 => vec![if self.events.is_empty() { 0 } else { 2 }],
            0x35 => {
                let [command, bits] = self.events.pop_front().expect("one is there");
                let mut record = vec![0x55, 0x55, 0xc0];
                record.resize(10, 0);
                record.extend([0x3a, command, bits, 0, 0, 0]);
                record
            }
            other => unreachable!("command {other:#x}"),
        };
        Response::new(0, &answer).expect("short")
    }
}

/// The window in firmware space, for the driver; the model itself is the BMC.
struct Space<'a>(&'a RefCell<Vec<u8>>);

impl FirmwareSpace for Space<'_> {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        let at = address as usize - usize::from(WINDOW_AT) * BLOCK;
        into.copy_from_slice(&self.0.borrow()[at..at + into.len()]);
        Ok(())
    }

    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        let at = address as usize - usize::from(WINDOW_AT) * BLOCK;
        self.0.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// The driver, its BMC, and what they share: the window's memory lies outside of the model while the driver works.
struct Rig {
    bmc: Model,
    flash: Hiomap,
}

impl Rig {
    fn new(version: u8) -> Self {
        let mut bmc = Model::new(version);
        let flash = Hiomap::start(&mut bmc).expect("a good BMC");
        Self { bmc, flash }
    }

    fn read(&mut self, at: u64, length: usize) -> Result<Vec<u8>, HiomapError> {
        let mut into = vec![0; length];
        let shared = Shared::new(&mut self.bmc);
        self.flash.read(&mut &shared, &shared, at, &mut into)?;
        Ok(into)
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), HiomapError> {
        let shared = Shared::new(&mut self.bmc);
        self.flash.write(&mut &shared, &shared, at, from)
    }
}

/// The model as both sides of the driver.
struct Shared<'a>(RefCell<&'a mut Model>);

impl<'a> Shared<'a> {
    fn new(model: &'a mut Model) -> Self {
        Self(RefCell::new(model))
    }
}

impl Transport for &Shared<'_> {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        self.0.borrow_mut().transact(request)
    }
    fn wants_attention(&mut self) -> bool {
        self.0.borrow_mut().wants_attention()
    }
}

impl Shared<'_> {
    /// Whether there is a window for an access; without one what is read are ones.
    fn access(&self) -> Result<bool, FwError> {
        let mut model = self.0.borrow_mut();
        assert!(model.window.is_some(), "an access without a window");
        let is_there = model.access()?;
        if !is_there {
            model.restarted = true;
            model.window = None;
            let bits = event::DAEMON_READY | event::PROTOCOL_RESET | event::WINDOW_RESET;
            model.events.push_back([EVENT_COMMAND, bits]);
        }
        Ok(is_there)
    }
}

impl FirmwareSpace for Shared<'_> {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        if self.access()? {
            return Space(&self.0.borrow().memory).read(address, into);
        }
        into.fill(0xff);
        Ok(())
    }
    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        let is_writable = matches!(self.0.borrow().window, Some((_, true)));
        assert!(is_writable, "write without a write window");
        if self.access()? {
            return Space(&self.0.borrow().memory).write(address, from);
        }
        Ok(())
    }
}

#[test]
fn both_versions_are_spoken() {
    for version in [2, 3] {
        let rig = Rig::new(version);
        assert_eq!(rig.flash.version(), version);
        assert_eq!(
            (rig.flash.size(), rig.flash.erase_size()),
            (0x40000, 0x2000)
        );
        assert_eq!(rig.bmc.requests[0], [2, 1, 3, 0]);
        let flash_info: &[u8] = if version == 3 { &[3, 2, 0] } else { &[3, 2] };
        assert_eq!(rig.bmc.requests[1], flash_info);
    }
}

#[test]
fn reads_go_over_windows_and_open_no_more_than_they_need() {
    for version in [2, 3] {
        let mut rig = Rig::new(version);
        for (at, length) in [(0, 1), (0x7ffe, 4), (3, 0x3fffd), (0x3ffff, 1), (0x1234, 0)] {
            let expected = rig.bmc.flash_at(at, length);
            assert_eq!(rig.read(at as u64, length), Ok(expected), "{at:#x}");
        }
        rig.bmc.requests.clear();
        rig.read(0x38000, 0x100).expect("read");
        rig.read(0x3f000, 0x1000).expect("read");
        assert!(
            rig.bmc.requests.is_empty(),
            "the last window was still right"
        );
    }
}

#[test]
fn what_is_written_reaches_the_flash_and_nothing_else_changes() {
    for version in [2, 3] {
        let mut rig = Rig::new(version);
        let mut expected = rig.bmc.flash_at(0, BLOCKS * BLOCK);
        for (at, length) in [(0, 16), (0x7ff0, 0x20), (0x12345, 0x9000), (0x3ffff, 1)] {
            let data = vec![0xa5; length];
            rig.write(at as u64, &data).expect("written");
            expected[at..at + length].copy_from_slice(&data);
            assert_eq!(rig.bmc.flash_at(0, BLOCKS * BLOCK), expected, "{at:#x}");
            assert_eq!(rig.read(at as u64, length), Ok(data));
        }
    }
}

#[test]
fn erasing_takes_whole_blocks() {
    let mut rig = Rig::new(2);
    rig.flash
        .erase(&mut rig.bmc, 0x6000, 0x4000)
        .expect("erased");
    assert!(
        rig.bmc
            .flash_at(0x6000, 0x4000)
            .iter()
            .all(|&byte| byte == 0xff)
    );
    assert_ne!(rig.bmc.flash_at(0x5fff, 1), [0xff]);
    assert_ne!(rig.bmc.flash_at(0xa000, 1), [0xff]);
    for (at, length) in [(0x1000, 0x2000), (0x2000, 0x1000)] {
        let result = rig.flash.erase(&mut rig.bmc, at, length);
        assert_eq!(result, Err(HiomapError::Misaligned));
    }
}

#[test]
fn ranges_outside_are_refused_without_a_request() {
    let mut rig = Rig::new(2);
    rig.bmc.requests.clear();
    for (at, length) in [(0x40000, 1), (0x3ffff, 2), (u64::MAX, 1), (u64::MAX, 0)] {
        assert_eq!(rig.read(at, length), Err(HiomapError::Outside));
        assert_eq!(rig.write(at, &vec![0; length]), Err(HiomapError::Outside));
        let result = rig.flash.erase(&mut rig.bmc, at, length as u64);
        assert_eq!(result, Err(HiomapError::Outside));
    }
    assert!(rig.bmc.requests.is_empty());
}

#[test]
fn a_bmc_that_restarted_is_asked_anew() {
    // It says so.
    let mut rig = Rig::new(2);
    rig.read(0, 16).expect("read");
    rig.bmc.restarted = true;
    rig.bmc.window = None;
    rig.flash
        .note(event::DAEMON_READY | event::PROTOCOL_RESET | event::WINDOW_RESET);
    rig.bmc.requests.clear();
    assert_eq!(rig.read(0, 16), Ok(rig.bmc.flash_at(0, 16)));
    let operations: Vec<u8> = rig.bmc.requests.iter().map(|request| request[0]).collect();
    assert_eq!(operations, [9, 2, 3, 4]);
    assert_eq!(rig.bmc.requests[0][2], 3);
    // It says nothing, and refuses.
    rig.bmc.restarted = true;
    assert_eq!(rig.read(0x20000, 16), Ok(rig.bmc.flash_at(0x20000, 16)));
    // It goes on refusing.
    rig.bmc.lie = Some((2, |_| {}));
    rig.bmc.restarted = true;
    rig.bmc.version = 9;
    assert_eq!(rig.read(0, 16), Err(HiomapError::Version(9)));
}

#[test]
fn a_lost_window_is_opened_again_and_a_lost_flash_is_waited_for() {
    let mut rig = Rig::new(3);
    rig.write(0, &[1]).expect("written");
    rig.flash.note(event::DAEMON_READY | event::WINDOW_RESET);
    rig.bmc.window = None;
    rig.write(1, &[2]).expect("written again");
    assert_eq!(rig.bmc.flash_at(0, 2), [1, 2]);
    rig.flash.note(event::DAEMON_READY | event::FLASH_LOST);
    assert_eq!(rig.read(0, 2), Err(HiomapError::Lost));
    rig.flash.note(0);
    assert_eq!(rig.read(0, 2), Err(HiomapError::Lost));
    rig.flash.note(event::DAEMON_READY);
    assert_eq!(rig.read(0, 2), Ok(vec![1, 2]));
}

#[test]
fn what_was_read_when_the_bus_had_errors_is_read_again() {
    let mut rig = Rig::new(2);
    rig.read(0, 16).expect("read");
    rig.bmc.requests.clear();
    rig.bmc.bus_errors.set(1);
    assert_eq!(rig.read(0, 16), Ok(rig.bmc.flash_at(0, 16)));
    assert_eq!(rig.bmc.requests[0][0], 4, "in a window of its own");
    rig.bmc.bus_errors.set(2);
    let error = Err(HiomapError::Bus(FwError::Bus(
        Status::NO_RESPONSE,
        0xf800_0000,
    )));
    assert_eq!(rig.read(0, 16), error);
    rig.bmc.bus_errors.set(1);
    rig.write(0x100, &[7; 16]).expect("written");
    assert_eq!(rig.bmc.flash_at(0x100, 16), [7; 16]);
    rig.bmc.bus_errors.set(2);
    assert_eq!(rig.write(0x100, &[8; 16]), error.map(drop));
    assert_eq!(rig.bmc.flash_at(0x100, 16), [7; 16]);
}

#[test]
fn a_window_that_closes_while_it_is_used_misleads_nobody() {
    for version in [2, 3] {
        let mut rig = Rig::new(version);
        let mut expected = rig.bmc.flash_at(0, BLOCKS * BLOCK);
        for access in 0..8 {
            rig.bmc.restarts_after.set(Some(access));
            assert_eq!(rig.read(0, BLOCKS * BLOCK), Ok(expected.clone()));
            rig.bmc.restarts_after.set(Some(access));
            let data = vec![byte(0xa0 + access as usize); 0xa000];
            rig.write(0x5000, &data).expect("written");
            expected[0x5000..0xf000].copy_from_slice(&data);
            rig.bmc.restarts_after.set(None);
            assert_eq!(rig.bmc.flash_at(0, BLOCKS * BLOCK), expected);
        }
    }
}

#[test]
fn somebody_who_presses_a_button_while_the_flash_is_read_is_heard() {
    const POWER: u8 = 4;
    let mut rig = Rig::new(2);
    rig.bmc.events = [[POWER, 0], [EVENT_COMMAND, event::DAEMON_READY]].into();
    rig.read(0, 16).expect("read");
    assert_eq!(rig.flash.take_wish(), Some(Event::SoftPowerOff));
    assert_eq!(rig.flash.take_wish(), None);
    rig.bmc.events = [[POWER, 0], [POWER, 1], [9, 9]].into();
    rig.read(0, 16).expect("read");
    assert_eq!(rig.flash.take_wish(), Some(Event::SoftReboot));
}

#[test]
fn events_come_from_a_box_when_somebody_else_asks_for_them() {
    let mut rig = Rig::new(2);
    let told: &'static Told = Box::leak(Box::default());
    rig.flash.listen_to(told);
    rig.read(0, 16).expect("read");
    // Whoever has the attention has it: the driver asks for nothing.
    rig.bmc.events.push_back([EVENT_COMMAND, event::FLASH_LOST]);
    rig.read(0, 16).expect("read");
    told.tell(event::FLASH_LOST | event::DAEMON_READY);
    assert_eq!(rig.read(0, 16), Err(HiomapError::Lost));
    told.tell(event::DAEMON_READY | event::WINDOW_RESET);
    rig.bmc.requests.clear();
    assert_eq!(rig.read(0, 16), Ok(rig.bmc.flash_at(0, 16)));
    let operations: Vec<u8> = rig.bmc.requests.iter().map(|request| request[0]).collect();
    assert_eq!(operations, [9, 4]);
}

#[test]
fn who_else_uses_the_protocol_takes_the_window() {
    let mut rig = Rig::new(2);
    let told: &'static Told = Box::leak(Box::default());
    rig.flash.listen_to(told);
    rig.write(0, &[1]).expect("written");
    // A kernel with a driver of its own has agreed on the other version, and read something.
    rig.bmc.version = 3;
    rig.bmc.window = Some((8, false));
    told.disturb();
    rig.bmc.requests.clear();
    rig.write(1, &[2]).expect("written");
    assert_eq!(rig.bmc.flash_at(0, 2), [1, 2]);
    let operations: Vec<u8> = rig.bmc.requests.iter().map(|request| request[0]).collect();
    assert_eq!(operations, [2, 3, 6, 7, 8], "nothing to acknowledge");
    assert_eq!(rig.flash.version(), 3);
}

#[test]
fn an_operation_ends_although_each_answer_comes_in_time() {
    let mut rig = Rig::new(2);
    rig.bmc.pace = Ticks::from_s(2);
    assert_eq!(
        rig.read(0, BLOCKS * BLOCK),
        Err(HiomapError::TooSlow),
        "eight windows"
    );
    assert!(rig.read(0x40, 16).is_ok(), "one is fast enough");
}

#[test]
fn a_silent_bmc_ends_in_an_error() {
    let mut rig = Rig::new(2);
    rig.bmc.silent = true;
    let late = Err(HiomapError::Bmc(IpmiError::Timeout));
    assert_eq!(rig.read(0, 16), late.clone());
    assert_eq!(rig.write(0, &[0]), late.clone().map(|_: Vec<u8>| ()));
    assert_eq!(Hiomap::start(&mut rig.bmc).map(|_| vec![]), late);
}

#[test]
fn a_failed_flush_closes_the_window() {
    let mut rig = Rig::new(2);
    rig.bmc.lie = Some((8, |answer| answer[1] ^= 1));
    assert_eq!(
        rig.write(0, &[1]),
        Err(HiomapError::Nonsense("the answer to another request"))
    );
    rig.bmc.lie = None;
    rig.bmc.requests.clear();
    rig.write(0, &[1]).expect("written");
    assert_eq!(rig.bmc.requests[0][0], 6);
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let lies: [(u8, Lie); 10] = [
        (2, |answer| answer.truncate(3)),
        (2, |answer| answer[0] = 3),
        (2, |answer| answer[2] = 1),
        (2, |answer| answer[3] = 11),
        (2, |answer| answer[3] = 63),
        (3, |answer| answer.truncate(5)),
        (3, |answer| answer.push(0)),
        (3, |answer| answer[4] = 0),
        (3, |answer| answer[4] = 3),
        (2, |answer| answer.clear()),
    ];
    for (index, (operation, lie)) in lies.into_iter().enumerate() {
        let mut bmc = Model::new(2);
        bmc.lie = Some((operation, lie));
        assert!(Hiomap::start(&mut bmc).is_err(), "lie {index}");
    }
    let lies: [Lie; 6] = [
        |answer| answer[4..6].fill(0),    // no size
        |answer| answer[6..8].fill(0xff), // somewhere else
        |answer| answer[7] = 1,           // behind what was asked for
        |answer| answer.truncate(7),
        |answer| answer.push(1),
        |answer| answer[1] ^= 0x80,
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let mut rig = Rig::new(2);
        rig.bmc.lie = Some((4, lie));
        assert!(
            matches!(rig.read(0, 16), Err(HiomapError::Nonsense(_))),
            "lie {index}"
        );
    }
    // A window that would leave the LPC space.
    let mut rig = Rig::new(2);
    rig.flash.shift = 16;
    rig.bmc.lie = Some((4, |answer| {
        answer[2..6].copy_from_slice(&[0xff, 0xff, 2, 0]);
    }));
    assert!(matches!(rig.read(0, 16), Err(HiomapError::Nonsense(_))));
}

#[test]
fn a_flash_of_65536_blocks_reads_as_none() {
    let mut bmc = Model::new(2);
    bmc.lie = Some((3, |answer| answer[2..4].fill(0)));
    let flash = Hiomap::start(&mut bmc).expect("good");
    assert_eq!(flash.size(), 256 << 20);
}

#[test]
fn another_flash_after_a_restart_is_not_taken_for_the_old_one() {
    let mut rig = Rig::new(2);
    rig.bmc.lie = Some((3, |answer| answer[2] = 32));
    rig.flash.note(event::DAEMON_READY | event::PROTOCOL_RESET);
    assert_eq!(
        rig.read(0, 16),
        Err(HiomapError::Nonsense("another flash than before"))
    );
    assert_eq!(rig.flash.size(), 0x40000);
}

/// A BMC that takes its time, for who comes back: after how many looks an answer is there, and what it was asked.
#[derive(Default)]
struct Slow {
    looks: u32,
    pending: Option<(Vec<u8>, u32)>,
    /// An answer that nobody has asked for.
    kept: Option<Result<Response, IpmiError>>,
    /// It takes no requests, or answers none.
    is_busy: bool,
    is_silent: bool,
    begun: u32,
}

impl Slow {
    fn new(looks: u32) -> Self {
        Self {
            looks,
            ..Self::default()
        }
    }

    /// What somebody who waits does first: the answer to what is under way is kept.
    fn settle(&mut self, bmc: &mut Model) {
        if let Some((data, _)) = self.pending.take() {
            self.kept = Some(bmc.transact(&request(&data)));
        }
    }
}

const fn request(data: &[u8]) -> Request<'_> {
    Request {
        netfn: 0x3a,
        lun: 0,
        command: 0x5a,
        data,
    }
}

impl Link for (&Shared<'_>, &mut Slow) {
    const ATTEMPTS: u32 = 2;

    fn begin(&mut self, request: &Request<'_>) -> Result<(), IpmiError> {
        let slow = &mut *self.1;
        if slow.is_busy || slow.pending.is_some() {
            return Err(IpmiError::Busy);
        }
        slow.kept = None;
        slow.begun += 1;
        slow.pending = Some((request.data.to_vec(), slow.looks));
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<Response, IpmiError>> {
        let slow = &mut *self.1;
        let Some((data, looks)) = slow.pending.take() else {
            return slow.kept.take();
        };
        if let Some(looks) = looks.checked_sub(1) {
            slow.pending = Some((data, looks));
            return None;
        }
        if slow.is_silent {
            return Some(Err(IpmiError::Timeout));
        }
        Some(self.0.0.borrow_mut().transact(&request(&data)))
    }

    fn event(&mut self) -> Result<Option<Event>, IpmiError> {
        Ok(None)
    }
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Read,
    Write,
    Erase,
}

impl Rig {
    /// One whose events come from a box.
    fn with_box() -> (Self, &'static Told) {
        let mut rig = Self::new(2);
        let told: &'static Told = Box::leak(Box::default());
        rig.flash.listen_to(told);
        (rig, told)
    }

    /// Works on a job once.
    fn advance(
        &mut self,
        slow: &mut Slow,
        job: &mut Job,
        work: Work,
        buffer: &mut [u8],
    ) -> Result<Progress, HiomapError> {
        let shared = Shared::new(&mut self.bmc);
        let mut data = match work {
            Work::Read => Data::Read(&shared, buffer),
            Work::Write => Data::Write(&shared, buffer),
            Work::Erase => Data::Erase,
        };
        self.flash.advance(job, &mut (&shared, slow), &mut data)
    }

    /// Comes back until it is done, and does something else before the `turn`-th time; how often that was.
    fn finish(
        &mut self,
        slow: &mut Slow,
        (work, at): (Work, u64),
        buffer: &mut [u8],
        turn: u32,
        mut meanwhile: impl FnMut(&mut Self, &mut Slow),
    ) -> u32 {
        let mut job = Job::new(at, buffer.len() as u64);
        for times in 0..10_000 {
            if times == turn {
                meanwhile(self, slow);
            }
            let progress = self.advance(slow, &mut job, work, buffer);
            if progress.expect("it goes on") == Progress::Done {
                return times;
            }
        }
        panic!("it never ends");
    }
}

const NEVER: u32 = u32::MAX;

#[test]
fn who_cannot_wait_comes_back_until_it_is_done() {
    for version in [2, 3] {
        let (mut waits, mut comes) = (Rig::new(version), Rig::new(version));
        let mut slow = Slow::new(3);
        let mut buffer = vec![0; 0x12000];
        let times = comes.finish(
            &mut slow,
            (Work::Read, 0x1234),
            &mut buffer,
            NEVER,
            |_, _| (),
        );
        assert_eq!(Ok(buffer), waits.read(0x1234, 0x12000));
        assert!(times >= 3 * 3, "three windows");
        let mut data = vec![0x5a; 0xa000];
        comes.finish(
            &mut slow,
            (Work::Write, 0x5001),
            &mut data,
            NEVER,
            |_, _| (),
        );
        waits.write(0x5001, &data).expect("written");
        comes.finish(
            &mut slow,
            (Work::Erase, 0x2000),
            &mut data,
            NEVER,
            |_, _| (),
        );
        waits
            .flash
            .erase(&mut waits.bmc, 0x2000, 0xa000)
            .expect("erased");
        assert_eq!(
            comes.bmc.flash_at(0, 0x40000),
            waits.bmc.flash_at(0, 0x40000)
        );
        // What it costs the BMC is the same: nothing is asked twice.
        assert_eq!(comes.bmc.requests, waits.bmc.requests);
    }
}

/// At each moment of a job somebody else writes, or uses the protocol, or the BMC restarts or takes the flash for a while.
#[test]
fn what_happens_between_two_turns_harms_nobody() {
    let happenings: [fn(&mut Rig, &'static Told); 4] = [
        |rig, _| rig.write(0x20000, &[1, 2, 3]).expect("written"),
        |rig, _| drop(rig.read(0x20000, 0x9000).expect("read")),
        |rig, told| {
            rig.bmc.window = Some((8, false));
            told.disturb();
        },
        |rig, told| {
            rig.bmc.restarted = true;
            rig.bmc.window = None;
            told.tell(event::DAEMON_READY | event::PROTOCOL_RESET | event::WINDOW_RESET);
        },
    ];
    for (which, happens) in happenings.into_iter().enumerate() {
        for turn in 0..40 {
            for work in [Work::Read, Work::Write, Work::Erase] {
                let (mut rig, told) = Rig::with_box();
                let mut slow = Slow::new(2);
                rig.finish(&mut slow, (Work::Read, 0), &mut [0], NEVER, |_, _| ());
                let before = rig.bmc.flash_at(0x4000, 0xa000);
                let mut buffer = vec![0x77; 0xa000];
                rig.finish(&mut slow, (work, 0x4000), &mut buffer, turn, |rig, slow| {
                    slow.settle(&mut rig.bmc);
                    happens(rig, told);
                });
                let now = rig.bmc.flash_at(0x4000, 0xa000);
                match work {
                    Work::Read => assert!(buffer == before && now == before),
                    Work::Write => assert!(now == buffer, "{which} {turn}"),
                    Work::Erase => assert!(now.iter().all(|byte| *byte == 0xff), "{which} {turn}"),
                }
            }
        }
    }
}

#[test]
fn who_comes_back_to_a_silent_or_busy_bmc_is_told_at_last() {
    let (mut rig, _) = Rig::with_box();
    let mut slow = Slow::new(5);
    slow.is_silent = true;
    let mut job = Job::new(0, 16);
    let ask = |rig: &mut Rig, slow: &mut Slow, job: &mut Job| {
        rig.advance(slow, job, Work::Read, &mut [0; 16])
    };
    for _ in 0..2 * 5 {
        assert_eq!(ask(&mut rig, &mut slow, &mut job), Ok(Progress::Waiting));
    }
    let late = ask(&mut rig, &mut slow, &mut job);
    assert_eq!(
        late,
        Ok(Progress::Waiting),
        "the second look of the second request"
    );
    let late = ask(&mut rig, &mut slow, &mut job);
    assert_eq!(late, Err(HiomapError::Bmc(IpmiError::Timeout)));
    assert_eq!(slow.begun, 2);
    slow.is_silent = false;
    slow.is_busy = true;
    let mut job = Job::new(0, 16);
    assert_eq!(ask(&mut rig, &mut slow, &mut job), Ok(Progress::Waiting));
    timebase::fake::advance(Ticks::from_s(2));
    assert_eq!(ask(&mut rig, &mut slow, &mut job), Ok(Progress::Waiting));
    timebase::fake::advance(Ticks::from_s(2));
    let late = ask(&mut rig, &mut slow, &mut job);
    assert_eq!(late, Err(HiomapError::Bmc(IpmiError::Busy)));
    slow.is_busy = false;
    rig.finish(&mut slow, (Work::Read, 0), &mut [0; 16], NEVER, |_, _| ());
}

/// A BMC that answers rightly but for what is done to its answers: to which one, and what.
struct Hostile {
    model: Model,
    tampering: Vec<(usize, Tampering)>,
}

#[derive(Clone, Debug)]
enum Tampering {
    /// A byte has another value.
    Byte(usize, u8),
    /// Bytes are missing, or there are more.
    Length(usize),
    /// It is refused.
    Refusal(u8),
    /// There is none.
    Silence,
}

fn tampering() -> impl Strategy<Value = Tampering> {
    prop_oneof![
        (0_usize..8, any::<u8>()).prop_map(|(at, value)| Tampering::Byte(at, value)),
        (0_usize..12).prop_map(Tampering::Length),
        (1..=255_u8).prop_map(Tampering::Refusal),
        Just(Tampering::Silence),
    ]
}

impl Transport for Hostile {
    fn transact(&mut self, request: &Request<'_>) -> Result<Response, IpmiError> {
        let index = self.model.requests.len();
        let answer = self.model.transact(request)?;
        let mut data = answer.data().to_vec();
        let mut completion = answer.completion;
        for (_, change) in self.tampering.iter().filter(|(at, _)| *at == index) {
            match *change {
                Tampering::Byte(at, value) => {
                    if let Some(byte) = data.get_mut(at) {
                        *byte = value;
                    }
                }
                Tampering::Length(length) => data.resize(length, 0xaa),
                Tampering::Refusal(code) => completion = code,
                Tampering::Silence => return Err(IpmiError::Timeout),
            }
        }
        Ok(Response::new(completion, &data).expect("short"))
    }
    fn wants_attention(&mut self) -> bool {
        false
    }
}

/// Firmware space without anything in it, of which every address can be accessed.
struct Nothing;

impl FirmwareSpace for Nothing {
    fn read(&self, address: u32, into: &mut [u8]) -> Result<(), FwError> {
        assert!(
            u64::from(address) + into.len() as u64 <= 1 << 32,
            "beyond the space"
        );
        into.fill(0);
        Ok(())
    }
    fn write(&self, address: u32, from: &[u8]) -> Result<(), FwError> {
        assert!(
            u64::from(address) + from.len() as u64 <= 1 << 32,
            "beyond the space"
        );
        Ok(())
    }
}

/// How many hostile BMCs a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(150))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_hostile_bmc_neither_hangs_nor_misleads(
        version in 2..=3_u8,
        tampering in prop::collection::vec((0_usize..30, tampering()), 0..8),
        work in prop::collection::vec((0..4_u8, 0_u64..0x41000, 0_u64..0x9000, any::<u8>()), 1..8),
    ) {
        let mut bmc = Hostile { model: Model::new(version), tampering };
        let Ok(mut flash) = Hiomap::start(&mut bmc) else { return Ok(()) };
        let size = flash.size();
        for (what, at, length, state) in work {
            let mut buffer = vec![0; usize::try_from(length).expect("small")];
            let before = bmc.model.requests.len();
            let result = match what {
                0 => flash.read(&mut bmc, &Nothing, at, &mut buffer),
                1 => flash.write(&mut bmc, &Nothing, at, &buffer),
                2 => flash.erase(&mut bmc, at, length),
                _ => {
                    flash.note(state);
                    Ok(())
                }
            };
            prop_assert!(at + length <= size || result.is_err() || what == 3);
            prop_assert_eq!(flash.size(), size, "callers rely on it");
            // At the worst every block needs a window of its own, with a negotiation before it.
            prop_assert!(bmc.model.requests.len() - before <= 10 * 12);
        }
    }
}

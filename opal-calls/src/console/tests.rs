//! The console calls against a fake device, good and hostile arguments alike.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::vec::Vec;

use isa::timebase::{Ticks, fake};
use proptest::prelude::*;

use super::{Console, Port, Ring};
use crate::args::{OsAddr, Server, Term};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{EventSet, Events};
use crate::os_memory::OsMemory;
use crate::os_memory::fake::Memory;

const LEN: OsAddr = OsAddr(0x100);
const BUF: OsAddr = OsAddr(0x1000);
const ME: Server = Server(4);
const END: u64 = 0x1_0000;

/// A port with room for as many bytes as the test says.
#[derive(Default)]
struct Fake {
    room: Cell<usize>,
    sent: RefCell<Vec<u8>>,
    input: RefCell<VecDeque<u8>>,
    interrupts: Cell<(bool, bool)>,
}

impl Port for &Fake {
    fn send(&self, byte: u8) -> bool {
        let room = self.room.get();
        if room > 0 {
            self.room.set(room - 1);
            self.sent.borrow_mut().push(byte);
        }
        room > 0
    }

    fn receive(&self) -> Option<u8> {
        self.input.borrow_mut().pop_front()
    }

    fn set_interrupts(&self, input: bool, output: bool) {
        self.interrupts.set((input, output));
    }
}

struct Kernel<'a> {
    console: Console<&'a Fake, 16, 8>,
    memory: Memory,
    events: Events,
}

impl<'a> Kernel<'a> {
    fn new(port: &'a Fake) -> Self {
        Self {
            console: Console::new(port),
            memory: Memory::new(1 << 16),
            events: Events::new(),
        }
    }

    /// Writes text; the answer and how much was taken.
    fn write(&self, text: &[u8]) -> (Answer, u64) {
        self.memory.write(BUF, text).unwrap();
        self.memory.write_be64(LEN, text.len() as u64).unwrap();
        let answer = self.console.write(ME, &self.memory, Term(0), LEN, BUF);
        (answer, self.memory.read_be64(LEN).unwrap())
    }

    fn space(&self) -> (Answer, u64) {
        let answer = self.console.space(ME, &self.memory, Term(0), LEN);
        (answer, self.memory.read_be64(LEN).unwrap())
    }

    fn flush(&self) -> Answer {
        self.console.flush(ME, Term(0))
    }

    /// Reads up to `room` bytes.
    fn read(&self, room: u64) -> Vec<u8> {
        self.memory.write_be64(LEN, room).unwrap();
        let answer = self
            .console
            .read(ME, &self.memory, &self.events, Term(0), LEN, BUF);
        let _ = answer.unwrap();
        let len = self.memory.read_be64(LEN).unwrap();
        self.memory.bytes(BUF, usize::try_from(len).unwrap())
    }

    fn input_pending(&self) -> bool {
        !(self.events.pending() & EventSet::CONSOLE_INPUT).is_empty()
    }
}

const PARAMETER: Answer = Err(OpalError::OPAL_PARAMETER);

#[test]
fn output_goes_out_as_the_port_has_room() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.room.set(4);
    assert_eq!(k.write(b"0123456789"), (SUCCESS, 10));
    assert_eq!(port.sent.borrow()[..], *b"0123");
    assert_eq!(k.space(), (SUCCESS, 10));
    assert_eq!(k.flush(), Err(OpalError::OPAL_BUSY));
    port.room.set(3);
    assert_eq!(k.flush(), Err(OpalError::OPAL_PARTIAL));
    port.room.set(3);
    assert_eq!(k.flush(), SUCCESS);
    assert_eq!(port.sent.borrow()[..], *b"0123456789");
    assert_eq!(k.flush(), SUCCESS, "nothing to flush");
}

#[test]
fn a_full_buffer_takes_a_part_and_then_nothing() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    let text: Vec<u8> = (0..20).collect();
    assert_eq!(k.write(&text), (SUCCESS, 16));
    assert_eq!(k.write(&text), (Err(OpalError::OPAL_BUSY_EVENT), 0));
    assert_eq!(k.write(&[]), (SUCCESS, 0));
    assert_eq!(k.space(), (SUCCESS, 0));
    port.room.set(usize::MAX);
    assert_eq!(k.write(&text[16..]), (SUCCESS, 4));
    assert_eq!(port.sent.borrow()[..], text[..]);
}

#[test]
fn a_port_without_progress_for_a_second_is_dead_until_it_moves() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    assert_eq!(k.write(&[b'x'; 16]).0, SUCCESS);
    assert_eq!(k.flush(), Err(OpalError::OPAL_BUSY));
    fake::advance(Ticks::from_ms(990));
    assert_eq!(k.write(b"y").0, Err(OpalError::OPAL_BUSY_EVENT));
    assert_eq!(k.space(), (SUCCESS, 0));
    fake::advance(Ticks::from_ms(11));
    assert_eq!(k.write(b"y"), (Err(OpalError::OPAL_TIMEOUT), 0));
    assert_eq!(k.space(), (Err(OpalError::OPAL_TIMEOUT), 0));
    assert_eq!(k.flush(), Err(OpalError::OPAL_TIMEOUT));
    port.room.set(1);
    assert_eq!(k.flush(), Err(OpalError::OPAL_PARTIAL));
    assert_eq!(
        k.flush(),
        Err(OpalError::OPAL_BUSY),
        "the clock starts anew"
    );
    port.room.set(usize::MAX);
    assert_eq!(k.write(b"y"), (SUCCESS, 1));
    assert_eq!(port.sent.borrow()[..], *b"xxxxxxxxxxxxxxxxy");
}

#[test]
fn an_idle_port_is_not_dead() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.room.set(usize::MAX);
    assert_eq!(k.write(b"a"), (SUCCESS, 1));
    fake::advance(Ticks::from_s(60));
    assert_eq!(k.space(), (SUCCESS, 16));
}

#[test]
fn input_waits_with_its_event_until_it_is_read() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    assert!(k.console.poll(ME, &k.events).0.is_empty());
    port.input.borrow_mut().extend(b"abcde");
    assert_eq!(k.console.poll(ME, &k.events).0, EventSet::CONSOLE_INPUT);
    assert_eq!(k.read(3), b"abc");
    assert!(k.input_pending(), "two more wait");
    port.input.borrow_mut().extend(b"f");
    assert_eq!(k.read(100), b"def");
    assert!(!k.input_pending());
    assert_eq!(k.read(100), b"");
    assert_eq!(k.read(0), b"");
}

#[test]
fn a_port_that_never_runs_dry_does_not_keep_the_kernel() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.input.borrow_mut().extend([b'z'; 5000]);
    assert_eq!(k.read(8192).len(), 4096);
    assert!(k.input_pending());
    assert_eq!(k.read(8192).len(), 904);
}

#[test]
fn input_that_a_read_leaves_behind_is_news() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.input.borrow_mut().extend(b"abc");
    k.memory.write_be64(LEN, 1).unwrap();
    let raised = k
        .console
        .read(ME, &k.memory, &k.events, Term(0), LEN, BUF)
        .unwrap();
    assert_eq!(raised.0, EventSet::CONSOLE_INPUT);
}

#[test]
fn input_is_never_dropped_and_its_interrupt_is_off_while_there_is_no_room() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    let all: Vec<u8> = (0..20).collect();
    let _ = k.console.poll(ME, &k.events);
    assert_eq!(port.interrupts.get(), (true, false));
    port.input.borrow_mut().extend(&all);
    let _ = k.console.poll(ME, &k.events);
    assert_eq!(port.interrupts.get(), (false, false));
    assert_eq!(port.input.borrow().len(), 12, "the rest waits in the port");
    assert_eq!(k.read(2), all[..2]);
    assert_eq!(port.interrupts.get(), (false, false), "refilled at once");
    assert_eq!(k.read(100), all[2..]);
    assert_eq!(port.interrupts.get(), (true, false));
}

#[test]
fn output_interrupts_while_something_waits() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    assert_eq!(k.write(b"ab").0, SUCCESS);
    assert_eq!(port.interrupts.get(), (true, true));
    port.room.set(2);
    let _ = k.console.poll(ME, &k.events);
    assert_eq!(port.interrupts.get(), (true, false));
    assert_eq!(port.sent.borrow()[..], *b"ab");
}

#[test]
fn bad_arguments_are_refused_and_lose_nothing() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.input.borrow_mut().extend(b"in");
    let set_len = |len| k.memory.write_be64(LEN, len).unwrap();
    let write = |term, len, buf| {
        k.console
            .write(ME, &k.memory, Term(term), OsAddr(len), OsAddr(buf))
    };
    let read = |term, len, buf| {
        let (len, buf) = (OsAddr(len), OsAddr(buf));
        k.console
            .read(ME, &k.memory, &k.events, Term(term), len, buf)
            .map(|_| 0)
    };
    set_len(4);
    for term in [1, -1, i64::MIN, i64::MAX] {
        assert_eq!(write(term, LEN.0, BUF.0), PARAMETER);
        assert_eq!(read(term, LEN.0, BUF.0), PARAMETER);
        assert_eq!(k.console.flush(ME, Term(term)), PARAMETER);
        assert_eq!(k.console.space(ME, &k.memory, Term(term), LEN), PARAMETER);
    }
    for bad in [END - 3, END, u64::MAX, 0xd << 60] {
        for (len, buf) in [(bad, BUF.0), (LEN.0, bad)] {
            assert_eq!(write(0, len, buf), PARAMETER);
            assert_eq!(read(0, len, buf), PARAMETER);
        }
        assert_eq!(
            k.console.space(ME, &k.memory, Term(0), OsAddr(bad)),
            PARAMETER
        );
    }
    for len in [END, u64::MAX, 1 << 63] {
        set_len(len);
        assert_eq!(write(0, LEN.0, BUF.0), PARAMETER);
        assert_eq!(read(0, LEN.0, BUF.0), PARAMETER);
    }
    port.room.set(usize::MAX);
    assert_eq!(k.flush(), SUCCESS);
    assert!(port.sent.borrow().is_empty());
    assert_eq!(k.read(9), b"in");
}

#[test]
fn a_call_that_interrupts_the_holder_prints() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.room.set(usize::MAX);
    let interrupted = k.console.lock.take(ME);
    assert_eq!(k.write(b"panic"), (SUCCESS, 5));
    drop(interrupted);
    assert_eq!(port.sent.borrow()[..], *b"panic");
}

#[test]
fn a_thread_stopped_inside_does_not_silence_the_others() {
    let port = Fake::default();
    let k = Kernel::new(&port);
    port.room.set(usize::MAX);
    let _stopped = k.console.lock.take(Server(8));
    assert_eq!(k.write(b"still here"), (SUCCESS, 10));
    assert_eq!(port.sent.borrow()[..], *b"still here");
}

#[test]
fn a_ring_under_fire_stays_a_ring() {
    // Threads that break the lock all the time: bytes may mix, positions may not.
    let ring = Ring::<16>::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in 0..20_000_usize {
                    let _ = ring.push(&[7; 5][..n % 6]);
                    assert!(ring.len() <= 16 && ring.room() <= 16);
                    let _ = ring.pop(&mut [0; 3]);
                    if let Some((position, _)) = ring.peek() {
                        ring.drop_at(position);
                    }
                }
            });
        }
    });
    let mut rest = [0; 17];
    let len = ring.len();
    assert_eq!(ring.pop(&mut rest), len);
    assert!(rest[..len].iter().all(|byte| *byte == 7));
    assert_eq!((ring.len(), ring.room()), (0, 16));
}

proptest! {
    /// Against a plain queue, also where positions wrap.
    #[test]
    fn a_ring_is_a_queue(start: usize, steps in prop::collection::vec((any::<bool>(), 0_usize..24), 0..60)) {
        let ring = Ring::<16>::new();
        ring.head.store(start, std::sync::atomic::Ordering::SeqCst);
        ring.tail.store(start, std::sync::atomic::Ordering::SeqCst);
        let mut model = VecDeque::new();
        let mut next = 0_u8;
        for (push, count) in steps {
            if push {
                let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                let taken = ring.push(&bytes);
                prop_assert_eq!(taken, count.min(16 - model.len()));
                model.extend(&bytes[..taken]);
            } else {
                let mut into = [0; 24];
                let got = ring.pop(&mut into[..count]);
                let expect: Vec<u8> = model.drain(..count.min(model.len())).collect();
                prop_assert_eq!(&into[..got], &expect[..]);
            }
            prop_assert_eq!(ring.len(), model.len());
            prop_assert_eq!(ring.peek().map(|(_, byte)| byte), model.front().copied());
        }
    }
}

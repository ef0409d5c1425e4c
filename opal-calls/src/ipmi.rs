//! OPAL_IPMI_SEND and OPAL_IPMI_RECV: the kernel's own messages to the BMC.
//!
//! Owns what waits to be sent and what was answered, each in its order; the way to the BMC is a [`Bmc`]. Every request gets
//! exactly one answer: one that the BMC does not give in time or in form gets a completion code of ours. An event of its own
//! is set exactly while answers wait.
//!
//! The surprising fact: an answer that does not fit the kernel's buffer is lost, as the ABI has it; otherwise a kernel with a
//! small buffer would be told of it for ever.

use alloc::collections::VecDeque;

use arrayvec::ArrayVec;
use isa::timebase::{Deadline, Ticks};

use crate::args::{IpmiInterface, OsAddr};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{EventSet, Events, Raised};
use crate::lock::Mutex;
use crate::os_memory::OsMemory;

/// The interface that there is (`ibm,ipmi-interface-id`).
pub const INTERFACE: u32 = 0;

/// Bytes before the data: version of the form, function and unit, command.
const HEADER: usize = 3;
const VERSION_1: u8 = 1;
/// Most bytes of data, of a request or of an answer with its completion code.
pub const MAX_DATA: usize = 64;
/// Most requests and answers together.
const MAX_MESSAGES: usize = 16;
/// How long the BMC may take no request.
const PATIENCE: Ticks = Ticks::from_s(5);

// Completion codes (IPMI 2.0, 5.2) for what the BMC did not answer itself.
const TIMEOUT: u8 = 0xc3;
const TOO_LONG: u8 = 0xca;
const UNSPECIFIED: u8 = 0xff;

/// A request to the BMC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Function, 6 bits, even.
    pub netfn: u8,
    /// Logical unit, 2 bits.
    pub lun: u8,
    /// Command.
    pub command: u8,
    /// What follows.
    pub data: ArrayVec<u8, MAX_DATA>,
}

/// Why the BMC has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BmcError {
    /// It takes no request now.
    Busy,
    /// It did not answer in time.
    Timeout,
    /// The answer, or the request, is longer than the way to it allows.
    TooLong,
    /// What it sent is no answer.
    Malformed,
}

/// The way to the BMC. Nothing here waits.
pub trait Bmc {
    /// Most bytes of data of a request.
    const MAX_REQUEST: usize;

    /// Sends a request.
    ///
    /// # Errors
    /// [`BmcError::Busy`], to be tried again; anything else ends the request.
    fn begin(&self, request: &Message) -> Result<(), BmcError>;

    /// The completion code and data of the answer to the last request, once; `None` while it is to come.
    fn poll(&self) -> Option<Result<ArrayVec<u8, MAX_DATA>, BmcError>>;

    /// Whether the BMC has something to say by itself.
    fn wants_attention(&self) -> bool;

    /// What an event record asks of the kernel, if anything.
    fn wish(&self, record: &[u8; 16]) -> Option<Wish>;
}

/// What the BMC asks of the kernel: somebody pressed a button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To shut down and switch off.
    Off = 0,
    /// To shut down and start again.
    Reboot = 1,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// The kernel, and it is still there.
    Kernel,
    /// One that is not there any more.
    Nobody,
    /// The firmware, which of its own questions the command says.
    Firmware,
}

/// The firmware's own questions: what the BMC has to say (IPMI 2.0, 22.3 to 22.8).
const APP: u8 = 6;
const CLEAR_FLAGS: u8 = 0x30;
const GET_FLAGS: u8 = 0x31;
const GET_MESSAGE: u8 = 0x33;
const READ_EVENT: u8 = 0x35;
const MESSAGE_FLAG: u8 = 1;
const EVENT_FLAG: u8 = 2;

/// A request under way.
#[derive(Debug)]
struct UnderWay {
    request: Message,
    asker: Asker,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Message>,
    /// Until when the BMC has to take the first that waits.
    deadline: Option<Deadline>,
    under_way: Option<UnderWay>,
    answers: VecDeque<Message>,
    /// The firmware's next question: command and data.
    question: Option<(u8, Option<u8>)>,
    wish: Option<Wish>,
}

impl Queue {
    fn len(&self) -> usize {
        let of_kernel = |under_way: &UnderWay| under_way.asker == Asker::Kernel;
        let under_way = usize::from(self.under_way.as_ref().is_some_and(of_kernel));
        self.waiting
            .len()
            .saturating_add(self.answers.len())
            .saturating_add(under_way)
    }

    fn answer(&mut self, request: Message, data: ArrayVec<u8, MAX_DATA>) {
        self.answers.push_back(Message {
            netfn: request.netfn | 1,
            data,
            ..request
        });
    }

    fn fail(&mut self, request: Message, error: BmcError) {
        let code = match error {
            BmcError::Busy | BmcError::Timeout => TIMEOUT,
            BmcError::TooLong => TOO_LONG,
            BmcError::Malformed => UNSPECIFIED,
        };
        self.answer(request, ArrayVec::from_iter([code]));
    }

    /// What the BMC answered to a question of the firmware. It can be wrong or broken: then the question is dropped.
    fn hear(&mut self, bmc: &impl Bmc, command: u8, answer: &[u8]) {
        match (command, answer) {
            (GET_FLAGS, [0, flags, ..]) => {
                self.question = match *flags {
                    0 => None,
                    flags if flags & EVENT_FLAG != 0 => Some((READ_EVENT, None)),
                    flags if flags & MESSAGE_FLAG != 0 => Some((GET_MESSAGE, None)),
                    // What is left would keep asking for attention.
                    flags => Some((CLEAR_FLAGS, Some(flags))),
                };
            }
            (READ_EVENT, [0, record @ ..]) => {
                let wish = record.first_chunk().and_then(|record| bmc.wish(record));
                self.wish = wish.or(self.wish);
            }
            _ => {}
        }
    }

    /// Asks the firmware's next question, when the BMC has something to say. The kernel's own go first.
    fn ask(&mut self, bmc: &impl Bmc) {
        let (command, data) = match self.question.take() {
            Some(question) => question,
            None if bmc.wants_attention() => (GET_FLAGS, None),
            None => return,
        };
        let request = Message {
            netfn: APP,
            lun: 0,
            command,
            data: data.into_iter().collect(),
        };
        if bmc.begin(&request).is_ok() {
            self.under_way = Some(UnderWay {
                request,
                asker: Asker::Firmware,
            });
        }
    }

    /// Takes the answer that is there, and sends what waits.
    fn work(&mut self, bmc: &impl Bmc) {
        if let Some(under_way) = self.under_way.take() {
            match bmc.poll() {
                None => self.under_way = Some(under_way),
                Some(answer) => match (under_way.asker, answer) {
                    (Asker::Nobody, _) => {}
                    (Asker::Firmware, answer) => {
                        let answer = answer.unwrap_or_default();
                        self.hear(bmc, under_way.request.command, &answer);
                    }
                    (Asker::Kernel, Ok(data)) => self.answer(under_way.request, data),
                    (Asker::Kernel, Err(error)) => self.fail(under_way.request, error),
                },
            }
        }
        if self.under_way.is_some() {
            return;
        }
        let Some(request) = self.waiting.pop_front() else {
            return self.ask(bmc);
        };
        match bmc.begin(&request) {
            Ok(()) => {
                self.deadline = None;
                self.under_way = Some(UnderWay {
                    request,
                    asker: Asker::Kernel,
                });
            }
            Err(BmcError::Busy) => {
                let deadline = *self
                    .deadline
                    .get_or_insert_with(|| Deadline::after(PATIENCE));
                if deadline.has_passed() {
                    self.deadline = None;
                    self.fail(request, BmcError::Busy);
                } else {
                    self.waiting.push_front(request);
                }
            }
            Err(error) => {
                self.deadline = None;
                self.fail(request, error);
            }
        }
    }
}

/// All messages of the kernel to and from the BMC.
#[derive(Debug)]
pub struct Ipmi {
    queue: Mutex<Queue>,
    event: EventSet,
}

impl Ipmi {
    /// No message. `event` is set while answers wait.
    #[must_use]
    pub fn new(event: EventSet) -> Self {
        Self {
            queue: Mutex::new(Queue {
                waiting: VecDeque::with_capacity(MAX_MESSAGES),
                deadline: None,
                under_way: None,
                question: None,
                wish: None,
                answers: VecDeque::with_capacity(MAX_MESSAGES),
            }),
            event,
        }
    }

    /// OPAL_IPMI_SEND: queues a request of `len` bytes with its header.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such interface, a bad pointer, a length that is none, a function that is an answer.
    /// OPAL_UNSUPPORTED: a form that is not known. OPAL_RESOURCE: too many messages that were not fetched.
    pub fn send<B: Bmc>(
        &self,
        bmc: &B,
        events: &Events,
        os: &impl OsMemory,
        interface: IpmiInterface,
        msg: OsAddr,
        len: u64,
    ) -> Result<Raised, OpalError> {
        check_interface(interface)?;
        let length = usize::try_from(len).map_err(|_| OpalError::OPAL_PARAMETER)?;
        let most = B::MAX_REQUEST.min(MAX_DATA);
        let data_length = length.checked_sub(HEADER).filter(|data| *data <= most);
        let data_length = data_length.ok_or(OpalError::OPAL_PARAMETER)?;
        let mut bytes = [0; HEADER + MAX_DATA];
        let taken = bytes.get_mut(..length).ok_or(OpalError::OPAL_PARAMETER)?;
        os.read(msg, taken)?;
        let [version, function, command, data @ ..] = bytes;
        if version != VERSION_1 {
            return Err(OpalError::OPAL_UNSUPPORTED);
        }
        if function & 4 != 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        let request = Message {
            netfn: function >> 2,
            lun: function & 3,
            command,
            data: data.into_iter().take(data_length).collect(),
        };
        let mut queue = self.queue.lock();
        if queue.len() >= MAX_MESSAGES {
            return Err(OpalError::OPAL_RESOURCE);
        }
        queue.waiting.push_back(request);
        queue.work(bmc);
        Ok(self.tell(events, &queue))
    }

    /// OPAL_IPMI_RECV: stores the oldest answer, and its length over that of the buffer.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such interface, or a bad pointer; nothing is lost. OPAL_EMPTY: no answer is there.
    /// OPAL_UNSUPPORTED: the buffer does not say a form that is known. OPAL_RESOURCE: the buffer is too small. With both
    /// the answer is lost.
    pub fn recv<B: Bmc>(
        &self,
        bmc: &B,
        events: &Events,
        os: &impl OsMemory,
        interface: IpmiInterface,
        msg: OsAddr,
        len: OsAddr,
    ) -> Answer {
        check_interface(interface)?;
        let room = os.read_be64(len)?;
        let mut version = [0];
        os.read(msg, &mut version)?;
        // As much as the longest answer takes: whatever it is, it can be stored.
        os.check(msg, room.min((HEADER + MAX_DATA) as u64).max(1))?;
        let mut queue = self.queue.lock();
        queue.work(bmc);
        let answer = queue.answers.pop_front();
        // Who asks looks again by itself.
        let _ = self.tell(events, &queue);
        drop(queue);
        let answer = answer.ok_or(OpalError::OPAL_EMPTY)?;
        if version != [VERSION_1] {
            return Err(OpalError::OPAL_UNSUPPORTED);
        }
        let function = answer.netfn.wrapping_shl(2) | answer.lun;
        let bytes: ArrayVec<u8, { HEADER + MAX_DATA }> = [VERSION_1, function, answer.command]
            .into_iter()
            .chain(answer.data)
            .collect();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > room {
            return Err(OpalError::OPAL_RESOURCE);
        }
        os.write(msg, &bytes)?;
        os.write_be64(len, size)?;
        SUCCESS
    }

    /// Moves messages on. May be called from a call that interrupted another one: then it does nothing.
    pub fn poll(&self, bmc: &impl Bmc, events: &Events) -> Raised {
        let Some(mut queue) = self.queue.try_lock() else {
            return Raised::default();
        };
        queue.work(bmc);
        self.tell(events, &queue)
    }

    /// What the BMC asks of the kernel since the last time.
    pub fn take_wish(&self) -> Option<Wish> {
        self.queue.try_lock()?.wish.take()
    }

    /// Drops all messages: another kernel starts.
    pub fn forget(&self, events: &Events) {
        let mut queue = self.queue.lock();
        queue.waiting.clear();
        queue.answers.clear();
        queue.deadline = None;
        if let Some(under_way) = &mut queue.under_way {
            if under_way.asker == Asker::Kernel {
                under_way.asker = Asker::Nobody;
            }
        }
        // Nothing waits, so nothing is raised.
        let _ = self.tell(events, &queue);
    }

    fn tell(&self, events: &Events, queue: &Queue) -> Raised {
        events.follow(self.event, !queue.answers.is_empty())
    }
}

fn check_interface(interface: IpmiInterface) -> Result<(), OpalError> {
    if interface.0 == u64::from(INTERFACE) {
        Ok(())
    } else {
        Err(OpalError::OPAL_PARAMETER)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;
    use std::vec::Vec;

    use arrayvec::ArrayVec;
    use isa::timebase::{Ticks, fake};
    use proptest::prelude::*;

    use super::{Bmc, BmcError, Ipmi, MAX_DATA, MAX_MESSAGES, Message, Wish};
    use crate::args::{IpmiInterface, OsAddr};
    use crate::error::{Answer, OpalError};
    use crate::events::{EventSet, Events};
    use crate::os_memory::OsMemory as _;
    use crate::os_memory::fake::Memory;

    /// A BMC that answers what it is told, when it is told.
    #[derive(Default)]
    struct FakeBmc {
        busy: Cell<bool>,
        attention: Cell<bool>,
        taken: RefCell<Vec<Message>>,
        answers: RefCell<VecDeque<Result<Vec<u8>, BmcError>>>,
    }

    impl Bmc for FakeBmc {
        const MAX_REQUEST: usize = 59;

        fn begin(&self, request: &Message) -> Result<(), BmcError> {
            if self.busy.get() {
                return Err(BmcError::Busy);
            }
            self.taken.borrow_mut().push(request.clone());
            Ok(())
        }

        fn poll(&self) -> Option<Result<ArrayVec<u8, MAX_DATA>, BmcError>> {
            let answer = self.answers.borrow_mut().pop_front()?;
            Some(answer.map(|bytes| bytes.into_iter().take(MAX_DATA).collect()))
        }

        fn wants_attention(&self) -> bool {
            self.attention.get()
        }

        fn wish(&self, record: &[u8; 16]) -> Option<Wish> {
            match record {
                [1, ..] => Some(Wish::Off),
                [2, ..] => Some(Wish::Reboot),
                _ => None,
            }
        }
    }

    const EVENT: EventSet = EventSet(1 << 63);
    const MSG: OsAddr = OsAddr(0x1000);
    const LEN: OsAddr = OsAddr(0x1100);
    const FIRST: IpmiInterface = IpmiInterface(0);

    struct Machine {
        ipmi: Ipmi,
        bmc: FakeBmc,
        events: Events,
        os: Memory,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                ipmi: Ipmi::new(EVENT),
                bmc: FakeBmc::default(),
                events: Events::new(),
                os: Memory::new(0x2000),
            }
        }

        fn send(&self, bytes: &[u8]) -> Result<(), OpalError> {
            self.os.write(MSG, bytes).unwrap();
            self.send_at(MSG, bytes.len() as u64)
        }

        fn send_at(&self, msg: OsAddr, len: u64) -> Result<(), OpalError> {
            self.ipmi
                .send(&self.bmc, &self.events, &self.os, FIRST, msg, len)
                .map(drop)
        }

        fn recv_at(&self, msg: OsAddr, len: OsAddr) -> Answer {
            self.ipmi
                .recv(&self.bmc, &self.events, &self.os, FIRST, msg, len)
        }

        /// The next answer into a buffer of this size.
        fn recv(&self, room: u64) -> Result<Vec<u8>, OpalError> {
            self.os.write(MSG, &[1]).unwrap();
            self.os.write_be64(LEN, room).unwrap();
            self.recv_at(MSG, LEN)?;
            let len = self.os.read_be64(LEN).unwrap();
            Ok(self.os.bytes(MSG, usize::try_from(len).unwrap()))
        }

        fn answer(&self, answer: Result<&[u8], BmcError>) {
            self.bmc
                .answers
                .borrow_mut()
                .push_back(answer.map(<[u8]>::to_vec));
            // What is raised here, the interrupt of the BMC tells.
            let _ = self.ipmi.poll(&self.bmc, &self.events);
        }

        fn is_told(&self) -> bool {
            self.events.pending() == EVENT
        }
    }

    #[test]
    fn a_request_and_its_answer() {
        let m = Machine::new();
        assert_eq!(m.recv(67), Err(OpalError::OPAL_EMPTY));
        assert_eq!(m.send(&[1, 0x18 | 2, 0x01, 0xaa]), Ok(()));
        let taken = m.bmc.taken.borrow()[0].clone();
        assert_eq!((taken.netfn, taken.lun, taken.command), (6, 2, 1));
        assert_eq!(taken.data[..], [0xaa]);
        assert!(!m.is_told());
        m.answer(Ok(&[0, 1, 2, 3]));
        assert!(m.is_told());
        assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c | 2, 1, 0, 1, 2, 3]));
        assert!(!m.is_told());
        assert_eq!(m.recv(67), Err(OpalError::OPAL_EMPTY));
    }

    #[test]
    fn several_are_answered_in_order() {
        let m = Machine::new();
        for command in 1..=4 {
            assert_eq!(m.send(&[1, 0x18, command]), Ok(()));
        }
        assert_eq!(m.bmc.taken.borrow().len(), 1, "one at a time on the way");
        for command in 1..=4 {
            m.answer(Ok(&[0, command]));
        }
        for command in 1..=4 {
            assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, command, 0, command]));
            assert_eq!(m.is_told(), command < 4);
        }
    }

    #[test]
    fn what_the_bmc_does_not_answer_gets_a_code_of_ours() {
        let m = Machine::new();
        for (error, code) in [
            (BmcError::Timeout, 0xc3),
            (BmcError::TooLong, 0xca),
            (BmcError::Malformed, 0xff),
        ] {
            assert_eq!(m.send(&[1, 0x18, 9]), Ok(()));
            m.answer(Err(error));
            assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, 9, code]));
        }
    }

    #[test]
    fn a_bmc_that_takes_nothing_is_given_up() {
        fake::set_step(Ticks::from_s(2));
        let m = Machine::new();
        m.bmc.busy.set(true);
        assert_eq!(m.send(&[1, 0x18, 9]), Ok(()));
        assert_eq!(m.send(&[1, 0x18, 10]), Ok(()));
        while !m.is_told() {
            let _ = m.ipmi.poll(&m.bmc, &m.events);
        }
        assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, 9, 0xc3]));
        m.bmc.busy.set(false);
        let _ = m.ipmi.poll(&m.bmc, &m.events);
        let taken: Vec<u8> = m.bmc.taken.borrow().iter().map(|m| m.command).collect();
        assert_eq!(taken, [10]);
    }

    #[test]
    fn there_is_a_most() {
        let m = Machine::new();
        for _ in 0..MAX_MESSAGES {
            assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
        }
        assert_eq!(m.send(&[1, 0x18, 1]), Err(OpalError::OPAL_RESOURCE));
        for _ in 0..MAX_MESSAGES {
            m.answer(Ok(&[0]));
        }
        assert_eq!(m.send(&[1, 0x18, 1]), Err(OpalError::OPAL_RESOURCE));
        assert!(m.recv(67).is_ok());
        assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_lost() {
        let m = Machine::new();
        for _ in 0..2 {
            assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
            m.answer(Ok(&[0, 1, 2]));
        }
        assert_eq!(m.recv(5), Err(OpalError::OPAL_RESOURCE));
        assert_eq!(m.recv(6).map(|bytes| bytes.len()), Ok(6));
        assert!(!m.is_told());
        assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
        m.answer(Ok(&[0]));
        m.os.write(MSG, &[2]).unwrap();
        m.os.write_be64(LEN, 67).unwrap();
        assert_eq!(m.recv_at(MSG, LEN), Err(OpalError::OPAL_UNSUPPORTED));
        assert!(!m.is_told());
    }

    #[test]
    fn bad_arguments_send_nothing_and_lose_nothing() {
        let m = Machine::new();
        let bad = OpalError::OPAL_PARAMETER;
        m.os.write(MSG, &[1, 0x18, 1]).unwrap();
        for len in [0, 1, 2, 3 + 60, 1000, 1 << 32, u64::MAX] {
            assert_eq!(m.send_at(MSG, len), Err(bad), "{len}");
        }
        for msg in [0x1ffe, 0x2000, 1 << 61, u64::MAX] {
            assert_eq!(m.send_at(OsAddr(msg), 3), Err(bad), "{msg:#x}");
        }
        for interface in [1, 1 << 32, u64::MAX] {
            let interface = IpmiInterface(interface);
            let sent = m.ipmi.send(&m.bmc, &m.events, &m.os, interface, MSG, 3);
            assert_eq!(sent.map(drop), Err(bad));
            let got = m.ipmi.recv(&m.bmc, &m.events, &m.os, interface, MSG, LEN);
            assert_eq!(got, Err(bad));
        }
        assert_eq!(m.send(&[2, 0x18, 1]), Err(OpalError::OPAL_UNSUPPORTED));
        assert_eq!(m.send(&[1, 0x1c, 1]), Err(bad), "an answer is no request");
        assert!(m.bmc.taken.borrow().is_empty());

        assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
        m.answer(Ok(&[0, 5]));
        m.os.write_be64(LEN, u64::MAX).unwrap();
        for (msg, len) in [
            (MSG.0, 0x1ff9),
            (0x2000, LEN.0),
            (0x1fff, LEN.0),
            (0, u64::MAX),
        ] {
            assert_eq!(
                m.recv_at(OsAddr(msg), OsAddr(len)),
                Err(bad),
                "{msg:#x} {len:#x}"
            );
        }
        assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, 1, 0, 5]));
    }

    #[test]
    fn the_next_kernel_gets_no_answer_of_the_last() {
        let m = Machine::new();
        for _ in 0..3 {
            assert_eq!(m.send(&[1, 0x18, 1]), Ok(()));
        }
        m.answer(Ok(&[0]));
        m.ipmi.forget(&m.events);
        assert!(!m.is_told());
        m.answer(Ok(&[0, 1]));
        assert_eq!(m.recv(67), Err(OpalError::OPAL_EMPTY));
        assert_eq!(m.send(&[1, 0x18, 7]), Ok(()));
        m.answer(Ok(&[0, 2]));
        assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, 7, 0, 2]));
    }

    #[test]
    fn a_button_is_heard_between_the_kernels_requests() {
        let m = Machine::new();
        m.bmc.attention.set(true);
        assert_eq!(m.send(&[1, 0x18, 0x77]), Ok(()));
        m.answer(Ok(&[0]));
        m.answer(Ok(&[0, 2]));
        let mut record = [0; 17];
        record[1] = 2;
        m.bmc.attention.set(false);
        m.answer(Ok(&record));
        let commands: Vec<u8> = m.bmc.taken.borrow().iter().map(|m| m.command).collect();
        assert_eq!(commands, [0x77, 0x31, 0x35]);
        assert_eq!(m.ipmi.take_wish(), Some(Wish::Reboot));
        assert_eq!(m.ipmi.take_wish(), None);
        assert_eq!(m.recv(67), Ok(std::vec![1, 0x1c, 0x77, 0]));
    }

    #[test]
    fn a_bmc_that_talks_nonsense_is_left_alone() {
        let m = Machine::new();
        m.bmc.attention.set(true);
        for answer in [
            Ok(&[][..]),
            Ok(&[0]),
            Ok(&[0xc1, 2]),
            Ok(&[0, 0]),
            Err(BmcError::Timeout),
            Ok(&[0, 2]),
            Ok(&[0, 1, 2, 3]),
            Ok(&[0, 8]),
            Ok(&[0]),
            Ok(&[0, 1]),
            Ok(&[0; 64]),
        ] {
            m.answer(answer);
        }
        assert_eq!(m.ipmi.take_wish(), None);
        assert!(!m.is_told());
        m.bmc.busy.set(true);
        m.answer(Ok(&[0]));
        m.bmc.busy.set(false);
        assert_eq!(m.send(&[1, 0x18, 5]), Ok(()));
        assert_eq!(m.bmc.taken.borrow().last().map(|m| m.command), Some(5));
    }

    proptest! {
        /// Whatever a BMC sends, every request has exactly one answer, in order, that fits the form.
        #[test]
        fn every_request_is_answered_once(
            answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..16),
        ) {
            let m = Machine::new();
            for (command, _) in (0_u8..).zip(&answers) {
                prop_assert_eq!(m.send(&[1, 0x18, command]), Ok(()));
            }
            for answer in &answers {
                m.answer(Ok(answer));
            }
            for (command, answer) in (0_u8..).zip(&answers) {
                let got = m.recv(100).unwrap();
                prop_assert_eq!(&got[..3], &[1, 0x1c, command]);
                prop_assert_eq!(&got[3..], &answer[..answer.len().min(MAX_DATA)]);
            }
            prop_assert_eq!(m.recv(100), Err(OpalError::OPAL_EMPTY));
        }
    }
}

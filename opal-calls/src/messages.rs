//! Messages to the kernel: OPAL_GET_MSG, OPAL_CHECK_ASYNC_COMPLETION and the queue behind them.
//!
//! Owns what waits to be fetched: news first, then completions of operations, each in order. MSG_PENDING is set exactly
//! while something waits; it is changed under the queue's lock.
//!
//! The surprising fact: the queue is bounded and completions are outside the bound, since each has a slot from the
//! start of its operation. A kernel that never fetches loses news, never the answer to what it asked.

use alloc::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::args::{AsyncToken, OsAddr};
use crate::async_token::{AsyncTokens, Ticket};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{EventSet, Events, Raised};
use crate::lock::Mutex;
use crate::os_memory::OsMemory;

/// Most words of a message.
const WORDS: usize = 8;

/// Bytes of the header: type and size of what follows, 32 bits each, big-endian.
const HEADER: usize = 8;

/// Bytes of every message: the least that a kernel must have room for.
const MESSAGE: usize = HEADER + 8 * WORDS;

/// Bytes that a kernel is told to have room for (`opal-msg-size`): what longer messages than ours would need.
pub const ANNOUNCED: u32 = 65536;

/// Most messages that wait.
const MAX_WAITING: usize = 32;

const ASYNC_COMP: u32 = 0;

/// What a message is about, first those that come first. Completions (type 0) are not here: [`Messages::complete`] makes
/// those. Nor are those of other services of the ABI: no memory error, environment, diagnostics or controller is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Shut down (0) or reboot (1), please.
    Shutdown = 3,
    /// A hypervisor maintenance interrupt was served.
    HmiEvent = 4,
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: Kind,
    body: ArrayVec<u64, WORDS>,
}

/// The body does not fit a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Message {
    /// A message of up to eight words.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn words(kind: Kind, words: &[u64]) -> Result<Self, TooLong> {
        let body = ArrayVec::try_from(words).map_err(|_| TooLong)?;
        Ok(Self { kind, body })
    }
}

/// The queue is full; the message comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full(pub Message);

#[derive(Debug)]
struct Queue {
    news: VecDeque<Message>,
    operations: AsyncTokens,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.news.is_empty() && self.operations.unfetched() == 0
    }

    fn pop(&mut self) -> Option<(u32, ArrayVec<u64, WORDS>)> {
        if let Some(message) = self.news.pop_front() {
            return Some((message.kind as u32, message.body));
        }
        let completion = self.operations.fetch(None)?;
        Some((ASYNC_COMP, completion.words()))
    }
}

/// All that waits to be fetched, and the operations that will end in a message.
#[derive(Debug)]
pub struct Messages {
    queue: Mutex<Queue>,
}

impl Messages {
    /// An empty queue. Memory for it is allocated here and not later.
    #[must_use]
    pub fn new() -> Self {
        Self {
            queue: Mutex::new(Queue {
                news: VecDeque::with_capacity(MAX_WAITING),
                operations: AsyncTokens::new(),
            }),
        }
    }

    /// Runs `f` on the queue and brings MSG_PENDING up to date.
    fn change<T>(&self, events: &Events, f: impl FnOnce(&mut Queue) -> T) -> (T, Raised) {
        let mut queue = self.queue.lock();
        let result = f(&mut queue);
        let raised = events.follow(EventSet::MSG_PENDING, !queue.is_empty());
        (result, raised)
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`Full`]: the kernel does not fetch.
    pub fn push(&self, events: &Events, message: Message) -> Result<Raised, Full> {
        let (pushed, raised) = self.change(events, |queue| {
            if queue.news.len() < MAX_WAITING {
                queue.news.push_back(message);
                Ok(())
            } else {
                Err(Full(message))
            }
        });
        pushed.map(|()| raised)
    }

    /// Starts an operation that will end in a message.
    ///
    /// # Errors
    /// As [`AsyncTokens::begin`].
    pub fn begin(&self, token: AsyncToken) -> Result<Ticket, OpalError> {
        self.queue.lock().operations.begin(token)
    }

    /// Ends an operation: the kernel hears of it.
    pub fn complete(
        &self,
        events: &Events,
        ticket: &Ticket,
        answer: Answer,
        extra: &[u64],
    ) -> Raised {
        self.change(events, |queue| {
            queue.operations.complete(ticket, answer, extra)
        })
        .1
    }

    /// Forgets an operation whose call answers at once after all.
    pub fn cancel(&self, ticket: &Ticket) {
        self.queue.lock().operations.cancel(ticket);
    }

    /// Operations under way: what OPAL_SYNC_HOST_REBOOT waits for.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.queue.lock().operations.under_way()
    }

    /// Drops all that waits when no operation is under way, in one step: another kernel starts. Whether it did.
    pub fn forget_when_idle(&self, events: &Events) -> bool {
        // Nothing waits afterwards, so nothing is raised.
        self.change(events, |queue| {
            let is_idle = queue.operations.under_way() == 0;
            if is_idle {
                queue.news.clear();
                queue.operations.forget();
            }
            is_idle
        })
        .0
    }

    /// OPAL_GET_MSG.
    ///
    /// # Errors
    /// OPAL_PARAMETER (bad buffer; nothing is lost), OPAL_RESOURCE (nothing waits).
    pub fn get_msg(&self, events: &Events, os: &impl OsMemory, buf: OsAddr, size: u64) -> Answer {
        check_buffer(os, buf, size)?;
        // What is left waiting was announced when it came.
        let (next, _) = self.change(events, Queue::pop);
        let (kind, body) = next.ok_or(OpalError::OPAL_RESOURCE)?;
        deliver(os, buf, kind, &body)
    }

    /// OPAL_CHECK_ASYNC_COMPLETION.
    ///
    /// # Errors
    /// OPAL_PARAMETER (bad buffer), OPAL_BUSY (not ended, or never begun).
    pub fn check_completion(
        &self,
        events: &Events,
        os: &impl OsMemory,
        buf: OsAddr,
        size: u64,
        token: AsyncToken,
    ) -> Answer {
        check_buffer(os, buf, size)?;
        let (completion, _) = self.change(events, |queue| queue.operations.fetch(Some(token)));
        let words = completion.ok_or(OpalError::OPAL_BUSY)?.words();
        deliver(os, buf, ASYNC_COMP, &words)
    }
}

/// The whole buffer is checked before a message is taken, so that a bad pointer loses none.
fn check_buffer(os: &impl OsMemory, buf: OsAddr, size: u64) -> Result<(), OpalError> {
    if size < MESSAGE as u64 {
        return Err(OpalError::OPAL_PARAMETER);
    }
    Ok(os.check(buf, size.min(ANNOUNCED.into()))?)
}

/// Writes header and body, in full length: zeros after the last word.
fn deliver(os: &impl OsMemory, buf: OsAddr, kind: u32, words: &[u64]) -> Answer {
    let len = words.len().saturating_mul(8);
    let mut bytes = [0; MESSAGE];
    let (header, body) = bytes.split_at_mut(HEADER);
    let fields = [kind, u32::try_from(len).unwrap_or(u32::MAX)];
    for (slot, field) in header.chunks_exact_mut(4).zip(fields) {
        slot.copy_from_slice(&field.to_be_bytes());
    }
    for (slot, word) in body.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
    os.write(buf, &bytes)?;
    SUCCESS
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{Full, Kind, MAX_WAITING, Message, Messages, TooLong};
    use crate::args::{AsyncToken, OsAddr};
    use crate::error::{OpalError, SUCCESS};
    use crate::events::{EventSet, Events};
    use crate::os_memory::fake::Memory;

    const BUF: OsAddr = OsAddr(0x1000);

    struct Kernel {
        messages: Messages,
        events: Events,
        memory: Memory,
    }

    impl Kernel {
        fn new() -> Self {
            Self {
                messages: Messages::new(),
                events: Events::new(),
                memory: Memory::new(1 << 20),
            }
        }

        fn push(&self, kind: Kind, word: u64) {
            let message = Message::words(kind, &[word]).unwrap();
            let _ = self.messages.push(&self.events, message).unwrap();
        }

        fn get(&self, size: u64) -> crate::error::Answer {
            self.messages.get_msg(&self.events, &self.memory, BUF, size)
        }

        /// Type, size and first word of the next message.
        fn next(&self) -> (u32, u32, u64) {
            assert_eq!(self.get(72), SUCCESS);
            let bytes = self.memory.bytes(BUF, 16);
            (
                u32::from_be_bytes(bytes[..4].try_into().unwrap()),
                u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
                u64::from_be_bytes(bytes[8..].try_into().unwrap()),
            )
        }

        fn pending(&self) -> bool {
            !(self.events.pending() & EventSet::MSG_PENDING).is_empty()
        }
    }

    #[test]
    fn news_come_first_then_completions() {
        let k = Kernel::new();
        let ticket = k.messages.begin(AsyncToken(3)).unwrap();
        let _ = k.messages.complete(&k.events, &ticket, SUCCESS, &[]);
        k.push(Kind::HmiEvent, 4);
        k.push(Kind::Shutdown, 5);
        let order: Vec<_> = (0..3).map(|_| k.next()).collect();
        assert_eq!(order, [(4, 8, 4), (3, 8, 5), (0, 16, 3)]);
        assert_eq!(k.get(72), Err(OpalError::OPAL_RESOURCE));
    }

    #[test]
    fn the_event_is_set_while_something_waits() {
        let k = Kernel::new();
        let message = Message::words(Kind::Shutdown, &[]).unwrap();
        let raised = k.messages.push(&k.events, message.clone()).unwrap();
        assert_eq!(raised.0, EventSet::MSG_PENDING);
        let again = k.messages.push(&k.events, message).unwrap();
        assert!(again.0.is_empty(), "the kernel knows already");
        k.next();
        assert!(k.pending());
        k.next();
        assert!(!k.pending());
        let ticket = k.messages.begin(AsyncToken(0)).unwrap();
        assert!(!k.pending(), "nothing to fetch before the end");
        let raised = k.messages.complete(&k.events, &ticket, SUCCESS, &[]);
        assert_eq!(raised.0, EventSet::MSG_PENDING);
        assert!(k.messages.forget_when_idle(&k.events));
        assert!(!k.pending());
    }

    #[test]
    fn bad_buffers_lose_no_message() {
        let k = Kernel::new();
        k.push(Kind::Shutdown, 9);
        assert_eq!(k.get(71), Err(OpalError::OPAL_PARAMETER));
        let get = |addr, size| k.messages.get_msg(&k.events, &k.memory, OsAddr(addr), size);
        for (addr, size) in [
            (1 << 20, 72),
            ((1 << 20) - 71, 72),
            (u64::MAX, 72),
            ((1 << 20) - 100, 200),
        ] {
            assert_eq!(get(addr, size), Err(OpalError::OPAL_PARAMETER));
        }
        assert_eq!(k.next(), (3, 8, 9));
    }

    #[test]
    fn a_huge_size_needs_only_the_longest_message() {
        let k = Kernel::new();
        k.push(Kind::Shutdown, 9);
        assert_eq!(k.get(u64::MAX), SUCCESS);
    }

    #[test]
    fn short_messages_leave_no_stale_bytes_in_the_buffer() {
        let k = Kernel::new();
        k.memory.fill(0xaa);
        k.push(Kind::Shutdown, u64::MAX);
        k.next();
        let bytes = k.memory.bytes(BUF, 73);
        assert!(bytes[16..72].iter().all(|b| *b == 0));
        assert_eq!(bytes[72], 0xaa, "and nothing beyond the message is written");
    }

    #[test]
    fn bodies_have_limits() {
        assert!(Message::words(Kind::Shutdown, &[0; 8]).is_ok());
        assert_eq!(Message::words(Kind::Shutdown, &[0; 9]), Err(TooLong));
    }

    #[test]
    fn a_full_queue_gives_the_message_back_and_keeps_room_for_completions() {
        let k = Kernel::new();
        for n in 0..MAX_WAITING as u64 {
            k.push(Kind::Shutdown, n);
        }
        let message = Message::words(Kind::HmiEvent, &[7]).unwrap();
        assert_eq!(
            k.messages.push(&k.events, message.clone()),
            Err(Full(message))
        );
        let ticket = k.messages.begin(AsyncToken(2)).unwrap();
        let _ = k.messages.complete(&k.events, &ticket, SUCCESS, &[]);
        let last = (0..=MAX_WAITING).map(|_| k.next()).last();
        assert_eq!(last, Some((0, 16, 2)));
    }

    #[test]
    fn one_completion_can_be_asked_for() {
        let k = Kernel::new();
        let check = |token| {
            k.messages
                .check_completion(&k.events, &k.memory, BUF, 72, AsyncToken(token))
        };
        assert_eq!(check(1), Err(OpalError::OPAL_BUSY));
        let ticket = k.messages.begin(AsyncToken(1)).unwrap();
        assert_eq!(check(1), Err(OpalError::OPAL_BUSY));
        assert_eq!(k.messages.under_way(), 1);
        let _ = k.messages.complete(&k.events, &ticket, SUCCESS, &[]);
        assert_eq!(check(2), Err(OpalError::OPAL_BUSY));
        assert_eq!(check(1), SUCCESS);
        assert_eq!(k.memory.bytes(BUF, 16)[15], 1);
        assert!(!k.pending());
    }

    #[test]
    fn many_threads_lose_and_double_nothing() {
        let k = Kernel::new();
        let fetched = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let k = &k;
            let fetched = &fetched;
            for half in 0..2 {
                scope.spawn(move || {
                    for n in 0..8 {
                        let token = AsyncToken(half * 8 + n);
                        let ticket = k.messages.begin(token).unwrap();
                        let _ = k.messages.complete(&k.events, &ticket, SUCCESS, &[]);
                    }
                });
                scope.spawn(move || {
                    let buf = OsAddr(0x2000 + half * 0x1000);
                    let mut mine = 0;
                    while mine < 8 {
                        if k.messages.get_msg(&k.events, &k.memory, buf, 72) == SUCCESS {
                            mine += 1;
                            let token = k.memory.bytes(buf, 16)[15];
                            fetched.lock().unwrap().push(token);
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        let mut fetched = fetched.into_inner().unwrap();
        fetched.sort_unstable();
        assert_eq!(fetched, (0..16).collect::<Vec<u8>>());
        assert!(!k.pending());
    }
}

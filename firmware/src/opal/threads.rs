//! The machine's hardware threads in OPAL mode: which are the kernel's and which the firmware's, and what those do.
//!
//! Owns START_CPU, QUERY_CPU_STATUS, RETURN_CPU and REINIT_CPUS. Surprising fact: a thread that the kernel gave back
//! sleeps with the kernel's vectors in place; it wakes without using one.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use isa::timebase::{Deadline, Ticks};
use opal_calls::args::Server;
use opal_calls::entry::Entry;
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::quiesce::Threads;
use opal_calls::trace::Trace;

use crate::thread::{EMERGENCY_STACK_TOP, NORMAL_STACK_TOP, Thread};
use crate::threads::ring;

/// One past the largest PIR: 16 chips of 256 threads.
pub const MAX_PIR: usize = 4096;
/// Calls of a thread that the trace keeps.
const TRACE: usize = 32;
/// How long the other threads may take to come back, or to do what they are told.
const PATIENCE: Ticks = Ticks::from_s(1);

/// One hardware thread. Assembly knows the first fields by offset.
#[derive(Debug)]
#[repr(C)]
pub struct OpalThread {
    /// Calls under way. First, because the entry code counts them before it has a spare register.
    pub entry: Entry,
    normal_stack: AtomicU64,
    emergency_stack: AtomicU64,
    /// Address of its [`Thread`].
    thread: AtomicU64,
    /// Its number.
    pub pir: u32,
    state: AtomicU32,
    /// 1 when it waits outside of all memory of the firmware, for a fast reboot.
    gathered: AtomicU32,
    job: AtomicU64,
    /// Its last calls.
    pub trace: Trace<TRACE>,
}

/// Who has a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum State {
    /// It waits in the firmware.
    Firmware = 0,
    /// It is the kernel's, or about to be.
    Os = 1,
}

/// What a waiting thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Enter the kernel here, a multiple of 4.
    Start(u64),
    /// Take exceptions little-endian, or not, and clean up.
    Reinit {
        /// `None`: leave it.
        little: Option<bool>,
    },
}

impl Job {
    const NONE: u64 = 0;

    const fn encode(self) -> u64 {
        match self {
            Self::Start(address) => address & !3 | 1,
            Self::Reinit { little: None } => 2,
            Self::Reinit {
                little: Some(false),
            } => 6,
            Self::Reinit { little: Some(true) } => 10,
        }
    }

    #[cfg(any(test, target_os = "none"))]
    const fn decode(word: u64) -> Option<Self> {
        match (word & 3, word) {
            (1, _) => Some(Self::Start(word & !3)),
            (_, 2) => Some(Self::Reinit { little: None }),
            (_, 6) => Some(Self::Reinit {
                little: Some(false),
            }),
            (_, 10) => Some(Self::Reinit { little: Some(true) }),
            _ => None,
        }
    }
}

impl OpalThread {
    /// Offset of `entry`.
    pub const ENTRY_OFFSET: usize = offset_of!(Self, entry);
    /// Offset of the address of the normal stack's top.
    pub const NORMAL_STACK_OFFSET: usize = offset_of!(Self, normal_stack);
    /// Offset of the address of the emergency stack's top.
    pub const EMERGENCY_STACK_OFFSET: usize = offset_of!(Self, emergency_stack);
    /// Offset of the address of the `Thread`.
    pub const THREAD_OFFSET: usize = offset_of!(Self, thread);

    /// A thread that waits in the firmware, with the stacks of `thread`.
    #[must_use]
    pub fn new(pir: u32, thread: &'static Thread) -> Self {
        // A `Thread` is at the base of its block.
        let base = core::ptr::from_ref(thread).expose_provenance();
        let word = |offset: usize| AtomicU64::new(base.wrapping_add(offset) as u64);
        Self {
            entry: Entry::new(),
            normal_stack: word(NORMAL_STACK_TOP),
            emergency_stack: word(EMERGENCY_STACK_TOP),
            thread: word(0),
            pir,
            state: AtomicU32::new(State::Firmware as u32),
            gathered: AtomicU32::new(0),
            job: AtomicU64::new(Job::NONE),
            trace: Trace::new(),
        }
    }

    /// The word by which it says that it was gathered for a fast reboot.
    #[cfg(target_os = "none")]
    pub(super) const fn gathered(&self) -> &AtomicU32 {
        &self.gathered
    }

    fn is_in_firmware(&self) -> bool {
        self.state.load(Ordering::SeqCst) == State::Firmware as u32
    }

    fn set(&self, state: State) {
        self.state.store(state as u32, Ordering::SeqCst);
    }

    fn tell(&self, job: Job) {
        self.job.store(job.encode(), Ordering::SeqCst);
        ring(self.pir);
    }

    fn is_done(&self) -> bool {
        self.job.load(Ordering::SeqCst) == Job::NONE
    }
}

/// All threads that take part.
#[derive(Debug)]
pub struct AllThreads(Vec<&'static OpalThread>);

impl Threads for AllThreads {
    fn iter(&self) -> impl Iterator<Item = (Server, &Entry)> {
        self.0
            .iter()
            .map(|thread| (Server(u64::from(thread.pir)), &thread.entry))
    }
}

impl AllThreads {
    /// `boot` is the one that will enter the kernel.
    #[must_use]
    pub fn new(threads: Vec<OpalThread>, boot: u32) -> Self {
        let threads: Vec<&'static OpalThread> = threads
            .into_iter()
            .map(|thread| &*Box::leak(Box::new(thread)))
            .collect();
        for thread in threads.iter().filter(|thread| thread.pir == boot) {
            thread.set(State::Os);
        }
        Self(threads)
    }

    /// Each of them.
    pub fn each(&self) -> impl Iterator<Item = &'static OpalThread> {
        self.0.iter().copied()
    }

    /// The thread with this number.
    #[must_use]
    pub fn find(&self, server: Server) -> Option<&'static OpalThread> {
        self.each().find(|thread| u64::from(thread.pir) == server.0)
    }

    /// OPAL_START_CPU; `address` has been checked to be the kernel's memory.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such thread, or an address that is no instruction's. OPAL_WRONG_STATE: it is not ours to start.
    pub fn start(&self, server: Server, address: u64) -> Answer {
        let thread = self.find(server).ok_or(OpalError::OPAL_PARAMETER)?;
        if !address.is_multiple_of(4) {
            return Err(OpalError::OPAL_PARAMETER);
        }
        thread
            .state
            .compare_exchange(
                State::Firmware as u32,
                State::Os as u32,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map_err(|_| OpalError::OPAL_WRONG_STATE)?;
        thread.tell(Job::Start(address));
        SUCCESS
    }

    /// OPAL_QUERY_CPU_STATUS: 0 in the firmware, 1 the kernel's.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such thread.
    pub fn status(&self, server: Server) -> Result<u8, OpalError> {
        let thread = self.find(server).ok_or(OpalError::OPAL_PARAMETER)?;
        Ok(u8::from(!thread.is_in_firmware()))
    }

    /// OPAL_REINIT_CPUS, called by the thread `me`.
    ///
    /// # Errors
    /// OPAL_UNSUPPORTED: a flag that means nothing here. OPAL_WRONG_STATE: other threads are the kernel's.
    /// OPAL_HARDWARE: a thread in the firmware does not answer.
    pub fn reinit(&self, me: u32, flags: u64) -> Answer {
        let little = parse_reinit(flags)?;
        let others = || self.each().filter(move |thread| thread.pir != me);
        let all = |is: fn(&OpalThread) -> bool| {
            Deadline::after(PATIENCE)
                .wait_for(|| others().all(is).then_some(()))
                .is_some()
        };
        if !all(OpalThread::is_in_firmware) {
            return Err(OpalError::OPAL_WRONG_STATE);
        }
        for thread in others() {
            thread.tell(Job::Reinit { little });
        }
        machine::reinit(little);
        machine::flush();
        if all(OpalThread::is_done) {
            SUCCESS
        } else {
            log::error!("a thread in the firmware does not answer");
            Err(OpalError::OPAL_HARDWARE)
        }
    }
}

/// The byte order of exceptions that is asked for. Hash and radix need no preparation on these processors, and they
/// have no transactional memory whose suspension could be disabled.
fn parse_reinit(flags: u64) -> Result<Option<bool>, OpalError> {
    const BIG: u64 = 1;
    const LITTLE: u64 = 2;
    const HASH: u64 = 4;
    const RADIX: u64 = 8;
    const NO_TM_SUSPEND: u64 = 0x10;
    if flags & !(BIG | LITTLE | HASH | RADIX | NO_TM_SUSPEND) != 0 {
        return Err(OpalError::OPAL_UNSUPPORTED);
    }
    match (flags & BIG != 0, flags & LITTLE != 0) {
        (true, true) => Err(OpalError::OPAL_PARAMETER),
        (true, false) => Ok(Some(false)),
        (false, true) => Ok(Some(true)),
        (false, false) => Ok(None),
    }
}

/// Waits for jobs; ends in the kernel. For a thread that the firmware has, on its own empty stack.
#[cfg(target_os = "none")]
pub(super) fn wait_for_work(me: &'static OpalThread) -> ! {
    use super::entry;
    me.entry.forget();
    super::xive::push_thread(me.pir);
    me.set(State::Firmware);
    loop {
        // SeqCst and the doorbell: a job told after this look ends the doze.
        let Some(job) = Job::decode(me.job.load(Ordering::SeqCst)) else {
            entry::doze();
            continue;
        };
        match job {
            Job::Start(address) => {
                me.job.store(Job::NONE, Ordering::SeqCst);
                entry::reset_for_kernel();
                entry::launch(
                    address,
                    entry::Launch {
                        r3: u64::from(me.pir),
                        r7: 0,
                        r8: 0,
                        r9: 0,
                        is_64_bit: true,
                    },
                )
            }
            Job::Reinit { little } => {
                machine::reinit(little);
                me.job.store(Job::NONE, Ordering::SeqCst);
            }
        }
    }
}

/// What needs the processor.
#[cfg(target_os = "none")]
mod machine {
    use super::super::entry;

    pub(super) fn reinit(little: Option<bool>) {
        entry::clear_authority();
        if let Some(little) = little {
            entry::set_exception_endianness(little);
        }
    }

    pub(super) fn flush() {
        entry::flush_translations();
    }
}

#[cfg(not(target_os = "none"))]
mod machine {
    pub(super) fn reinit(_little: Option<bool>) {}
    pub(super) fn flush() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use isa::timebase::fake;

    fn threads() -> AllThreads {
        let make = |pir| OpalThread::new(pir, Box::leak(Box::default()));
        AllThreads::new([0, 1, 2].map(make).into(), 0)
    }

    #[test]
    fn jobs_survive_their_word() {
        let reinits = [None, Some(false), Some(true)].map(|little| Job::Reinit { little });
        for job in reinits
            .into_iter()
            .chain([Job::Start(0x1000), Job::Start(0)])
        {
            assert_ne!(job.encode(), Job::NONE);
            assert_eq!(Job::decode(job.encode()), Some(job));
        }
        assert_eq!(Job::decode(Job::NONE), None);
    }

    #[test]
    fn a_thread_is_started_once() {
        let threads = threads();
        assert_eq!(threads.status(Server(1)), Ok(0));
        assert_eq!(threads.start(Server(1), 0x1000), SUCCESS);
        assert_eq!(threads.status(Server(1)), Ok(1));
        assert_eq!(
            threads.start(Server(1), 0x1000),
            Err(OpalError::OPAL_WRONG_STATE)
        );
        assert_eq!(
            threads
                .find(Server(1))
                .map(|t| t.job.load(Ordering::SeqCst)),
            Some(0x1001)
        );
    }

    #[test]
    fn bad_threads_and_addresses_are_refused() {
        let threads = threads();
        for (server, address) in [(3, 0), (u64::MAX, 0), (1 << 32, 0), (1, 2), (1, 0x1001)] {
            assert_eq!(
                threads.start(Server(server), address),
                Err(OpalError::OPAL_PARAMETER)
            );
        }
        assert_eq!(threads.status(Server(9)), Err(OpalError::OPAL_PARAMETER));
        assert_eq!(
            threads.start(Server(0), 0x1000),
            Err(OpalError::OPAL_WRONG_STATE),
            "the boot thread is the kernel's"
        );
    }

    #[test]
    fn reinit_wants_all_others_back() {
        fake::set_step(Ticks::from_ms(10));
        let all = threads();
        assert_eq!(all.start(Server(2), 0x1000), SUCCESS);
        assert_eq!(all.reinit(0, 2), Err(OpalError::OPAL_WRONG_STATE));
        let all = threads();
        // Nobody runs the jobs here.
        assert_eq!(all.reinit(0, 2), Err(OpalError::OPAL_HARDWARE));
        assert_eq!(
            all.find(Server(1)).map(|t| t.job.load(Ordering::SeqCst)),
            Some(10)
        );
        let alone = AllThreads::new(vec![OpalThread::new(7, Box::leak(Box::default()))], 7);
        assert_eq!(alone.reinit(7, 0xe), SUCCESS);
    }

    #[test]
    fn reinit_flags() {
        assert_eq!(parse_reinit(0xc), Ok(None));
        assert_eq!(parse_reinit(0xd), Ok(Some(false)));
        assert_eq!(parse_reinit(0x1e), Ok(Some(true)));
        assert_eq!(parse_reinit(3), Err(OpalError::OPAL_PARAMETER));
        for flag in 5..64 {
            assert_eq!(parse_reinit(1 << flag), Err(OpalError::OPAL_UNSUPPORTED));
        }
    }
}

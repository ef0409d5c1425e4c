//! OPAL_QUIESCE: one hardware thread keeps others out of the firmware while it resets them.
//!
//! Owns who quiesces and how; the gates themselves are in each thread's [`Entry`]. There is one owner at a time, and
//! only the owner can go on. It takes no lock.
//!
//! The surprising fact: a thread that does not leave in time is no reason to give up. The answer is OPAL_PARTIAL and
//! the gates stay closed, since what follows is a system reset of just that thread.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use isa::timebase::{Deadline, Ticks};

use crate::args::{Server, ServerOrOthers};
use crate::entry::{Bar, Entry};
use crate::error::{Answer, OpalError, SUCCESS};

/// How long the threads have to leave, all together.
pub const PATIENCE: Ticks = Ticks::from_s(1);

/// What OPAL_QUIESCE is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Calls wait at entry.
    Hold = 1,
    /// Calls answer OPAL_BUSY.
    Reject = 2,
    /// The owner need not respect locks; only after all others were quiesced.
    LockBreak = 3,
    /// Calls come in again.
    Resume = 4,
    /// The same, and the others' calls are forgotten: their threads start anew.
    ResumeFastReboot = 5,
}

impl Kind {
    fn from_raw(raw: u32) -> Option<Self> {
        [
            Self::Hold,
            Self::Reject,
            Self::LockBreak,
            Self::Resume,
            Self::ResumeFastReboot,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == raw)
    }
}

/// The hardware threads of the machine.
pub trait Threads {
    /// All of them, with their PIR.
    fn iter(&self) -> impl Iterator<Item = (Server, &Entry)>;

    /// One of them.
    fn get(&self, server: Server) -> Option<&Entry> {
        self.iter()
            .find(|(pir, _)| *pir == server)
            .map(|(_, entry)| entry)
    }
}

/// Who keeps whom out.
#[derive(Debug)]
pub struct Quiesce {
    /// 0, or the PIR of the owner + 1.
    owner: AtomicU64,
    /// All others were quiesced. Written by the owner only.
    all: AtomicBool,
    /// The owner broke the locks. Written by the owner only.
    broken: AtomicBool,
}

impl Quiesce {
    /// Nobody.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            all: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// Whether `thread` may make any call while it interrupts another: it broke the locks of a quiesced machine.
    #[must_use]
    pub fn waives_nesting(&self, thread: Server) -> bool {
        self.broken.load(Ordering::SeqCst) && self.owner.load(Ordering::SeqCst) == mark(thread)
    }

    /// Serves the call for thread `me`.
    ///
    /// # Errors
    /// OPAL_PARAMETER: no such kind or target, or the caller itself. OPAL_BUSY: another thread is the owner, or
    /// the caller quiesces already; or LOCK_BREAK with only one thread quiesced. OPAL_PARTIAL: some thread did not leave within
    /// [`PATIENCE`]; the gates are closed nevertheless.
    pub fn serve(
        &self,
        kind: u32,
        target: ServerOrOthers,
        me: Server,
        threads: &impl Threads,
    ) -> Answer {
        let kind = Kind::from_raw(kind).ok_or(OpalError::OPAL_PARAMETER)?;
        let only = match target.server() {
            Some(server) if server != me && threads.get(server).is_some() => Some(server),
            None if target.is_others() => None,
            Some(_) | None => return Err(OpalError::OPAL_PARAMETER),
        };
        let others = || threads.iter().filter(|(pir, _)| *pir != me);
        match kind {
            Kind::Hold | Kind::Reject => {
                self.owner
                    .compare_exchange(0, mark(me), Ordering::SeqCst, Ordering::SeqCst)
                    .map_err(|_| OpalError::OPAL_BUSY)?;
                self.all.store(only.is_none(), Ordering::SeqCst);
                let bar = if kind == Kind::Hold {
                    Bar::Hold
                } else {
                    Bar::Reject
                };
                let targets = || others().filter(|(pir, _)| only.is_none_or(|one| one == *pir));
                for (_, entry) in targets() {
                    entry.set_bar(bar);
                }
                // Bars before counts: see Entry::arrive.
                fence(Ordering::SeqCst);
                let out = || (!targets().any(|(_, entry)| entry.is_inside())).then_some(());
                match Deadline::after(PATIENCE).wait_for(out) {
                    Some(()) => SUCCESS,
                    None => Err(OpalError::OPAL_PARTIAL),
                }
            }
            Kind::LockBreak => {
                self.owned_by(me)?;
                if !self.all.load(Ordering::SeqCst) {
                    return Err(OpalError::OPAL_BUSY);
                }
                self.broken.store(true, Ordering::SeqCst);
                SUCCESS
            }
            Kind::Resume | Kind::ResumeFastReboot => {
                self.owned_by(me)?;
                self.broken.store(false, Ordering::SeqCst);
                for (_, entry) in others() {
                    if kind == Kind::ResumeFastReboot {
                        entry.forget();
                    }
                    entry.set_bar(Bar::Open);
                }
                // Last: the next owner may close the gates at once.
                self.owner.store(0, Ordering::SeqCst);
                SUCCESS
            }
        }
    }

    fn owned_by(&self, me: Server) -> Result<(), OpalError> {
        if self.owner.load(Ordering::SeqCst) == mark(me) {
            Ok(())
        } else {
            Err(OpalError::OPAL_BUSY)
        }
    }
}

/// A PIR as it stands in `owner`.
const fn mark(thread: Server) -> u64 {
    thread.0.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::vec::Vec;

    use isa::timebase::{Ticks, fake};

    use super::{Kind, Quiesce, Threads};
    use crate::args::{Server, ServerOrOthers};
    use crate::entry::{Entry, Gate};
    use crate::error::{Answer, OpalError, SUCCESS};

    struct Machine {
        quiesce: Quiesce,
        threads: Vec<(Server, Entry)>,
    }

    impl Threads for Machine {
        fn iter(&self) -> impl Iterator<Item = (Server, &Entry)> {
            self.threads.iter().map(|(pir, entry)| (*pir, entry))
        }
    }

    impl Machine {
        /// Threads with PIR 0, 4, 8, 12.
        fn new() -> Self {
            Self {
                quiesce: Quiesce::new(),
                threads: (0..4).map(|n| (Server(n * 4), Entry::new())).collect(),
            }
        }

        fn entry(&self, pir: u64) -> &Entry {
            self.get(Server(pir)).unwrap()
        }

        fn ask(&self, me: u64, kind: Kind, target: i32) -> Answer {
            self.quiesce
                .serve(kind as u32, ServerOrOthers(target), Server(me), self)
        }

        /// Which threads can make a call.
        fn open(&self) -> Vec<u64> {
            let mut open = Vec::new();
            for (pir, entry) in &self.threads {
                if let Gate::In(_) = entry.arrive() {
                    assert!(entry.depart());
                    open.push(pir.0);
                }
            }
            open
        }
    }

    const BUSY: Answer = Err(OpalError::OPAL_BUSY);
    const PARAMETER: Answer = Err(OpalError::OPAL_PARAMETER);
    const PARTIAL: Answer = Err(OpalError::OPAL_PARTIAL);

    #[test]
    fn all_others_are_kept_out_and_let_in_again() {
        let m = Machine::new();
        for kind in [Kind::Hold, Kind::Reject] {
            assert_eq!(m.ask(4, kind, -1), SUCCESS);
            assert_eq!(m.open(), [4]);
            assert_eq!(m.ask(4, Kind::Resume, -1), SUCCESS);
            assert_eq!(m.open(), [0, 4, 8, 12]);
        }
    }

    #[test]
    fn one_thread_is_kept_out() {
        let m = Machine::new();
        assert_eq!(m.ask(4, Kind::Reject, 8), SUCCESS);
        assert_eq!(m.open(), [0, 4, 12]);
        let gate = m.entry(8).arrive();
        assert_eq!(gate, Gate::Refused(OpalError::OPAL_BUSY));
        assert_eq!(m.ask(4, Kind::LockBreak, -1), BUSY, "not all are out");
        assert_eq!(m.ask(4, Kind::Resume, 8), SUCCESS);
        assert_eq!(m.open().len(), 4);
    }

    #[test]
    fn there_is_one_owner() {
        let m = Machine::new();
        assert_eq!(m.ask(0, Kind::Resume, -1), BUSY, "nothing to resume");
        assert_eq!(m.ask(0, Kind::LockBreak, -1), BUSY);
        assert_eq!(m.ask(0, Kind::Hold, -1), SUCCESS);
        assert_eq!(m.ask(0, Kind::Hold, -1), BUSY, "not twice");
        for kind in [
            Kind::Hold,
            Kind::Reject,
            Kind::LockBreak,
            Kind::Resume,
            Kind::ResumeFastReboot,
        ] {
            assert_eq!(m.ask(4, kind, -1), BUSY);
        }
        assert_eq!(m.open(), [0]);
        assert_eq!(m.ask(0, Kind::Resume, -1), SUCCESS);
        assert_eq!(m.ask(4, Kind::Hold, -1), SUCCESS);
    }

    #[test]
    fn bad_arguments_change_nothing() {
        let m = Machine::new();
        for target in [1, 16, -2, i32::MIN, i32::MAX] {
            assert_eq!(m.ask(0, Kind::Hold, target), PARAMETER);
        }
        assert_eq!(m.ask(0, Kind::Hold, 0), PARAMETER, "waiting for itself");
        for kind in [0, 6, u32::MAX] {
            let answer = m.quiesce.serve(kind, ServerOrOthers(-1), Server(0), &m);
            assert_eq!(answer, PARAMETER);
        }
        assert_eq!(m.open().len(), 4);
    }

    #[test]
    fn a_stuck_thread_is_reported_and_kept_out() {
        let m = Machine::new();
        assert_ne!(m.entry(8).arrive(), Gate::Hold);
        let before = fake::peek();
        assert_eq!(m.ask(0, Kind::Hold, -1), PARTIAL);
        assert!(fake::peek().since(before) >= Ticks::from_s(1));
        assert_eq!(m.open(), [0], "the gates stay closed");
        assert_eq!(m.ask(0, Kind::ResumeFastReboot, -1), SUCCESS);
        assert!(!m.entry(8).is_inside(), "its call is forgotten");
        assert!(!m.entry(8).depart(), "and its end, if ever, harmless");
        assert_eq!(m.open().len(), 4);
    }

    #[test]
    fn only_who_broke_the_locks_may_nest_at_will() {
        let m = Machine::new();
        assert_eq!(m.ask(0, Kind::Hold, -1), SUCCESS);
        assert!(!m.quiesce.waives_nesting(Server(0)));
        assert_eq!(m.ask(0, Kind::LockBreak, -1), SUCCESS);
        assert!(m.quiesce.waives_nesting(Server(0)));
        assert!(!m.quiesce.waives_nesting(Server(4)));
        assert_eq!(m.ask(0, Kind::Resume, -1), SUCCESS);
        assert!(!m.quiesce.waives_nesting(Server(0)));
    }

    /// Threads make calls all the time while one quiesces and resumes: none is inside in between.
    #[test]
    fn nobody_is_inside_while_quiesced() {
        let m = Machine::new();
        let stop = AtomicBool::new(false);
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for pir in [4, 8] {
                let (m, stop, inside) = (&m, &stop, &inside);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Gate::In(_) = m.entry(pir).arrive_and_wait() {
                            inside.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            m.entry(pir).depart();
                        }
                        std::thread::yield_now();
                    }
                });
            }
            // A slow clock: wait for the threads however long they are not scheduled. One that stands still would end it.
            fake::set_step(Ticks(1));
            for round in 0..500 {
                let kind = if round % 2 == 0 {
                    Kind::Hold
                } else {
                    Kind::Reject
                };
                assert_eq!(m.ask(0, kind, -1), SUCCESS);
                for _ in 0..20 {
                    assert_eq!(inside.load(Ordering::SeqCst), 0);
                }
                assert_eq!(m.ask(0, Kind::Resume, -1), SUCCESS);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

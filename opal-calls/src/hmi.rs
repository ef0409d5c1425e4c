//! Hypervisor maintenance interrupts: OPAL_HANDLE_HMI and OPAL_HANDLE_HMI2. Reads why, clears it, and tells the kernel.
//!
//! Owns what the causes mean and the event that goes to the kernel (OPAL_MSG_HMI_EVT, second version). The registers are
//! the firmware's ([`Maintenance`]). Errors of one thread's timers are put right here; a time base that has stopped is set
//! anew by the firmware, or the kernel is told that it cannot be.
//!
//! The surprising fact: several causes come in one interrupt and stay set until they are cleared one by one; a cause that is
//! left set interrupts for ever. Each is cleared before it is looked into, so that one that comes meanwhile interrupts again.

use isa::tfmr::{CORE_ERRORS, DEC_PARITY, HDEC_PARITY, THREAD_ERRORS, VALID};

use crate::args::OsAddr;
use crate::error::{Answer, SUCCESS};
use crate::events::Events;
use crate::messages::{Kind, Message, Messages};
use crate::os_memory::OsMemory;

// Causes (HMER).
const MALFUNCTION: u64 = isa::ppc_bit(0);
const RECOVERED: u64 = isa::ppc_bit(2);
const TIMER: u64 = isa::ppc_bit(4);
const TIMER_TRANSFER: u64 = isa::ppc_bit(5);
const SPURR_LIMIT: u64 = isa::ppc_bit(6);
const RECOVERED_AGAIN: u64 = isa::ppc_bit(11);
const SCOM_INJECTED: u64 = isa::ppc_bit(16);
const DEBUG_TRIGGER: u64 = isa::ppc_bit(18);

/// What the kernel has to put right itself: the answer of OPAL_HANDLE_HMI2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// The time base was set anew.
    pub const TB_RESYNC: Self = Self(1);
    /// The decrementer lost its value.
    pub const DEC_LOST: Self = Self(2);
    /// The hypervisor decrementer lost its value.
    pub const HDEC_LOST: Self = Self(4);
    /// The time base has stopped and could not be started.
    pub const TB_FAILED: Self = Self(8);
    /// An event was queued.
    pub const NEW_EVENT: Self = Self(1 << 63);

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    NoError = 0,
    Sync = 2,
    Fatal = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Malfunction = 0,
    Recovered = 1,
    RecoveredAgain = 2,
    Timer = 4,
    ScomInjected = 9,
    DebugTrigger = 10,
}

/// What of a core's error register stops it, and the ABI's word for it.
const REASONS: [(u32, u32); 16] = [
    (3, 1 << 0),
    (5, 1 << 1),
    (8, 1 << 2),
    (10, 1 << 3),
    (12, 1 << 4),
    (21, 1 << 5),
    (25, 1 << 6),
    (26, 1 << 7),
    (32, 1 << 8),
    (36, 1 << 9),
    (38, 1 << 10),
    (45, 1 << 11),
    (48, 1 << 12),
    (52, 1 << 13),
    (54, 1 << 14),
    (63, 1 << 16),
];

fn reason(errors: u64) -> u32 {
    REASONS
        .iter()
        .filter(|(bit, _)| errors & isa::ppc_bit(*bit) != 0)
        .fold(0, |reason, (_, word)| reason | word)
}

/// The registers of the thread and of the chips.
pub trait Maintenance {
    /// Why there was an interrupt (HMER).
    fn causes(&self) -> u64;

    /// Clears causes.
    fn clear(&self, causes: u64);

    /// The state of the timers (TFMR).
    fn timers(&self) -> u64;

    /// Clears errors of the timers.
    fn clear_timer_errors(&self, errors: u64);

    /// Sets a time base that is not valid anew; whether it is valid now.
    fn set_time_base(&self) -> bool;

    /// Whether this is the thread of its core that tells of what the core did.
    fn is_first_thread(&self) -> bool;

    /// Takes the malfunction alerts of this chip, and calls `found` with PIR and errors of each core that has some. A core
    /// whose register cannot be read has all of them.
    fn take_malfunctions(&self, found: &mut dyn FnMut(u32, u64));

    /// The kernel does not fetch its messages: an event with this first word was not queued. For the log.
    fn lost(&self, event: u64);
}

/// One interrupt being served.
struct Service<'a, M> {
    machine: &'a M,
    messages: &'a Messages,
    events: &'a Events,
    causes: u64,
    timers: u64,
    flags: Flags,
}

impl<M: Maintenance> Service<'_, M> {
    /// Queues an event. `stop` is how a core stopped: kind, reason, which.
    fn tell(&mut self, severity: Severity, kind: Type, recovered: bool, stop: [u32; 3]) {
        const VERSION_2: u64 = 2;
        let [stopped, reason, which] = stop.map(u64::from);
        let head = VERSION_2.wrapping_shl(56)
            | (severity as u64).wrapping_shl(48)
            | (kind as u64).wrapping_shl(40)
            | u64::from(!recovered).wrapping_shl(32);
        let words = [
            head,
            self.causes,
            self.timers,
            stopped.wrapping_shl(56) | reason,
            which.wrapping_shl(32),
        ];
        let Ok(message) = Message::words(Kind::HmiEvent, &words) else {
            return;
        };
        // The call itself makes the kernel look.
        match self.messages.push(self.events, message) {
            Ok(_) => self.flags.add(Flags::NEW_EVENT),
            Err(_) => self.machine.lost(head),
        }
    }

    fn timers(&mut self) {
        const NOTHING: [u32; 3] = [0; 3];
        self.machine.clear(TIMER | TIMER_TRANSFER);
        let state = self.machine.timers();
        self.timers = state;
        let small = state & (THREAD_ERRORS | HDEC_PARITY);
        if small != 0 {
            self.machine.clear_timer_errors(small);
        }
        if state & DEC_PARITY != 0 {
            self.flags.add(Flags::DEC_LOST);
        }
        if state & HDEC_PARITY != 0 {
            self.flags.add(Flags::HDEC_LOST);
        }
        let ran = self.machine.timers() & VALID != 0;
        // Setting it clears the errors of the core. While it runs, other threads count on it: then it is left alone.
        let is_set = !ran && self.machine.set_time_base();
        if is_set {
            self.flags.add(Flags::TB_RESYNC);
        }
        let runs = ran || is_set;
        let recovered = is_set || ran && state & CORE_ERRORS == 0;
        self.tell(Severity::Sync, Type::Timer, recovered, NOTHING);
        if !runs {
            self.flags.add(Flags::TB_FAILED);
        }
    }

    fn malfunction(&mut self) {
        const UNKNOWN: u32 = 0;
        const CORE: u32 = 1;
        let mut any = false;
        let machine = self.machine;
        // Without a clock nobody looks at all cores: that waits, core by core.
        let scans = !self.flags.has(Flags::TB_FAILED);
        let mut tell = |pir, errors| {
            let reason = reason(errors);
            if reason != 0 {
                any = true;
                let stop = [CORE, reason, pir];
                self.tell(Severity::Fatal, Type::Malfunction, false, stop);
            }
        };
        if scans {
            machine.take_malfunctions(&mut tell);
        }
        if !any {
            let stop = [UNKNOWN, 0, 0];
            self.tell(Severity::Fatal, Type::Malfunction, false, stop);
        }
    }

    fn serve(&mut self) {
        // The timers first: what follows may look at the time.
        if self.causes & (TIMER | TIMER_TRANSFER) != 0 {
            self.timers();
        }
        let handled =
            RECOVERED | RECOVERED_AGAIN | SPURR_LIMIT | SCOM_INJECTED | DEBUG_TRIGGER | MALFUNCTION;
        self.machine.clear(self.causes & handled);
        let of_the_core = [
            (RECOVERED, Type::Recovered),
            (RECOVERED_AGAIN, Type::RecoveredAgain),
            (SPURR_LIMIT, Type::Recovered),
        ];
        for (cause, kind) in of_the_core {
            if self.causes & cause != 0 && self.machine.is_first_thread() {
                self.tell(Severity::NoError, kind, true, [0; 3]);
            }
        }
        for (cause, kind) in [
            (SCOM_INJECTED, Type::ScomInjected),
            (DEBUG_TRIGGER, Type::DebugTrigger),
        ] {
            if self.causes & cause != 0 {
                self.tell(Severity::NoError, kind, true, [0; 3]);
            }
        }
        if self.causes & MALFUNCTION != 0 {
            self.malfunction();
        }
    }
}

/// Serves the interrupt that this thread had: OPAL_HANDLE_HMI. Nothing is done when there was none.
pub fn handle(machine: &impl Maintenance, messages: &Messages, events: &Events) -> Flags {
    let mut service = Service {
        machine,
        messages,
        events,
        causes: machine.causes(),
        timers: 0,
        flags: Flags::default(),
    };
    service.serve();
    service.flags
}

/// OPAL_HANDLE_HMI2: the same, and says what the kernel has to put right.
///
/// # Errors
/// OPAL_PARAMETER: a bad pointer; nothing was served.
pub fn handle_and_tell(
    machine: &impl Maintenance,
    messages: &Messages,
    events: &Events,
    os: &impl OsMemory,
    flags: OsAddr,
) -> Answer {
    os.check(flags, 8)?;
    let told = handle(machine, messages, events);
    os.write_be64(flags, told.0)?;
    SUCCESS
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::vec::Vec;

    use super::*;
    use crate::error::OpalError;
    use crate::os_memory::fake::Memory;

    #[derive(Default)]
    struct Core {
        hmer: Cell<u64>,
        tfmr: Cell<u64>,
        is_secondary: bool,
        can_set: bool,
        stopped: Vec<(u32, u64)>,
        cleared: RefCell<Vec<u64>>,
        /// Causes that come while cores are looked at.
        meanwhile: u64,
        lost: Cell<usize>,
    }

    impl Maintenance for Core {
        fn causes(&self) -> u64 {
            self.hmer.get()
        }
        fn clear(&self, causes: u64) {
            self.hmer.set(self.hmer.get() & !causes);
        }
        fn timers(&self) -> u64 {
            self.tfmr.get()
        }
        fn clear_timer_errors(&self, errors: u64) {
            self.cleared.borrow_mut().push(errors);
            self.tfmr.set(self.tfmr.get() & !errors);
        }
        fn set_time_base(&self) -> bool {
            if self.can_set {
                self.tfmr.set(VALID);
            }
            self.can_set
        }
        fn is_first_thread(&self) -> bool {
            !self.is_secondary
        }
        fn lost(&self, event: u64) {
            assert_eq!(event >> 56, 2, "version");
            self.lost.set(self.lost.get() + 1);
        }
        fn take_malfunctions(&self, found: &mut dyn FnMut(u32, u64)) {
            self.hmer.set(self.hmer.get() | self.meanwhile);
            for (pir, errors) in &self.stopped {
                found(*pir, *errors);
            }
        }
    }

    fn core(hmer: u64, tfmr: u64) -> Core {
        Core {
            hmer: Cell::new(hmer),
            tfmr: Cell::new(tfmr),
            ..Core::default()
        }
    }

    /// Flags, and the events' words.
    fn serve(core: &Core) -> (u64, Vec<[u64; 5]>) {
        const BUF: OsAddr = OsAddr(0x1000);
        let (messages, events, os) = (Messages::new(), Events::new(), Memory::new(0x2000));
        let flags = handle(core, &messages, &events);
        let mut found = Vec::new();
        while messages.get_msg(&events, &os, BUF, 72).is_ok() {
            assert_eq!(os.bytes(BUF, 8), [0, 0, 0, 4, 0, 0, 0, 40]);
            let word = |n: u64| os.read_be64(OsAddr(BUF.0 + 8 + 8 * n)).unwrap();
            found.push([word(0), word(1), word(2), word(3), word(4)]);
        }
        (flags.0, found)
    }

    const NEW: u64 = 1 << 63;

    #[test]
    fn no_cause_is_no_event() {
        // What XSCOM leaves there is nobody's business.
        let other = isa::ppc_bit(8) | isa::ppc_bit(9) | isa::ppc_bit(22);
        let core = core(other, 0);
        assert_eq!(serve(&core), (0, [].into()));
        assert_eq!(core.hmer.get(), other);
    }

    #[test]
    fn a_recovery_is_told_by_the_first_thread_and_cleared_by_all() {
        let first = core(RECOVERED, 0);
        let event = [0x0200_0100_0000_0000, RECOVERED, 0, 0, 0];
        assert_eq!(serve(&first), (NEW, [event].into()));
        assert_eq!(first.hmer.get(), 0);
        let second = Core {
            is_secondary: true,
            ..core(RECOVERED | RECOVERED_AGAIN, 0)
        };
        assert_eq!(serve(&second), (0, [].into()));
        assert_eq!(second.hmer.get(), 0);
    }

    #[test]
    fn timer_errors_of_a_thread_are_put_right() {
        let core = core(TIMER, VALID | DEC_PARITY | HDEC_PARITY);
        let (flags, events) = serve(&core);
        assert_eq!(flags, NEW | 2 | 4);
        let state = VALID | DEC_PARITY | HDEC_PARITY;
        assert_eq!(events, [[0x0202_0400_0000_0000, TIMER, state, 0, 0]]);
        assert_eq!(*core.cleared.borrow(), [DEC_PARITY | HDEC_PARITY]);
        assert_eq!((core.hmer.get(), core.tfmr.get()), (0, VALID));
    }

    #[test]
    fn a_time_base_that_stopped_is_told() {
        for error in [isa::ppc_bit(44), isa::ppc_bit(60), 0] {
            let core = core(TIMER_TRANSFER, error);
            let (flags, events) = serve(&core);
            assert_eq!(flags, NEW | 8);
            assert_eq!(events[0][0], 0x0202_0401_0000_0000, "not recovered");
            assert_eq!(core.hmer.get(), 0);
        }
    }

    #[test]
    fn a_time_base_that_stopped_is_set_anew() {
        for error in [isa::ppc_bit(44), isa::ppc_bit(60), 0] {
            let core = Core {
                can_set: true,
                ..core(TIMER, error)
            };
            let (flags, events) = serve(&core);
            assert_eq!(flags, NEW | 1);
            assert_eq!(events[0][0], 0x0202_0400_0000_0000, "recovered");
        }
        // One that runs, with an error, is not touched.
        let core = Core {
            can_set: true,
            ..core(TIMER, VALID | isa::ppc_bit(44))
        };
        let (flags, events) = serve(&core);
        assert_eq!((flags, core.tfmr.get()), (NEW, VALID | isa::ppc_bit(44)));
        assert_eq!(events[0][0], 0x0202_0401_0000_0000, "not recovered");
    }

    #[test]
    fn each_core_that_stopped_is_told() {
        let core = Core {
            stopped: [
                (8, isa::ppc_bit(12)),
                (0x104, u64::MAX),
                (4, isa::ppc_bit(0)),
            ]
            .into(),
            ..core(MALFUNCTION, 0)
        };
        let (flags, events) = serve(&core);
        assert_eq!(flags, NEW);
        let heads: Vec<_> = events.iter().map(|e| (e[0], e[3], e[4] >> 32)).collect();
        let fatal = 0x0203_0001_0000_0000;
        assert_eq!(
            heads,
            [
                (fatal, 1 << 56 | 1 << 4, 8),
                (fatal, 1 << 56 | 0x1_7fff, 0x104)
            ]
        );
        assert_eq!(core.hmer.get(), 0);
    }

    #[test]
    fn a_stop_that_nobody_explains_is_told_too() {
        let (flags, events) = serve(&core(MALFUNCTION, 0));
        assert_eq!(flags, NEW);
        assert_eq!(events, [[0x0203_0001_0000_0000, MALFUNCTION, 0, 0, 0]]);
    }

    #[test]
    fn a_bad_pointer_serves_nothing() {
        let (messages, events, os) = (Messages::new(), Events::new(), Memory::new(0x2000));
        let core = core(RECOVERED, 0);
        let ask = |at| handle_and_tell(&core, &messages, &events, &os, OsAddr(at));
        for at in [0x1ff9, 0x2000, u64::MAX] {
            assert_eq!(ask(at), Err(OpalError::OPAL_PARAMETER));
        }
        assert_eq!(core.hmer.get(), RECOVERED);
        assert_eq!(ask(0x1000), SUCCESS);
        assert_eq!(os.read_be64(OsAddr(0x1000)), Ok(NEW));
    }

    #[test]
    fn a_cause_that_comes_meanwhile_interrupts_again() {
        let core = Core {
            meanwhile: MALFUNCTION | RECOVERED,
            ..core(MALFUNCTION | RECOVERED, 0)
        };
        let _ = serve(&core);
        assert_eq!(core.hmer.get(), MALFUNCTION | RECOVERED);
    }

    #[test]
    fn cores_are_not_looked_at_without_a_time_base() {
        let core = Core {
            stopped: [(8, u64::MAX)].into(),
            ..core(MALFUNCTION | TIMER, isa::ppc_bit(44))
        };
        let (flags, events) = serve(&core);
        assert_eq!(flags, NEW | 8);
        // The timer's event, and one of a stop that nobody explains.
        assert_eq!(events.len(), 2);
        assert_eq!((events[1][0], events[1][3]), (0x0203_0001_0000_0000, 0));
    }

    #[test]
    fn a_kernel_that_does_not_fetch_loses_events_and_it_is_told() {
        let (messages, events) = (Messages::new(), Events::new());
        let mut lost = 0;
        for _ in 0..100 {
            let core = core(RECOVERED, 0);
            let told = handle(&core, &messages, &events) == Flags::NEW_EVENT;
            assert_eq!(core.hmer.get(), 0);
            assert_eq!(core.lost.get(), usize::from(!told));
            lost += core.lost.get();
        }
        assert!(lost > 0 && lost < 100, "{lost}");
    }
}

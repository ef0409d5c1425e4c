//! Limits of power: OPAL_GET_POWERCAP, OPAL_SET_POWERCAP, and the share of processors in a cut, OPAL_GET_POWER_SHIFT_RATIO,
//! OPAL_SET_POWER_SHIFT_RATIO. The on-chip controllers keep them ([`Controllers`]).
//!
//! Owns the handles, and the commands under way: one per controller, each ends in a message, at the latest after a time-out
//! and one more try. The surprising fact: a limit that already holds is a success at once, without a message.

use isa::timebase::{Deadline, Ticks};

use crate::args::{AsyncToken, Handle, OsAddr};
use crate::async_token::Ticket;
use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::{Events, Raised};
use crate::lock::{Mutex, rank};
use crate::messages::Messages;
use crate::os_memory::OsMemory;

/// Most controllers: one per chip.
const MAX_UNITS: usize = 16;
/// How long a command may take.
const PATIENCE: Ticks = Ticks::from_s(1);

/// A limit of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cap {
    /// The least that can be asked for.
    SoftMin = 0,
    /// The most.
    Max = 1,
    /// What holds.
    Current = 2,
    /// The least that is kept whatever happens.
    HardMin = 3,
}

impl Cap {
    /// All of them, by number.
    pub const ALL: [Self; 4] = [Self::SoftMin, Self::Max, Self::Current, Self::HardMin];

    /// Its handle: class 0 in bits 27:24, number in bits 3:0.
    #[must_use]
    pub const fn handle(self) -> u32 {
        self as u32
    }

    fn of(handle: Handle) -> Option<Self> {
        let is_cap = handle.0 & !0xf == 0;
        Self::ALL
            .into_iter()
            .find(|cap| is_cap && cap.handle() == handle.0)
    }
}

/// The handle of the share of processors of the controller `unit`: number in bits 11:8, what is shared in bits 3:0.
#[must_use]
pub const fn ratio_handle(unit: u8) -> u32 {
    (unit as u32).wrapping_shl(8)
}

fn unit_of(handle: Handle) -> Option<usize> {
    let unit = usize::try_from(handle.0 >> 8).ok()?;
    (handle.0 & 0xff == 0 && unit < MAX_UNITS).then_some(unit)
}

/// A command to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Limits power, in watts; 0 for no limit.
    SetCap(u16),
    /// How much of a cut is the processor's, in percent.
    SetRatio(u8),
}

/// The controllers. Nothing here waits.
pub trait Controllers {
    /// How many there are.
    fn count(&self) -> usize;

    /// A limit in watts; `None` while there is none to tell.
    fn cap(&self, which: Cap) -> Option<u16>;

    /// The processor's share, in percent.
    fn ratio(&self, unit: usize) -> Option<u8>;

    /// Starts a command.
    ///
    /// # Errors
    /// OPAL_HARDWARE: the controller does not run. OPAL_PERMISSION: it is not the one for this. OPAL_BUSY.
    fn begin(&self, unit: usize, command: Command) -> Result<(), OpalError>;

    /// How the last command ended, once.
    fn poll(&self, unit: usize) -> Option<Answer>;

    /// Withdraws a command.
    fn abandon(&self, unit: usize);
}

#[derive(Debug)]
struct UnderWay {
    ticket: Ticket,
    command: Command,
    deadline: Deadline,
    is_second_try: bool,
}

/// The commands under way.
#[derive(Debug)]
pub struct Power {
    units: Mutex<[Option<UnderWay>; MAX_UNITS], rank::Operations>,
}

impl Default for Power {
    fn default() -> Self {
        Self::new()
    }
}

impl Power {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            units: Mutex::new([const { None }; MAX_UNITS]),
        }
    }

    /// OPAL_GET_POWERCAP.
    ///
    /// # Errors
    /// OPAL_PARAMETER: a bad pointer. OPAL_UNSUPPORTED: no such limit. OPAL_HARDWARE: nobody knows.
    pub fn get_cap(
        occs: &impl Controllers,
        os: &impl OsMemory,
        handle: Handle,
        limit: OsAddr,
    ) -> Answer {
        os.check(limit, 4)?;
        let which = Cap::of(handle).ok_or(OpalError::OPAL_UNSUPPORTED)?;
        let watts = occs.cap(which).ok_or(OpalError::OPAL_HARDWARE)?;
        os.write_be32(limit, u32::from(watts))?;
        SUCCESS
    }

    /// OPAL_SET_POWERCAP.
    ///
    /// # Errors
    /// OPAL_ASYNC_COMPLETION: a message will come. OPAL_UNSUPPORTED: not a limit that can be set. OPAL_PARAMETER: beyond what
    /// can be asked for. Else as [`Controllers::begin`] and [`Messages::begin`].
    pub fn set_cap(
        &self,
        occs: &impl Controllers,
        messages: &Messages,
        handle: Handle,
        token: AsyncToken,
        watts: u32,
    ) -> Answer {
        if Cap::of(handle) != Some(Cap::Current) {
            return Err(OpalError::OPAL_UNSUPPORTED);
        }
        let watts = u16::try_from(watts).map_err(|_| OpalError::OPAL_PARAMETER)?;
        let known = |which| occs.cap(which).ok_or(OpalError::OPAL_HARDWARE);
        let (least, most) = (known(Cap::SoftMin)?, known(Cap::Max)?);
        // 0 lifts the limit.
        if watts != 0 && !(least..=most).contains(&watts) {
            return Err(OpalError::OPAL_PARAMETER);
        }
        let holds = || Ok(known(Cap::Current)? == watts);
        self.begin(occs, messages, 0, token, Command::SetCap(watts), holds)
    }

    /// OPAL_GET_POWER_SHIFT_RATIO.
    ///
    /// # Errors
    /// OPAL_PARAMETER: a bad pointer. OPAL_UNSUPPORTED: no such controller. OPAL_HARDWARE: nobody knows.
    pub fn get_ratio(
        occs: &impl Controllers,
        os: &impl OsMemory,
        handle: Handle,
        ratio: OsAddr,
    ) -> Answer {
        os.check(ratio, 4)?;
        let unit = unit_of(handle).filter(|unit| *unit < occs.count());
        let unit = unit.ok_or(OpalError::OPAL_UNSUPPORTED)?;
        let percent = occs.ratio(unit).ok_or(OpalError::OPAL_HARDWARE)?;
        os.write_be32(ratio, u32::from(percent))?;
        SUCCESS
    }

    /// OPAL_SET_POWER_SHIFT_RATIO.
    ///
    /// # Errors
    /// As [`Power::set_cap`]; OPAL_PARAMETER is more than 100 percent.
    pub fn set_ratio(
        &self,
        occs: &impl Controllers,
        messages: &Messages,
        handle: Handle,
        token: AsyncToken,
        percent: u32,
    ) -> Answer {
        let unit = unit_of(handle).filter(|unit| *unit < occs.count());
        let unit = unit.ok_or(OpalError::OPAL_UNSUPPORTED)?;
        let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
        let percent = percent.ok_or(OpalError::OPAL_PARAMETER)?;
        let holds = || Ok(occs.ratio(unit).ok_or(OpalError::OPAL_HARDWARE)? == percent);
        let command = Command::SetRatio(percent);
        self.begin(occs, messages, unit, token, command, holds)
    }

    /// Begins a command, unless what it asks for `holds` already.
    fn begin(
        &self,
        occs: &impl Controllers,
        messages: &Messages,
        unit: usize,
        token: AsyncToken,
        command: Command,
        holds: impl FnOnce() -> Result<bool, OpalError>,
    ) -> Answer {
        let mut units = self.units.lock();
        let place = units.get_mut(unit).ok_or(OpalError::OPAL_UNSUPPORTED)?;
        // What holds while a command is under way will not hold for long.
        if place.is_some() {
            return Err(OpalError::OPAL_BUSY);
        }
        if holds()? {
            return SUCCESS;
        }
        let ticket = messages.begin(token)?;
        if let Err(error) = occs.begin(unit, command) {
            messages.cancel(&ticket);
            return Err(error);
        }
        *place = Some(UnderWay {
            ticket,
            command,
            deadline: Deadline::after(PATIENCE),
            is_second_try: false,
        });
        Err(OpalError::OPAL_ASYNC_COMPLETION)
    }

    /// Ends the commands that have ended. May be called from a call that interrupted another one: then it does nothing.
    pub fn poll(&self, occs: &impl Controllers, messages: &Messages, events: &Events) -> Raised {
        let mut raised = Raised::default();
        let Some(mut units) = self.units.try_lock() else {
            return raised;
        };
        for (unit, place) in units.iter_mut().enumerate() {
            let Some(under_way) = place else { continue };
            let late = under_way.deadline.has_passed();
            let answer = match occs.poll(unit) {
                Some(answer) => answer,
                None if !late => continue,
                None => {
                    occs.abandon(unit);
                    let again = (!under_way.is_second_try)
                        .then(|| occs.begin(unit, under_way.command))
                        .is_some_and(|begun| begun.is_ok());
                    if again {
                        under_way.is_second_try = true;
                        under_way.deadline = Deadline::after(PATIENCE);
                        continue;
                    }
                    Err(OpalError::OPAL_HARDWARE)
                }
            };
            raised = raised.and(messages.complete(events, &under_way.ticket, answer, &[]));
            *place = None;
        }
        raised
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::vec::Vec;

    use isa::timebase::{Ticks, fake};

    use super::{Cap, Command, Controllers, Power, ratio_handle};
    use crate::args::{AsyncToken, Handle, OsAddr};
    use crate::error::{Answer, OpalError, SUCCESS};
    use crate::events::{EventSet, Events};
    use crate::messages::Messages;
    use crate::os_memory::fake::Memory;

    #[derive(Default)]
    struct Occs {
        dead: Cell<bool>,
        commands: RefCell<Vec<(usize, Command)>>,
        answer: Cell<Option<Answer>>,
        refusal: Cell<Option<OpalError>>,
    }

    impl Controllers for Occs {
        fn count(&self) -> usize {
            2
        }
        fn cap(&self, which: Cap) -> Option<u16> {
            let watts = match which {
                Cap::SoftMin => 20,
                Cap::Max => 100,
                Cap::Current => 90,
                Cap::HardMin => 10,
            };
            (!self.dead.get()).then_some(watts)
        }
        fn ratio(&self, unit: usize) -> Option<u8> {
            (!self.dead.get()).then_some(if unit == 0 { 50 } else { 60 })
        }
        fn begin(&self, unit: usize, command: Command) -> Result<(), OpalError> {
            self.commands.borrow_mut().push((unit, command));
            self.refusal.get().map_or(Ok(()), Err)
        }
        fn poll(&self, _: usize) -> Option<Answer> {
            self.answer.take()
        }
        fn abandon(&self, _: usize) {}
    }

    struct Machine {
        power: Power,
        occs: Occs,
        messages: Messages,
        events: Events,
    }

    impl Default for Machine {
        fn default() -> Self {
            Self {
                power: Power::new(),
                occs: Occs::default(),
                messages: Messages::new(),
                events: Events::new(),
            }
        }
    }

    const CURRENT: Handle = Handle(Cap::Current.handle());
    const ASYNC: Answer = Err(OpalError::OPAL_ASYNC_COMPLETION);
    const BUF: OsAddr = OsAddr(0x1000);

    impl Machine {
        fn set_cap(&self, handle: Handle, token: u64, watts: u32) -> Answer {
            self.power
                .set_cap(&self.occs, &self.messages, handle, AsyncToken(token), watts)
        }
        fn set_ratio(&self, handle: u32, token: u64, percent: u32) -> Answer {
            let (handle, token) = (Handle(handle), AsyncToken(token));
            self.power
                .set_ratio(&self.occs, &self.messages, handle, token, percent)
        }
        /// Token and code of the message that is there.
        fn message(&self) -> Option<(u64, i64)> {
            let os = Memory::new(0x2000);
            let _ = self.power.poll(&self.occs, &self.messages, &self.events);
            self.messages.get_msg(&self.events, &os, BUF, 72).ok()?;
            let word = |n: u64| {
                let bytes = os.bytes(OsAddr(BUF.0 + 8 + 8 * n), 8);
                i64::from_be_bytes(bytes.try_into().unwrap())
            };
            Some((word(0).cast_unsigned(), word(1)))
        }
    }

    #[test]
    fn limits_are_read() {
        let (m, os) = (Machine::default(), Memory::new(0x2000));
        for (cap, watts) in Cap::ALL.into_iter().zip([20, 100, 90, 10]) {
            let answer = Power::get_cap(&m.occs, &os, Handle(cap.handle()), BUF);
            assert_eq!(answer, SUCCESS);
            assert_eq!(os.bytes(BUF, 4), [0, 0, 0, watts]);
        }
        let ratio = |handle| Power::get_ratio(&m.occs, &os, Handle(handle), BUF);
        assert_eq!(ratio(ratio_handle(1)), SUCCESS);
        assert_eq!(os.bytes(BUF, 4), [0, 0, 0, 60]);
    }

    #[test]
    fn bad_handles_and_pointers_are_refused() {
        let (m, os) = (Machine::default(), Memory::new(0x2000));
        let unsupported = Err(OpalError::OPAL_UNSUPPORTED);
        for handle in [4, 15, 16, 0x100, 1 << 24, u32::MAX] {
            assert_eq!(
                Power::get_cap(&m.occs, &os, Handle(handle), BUF),
                unsupported
            );
            assert_eq!(m.set_cap(Handle(handle), 1, 50), unsupported);
        }
        for handle in [1, 0x200, 0xf00, 0x1000, 1 << 24, u32::MAX] {
            assert_eq!(
                Power::get_ratio(&m.occs, &os, Handle(handle), BUF),
                unsupported
            );
            assert_eq!(m.set_ratio(handle, 1, 5), unsupported);
        }
        assert_eq!(m.set_cap(Handle(Cap::Max.handle()), 1, 50), unsupported);
        let bad = Err(OpalError::OPAL_PARAMETER);
        for buf in [0x1ffd, 0x2000, u64::MAX] {
            assert_eq!(Power::get_cap(&m.occs, &os, CURRENT, OsAddr(buf)), bad);
            assert_eq!(Power::get_ratio(&m.occs, &os, Handle(0), OsAddr(buf)), bad);
        }
        for watts in [19, 101, 0x1_0032, u32::MAX] {
            assert_eq!(m.set_cap(CURRENT, 1, watts), bad, "{watts}");
        }
        assert_eq!(m.set_ratio(0, 1, 101), bad);
        assert_eq!(m.set_ratio(0, 1, 256), bad);
        assert!(m.occs.commands.borrow().is_empty());
        m.occs.dead.set(true);
        let hardware = Err(OpalError::OPAL_HARDWARE);
        assert_eq!(Power::get_cap(&m.occs, &os, CURRENT, BUF), hardware);
        assert_eq!(m.set_cap(CURRENT, 1, 50), hardware);
        assert_eq!(m.set_ratio(0, 1, 5), hardware);
    }

    #[test]
    fn a_limit_is_set_and_told() {
        let m = Machine::default();
        assert_eq!(m.set_cap(CURRENT, 1, 90), SUCCESS, "it holds already");
        assert_eq!(m.set_cap(CURRENT, 7, 50), ASYNC);
        assert_eq!(m.set_cap(CURRENT, 8, 60), Err(OpalError::OPAL_BUSY));
        // What holds until the command ends.
        assert_eq!(m.set_cap(CURRENT, 8, 90), Err(OpalError::OPAL_BUSY));
        assert_eq!(m.message(), None);
        m.occs.answer.set(Some(SUCCESS));
        assert_eq!(m.message(), Some((7, 0)));
        assert_eq!(m.set_ratio(ratio_handle(1), 9, 5), ASYNC);
        let busy = Err(OpalError::OPAL_BUSY);
        assert_eq!(m.set_ratio(ratio_handle(1), 9, 60), busy);
        m.occs.answer.set(Some(Err(OpalError::OPAL_INTERNAL_ERROR)));
        assert_eq!(m.message(), Some((9, -11)));
        let commands = [(0, Command::SetCap(50)), (1, Command::SetRatio(5))];
        assert_eq!(*m.occs.commands.borrow(), commands);
        assert_eq!(m.set_cap(CURRENT, 10, 0), ASYNC, "0 lifts the limit");
    }

    #[test]
    fn a_controller_that_refuses_leaves_no_operation() {
        let m = Machine::default();
        m.occs.refusal.set(Some(OpalError::OPAL_PERMISSION));
        assert_eq!(m.set_cap(CURRENT, 7, 50), Err(OpalError::OPAL_PERMISSION));
        assert_eq!(m.messages.under_way(), 0);
    }

    #[test]
    fn a_silent_controller_is_asked_twice() {
        fake::set_step(Ticks::from_ms(300));
        let m = Machine::default();
        assert_eq!(m.set_cap(CURRENT, 7, 50), ASYNC);
        let mut polls = 0;
        while m.events.pending() != EventSet::MSG_PENDING {
            let _ = m.power.poll(&m.occs, &m.messages, &m.events);
            polls += 1;
            assert!(polls < 20);
        }
        assert_eq!(m.message(), Some((7, -6)));
        assert_eq!(m.occs.commands.borrow().len(), 2);
        assert_eq!(m.set_cap(CURRENT, 8, 50), ASYNC);
    }
}

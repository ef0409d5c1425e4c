//! What is moved on when the kernel polls or hands an interrupt of the firmware over: the console's input, transfers on
//! I2C, requests to the on-chip controllers and to the BMC, work on the flash.
//!
//! Surprising fact: an interrupt says only that somebody should look, so both ways look at the same devices.
#![forbid(unsafe_code)]

use isa::timebase;
use nest::bt;
use nest::psi::PsiSource;
use opal_calls::args::{AsyncToken, FlashId, Isn, OsAddr, Server};
use opal_calls::entry::Depth;
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::events::EventSet;
use opal_calls::flash::What;
use opal_calls::ipmi::Wish;
use opal_calls::messages::{Kind, Message};
use opal_calls::os_memory::OsMemory as _;

use super::i2c::Driven;
use super::serve::Opal;
use crate::stack;

impl Opal {
    /// Does what an interrupt of the firmware is for, but for the console: that is looked at after every one.
    pub(super) fn serve_interrupt(&self, isn: Isn) -> Result<(), OpalError> {
        let all = &self.xive.controllers().bridges;
        let source = all.find(isn).ok_or(OpalError::OPAL_PARAMETER)?;
        if source == PsiSource::Lpc
            && let Some((errors, address)) = self.machine.bus().serve_errors()
        {
            crate::limited!(warn, "LPC errors {errors:?}, the last at {address:#x}");
        }
        Ok(())
    }

    pub(super) fn poll(&self, me: Server, depth: Depth, events: OsAddr) -> Answer {
        if events.0 != 0 {
            self.os.check(events, 8)?;
        }
        // Who polls needs no interrupt to look again.
        let _ = self.console.poll(me, &self.events);
        // A call that this one interrupted may be at any of these.
        let more = if depth.is_nested() {
            EventSet::NONE
        } else {
            stack::look(timebase::now().0);
            self.poll_devices()
        };
        if events.0 != 0 {
            self.os
                .write_be64(events, (self.events.pending() | more).0)?;
        }
        SUCCESS
    }

    /// A request for the flash. Polling is what moves it on.
    pub(super) fn ask_flash(
        &self,
        token: AsyncToken,
        id: FlashId,
        range: (u64, u64),
        what: What,
    ) -> Answer {
        let (flash, device) = self.flash.as_ref().ok_or(OpalError::OPAL_UNSUPPORTED)?;
        flash.request(device, &self.messages, &self.os, token, id, range, what)
    }

    /// Another kernel starts: the firmware stops writing to the memory of this one.
    pub(super) fn stop_flash_reads(&self) {
        if let Some((flash, _)) = &self.flash {
            // Who asks for this looks for what came of it by himself, or never.
            let _ = flash.stop_reads(&self.messages, &self.events);
        }
    }

    /// Moves transfers on. Who asks for one, or polls, looks for its end by itself.
    pub(super) fn poll_i2c(&self) {
        let buses = Driven(&self.i2c_buses, &self.xscom);
        let _ = (self.i2c).poll(&buses, &self.messages, &self.events, &self.os);
    }

    /// Moves on what others do for the kernel. Who polls needs no interrupt to look again, but may need a reason to.
    fn poll_devices(&self) -> EventSet {
        let _ = self.power.poll(&self.occs, &self.messages, &self.events);
        self.poll_i2c();
        if let Some((ipmi, bmc)) = &self.ipmi {
            bt::serve_interrupt(self.machine.bus());
            let _ = ipmi.poll(bmc, &self.events);
            if let Some(wish) = ipmi.take_wish() {
                self.pass_on(wish);
            }
        }
        // After the BMC's events: they say whether the flash is there.
        match &self.flash {
            Some((flash, device)) => flash.poll(device, &self.messages, &self.events, &self.os).0,
            None => EventSet::NONE,
        }
    }

    /// Tells the kernel that somebody pressed a button.
    fn pass_on(&self, wish: Wish) {
        let message = Message::words(Kind::Shutdown, &[wish as u64]);
        let pushed = message.is_ok_and(|message| self.messages.push(&self.events, message).is_ok());
        if !pushed {
            crate::limited!(
                warn,
                "the kernel does not fetch its messages: {wish:?} is lost"
            );
        }
    }
}

//! OPAL_SYNC_HOST_REBOOT: before another kernel starts, nothing of this one's is under way or waits to be fetched.
//!
//! Owns that one thread does it at a time. The surprising fact: the call is repeated until it succeeds, so what is under way
//! is not waited for here, and a second caller is only told to come again.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Answer, OpalError, SUCCESS};
use crate::events::Events;
use crate::ipmi::Ipmi;
use crate::messages::Messages;

/// Whether a thread is at it.
#[derive(Debug, Default)]
pub struct HostSync {
    busy: AtomicBool,
}

/// Lets the next one in.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl HostSync {
    /// Nobody is.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
        }
    }

    /// Serves the call: forgets what waits for a kernel that goes away.
    ///
    /// # Errors
    /// OPAL_BUSY: another thread is at it. OPAL_BUSY_EVENT: an operation has not ended; nothing is forgotten.
    pub fn serve(&self, messages: &Messages, ipmi: Option<&Ipmi>, events: &Events) -> Answer {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(OpalError::OPAL_BUSY);
        }
        let _turn = Turn(&self.busy);
        if !messages.forget_when_idle(events) {
            return Err(OpalError::OPAL_BUSY_EVENT);
        }
        if let Some(ipmi) = ipmi {
            ipmi.forget(events);
        }
        SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::HostSync;
    use crate::args::AsyncToken;
    use crate::error::{OpalError, SUCCESS};
    use crate::events::{EventSet, Events};
    use crate::messages::{Kind, Message, Messages};

    #[test]
    fn one_at_a_time() {
        let (sync, messages, events) = (HostSync::new(), Messages::new(), Events::new());
        sync.busy.store(true, Ordering::SeqCst);
        let busy = Err(OpalError::OPAL_BUSY);
        assert_eq!(sync.serve(&messages, None, &events), busy);
        assert_eq!(sync.serve(&messages, None, &events), busy, "still");
        sync.busy.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(sync.serve(&messages, None, &events), SUCCESS);
        }
    }

    #[test]
    fn what_is_under_way_is_not_forgotten() {
        let (sync, messages, events) = (HostSync::new(), Messages::new(), Events::new());
        let message = Message::words(Kind::Shutdown, &[1]).unwrap();
        let _ = messages.push(&events, message).unwrap();
        let ticket = messages.begin(AsyncToken(3)).unwrap();
        let later = Err(OpalError::OPAL_BUSY_EVENT);
        assert_eq!(sync.serve(&messages, None, &events), later);
        assert_eq!(events.pending(), EventSet::MSG_PENDING);
        let _ = messages.complete(&events, &ticket, SUCCESS, &[]);
        assert_eq!(sync.serve(&messages, None, &events), SUCCESS);
        assert_eq!(events.pending(), EventSet::NONE);
    }

    /// Two callers and a third thread that begins operations: none that was begun is lost.
    #[test]
    fn racing_callers_lose_no_operation() {
        let (sync, messages, events) = (HostSync::new(), Messages::new(), Events::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let answer = sync.serve(&messages, None, &events);
                        let allowed = [OpalError::OPAL_BUSY, OpalError::OPAL_BUSY_EVENT];
                        assert!(answer == SUCCESS || allowed.map(Err).contains(&answer));
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..2000 {
                    if let Ok(ticket) = messages.begin(AsyncToken(5)) {
                        assert_eq!(messages.under_way(), 1, "forgotten while under way");
                        messages.cancel(&ticket);
                    }
                }
            });
        });
    }
}

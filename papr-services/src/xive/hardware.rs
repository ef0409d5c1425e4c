//! What exploitation mode needs of the controllers, as a trait.
//!
//! The surprising fact: an error means that nothing was changed. What was changed and only not confirmed in time is no
//! error of these calls, since the partition would believe that the old state holds; [`Hardware::sync`] is the call that
//! tells of what is late.

use isa::addr::Ra;

use crate::error::HCode;

/// What went wrong in the controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They were busy; nothing was changed.
    Busy,
    /// They do not answer, or refuse what was checked.
    Failed,
}

impl From<Fault> for HCode {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Busy => Self::H_LONG_BUSY_ORDER_1_MSEC,
            Fault::Failed => Self::H_HARDWARE,
        }
    }
}

/// Where a source's events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// vCPU.
    pub server: u32,
    /// Below [`PRIORITIES`](super::PRIORITIES).
    pub priority: u8,
    /// What its queue gets, 31 bits.
    pub eisn: u32,
}

/// Where a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Real address: memory of the partition, aligned to the size.
    pub memory: Ra,
    /// Log2 of its bytes, one of [`QUEUE_SIZES`](super::QUEUE_SIZES).
    pub log2: u32,
    /// Notify for each event, not once until the notification ends.
    pub always_notify: bool,
}

/// The controllers, for one partition. Sources and servers are those that it was made with; priorities and queues have been
/// checked. Every thread of the partition calls.
pub trait Hardware: Send + Sync {
    /// Routes a source; `None` masks it. What it sent before may still be on its way: see [`Self::sync`].
    ///
    /// # Errors
    /// [`Fault`]; the route is what it was.
    fn route(&self, lisn: u32, route: Option<Route>) -> Result<(), Fault>;

    /// Sets a queue up, empty, or turns it off.
    ///
    /// # Errors
    /// [`Fault`].
    fn set_queue(&self, server: u32, priority: u8, queue: Option<Queue>) -> Result<(), Fault>;

    /// Generation and next entry of a queue that is on.
    ///
    /// # Errors
    /// [`Fault`].
    fn queue_position(&self, server: u32, priority: u8) -> Result<(bool, u32), Fault>;

    /// Where the acknowledgements of a vCPU report to; `None` for nowhere.
    ///
    /// # Errors
    /// [`Fault`].
    fn set_report(&self, server: u32, lines: Option<Ra>) -> Result<(), Fault>;

    /// Loads from a source's management page.
    ///
    /// # Errors
    /// [`Fault`].
    fn esb_load(&self, lisn: u32, offset: u64) -> Result<u64, Fault>;

    /// Stores to a source's management page.
    ///
    /// # Errors
    /// [`Fault`].
    fn esb_store(&self, lisn: u32, offset: u64, value: u64) -> Result<(), Fault>;

    /// Turns a source off: what it sends is lost.
    ///
    /// # Errors
    /// [`Fault`].
    fn turn_off(&self, lisn: u32) -> Result<(), Fault>;

    /// Waits until what any source sent has arrived where the source led then.
    ///
    /// # Errors
    /// [`Fault`].
    fn sync(&self) -> Result<(), Fault>;

    /// Gives the calling thread, which has none, the context of a vCPU: nothing pending, reports to nowhere.
    ///
    /// # Errors
    /// [`Fault`].
    fn start(&self, server: u32) -> Result<(), Fault>;

    /// Makes the source of a device of the firmware's send an interrupt.
    fn trigger(&self, lisn: u32);

    /// Whether an interrupt is presented to the vCPU of the calling thread.
    fn presents(&self) -> bool;
}

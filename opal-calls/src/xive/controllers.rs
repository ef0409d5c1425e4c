//! What the XIVE calls need of the interrupt controllers: a trait, and the types that cross it.
//!
//! Implemented where both the calls and the driver are known. The surprising fact: nothing here is trusted to exist; an
//! implementation looks every number up and answers [`Fault::NoSuch`].

use isa::addr::Ra;

use super::ids::{At, Source};
use crate::args::ChipId;
use crate::error::OpalError;

/// Why a controller did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What was named does not exist, or cannot be like this.
    NoSuch,
    /// The queue or virtual processor is not enabled.
    Disabled,
    /// A virtual processor is still enabled.
    Active,
    /// Nothing left.
    Full,
    /// The tables need more pages.
    NoPages,
    /// The controller keeps changing the entry.
    Busy,
    /// The controller does not answer.
    Stuck,
}

impl From<Fault> for OpalError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoSuch => Self::OPAL_PARAMETER,
            Fault::Disabled => Self::OPAL_WRONG_STATE,
            Fault::Active => Self::OPAL_XIVE_FREE_ACTIVE,
            Fault::Full => Self::OPAL_RESOURCE,
            Fault::NoPages => Self::OPAL_XIVE_PROVISIONING,
            Fault::Busy => Self::OPAL_BUSY,
            Fault::Stuck => Self::OPAL_HARDWARE,
        }
    }
}

/// A source's pages, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Page of the operations on its state.
    pub management: Ra,
    /// Page that triggers it, if it has one of its own.
    pub trigger: Option<Ra>,
    /// Log2 of the step from source to source.
    pub shift: u32,
    /// It is a level.
    pub level: bool,
    /// A store can end its interrupt.
    pub store_eoi: bool,
    /// Its chip.
    pub chip: ChipId,
}

/// Where a source's events go. `priority` is `None` for masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The virtual processor; `None` (only in answers) when the source was never routed.
    pub vp: Option<At>,
    /// Priority.
    pub priority: Option<u8>,
    /// What the queue gets, 31 bits.
    pub lirq: u32,
}

/// An event queue as a kernel sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Address and log2 of its bytes.
    pub memory: Option<(Ra, u32)>,
    /// Notify for each event.
    pub always_notify: bool,
    /// Escalate when its virtual processor does not run.
    pub escalate: bool,
}

/// An event queue as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// In use.
    pub enabled: bool,
    /// As it was set up; `None` for one that gathers escalations.
    pub queue: Option<Queue>,
    /// Page of its state.
    pub management: Ra,
    /// Event descriptor that escalates for it.
    pub escalation: At,
}

/// A virtual processor as a kernel sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VpSetup {
    /// One escalation for all queues.
    pub single_escalation: bool,
    /// Lines for reports, or 0.
    pub report: Ra,
}

/// A virtual processor as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VpInfo {
    /// In use.
    pub enabled: bool,
    /// One escalation for all queues.
    pub single_escalation: bool,
    /// The chip saves and restores its context.
    pub save_restore: bool,
    /// What pushes it, without the valid bit.
    pub cam: u32,
    /// Lines for reports, or 0.
    pub report: Ra,
}

/// What can be written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// A ring of a thread's context, by PIR: 0 user, 1 operating system, 2 pool, 3 physical.
    Ring(u32, u8),
    /// A virtual processor.
    Vp(At),
}

/// The interrupt controllers of the machine. What is named may not exist: that is [`Fault::NoSuch`].
#[expect(clippy::missing_errors_doc, reason = "all fail as Fault says")]
pub trait Controllers {
    /// Log2 of the number of controllers over which virtual processors are spread.
    fn spread(&self) -> u8;
    /// The chip of a controller.
    fn chip_of(&self, block: u8) -> Option<ChipId>;
    /// The controller of a chip.
    fn block_of(&self, chip: ChipId) -> Option<u8>;
    /// The chip that this thread runs on.
    fn this_chip(&self) -> ChipId;
    /// All controllers.
    fn blocks(&self) -> u8;
    /// The virtual processor of a hardware thread.
    fn thread_vp(&self, pir: u32) -> Option<At>;
    /// The hardware thread of a virtual processor.
    fn thread_of(&self, vp: At) -> Option<u32>;

    /// Describes a source.
    fn source(&self, source: Source) -> Result<SourceInfo, Fault>;
    /// Where a source's events go.
    fn route(&self, source: Source) -> Result<Route, Fault>;
    /// Routes a source to `vp`; events in flight have landed on return.
    fn set_route(
        &self,
        source: Source,
        vp: At,
        priority: Option<u8>,
        lirq: u32,
    ) -> Result<(), Fault>;
    /// Gives out an interrupt of a controller.
    fn allocate_source(&self, block: u8) -> Result<At, Fault>;
    /// Takes one back.
    fn free_source(&self, source: At) -> Result<(), Fault>;
    /// Waits for events in flight.
    fn sync(&self, block: u8) -> Result<(), Fault>;

    /// Describes a queue.
    fn queue(&self, vp: At, priority: u8) -> Result<QueueInfo, Fault>;
    /// Sets a queue up, or turns it off.
    fn set_queue(&self, vp: At, priority: u8, queue: Option<Queue>) -> Result<(), Fault>;
    /// Generation and next entry of a queue.
    fn queue_position(&self, vp: At, priority: u8) -> Result<(bool, u32), Fault>;
    /// Sets them.
    fn set_queue_position(
        &self,
        vp: At,
        priority: u8,
        generation: bool,
        entry: u32,
    ) -> Result<(), Fault>;

    /// Gives a controller a page of 64 KiB, until the next reset.
    fn donate(&self, block: u8, page: Ra) -> Result<(), Fault>;
    /// Gives out 2^`order` virtual processors on each of 2^`spread` controllers; the first index.
    fn allocate_vps(&self, order: u8) -> Result<u32, Fault>;
    /// Takes them back.
    fn free_vps(&self, first: u32, order: u8) -> Result<(), Fault>;
    /// Describes a virtual processor.
    fn vp(&self, vp: At) -> Result<VpInfo, Fault>;
    /// Enables a virtual processor, or disables it.
    fn set_vp(&self, vp: At, setup: Option<VpSetup>) -> Result<(), Fault>;
    /// Saved state of a virtual processor, as words 0 and 1 of its ring.
    fn vp_state(&self, vp: At) -> Result<u64, Fault>;

    /// Brings all to its first state, the firmware's own sources included.
    fn reset(&self) -> Result<(), Fault>;
    /// Writes something to the log.
    fn dump(&self, what: Dump) -> Result<(), Fault>;
}

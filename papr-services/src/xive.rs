//! XIVE exploitation mode (LoPAR 14.5.4.7, "H_INT_*"): the partition routes its interrupts by hypercalls, and takes, ends
//! and sends them by its own loads and stores, without the firmware.
//!
//! Owns the contract: what the calls accept, where the partition finds the pages, and what it last asked for. The
//! controllers are behind [`Hardware`]. One lock for all of it, [`Exploitation::state`], is held over the calls
//! of [`Hardware`] that change what was asked for, so that what is answered and what the controllers do agree; none of them is
//! frequent.
//!
//! The surprising fact: an interrupt that arrives, is taken and ends never comes by here. Only its route does.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use isa::addr::{Gra, Ra};
use isa::lock::{Mutex, rank};

pub use self::hardware::{Fault, Hardware, Queue, Route};
use crate::error::{Answer, HCode, Outputs};
use crate::guest_ram::GuestRam;
use crate::term;

mod hardware;

/// Where the partition finds things. All of it is beyond any memory, below 2^51, and in pages of 64 KiB.
pub mod place {
    use isa::addr::Gra;

    /// Sources' pages, 128 KiB for each source number: trigger, then management.
    pub const SOURCES: Gra = Gra(0x0006_0100_0000_0000);
    /// Queues' pages of notification, 64 KiB each: eight for each server.
    pub const QUEUES: Gra = Gra(0x0006_0200_0000_0000);
    /// The thread interrupt management area: four pages, of which the partition has the last two.
    pub const AREA: Gra = Gra(0x0006_0302_0318_0000);
    /// Pages of the area: what an operating system uses, and what its users may.
    pub const OS_PAGE: u64 = 2;
    /// See [`OS_PAGE`].
    pub const USER_PAGE: u64 = 3;
    /// Log2 of a page.
    pub const SHIFT: u32 = 16;

    /// Page `n` from `base`.
    pub(super) const fn page(base: Gra, n: u64) -> Gra {
        Gra(base.0.saturating_add(n.saturating_mul(1 << SHIFT)))
    }
}

/// Priorities that a partition can use, from 0; the others, up to 0xfe, are the firmware's.
pub const PRIORITIES: u8 = 7;
/// "Masked" as a priority.
const MASKED: u64 = 0xff;
/// Log2 of the sizes that a queue can have.
pub const QUEUE_SIZES: [u32; 4] = [12, 16, 21, 24];
/// Fewest sources for inter-processor interrupts, so that a partition with one processor has some to try.
const FEWEST_IPIS: u32 = 16;
/// Bytes of the lines that a report goes to, also their alignment.
const REPORT_BYTES: u64 = 256;
/// What an address is when there is none.
const NOWHERE: u64 = u64::MAX;
/// Data of a queue entry: the bit above is the generation.
const EISN_BITS: u64 = 0x7fff_ffff;

/// Flags of the calls, in and out.
mod flag {
    /// H_INT_GET_SOURCE_INFO: a store can end an interrupt.
    pub(super) const STORE_EOI: u64 = 1;
    /// H_INT_SET_SOURCE_CONFIG: masked.
    pub(super) const MASK: u64 = 1;
    /// H_INT_SET_SOURCE_CONFIG: there is data for the queue.
    pub(super) const SET_EISN: u64 = 2;
    /// H_INT_{SET,GET}_QUEUE_CONFIG: notify for each event.
    pub(super) const ALWAYS_NOTIFY: u64 = 1;
    /// H_INT_GET_QUEUE_CONFIG: tell the position too.
    pub(super) const POSITION: u64 = 1;
    /// H_INT_GET_QUEUE_CONFIG: the generation, if the position is told.
    pub(super) const GENERATION: u64 = 2;
    /// H_INT_ESB: store, do not load.
    pub(super) const STORE: u64 = 1;
}

/// What the partition asked for, of one source.
#[derive(Clone, Copy, Debug)]
struct Source {
    lisn: u32,
    route: Route,
    masked: bool,
}

impl Source {
    const fn new(lisn: u32) -> Self {
        Self {
            lisn,
            route: Route {
                server: 0,
                priority: 0,
                eisn: 0,
            },
            masked: true,
        }
    }
}

/// What the partition asked for, of one queue.
#[derive(Clone, Copy, Debug)]
struct QueueSetup {
    page: Gra,
    log2: u32,
    always_notify: bool,
}

/// What the partition asked for, of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
struct Server {
    queues: [Option<QueueSetup>; PRIORITIES as usize],
    report: Option<Gra>,
}

struct State {
    sources: Vec<Source>,
    servers: Vec<Server>,
}

impl State {
    fn source(&mut self, lisn: u64) -> Result<&mut Source, HCode> {
        let lisn = u32::try_from(lisn).map_err(|_| HCode::H_P2)?;
        self.sources
            .iter_mut()
            .find(|source| source.lisn == lisn)
            .ok_or(HCode::H_P2)
    }

    fn server(&mut self, number: u64) -> Option<&mut Server> {
        self.servers.get_mut(usize::try_from(number).ok()?)
    }

    /// The place of a queue, `server` and `priority` as the partition gave them.
    fn queue(
        &mut self,
        server: u64,
        priority: u64,
    ) -> Result<(u32, u8, &mut Option<QueueSetup>), HCode> {
        let level = usable(priority).ok_or(HCode::H_P3)?;
        let number = u32::try_from(server).map_err(|_| HCode::H_P2)?;
        let queues = &mut self.server(server).ok_or(HCode::H_P2)?.queues;
        let queue = queues.get_mut(usize::from(level)).ok_or(HCode::H_P3)?;
        Ok((number, level, queue))
    }
}

/// A priority that a partition can use.
fn usable(priority: u64) -> Option<u8> {
    u8::try_from(priority).ok().filter(|p| *p < PRIORITIES)
}

fn only(flags: u64, allowed: u64) -> Result<(), HCode> {
    if flags & !allowed == 0 {
        Ok(())
    } else {
        Err(HCode::H_PARAMETER)
    }
}

/// The real address of `bytes` at `page`, if they are memory of the partition in one piece, aligned to their size.
fn aligned(ram: &GuestRam, page: u64, bytes: u64) -> Option<Ra> {
    let (memory, contiguous) = ram.translate(Gra(page))?;
    let fits = Gra(page).is_aligned(bytes) && memory.is_aligned(bytes) && contiguous >= bytes;
    fits.then_some(memory)
}

/// A partition's interrupts in exploitation mode.
pub struct Exploitation {
    hardware: Box<dyn Hardware>,
    store_eoi: bool,
    state: Mutex<State, rank::Interrupts>,
}

/// How many sources a partition with that many vCPUs has for inter-processor interrupts. They are numbered from 0.
#[must_use]
pub fn ipis(vcpus: NonZeroU16) -> u32 {
    u32::from(vcpus.get()).max(FEWEST_IPIS)
}

/// The numbers of all sources of a partition with that many vCPUs.
pub fn sources(vcpus: NonZeroU16) -> impl Iterator<Item = u32> + Clone {
    (0..ipis(vcpus)).chain([term::SOURCE])
}

/// A source's pages: trigger, management.
#[must_use]
pub fn source_pages(lisn: u32) -> [Gra; 2] {
    let first = u64::from(lisn).saturating_mul(2);
    [first, first.saturating_add(1)].map(|n| place::page(place::SOURCES, n))
}

/// The page of a queue's notification.
#[must_use]
pub fn queue_page(server: u32, priority: u8) -> Gra {
    const PER_SERVER: u64 = 8;
    let first = u64::from(server).saturating_mul(PER_SERVER);
    place::page(place::QUEUES, first.saturating_add(priority.into()))
}

/// A page of the thread interrupt management area.
#[must_use]
pub fn area_page(n: u64) -> Gra {
    place::page(place::AREA, n)
}

impl Exploitation {
    /// Interrupts of a partition with that many vCPUs: all sources masked and off, no queue. `store_eoi`: a store to a
    /// source's management page can end an interrupt.
    #[must_use]
    pub fn new(vcpus: NonZeroU16, store_eoi: bool, hardware: Box<dyn Hardware>) -> Self {
        let servers = (0..vcpus.get()).map(|_| Server::default());
        Self {
            hardware,
            store_eoi,
            state: Mutex::new(State {
                sources: sources(vcpus).map(Source::new).collect(),
                servers: servers.collect(),
            }),
        }
    }

    /// Whether an interrupt is presented to the vCPU of the calling thread.
    #[must_use]
    pub fn presents(&self) -> bool {
        self.hardware.presents()
    }

    /// The source of a device of the firmware's sends an interrupt.
    pub fn trigger(&self, lisn: u32) {
        self.hardware.trigger(lisn);
    }

    /// vCPU `id` starts on the calling thread: nothing is pending for it, and its reports go nowhere. Its queues stay.
    ///
    /// # Errors
    /// [`Fault`]: it has no interrupts then.
    pub fn vcpu_starts(&self, id: u32) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let server = state.server(id.into()).ok_or(Fault::Failed)?;
        self.hardware.start(id)?;
        server.report = None;
        Ok(())
    }

    /// H_INT_GET_SOURCE_INFO.
    pub(crate) fn source_info(&self, flags: u64, lisn: u64) -> Answer {
        only(flags, 0)?;
        let lisn = self.state.lock().source(lisn)?.lisn;
        let [trigger, management] = source_pages(lisn);
        let flags = if self.store_eoi { flag::STORE_EOI } else { 0 };
        Ok([flags, management.0, trigger.0, place::SHIFT.into()].into())
    }

    /// H_INT_SET_SOURCE_CONFIG.
    pub(crate) fn set_source(
        &self,
        flags: u64,
        lisn: u64,
        target: u64,
        priority: u64,
        eisn: u64,
    ) -> Answer {
        only(flags, flag::MASK | flag::SET_EISN)?;
        let mut state = self.state.lock();
        let servers = state.servers.len();
        let source = state.source(lisn)?;
        let mut route = source.route;
        let masked = priority == MASKED || flags & flag::MASK != 0;
        if priority == MASKED {
            // Nothing is left of what it was, as at first, but where it went.
            route.eisn = 0;
        } else {
            route.priority = usable(priority).ok_or(HCode::H_P4)?;
            let exists = usize::try_from(target).is_ok_and(|target| target < servers);
            let target = u32::try_from(target).ok().filter(|_| exists);
            route.server = target.ok_or(HCode::H_P3)?;
            if flags & flag::SET_EISN != 0 {
                let fits = u32::try_from(eisn).ok().filter(|_| eisn <= EISN_BITS);
                route.eisn = fits.ok_or(HCode::H_P5)?;
            }
        }
        self.hardware
            .route(source.lisn, (!masked).then_some(route))
            .map_err(HCode::from)?;
        (source.route, source.masked) = (route, masked);
        // What is late takes nothing back: the route is as asked for. The partition has H_INT_SYNC to be sure.
        let _ = self.hardware.sync();
        Ok(Outputs::NONE)
    }

    /// H_INT_GET_SOURCE_CONFIG.
    pub(crate) fn source_config(&self, flags: u64, lisn: u64) -> Answer {
        only(flags, 0)?;
        let Source { route, masked, .. } = *self.state.lock().source(lisn)?;
        let priority = if masked {
            MASKED
        } else {
            route.priority.into()
        };
        Ok([route.server.into(), priority, route.eisn.into()].into())
    }

    /// H_INT_GET_QUEUE_INFO.
    pub(crate) fn queue_info(&self, flags: u64, target: u64, priority: u64) -> Answer {
        only(flags, 0)?;
        let mut state = self.state.lock();
        let (server, level, _) = state.queue(target, priority)?;
        Ok([queue_page(server, level).0, place::SHIFT.into()].into())
    }

    /// H_INT_SET_QUEUE_CONFIG.
    pub(crate) fn set_queue(
        &self,
        ram: &GuestRam,
        flags: u64,
        target: u64,
        priority: u64,
        page: u64,
        size: u64,
    ) -> Answer {
        only(flags, flag::ALWAYS_NOTIFY)?;
        let mut state = self.state.lock();
        let (server, level, queue) = state.queue(target, priority)?;
        let always_notify = flags & flag::ALWAYS_NOTIFY != 0;
        let (setup, new) = if size == 0 {
            (None, None)
        } else {
            let log2 = QUEUE_SIZES.into_iter().find(|s| u64::from(*s) == size);
            let log2 = log2.ok_or(HCode::H_P5)?;
            let bytes = 1_u64.checked_shl(log2).ok_or(HCode::H_P5)?;
            let memory = aligned(ram, page, bytes).ok_or(HCode::H_P4)?;
            let setup = QueueSetup {
                page: Gra(page),
                log2,
                always_notify,
            };
            let new = Queue {
                memory,
                log2,
                always_notify,
            };
            (Some(setup), Some(new))
        };
        self.hardware
            .set_queue(server, level, new)
            .map_err(HCode::from)?;
        *queue = setup;
        Ok(Outputs::NONE)
    }

    /// H_INT_GET_QUEUE_CONFIG.
    pub(crate) fn queue_config(&self, flags: u64, target: u64, priority: u64) -> Answer {
        only(flags, flag::POSITION)?;
        let mut state = self.state.lock();
        let (server, level, queue) = state.queue(target, priority)?;
        let Some(setup) = *queue else {
            return Ok([0, 0, 0, 0].into());
        };
        let mut out = 0;
        if setup.always_notify {
            out |= flag::ALWAYS_NOTIFY;
        }
        let mut entry = 0;
        if flags & flag::POSITION != 0 {
            let (generation, next) = self
                .hardware
                .queue_position(server, level)
                .map_err(HCode::from)?;
            if generation {
                out |= flag::GENERATION;
            }
            entry = next.into();
        }
        Ok([out, setup.page.0, setup.log2.into(), entry].into())
    }

    /// H_INT_SET_OS_REPORTING_LINE of vCPU `id`.
    pub(crate) fn set_report(&self, ram: &GuestRam, id: u32, flags: u64, lines: u64) -> Answer {
        only(flags, 0)?;
        let memory = match lines {
            NOWHERE => None,
            _ => Some(aligned(ram, lines, REPORT_BYTES).ok_or(HCode::H_P2)?),
        };
        let mut state = self.state.lock();
        let server = state.server(id.into()).ok_or(HCode::H_HARDWARE)?;
        self.hardware.set_report(id, memory).map_err(HCode::from)?;
        server.report = memory.map(|_| Gra(lines));
        Ok(Outputs::NONE)
    }

    /// H_INT_GET_OS_REPORTING_LINE.
    pub(crate) fn report(&self, flags: u64, target: u64) -> Answer {
        only(flags, 0)?;
        let report = self.state.lock().server(target).ok_or(HCode::H_P2)?.report;
        Ok([report.map_or(NOWHERE, |lines| lines.0)].into())
    }

    /// H_INT_ESB.
    pub(crate) fn esb(&self, flags: u64, lisn: u64, offset: u64, data: u64) -> Answer {
        only(flags, flag::STORE)?;
        let lisn = self.state.lock().source(lisn)?.lisn;
        if offset >= 1 << place::SHIFT || !offset.is_multiple_of(8) {
            return Err(HCode::H_P3.into());
        }
        let hardware = &self.hardware;
        let answer = if flags & flag::STORE != 0 {
            hardware.esb_store(lisn, offset, data).map(|()| u64::MAX)
        } else {
            hardware.esb_load(lisn, offset)
        };
        Ok([answer.map_err(HCode::from)?].into())
    }

    /// H_INT_SYNC.
    pub(crate) fn sync(&self, flags: u64, lisn: u64) -> Answer {
        only(flags, 0)?;
        self.state.lock().source(lisn)?;
        self.hardware.sync().map_err(HCode::from)?;
        Ok(Outputs::NONE)
    }

    /// H_INT_RESET: all as at first, whatever fails on the way. What was presented and not taken stays so.
    pub(crate) fn reset(&self, flags: u64) -> Answer {
        only(flags, 0)?;
        let mut state = self.state.lock();
        let State { sources, servers } = &mut *state;
        let hardware = &self.hardware;
        let mut outcome = Ok(());
        let mut note = |done: Result<(), Fault>| outcome = outcome.and(done);
        for source in sources.iter_mut() {
            note(hardware.turn_off(source.lisn));
            note(hardware.route(source.lisn, None));
            *source = Source::new(source.lisn);
        }
        note(hardware.sync());
        for (number, server) in (0..).zip(servers.iter_mut()) {
            // What could not be taken back is still known to be there, so that the call can be repeated.
            for (priority, queue) in (0..).zip(server.queues.iter_mut()) {
                if queue.is_some() {
                    let done = hardware.set_queue(number, priority, None);
                    if done.is_ok() {
                        *queue = None;
                    }
                    note(done);
                }
            }
            if server.report.is_some() {
                let done = hardware.set_report(number, None);
                if done.is_ok() {
                    server.report = None;
                }
                note(done);
            }
        }
        outcome.map_err(HCode::from)?;
        Ok(Outputs::NONE)
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! Where events go: sources to queues, and the queues themselves.
//!
//! Owns the operations on assignments and on event descriptors. The surprising fact: routing never touches a source's
//! P and Q; a kernel that masks a source this way loses events unless it turns the source off as well.

use isa::addr::Ra;

use super::controller::{Locked, PRIORITIES};
use super::memory::{ENDS_LOG2, TableMemory};
use super::registers::{PAGE, PAGE_SHIFT, Windows};
use super::tables::{Eas, End, Index, end};
use super::{HW_THREADS, HW_VP_BASE, Pages, Source, SourceGroup, Unit, Xive, XiveError};
use crate::scom::ChipIndex;

/// Where the events of a source are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The virtual processor.
    pub vp: Index,
    /// Priority; `None` for masked.
    pub priority: Option<u8>,
    /// What the queue gets, 31 bits.
    pub data: u32,
}

/// Where the events of a source go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteInfo {
    /// The virtual processor, if the route ever led to one.
    pub vp: Option<Index>,
    /// Priority; `None` for masked.
    pub priority: Option<u8>,
    /// What the queue gets.
    pub data: u32,
}

/// Pages of a source, and what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceInfo {
    /// Page of the operations on P and Q.
    pub management: Ra,
    /// Page whose stores trigger the source, if it has one of its own.
    pub trigger: Option<Ra>,
    /// Log2 of the step from source to source.
    pub shift: u32,
    /// It is a level.
    pub level: bool,
    /// A store can end its interrupt.
    pub store_eoi: bool,
    /// Its chip.
    pub chip: ChipIndex,
}

/// How a queue is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Memory and log2 of its bytes; `None` for events without a queue.
    pub memory: Option<(Ra, u32)>,
    /// Notify for each event.
    pub always_notify: bool,
    /// Escalate when the virtual processor does not run.
    pub escalate: bool,
}

/// A queue as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueInfo {
    /// It is in use.
    pub enabled: bool,
    /// As it was set up; `None` for the one that gathers escalations.
    pub queue: Option<Queue>,
    /// Page of the notification's P and Q.
    pub management: Ra,
    /// The source that escalates for this queue.
    pub escalation: Index,
}

impl<W: Windows, T: TableMemory> Locked<'_, W, T> {
    /// The event descriptor of a virtual processor's priority.
    fn end_of(&self, vp: u32, priority: u8) -> Result<Index, XiveError> {
        if priority >= PRIORITIES {
            return Err(XiveError::NoPriority);
        }
        Ok(self.allocated_nvp(vp)?.1.plus(priority))
    }

    /// The virtual processor that an event descriptor of this block is for.
    fn vp_of_end(&self, index: u32) -> Option<Index> {
        let thread = (index / u32::from(PRIORITIES)).checked_sub(1)?;
        if thread < HW_THREADS {
            return Some(Index {
                block: self.chip.block,
                index: HW_VP_BASE + thread,
            });
        }
        let end = self.load_end(index).ok()?;
        end.has(&end::VALID).then(|| end.vp())
    }

    /// The assignment of a source, wherever it is kept.
    fn assignment(&self, source: Source) -> Result<Eas, XiveError> {
        match source {
            Source::Interrupt(at) => self.eas(at.index),
            Source::Escalation(at) => {
                let end = self.load_end(at.index).map_err(|_| XiveError::NoSource)?;
                // The escalations of a processor that gathers them are one: that of the gathering queue.
                if end.has(&end::UNCONDITIONAL) {
                    return Err(XiveError::NoSource);
                }
                Ok(end.escalation())
            }
        }
    }
}

impl<W: Windows, T: TableMemory> Xive<W, T> {
    fn of_source(&self, source: Source) -> Result<Locked<'_, W, T>, XiveError> {
        let chip = self.controller(source.index().block);
        Ok(chip.map_err(|_| XiveError::NoSource)?.lock(&self.tables))
    }

    fn of_vp(&self, vp: Index) -> Result<Locked<'_, W, T>, XiveError> {
        let chip = self.controller(vp.block);
        Ok(chip.map_err(|_| XiveError::NoVp)?.lock(&self.tables))
    }

    /// Describes a source.
    ///
    /// # Errors
    /// [`XiveError::NoSource`].
    pub fn source(&self, source: Source) -> Result<SourceInfo, XiveError> {
        let locked = self.of_source(source)?;
        let chip = locked.chip;
        let at = u64::from(source.index().index);
        let own = |base: Ra| Ra(chip.at(base).0 + at * 2 * PAGE);
        let two_pages = SourceInfo {
            management: own(chip.map.xive_esb)
                .checked_add(PAGE)
                .ok_or(XiveError::NoSource)?,
            trigger: Some(own(chip.map.xive_esb)),
            shift: PAGE_SHIFT + 1,
            level: false,
            store_eoi: chip.capabilities.store_eoi,
            chip: chip.chip,
        };
        match source {
            Source::Escalation(index) if index.index < 1 << ENDS_LOG2 => Ok(SourceInfo {
                management: own(chip.map.xive_end)
                    .checked_add(PAGE)
                    .ok_or(XiveError::NoSource)?,
                trigger: None,
                store_eoi: false,
                ..two_pages
            }),
            Source::Escalation(_) => Err(XiveError::NoSource),
            Source::Interrupt(index) => Ok(match locked.group(index.index)? {
                None => two_pages,
                Some(SourceGroup {
                    pages: Pages::Controller { level },
                    ..
                }) => SourceInfo { level, ..two_pages },
                Some(SourceGroup {
                    first,
                    pages:
                        Pages::Device {
                            base,
                            level,
                            store_eoi,
                        },
                    ..
                }) => SourceInfo {
                    management: Ra(base.0 + u64::from(index.index - first) * PAGE),
                    trigger: None,
                    shift: PAGE_SHIFT,
                    level,
                    store_eoi,
                    chip: chip.chip,
                },
            }),
        }
    }

    /// Says where a source's events go.
    ///
    /// # Errors
    /// [`XiveError::NoSource`].
    pub fn route(&self, source: Source) -> Result<RouteInfo, XiveError> {
        let eas = self.of_source(source)?.assignment(source)?;
        let end = eas.end();
        let chip = self.controller(end.block);
        let vp = chip
            .ok()
            .and_then(|chip| chip.lock(&self.tables).vp_of_end(end.index));
        let priority = (!eas.is_masked() && vp.is_some())
            .then(|| super::tables::low8(u64::from(end.index % u32::from(PRIORITIES))));
        Ok(RouteInfo {
            vp,
            priority,
            data: eas.data(),
        })
    }

    /// Routes a source. On return, events that were on their way to where it led before are in that queue.
    ///
    /// # Errors
    /// As [`reroute`](Self::reroute); [`XiveError::Unsettled`] too when the route is as wanted, but events may still be on
    /// their way.
    pub fn set_route(&self, source: Source, route: Route) -> Result<(), XiveError> {
        let old = self.reroute(source, route)?;
        let block = source.index().block;
        let there = old.map(|vp| vp.block).filter(|old| *old != block);
        [Some(block), there]
            .into_iter()
            .flatten()
            .try_for_each(|block| self.sync(block))
            .map_err(|_| XiveError::Unsettled(Unit::Sync))
    }

    /// Routes a source, and does not wait for events that are on their way to where it led before: for callers who
    /// [`sync`](Self::sync) after several. Answers the virtual processor that it led to.
    ///
    /// # Errors
    /// [`XiveError::NoSource`], [`XiveError::NoVp`], [`XiveError::NoPriority`]; [`XiveError::Busy`], [`XiveError::Stuck`]:
    /// the route is as before. [`XiveError::Unsettled`].
    pub fn reroute(&self, source: Source, route: Route) -> Result<Option<Index>, XiveError> {
        let old = self.route(source)?;
        // A masked source leads to the least favoured queue, so that the answer of `route` names its processor.
        let priority = route.priority.unwrap_or(PRIORITIES - 1);
        let end = self.of_vp(route.vp)?.end_of(route.vp.index, priority)?;
        let locked = self.of_source(source)?;
        // Looked up again: it may have been freed since.
        locked.assignment(source)?;
        let change = |eas: Eas| eas.with_end(end).with_data(route.data);
        match source {
            Source::Interrupt(at) => {
                let eas = change(locked.eas(at.index)?);
                locked.set_eas(at.index, eas.with_masked(route.priority.is_none()))?;
            }
            // It has no mask: the kernel turns it off. Masking leaves it where it leads.
            Source::Escalation(at) if route.priority.is_some() => {
                locked.update_escalation(at.index, change)?;
            }
            Source::Escalation(at) => {
                locked.update_escalation(at.index, |eas| eas.with_data(route.data))?;
            }
        }
        Ok(old.vp)
    }

    /// Describes a queue of a virtual processor.
    ///
    /// # Errors
    /// [`XiveError::NoVp`], [`XiveError::NoPriority`].
    pub fn queue(&self, vp: Index, priority: u8) -> Result<QueueInfo, XiveError> {
        let locked = self.of_vp(vp)?;
        let at = locked.end_of(vp.index, priority)?;
        let end = locked.load_end(at.index)?;
        // With one escalation for all, it is that of the last queue.
        let gathered = end.has(&end::UNCONDITIONAL);
        let escalation = if gathered {
            locked.end_of(vp.index, PRIORITIES - 1)?
        } else {
            at
        };
        let chip = locked.chip;
        Ok(QueueInfo {
            enabled: end.has(&end::VALID),
            queue: (!end.has(&end::SILENT)).then(|| Queue {
                memory: end.queue(),
                always_notify: end.has(&end::ALWAYS_NOTIFY),
                escalate: end.has(&end::ESCALATE),
            }),
            management: Ra(chip.at(chip.map.xive_end).0 + u64::from(at.index) * 2 * PAGE),
            escalation,
        })
    }

    /// Sets a queue up, empty, or with `None` turns it off.
    ///
    /// # Errors
    /// [`XiveError::NoVp`], [`XiveError::NoPriority`], [`XiveError::Gathering`]; [`XiveError::BadAddress`] when its
    /// memory is not aligned to its size or the size is none that a descriptor can hold; [`XiveError::Busy`].
    pub fn set_queue(
        &self,
        vp: Index,
        priority: u8,
        queue: Option<Queue>,
    ) -> Result<(), XiveError> {
        let locked = self.of_vp(vp)?;
        let at = locked.end_of(vp.index, priority)?;
        if locked.load_end(at.index)?.has(&end::SILENT) {
            return Err(XiveError::Gathering);
        }
        let Some(queue) = queue else {
            return locked.update_end(at.index, |_| End::off());
        };
        if let Some((memory, log2)) = queue.memory {
            let fits = (12..28).contains(&log2) && memory.0 & !End::QUEUE_MASK == 0;
            if !fits || !memory.is_aligned(1 << log2) {
                return Err(XiveError::BadAddress);
            }
        }
        locked.update_end(at.index, |old| {
            // The buffers' state is the kernel's; the position starts anew. Without backlog there is no escalation.
            let mut new = old
                .with_queue(queue.memory)
                .with(&end::ALWAYS_NOTIFY, u32::from(queue.always_notify))
                .with(&end::ESCALATE, u32::from(queue.escalate))
                .with(&end::VALID, 1)
                .with(&end::BACKLOG, 1);
            new.words[1] = 0;
            new.words[6] = 0;
            new.words[7] = 0;
            new.with(&end::ES, old.get(&end::ES))
                .with(&end::GENERATION, 1)
                .with(&end::VP_BLOCK, vp.block.into())
                .with(&end::VP_INDEX, vp.index)
                .with(&end::PRIORITY, priority.into())
        })
    }

    /// The position of a queue: generation bit and next entry.
    ///
    /// # Errors
    /// [`XiveError::NoVp`], [`XiveError::NoPriority`]; [`XiveError::Disabled`].
    pub fn queue_position(&self, vp: Index, priority: u8) -> Result<(bool, u32), XiveError> {
        let locked = self.of_vp(vp)?;
        let at = locked.end_of(vp.index, priority)?;
        locked.scrub_end(at.index)?;
        let end = locked.load_end(at.index)?;
        if !end.has(&end::VALID) {
            return Err(XiveError::Disabled);
        }
        Ok((end.has(&end::GENERATION), end.get(&end::OFFSET)))
    }

    /// Sets the position of a queue, when a guest is restored.
    ///
    /// # Errors
    /// [`XiveError::NoVp`], [`XiveError::NoPriority`]; [`XiveError::Disabled`]; [`XiveError::BadAddress`] when the
    /// entry is beyond the queue; [`XiveError::Busy`].
    pub fn set_queue_position(
        &self,
        vp: Index,
        priority: u8,
        generation: bool,
        entry: u32,
    ) -> Result<(), XiveError> {
        let locked = self.of_vp(vp)?;
        let at = locked.end_of(vp.index, priority)?;
        let end = locked.load_end(at.index)?;
        if !end.has(&end::VALID) {
            return Err(XiveError::Disabled);
        }
        let entries = end.queue().map_or(1, |(_, log2)| 1 << (log2 - 2));
        if entry >= entries {
            return Err(XiveError::BadAddress);
        }
        locked.update_end(at.index, |old| {
            old.with(&end::GENERATION, u32::from(generation))
                .with(&end::OFFSET, entry)
        })
    }
}

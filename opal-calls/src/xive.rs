//! The OPAL_XIVE calls: what a kernel asks of the interrupt controllers that it otherwise drives itself.
//!
//! Owns the checks of arguments and the order "everything is checked, then the controllers are asked, then the kernel's
//! memory is written". The controllers are behind [`Controllers`]. An output pointer that is 0 is one that the kernel
//! does not want, where the call allows that.
//!
//! The surprising fact: routing an interrupt with priority 0xff only masks its assignment; the source itself stays as it
//! is, and the kernel is expected to turn it off by its page.

mod controllers;
pub mod ids;
mod outputs;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicBool, Ordering};

use isa::addr::Ra;

use crate::args::{ChipId, Girq, OsAddr, VpId};
use crate::error::{Answer, OpalError, SUCCESS};
use crate::os_memory::OsMemory;
use ids::{At, Source, Vp};
use outputs::{Out, answer, needed, real};

pub use controllers::{
    Controllers, Dump, Fault, Queue, QueueInfo, Route, SourceInfo, VpInfo, VpSetup,
};

/// Queues hold events of these priorities.
const PRIORITIES: u8 = 8;
/// Priority of a masked interrupt.
const MASKED: u8 = 0xff;
/// Any chip will do.
const ANY_CHIP: ChipId = ChipId(u32::MAX);
/// Bytes of a donated page.
const PAGE: u64 = 0x1_0000;
/// Bytes of a pair of lines for reports.
const REPORT: u64 = 0x100;

/// Flags of OPAL_XIVE_GET_IRQ_INFO.
mod irq_flags {
    pub(super) const TRIGGER_PAGE: u64 = 1;
    pub(super) const LSI: u64 = 4;
    pub(super) const STORE_EOI2: u64 = 0x40;
}

/// Flags of OPAL_XIVE_SET_QUEUE_INFO.
mod queue_flags {
    pub(super) const ENABLED: u64 = 1;
    pub(super) const ALWAYS_NOTIFY: u64 = 2;
    pub(super) const ESCALATE: u64 = 4;
}

/// Flags of OPAL_XIVE_SET_VP_INFO.
mod vp_flags {
    pub(super) const ENABLED: u64 = 1;
    pub(super) const SINGLE_ESCALATION: u64 = 2;
    pub(super) const SAVE_RESTORE: u64 = 4;
}

/// Flags of OPAL_XIVE_SYNC.
mod sync_flags {
    pub(super) const SOURCE: u32 = 1;
    pub(super) const QUEUE: u32 = 2;
}

/// The calls. One value for the machine.
#[derive(Debug)]
pub struct Xive<C> {
    controllers: C,
    /// A kernel has reset the controllers: before that it may not use them.
    is_ready: AtomicBool,
}

#[expect(
    clippy::missing_errors_doc,
    reason = "the ABI's codes, as reference/opal.md 3.3 has them"
)]
impl<C: Controllers> Xive<C> {
    /// The calls on these controllers, of which no kernel knows yet.
    pub const fn new(controllers: C) -> Self {
        Self {
            controllers,
            is_ready: AtomicBool::new(false),
        }
    }

    /// The controllers.
    pub const fn controllers(&self) -> &C {
        &self.controllers
    }

    fn ready(&self) -> Result<&C, OpalError> {
        if self.is_ready.load(Ordering::Acquire) {
            Ok(&self.controllers)
        } else {
            Err(OpalError::OPAL_WRONG_STATE)
        }
    }

    fn find_source(girq: Girq) -> Result<Source, OpalError> {
        Source::decode(girq).ok_or(OpalError::OPAL_PARAMETER)
    }

    fn find_vp(&self, vp: VpId) -> Result<At, OpalError> {
        let found = match Vp::decode(vp, self.controllers.spread()) {
            Some(Vp::Thread(pir)) => self.controllers.thread_vp(pir),
            Some(Vp::Virtual { at, .. }) => Some(at),
            None => None,
        };
        found.ok_or(OpalError::OPAL_PARAMETER)
    }

    fn find_queue(&self, vp: VpId, priority: u32) -> Result<(At, u8), OpalError> {
        let priority = u8::try_from(priority).ok().filter(|p| *p < PRIORITIES);
        Ok((
            self.find_vp(vp)?,
            priority.ok_or(OpalError::OPAL_PARAMETER)?,
        ))
    }

    /// A number that names a virtual processor.
    fn name(&self, vp: At) -> Result<u32, OpalError> {
        let spread = self.controllers.spread();
        let thread = self.controllers.thread_of(vp);
        // Of the numbers that name it, one per size of block, the smallest.
        thread
            .or_else(|| Vp::encode(vp, spread.saturating_add(1), spread))
            .ok_or(OpalError::OPAL_INTERNAL_ERROR)
    }

    /// OPAL_XIVE_RESET. There is one mode, so bit 0 of `mode` says nothing.
    pub fn reset(&self, mode: u64) -> Answer {
        if mode & !1 != 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        self.controllers.reset()?;
        self.is_ready.store(true, Ordering::Release);
        SUCCESS
    }

    /// OPAL_XIVE_GET_IRQ_INFO.
    pub fn get_irq_info(
        &self,
        os: &impl OsMemory,
        girq: Girq,
        flags: OsAddr,
        eoi_page: OsAddr,
        trigger_page: OsAddr,
        esb_shift: OsAddr,
        chip: OsAddr,
    ) -> Answer {
        let info = self.ready()?.source(Self::find_source(girq)?)?;
        needed(flags)?;
        let flag = |set, flag| if set { flag } else { 0 };
        let value = flag(info.trigger.is_some(), irq_flags::TRIGGER_PAGE)
            | flag(info.level, irq_flags::LSI)
            | flag(info.store_eoi, irq_flags::STORE_EOI2);
        answer(
            os,
            [
                Out::U64(flags, value),
                Out::U64(eoi_page, info.management.0),
                Out::U64(trigger_page, info.trigger.map_or(0, |page| page.0)),
                Out::U32(esb_shift, info.shift),
                Out::U32(chip, info.chip.0),
            ],
        )
    }

    /// OPAL_XIVE_GET_IRQ_CONFIG. One that was never routed is masked and leads to no thread in particular.
    pub fn get_irq_config(
        &self,
        os: &impl OsMemory,
        girq: Girq,
        vp: OsAddr,
        priority: OsAddr,
        lirq: OsAddr,
    ) -> Answer {
        let route = self.ready()?.route(Self::find_source(girq)?)?;
        for pointer in [vp, priority, lirq] {
            needed(pointer)?;
        }
        let name = route.vp.map_or(Ok(0), |vp| self.name(vp))?;
        answer(
            os,
            [
                Out::U64(vp, name.into()),
                Out::U8(priority, route.priority.unwrap_or(MASKED)),
                Out::U32(lirq, route.lirq),
            ],
        )
    }

    /// OPAL_XIVE_SET_IRQ_CONFIG.
    pub fn set_irq_config(&self, girq: Girq, vp: VpId, priority: u8, lirq: u32) -> Answer {
        let controllers = self.ready()?;
        let source = Self::find_source(girq)?;
        let vp = self.find_vp(vp)?;
        let priority = match priority {
            MASKED => None,
            0..PRIORITIES => Some(priority),
            PRIORITIES..MASKED => return Err(OpalError::OPAL_PARAMETER),
        };
        controllers.set_route(source, vp, priority, lirq)?;
        SUCCESS
    }

    /// OPAL_XIVE_GET_QUEUE_INFO.
    pub fn get_queue_info(
        &self,
        os: &impl OsMemory,
        vp: VpId,
        priority: u32,
        page: OsAddr,
        size: OsAddr,
        eoi_page: OsAddr,
        escalation: OsAddr,
        flags: OsAddr,
    ) -> Answer {
        let controllers = self.ready()?;
        let (vp, priority) = self.find_queue(vp, priority)?;
        let info = controllers.queue(vp, priority)?;
        let girq = Source::Escalation(info.escalation).encode();
        let girq = girq.ok_or(OpalError::OPAL_INTERNAL_ERROR)?;
        // Of one that gathers escalations there is nothing else to say.
        let (memory, management, value) = match info.queue {
            None => (None, 0, 0),
            Some(queue) => {
                let flag = |set, flag| if set { flag } else { 0 };
                let value = flag(info.enabled, queue_flags::ENABLED)
                    | flag(queue.always_notify, queue_flags::ALWAYS_NOTIFY)
                    | flag(queue.escalate, queue_flags::ESCALATE);
                (queue.memory, info.management.0, value)
            }
        };
        answer(
            os,
            [
                Out::U64(page, memory.map_or(0, |(page, _)| page.0)),
                Out::U64(size, memory.map_or(0, |(_, log2)| log2.into())),
                Out::U64(eoi_page, management),
                Out::U32(escalation, girq),
                Out::U64(flags, value),
            ],
        )
    }

    /// OPAL_XIVE_SET_QUEUE_INFO.
    pub fn set_queue_info(
        &self,
        os: &impl OsMemory,
        vp: VpId,
        priority: u32,
        page: OsAddr,
        size: u64,
        flags: u64,
    ) -> Answer {
        use queue_flags::{ALWAYS_NOTIFY, ENABLED, ESCALATE};

        let controllers = self.ready()?;
        let (vp, priority) = self.find_queue(vp, priority)?;
        if flags & !(ENABLED | ALWAYS_NOTIFY | ESCALATE) != 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        if flags & ENABLED == 0 {
            controllers.set_queue(vp, priority, None)?;
            return SUCCESS;
        }
        let memory = match size {
            0 => None,
            12 | 16 | 21 | 24 => {
                let log2 = u32::try_from(size).map_err(|_| OpalError::OPAL_PARAMETER)?;
                let bytes = 1_u64.wrapping_shl(log2);
                let page = real(os, page, bytes)?;
                if !page.is_aligned(bytes) {
                    return Err(OpalError::OPAL_PARAMETER);
                }
                Some((page, log2))
            }
            _ => return Err(OpalError::OPAL_PARAMETER),
        };
        let queue = Queue {
            memory,
            always_notify: flags & ALWAYS_NOTIFY != 0,
            escalate: flags & ESCALATE != 0,
        };
        controllers.set_queue(vp, priority, Some(queue))?;
        SUCCESS
    }

    /// OPAL_XIVE_GET_QUEUE_STATE.
    pub fn get_queue_state(
        &self,
        os: &impl OsMemory,
        vp: VpId,
        priority: u32,
        toggle: OsAddr,
        index: OsAddr,
    ) -> Answer {
        let controllers = self.ready()?;
        needed(toggle)?;
        needed(index)?;
        let (vp, priority) = self.find_queue(vp, priority)?;
        let (generation, entry) = controllers.queue_position(vp, priority)?;
        answer(
            os,
            [Out::U32(toggle, generation.into()), Out::U32(index, entry)],
        )
    }

    /// OPAL_XIVE_SET_QUEUE_STATE.
    pub fn set_queue_state(&self, vp: VpId, priority: u32, toggle: u32, index: u32) -> Answer {
        let controllers = self.ready()?;
        let (vp, priority) = self.find_queue(vp, priority)?;
        if toggle > 1 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        controllers.set_queue_position(vp, priority, toggle == 1, index)?;
        SUCCESS
    }

    /// OPAL_XIVE_DONATE_PAGE.
    pub fn donate_page(&self, os: &impl OsMemory, chip: ChipId, page: OsAddr) -> Answer {
        let controllers = self.ready()?;
        let block = controllers.block_of(chip);
        let block = block.ok_or(OpalError::OPAL_PARAMETER)?;
        let page = real(os, page, PAGE)?;
        if !page.is_aligned(PAGE) {
            return Err(OpalError::OPAL_PARAMETER);
        }
        controllers.donate(block, page)?;
        SUCCESS
    }

    /// OPAL_XIVE_ALLOCATE_VP_BLOCK: answers the first number.
    pub fn allocate_vp_block(&self, order: u32) -> Answer {
        let controllers = self.ready()?;
        let spread = controllers.spread();
        let order = u8::try_from(order).unwrap_or(u8::MAX);
        // Two on each chip at least.
        let order = order.max(spread.saturating_add(1));
        if order > 31 {
            return Err(OpalError::OPAL_RESOURCE);
        }
        let local = order.saturating_sub(spread);
        let first = controllers.allocate_vps(local)?;
        let at = At {
            block: 0,
            index: first,
        };
        if let Some(number) = Vp::encode(at, order, spread) {
            return Ok(number);
        }
        controllers.free_vps(first, local)?;
        Err(OpalError::OPAL_RESOURCE)
    }

    /// OPAL_XIVE_FREE_VP_BLOCK.
    pub fn free_vp_block(&self, vp: VpId) -> Answer {
        let controllers = self.ready()?;
        let spread = controllers.spread();
        let Some(Vp::Virtual { at, order }) = Vp::decode(vp, spread) else {
            return Err(OpalError::OPAL_PARAMETER);
        };
        // The first number of the block, nothing else.
        if at.block != 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        controllers.free_vps(at.index, order.saturating_sub(spread))?;
        SUCCESS
    }

    /// OPAL_XIVE_GET_VP_INFO.
    pub fn get_vp_info(
        &self,
        os: &impl OsMemory,
        vp: VpId,
        flags: OsAddr,
        cam: OsAddr,
        report: OsAddr,
        chip: OsAddr,
    ) -> Answer {
        let controllers = self.ready()?;
        let at = self.find_vp(vp)?;
        let info = controllers.vp(at)?;
        let flag = |set, flag| if set { flag } else { 0 };
        let value = flag(info.enabled, vp_flags::ENABLED)
            | flag(info.single_escalation, vp_flags::SINGLE_ESCALATION)
            | flag(info.save_restore, vp_flags::SAVE_RESTORE);
        let found = controllers.chip_of(at.block);
        let found = found.ok_or(OpalError::OPAL_INTERNAL_ERROR)?;
        answer(
            os,
            [
                Out::U64(flags, value),
                Out::U64(cam, info.cam.into()),
                Out::U64(report, info.report.0),
                Out::U32(chip, found.0),
            ],
        )
    }

    /// OPAL_XIVE_SET_VP_INFO.
    pub fn set_vp_info(&self, os: &impl OsMemory, vp: VpId, flags: u64, report: OsAddr) -> Answer {
        use vp_flags::{ENABLED, SAVE_RESTORE, SINGLE_ESCALATION};

        let controllers = self.ready()?;
        let vp = self.find_vp(vp)?;
        if flags & !(ENABLED | SINGLE_ESCALATION | SAVE_RESTORE) != 0 {
            return Err(OpalError::OPAL_PARAMETER);
        }
        let report = match report.0 {
            0 => Ra(0),
            _ => real(os, report, REPORT)?,
        };
        if !report.is_aligned(REPORT) {
            return Err(OpalError::OPAL_PARAMETER);
        }
        if flags & SAVE_RESTORE != 0 && !controllers.vp(vp)?.save_restore {
            return Err(OpalError::OPAL_PARAMETER);
        }
        let setup = VpSetup {
            single_escalation: flags & SINGLE_ESCALATION != 0,
            report,
        };
        controllers.set_vp(vp, (flags & ENABLED != 0).then_some(setup))?;
        SUCCESS
    }

    /// OPAL_XIVE_GET_VP_STATE.
    pub fn get_vp_state(&self, os: &impl OsMemory, vp: VpId, state: OsAddr) -> Answer {
        let controllers = self.ready()?;
        needed(state)?;
        let value = controllers.vp_state(self.find_vp(vp)?)?;
        answer(os, [Out::U64(state, value)])
    }

    /// OPAL_XIVE_ALLOCATE_IRQ: answers its number.
    pub fn allocate_irq(&self, chip: ChipId) -> Answer {
        let controllers = self.ready()?;
        let wanted = if chip == ANY_CHIP {
            controllers.this_chip()
        } else {
            chip
        };
        let block = controllers.block_of(wanted);
        let block = block.ok_or(OpalError::OPAL_PARAMETER)?;
        let mut found = controllers.allocate_source(block);
        if chip == ANY_CHIP {
            for other in (0..controllers.blocks()).filter(|other| *other != block) {
                if found.is_err() {
                    found = controllers.allocate_source(other);
                }
            }
        }
        let number = Source::Interrupt(found?).encode();
        number.ok_or(OpalError::OPAL_INTERNAL_ERROR)
    }

    /// OPAL_XIVE_FREE_IRQ.
    pub fn free_irq(&self, girq: Girq) -> Answer {
        let controllers = self.ready()?;
        let Source::Interrupt(at) = Self::find_source(girq)? else {
            return Err(OpalError::OPAL_PARAMETER);
        };
        controllers.free_source(at)?;
        SUCCESS
    }

    /// OPAL_XIVE_SYNC.
    pub fn sync(&self, kind: u32, id: u32) -> Answer {
        let controllers = self.ready()?;
        let source = Self::find_source(Girq(id));
        let (Source::Interrupt(at) | Source::Escalation(at)) = match source {
            Err(_) if kind & (sync_flags::SOURCE | sync_flags::QUEUE) == 0 => return SUCCESS,
            other => other?,
        };
        if kind & sync_flags::SOURCE != 0 {
            controllers.sync(at.block)?;
        }
        if kind & sync_flags::QUEUE != 0 {
            // What leads nowhere has no queue to wait for.
            if let Some(vp) = controllers.route(source?)?.vp {
                controllers.sync(vp.block)?;
            }
        }
        SUCCESS
    }

    /// OPAL_XIVE_DUMP.
    pub fn dump(&self, kind: u32, id: u32) -> Answer {
        let controllers = self.ready()?;
        let what = match kind {
            0 => Dump::Ring(id, 3),
            1 => Dump::Ring(id, 2),
            2 => Dump::Ring(id, 1),
            3 => Dump::Ring(id, 0),
            4 => Dump::Vp(self.find_vp(VpId(id.into()))?),
            _ => return Err(OpalError::OPAL_PARAMETER),
        };
        controllers.dump(what)?;
        SUCCESS
    }
}

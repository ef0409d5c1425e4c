//! The interrupt controllers under the OPAL_XIVE calls: set up before the kernel starts, each thread's context pushed
//! by the thread itself.
//!
//! Surprising fact: the calls' crate and the driver's know nothing of each other, so most of this file says only that
//! their names mean the same.
#![expect(unsafe_code, reason = "promises about the controllers' memory")]

use alloc::boxed::Box;
use core::ops::Range;

use isa::addr::Ra;
use isa::spr::{Pir, mfspr};
use nest::chip::AddressMap;
use nest::lpc::CiLpc;
use nest::mmio::CiMmio;
use nest::scom::{ChipIndex, Scom};
use nest::xive::registers;
use nest::xive::tables::Index;
use nest::xive::tima::Tima;
use nest::xive::{self, REGION, XiveError};
use opal_calls::args::ChipId;
use opal_calls::xive::ids::{At, Source};
use opal_calls::xive::{Dump, Fault, Queue, QueueInfo, Route, SourceInfo, VpInfo, VpSetup, Xive};

use super::bridges::Bridges;
use crate::controllers::{self, Controllers, StartError, index};
use crate::inputs::Inputs;
use crate::memory::{PARTITION, POOL};

/// The machine's interrupt controllers.
pub(super) struct Chips {
    xive: Box<controllers::Driver>,
    tima: Tima<CiMmio<registers::Tima>>,
    /// Whose interrupts the firmware serves.
    pub(super) bridges: Bridges,
}

/// The calls on them, from just before the other threads come on.
pub(super) static XIVE: spin::Once<Xive<Chips>> = spin::Once::new();

/// Makes the calling thread's context valid, closed; without it the thread gets no interrupts.
pub(super) fn push_thread(pir: u32) {
    if let Some(xive) = XIVE.get()
        && let Chips { xive, tima, .. } = xive.controllers()
        && let Err(error) = controllers::push_thread(xive, tima, pir)
    {
        log::error!("thread {pir:#x} gets no interrupts: {error}");
    }
}

/// Lets nothing through to the calling thread any more.
pub(super) fn quiet_thread() {
    if let Some(xive) = XIVE.get() {
        xive.controllers().tima.quiet();
    }
}

impl Chips {
    /// Sets all controllers up; answers also the memory that is theirs from now on. For one caller.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) fn start(
        scom: &mut impl Scom,
        map: &AddressMap,
        inputs: &Inputs,
        lpc: &CiLpc,
    ) -> Result<(Self, Range<u64>), StartError> {
        let count = inputs.chips.len();
        let end = POOL + count as u64 * REGION;
        if end > PARTITION {
            return Err(StartError::NoRoom(count));
        }
        // SAFETY: the regions are from the firmware's pool, which nothing else uses in this mode; the kernel is told that they
        // are the firmware's.
        let started = unsafe { Controllers::start(scom, map, inputs, POOL) }?;
        let Controllers { xive, tima } = started;
        let indexes = inputs.chips.iter().filter_map(|chip| index(*chip));
        let bridges = Bridges::start(scom, map, indexes, &xive, lpc);
        let chips = Self {
            xive,
            tima,
            bridges,
        };
        Ok((chips, POOL..end))
    }

    /// What the controllers of all chips can do.
    pub(super) fn capabilities(&self) -> xive::Capabilities {
        self.xive.capabilities(0).unwrap_or_default()
    }
}

const fn fault(error: XiveError) -> Fault {
    match error {
        XiveError::NoSource
        | XiveError::NoEnd
        | XiveError::NoVp
        | XiveError::NoBlock
        | XiveError::NoPriority
        | XiveError::Gathering
        | XiveError::BadAddress => Fault::NoSuch,
        XiveError::Disabled => Fault::Disabled,
        XiveError::Active => Fault::Active,
        XiveError::Full => Fault::Full,
        XiveError::NoPages => Fault::NoPages,
        XiveError::Busy => Fault::Busy,
        XiveError::Stuck(_)
        | XiveError::Unsettled(_)
        | XiveError::Scom(_)
        | XiveError::Generation(_)
        | XiveError::Config { .. }
        | XiveError::NotEnabled
        | XiveError::NotPushed => Fault::Stuck,
    }
}

const fn place(at: At) -> Index {
    Index {
        block: at.block,
        index: at.index,
    }
}

const fn at(index: Index) -> At {
    At {
        block: index.block,
        index: index.index,
    }
}

const fn source(of: Source) -> xive::Source {
    match of {
        Source::Interrupt(at) => xive::Source::Interrupt(place(at)),
        Source::Escalation(at) => xive::Source::Escalation(place(at)),
    }
}

fn chip_id(chip: ChipIndex) -> ChipId {
    ChipId(chip.0.into())
}

impl opal_calls::xive::Controllers for Chips {
    fn spread(&self) -> u8 {
        self.xive.vp_blocks_log2()
    }

    fn chip_of(&self, block: u8) -> Option<ChipId> {
        self.xive.chip_of(block).map(chip_id)
    }

    fn block_of(&self, chip: ChipId) -> Option<u8> {
        self.xive.block_of(index(chip.0)?)
    }

    fn this_chip(&self) -> ChipId {
        ChipId(u32::try_from(mfspr::<Pir>().0 >> 8 & 0xf).unwrap_or(0))
    }

    fn blocks(&self) -> u8 {
        self.xive.blocks()
    }

    fn thread_vp(&self, pir: u32) -> Option<At> {
        self.xive.thread_vp(pir).ok().map(at)
    }

    fn thread_of(&self, vp: At) -> Option<u32> {
        self.xive.thread_of_vp(place(vp))
    }

    fn source(&self, of: Source) -> Result<SourceInfo, Fault> {
        let info = self.xive.source(source(of)).map_err(fault)?;
        Ok(SourceInfo {
            management: info.management,
            trigger: info.trigger,
            shift: info.shift,
            level: info.level,
            store_eoi: info.store_eoi,
            chip: chip_id(info.chip),
        })
    }

    fn route(&self, of: Source) -> Result<Route, Fault> {
        let route = self.xive.route(source(of)).map_err(fault)?;
        Ok(Route {
            vp: route.vp.map(at),
            priority: route.priority,
            lirq: route.data,
        })
    }

    fn set_route(&self, of: Source, vp: At, priority: Option<u8>, lirq: u32) -> Result<(), Fault> {
        let route = xive::Route {
            vp: place(vp),
            priority,
            data: lirq,
        };
        self.xive.set_route(source(of), route).map_err(fault)
    }

    fn allocate_source(&self, block: u8) -> Result<At, Fault> {
        self.xive.allocate_source(block).map(at).map_err(fault)
    }

    fn free_source(&self, source: At) -> Result<(), Fault> {
        self.xive.free_source(place(source)).map_err(fault)
    }

    fn sync(&self, block: u8) -> Result<(), Fault> {
        self.xive.sync(block).map_err(fault)
    }

    fn queue(&self, vp: At, priority: u8) -> Result<QueueInfo, Fault> {
        let info = self.xive.queue(place(vp), priority).map_err(fault)?;
        Ok(QueueInfo {
            enabled: info.enabled,
            queue: info.queue.map(|queue| Queue {
                memory: queue.memory,
                always_notify: queue.always_notify,
                escalate: queue.escalate,
            }),
            management: info.management,
            escalation: at(info.escalation),
        })
    }

    fn set_queue(&self, vp: At, priority: u8, queue: Option<Queue>) -> Result<(), Fault> {
        let queue = queue.map(|queue| xive::Queue {
            memory: queue.memory,
            always_notify: queue.always_notify,
            escalate: queue.escalate,
        });
        self.xive
            .set_queue(place(vp), priority, queue)
            .map_err(fault)
    }

    fn queue_position(&self, vp: At, priority: u8) -> Result<(bool, u32), Fault> {
        self.xive.queue_position(place(vp), priority).map_err(fault)
    }

    fn set_queue_position(
        &self,
        vp: At,
        priority: u8,
        generation: bool,
        entry: u32,
    ) -> Result<(), Fault> {
        self.xive
            .set_queue_position(place(vp), priority, generation, entry)
            .map_err(fault)
    }

    fn donate(&self, block: u8, page: Ra) -> Result<(), Fault> {
        self.xive.donate(block, page).map_err(fault)
    }

    fn allocate_vps(&self, order: u8) -> Result<u32, Fault> {
        self.xive.allocate_vps(order).map_err(fault)
    }

    fn free_vps(&self, first: u32, order: u8) -> Result<(), Fault> {
        self.xive.free_vps(first, order).map_err(fault)
    }

    fn vp(&self, vp: At) -> Result<VpInfo, Fault> {
        let info = self.xive.vp(place(vp)).map_err(fault)?;
        Ok(VpInfo {
            enabled: info.enabled,
            single_escalation: info.single_escalation,
            save_restore: info.save_restore,
            cam: info.cam,
            report: info.report,
        })
    }

    fn set_vp(&self, vp: At, setup: Option<VpSetup>) -> Result<(), Fault> {
        let setup = setup.map(|setup| xive::VpSetup {
            single_escalation: setup.single_escalation,
            report: setup.report,
        });
        self.xive.set_vp(place(vp), setup).map_err(fault)
    }

    fn vp_state(&self, vp: At) -> Result<u64, Fault> {
        self.xive.vp_state(place(vp)).map_err(fault)
    }

    fn reset(&self) -> Result<(), Fault> {
        self.bridges.mask_all();
        self.xive.reset().map_err(fault)
    }

    fn dump(&self, what: Dump) -> Result<(), Fault> {
        match what {
            Dump::Ring(pir, ring) => {
                let (state, word2) = self.xive.dump_ring(pir, ring).map_err(fault)?;
                log::info!("XIVE: thread {pir:#x} ring {ring}: {state:016x} {word2:08x}");
            }
            Dump::Vp(vp) => {
                let nvp = self.xive.dump_vp(place(vp)).map_err(fault)?;
                log::info!(
                    "XIVE: virtual processor {}/{:#x}: {:08x?}",
                    vp.block,
                    vp.index,
                    nvp.words
                );
            }
        }
        Ok(())
    }
}

//! OPAL_CEC_REBOOT2: the kinds of reboot, and the fast one from the call to the last line of this boot.
//!
//! Surprising fact: a fast reboot can fail in two ways. Before the vectors are taken the call answers, and the kernel asks
//! for another kind; afterwards there is no kernel any more, so what fails then ends in a full reboot.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use isa::timebase::{Deadline, Ticks};
use nest::core_control::{self, Place};
use opal_calls::args::{OsAddr, Server, ServerOrOthers};
use opal_calls::entry::Depth;
use opal_calls::error::{Answer, OpalError};
use opal_calls::nest_mmu;
use opal_calls::os_memory::OsMemory as _;
use opal_calls::quiesce::Kind;
use opal_calls::xive::Controllers as _;

use super::buses::NestMmuUnits;
use super::fast_reboot::{self, Piece};
use super::serve::Opal;
use super::threads::OpalThread;
use super::{entry, gather};
use crate::machine::PowerAction;
use crate::stop;

/// How long the threads may take to come back, all together.
const PATIENCE: Ticks = Ticks::from_s(1);

/// What a fast reboot starts again with.
pub(super) struct Again {
    /// The tree as this boot was given it.
    pub(super) tree: Vec<u8>,
    /// Kernel and initrd, or why they cannot be had again.
    pub(super) payload: Result<Vec<Piece>, &'static str>,
    /// CRC of the image as it was; 0 when it cannot be started again.
    image: u64,
}

impl Again {
    pub(super) fn new(tree: Vec<u8>, payload: Result<Vec<Piece>, &'static str>) -> Self {
        let image = match payload {
            Ok(_) => fast_reboot::sum_of(gather::constant_part()),
            Err(_) => 0,
        };
        Self {
            tree,
            payload,
            image,
        }
    }
}

impl Opal {
    /// Not served: 3, which keeps memory for a dump and needs the service engine's tables.
    pub(super) fn reboot(
        &self,
        kind: u32,
        reason: OsAddr,
        me: &OpalThread,
        depth: Depth,
    ) -> Answer {
        const NORMAL: u32 = 0;
        const PLATFORM_ERROR: u32 = 1;
        const FULL_IPL: u32 = 2;
        const FAST: u32 = 4;
        match kind {
            NORMAL | FULL_IPL => stop::power(self.machine, PowerAction::Reset),
            PLATFORM_ERROR => {
                let mut text = [0; 80];
                let known = reason.0 != 0 && self.os.read(reason, &mut text).is_ok();
                let text = text.split(|byte| *byte == 0).next().unwrap_or(&[]);
                let text = if known { text } else { b"no reason given" };
                stop::platform_error(self.machine, text)
            }
            // What the interrupted call was about may be half done, and its locks are held: not from there.
            FAST if depth.is_nested() => Err(OpalError::OPAL_UNSUPPORTED),
            FAST => self.reboot_fast(me),
            _ => Err(OpalError::OPAL_UNSUPPORTED),
        }
    }

    fn reboot_fast(&self, me: &OpalThread) -> Answer {
        let pieces = match &self.again.payload {
            Ok(pieces) => pieces,
            Err(why) => {
                log::warn!("no fast reboot: {why}");
                return Err(OpalError::OPAL_UNSUPPORTED);
            }
        };
        let tree = fast_reboot::next_tree(&self.again.tree).map_err(|why| {
            log::error!("no fast reboot: no tree: {why:?}");
            OpalError::OPAL_UNSUPPORTED
        })?;
        let server = Server(u64::from(me.pir));
        let quiesce = |kind: Kind| {
            let others = ServerOrOthers(-1);
            self.quiesce
                .serve(kind as u32, others, server, &self.threads)
        };
        match quiesce(Kind::Hold) {
            Err(OpalError::OPAL_PARTIAL) => self.full("a thread does not leave its call"),
            answer => answer?,
        };
        self.stop_flash_reads();
        // The next boot knows nothing of a transfer that a unit goes on with. Kernels poll, and call again.
        if self.messages.under_way() > 0 {
            quiesce(Kind::Resume)?;
            return Err(OpalError::OPAL_BUSY_EVENT);
        }
        log::info!("fast reboot");
        if gather::prepare().is_none() {
            self.full("there is no room below the firmware");
        }
        self.gather(me);
        if let Some(piece) = pieces.iter().find(|piece| !piece.is_whole()) {
            log::error!("the copy of the {} was overwritten", piece.name);
            self.full("the payload is damaged");
        }
        if fast_reboot::sum_of(gather::constant_part()) != self.again.image {
            self.full("the firmware itself is damaged");
        }
        self.reset_units();
        gather::reset_registers();
        entry::flush_translations();
        log::info!(
            "fast reboot: all {} threads are back, starting again",
            self.threads.each().count()
        );
        self.machine.drain_console();
        for piece in pieces {
            piece.put_back();
        }
        if gather::put_tree(&tree).is_none() {
            self.full("the tree is too large");
        }
        gather::begin_again()
    }

    /// Ends a fast reboot that failed, when there is no kernel any more.
    fn full(&self, why: &str) -> ! {
        log::error!("fast reboot: {why}: making it a full one");
        stop::power(self.machine, PowerAction::Reset)
    }

    /// Resets all other threads and waits until they wait.
    fn gather(&self, me: &OpalThread) {
        let others = || self.threads.each().filter(|thread| thread.pir != me.pir);
        for thread in others() {
            thread.gathered().store(0, Ordering::SeqCst);
            let place = Place::of_pir(thread.pir, self.is_fused);
            let reset = place.map(|at| core_control::system_reset(&mut *self.xscom.lock(), at));
            if let Some(Err(error)) = reset {
                log::error!("thread {:#x}: {error}", thread.pir);
            }
        }
        let is_here = |thread: &OpalThread| thread.gathered().load(Ordering::SeqCst) == 1;
        let all = || others().all(is_here).then_some(());
        if Deadline::after(PATIENCE).wait_for(all).is_none() {
            for thread in others().filter(|thread| !is_here(thread)) {
                log::error!("thread {:#x} does not come back", thread.pir);
            }
            self.full("not all threads came");
        }
    }

    /// Brings the units to rest that the kernel used, as far as the next boot does not do so itself.
    fn reset_units(&self) {
        super::xive::quiet_thread();
        if let Err(error) = self.xive.controllers().reset() {
            log::warn!("interrupt controllers: {error:?}");
        }
        self.machine.set_console_interrupts(false, false);
        let units = NestMmuUnits(&self.nest_mmus, &self.xscom);
        const ALL: u64 = u64::MAX;
        // That there is none is no news.
        let _ = nest_mmu::set_ptcr(&units, ALL, 0);
    }
}

//! Interrupts of the firmware itself: another thread wants something (a kick), or the console has input.
//!
//! Each thread has a source of its own, whose events go to the thread's own context. That is the hypervisor's ring: it ends
//! a guest's turn whatever the guest's MSR[EE] (0xea0), and wakes the thread from `stop`. The UART's interrupt comes through
//! LPC and the PSI host bridge and goes to the thread of vCPU 0. There is no queue: an event says only that there is
//! something to look for, and the priority says which of the two.
//!
//! Surprising fact: a source is made ready before its thread looks around, not after. So an event that comes while it looks
//! is another interrupt, at worst one for nothing, and none is lost.
#![expect(unsafe_code, reason = "promises about the controllers' windows")]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use isa::addr::Ra;
use nest::lpc::CiLpc;
use nest::lpc::serirq::{SerialIrq, SerialIrqs};
use nest::mmio::{CiMmio, Mmio, Reg};
use nest::psi::PsiSource;
use nest::scom::{ChipIndex, Scom};
use nest::xive::registers::Esb;
use nest::xive::tima::{CPPR_OPEN, Presented};
use nest::xive::{Queue, Route, Source, XiveError};
use nest::xscom::{CiXscom, Xscom};

use crate::controllers::{self, Bridge, Controllers, StartError, connect_bridge, index};
use crate::handover::Handover;
use crate::machine::Machine;
use crate::memory::Plan;

/// Priorities of the two. The more favoured one first: input is what has waited for a person.
const INPUT: u8 = 5;
const KICK: u8 = 6;
/// The line of LPC to the bridge.
const LINE: u8 = 0;
/// The chip with the console.
const CONSOLE_CHIP: ChipIndex = ChipIndex(0);

/// A page of a source's two.
const PAGE: u64 = 1 << 16;
/// Stores there send an event.
const TRIGGER: Reg<Esb> = Reg::new(0);
/// Loads from there make the source ready for the next.
const READY: Reg<Esb> = Reg::new(PAGE + 0xc00);
/// Most events that are taken in one go. There are two kinds; more of one is a chip that does not listen, and comes again.
const AT_A_TIME: usize = 4;

/// A thread's source.
struct Kick {
    pir: u32,
    pages: CiMmio<Esb>,
    /// The thread takes it.
    arrives: AtomicBool,
}

/// The UART's way to the processor.
struct ConsoleInput {
    bridge: Bridge,
    /// Input waits in the UART that there is no room for: its interrupt is not ended before there is.
    held: AtomicBool,
}

/// The firmware's interrupts, on all threads.
pub(super) struct OwnInterrupts {
    controllers: &'static Controllers,
    /// By vCPU.
    kicks: Vec<Kick>,
    console: Option<ConsoleInput>,
}

/// Brings the machine's controllers up. For one caller.
pub(super) fn start_controllers(handover: &Handover) -> Result<&'static Controllers, StartError> {
    let (map, inputs) = (&handover.chip.map, &handover.inputs);
    let count = inputs.chips.len();
    let tables = Plan::interrupt_tables(count).ok_or(StartError::NoRoom(count))?;
    // SAFETY: the memory stage keeps these tables out of the pool, and gives them to nobody else.
    let made = unsafe { Controllers::start(&mut scom(handover), map, inputs, tables.start) }?;
    Ok(Box::leak(Box::new(made)))
}

fn scom(handover: &Handover) -> impl Scom + use<> {
    let (map, inputs) = (&handover.chip.map, &handover.inputs);
    // SAFETY: the chip's table says where the windows are; every chip is one that the tree names; one engine at a time is
    // used, by the boot thread.
    let bus = unsafe { CiXscom::new(map.xscom, map.chip_shift) };
    Xscom::new(bus, inputs.chips.iter().filter_map(|chip| index(*chip)))
}

impl OwnInterrupts {
    /// Makes a source for each of `threads`, that of vCPU 0 first, and connects the console's input. For one caller; each
    /// thread begins to take its interrupts with [`Self::prepare_thread`] and [`Self::open`].
    pub(super) fn start(
        controllers: &'static Controllers,
        handover: &Handover,
        threads: &[u32],
    ) -> Result<&'static Self, XiveError> {
        let driver = &controllers.xive;
        let mut kicks = Vec::new();
        for pir in threads {
            let vp = driver.thread_vp(*pir)?;
            for priority in [INPUT, KICK] {
                let queue = Queue {
                    memory: None,
                    always_notify: true,
                    escalate: false,
                };
                driver.set_queue(vp, priority, Some(queue))?;
            }
            let source = Source::Interrupt(driver.allocate_source(vp.block)?);
            let route = Route {
                vp,
                priority: Some(KICK),
                data: 0,
            };
            driver.set_route(source, route)?;
            let first: Ra = driver.source(source)?.trigger.ok_or(XiveError::NoSource)?;
            kicks.push(Kick {
                pir: *pir,
                // SAFETY: the source was given out for this, and nobody else learns of it. Its two pages are neighbours.
                pages: unsafe { CiMmio::new(first, 2 * PAGE) },
                arrives: AtomicBool::new(false),
            });
        }
        let mut made = Self {
            controllers,
            kicks,
            console: None,
        };
        made.console = made
            .connect_console(handover)
            .inspect_err(|why| log::warn!("console input is polled: {why}"))
            .ok();
        Ok(Box::leak(Box::new(made)))
    }

    /// Lets the UART interrupt the thread of vCPU 0.
    fn connect_console(&self, handover: &Handover) -> Result<ConsoleInput, XiveError> {
        let driver = &self.controllers.xive;
        let first = self.kicks.first().ok_or(XiveError::NoVp)?;
        let (machine, map): (&Machine, _) = (handover.machine, &handover.chip.map);
        let (bridge, mut at) = connect_bridge(&mut scom(handover), map, CONSOLE_CHIP, driver)?;
        let lpc: &CiLpc = machine.bus();
        lpc.route(SerialIrq::UART, LINE);
        lpc.start_interrupts(SerialIrqs::NONE.with(SerialIrq::UART));
        at.index += PsiSource::serial(LINE) as u32;
        let route = Route {
            vp: driver.thread_vp(first.pir)?,
            priority: Some(INPUT),
            data: 0,
        };
        driver.set_route(Source::Interrupt(at), route)?;
        machine.set_console_interrupts(true, false);
        bridge.unmask(PsiSource::serial(LINE));
        Ok(ConsoleInput {
            bridge,
            held: AtomicBool::new(false),
        })
    }

    /// Makes the calling thread, that of vCPU `id`, one that can take interrupts; nothing comes before [`Self::open`].
    pub(super) fn prepare_thread(&self, id: u32) -> Result<(), XiveError> {
        let kick = self.kick_of(id).ok_or(XiveError::NoVp)?;
        let Controllers { xive, tima } = self.controllers;
        controllers::push_thread(xive, tima, kick.pir)?;
        kick.ready();
        Ok(())
    }

    /// Lets the calling thread, that of vCPU `id`, be interrupted. When all contexts are there: that of the pool brings its
    /// own priority for the ring that they share, which is closed.
    pub(super) fn open(&self, id: u32) {
        self.controllers.tima.set_priority(CPPR_OPEN);
        if let Some(kick) = self.kick_of(id) {
            kick.arrives.store(true, Ordering::Release);
        }
    }

    fn kick_of(&self, id: u32) -> Option<&Kick> {
        self.kicks.get(usize::try_from(id).ok()?)
    }

    /// Interrupts the thread of vCPU `id`; whether it can be. What was written before is what that thread sees then.
    pub(super) fn kick(&self, id: u32) -> bool {
        let kick = self.kick_of(id);
        let kick = kick.filter(|kick| kick.arrives.load(Ordering::Acquire));
        if let Some(kick) = kick {
            kick.pages.write64(TRIGGER, 0);
        }
        kick.is_some()
    }

    /// Takes the interrupts of the calling thread, that of vCPU `id`; answers whether the console has to be looked after,
    /// and then [`Self::end_of_input`] or [`Self::hold_input`] is owed. What kicks were for is looked for afterwards.
    pub(super) fn take(&self, id: u32) -> bool {
        let tima = &self.controllers.tima;
        let mut has_input = false;
        for _ in 0..AT_A_TIME {
            let taken = tima.acknowledge();
            if taken.presented == Presented::Nothing {
                break;
            }
            if taken.priority == INPUT {
                has_input = true;
            } else if let Some(kick) = self.kick_of(id) {
                kick.ready();
            }
            tima.set_priority(CPPR_OPEN);
        }
        has_input
    }

    /// Whether input interrupts, so that nobody has to look for it.
    pub(super) fn console_interrupts(&self) -> bool {
        let arrives = |kick: &Kick| kick.arrives.load(Ordering::Acquire);
        self.console.is_some() && self.kicks.first().is_some_and(arrives)
    }

    /// All input was taken out of the UART: the next one interrupts again.
    pub(super) fn end_of_input(&self) {
        if let Some(console) = &self.console {
            console.held.store(false, Ordering::Relaxed);
            console.bridge.end_of_interrupt(PsiSource::serial(LINE));
        }
    }

    /// There was no room for all of the input: it does not interrupt before [`Self::release_input`].
    pub(super) fn hold_input(&self) {
        if let Some(console) = &self.console {
            console.held.store(true, Ordering::Relaxed);
        }
    }

    /// There is room for input again. Under the lock of the terminal, like the other two.
    pub(super) fn release_input(&self) {
        let held = |console: &ConsoleInput| console.held.load(Ordering::Relaxed);
        if self.console.as_ref().is_some_and(held) {
            self.end_of_input();
        }
    }
}

impl Kick {
    /// The next event interrupts again.
    fn ready(&self) {
        let _ = self.pages.read64(READY);
    }
}

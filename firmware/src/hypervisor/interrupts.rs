//! XIVE exploitation mode on the machine's controllers: what the partition's vCPUs and sources are there, and which pages
//! of the controllers it sees.
//!
//! Each vCPU has a virtual processor, whose context is on its thread from start to stop, also while a nested guest runs
//! there or the thread sleeps; so an interrupt finds it without the firmware. Each thread has a second one for the pool
//! ring, which never gets an event.
//!
//! Surprising fact: the pool's context is there only because a ring counts as valid only when all more privileged ones
//! are, at least on QEMU; Linux has one as well.
#![forbid(unsafe_code)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use isa::addr::{Gra, Ra};
use isa::timebase::{Deadline, Ticks};
use nest::scom::ChipIndex;
use nest::xive::tables::Index;
use nest::xive::{self, XiveError};
use papr_services::xive::{
    Exploitation, Fault, Hardware, PRIORITIES, Queue, Route, area_page, place, queue_page,
    source_pages, sources,
};

use crate::controllers::{Controllers, Driver};

/// Pages that each chip's tables get for event descriptors and virtual processors: a page has those of 256 vCPUs.
const TABLE_PAGES: u64 = 32;

/// How long a context that was pulled from a thread may take to memory: microseconds, if at all.
const PULL_PATIENCE: Ticks = Ticks::from_ms(20);

/// What a vCPU and its thread are to the controllers.
struct Server {
    /// The vCPU's virtual processor.
    vp: Index,
    /// What names it in a context.
    cam: u32,
    /// What names the thread's pool in a context.
    pool: u32,
}

/// A page of the controllers that the partition sees.
pub(super) struct Page {
    pub(super) gra: Gra,
    pub(super) ra: Ra,
}

/// The controllers as the partition's.
pub(super) struct PartitionInterrupts {
    controllers: &'static Controllers,
    servers: Vec<Server>,
    sources: Vec<(u32, Index)>,
    /// Where reports go that the partition wants nowhere.
    discarded: Ra,
}

impl PartitionInterrupts {
    /// Gives a partition whose vCPUs run on `threads` what it needs of the controllers, whose area is at `area`, and
    /// answers the pages that it is to see. For one caller.
    pub(super) fn start(
        controllers: &'static Controllers,
        area: Ra,
        threads: &[u32],
        vcpus: NonZeroU16,
    ) -> Result<(&'static Self, Vec<Page>), XiveError> {
        let driver = &controllers.xive;
        driver.provision(TABLE_PAGES)?;
        let discarded = driver.discarded_reports();

        let vps = 2 * threads.len();
        let order = u8::try_from(vps.next_power_of_two().ilog2()).map_err(|_| XiveError::Full)?;
        let first = driver.allocate_vps(order)?;
        let mut servers = Vec::new();
        for (pair, pir) in (0..).zip(threads) {
            let block = home(driver, *pir).filter(|block| block >> driver.vp_blocks_log2() == 0);
            let block = block.unwrap_or(0);
            let at = |index| Index { block, index };
            let [vp, pool] = [at(first + 2 * pair), at(first + 2 * pair + 1)];
            for vp in [vp, pool] {
                driver.renew_vp(vp, discarded)?;
            }
            servers.push(Server {
                vp,
                cam: driver.vp(vp)?.cam,
                pool: driver.vp(pool)?.cam,
            });
        }
        let mut all = Vec::new();
        for (lisn, pir) in sources(vcpus).zip(threads.iter().cycle()) {
            let block = home(driver, *pir).unwrap_or(0);
            all.push((lisn, driver.allocate_source(block)?));
        }
        let made = Self {
            controllers,
            servers,
            sources: all,
            discarded,
        };
        let pages = made.pages(area)?;
        Ok((Box::leak(Box::new(made)), pages))
    }

    /// What of the controllers the partition sees: its page of the area, its sources', its queues'.
    fn pages(&self, area: Ra) -> Result<Vec<Page>, XiveError> {
        let driver = &self.controllers.xive;
        let mut pages = Vec::new();
        for n in [place::OS_PAGE, place::USER_PAGE] {
            pages.push(Page {
                gra: area_page(n),
                ra: Ra(area.0 + (n << place::SHIFT)),
            });
        }
        for (lisn, source) in &self.sources {
            let info = driver.source(xive::Source::Interrupt(*source))?;
            let trigger = info.trigger.ok_or(XiveError::NoSource)?;
            for (gra, ra) in source_pages(*lisn)
                .into_iter()
                .zip([trigger, info.management])
            {
                pages.push(Page { gra, ra });
            }
        }
        for (number, server) in (0..).zip(&self.servers) {
            for priority in 0..PRIORITIES {
                pages.push(Page {
                    gra: queue_page(number, priority),
                    ra: driver.queue(server.vp, priority)?.management,
                });
            }
        }
        Ok(pages)
    }

    /// The controller as the partition's hypercalls see it.
    pub(super) fn exploitation(&'static self, vcpus: NonZeroU16) -> Exploitation {
        let all = (0..self.controllers.xive.blocks())
            .filter_map(|block| self.controllers.xive.capabilities(block));
        let store_eoi = all.into_iter().all(|can| can.store_eoi);
        Exploitation::new(vcpus, store_eoi, Box::new(Of(self)))
    }

    /// Makes the calling thread, which is to run vCPU `id` and whose own context is there, one that can take the
    /// partition's interrupts.
    pub(super) fn prepare_thread(&self, id: u32) -> Result<(), XiveError> {
        let server = self.server(id)?;
        let tima = &self.controllers.tima;
        // Nothing is there, unless a restart of the machine left it.
        tima.drop_os();
        tima.pull_pool();
        tima.push_pool(server.pool);
        Ok(())
    }

    /// vCPU `id` starts on the calling thread: from now on its interrupts come here.
    fn start_vcpu(&self, id: u32) -> Result<(), Fault> {
        let server = self.server(id).map_err(fault)?;
        let Controllers { xive, tima } = self.controllers;
        tima.drop_os();
        // What was pulled may still be on its way to memory. Without its context a vCPU that started would hang.
        let settled = || match xive.renew_vp(server.vp, self.discarded) {
            Err(XiveError::Active | XiveError::Busy) => None,
            done => Some(done),
        };
        let renewed = Deadline::after(PULL_PATIENCE).wait_for(settled);
        changed(renewed.unwrap_or(Err(XiveError::Active)))?;
        tima.push_os(server.cam);
        Ok(())
    }

    /// The vCPU of the calling thread stops: what comes for it waits, and is forgotten when it starts again.
    pub(super) fn stop_vcpu(&self) {
        self.controllers.tima.drop_os();
    }

    fn server(&self, id: u32) -> Result<&Server, XiveError> {
        let place = usize::try_from(id).map_err(|_| XiveError::NoVp)?;
        self.servers.get(place).ok_or(XiveError::NoVp)
    }

    fn source(&self, lisn: u32) -> Result<Index, XiveError> {
        let mut found = self.sources.iter().filter(|(number, _)| *number == lisn);
        found
            .next()
            .map(|(_, source)| *source)
            .ok_or(XiveError::NoSource)
    }
}

/// The block of a thread's chip.
fn home(driver: &Driver, pir: u32) -> Option<u8> {
    driver.block_of(ChipIndex(u8::try_from(pir >> 8).ok()?))
}

/// What the hypercalls get.
struct Of(&'static PartitionInterrupts);

fn fault(error: XiveError) -> Fault {
    if error == XiveError::Busy {
        return Fault::Busy;
    }
    crate::limited!(error, "interrupt controller: {error}");
    Fault::Failed
}

/// What came of a change. One that is only not confirmed is a change: to say otherwise would leave the partition and the
/// controllers with different beliefs.
fn changed(done: Result<(), XiveError>) -> Result<(), Fault> {
    match done {
        Err(late @ XiveError::Unsettled(_)) => {
            crate::limited!(warn, "interrupt controller: {late}");
            Ok(())
        }
        done => done.map_err(fault),
    }
}

impl Of {
    fn driver(&self) -> &'static Driver {
        &self.0.controllers.xive
    }
}

impl Hardware for Of {
    fn route(&self, lisn: u32, route: Option<Route>) -> Result<(), Fault> {
        let set = || {
            let source = xive::Source::Interrupt(self.0.source(lisn)?);
            let route = match route {
                Some(route) => xive::Route {
                    vp: self.0.server(route.server)?.vp,
                    priority: Some(route.priority),
                    data: route.eisn,
                },
                None => xive::Route {
                    vp: self.0.server(0)?.vp,
                    priority: None,
                    data: 0,
                },
            };
            self.driver().reroute(source, route).map(drop)
        };
        changed(set())
    }

    fn set_queue(&self, server: u32, priority: u8, queue: Option<Queue>) -> Result<(), Fault> {
        let queue = queue.map(|queue| xive::Queue {
            memory: Some((queue.memory, queue.log2)),
            always_notify: queue.always_notify,
            escalate: false,
        });
        let server = self.0.server(server);
        changed(server.and_then(|server| self.driver().set_queue(server.vp, priority, queue)))
    }

    fn queue_position(&self, server: u32, priority: u8) -> Result<(bool, u32), Fault> {
        let server = self.0.server(server);
        server
            .and_then(|server| self.driver().queue_position(server.vp, priority))
            .map_err(fault)
    }

    fn set_report(&self, server: u32, lines: Option<Ra>) -> Result<(), Fault> {
        let lines = lines.unwrap_or(self.0.discarded);
        let server = self.0.server(server);
        changed(server.and_then(|server| self.driver().set_report(server.vp, lines)))
    }

    fn esb_load(&self, lisn: u32, offset: u64) -> Result<u64, Fault> {
        let source = self.0.source(lisn);
        source
            .and_then(|source| self.driver().esb_load(source, offset))
            .map_err(fault)
    }

    fn esb_store(&self, lisn: u32, offset: u64, value: u64) -> Result<(), Fault> {
        let source = self.0.source(lisn);
        source
            .and_then(|source| self.driver().esb_store(source, offset, value))
            .map_err(fault)
    }

    fn turn_off(&self, lisn: u32) -> Result<(), Fault> {
        let source = self.0.source(lisn);
        source
            .and_then(|source| self.driver().turn_source_off(source))
            .map_err(fault)
    }

    fn sync(&self) -> Result<(), Fault> {
        // An event goes from its source's chip to its queue's.
        (0..self.driver().blocks())
            .try_for_each(|block| self.driver().sync(block))
            .map_err(fault)
    }

    fn start(&self, server: u32) -> Result<(), Fault> {
        self.0.start_vcpu(server)
    }

    fn trigger(&self, lisn: u32) {
        let source = self.0.source(lisn);
        if let Err(error) = source.and_then(|source| self.driver().trigger(source)) {
            fault(error);
        }
    }

    fn presents(&self) -> bool {
        self.0.controllers.tima.os_presents()
    }
}

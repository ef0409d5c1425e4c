//! The firmware's own interrupt sources: those of LPC, behind the PSI host bridge of each chip.
//!
//! Owns the bridges. The kernel takes these interrupts and calls back (OPAL_HANDLE_INTERRUPT); which ones are the
//! firmware's, the tree says. Surprising fact: all other sources of the bridges stay off, since a level that nobody serves
//! comes again for ever.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use nest::chip::AddressMap;
use nest::lpc::CiLpc;
use nest::lpc::serirq::{SerialIrq, SerialIrqs};
use nest::psi::PsiSource;
use nest::scom::{ChipIndex, Scom};
use nest::xive::XiveError;
use nest::xive::tables::Index;
use opal_calls::args::Isn;

use super::tree;
use crate::controllers::{Bridge, Driver, connect_bridge};

/// The line that carries the serial interrupts that the firmware serves.
const LINE: u8 = 0;

/// What the firmware serves, with its name for the kernel's statistics.
const SERVED: [(PsiSource, &str); 2] = [
    (PsiSource::Lpc, "lpc-errors"),
    (PsiSource::serial(LINE), "lpc-serial"),
];

/// The bridges of all chips.
#[derive(Default)]
pub(super) struct Bridges {
    bridges: Vec<Bridge>,
    /// What the kernel is told of each.
    described: Vec<tree::Bridge>,
    /// First source of the bridge that has the console's bus.
    console: Option<Index>,
}

impl Bridges {
    /// Connects the bridges of `chips` to the controllers, all sources off, and the console's interrupt to its bridge, that
    /// of chip 0. A bridge that does not work is reported: the kernel polls then.
    pub(super) fn start(
        scom: &mut impl Scom,
        map: &AddressMap,
        chips: impl Iterator<Item = ChipIndex>,
        xive: &Driver,
        lpc: &CiLpc,
    ) -> Self {
        let mut all = Self::default();
        for chip in chips {
            match all.connect(scom, map, chip, xive) {
                Ok(first) if chip == ChipIndex(0) => all.console = Some(first),
                Ok(_) => {}
                Err(error) => log::error!("chip {}: no interrupts of LPC: {error}", chip.0),
            }
        }
        if all.console.is_some() {
            let used = [SerialIrq::UART, SerialIrq::BT];
            let used = used.into_iter().fold(SerialIrqs::NONE, |used, irq| {
                lpc.route(irq, LINE);
                used.with(irq)
            });
            lpc.start_interrupts(used);
        }
        all
    }

    fn connect(
        &mut self,
        scom: &mut impl Scom,
        map: &AddressMap,
        chip: ChipIndex,
        xive: &Driver,
    ) -> Result<Index, XiveError> {
        let (bridge, first) = connect_bridge(scom, map, chip, xive)?;
        self.bridges.push(bridge);
        self.described.push(tree::Bridge {
            chip: chip.0.into(),
            at: map.of_chip(map.psihb, chip).0,
            first: number(first),
        });
        Ok(first)
    }

    /// Turns all sources off, before another kernel.
    pub(super) fn mask_all(&self) {
        for bridge in &self.bridges {
            bridge.mask_all();
        }
    }

    /// Numbers and names of the firmware's interrupts.
    pub(super) fn served(&self) -> Vec<(u32, &'static str)> {
        let named = |first| SERVED.map(|(source, name)| (number(first) + source as u32, name));
        self.console.into_iter().flat_map(named).collect()
    }

    /// What the tree says of them.
    pub(super) fn described(&self) -> tree::Bridges {
        tree::Bridges {
            bridges: self.described.clone(),
            serial: [(SerialIrq::UART.number().into(), PsiSource::serial(LINE))].into(),
        }
    }

    /// Which of the firmware's interrupts that number is.
    pub(super) fn find(&self, isn: Isn) -> Option<PsiSource> {
        let is_served = self.served().iter().any(|(number, _)| *number == isn.0);
        is_served.then(|| PsiSource::of_number(isn.0)).flatten()
    }
}

/// A source's number for kernels.
fn number(source: Index) -> u32 {
    u32::from(source.block) << 24 | source.index
}

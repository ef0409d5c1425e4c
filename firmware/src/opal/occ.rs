//! The on-chip controllers for the kernel: pstates and limits of power in the tree, commands.
//!
//! Surprising fact: pstates are the same on all chips, so those of the first controller that has any are the machine's.
#![forbid(unsafe_code)]

use alloc::format;
use alloc::vec::Vec;

use nest::lock::{Mutex, rank};
use nest::occ::{self, Occ, OccError, Pstate};
use nest::scom::ChipIndex;
use opal_calls::error::{Answer, OpalError, SUCCESS};
use opal_calls::power::{Cap, Command, Controllers, ratio_handle};
use papr_services::tree::Node;

/// The controllers of the machine, by chip.
#[derive(Debug)]
pub struct Occs(Vec<(ChipIndex, Mutex<Occ<'static>, rank::Operated>)>);

impl Occs {
    /// These.
    #[must_use]
    pub fn new(occs: impl IntoIterator<Item = (ChipIndex, Occ<'static>)>) -> Self {
        let with_lock = |(chip, occ)| (chip, Mutex::new(occ));
        Self(occs.into_iter().map(with_lock).collect())
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds pstates, `powercap` and `psr` to `/ibm,opal/power-mgt`.
    pub fn describe(&self, root: &mut Node) {
        let cores = count_cores(root);
        root.node("ibm,opal", |opal| {
            opal.node("power-mgt", |node| {
                if let Some((_, occ)) = self.0.first() {
                    describe_pstates(node, &occ.lock(), cores);
                    describe_caps(node);
                    self.describe_ratios(node);
                }
            });
        });
    }

    fn describe_ratios(&self, node: &mut Node) {
        node.node("psr", |psr| {
            psr.set("compatible", "ibm,opal-power-shift-ratio")
                .set("#address-cells", 1_u32)
                .set("#size-cells", 0_u32);
            for (unit, (chip, _)) in (0..).zip(&self.0) {
                psr.at("cpu-to-gpu", chip.0.into(), 0, |node| {
                    node.set("label", &format!("cpu_to_gpu_{}", chip.0))
                        .set("handle", ratio_handle(unit));
                });
            }
        });
    }

    fn with<T>(&self, unit: usize, f: impl FnOnce(&mut Occ<'static>) -> T) -> Option<T> {
        self.0.get(unit).map(|(_, occ)| f(&mut occ.lock()))
    }
}

/// Cores of the first chip.
fn count_cores(root: &Node) -> usize {
    root.child("cpus").map_or(0, |cpus| {
        cpus.children()
            .iter()
            .filter(|cpu| cpu.cell("ibm,chip-id") == Some(0))
            .count()
    })
}

fn describe_pstates(node: &mut Node, occ: &Occ<'_>, cores: usize) {
    /// All cores of a chip have the frequency of the one that asks for the most.
    const WHOLE_CHIP: u32 = 0;
    const MAX_IN_DOMAIN: u32 = 0;
    let Some(limits) = occ.limits() else {
        log::error!("the pstates of the on-chip controller contradict each other: none are told");
        return;
    };
    let pstates: Vec<Pstate> = occ.pstates(limits).collect();
    let ids: Vec<u32> = pstates.iter().map(|pstate| pstate.id.into()).collect();
    let mhz: Vec<u32> = pstates.iter().map(|pstate| pstate.mhz).collect();
    let core_max: Vec<u32> = occ.core_max().take(cores).map(u32::from).collect();
    node.set("ibm,pstate-ids", &ids[..])
        .set("ibm,pstate-frequencies-mhz", &mhz[..])
        .set("ibm,pstate-min", u32::from(limits.min))
        .set("ibm,pstate-nominal", u32::from(limits.nominal))
        .set("ibm,pstate-max", u32::from(limits.max))
        .set("ibm,pstate-turbo", u32::from(limits.turbo))
        .set("ibm,pstate-ultra-turbo", u32::from(limits.ultra_turbo))
        .set("ibm,pstate-base", u32::from(limits.turbo))
        .set("ibm,pstate-core-max", &core_max[..])
        .set("freq-domain-mask", WHOLE_CHIP)
        .set("domain-runs-at", MAX_IN_DOMAIN);
}

fn describe_caps(node: &mut Node) {
    node.node("powercap", |caps| {
        caps.set("compatible", "ibm,opal-powercap");
        caps.node("system-powercap", |node| {
            for (name, cap) in [
                ("powercap-current", Cap::Current),
                ("powercap-min", Cap::SoftMin),
                ("powercap-max", Cap::Max),
                ("powercap-hard-min", Cap::HardMin),
            ] {
                node.set(name, cap.handle());
            }
        });
    });
}

const fn code(error: OccError) -> OpalError {
    match error {
        OccError::NotRunning => OpalError::OPAL_HARDWARE,
        OccError::NotMaster => OpalError::OPAL_PERMISSION,
        OccError::Busy => OpalError::OPAL_BUSY,
        OccError::Refused(_) => OpalError::OPAL_INTERNAL_ERROR,
    }
}

impl Controllers for Occs {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn cap(&self, which: Cap) -> Option<u16> {
        let which = match which {
            Cap::SoftMin => occ::Cap::SoftMin,
            Cap::Max => occ::Cap::Max,
            Cap::Current => occ::Cap::Current,
            Cap::HardMin => occ::Cap::HardMin,
        };
        self.with(0, |occ| occ.cap(which)).flatten()
    }

    fn ratio(&self, unit: usize) -> Option<u8> {
        self.with(unit, |occ| occ.ratio()).flatten()
    }

    fn begin(&self, unit: usize, command: Command) -> Result<(), OpalError> {
        let command = match command {
            Command::SetCap(watts) => occ::Command::SetCap(watts),
            Command::SetRatio(percent) => occ::Command::SetRatio(percent),
        };
        self.with(unit, |occ| occ.begin(command))
            .ok_or(OpalError::OPAL_UNSUPPORTED)?
            .map_err(code)
    }

    fn poll(&self, unit: usize) -> Option<Answer> {
        let ended = self.with(unit, Occ::poll).flatten()?;
        Some(ended.map_err(code).and(SUCCESS))
    }

    fn abandon(&self, unit: usize) {
        let _ = self.with(unit, Occ::abandon); // a controller that is not there has no command
    }
}

//! `/cpus` and `/memory`: what the given nodes lack (reference/opal.md 4.1, 4.2), and where in the machine they are.
//!
//! Surprising fact: nothing says which chips are on one card, so all are, as far as distances go; only the chip makes a
//! node of memory and threads.

use alloc::string::String;
use alloc::vec::Vec;

use nest::chip::Chip;
use papr_services::device_tree::Caches;
use papr_services::level::Level;
use papr_services::tree::Node;

use super::{Draft, caches};
use crate::opal::cpu_features;

/// `ibm,associativity-reference-points`: the levels of `ibm,associativity` that count for distances, the first of which makes
/// the kernel's memory nodes: chip, chip, card.
pub(super) const REFERENCE_POINTS: [u32; 3] = [4, 4, 2];
/// The vector of options that says how [`REFERENCE_POINTS`] are to be read: form 1. Old kernels look for it here.
pub(super) const FORM_1: [u8; 7] = [5, 0, 0, 0, 0, 0x80, 0];
/// Node, card, module: not known.
const ABOVE_CHIP: [u32; 3] = [0; 3];

/// What is said of all cores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus<'a> {
    pub(super) chip: &'a Chip,
    /// See [`super::Description::is_qemu`].
    pub(super) is_qemu: bool,
    pub(super) level: Option<Level>,
    /// PIRs of threads that did not come up.
    pub(super) missing: &'a [u32],
}

impl Cpus<'_> {
    /// Adds to each core's node, and the node of the features.
    pub(super) fn describe(&self, draft: &mut Draft) {
        let phandles = &mut draft.phandles;
        draft.root.node("cpus", |cpus| {
            for name in of_type(cpus, b"cpu\0") {
                cpus.node(&name, |cpu| self.cpu(cpu));
                caches::describe(cpus, &name, Caches::POWER10, phandles);
            }
            cpus.node("ibm,powerpc-cpu-features", |node| {
                cpu_features::describe(node, phandles, self.chip.pvr_family == 0x82);
            });
        });
    }

    /// What the radix MMU can do; on QEMU only small pages, so that kernels make no huge ones.
    ///
    /// QEMU (11.1) never ends to deliver the interrupt of an instruction fetch whose walk of a guest's own tables finds one
    /// of their pages unreferenced in the partition-scoped tree: it reads the instruction to see whether it is a prefixed
    /// one, which faults in the same way. Linux 7.2 marks pages of guests as unreferenced all the time (DAMON_STAT, a
    /// page every few ms). When pages are huge, all tables of a guest are in one or two of them, and each guest hangs within
    /// seconds; with small ones hardly one does, on any firmware. Of 2 MiB and 1 GiB Linux uses both or none.
    fn page_sizes(&self) -> Vec<u32> {
        const SHIFT: u32 = 0x0fff_ffff;
        const LARGEST_SMALL: u32 = 16;
        let all = self.chip.mmu.radix_ap_encodings.iter().copied();
        all.filter(|encoding| !self.is_qemu || encoding & SHIFT <= LARGEST_SMALL)
            .collect()
    }

    fn cpu(&self, cpu: &mut Node) {
        cpu.set("ibm,processor-radix-AP-encodings", &self.page_sizes()[..])
            .set("ibm,mmu-pid-bits", self.chip.mmu.pid_bits)
            .set("ibm,mmu-lpid-bits", self.chip.mmu.lpid_bits)
            .set("ibm,processor-storage-keys", [32_u32, 32])
            .set("ibm,dec-bits", 56_u32);
        // Otherwise it stays what it was, the processor's own version.
        if let Some(level) = self.level {
            cpu.set("cpu-version", level.logical_pvr());
        }
        let chip = cpu.cell("ibm,chip-id").unwrap_or(0);
        let pir = cpu.cell("reg").unwrap_or(0);
        // The number of the core on its chip, of the first one when two are fused.
        let core = pir >> 2 & 0x3f;
        let [node, card, module] = ABOVE_CHIP;
        cpu.set("ibm,associativity", [5, node, card, module, chip, core]);
        let threads: Vec<u32> = cpu
            .property("ibm,ppc-interrupt-server#s")
            .map_or(&[][..], |servers| servers.as_chunks().0)
            .iter()
            .map(|pir| u32::from_be_bytes(*pir))
            .collect();
        if threads.len() > usize::from(self.chip.threads_per_small_core) {
            cpu.set("ibm,fused-core", ());
        }
        // A core one of whose threads is missing is unusable: kernels start whole cores.
        if threads.iter().any(|pir| self.missing.contains(pir)) {
            cpu.set("status", "bad");
        }
    }
}

/// Says of each piece of memory which chip it is at, so that kernels use what is near.
pub(super) fn describe_memory(root: &mut Node) {
    for name in of_type(root, b"memory\0") {
        root.node(&name, |memory| {
            let chip = memory.cell("ibm,chip-id").unwrap_or(0);
            let [node, card, module] = ABOVE_CHIP;
            memory.set("ibm,associativity", [4, node, card, module, chip]);
        });
    }
}

fn of_type(parent: &Node, device_type: &[u8]) -> Vec<String> {
    let children = parent.children().iter();
    children
        .filter(|child| child.property("device_type") == Some(device_type))
        .map(|child| child.name().into())
        .collect()
}

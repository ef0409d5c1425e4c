//! What the device tree says about the machine, as typed values that outlive the tree.
//!
//! Surprising fact: QEMU's tree gives `linux,initrd-start` as one cell, boards as two, and neither says how long the
//! kernel is.
#![forbid(unsafe_code)]

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::fdt::{Fdt, Node};
use crate::memory::Region;
use crate::opal::fast_reboot;

use pnor_image::container::Hash;

/// One core: the threads that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// PIR of its first thread.
    pub pir: u32,
    /// Chip it is on, as the tree calls it.
    pub chip: u32,
    /// PIRs of its threads, the first included.
    pub threads: Vec<u32>,
}

/// The tree's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Root `compatible`, most specific first.
    pub compatible: Vec<String>,
    /// Root `model`.
    pub model: String,
    /// Runs of memory, in the tree's order.
    pub ram: Vec<Region>,
    /// Ranges that whoever started us keeps.
    pub reserved: Vec<Range<u64>>,
    /// Cores that are not disabled, in the tree's order.
    pub cores: Vec<Core>,
    /// Chip ids, ascending.
    pub chips: Vec<u32>,
    /// Ticks of the time base per second.
    pub timebase_frequency: u64,
    /// Processor clock in Hz, 0 if the tree does not say.
    pub clock_frequency: u64,
    /// Base address of the LPC bus with the BMC behind it, if the tree names one.
    pub lpc: Option<u64>,
    /// `/chosen/bootargs`.
    pub bootargs: String,
    /// Where the initrd was loaded.
    pub initrd: Option<Range<u64>>,
    /// Fast reboots since the last real one: only the firmware's own tree has any.
    pub fast_reboots: u32,
    /// Whether the machine is in secure mode, as `/ibm,secureboot` says.
    pub secure: bool,
    /// The hash of the hardware keys that the machine trusts, from there.
    pub key_hash: Option<Hash>,
    qemu: bool,
}

/// Why the tree does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputError {
    /// The root's `compatible` does not have `ibm,powernv`; it is this.
    UnknownMachine(String),
    /// There is no memory node.
    NoMemory,
    /// There is no usable core.
    NoCores,
    /// `linux,initrd-end` is not after `linux,initrd-start`.
    BadInitrd(u64, u64),
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMachine(found) => write!(
                f,
                "unknown machine \"{}\": this firmware is for machines compatible with \"ibm,powernv\"",
                found.escape_default()
            ),
            Self::NoMemory => write!(f, "the device tree has no memory node: correct the tree"),
            Self::NoCores => write!(
                f,
                "the device tree has no usable processor: correct the tree"
            ),
            Self::BadInitrd(start, end) => {
                write!(
                    f,
                    "the device tree's initrd ends at {end:#x}, before its start {start:#x}: load it again"
                )
            }
        }
    }
}

/// Most threads of one core: a fused core has 8.
const MAX_THREADS_PER_CORE: usize = 8;

impl Inputs {
    /// Reads the tree.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn read(tree: Fdt<'_>) -> Result<Self, InputError> {
        let root = tree.root();
        let compatible: Vec<String> = root
            .property("compatible")
            .map(|p| p.strings().map(str::to_string).collect())
            .unwrap_or_default();
        if !compatible.iter().any(|entry| entry == "ibm,powernv") {
            return Err(InputError::UnknownMachine(compatible.join(" ")));
        }
        let text = |node: Option<&Node<'_>>, name| {
            node.and_then(|node| node.property(name))
                .and_then(|p| p.str())
                .unwrap_or_default()
                .to_string()
        };
        let (address_cells, size_cells) = root.cell_counts();

        let mut ram = Vec::new();
        for node in root
            .children()
            .filter(|node| device_type(node) == Some("memory"))
        {
            let chip = chip_id(&node);
            ram.extend(
                node.reg(address_cells, size_cells)
                    .map(|(base, len)| Region { base, len, chip }),
            );
        }
        if ram.is_empty() {
            return Err(InputError::NoMemory);
        }

        let mut reserved: Vec<Range<u64>> = tree
            .reservations()
            .map(|(base, len)| base..base.saturating_add(len))
            .collect();
        if let Some(node) = root.child("reserved-memory") {
            let (address_cells, size_cells) = node.cell_counts();
            for child in node.children() {
                reserved.extend(
                    child
                        .reg(address_cells, size_cells)
                        .map(|(base, len)| base..base.saturating_add(len)),
                );
            }
        }

        let cpus: Vec<_> = root
            .child("cpus")
            .map(|node| {
                node.children()
                    .filter(|cpu| device_type(cpu) == Some("cpu") && is_enabled(cpu))
                    .collect()
            })
            .unwrap_or_default();
        let cores: Vec<Core> = cpus.iter().filter_map(core).collect();
        if cores.is_empty() {
            return Err(InputError::NoCores);
        }
        let first_number = |name| {
            cpus.iter()
                .find_map(|cpu| cpu.property(name).and_then(|p| p.number()))
                .filter(|number| *number > 0)
        };

        let mut chips: Vec<u32> = cores.iter().map(|core| core.chip).collect();
        chips.sort_unstable();
        chips.dedup();

        let chosen = root.child("chosen");
        let number = |name| {
            chosen
                .as_ref()
                .and_then(|node| node.property(name))
                .and_then(|p| p.number())
        };
        let initrd = match (number("linux,initrd-start"), number("linux,initrd-end")) {
            (Some(start), Some(end)) if start < end => Some(start..end),
            (Some(start), Some(end)) => return Err(InputError::BadInitrd(start, end)),
            _ => None,
        };

        let secure_boot = root.child("ibm,secureboot");
        let secure_boot = |name| secure_boot.as_ref().and_then(|node| node.property(name));

        Ok(Self {
            secure: secure_boot("secure-enabled").is_some(),
            key_hash: secure_boot("hw-key-hash").and_then(|p| p.value.try_into().ok()),
            model: text(Some(&root), "model"),
            ram,
            reserved,
            cores,
            chips,
            timebase_frequency: first_number("timebase-frequency")
                .unwrap_or(isa::timebase::FREQUENCY),
            clock_frequency: first_number("clock-frequency").unwrap_or(0),
            lpc: primary_lpc(&root, address_cells, size_cells),
            bootargs: text(chosen.as_ref(), "bootargs"),
            initrd,
            fast_reboots: chosen
                .as_ref()
                .and_then(|node| node.property(fast_reboot::COUNT)?.u32())
                .unwrap_or(0),
            qemu: root.child("qemu").is_some()
                || compatible.iter().any(|entry| entry.starts_with("qemu,")),
            compatible,
        })
    }

    /// Whether the machine is QEMU's model of one. The only place that asks, and the reason is always the same: the
    /// model lacks something that the processor or chip has; whoever calls this says what.
    #[must_use]
    pub const fn is_qemu(&self) -> bool {
        self.qemu
    }

    /// Hardware threads that the tree names.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.cores.iter().map(|core| core.threads.len()).sum()
    }
}

fn device_type<'a>(node: &Node<'a>) -> Option<&'a str> {
    node.property("device_type")?.str()
}

fn is_enabled(node: &Node<'_>) -> bool {
    node.property("status")
        .and_then(|p| p.str())
        .is_none_or(|status| status == "okay" || status == "ok")
}

fn chip_id(node: &Node<'_>) -> u32 {
    node.property("ibm,chip-id")
        .and_then(|p| p.u32())
        .unwrap_or(0)
}

fn core(node: &Node<'_>) -> Option<Core> {
    let pir = node
        .property("ibm,pir")
        .or_else(|| node.property("reg"))?
        .u32()?;
    let mut threads: Vec<u32> = node
        .property("ibm,ppc-interrupt-server#s")
        .map(|p| p.cells().take(MAX_THREADS_PER_CORE).collect())
        .unwrap_or_default();
    if !threads.contains(&pir) {
        threads.insert(0, pir);
    }
    Some(Core {
        pir,
        chip: chip_id(node),
        threads,
    })
}

/// The OPB node whose LPC bus is `primary`: only behind that one is a BMC.
fn primary_lpc(root: &Node<'_>, address_cells: u32, size_cells: u32) -> Option<u64> {
    root.children()
        .filter(|node| node.is_compatible("ibm,power9-lpcm-opb"))
        .find(|opb| opb.children().any(|bus| bus.property("primary").is_some()))
        .and_then(|opb| opb.reg(address_cells, size_cells).next())
        .map(|(base, _)| base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::build::Blob;

    fn powernv(fill: impl FnOnce(&mut Blob)) -> Vec<u8> {
        let mut blob = Blob::default();
        blob.begin("")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[2]);
        blob.prop("compatible", b"qemu,powernv10\0ibm,powernv\0")
            .text("model", "a model");
        fill(&mut blob);
        blob.end().finish()
    }

    fn memory_and_cpu(blob: &mut Blob) {
        blob.begin("memory@0")
            .text("device_type", "memory")
            .wide("reg", &[0, 0x8000_0000])
            .cells("ibm,chip-id", &[0])
            .end();
        blob.begin("cpus")
            .cells("#address-cells", &[1])
            .cells("#size-cells", &[0]);
        for pir in [4_u32, 0x108] {
            blob.begin(&format!("PowerPC,POWER10@{pir:x}"))
                .text("device_type", "cpu")
                .cells("reg", &[pir]);
            blob.cells("ibm,pir", &[pir])
                .cells("ibm,chip-id", &[pir >> 8])
                .cells("timebase-frequency", &[512_000_000]);
            blob.cells("ibm,ppc-interrupt-server#s", &[pir, pir + 1])
                .text("status", "okay")
                .end();
        }
        blob.end();
    }

    fn read(blob: &[u8]) -> Result<Inputs, InputError> {
        Inputs::read(Fdt::new(blob).unwrap())
    }

    #[test]
    fn a_tree_as_qemu_writes_it_is_read() {
        let blob = powernv(|blob| {
            memory_and_cpu(blob);
            blob.begin("qemu")
                .end()
                .begin("chosen")
                .text("bootargs", "quiet");
            blob.cells("linux,initrd-start", &[0x2800_0000])
                .cells("linux,initrd-end", &[0x2800_1000])
                .end();
            blob.begin("lpcm-opb@6030000000000")
                .text("compatible", "ibm,power9-lpcm-opb");
            blob.wide("reg", &[0x0006_0300_0000_0000, 0x1_0000_0000])
                .begin("lpc@0")
                .prop("primary", &[])
                .end()
                .end();
            blob.begin("reserved-memory")
                .cells("#address-cells", &[2])
                .cells("#size-cells", &[2]);
            blob.begin("x@1")
                .wide("reg", &[0x100_0000, 0x1_0000])
                .end()
                .end();
        });
        let inputs = read(&blob).unwrap();
        assert_eq!(
            inputs.ram,
            [Region {
                base: 0,
                len: 0x8000_0000,
                chip: 0
            }]
        );
        assert_eq!(
            inputs.cores[1],
            Core {
                pir: 0x108,
                chip: 1,
                threads: vec![0x108, 0x109]
            }
        );
        assert_eq!(
            (inputs.threads(), inputs.chips.as_slice()),
            (4, &[0, 1][..])
        );
        assert_eq!(inputs.bootargs, "quiet");
        assert_eq!(inputs.initrd, Some(0x2800_0000..0x2800_1000));
        assert_eq!(inputs.lpc, Some(0x0006_0300_0000_0000));
        assert_eq!(inputs.reserved.first(), Some(&(0x100_0000..0x101_0000)));
        assert_eq!(inputs.timebase_frequency, 512_000_000);
        assert!(inputs.is_qemu());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut other = Blob::default();
        let other = other
            .begin("")
            .text("compatible", "ibm,pseries")
            .end()
            .finish();
        let error = read(&other).unwrap_err();
        assert_eq!(error, InputError::UnknownMachine("ibm,pseries".into()));
        assert!(error.to_string().contains("\"ibm,pseries\""));
        assert_eq!(read(&powernv(|_| ())).unwrap_err(), InputError::NoMemory);
        let no_cores = powernv(|blob| {
            blob.begin("memory@0")
                .text("device_type", "memory")
                .wide("reg", &[0, 0x8000_0000])
                .end();
        });
        assert_eq!(read(&no_cores).unwrap_err(), InputError::NoCores);
        let backwards = powernv(|blob| {
            memory_and_cpu(blob);
            blob.begin("chosen")
                .wide("linux,initrd-start", &[9])
                .wide("linux,initrd-end", &[9])
                .end();
        });
        assert_eq!(read(&backwards).unwrap_err(), InputError::BadInitrd(9, 9));
    }

    #[test]
    fn disabled_processors_do_not_count() {
        let blob = powernv(|blob| {
            memory_and_cpu(blob);
            blob.begin("cpus2").end();
        });
        let mut damaged = blob.clone();
        let at = damaged.windows(5).position(|w| w == b"okay\0").unwrap();
        damaged[at] = b'x';
        assert_eq!(read(&blob).unwrap().cores.len(), 2);
        assert_eq!(read(&damaged).unwrap().cores.len(), 1);
    }

    proptest::proptest! {
        /// The whole way of hostile bytes through boot's pure stages.
        #[test]
        fn a_damaged_tree_never_panics(damage in proptest::collection::vec((0usize..2000, proptest::prelude::any::<u8>()), 1..8)) {
            let mut blob = powernv(|blob| {
                memory_and_cpu(blob);
                blob.reserved.push((0x100_0000, 0x1000));
                blob.begin("chosen").text("bootargs", "nidus.mode=papr quiet");
                blob.wide("linux,initrd-start", &[0x2800_0000]).wide("linux,initrd-end", &[0x2800_1000]).end();
                blob.begin("reserved-memory").cells("#address-cells", &[2]).cells("#size-cells", &[2]);
                blob.begin("x@1").wide("reg", &[0x5000_0000, 0x1_0000]).end().end();
            });
            for (at, value) in damage {
                let length = blob.len();
                blob[at % length] = value;
            }
            if let Ok(tree) = Fdt::new(&blob)
                && let Ok(inputs) = Inputs::read(tree)
            {
                let _ = (inputs.threads(), crate::command_line::CommandLine::parse(&inputs.bootargs));
                if let Ok(plan) = crate::memory::Plan::new(inputs.ram, inputs.reserved) {
                    let extents = plan.partition_extents(16).unwrap_or_default();
                    let range = inputs.initrd.unwrap_or_default();
                    let _ = extents.iter().find_map(|extent| extent.sees(&range));
                }
            }
        }
    }
}

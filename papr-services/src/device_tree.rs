//! The device tree that a partition's kernel is entered with: PAPR's, for radix translation, without Open Firmware.
//!
//! Since nobody negotiates (there is no `ibm,client-architecture-support`), the tree also says what negotiation would
//! have: `/chosen/ibm,architecture-vec-5`. Function sets and RTAS tokens come from the tables that serve them.
//!
//! The surprising fact: `device_type = "chrp"` in the root and the mere presence of `ibm,hypertas-functions` are what
//! tells a kernel that it runs in a partition; without the string `hcall-set-mode` it never asks for little-endian
//! interrupts and hangs at the first one.

mod interrupts;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use isa::addr::Gra;

use crate::guest_ram::GuestRam;
use crate::interrupt::IPI;
use crate::level::Level;
use crate::partition::{Partition, Policy};
use crate::tree::{Bytes, Node, Tree};
use crate::{rtas, table, term};

/// A cache as kernels are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Bytes.
    pub size: u32,
    /// Ways times sets times 128 is the size; this is the number of sets.
    pub sets: u32,
}

/// The caches of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// First level, instructions.
    pub instruction: Cache,
    /// First level, data.
    pub data: Cache,
    /// Second level, shared.
    pub second: Option<Cache>,
    /// Third level, shared.
    pub third: Option<Cache>,
}

impl Caches {
    /// A POWER10 or Power11 core with four threads: 48 KiB 6-way, 32 KiB 8-way, 1 MiB 8-way, 4 MiB 16-way.
    pub const POWER10: Self = Self {
        instruction: Cache {
            size: 48 << 10,
            sets: 64,
        },
        data: Cache {
            size: 32 << 10,
            sets: 32,
        },
        second: Some(Cache {
            size: 1 << 20,
            sets: 1024,
        }),
        third: Some(Cache {
            size: 4 << 20,
            sets: 2048,
        }),
    };
}

/// Line of every cache, and block of `dcbz`: bytes.
const CACHE_LINE: u32 = 128;

/// What the machine passes on to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Ticks of the time base in a second.
    pub timebase_hz: u32,
    /// Clock of the processor, informative.
    pub clock_hz: u32,
    /// Caches of a core.
    pub caches: Caches,
    /// That many vCPUs, from each multiple of it on, are one core. It divides their number.
    pub threads_per_core: u32,
}

/// Where the loader put things, and what it says to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Command line.
    pub arguments: &'a str,
    /// Initial RAM disk: start and bytes.
    pub initrd: Option<(Gra, u64)>,
    /// The page with [`rtas::STUB`] at its start, in the first 1 GiB of the first range of memory.
    pub rtas: Gra,
    /// Random bytes for the kernel's generator; may be empty.
    pub seed: &'a [u8],
}

/// Everything that the tree says.
#[derive(Clone, Debug)]
pub struct PartitionDescription<'a> {
    /// Decisions.
    pub policy: &'a Policy,
    /// Logical partition id.
    pub lpid: u32,
    /// Memory: start and bytes, ascending. The first range is the real mode area.
    pub memory: Vec<(Gra, u64)>,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The machine.
    pub machine: Machine,
    /// The loader.
    pub boot: Boot<'a>,
    /// Whether interrupts are the controllers' own affair (XIVE exploitation mode), else they come by XICS calls.
    pub exploitation: bool,
}

/// A description that no kernel could start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDescription {
    /// No memory at address 0.
    NoRealModeArea,
    /// The RTAS page is not page aligned, or not below both 1 GiB and the end of the first range of memory.
    MisplacedRtas,
    /// The initial RAM disk is not in memory, or overlaps the RTAS page.
    MisplacedInitrd,
    /// The command line has a NUL inside.
    BadArguments,
}

impl core::fmt::Display for BadDescription {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoRealModeArea => "the partition has no memory at address 0",
            Self::MisplacedRtas => {
                "the RTAS page is not in the first GiB of the partition's memory"
            }
            Self::MisplacedInitrd => {
                "the initial RAM disk is outside the partition's memory or over the RTAS page"
            }
            Self::BadArguments => "the command line has a NUL in it",
        })
    }
}

/// Memory as ranges that do not touch: extents that are neighbours in the partition are one.
fn ranges(ram: &GuestRam) -> Vec<(Gra, u64)> {
    let mut list: Vec<(Gra, u64)> = Vec::new();
    for extent in ram.extents() {
        match list.last_mut() {
            Some((start, len)) if start.checked_add(*len) == Some(extent.gra) => {
                *len = len.saturating_add(extent.len());
            }
            _ => list.push((extent.gra, extent.len())),
        }
    }
    list
}

/// Phandles of the tree.
mod phandle {
    /// The interrupt controller.
    pub(in crate::device_tree) const INTERRUPTS: u32 = 0x1111;
    /// Second-level cache of vCPU 0's core; those of others follow, by their first vCPUs.
    pub(super) const SECOND_LEVEL: u32 = 0x2000;
    /// Third-level cache of vCPU 0.
    pub(super) const THIRD_LEVEL: u32 = 0x3000;
}

impl<'a> PartitionDescription<'a> {
    /// Describes a partition.
    #[must_use]
    pub fn new(partition: &'a Partition, machine: Machine, boot: Boot<'a>) -> Self {
        Self {
            policy: &partition.policy,
            lpid: partition.lpid,
            memory: ranges(&partition.ram),
            vcpus: u32::try_from(partition.vcpus().len()).unwrap_or(u32::MAX),
            machine,
            boot,
            exploitation: partition.interrupts.xive().is_ok(),
        }
    }

    fn check(&self) -> Result<(), BadDescription> {
        let real_mode_area = match self.memory.first() {
            Some((Gra(0), len)) => *len,
            _ => return Err(BadDescription::NoRealModeArea),
        };
        let rtas = self.boot.rtas;
        let rtas_bytes = u64::from(rtas::PAGE_BYTES);
        let rtas_end = rtas.0.saturating_add(rtas_bytes);
        if !rtas.is_aligned(rtas_bytes) || rtas_end > real_mode_area.min(1 << 30) {
            return Err(BadDescription::MisplacedRtas);
        }
        if let Some((start, len)) = self.boot.initrd {
            let end = start.0.saturating_add(len);
            let inside = self
                .memory
                .iter()
                .any(|(at, bytes)| start >= *at && end <= at.0.saturating_add(*bytes));
            if !inside || start.0 < rtas_end && rtas.0 < end {
                return Err(BadDescription::MisplacedInitrd);
            }
        }
        if self.boot.arguments.contains('\0') {
            return Err(BadDescription::BadArguments);
        }
        Ok(())
    }

    /// Builds the tree, to be edited or flattened.
    ///
    /// # Errors
    /// [`BadDescription`].
    pub fn build(&self) -> Result<Tree, BadDescription> {
        self.check()?;
        let mut root = Node::default();
        root.set("#address-cells", 2u32)
            .set("#size-cells", 2u32)
            .set("device_type", "chrp")
            .set("model", "Nidus logical partition")
            // The second name is for test programs, which take any other for a bare-metal machine.
            .set("compatible", ["nidus,partition", "qemu,pseries"])
            .set("ibm,partition-no", self.lpid)
            .set("ibm,partition-name", &self.policy.name)
            .node("chosen", |chosen| self.chosen(chosen))
            .node("rtas", |rtas| self.rtas(rtas))
            .node("cpus", |cpus| self.cpus(cpus));
        for (start, len) in &self.memory {
            root.at("memory", start.0, *len, |memory| {
                memory.set("device_type", "memory");
            });
        }
        if self.exploitation {
            interrupts::xive(&mut root, self.vcpus);
        } else {
            interrupts::xics(&mut root, self.vcpus);
        }
        root.node("vdevice", devices);
        interrupts::exit_counters(&mut root);
        if self.policy.random {
            root.node("ibm,platform-facilities", |facilities| {
                facilities
                    .set("device_type", "ibm,platform-facilities")
                    .set("#address-cells", 1u32)
                    .set("#size-cells", 0u32)
                    .node("ibm,random-v1", |random| {
                        random
                            .set("device_type", "ibm,random-v1")
                            .set("compatible", "ibm,random");
                    });
            });
        }
        Ok(Tree {
            root,
            // Kernels that are entered with a flattened tree do not reserve it themselves.
            reserved: [(self.boot.rtas.0, rtas::PAGE_BYTES.into())].into(),
            boot_cpu: 0,
        })
    }

    fn chosen(&self, chosen: &mut Node) {
        let boot = &self.boot;
        chosen.set("bootargs", boot.arguments);
        if let Some((start, len)) = boot.initrd {
            chosen
                .set("linux,initrd-start", start)
                .set("linux,initrd-end", start.checked_add(len).unwrap_or(start));
        }
        chosen
            .set(
                "stdout-path",
                format!("/vdevice/vty@{:x}", term::UNIT).as_str(),
            )
            .set(
                "ibm,architecture-vec-5",
                Bytes(&architecture_vector_5(self.exploitation)),
            );
        if !boot.seed.is_empty() {
            chosen.set("rng-seed", Bytes(boot.seed));
        }
    }

    fn rtas(&self, node: &mut Node) {
        // Kernels read these as single cells.
        let base = u32::try_from(self.boot.rtas.0).unwrap_or(0);
        let served = |set: &&str| !(self.exploitation && *set == interrupts::XICS_SET);
        let sets: Vec<&str> = table::function_sets().filter(served).collect();
        node.set("linux,rtas-base", base)
            .set("linux,rtas-entry", base)
            .set("rtas-size", rtas::PAGE_BYTES)
            .set("rtas-event-scan-rate", 1u32)
            .set("rtas-error-log-max", rtas::ERROR_LOG_BYTES)
            .set("ibm,hypertas-functions", sets)
            .set("ibm,extended-os-term", ());
        for row in rtas::TABLE {
            if !(self.exploitation && interrupts::XICS_CALLS.contains(&row.name)) {
                node.set(row.name, row.token);
            }
        }
    }

    fn cpus(&self, cpus: &mut Node) {
        cpus.set("#address-cells", 1u32).set("#size-cells", 0u32);
        for core in self.cores() {
            let name = format!("PowerPC,{}", self.policy.level.row().processor);
            cpus.at(&name, core.start.into(), 0, |cpu| self.cpu(cpu, core));
        }
        for core in self.cores() {
            self.shared_caches(cpus, core.start);
        }
    }

    /// The vCPUs of each core.
    fn cores(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let (all, size) = (self.vcpus, self.machine.threads_per_core.max(1));
        let first = (0..all).step_by(usize::try_from(size).unwrap_or(1));
        first.map(move |first| first..first.saturating_add(size).min(all))
    }

    fn cpu(&self, cpu: &mut Node, core: Range<u32>) {
        let Machine {
            timebase_hz,
            clock_hz,
            caches,
            ..
        } = self.machine;
        let global: Vec<[u32; 2]> = core.clone().map(|server| [server, 0]).collect();
        let servers: Vec<u32> = core.clone().collect();
        cpu.set("device_type", "cpu")
            .set("status", "okay")
            .set("ibm,ppc-interrupt-server#s", servers)
            .set("ibm,ppc-interrupt-gserver#s", global)
            .set("cpu-version", self.policy.level.logical_pvr())
            .set("timebase-frequency", timebase_hz)
            .set("clock-frequency", clock_hz)
            .set("ibm,pa-features", Bytes(&pa_features(self.policy.level)))
            .set("ibm,pi-features", Bytes(&PI_FEATURES))
            .set("ibm,vmx", 2u32)
            .set("ibm,dfp", 1u32)
            .set("ibm,purr", 1u32)
            .set("ibm,spurr", 1u32)
            .set("ibm,dec-bits", 56u32)
            .set("ibm,processor-radix-AP-encodings", AP_ENCODINGS)
            .set("64-bit", ());
        for (side, cache) in [("i", caches.instruction), ("d", caches.data)] {
            cpu.set(&format!("{side}-cache-size"), cache.size)
                .set(&format!("{side}-cache-sets"), cache.sets)
                .set(&format!("{side}-cache-line-size"), CACHE_LINE)
                .set(&format!("{side}-cache-block-size"), CACHE_LINE);
        }
        if caches.second.is_some() {
            let next = phandle::SECOND_LEVEL.saturating_add(core.start);
            cpu.set("l2-cache", next);
        }
    }

    /// The second and third level of the core whose first vCPU that is.
    fn shared_caches(&self, cpus: &mut Node, server: u32) {
        let caches = self.machine.caches;
        let [second, third] =
            [phandle::SECOND_LEVEL, phandle::THIRD_LEVEL].map(|base| base.saturating_add(server));
        let levels = [
            (
                "l2-cache",
                second,
                caches.second,
                caches.third.map(|_| third),
            ),
            ("l3-cache", third, caches.third, None),
        ];
        for (name, handle, cache, next) in levels {
            let Some(cache) = cache else { return };
            cpus.at(name, handle.into(), 0, |node| {
                node.set("device_type", "cache")
                    .set("cache-unified", ())
                    .set("d-cache-size", cache.size)
                    .set("d-cache-sets", cache.sets)
                    .set("d-cache-line-size", CACHE_LINE)
                    .set("i-cache-size", cache.size)
                    .set("i-cache-sets", cache.sets)
                    .set("i-cache-line-size", CACHE_LINE)
                    .set("phandle", handle);
                if let Some(next) = next {
                    node.set("l2-cache", next);
                }
            });
        }
    }
}

/// Virtual devices.
fn devices(vdevice: &mut Node) {
    /// Second cell of `interrupts`: the source sends messages.
    const EDGE: u32 = 0;
    const { assert!(term::SOURCE != IPI) };
    vdevice
        .set("device_type", "vdevice")
        .set("compatible", "IBM,vdevice")
        .set("#address-cells", 1u32)
        .set("#size-cells", 0u32)
        .set("#interrupt-cells", 2u32)
        .set("interrupt-controller", ())
        .at("vty", term::UNIT.into(), 0, |vty| {
            vty.set("device_type", "serial")
                .set("compatible", "hvterm1")
                .set("interrupts", [term::SOURCE, EDGE]);
        });
}

/// Encodings of page sizes in `tlbie`: AP in the top three bits, shift in the low ones. 4 KiB, 64 KiB, 2 MiB, 1 GiB.
const AP_ENCODINGS: [u32; 4] = [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e];

/// `ibm,pi-features`: length, type 0, and in the first byte that `msgsndp` does not reach other threads.
const PI_FEATURES: [u8; 3] = [1, 0, 0x08];

/// `ibm,pa-features` (LoPAR B.6.2.1.1): bytes that follow the next one, type 0, then a level's features.
fn pa_features(level: Level) -> Vec<u8> {
    let features = level.row().features;
    let count = u8::try_from(features.len()).unwrap_or(u8::MAX);
    [&[count, 0], features].concat()
}

/// `ibm,architecture-vec-5`: what negotiation would have settled (LoPAR B.6.2.3, option vector 5). Byte 0 counts the
/// bytes after the next one; the others are numbered as in PAPR. The same at every level: all of them have radix
/// translation with GTSE.
fn architecture_vector_5(exploitation: bool) -> [u8; 27] {
    let mut vector = [0; 27];
    let bytes = [
        (0, 0x19),
        // Logical partitioning, shared processor calls.
        (2, 0xc0),
        // Interrupts: XIVE exploitation or XICS, and it alone.
        (23, if exploitation { 0x40 } else { 0x00 }),
        // Radix, and it alone.
        (24, 0x40),
        // The partition may execute `tlbie`.
        (26, 0x40),
    ];
    for (index, byte) in bytes {
        if let Some(place) = vector.get_mut(index) {
            *place = byte;
        }
    }
    vector
}

#[cfg(test)]
mod tests;

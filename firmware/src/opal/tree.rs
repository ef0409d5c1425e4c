//! The PowerNV device tree: what the firmware was given, with what OPAL adds (reference/opal.md 4).
//!
//! Pure: tree in, tree out. Surprising fact: nothing that is taken over is believed, it is only passed on; what the
//! firmware itself says replaces what stood there.
#![forbid(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use nest::chip::Chip;
use nest::xive::Capabilities;
use papr_services::level::Level;
use papr_services::tree::{Bytes, Node, Tree};

use super::cpu_features;
use crate::fdt;
use crate::payload::KERNEL_AREA;

/// Where an initrd is loaded by who loads kernels to [`KERNEL_AREA`].
const INITRD_AREA: Range<u64> = 0x2800_0000..0x3000_0000;
/// Stop levels that every chip has, when the tree does not say: level 0 (bit 31 - n for level n).
const STOP_LEVELS: u32 = 1 << 31;
/// How often the kernel looks for events without an interrupt.
const HEARTBEAT_MS: u32 = 200;
/// Bytes that the console takes at once.
pub const CONSOLE_BUFFER: u32 = 0x1000;

/// Gives out numbers for `phandle`.
#[derive(Debug)]
pub struct Phandles(u32);

impl Phandles {
    /// Numbers above all that `tree` has.
    #[must_use]
    pub fn after(tree: &Node) -> Self {
        fn highest(node: &Node) -> u32 {
            // The two highest values are reserved by the format.
            let own = node
                .cell("phandle")
                .filter(|p| *p < u32::MAX - 1)
                .unwrap_or(0);
            node.children().iter().map(highest).fold(own, u32::max)
        }
        Self(highest(tree))
    }

    /// The next one.
    pub fn allocate(&mut self) -> u32 {
        self.0 = self.0.saturating_add(1);
        self.0
    }
}

/// An editable copy of the tree below `from`.
pub fn copy(from: &fdt::Node<'_>, to: &mut Node) {
    for property in from.properties() {
        to.set(property.name, Bytes(property.value));
    }
    for child in from.children() {
        to.node(child.name, |node| copy(&child, node));
    }
}

/// What the firmware says about itself.
#[derive(Clone, Debug)]
pub struct Description<'a> {
    /// The processor.
    pub chip: &'a Chip,
    /// The level that was asked for. A kernel in hypervisor state is not bound by it: it has the chip, and the features
    /// of `ibm,powerpc-cpu-features`. `cpu-version` tells it, and programs that look there, which levels to offer guests.
    pub level: Option<Level>,
    /// PIR of the thread that enters the kernel.
    pub boot_cpu: u32,
    /// PIRs of threads that did not come up.
    pub missing: &'a [u32],
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// What the firmware keeps.
    pub firmware: Range<u64>,
    /// Where OPAL calls enter.
    pub entry: u64,
    /// The memory console's control structure.
    pub memory_console: u64,
    /// Bytes of NVRAM.
    pub nvram: u32,
    /// Whether a clock keeps the date.
    pub rtc: bool,
    /// The interrupt controllers.
    pub interrupts: Interrupts<'a>,
}

/// The interrupt controllers, all of them together.
#[derive(Clone, Debug)]
pub struct Interrupts<'a> {
    /// The thread management area.
    pub area: u64,
    /// Their chips, by block.
    pub chips: &'a [u32],
    /// What all of them can do.
    pub capabilities: Capabilities,
    /// Numbers and names of the interrupts that the firmware serves, all of them levels.
    pub served: &'a [(u32, &'a str)],
}

/// Bytes of a page of the thread management area, and of one that a kernel gives for tables.
const PAGE: u64 = 0x1_0000;

impl Interrupts<'_> {
    fn describe(&self, root: &mut Node, phandle: u32) {
        let name = format!("interrupt-controller@{:x}", self.area);
        root.node(&name, |node| {
            let pages = [0, 1, 2, 3].map(|page| [self.area.saturating_add(page * PAGE), PAGE]);
            node.set("reg", pages)
                .set(
                    "compatible",
                    ["ibm,opal-xive-pe", "ibm,opal-xive-vc", "ibm,opal-intc"],
                )
                .set("interrupt-controller", ())
                .set("#address-cells", 0_u32)
                .set("#interrupt-cells", 2_u32)
                .set("ibm,xive-eq-sizes", [12_u32, 16, 21, 24])
                .set("ibm,xive-#priorities", 8_u32)
                .set("single-escalation-support", ())
                .set("ibm,xive-provision-page-size", 0x1_0000_u32)
                .set("ibm,xive-provision-chips", self.chips)
                .set("phandle", phandle);
            if self.capabilities.store_eoi {
                node.set("store-eoi", ());
            }
            if self.capabilities.save_restore {
                node.set("vp-save-restore", ());
            }
        });
    }
}

impl Description<'_> {
    /// Adds all this to the tree that the firmware was given.
    #[must_use]
    pub fn apply(&self, given: Node) -> Tree {
        let mut tree = Tree {
            root: given,
            reserved: Vec::new(),
            boot_cpu: self.boot_cpu,
        };
        let mut phandles = Phandles::after(&tree.root);
        let root = &mut tree.root;
        root.node("chosen", |node| {
            node.set("bootargs", self.bootargs)
                .set("linux,stdout-path", "/ibm,opal/consoles/serial@0");
        });
        correct_devices(root);
        self.cpus(root, &mut phandles);
        let controller = phandles.allocate();
        self.interrupts.describe(root, controller);
        root.node("ibm,opal", |node| {
            self.opal(node, &mut phandles);
            node.set("interrupt-parent", controller);
        });
        let length = self.firmware.end.saturating_sub(self.firmware.start);
        root.node("reserved-memory", |node| {
            node.set("#address-cells", 2_u32)
                .set("#size-cells", 2_u32)
                .set("ranges", ());
            node.at("ibm,firmware", self.firmware.start, length, |_| {});
        });
        tree.reserved.push((self.firmware.start, length));
        add_reserved_names(root);
        tree
    }

    fn cpus(&self, root: &mut Node, phandles: &mut Phandles) {
        root.node("cpus", |cpus| {
            let names: Vec<String> = cpus
                .children()
                .iter()
                .filter(|cpu| cpu.property("device_type") == Some(b"cpu\0"))
                .map(|cpu| cpu.name().into())
                .collect();
            for name in names {
                cpus.node(&name, |cpu| self.cpu(cpu));
            }
            cpus.node("ibm,powerpc-cpu-features", |node| {
                cpu_features::describe(node, phandles, self.chip.pvr_family == 0x82);
            });
        });
    }

    fn cpu(&self, cpu: &mut Node) {
        cpu.set(
            "ibm,processor-radix-AP-encodings",
            self.chip.mmu.radix_ap_encodings,
        )
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
        cpu.set("ibm,associativity", [5, chip, chip, chip, chip, pir]);
        // A core one of whose threads is missing is unusable: kernels start whole cores.
        let threads = cpu.property("ibm,ppc-interrupt-server#s").unwrap_or(&[]);
        let is_missing = threads
            .as_chunks()
            .0
            .iter()
            .any(|pir| self.missing.contains(&u32::from_be_bytes(*pir)));
        if is_missing {
            cpu.set("status", "bad");
        }
    }

    fn opal(&self, node: &mut Node, phandles: &mut Phandles) {
        let length = self.firmware.end.saturating_sub(self.firmware.start);
        const LEVEL: u32 = 1;
        let served = self.interrupts.served;
        let numbers: Vec<u32> = served.iter().map(|(number, _)| *number).collect();
        let interrupts: Vec<[u32; 2]> = numbers.iter().map(|n| [*n, LEVEL]).collect();
        let names: Vec<&str> = served.iter().map(|(_, name)| *name).collect();
        node.set("#address-cells", 0_u32)
            .set("#size-cells", 0_u32)
            .set("compatible", "ibm,opal-v3")
            .set("opal-msg-async-num", 16_u32)
            .set("opal-msg-size", 65536_u32)
            .set("opal-base-address", self.firmware.start)
            .set("opal-entry-address", self.entry)
            .set("opal-runtime-size", length)
            .set("ibm,associativity-reference-points", [4_u32, 4, 2])
            .set("ibm,opal-memcons", self.memory_console)
            .set("ibm,heartbeat-ms", HEARTBEAT_MS)
            .set("opal-interrupts", &numbers[..])
            .set("opal-interrupts-names", names.clone())
            .set("interrupts", &interrupts[..])
            .set("interrupt-names", names);
        node.node("event", |node| {
            node.set("compatible", "ibm,opal-event")
                .set("#interrupt-cells", 1_u32)
                .set("interrupt-controller", ())
                .set("phandle", phandles.allocate());
        });
        node.node("firmware", |node| {
            let version = format!("nidus-{}", env!("CARGO_PKG_VERSION"));
            node.set("compatible", "ibm,opal-firmware")
                .set("version", &version);
        });
        node.node("consoles", |node| {
            node.set("#address-cells", 1_u32).set("#size-cells", 0_u32);
            node.node("serial@0", |node| {
                node.set("compatible", "ibm,opal-console-raw")
                    .set("#write-buffer-size", CONSOLE_BUFFER)
                    .set("reg", 0_u32)
                    .set("device_type", "serial");
            });
        });
        if self.rtc {
            node.node("rtc", |node| {
                node.set("compatible", "ibm,opal-rtc");
            });
        }
        node.node("nvram", |node| {
            node.set("compatible", "ibm,opal-nvram")
                .set("#bytes", self.nvram);
        });
        node.node("dump", |node| {
            let areas = [KERNEL_AREA, INITRD_AREA].map(|area| [area.start, area.end - area.start]);
            node.set("fw-load-area", areas);
        });
        node.node("power-mgt", idle_states);
    }
}

/// Corrects what the given tree says of devices behind the firmware: those that it drives itself are reserved, since a
/// kernel finds no way to their bus; and no I2C bus is served by OPAL so far.
fn correct_devices(node: &mut Node) {
    const OURS: [&[u8]; 2] = [b"ns16550", b"ipmi-bt"];
    const NOT_SERVED: &[u8] = b"ibm,opal-i2c";
    let compatible = node.property("compatible").unwrap_or(&[]).to_vec();
    let names = || compatible.split_inclusive(|byte| *byte == 0);
    let bare = |name: &[u8]| name.strip_suffix(b"\0").unwrap_or(name).to_vec();
    if names().any(|name| OURS.contains(&bare(name).as_slice())) {
        node.set("status", "reserved");
    }
    let served: Vec<u8> = names()
        .filter(|name| bare(name) != NOT_SERVED)
        .flatten()
        .copied()
        .collect();
    if served.len() < compatible.len() {
        node.set("compatible", Bytes(&served));
    }
    let names: Vec<String> = node.children().iter().map(|n| n.name().into()).collect();
    for name in names {
        node.node(&name, correct_devices);
    }
}

/// The states of `stop` that lose nothing a kernel would have to restore (reference/opal.md 4.7).
struct IdleState {
    name: &'static str,
    level: u32,
    latency_ns: u32,
    residency_ns: u32,
    psscr: u64,
    flags: u32,
}

const IDLE_STATES: [IdleState; 4] = [
    IdleState {
        name: "stop0_lite",
        level: 0,
        latency_ns: 1_000,
        residency_ns: 10_000,
        psscr: 0x300,
        flags: 0x10_0000,
    },
    IdleState {
        name: "stop0",
        level: 0,
        latency_ns: 10_000,
        residency_ns: 100_000,
        psscr: 0x30_0300,
        flags: 0x10_1000,
    },
    IdleState {
        name: "stop2",
        level: 2,
        latency_ns: 20_000,
        residency_ns: 200_000,
        psscr: 0x30_0322,
        flags: 0x10_1000,
    },
    IdleState {
        name: "stop3",
        level: 3,
        latency_ns: 45_000,
        residency_ns: 450_000,
        psscr: 0x30_0333,
        flags: 0x10_1000,
    },
];

fn idle_states(node: &mut Node) {
    /// RL, MTL, TR, ESL, EC.
    const MASK: u64 = 0x30_03ff;
    let levels = node.cell("ibm,enabled-stop-levels").unwrap_or(STOP_LEVELS);
    let enabled = || {
        IDLE_STATES
            .iter()
            .filter(|state| levels & 1 << (31 - state.level) != 0)
    };
    let names: Vec<&str> = enabled().map(|state| state.name).collect();
    let cells = |of: fn(&IdleState) -> u32| enabled().map(of).collect::<Vec<u32>>();
    let psscrs: Vec<u64> = enabled().map(|state| state.psscr).collect();
    let masks: Vec<u64> = enabled().map(|_| MASK).collect();
    node.set("ibm,enabled-stop-levels", levels)
        .set("ibm,cpu-idle-state-names", names)
        .set("ibm,cpu-idle-state-latencies-ns", cells(|s| s.latency_ns))
        .set("ibm,cpu-idle-state-residency-ns", cells(|s| s.residency_ns))
        .set("ibm,cpu-idle-state-flags", cells(|s| s.flags))
        .set("ibm,cpu-idle-state-psscr", psscrs)
        .set("ibm,cpu-idle-state-psscr-mask", masks);
}

/// The same regions once more, in the form that kernels without `/reserved-memory` read.
fn add_reserved_names(root: &mut Node) {
    let (mut names, mut ranges) = (Vec::new(), Vec::new());
    for child in root
        .child("reserved-memory")
        .map_or(&[][..], Node::children)
    {
        if let Some(reg) = child.property("reg").filter(|reg| reg.len() == 16) {
            names.push(String::from(child.name()));
            ranges.extend_from_slice(reg);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    root.set("reserved-names", names)
        .set("reserved-ranges", Bytes(&ranges));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::Fdt;
    use crate::fdt::build::Blob;

    fn given() -> Node {
        let mut blob = Blob::default();
        blob.begin("")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .cells("phandle", &[41]);
        blob.begin("qemu").end().begin("cpus");
        blob.begin("PowerPC,POWER10@4")
            .text("device_type", "cpu")
            .cells("reg", &[4])
            .cells("ibm,chip-id", &[1])
            .cells("cpu-version", &[0x0080_1200])
            .cells("ibm,ppc-interrupt-server#s", &[4, 5])
            .end();
        blob.end().begin("lpc@0").begin("isa-serial@i3f8");
        blob.prop("compatible", b"ns16550\0pnpPNP,501\0").end();
        blob.begin("i2c-bus@0")
            .prop("compatible", b"ibm,opal-i2c\0ibm,power9-i2c-port\0")
            .end();
        blob.end().begin("ibm,opal").begin("power-mgt");
        blob.cells("ibm,enabled-stop-levels", &[0xc000_0000])
            .end()
            .end();
        let blob = blob.end().finish();
        let mut node = Node::default();
        copy(&Fdt::new(&blob).unwrap().root(), &mut node);
        node
    }

    fn tree(missing: &[u32]) -> Tree {
        description(missing).apply(given())
    }

    #[test]
    fn the_version_is_the_processors_or_the_level_that_was_asked_for() {
        let version = |level| {
            let description = Description {
                level,
                ..description(&[])
            };
            let tree = description.apply(given());
            at(&tree, "cpus/PowerPC,POWER10@4").cell("cpu-version")
        };
        assert_eq!(version(None), Some(0x0080_1200));
        for level in Level::ALL {
            assert_eq!(version(Some(level)), Some(level.logical_pvr()));
        }
    }

    fn description(missing: &[u32]) -> Description<'_> {
        Description {
            chip: &platform_p10::P10,
            level: None,
            boot_cpu: 4,
            missing,
            bootargs: "quiet",
            firmware: 0x3000_0000..0x3200_0000,
            entry: 0x3000_2000,
            memory_console: 0x3100_0000,
            nvram: 0x1_0000,
            rtc: true,
            interrupts: Interrupts {
                area: 0x6_0302_0318_0000,
                chips: &[0],
                capabilities: Capabilities {
                    save_restore: true,
                    ..Capabilities::default()
                },
                served: &[(0xf_fff3, "errors"), (0xf_fff7, "serial")],
            },
        }
    }

    fn at<'a>(tree: &'a Tree, path: &str) -> &'a Node {
        path.split('/')
            .fold(&tree.root, |node, name| node.child(name).unwrap())
    }

    #[test]
    fn what_was_given_stays_and_the_firmware_adds() {
        let tree = tree(&[]);
        let cpu = at(&tree, "cpus/PowerPC,POWER10@4");
        assert_eq!(cpu.cell("reg"), Some(4));
        assert_eq!(cpu.cell("ibm,dec-bits"), Some(56));
        assert_eq!(
            cpu.property("ibm,processor-radix-AP-encodings")
                .unwrap()
                .len(),
            16
        );
        assert!(cpu.property("status").is_none());
        let opal = at(&tree, "ibm,opal");
        assert_eq!(
            opal.property("opal-entry-address"),
            Some(&0x3000_2000_u64.to_be_bytes()[..])
        );
        assert_eq!(
            at(&tree, "chosen").property("bootargs"),
            Some(&b"quiet\0"[..])
        );
        assert_eq!(tree.reserved, [(0x3000_0000, 0x200_0000)]);
        assert_eq!(tree.boot_cpu, 4);
    }

    #[test]
    fn idle_states_are_those_of_the_enabled_levels() {
        let tree = tree(&[]);
        let node = at(&tree, "ibm,opal/power-mgt");
        assert_eq!(
            node.property("ibm,cpu-idle-state-names"),
            Some(&b"stop0_lite\0stop0\0"[..])
        );
        assert_eq!(node.property("ibm,cpu-idle-state-psscr").unwrap().len(), 16);
    }

    #[test]
    fn devices_of_the_firmware_are_reserved() {
        let tree = tree(&[]);
        let status = |path| at(&tree, path).property("status");
        assert_eq!(status("lpc@0/isa-serial@i3f8"), Some(&b"reserved\0"[..]));
        assert_eq!(status("lpc@0"), None);
        assert_eq!(
            at(&tree, "lpc@0/i2c-bus@0").property("compatible"),
            Some(&b"ibm,power9-i2c-port\0"[..])
        );
    }

    #[test]
    fn the_interrupt_controller_is_the_parent() {
        let tree = tree(&[]);
        let node = at(&tree, "interrupt-controller@6030203180000");
        let parent = at(&tree, "ibm,opal").cell("interrupt-parent");
        assert!(parent.is_some() && node.cell("phandle") == parent);
        let opal = at(&tree, "ibm,opal");
        assert_eq!(
            opal.property("interrupts"),
            Some(
                &[
                    0, 0xf, 0xff, 0xf3, 0, 0, 0, 1, 0, 0xf, 0xff, 0xf7, 0, 0, 0, 1
                ][..]
            )
        );
        assert_eq!(
            opal.property("interrupt-names"),
            Some(&b"errors\0serial\0"[..])
        );
        assert_eq!(opal.property("opal-interrupts").map(<[u8]>::len), Some(8));
        let has = |name| node.property(name).is_some();
        assert!(has("vp-save-restore") && !has("store-eoi"));
        assert_eq!(node.property("reg").map(<[u8]>::len), Some(64));
    }

    #[test]
    fn phandles_are_unique() {
        fn collect(node: &Node, into: &mut Vec<u32>) {
            into.extend(node.cell("phandle"));
            node.children()
                .iter()
                .for_each(|child| collect(child, into));
        }
        let mut all = Vec::new();
        collect(&tree(&[]).root, &mut all);
        let count = all.len();
        assert!(count > 50);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_core_without_all_its_threads_is_bad() {
        let tree = tree(&[5]);
        let cpu = at(&tree, "cpus/PowerPC,POWER10@4");
        assert_eq!(cpu.property("status"), Some(&b"bad\0"[..]));
    }

    #[test]
    fn the_tree_can_be_flattened_and_read_again() {
        let blob = tree(&[]).flatten().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(
            fdt.reservations().collect::<Vec<_>>(),
            [(0x3000_0000, 0x200_0000)]
        );
        assert!(
            fdt.find("/cpus/ibm,powerpc-cpu-features/mmu-radix")
                .is_some()
        );
        assert!(fdt.find("/reserved-memory/ibm,firmware@30000000").is_some());
    }
}

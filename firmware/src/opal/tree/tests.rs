//! The tree against what kernels read, node by node.

use alloc::vec;

use nest::psi::PsiSource;
use nest::xive::Capabilities;
use papr_services::tree::{Node, Tree};

use super::*;
use crate::fdt::Fdt;
use crate::fdt::build::Blob;
use crate::opal::clock::Rtc;

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
    blob.end();
    blob.begin("memory@0")
        .text("device_type", "memory")
        .cells("ibm,chip-id", &[1])
        .end();
    blob.begin("opb@0").cells("ibm,chip-id", &[0]);
    blob.begin("lpc@0")
        .text("compatible", "ibm,power9-lpc")
        .begin("isa-serial@i3f8");
    blob.prop("compatible", b"ns16550\0pnpPNP,501\0").end();
    blob.begin("i2c-bus@0")
        .prop("compatible", b"ibm,opal-i2c\0ibm,power9-i2c-port\0")
        .end();
    blob.end()
        .end()
        .begin("ibm,opal")
        .begin("dump")
        .end()
        .begin("power-mgt");
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

#[test]
fn the_model_has_only_small_pages() {
    let encodings = |is_qemu| {
        let description = Description {
            is_qemu,
            ..description(&[])
        };
        let tree = description.apply(given());
        let cpu = at(&tree, "cpus/PowerPC,POWER10@4");
        let property = cpu.property("ibm,processor-radix-AP-encodings").unwrap();
        let cells = property.as_chunks().0.iter();
        cells
            .map(|cell| u32::from_be_bytes(*cell))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        encodings(false),
        [0x0000_000c, 0xa000_0010, 0x2000_0015, 0x4000_001e]
    );
    assert_eq!(encodings(true), [0x0000_000c, 0xa000_0010]);
}

fn description(missing: &[u32]) -> Description<'_> {
    Description {
        chip: &platform_p10::P10,
        is_qemu: false,
        fast_reboot: "okay",
        level: None,
        boot_cpu: 4,
        missing,
        bootargs: "quiet",
        initrd: Some(&(0x2800_0000..0x2900_0000)),
        firmware: const {
            &[
                ("code", 0x3000_0000..0x3100_0000),
                ("heap", 0x3100_0000..0x3200_0000),
            ]
        },
        characteristics: Characteristics::POWER10,
        entry: 0x3000_2000,
        memory_console: 0x3100_0000,
        interrupts: Interrupts {
            area: 0x6_0302_0318_0000,
            chips: &[0],
            capabilities: Capabilities {
                save_restore: true,
                ..Capabilities::default()
            },
            served: &[(0xf_fff3, "errors"), (0xf_fff7, "serial")],
        },
        units: vec![&Rtc],
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
    assert_eq!(
        at(&tree, "chosen").property("linux,initrd-end"),
        Some(&0x2900_0000_u64.to_be_bytes()[..])
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
    assert_eq!(
        status("opb@0/lpc@0/isa-serial@i3f8"),
        Some(&b"reserved\0"[..])
    );
    assert_eq!(status("opb@0/lpc@0"), None);
    assert_eq!(
        at(&tree, "opb@0/lpc@0/i2c-bus@0").property("compatible"),
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
    assert!(
        fdt.find("/reserved-memory/ibm,firmware-heap@31000000")
            .is_some()
    );
}

#[test]
fn memory_and_threads_of_a_chip_are_one_node() {
    let tree = tree(&[]);
    let fourth = |path, cells: usize| {
        let levels = at(&tree, path).property("ibm,associativity").unwrap();
        assert_eq!(levels.len(), 4 * cells);
        u32::from_be_bytes(levels[16..20].try_into().unwrap())
    };
    assert_eq!(fourth("memory@0", 5), 1);
    assert_eq!(fourth("cpus/PowerPC,POWER10@4", 6), 1);
}

#[test]
fn two_cores_in_one_are_fused() {
    let fused = |threads: &[u32]| {
        let mut given = given();
        given.node("cpus", |cpus| {
            cpus.node("PowerPC,POWER10@4", |cpu| {
                cpu.set("ibm,ppc-interrupt-server#s", threads);
            });
        });
        let tree = description(&[]).apply(given);
        let cpu = at(&tree, "cpus/PowerPC,POWER10@4");
        cpu.property("ibm,fused-core").is_some()
    };
    assert!(fused(&[8, 9, 10, 11, 12, 13, 14, 15]));
    assert!(!fused(&[4, 5, 6, 7]));
}

#[test]
fn a_unit_is_found_and_what_no_call_serves_is_not() {
    let tree = tree(&[]);
    let rtc = at(&tree, "ibm,opal/rtc").property("compatible");
    assert_eq!(rtc, Some(&b"ibm,opal-rtc\0"[..]));
    assert!(at(&tree, "ibm,opal").child("dump").is_none());
}

#[test]
fn interrupts_of_lpc_lead_to_the_controller() {
    let bridges = Bridges {
        bridges: vec![Bridge {
            chip: 0,
            at: 0x6_0302_0300_0000,
            first: 0xf_fff0,
        }],
        serial: vec![(4, PsiSource::Serial0)],
    };
    let tree = Description {
        units: vec![&bridges],
        ..description(&[])
    }
    .apply(given());
    let cells = |node: &Node, name| -> Vec<u32> {
        let words = node.property(name).unwrap().as_chunks().0;
        words.iter().map(|word| u32::from_be_bytes(*word)).collect()
    };
    let psi = at(&tree, "psi@6030203000000");
    let bus = at(&tree, "opb@0/lpc@0");
    let bridge = psi.cell("phandle").unwrap();
    assert_eq!(cells(bus, "interrupt-map"), [0, 0, 4, bridge, 7]);
    let controller = at(&tree, "ibm,opal").cell("interrupt-parent").unwrap();
    let map = cells(psi, "interrupt-map");
    assert_eq!(map.len(), 14 * 4);
    assert_eq!(map[7 * 4..8 * 4], [7, controller, 0xf_fff7, 1]);
}

//! The tree against a golden, and as a reader finds it.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use fdt::Fdt;
use isa::addr::Gra;

use super::{BadDescription, Boot, Caches, Machine, PartitionDescription};
use crate::level::Level;
use crate::partition::{Characteristics, Policy};
use crate::serve::tests::World;
use crate::table::{TABLE, function_sets};
use crate::tree::dts;
use crate::{rtas, term};

fn policy(level: Level) -> Policy {
    Policy {
        level,
        name: String::from("nidus"),
        random: true,
        characteristics: Characteristics::POWER10,
    }
}

const MACHINE: Machine = Machine {
    timebase_hz: 512_000_000,
    clock_hz: 4_000_000_000,
    caches: Caches::POWER10,
    threads_per_core: 1,
};

const BOOT: Boot<'static> = Boot {
    arguments: "console=hvc0 quiet",
    initrd: Some((Gra(0x1000_0000), 0x12_3456)),
    rtas: Gra(0x0e00_0000),
    seed: &[0x5a; 32],
};

fn description(policy: &Policy) -> PartitionDescription<'_> {
    PartitionDescription {
        policy,
        lpid: 1,
        memory: vec![(Gra(0), 0x8000_0000), (Gra(0x1_0000_0000), 0x4000_0000)],
        vcpus: 2,
        machine: MACHINE,
        boot: BOOT,
        exploitation: false,
    }
}

fn is_as_reviewed(file: &str, description: &PartitionDescription<'_>) {
    let path = format!("{}/../tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let now = dts::print(&description.build().unwrap());
    if std::env::var_os("NIDUS_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden, now, "review the difference, then bless it");
}

#[test]
fn the_tree_is_as_reviewed() {
    let policy = policy(Level::Power10);
    is_as_reviewed("papr-tree.dts", &description(&policy));
}

#[test]
fn the_tree_with_exploitation_mode_is_as_reviewed() {
    let policy = policy(Level::Power10);
    let exploitation = PartitionDescription {
        exploitation: true,
        ..description(&policy)
    };
    is_as_reviewed("papr-tree-xive.dts", &exploitation);
}

/// What the levels are and what they change in the tree, as one page to review.
#[test]
fn the_levels_differ_as_reviewed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/levels.txt");
    let bytes = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut now = String::from("# field | power9 | power10 | power11 (= means as before)\n");
    let mut row = |name: &str, cell: &dyn Fn(Level) -> String| {
        now += name;
        let mut before = None;
        for level in Level::ALL {
            let text = Some(cell(level));
            let shown = if text == before {
                "="
            } else {
                text.as_deref().unwrap()
            };
            now += &format!(" | {shown}");
            before = text;
        }
        now += "\n";
    };
    row("nidus.compat", &|level| level.row().word.into());
    row("processor", &|level| level.row().processor.into());
    row("logical PVR", &|level| {
        format!("{:#x}", level.row().logical_pvr)
    });
    row("capability", &|level| {
        format!("{:#x}", level.row().capability)
    });
    row("offered", &|level| format!("{:#x}", level.offered()));
    row("PCR", &|level| format!("{:#x}", level.row().pcr));
    row("absent in HFSCR, FSCR", &|level| {
        format!("{:#x}", level.row().absent.bits())
    });
    row("features", &|level| bytes(level.row().features));
    let trees = Level::ALL.map(|level| dts::print(&description(&policy(level)).build().unwrap()));
    let [p9, p10, p11] = [0, 1, 2].map(|n: usize| trees[n].lines().collect::<Vec<_>>());
    assert_eq!((p9.len(), p10.len()), (p10.len(), p11.len()));
    for (number, line) in p10.iter().enumerate() {
        let others = [p9[number], p11[number]];
        if others.iter().any(|other| other != line) {
            row(&format!("tree:{}", number + 1), &|level| {
                trees[Level::ALL.iter().position(|l| *l == level).unwrap()]
                    .lines()
                    .nth(number)
                    .unwrap()
                    .trim()
                    .into()
            });
        }
    }
    if std::env::var_os("NIDUS_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(golden, now, "review the difference, then bless it");
}

#[test]
fn a_reader_finds_what_kernels_insist_on() {
    let policy = policy(Level::Power11);
    let blob = description(&policy).build().unwrap().flatten().unwrap();
    let fdt = Fdt::new(&blob).unwrap();
    let property = |path: &str, name: &str| {
        let node = fdt.find_node(path).unwrap();
        node.property(name)
            .unwrap_or_else(|| panic!("{path} {name}"))
    };
    assert_eq!(property("/", "device_type").as_str(), Some("chrp"));
    let vector = property("/chosen", "ibm,architecture-vec-5").value;
    assert_eq!(vector.len(), usize::from(vector[0]) + 2);
    assert_eq!((vector[24], vector[26]), (0x40, 0x40));
    assert_eq!(
        property("/chosen", "linux,initrd-end").as_usize(),
        Some(0x1012_3456)
    );
    let sets = property("/rtas", "ibm,hypertas-functions").value;
    let announced: Vec<_> = sets.split(|b| *b == 0).filter(|s| !s.is_empty()).collect();
    assert_eq!(
        announced,
        function_sets().map(str::as_bytes).collect::<Vec<_>>()
    );
    assert!(announced.contains(&&b"hcall-set-mode"[..]));
    for row in rtas::TABLE {
        let token = property("/rtas", row.name).value;
        assert_eq!(token, row.token.to_be_bytes(), "{}", row.name);
    }
    assert_eq!(property("/rtas", "linux,rtas-base").value, [0x0e, 0, 0, 0]);
    assert_eq!(
        property("/cpus/PowerPC,POWER11@1", "ibm,vmx").value,
        [0, 0, 0, 2]
    );
    let features = property("/cpus/PowerPC,POWER11@0", "ibm,pa-features").value;
    assert_eq!(usize::from(features[0]) + 2, features.len());
    let memory: Vec<_> = fdt
        .all_nodes()
        .filter(|n| n.name.starts_with("memory@"))
        .map(|n| (n.name, n.reg().unwrap().next().unwrap().size.unwrap()))
        .collect();
    assert_eq!(
        memory,
        [("memory@0", 0x8000_0000), ("memory@100000000", 0x4000_0000)]
    );
    let console = fdt.chosen().stdout().unwrap().name;
    assert_eq!(console, alloc::format!("vty@{:x}", term::UNIT));
    let reserved = fdt.memory_reservations().next().unwrap();
    assert_eq!(reserved.address() as u64, BOOT.rtas.0);
}

#[test]
fn absent_calls_are_not_announced() {
    let sets: Vec<_> = function_sets().collect();
    assert!(
        TABLE
            .iter()
            .filter(|row| !row.served)
            .all(|row| row.set.is_empty())
    );
    for never in [
        "hcall-vphn",
        "hcall-tce",
        "hcall-pks",
        "hcall-watchdog",
        "hcall-join",
    ] {
        assert!(!sets.contains(&never));
    }
}

#[test]
fn a_partition_describes_itself() {
    let world = World::new(3);
    let boot = Boot {
        initrd: None,
        rtas: Gra(0x4_0000),
        ..BOOT
    };
    let description = PartitionDescription::new(&world.partition, MACHINE, boot);
    assert_eq!((description.vcpus, description.memory.len()), (3, 1));
    let tree = description.build().unwrap();
    assert!(
        tree.root
            .child("chosen")
            .unwrap()
            .property("linux,initrd-start")
            .is_none()
    );
    assert!(tree.flatten().is_ok());
}

#[test]
fn threads_of_a_core_are_one_node() {
    let policy = policy(Level::Power10);
    let with = |vcpus, threads_per_core| {
        let machine = Machine {
            threads_per_core,
            ..MACHINE
        };
        let tree = PartitionDescription {
            vcpus,
            machine,
            ..description(&policy)
        };
        let tree = tree.build().unwrap();
        let servers = |node: &crate::tree::Node| {
            let cells = node.property("ibm,ppc-interrupt-server#s")?;
            Some((node.cell("reg"), cells.len() / 4))
        };
        let cpus = tree.root.child("cpus").unwrap().children().to_vec();
        cpus.iter().filter_map(servers).collect::<Vec<_>>()
    };
    assert_eq!(with(8, 4), [(Some(0), 4), (Some(4), 4)]);
    assert_eq!(with(2, 1), [(Some(0), 1), (Some(1), 1)]);
    // Wrong descriptions lose no vCPU.
    assert_eq!(with(3, 2), [(Some(0), 2), (Some(2), 1)]);
    assert_eq!(with(2, 0), [(Some(0), 1), (Some(1), 1)]);
}

#[test]
fn what_is_not_offered_has_no_node() {
    let policy = Policy {
        random: false,
        ..policy(Level::Power10)
    };
    let tree = description(&policy).build().unwrap();
    assert!(tree.root.child("ibm,platform-facilities").is_none());
    let machine = Machine {
        caches: Caches {
            second: None,
            third: None,
            ..Caches::POWER10
        },
        ..MACHINE
    };
    let tree = PartitionDescription {
        machine,
        ..description(&policy)
    }
    .build()
    .unwrap();
    let cpus = tree.root.child("cpus").unwrap();
    assert_eq!(cpus.children().len(), 2);
    assert!(cpus.children()[0].property("l2-cache").is_none());
}

#[test]
fn bad_descriptions_are_refused() {
    let policy = policy(Level::Power10);
    let with = |change: &dyn Fn(&mut PartitionDescription<'_>)| {
        let mut description = description(&policy);
        change(&mut description);
        description.build().err()
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(
        with(&|d| d.memory.clear()),
        Some(BadDescription::NoRealModeArea)
    );
    assert_eq!(
        with(&|d| d.memory[0].0 = Gra(0x1_0000)),
        Some(BadDescription::NoRealModeArea)
    );
    for rtas in [0x0e00_0800, 1 << 30, 0x1_0000_0000, !0xfff] {
        assert_eq!(
            with(&|d| d.boot.rtas = Gra(rtas)),
            Some(BadDescription::MisplacedRtas)
        );
    }
    assert_eq!(
        with(&|d| d.memory[0].1 = 0x0e00_0000),
        Some(BadDescription::MisplacedRtas)
    );
    for (start, len) in [
        (0x7fff_f000, 0x2000),
        (0x0dff_f000, 0x1001),
        (0x0e00_0fff, 1),
        (0x9000_0000, 1),
        (u64::MAX, 2),
    ] {
        assert_eq!(
            with(&|d| d.boot.initrd = Some((Gra(start), len))),
            Some(BadDescription::MisplacedInitrd)
        );
    }
    assert_eq!(
        with(&|d| d.boot.arguments = "a\0b"),
        Some(BadDescription::BadArguments)
    );
}

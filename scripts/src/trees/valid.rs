//! Whether a tree is well-formed beyond its encoding, as `dtc` would warn: names and `reg` agree, numbers are unique, what
//! refers to a node finds it (Devicetree Specification 0.4, chapters 2 and 3).
//!
//! The surprise: `i3f8` is a good unit address; the I/O space of an ISA bus is written so.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Node, Tree, cells, references};

/// What QEMU itself puts into the tree, and every firmware passes on.
const GIVEN: [&str; 1] = ["/lpc@0: a unit address without reg"];

/// What is wrong with a tree, by node.
pub(super) fn problems(tree: &Tree) -> Vec<String> {
    let mut found = all_problems(tree);
    found.retain(|problem| !GIVEN.iter().any(|given| problem.ends_with(given)));
    found
}

fn all_problems(tree: &Tree) -> Vec<String> {
    let numbered = tree.numbered();
    let find = |number: u32| numbered.get(&number).map(|(_, node)| *node);
    let parents = interrupt_parents(tree, &find);
    let mut found = Vec::new();
    let mut numbers = BTreeSet::new();
    tree.root.walk(&mut |path, node, parent| {
        let mut complain = |what: String| found.push(format!("{path}: {what}"));
        names(node).into_iter().for_each(&mut complain);
        if let Some(parent) = parent {
            unit_address(node, parent)
                .into_iter()
                .for_each(&mut complain);
        }
        if let Some(number) = node.cell("phandle") {
            if !numbers.insert(number) || matches!(number, 0 | u32::MAX) {
                complain(format!("number {number:#x} is not its own"));
            }
        }
        for (name, value) in &node.properties {
            for place in references(node, name, value, &find) {
                if cells(value).get(place).copied().and_then(find).is_none() {
                    complain(format!("{name} refers to no node"));
                }
            }
        }
        if let Some(value) = node.property("interrupts") {
            interrupts(value, parents.get(path).copied().flatten())
                .into_iter()
                .for_each(&mut complain);
        }
    });
    if !numbers_of_threads(tree).contains(&tree.boot_cpu) {
        found.push(format!("boot_cpuid_phys {:#x} is no thread", tree.boot_cpu));
    }
    let paths: BTreeSet<String> = tree.by_path().into_keys().collect();
    let chosen = tree.root.children.iter().find(|node| node.name == "chosen");
    let output = chosen.and_then(|node| node.property("linux,stdout-path"));
    let output = output.and_then(|value| value.strip_suffix(&[0]));
    if !output.is_some_and(|path| paths.contains(String::from_utf8_lossy(path).as_ref())) {
        found.push("/chosen: linux,stdout-path names no node".to_owned());
    }
    found
}

/// The numbers that threads have for interrupts, by one of which the header names the thread that starts.
fn numbers_of_threads(tree: &Tree) -> Vec<u32> {
    let mut all = Vec::new();
    tree.root.walk(&mut |_, node, _| {
        all.extend(cells(
            node.property("ibm,ppc-interrupt-server#s")
                .unwrap_or_default(),
        ));
    });
    all
}

fn names(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, _) in &node.properties {
        if !seen.insert(name) {
            found.push(format!("two properties {name}"));
        }
    }
    let mut seen = BTreeSet::new();
    for child in &node.children {
        if !seen.insert(&child.name) {
            found.push(format!("two nodes {}", child.name));
        }
    }
    if let Some(status) = node.property("status") {
        // `bad` is PowerNV's word for a part that is to be left alone.
        if ![
            &b"okay\0"[..],
            b"disabled\0",
            b"reserved\0",
            b"fail\0",
            b"bad\0",
        ]
        .contains(&status)
        {
            found.push("a status that is none".to_owned());
        }
    }
    for name in ["compatible", "device_type", "model"] {
        if node
            .property(name)
            .is_some_and(|v| v.len() < 2 || v.last() != Some(&0))
        {
            found.push(format!("{name} is no text"));
        }
    }
    found
}

/// The unit address is the first address of `reg`, whose length fits the counts of the parent.
fn unit_address(node: &Node, parent: &Node) -> Vec<String> {
    let unit = node.name.split_once('@').map(|(_, unit)| unit);
    let reg = node.property("reg");
    // The one node whose reg is no place but a size: the kernel's driver reads 64 bits there (drivers/mtd/devices/powernv_flash.c).
    let is_flash = node.property("compatible") == Some(b"ibm,opal-flash\0");
    if is_flash && reg.is_some_and(|reg| reg.len() == 8) {
        return vec![];
    }
    match (unit, reg) {
        (None, None) => return vec![],
        (Some(_), None) => return vec!["a unit address without reg".to_owned()],
        (None, Some(_)) => return vec!["reg without a unit address".to_owned()],
        (Some(_), Some(_)) => {}
    }
    let count = |name, default| parent.cell(name).map_or(default, |cells| cells as usize);
    let (address, size) = (count("#address-cells", 2), count("#size-cells", 1));
    let reg = cells(reg.unwrap_or_default());
    let mut found = Vec::new();
    if reg.is_empty() || address == 0 || !reg.len().is_multiple_of(address + size) {
        found.push(format!(
            "reg has {} cells, {address} + {size} per entry",
            reg.len()
        ));
    }
    let first = reg.get(..address).unwrap_or_default();
    let number = first
        .iter()
        .fold(0_u64, |all, cell| (all << 32) | u64::from(*cell));
    let plain = format!("{number:x}");
    let io = match first {
        [1, low] => format!("i{low:x}"),
        _ => plain.clone(),
    };
    if unit != Some(&plain) && unit != Some(&io) {
        found.push(format!("reg begins with {plain}"));
    }
    found
}

/// For each node the one that its interrupts go to: named by the node itself or by the nearest above it.
fn interrupt_parents<'a>(
    tree: &'a Tree,
    find: &dyn Fn(u32) -> Option<&'a Node>,
) -> BTreeMap<String, Option<&'a Node>> {
    let mut parents: BTreeMap<String, Option<&Node>> = BTreeMap::new();
    tree.root.walk(&mut |path, node, parent| {
        let inherited = || {
            // What is below a controller is served by it.
            if let Some(parent) = parent.filter(|node| node.property("#interrupt-cells").is_some())
            {
                return Some(parent);
            }
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            let above = if above.is_empty() { "/" } else { above };
            parents.get(above).copied().flatten()
        };
        let own = match node.cell("interrupt-parent") {
            Some(number) => find(number),
            None => inherited(),
        };
        parents.insert(path.to_owned(), own);
    });
    parents
}

fn interrupts(value: &[u8], parent: Option<&Node>) -> Vec<String> {
    let Some(parent) = parent else {
        return vec!["interrupts that go nowhere".to_owned()];
    };
    let is = |name| parent.property(name).is_some();
    if !is("interrupt-controller") && !is("interrupt-map") {
        return vec![format!(
            "interrupts to {}, which is no controller",
            parent.name
        )];
    }
    match parent.cell("#interrupt-cells") {
        Some(count @ 1..) if cells(value).len().is_multiple_of(count as usize) => vec![],
        count => vec![format!("interrupts of {count:?} cells each")],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::node;
    use super::*;

    type Properties<'a> = &'a [(&'a str, &'a [u8])];

    const ONE: &[u8] = &[0, 0, 0, 1];

    fn tree(children: Vec<Node>) -> Tree {
        let mut all = vec![
            node("core", &[("ibm,ppc-interrupt-server#s", &[0; 8])], vec![]),
            node("chosen", &[("linux,stdout-path", b"/pic@1\0")], vec![]),
            node(
                "pic@1",
                &[
                    ("reg", ONE),
                    ("phandle", &[0, 0, 0, 9]),
                    ("interrupt-controller", &[]),
                    ("#interrupt-cells", ONE),
                ],
                vec![],
            ),
        ];
        all.extend(children);
        let counts: &[(&str, &[u8])] = &[("#address-cells", ONE), ("#size-cells", &[0; 4])];
        Tree {
            root: node("/", counts, all),
            ..Tree::default()
        }
    }

    fn wrong(name: &str, properties: &[(&str, &[u8])]) -> Vec<String> {
        problems(&tree(vec![node(name, properties, vec![])]))
    }

    #[test]
    fn good_nodes_are_good() {
        let none: [String; 0] = [];
        assert_eq!(problems(&tree(vec![])), none);
        let good: &[(&str, &[u8])] = &[
            ("reg", &[0, 0, 0, 0x1f]),
            ("interrupt-parent", &[0, 0, 0, 9]),
            ("interrupts", ONE),
            ("status", b"okay\0"),
        ];
        assert_eq!(wrong("a@1f", good), none);
        let size: &[(&str, &[u8])] = &[
            ("compatible", b"ibm,opal-flash\0"),
            ("reg", &[0, 0, 0, 2, 0, 0, 0, 0]),
        ];
        assert_eq!(wrong("flash@0", size), none);
        assert_ne!(wrong("flash@0", &size[1..]), none);
    }

    #[test]
    fn each_fault_is_found() {
        let faults: [(&str, Properties<'_>, &str); 11] = [
            ("a@2", &[("reg", ONE)], "/a@2: reg begins with 1"),
            ("a@1", &[], "/a@1: a unit address without reg"),
            ("a", &[("reg", ONE)], "/a: reg without a unit address"),
            (
                "a@1",
                &[("reg", &[0, 0, 0])],
                "/a@1: reg has 0 cells, 1 + 0 per entry",
            ),
            (
                "a",
                &[("phandle", &[0, 0, 0, 9])],
                "/a: number 0x9 is not its own",
            ),
            (
                "a",
                &[("interrupt-parent", ONE)],
                "/a: interrupt-parent refers to no node",
            ),
            (
                "a",
                &[("interrupts", ONE)],
                "/a: interrupts that go nowhere",
            ),
            (
                "a",
                &[
                    ("interrupts", &[0, 0]),
                    ("interrupt-parent", &[0, 0, 0, 8]),
                    ("phandle", &[0, 0, 0, 8]),
                ],
                "/a: interrupts to a, which is no controller",
            ),
            ("a", &[("status", b"fine\0")], "/a: a status that is none"),
            ("a", &[("compatible", b"x")], "/a: compatible is no text"),
            ("a", &[("x", b""), ("x", b"")], "/a: two properties x"),
        ];
        for (name, properties, what) in faults {
            let found = wrong(name, properties);
            assert!(found.iter().any(|problem| problem == what), "{found:?}");
        }
    }

    #[test]
    fn the_thread_that_starts_is_in_the_tree() {
        let tree = Tree {
            boot_cpu: 1,
            ..tree(vec![])
        };
        assert_eq!(problems(&tree), ["boot_cpuid_phys 0x1 is no thread"]);
    }

    #[test]
    fn an_address_of_isa_is_written_with_its_space() {
        let bus: &[(&str, &[u8])] = &[
            ("#address-cells", &[0, 0, 0, 2]),
            ("#size-cells", ONE),
            ("reg", ONE),
        ];
        let device = node(
            "serial@i3f8",
            &[("reg", &[0, 0, 0, 1, 0, 0, 3, 0xf8, 0, 0, 0, 8])],
            vec![],
        );
        let tree = tree(vec![node("isa@1", bus, vec![device])]);
        assert_eq!(problems(&tree), [] as [String; 0]);
    }
}

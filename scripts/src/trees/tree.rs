//! A device tree as it was handed over, and as text to review.
//!
//! The surprise: no text has the numbers of nodes (`phandle`). What refers to a node by number is shown, and compared, by the
//! node's path, so that a node more changes no line but its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use fdt::Fdt;
use fdt::node::FdtNode;

/// A node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) properties: Vec<(String, Vec<u8>)>,
    pub(super) children: Vec<Node>,
}

impl Node {
    pub(super) fn property(&self, name: &str) -> Option<&[u8]> {
        let mut properties = self.properties.iter();
        properties.find_map(|(n, value)| (n == name).then_some(value.as_slice()))
    }

    pub(super) fn cell(&self, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.property(name)?.try_into().ok()?))
    }

    fn read(node: FdtNode<'_, '_>) -> Self {
        Self {
            name: node.name.to_owned(),
            properties: node
                .properties()
                .map(|property| (property.name.to_owned(), property.value.to_vec()))
                .collect(),
            children: node.children().map(Self::read).collect(),
        }
    }

    /// Calls `each` for this node and all below it, with its path and its parent.
    pub(super) fn walk<'a>(&'a self, each: &mut dyn FnMut(&str, &'a Node, Option<&'a Node>)) {
        fn inside<'a>(
            path: &str,
            node: &'a Node,
            parent: Option<&'a Node>,
            each: &mut dyn FnMut(&str, &'a Node, Option<&'a Node>),
        ) {
            each(if path.is_empty() { "/" } else { path }, node, parent);
            for child in &node.children {
                inside(&format!("{path}/{}", child.name), child, Some(node), each);
            }
        }
        inside("", self, None, each);
    }
}

/// A tree with what its flattened form carries besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) root: Node,
    pub(super) reserved: Vec<(usize, usize)>,
    pub(super) boot_cpu: u32,
}

/// The cells of a value.
pub(super) fn cells(value: &[u8]) -> Vec<u32> {
    let words = value.as_chunks().0;
    words.iter().map(|word| u32::from_be_bytes(*word)).collect()
}

/// Properties all of whose cells refer to nodes.
const REFERENCES: [&str; 5] = [
    "interrupt-parent",
    "dependencies",
    "l2-cache",
    "l3-cache",
    "next-level-cache",
];

/// Which cells of a property refer to nodes, by their place; `find` knows the nodes.
pub(super) fn references<'a>(
    node: &Node,
    name: &str,
    value: &[u8],
    find: &dyn Fn(u32) -> Option<&'a Node>,
) -> Vec<usize> {
    let cells = cells(value);
    if REFERENCES.contains(&name) {
        return (0..cells.len()).collect();
    }
    let mut places = Vec::new();
    if name == "interrupt-map" {
        let counts = |node: &Node| {
            let count = |name| node.cell(name).unwrap_or(0) as usize;
            count("#address-cells") + count("#interrupt-cells")
        };
        let mut at = counts(node);
        while let Some(&number) = cells.get(at) {
            places.push(at);
            let Some(parent) = find(number) else { break };
            at += 1 + counts(parent) + counts(node);
        }
    }
    places
}

fn is_text(value: &[u8]) -> bool {
    value.split_last().is_some_and(|(last, rest)| {
        let printable = |part: &[u8]| part.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        *last == 0
            && rest
                .split(|b| *b == 0)
                .all(|s| !s.is_empty() && printable(s))
    })
}

/// A value as source: strings where it reads as strings, cells where its length fits, bytes otherwise.
fn source(value: &[u8], path_at: &dyn Fn(usize) -> Option<String>) -> String {
    if is_text(value) {
        let strings = value.get(..value.len() - 1).unwrap_or_default();
        let quoted = strings
            .split(|byte| *byte == 0)
            .map(|text| format!("\"{}\"", String::from_utf8_lossy(text)));
        quoted.collect::<Vec<_>>().join(", ")
    } else if value.len().is_multiple_of(4) {
        let cell = |(place, cell): (usize, u32)| match path_at(place) {
            Some(path) => format!("&{{{path}}}"),
            None => format!("{cell:#x}"),
        };
        let cells: Vec<String> = cells(value).into_iter().enumerate().map(cell).collect();
        format!("<{}>", cells.join(" "))
    } else {
        let bytes: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[{}]", bytes.join(" "))
    }
}

impl Tree {
    /// Reads what was handed over.
    pub(super) fn read(blob: &[u8]) -> Result<Self> {
        let fdt = Fdt::new(blob).map_err(|why| anyhow!("no device tree: {why}"))?;
        let root = fdt.find_node("/").ok_or(anyhow!("a tree without a root"))?;
        let reserved = fdt.memory_reservations();
        let boot_cpu = blob.get(28..32).and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            root: Node::read(root),
            reserved: reserved
                .map(|area| (area.address() as usize, area.size()))
                .collect(),
            boot_cpu: boot_cpu.map_or(0, u32::from_be_bytes),
        })
    }

    /// The nodes that have a number, with their paths.
    pub(super) fn numbered(&self) -> BTreeMap<u32, (String, &Node)> {
        let mut found = BTreeMap::new();
        self.root.walk(&mut |path, node, _| {
            if let Some(number) = node.cell("phandle") {
                found.insert(number, (path.to_owned(), node));
            }
        });
        found
    }

    /// All nodes by path, each with its properties as source.
    pub(super) fn by_path(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let numbered = self.numbered();
        let mut nodes = BTreeMap::new();
        self.root.walk(&mut |path, node, _| {
            nodes.insert(path.to_owned(), sources(node, &numbered).collect());
        });
        nodes
    }

    /// The whole tree as source. `mask` replaces values that are others in each build.
    pub(super) fn source(&self, mask: &dyn Fn(&str, &str) -> Option<&'static str>) -> String {
        let mut out = String::from("/dts-v1/;\n");
        for (start, length) in &self.reserved {
            let _ = writeln!(out, "/memreserve/ {start:#x} {length:#x};");
        }
        write_node(&mut out, &self.root, "", &self.numbered(), mask);
        out
    }
}

type Numbered<'a> = BTreeMap<u32, (String, &'a Node)>;

/// The properties of a node as source, without its number.
fn sources(node: &Node, numbered: &Numbered<'_>) -> impl Iterator<Item = (String, String)> {
    node.properties
        .iter()
        .filter(|(name, _)| name != "phandle" && name != "linux,phandle")
        .map(|(name, value)| {
            let find = |number| numbered.get(&number).map(|(_, node)| *node);
            let places = references(node, name, value, &find);
            let path_at = |place| {
                let number = cells(value).get(place).copied()?;
                let is_reference = places.contains(&place);
                is_reference.then(|| numbered.get(&number).map(|(path, _)| path.clone()))?
            };
            (name.clone(), source(value, &path_at))
        })
}

fn write_node(
    out: &mut String,
    node: &Node,
    path: &str,
    numbered: &Numbered<'_>,
    mask: &dyn Fn(&str, &str) -> Option<&'static str>,
) {
    let indent = "\t".repeat(path.matches('/').count());
    let name = if path.is_empty() { "/" } else { &node.name };
    let _ = writeln!(out, "{indent}{name} {{");
    for (name, value) in sources(node, numbered) {
        let _ = match (mask(path, &name), value.as_str()) {
            (Some(instead), _) => writeln!(out, "{indent}\t{name} = {instead};"),
            (None, "<>") => writeln!(out, "{indent}\t{name};"),
            (None, value) => writeln!(out, "{indent}\t{name} = {value};"),
        };
    }
    for child in &node.children {
        write_node(
            out,
            child,
            &format!("{path}/{}", child.name),
            numbered,
            mask,
        );
    }
    let _ = writeln!(out, "{indent}}};");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node of a test.
    pub(in crate::trees) fn node(
        name: &str,
        properties: &[(&str, &[u8])],
        children: Vec<Node>,
    ) -> Node {
        Node {
            name: name.to_owned(),
            properties: properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
                .collect(),
            children,
        }
    }

    fn sample() -> Tree {
        let controller = node(
            "pic@10",
            &[
                ("phandle", &[0, 0, 0, 9]),
                ("#interrupt-cells", &[0, 0, 0, 1]),
            ],
            vec![],
        );
        let user = node(
            "user",
            &[
                ("interrupt-parent", &[0, 0, 0, 9]),
                ("compatible", b"a,b\0c\0"),
                ("odd", &[1, 2, 3]),
                ("flag", &[]),
                (
                    "interrupt-map",
                    &[0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 5],
                ),
            ],
            vec![],
        );
        Tree {
            root: node("/", &[], vec![controller, user]),
            reserved: vec![(0x1000, 0x2000)],
            boot_cpu: 8,
        }
    }

    #[test]
    fn references_are_shown_as_paths() {
        let text = sample().source(&|_, name| (name == "odd").then_some("\"any\""));
        let wanted = "/dts-v1/;\n/memreserve/ 0x1000 0x2000;\n/ {\n\tpic@10 {\n\t\t#interrupt-cells = <0x1>;\n\t};\n\
            \tuser {\n\t\tinterrupt-parent = <&{/pic@10}>;\n\t\tcompatible = \"a,b\", \"c\";\n\t\todd = \"any\";\n\t\tflag;\n\
            \t\tinterrupt-map = <&{/pic@10} 0x4 &{/pic@10} 0x5>;\n\t};\n};\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn nodes_are_found_by_path() {
        let nodes = sample().by_path();
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["/", "/pic@10", "/user"]);
        assert_eq!(nodes["/user"]["odd"], "[01 02 03]");
        assert!(!nodes["/pic@10"].contains_key("phandle"));
    }
}

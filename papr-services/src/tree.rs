//! An editable device tree, and its flattening (Devicetree Specification 0.4, chapter 5, version 17).
//!
//! Construction reads like the tree and cannot fail: a second property or child of one name is the first one again.
//! Names and sizes are checked once, when the tree is flattened.
//! Insertion order is kept, so output is reproducible. Byte order is in [`Value`] and nowhere else.
//!
//! The surprising fact: property names may have up to 63 characters here, not the 31 of the specification: that is
//! what PAPR's own names need (`ibm,processor-radix-AP-encodings`) and what its readers allow.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use isa::addr::Gra;

#[cfg(test)]
pub(crate) mod dts;

/// What a property can hold.
pub trait Value {
    /// Appends the encoded value.
    fn encode(&self, to: &mut Vec<u8>);
}

impl Value for () {
    fn encode(&self, _to: &mut Vec<u8>) {}
}

impl Value for u32 {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_be_bytes());
    }
}

impl Value for u64 {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.to_be_bytes());
    }
}

impl Value for Gra {
    fn encode(&self, to: &mut Vec<u8>) {
        self.0.encode(to);
    }
}

impl Value for &str {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
        to.push(0);
    }
}

impl Value for &String {
    fn encode(&self, to: &mut Vec<u8>) {
        self.as_str().encode(to);
    }
}

impl<T: Value, const N: usize> Value for [T; N] {
    fn encode(&self, to: &mut Vec<u8>) {
        self.iter().for_each(|value| value.encode(to));
    }
}

impl<T: Value> Value for &[T] {
    fn encode(&self, to: &mut Vec<u8>) {
        self.iter().for_each(|value| value.encode(to));
    }
}

impl<T: Value> Value for Vec<T> {
    fn encode(&self, to: &mut Vec<u8>) {
        self.as_slice().encode(to);
    }
}

/// Bytes as they are.
pub struct Bytes<'a>(pub &'a [u8]);

impl Value for Bytes<'_> {
    fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.0);
    }
}

/// A node: properties and children in the order of insertion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_string(),
            ..Self::default()
        }
    }

    /// Name with unit address.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Properties in order.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Children in order.
    #[must_use]
    pub fn children(&self) -> &[Self] {
        &self.children
    }

    /// A property's bytes.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties()
            .find_map(|(n, value)| (n == name).then_some(value))
    }

    /// A property that is one cell.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.property(name)?.try_into().ok()?))
    }

    /// A child by its whole name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// A child by its whole name, to edit.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// Sets a property; one that exists keeps its place.
    pub fn set(&mut self, name: &str, value: impl Value) -> &mut Self {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        match self.properties.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = bytes,
            None => self.properties.push((name.to_string(), bytes)),
        }
        self
    }

    /// Removes a property.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.properties.retain(|(n, _)| n != name);
        self
    }

    /// Removes a child and all below it.
    pub fn remove_child(&mut self, name: &str) -> &mut Self {
        self.children.retain(|child| child.name != name);
        self
    }

    /// Adds a child, or goes on with the one of this name.
    pub fn node(&mut self, name: &str, build: impl FnOnce(&mut Self)) -> &mut Self {
        match self.child_mut(name) {
            Some(child) => build(child),
            None => {
                let mut child = Self::new(name);
                build(&mut child);
                self.children.push(child);
            }
        }
        self
    }

    /// Adds a child with a unit address and the `reg` that agrees with it, in as many cells as this node says
    /// (`#address-cells` and `#size-cells`, 2 and 1 when it does not say).
    pub fn at(
        &mut self,
        name: &str,
        address: u64,
        size: u64,
        build: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let mut reg = Vec::new();
        let cells = [
            (address, self.cell("#address-cells").unwrap_or(2)),
            (size, self.cell("#size-cells").unwrap_or(1)),
        ];
        for (value, count) in cells {
            let [high, low] = [value >> 32, value & u64::from(u32::MAX)]
                .map(|half| u32::try_from(half).unwrap_or(0));
            match count {
                0 => {}
                1 => low.encode(&mut reg),
                _ => [high, low].encode(&mut reg),
            }
        }
        self.node(&format!("{name}@{address:x}"), |child| {
            child.set("reg", Bytes(&reg));
            build(child);
        })
    }
}

/// A tree with what its flattened form carries besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The root.
    pub root: Node,
    /// Memory that the reader must leave alone: start, length.
    pub reserved: Vec<(u64, u64)>,
    /// `boot_cpuid_phys`: the processor that enters the reader.
    pub boot_cpu: u32,
}

/// Why a tree cannot be flattened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// A node's or property's name is empty, too long, or has characters that names cannot have.
    BadName(String),
    /// It is larger than 4 GiB.
    TooLarge,
}

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
/// Bytes of the header.
const HEADER: usize = 40;
const LONGEST_NAME: usize = 63;

fn check_name(name: &str, more: &str) -> Result<(), TreeError> {
    let good = |c: char| c.is_ascii_alphanumeric() || ",._+-".contains(c) || more.contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(good) {
        return Err(TreeError::BadName(name.to_string()));
    }
    Ok(())
}

fn length(bytes: &[u8]) -> Result<u32, TreeError> {
    u32::try_from(bytes.len()).map_err(|_| TreeError::TooLarge)
}

/// The two blocks of a flattened tree that grow together.
#[derive(Default)]
struct Blocks {
    structure: Vec<u8>,
    strings: Vec<u8>,
    /// Offset of each name in `strings`.
    names: Vec<(String, u32)>,
}

impl Blocks {
    fn pad(&mut self) {
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
    }

    fn string(&mut self, name: &str) -> Result<u32, TreeError> {
        if let Some((_, offset)) = self.names.iter().find(|(n, _)| n == name) {
            return Ok(*offset);
        }
        let offset = length(&self.strings)?;
        name.encode(&mut self.strings);
        self.names.push((name.to_string(), offset));
        Ok(offset)
    }

    /// Writes a node and all below it. Depth is the depth of the tree that this crate built.
    fn node(&mut self, node: &Node) -> Result<(), TreeError> {
        BEGIN_NODE.encode(&mut self.structure);
        node.name().encode(&mut self.structure);
        self.pad();
        for (name, value) in node.properties() {
            check_name(name, "?#")?;
            let offset = self.string(name)?;
            [PROPERTY, length(value)?, offset].encode(&mut self.structure);
            self.structure.extend_from_slice(value);
            self.pad();
        }
        for child in &node.children {
            check_name(child.name(), "@")?;
            self.node(child)?;
        }
        END_NODE.encode(&mut self.structure);
        Ok(())
    }
}

impl Tree {
    /// Flattens it.
    ///
    /// # Errors
    /// [`TreeError`] when a name or a size is not what the format can carry.
    pub fn flatten(&self) -> Result<Vec<u8>, TreeError> {
        let mut blocks = Blocks::default();
        blocks.node(&self.root)?;
        END.encode(&mut blocks.structure);

        let mut reserved = Vec::new();
        for (start, len) in &self.reserved {
            [*start, *len].encode(&mut reserved);
        }
        [0_u64, 0].encode(&mut reserved);

        // Header, reservations, structure, strings; the first three are multiples of 8, 8 and 4 bytes.
        let reserved_at = u32::try_from(HEADER).map_err(|_| TreeError::TooLarge)?;
        let after =
            |at: u32, block: &[u8]| at.checked_add(length(block)?).ok_or(TreeError::TooLarge);
        let structure_at = after(reserved_at, &reserved)?;
        let strings_at = after(structure_at, &blocks.structure)?;
        let total = after(strings_at, &blocks.strings)?;

        let mut out = Vec::new();
        [
            MAGIC,
            total,
            structure_at,
            strings_at,
            reserved_at,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            self.boot_cpu,
            length(&blocks.strings)?,
            length(&blocks.structure)?,
        ]
        .encode(&mut out);
        out.append(&mut reserved);
        out.append(&mut blocks.structure);
        out.append(&mut blocks.strings);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString};
    use alloc::vec;

    use super::{Bytes, Node, Tree, TreeError};

    fn small() -> Tree {
        let mut tree = Tree {
            reserved: vec![(0x1000, 0x2000)],
            boot_cpu: 8,
            ..Tree::default()
        };
        tree.root
            .set("#address-cells", 2u32)
            .set("#size-cells", 2u32)
            .set("compatible", ["a,b", "c"])
            .at("memory", 0x1_2345_0000, 0x4000_0000, |m| {
                m.set("device_type", "memory");
            })
            .node("cpus", |cpus| {
                cpus.set("#address-cells", 1u32)
                    .set("#size-cells", 0u32)
                    .at("cpu", 0x18, 0, |cpu| {
                        cpu.set("empty", ()).set("odd", Bytes(&[1, 2, 3]));
                    });
            });
        tree
    }

    #[test]
    fn a_reader_finds_what_was_built() {
        let blob = small().flatten().unwrap();
        let fdt = fdt::Fdt::new(&blob).unwrap();
        assert_eq!(fdt.total_size(), blob.len());
        let memory = fdt.find_node("/memory@123450000").unwrap();
        let reg = memory.reg().unwrap().next().unwrap();
        assert_eq!(
            (reg.starting_address as usize, reg.size),
            (0x1_2345_0000, Some(0x4000_0000))
        );
        let cpu = fdt.find_node("/cpus/cpu@18").unwrap();
        assert_eq!(cpu.property("reg").unwrap().value, [0, 0, 0, 0x18]);
        assert_eq!(cpu.property("odd").unwrap().value, [1, 2, 3]);
        assert_eq!(cpu.property("empty").unwrap().value, [0u8; 0]);
        let reserved = fdt.memory_reservations().next().unwrap();
        assert_eq!(
            (reserved.address() as usize, reserved.size()),
            (0x1000, 0x2000)
        );
        assert_eq!(blob[28..32], [0, 0, 0, 8], "boot_cpuid_phys");
    }

    #[test]
    fn the_last_value_stays_and_keeps_its_place() {
        let mut node = Node::default();
        node.set("a", 1u32)
            .set("b", 2u32)
            .set("a", 3u32)
            .remove("c");
        let names: vec::Vec<_> = node.properties().map(|(n, _)| n).collect();
        assert_eq!((names, node.cell("a")), (vec!["a", "b"], Some(3)));
        node.node("x", |x| {
            x.set("p", 1u32);
        })
        .node("x", |x| {
            x.set("q", 1u32);
        });
        assert_eq!(node.children().len(), 1);
        node.remove_child("x");
        assert!(node.children().is_empty());
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "x".repeat(64);
        for bad in ["", "a b", "a/b", "ü", long.as_str()] {
            let mut tree = Tree::default();
            tree.root.set(bad, ());
            assert_eq!(tree.flatten(), Err(TreeError::BadName(String::from(bad))));
            let mut tree = Tree::default();
            tree.root.node(bad, |_| {});
            assert_eq!(tree.flatten(), Err(TreeError::BadName(bad.to_string())));
        }
        let mut tree = Tree::default();
        tree.root
            .set("ibm,processor-radix-AP-encodings", ())
            .set("#address-cells", 2u32);
        assert!(tree.flatten().is_ok());
    }
}

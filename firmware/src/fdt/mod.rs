//! A reader of flattened device trees (Devicetree Specification 0.4, chapter 5) that hostile bytes cannot make panic.
//!
//! [`Fdt::new`] walks the whole structure block once and accepts it or names what is wrong; afterwards reading never
//! fails. It borrows a copy of the blob: nothing is read from memory that another may change. Surprising fact: no
//! offset inside the blob is trusted after that either, every read is still bounds-checked and a miss ends the walk.
#![forbid(unsafe_code)]

use core::fmt;

#[cfg(test)]
pub(crate) mod build;
#[cfg(test)]
mod tests;

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Deepest nesting we accept; real trees stay below 10.
const MAX_DEPTH: usize = 32;

/// Largest tree that is accepted: QEMU's limit is 1 MiB.
pub const MAX_SIZE: usize = 2 << 20;

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdtError {
    /// Not even a header fits.
    TooShort,
    /// The first word is not 0xd00dfeed; it is this.
    BadMagic(u32),
    /// Only versions that are compatible with 16 or 17 are known.
    BadVersion(u32),
    /// The size in the header is this; more than there is, or than [`MAX_SIZE`], or less than a header.
    BadSize(u32),
    /// A block lies outside the blob or is not aligned.
    BadBlock,
    /// The structure block breaks its grammar at this offset.
    BadStructure(usize),
    /// Nodes are nested too deep at this offset.
    TooDeep(usize),
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => write!(f, "shorter than a header"),
            Self::BadMagic(word) => write!(f, "starts with {word:#010x}, not with 0xd00dfeed"),
            Self::BadVersion(version) => write!(f, "version {version} is not known"),
            Self::BadSize(size) => write!(f, "impossible size {size:#x}"),
            Self::BadBlock => write!(f, "a block lies outside the tree"),
            Self::BadStructure(at) => write!(f, "structure broken at offset {at:#x}"),
            Self::TooDeep(at) => write!(f, "nested too deep at offset {at:#x}"),
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The size that a header claims, if the bytes are one: what to copy before [`Fdt::new`].
///
/// # Errors
/// The header is none, or the size is impossible.
pub fn claimed_size(header: &[u8]) -> Result<usize, FdtError> {
    let magic = be32(header, 0).ok_or(FdtError::TooShort)?;
    if magic != MAGIC {
        return Err(FdtError::BadMagic(magic));
    }
    let size = be32(header, 4).ok_or(FdtError::TooShort)?;
    match usize::try_from(size) {
        Ok(bytes) if (HEADER..=MAX_SIZE).contains(&bytes) => Ok(bytes),
        _ => Err(FdtError::BadSize(size)),
    }
}

/// A device tree whose structure has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
}

/// One step through the structure block.
enum Token<'a> {
    Begin(&'a str),
    End,
    Prop(Property<'a>),
    Stop,
}

/// A property of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub value: &'a [u8],
}

impl<'a> Property<'a> {
    /// The value as a single cell.
    #[must_use]
    pub fn u32(&self) -> Option<u32> {
        (self.value.len() == 4)
            .then(|| be32(self.value, 0))
            .flatten()
    }

    /// The value as one number of one or two cells.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.value.len() {
            4 => be32(self.value, 0).map(u64::from),
            8 => be64(self.value, 0),
            _ => None,
        }
    }

    /// The value as cells; a rest that is no cell is left out.
    pub fn cells(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.value.chunks_exact(4).filter_map(|cell| be32(cell, 0))
    }

    /// The strings of the value; what is not UTF-8 is left out.
    pub fn strings(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let text = self.value.strip_suffix(&[0]).unwrap_or(self.value);
        text.split(|byte| *byte == 0)
            .filter_map(|part| core::str::from_utf8(part).ok())
    }

    /// The first string.
    #[must_use]
    pub fn str(&self) -> Option<&'a str> {
        self.strings().next()
    }
}

/// A node: a place in the structure block, just after its name.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    tree: Fdt<'a>,
    /// Its name with unit address; empty for the root.
    pub name: &'a str,
    inside: usize,
}

impl<'a> Fdt<'a> {
    /// Checks `blob` and gives access to it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(blob: &'a [u8]) -> Result<Self, FdtError> {
        let size = claimed_size(blob)?;
        let claimed = || FdtError::BadSize(be32(blob, 4).unwrap_or(0));
        let blob = blob.get(..size).ok_or_else(claimed)?;
        let word = |at| be32(blob, at).ok_or(FdtError::TooShort);
        let offset = |at| word(at).map(|value| value as usize);
        let compatible = word(24)?;
        if !(16..=17).contains(&compatible) || word(20)? < compatible {
            return Err(FdtError::BadVersion(compatible));
        }
        let block = |start: usize, length: Option<usize>| {
            let rest = blob.get(start..).ok_or(FdtError::BadBlock)?;
            length.map_or(Ok(rest), |length| {
                rest.get(..length).ok_or(FdtError::BadBlock)
            })
        };
        // Version 16 has no size of the structure block.
        let structure_size = if word(20)? >= 17 {
            Some(offset(36)?)
        } else {
            None
        };
        let tree = Self {
            structure: block(offset(8)?, structure_size)?,
            strings: block(offset(12)?, Some(offset(32)?))?,
            reservations: block(offset(16)?, None)?,
        };
        if offset(8)? % 4 != 0 || offset(16)? % 8 != 0 {
            return Err(FdtError::BadBlock);
        }
        tree.check()?;
        Ok(tree)
    }

    /// Walks everything once: one root, all nodes closed, properties before children, END at the end.
    fn check(self) -> Result<(), FdtError> {
        let mut at = 0;
        let mut depth = 0;
        let mut had_root = false;
        let mut properties_allowed = false;
        loop {
            let here = at;
            let (token, next) = self.token(at).ok_or(FdtError::BadStructure(here))?;
            at = next;
            match token {
                Token::Begin(_) if depth == MAX_DEPTH => return Err(FdtError::TooDeep(here)),
                Token::Begin(_) if depth > 0 || !had_root => {
                    depth += 1;
                    had_root = true;
                    properties_allowed = true;
                }
                Token::Prop(_) if depth > 0 && properties_allowed => {}
                Token::End if depth > 0 => {
                    depth -= 1;
                    properties_allowed = false;
                }
                Token::Stop if depth == 0 && had_root => break,
                _ => return Err(FdtError::BadStructure(here)),
            }
        }
        let mut reserved = 0;
        loop {
            match (
                be64(self.reservations, reserved),
                be64(self.reservations, reserved + 8),
            ) {
                (Some(_), Some(0)) => return Ok(()),
                (Some(_), Some(_)) => reserved += 16,
                _ => return Err(FdtError::BadBlock),
            }
        }
    }

    /// The token at `at` of the structure block and where the next one is; `None` when it is malformed.
    fn token(self, mut at: usize) -> Option<(Token<'a>, usize)> {
        loop {
            let kind = be32(self.structure, at)?;
            at = at.checked_add(4)?;
            return match kind {
                NOP => continue,
                BEGIN_NODE => {
                    let name = string(self.structure.get(at..)?)?;
                    let after = at.checked_add(name.len())?.checked_add(1)?;
                    Some((Token::Begin(name), after.checked_next_multiple_of(4)?))
                }
                END_NODE => Some((Token::End, at)),
                PROP => {
                    let length = be32(self.structure, at)? as usize;
                    let name = string(
                        self.strings
                            .get(be32(self.structure, at.checked_add(4)?)? as usize..)?,
                    )?;
                    let start = at.checked_add(8)?;
                    let end = start.checked_add(length)?;
                    let value = self.structure.get(start..end)?;
                    Some((
                        Token::Prop(Property { name, value }),
                        end.checked_next_multiple_of(4)?,
                    ))
                }
                END => Some((Token::Stop, at)),
                _ => None,
            };
        }
    }

    /// The root node.
    #[must_use]
    pub fn root(self) -> Node<'a> {
        let inside = self.token(0).map_or(usize::MAX, |(_, next)| next);
        Node {
            tree: self,
            name: "",
            inside,
        }
    }

    /// The node at an absolute path of full names, or of names without unit address where that is unique enough.
    #[must_use]
    pub fn find(self, path: &str) -> Option<Node<'a>> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(self.root(), |node, part| node.child(part))
    }

    /// The memory reservation block: (address, length) pairs.
    pub fn reservations(self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        self.reservations
            .chunks_exact(16)
            .map_while(|entry| Some((be64(entry, 0)?, be64(entry, 8)?)))
            .take_while(|(_, length)| *length != 0)
    }
}

/// The bytes up to a zero, as text.
fn string(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}

impl<'a> Node<'a> {
    /// The properties, in order.
    pub fn properties(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let tree = self.tree;
        let mut at = self.inside;
        core::iter::from_fn(move || match tree.token(at)? {
            (Token::Prop(property), next) => {
                at = next;
                Some(property)
            }
            _ => None,
        })
    }

    /// The property with this name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Property<'a>> {
        self.properties().find(|property| property.name == name)
    }

    /// The children, in order.
    pub fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let tree = self.tree;
        let mut at = self.inside;
        core::iter::from_fn(move || {
            let mut depth = 0_usize;
            loop {
                let (token, next) = tree.token(at)?;
                at = next;
                match token {
                    Token::Begin(name) => {
                        depth += 1;
                        if depth == 1 {
                            // The caller gets the child; the next call walks over its inside.
                            let child = Node {
                                tree,
                                name,
                                inside: at,
                            };
                            at = child.end()?;
                            return Some(child);
                        }
                    }
                    Token::End if depth == 0 => return None,
                    Token::End => depth -= 1,
                    Token::Prop(_) => {}
                    Token::Stop => return None,
                }
            }
        })
    }

    /// Where the structure goes on after this node.
    fn end(&self) -> Option<usize> {
        let mut at = self.inside;
        let mut depth = 1_usize;
        while depth > 0 {
            let (token, next) = self.tree.token(at)?;
            at = next;
            match token {
                Token::Begin(_) => depth += 1,
                Token::End => depth -= 1,
                Token::Prop(_) => {}
                Token::Stop => return None,
            }
        }
        Some(at)
    }

    /// The first child called `name`, with or without its unit address.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        self.children()
            .find(|child| child.name == name || child.base_name() == name)
    }

    /// The name without the unit address.
    #[must_use]
    pub fn base_name(&self) -> &'a str {
        self.name
            .split_once('@')
            .map_or(self.name, |(base, _)| base)
    }

    /// Whether `compatible` has this string.
    #[must_use]
    pub fn is_compatible(&self, with: &str) -> bool {
        self.property("compatible")
            .is_some_and(|list| list.strings().any(|entry| entry == with))
    }

    /// `reg` as (address, size) pairs, with the cell counts of the parent (1 or 2 each).
    pub fn reg(
        &self,
        address_cells: u32,
        size_cells: u32,
    ) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let cells = |n: u32| if (1..=2).contains(&n) { n as usize } else { 0 };
        let (address, size) = (cells(address_cells), cells(size_cells));
        let value = if address == 0 {
            &[]
        } else {
            self.property("reg").map_or(&[][..], |reg| reg.value)
        };
        let number = |bytes: &[u8]| {
            bytes.chunks_exact(4).fold(0_u64, |all, cell| {
                (all << 32) | be32(cell, 0).map_or(0, u64::from)
            })
        };
        value
            .chunks_exact(4 * (address + size).max(1))
            .filter_map(move |entry| {
                let (base, length) = entry.split_at_checked(4 * address)?;
                Some((number(base), number(length)))
            })
    }

    /// `#address-cells` and `#size-cells` for the children, or the defaults of the specification.
    #[must_use]
    pub fn cell_counts(&self) -> (u32, u32) {
        let count = |name, default| self.property(name).and_then(|p| p.u32()).unwrap_or(default);
        (count("#address-cells", 2), count("#size-cells", 1))
    }
}

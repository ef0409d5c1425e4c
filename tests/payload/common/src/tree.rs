//! A checked reader of the flattened device tree: just enough for what the programs look for.
//! Owns a view of the bytes; a damaged tree gives `None`, never a panic.

/// A tree in memory.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
}

/// A 32-bit big-endian cell of a property or of the tree.
#[must_use]
pub fn cell(bytes: &[u8], index: usize) -> Option<u32> {
    let at = index.checked_mul(4)?;
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

impl<'a> Tree<'a> {
    /// Reads the header.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let field = |n| usize::try_from(cell(bytes, n)?).ok();
        let (structure, strings) = (field(2)?, field(3)?);
        let (strings_size, structure_size) = (field(8)?, field(9)?);
        Some(Self {
            structure: bytes.get(structure..structure.checked_add(structure_size)?)?,
            strings: bytes.get(strings..strings.checked_add(strings_size)?)?,
        })
    }

    /// Calls `each` with every property of the first node with this path (names without unit address).
    pub fn properties(&self, path: &[&str], mut each: impl FnMut(&'a str, &'a [u8])) -> Option<()> {
        let depth = path.len() + 1;
        self.walk(path, |at, _, name, value| {
            if at == depth {
                each(name, value);
            }
        })
    }

    /// Calls `each` with the name of each node below the first one with this path, and each of its properties.
    pub fn children(
        &self,
        path: &[&str],
        mut each: impl FnMut(&'a str, &'a str, &'a [u8]),
    ) -> Option<()> {
        let depth = path.len() + 2;
        self.walk(path, |at, node, name, value| {
            if at == depth {
                each(node, name, value);
            }
        })
    }

    /// Calls `each` with every property of the first node with this path and of those below it: how many nodes are
    /// open there, the name of the innermost, and the property.
    fn walk(
        &self,
        path: &[&str],
        mut each: impl FnMut(usize, &'a str, &'a str, &'a [u8]),
    ) -> Option<()> {
        let mut node = "";
        let mut at = 0usize;
        let mut depth = 0usize; // nodes open, the root included
        let mut matched = 0usize; // of these, how many lie on the path
        loop {
            let token = cell(self.structure.get(at..)?, 0)?;
            at += 4;
            match token {
                1 => {
                    let name = text(self.structure.get(at..)?)?;
                    at += (name.len() + 4) & !3;
                    node = name;
                    let plain = name.split('@').next().unwrap_or(name);
                    if depth == 0 || (matched == depth && path.get(depth - 1) == Some(&plain)) {
                        matched = depth + 1;
                    }
                    depth += 1;
                }
                2 => {
                    if matched == depth && depth == path.len() + 1 {
                        return Some(());
                    }
                    depth = depth.checked_sub(1)?;
                    matched = matched.min(depth);
                }
                3 => {
                    let len = usize::try_from(cell(self.structure.get(at..)?, 0)?).ok()?;
                    let name = usize::try_from(cell(self.structure.get(at..)?, 1)?).ok()?;
                    let value = self.structure.get(at + 8..)?.get(..len)?;
                    at += 8 + ((len + 3) & !3);
                    if matched == path.len() + 1 {
                        each(depth, node, text(self.strings.get(name..)?)?, value);
                    }
                }
                4 => {}
                _ => return None,
            }
        }
    }

    /// One property of the first node with this path.
    #[must_use]
    pub fn property(&self, path: &[&str], name: &str) -> Option<&'a [u8]> {
        let mut found = None;
        self.properties(path, |n, value| {
            if n == name {
                found = Some(value);
            }
        });
        found
    }

    /// First cell of a property.
    #[must_use]
    pub fn number(&self, path: &[&str], name: &str) -> Option<u32> {
        cell(self.property(path, name)?, 0)
    }
}

/// A string that ends with NUL.
#[must_use]
pub fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|b| *b == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::{Tree, cell};

    /// A tree with `/chosen/bootargs` and `/rtas@1/power-off`, built by hand.
    fn sample() -> Vec<u8> {
        let strings = b"bootargs\0power-off\0";
        let mut s = Vec::new();
        let word = |s: &mut Vec<u8>, v: u32| s.extend(v.to_be_bytes());
        word(&mut s, 1);
        word(&mut s, 0);
        word(&mut s, 1);
        s.extend(b"chosen\0\0");
        word(&mut s, 3);
        word(&mut s, 10);
        word(&mut s, 0);
        s.extend(b"group=all\0\0\0");
        word(&mut s, 2);
        word(&mut s, 1);
        s.extend(b"rtas@1\0\0");
        word(&mut s, 3);
        word(&mut s, 4);
        word(&mut s, 9);
        word(&mut s, 0x2000);
        word(&mut s, 2);
        word(&mut s, 2);
        word(&mut s, 9);
        let mut tree = Vec::new();
        for v in [
            0xd00d_feed,
            0,
            40,
            u32::try_from(40 + s.len()).expect("small"),
            0,
            17,
            16,
            0,
            u32::try_from(strings.len()).expect("small"),
            u32::try_from(s.len()).expect("small"),
        ] {
            word(&mut tree, v);
        }
        tree.extend(s);
        tree.extend(strings);
        tree
    }

    #[test]
    fn finds_properties_by_path() {
        let bytes = sample();
        let tree = Tree::new(&bytes).expect("well formed");
        assert_eq!(
            tree.property(&["chosen"], "bootargs"),
            Some(&b"group=all\0"[..])
        );
        assert_eq!(tree.number(&["rtas"], "power-off"), Some(0x2000));
        assert_eq!(tree.number(&["chosen"], "power-off"), None);
        assert_eq!(tree.property(&["absent"], "bootargs"), None);
    }

    #[test]
    fn damaged_trees_end() {
        let good = sample();
        for cut in 0..good.len() {
            if let Some(tree) = Tree::new(&good[..cut]) {
                let _ = tree.property(&["rtas"], "power-off");
            }
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            if let Some(tree) = Tree::new(&bad) {
                let _ = tree.property(&["rtas"], "power-off");
            }
        }
        assert_eq!(cell(&good, usize::MAX), None);
    }
}

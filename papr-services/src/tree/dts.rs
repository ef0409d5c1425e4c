//! Prints a tree as device tree source, for goldens: strings where a value reads as strings, cells where its length
//! fits, bytes otherwise.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use super::{Node, Tree};

fn is_text(value: &[u8]) -> bool {
    value.split_last().is_some_and(|(last, rest)| {
        *last == 0
            && rest
                .split(|b| *b == 0)
                .all(|s| !s.is_empty() && s.iter().all(|b| b.is_ascii_graphic() || *b == b' '))
    })
}

fn value(bytes: &[u8]) -> String {
    let join = |parts: &mut dyn Iterator<Item = String>, by| {
        parts.collect::<alloc::vec::Vec<_>>().join(by)
    };
    if is_text(bytes) {
        let mut strings = bytes[..bytes.len() - 1]
            .split(|b| *b == 0)
            .map(|s| format!("\"{}\"", String::from_utf8_lossy(s)));
        return join(&mut strings, ", ");
    }
    if bytes.len().is_multiple_of(4) {
        let mut cells = bytes
            .chunks(4)
            .map(|c| format!("{:#x}", u32::from_be_bytes(c.try_into().unwrap())));
        return format!("<{}>", join(&mut cells, " "));
    }
    format!(
        "[{}]",
        join(&mut bytes.iter().map(|b| format!("{b:02x}")), " ")
    )
}

fn node(node: &Node, name: &str, depth: usize, out: &mut String) {
    let indent = "\t".repeat(depth);
    writeln!(out, "{indent}{name} {{").unwrap();
    for (name, bytes) in node.properties() {
        if bytes.is_empty() {
            writeln!(out, "{indent}\t{name};").unwrap();
        } else {
            writeln!(out, "{indent}\t{name} = {};", value(bytes)).unwrap();
        }
    }
    for child in node.children() {
        self::node(child, child.name(), depth + 1, out);
    }
    writeln!(out, "{indent}}};").unwrap();
}

/// Source of a tree.
pub(crate) fn print(tree: &Tree) -> String {
    let mut out = String::from("/dts-v1/;\n");
    for (start, len) in &tree.reserved {
        writeln!(out, "/memreserve/ {start:#x} {len:#x};").unwrap();
    }
    writeln!(out, "// boot_cpuid_phys = {}", tree.boot_cpu).unwrap();
    node(&tree.root, "/", 0, &mut out);
    out
}

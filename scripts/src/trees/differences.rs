//! Our tree against that of skiboot on the same machine: each difference is listed with its reason, or it is a failure.
//!
//! The list has lines `SIGN PATTERN | REASON`. The sign says what differs: `+` only ours has it, `-` only skiboot's, `!` another
//! value. The pattern is a node's path, for the node with all below it, or `PATH:PROPERTY`; a `*` stands for anything
//! but a slash. The surprise: a line that no machine needs is a failure too, so that the list cannot outlive its reasons.

use std::collections::BTreeMap;

use super::tree::Tree;

/// The committed list.
pub(super) const LIST: &str = include_str!("../../../tests/golden/opal-tree-differences.txt");

/// A line of the list.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    sign: char,
    pattern: &'a str,
    needed: bool,
}

/// Reads a list; each line has to have a reason.
pub(super) fn read(list: &str) -> Result<Vec<Listed<'_>>, String> {
    list.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let bad = || format!("neither SIGN PATTERN | REASON nor a comment: {line}");
            let (difference, reason) = line.split_once(" | ").ok_or_else(bad)?;
            let (sign, pattern) = difference.trim().split_once(' ').ok_or_else(bad)?;
            match sign {
                "+" | "-" | "!" if !reason.trim().is_empty() => Ok(Listed {
                    sign: sign.chars().next().unwrap_or('!'),
                    pattern: pattern.trim(),
                    needed: false,
                }),
                _ => Err(bad()),
            }
        })
        .collect()
}

impl Listed<'_> {
    fn covers(&self, sign: char, path: &str, property: Option<&str>) -> bool {
        match (self.pattern.rsplit_once(':'), property) {
            (Some((node, name)), Some(property)) => {
                self.sign == sign && matches(node, path) && matches(name, property)
            }
            (None, None) => self.sign == sign && is_at_or_above(self.pattern, path),
            _ => false,
        }
    }
}

/// Whether the pattern matches; a `*` matches any characters but slashes.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let end = text.find('/').unwrap_or(text.len());
            (0..=end).any(|n| text.get(n..).is_some_and(|text| matches(rest, text)))
        }),
    }
}

/// Whether the pattern matches the node or one above it.
fn is_at_or_above(pattern: &str, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| at).skip(1);
    ends.chain([path.len()])
        .any(|end| path.get(..end).is_some_and(|part| matches(pattern, part)))
}

/// Holds two trees against each other and marks the lines that are needed; returns the differences that are not listed.
pub(super) fn compare(ours: &Tree, theirs: &Tree, listed: &mut [Listed<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |sign, path: &str, property: Option<&str>, values: String| {
        let mut is_listed = false;
        for line in listed.iter_mut() {
            if line.covers(sign, path, property) {
                line.needed = true;
                is_listed = true;
            }
        }
        if !is_listed {
            let property = property.map(|name| format!(":{name}")).unwrap_or_default();
            found.push(format!("{sign} {path}{property}{values}"));
        }
    };
    let (ours, theirs) = (ours.by_path(), theirs.by_path());
    for (sign, path, both) in merged(&ours, &theirs) {
        let Some((ours, theirs)) = both else {
            differ(sign, path, None, String::new());
            continue;
        };
        for (sign, name, both) in merged(ours, theirs) {
            match both {
                None => differ(sign, path, Some(name), String::new()),
                Some((ours, theirs)) if ours != theirs => {
                    differ('!', path, Some(name), format!(": {ours}, skiboot {theirs}"));
                }
                Some(_) => {}
            }
        }
    }
    found
}

/// The keys of two maps, with the sign of a key that only one has, or with both values.
fn merged<'a, T>(
    ours: &'a BTreeMap<String, T>,
    theirs: &'a BTreeMap<String, T>,
) -> impl Iterator<Item = (char, &'a str, Option<(&'a T, &'a T)>)> {
    let mine = ours.iter().map(|(key, value)| match theirs.get(key) {
        Some(other) => ('!', key.as_str(), Some((value, other))),
        None => ('+', key.as_str(), None),
    });
    let missing = theirs.keys().filter(|key| !ours.contains_key(*key));
    mine.chain(missing.map(|key| ('-', key.as_str(), None)))
}

/// The lines that nothing needed.
pub(super) fn stale(listed: &[Listed<'_>]) -> Vec<String> {
    let unneeded = listed.iter().filter(|line| !line.needed);
    unneeded
        .map(|line| format!("listed, but no difference: {} {}", line.sign, line.pattern))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::node;
    use super::*;

    fn tree(properties: &[(&str, &[u8])], children: &[&str]) -> Tree {
        let children = children.iter().map(|name| node(name, &[], vec![]));
        Tree {
            root: node("/", properties, children.collect()),
            ..Tree::default()
        }
    }

    #[test]
    fn only_what_is_listed_may_differ() {
        let ours = tree(&[("a", b"1"), ("b", b"1")], &["x@1", "y"]);
        let theirs = tree(&[("a", b"2"), ("c", b"1")], &["x@1", "z@2"]);
        let differences = compare(&ours, &theirs, &mut []);
        assert_eq!(
            differences,
            [
                "! /:a: [31], skiboot [32]",
                "+ /:b",
                "- /:c",
                "+ /y",
                "- /z@2"
            ]
        );
        let list = "# why\n\n! /:a | r\n+ /:* | r\n- /:c | r\n+ /y | r\n- /z@* | r\n- /x@* | r\n";
        let mut listed = read(list).expect("well-formed");
        assert!(compare(&ours, &theirs, &mut listed).is_empty());
        assert_eq!(stale(&listed), ["listed, but no difference: - /x@*"]);
    }

    #[test]
    fn a_node_covers_what_is_below_it_and_a_star_stays_in_its_part() {
        assert!(is_at_or_above("/a/b", "/a/b/c/d"));
        assert!(is_at_or_above("/a/b", "/a/b"));
        assert!(!is_at_or_above("/a/b", "/a/bc"));
        assert!(!is_at_or_above("/a/b", "/a"));
        assert!(is_at_or_above("/a@*", "/a@1/c"));
        assert!(matches("/a*/c*e", "/ab/cde"));
        assert!(!matches("/a*c", "/a/c"));
        assert!(!matches("/a", "/ab"));
    }

    #[test]
    fn a_line_has_a_sign_and_a_reason() {
        for bad in ["+ /a", "+ /a | ", "/a | r", "? /a | r"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(LIST).is_ok());
    }
}

//! The closure of packages under their dependencies.
//!
//! The surprise: a dependency that no package meets is reported and skipped, not an error (see the parent module).

use std::collections::BTreeMap;

use super::index::{Index, Package};

/// What a closure needs and what it could not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The packages by name.
    pub packages: BTreeMap<String, Chosen>,
    /// Dependencies that nothing in the index meets, as `wanting package: dependency`.
    pub unmet: Vec<String>,
}

/// A version of a package, and which text of the index holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The Debian version.
    pub version: String,
    /// The position of the text.
    pub source: usize,
}

/// Follows the dependencies of `roots`; a dependency whose name `follow` refuses is left out.
pub fn closure(
    index: &Index<'_>,
    roots: &[&Package<'_>],
    follow: impl Fn(&str) -> bool,
) -> Closure {
    let mut result = Closure::default();
    let mut queue: Vec<&Package<'_>> = roots.to_vec();
    while let Some(package) = queue.pop() {
        if result.packages.contains_key(package.name) {
            continue;
        }
        let chosen = Chosen {
            version: package.version.to_owned(),
            source: package.source,
        };
        result.packages.insert(package.name.to_owned(), chosen);
        for group in &package.depends {
            let mut wanted = group
                .iter()
                .filter(|relation| follow(relation.name))
                .peekable();
            let Some(first) = wanted.peek().map(|relation| relation.name) else {
                continue;
            };
            match wanted.find_map(|relation| index.meeting(relation)) {
                Some(found) => queue.push(found),
                None => result.unmet.push(format!("{}: {first}", package.name)),
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: top\nVersion: 2\nDepends: gone | lib (>= 1), doc, lost (>= 3)\n\n\
        Package: lib\nVersion: 1.5\nDepends: top, base\n\nPackage: base\nVersion: 1\n\n\
        Package: doc\nVersion: 1\n\nPackage: lost\nVersion: 2\n";

    #[test]
    fn closure_takes_alternatives_survives_cycles_and_names_what_is_unmet() {
        let index = Index::parse(&[TEXT]);
        let top = index.newest("top", |_| true).expect("present");
        let closure = closure(&index, &[top], |name| name != "doc");
        let names: Vec<_> = closure.packages.keys().map(String::as_str).collect();
        assert_eq!(names, ["base", "lib", "top"]);
        assert_eq!(closure.unmet, ["top: lost"]);
    }
}

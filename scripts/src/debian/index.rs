//! The package index of a suite (`Packages`): stanzas of `Field: value` lines, one per package version.
//!
//! Borrows from the text that it was made from. The surprise: the same name occurs several times, with different
//! versions, in a backports suite.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::version;

/// One version of one package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package<'a> {
    /// The package name.
    pub name: &'a str,
    /// The Debian version, with epoch and revision.
    pub version: &'a str,
    /// Which of the texts that the index was made from holds it.
    pub source: usize,
    /// `Pre-Depends` and `Depends`: all of these, each met by any of its alternatives.
    pub depends: Vec<Vec<Relation<'a>>>,
    /// `Provides`: names, with versions where they are given.
    pub provides: Vec<Relation<'a>>,
}

/// A name, perhaps with a bound on its version: `libc6 (>= 2.41)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The package name, without an architecture qualifier.
    pub name: &'a str,
    /// Operator and version.
    pub bound: Option<(&'a str, &'a str)>,
}

impl Relation<'_> {
    /// Says whether `version` lies within the bound.
    pub fn admits(&self, version: &str) -> bool {
        let Some((operator, bound)) = self.bound else {
            return true;
        };
        let order = version::compare(version, bound);
        match operator {
            ">=" => order != Ordering::Less,
            "<=" => order != Ordering::Greater,
            "=" => order == Ordering::Equal,
            ">>" => order == Ordering::Greater,
            "<<" => order == Ordering::Less,
            _ => false,
        }
    }
}

/// All packages of the suites that were put in.
#[derive(Debug, Default)]
pub struct Index<'a> {
    packages: Vec<Package<'a>>,
    by_name: HashMap<&'a str, Vec<usize>>,
    by_provided: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Index<'a> {
    /// Parses several indexes into one; of equal versions the one from the earlier text wins.
    pub fn parse(texts: &[&'a str]) -> Self {
        let mut index = Self::default();
        for (source, text) in texts.iter().enumerate() {
            for package in text.split("\n\n").filter_map(parse_stanza) {
                index.add(Package { source, ..package });
            }
        }
        index
    }

    fn add(&mut self, package: Package<'a>) {
        let position = self.packages.len();
        self.by_name.entry(package.name).or_default().push(position);
        for provided in &package.provides {
            self.by_provided
                .entry(provided.name)
                .or_default()
                .push(position);
        }
        self.packages.push(package);
    }

    /// Returns the newest package of this name whose version is accepted.
    pub fn newest(&self, name: &str, accept: impl Fn(&str) -> bool) -> Option<&Package<'a>> {
        newest(
            self.named(&self.by_name, name)
                .filter(|package| accept(package.version)),
        )
    }

    /// Returns the newest package that meets the relation by its own name, else one that provides it.
    pub fn meeting(&self, relation: &Relation<'_>) -> Option<&Package<'a>> {
        self.newest(relation.name, |version| relation.admits(version))
            .or_else(|| {
                newest(
                    self.named(&self.by_provided, relation.name)
                        .filter(|package| {
                            package.provides.iter().any(|provided| {
                                provided.name == relation.name
                                    && match (relation.bound, provided.bound) {
                                        (None, _) => true,
                                        (Some(_), Some((_, version))) => relation.admits(version),
                                        (Some(_), None) => false,
                                    }
                            })
                        }),
                )
            })
    }

    fn named<'s>(
        &'s self,
        map: &'s HashMap<&'a str, Vec<usize>>,
        name: &str,
    ) -> impl Iterator<Item = &'s Package<'a>> {
        map.get(name)
            .into_iter()
            .flatten()
            .filter_map(|&position| self.packages.get(position))
    }
}

fn newest<'s, 'a: 's>(packages: impl Iterator<Item = &'s Package<'a>>) -> Option<&'s Package<'a>> {
    packages.reduce(
        |best, next| match version::compare(next.version, best.version) {
            Ordering::Greater => next,
            Ordering::Less | Ordering::Equal => best,
        },
    )
}

fn parse_stanza(stanza: &str) -> Option<Package<'_>> {
    let mut package = Package::default();
    for line in stanza.lines() {
        let Some((field, value)) = line.split_once(": ") else {
            continue;
        };
        match field {
            "Package" => package.name = value,
            "Version" => package.version = value,
            "Depends" | "Pre-Depends" => package.depends.extend(
                value
                    .split(',')
                    .map(|group| group.split('|').filter_map(parse_relation).collect()),
            ),
            "Provides" => package
                .provides
                .extend(value.split(',').filter_map(parse_relation)),
            _ => {}
        }
    }
    (!package.name.is_empty() && !package.version.is_empty()).then_some(package)
}

/// Parses `name[:arch] [(operator version)]`.
pub fn parse_relation(text: &str) -> Option<Relation<'_>> {
    let text = text.trim();
    let (name, bound) = match text.split_once('(') {
        Some((name, bound)) => {
            let bound = bound.trim_end().strip_suffix(')')?.trim();
            let (operator, version) = bound.split_at(bound.find(|c| !"<>=".contains(c))?);
            (name.trim(), Some((operator, version.trim())))
        }
        None => (text, None),
    };
    let name = name.split(':').next().filter(|name| !name.is_empty())?;
    Some(Relation { name, bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: qemu\nVersion: 1:11.1-3\nPre-Depends: libc6 (>= 2.41)\n\
        Depends: libaio1t64 (>= 0.3.93) | libaio1, data (>> 1:11.1~), python3:any\nDescription: a: b\n x: y\n\n\
        Package: qemu\nVersion: 1:10.0-1\n\n\
        Package: libaio1t64\nVersion: 0.3.113-8\nProvides: libaio1 (= 0.3.113-8), aio\n";

    #[test]
    fn stanza_gives_relations() {
        let index = Index::parse(&[TEXT]);
        let qemu = index.newest("qemu", |_| true).expect("present");
        assert_eq!(qemu.version, "1:11.1-3");
        assert_eq!(qemu.depends.len(), 4);
        assert_eq!(
            qemu.depends[1][1],
            Relation {
                name: "libaio1",
                bound: None
            }
        );
        assert_eq!(
            qemu.depends[2][0],
            Relation {
                name: "data",
                bound: Some((">>", "1:11.1~"))
            }
        );
        assert_eq!(qemu.depends[3][0].name, "python3");
    }

    #[test]
    fn newest_honours_the_filter_and_the_order() {
        let index = Index::parse(&[TEXT]);
        let old = index
            .newest("qemu", |version| version.starts_with("1:10"))
            .expect("present");
        assert_eq!(old.version, "1:10.0-1");
        assert_eq!(index.newest("absent", |_| true), None);
    }

    #[test]
    fn provided_names_meet_relations_only_with_their_version() {
        let index = Index::parse(&[TEXT]);
        let meets = |text| {
            index
                .meeting(&parse_relation(text).expect("relation"))
                .map(|p| p.name)
        };
        assert_eq!(meets("libaio1"), Some("libaio1t64"));
        assert_eq!(meets("libaio1 (>= 0.3.100)"), Some("libaio1t64"));
        assert_eq!(meets("libaio1 (>= 0.4)"), None);
        assert_eq!(meets("aio"), Some("libaio1t64"));
        assert_eq!(meets("aio (>= 1)"), None);
    }

    #[test]
    fn odd_relations_are_not_accepted() {
        assert_eq!(parse_relation(""), None);
        assert_eq!(parse_relation("a (>= 1"), None);
        assert_eq!(parse_relation("a ()"), None);
        let odd = parse_relation("a (<=> 1)").expect("parses");
        assert!(!odd.admits("1"));
    }
}

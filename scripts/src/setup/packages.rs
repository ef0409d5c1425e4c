//! Packages of an architecture from the first group of suites that can give all of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::debian::apt::{self, Suite};
use crate::debian::index::Index;
use crate::debian::resolve::{self, Chosen, Closure};
use crate::debian::version;
use crate::tools::Tools;

/// Suites that belong together, newest first.
pub type Group = &'static [&'static str];

/// Newest software that still fits the stable release, then the suites that move.
pub const BACKPORTS_FIRST: [Group; 3] = [&["trixie-backports", "trixie"], &["forky"], &["sid"]];
/// The stable release, then the suites that move.
pub const STABLE_FIRST: [Group; 3] = [&["trixie"], &["forky"], &["sid"]];

/// Package indexes, each read once per run.
#[derive(Debug)]
pub struct Packages {
    base: PathBuf,
    texts: HashMap<(String, String), Result<String, String>>,
}

/// What was unpacked.
#[derive(Debug)]
pub struct Fetched {
    /// The suites it came from.
    pub group: Group,
    /// Names and versions.
    pub packages: BTreeMap<String, Chosen>,
}

impl Fetched {
    /// Returns the version of one package and the suite group it came from, for a person to read.
    pub fn version_of(&self, name: &str) -> String {
        let version = self
            .packages
            .get(name)
            .map_or("?", |chosen| &chosen.version);
        format!("{name} {version} ({})", self.group.join("+"))
    }
}

impl Packages {
    /// Starts with no index read.
    pub fn new(tools: &Tools) -> Self {
        Self {
            base: tools.path("apt"),
            texts: HashMap::new(),
        }
    }

    /// Unpacks the newest `roots` (whose version `accept` admits) and the dependencies that `follow` admits into the
    /// item `item`, from the first group of suites that has them.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one independent choice of the caller"
    )]
    pub fn fetch(
        &mut self,
        tools: &Tools,
        item: &str,
        arch: &str,
        groups: &[Group],
        roots: &[&str],
        follow: impl Fn(&str) -> bool,
        accept: impl Fn(&str) -> bool,
    ) -> Result<Fetched> {
        self.fetch_and(tools, item, arch, groups, roots, follow, accept, |_, _| {
            Ok(())
        })
    }

    /// As [`Self::fetch`], and lets `finish` work on the unpacked tree before it is put in place.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one independent choice of the caller"
    )]
    pub fn fetch_and(
        &mut self,
        tools: &Tools,
        item: &str,
        arch: &str,
        groups: &[Group],
        roots: &[&str],
        follow: impl Fn(&str) -> bool,
        accept: impl Fn(&str) -> bool,
        finish: impl Fn(&Path, &Fetched) -> Result<()>,
    ) -> Result<Fetched> {
        let mut problems = Vec::new();
        for &group in groups {
            // A package that is gone since the index was read asks for a newer index, once.
            for refresh in [false, true] {
                let result = self
                    .resolve(arch, group, roots, &follow, &accept, refresh)
                    .and_then(|closure| {
                        let fetched = Fetched {
                            group,
                            packages: closure.packages,
                        };
                        self.unpack(tools, item, arch, &fetched, &finish)?;
                        Ok(fetched)
                    });
                match result {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => problems.push(format!("{}: {error:#}", group.join("+"))),
                }
            }
        }
        problems.dedup();
        bail!("{}", problems.join(" | "))
    }

    fn resolve(
        &mut self,
        arch: &str,
        group: Group,
        roots: &[&str],
        follow: impl Fn(&str) -> bool,
        accept: impl Fn(&str) -> bool,
        refresh: bool,
    ) -> Result<Closure> {
        for suite in group {
            self.read(suite, arch, refresh);
        }
        let mut texts = Vec::new();
        for suite in group {
            match self.texts.get(&((*suite).to_owned(), arch.to_owned())) {
                Some(Ok(text)) => texts.push(text.as_str()),
                Some(Err(problem)) => bail!("{problem}"),
                None => bail!("{suite} was not read"),
            }
        }
        let index = Index::parse(&texts);
        let found = roots
            .iter()
            .map(|name| {
                index
                    .newest(name, &accept)
                    .with_context(|| format!("no fitting {name} for {arch}"))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(resolve::closure(&index, &found, follow))
    }

    fn read(&mut self, suite: &str, arch: &str, refresh: bool) {
        let key = (suite.to_owned(), arch.to_owned());
        if refresh || !self.texts.contains_key(&key) {
            let text = Suite::new(&self.base, suite, arch)
                .index(refresh)
                .map_err(|error| format!("{error:#}"));
            self.texts.insert(key, text);
        }
    }

    fn unpack(
        &self,
        tools: &Tools,
        item: &str,
        arch: &str,
        fetched: &Fetched,
        finish: impl Fn(&Path, &Fetched) -> Result<()>,
    ) -> Result<()> {
        tools.make(item, |directory| {
            let downloads = directory.join(".debs");
            let mut manifest = String::new();
            for (source, suite) in fetched.group.iter().enumerate() {
                let of_suite = fetched
                    .packages
                    .iter()
                    .filter(|(_, chosen)| chosen.source == source);
                let wanted: Vec<_> = of_suite
                    .map(|(name, chosen)| format!("{name}={}", chosen.version))
                    .collect();
                if !wanted.is_empty() {
                    Suite::new(&self.base, suite, arch).download(&wanted, &downloads)?;
                }
                for name in wanted {
                    let _ = writeln!(manifest, "{suite} {arch} {name}");
                }
            }
            for package in fs::read_dir(&downloads)? {
                apt::unpack(&package?.path(), directory)?;
            }
            fs::remove_dir_all(downloads)?;
            finish(directory, fetched)?;
            Ok(manifest)
        })
    }
}

/// Says whether a version is at least `major.minor` (of the upstream part).
pub fn at_least(wanted: &str) -> impl Fn(&str) -> bool + '_ {
    move |candidate| version::compare(version::upstream(candidate), wanted).is_ge()
}

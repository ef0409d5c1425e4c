//! A private apt: its own lists, cache and status, so that nothing of the machine is read or changed but its mirror
//! and its keyrings.
//!
//! apt does what it is best at: mirror, proxy, retries, by-hash, signature of `InRelease`, SHA-256 of every index and
//! package. The surprise: one root per suite and architecture, because apt drops all architectures of a suite when
//! the index of one of them does not match its signed hash, which happens on mirrors that are being synchronised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Indexes younger than this are used again.
const FRESH: Duration = Duration::from_secs(6 * 3600);
const HELPER: &str = "/usr/lib/apt/apt-helper";
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// A suite for one architecture, in a private root.
#[derive(Debug)]
pub struct Suite {
    root: PathBuf,
    suite: String,
    arch: String,
}

impl Suite {
    /// Names a suite whose root lies under `base`; nothing is done yet.
    pub fn new(base: &Path, suite: &str, arch: &str) -> Self {
        Self {
            root: base.join(format!("{suite}-{arch}")),
            suite: suite.to_owned(),
            arch: arch.to_owned(),
        }
    }

    /// Returns the text of the package index, fetched unless there is a fresh one.
    pub fn index(&self, refresh: bool) -> Result<String> {
        if refresh || !self.is_fresh() {
            self.update()?;
        }
        let list = self
            .list()
            .with_context(|| format!("{} has no index for {}", self.suite, self.arch))?;
        let bytes = cat(&list)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Fetches packages (`name=version`) into a directory, each checked by apt against the signed index.
    pub fn download(&self, wanted: &[String], directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        command::output(
            self.apt("apt-get")
                .current_dir(directory)
                .arg("download")
                .args(wanted),
        )
        .with_context(|| {
            format!(
                "packages of {} for {} cannot be fetched",
                self.suite, self.arch
            )
        })
        .map(drop)
    }

    fn stamp(&self) -> PathBuf {
        self.root.join("updated")
    }

    fn is_fresh(&self) -> bool {
        let age = fs::metadata(self.stamp())
            .and_then(|data| data.modified())
            .ok();
        age.and_then(|time| time.elapsed().ok())
            .is_some_and(|age| age < FRESH)
            && self.list().is_some()
    }

    fn list(&self) -> Option<PathBuf> {
        let wanted = format!("binary-{}_Packages", self.arch);
        fs::read_dir(self.root.join("lists"))
            .ok()?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.is_file() && path.to_string_lossy().contains(&wanted))
    }

    fn update(&self) -> Result<()> {
        if !command::exists("apt-get") {
            bail!("apt-get is not on this machine");
        }
        let mut problems = Vec::new();
        for mirror in mirrors()? {
            match self.update_from(&mirror) {
                Ok(()) => return Ok(()),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        bail!(
            "suite {} ({}): {}",
            self.suite,
            self.arch,
            problems.join("; ")
        )
    }

    fn update_from(&self, mirror: &str) -> Result<()> {
        // Only lists that apt has just verified may be there afterwards.
        let _ = fs::remove_dir_all(self.root.join("lists"));
        let _ = fs::remove_file(self.stamp());
        for directory in ["lists/partial", "cache/archives/partial", "etc"] {
            fs::create_dir_all(self.root.join(directory))?;
        }
        fs::write(self.root.join("status"), "")?;
        let signed = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .map(|path| format!(" signed-by={path}"))
            .unwrap_or_default();
        let Self { suite, arch, .. } = self;
        fs::write(
            self.root.join("etc/sources.list"),
            format!("deb [arch={arch} target=Packages{signed}] {mirror} {suite} main\n"),
        )?;
        command::output(
            self.apt("apt-get")
                .args(["update", "-o", "APT::Update::Error-Mode=any"]),
        )?;
        if self.list().is_none() {
            bail!("apt-get update brought no index");
        }
        fs::write(self.stamp(), "")?;
        Ok(())
    }

    /// An apt command in the private root; options on the command line win over the machine's configuration.
    fn apt(&self, program: &str) -> Command {
        let root = self.root.display();
        let mut apt = Command::new(program);
        apt.env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        for option in [
            format!("APT::Architecture={}", self.arch),
            format!("APT::Architectures={}", self.arch),
            format!("Dir::State={root}"),
            format!("Dir::State::lists={root}/lists"),
            format!("Dir::State::status={root}/status"),
            format!("Dir::Cache={root}/cache"),
            format!("Dir::Etc::sourcelist={root}/etc/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

/// Returns the content of a file, decompressed when its name says that it is compressed.
pub fn cat(path: &Path) -> Result<Vec<u8>> {
    let extension = path
        .extension()
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default();
    if matches!(extension.as_str(), "xz" | "lz4" | "zst" | "gz" | "bz2") {
        if Path::new(HELPER).exists() {
            return command::output(Command::new(HELPER).arg("cat-file").arg(path));
        }
        return command::output(Command::new("xz").arg("-dc").arg(path));
    }
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Unpacks a package into a directory.
pub fn unpack(package: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    command::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(into)).map(drop)
}

/// Returns the machine's own architecture.
pub fn host_arch() -> Result<String> {
    let bytes = command::output(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The mirrors of the machine's apt configuration, first the one that `NIDUS_DEBIAN_MIRROR` names.
fn mirrors() -> Result<Vec<String>> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut paths: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        texts.extend(
            paths
                .iter()
                .filter_map(|path| fs::read_to_string(path).ok()),
        );
    }
    let mut mirrors: Vec<String> = std::env::var("NIDUS_DEBIAN_MIRROR").into_iter().collect();
    for mirror in texts.iter().flat_map(|text| mirrors_in(text)) {
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    if mirrors.is_empty() {
        bail!("no Debian mirror in /etc/apt: set NIDUS_DEBIAN_MIRROR to the URL of one");
    }
    Ok(mirrors)
}

/// Finds the archives named `debian` in a one-line or deb822 source list.
fn mirrors_in(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://") || word.starts_with("mirror+file:"))
        .map(|word| word.trim_end_matches('/'))
        .filter(|word| word.ends_with("debian"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_from_both_formats() {
        let text = "# deb http://old.example/debian x main\nTypes: deb\nURIs: http://a.example/debian/ \n\
            Suites: bookworm\n\nURIs: http://a.example/debian-security\n\
            deb [arch=amd64] https://b.example/mirror/debian trixie main\n\
            deb https://tools.example/packages stable main\n";
        assert_eq!(
            mirrors_in(text),
            ["http://a.example/debian", "https://b.example/mirror/debian"]
        );
    }

    #[test]
    fn plain_file_is_read_as_it_is() {
        let path = std::env::temp_dir().join(format!("nidus-apt-{}", std::process::id()));
        fs::write(&path, b"text").expect("written");
        assert_eq!(cat(&path).expect("read"), b"text");
        fs::remove_file(&path).expect("removed");
    }
}

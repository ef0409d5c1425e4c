//! The flash for the kernel: the device that OPAL_FLASH_READ and the like reach, the nodes that tell of it and of the parts
//! that kernels know what to do with, and the versions of the firmware that lie there.
//!
//! Surprising fact: a kernel gets the flash as it is. It may write where the firmware's own NVRAM is, of which the firmware
//! keeps a copy until the next boot; that is why all parts but the whole of it are said to be read-only.
#![forbid(unsafe_code)]

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use nest::hiomap::{self, Data, FirmwareSpace, HiomapError, Job};
use nest::lpc::IoSpace;
use opal_calls::args::FlashId;
use opal_calls::error::OpalError;
use opal_calls::flash::{Flashes, Geometry, Progress};
use papr_services::tree::Node;
use pnor_image::container;
use pnor_image::ffs::{Found, Kind};
use pnor_image::flash::Flash as _;

use crate::flash::{SystemFlash, plain_partition};

/// The number of the one device, and its node.
const ID: u32 = 0;
const PATH: &str = "/ibm,opal/flash@0";

/// The parts that are told, as skiboot does it, and whether a kernel may write them.
const PARTS: [(&str, bool); 6] = [
    ("BOOTKERNEL", false),
    ("ROOTFS", false),
    ("CAPP", false),
    ("IMA_CATALOG", false),
    ("VERSION", false),
    ("BOOTKERNFW", true),
];

/// The device behind the calls.
#[derive(Debug)]
pub struct FlashDevice<L: 'static> {
    flash: SystemFlash<L>,
    geometry: Geometry,
}

/// What the calls answer to what went wrong. A BMC that keeps the flash gives it back some time.
const fn code(error: HiomapError) -> OpalError {
    match error {
        HiomapError::Lost => OpalError::OPAL_BUSY,
        HiomapError::Outside | HiomapError::Misaligned => OpalError::OPAL_PARAMETER,
        HiomapError::Bmc(_)
        | HiomapError::Version(_)
        | HiomapError::Nonsense(_)
        | HiomapError::Bus(_)
        | HiomapError::TooSlow => OpalError::OPAL_HARDWARE,
    }
}

impl<L: IoSpace + FirmwareSpace> FlashDevice<L> {
    /// The flash that boot has found, if there is one.
    pub fn find(flash: SystemFlash<L>) -> Option<Self> {
        let (size, erase_size) = flash.geometry()?;
        let geometry = Geometry { size, erase_size };
        Some(Self { flash, geometry })
    }

    /// Adds `/ibm,opal/flash@0` with its parts, and `/ibm,firmware-versions`, to the tree.
    pub fn describe(&mut self, root: &mut Node, found: Option<&Found>) {
        let parts = found.map(parts).unwrap_or_default();
        describe(root, self.geometry, &parts);
        let Some(found) = found else { return };
        root.node("chosen", |chosen| {
            chosen.set("ibm,system-flash", PATH);
        });
        if let Some(text) = self.version_text(found) {
            describe_versions(root, &text);
        }
    }

    /// The text in VERSION.
    fn version_text(&mut self, found: &Found) -> Option<Vec<u8>> {
        /// More than this nobody reads.
        const LARGEST: u64 = 0x2000;
        let place = plain_partition(found, "VERSION")?;
        let mut bytes = vec![0; usize::try_from(place.length.min(LARGEST)).ok()?];
        if let Err(error) = self.flash.read(place.at, &mut bytes) {
            log::warn!("flash: VERSION: {error}");
            return None;
        }
        if bytes.starts_with(&container::MAGIC) {
            bytes.drain(..container::HEADER_SIZE.min(bytes.len()));
        }
        Some(bytes)
    }

    fn advance(&self, job: &mut Job, mut data: Data<'_>) -> Result<Progress, OpalError> {
        let done = self.flash.advance(job, &mut data);
        match done.ok_or(OpalError::OPAL_BUSY)? {
            Ok(hiomap::Progress::Done) => Ok(Progress::Done),
            Ok(hiomap::Progress::Waiting) => Ok(Progress::Waiting),
            Err(error) => {
                if !matches!(error, HiomapError::Lost) {
                    crate::limited!(warn, "flash, for the kernel: {error}");
                }
                Err(code(error))
            }
        }
    }
}

impl<L: IoSpace + FirmwareSpace> Flashes for FlashDevice<L> {
    type Job = Job;

    fn device(&self, id: FlashId) -> Option<Geometry> {
        (id == FlashId(ID.into())).then_some(self.geometry)
    }

    fn job(&self, _: FlashId, at: u64, length: u64) -> Job {
        Job::new(at, length)
    }

    fn read(&self, job: &mut Job, into: &mut [u8]) -> Result<Progress, OpalError> {
        self.advance(job, Data::Read(self.flash.0.bus(), into))
    }

    fn write(&self, job: &mut Job, from: &[u8]) -> Result<Progress, OpalError> {
        self.advance(job, Data::Write(self.flash.0.bus(), from))
    }

    fn erase(&self, job: &mut Job) -> Result<Progress, OpalError> {
        self.advance(job, Data::Erase)
    }
}

/// A part of the flash that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    name: &'static str,
    at: u64,
    length: u64,
    is_writable: bool,
}

/// The parts that there are. One counts as long as its content, where the table says how long that is.
fn parts(found: &Found) -> Vec<Part> {
    let known = PARTS.iter().filter_map(|&(name, is_writable)| {
        let entry = found.table.get(name)?;
        let (at, length) = found.table.extent(entry);
        let length = match u64::from(entry.actual) {
            0 => length,
            actual => actual.min(length),
        };
        // The first one would have the name of the whole flash's node.
        (entry.kind == Kind::Data && length > 0 && at > 0).then_some(Part {
            name,
            at,
            length,
            is_writable,
        })
    });
    known.collect()
}

fn describe(root: &mut Node, geometry: Geometry, parts: &[Part]) {
    let name = alloc::format!("flash@{ID}");
    root.node("ibm,opal", |opal| {
        opal.node(&name, |flash| {
            flash
                .set("compatible", "ibm,opal-flash")
                .set("ibm,opal-id", ID)
                // Kernels read one number of 64 bits here, whatever the cells of the parent are.
                .set("reg", geometry.size)
                .set(
                    "ibm,flash-block-size",
                    u32::try_from(geometry.erase_size).unwrap_or(u32::MAX),
                )
                // The BMC erases before it writes.
                .set("no-erase", ());
            flash.node("partitions", |node| describe_parts(node, geometry, parts));
        });
    });
}

fn describe_parts(node: &mut Node, geometry: Geometry, parts: &[Part]) {
    node.set("compatible", "fixed-partitions")
        .set("#address-cells", 2_u32)
        .set("#size-cells", 2_u32);
    for part in parts {
        node.at("partition", part.at, part.length, |node| {
            node.set("label", part.name);
            if !part.is_writable {
                node.set("read-only", ());
            }
        });
    }
    node.at("partition", 0, geometry.size, |node| {
        node.set("label", "PNOR");
    });
}

/// Adds `/ibm,firmware-versions`: what the lines of VERSION say, `name-version` each, of the firmware as a whole and of the
/// parts that kernels and tools ask for.
fn describe_versions(root: &mut Node, text: &[u8]) {
    /// Ordered: of two that both fit, the longer comes first.
    const NAMES: [&str; 13] = [
        "open-power",
        "buildroot",
        "skiboot",
        "nidus",
        "hostboot-binaries",
        "hostboot",
        "linux",
        "petitboot",
        "occ",
        "capp-ucode",
        "sbe",
        "machine-xml",
        "hcode",
    ];
    let mut lines = lines(text);
    let Some(first) = lines.next() else { return };
    let version = first
        .strip_prefix("open-power-")
        .or_else(|| first.split_once('-').map(|(_, version)| version));
    root.node("ibm,firmware-versions", |node| {
        if let Some(version) = version {
            node.set("version", version);
        }
        for line in lines {
            let known = NAMES.iter().find_map(|name| {
                let version = line.strip_prefix(name)?.strip_prefix('-')?;
                Some((*name, version))
            });
            if let Some((name, version)) = known
                && node.property(name).is_none()
            {
                node.set(name, version);
            }
        }
    });
}

/// The lines of a text that ends in a zero byte, without tabs; none that is too long for a line, or is no text.
fn lines(text: &[u8]) -> impl Iterator<Item = String> {
    const LONGEST: usize = 79;
    let end = text.iter().position(|byte| *byte == 0);
    let text = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    text.split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(|line| line.iter().copied().filter(|byte| *byte != b'\t').collect())
        .filter(|line: &Vec<u8>| !line.is_empty() && line.len() <= LONGEST)
        .filter(|line| line.iter().all(|byte| matches!(byte, b' '..=b'~')))
        .filter_map(|line| String::from_utf8(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnor_image::ffs::{Entry, Name, Origin, Table};

    const GEOMETRY: Geometry = Geometry {
        size: 0x200_0000,
        erase_size: 0x1000,
    };

    fn found(entries: &[(&str, u32, u32, u32)]) -> Found {
        let entry = |&(name, base, size, actual): &(&str, u32, u32, u32)| Entry {
            actual,
            ..Entry::new(Name::new(name).unwrap(), base, size)
        };
        Found {
            table: Table {
                block_size: 0x1000,
                block_count: 0x2000,
                table_blocks: 8,
                entries: entries.iter().map(entry).collect(),
            },
            origin: Origin::First,
            problems: vec![],
            notes: vec![],
        }
    }

    #[test]
    fn the_parts_that_kernels_know_are_told_with_the_length_of_their_content() {
        let found = found(&[
            ("NVRAM", 8, 0x90, 0x9_0000),
            ("VERSION", 0xbc, 2, 0x1040),
            ("BOOTKERNEL", 0x1be, 0x1600, 0),
            ("BOOTKERNFW", 0x17be, 0x10, 0x1_0000),
            ("CAPP", 0, 8, 0x8000),
        ]);
        let mut root = Node::default();
        describe(&mut root, GEOMETRY, &parts(&found));
        let flash = root
            .child("ibm,opal")
            .and_then(|opal| opal.child("flash@0"));
        let flash = flash.expect("there");
        assert_eq!(
            flash.property("reg"),
            Some(&0x200_0000_u64.to_be_bytes()[..])
        );
        assert_eq!(flash.cell("ibm,flash-block-size"), Some(0x1000));
        let parts = flash.child("partitions").expect("there");
        let told: Vec<_> = parts
            .children()
            .iter()
            .map(|part| {
                let reg = part.property("reg").unwrap().as_chunks::<8>().0;
                let label = part.property("label").unwrap();
                (
                    part.name(),
                    core::str::from_utf8(label).unwrap(),
                    u64::from_be_bytes(reg[0]),
                    u64::from_be_bytes(reg[1]),
                    part.property("read-only").is_some(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    "partition@1be000",
                    "BOOTKERNEL\0",
                    0x1b_e000,
                    0x160_0000,
                    true
                ),
                ("partition@bc000", "VERSION\0", 0xb_c000, 0x1040, true),
                (
                    "partition@17be000",
                    "BOOTKERNFW\0",
                    0x17b_e000,
                    0x1_0000,
                    false
                ),
                ("partition@0", "PNOR\0", 0, 0x200_0000, false),
            ]
        );
        assert!(PATH.ends_with(flash.name()));
    }

    fn versions(text: &[u8]) -> Option<Vec<(String, String)>> {
        let mut root = Node::default();
        describe_versions(&mut root, text);
        let node = root.child("ibm,firmware-versions")?;
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.strip_suffix(b"\0").expect("ends").to_vec()).expect("text")
        };
        let properties = node.properties();
        Some(
            properties
                .map(|(name, value)| (name.into(), text(value)))
                .collect(),
        )
    }

    #[test]
    fn versions_are_taken_apart() {
        let text = b"open-power-nidus-0.1\n\tnidus-0.1-abc\n\thostboot-binaries-1\n\thostboot-2\n\
            \tlinux-4.4.6-openpower1\n\tlinux-5\n\tother-7\n\tlinuxx\n\0hcode-1\n";
        let pair = |name: &str, value: &str| (String::from(name), String::from(value));
        assert_eq!(
            versions(text).expect("there"),
            [
                pair("version", "nidus-0.1"),
                pair("nidus", "0.1-abc"),
                pair("hostboot-binaries", "1"),
                pair("hostboot", "2"),
                pair("linux", "4.4.6-openpower1"),
            ]
        );
        assert_eq!(
            versions(b"witherspoon-v2\n"),
            Some(vec![pair("version", "v2")])
        );
    }

    #[test]
    fn what_is_no_text_is_left_out() {
        assert_eq!(versions(&[0xff; 0x2000]), None);
        assert_eq!(versions(b""), None);
        assert_eq!(versions(b"open-power-without-an-end"), None);
        let long = [
            &b"a-"[..],
            &[b'x'; 100],
            b"\nopen-power-1\nocc-\xc3\xa4\nocc-2\n",
        ]
        .concat();
        let told = versions(&long).expect("there");
        assert_eq!(told[0].1, "1");
        assert_eq!(told[1], (String::from("occ"), String::from("2")));
        assert_eq!(told.len(), 2);
    }
}

//! What is in an image: one line per partition for people, JSON for programs, and a list of what is wrong.
//!
//! The surprise: erased partitions are no problem. A board's image is full of them until all its parts are built.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::image::{Content, Image};
use super::json::Json;
use crate::container::{Header, signing};
use crate::ffs::{Entry, Kind, Origin, flags};
use crate::nvram::journal::{self, Blocks, Recovered};
use crate::xz::{self, Decoder, Limits, Progress};
use crate::{container, nvram};

/// What unpacking for a report may cost.
const LIMITS: Limits = Limits {
    output: 256 << 20,
    dictionary: 128 << 20,
};
/// How much of a version is shown.
const LONGEST_VERSION: usize = 400;

/// An image, described.
#[derive(Debug)]
pub struct Report {
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes of the flash, as the table has it.
    pub flash_size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Where the table was.
    pub table_offset: u64,
    /// The partitions in the order of the table.
    pub partitions: Vec<PartitionReport>,
    /// What is wrong with the image as a whole.
    pub problems: Vec<String>,
}

/// A partition, described.
#[derive(Debug)]
pub struct PartitionReport {
    /// Its name.
    pub name: String,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The length of its content, as the table has it.
    pub actual: u32,
    /// The letters that pflash shows, too.
    pub flags: String,
    /// `good`, `corrected N`, `uncorrectable`; nothing without ECC.
    pub ecc: Option<String>,
    /// What is in it, in a few words.
    pub content: String,
    /// The text of a version.
    pub version: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

impl Report {
    /// Looks at everything in an image.
    pub fn of(image: &Image) -> Self {
        let found = &image.found;
        let mut problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        for (at, note) in &found.notes {
            match note {
                Err(error) => problems.push(format!("table at {at:#x}: {error}")),
                Ok(list) => problems.extend(
                    list.iter()
                        .map(|problem| format!("table at {at:#x}: {problem}")),
                ),
            }
        }
        let table_offset = match found.origin {
            Origin::First => 0,
            Origin::Copy(at) | Origin::OtherSide(at) => at,
        };
        problems.extend(copies(image));
        Self {
            file_size: image.bytes.len() as u64,
            flash_size: found.table.flash_size(),
            block_size: found.table.block_size,
            table_offset,
            partitions: found
                .table
                .entries
                .iter()
                .map(|entry| partition(image, entry))
                .collect(),
            problems,
        }
    }

    /// All that is wrong, with the partition's name where it is one's.
    pub fn problems(&self) -> Vec<String> {
        let mut all = self.problems.clone();
        for partition in &self.partitions {
            let name = &partition.name;
            all.extend(
                partition
                    .problems
                    .iter()
                    .map(|problem| format!("{name}: {problem}")),
            );
        }
        all
    }

    /// Everything for programs.
    pub fn json(&self) -> Json {
        let number = |value: u32| Json::Number(value.into());
        let partitions = self.partitions.iter().map(|partition| {
            Json::Object(Vec::from([
                ("name", Json::Text(partition.name.clone())),
                ("offset", Json::Number(partition.offset)),
                ("size", Json::Number(partition.size)),
                ("actual", number(partition.actual)),
                ("flags", Json::Text(partition.flags.clone())),
                ("ecc", Json::optional(partition.ecc.as_ref())),
                ("content", Json::Text(partition.content.clone())),
                ("version", Json::optional(partition.version.as_ref())),
                ("problems", Json::texts(&partition.problems)),
            ]))
        });
        Json::Object(Vec::from([
            ("file_size", Json::Number(self.file_size)),
            ("flash_size", Json::Number(self.flash_size)),
            ("block_size", number(self.block_size)),
            ("table_offset", Json::Number(self.table_offset)),
            ("partitions", Json::List(partitions.collect())),
            ("problems", Json::texts(&self.problems)),
        ]))
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} MiB of flash, blocks of {:#x}, table at {:#x}\n\n{:15} {:>10} {:>10} {:>10}  {:10}  content\n",
            self.flash_size >> 20,
            self.block_size,
            self.table_offset,
            "name",
            "offset",
            "size",
            "actual",
            "flags",
        );
        for partition in &self.partitions {
            let ecc = partition.ecc.as_ref().map(|state| format!("ECC {state}; "));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:15} {:>#10x} {:>#10x} {:>#10x}  {:10}  {}{}",
                partition.name,
                partition.offset,
                partition.size,
                partition.actual,
                partition.flags,
                ecc.unwrap_or_default(),
                partition.content,
            );
            for line in partition.version.iter().flat_map(|version| version.lines()) {
                let _ = writeln!(text, "{:62}{}", "", line.trim_end());
            }
        }
        text.push_str(
            "\nflags: E ECC, L hash as version (container), I hash per chip level, P preserved, R read-only, B copy of a \
             table,\n       F reprovision, G golden, C cleared on ECC error, V volatile\n",
        );
        for problem in self.problems() {
            let _ = writeln!(text, "problem: {problem}");
        }
        text
    }
}

/// Compares the tables of an image: a copy that says something else is stale.
fn copies(image: &Image) -> Option<String> {
    let tables = image.tables();
    let places = |index: usize| {
        tables.get(index).map(|(_, table)| {
            let mut entries: Vec<_> = table
                .entries
                .iter()
                .filter(|entry| entry.kind != Kind::Table && entry.user.misc & flags::BACKUP == 0)
                .map(|entry| (entry.name, entry.base, entry.size, entry.user))
                .collect();
            entries.sort_by_key(|(name, ..)| *name);
            entries
        })
    };
    // The actual sizes are left out: pflash writes them into the first table only.
    let (first, second) = (places(0)?, places(1)?);
    (first != second).then(|| "the table and its copy differ".to_owned())
}

fn partition(image: &Image, entry: &Entry) -> PartitionReport {
    let (offset, size) = image.found.table.extent(entry);
    let mut report = PartitionReport {
        name: entry.name.to_string(),
        offset,
        size,
        actual: entry.actual,
        flags: String::from_utf8_lossy(&entry.user.letters()).into_owned(),
        ecc: None,
        content: String::new(),
        version: None,
        problems: Vec::new(),
    };
    if entry.kind == Kind::Table || entry.user.misc & flags::BACKUP != 0 {
        report.content = "table of partitions".to_owned();
        return report;
    }
    let content = image.content(entry);
    if image.raw(entry).iter().all(|&byte| byte == 0xff) {
        report.content = "erased".to_owned();
        if content.ecc.is_some() {
            report.ecc = Some("none, as it is erased".to_owned());
        }
        return report;
    }
    describe(entry, &content, &mut report);
    report
}

fn describe(entry: &Entry, content: &Content, report: &mut PartitionReport) {
    match &content.ecc {
        None => {}
        Some(Ok(0)) => report.ecc = Some("good".to_owned()),
        Some(Ok(count)) => report.ecc = Some(format!("corrected {count}")),
        Some(Err(error)) => {
            report.ecc = Some("uncorrectable".to_owned());
            report.problems.push(error.to_string());
        }
    }
    let data = &content.data;
    let wants_header = entry.user.version & flags::SHA512_VERSION != 0;
    let mut parts: Vec<String> = Vec::new();
    let inner = match Image::header(data) {
        None => {
            if data.iter().all(|&byte| byte == 0xff) {
                parts.push("empty".to_owned());
            } else if wants_header {
                report.problems.push(
                    "the partition's flags ask for a container, and there is none".to_owned(),
                );
            }
            data.as_slice()
        }
        Some(Err(error)) => {
            parts.push("container".to_owned());
            report.problems.push(format!("container: {error}"));
            data.as_slice()
        }
        Some(Ok(header)) => {
            parts.push(container_words(&header, data, report));
            header.payload(data).unwrap_or_default()
        }
    };
    if entry.name == *"NVRAM" {
        nvram_words(data, &mut parts, report);
    } else if xz::is_xz(inner) {
        let mut size = 0_usize;
        match Decoder::new(LIMITS).feed(inner, |piece| size += piece.len()) {
            Ok(Progress::End(packed)) => parts.push(format!("xz, {packed:#x} bytes for {size:#x}")),
            Ok(Progress::More) => report.problems.push(xz::Error::Truncated.to_string()),
            Err(error) => report.problems.push(error.to_string()),
        }
    } else if inner.starts_with(b"\x7fELF") {
        parts.push("ELF file".to_owned());
    } else if entry.name == *"VERSION" {
        let end = inner.iter().position(|&byte| byte == 0 || byte == 0xff);
        let text = inner.get(..end.unwrap_or(inner.len()).min(LONGEST_VERSION));
        report.version = Some(String::from_utf8_lossy(text.unwrap_or_default()).into_owned());
    }
    if parts.is_empty() {
        parts.push("data".to_owned());
    }
    report.content = parts.join(", ");
}

/// A container in a few words; what is wrong with it goes to the problems.
fn container_words(header: &Header<'_>, data: &[u8], report: &mut PartitionReport) -> String {
    let label = header.label();
    let label = label.escape_ascii().to_string();
    let label = label.trim_end_matches("\\x00");
    let mut words = format!("container {label:?}");
    let signer = if !header.is_signed() {
        "unsigned"
    } else if header.hardware_key_hash() == signing::IMPRINT_HASH {
        "signed with imprint keys"
    } else {
        "signed"
    };
    words.push_str(&format!(" ({signer})"));
    let mut check = |result: Result<(), container::Error>| {
        if let Err(error) = result {
            report.problems.push(format!("container: {error}"));
        }
    };
    check(header.verify_payload(data));
    check(header.verify_keys(None));
    if header.is_signed() {
        check(signing::verify(header));
    }
    words
}

/// NVRAM after the write that was cut off, if one was; erase blocks of flash have one of these sizes.
fn finished(data: &[u8], offset: u64) -> Option<Vec<u8>> {
    [0x1000, 0x1_0000].into_iter().find_map(|size| {
        let mut copy = data.to_vec();
        let blocks = Blocks::new(offset, size, copy.len());
        (journal::recover(&mut copy, &blocks) == Ok(Recovered::Finished)).then_some(copy)
    })
}

fn nvram_words(data: &[u8], parts: &mut Vec<String>, report: &mut PartitionReport) {
    // As boot will see it.
    let finished = finished(data, report.offset);
    let data = finished.as_deref().unwrap_or(data);
    match nvram::check(data) {
        Err(damage) => report.problems.push(format!("NVRAM: {damage}")),
        Ok(partitions) => {
            let count =
                |id| nvram::Settings::of(data, id).map_or(0, |settings| settings.iter().count());
            parts.push(format!(
                "NVRAM, {} partitions, {} settings of firmware, {} of the operating system",
                partitions.len(),
                count(nvram::FIRMWARE),
                count(nvram::COMMON),
            ));
        }
    }
    if finished.is_some() {
        parts.push("a write to it was cut off, which boot will finish".to_owned());
    }
}

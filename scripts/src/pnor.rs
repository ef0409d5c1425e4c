//! The image of the flash: target/nidus.pnor, and what pflash says of such images.
//!
//! The surprise: pflash writes the actual size of a partition into the first table only, so after it the table and its
//! copy differ in that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use pnor_image::nvram;
use pnor_image::tool::build::{self, Form};
use pnor_image::tool::image::{Image, Part};
use pnor_image::tool::layout::{self, Layout};
use pnor_image::tool::report::Report;

use crate::command;
use crate::image::{self, Image as Firmware};
use crate::setup::pflash;
use crate::tools::{Tools, target};

/// The options of `scripts/image`.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// A kernel for the partition BOOTKERNEL of target/nidus.pnor
    #[arg(long, value_name = "FILE")]
    bootkernel: Option<PathBuf>,
    /// An initramfs for the partition ROOTFS of target/nidus.pnor
    #[arg(long, value_name = "FILE", requires = "bootkernel")]
    initramfs: Option<PathBuf>,
    /// A setting in the partition `ibm,skiboot` of NVRAM, for example `bootargs=console=hvc0`; may be given again
    #[arg(long, value_name = "NAME=VALUE")]
    setting: Vec<String>,
    /// The layout of target/nidus.pnor: `qemu`, `qemu64`, `p10`, or a file
    #[arg(long, default_value = "qemu")]
    layout: String,
}

/// Makes target/nidus.pnor of the firmware; returns its place and what is in it, for a person.
pub fn make(firmware: &Firmware, options: &Options) -> Result<(PathBuf, String)> {
    let layout = Layout::parse(&layout::text_of(&options.layout)?)
        .with_context(|| format!("layout {}", options.layout))?;
    let lid = fs::read(&firmware.lid)?;
    let mut contents = vec![
        ("VERSION".to_owned(), version(&lid), Form::default()),
        ("PAYLOAD".to_owned(), lid, PACKED),
    ];
    let mut holds = "PAYLOAD".to_owned();
    let files = [
        ("BOOTKERNEL", &options.bootkernel),
        ("ROOTFS", &options.initramfs),
    ];
    for (name, path) in files {
        if let Some(path) = path {
            let file =
                fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let form = form(&layout, name, &file);
            contents.push((name.to_owned(), file, form));
            holds.push_str(", ");
            holds.push_str(name);
        }
    }
    let mut bytes = build::image(&layout, &contents)?;
    set(&layout, &mut bytes, &options.setting)?;
    let place = target().join("nidus.pnor");
    image::replace(&place, &bytes)?;
    Ok((place, holds))
}

/// Makes an image of QEMU's flash with this file as kernel, and its command line in NVRAM.
pub fn with_kernel(file: Vec<u8>, bootargs: &str) -> Result<Vec<u8>> {
    let layout = Layout::parse(&layout::text_of("qemu")?)?;
    let contents = [("BOOTKERNEL".to_owned(), file, Form::default())];
    let mut bytes = build::image(&layout, &contents)?;
    set(&layout, &mut bytes, &[format!("bootargs={bootargs}")])?;
    Ok(bytes)
}

/// Writes settings `NAME=VALUE` into the firmware's partition of NVRAM.
pub fn set(layout: &Layout, image: &mut [u8], settings: &[String]) -> Result<()> {
    if settings.is_empty() {
        return Ok(());
    }
    let entry = layout
        .table
        .get("NVRAM")
        .context("the layout has no NVRAM")?;
    let (at, length) = layout.table.extent(entry);
    let (at, length) = (usize::try_from(at)?, usize::try_from(length)?);
    let nvram = image.get_mut(at..at + length).context("NVRAM is outside")?;
    for setting in settings {
        let (name, value) = setting
            .split_once('=')
            .with_context(|| format!("{setting} is not NAME=VALUE"))?;
        nvram::set(nvram, nvram::FIRMWARE, name, Some(value.as_bytes()))
            .with_context(|| format!("setting {setting}"))?;
    }
    Ok(())
}

const PACKED: Form = Form {
    is_packed: true,
    is_raw: false,
    is_unsigned: false,
};

/// Packs a file only if it does not fit as it is: a kernel that unpacks itself is something other firmware starts too.
fn form(layout: &Layout, name: &str, file: &[u8]) -> Form {
    let room = layout
        .table
        .get(name)
        .map_or(0, |entry| layout.table.extent(entry).1);
    let is_packed = (file.len() + pnor_image::container::HEADER_SIZE) as u64 > room;
    if is_packed {
        println!("{name}: packing {} MiB", file.len() >> 20);
    }
    Form {
        is_packed,
        ..PACKED
    }
}

/// The text of the partition VERSION, in the form that skiboot turns into nodes: the image, then its parts.
fn version(lid: &[u8]) -> Vec<u8> {
    let release = env!("CARGO_PKG_VERSION");
    let sum: String = pnor_image::container::hash(lid)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("open-power-nidus-{release}\n\tnidus-{release}-{sum}\n").into_bytes()
}

/// Compares what pflash and `pnor-image` say of images; returns how many partitions they agree on.
pub fn agreement(tools: &Tools) -> Result<usize> {
    let directory = tempdir()?;
    let result = compare(tools, &directory);
    fs::remove_dir_all(&directory)?;
    result
}

fn tempdir() -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("nidus-pnor-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn compare(tools: &Tools, directory: &Path) -> Result<usize> {
    let pflash = pflash::program(tools);
    let run = |image: &Path, arguments: &[&str]| -> Result<String> {
        let output = command::output(
            Command::new(&pflash)
                .arg("-F")
                .arg(image)
                .args(arguments)
                .current_dir(directory),
        )?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    };
    let mut agreed = 0;
    for (name, _, text) in layout::BUILT_IN {
        let layout = Layout::parse(text)?;
        let firmware = b"not much of a firmware".repeat(1000);
        let contents = [
            ("PAYLOAD".to_owned(), firmware.clone(), PACKED),
            (
                "VERSION".to_owned(),
                b"open-power-test\n".to_vec(),
                Form::default(),
            ),
        ];
        let path = directory.join(format!("{name}.pnor"));
        fs::write(&path, build::image(&layout, &contents)?)?;
        agreed += same(&path, &run(&path, &["-i"])?).with_context(|| format!("layout {name}"))?;

        // What pflash reads is what we extract; what it writes and erases, we see.
        run(&path, &["-P", "PAYLOAD", "-r", "payload"])?;
        let read = fs::read(directory.join("payload"))?;
        let image = Image::open(&path)?;
        ensure!(
            read == image.extract("PAYLOAD", Part::Content)?,
            "pflash reads another PAYLOAD ({} bytes)",
            read.len()
        );
        let written: Vec<u8> = (0..=255).cycle().take(5000).collect();
        fs::write(directory.join("new"), &written)?;
        run(&path, &["-f", "-P", "SECBOOT", "-e", "-p", "new"])?;
        run(&path, &["-f", "-P", "VERSION", "-e"])?;
        agreed += same(&path, &run(&path, &["-i"])?)
            .with_context(|| format!("layout {name}, after pflash changed it"))?;
        let image = Image::open(&path)?;
        ensure!(
            image.extract("SECBOOT", Part::Content)? == written,
            "what pflash wrote is not what we read"
        );
        let erased = image.extract("VERSION", Part::Raw)?;
        ensure!(
            erased.iter().all(|&byte| byte == 0xff),
            "what pflash erased is not empty"
        );
        ensure!(
            image.extract("PAYLOAD", Part::Payload)? == firmware,
            "pflash changed more than it was told to"
        );
    }
    Ok(agreed)
}

/// Compares pflash's list of partitions with ours, line by line.
fn same(path: &Path, listing: &str) -> Result<usize> {
    let report = Report::of(&Image::open(path)?);
    let theirs: Vec<&str> = listing
        .lines()
        .filter(|line| line.starts_with("ID="))
        .collect();
    let ours: Vec<String> = report
        .partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| {
            format!(
                "ID={index:02} {:>15} {:#010x}..{:#010x} (actual={:#010x}) [{}]",
                partition.name,
                partition.offset,
                partition.offset + partition.size,
                partition.actual,
                partition.flags
            )
        })
        .collect();
    for (mine, other) in ours.iter().zip(&theirs) {
        if mine != other {
            bail!("we say {mine:?}, pflash says {other:?}");
        }
    }
    ensure!(
        ours.len() == theirs.len() && !ours.is_empty(),
        "we see {} partitions, pflash {}",
        ours.len(),
        theirs.len()
    );
    Ok(ours.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_differ_are_told_apart() {
        let directory = tempdir().expect("made");
        let path = directory.join("test.pnor");
        let layout = Layout::parse(&layout::text_of("qemu").expect("there")).expect("good");
        fs::write(&path, build::image(&layout, &[]).expect("fits")).expect("written");
        let listing = "\nTOC@0x00000000 Partitions:\n-----------\n\
            ID=00            part 0x00000000..0x00008000 (actual=0x00008000) [----------]\n\
            ID=01           NVRAM 0x00008000..0x00098000 (actual=0x00090000) [---P--F---]\n\
            ID=02         SECBOOT 0x00098000..0x000bc000 (actual=0x00000000) [---P------]\n\
            ID=03         VERSION 0x000bc000..0x000be000 (actual=0x00000000) [-L--R-----]\n\
            ID=04         PAYLOAD 0x000be000..0x001be000 (actual=0x00000000) [-L--R-----]\n\
            ID=05      BOOTKERNEL 0x001be000..0x017be000 (actual=0x00000000) [-L--R-----]\n\
            ID=06          ROOTFS 0x017be000..0x01ebe000 (actual=0x00000000) [-L--R-----]\n\
            ID=07     BACKUP_PART 0x01ff8000..0x02000000 (actual=0x00008000) [-----B----]\n";
        assert_eq!(same(&path, listing).expect("the same"), 8);
        for (from, to) in [
            ("0x000bc000..", "0x000bd000.."),
            ("[---P------]", "[---PR-----]"),
            ("ID=07", "XX=07"),
        ] {
            assert!(same(&path, &listing.replace(from, to)).is_err(), "{from}");
        }
        fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn the_version_names_the_image_and_its_firmware() {
        let text = String::from_utf8(version(b"lid")).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("open-power-nidus-") && lines[1].starts_with("\tnidus-"),
            "{text}"
        );
        assert_ne!(version(b"lid"), version(b"another"));
    }
}

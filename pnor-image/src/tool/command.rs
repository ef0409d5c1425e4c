//! The command line: verbs, options, and what their results mean.
//!
//! The surprise: a problem in an image is not an error of the command, so `work` answers with true or false for that.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use std::fs;
use std::path::{Path, PathBuf};
use std::{eprintln, print, println};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use super::build::{self, Form};
use super::image::{Image, Part, write_whole};
use super::json::Json;
use super::layout::{self, Layout};
use super::report::Report;
use super::{diff, map};

/// What `--help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  pnor-image build qemu -o nidus.pnor --set PAYLOAD=nidus.lid:xz --set BOOTKERNEL=vmlinux:xz
        an image for QEMU: qemu-system-ppc64 -M powernv10 -drive file=nidus.pnor,if=mtd,format=raw ...
  pnor-image inspect nidus.pnor --svg flash.svg
        what is where, and a picture of it
  pnor-image replace board.pnor PAYLOAD nidus.lid --xz
        puts Nidus into the image of a board; container, check sums and tables are seen to
  pnor-image extract board.pnor BOOTKERNEL vmlinux --payload
        takes a kernel out, without its container and unpacked
  pnor-image verify new.pnor && pnor-image diff board.pnor new.pnor
        before anything is written to a board: all is sound, and nothing but PAYLOAD has changed
  pnor-image layouts p10 > own.toml
        a layout to change; each [[partition]] has name, size, and where they matter offset, flags, content or file

To write a board's flash, its BMC or the Linux on it has skiboot's pflash:
  pflash -r board.pnor                          the whole flash into a file; keep it
  pflash -f -e -P PAYLOAD -p payload.bin        one partition, from pnor-image extract new.pnor PAYLOAD payload.bin
  pflash -f -e -P PAYLOAD -p old.bin            the way back, from pnor-image extract board.pnor PAYLOAD old.bin
What a board does with development keys, and the steps with their checks: README.md, \"The flash\".

A partition whose flags ask for a container (L) gets one, signed with the public development keys (\"imprint\"); a file
that already is a container goes in as it is. Exit status: 0 all is well, 1 something is wrong with the image or the two
images differ, 2 the command could not be carried out.";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an image from a layout
    Build(Build),
    /// Show the layouts that are built in, or print one of them
    Layouts {
        /// Print this one, to start a layout of your own
        name: Option<String>,
    },
    /// Show what an image holds
    Inspect {
        /// The image
        image: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Draw a map of the flash into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Check tables, ECC, containers with their hashes and signatures, xz streams and NVRAM
    Verify {
        /// The image
        image: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy a partition into a file, without its ECC bytes
    Extract {
        /// The image
        image: PathBuf,
        /// The partition
        partition: String,
        /// The file to write
        output: PathBuf,
        /// All bytes as they are in flash
        #[arg(long, conflicts_with = "payload")]
        raw: bool,
        /// Without container, and unpacked
        #[arg(long)]
        payload: bool,
    },
    /// Put a file into a partition
    Replace(Replace),
    /// Compare two images, partition by partition
    Diff {
        /// The first image
        first: PathBuf,
        /// The second image
        second: PathBuf,
    },
}

/// The options of `build`.
#[derive(Args, Debug)]
pub struct Build {
    /// A file in TOML, or the name of a built-in layout
    layout: String,
    /// The image to write
    #[arg(long, short)]
    output: PathBuf,
    /// What goes into a partition: NAME=FILE, or NAME=FILE:xz to pack it; may be given again
    #[arg(long = "set", value_name = "NAME=FILE[:xz]")]
    set: Vec<String>,
    /// Leave the signatures of containers out
    #[arg(long)]
    unsigned: bool,
}

/// The options of `replace`.
#[derive(Args, Debug)]
pub struct Replace {
    /// The image
    image: PathBuf,
    /// The partition
    partition: String,
    /// The file to put in
    file: PathBuf,
    /// Write to another file instead of changing the image
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Pack the file with xz first
    #[arg(long, conflicts_with = "raw")]
    xz: bool,
    /// The file has the bytes as they are in flash
    #[arg(long)]
    raw: bool,
    /// Leave the signatures of the container out
    #[arg(long)]
    unsigned: bool,
}

/// Does what the verb says; false stands for an image that is not as it should be.
///
/// # Errors
/// What could not be carried out.
pub fn work(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Build(build) => make(&build),
        Verb::Layouts { name } => {
            match name {
                Some(name) => print!("{}", layout::text_of(&name)?),
                None => {
                    for (name, use_for, _) in layout::BUILT_IN {
                        println!("{name:8} {use_for}");
                    }
                }
            }
            Ok(true)
        }
        Verb::Inspect { image, json, svg } => {
            let report = Report::of(&Image::open(&image)?);
            if json {
                println!("{}", report.json().text());
            } else {
                print!("{}", report.text());
            }
            if let Some(path) = svg {
                write_whole(&path, map::svg(&report).as_bytes())?;
            }
            Ok(true)
        }
        Verb::Verify { image, json } => verify(&image, json),
        Verb::Extract {
            image,
            partition,
            output,
            raw,
            payload,
        } => {
            let part = match (raw, payload) {
                (true, _) => Part::Raw,
                (_, true) => Part::Payload,
                _ => Part::Content,
            };
            let bytes = Image::open(&image)?.extract(&partition, part)?;
            write_whole(&output, &bytes)?;
            println!("{}: {} bytes", output.display(), bytes.len());
            Ok(true)
        }
        Verb::Replace(replace) => put(&replace),
        Verb::Diff { first, second } => {
            let lines = diff::lines(&Image::open(&first)?, &Image::open(&second)?);
            for line in &lines {
                println!("{line}");
            }
            Ok(lines.is_empty())
        }
    }
}

fn verify(path: &Path, json: bool) -> Result<bool> {
    let report = Report::of(&Image::open(path)?);
    let problems = report.problems();
    if json {
        let value = Json::Object(Vec::from([
            ("good", Json::Bool(problems.is_empty())),
            ("problems", Json::texts(&problems)),
        ]));
        println!("{}", value.text());
    } else if problems.is_empty() {
        println!(
            "{}: {} partitions, all is well",
            path.display(),
            report.partitions.len()
        );
    } else {
        for problem in &problems {
            println!("{problem}");
        }
    }
    Ok(problems.is_empty())
}

fn make(options: &Build) -> Result<bool> {
    let text = layout::text_of(&options.layout)?;
    let layout = Layout::parse(&text).with_context(|| format!("layout {}", options.layout))?;
    let mut contents = Vec::new();
    let base = Path::new(&options.layout).parent().unwrap_or(Path::new(""));
    for (name, _, file) in &layout.contents {
        if let Some(file) = file {
            contents.push((
                name.to_string(),
                read(&base.join(file))?,
                form(options, false),
            ));
        }
    }
    for setting in &options.set {
        let Some((name, file)) = setting.split_once('=') else {
            bail!("{setting:?}: write NAME=FILE");
        };
        let (file, is_packed) = match file.strip_suffix(":xz") {
            Some(file) => (file, true),
            None => (file, false),
        };
        contents.retain(|(other, ..)| other != name);
        contents.push((
            name.to_owned(),
            read(Path::new(file))?,
            form(options, is_packed),
        ));
    }
    for (name, file, form) in &contents {
        if form.is_packed && file.len() > 1 << 20 {
            eprintln!("{name}: packing {} MiB", file.len() >> 20);
        }
    }
    let image = build::image(&layout, &contents)?;
    write_whole(&options.output, &image)?;
    println!("{}: {} MiB", options.output.display(), image.len() >> 20);
    Ok(true)
}

fn form(options: &Build, is_packed: bool) -> Form {
    Form {
        is_packed,
        is_raw: false,
        is_unsigned: options.unsigned,
    }
}

fn put(options: &Replace) -> Result<bool> {
    let mut image = Image::open(&options.image)?;
    let form = Form {
        is_packed: options.xz,
        is_raw: options.raw,
        is_unsigned: options.unsigned,
    };
    image.replace(&options.partition, &read(&options.file)?, form)?;
    write_whole(
        options.output.as_ref().unwrap_or(&options.image),
        &image.bytes,
    )?;
    let entry = image.entry(&options.partition)?;
    println!("{}: {} bytes of flash", entry.name, entry.actual);
    Ok(true)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

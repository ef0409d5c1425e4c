//! The boot whose kernel has the flash as `/dev/mtd*`: what it reads there is what the file has, and what it erases and writes
//! is in the file when the machine is off.
//!
//! The surprise: what is compared is the file after the boot, since the kernel also makes a partition in NVRAM.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pnor_image::container;
use pnor_image::tool::build::{self, Form};
use pnor_image::tool::image::{Image as Flash, write_whole};
use pnor_image::tool::layout::Layout;

use super::flash::drive;
use crate::boot::{Choice, Mode};
use crate::tools::target;

/// A small flash: under emulation every four bytes cost an access to a device.
const LAYOUT: &str = r#"
size = "4M"
block = 0x1000
table = 0x8000
backup = "end"

[[partition]]
name = "NVRAM"
size = 0x24000
flags = ["preserved"]
content = "nvram"

[[partition]]
name = "VERSION"
size = 0x2000
flags = ["sha512-version", "read-only"]

[[partition]]
name = "BOOTKERNEL"
size = "1M"
flags = ["read-only"]

[[partition]]
name = "ROOTFS"
size = 0x10000
flags = ["read-only"]

[[partition]]
name = "BOOTKERNFW"
size = 0x20000
flags = []
"#;

/// What is in BOOTKERNFW before the boot.
const BEFORE: u8 = 0x5a;
/// What the kernel writes, and where: into the part that it has erased, and over what was there.
const WRITTEN: (&[u8], [usize; 2]) = (b"written by Linux", [0x1800, 0x4000]);
const ERASED: std::ops::Range<usize> = 0x1000..0x3000;

/// Bits of an mtd device's flags.
const WRITEABLE: u32 = 0x400;

/// Makes the image.
pub(super) fn make() -> Result<PathBuf> {
    let path = target().join("linux-opal-flash.pnor");
    write_whole(&path, &fresh()?)?;
    Ok(path)
}

fn fresh() -> Result<Vec<u8>> {
    let kernel: Vec<u8> = (0..600_001_u32)
        .flat_map(|n| (n / 3).to_le_bytes().into_iter().take(1))
        .collect();
    let contents = [
        ("VERSION", b"open-power-test-7\n\tlinux-1\n".to_vec(), false),
        ("BOOTKERNEL", kernel, true),
        ("BOOTKERNFW", vec![BEFORE; 0x20000], true),
    ]
    .map(|(name, bytes, is_raw)| {
        let form = Form {
            is_raw,
            ..Form::default()
        };
        (name.to_owned(), bytes, form)
    });
    build::image(&Layout::parse(LAYOUT)?, &contents)
}

/// What is booted.
pub(super) fn choice(image: &Path) -> Choice {
    Choice {
        memory: "1G".to_owned(),
        append: "nidus_do=flash".to_owned(),
        extra: drive(image),
        ..Choice::new(Mode::Opal)
    }
}

/// What is wrong: with the parts that the kernel has found, with what it has read, or with what became of the file.
pub(super) fn problem(path: &Path, lines: &[String]) -> Result<Option<String>> {
    let bytes = fs::read(path)?;
    let mut wanted = vec![
        "NIDUS-L1-FLASH-VERSION test-7".to_owned(),
        "NIDUS-L1-FLASH-ERASED".to_owned(),
    ];
    wanted.extend(parts(&bytes)?);
    for line in wanted {
        if !lines.iter().any(|said| said.trim_end().ends_with(&line)) {
            return Ok(Some(format!("no line '{line}'")));
        }
    }
    let flash = Flash::new(bytes)?;
    let mut expected = vec![BEFORE; 0x20000];
    expected.get_mut(ERASED).context("within")?.fill(0xff);
    let (text, places) = WRITTEN;
    for at in places {
        expected
            .get_mut(at..at + text.len())
            .context("within")?
            .copy_from_slice(text);
    }
    let found = flash.raw(&flash.entry("BOOTKERNFW")?).to_vec();
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    Ok(differs
        .map(|at| format!("BOOTKERNFW in the file is not what the kernel wrote, from {at:#x} on")))
}

/// The lines of the kernel for what is in the file.
fn parts(bytes: &[u8]) -> Result<Vec<String>> {
    let flash = Flash::new(bytes.to_vec())?;
    let mut all = vec![line("PNOR", bytes, true)];
    for name in ["VERSION", "BOOTKERNEL", "ROOTFS", "BOOTKERNFW"] {
        let entry = flash.entry(name)?;
        let whole = flash.raw(&entry);
        let length = match usize::try_from(entry.actual)? {
            0 => whole.len(),
            actual => actual,
        };
        let content = whole.get(..length).context("longer than its partition")?;
        all.push(line(name, content, name == "BOOTKERNFW"));
    }
    Ok(all)
}

fn line(name: &str, bytes: &[u8], is_writable: bool) -> String {
    let flags = if is_writable { WRITEABLE } else { 0 };
    let sum: String = container::hash(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "NIDUS-L1-FLASH name={name} size={} erase=4096 flags={flags:#x} sum={sum}",
        bytes.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_and_each_byte_counts() {
        let path = std::env::temp_dir().join(format!("nidus-mtd-{}", std::process::id()));
        let mut bytes = fresh().expect("made");
        write_whole(&path, &bytes).expect("written");
        let lines = |bytes: &[u8]| {
            let mut lines = parts(bytes).expect("good");
            lines.push("NIDUS-L1-FLASH-VERSION test-7\r".to_owned());
            lines.push("NIDUS-L1-FLASH-ERASED".to_owned());
            lines
        };
        let untouched = problem(&path, &lines(&bytes)).expect("an image");
        assert!(untouched.expect("not written").contains("from 0x1000 on"));
        let flash = Flash::new(bytes.clone()).expect("an image");
        let entry = flash.entry("BOOTKERNFW").expect("there");
        let at = entry.base as usize * 0x1000;
        bytes[at + 0x1000..at + 0x3000].fill(0xff);
        for place in WRITTEN.1 {
            bytes[at + place..][..16].copy_from_slice(WRITTEN.0);
        }
        write_whole(&path, &bytes).expect("written");
        let all = lines(&bytes);
        assert_eq!(problem(&path, &all).expect("an image"), None);
        for missing in 0..all.len() {
            let mut some = all.clone();
            some.remove(missing);
            let found = problem(&path, &some).expect("an image");
            assert!(found.is_some(), "without {}", all[missing]);
        }
        fs::remove_file(path).expect("removed");
    }
}

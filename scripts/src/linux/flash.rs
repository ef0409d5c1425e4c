//! The boots with a flash: what a kernel writes into NVRAM lasts, and what NVRAM says counts.
//!
//! The surprise: the kernel needs no help for this. It makes a partition for its last words in NVRAM at every first boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use pnor_image::nvram;
use pnor_image::tool::build;
use pnor_image::tool::diff;
use pnor_image::tool::image::{Image as Flash, write_whole};
use pnor_image::tool::layout::{self, Layout};

use crate::boot::{Choice, Mode, forbidden};
use crate::flash_boot;
use crate::image::Image;
use crate::machine::Machine;
use crate::milestone::{self, Watch};
use crate::tools::{Tools, target};

use super::ReadyBoot;

/// The partition that Linux makes for its last words.
const LAST_WORDS: nvram::Id = nvram::Id {
    signature: 0xa0,
    name: *b"lnx,oops-log",
};

/// The setting that the second boot goes by.
const SETTING: (&str, &str) = ("nidus,mode", "papr");

/// The arguments that make this file the machine's flash.
pub(super) fn drive(image: &Path) -> Vec<String> {
    vec![
        "-drive".to_owned(),
        format!("file={},if=mtd,format=raw", image.display()),
    ]
}

/// What both boots run: the first says its mode on the command line, the second says nothing.
pub(super) fn choices(image: &Path) -> [Choice; 2] {
    [Mode::Opal, Mode::Papr].map(|mode| Choice {
        memory: "2G".to_owned(),
        extra: drive(image),
        ..Choice::new(mode)
    })
}

/// Takes the firmware's words from the command line.
pub(super) fn without_mode(machine: Machine) -> Machine {
    let words = machine.append.split(' ');
    let left: Vec<&str> = words
        .filter(|word| !word.starts_with("nidus.mode="))
        .collect();
    Machine {
        append: left.join(" "),
        ..machine
    }
}

/// The boot of a kernel in the flash, and the next one, for which NVRAM says the mode.
pub(super) fn from_flash(tools: &Tools, image: &Image, machine: &str) -> Result<ReadyBoot> {
    let choice = Choice {
        machine: machine.to_owned(),
        memory: "2G".to_owned(),
        append: "nidus_do=mode".to_owned(),
        ..Choice::new(Mode::Opal)
    };
    let boot = without_mode(choice.machine(tools, image)?);
    let boot = flash_boot::from_flash(boot, &format!("linux-flash-boot-{machine}.pnor"))?;
    let lines = [
        ("kernel in flash", "BOOTKERNEL from flash: "),
        ("initramfs in flash", "ROOTFS from flash: "),
        ("kernel start", "INIT: Starting kernel at 0x"),
        ("userland", "NIDUS-L1-USERLAND"),
        ("owner of the machine", "NIDUS-L1-MODE opal"),
        ("setting", "NIDUS-L1-NVRAM mode=papr"),
        ("reboot", "stop] reboot"),
        ("kernel in flash again", "BOOTKERNEL from flash: "),
        ("kernel start as L1", "INIT: Starting kernel at 0x"),
        ("userland of L1", "NIDUS-L1-USERLAND"),
        ("partition", "NIDUS-L1-MODE papr"),
        ("off", "NIDUS-L1-OFF"),
    ];
    Ok(ReadyBoot {
        machine: boot,
        watch: Watch::new(milestone::in_order(&lines), forbidden()?),
        // Two boots, and the flash is read byte by byte, which an emulator takes its time for.
        limit: choice.limit() * 4,
        checks: vec![],
    })
}

/// Makes the image: an empty flash, whose NVRAM has the setting.
pub(super) fn make() -> Result<PathBuf> {
    let path = target().join("linux-flash.pnor");
    write_whole(&path, &fresh()?)?;
    Ok(path)
}

fn fresh() -> Result<Vec<u8>> {
    let layout = Layout::parse(&layout::text_of("qemu")?)?;
    let mut bytes = build::image(&layout, &[])?;
    let entry = layout.table.get("NVRAM").context("no NVRAM")?;
    let (at, length) = layout.table.extent(entry);
    let (at, length) = (usize::try_from(at)?, usize::try_from(length)?);
    let place = bytes.get_mut(at..at + length).context("NVRAM is outside")?;
    let (name, value) = SETTING;
    nvram::set(place, nvram::FIRMWARE, name, Some(value.as_bytes()))?;
    Ok(bytes)
}

/// What is wrong with the image after a boot: NVRAM has to be sound, with the setting and the kernel's partition, and
/// everything else as it was.
pub(super) fn problem(path: &Path) -> Result<Option<String>> {
    let flash = Flash::new(fs::read(path)?)?;
    let changes = diff::lines(&Flash::new(fresh()?)?, &flash);
    if let Some(other) = changes.iter().find(|line| !line.starts_with("NVRAM: ")) {
        return Ok(Some(format!("the flash has changed: {other}")));
    }
    let entry = flash.entry("NVRAM")?;
    let bytes = flash.raw(&entry);
    let partitions = match nvram::check(bytes) {
        Ok(partitions) => partitions,
        Err(damage) => return Ok(Some(format!("NVRAM: {damage}"))),
    };
    let (name, value) = SETTING;
    let kept = nvram::Settings::of(bytes, nvram::FIRMWARE)
        .and_then(|settings| settings.get(name))
        .is_some_and(|found| found == value.as_bytes());
    if !kept {
        return Ok(Some(format!("NVRAM has lost {name}={value}")));
    }
    if !partitions
        .iter()
        .any(|partition| partition.id == LAST_WORDS)
    {
        return Ok(Some(format!(
            "what the kernel wrote into NVRAM did not last: {partitions:?}"
        )));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_no_kernel_has_written_is_told() {
        let path = std::env::temp_dir().join(format!("nidus-flash-{}", std::process::id()));
        let mut bytes = fresh().expect("made");
        write_whole(&path, &bytes).expect("written");
        let text = problem(&path).expect("an image").expect("not written");
        assert!(text.contains("did not last"), "{text}");
        bytes[0x100_0000] ^= 1;
        write_whole(&path, &bytes).expect("written");
        let text = problem(&path).expect("an image").expect("changed");
        assert!(
            text.starts_with("the flash has changed: BOOTKERNEL"),
            "{text}"
        );
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn only_the_word_for_the_mode_is_taken() {
        let machine = Machine {
            append: "nidus.mode=papr console=hvc0 nidus.compat=power10".to_owned(),
            ..Machine::new("powernv10")
        };
        assert_eq!(
            without_mode(machine).append,
            "console=hvc0 nidus.compat=power10"
        );
    }
}

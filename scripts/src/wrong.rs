//! Machines with something wrong, which the firmware has to recognise.
//!
//! The surprise: QEMU's own tree is taken apart for some of them, since `-dtb` takes any tree in its place.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::boot::{Choice, Mode};
use crate::command;
use crate::image::Image;
use crate::machine::{Console, Machine};
use crate::setup::qemu;
use crate::tools::{Tools, target};

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    NoKernel,
    NotElf,
    BigEndian,
    SmallMemory,
    UnknownMachine,
    BrokenTree,
    InitrdOutside,
    InitrdOverlaps,
    NoBmc,
}

impl Wrong {
    /// Makes the machine, and the files that it needs.
    pub(crate) fn machine(self, tools: &Tools, image: &Image) -> Result<Machine> {
        let good = Choice {
            memory: "2G".to_owned(),
            ..Choice::new(Mode::Papr)
        }
        .machine(tools, image)?;
        let place = target().join("wrong");
        fs::create_dir_all(&place)?;
        Ok(match self {
            // Without a kernel QEMU takes no command line, but a tree keeps one.
            Self::NoKernel => {
                let machine = with_tree(tools, good, &place.join("same.dtb"), &|_| 1)?;
                Machine {
                    kernel: None,
                    initrd: None,
                    ..machine
                }
            }
            Self::NotElf => {
                let file = place.join("text");
                fs::write(&file, "This is not a kernel.\n".repeat(1000))?;
                Machine {
                    kernel: Some(file),
                    ..good
                }
            }
            Self::BigEndian => {
                let file = place.join("big-endian");
                let kernel = good.kernel.clone().context("a kernel")?;
                fs::write(&file, big_endian(&fs::read(kernel)?)?)?;
                Machine {
                    kernel: Some(file),
                    ..good
                }
            }
            Self::SmallMemory => Machine {
                memory: "1G".to_owned(),
                ..good
            },
            Self::UnknownMachine => with_tree(tools, good, &place.join("unknown.dtb"), &|tree| {
                replace_all(tree, b"ibm,powernv\0", b"ibm,unknown\0")
            })?,
            Self::BrokenTree => with_tree(tools, good, &place.join("broken.dtb"), &|tree| {
                // QEMU checks the header and the length only. A token that does not exist ends the first node.
                let start = tree
                    .get(8..12)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map_or(0, u32::from_be_bytes);
                let token = usize::try_from(start).unwrap_or(0) + 8;
                tree.get_mut(token..token + 4).map_or(0, |bytes| {
                    bytes.copy_from_slice(&[0, 0, 0, 0x77]);
                    1
                })
            })?,
            Self::InitrdOutside => with_tree(tools, good, &place.join("outside.dtb"), &|tree| {
                set_cell(tree, b"linux,initrd-end\0", 0xfff0_0000)
            })?,
            Self::InitrdOverlaps => with_tree(tools, good, &place.join("overlaps.dtb"), &|tree| {
                set_cell(tree, b"linux,initrd-start\0", 0x2000_1000)
            })?,
            Self::NoBmc => Machine {
                extra: vec!["-nodefaults".to_owned()],
                ..good
            },
        })
    }
}

/// Marks a little-endian ELF file as big-endian and swaps its machine and type fields, which is all that is looked at
/// before the byte order decides.
fn big_endian(kernel: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = kernel
        .get(..0x1000)
        .context("a kernel of more than a page")?
        .to_vec();
    bytes[5] = 2;
    for position in [16, 18] {
        bytes.swap(position, position + 1);
    }
    Ok(bytes)
}

/// Lets QEMU write the tree of a machine, changes it and gives it back to the machine.
fn with_tree(
    tools: &Tools,
    good: Machine,
    file: &Path,
    change: &dyn Fn(&mut Vec<u8>) -> usize,
) -> Result<Machine> {
    let dumping = Machine {
        kind: format!("{},dumpdtb={}", good.kind, file.display()),
        ..good.clone()
    };
    command::output(Command::new(qemu::program(tools)).args(dumping.arguments(Console::Captured)))?;
    let mut tree = fs::read(file).with_context(|| format!("QEMU wrote no {}", file.display()))?;
    if change(&mut tree) == 0 {
        bail!("nothing was changed in {}", file.display());
    }
    fs::write(file, tree)?;
    let extra = vec!["-dtb".to_owned(), file.display().to_string()];
    // QEMU does not put a command line into a tree that it is given; it is in there already.
    Ok(Machine {
        extra,
        append: String::new(),
        ..good
    })
}

/// Replaces each occurrence by something of the same length, and returns how many there were.
fn replace_all(bytes: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let places: Vec<_> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from)
        .map(|(place, _)| place)
        .collect();
    for &place in &places {
        if let Some(part) = bytes.get_mut(place..place + to.len()) {
            part.copy_from_slice(to);
        }
    }
    places.len()
}

/// Changes the value of each property of one cell with this name (which ends with NUL), and returns how many there were.
fn set_cell(tree: &mut [u8], name: &[u8], value: u32) -> usize {
    let word = |place: usize| {
        tree.get(place..place + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let Some(strings) = word(12).and_then(|word| usize::try_from(word).ok()) else {
        return 0;
    };
    let Some(offset) = tree
        .get(strings..)
        .and_then(|table| table.windows(name.len()).position(|part| part == name))
    else {
        return 0;
    };
    // FDT_PROP, length, offset of the name; then the value.
    let places: Vec<_> = (0..strings)
        .step_by(4)
        .filter(|&place| {
            [3, 4]
                .iter()
                .zip([place, place + 4])
                .all(|(&want, at)| word(at) == Some(want))
                && word(place + 8).is_some_and(|word| usize::try_from(word) == Ok(offset))
        })
        .collect();
    for &place in &places {
        if let Some(part) = tree.get_mut(place + 12..place + 16) {
            part.copy_from_slice(&value.to_be_bytes());
        }
    }
    places.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_changed_by_name() {
        let mut tree = vec![0; 16];
        let strings = 16 + 16;
        tree[12..16].copy_from_slice(&u32::to_be_bytes(strings));
        for word in [3_u32, 4, 2, 0x1234] {
            tree.extend(word.to_be_bytes());
        }
        tree.extend(b"a\0linux\0");
        assert_eq!(set_cell(&mut tree, b"linux\0", 7), 1);
        assert_eq!(tree[28..32], [0, 0, 0, 7]);
        assert_eq!(set_cell(&mut tree, b"other\0", 7), 0);
        assert_eq!(replace_all(&mut tree, b"linux", b"other"), 1);
        assert_eq!(set_cell(&mut [], b"other\0", 7), 0);
    }
}

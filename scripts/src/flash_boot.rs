//! Machines whose kernel lies in the flash: for `scripts/run --pnor`, the tests and the bench.
//!
//! The surprise: without `-kernel` QEMU takes neither an initramfs nor a command line, so both go into the flash too, the latter
//! as the setting `bootargs` of NVRAM.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use pnor_image::container;
use pnor_image::ffs::flags;
use pnor_image::tool::build::{self, Form};
use pnor_image::tool::layout::{self, Layout};

use crate::image::{self, Image};
use crate::machine::Machine;
use crate::pnor;
use crate::tiny_elf::{self, Class};
use crate::tools::target;

/// Not packed: that takes longer than all else.
const AS_IT_IS: Form = Form {
    is_packed: false,
    is_raw: false,
    is_unsigned: false,
};

/// The layout for a kernel that is not packed.
const LARGE: &str = "qemu64";
const SMALL: &str = "qemu";

fn layout(name: &str) -> Result<Layout> {
    Layout::parse(&layout::text_of(name)?).with_context(|| format!("layout {name}"))
}

/// The same machine, with kernel, initramfs and command line in a flash, the file `name` under target.
pub(crate) fn from_flash(machine: Machine, name: &str) -> Result<Machine> {
    let read =
        |file: &Path| fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
    let kernel = machine.kernel.as_deref().context("a kernel")?;
    let mut contents = vec![("BOOTKERNEL".to_owned(), read(kernel)?, AS_IT_IS)];
    if let Some(initrd) = &machine.initrd {
        contents.push(("ROOTFS".to_owned(), read(initrd)?, AS_IT_IS));
    }
    let layout = layout(LARGE)?;
    let mut bytes = build::image(&layout, &contents)?;
    pnor::set(
        &layout,
        &mut bytes,
        &[format!("bootargs={}", machine.append)],
    )?;
    with_flash(
        Machine {
            kernel: None,
            initrd: None,
            append: String::new(),
            ..machine
        },
        name,
        &bytes,
    )
}

/// A machine with this flash.
fn with_flash(mut machine: Machine, name: &str, bytes: &[u8]) -> Result<Machine> {
    let place = target().join(name);
    image::replace(&place, bytes)?;
    machine.extra.extend([
        "-drive".to_owned(),
        format!("file={},if=mtd,format=raw", place.display()),
    ]);
    Ok(machine)
}

/// How a little program lies in the flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InFlash {
    /// Packed with xz, in a container.
    Packed,
    /// Bare, with code bytes, and one wrong bit.
    WithEcc,
    /// The same with two wrong bits in one place.
    WithBadEcc,
    /// In a container with another hash.
    WrongHash,
    /// The same, when secure mode is on.
    WrongHashInSecureMode,
    /// In a container as it should be, when secure mode is on.
    Signed,
    /// A stream that is cut off, in a container.
    Cut,
}

impl InFlash {
    /// Makes a machine with a flash that holds the program, and nothing else to start.
    pub(crate) fn machine(self, image: &Image, program: &[u8]) -> Result<Machine> {
        let machine = Machine {
            bios: Some(image.lid.clone()),
            memory: "1G".to_owned(),
            ..Machine::new("powernv10")
        };
        with_flash(
            machine,
            &format!("forms/{self:?}.pnor"),
            &self.flash(program)?,
        )
    }

    fn flash(self, program: &[u8]) -> Result<Vec<u8>> {
        let mut layout = layout(SMALL)?;
        let elf = tiny_elf::file(Class::Big64, program, false);
        let has_ecc = matches!(self, Self::WithEcc | Self::WithBadEcc);
        let is_secure = matches!(self, Self::WrongHashInSecureMode | Self::Signed);
        let kernel = (layout.table.entries.iter_mut())
            .find(|entry| entry.name == *"BOOTKERNEL")
            .context("no BOOTKERNEL")?;
        if has_ecc {
            kernel.user.integrity |= flags::ECC;
            kernel.user.version = 0;
        }
        let (at, _) = {
            let kernel = *kernel;
            layout.table.extent(&kernel)
        };
        let at = usize::try_from(at)?;
        let (file, form) = match self {
            Self::Packed => (
                elf,
                Form {
                    is_packed: true,
                    ..AS_IT_IS
                },
            ),
            Self::Cut => {
                let packed = build::pack(&elf)?;
                let half = packed.get(..packed.len() / 2).unwrap_or_default();
                (half.to_vec(), AS_IT_IS)
            }
            _ => (elf, AS_IT_IS),
        };
        let mut bytes = build::image(&layout, &[("BOOTKERNEL".to_owned(), file, form)])?;
        // Behind the program's code and data: what is there matters to nobody but code bytes and hash.
        let spare = match self {
            Self::WithEcc | Self::WithBadEcc => at + 0x140,
            _ => at + container::HEADER_SIZE + 0x140,
        };
        let wrong = match self {
            Self::WithEcc => 4,
            Self::WithBadEcc => 6,
            Self::WrongHash | Self::WrongHashInSecureMode => 0x80,
            Self::Packed | Self::Signed | Self::Cut => 0,
        };
        *bytes.get_mut(spare).context("a short program")? ^= wrong;
        let settings = if is_secure {
            vec!["force-secure-mode=always".to_owned()]
        } else {
            vec![]
        };
        pnor::set(&layout, &mut bytes, &settings)?;
        Ok(bytes)
    }
}

/// A machine with a kernel of 32 MiB in the flash, in a container, and the same one with that kernel as a file. The kernel is a little
/// program and random bytes, so that no firmware comes off more cheaply by what it holds.
pub(crate) fn large(machine: &Machine, program: &[u8]) -> Result<[Machine; 2]> {
    const SIZE: usize = 32 << 20;
    // Little-endian: of a big-endian file skiboot takes the entry for a function descriptor, whatever it is.
    let mut kernel = tiny_elf::file(Class::Little64, program, false);
    let mut state = 1_u32;
    kernel.resize_with(SIZE, || {
        // The lowest bits of such a generator repeat soon.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    let layout = layout(LARGE)?;
    let contents = [("BOOTKERNEL".to_owned(), kernel.clone(), AS_IT_IS)];
    let bytes = build::image(&layout, &contents)?;
    let file = target().join("bench/kernel-32m");
    image::replace(&file, &kernel)?;
    let in_flash = with_flash(machine.clone(), "bench/kernel-32m.pnor", &bytes)?;
    let as_file = Machine {
        kernel: Some(file),
        ..machine.clone()
    };
    Ok([in_flash, as_file])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pnor_image::content::{self, HashState, Place, Rules, Trust};

    #[test]
    fn what_is_wrong_is_wrong_where_it_should_be() {
        let read = |how: InFlash, trust| {
            let bytes = how.flash(&[0x60; 0x400]).expect("made");
            let mut bytes = &bytes[..];
            let found = pnor_image::ffs::find(&mut bytes, pnor_image::ffs::Search::Usual)
                .expect("memory")
                .expect("a table");
            let entry = found.table.get("BOOTKERNEL").expect("there");
            let rules = Rules {
                room: 1 << 20,
                unpacks: true,
                dictionary: 8 << 20,
                trust,
            };
            content::read(&mut bytes, Place::of(&found.table, entry), rules, |_| ())
        };
        let good = read(InFlash::Packed, Trust::Report).expect("good");
        assert!(good.is_packed && good.hash == HashState::Good);
        let signed = read(InFlash::Signed, Trust::Enforce(None)).expect("good");
        assert_eq!(signed.hash, HashState::Good);
        let corrected = read(InFlash::WithEcc, Trust::Report).expect("corrected");
        assert_eq!(corrected.corrected, 1);
        assert!(matches!(
            read(InFlash::WithBadEcc, Trust::Report),
            Err(content::Error::Uncorrectable(_))
        ));
        let wrong = read(InFlash::WrongHash, Trust::Report).expect("reported");
        assert_eq!(wrong.hash, HashState::Wrong);
        assert!(read(InFlash::WrongHashInSecureMode, Trust::Enforce(None)).is_err());
        assert!(matches!(
            read(InFlash::Cut, Trust::Report),
            Err(content::Error::Packed(_))
        ));
    }
}

//! The forms in which a kernel can be given in OPAL mode: one tiny big-endian program, in each of them.
//!
//! Owns the program, as the words of its code: it looks at the registers that it is entered with, prints a line through
//! OPAL_CONSOLE_WRITE and switches the machine off. The surprise: big-endian is how every kernel is entered, whatever its
//! file says, so the same code is right in a file that is marked as little-endian.

use std::fs;

use anyhow::Result;
use pnor_image::container;

use crate::image::{self, Image};
use crate::machine::Machine;
use crate::tools::target;

/// A form, or something that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// No file at all.
    Nothing,
    /// Code from the first byte on.
    Raw,
    /// An ELF file whose entry is an instruction.
    Elf(Class),
    /// A big-endian ELF file whose entry is a function descriptor.
    Descriptor,
    /// In a secure-boot container.
    Contained(Inner),
    /// In a container whose size is that of its header.
    BadContainer,
    /// Words for people.
    Text,
    /// The raw image on a machine without BMC.
    NoBmc,
}

/// What kind of ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Big64,
    Little64,
    Big32,
}

/// What is in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    Elf,
    Raw,
}

/// What the program prints when it finds what it expects.
pub(crate) const RUNS: &str = "NIDUS-FORM entered as the ABI says";
const DOES_NOT: &str = "NIDUS-FORM BUG: wrong registers at entry";

impl Form {
    /// Makes the machine, and the file that it starts.
    pub(crate) fn machine(self, image: &Image) -> Result<Machine> {
        let mut machine = Machine {
            bios: Some(image.lid.clone()),
            memory: "1G".to_owned(),
            ..Machine::new("powernv10")
        };
        if self == Self::NoBmc {
            machine.extra.push("-nodefaults".to_owned());
        }
        if let Some(bytes) = self.bytes() {
            let directory = target().join("forms");
            fs::create_dir_all(&directory)?;
            let file = directory.join(format!("{self:?}"));
            image::replace(&file, &bytes)?;
            machine.kernel = Some(file);
        }
        Ok(machine)
    }

    fn bytes(self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Nothing => return None,
            Self::Raw | Self::NoBmc => program(),
            Self::Elf(class) => elf(class, false),
            Self::Descriptor => elf(Class::Big64, true),
            Self::Contained(Inner::Elf) => contained(&elf(Class::Big64, false)),
            Self::Contained(Inner::Raw) => contained(&program()),
            Self::BadContainer => {
                let mut bytes = contained(&program());
                // The size of all, 8 bytes from 6 on: header and nothing.
                if let Some(size) = bytes.get_mut(6..14) {
                    size.copy_from_slice(&0x1000_u64.to_be_bytes());
                }
                bytes
            }
            Self::Text => "This is not a kernel.\n".repeat(100).into_bytes(),
        })
    }
}

fn contained(payload: &[u8]) -> Vec<u8> {
    container::unsigned(payload, container::Description::of("BOOTKERN"))
}

/// Bytes of each text, and the code's offset of the number of them.
const TEXT: usize = 48;

/// The program: code, then the number of bytes to print, then the two texts.
fn program() -> Vec<u8> {
    const CODE: [u32; 44] = [
        0x7d60_00a6, // mfmsr r11            a 32-bit file is entered in 32-bit mode: go to 64 bits
        0x3980_0001, // li    r12, 1
        0x798c_f806, // sldi  r12, r12, 63
        0x7d6b_6378, // or    r11, r11, r12
        0x7d60_0164, // mtmsrd r11
        0x7d0e_4378, // mr    r14, r8        OPAL's base
        0x7d2f_4b78, // mr    r15, r9        and entry
        0x429f_0005, // bcl   20, 31, .+4
        0x7e08_02a6, // mflr  r16
        0x8163_0000, // lwz   r11, 0(r3)     the tree's magic
        0x3d80_d00d, // lis   r12, 0xd00d
        0x618c_feed, // ori   r12, r12, 0xfeed
        0x7c0b_6040, // cmplw r11, r12
        0x4082_0028, // bne   bad
        0x3d80_6550, // lis   r12, 0x6550    ePAPR's magic
        0x618c_4150, // ori   r12, r12, 0x4150
        0x7c06_6040, // cmplw r6, r12
        0x4082_0018, // bne   bad
        0x7c8b_2b79, // or.   r11, r4, r5
        0x4082_0010, // bne   bad
        0x38b0_0098, // addi  r5, r16, text of success
        0x3a20_0030, // li    r17, 48
        0x4800_000c, // b     print
        0x38b0_00c8, // bad: addi r5, r16, text of failure
        0x3a20_0030, // li    r17, 48
        0x3890_0090, // print: addi r4, r16, number of bytes
        0xfa24_0000, // std   r17, 0(r4)
        0x3860_0000, // li    r3, 0
        0x3800_0001, // li    r0, 1          OPAL_CONSOLE_WRITE
        0x7dc2_7378, // mr    r2, r14
        0x7de9_03a6, // mtctr r15
        0x4e80_0421, // bctrl
        0x3860_0000, // li    r3, 0
        0x3800_0005, // li    r0, 5          OPAL_CEC_POWER_DOWN
        0x7dc2_7378, // mr    r2, r14
        0x7de9_03a6, // mtctr r15
        0x4e80_0421, // bctrl
        0x3860_0000, // poll: li r3, 0
        0x3800_000a, // li    r0, 10         OPAL_POLL_EVENTS
        0x7dc2_7378, // mr    r2, r14
        0x7de9_03a6, // mtctr r15
        0x4e80_0421, // bctrl
        0x4bff_ffec, // b     poll
        0x6000_0000, // nop
    ];
    let mut bytes: Vec<u8> = CODE.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend([0; 8]);
    for text in [RUNS, DOES_NOT] {
        bytes.extend(format!("{text:<width$}\r\n", width = TEXT - 2).into_bytes());
    }
    bytes
}

/// An ELF file with the program at 64 KiB, which the kernel's file offsets need not equal.
fn elf(class: Class, descriptor: bool) -> Vec<u8> {
    const AT: u64 = 0x1_0000;
    const OFFSET: u64 = 0x200;
    const LOAD: u64 = 1;
    const EXECUTABLE: u64 = 7;
    const WRITABLE: u64 = 6;
    const PPC: u64 = 20;
    const PPC64: u64 = 21;
    let code = program();
    let size = code.len() as u64;
    let descriptor_at = AT + size;
    let wide = class != Class::Big32;
    let mut file = Fields {
        bytes: Vec::new(),
        little: class == Class::Little64,
    };
    file.bytes.extend(b"\x7fELF");
    file.bytes
        .extend([1 + u8::from(wide), 2 - u8::from(file.little), 1]);
    file.bytes.resize(16, 0);
    let word = if wide { 8 } else { 4 };
    let (header, program_header) = if wide { (64, 56) } else { (52, 32) };
    let entry = if descriptor { descriptor_at } else { AT };
    let machine = if wide { PPC64 } else { PPC };
    file.put(&[(2, 2), (2, machine), (4, 1)]);
    file.put(&[(word, entry), (word, header), (word, 0)]);
    file.put(&[(4, 0), (2, header), (2, program_header), (2, 2)]);
    file.put(&[(2, 0), (2, 0), (2, 0)]);
    // Code, and then data that may not be executed: the descriptor.
    for (flags, offset, at, size) in [
        (EXECUTABLE, OFFSET, AT, size),
        (WRITABLE, OFFSET + size, descriptor_at, 24),
    ] {
        file.put(&[(4, LOAD)]);
        if wide {
            file.put(&[(4, flags)]);
        }
        file.put(&[(word, offset), (word, at), (word, at)]);
        file.put(&[(word, size), (word, size)]);
        if !wide {
            file.put(&[(4, flags)]);
        }
        file.put(&[(word, 8)]);
    }
    file.bytes
        .resize(usize::try_from(OFFSET).unwrap_or_default(), 0);
    file.bytes.extend(code);
    file.put(&[(8, AT), (8, 0), (8, 0)]);
    file.bytes
}

/// A file in the making.
struct Fields {
    bytes: Vec<u8>,
    little: bool,
}

impl Fields {
    /// Appends numbers of so many bytes.
    fn put(&mut self, fields: &[(usize, u64)]) {
        for &(size, value) in fields {
            let bytes = value.to_be_bytes();
            let part = bytes.get(8 - size..).unwrap_or_default();
            if self.little {
                self.bytes.extend(part.iter().rev());
            } else {
                self.bytes.extend(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use elf::ElfBytes;
    use elf::endian::AnyEndian;

    /// The offsets in the code's words are those of the data behind it; they count from the ninth word.
    #[test]
    fn the_code_finds_its_data() {
        let bytes = program();
        let text = |at: usize| String::from_utf8_lossy(&bytes[at..at + TEXT]).into_owned();
        assert!(
            bytes[0x20 + 0x90..0x20 + 0x98]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert_eq!(text(0x20 + 0x98).trim_end(), RUNS);
        assert_eq!(text(0x20 + 0xc8).trim_end(), DOES_NOT);
        assert_eq!(bytes.len(), 0x20 + 0xc8 + TEXT);
    }

    #[test]
    fn files_are_what_they_say() {
        for (class, descriptor) in [
            (Class::Big64, false),
            (Class::Big64, true),
            (Class::Little64, false),
            (Class::Big32, false),
        ] {
            let bytes = elf(class, descriptor);
            let file = ElfBytes::<AnyEndian>::minimal_parse(&bytes).expect("an ELF file");
            let segments: Vec<_> = file.segments().expect("segments").iter().collect();
            assert_eq!(segments.len(), 2);
            let code = file.segment_data(&segments[0]).expect("code");
            assert_eq!(code, program());
            if descriptor {
                let data = file.segment_data(&segments[1]).expect("data");
                assert_eq!(data[..8], segments[0].p_vaddr.to_be_bytes());
            }
            let at = segments[usize::from(descriptor)].p_vaddr;
            assert_eq!(file.ehdr.e_entry, at);
        }
    }
}

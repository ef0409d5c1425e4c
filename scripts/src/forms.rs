//! The forms in which a kernel can be given in OPAL mode: one tiny big-endian program, in each of them.
//!
//! Owns the program, as the words of its code: it looks at the registers that it is entered with, prints a line through
//! OPAL_CONSOLE_WRITE and switches the machine off. The surprise: big-endian is how every kernel is entered, whatever its
//! file says, so the same code is right in a file that is marked as little-endian.

use std::fs;

use anyhow::Result;
use pnor_image::container;

use crate::flash_boot::InFlash;
use crate::image::{self, Image};
use crate::machine::Machine;
use crate::tiny_elf::{self, Class};
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
    /// In the flash, with no other kernel.
    Flash(InFlash),
    /// The raw image on a machine without BMC.
    NoBmc,
    /// A raw image that reboots, on a machine that ends where others would start again.
    Reboots,
    /// A raw image that reports an error of the platform.
    PlatformError,
}

/// What is in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    Elf,
    Raw,
}

/// What the program prints when it finds what it expects.
pub(crate) const RUNS: &str = "NIDUS-FORM entered as the ABI says";
const DOES_NOT: &str = "NIDUS-FORM BUG: wrong register or answer";

impl Form {
    /// Makes the machine, and the file that it starts.
    pub(crate) fn machine(self, image: &Image) -> Result<Machine> {
        if let Self::Flash(how) = self {
            return how.machine(image, &program(&[POWER_OFF]));
        }
        let mut machine = Machine {
            bios: Some(image.lid.clone()),
            memory: "1G".to_owned(),
            ..Machine::new("powernv10")
        };
        match self {
            Self::NoBmc => machine.extra.push("-nodefaults".to_owned()),
            Self::Reboots => machine.extra.push("-no-reboot".to_owned()),
            _ => {}
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
        let off = program(&[POWER_OFF]);
        Some(match self {
            Self::Nothing | Self::Flash(_) => return None,
            Self::Raw | Self::NoBmc => off,
            Self::Reboots => program(&reboots()),
            Self::PlatformError => program(&[PLATFORM_ERROR]),
            Self::Elf(class) => tiny_elf::file(class, &off, false),
            Self::Descriptor => tiny_elf::file(Class::Big64, &off, true),
            Self::Contained(Inner::Elf) => contained(&tiny_elf::file(Class::Big64, &off, false)),
            Self::Contained(Inner::Raw) => contained(&off),
            Self::BadContainer => {
                let mut bytes = contained(&off);
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

/// The program that prints and switches off.
pub(crate) fn power_off() -> Vec<u8> {
    program(&[POWER_OFF])
}

/// A call of OPAL with one argument, and what it has to answer if it may come back.
#[derive(Clone, Copy, Debug)]
struct Call {
    token: u32,
    argument: u32,
    answer: Option<i16>,
}

const CONSOLE_WRITE: u32 = 1;
const POWER_DOWN: u32 = 5;
const REBOOT2: u32 = 116;

const POWER_OFF: Call = Call {
    token: POWER_DOWN,
    argument: 0,
    answer: None,
};

/// With no text for the reason.
const PLATFORM_ERROR: Call = Call {
    token: REBOOT2,
    argument: 1,
    answer: None,
};

/// The other kinds of OPAL_CEC_REBOOT2: those that are not served answer so, then comes one that is.
fn reboots() -> Vec<Call> {
    const MEMORY_PRESERVING: u32 = 3;
    const FAST: u32 = 4;
    const NONE_SUCH: u32 = 99;
    const FULL: u32 = 2;
    const UNSUPPORTED: i16 = -7;
    let reboot = |argument, answer| Call {
        token: REBOOT2,
        argument,
        answer,
    };
    let mut calls = [MEMORY_PRESERVING, FAST, NONE_SUCH]
        .map(|kind| reboot(kind, Some(UNSUPPORTED)))
        .to_vec();
    calls.push(reboot(FULL, None));
    calls
}

/// Bytes of each text.
const TEXT: u32 = 48;
/// Where code ends and data begin: the number of bytes to print, and the two texts.
const DATA: u32 = 0x300;
/// Where the program, once it runs, has its own address from, in r16.
const HERE: u32 = 8;

/// Code in the making. r14 holds OPAL's base, r15 its entry.
#[derive(Default)]
struct Code(Vec<u32>);

impl Code {
    /// Bytes so far.
    fn at(&self) -> u32 {
        u32::try_from(self.0.len() * 4).unwrap_or(u32::MAX)
    }

    fn put(&mut self, words: &[u32]) {
        self.0.extend(words);
    }

    /// Calls OPAL; r3 and more are set already.
    fn call(&mut self, token: u32) {
        self.put(&[
            0x3800_0000 | token, // li    r0, token
            0x7dc2_7378,         // mr    r2, r14
            0x7de9_03a6,         // mtctr r15
            0x4e80_0421,         // bctrl
        ]);
    }

    /// Prints the text at this place among the data.
    fn print(&mut self, text: u32) {
        self.put(&[
            0x38b0_0000 | (DATA + text - HERE), // addi r5, r16, text
            0x3890_0000 | (DATA - HERE),        // addi r4, r16, number of bytes
            0x3860_0000,                        // li   r3, 0
        ]);
        self.call(CONSOLE_WRITE);
    }

    /// Goes to `target` if the comparison before found a difference.
    fn branch_if_not_equal(&mut self, target: u32) {
        let distance = target.wrapping_sub(self.at());
        self.put(&[0x4082_0000 | distance & 0xfffc]);
    }

    fn call_and_check(&mut self, call: Call, bad: u32) {
        self.put(&[
            0x3860_0000 | call.argument, // li r3, argument
            0x3880_0000,                 // li r4, 0
        ]);
        self.call(call.token);
        if let Some(answer) = call.answer {
            // cmpdi r3, answer
            self.put(&[0x2c23_0000 | u32::from(answer.cast_unsigned())]);
            self.branch_if_not_equal(bad);
        }
    }
}

/// The program: looks at its registers, prints, and makes these calls; the last one does not come back.
fn program(calls: &[Call]) -> Vec<u8> {
    let mut code = Code::default();
    code.put(&[
        0x7c08_02a6, // mflr  r0             any value: r16 is set by the next two
        0x429f_0005, // bcl   20, 31, .+4
        0x7e08_02a6, // HERE: mflr r16
        0x7d2f_4b78, // mr    r15, r9
        0x7d0e_4378, // mr    r14, r8
        0x4800_0000, // b     over what comes next; its length is put in below
    ]);
    let (branch, bad) = (code.0.len() - 1, code.at());
    code.print(8 + TEXT);
    code.call_and_check(POWER_OFF, bad);
    code.put(&[0x4800_0000]); // b .
    let length = code.at() - bad + 4;
    if let Some(word) = code.0.get_mut(branch) {
        *word |= length;
    }
    code.put(&[
        0x7d60_00a6, // mfmsr r11            a 32-bit file is entered in 32-bit mode: go to 64 bits
        0x3980_0001, // li    r12, 1
        0x798c_f806, // sldi  r12, r12, 63
        0x7d6b_6378, // or    r11, r11, r12
        0x7d60_0164, // mtmsrd r11
        0x8163_0000, // lwz   r11, 0(r3)     the tree's magic
        0x3d80_d00d, // lis   r12, 0xd00d
        0x618c_feed, // ori   r12, r12, 0xfeed
        0x7c0b_6040, // cmplw r11, r12
    ]);
    code.branch_if_not_equal(bad);
    code.put(&[
        0x3d80_6550, // lis   r12, 0x6550    ePAPR's magic
        0x618c_4150, // ori   r12, r12, 0x4150
        0x7c06_6040, // cmplw r6, r12
    ]);
    code.branch_if_not_equal(bad);
    code.put(&[0x7c8b_2b79]); // or. r11, r4, r5
    code.branch_if_not_equal(bad);
    code.print(8);
    for call in calls {
        code.call_and_check(*call, bad);
    }
    code.put(&[0x4800_0000]); // b .

    let mut bytes: Vec<u8> = code.0.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.resize(usize::try_from(DATA).unwrap_or_default(), 0);
    bytes.extend(u64::from(TEXT).to_be_bytes());
    for text in [RUNS, DOES_NOT] {
        let width = usize::try_from(TEXT).unwrap_or_default() - 2;
        bytes.extend(format!("{text:<width$}\r\n").into_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_finds_its_data() {
        let bytes = program(&reboots());
        let data = usize::try_from(DATA).expect("small");
        let text = usize::try_from(TEXT).expect("small");
        assert!(bytes[data - 8..data].iter().all(|byte| *byte == 0), "room");
        assert_eq!(bytes.len(), data + 8 + 2 * text);
        assert!(bytes[data + 8..].starts_with(RUNS.as_bytes()));
        assert!(bytes[data + 8 + text..].starts_with(DOES_NOT.as_bytes()));
        // mflr r16 is where the offsets count from.
        let here = usize::try_from(HERE).expect("small");
        assert_eq!(bytes[here..here + 4], 0x7e08_02a6_u32.to_be_bytes());
    }
}

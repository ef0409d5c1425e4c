//! The image's code, and the guard on it: no vector or floating-point instruction outside of the routines that switch a
//! guest's registers.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use elf::ElfBytes;
use elf::abi::{SHF_EXECINSTR, SHT_PROGBITS, STT_FUNC};
use elf::endian::LittleEndian;

use super::instructions;

/// The routines that load and store a guest's vector-scalar registers (firmware/src/hypervisor/enter.S).
const ALLOWED: [&str; 2] = ["guest_load_vsrs", "guest_store_vsrs"];

/// Where the processor comes in big-endian mode, and how many bytes it stays in it: the entry of the image
/// (firmware/src/entry/head.S), that of OPAL calls (firmware/src/opal/entry.S), and the system reset of a fast reboot
/// (firmware/src/opal/gather.S).
const BIG_ENDIAN: [(&str, u64); 5] = [
    ("_start", 0x20),
    ("opal_entry_big_endian", 4),
    ("opal_from_big_endian", 0x3c),
    ("opal_landing_big_endian", 4),
    ("opal_landing_from_big_endian", 0x20),
];

/// A named piece of code.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The code of the image.
pub(super) struct Program {
    pub(super) functions: Vec<Function>,
    /// Sections with instructions, all little-endian, and where they begin.
    pub(super) code: Vec<(u64, Vec<u8>)>,
}

impl Program {
    /// Reads the image's file with symbols.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes)?;
        let (symbols, names) = elf.symbol_table()?.context("no symbols")?;
        let mut big_endian = Vec::new();
        for (name, bytes) in BIG_ENDIAN {
            let entry = symbols
                .iter()
                .find(|symbol| {
                    usize::try_from(symbol.st_name)
                        .is_ok_and(|at| names.get(at).is_ok_and(|found| found == name))
                })
                .with_context(|| format!("{} has no symbol {name}", file.display()))?;
            big_endian.push(entry.st_value..entry.st_value + bytes);
        }
        let mut code = Vec::new();
        for header in elf.section_headers().context("no sections")? {
            if header.sh_type == SHT_PROGBITS && header.sh_flags & u64::from(SHF_EXECINSTR) != 0 {
                let (bytes, _) = elf.section_data(&header)?;
                let bytes = in_one_order(bytes, header.sh_addr, &big_endian);
                code.push((header.sh_addr, bytes));
            }
        }
        if code.iter().all(|(_, bytes)| bytes.is_empty()) {
            bail!("{} holds no code", file.display());
        }
        let functions = functions(&elf)?;
        Ok(Self { functions, code })
    }

    /// The function that has an address.
    pub(super) fn name_at(&self, address: u64) -> &str {
        let mut functions = self.functions.iter();
        let inside = functions.find(|function| (function.start..function.end).contains(&address));
        inside.map_or("outside of any function", |function| function.name.as_str())
    }
}

/// Returns a problem for each place with a forbidden instruction, and the number of instructions looked at.
pub(super) fn check(program: &Program) -> Result<(Vec<String>, usize)> {
    for name in ALLOWED {
        let is_there = |function: &Function| function.name == name && function.start < function.end;
        if !program.functions.iter().any(is_there) {
            bail!("there is no routine {name} with a size: the guard's list is not up to date");
        }
    }
    let mut problems = Vec::new();
    let mut looked_at = 0;
    for (base, code) in &program.code {
        looked_at += code.len() / 4;
        for found in instructions::vector_or_float(code) {
            let address = base + found.offset as u64;
            let name = program.name_at(address);
            if !ALLOWED.contains(&name) {
                problems.push(format!(
                    "{address:#x} {name}: {:#010x} uses a vector or floating-point register",
                    found.word
                ));
            }
        }
    }
    Ok((problems, looked_at))
}

/// Returns the code with the big-endian words turned round.
fn in_one_order(code: &[u8], address: u64, big_endian: &[Range<u64>]) -> Vec<u8> {
    let mut code = code.to_vec();
    for (index, word) in code.chunks_exact_mut(4).enumerate() {
        let at = address + 4 * index as u64;
        if big_endian.iter().any(|range| range.contains(&at)) {
            word.reverse();
        }
    }
    code
}

fn functions(elf: &ElfBytes<'_, LittleEndian>) -> Result<Vec<Function>> {
    let (symbols, names) = elf.symbol_table()?.context("no symbols")?;
    let mut functions = Vec::new();
    for symbol in symbols
        .iter()
        .filter(|symbol| symbol.st_symtype() == STT_FUNC)
    {
        functions.push(Function {
            name: names.get(usize::try_from(symbol.st_name)?)?.to_owned(),
            start: symbol.st_value,
            end: symbol.st_value.saturating_add(symbol.st_size),
        });
    }
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_big_endian_words_are_turned_round() {
        let code: Vec<u8> = (0..64).collect();
        let turned = in_one_order(&code, 0x100, std::slice::from_ref(&(0x110..0x130)));
        assert_eq!(turned[..0x10], code[..0x10]);
        assert_eq!(turned[0x10..0x14], [0x13, 0x12, 0x11, 0x10]);
        assert_eq!(turned[0x2c..0x30], [0x2f, 0x2e, 0x2d, 0x2c]);
        assert_eq!(turned[0x30..], code[0x30..]);
    }
}

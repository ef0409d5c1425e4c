//! Which instructions use vector or floating-point registers (Power ISA 3.1, appendix of opcodes).
//!
//! The firmware must not touch these registers: they belong to whoever called it. The surprise: an instruction can be
//! two words, and the second one means something else than it would alone.

/// Extended opcodes of primary opcode 31 that load, store or move vector or floating-point registers.
const EXTENDED_31: [u32; 78] = [
    6, 7, 12, 13, 38, 39, 45, 51, 71, 76, 77, 103, 109, 115, 135, 140, 141, 167, 173, 177, 179,
    199, 205, 211, 231, 237, 243, 268, 269, 300, 301, 307, 332, 333, 359, 364, 396, 397, 403, 429,
    435, 461, 487, 524, 535, 567, 588, 599, 631, 652, 663, 695, 716, 727, 759, 780, 781, 791, 812,
    813, 844, 855, 876, 887, 908, 909, 919, 940, 941, 972, 983, 1004, 524, 588, 652, 716, 780, 908,
];

/// An instruction that uses a vector or floating-point register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its distance from the start, in bytes.
    pub offset: usize,
    /// Its word (the second one, if it has two).
    pub word: u32,
}

/// Looks through little-endian code.
pub fn vector_or_float(code: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut prefix = None;
    for (index, bytes) in code.chunks_exact(4).enumerate() {
        let word = bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        let uses = match prefix.take() {
            Some(prefix) => suffix_uses(prefix, word),
            None if primary(word) == 1 => {
                prefix = Some(word);
                false
            }
            None => uses(word),
        };
        if uses {
            found.push(Found {
                offset: index * 4,
                word,
            });
        }
    }
    found
}

/// The primary opcode.
pub(super) const fn primary(word: u32) -> u32 {
    word >> 26
}

fn uses(word: u32) -> bool {
    match primary(word) {
        // The multiply-add instructions for integers share the opcode of the vector instructions.
        4 => !matches!(word & 0x3f, 48 | 49 | 51),
        6 | 48..=55 | 57 | 59..=61 | 63 => true,
        31 => EXTENDED_31.contains(&(word >> 1 & 0x3ff)),
        _ => false,
    }
}

/// Judges the second word by the type in the first one.
fn suffix_uses(prefix: u32, suffix: u32) -> bool {
    match (prefix >> 24 & 3, primary(suffix)) {
        // Eight-byte loads and stores: all but plwa, plq, pld, pstq and pstd.
        (0, opcode) => !matches!(opcode, 41 | 56 | 57 | 60 | 61),
        // Eight-byte register forms are all vector instructions.
        (1, _) => true,
        // The modified forms of ordinary instructions.
        (2, opcode) => (48..=55).contains(&opcode),
        // The prefixed no-operation, or matrix instructions.
        (_, opcode) => opcode == 59,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(words: &[u32]) -> Vec<usize> {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        vector_or_float(&code)
            .iter()
            .map(|found| found.offset / 4)
            .collect()
    }

    #[test]
    fn ordinary_instructions_pass() {
        // addi, ld, std, lwz, stw, mfmsr, mfspr, bl, rlwinm, maddld, lq, stq, hrfid, sync, ldarx, stdcx., tlbie, lbzcix
        let words = [
            0x3821_ffc0,
            0xe861_0010,
            0xf861_0010,
            0x8061_0010,
            0x9061_0010,
            0x7c60_00a6,
            0x7c68_02a6,
            0x4800_0001,
            0x5463_083c,
            0x1063_2133,
            0xe061_0010,
            0xf861_0012,
            0x4c00_0224,
            0x7c00_04ac,
            0x7c60_20a8,
            0x7c60_21ad,
            0x7c60_1a64,
            0x7c60_1eaa,
        ];
        assert_eq!(found(&words), [0; 0]);
    }

    #[test]
    fn vector_and_floating_point_instructions_are_found() {
        // lfd, stfd, lvx, stvx, lxvd2x, stxvd2x, lxv, stxv, fadd, xxlxor, vaddubm, mtvsrd, mfvsrd, lxvp, mffs, lxsd
        let words = [
            0xc821_0000,
            0xd821_0000,
            0x7c00_18ce,
            0x7c00_19ce,
            0x7c00_1e98,
            0x7c00_1f98,
            0xf401_0001,
            0xf401_0005,
            0xfc00_002a,
            0xf000_04d0,
            0x1000_0000,
            0x7c00_0166,
            0x7c00_0066,
            0x1801_0000,
            0xfc00_048e,
            0xe401_0002,
        ];
        assert_eq!(found(&words), (0..words.len()).collect::<Vec<_>>());
    }

    #[test]
    fn prefixed_instructions_are_judged_as_one() {
        // pld, paddi, pstd, pnop: fine. plfd, plxv, xxspltiw: not. The second word of pld looks like a vector load.
        let fine = [
            0x0410_0000,
            0xe460_0010,
            0x0610_0000,
            0x3860_0010,
            0x0410_0000,
            0xf460_0010,
            0x0700_0000,
            0,
        ];
        assert_eq!(found(&fine), [0; 0]);
        let bad = [
            0x0610_0000,
            0xc820_0000,
            0x0410_0000,
            0xc820_0000,
            0x0500_0000,
            0x8006_0000,
        ];
        assert_eq!(found(&bad), [1, 3, 5]);
        assert_eq!(found(&[0xe460_0010]), [0]);
    }
}

//! The guard on stack frames: how large each is, read from its instructions, and which may be larger than others.
//!
//! The surprise: these limits are what lets the firmware notice that a stack is too small. Whoever leaves a stack stores its
//! caller's stack pointer in the guard at the stack's end, unless its frame is larger than the guard, which has the same
//! two sizes (`firmware/src/stack.rs`).

use super::image::Program;
use super::instructions::primary;

/// The largest frame of what runs on any stack: a buffer of 4 KiB, and what goes with it.
const LIMIT: u64 = 0x1200;

/// The largest frame of what runs once, on the stack of boot or as the first on a thread's.
const LIMIT_ONCE: u64 = 0x8000;

/// What runs so and has frames above [`LIMIT`], by a part of its mangled name, and why it has.
const ONCE: [(&str, &str); 4] = [
    (
        "8firmware11controllers",
        "boot: the driver of as many chips as there can be, before it is in the heap",
    ),
    (
        "8firmware4opal5start",
        "boot: the parts of what OPAL calls work on",
    ),
    (
        "8firmware4opal5serve4OpalE18try_call_once_slow",
        "boot: what OPAL calls work on, before it is in its static",
    ),
    (
        "8firmware10hypervisor5start",
        "boot: the parts of a partition; then each thread's first function: registers of its vCPU",
    ),
];

/// A place where code lowers its stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Its distance from the start, in bytes.
    offset: usize,
    /// By how many bytes at most; `None` when that cannot be told.
    size: Option<u64>,
}

/// Returns a problem for each frame that is too large, and the number of frames.
pub(super) fn check(program: &Program) -> (Vec<String>, usize) {
    let mut count = 0;
    let mut problems = Vec::new();
    let mut needed = [false; ONCE.len()];
    for (address, code) in &program.code {
        for Frame { offset, size } in frames(code) {
            count += 1;
            let address = address + offset as u64;
            let name = program.name_at(address);
            let Some(size) = size else {
                problems.push(format!("{address:#x} {name}: a frame of unknown size"));
                continue;
            };
            let row = ONCE.iter().position(|(part, _)| name.contains(part));
            let limit = match row {
                Some(row) if size > LIMIT => {
                    needed[row] = true;
                    LIMIT_ONCE
                }
                _ => LIMIT,
            };
            if size > limit {
                problems.push(format!(
                    "{name} has a frame of {size} bytes, more than {limit}"
                ));
            }
        }
    }
    for ((part, _), _) in ONCE.iter().zip(needed).filter(|(_, needed)| !needed) {
        problems.push(format!(
            "{part} has no large frame any more: its row can go"
        ));
    }
    (problems, count)
}

/// Looks through little-endian code for what makes frames (Power ISA; ELFv2 ABI): `stdu rX, -N(r1)`, or `stdux r1, r1, rX` behind what
/// makes a constant in rX. Where a frame has an alignment of its own, low bits of r1 are taken from the constant.
fn frames(code: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    // The least and the most that registers hold that have just been made.
    let mut known = [None::<(i64, i64)>; 32];
    let words = code
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    for (index, word) in words.enumerate() {
        let [d, a, b] = [21, 16, 11].map(|shift| (word >> shift & 31) as usize);
        let [_, _, high, low] = word.to_be_bytes();
        let immediate = i64::from(i16::from_be_bytes([high, low]));
        let mut frame = |size: Option<i64>| {
            found.push(Frame {
                offset: index * 4,
                size: size.and_then(|size| u64::try_from(size).ok()),
            });
        };
        let minus = |from: Option<(i64, i64)>, less: Option<(i64, i64)>| {
            let ((least, most), (least_less, most_less)) = (from?, less?);
            Some((least - most_less, most - least_less))
        };
        match (primary(word), word >> 1 & 0x3ff) {
            // li, lis, ori
            (14, _) if a == 0 => known[d] = Some((immediate, immediate)),
            (15, _) if a == 0 => known[d] = Some((immediate << 16, immediate << 16)),
            (24, _) => {
                known[a] = known[d]
                    .map(|(least, most)| (least | immediate & 0xffff, most | immediate & 0xffff));
            }
            // rldicl rA, r1, 0, n: the low 64 - n bits
            (30, _) if d == R1 && word & 0xf81e == 0 => {
                let zeroes = word >> 6 & 31 | word & 32;
                known[a] = Some((0, (u64::MAX >> 1 >> (zeroes.max(1) - 1)).cast_signed()));
            }
            // subfic, subfc, subf
            (8, _) => known[d] = minus(Some((immediate, immediate)), known[a]),
            (31, 8 | 40) => known[d] = minus(known[b], known[a]),
            // stdu, stdux
            (62, _) if a == R1 && word & 3 == 1 && immediate < 0 => frame(Some(-(immediate & !3))),
            (31, 181) if a == R1 => frame(known[b].map(|(least, _)| -least)),
            // addi r1, r1, -N, which stores no back chain
            (14, _) if d == R1 && a == R1 && immediate < 0 => frame(None),
            _ => (known[d], known[a]) = (None, None),
        }
    }
    found
}

/// The stack pointer.
const R1: usize = 1;

#[cfg(test)]
mod tests {
    use super::super::image::Function;
    use super::*;

    fn sizes(words: &[u32]) -> Vec<(usize, Option<u64>)> {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let found = frames(&code);
        found
            .iter()
            .map(|found| (found.offset / 4, found.size))
            .collect()
    }

    #[test]
    fn small_frames_are_in_the_instruction() {
        // mflr r0; stdu r1, -64(r1); stdu r0, -32768(r1); addi r1, r1, 64; stdu r4, -8(r3); std r1, -8(r1)
        let words = [
            0x7c08_02a6,
            0xf821_ffc1,
            0xf801_8001,
            0x3821_0040,
            0xf883_fff9,
            0xf821_fff8,
        ];
        assert_eq!(sizes(&words), [(1, Some(64)), (2, Some(0x8000))]);
    }

    #[test]
    fn large_frames_are_constants() {
        // lis r0, -1; ori r0, r0, 0x8000 - 16; stdux r1, r1, r0
        assert_eq!(
            sizes(&[0x3c00_ffff, 0x6000_7ff0, 0x7c21_016a]),
            [(2, Some(0x8010))]
        );
        // li r0, -25392; stdux r1, r1, r0
        assert_eq!(sizes(&[0x3800_9cd0, 0x7c21_016a]), [(1, Some(25392))]);
    }

    #[test]
    fn an_alignment_adds_to_a_frame() {
        // clrldi r0, r1, 57; subfic r0, r0, -6144; stdux r1, r1, r0
        assert_eq!(
            sizes(&[0x7820_0660, 0x2000_e800, 0x7c21_016a]),
            [(2, Some(6144 + 127))]
        );
        // clrldi r0, r1, 48; lis r12, -2; subf r0, r0, r12; stdux r1, r1, r0
        assert_eq!(
            sizes(&[0x7820_0420, 0x3d80_fffe, 0x7c00_6050, 0x7c21_016a]),
            [(3, Some(0x2_ffff))]
        );
    }

    #[test]
    fn large_frames_are_for_few() {
        let function = |at: u64, name: &str| Function {
            name: name.to_owned(),
            start: at,
            end: at + 4,
        };
        let [makes, calls] = [
            "_RN8firmware4opal5start4make",
            "_RN8firmware4opal5serve4call",
        ];
        // Frames of 0x1200, 0x1210, 0x1210 and 0x7ff0 bytes, and one that grows the wrong way.
        let words: [u32; 6] = [
            0xf821_ee01,
            0xf821_edf1,
            0xf821_edf1,
            0xf821_8011,
            0x3800_7ff0,
            0x7c21_016a,
        ];
        let program = Program {
            functions: vec![
                function(0, calls),
                function(4, makes),
                function(8, calls),
                function(12, makes),
            ],
            code: vec![(
                0,
                words.iter().flat_map(|word| word.to_le_bytes()).collect(),
            )],
        };
        let (problems, count) = check(&program);
        let frames: Vec<&str> = (problems.iter().map(String::as_str))
            .filter(|problem| !problem.ends_with("its row can go"))
            .collect();
        assert_eq!(
            frames,
            [
                "_RN8firmware4opal5serve4call has a frame of 4624 bytes, more than 4608",
                "0x14 outside of any function: a frame of unknown size"
            ]
        );
        assert_eq!((count, problems.len()), (5, frames.len() + ONCE.len() - 1));
    }

    #[test]
    fn the_guards_are_as_large_as_the_limits() {
        let firmware = include_str!("../../../firmware/src/stack.rs");
        for guard in [
            format!("Self::Boot => {LIMIT_ONCE:#x},"),
            format!("Self::Normal | Self::Emergency => {LIMIT:#x},"),
        ] {
            assert!(firmware.contains(&guard), "{guard}");
        }
    }

    #[test]
    fn what_is_not_understood_is_reported() {
        // stdux of nothing known; of a constant that was replaced (ld r0, 0(r3)); addi r1, r1, -64
        assert_eq!(sizes(&[0x7c21_016a]), [(0, None)]);
        assert_eq!(sizes(&[0x3800_9cd0, 0xe803_0000, 0x7c21_016a]), [(2, None)]);
        assert_eq!(sizes(&[0x3821_ffc0]), [(0, None)]);
    }
}

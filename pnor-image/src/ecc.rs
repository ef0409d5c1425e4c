//! The flash's error-correcting code: one byte after every eight, which corrects one wrong bit and reports two.
//!
//! An (72, 64) code of the odd-weight-column kind: each bit of the code byte is the parity of the data under one row of a
//! matrix that the hardware defines (skiboot libflash/ecc.c, hostboot's PNOR code). The surprise: the code lies *within* the
//! partition, so a partition of 9 blocks holds 8 blocks of data, and erased flash (all ones) is not valid: an empty partition has to be
//! written with ones and their code bytes, which are zero.

use alloc::vec::Vec;
use core::fmt;

/// Bytes of data that one code byte protects.
pub const DATA: usize = 8;
/// Bytes in flash for [`DATA`] bytes.
pub const CODED: usize = 9;

/// Row `i`: the data bits whose parity is bit `i` (value `1 << i`) of the code byte. The data is a big-endian number.
const ROWS: [u64; 8] = [
    0x0000_e842_3c0f_99ff,
    0x00e8_423c_0f99_ff00,
    0xe842_3c0f_99ff_0000,
    0x423c_0f99_ff00_00e8,
    0x3c0f_99ff_0000_e842,
    0x0f99_ff00_00e8_423c,
    0x99ff_0000_e842_3c0f,
    0xff00_00e8_423c_0f99,
];
/// What a difference between the stored and the computed code byte means: see [`meaning`].
const SYNDROMES: [u8; 256] = syndromes();
const GOOD: u8 = 0xff;
const HOPELESS: u8 = 0xfe;
/// This and the seven that follow: the error is in a bit of the code byte.
const IN_CODE: u8 = 64;

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "computed when this is compiled; it would not compile"
)]
const fn syndromes() -> [u8; 256] {
    let mut table = [HOPELESS; 256];
    table[0] = GOOD;
    let mut bit = 0;
    while bit < 64 {
        let mut column = 0;
        let mut row = 0;
        while row < 8 {
            column |= (((ROWS[row] >> bit) & 1) as usize) << row;
            row += 1;
        }
        table[column] = bit;
        bit += 1;
    }
    let mut bit = 0;
    while bit < 8 {
        table[1 << bit] = IN_CODE + bit;
        bit += 1;
    }
    table
}

/// The code byte of eight bytes.
pub fn code(data: u64) -> u8 {
    ROWS.iter().rev().fold(0, |code, row| {
        code << 1 | u8::from((row & data).count_ones() % 2 == 1)
    })
}

/// What was found in nine bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Data and code belong together.
    Good(u64),
    /// One bit was wrong; this is the data as it was.
    Corrected(u64),
}

/// Two or more bits of nine bytes are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncorrectable {
    /// Where the nine bytes begin, counted in what was to be decoded.
    pub at: usize,
}

impl fmt::Display for Uncorrectable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "more than one wrong bit in the nine bytes at {:#x}",
            self.at
        )
    }
}

impl core::error::Error for Uncorrectable {}

/// Checks eight bytes with their code byte; `None` when more than one bit is wrong.
pub fn check(data: u64, stored: u8) -> Option<Word> {
    let syndrome = code(data) ^ stored;
    match SYNDROMES.get(usize::from(syndrome)).copied()? {
        GOOD => Some(Word::Good(data)),
        HOPELESS => None,
        bit if bit < IN_CODE => Some(Word::Corrected(data ^ 1_u64.checked_shl(u32::from(bit))?)),
        _ => Some(Word::Corrected(data)),
    }
}

/// Bytes in flash for so many bytes of data.
pub const fn coded_size(data: usize) -> Option<usize> {
    data.div_ceil(DATA).checked_mul(CODED)
}

/// Bytes of data that so many bytes in flash can hold; what is left over of a last, incomplete nine is lost.
pub const fn data_size(coded: usize) -> usize {
    (coded / CODED).saturating_mul(DATA)
}

/// Adds the code bytes; the last eight bytes are filled up with ones, as erased flash is.
pub fn encode(data: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(coded_size(data.len()).unwrap_or_default());
    for piece in data.chunks(DATA) {
        let mut eight = [0xff; DATA];
        for (to, from) in eight.iter_mut().zip(piece) {
            *to = *from;
        }
        coded.extend_from_slice(&eight);
        coded.push(code(u64::from_be_bytes(eight)));
    }
    coded
}

/// Data without its code bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The data.
    pub data: Vec<u8>,
    /// How many times nine bytes had one wrong bit.
    pub corrected: usize,
}

/// Takes the code bytes away and corrects what can be corrected; an incomplete nine at the end is left out.
///
/// # Errors
/// The first place that cannot be corrected.
pub fn decode(coded: &[u8]) -> Result<Decoded, Uncorrectable> {
    let mut decoded = Decoded {
        data: Vec::with_capacity(data_size(coded.len())),
        corrected: 0,
    };
    for (index, nine) in coded.as_chunks::<CODED>().0.iter().enumerate() {
        let hopeless = Uncorrectable {
            at: index.saturating_mul(CODED),
        };
        let (data, [stored, ..]) = nine.split_first_chunk::<DATA>().ok_or(hopeless)? else {
            return Err(hopeless);
        };
        let data = match check(u64::from_be_bytes(*data), *stored).ok_or(hopeless)? {
            Word::Good(data) => data,
            Word::Corrected(data) => {
                decoded.corrected = decoded.corrected.saturating_add(1);
                data
            }
        };
        decoded.data.extend_from_slice(&data.to_be_bytes());
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flips bit `bit` of nine bytes, counted over data and code.
    fn flip(nine: &mut [u8], bit: usize) {
        nine[bit / 8] ^= 0x80 >> (bit % 8);
    }

    #[test]
    fn the_code_is_the_one_of_the_hardware() {
        // Taken from the columns of skiboot's syndrome table: data bits 0, 1, 47, 63 in IBM's order.
        assert_eq!(SYNDROMES[0xc4], 63);
        assert_eq!(SYNDROMES[0x8c], 63 - 1);
        assert_eq!(SYNDROMES[0x07], 63 - 47);
        assert_eq!(SYNDROMES[0xc1], 0);
        assert_eq!(code(0), 0);
        assert_eq!(code(u64::MAX), 0);
        assert_eq!(
            SYNDROMES.iter().filter(|&&what| what == HOPELESS).count(),
            256 - 73
        );
    }

    #[test]
    fn any_one_wrong_bit_is_corrected_and_any_two_are_reported() {
        let data = 0x0123_4567_89ab_cdef_u64;
        let good = encode(&data.to_be_bytes());
        for first in 0..72 {
            let mut one = good.clone();
            flip(&mut one, first);
            let decoded = decode(&one).expect("one bit");
            assert_eq!(decoded.data, data.to_be_bytes(), "bit {first}");
            assert_eq!(decoded.corrected, 1);
            for second in first + 1..72 {
                let mut two = one.clone();
                flip(&mut two, second);
                assert_eq!(
                    decode(&two),
                    Err(Uncorrectable { at: 0 }),
                    "bits {first}, {second}"
                );
            }
        }
    }

    #[test]
    fn erased_flash_has_no_code() {
        assert_eq!(decode(&[0xff; CODED]), Err(Uncorrectable { at: 0 }));
        assert_eq!(
            encode(&[0xff; 8]),
            [255, 255, 255, 255, 255, 255, 255, 255, 0]
        );
    }

    proptest! {
        #[test]
        fn data_survives_one_wrong_bit_in_every_word(
            data in prop::collection::vec(any::<u8>(), 0..400),
            bits in prop::collection::vec(prop::option::of(0usize..72), 50),
        ) {
            let mut coded = encode(&data);
            prop_assert_eq!(Some(coded.len()), coded_size(data.len()));
            prop_assert!(data_size(coded.len()) >= data.len());
            let mut flipped = 0;
            for (nine, bit) in coded.chunks_mut(CODED).zip(&bits) {
                if let Some(bit) = bit {
                    flip(nine, *bit);
                    flipped += 1;
                }
            }
            let decoded = decode(&coded).expect("one bit each");
            prop_assert_eq!(&decoded.data[..data.len()], &data[..]);
            prop_assert!(decoded.data[data.len()..].iter().all(|&byte| byte == 0xff));
            prop_assert_eq!(decoded.corrected, flipped);
        }
    }
}

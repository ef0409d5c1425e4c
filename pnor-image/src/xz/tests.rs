//! Tests of decoding: streams made by another implementation, in pieces, cut, damaged, and larger than they may be.

use std::sync::LazyLock;
use std::vec;
use std::vec::Vec;

use lzma_rust2::{CheckType, XzOptions, XzWriter};
use proptest::prelude::*;
use std::io::Write as _;

use super::*;

const LIMITS: Limits = Limits {
    output: 1 << 20,
    dictionary: 1 << 20,
};

/// Packs as the tool does it, with a check of four or eight bytes.
fn pack(data: &[u8], check: CheckType, dictionary: u32) -> Vec<u8> {
    let mut options = XzOptions::with_preset(1);
    options.set_check_sum_type(check);
    options.lzma_options.dict_size = dictionary;
    let mut writer = XzWriter::new(Vec::new(), options).expect("valid options");
    writer.write_all(data).expect("memory");
    writer.finish().expect("memory")
}

fn text() -> Vec<u8> {
    (0..60_000_u32)
        .flat_map(|number| (number / 7).to_le_bytes())
        .collect()
}

#[test]
fn streams_of_another_implementation_are_decoded() {
    // `printf 'flash flash flash' | xz -C crc32`, with XZ Utils 5.4.
    let made = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0x00, 0x10, 0x00, 0x0c, 0x5d,
        0x00, 0x33, 0x1b, 0x08, 0x48, 0x59, 0x49, 0x41, 0x22, 0xcc, 0x6f, 0x00, 0x00, 0x00, 0x11,
        0x81, 0x33, 0x6e, 0x00, 0x01, 0x24, 0x11, 0x7f, 0x74, 0xde, 0xbb, 0x90, 0x42, 0x99, 0x0d,
        0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
    ];
    assert!(is_xz(&made));
    assert_eq!(decompress(&made, LIMITS), Err(Error::Dictionary(8 << 20)));
    let wide = Limits {
        dictionary: 8 << 20,
        ..LIMITS
    };
    assert_eq!(
        decompress(&made, wide).as_deref(),
        Ok(&b"flash flash flash"[..])
    );
    for check in [CheckType::None, CheckType::Crc32, CheckType::Crc64] {
        for data in [&text()[..], b"", b"x"] {
            let packed = pack(data, check, 1 << 16);
            assert_eq!(decompress(&packed, LIMITS).as_deref(), Ok(data));
            // A partition goes on after its content.
            let longer = [&packed[..], &[0xff; 5000]].concat();
            assert_eq!(decompress(&longer, LIMITS).as_deref(), Ok(data));
        }
    }
}

#[test]
fn input_can_come_in_pieces_of_any_size() {
    let data = text();
    let mut packed = pack(&data, CheckType::Crc32, 1 << 16);
    let length = packed.len();
    packed.extend([0xff; 100]);
    for size in [1, 2, 3, 13, 100, 4096, 1 << 20] {
        let mut decoder = Decoder::new(LIMITS);
        let mut output = Vec::new();
        let mut consumed = 0;
        let mut end = None;
        for piece in packed.chunks(size) {
            match decoder.feed(piece, |bytes| output.extend_from_slice(bytes)) {
                Ok(Progress::More) => consumed += piece.len(),
                Ok(Progress::End(used)) => {
                    end = Some(consumed + used);
                    break;
                }
                Err(error) => panic!("pieces of {size}: {error}"),
            }
        }
        assert_eq!(end, Some(length), "pieces of {size}");
        assert_eq!(output, data, "pieces of {size}");
    }
}

#[test]
fn what_comes_out_and_what_it_costs_is_bounded() {
    // A bomb: 8 MiB of zeroes in a few kilobytes.
    let bomb = pack(&vec![0; 8 << 20], CheckType::Crc32, 1 << 16);
    assert!(bomb.len() < 10_000);
    let mut out = 0;
    let result = Decoder::new(LIMITS).feed(&bomb, |bytes| out += bytes.len());
    assert_eq!(result, Err(Error::TooLarge(1 << 20)));
    assert_eq!(out, 1 << 20);
    let hungry = pack(b"small", CheckType::Crc32, 4 << 20);
    assert_eq!(decompress(&hungry, LIMITS), Err(Error::Dictionary(4 << 20)));
}

#[test]
fn cut_foreign_and_damaged_streams_are_told_apart() {
    let data = text();
    let packed = pack(&data, CheckType::Crc32, 1 << 16);
    for length in [0, 1, 11, 12, 30, packed.len() / 2, packed.len() - 1] {
        assert_eq!(
            decompress(&packed[..length], LIMITS),
            Err(Error::Truncated),
            "{length}"
        );
    }
    assert_eq!(
        decompress(b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0\0\0\0\0", LIMITS),
        Err(Error::NotXz)
    );
    assert_eq!(decompress(&[0xff; 64], LIMITS), Err(Error::NotXz));
    let sha = pack(b"x", CheckType::Sha256, 1 << 16);
    assert_eq!(decompress(&sha, LIMITS), Err(Error::Unsupported));
    for at in (12..packed.len()).step_by(97) {
        let mut bad = packed.clone();
        bad[at] ^= 0x10;
        assert!(decompress(&bad, LIMITS).is_err(), "byte {at}");
    }
}

/// How many mutated streams a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(100))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_content_comes_back(data in prop::collection::vec(any::<u8>(), 0..3000), size in 1usize..500) {
        let packed = pack(&data, CheckType::Crc64, 1 << 16);
        let mut decoder = Decoder::new(LIMITS);
        let mut output = Vec::new();
        for piece in packed.chunks(size) {
            decoder.feed(piece, |bytes| output.extend_from_slice(bytes)).expect("sound");
        }
        prop_assert_eq!(output, data);
    }

    #[test]
    fn mutated_streams_never_give_wrong_content(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        size in 1usize..2000,
    ) {
        // Packing is slower than all that is tried here.
        static STREAM: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
            let data = text()[..20_000].to_vec();
            let packed = pack(&data, CheckType::Crc32, 1 << 16);
            (data, packed)
        });
        let (data, mut packed) = (&STREAM.0, STREAM.1.clone());
        for (at, value) in changes {
            let at = at.index(packed.len());
            packed[at] = value;
        }
        let mut decoder = Decoder::new(LIMITS);
        let mut output = Vec::new();
        for piece in packed.chunks(size) {
            match decoder.feed(piece, |bytes| output.extend_from_slice(bytes)) {
                Ok(Progress::More) => {}
                Ok(Progress::End(_)) => {
                    prop_assert_eq!(&output[..], data);
                    break;
                }
                Err(_) => break,
            }
        }
        prop_assert!(output.len() <= 1 << 20);
    }
}

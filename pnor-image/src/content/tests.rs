//! Tests of content: every form, and everything that can be wrong with it.

use std::vec;
use std::vec::Vec;

use lzma_rust2::{CheckType, XzOptions, XzWriter};
use proptest::prelude::*;
use std::io::Write as _;

use super::*;
use crate::container::{Description, Header};
use crate::flash::OutOfRange;

const RULES: Rules = Rules {
    room: 1 << 20,
    unpacks: true,
    dictionary: 1 << 20,
    trust: Trust::Report,
};
const AT: usize = 0x1000;
const LENGTH: usize = 0x4_0000;

/// A flash with this in its partition.
fn flash(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; AT + LENGTH + 0x1000];
    bytes[..AT].fill(0xee);
    bytes[AT + LENGTH..].fill(0xee);
    bytes[AT..AT + content.len()].copy_from_slice(content);
    bytes
}

const PLACE: Place = Place {
    at: AT as u64,
    length: LENGTH as u64,
    has_ecc: false,
};
const CODED: Place = Place {
    has_ecc: true,
    ..PLACE
};

type Outcome = Result<(Vec<u8>, Content), Error<OutOfRange>>;

fn take(content: &[u8], place: Place, rules: Rules) -> Outcome {
    let mut out = Vec::new();
    let bytes = flash(content);
    let content = read(&mut &bytes[..], place, rules, |piece| {
        out.extend_from_slice(piece);
    })?;
    out.truncate(usize::try_from(content.size).expect("small"));
    Ok((out, content))
}

/// Why there is none; the content itself is too long to be shown.
fn failure(content: &[u8], place: Place, rules: Rules) -> Option<Error<OutOfRange>> {
    take(content, place, rules).err()
}

fn text(length: u32) -> Vec<u8> {
    (0..length)
        .flat_map(|number| (number / 7 * 3).to_be_bytes())
        .collect()
}

fn pack(data: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(1);
    options.set_check_sum_type(CheckType::Crc32);
    options.lzma_options.dict_size = 1 << 16;
    let mut writer = XzWriter::new(Vec::new(), options).expect("valid options");
    writer.write_all(data).expect("memory");
    writer.finish().expect("memory")
}

fn wrapped(data: &[u8]) -> Vec<u8> {
    container::unsigned(data, Description::of("BOOTKERNEL"))
}

fn signed(data: &[u8]) -> Vec<u8> {
    // What counts here is that the hashes are right and the places of signatures not empty.
    let mut made = wrapped(data);
    made[0x1aa + 98] = 1;
    let software = made.len() - data.len() - 4096;
    assert_eq!(software, 0);
    made
}

/// A little ELF file: one program header, one section header at the end.
fn elf(length: usize, is_wide: bool, is_little: bool) -> Vec<u8> {
    let mut file = vec![0x5a; length];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[4] = if is_wide { 2 } else { 1 };
    file[5] = if is_little { 1 } else { 2 };
    let mut put = |at: usize, value: u64, size: usize| {
        let bytes = if is_little {
            value.to_le_bytes()[..size].to_vec()
        } else {
            value.to_be_bytes()[8 - size..].to_vec()
        };
        file[at..at + size].copy_from_slice(&bytes);
    };
    let end = length as u64;
    if is_wide {
        for (at, value, size) in [(32, 64, 8), (40, end - 64, 8), (54, 56, 2), (56, 1, 2)] {
            put(at, value, size);
        }
        put(58, 64, 2);
        put(60, 1, 2);
        put(64 + 8, 0x100, 8);
        put(64 + 32, 0x10, 8);
    } else {
        for (at, value, size) in [(28, 52, 4), (32, end - 40, 4), (42, 32, 2), (44, 1, 2)] {
            put(at, value, size);
        }
        put(46, 40, 2);
        put(48, 1, 2);
        put(52 + 4, 0x100, 4);
        put(52 + 16, 0x10, 4);
    }
    file
}

#[test]
fn each_form_comes_out_as_it_went_in() {
    let data = text(20_000);
    for (stored, is_packed, hash) in [
        (data.clone(), false, HashState::Unknown),
        (pack(&data), true, HashState::Unknown),
        (wrapped(&data), false, HashState::Good),
        (wrapped(&pack(&data)), true, HashState::Good),
    ] {
        let (out, content) = take(&stored, PLACE, RULES).expect("good");
        assert!(out == data);
        assert_eq!((content.is_packed, content.hash), (is_packed, hash));
        let (out, content) = take(&ecc::encode(&stored), CODED, RULES).expect("good");
        assert!(out == data);
        assert_eq!((content.is_packed, content.hash), (is_packed, hash));
        assert_eq!(content.corrected, 0);
    }
}

#[test]
fn what_is_not_to_be_unpacked_comes_out_packed() {
    let packed = pack(&text(5000));
    let rules = Rules {
        unpacks: false,
        ..RULES
    };
    let (out, content) = take(&wrapped(&packed), PLACE, rules).expect("good");
    assert!(out == packed && !content.is_packed);
}

#[test]
fn an_elf_file_says_how_long_it_is() {
    for (is_wide, is_little) in [(true, true), (true, false), (false, false)] {
        // It ends with what looks erased, and something else follows it.
        let mut file = elf(0x9000, is_wide, is_little);
        file[0x8fff] = 0xff;
        let stored = [&file[..], &[1; 100]].concat();
        let (out, content) = take(&stored, PLACE, RULES).expect("good");
        assert!(out == file, "{is_wide} {is_little}");
        assert!(content.read < 0x1_1000);
        let long = elf(LENGTH + 1, is_wide, is_little);
        let cut = &long[..LENGTH];
        let truncated = Error::Truncated {
            file: LENGTH as u64 + 1,
            found: LENGTH as u64,
        };
        assert_eq!(failure(cut, PLACE, RULES), Some(truncated));
        // Only the container is too short for it.
        assert!(matches!(
            take(&wrapped(&file[..0x8000]), PLACE, RULES),
            Err(Error::Truncated {
                file: 0x9000,
                found: 0x8000
            })
        ));
    }
    let mut huge = elf(0x1000, true, true);
    huge[40..48].fill(0xff);
    assert!(matches!(
        take(&huge, PLACE, RULES),
        Err(Error::Truncated { file: u64::MAX, .. })
    ));
}

#[test]
fn one_wrong_bit_in_eight_bytes_is_corrected_and_two_are_not() {
    let data = text(20_000);
    let mut coded = ecc::encode(&wrapped(&data));
    for nine in coded.chunks_mut(9).step_by(5) {
        nine[3] ^= 0x10;
    }
    let (out, content) = take(&coded, CODED, RULES).expect("corrected");
    assert!(out == data);
    assert_eq!(content.corrected, (coded.len() / 9).div_ceil(5));
    coded[9 * 6001] ^= 3;
    assert_eq!(
        failure(&coded, CODED, RULES),
        Some(Error::Uncorrectable(9 * 6001))
    );
    // Without code bytes nothing notices but the hash.
    let mut plain = wrapped(&data);
    plain[9 * 6000] ^= 3;
    let (_, content) = take(&plain, PLACE, RULES).expect("reported");
    assert_eq!(content.hash, HashState::Wrong);
}

#[test]
fn secure_mode_refuses_what_is_not_signed_or_not_what_was_signed() {
    let data = text(1000);
    let secure = Rules {
        trust: Trust::Enforce(None),
        ..RULES
    };
    assert_eq!(failure(&data, PLACE, secure), Some(Error::Unsigned));
    assert_eq!(failure(&pack(&data), PLACE, secure), Some(Error::Unsigned));
    assert!(take(&wrapped(&data), PLACE, secure).is_err());
    assert!(take(&signed(&data), PLACE, RULES).is_ok());
}

#[cfg(feature = "sign")]
#[test]
fn secure_mode_takes_what_was_signed_by_whom_it_trusts() {
    let data = text(1000);
    let keys = container::signing::Keys::imprint().expect("there");
    let mut good =
        container::signing::signed(&data, Description::of("BOOTKERNEL"), &keys).expect("signed");
    let header = Header::parse(&good).expect("good");
    let trusted = header.hardware_key_hash();
    let secure = |hash| Rules {
        trust: Trust::Enforce(hash),
        ..RULES
    };
    for hash in [None, Some(trusted)] {
        let (out, content) = take(&good, PLACE, secure(hash)).expect("good");
        assert!(out == data && content.hash == HashState::Good);
    }
    assert_eq!(
        failure(&good, PLACE, secure(Some([1; 64]))),
        Some(Error::Container(container::Error::HardwareKeyHash))
    );
    good[5000] ^= 1;
    assert_eq!(
        failure(&good, PLACE, secure(None)),
        Some(Error::Container(container::Error::PayloadHash))
    );
    let (_, content) = take(&good, PLACE, RULES).expect("reported");
    assert_eq!(content.hash, HashState::Wrong);
}

#[test]
fn what_is_missing_or_too_large_is_named() {
    let data = text(20_000);
    assert_eq!(failure(&[], PLACE, RULES), Some(Error::Empty));
    assert_eq!(failure(&[], CODED, RULES), Some(Error::Empty));
    assert_eq!(failure(&wrapped(&[]), PLACE, RULES), Some(Error::Empty));
    let packed = pack(&data);
    let cut = &packed[..packed.len() / 2];
    // A partition goes on with erased flash, which a stream may hold; a container ends.
    assert!(matches!(take(cut, PLACE, RULES), Err(Error::Packed(_))));
    assert_eq!(
        failure(&wrapped(cut), PLACE, RULES),
        Some(Error::Packed(xz::Error::Truncated))
    );
    for stored in [data.clone(), packed, wrapped(&data), wrapped(&pack(&data))] {
        let small = Rules {
            room: 79_999,
            ..RULES
        };
        assert_eq!(
            failure(&stored, PLACE, small),
            Some(Error::TooLarge(79_999))
        );
    }
    let mut long = wrapped(&data);
    long.truncate(4096 + 100);
    let header = Header::parse(&long).expect("good");
    assert_eq!(header.payload_size(), 80_000);
    let short = Place {
        length: 0x2000,
        ..PLACE
    };
    let truncated = container::Error::Truncated {
        found: 0x1000,
        needed: 80_000,
    };
    assert_eq!(
        failure(&long, short, RULES),
        Some(Error::Container(truncated))
    );
    for place in [
        Place {
            length: (LENGTH + 0x1001) as u64,
            ..PLACE
        },
        Place {
            at: u64::MAX,
            ..PLACE
        },
        Place {
            length: u64::MAX,
            ..PLACE
        },
    ] {
        assert_eq!(failure(&data, place, RULES), Some(Error::Outside));
    }
}

#[test]
fn a_flash_that_fails_ends_it_with_its_own_error() {
    struct Failing(u64);
    impl Flash for Failing {
        type Error = u64;
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), u64> {
            buffer.fill(1);
            if at + buffer.len() as u64 > self.0 {
                return Err(at);
            }
            Ok(())
        }
    }
    let outcome = read(&mut Failing(0x2_0000), PLACE, RULES, |_| ());
    assert!(matches!(outcome, Err(Error::Flash(_))), "{outcome:?}");
}

proptest! {
    /// Damage anywhere: no panic, and never more than there is room for.
    #[test]
    fn damaged_content_never_panics(
        form in 0..6usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        head in prop::collection::vec((0..0x600usize, any::<u8>()), 0..4),
        has_ecc in any::<bool>(),
    ) {
        let data = text(3000);
        let mut stored = match form {
            0 => data.clone(),
            1 => pack(&data),
            2 => wrapped(&data),
            3 => wrapped(&pack(&data)),
            4 => elf(0x3000, true, true),
            _ => wrapped(&elf(0x3000, false, false)),
        };
        if has_ecc {
            stored = ecc::encode(&stored);
        }
        for (at, value) in damage {
            let at = at.index(stored.len());
            stored[at] = value;
        }
        for (at, value) in head {
            if let Some(byte) = stored.get_mut(at) {
                *byte = value;
            }
        }
        let rules = Rules { room: 0x1_0000, ..RULES };
        let mut out = 0;
        let bytes = flash(&stored);
        let place = if has_ecc { CODED } else { PLACE };
        if let Ok(content) = read(&mut &bytes[..], place, rules, |piece| out += piece.len() as u64) {
            prop_assert!(content.size <= out && content.size <= rules.room);
        }
    }
}

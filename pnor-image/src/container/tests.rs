//! Tests of containers: what is written is read back, and what is broken is refused for the right reason.

use std::vec::Vec;

use proptest::prelude::*;

use super::build::with_keys;
use super::*;
use crate::bytes::put;

/// Where the software header is when there are three software keys, as skiboot's documents give it.
const SOFTWARE_WITH_THREE_KEYS: usize = 1316;

fn three_keys(payload: &[u8]) -> Vec<u8> {
    let key = |byte| [byte; KEY_SIZE];
    with_keys(
        payload,
        Description::of("BOOTKERNEL"),
        &[key(1), key(2), key(3)],
        &[key(4), key(5), key(6)],
    )
    .0
}

fn with(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = three_keys(b"payload");
    change(&mut bytes);
    bytes
}

#[test]
fn what_was_written_is_read_back() {
    let bytes = three_keys(b"payload");
    assert_eq!(bytes.len(), HEADER_SIZE + 7);
    let header = Header::parse(&bytes).expect("well formed");
    assert_eq!(header.container_size(), 4103);
    assert_eq!(header.payload_size(), 7);
    assert_eq!(&header.label(), b"BOOTKERN");
    assert_eq!(header.software_flags(), 0);
    assert_eq!(header.software_key_count(), 3);
    assert!(!header.is_signed());
    assert_eq!(header.payload(&bytes), Ok(&b"payload"[..]));
    assert_eq!(header.verify_payload(&bytes), Ok(()));
    assert_eq!(header.verify_keys(None), Ok(()));
    let trusted = header.hardware_key_hash();
    assert_eq!(header.verify_keys(Some(&trusted)), Ok(()));
    assert_eq!(
        header.verify_keys(Some(&[0; HASH_SIZE])),
        Err(Error::HardwareKeyHash)
    );
}

#[test]
fn the_fields_are_where_others_look_for_them() {
    let bytes = three_keys(b"payload");
    assert_eq!(be64(&bytes, SOFTWARE_WITH_THREE_KEYS + 25), Some(7));
    let hash: [u8; 4] = array(&bytes, SOFTWARE_WITH_THREE_KEYS + 33).expect("there");
    // SHA-512 of "payload", from another implementation.
    assert_eq!(hash, [0x70, 0xb3, 0x3c, 0xe9]);
    let plain = unsigned(b"payload", Description::of("PAYLOAD"));
    let software = PREFIX + 98 + 3 * KEY_SIZE;
    assert_eq!(be64(&plain, software + 25), Some(7));
    assert_eq!(part(&plain, software + 12, 8), Some(&b"PAYLOAD\0"[..]));
    let header = Header::parse(&plain).expect("well formed");
    assert_eq!(header.software_key_count(), 0);
    assert_eq!(header.verify_keys(None), Ok(()));
    assert_eq!(header.verify_payload(&plain), Ok(()));
}

#[test]
fn identities_of_chips_move_what_follows() {
    let plain = three_keys(b"payload");
    let mut bytes = plain[..PREFIX + 98].to_vec();
    bytes[PREFIX + ECID_COUNT] = 2;
    bytes.extend([0xee; 32]);
    bytes.extend(&plain[PREFIX + 98..HEADER_SIZE - 32]);
    bytes.extend(b"payload");
    let header = Header::parse(&bytes).expect("well formed");
    assert_eq!(header.verify_payload(&bytes), Ok(()));
    assert_eq!(header.verify_keys(None), Ok(()));
}

#[test]
fn a_broken_header_is_refused_for_its_reason() {
    let cases: [(&str, usize, &[u8], Error); 10] = [
        ("magic", 0, &[0x18], Error::NotContainer),
        ("version", 4, &[0, 2], Error::Version(2)),
        ("prefix version", PREFIX, &[0, 9], Error::Version(9)),
        ("hash", PREFIX + 2, &[2], Error::Algorithms([2, 1])),
        (
            "signature",
            SOFTWARE_WITH_THREE_KEYS + 3,
            &[3],
            Error::Algorithms([1, 3]),
        ),
        ("keys", PREFIX + COUNT, &[4], Error::KeyCount(4)),
        (
            "identities of the prefix",
            PREFIX + ECID_COUNT,
            &[255],
            Error::HeaderOverflow,
        ),
        (
            "identities of the software header",
            SOFTWARE_WITH_THREE_KEYS + ECID_COUNT,
            &[255],
            Error::HeaderOverflow,
        ),
        (
            "payload size",
            SOFTWARE_WITH_THREE_KEYS + PAYLOAD_SIZE,
            &[0xff; 8],
            Error::PayloadSize {
                payload: u64::MAX,
                container: HEADER_SIZE as u64 + 7,
            },
        ),
        (
            "container size",
            6,
            &[0, 0, 0, 0, 0, 0, 0, 16],
            Error::PayloadSize {
                payload: 7,
                container: 16,
            },
        ),
    ];
    for (what, at, value, error) in cases {
        let bytes = with(|bytes| assert!(put(bytes, at, value)));
        assert_eq!(Header::parse(&bytes).map(|_| ()), Err(error), "{what}");
    }
    let short = &three_keys(b"")[..HEADER_SIZE - 1];
    assert_eq!(
        Header::parse(short).map(|_| ()),
        Err(Error::Truncated {
            found: 4095,
            needed: 4096
        })
    );
    assert_eq!(Header::parse(&[]).map(|_| ()), Err(Error::NotContainer));
}

#[test]
fn a_changed_payload_or_key_is_seen() {
    let bytes = with(|bytes| bytes[HEADER_SIZE + 3] ^= 1);
    let header = Header::parse(&bytes).expect("well formed");
    assert_eq!(header.verify_payload(&bytes), Err(Error::PayloadHash));
    let short = &bytes[..bytes.len() - 1];
    assert_eq!(
        header.verify_payload(short),
        Err(Error::Truncated {
            found: 4102,
            needed: 4103
        })
    );
    let key = PREFIX + 98 + 3 * KEY_SIZE;
    let bytes = with(|bytes| bytes[key] ^= 0x80);
    let header = Header::parse(&bytes).expect("well formed");
    assert_eq!(header.verify_keys(None), Err(Error::SoftwareKeyHash));
    let bytes = with(|bytes| bytes[PREFIX + PAYLOAD_SIZE + 7] ^= 1);
    let header = Header::parse(&bytes).expect("well formed");
    assert_eq!(header.verify_keys(None), Err(Error::SoftwareKeyHash));
}

#[test]
fn the_payload_can_come_in_pieces() {
    let payload: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let bytes = unsigned(&payload, Description::default());
    let header = Header::parse(&bytes).expect("well formed");
    for size in [1, 127, 128, 4096, 10_000, 20_000] {
        let mut check = header.payload_check();
        // What follows the payload in flash is not part of it.
        for piece in [&bytes[HEADER_SIZE..], &[0xff; 300]].concat().chunks(size) {
            check.update(piece);
        }
        assert_eq!(check.finish(), Ok(()), "pieces of {size}");
    }
    let mut check = header.payload_check();
    check.update(&payload[..9_999]);
    assert_eq!(check.finish(), Err(Error::PayloadHash));
}

/// How many mutated headers a run tries: few, or as many as `NIDUS_CASES` says.
fn cases() -> ProptestConfig {
    let count = std::env::var("NIDUS_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(count.unwrap_or(256))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_mutation_panics_or_reads_outside(
        changes in prop::collection::vec((0usize..HEADER_SIZE + 16, any::<u8>()), 0..12),
        length in 0usize..HEADER_SIZE + 16,
    ) {
        let mut bytes = three_keys(&[7; 16]);
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(length.max(4000));
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert!(header.payload_size() <= header.container_size());
            let _ = header.verify_keys(None);
            if header.verify_payload(&bytes).is_ok() {
                let payload = header.payload(&bytes).expect("it was hashed");
                prop_assert_eq!(payload.len() as u64, header.payload_size());
                prop_assert_eq!(Hash::from(Sha512::digest(payload)), *header.payload_hash());
            }
        }
    }

    #[test]
    fn every_payload_survives(payload in prop::collection::vec(any::<u8>(), 0..2000), label in any::<[u8; 8]>()) {
        let bytes = unsigned(&payload, Description { label, flags: 0x1234 });
        let header = Header::parse(&bytes).expect("well formed");
        prop_assert_eq!(header.payload(&bytes).expect("all there"), &payload[..]);
        prop_assert_eq!(header.label(), label);
        prop_assert_eq!(header.verify_payload(&bytes), Ok(()));
        let mut longer = payload;
        longer.insert(0, 1);
        let mut check = header.payload_check();
        check.update(&longer);
        // The same bytes moved by one are the same payload only when all of them are ones.
        prop_assert_eq!(check.finish().is_ok(), longer.iter().all(|&byte| byte == 1));
    }
}

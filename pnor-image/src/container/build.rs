//! Writing the header of a container, with or without keys.
//!
//! Without keys it is what a machine without secure boot takes: the payload's size and hash are there, the keys and
//! signatures are zeroes. The surprise: signing comes last and changes nothing that was hashed, because signatures
//! lie outside of the parts that they sign.

use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha512};

use super::{
    ALGORITHMS, COUNT, FLAGS, HARDWARE_KEYS, HEADER_SIZE, INNER_HEADER, KEY_SIZE, LABEL, MAGIC,
    PAYLOAD_HASH, PAYLOAD_SIZE, PREFIX, Point, VERSION,
};
use crate::bytes::put;

/// The prefix header's flags, as sb-signing-utils sets them.
const PREFIX_FLAGS: u32 = 0x8000_0000;

/// What a header says besides sizes and hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The name of what is inside, padded with zeroes.
    pub label: [u8; 8],
    /// The flags of the software header.
    pub flags: u32,
}

impl Description {
    /// The description of the partition `name`; a longer name is cut.
    pub fn of(name: &str) -> Self {
        let mut label = [0; 8];
        for (to, from) in label.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        Self { label, flags: 0 }
    }
}

/// Where the signatures of a header go, and what they sign.
#[cfg_attr(
    not(feature = "sign"),
    expect(dead_code, reason = "only signing needs it")
)]
pub(super) struct Places {
    pub(super) prefix: core::ops::Range<usize>,
    pub(super) hardware_signatures: usize,
    pub(super) software: core::ops::Range<usize>,
    pub(super) software_signatures: usize,
}

/// Makes a container whose keys and signatures are zeroes.
pub fn unsigned(payload: &[u8], description: Description) -> Vec<u8> {
    with_keys(payload, description, &[[0; KEY_SIZE]; 3], &[]).0
}

/// Makes a container without signatures, and says where they belong.
pub(super) fn with_keys(
    payload: &[u8],
    description: Description,
    hardware: &[Point; 3],
    software: &[Point],
) -> (Vec<u8>, Places) {
    let software = software.get(..3).unwrap_or(software);
    let keys = software.concat();
    let size = payload.len() as u64;
    let container_size = size.saturating_add(HEADER_SIZE as u64);

    let prefix = inner_header(PREFIX_FLAGS, [0; 8], software.len(), &keys);
    let software_header = inner_header(description.flags, description.label, 0, payload);
    let prefix_end = PREFIX.saturating_add(INNER_HEADER);
    let software_keys = prefix_end.saturating_add(3 * KEY_SIZE);
    let software_at = software_keys.saturating_add(keys.len());
    let software_end = software_at.saturating_add(INNER_HEADER);

    let mut header = vec![0; HEADER_SIZE];
    let written = put(&mut header, 0, &MAGIC)
        && put(&mut header, 4, &VERSION.to_be_bytes())
        && put(&mut header, 6, &container_size.to_be_bytes())
        && put(&mut header, HARDWARE_KEYS, hardware.as_flattened())
        && put(&mut header, PREFIX, &prefix)
        && put(&mut header, software_keys, &keys)
        && put(&mut header, software_at, &software_header);
    debug_assert!(written, "the parts of a header with three keys fit");
    header.extend_from_slice(payload);
    let places = Places {
        prefix: PREFIX..prefix_end,
        hardware_signatures: prefix_end,
        software: software_at..software_end,
        software_signatures: software_end,
    };
    (header, places)
}

/// A prefix or software header about `content`.
fn inner_header(flags: u32, label: [u8; 8], keys: usize, content: &[u8]) -> [u8; INNER_HEADER] {
    let mut header = [0; INNER_HEADER];
    let [major, minor] = VERSION.to_be_bytes();
    let [hash, signature] = ALGORITHMS;
    let written = put(&mut header, 0, &[major, minor, hash, signature])
        && put(&mut header, LABEL, &label)
        && put(&mut header, FLAGS, &flags.to_be_bytes())
        && put(&mut header, COUNT, &[u8::try_from(keys).unwrap_or(0)])
        && put(
            &mut header,
            PAYLOAD_SIZE,
            &(content.len() as u64).to_be_bytes(),
        )
        && put(&mut header, PAYLOAD_HASH, &Sha512::digest(content));
    debug_assert!(written, "the fields of a header fit");
    header
}

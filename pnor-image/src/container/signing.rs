//! Signing containers with development keys, and checking signatures; on the host only.
//!
//! Signatures are deterministic (RFC 6979), so the same payload gives the same container. The surprise: the private keys
//! are in this file on purpose. They are the "imprint" keys that IBM released for development (open-power/sb-signing-utils,
//! test/keys, Apache-2.0): every machine that was not given other keys trusts them, and anybody has them. They
//! protect nothing; for security sign with keys of your own, and keep those private.

use alloc::vec::Vec;

use p521::ecdsa::signature::{Signer, Verifier};
use p521::ecdsa::{Signature, SigningKey, VerifyingKey};

use super::build::{Description, Places, with_keys};
use super::{Error, Hash, Header, KEY_SIZE, Point};
use crate::bytes::put;

/// Bytes of a private key.
const SECRET_SIZE: usize = 66;

/// The imprint keys: hardware keys A, B, C and software key P.
const IMPRINT: [&str; 4] = [
    "0056fbb7f126ed6aeefb4cfbecbc49981f0003f16635daf4e3444e92a3091e3c2234\
     fb79396dac0227daca9da7ee30b0b11364b34e1e493e89d52a104f65e52968eb",
    "010d27b7edade510c658917a4b7dba4c45b21cf748fd51e6fa92af160082ad5ba313\
     b3f9a1496f18fdc7677a9e9945f44609918c3dbb45f95577238be8895e9074ac",
    "012a2653e0029d0cb4503b455f9dd55766f006b73718f2b785b32bb14d44f7c62653\
     87a1fc3a6315840ec823d5dbb1912bc578e9ad71bd6b39ee97abf97e11f4b55d",
    "00d6fcaad9c48f8305b156d3c810ea862f7515b32e63b81433f177a43aae9a7987ff\
     9ea0bdbbcbbe1aa0a27df80108f9d77d63962ed91aa246043ee31eed37a4ce89",
];

/// The hash of the imprint hardware keys, as machines hold it (`/ibm,secureboot/hw-key-hash`).
pub const IMPRINT_HASH: Hash = [
    0x40, 0xd4, 0x87, 0xff, 0x73, 0x80, 0xed, 0x6a, 0xd5, 0x47, 0x75, 0xd5, 0x79, 0x5f, 0xea, 0x0d,
    0xe2, 0xf5, 0x41, 0xfe, 0xa9, 0xdb, 0x06, 0xb8, 0x46, 0x6a, 0x42, 0xa3, 0x20, 0xe6, 0x5f, 0x75,
    0xb4, 0x86, 0x65, 0x46, 0x00, 0x17, 0xd9, 0x07, 0x51, 0x5d, 0xc2, 0xa5, 0xf9, 0xfc, 0x50, 0x95,
    0x4d, 0x6e, 0xe0, 0xc9, 0xb6, 0x7d, 0x21, 0x9d, 0xfb, 0x70, 0x85, 0x35, 0x1d, 0x01, 0xd6, 0xd1,
];

/// The private keys of a container.
#[derive(Debug)]
pub struct Keys {
    hardware: [SigningKey; 3],
    software: SigningKey,
}

impl Keys {
    /// The imprint keys, which protect nothing.
    ///
    /// `None` cannot happen: a test makes them.
    pub fn imprint() -> Option<Self> {
        let [a, b, c, p] = IMPRINT.map(secret);
        Some(Self {
            hardware: [a?, b?, c?],
            software: p?,
        })
    }
}

/// A private key from its number in hexadecimal.
fn secret(text: &str) -> Option<SigningKey> {
    let mut number = [0; SECRET_SIZE];
    for (byte, digits) in number.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        *byte = u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    SigningKey::from_slice(&number).ok()
}

/// The public key as it lies in the header.
fn point(key: &SigningKey) -> Option<Point> {
    let bytes = key.verifying_key().to_sec1_point(false);
    // The first byte says that both coordinates follow.
    bytes.as_bytes().get(1..)?.try_into().ok()
}

fn sign(key: &SigningKey, message: &[u8]) -> Point {
    let signature: Signature = key.sign(message);
    let mut point = [0; KEY_SIZE];
    for (to, from) in point.iter_mut().zip(signature.to_bytes()) {
        *to = from;
    }
    point
}

/// Makes a container signed by three hardware keys and one software key.
///
/// `None` only if a key is none, which [`Keys`] does not let happen.
pub fn signed(payload: &[u8], description: Description, keys: &Keys) -> Option<Vec<u8>> {
    let [a, b, c] = &keys.hardware;
    let hardware = [point(a)?, point(b)?, point(c)?];
    let (mut file, places) = with_keys(payload, description, &hardware, &[point(&keys.software)?]);
    let Places {
        prefix,
        hardware_signatures,
        software,
        software_signatures,
    } = places;
    let prefix = file.get(prefix)?;
    let signatures = [sign(a, prefix), sign(b, prefix), sign(c, prefix)];
    let by_software = sign(&keys.software, file.get(software)?);
    let written = put(&mut file, hardware_signatures, signatures.as_flattened())
        && put(&mut file, software_signatures, &by_software);
    written.then_some(file)
}

/// Checks all signatures of a header: three of the prefix header, and one of the software header for each software key.
///
/// # Errors
/// [`Error::Signature`] with the letter of the first key whose signature is missing or wrong.
pub fn verify(header: &Header<'_>) -> Result<(), Error> {
    check(
        header.prefix,
        header.hardware_keys,
        header.hardware_signatures,
        ['A', 'B', 'C'],
    )?;
    if header.software_key_count() == 0 {
        return Err(Error::Signature('P'));
    }
    check(
        header.software,
        header.software_keys,
        header.software_signatures,
        ['P', 'Q', 'R'],
    )
}

fn check(message: &[u8], keys: &[u8], signatures: &[u8], letters: [char; 3]) -> Result<(), Error> {
    let keys = keys.as_chunks::<KEY_SIZE>().0;
    let signatures = signatures.as_chunks::<KEY_SIZE>().0;
    for ((key, signature), letter) in keys.iter().zip(signatures).zip(letters) {
        let is_right = || {
            let mut uncompressed = [4; 1 + KEY_SIZE];
            put(&mut uncompressed, 1, key).then_some(())?;
            let key = VerifyingKey::from_sec1_bytes(&uncompressed).ok()?;
            let signature = Signature::from_slice(signature).ok()?;
            key.verify(message, &signature).ok()
        };
        is_right().ok_or(Error::Signature(letter))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{HARDWARE_KEYS, PREFIX, unsigned};

    #[test]
    fn the_imprint_keys_are_those_that_machines_trust() {
        let keys = Keys::imprint().expect("good keys");
        let file = signed(b"payload", Description::of("PAYLOAD"), &keys).expect("signed");
        let header = Header::parse(&file).expect("well formed");
        assert_eq!(header.hardware_key_hash(), IMPRINT_HASH);
        assert!(header.is_signed());
        assert_eq!(header.software_key_count(), 1);
        assert_eq!(header.verify_keys(Some(&IMPRINT_HASH)), Ok(()));
        assert_eq!(header.verify_payload(&file), Ok(()));
        assert_eq!(verify(&header), Ok(()));
        let again = signed(b"payload", Description::of("PAYLOAD"), &keys).expect("signed");
        assert_eq!(file, again, "signing is deterministic");
    }

    #[test]
    fn a_wrong_or_missing_signature_is_named() {
        let keys = Keys::imprint().expect("good keys");
        let good = signed(b"payload", Description::default(), &keys).expect("signed");
        let signatures = PREFIX + 98;
        let software = signatures + 4 * KEY_SIZE;
        for (at, letter) in [
            (HARDWARE_KEYS + 5, 'A'),
            (PREFIX + 21, 'A'),
            (signatures + KEY_SIZE + 7, 'B'),
            (signatures + 3 * KEY_SIZE - 1, 'C'),
            (software + 20, 'P'),
            (software + 98 + 3, 'P'),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let header = Header::parse(&bad).expect("well formed");
            assert_eq!(verify(&header), Err(Error::Signature(letter)), "byte {at}");
        }
        let plain = unsigned(b"payload", Description::default());
        let header = Header::parse(&plain).expect("well formed");
        assert_eq!(verify(&header), Err(Error::Signature('A')));
    }
}

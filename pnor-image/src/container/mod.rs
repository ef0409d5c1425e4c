//! Secure-boot containers: the 4096 bytes before a payload that say how long it is, what its hash is, and who signed.
//!
//! The chain: the machine holds the hash of three hardware keys; these sign the prefix header, which holds the hash
//! of one to three software keys; these sign the software header, which holds size and hash of the payload. This
//! file reads the header and compares hashes. Signatures are made and checked on the host (`signing`); on a machine the
//! boot ROM's code does that. The layout is that of container version 1 in open-power/sb-signing-utils (container.h);
//! all numbers are big-endian. The surprise: two of the places are not fixed, they move with counts in the header
//! itself, so a header is only worth something after [`Header::parse`] has followed them.

mod build;
#[cfg(feature = "sign")]
pub mod signing;

use core::fmt;

use sha2::{Digest, Sha512};

use crate::bytes::{array, be16, be32, be64, part};

pub use build::{Description, unsigned};

/// Bytes of the header; the payload follows.
pub const HEADER_SIZE: usize = 4096;
/// The first bytes of a container.
pub const MAGIC: [u8; 4] = [0x17, 0x08, 0x20, 0x11];
/// Bytes of a key or a signature: two coordinates on the curve P-521.
pub const KEY_SIZE: usize = 132;
/// Bytes of a SHA-512 hash.
pub const HASH_SIZE: usize = 64;

/// A public key or a signature as it lies in the header: two numbers of 66 bytes.
pub type Point = [u8; KEY_SIZE];
/// A SHA-512 hash.
pub type Hash = [u8; HASH_SIZE];

const HARDWARE_KEYS: usize = 0x1e;
const PREFIX: usize = 0x1aa;
/// Bytes of a prefix or software header without identities of chips.
const INNER_HEADER: usize = 98;
/// Bytes of the identity of a chip.
const ECID: usize = 16;
/// Places within a prefix or software header.
const LABEL: usize = 12;
const FLAGS: usize = 20;
const COUNT: usize = 24;
const PAYLOAD_SIZE: usize = 25;
const PAYLOAD_HASH: usize = 33;
const ECID_COUNT: usize = 97;
/// The only version of the container that is served here, and its algorithms: SHA-512, ECDSA on P-521.
const VERSION: u16 = 1;
const ALGORITHMS: [u8; 2] = [1, 1];
const MOST_SOFTWARE_KEYS: u8 = 3;

/// Why a container is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin with [`MAGIC`].
    NotContainer,
    /// There are fewer bytes than the header or the payload needs: so many, instead of so many.
    Truncated {
        /// Bytes that are there.
        found: u64,
        /// Bytes that there would have to be.
        needed: u64,
    },
    /// A version of the container, of its prefix or of its software header that is not served.
    Version(u16),
    /// Hash and signature algorithms that are not served.
    Algorithms([u8; 2]),
    /// More software keys than three.
    KeyCount(u8),
    /// Counts in the header move its parts beyond its end.
    HeaderOverflow,
    /// The payload is said to be larger than the container that holds it.
    PayloadSize {
        /// Bytes of the payload, after the software header.
        payload: u64,
        /// Bytes of the container, after the container header.
        container: u64,
    },
    /// The payload's hash is not the one in the software header.
    PayloadHash,
    /// The software keys' hash or size is not the one in the prefix header.
    SoftwareKeyHash,
    /// The hardware keys' hash is not the one that the machine trusts.
    HardwareKeyHash,
    /// A signature that is needed is missing or wrong: the key's letter.
    Signature(char),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotContainer => write!(f, "not a secure-boot container"),
            Self::Truncated { found, needed } => {
                write!(f, "only {found} bytes of {needed} are there")
            }
            Self::Version(version) => write!(
                f,
                "version {version} of the container, only {VERSION} is known"
            ),
            Self::Algorithms([hash, signature]) => {
                write!(f, "unknown hash ({hash}) or signature ({signature})")
            }
            Self::KeyCount(count) => write!(f, "{count} software keys, at most 3 are possible"),
            Self::HeaderOverflow => write!(f, "the header's parts reach beyond its 4096 bytes"),
            Self::PayloadSize { payload, container } => write!(
                f,
                "a payload of {payload} bytes in a container of {container}"
            ),
            Self::PayloadHash => write!(f, "the payload's hash is wrong"),
            Self::SoftwareKeyHash => write!(f, "the hash of the software keys is wrong"),
            Self::HardwareKeyHash => {
                write!(f, "the hardware keys are not those that the machine trusts")
            }
            Self::Signature(key) => write!(f, "the signature of key {key} is wrong"),
        }
    }
}

impl core::error::Error for Error {}

/// Says whether a container begins here.
pub fn is_container(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The hash that containers use, SHA-512.
pub fn hash(bytes: &[u8]) -> Hash {
    Sha512::digest(bytes).into()
}

/// A header whose parts were all found.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    container_size: u64,
    hardware_keys: &'a [u8],
    /// The prefix header: what the hardware keys sign.
    prefix: &'a [u8],
    hardware_signatures: &'a [u8],
    software_keys: &'a [u8],
    /// The software header: what the software keys sign.
    software: &'a [u8],
    software_signatures: &'a [u8],
    software_flags: u32,
    software_key_count: u8,
    payload_size: u64,
    payload_hash: Hash,
}

impl<'a> Header<'a> {
    /// Finds the parts of the header with which `bytes` begin; more bytes may follow, or none.
    ///
    /// Hashes and signatures are not looked at: that costs time, and the caller knows whether it has to.
    ///
    /// # Errors
    /// What does not hold together.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        if !is_container(bytes) {
            return Err(Error::NotContainer);
        }
        let header: &[u8; HEADER_SIZE] = bytes.first_chunk().ok_or(Error::Truncated {
            found: bytes.len() as u64,
            needed: HEADER_SIZE as u64,
        })?;
        let mut rest = Rest { header, at: PREFIX };
        check_version(be16(header, 4).ok_or(Error::HeaderOverflow)?)?;
        let container_size = be64(header, 6).ok_or(Error::HeaderOverflow)?;
        let hardware_keys =
            part(header, HARDWARE_KEYS, 3 * KEY_SIZE).ok_or(Error::HeaderOverflow)?;

        let prefix = rest.inner_header()?;
        let [software_key_count] = array(prefix, COUNT).ok_or(Error::HeaderOverflow)?;
        if software_key_count > MOST_SOFTWARE_KEYS {
            return Err(Error::KeyCount(software_key_count));
        }
        let hardware_signatures = rest.take(3 * KEY_SIZE)?;
        let software_keys = rest.take(KEY_SIZE.saturating_mul(usize::from(software_key_count)))?;
        let software = rest.inner_header()?;
        let software_signatures = rest.take(3 * KEY_SIZE)?;

        let payload_size = be64(software, PAYLOAD_SIZE).ok_or(Error::HeaderOverflow)?;
        let room = container_size.checked_sub(HEADER_SIZE as u64);
        if room.is_none_or(|room| payload_size > room) {
            return Err(Error::PayloadSize {
                payload: payload_size,
                container: container_size,
            });
        }
        Ok(Self {
            container_size,
            hardware_keys,
            prefix,
            hardware_signatures,
            software_keys,
            software,
            software_signatures,
            software_flags: be32(software, FLAGS).ok_or(Error::HeaderOverflow)?,
            software_key_count,
            payload_size,
            payload_hash: array(software, PAYLOAD_HASH).ok_or(Error::HeaderOverflow)?,
        })
    }

    /// Bytes of header, payload, and what follows it without protection.
    pub const fn container_size(&self) -> u64 {
        self.container_size
    }

    /// Bytes that the payload's hash covers; they follow the header.
    pub const fn payload_size(&self) -> u64 {
        self.payload_size
    }

    /// What the payload's hash has to be.
    pub const fn payload_hash(&self) -> &Hash {
        &self.payload_hash
    }

    /// The name of what is inside (`PAYLOAD`, `BOOTKERNEL`), padded with zeroes; zeroes if it was not given.
    pub fn label(&self) -> [u8; 8] {
        array(self.software, LABEL).unwrap_or_default()
    }

    /// The flags of the software header.
    pub const fn software_flags(&self) -> u32 {
        self.software_flags
    }

    /// The number of software keys, 0 to 3.
    pub const fn software_key_count(&self) -> u8 {
        self.software_key_count
    }

    /// Says whether any signature is there at all; whether it is right is another question.
    pub fn is_signed(&self) -> bool {
        self.hardware_signatures.iter().any(|&byte| byte != 0)
            && self.software_signatures.iter().any(|&byte| byte != 0)
    }

    /// The hash of the three hardware keys: the value that a machine holds to say whom it trusts.
    pub fn hardware_key_hash(&self) -> Hash {
        Sha512::digest(self.hardware_keys).into()
    }

    /// The payload, in a file that begins with this header.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the file ends before the payload does.
    pub fn payload<'b>(&self, file: &'b [u8]) -> Result<&'b [u8], Error> {
        usize::try_from(self.payload_size)
            .ok()
            .and_then(|size| part(file, HEADER_SIZE, size))
            .ok_or(Error::Truncated {
                found: file.len() as u64,
                needed: self.payload_size.saturating_add(HEADER_SIZE as u64),
            })
    }

    /// Starts to hash a payload that comes in pieces.
    pub fn payload_check(&self) -> PayloadCheck {
        PayloadCheck {
            hasher: Sha512::new(),
            left: self.payload_size,
            expected: self.payload_hash,
        }
    }

    /// Compares the payload of `file` with the hash in the header.
    ///
    /// # Errors
    /// [`Error::Truncated`] or [`Error::PayloadHash`].
    pub fn verify_payload(&self, file: &[u8]) -> Result<(), Error> {
        let mut check = self.payload_check();
        check.update(self.payload(file)?);
        check.finish()
    }

    /// Compares the software keys with the hash in the prefix header and, if the machine says whom it trusts, the
    /// hardware keys with that.
    ///
    /// # Errors
    /// [`Error::SoftwareKeyHash`] or [`Error::HardwareKeyHash`].
    pub fn verify_keys(&self, trusted: Option<&Hash>) -> Result<(), Error> {
        let size = be64(self.prefix, PAYLOAD_SIZE);
        let expected: Option<Hash> = array(self.prefix, PAYLOAD_HASH);
        let found: Hash = Sha512::digest(self.software_keys).into();
        if size != Some(self.software_keys.len() as u64) || expected != Some(found) {
            return Err(Error::SoftwareKeyHash);
        }
        match trusted {
            Some(hash) if *hash != self.hardware_key_hash() => Err(Error::HardwareKeyHash),
            _ => Ok(()),
        }
    }
}

/// The hash of a payload while its pieces arrive.
#[derive(Clone, Debug)]
pub struct PayloadCheck {
    hasher: Sha512,
    left: u64,
    expected: Hash,
}

impl PayloadCheck {
    /// Takes the next piece; what lies behind the payload's end is ignored.
    pub fn update(&mut self, piece: &[u8]) {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = piece.get(..wanted).unwrap_or(piece);
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.hasher.update(piece);
    }

    /// Says whether it was the payload that the header speaks of.
    ///
    /// # Errors
    /// [`Error::PayloadHash`]; also when pieces are missing, because what was hashed is then something else.
    pub fn finish(self) -> Result<(), Error> {
        let found: Hash = self.hasher.finalize().into();
        if self.left == 0 && found == self.expected {
            Ok(())
        } else {
            Err(Error::PayloadHash)
        }
    }
}

/// What of the header is not looked at yet.
struct Rest<'a> {
    header: &'a [u8; HEADER_SIZE],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let taken = part(self.header, self.at, length).ok_or(Error::HeaderOverflow)?;
        self.at = self.at.saturating_add(length);
        Ok(taken)
    }

    /// A prefix or software header with the identities of chips behind it.
    fn inner_header(&mut self) -> Result<&'a [u8], Error> {
        let [count] = array(
            self.header,
            self.at
                .checked_add(ECID_COUNT)
                .ok_or(Error::HeaderOverflow)?,
        )
        .ok_or(Error::HeaderOverflow)?;
        let identities = usize::from(count).saturating_mul(ECID);
        let inner = self.take(INNER_HEADER.saturating_add(identities))?;
        check_version(be16(inner, 0).ok_or(Error::HeaderOverflow)?)?;
        let algorithms = array(inner, 2).ok_or(Error::HeaderOverflow)?;
        if algorithms != ALGORITHMS {
            return Err(Error::Algorithms(algorithms));
        }
        Ok(inner)
    }
}

const fn check_version(version: u16) -> Result<(), Error> {
    if version == VERSION {
        Ok(())
    } else {
        Err(Error::Version(version))
    }
}

#[cfg(test)]
mod tests;

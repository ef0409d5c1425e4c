//! Streams compressed with xz: decoded piece by piece, with a bound on memory and on what comes out.
//!
//! The decoder is `xz4rust`. It knows no check but CRC32 and CRC64, and no filter but LZMA2; firmware is
//! packed so (`xz -C crc32`). The surprise: the header, not the content, says how much memory decoding takes: a stream
//! from `xz -9` wants 64 MiB for a kilobyte. So the caller's bound on the dictionary is one on its heap.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use xz4rust::{XzDecoder, XzError, XzNextBlockResult};

/// The first bytes of a stream.
pub const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// Bytes that come out at a time.
const PIECE: usize = 16 << 10;

/// What a stream may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may come out.
    pub output: u64,
    /// Bytes of memory for the dictionary.
    pub dictionary: usize,
}

/// Why decoding stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not a stream.
    NotXz,
    /// The stream ends too early.
    Truncated,
    /// More than this many bytes would come out.
    TooLarge(u64),
    /// The stream needs a dictionary of this many bytes, more than it may have.
    Dictionary(u64),
    /// It uses a check or a filter that is not known.
    Unsupported,
    /// Its content is not what it was.
    Corrupt,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotXz => write!(f, "not an xz stream"),
            Self::Truncated => write!(f, "the xz stream is cut off"),
            Self::TooLarge(limit) => write!(f, "the xz stream holds more than {limit} bytes"),
            Self::Dictionary(size) => {
                write!(
                    f,
                    "the xz stream needs a dictionary of {size} bytes; pack it with a smaller one"
                )
            }
            Self::Unsupported => write!(
                f,
                "the xz stream has a check or a filter that is not known; pack it with `xz --check=crc32`"
            ),
            Self::Corrupt => write!(f, "the xz stream is damaged"),
        }
    }
}

impl core::error::Error for Error {}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enumeration of the crate is open, and all the rest is damage"
)]
fn judge(error: &XzError) -> Error {
    match error {
        XzError::StreamHeaderMagicNumberMismatch => Error::NotXz,
        XzError::DictionaryTooLarge(size) => Error::Dictionary(*size),
        XzError::UnsupportedStreamHeaderOption
        | XzError::UnsupportedBlockHeaderOption
        | XzError::UnsupportedCheckType(_)
        | XzError::UnsupportedLzmaProperties(_)
        | XzError::BcjFilterNotSupported
        | XzError::DeltaFilterUnsupported
        | XzError::Sha256NotSupported => Error::Unsupported,
        _ => Error::Corrupt,
    }
}

/// Says whether a stream begins here.
pub fn is_xz(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The stream goes on.
    More,
    /// The stream and its checks ended within the last input, after this many of its bytes.
    End(usize),
}

/// A stream that is being decoded.
#[derive(Debug)]
pub struct Decoder {
    decoder: Box<XzDecoder<'static>>,
    /// Input that was too short to be understood.
    held: Vec<u8>,
    piece: Vec<u8>,
    limit: u64,
    left: u64,
}

impl Decoder {
    /// Prepares to decode a stream within the limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            decoder: XzDecoder::in_heap_with_alloc_dict(Vec::new(), limits.dictionary),
            held: Vec::new(),
            piece: vec![0; PIECE],
            limit: limits.output,
            left: limits.output,
        }
    }

    /// Decodes the next piece of input and gives what comes out of it to `sink`.
    ///
    /// # Errors
    /// Why it stopped; after that, and after the end, the decoder is of no more use.
    pub fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<Progress, Error> {
        let before = self.held.len();
        let joined;
        let mut rest = if before == 0 {
            input
        } else {
            self.held.extend_from_slice(input);
            joined = core::mem::take(&mut self.held);
            &joined
        };
        let total = rest.len();
        loop {
            let step = match self.decoder.decode(rest, &mut self.piece) {
                Ok(step) => step,
                Err(XzError::NeedsLargerInputBuffer) => {
                    // No part of the format that is read as a whole is longer than a block header.
                    if rest.len() > 2048 {
                        return Err(Error::Corrupt);
                    }
                    self.held = rest.to_vec();
                    return Ok(Progress::More);
                }
                Err(error) => return Err(judge(&error)),
            };
            let output = self.piece.get(..step.output_produced()).unwrap_or_default();
            self.left = self
                .left
                .checked_sub(output.len() as u64)
                .ok_or(Error::TooLarge(self.limit))?;
            sink(output);
            rest = rest.get(step.input_consumed()..).unwrap_or_default();
            if let XzNextBlockResult::EndOfStream(..) = step {
                let used = total.saturating_sub(rest.len()).saturating_sub(before);
                return Ok(Progress::End(used));
            }
            // Without progress the decoder waits for input, which it has not got when `rest` is empty.
            if !step.made_progress() {
                if rest.is_empty() {
                    return Ok(Progress::More);
                }
                return Err(Error::Corrupt);
            }
        }
    }
}

/// Decodes the stream with which `input` begins; what follows it is ignored, as a partition is longer than its content.
///
/// # Errors
/// Why it stopped.
pub fn decompress(input: &[u8], limits: Limits) -> Result<Vec<u8>, Error> {
    let mut output = Vec::new();
    match Decoder::new(limits).feed(input, |piece| output.extend_from_slice(piece))? {
        Progress::End(_) => Ok(output),
        Progress::More => Err(Error::Truncated),
    }
}

#[cfg(test)]
mod tests;

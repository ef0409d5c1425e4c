//! Text out through H_PUT_TERM_CHAR, 16 bytes at a time.

use papr_services::table::number::H_PUT_TERM_CHAR;
use payload_common::report::Sink;

use crate::hcall::hcall;

/// Where the report goes: the default virtual terminal (unit 0).
pub(crate) const SINK: Sink = Sink {
    write,
    code_name,
    shows_answers: false,
};

fn write(text: &str) {
    for chunk in text.as_bytes().chunks(16) {
        put(chunk);
    }
}

fn code_name(code: i64) -> Option<&'static str> {
    let found = papr_services::error::CODES.iter().find(|c| c.1 == code);
    found.map(|(name, _)| *name)
}

/// Writes at most 16 bytes, waiting while the terminal is full.
fn put(chunk: &[u8]) {
    let mut packed = [0u8; 16];
    for (slot, byte) in packed.iter_mut().zip(chunk) {
        *slot = *byte;
    }
    let both = u128::from_be_bytes(packed);
    let (high, low) = ((both >> 64) as u64, both as u64);
    // H_BUSY: the terminal is full. Bounded, so that a broken terminal ends the run instead of hanging it.
    for _ in 0..1_000_000 {
        if hcall(H_PUT_TERM_CHAR, [0, chunk.len() as u64, high, low]).code() != 1 {
            return;
        }
    }
}

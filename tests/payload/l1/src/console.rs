//! Text out through H_PUT_TERM_CHAR, 16 bytes at a time.

use core::fmt;

use papr_services::table::number::H_PUT_TERM_CHAR;

use crate::hcall::hcall;

/// The default virtual terminal (unit 0).
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(16) {
            put(chunk);
        }
        Ok(())
    }
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

/// One line.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => {{
        let mut line = $crate::report::Line::new();
        let _ = core::fmt::Write::write_fmt(&mut line, format_args!($($arg)*));
        line.flush();
    }};
}
